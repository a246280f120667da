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

/// The words of `text`, without comments. Stops at the first place that cannot be read.
pub(crate) fn tokens(text: &str, report: &mut Reporter<'_>) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut depth = 0_usize;
    while at < bytes.len() {
        let start = at;
        let rest = &text[at..];
        let letter = rest.chars().next().unwrap_or(' ');
        if letter.is_whitespace() {
            at += letter.len_utf8();
            continue;
        }
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let kind = if rest.starts_with("/*") {
            let Some(end) = comment_end(bytes, at) else {
                report
                    .error(
                        "open-comment",
                        &(at..at + 2),
                        "a comment is not closed",
                        "opened here",
                    )
                    .hint("close it with `*/`");
                break;
            };
            at = end;
            continue;
        } else if letter.is_alphabetic() || letter == '_' {
            at += rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                .unwrap_or(rest.len());
            Kind::Word
        } else if letter.is_ascii_digit() {
            at = number_end(bytes, at);
            Kind::Number
        } else if let Some((end, kind)) = text_end(bytes, at, 0) {
            let Some(end) = end else {
                report.error(
                    "open-string",
                    &(at..at + 1),
                    "a string is not closed",
                    "opened here",
                );
                break;
            };
            at = end;
            kind
        } else {
            at += letter.len_utf8();
            match letter {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > NESTING_MAX {
                report.error(
                    "too-deep",
                    &(start..at),
                    format!("braces nest deeper than {NESTING_MAX} levels"),
                    "here",
                );
                break;
            }
            Kind::Sign(letter)
        };
        tokens.push(Token {
            kind,
            span: start..at,
        });
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
