//! What belongs together: which bracket closes which, and what stands between them.

use super::token::{Kind, Token};

/// What stands between two brackets, or around all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    File,
    /// The fields of a fact type.
    Fact,
    /// The sections of a rule.
    Rule,
    /// The clauses of a `match`.
    Match,
    /// Statements.
    Code,
    /// The arms of a `switch`.
    Switch,
    /// `#{ … }`.
    Map,
    /// `( … )`, `[ … ]`.
    List,
}

impl Group {
    /// Whether it is laid out by its elements, each on a line of its own, unless all fits on one.
    pub(super) fn is_block(self) -> bool {
        !matches!(self, Self::Map | Self::List)
    }
}

/// The brackets of a file, and the signs whose spacing depends on their place.
#[derive(Debug)]
pub(super) struct Shape {
    /// For each bracket the one it belongs to, for others their own place.
    pub(super) partner: Vec<usize>,
    /// What each opening bracket opens.
    pub(super) group: Vec<Group>,
    /// Signs that stand before their operand.
    pub(super) prefix: Vec<bool>,
    /// The `|` before and after the parameters of a closure.
    pub(super) pipe: Vec<Pipe>,
    /// The braces of blocks that follow `do`: `while` belongs to them.
    pub(super) is_do: Vec<bool>,
}

/// What a `|` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pipe {
    No,
    Opening,
    Closing,
}

/// A bracket that is open while the file is read.
struct Level {
    at: usize,
    group: Group,
    /// The first word of the declaration at the top of the file.
    head: Option<usize>,
    switch: bool,
    do_: bool,
    pipe: bool,
    /// The last token that is no comment.
    last: Option<usize>,
}

impl Level {
    const fn new(at: usize, group: Group) -> Self {
        Self {
            at,
            group,
            head: None,
            switch: false,
            do_: false,
            pipe: false,
            last: None,
        }
    }
}

impl Shape {
    /// The shape of a file; `None` when its brackets do not fit.
    pub(super) fn of(tokens: &[Token<'_>]) -> Option<Self> {
        let mut shape = Self {
            partner: (0..tokens.len()).collect(),
            group: vec![Group::File; tokens.len()],
            prefix: vec![false; tokens.len()],
            pipe: vec![Pipe::No; tokens.len()],
            is_do: vec![false; tokens.len()],
        };
        let mut levels = vec![Level::new(0, Group::File)];
        for (at, token) in tokens.iter().enumerate() {
            let level = levels.last_mut()?;
            match token.kind {
                Kind::LineComment | Kind::BlockComment => continue,
                Kind::Open => {
                    let group = opened(tokens, token, level);
                    shape.group[at] = group;
                    shape.is_do[at] = std::mem::take(&mut level.do_);
                    levels.push(Level::new(at, group));
                    continue;
                }
                Kind::Close => {
                    let closed = levels.pop()?;
                    let opening = tokens.get(closed.at)?.text;
                    let fits = matches!(
                        (opening, token.text),
                        ("{" | "#{", "}") | ("(", ")") | ("[" | "?[", "]")
                    );
                    let level = levels.last_mut().filter(|_| fits)?;
                    shape.partner[closed.at] = at;
                    shape.partner[at] = closed.at;
                    level.last = Some(at);
                    if level.group == Group::File && token.text == "}" {
                        level.head = None;
                    }
                    continue;
                }
                Kind::Name => {
                    level.switch |= token.text == "switch";
                    level.do_ = token.text == "do";
                    if level.head.is_none() {
                        level.head = Some(at);
                    }
                }
                Kind::Sign => {
                    let operand_before = level
                        .last
                        .is_some_and(|last| ends_operand(tokens, last, level.group));
                    match token.text {
                        "-" | "+" | "!" => shape.prefix[at] = !operand_before,
                        "|" if level.pipe => {
                            level.pipe = false;
                            shape.pipe[at] = Pipe::Closing;
                        }
                        "|" if !operand_before => {
                            level.pipe = true;
                            shape.pipe[at] = Pipe::Opening;
                        }
                        ";" => {
                            level.head = None;
                            level.pipe = false;
                            level.switch = false;
                        }
                        _ => {}
                    }
                }
                Kind::Number | Kind::Text => {}
            }
            level.last = Some(at);
        }
        (levels.len() == 1).then_some(shape)
    }
}

fn opened(tokens: &[Token<'_>], token: &Token<'_>, level: &mut Level) -> Group {
    if token.text != "{" {
        return if token.text == "#{" {
            Group::Map
        } else {
            Group::List
        };
    }
    let word = |at: Option<usize>| at.map_or("", |at| tokens[at].text);
    match level.group {
        Group::File => match word(level.head) {
            "fact" | "shared" => Group::Fact,
            "rule" => Group::Rule,
            _ => Group::Code,
        },
        Group::Rule if word(level.last) == "match" => Group::Match,
        _ if std::mem::take(&mut level.switch) => Group::Switch,
        _ => Group::Code,
    }
}

/// Words after which an operand follows.
const OPENING_WORDS: [&str; 22] = [
    "if", "else", "while", "until", "in", "return", "throw", "let", "const", "for", "switch", "do", "loop",
    "try", "catch", "where", "by", "of", "salience", "break", "continue", "fn",
];

/// Whether an operand ends with the token: a sign after it joins two operands.
pub(super) fn ends_operand(tokens: &[Token<'_>], at: usize, group: Group) -> bool {
    let token = &tokens[at];
    match token.kind {
        Kind::Number | Kind::Text | Kind::Close => true,
        Kind::Name if OPENING_WORDS.contains(&token.text) => false,
        // `m = min c.size of Chunk c`: here `min` is no function.
        Kind::Name if group == Group::Match && matches!(token.text, "sum" | "min" | "max") => {
            let before = tokens[..at].iter().rev().find(|token| !token.is_comment());
            !before.is_some_and(|before| before.is_sign("="))
        }
        Kind::Name => true,
        Kind::Sign | Kind::Open | Kind::LineComment | Kind::BlockComment => false,
    }
}
