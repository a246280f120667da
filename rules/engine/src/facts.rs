//! Facts as text: `[[type, {field: value}], …]`, read for a rule set and written from a memory.
//!
//! For benches, for comparing versions, for anybody's own programs. It is not how a run is stored.

use serde::Serialize;

use crate::{Event, RuleSet, Value, WorkingMemory};

/// A list of facts that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FactsError {
    /// The text is not of the form `[[type, {field: value}], …]`.
    #[error("the facts are not JSON of the form [[type, {{field: value}}], …]: {source}")]
    Malformed {
        /// What is wrong, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// The rules do not know a fact, or it lacks a field.
    #[error("fact {position} of the list: {why}")]
    Unfit {
        /// Its place in the list, from 1.
        position: usize,
        /// What is wrong with it.
        why: String,
    },
}

impl FactsError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> celesta_types::ErrorKind {
        celesta_types::ErrorKind::Invalid
    }
}

/// Reads facts, `[[type, {field: value}], …]` or as `celesta run facts --json` prints them; each becomes an insertion.
/// Fields that are not given have their defaults.
///
/// # Errors
/// The text is not such a list, or a fact does not fit its type; the first that does not is named.
pub fn read_facts(rules: &RuleSet, text: &[u8]) -> Result<Vec<Event>, FactsError> {
    (1..)
        .zip(listed(text)?)
        .map(|(position, (fact_type, value))| {
            let unfit = |why| FactsError::Unfit { position, why };
            let known = (rules.fact_type(&fact_type)).ok_or_else(|| unfit(unknown(rules, &fact_type)))?;
            known.slots(&value).map_err(unfit)?;
            Ok(Event::Insert {
                fact_type: fact_type.into(),
                value,
            })
        })
        .collect()
}

/// Types and fields as they are listed; what the rules say to them is not asked.
pub(crate) fn listed(text: &[u8]) -> Result<Vec<(String, Value)>, FactsError> {
    let listed: Vec<Value> =
        serde_json::from_slice(text).map_err(|source| FactsError::Malformed { source })?;
    (1..)
        .zip(listed)
        .map(|(position, fact)| {
            let pair = match &fact {
                Value::List(parts) => match parts.as_slice() {
                    [Value::Str(fact_type), value] => Some((fact_type.to_string(), value.clone())),
                    _ => None,
                },
                // As `celesta run facts --json` prints them.
                Value::Map(_) => match (fact.get("type"), fact.get("value")) {
                    (Some(Value::Str(fact_type)), Some(value)) => {
                        Some((fact_type.to_string(), value.clone()))
                    }
                    _ => None,
                },
                _ => None,
            };
            let why = "it is neither [type, {field: value}] nor a fact as `run facts` prints it".to_owned();
            pair.ok_or(FactsError::Unfit { position, why })
        })
        .collect()
}

fn unknown(rules: &RuleSet, fact_type: &str) -> String {
    let names = rules.fact_types().map(|known| &*known.name);
    let similar = crate::diagnostic::similar(fact_type, names)
        .map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    format!("no fact type `{fact_type}`{similar}")
}

/// The facts of a memory, oldest first, as [`read_facts`] reads them: a fact to a line.
#[must_use]
pub fn write_facts(memory: &WorkingMemory) -> String {
    let mut text = String::from("[");
    for (at, fact) in memory.facts().enumerate() {
        text.push_str(if at == 0 { "\n" } else { ",\n" });
        text.push_str(&line(fact.fact_type, &fact.slots));
    }
    text.push_str("\n]\n");
    text
}

fn line(fact_type: &str, slots: &[(&str, &Value)]) -> String {
    struct Slots<'a>(&'a [(&'a str, &'a Value)]);
    impl Serialize for Slots<'_> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().copied())
        }
    }
    serde_json::to_string(&(fact_type, Slots(slots))).expect("values are JSON")
}
