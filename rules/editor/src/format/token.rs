//! Words with their signs joined to operators, as the script language reads them, and the space before each.

use celesta_engine::{Word, WordKind, words};

/// What a token is to the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    Number,
    /// A string, a template, a character.
    Text,
    Sign,
    Open,
    Close,
    LineComment,
    BlockComment,
}

/// A token and what stood before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    pub(super) text: &'t str,
    /// Line feeds between this token and the one before.
    pub(super) breaks: usize,
    /// Whether anything stood between.
    pub(super) apart: bool,
}

impl Token<'_> {
    pub(super) fn is_comment(&self) -> bool {
        matches!(self.kind, Kind::LineComment | Kind::BlockComment)
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        self.kind == Kind::Sign && self.text == sign
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        self.kind == Kind::Name && self.text == name
    }
}

/// Signs of several characters, longer ones first.
const SIGNS: [&str; 28] = [
    "**=", "<<=", ">>=", "..=", "**", "==", "!=", "<=", ">=", "&&", "||", "+=", "-=", "*=", "/=", "%=", "&=",
    "|=", "^=", "<<", ">>", "..", "=>", "::", "??", "?.", "?[", "#{",
];

/// The tokens of a text that can be read.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens: Vec<Token<'_>> = Vec::new();
    let words: Vec<Word> = words(text).collect();
    let mut at = 0;
    let mut end = 0;
    while let Some(word) = words.get(at) {
        let start = word.span.start;
        let mut stop = word.span.end;
        let kind = match word.kind {
            WordKind::Name => Kind::Name,
            WordKind::Number => {
                // `1.` is a number when no name follows: `1.abs()` is a call.
                let rest = &text[stop..];
                let next = rest.chars().nth(1).unwrap_or(' ');
                if rest.starts_with('.') && !(next.is_alphanumeric() || matches!(next, '_' | '.')) {
                    stop += 1;
                }
                Kind::Number
            }
            WordKind::Text | WordKind::OtherText | WordKind::Open => Kind::Text,
            WordKind::LineComment => Kind::LineComment,
            WordKind::BlockComment => Kind::BlockComment,
            WordKind::Sign(sign) => {
                let rest = &text[start..];
                let not_in = rest.strip_prefix("!in").is_some_and(|after| {
                    !after.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
                });
                let joined = SIGNS.iter().find(|joined| rest.starts_with(**joined));
                stop = match joined {
                    Some(joined) => start + joined.len(),
                    None if not_in => start + 3,
                    None => stop,
                };
                match (&text[start..stop], sign) {
                    ("?[" | "#{", _) | (_, '(' | '[' | '{') => Kind::Open,
                    (_, ')' | ']' | '}') => Kind::Close,
                    _ => Kind::Sign,
                }
            }
        };
        let between = &text[end..start];
        let written = &text[start..stop];
        tokens.push(Token {
            kind,
            text: if kind == Kind::LineComment {
                written.trim_end()
            } else {
                written
            },
            breaks: between.matches('\n').count(),
            apart: !between.is_empty(),
        });
        end = stop;
        while words.get(at).is_some_and(|word| word.span.start < end) {
            at += 1;
        }
    }
    tokens
}
