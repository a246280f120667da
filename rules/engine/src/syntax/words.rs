//! The words of a rules file for those who show or format it: comments are kept, and nothing is ever refused.
//!
//! While somebody types, a string or a template is open for a moment. Such a piece ends with its line here, so that the
//! rest of the file stays readable.

use super::Span;
use super::lexer::{Kind, Piece, piece};

/// What kind of word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WordKind {
    /// A name or a keyword: letters, digits and `_`.
    Name,
    /// A number.
    Number,
    /// A string in double quotes.
    Text,
    /// A template, a character or a raw string.
    OtherText,
    /// One sign; signs of several characters are several words side by side.
    Sign(char),
    /// A comment up to the end of its line.
    LineComment,
    /// A comment between `/*` and `*/`.
    BlockComment,
    /// A string or a comment that is not closed.
    Open,
}

/// A word and where it stands, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// What kind of word it is.
    pub kind: WordKind,
    /// Where it stands.
    pub span: Span,
}

/// The words of `text` in their order; white space is what lies between them.
pub fn words(text: &str) -> impl Iterator<Item = Word> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (piece, mut span) = piece(text, at)?;
        let mut kind = match piece {
            Piece::Token(Kind::Word) => WordKind::Name,
            Piece::Token(Kind::Number) => WordKind::Number,
            Piece::Token(Kind::Text) => WordKind::Text,
            Piece::Token(Kind::OtherText) => WordKind::OtherText,
            Piece::Token(Kind::Sign(sign)) => WordKind::Sign(sign),
            Piece::LineComment => WordKind::LineComment,
            Piece::BlockComment => WordKind::BlockComment,
            Piece::OpenComment | Piece::OpenText => WordKind::Open,
        };
        if kind == WordKind::OtherText && swallows(&text[span.clone()]) {
            kind = WordKind::Open;
            let line = text[span.clone()].find('\n').unwrap_or_else(|| span.len());
            span.end = span.start + line;
        }
        at = span.end;
        Some(Word { kind, span })
    })
}

/// Whether a template holds a line that looks like a declaration: then its closing mark belongs to another one.
fn swallows(template: &str) -> bool {
    template
        .lines()
        .skip(1)
        .any(|line| line.starts_with("rule \"") || line.starts_with("fact ") || line.starts_with("workflow "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<(WordKind, &str)> {
        words(text).map(|word| (word.kind, &text[word.span])).collect()
    }

    #[test]
    fn an_open_string_ends_with_its_line() {
        let found = shown("call(\"enc\n}");
        assert_eq!(found[2], (WordKind::Open, "\"enc"));
        assert_eq!(found[3], (WordKind::Sign('}'), "}"));
    }

    #[test]
    fn an_open_template_does_not_swallow_the_next_rule() {
        let found = shown("log(`a ${b}\nrule \"x\" { action { log(`c`); } }");
        assert_eq!(found[2], (WordKind::Open, "`a ${b}"));
        assert_eq!(found[3], (WordKind::Name, "rule"));
    }

    #[test]
    fn comments_are_words() {
        let found = shown("a // b\n/* c /* d */ */ e");
        assert_eq!(found[1], (WordKind::LineComment, "// b"));
        assert_eq!(found[2], (WordKind::BlockComment, "/* c /* d */ */"));
    }
}
