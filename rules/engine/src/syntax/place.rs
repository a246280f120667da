//! From bytes to lines and columns and back, and the collection of diagnostics.

use rhai::Position;

use super::Span;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};

/// The most diagnostics of one file: nobody reads more, and a hostile file must not make millions.
const DIAGNOSTICS_MAX: usize = 100;

/// A file's text with its lines.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    pub path: &'a str,
    pub text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(path: &'a str, text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { path, text, starts }
    }

    pub(crate) fn line_count(&self) -> usize {
        self.starts.len()
    }

    /// Line and column, both from 1.
    pub(crate) fn line_column(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts[line - 1];
        (
            line,
            self.text
                .get(start..offset)
                .map_or(0, |lead| lead.chars().count())
                + 1,
        )
    }

    fn line_text(&self, line: usize) -> &'a str {
        let start = self.starts[line - 1];
        let end = self.starts.get(line).copied().unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }

    /// The byte of a place in a script compiled by [`Places::pad`], when it lies in the file.
    pub(crate) fn offset(&self, position: Position) -> Option<usize> {
        let line = position.line()?.checked_sub(1)?;
        let start = *self.starts.get(line.checked_sub(1)?)?;
        let column = position.position().unwrap_or(1) - 1;
        let text = self.line_text(line);
        Some(start + text.char_indices().nth(column).map_or(text.len(), |(at, _)| at))
    }

    /// `opening`, then the part of the file at its own place, one line further down, then `closing`: every place that
    /// the script's parser reports is a place of the file.
    pub(crate) fn pad(&self, opening: &str, span: &Span, closing: &str) -> String {
        let (line, column) = self.line_column(span.start);
        let mut script =
            String::with_capacity(opening.len() + line + column + span.len() + closing.len() + 1);
        script.push_str(opening);
        script.extend(std::iter::repeat_n('\n', line));
        script.extend(std::iter::repeat_n(' ', column - 1));
        script.push_str(&self.text[span.clone()]);
        script.push('\n');
        script.push_str(closing);
        script
    }

    /// The name or number that starts at `offset`; one character when there is none.
    pub(crate) fn word_at(&self, offset: usize) -> Span {
        let rest = self.text.get(offset..).unwrap_or("");
        let length = rest
            .find(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
            .unwrap_or(rest.len());
        let length = if length == 0 {
            rest.chars().next().map_or(0, char::len_utf8)
        } else {
            length
        };
        offset..offset + length
    }
}

/// Diagnostics while they are found.
#[derive(Debug)]
pub(crate) struct Reporter<'a> {
    pub places: &'a Places<'a>,
    found: Vec<(usize, Diagnostic)>,
}

impl<'a> Reporter<'a> {
    pub(crate) const fn new(places: &'a Places<'a>) -> Self {
        Self {
            places,
            found: Vec::new(),
        }
    }

    pub(crate) fn error(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Note<'_> {
        self.add(Severity::Error, code, span, message.into(), label.into())
    }

    pub(crate) fn warning(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Note<'_> {
        self.add(Severity::Warning, code, span, message.into(), label.into())
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        span: &Span,
        message: String,
        label: String,
    ) -> Note<'_> {
        let start = span.start.min(self.places.text.len());
        let (line, column) = self.places.line_column(start);
        let line_text = self.places.line_text(line).to_owned();
        let on_line = line_text.chars().count() + 1 - column.min(line_text.chars().count() + 1);
        let length = self
            .places
            .text
            .get(start..span.end)
            .map_or(1, |part| part.chars().count())
            .clamp(1, on_line.max(1));
        let path = self.places.path.to_owned();
        let diagnostic = Diagnostic {
            severity,
            code,
            message,
            path,
            line,
            column,
            length,
            label,
            hint: None,
            line_text,
        };
        let repeats = |(at, seen): &(usize, Diagnostic)| *at == start && seen.code == code;
        if self.found.len() < DIAGNOSTICS_MAX && !self.found.iter().any(repeats) {
            self.found.push((start, diagnostic));
            return Note(self.found.last_mut().map(|(_, diagnostic)| diagnostic));
        }
        Note(None)
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.found
            .iter()
            .any(|(_, diagnostic)| diagnostic.severity == Severity::Error)
    }

    pub(crate) fn finish(mut self) -> Diagnostics {
        self.found.sort_by_key(|(at, _)| *at);
        Diagnostics(self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect())
    }
}

/// The diagnostic just reported, to add a hint to.
#[derive(Debug)]
pub(crate) struct Note<'a>(Option<&'a mut Diagnostic>);

impl Note<'_> {
    pub(crate) fn hint(self, hint: impl Into<String>) {
        if let Some(diagnostic) = self.0 {
            diagnostic.hint = Some(hint.into());
        }
    }

    pub(crate) fn similar<'n>(self, wrong: &str, names: impl IntoIterator<Item = &'n str>) {
        if let Some(name) = crate::diagnostic::similar(wrong, names) {
            self.hint(format!("did you mean `{name}`?"));
        }
    }
}
