//! From tokens to lines.
//!
//! Each decision depends only on the tokens, on the author's line breaks that stay, and on columns that a second pass
//! finds again: so formatting twice is formatting once.

use super::WIDTH;
use super::shape::{Group, Shape};
use super::spacing::space;
use super::token::{Kind, Token};

/// Spaces of one level.
const INDENT: usize = 4;

/// The file, laid out.
pub(super) fn print(tokens: &[Token<'_>], shape: &Shape) -> String {
    let mut printer = Printer {
        tokens,
        shape,
        out: String::new(),
        line: 0,
        pads: vec![0; tokens.len()],
    };
    printer.contents(&Within {
        group: Group::File,
        from: 0,
        to: tokens.len(),
        broken: true,
        base: 0,
        indent: 0,
    });
    if !printer.out.is_empty() {
        printer.out.push('\n');
    }
    printer.out
}

/// What stands between two brackets, and how it is laid out.
struct Within {
    group: Group,
    from: usize,
    to: usize,
    broken: bool,
    /// The level of the line with the opening bracket.
    base: usize,
    /// The level of the elements.
    indent: usize,
}

/// What stands before a token.
#[derive(Clone, Copy)]
enum Gap {
    None,
    Space,
    /// A line feed, two when a blank line stays, and the new line's level.
    Line {
        blank: bool,
        level: usize,
    },
}

struct Printer<'t> {
    tokens: &'t [Token<'t>],
    shape: &'t Shape,
    out: String,
    /// The level of the line being written.
    line: usize,
    /// Spaces that stand additionally before an opening brace.
    pads: Vec<usize>,
}

