//! Reading typed values out of TOML while remembering every mistake and its place.
//!
//! A mistake never ends the reading: the value is left out and the next one read. Keys nobody asks for are mistakes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::Diagnostic;

/// Bytes of one TOML file of a bundle: text written by people.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// One file being read and the mistakes found so far.
pub(crate) struct Text<'t> {
    pub(crate) path: &'t str,
    pub(crate) text: &'t str,
    code: &'static str,
    found: RefCell<Vec<(usize, Diagnostic)>>,
}

impl<'t> Text<'t> {
    pub(crate) const fn new(code: &'static str, path: &'t str, text: &'t str) -> Self {
        Self {
            path,
            text,
            code,
            found: RefCell::new(Vec::new()),
        }
    }

    /// The tables of the file; none after a mistake of syntax, which is reported.
    pub(crate) fn parse(&self) -> Option<DeTable<'t>> {
        if self.text.len() > TEXT_BYTES_MAX {
            self.report(&(0..0), format!("the file has more than {TEXT_BYTES_MAX} bytes"));
            return None;
        }
        let (document, wrong) = DeTable::parse_recoverable(self.text);
        for error in &wrong {
            self.report(&error.span().unwrap_or(0..0), error.message());
        }
        wrong.is_empty().then(|| document.into_inner())
    }

    pub(crate) fn report(&self, span: &Range<usize>, message: impl Into<String>) {
        self.push(self.diagnostic(span, message), span);
    }

    pub(crate) fn report_with(
        &self,
        span: &Range<usize>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(self.diagnostic(span, message).hint(hint), span);
    }

    pub(crate) fn warn(
        &self,
        span: &Range<usize>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(self.diagnostic(span, message).hint(hint).warning(), span);
    }

    fn diagnostic(&self, span: &Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(self.code, self.path, self.text, span, message.into())
    }

    fn push(&self, diagnostic: Diagnostic, span: &Range<usize>) {
        self.found.borrow_mut().push((span.start, diagnostic));
    }

    /// What was found, in the order of its places.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }
}

/// One table: each key is asked for once.
pub(crate) struct Fields<'a, 't> {
    table: &'a DeTable<'t>,
    pub(crate) span: Range<usize>,
    name: String,
    known: BTreeSet<&'static str>,
    text: &'a Text<'t>,
}

/// A value and where it stands.
pub(crate) type Place<'a, 't> = &'a Spanned<DeValue<'t>>;

impl<'a, 't> Fields<'a, 't> {
    pub(crate) const fn new(
        table: &'a DeTable<'t>,
        span: Range<usize>,
        name: String,
        text: &'a Text<'t>,
    ) -> Self {
        Self {
            table,
            span,
            name,
            known: BTreeSet::new(),
            text,
        }
    }

