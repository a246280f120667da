//! What must hold of runs of which only so many may be under way at once. The journal has all turns in the order in which
//! they became durable, so it shows every instant.

use std::collections::{BTreeMap, BTreeSet};

use celesta_runs::record::{Cause, Note, Record as Turn, Recorded};
use celesta_store::QueryError;
use celesta_store::driven::Record;
use celesta_types::RunId;
use serde_json::Value;

use crate::workloads::lanes::{Limit, SERVICE, limit_of};

/// Who cancels runs for the sake of others.
const GATE: &str = "celesta/concurrency";

/// Where a run is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Before,
    Under,
    Failed,
    Settled,
}

/// The runs of a workflow that name the same lane.
#[derive(Debug)]
struct Lane {
    limit: Limit,
    runs: BTreeMap<RunId, Way>,
    turned_away: BTreeSet<RunId>,
}

/// The lanes as the journal tells of them.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<(String, i64), Lane>,
    /// What must not be, at any instant.
    pub(super) broken: Vec<String>,
}

impl Lanes {
    /// Walks through the journal.
    pub(super) fn read(record: &Record) -> Self {
        let mut lanes = Self::default();
        if let Err(error) = lanes.walk(record) {
            lanes.broken.push(error.to_string());
        }
        lanes
    }

    /// Groups of which nobody is left for whose sake the others were turned away; there may be some while runs are under way
    /// that have taken no turn.
    pub(super) fn all_turned_away(&self) -> impl Iterator<Item = String> {
        self.lanes.values().filter_map(Lane::all_turned_away)
    }

    fn walk(&mut self, record: &Record) -> Result<(), QueryError> {
        let sql = "SELECT j.run, j.record, r.operation, r.input FROM journal AS j JOIN runs AS r ON r.id = j.run \
                   WHERE r.service = ? ORDER BY j.position";
        for row in record.fetch(sql, &[SERVICE.into()])? {
            let operation = row.text(2).unwrap_or_default();
            let (Some(run), Some(limit), Ok(turn)) = (
                row.blob(0).and_then(RunId::from_bytes),
                limit_of(SERVICE, operation),
                Turn::decode(row.blob(1).unwrap_or_default()),
            ) else {
                self.broken
                    .push(format!("a turn of `{operation}` cannot be read"));
                continue;
            };
            let input: Value = serde_json::from_slice(row.blob(3).unwrap_or_default()).unwrap_or_default();
            let number = input["lane"].as_i64().unwrap_or(-1);
            let lane = self.lanes.entry((operation.to_owned(), number));
            let lane = lane.or_insert_with(|| Lane::new(limit));
            self.broken.extend(lane.turn(run, &turn));
        }
        Ok(())
    }
}

impl Lane {
    const fn new(limit: Limit) -> Self {
        Self {
            limit,
            runs: BTreeMap::new(),
            turned_away: BTreeSet::new(),
        }
    }

    /// Takes in a turn; says what it must not be.
    fn turn(&mut self, run: RunId, turn: &Turn) -> Option<String> {
        let before = self.runs.get(&run).copied().unwrap_or(Way::Before);
        let mut way = before;
        let mut canceled = false;
        for cause in &turn.causes {
            match cause {
                Cause::Started if way == Way::Before => way = Way::Under,
                Cause::RetryRequested { .. } if way == Way::Failed => way = Way::Under,
                Cause::CancelRequested { by, .. } => {
                    canceled = true;
                    if by == GATE {
                        self.turned_away.insert(run);
                    }
                }
                _ => {}
            }
        }
        // A pause that comes with the leave to begin keeps the request for later; a run that waits is kept in nobody's name.
        if way == Way::Before && matches!(&turn.note, Some(Note::Paused { by, .. }) if !by.is_empty()) {
            way = Way::Under;
        }
        // A run that is canceled while it waits is told its request in the same turn.
        if canceled {
            way = Way::Settled;
        }
        self.runs.insert(run, way);
        let found = (way == Way::Under && before != Way::Under)
            .then(|| self.too_many(run))
            .flatten();
        self.runs.insert(run, after(way, turn));
        if self.limit.turns_away || self.turned_away.is_empty() {
            return found;
        }
        found.or_else(|| Some(format!("{run} was turned away ({})", self.limit.strategy)))
    }

    fn too_many(&self, begun: RunId) -> Option<String> {
        let counts = |way: Way| way == Way::Under || (way == Way::Failed && self.limit.failed_block);
        let under_way: Vec<String> = self
            .runs
            .iter()
            .filter(|(_, way)| counts(**way))
            .map(|(run, way)| format!("{run} {way:?}"))
            .collect();
        (under_way.len() > self.limit.at_once).then(|| {
            format!(
                "{begun} begins while too many of its group are under way ({}): {}",
                self.limit.strategy,
                under_way.join(", ")
            )
        })
    }

    fn all_turned_away(&self) -> Option<String> {
        (!self.runs.is_empty() && self.turned_away.len() == self.runs.len()).then(|| {
            format!(
                "all {} runs of a group were turned away ({})",
                self.runs.len(),
                self.limit.strategy
            )
        })
    }
}

/// Where a run is after a turn in which it was on its way like that.
fn after(way: Way, turn: &Turn) -> Way {
    if way != Way::Under {
        return way;
    }
    if matches!(turn.note, Some(Note::Quarantined { .. })) {
        return Way::Failed;
    }
    let mut ends = turn.effects.iter().rev().filter_map(|effect| match effect {
        Recorded::Complete { .. } => Some(Way::Settled),
        Recorded::Fail { .. } => Some(Way::Failed),
        _ => None,
    });
    ends.next().unwrap_or(way)
}
