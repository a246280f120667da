//! What must hold of bulk operations: each promised one is there once and has ended; it has looked at all runs that were there
//! when it was accepted; nothing was done to a run twice; and its counts are what has happened.

use std::collections::BTreeMap;

use celesta_runs::{Action, OperationState, RunFilter, RunState};
use celesta_store::driven::Record;
use celesta_types::RunId;

use super::Row;
use crate::clients::{Bulk, Known, Model};
use crate::history;

/// Which operations have reached which runs, and how often, as the journals tell.
pub(super) type Reached = BTreeMap<String, BTreeMap<RunId, usize>>;

/// One operation as it stands in the end.
struct Stored {
    id: Vec<u8>,
    state: OperationState,
    seen: i64,
    done: i64,
    created_at: i64,
}

/// Adds everything that is wrong with them.
pub(super) fn check(
    record: &Record,
    model: &Model,
    rows: &[Row],
    reached: &Reached,
    broken: &mut Vec<String>,
) {
    let sql = "SELECT actor, id, state, seen, done, created_at FROM operations ORDER BY id";
    let mut stored: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    for row in record.fetch(sql, &[]).unwrap_or_default() {
        let Some(state) = row.int(2).and_then(OperationState::from_code) else {
            broken.push("an operation cannot be read".to_owned());
            continue;
        };
        let actor = row.text(0).unwrap_or_default().to_owned();
        if !state.is_ended() {
            broken.push(format!("the operation of {actor} has not ended: it is {state:?}"));
        }
        stored.entry(actor).or_default().push(Stored {
            id: row.blob(1).unwrap_or_default().to_vec(),
            state,
            seen: row.int(3).unwrap_or(-1),
            done: row.int(4).unwrap_or(-1),
            created_at: row.int(5).unwrap_or(0),
        });
    }
    let accepted = accepted(record);
    for (number, bulk) in model.bulks.iter().enumerate() {
        let actor = Bulk::actor(number);
        let found = stored.get(&actor).map_or(&[][..], Vec::as_slice);
        let (least, most) = match bulk.known {
            Known::Promised => (1, 1),
            Known::Refused => (0, 0),
            Known::Doubtful => (0, 1),
        };
        if found.len() < least || found.len() > most {
            broken.push(format!(
                "operation {number}, {:?}, is there {} times",
                bulk.known,
                found.len()
            ));
            continue;
        }
        let nobody = BTreeMap::new();
        let reached = reached.get(&actor).unwrap_or(&nobody);
        let Some(one) = found.first() else {
            if !reached.is_empty() {
                broken.push(format!(
                    "operation {number} was never accepted and has reached {reached:?}"
                ));
            }
            continue;
        };
        if let Some((run, times)) = reached.iter().find(|(_, times)| **times > 1) {
            broken.push(format!(
                "operation {number} ({:?}) was done {times} times to {run}",
                bulk.action
            ));
        }
        if i64::try_from(reached.len()).unwrap_or(i64::MAX) > one.done {
            broken.push(format!(
                "operation {number} says that it was done to {} runs, and {} tell of it",
                one.done,
                reached.len()
            ));
        }
        // Which runs stood like that when it came to them nobody can say.
        if bulk.filter.state.is_none() && one.state == OperationState::Done {
            let matched = accepted.get(&one.id).map_or(&[][..], Vec::as_slice);
            looked_at_all(record, (number, bulk), one, matched, broken);
            if bulk.action == Action::Cancel {
                let left = rows.iter().filter(|row| matched.contains(&row.run));
                let left = left.filter(|row| !matches!(row.state, RunState::Canceled | RunState::Completed));
                broken.extend(left.map(|row| {
                    format!(
                        "operation {number} was to cancel {}, which is {}",
                        row.run, row.state
                    )
                }));
            }
        }
    }
}

/// The operation has looked at those that were there when it was accepted, and at none that came later.
fn looked_at_all(
    record: &Record,
    (number, bulk): (usize, &Bulk),
    one: &Stored,
    matched: &[RunId],
    broken: &mut Vec<String>,
) {
    let RunFilter {
        service, workflow, ..
    } = &bulk.filter;
    let sql = "SELECT count(*) FROM runs WHERE service = ? AND workflow = COALESCE(?, workflow) AND created_at <= ?";
    let cells = [
        service.as_deref().into(),
        workflow.as_deref().into(),
        one.created_at.into(),
    ];
    let most = record.fetch(sql, &cells).ok();
    let most = most.and_then(|rows| rows.first()?.int(0)).unwrap_or(0);
    let least = i64::try_from(matched.len()).unwrap_or(i64::MAX);
    if one.seen < least || one.seen > most {
        broken.push(format!(
            "operation {number} has looked at {} runs; {least} were there when it was accepted, and {most} were asked for before",
            one.seen
        ));
    }
}

/// The runs that were there when operations were accepted.
fn accepted(record: &Record) -> BTreeMap<Vec<u8>, Vec<RunId>> {
    let lines = history::read(record, &["accepted"]).unwrap_or_default();
    let lines = lines.into_iter().map(|line| {
        let runs = line
            .text
            .split(',')
            .filter_map(|hex| u128::from_str_radix(hex, 16).ok());
        (line.id, runs.map(RunId::from_bits).collect())
    });
    lines.collect()
}
