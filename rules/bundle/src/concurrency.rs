//! How many runs of a workflow may be under way at once, and what becomes of a request meanwhile.
//!
//! Only the words are here: how they are written in `service.toml`, and which group of runs a request belongs to. The
//! runtime keeps the groups.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde_json::Value;
use toml::de::DeValue;

use crate::toml_text::{Fields, Text, did_you_mean, type_name};

/// Limits of one workflow: each is entered in turn before a run begins.
const LIMITS_MAX: usize = 4;
/// Runs at once: what is larger is no limit.
const PARALLEL_MAX: u32 = 1_000_000;
const WORDS: [&str; 6] = [
    "parallel(4)",
    "sequential",
    "strict-sequential",
    "first-only",
    "last-only",
    "latest-only",
];

/// What becomes of a new run while others of its group are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// So many at once; the others wait in the order they came.
    Parallel(u32),
    /// One at a time, in the order they came.
    Sequential,
    /// One at a time, and none after one that failed until that one has completed or was canceled.
    StrictSequential,
    /// While one is under way, new ones are canceled.
    FirstOnly,
    /// A new one cancels the one under way and those that wait.
    LastOnly,
    /// The one under way goes on; of those that wait, only the newest stays.
    LatestOnly,
}

impl Strategy {
    /// How many may be under way at once.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::Parallel(limit) => limit as usize,
            _ => 1,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parallel(limit) => write!(f, "parallel({limit})"),
            Self::Sequential => f.write_str("sequential"),
            Self::StrictSequential => f.write_str("strict-sequential"),
            Self::FirstOnly => f.write_str("first-only"),
            Self::LastOnly => f.write_str("last-only"),
            Self::LatestOnly => f.write_str("latest-only"),
        }
    }
}

/// A text that is no strategy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a strategy; expected one of {}", WORDS.join(", "))]
pub struct ParseStrategyError {
    /// The text that was given, cut to 64 characters.
    pub text: String,
}

impl FromStr for Strategy {
    type Err = ParseStrategyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parallel = || {
            let limit = text.strip_prefix("parallel(")?.strip_suffix(')')?;
            let limit = limit.trim().parse().ok()?;
            (1..=PARALLEL_MAX)
                .contains(&limit)
                .then_some(Self::Parallel(limit))
        };
        Ok(match text {
            "sequential" => Self::Sequential,
            "strict-sequential" => Self::StrictSequential,
            "first-only" => Self::FirstOnly,
            "last-only" => Self::LastOnly,
            "latest-only" => Self::LatestOnly,
            _ => parallel().ok_or_else(|| ParseStrategyError {
                text: text.chars().take(64).collect(),
            })?,
        })
    }
}

/// One limit of a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// What becomes of new runs.
    pub strategy: Strategy,
    /// The value of the request's body by which runs are told into groups, as a JSON pointer; one group of all without.
    pub key: Option<Pointer>,
}

impl Limit {
    /// The group of a request with this body: the text of the value, and nothing when it has none.
    #[must_use]
    pub fn group(&self, body: &Value) -> String {
        let key = self.key.as_ref().and_then(|key| key.text(body));
        key.unwrap_or_default()
    }
}

/// A JSON pointer: `/customer/id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(String);

impl Pointer {
    /// The pointer written so: empty, or beginning with a slash.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (text.is_empty() || text.starts_with('/')).then(|| Self(text.to_owned()))
    }

    /// The value there.
    #[must_use]
    pub fn value<'v>(&self, body: &'v Value) -> Option<&'v Value> {
        body.pointer(&self.0)
    }

    /// The value there as a text: a string as it is, anything else as JSON; none for null.
    #[must_use]
    pub fn text(&self, body: &Value) -> Option<String> {
        match self.value(body)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a pointer; what is none is reported.
pub(crate) fn pointer(text: &Text<'_>, written: &str, span: &Range<usize>) -> Option<Pointer> {
    let pointer = Pointer::new(written);
    if pointer.is_none() {
        text.report_with(
            span,
            format!("`{written}` is not a JSON pointer"),
            format!("a pointer begins with a slash: `/{written}`"),
        );
    }
    pointer
}

/// Reads the key `concurrency` of a workflow: a strategy, a table, or a list of tables.
pub(crate) fn read(fields: &mut Fields<'_, '_>, text: &Text<'_>) -> Vec<Limit> {
    let Some(place) = fields.get("concurrency") else {
        return Vec::new();
    };
    let tables = match place.get_ref() {
        DeValue::String(word) => {
            let strategy = strategy(text, word, &place.span());
            return strategy
                .into_iter()
                .map(|strategy| Limit { strategy, key: None })
                .collect();
        }
        DeValue::Table(_) => fields.table("concurrency").into_iter().collect(),
        DeValue::Array(_) => fields.tables("concurrency"),
        other => {
            let message = format!("`concurrency` is {}, expected a strategy", type_name(other));
            text.report_with(&place.span(), message, format!("one of {}", WORDS.join(", ")));
            return Vec::new();
        }
    };
    if tables.len() > LIMITS_MAX {
        text.report(&place.span(), format!("more than {LIMITS_MAX} limits"));
    }
    tables
        .into_iter()
        .take(LIMITS_MAX)
        .filter_map(|fields| limit(fields, text))
        .collect()
}

fn limit(mut fields: Fields<'_, '_>, text: &Text<'_>) -> Option<Limit> {
    let runs = fields.needed_text("runs", "runs = \"sequential\"");
    let key = fields.text("key");
    fields.finish();
    let key = match key {
        None => None,
        Some((written, span)) => Some(pointer(text, written, &span)?),
    };
    let (word, span) = runs?;
    Some(Limit {
        strategy: strategy(text, word, &span)?,
        key,
    })
}

fn strategy(text: &Text<'_>, word: &str, span: &Range<usize>) -> Option<Strategy> {
    match word.parse() {
        Ok(strategy) => Some(strategy),
        Err(_) => {
            let hint = did_you_mean(word, WORDS).unwrap_or_else(|| format!("one of {}", WORDS.join(", ")));
            text.report_with(span, format!("`{word}` is not a strategy"), hint);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strategies_read_back_and_nothing_else_is_one() {
        for word in WORDS {
            let strategy: Strategy = word.parse().expect("a strategy");
            assert_eq!(strategy.to_string(), word);
        }
        for wrong in [
            "parallel",
            "parallel(0)",
            "parallel(-1)",
            "parallel(9999999)",
            "Sequential",
            "",
        ] {
            assert!(wrong.parse::<Strategy>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_group_is_the_text_of_the_value_its_pointer_finds() {
        let by = |pointer: &str| Limit {
            strategy: Strategy::Sequential,
            key: Pointer::new(pointer),
        };
        let body = json!({ "customer": { "id": "a/b" }, "n": 7, "none": null });
        assert_eq!(by("/customer/id").group(&body), "a/b");
        assert_eq!(by("/n").group(&body), "7");
        assert_eq!(by("/none").group(&body), "");
        assert_eq!(by("/missing").group(&body), "");
        assert!(Pointer::new("customer").is_none());
    }
}
