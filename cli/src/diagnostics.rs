//! Diagnostics of a bundle on a terminal: the text the checker writes, with color where it helps the eye.

use celesta_bundle::{Diagnostic, Severity};

use crate::output::{BAD, DIM, PENDING, STRONG, paint};

/// How many of each kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) errors: usize,
    pub(crate) warnings: usize,
}

impl Counts {
    /// Of these diagnostics.
    pub(crate) fn of(diagnostics: &[Diagnostic]) -> Self {
        let errors = diagnostics
            .iter()
            .filter(|one| one.severity == Severity::Error)
            .count();
        Self {
            errors,
            warnings: diagnostics.len() - errors,
        }
    }

    /// `5 errors, 1 warning`.
    pub(crate) fn text(self) -> String {
        let mut parts = Vec::new();
        if self.errors > 0 {
            parts.push(paint(BAD, counted(self.errors, "error")));
        }
        if self.warnings > 0 {
            parts.push(paint(PENDING, counted(self.warnings, "warning")));
        }
        parts.join(", ")
    }
}

/// `1 error`, `2 errors`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// One diagnostic, without a line feed at its end.
pub(crate) fn shown(diagnostic: &Diagnostic) -> String {
    let style = if diagnostic.severity == Severity::Error {
        BAD
    } else {
        PENDING
    };
    let text = diagnostic.to_string();
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        lines.push(match line.split_once(": ") {
            Some((head, message)) if at == 0 => format!("{}: {}", paint(style, head), paint(STRONG, message)),
            _ if trimmed.starts_with("-->") => paint(DIM, line),
            _ => line.split_once('^').map_or_else(
                || line.to_owned(),
                |(margin, rest)| {
                    if is_margin(margin) {
                        format!("{margin}{}", paint(style, format_args!("^{rest}")))
                    } else {
                        line.to_owned()
                    }
                },
            ),
        });
    }
    lines.join("\n")
}

/// Whether this is what stands before the carets: nothing but the margin and white space.
fn is_margin(text: &str) -> bool {
    text.contains('|') && text.chars().all(|c| c == '|' || c.is_whitespace())
}
