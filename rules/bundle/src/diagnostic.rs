//! What is wrong with a bundle, whatever file it is in, shown the way compilers show it.

use std::fmt;
use std::ops::Range;

use celesta_functions::ManifestError;
use celesta_types::ErrorKind;
use serde::Serialize;

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The bundle cannot be used.
    Error,
    /// The bundle works, and probably not as meant.
    Warning,
}

/// One remark about one place of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A short stable name of the kind of mistake.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The file, relative to the bundle.
    pub path: String,
    /// The line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters are meant, at least 1.
    pub length: usize,
    /// What was expected there.
    pub label: Option<String>,
    /// What would be right.
    pub hint: Option<String>,
    /// The line itself.
    pub line_text: String,
}

impl Diagnostic {
    /// An error about a file as a whole.
    pub(crate) fn of_file(code: &'static str, path: &str, message: String) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message,
            path: path.to_owned(),
            line: 0,
            column: 1,
            length: 1,
            label: None,
            hint: None,
            line_text: String::new(),
        }
    }

    /// An error at the bytes `span` of `text`.
    pub(crate) fn at(
        code: &'static str,
        path: &str,
        text: &str,
        span: &Range<usize>,
        message: String,
    ) -> Self {
        let start = floor_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor_boundary(text, span.end.clamp(start, line_end));
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            length: text[start..end].chars().count().max(1),
            line_text: text[line_start..line_end].trim_end_matches('\r').to_owned(),
            ..Self::of_file(code, path, message)
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    pub(crate) const fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl From<ManifestError> for Diagnostic {
    fn from(error: ManifestError) -> Self {
        Self {
            severity: Severity::Error,
            code: "function-manifest",
            message: error.message,
            path: error.path,
            line: error.line,
            column: error.column,
            length: error.length,
            label: None,
            hint: error.hint,
            line_text: error.line_text,
        }
    }
}

impl From<celesta_engine::Diagnostic> for Diagnostic {
    fn from(other: celesta_engine::Diagnostic) -> Self {
        Self {
            severity: match other.severity {
                celesta_engine::Severity::Error => Severity::Error,
                celesta_engine::Severity::Warning => Severity::Warning,
            },
            code: other.code,
            message: other.message,
            path: other.path,
            line: other.line,
            column: other.column,
            length: other.length,
            label: Some(other.label).filter(|label| !label.is_empty()),
            hint: other.hint,
            line_text: other.line_text,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}[{}]: {}", self.code, self.message)?;
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        if self.line == 0 {
            write!(f, "{margin}--> {}", self.path)?;
        } else {
            writeln!(f, "{margin}--> {}:{}:{}", self.path, self.line, self.column)?;
            writeln!(f, "{margin} |")?;
            writeln!(f, "{number} | {}", self.line_text)?;
            // Tabs stay tabs, so that the caret stands below its place on any terminal.
            let before = self.line_text.chars().take(self.column.saturating_sub(1));
            let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "{margin} | {indent}{}", "^".repeat(self.length))?;
            if let Some(label) = &self.label {
                write!(f, " {label}")?;
            }
        }
        match &self.hint {
            Some(hint) => write!(f, "\n{margin} = help: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a bundle, file by file, each in the order of its places; warnings too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct BundleErrors(pub Vec<Diagnostic>);

impl BundleErrors {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    /// How many of them are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.0
            .iter()
            .filter(|one| one.severity == Severity::Error)
            .count()
    }
}

impl fmt::Display for BundleErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, one) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n\n")?;
            }
            fmt::Display::fmt(one, f)?;
        }
        Ok(())
    }
}
