//! A file as the editor has it: its text, where its lines begin, and its index while the text stays the same.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::index::Index;
use crate::outline::Span;
use crate::server::rpc::uri_of;
use crate::surroundings::{Surroundings, text_of};

/// How an editor counts columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Columns {
    /// In bytes.
    Utf8,
    /// In 16-bit units, what every editor can.
    #[default]
    Utf16,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) uri: String,
    pub(crate) path: Option<PathBuf>,
    pub(crate) version: i64,
    pub(crate) columns: Columns,
    pub(crate) surroundings: Arc<Surroundings>,
    text: String,
    /// Where lines begin.
    lines: Vec<usize>,
    index: OnceCell<Index>,
}

impl Document {
    pub(crate) fn new(
        uri: String,
        path: Option<PathBuf>,
        version: i64,
        text: String,
        columns: Columns,
        surroundings: Arc<Surroundings>,
    ) -> Self {
        let lines = lines(&text);
        Self {
            uri,
            path,
            version,
            columns,
            surroundings,
            text,
            lines,
            index: OnceCell::new(),
        }
    }

    /// Another file of the bundle, read from its folder, with columns counted alike.
    pub(crate) fn beside(&self, path: &Path) -> Option<Self> {
        let text = text_of(path)?;
        Some(Self::new(
            uri_of(path),
            Some(path.to_owned()),
            0,
            text,
            self.columns,
            Arc::clone(&self.surroundings),
        ))
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What the names of the file refer to; found once for each text.
    pub(crate) fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::of(&self.text))
    }

    /// Replaces all of the text.
    pub(crate) fn replace(&mut self, text: String) {
        self.text = text;
        self.lines = lines(&self.text);
        self.index = OnceCell::new();
    }

    /// Replaces a part of the text. Nothing happens when the range is none.
    pub(crate) fn edit(&mut self, range: &Value, text: &str) {
        let (Some(start), Some(end)) = (self.offset(&range["start"]), self.offset(&range["end"])) else {
            return;
        };
        self.text.replace_range(start..end.max(start), text);
        self.lines = lines(&self.text);
        self.index = OnceCell::new();
    }

    /// The byte at a position; a position behind the end of its line is its end.
    pub(crate) fn offset(&self, position: &Value) -> Option<usize> {
        let line = usize::try_from(position["line"].as_u64()?).ok()?;
        let column = usize::try_from(position["character"].as_u64()?).ok()?;
        let Some(start) = self.lines.get(line).copied() else {
            return Some(self.text.len());
        };
        let rest = &self.text[start..];
        let length = rest.find('\n').unwrap_or(rest.len());
        let mut units = 0;
        for (at, letter) in rest[..length].char_indices() {
            if units >= column {
                return Some(start + at);
            }
            units += self.units(letter);
        }
        Some(start + length)
    }

    /// The position of a byte.
    pub(crate) fn position(&self, offset: usize) -> Value {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset).max(1) - 1;
        let lead = self.text.get(self.lines[line]..offset).unwrap_or("");
        let column: usize = lead.chars().map(|letter| self.units(letter)).sum();
        json!({ "line": line, "character": column })
    }

    pub(crate) fn range(&self, span: &Span) -> Value {
        json!({ "start": self.position(span.start), "end": self.position(span.end) })
    }

    /// The range of a diagnostic: lines and columns in characters, both from 1.
    pub(crate) fn range_of_characters(&self, line: usize, column: usize, length: usize) -> Value {
        let Some(start) = self.lines.get(line.saturating_sub(1)).copied() else {
            return self.range(&(0..0));
        };
        let rest = &self.text[start..];
        let byte = |characters: usize| {
            let found = rest.char_indices().nth(characters);
            start + found.map_or(rest.len(), |(at, _)| at)
        };
        let from = column.saturating_sub(1);
        self.range(&(byte(from)..byte(from + length)))
    }

    fn units(&self, letter: char) -> usize {
        match self.columns {
            Columns::Utf8 => letter.len_utf8(),
            Columns::Utf16 => letter.len_utf16(),
        }
    }
}

fn lines(text: &str) -> Vec<usize> {
    let feeds = text.match_indices('\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(feeds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str, columns: Columns) -> Document {
        let nowhere = Arc::new(Surroundings::default());
        Document::new("file:///a".into(), None, 1, text.into(), columns, nowhere)
    }

    #[test]
    fn columns_are_counted_as_the_editor_counts_them() {
        let text = "a\n\u{1f600}b\n";
        for (columns, column) in [(Columns::Utf8, 4), (Columns::Utf16, 2)] {
            let document = document(text, columns);
            let place = json!({ "line": 1, "character": column });
            assert_eq!(document.offset(&place), Some(6));
            assert_eq!(document.position(6), place);
        }
    }

    #[test]
    fn an_edit_behind_the_end_of_a_line_changes_its_end() {
        let mut document = document("a\nb", Columns::Utf16);
        let place = json!({ "line": 0, "character": 99 });
        document.edit(&json!({ "start": place, "end": place }), "x");
        assert_eq!(document.text(), "ax\nb");
    }
}
