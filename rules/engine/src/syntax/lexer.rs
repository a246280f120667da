//! The words of a rules file. Scripts are only cut out here; rhai parses them.

use super::Span;
use super::place::Reporter;

/// How deep braces and template strings may nest: the parser of scripts recurses for each.
const NESTING_MAX: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Word,
    Number,
    /// A string in double quotes.
    Text,
    /// A template, a character or a raw string: only scripts use them.
    OtherText,
    Sign(char),
}

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub kind: Kind,
    pub span: Span,
}

/// What stands at a place of the text, in the tolerant reading that [`pieces`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    Token(Kind),
    LineComment,
    BlockComment,
    /// A block comment that is not closed: it reaches to the end of the text.
    OpenComment,
    /// A string that is not closed: it reaches to the end of its line.
    OpenText,
}

/// Everything in `text` but white space, whatever is wrong with it.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = (Piece, Span)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (piece, span) = piece(text, at)?;
        at = span.end;
        Some((piece, span))
    })
}

/// The first piece at or after `at`.
pub(crate) fn piece(text: &str, mut at: usize) -> Option<(Piece, Span)> {
    let bytes = text.as_bytes();
    let rest = text.get(at..)?.trim_start();
    at = text.len() - rest.len();
    let letter = rest.chars().next()?;
    let line = || at + rest.find('\n').unwrap_or(rest.len());
    let (piece, end) = if rest.starts_with("//") {
        (Piece::LineComment, line())
    } else if rest.starts_with("/*") {
        match comment_end(bytes, at) {
            Some(end) => (Piece::BlockComment, end),
            None => (Piece::OpenComment, text.len()),
        }
    } else if letter.is_alphabetic() || letter == '_' {
        let length = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        (Piece::Token(Kind::Word), at + length)
    } else if letter.is_ascii_digit() {
        (Piece::Token(Kind::Number), number_end(bytes, at))
    } else {
        match text_end(bytes, at, 0) {
            Some((Some(end), kind)) => (Piece::Token(kind), end),
            Some((None, _)) => (Piece::OpenText, line()),
            None => (Piece::Token(Kind::Sign(letter)), at + letter.len_utf8()),
        }
    };
    Some((piece, at..end))
}

/// The words of `text`, without comments. Stops at the first place that cannot be read.
pub(crate) fn tokens(text: &str, report: &mut Reporter<'_>) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut depth = 0_usize;
    for (piece, span) in pieces(text) {
        let kind = match piece {
            Piece::Token(kind) => kind,
            Piece::LineComment | Piece::BlockComment => continue,
            Piece::OpenComment => {
                let opening = span.start..span.start + 2;
                report
                    .error("open-comment", &opening, "a comment is not closed", "opened here")
                    .hint("close it with `*/`");
                break;
            }
            Piece::OpenText => {
                let opening = span.start..span.start + 1;
                report.error("open-string", &opening, "a string is not closed", "opened here");
                break;
            }
        };
        match kind {
            Kind::Sign('{' | '(' | '[') => depth += 1,
            Kind::Sign('}' | ')' | ']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > NESTING_MAX {
            let message = format!("braces nest deeper than {NESTING_MAX} levels");
            report.error("too-deep", &span, message, "here");
            break;
        }
        tokens.push(Token { kind, span });
    }
    tokens
}

fn comment_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    while at + 1 < bytes.len() {
        match (bytes[at], bytes[at + 1]) {
            (b'/', b'*') => {
                depth += 1;
                at += 2;
            }
            (b'*', b'/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

fn number_end(bytes: &[u8], mut at: usize) -> usize {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    while at < bytes.len() {
        let exponent_sign = matches!(bytes[at], b'+' | b'-') && matches!(bytes[at - 1], b'e' | b'E');
        let fraction = bytes[at] == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if !(is_part(bytes[at]) || exponent_sign || fraction) {
            break;
        }
        at += 1;
    }
    at
}

/// The end of the text that starts at `at`: `None` when none starts there, `Some((None, _))` when it is not closed.
fn text_end(bytes: &[u8], at: usize, depth: usize) -> Option<(Option<usize>, Kind)> {
    match bytes[at] {
        b'"' => Some((quoted_end(bytes, at + 1, b'"'), Kind::Text)),
        b'\'' => Some((quoted_end(bytes, at + 1, b'\''), Kind::OtherText)),
        b'`' => Some((template_end(bytes, at + 1, depth), Kind::OtherText)),
        b'#' => {
            let marks = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
            (bytes.get(at + marks) == Some(&b'"'))
                .then(|| (raw_end(bytes, at + marks + 1, marks), Kind::OtherText))
        }
        _ => None,
    }
}

fn quoted_end(bytes: &[u8], mut at: usize, quote: u8) -> Option<usize> {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'\n' => return None,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

fn raw_end(bytes: &[u8], mut at: usize, marks: usize) -> Option<usize> {
    while at < bytes.len() {
        if bytes[at] == b'"'
            && bytes[at + 1..]
                .iter()
                .take(marks)
                .filter(|byte| **byte == b'#')
                .count()
                == marks
        {
            return Some(at + 1 + marks);
        }
        at += 1;
    }
    None
}

fn template_end(bytes: &[u8], mut at: usize, depth: usize) -> Option<usize> {
    if depth > NESTING_MAX {
        return None;
    }
    while at < bytes.len() {
        if bytes[at] == b'`' {
            return Some(at + 1);
        }
        if bytes[at] == b'$' && bytes.get(at + 1) == Some(&b'{') {
            at = inserted_end(bytes, at + 2, depth)?;
        } else {
            at += 1;
        }
    }
    None
}

fn inserted_end(bytes: &[u8], mut at: usize, depth: usize) -> Option<usize> {
    let mut braces = 1_usize;
    while at < bytes.len() {
        if let Some((end, _)) = text_end(bytes, at, depth + 1) {
            at = end?;
            continue;
        }
        match bytes[at] {
            b'{' => braces += 1,
            b'}' => braces -= 1,
            _ => {}
        }
        at += 1;
        if braces == 0 {
            return Some(at);
        }
    }
    None
}
