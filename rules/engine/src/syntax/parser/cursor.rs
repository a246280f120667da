//! Where the parser stands among the words: looking ahead, passing brackets and expressions, and saying what was expected.

use super::{Parsed, Parser, Reported};
use crate::syntax::lexer::Kind;
use crate::syntax::{Name, Span};

impl<'a> Parser<'a, '_, '_> {
    /// An expression up to `;`, the closing brace, or one of the words (before `by`).
    pub(super) fn expression(&mut self, words: &[&str]) -> Parsed<Span> {
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(kind) = self.kind() {
            match kind {
                Kind::Sign('(' | '[' | '{') => depth += 1,
                Kind::Sign(';') if depth == 0 => break,
                Kind::Sign('}' | ')' | ']') => {
                    if depth == 0 {
                        break;
                    }
                    depth -= 1;
                }
                Kind::Word if depth == 0 && self.word().is_some_and(|word| words.contains(&word)) => {
                    let by = self
                        .tokens
                        .get(self.at + 1)
                        .is_some_and(|next| &self.text[next.span.clone()] == "by");
                    if by {
                        break;
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        if self.at == start {
            self.expected("an expression")
        } else {
            Ok(self.between(start, self.at))
        }
    }

    /// The part up to one of the signs at this depth.
    pub(super) fn until(&mut self, ends: &[char]) -> Span {
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(kind) = self.kind() {
            if let Kind::Sign(sign) = kind {
                if depth == 0 && ends.contains(&sign) {
                    break;
                }
                match sign {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            self.at += 1;
        }
        self.between(start, self.at)
    }

    /// The inside of the braces that open here.
    pub(super) fn braces(&mut self) -> Parsed<Span> {
        let open = self.span();
        let inside = self.group();
        if self.at > self.tokens.len() {
            self.at = self.tokens.len();
            self.report
                .error("open-brace", &open, "a brace is not closed", "opened here");
            return Err(Reported);
        }
        Ok(inside)
    }

    /// The inside of a bracketed group; `at` passes the end when it is not closed. Other brackets within are not
    /// looked at, so that one forgotten does not swallow the rest of the file.
    pub(super) fn group(&mut self) -> Span {
        let start = self.span().end;
        let (open, close) = if self.is_sign('(') { ('(', ')') } else { ('{', '}') };
        let mut depth = 0_usize;
        while let Some(kind) = self.kind() {
            match kind {
                Kind::Sign(sign) if sign == open => depth += 1,
                Kind::Sign(sign) if sign == close => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return start..self.tokens[self.at - 1].span.start;
            }
        }
        self.at = self.tokens.len() + 1;
        start..self.text.len()
    }

    pub(super) fn between(&self, start: usize, end: usize) -> Span {
        let from = self
            .tokens
            .get(start)
            .map_or(self.text.len(), |token| token.span.start);
        let to = end
            .checked_sub(1)
            .and_then(|last| self.tokens.get(last))
            .map_or(from, |token| token.span.end);
        from..to.max(from)
    }

    pub(super) fn skip_to_declaration(&mut self) {
        // A declaration's word at the start of a line ends the search whatever the braces say.
        while self.at < self.tokens.len() {
            let start = self.tokens[self.at].span.start;
            let line = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
            let first = self.text[line..start].trim().is_empty();
            let closing = self.at > 0 && matches!(self.tokens[self.at - 1].kind, Kind::Sign('}' | ';'));
            let declares = matches!(self.word(), Some("workflow" | "fact" | "shared" | "rule"))
                || matches!(self.word(), Some("const" | "fn")) && line == start;
            if declares && (first || closing) {
                return;
            }
            self.at += 1;
        }
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    pub(super) fn span(&self) -> Span {
        self.tokens.get(self.at).map_or_else(
            || {
                self.tokens
                    .last()
                    .map_or(0..0, |last| last.span.end.saturating_sub(1)..last.span.end)
            },
            |token| token.span.clone(),
        )
    }

    pub(super) fn word(&self) -> Option<&'a str> {
        let token = self.tokens.get(self.at)?;
        (token.kind == Kind::Word).then(|| &self.text[token.span.clone()])
    }

    pub(super) fn is_sign(&self, sign: char) -> bool {
        self.kind() == Some(Kind::Sign(sign))
    }

    pub(super) fn take(&mut self, sign: char) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    pub(super) fn sign(&mut self, sign: char, place: &str) -> Parsed<()> {
        if self.take(sign) {
            Ok(())
        } else {
            self.expected(&format!("`{sign}` {place}"))
        }
    }

    pub(super) fn name(&mut self, what: &str) -> Parsed<Name> {
        let Some(word) = self.word() else {
            return self.expected(what);
        };
        let name = Name {
            text: word.to_owned(),
            span: self.span(),
        };
        self.at += 1;
        Ok(name)
    }

    pub(super) fn found(&self) -> String {
        match self.tokens.get(self.at) {
            Some(token) => format!(
                "`{}`",
                self.text[token.span.clone()].chars().take(40).collect::<String>()
            ),
            None => "the end of the file".to_owned(),
        }
    }

    pub(super) fn expected<T>(&mut self, what: &str) -> Parsed<T> {
        let (span, found) = (self.span(), self.found());
        self.report.error(
            "unexpected",
            &span,
            format!("unexpected {found}"),
            format!("expected {what}"),
        );
        Err(Reported)
    }
}
