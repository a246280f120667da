//! What must hold of runs of which only so many may be under way at once. The journal has all turns in the order in which
//! they became durable, and the history of the gates' places stands between them, so together they show every instant.

use std::collections::{BTreeMap, BTreeSet};

use celesta_runs::record::{Cause, Note, Record as Turn, Recorded};
use celesta_store::QueryError;
use celesta_store::driven::Record;
use celesta_types::RunId;
use serde_json::Value;

use super::gates::Gate;
use crate::clients::Model;
use crate::history;
use crate::workloads::lanes::{Limit, SERVICE, limit_of};

/// Who cancels runs for the sake of others.
const GATE: &str = "celesta/concurrency";

/// Where a run is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Before,
    Under,
    Failed,
    Settled,
}

/// The runs of a workflow that name the same lane.
#[derive(Debug)]
struct Lane {
    limit: Limit,
    gate: Gate,
    runs: BTreeMap<RunId, Way>,
    turned_away: BTreeSet<RunId>,
}

/// A lane: its operation, and the number that its runs name.
type Name = (String, i64);

/// The lanes as the journal tells of them.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<Name, Lane>,
    /// The lane of each run.
    lane_of: BTreeMap<RunId, Name>,
    /// The line of the history with which each run was asked for.
    asked: BTreeMap<RunId, usize>,
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

    /// Runs that were promised before others were asked for, and came after them.
    pub(super) fn out_of_turn(&self, model: &Model) -> Vec<String> {
        let spans = model.spans();
        let mut broken = Vec::new();
        for lane in self.lanes.values() {
            // The one of the later comers that was promised first.
            let mut earliest: Option<(u64, RunId)> = None;
            for run in lane.gate.came().iter().rev() {
                let Some(span) = spans.get(run) else { continue };
                if let Some((promised, later)) = earliest
                    && promised < span.asked
                {
                    broken.push(format!(
                        "{run} came to its gate before {later}, which was promised before it was asked for ({})",
                        lane.limit.strategy
                    ));
                }
                if let Some(promised) = span.promised
                    && earliest.is_none_or(|(earliest, _)| promised < earliest)
                {
                    earliest = Some((promised, *run));
                }
            }
        }
        broken
    }

    fn walk(&mut self, record: &Record) -> Result<(), QueryError> {
        let sql = "SELECT id, operation, input FROM runs WHERE service = ?";
        for row in record.fetch(sql, &[SERVICE.into()])? {
            let operation = row.text(1).unwrap_or_default();
            let input: Value = serde_json::from_slice(row.blob(2).unwrap_or_default()).unwrap_or_default();
            let number = input["lane"].as_i64().unwrap_or(-1);
            let (Some(run), Some(limit)) = (
                row.blob(0).and_then(RunId::from_bytes),
                limit_of(SERVICE, operation),
            ) else {
                self.broken.push(format!("a run of `{operation}` cannot be read"));
                continue;
            };
            let name = (operation.to_owned(), number);
            self.lanes.entry(name.clone()).or_insert_with(|| Lane::new(limit));
            self.lane_of.insert(run, name);
        }
        let lines = history::read(record, &["asked", "put", "inside", "blocks", "free"])?;
        let mut lines = lines.into_iter().enumerate().peekable();
        let sql = "SELECT j.run, j.record, j.position FROM journal AS j JOIN runs AS r ON r.id = j.run \
                   WHERE r.service = ? ORDER BY j.position";
        for row in record.fetch(sql, &[SERVICE.into()])? {
            let position = row.int(2).unwrap_or(0);
            while let Some((number, line)) = lines.next_if(|(_, line)| line.position < position) {
                self.line(number, &line);
            }
            let (Some(run), Ok(turn)) = (
                row.blob(0).and_then(RunId::from_bytes),
                Turn::decode(row.blob(1).unwrap_or_default()),
            ) else {
                self.broken.push(format!("turn {position} cannot be read"));
                continue;
            };
            let asked = self.asked.get(&run).copied().unwrap_or(0);
            if let Some(lane) = self.lane_of.get(&run).and_then(|name| self.lanes.get_mut(name)) {
                self.broken.extend(lane.turn(run, &turn, asked));
            }
        }
        for (number, line) in lines {
            self.line(number, &line);
        }
        let closed = self.lanes.values_mut().filter_map(|lane| lane.gate.close());
        self.broken.extend(closed);
        Ok(())
    }

    fn line(&mut self, number: usize, line: &history::Line) {
        let Some(run) = line.run else { return };
        if line.what == "asked" {
            self.asked.insert(run, number);
            return;
        }
        match self.lane_of.get(&run).and_then(|name| self.lanes.get_mut(name)) {
            Some(lane) => self.broken.extend(lane.gate.line(line, run, number)),
            None => self
                .broken
                .push(format!("{run} stands at a gate and is not there")),
        }
    }
}

impl Lane {
    const fn new(limit: Limit) -> Self {
        Self {
            limit,
            gate: Gate::new(limit),
            runs: BTreeMap::new(),
            turned_away: BTreeSet::new(),
        }
    }

    /// Takes in a turn of a run that was asked for with that line of the history; says what it must not be.
    fn turn(&mut self, run: RunId, turn: &Turn, asked: usize) -> Vec<String> {
        let mut found = Vec::new();
        let before = self.runs.get(&run).copied().unwrap_or(Way::Before);
        let mut way = before;
        let mut canceled = false;
        for cause in &turn.causes {
            match cause {
                Cause::Started | Cause::Restarted { .. } if way == Way::Before => way = Way::Under,
                Cause::RetryRequested { .. } if way == Way::Failed => way = Way::Under,
                Cause::CancelRequested { by, .. } => {
                    canceled = true;
                    if by == GATE && self.turned_away.insert(run) {
                        found.extend(self.gate.turns_away(run, before, asked));
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
        if way == Way::Under && before != Way::Under {
            found.extend(self.too_many(run));
            if !self.gate.has_passed(run) {
                found.push(format!(
                    "{run} begins and has not passed its gate ({})",
                    self.limit.strategy
                ));
            }
        }
        let now = after(way, turn);
        self.runs.insert(run, now);
        // What a run does after its end is nobody's business here, though its gate may not have heard of that yet.
        if way == Way::Under || canceled {
            found.extend(self.gate.turn(run, canceled, now != Way::Under));
        }
        if !self.limit.turns_away && self.turned_away.contains(&run) {
            found.push(format!("{run} was turned away ({})", self.limit.strategy));
        }
        found
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
