//! What writes of shared facts come to: each checked on what the earlier ones leave, all of them within the service's bounds.
//!
//! Nothing is written here, and nothing is read but the catalogue that is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use celesta_engine::{SharedVersion, Value};
use celesta_types::Timestamp;

use super::{SharedOutcome, SharedWrite, WriteSharedError};
use crate::registry::Version;
use crate::shared::catalogue::{Catalogue, Written};
use crate::shared::{SHARED_BYTES_MAX, SHARED_FACT_BYTES_MAX, SHARED_FACTS_MAX};

/// The largest number of a fact: above it JSON readers lose digits, with room for the run's own numbering.
const FACT_MAX: u64 = 1 << 50;
/// Changes that are named in the cause of a sweep.
const NAMED: usize = 3;

/// The type of a fact, and its fields before and after a change.
pub(in crate::shared) type Change = (Arc<str>, Option<Value>, Option<Value>);

/// What writes come to, on the catalogue they were checked against.
pub(in crate::shared) struct Prepared {
    pub(in crate::shared) versions: Vec<Written>,
    pub(in crate::shared) changes: Vec<Change>,
    pub(in crate::shared) outcomes: Vec<SharedOutcome>,
    pub(in crate::shared) revision: u64,
}

/// Checks the writes one after the other, each on what the earlier ones leave.
pub(super) fn prepare(
    catalogue: &Catalogue,
    version: &Version,
    writes: &[SharedWrite],
    now: Timestamp,
) -> Result<Prepared, WriteSharedError> {
    let mut prepared = Prepared {
        versions: Vec::new(),
        changes: Vec::new(),
        outcomes: Vec::new(),
        revision: catalogue.revision,
    };
    // The last version of each fact that these writes have changed.
    let mut changed: BTreeMap<u64, SharedVersion> = BTreeMap::new();
    let mut next = catalogue.next_fact();
    for (at, write) in writes.iter().enumerate() {
        let last = |fact: u64| {
            (changed.get(&fact).cloned()).or_else(|| catalogue.last(fact).map(|known| known.0.clone()))
        };
        let (before, after) = step(at, write, version, next, last)?;
        let fact = after.fact;
        next = next.max(fact + 1);
        let same = before
            .as_ref()
            .is_some_and(|before| before.fields == after.fields);
        if same {
            prepared.outcomes.push(SharedOutcome {
                fact,
                version: before.map_or(0, |before| before.version),
                changed: false,
            });
            continue;
        }
        prepared.revision += 1;
        let after = SharedVersion {
            revision: prepared.revision,
            ..after
        };
        prepared.outcomes.push(SharedOutcome {
            fact,
            version: after.version,
            changed: true,
        });
        let fields = before.and_then(|before| before.fields);
        prepared
            .changes
            .push((Arc::clone(&after.fact_type), fields, after.fields.clone()));
        prepared.versions.push((after.clone(), now));
        changed.insert(fact, after);
    }
    Ok(prepared)
}