    pub(crate) fn get(&mut self, key: &'static str) -> Option<Place<'a, 't>> {
        self.known.insert(key);
        self.table.get(key)
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&'a DeValue<'t>) -> Option<T>,
    ) -> Option<(T, Range<usize>)> {
        let place = self.get(key)?;
        match read(place.get_ref()) {
            Some(value) => Some((value, place.span())),
            None => {
                let found = type_name(place.get_ref());
                self.text
                    .report(&place.span(), format!("`{key}` is {found}, expected {expected}"));
                None
            }
        }
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<(&'a str, Range<usize>)> {
        self.typed(key, "a text", DeValue::as_str)
    }

    /// A text that must be there.
    pub(crate) fn needed_text(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<(&'a str, Range<usize>)> {
        if self.table.get(key).is_none() {
            self.missing(key, example);
        }
        self.text(key)
    }

    /// Reports that `key` is missing.
    pub(crate) fn missing(&mut self, key: &'static str, example: &str) {
        self.known.insert(key);
        let place = self.place();
        self.text.report_with(
            &self.span,
            format!("the key `{key}` is missing{place}"),
            format!("for example `{example}`"),
        );
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", DeValue::as_bool)
            .map(|(value, _)| value)
    }

    pub(crate) fn count(&mut self, key: &'static str) -> Option<u64> {
        self.typed(key, "a whole number from 0", |value| {
            u64::try_from(integer(value)?).ok()
        })
        .map(|(value, _)| value)
    }

    /// A duration such as `10m`, in milliseconds.
    pub(crate) fn duration(&mut self, key: &'static str) -> Option<i64> {
        let (text, span) = self.typed(key, "a duration such as \"30s\" or \"10m\"", DeValue::as_str)?;
        celesta_types::duration_ms(text)
            .map_err(|error| self.text.report(&span, error.to_string()))
            .ok()
    }

    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<(&'a str, Range<usize>)>> {
        let read = |value: &'a DeValue<'t>| {
            let list = value.as_array()?;
            list.iter()
                .map(|one| Some((one.get_ref().as_str()?, one.span())))
                .collect()
        };
        self.typed(key, "a list of texts", read).map(|(list, _)| list)
    }

    pub(crate) fn table(&mut self, key: &'static str) -> Option<Self> {
        let (table, span) = self.typed(key, "a table", DeValue::as_table)?;
        Some(Fields::new(table, span, key.to_owned(), self.text))
    }

    /// A list of tables, written `[[key]]`; empty when it is missing.
    pub(crate) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let read = |value: &'a DeValue<'t>| {
            let list = value.as_array()?;
            list.iter()
                .map(|one| Some((one.get_ref().as_table()?, one.span())))
                .collect::<Option<Vec<_>>>()
        };
        let Some((list, _)) = self.typed(key, "a list of tables", read) else {
            return Vec::new();
        };
        list.into_iter()
            .map(|(table, span)| Fields::new(table, span, key.to_owned(), self.text))
            .collect()
    }

    /// Any value as JSON.
    pub(crate) fn json(&mut self, key: &'static str) -> Option<(Value, Range<usize>)> {
        let place = self.get(key)?;
        Some((to_json(place.get_ref()), place.span()))
    }

    /// Every key with its value, for tables whose keys are the author's.
    pub(crate) fn entries(
        &self,
    ) -> impl Iterator<Item = (&'a str, Range<usize>, Place<'a, 't>)> + use<'a, 't> {
        self.table
            .iter()
            .map(|(key, value)| (&**key.get_ref(), key.span(), value))
    }

    fn place(&self) -> String {
        if self.name.is_empty() {
            String::new()
        } else {
            format!(" in [{}]", self.name)
        }
    }

    /// Reports the keys nobody asked for.
    pub(crate) fn finish(self) {
        for (key, span, _) in self.entries() {
            if self.known.contains(key) {
                continue;
            }
            let known = || self.known.iter().copied().collect::<Vec<_>>().join(", ");
            let hint = did_you_mean(key, self.known.iter().copied())
                .unwrap_or_else(|| format!("known keys: {}", known()));
            self.text
                .report_with(&span, format!("unknown key `{key}`{}", self.place()), hint);
        }
    }
}

/// A TOML type with its article.
pub(crate) fn type_name(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {name}")
}

/// A hint naming the known word of which `word` is a slip.
pub(crate) fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    let (distance, near) = known
        .into_iter()
        .map(|other| (distance(word, other), other))
        .min()?;
    (distance <= (word.chars().count() / 3).max(1)).then(|| format!("did you mean `{near}`?"))
}

/// Edit distance (Levenshtein) of two short words.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, right) in other.iter().enumerate() {
            let changed = diagonal + usize::from(left != *right);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[other.len()]
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let value = value.as_integer()?;
    i64::from_str_radix(value.as_str(), value.radix()).ok()
}

/// The JSON form of a TOML value; dates become texts.
pub(crate) fn to_json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(_) => integer(value).map_or(Value::Null, Value::from),
        DeValue::Float(float) => float
            .as_str()
            .replace('_', "")
            .parse::<f64>()
            .map_or(Value::Null, Value::from),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(instant) => Value::String(instant.to_string()),
        DeValue::Array(values) => Value::Array(values.iter().map(|value| to_json(value.get_ref())).collect()),
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), to_json(value.get_ref())))
                .collect(),
        ),
    }
}
