//! Values: what the slots of facts, inputs, results and events are made of.
//!
//! A value is sixteen bytes; strings, lists and maps are shared, so that copying one is a count and not an
//! allocation. Values go straight from and to JSON text, without a tree in between (`json`). This module knows nothing of
//! facts or rules.

mod json;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use rhai::{Dynamic, ImmutableString};

/// How deep lists and maps may nest: a JSON text of brackets must not overflow the stack.
pub const VALUE_DEPTH_MAX: usize = 64;

/// Longer strings count where long values are counted.
const LONG: usize = 64;

/// A shared, immutable string; the scripts see the same memory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(ImmutableString);

impl Text {
    /// The text as a string slice.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Adds to the text, where it is when nobody else holds it.
    pub(crate) fn push_str(&mut self, more: &str) {
        self.0 += more;
    }

    pub(crate) fn shared(&self) -> ImmutableString {
        self.0.clone()
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.0.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.0.as_str()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<ImmutableString> for Text {
    fn from(text: ImmutableString) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A map with its keys in order: the same content always has the same form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Vec<(Text, Value)>);

impl Map {
    /// The value stored under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0
            .binary_search_by(|(name, _)| name.as_str().cmp(key))
            .ok()
            .map(|at| &self.0[at].1)
    }

    /// The entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Value)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Text, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (Text, Value)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        // Stable, and the last of equal keys wins, as JSON readers do.
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.reverse();
        entries.dedup_by(|a, b| a.0 == b.0);
        entries.reverse();
        Self(entries)
    }
}

/// One value.
#[derive(Clone, Default, PartialEq)]
pub enum Value {
    /// Nothing: an optional field that is not set.
    #[default]
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number, or an instant in milliseconds.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A string.
    Str(Text),
    /// A list.
    List(Arc<Vec<Self>>),
    /// A map; an artifact is the map `{"$artifact":…,"size":…,"media_type":…}`.
    Map(Arc<Map>),
}