impl Printer<'_> {
    fn contents(&mut self, within: &Within) {
        if matches!(within.group, Group::File | Group::Rule) {
            self.align(within);
        }
        let mut before = None;
        // Whether only comments have been seen of the element.
        let mut fresh = true;
        let mut at = within.from;
        while at < within.to {
            fresh = fresh || before.is_some_and(|before| self.ends_element(within.group, before, at));
            let gap = self.gap(within, before, at, fresh);
            self.write(gap);
            if self.tokens[at].kind == Kind::Open {
                before = Some(self.shape.partner[at]);
                let pad = self.pads[at];
                self.out.extend(std::iter::repeat_n(' ', pad));
                self.group(at);
            } else {
                self.out.push_str(self.tokens[at].text);
                before = Some(at);
            }
            fresh &= self.tokens[at].is_comment();
            at = before.map_or(at, |before| before + 1);
        }
    }

    fn group(&mut self, open: usize) {
        let close = self.shape.partner[open];
        let group = self.shape.group[open];
        // Padding does not count: what decides must be the same when the file is formatted again.
        let broken = self.is_broken(open, self.column() - self.pads[open]);
        let base = self.line;
        self.out.push_str(self.tokens[open].text);
        self.contents(&Within {
            group,
            from: open + 1,
            to: close,
            broken,
            base,
            indent: base + 1,
        });
        let empty = close == open + 1;
        let gap = if empty {
            Gap::None
        } else if broken || self.tokens[close - 1].kind == Kind::LineComment {
            Gap::Line {
                blank: false,
                level: base,
            }
        } else if group == Group::List {
            Gap::None
        } else {
            Gap::Space
        };
        self.write(gap);
        self.out.push_str(self.tokens[close].text);
    }

    fn write(&mut self, gap: Gap) {
        match gap {
            Gap::None => {}
            Gap::Space => self.out.push(' '),
            Gap::Line { blank, level } => {
                if !self.out.is_empty() {
                    self.out.push_str(if blank { "\n\n" } else { "\n" });
                }
                self.out.extend(std::iter::repeat_n(' ', level * INDENT));
                self.line = level;
            }
        }
    }

    fn column(&self) -> usize {
        let start = self.out.rfind('\n').map_or(0, |feed| feed + 1);
        self.out[start..].chars().count()
    }

    /// Whether the elements of a group stand on lines of their own.
    fn is_broken(&self, open: usize, column: usize) -> bool {
        let close = self.shape.partner[open];
        let inside = &self.tokens[open + 1..close];
        let Some(first) = inside.first() else {
            return false;
        };
        match self.shape.group[open] {
            Group::Rule => true,
            group if group.is_block() => {
                let breaks = |token: &Token<'_>| {
                    token.breaks > 0 || token.kind == Kind::LineComment || token.text.contains('\n')
                };
                inside.iter().any(breaks)
                    || self.tokens[close].breaks > 0
                    || column + self.flat(open, close) > WIDTH
            }
            _ => first.breaks > 0 || first.kind == Kind::LineComment,
        }
    }

    /// The width of the tokens on one line.
    fn flat(&self, from: usize, to: usize) -> usize {
        let mut groups = Vec::new();
        let mut width = 0;
        for at in from..=to {
            let token = &self.tokens[at];
            if token.kind == Kind::Close {
                groups.pop();
            }
            if at > from {
                let group = groups.last().copied().unwrap_or(Group::Code);
                width += usize::from(self.flat_space(at, group));
            }
            width += token.text.chars().count();
            if token.kind == Kind::Open {
                groups.push(self.shape.group[at]);
            }
        }
        width
    }

    fn flat_space(&self, at: usize, group: Group) -> bool {
        let (before, token) = (&self.tokens[at - 1], &self.tokens[at]);
        match (before.kind, token.kind) {
            (Kind::Open, Kind::Close) => false,
            (Kind::Open, _) => self.shape.group[at - 1] != Group::List,
            (_, Kind::Close) => token.text == "}",
            _ => space(self.tokens, self.shape, at - 1, at, group),
        }
    }

    fn gap(&self, within: &Within, before: Option<usize>, at: usize, fresh: bool) -> Gap {
        let token = &self.tokens[at];
        let trails = token.is_comment() && token.breaks == 0;
        let line = |level| Gap::Line {
            blank: token.breaks > 1 && before.is_some() && fresh,
            level,
        };
        let Some(before) = before else {
            return match within.group {
                _ if trails && within.from > 0 => Gap::Space,
                _ if within.broken => line(within.indent),
                Group::List => Gap::None,
                _ => Gap::Space,
            };
        };
        let continued = if within.broken {
            within.indent + 1
        } else {
            within.base + 1
        };
        let after_comment = self.tokens[before].kind == Kind::LineComment;
        if within.broken && fresh && within.group.is_block() {
            let after_block_comment = self.tokens[before].kind == Kind::BlockComment && token.breaks == 0;
            if trails || after_block_comment {
                return Gap::Space;
            }
            let apart = within.group == Group::File && self.stands_apart(before, at);
            return match line(within.indent) {
                Gap::Line { level, .. } if apart => Gap::Line { blank: true, level },
                gap => gap,
            };
        }
        if after_comment || (token.breaks > 0 && !self.joins(within.group, before, at)) {
            return line(if fresh && within.broken {
                within.indent
            } else {
                continued
            });
        }
        if space(self.tokens, self.shape, before, at, within.group) {
            Gap::Space
        } else {
            Gap::None
        }
    }

    /// Whether an element of a group has ended before the token.
    fn ends_element(&self, group: Group, before: usize, at: usize) -> bool {
        let (last, token) = (&self.tokens[before], &self.tokens[at]);
        if token.is_sign(";") || token.is_sign(",") {
            return false;
        }
        match group {
            Group::File => last.is_sign(";") || last.text == "}" && last.kind == Kind::Close,
            Group::Rule => last.kind == Kind::Close,
            Group::Match => last.is_sign(";"),
            Group::Fact | Group::Map | Group::List => last.is_sign(","),
            Group::Switch => last.is_sign(",") || self.ends_block(before, token),
            Group::Code => last.is_sign(";") || self.ends_block(before, token),
        }
    }

    /// Whether a statement ends with the block before the token.
    fn ends_block(&self, before: usize, token: &Token<'_>) -> bool {
        let open = self.shape.partner[before];
        if self.tokens[before].text != "}" || !self.shape.group[open].is_block() {
            return false;
        }
        match token.kind {
            Kind::Name if matches!(token.text, "while" | "until") => !self.shape.is_do[open],
            Kind::Name => !matches!(token.text, "else" | "catch" | "in"),
            Kind::Number | Kind::Text | Kind::LineComment | Kind::BlockComment => true,
            Kind::Open => token.text == "{" || token.text == "#{",
            Kind::Sign | Kind::Close => false,
        }
    }

    /// Whether the token stays on the line of the one before, wherever the author broke the line.
    fn joins(&self, group: Group, before: usize, at: usize) -> bool {
        let token = &self.tokens[at];
        if token.is_comment() || self.tokens[before].is_comment() {
            return false;
        }
        let opens_block = token.kind == Kind::Open && self.shape.group[at].is_block();
        let follows_block = matches!(token.text, "else" | "catch" | "while" | "until");
        let names = matches!(group, Group::File | Group::Rule | Group::Fact);
        let method = token.is_sign(".") || token.is_sign("?.");
        names || opens_block || follows_block || !method && !space(self.tokens, self.shape, before, at, group)
    }

    /// Whether a blank line stands between two declarations: around rules and functions there is one.
    fn stands_apart(&self, before: usize, at: usize) -> bool {
        if self.tokens[before].is_comment() && self.tokens[before].breaks > 0 {
            return false;
        }
        let declares = |token: &Token<'_>| token.is_name("rule") || token.is_name("fn");
        let next = self.tokens[at..]
            .iter()
            .enumerate()
            .take_while(|(ahead, token)| *ahead == 0 || token.breaks <= 1)
            .map(|(_, token)| token)
            .find(|token| !token.is_comment());
        let ended = self.tokens[..=before]
            .iter()
            .rposition(|token| !token.is_comment())
            .filter(|last| self.tokens[*last].kind == Kind::Close)
            .map(|close| self.shape.group[self.shape.partner[close]])
            .is_some_and(|group| matches!(group, Group::Rule | Group::Code));
        ended || next.is_some_and(declares)
    }
}

