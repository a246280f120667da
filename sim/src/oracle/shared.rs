//! What must hold of shared facts: the last promised write stands, and each run that listens has heard it, once.

use std::collections::BTreeMap;

use celesta_store::driven::Record;
use serde_json::Value;

use crate::clients::{Known, Model, Share, fact_of};
use crate::workloads::{Ended, MAIN, NAMES};

/// The shared facts as they stand in the end: the value of each name.
#[derive(Debug, Default)]
pub(super) struct Standing(BTreeMap<&'static str, i64>);

impl Standing {
    /// Reads them; adds to `broken` where they are not what was promised.
    pub(super) fn read(record: &Record, model: &Model, broken: &mut Vec<String>) -> Self {
        let sql = "SELECT fact, fields FROM shared_facts WHERE service = ? ORDER BY revision";
        let rows = record.fetch(sql, &[MAIN.into()]).unwrap_or_default();
        let mut standing = Self::default();
        for row in &rows {
            let fact = row.int(0).and_then(|fact| u64::try_from(fact).ok()).unwrap_or(0);
            let name = NAMES.iter().zip(0..).find(|(_, name)| fact_of(*name) == fact);
            let fields: Value = serde_json::from_str(row.text(1).unwrap_or_default()).unwrap_or_default();
            match (name, fields["value"].as_i64()) {
                (Some((name, _)), Some(value)) => {
                    standing.0.insert(name, value);
                }
                _ => broken.push(format!("nobody has written shared fact {fact}: {fields}")),
            }
        }
        for (at, name) in NAMES.iter().enumerate() {
            let promised = last_promised(model, at);
            let found = standing.0.get(name).copied();
            if promised != found {
                broken.push(format!(
                    "the last promised write of `{name}` is {promised:?}, and {found:?} stands"
                ));
            }
        }
        standing
    }

    /// The run has heard each version that it met once, in their order, and the last of them.
    pub(super) fn is_heard(&self, model: &Model, run: &Ended) -> Result<(), String> {
        let name = run.input["name"].as_str().unwrap_or_default();
        let heard: Vec<i64> = run
            .of("Heard")
            .map(|fact| fact["value"].as_i64().unwrap_or(-1))
            .collect();
        let last = self.0.get(name).copied();
        if heard.last().copied() != last {
            return Err(format!("it has heard {heard:?} of `{name}`, and {last:?} stands"));
        }
        let mut before = 0;
        for value in &heard {
            let share = usize::try_from(*value)
                .ok()
                .and_then(|number| model.shares.get(number));
            let revision = share
                .filter(|share| NAMES[share.name] == name)
                .and_then(|share| share.revision);
            match revision {
                Some(revision) if revision > before => before = revision,
                _ => {
                    return Err(format!(
                        "it has heard {heard:?} of `{name}`: {value} is change {revision:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn last_promised(model: &Model, name: usize) -> Option<i64> {
    let shares = model.shares.iter().enumerate();
    let promised = shares.filter(|(_, share)| share.name == name && share.known == Known::Promised);
    let last = promised.max_by_key(|(_, share)| share.revision);
    last.map(|(number, _)| Share::value(number))
}