impl Value {
    /// A map of these entries.
    pub fn map<K: Into<Text>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Map(Arc::new(
            entries
                .into_iter()
                .map(|(key, value)| (key.into(), value))
                .collect(),
        ))
    }

    /// A list of these values.
    pub fn list(values: impl IntoIterator<Item = Self>) -> Self {
        Self::List(Arc::new(values.into_iter().collect()))
    }

    /// The entry `key` of a map; `None` for anything else.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// The string, when it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, when it is one.
    #[must_use]
    pub const fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The truth value, when it is one.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Whether it is null.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it is an artifact reference.
    #[must_use]
    pub fn is_artifact(&self) -> bool {
        self.get("$artifact")
            .is_some_and(|digest| matches!(digest, Self::Str(_)))
    }

    /// Whether an artifact reference stands anywhere in it.
    #[must_use]
    pub fn contains_artifact(&self) -> bool {
        match self {
            Self::List(values) => values.iter().any(Self::contains_artifact),
            Self::Map(map) => self.is_artifact() || map.iter().any(|(_, value)| value.contains_artifact()),
            _ => false,
        }
    }

    /// The value as compact JSON text; a number that is not finite becomes `null`.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The value written as JSON text.
    ///
    /// # Errors
    /// The text is not JSON, or nests deeper than [`VALUE_DEPTH_MAX`].
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// The bytes it takes, roughly: for limits, not for accounts.
    #[must_use]
    pub fn weight(&self) -> usize {
        16 + match self {
            Self::Str(text) => 16 + text.len(),
            Self::List(values) => values.iter().map(Self::weight).sum(),
            Self::Map(map) => map
                .iter()
                .map(|(key, value)| 16 + key.len() + value.weight())
                .sum(),
            _ => 0,
        }
    }

    /// The bytes it takes when it is long; nothing for the short values that most are.
    pub(crate) fn long(&self) -> usize {
        match self {
            Self::Str(text) if text.len() <= LONG => 0,
            Self::Str(_) | Self::List(_) | Self::Map(_) => self.weight(),
            _ => 0,
        }
    }

    /// What the language calls this kind of value.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "string",
            Self::List(_) => "list",
            Self::Map(_) if self.is_artifact() => "artifact",
            Self::Map(_) => "map",
        }
    }

    /// Equality as scripts know it: 1 equals 1.0, other kinds never equal each other.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Float(b)) | (Self::Float(b), Self::Int(a)) => {
                to_float(*a).partial_cmp(b).is_some_and(Ordering::is_eq)
            }
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.same(b))
            }
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .zip(b.iter())
                        .all(|((ka, a), (kb, b))| ka == kb && a.same(b))
            }
            (a, b) => a == b,
        }
    }

    /// The order as scripts know it; none between different kinds.
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Float(b)) => to_float(*a).partial_cmp(b),
            (Self::Float(a), Self::Int(b)) => a.partial_cmp(&to_float(*b)),
            (Self::Str(a), Self::Str(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// A total order, for sorting: null, truth values, numbers, strings, then the rest by its JSON text.
    pub(crate) fn total_order(&self, other: &Self) -> Ordering {
        const fn rank(value: &Value) -> u8 {
            match value {
                Value::Null => 0,
                Value::Bool(_) => 1,
                Value::Int(_) | Value::Float(_) => 2,
                Value::Str(_) => 3,
                Value::List(_) => 4,
                Value::Map(_) => 5,
            }
        }
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.total_cmp(b),
            (Self::Int(a), Self::Float(b)) => to_float(*a).total_cmp(b),
            (Self::Float(a), Self::Int(b)) => a.total_cmp(&to_float(*b)),
            (Self::List(_), Self::List(_)) | (Self::Map(_), Self::Map(_)) => {
                self.to_json().cmp(&other.to_json())
            }
            _ => self.order(other).unwrap_or_else(|| rank(self).cmp(&rank(other))),
        }
    }

    /// A hash that agrees with [`Value::same`].
    pub(crate) fn hash_into(&self, state: &mut impl Hasher) {
        match self {
            Self::Null => 0_u8.hash(state),
            Self::Bool(value) => value.hash(state),
            Self::Int(number) => to_float(*number).to_bits().hash(state),
            // Adding zero makes one zero of the two.
            Self::Float(number) => (number + 0.0).to_bits().hash(state),
            Self::Str(text) => text.as_str().hash(state),
            Self::List(values) => values.iter().for_each(|value| value.hash_into(state)),
            Self::Map(map) => map.iter().for_each(|(key, value)| {
                key.as_str().hash(state);
                value.hash_into(state);
            }),
        }
    }

    pub(crate) fn to_dynamic(&self) -> Dynamic {
        match self {
            Self::Null => Dynamic::UNIT,
            Self::Bool(value) => (*value).into(),
            Self::Int(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Str(text) => text.shared().into(),
            Self::List(values) => values
                .iter()
                .map(Self::to_dynamic)
                .collect::<rhai::Array>()
                .into(),
            Self::Map(map) => map
                .iter()
                .map(|(key, value)| (key.as_str().into(), value.to_dynamic()))
                .collect::<rhai::Map>()
                .into(),
        }
    }

    /// The value of a script, or why it cannot be kept.
    pub(crate) fn from_dynamic(value: &Dynamic) -> Result<Self, String> {
        Self::from_dynamic_at(value, 0)
    }

    fn from_dynamic_at(value: &Dynamic, depth: usize) -> Result<Self, String> {
        if depth > VALUE_DEPTH_MAX {
            return Err(format!("a value nests deeper than {VALUE_DEPTH_MAX} levels"));
        }
        if value.is_unit() {
            return Ok(Self::Null);
        }
        if let Ok(number) = value.as_int() {
            return Ok(Self::Int(number));
        }
        if let Ok(text) = value.as_immutable_string_ref() {
            return Ok(Self::Str(Text(text.clone())));
        }
        if let Ok(truth) = value.as_bool() {
            return Ok(Self::Bool(truth));
        }
        if let Ok(number) = value.as_float() {
            return Ok(Self::Float(number));
        }
        if let Ok(letter) = value.as_char() {
            return Ok(Self::Str(letter.to_string().into()));
        }
        if let Ok(array) = value.as_array_ref() {
            let values: Result<Vec<_>, _> = array
                .iter()
                .map(|value| Self::from_dynamic_at(value, depth + 1))
                .collect();
            return values.map(|values| Self::List(Arc::new(values)));
        }
        if let Ok(map) = value.as_map_ref() {
            let entries: Result<Vec<_>, String> = map
                .iter()
                .map(|(key, value)| Ok((Text::from(key.as_str()), Self::from_dynamic_at(value, depth + 1)?)))
                .collect();
            return entries.map(|entries| Self::Map(Arc::new(Map(entries))));
        }
        Err(match value.type_name() {
            name if name.ends_with("Handle") => {
                "a fact cannot be stored in a value; store one of its fields".into()
            }
            other => format!("a value of kind `{other}` cannot be stored"),
        })
    }
}

/// The hash of a value by itself; it agrees with [`Value::same`].
pub(crate) fn hash_of(value: &Value) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    value.hash_into(&mut hasher);
    hasher.finish()
}

/// A whole number as a number with a fraction, rounded to the nearest beyond 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "scripts compare whole numbers and fractions in this way"
)]
pub(crate) const fn to_float(number: i64) -> f64 {
    number as f64
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident),*) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}
from!(bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float, &str => Str, String => Str, Text => Str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_sixteen_bytes() {
        assert_eq!(size_of::<Value>(), 16);
    }
}