/// One write: the version before and after it.
fn step(
    at: usize,
    write: &SharedWrite,
    version: &Version,
    next: u64,
    last: impl Fn(u64) -> Option<SharedVersion>,
) -> Result<(Option<SharedVersion>, SharedVersion), WriteSharedError> {
    let invalid = |reason: String| WriteSharedError::Invalid { at, reason };
    let conflict = |reason: String| WriteSharedError::Conflict { at, reason };
    let standing = |fact: u64, expected: Option<u32>| {
        let known = last(fact).filter(|known| known.fields.is_some());
        let known = known.ok_or_else(|| conflict(format!("there is no shared fact {fact}")))?;
        match expected {
            Some(expected) if expected != known.version => Err(conflict(format!(
                "shared fact {fact} has version {}, not {expected}",
                known.version
            ))),
            _ => Ok(known),
        }
    };
    let of_type = |name: &str| {
        let types = version.shared_types();
        types.get(name).copied().ok_or_else(|| {
            let known: Vec<&str> = types.keys().copied().collect();
            let known = if known.is_empty() {
                "its rules declare none".to_owned()
            } else {
                format!("there are {}", known.join(", "))
            };
            invalid(format!(
                "names no shared fact type of the service: `{name}`; {known}"
            ))
        })
    };
    let sized = |fields: &Value| {
        let bytes = fields.to_json().len();
        if bytes > SHARED_FACT_BYTES_MAX {
            return Err(invalid(format!(
                "makes a fact of {bytes} bytes, more than {SHARED_FACT_BYTES_MAX}; larger things are artifacts"
            )));
        }
        Ok(())
    };
    match write {
        SharedWrite {
            insert: Some(name),
            update: None,
            retract: None,
            version: None,
            fact,
            fields,
        } => {
            let empty = || Value::map(std::iter::empty::<(&str, Value)>());
            let fields = fields.clone().unwrap_or_else(empty);
            let fields = of_type(name)?.complete(&fields).map_err(|why| invalid(format!("is wrong: {why}")))?;
            sized(&fields)?;
            let fact = fact.unwrap_or(next);
            if !(1..=FACT_MAX).contains(&fact) {
                return Err(invalid(format!("gives the number {fact}; expected 1 to {FACT_MAX}")));
            }
            if last(fact).is_some() {
                return Err(conflict(format!("the number {fact} was used before")));
            }
            let after = SharedVersion {
                fact,
                fact_type: name.as_str().into(),
                version: 1,
                revision: 0,
                fields: Some(fields),
            };
            Ok((None, after))
        }
        SharedWrite {
            insert: None,
            fact: None,
            update: Some(fact),
            retract: None,
            fields: Some(set),
            version,
        } => {
            let before = standing(*fact, *version)?;
            let Value::Map(set) = set else {
                return Err(invalid("sets fields that are not a map".to_owned()));
            };
            let fact_type = of_type(&before.fact_type)?;
            let mut fields: BTreeMap<String, Value> = BTreeMap::new();
            if let Some(Value::Map(known)) = &before.fields {
                // Fields that the type no longer has are not carried on.
                let known = known.iter().filter(|(name, _)| fact_type.slot(name).is_some());
                fields.extend(known.map(|(name, value)| (name.to_string(), value.clone())));
            }
            fields.extend(set.iter().map(|(name, value)| (name.to_string(), value.clone())));
            let fields = Value::map(fields.iter().map(|(name, value)| (name.as_str(), value.clone())));
            let fields = fact_type.complete(&fields).map_err(|why| invalid(format!("is wrong: {why}")))?;
            sized(&fields)?;
            let after = SharedVersion {
                version: before.version + 1,
                fields: Some(fields),
                ..before.clone()
            };
            Ok((Some(before), after))
        }
        SharedWrite {
            insert: None,
            fact: None,
            update: None,
            retract: Some(fact),
            fields: None,
            version,
        } => {
            let before = standing(*fact, *version)?;
            let after = SharedVersion {
                version: before.version + 1,
                fields: None,
                ..before.clone()
            };
            Ok((Some(before), after))
        }
        _ => Err(invalid(
            "is neither `insert` (a type) with `fields`, nor `update` (a fact) with `fields`, nor `retract` (a fact); \
             `version` goes with the last two, `fact` with the first"
                .to_owned(),
        )),
    }
}

/// Whether the service stays within its bounds.
pub(super) fn bounded(
    service: &str,
    catalogue: &Catalogue,
    prepared: &Prepared,
) -> Result<(), WriteSharedError> {
    let mut standing: BTreeMap<u64, usize> = (catalogue.standing())
        .map(|(version, _)| (version.fact, weight(version)))
        .collect();
    let before = (standing.len(), standing.values().sum::<usize>());
    for (version, _) in &prepared.versions {
        if version.fields.is_some() {
            standing.insert(version.fact, weight(version));
        } else {
            standing.remove(&version.fact);
        }
    }
    let (facts, bytes) = (standing.len(), standing.values().sum::<usize>());
    let too_much = |what: String| {
        Err(WriteSharedError::TooMuch {
            service: service.to_owned(),
            what,
        })
    };
    if facts > SHARED_FACTS_MAX && facts > before.0 {
        return too_much(format!("{facts} shared facts, more than {SHARED_FACTS_MAX}"));
    }
    if bytes > SHARED_BYTES_MAX && bytes > before.1 {
        return too_much(format!(
            "{bytes} bytes of shared facts, more than {SHARED_BYTES_MAX}"
        ));
    }
    Ok(())
}

fn weight(version: &SharedVersion) -> usize {
    version.fields.as_ref().map_or(0, |fields| fields.to_json().len())
}

/// The rules of the current version that may match a changed fact, before or after.
pub(super) fn rules_of(version: &Version, changes: &[Change]) -> Vec<String> {
    let mut rules = BTreeSet::new();
    for (workflow, set) in &version.bundle.workflows {
        for (fact_type, before, after) in changes {
            for fields in before.iter().chain(after) {
                let wanting = set.rules_wanting(fact_type, fields);
                rules.extend(wanting.into_iter().map(|rule| format!("{workflow}: {rule}")));
            }
        }
    }
    rules.into_iter().collect()
}

/// The changes in a sentence.
pub(super) fn cause(versions: &[Written]) -> String {
    let named: Vec<String> = (versions.iter().take(NAMED))
        .map(|(version, _)| {
            let what = match (&version.fields, version.version) {
                (None, _) => "retracted",
                (Some(_), 1) => "inserted",
                (Some(_), _) => "updated",
            };
            format!("shared fact {} ({}) {what}", version.fact, version.fact_type)
        })
        .collect();
    let more = versions.len().saturating_sub(NAMED);
    let named = named.join(", ");
    if more > 0 {
        format!("{named} and {more} more changes")
    } else {
        named
    }
}