/// Braces below each other.
impl Printer<'_> {
    /// Pads the headers of neighboring lines that open sections or facts, so that their braces stand in one column.
    fn align(&mut self, within: &Within) {
        let wanted = match within.group {
            Group::Rule => |group: Group| matches!(group, Group::Match | Group::Code),
            _ => |group: Group| group == Group::Fact,
        };
        let mut run: Vec<(usize, usize)> = Vec::new();
        let mut at = within.from;
        let mut header = within.from;
        while at < within.to {
            let token = &self.tokens[at];
            if token.kind != Kind::Open {
                let ends = token.is_sign(";") || token.is_comment() && at == header;
                if ends {
                    // A comment on a line of its own ends the run; one behind a block does not.
                    if token.breaks > 0 || !token.is_comment() {
                        self.pad(&mut run);
                    }
                    header = at + 1;
                }
                at += 1;
                continue;
            }
            let close = self.shape.partner[at];
            let plain = self.tokens[header..at]
                .iter()
                .all(|token| token.kind == Kind::Name);
            if plain && header < at && wanted(self.shape.group[at]) {
                if self.tokens[header].breaks > 1 {
                    self.pad(&mut run);
                }
                let width = self.flat(header, at) - 1;
                run.push((at, width));
                if self.is_broken(at, within.indent * INDENT + width) {
                    self.pad(&mut run);
                }
            } else {
                self.pad(&mut run);
            }
            at = close + 1;
            header = at;
        }
        self.pad(&mut run);
    }

    fn pad(&mut self, run: &mut Vec<(usize, usize)>) {
        let widest = run.iter().map(|(_, width)| *width).max().unwrap_or(0);
        for (at, width) in run.drain(..) {
            self.pads[at] = widest - width;
        }
    }
}
