//! The declarations of a rules file as far as they can be seen, whatever is wrong with the rest.
//!
//! The compiler drops a declaration with a mistake; somebody who is typing has one all the time. So here a declaration
//! reaches from its keyword to the next one, and what is missing in it is missing.

mod reader;

use std::ops::Range;

use celesta_engine::{Word, WordKind, words};

use reader::Reader;

/// A part of the text, in bytes.
pub(crate) type Span = Range<usize>;

/// A name and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) span: Span,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Named,
    /// The kind as written, with `?` and the default.
    pub(crate) kind: Span,
}

#[derive(Debug, Clone)]
pub(crate) struct Clause {
    /// The bound fact, or the name of an aggregate's value.
    pub(crate) name: Option<Named>,
    /// `no`, `any`, `count`, `collect` and so on; none when a fact is bound.
    pub(crate) word: Option<String>,
    pub(crate) fact_type: Option<Named>,
    /// The name of the fact within the clause.
    pub(crate) inner: Option<Named>,
    /// The words of the clause.
    pub(crate) words: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Match,
    Action,
    Reaction,
    Error,
}

#[derive(Debug, Clone)]
pub(crate) enum Declared {
    Workflow,
    Fact {
        fields: Vec<Field>,
    },
    Const,
    Function {
        parameters: Vec<Named>,
        body: Range<usize>,
    },
    Rule {
        clauses: Vec<Clause>,
        parts: Vec<(Part, Range<usize>)>,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Declaration {
    pub(crate) what: Declared,
    /// Empty while it is missing.
    pub(crate) name: Named,
    pub(crate) span: Span,
}

/// A file's words and declarations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    /// All words but comments; those of `${…}` in templates follow their template.
    pub(crate) words: Vec<Word>,
    pub(crate) comments: Vec<Span>,
    pub(crate) declarations: Vec<Declaration>,
}

impl Outline {
    pub(crate) fn of(text: &str) -> Self {
        let mut outline = Self::default();
        for word in words(text) {
            if matches!(word.kind, WordKind::LineComment | WordKind::BlockComment) {
                outline.comments.push(word.span);
            } else {
                outline.take(text, word, 0);
            }
        }
        let starts = outline.starts(text);
        let ends = starts.iter().skip(1).copied().chain([outline.words.len()]);
        outline.declarations = starts
            .iter()
            .zip(ends)
            .map(|(start, end)| {
                Reader {
                    text,
                    words: &outline.words,
                    at: *start,
                    end,
                }
                .declaration()
            })
            .collect();
        outline
    }

    /// The declaration of that kind and name.
    pub(crate) fn find(&self, name: &str, fits: impl Fn(&Declared) -> bool) -> Option<&Declaration> {
        self.declarations
            .iter()
            .find(|declaration| declaration.name.name == name && fits(&declaration.what))
    }

    pub(crate) fn fact(&self, name: &str) -> Option<(&Declaration, &[Field])> {
        self.declarations
            .iter()
            .find_map(|declaration| match &declaration.what {
                Declared::Fact { fields } if declaration.name.name == name => {
                    Some((declaration, fields.as_slice()))
                }
                _ => None,
            })
    }

    pub(crate) fn facts(&self) -> impl Iterator<Item = &Declaration> {
        self.declarations
            .iter()
            .filter(|declaration| matches!(declaration.what, Declared::Fact { .. }))
    }

    pub(crate) fn workflow(&self) -> Option<&str> {
        let declared = self
            .declarations
            .iter()
            .find(|one| matches!(one.what, Declared::Workflow))?;
        Some(&declared.name.name)
    }

    fn take(&mut self, text: &str, word: Word, depth: usize) {
        /// Templates within templates that are looked into.
        const DEPTH_MAX: usize = 8;
        let template = matches!(word.kind, WordKind::OtherText | WordKind::Open)
            && text[word.span.clone()].starts_with('`');
        let span = word.span.clone();
        self.words.push(word);
        if !template || depth >= DEPTH_MAX {
            return;
        }
        let mut at = span.start + 1;
        while let Some(found) = text[at..span.end].find("${") {
            let start = at + found + 2;
            let mut braces = 1_usize;
            let mut end = start;
            for word in words(&text[start..span.end]) {
                match word.kind {
                    WordKind::Sign('{') => braces += 1,
                    WordKind::Sign('}') => braces -= 1,
                    _ => {}
                }
                end = start + word.span.end;
                if braces == 0 {
                    break;
                }
                let span = start + word.span.start..start + word.span.end;
                self.take(
                    text,
                    Word {
                        kind: word.kind,
                        span,
                    },
                    depth + 1,
                );
            }
            at = end.max(start);
        }
    }

    /// The words that begin declarations.
    fn starts(&self, text: &str) -> Vec<usize> {
        let mut starts = Vec::new();
        let mut depth = 0_usize;
        for (at, word) in self.words.iter().enumerate() {
            match word.kind {
                WordKind::Sign('{' | '(' | '[') => depth += 1,
                WordKind::Sign('}' | ')' | ']') => depth = depth.saturating_sub(1),
                WordKind::Name => {
                    let first = word.span.start == 0 || text[..word.span.start].ends_with('\n');
                    let shared =
                        at > 0 && self.is(text, at - 1, "shared") && starts.last() == Some(&(at - 1));
                    let keyword = matches!(
                        &text[word.span.clone()],
                        "workflow" | "fact" | "shared" | "const" | "fn" | "rule"
                    );
                    if keyword && !shared && (first || depth == 0) {
                        starts.push(at);
                        depth = 0;
                    }
                }
                _ => {}
            }
        }
        starts
    }

    fn is(&self, text: &str, at: usize, name: &str) -> bool {
        self.words
            .get(at)
            .is_some_and(|word| &text[word.span.clone()] == name)
    }
}
