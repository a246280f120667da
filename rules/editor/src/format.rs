//! The layout of rules files: one indentation, one spacing, blank lines and comments kept.
//!
//! Lines stay where the author broke them. A block (a section, a fact, the body of an `if`) that was written on one line
//! stays on one line while it fits into [`WIDTH`]; one that was broken has each of its statements, clauses or fields on
//! a line of its own. Within an expression a line break stays, and goes on one level deeper. The braces of neighboring
//! lines that open sections or facts stand below each other. Strings, templates and comments are never touched.
//!
//! Whatever goes wrong here, rules do not change: the result is read again and given out only when it says the same.

mod print;
mod shape;
mod spacing;
mod token;

use std::fmt;

use celesta_bundle::Diagnostic;
use celesta_engine::{ErrorKind, Source, meaning};

/// The most columns of a block that stays on one line.
pub const WIDTH: usize = 120;

/// Why a file is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It cannot be read; formatting it would guess.
    #[error("{}", Listed(.0))]
    Mistakes(Vec<Diagnostic>),
    /// The formatter would have changed what the file says: a fault of the formatter.
    #[error("the formatter does not understand this file")]
    Misread,
}

impl FormatError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Mistakes(_) => ErrorKind::Invalid,
            Self::Misread => ErrorKind::Internal,
        }
    }
}

struct Listed<'a>(&'a [Diagnostic]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, diagnostic) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n\n")?;
            }
            fmt::Display::fmt(diagnostic, f)?;
        }
        Ok(())
    }
}

/// The text of a rules file, laid out; `path` is its name in diagnostics.
///
/// # Errors
/// When the file cannot be read. Names that do not exist are no hindrance.
pub fn format(path: &str, text: &str) -> Result<String, FormatError> {
    let source = |text: String| Source {
        path: path.to_owned(),
        text,
    };
    let before = meaning(&source(text.to_owned()))
        .map_err(|found| FormatError::Mistakes(found.0.into_iter().map(Diagnostic::from).collect()))?;
    let tokens = token::tokens(text);
    let shape = shape::Shape::of(&tokens).ok_or(FormatError::Misread)?;
    let after = print::print(&tokens, &shape);
    if after == text {
        return Ok(after);
    }
    let after = source(after);
    match meaning(&after) {
        Ok(same) if same == before => Ok(after.text),
        _ => Err(FormatError::Misread),
    }
}
