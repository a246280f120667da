//! Reading typed values out of a TOML table while remembering every mistake and its place.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ManifestError, ManifestErrors};

/// Mistakes reported of one file: after so many the first ones want mending before the rest makes sense.
const ERRORS_MAX: usize = 50;

/// Collects the mistakes of one file.
#[derive(Debug)]
pub(super) struct Mistakes<'t> {
    path: &'t str,
    text: &'t str,
    found: RefCell<Vec<(usize, ManifestError)>>,
}

impl<'t> Mistakes<'t> {
    pub(super) const fn new(path: &'t str, text: &'t str) -> Self {
        Self {
            path,
            text,
            found: RefCell::new(Vec::new()),
        }
    }

    pub(super) fn report(&self, span: &Range<usize>, message: impl Into<String>, hint: Option<String>) {
        let mut found = self.found.borrow_mut();
        if found.len() < ERRORS_MAX {
            found.push((
                span.start,
                ManifestError::at(self.path, self.text, span, message.into(), hint),
            ));
        }
    }

    pub(super) fn finish(&self) -> Result<(), ManifestErrors> {
        let mut found = self.found.take();
        found.sort_by_key(|(at, _)| *at);
        if found.is_empty() {
            Ok(())
        } else {
            Err(ManifestErrors(
                found.into_iter().map(|(_, error)| error).collect(),
            ))
        }
    }
}

/// One table of the file: each key is asked for once, and what nobody asked for is a mistake.
pub(super) struct Fields<'a, 't> {
    table: &'a DeTable<'t>,
    span: Range<usize>,
    name: &'static str,
    known: BTreeSet<&'static str>,
    mistakes: &'a Mistakes<'t>,
}

/// A value and where it stands.
pub(super) type Place<'a, 't> = &'a Spanned<DeValue<'t>>;

impl<'a, 't> Fields<'a, 't> {
    pub(super) const fn new(
        table: &'a DeTable<'t>,
        span: Range<usize>,
        name: &'static str,
        mistakes: &'a Mistakes<'t>,
    ) -> Self {
        Self {
            table,
            span,
            name,
            known: BTreeSet::new(),
            mistakes,
        }
    }

    /// Where the table stands: for mistakes of omission.
    pub(super) const fn span(&self) -> &Range<usize> {
        &self.span
    }

    pub(super) fn get(&mut self, key: &'static str) -> Option<Place<'a, 't>> {
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
        let value = read(place.get_ref());
        if value.is_none() {
            let found = type_name(place.get_ref());
            self.mistakes.report(
                &place.span(),
                format!("`{key}` is {found}, expected {expected}"),
                None,
            );
        }
        Some((value?, place.span()))
    }

    pub(super) fn text(&mut self, key: &'static str, expected: &str) -> Option<(&'a str, Range<usize>)> {
        self.typed(key, expected, DeValue::as_str)
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", DeValue::as_bool)
            .map(|(value, _)| value)
    }

    /// An integer within `bounds`.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let expected = format!("an integer from {} to {}", bounds.start(), bounds.end());
        let (value, span) = self.typed(key, &expected, integer)?;
        let fitting = u32::try_from(value).ok().filter(|value| bounds.contains(value));
        if fitting.is_none() {
            self.mistakes
                .report(&span, format!("`{key}` is {value}, expected {expected}"), None);
        }
        fitting
    }

    /// A number within `bounds`.
    pub(super) fn number(&mut self, key: &'static str, bounds: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let expected = format!("a number from {} to {}", bounds.start(), bounds.end());
        let (value, span) = self.typed(key, &expected, float)?;
        if bounds.contains(&value) {
            return Some(value);
        }
        self.mistakes
            .report(&span, format!("`{key}` is {value}, expected {expected}"), None);
        None
    }

    /// A duration such as `10m`, in milliseconds, at least `least`.
    pub(super) fn duration(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let (text, span) = self.text(key, "a duration such as \"30s\" or \"10m\"")?;
        match celesta_types::duration_ms(text) {
            Ok(value) => match u64::try_from(value)
                .ok()
                .filter(|value| (least..=most).contains(value))
            {
                Some(value) => return Some(value),
                None => self.mistakes.report(
                    &span,
                    format!("`{key}` is {text}, expected {least}ms to {}d", most / 86_400_000),
                    None,
                ),
            },
            Err(error) => self.mistakes.report(&span, error.to_string(), None),
        }
        None
    }

    /// A size such as `512MiB`, in bytes, at least `least`.
    pub(super) fn bytes(&mut self, key: &'static str, least: u64) -> Option<(u64, Range<usize>)> {
        const HINT: &str =
            "write a number and a unit: B, KiB, MiB, GiB, TiB, kB, MB, GB or TB, for example \"512MiB\"";
        let (text, span) = self.text(key, "a size such as \"512MiB\"")?;
        match size(text) {
            Some(value) if value >= least => return Some((value, span)),
            Some(_) => self.mistakes.report(
                &span,
                format!("`{key}` is {text}, expected at least {least} bytes"),
                None,
            ),
            None => self
                .mistakes
                .report(&span, format!("`{text}` is not a size"), Some(HINT.to_owned())),
        }
        None
    }

    /// A table, or nothing.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        let (table, span) = self.typed(key, "a table", DeValue::as_table)?;
        Some(Fields::new(table, span, key, self.mistakes))
    }

    /// Every key with its value, for tables whose keys are the author's.
    pub(super) fn entries(
        &self,
    ) -> impl Iterator<Item = (&'a str, Range<usize>, Place<'a, 't>)> + use<'a, 't> {
        self.table
            .iter()
            .map(|(key, value)| (&**key.get_ref(), key.span(), value))
    }

    /// Reports the keys nobody asked for.
    pub(super) fn finish(self) {
        for (key, span, _) in self.entries() {
            if self.known.contains(key) {
                continue;
            }
            let place = if self.name.is_empty() {
                String::new()
            } else {
                format!(" in [{}]", self.name)
            };
            let hint = match nearest(key, &self.known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "known keys: {}",
                    self.known.iter().copied().collect::<Vec<_>>().join(", ")
                ),
            };
            self.mistakes
                .report(&span, format!("unknown key `{key}`{place}"), Some(hint));
        }
    }
}

/// A TOML type with its article.
pub(super) fn type_name(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {name}")
}

/// The known word an unknown one is a slip of.
pub(super) fn nearest<'k>(word: &str, known: &BTreeSet<&'k str>) -> Option<&'k str> {
    let near = known.iter().map(|other| (distance(word, other), *other)).min()?;
    (near.0 <= (word.chars().count() / 3).max(1)).then_some(near.1)
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

fn float(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(value) => value.as_str().parse().ok(),
        DeValue::Integer(value) => value.as_str().parse().ok(),
        _ => None,
    }
}

/// Reads `512MiB`.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The JSON form of an inline table; dates become texts.
pub(super) fn to_json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(_) => integer(value).map_or(Value::Null, Value::from),
        DeValue::Float(_) => float(value).map_or(Value::Null, Value::from),
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
