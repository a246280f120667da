//! What must hold of the journal of a run, whatever its rules are.

use std::collections::BTreeMap;

use celesta_runs::RunState;
use celesta_runs::record::{Cause, Note, Record as Turn, Recorded};
use celesta_store::Cell;
use celesta_store::driven::Record;
use celesta_types::{CallId, ErrorClass, RunId, Timestamp};
use serde_json::Value;

use super::Row;
use super::orders::Pauses;
use super::over::Stop;
use super::versions::Move;
use crate::workers::Said;
use crate::workloads::answer;

/// Characters of a turn that are shown.
const TOLD_MAX: usize = 600;

/// A call as the journal shows it.
struct Call {
    what: What,
    answers: usize,
}

enum What {
    Function { name: String, input: Value },
    Timer { at: Timestamp },
    Request,
}

/// What a journal tells.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Everything that is wrong with it.
    pub(super) broken: Vec<String>,
    /// The moves of the run to other versions.
    pub(super) moves: Vec<Move>,
    /// The turns in which it was to stop before rules.
    pub(super) stops: Vec<Stop>,
    /// Who has asked for what was done to it as a whole.
    pub(super) actors: Vec<String>,
}

/// Walks through the journal of a run.
pub(super) fn check(record: &Record, row: &Row, pauses: &Pauses, said: &Said) -> Told {
    let Row { run, state, .. } = *row;
    let sql = "SELECT seq, record, position FROM journal WHERE run = ? ORDER BY seq";
    let rows = match record.fetch(sql, &[Cell::Id(run.to_bytes())]) {
        Ok(rows) => rows,
        Err(error) => {
            return Told {
                broken: vec![error.to_string()],
                ..Told::default()
            };
        }
    };
    let mut walk = Walk {
        row,
        pauses,
        said,
        calls: BTreeMap::new(),
        paused: false,
        ended: false,
        canceled: false,
        position: 0,
        rules: Vec::new(),
        told: Told::default(),
    };
    for (row, expected) in rows.iter().zip(1_u64..) {
        let seq = row.int(0).and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
        if seq != expected {
            walk.told
                .broken
                .push(format!("turn {seq} stands where turn {expected} is expected"));
            break;
        }
        match Turn::decode(row.blob(1).unwrap_or_default()) {
            Ok(turn) => {
                let had_ended = walk.ended;
                walk.stands(seq, row.int(2).unwrap_or(0), &turn);
                walk.steered(seq, &turn, had_ended);
                walk.turn(seq, turn);
            }
            Err(error) => walk
                .told
                .broken
                .push(format!("turn {seq} cannot be read: {error}")),
        }
    }
    if rows.is_empty() {
        walk.told.broken.push("it has taken no turn".to_owned());
    }
    if walk.canceled != (state == RunState::Canceled) {
        walk.told
            .broken
            .push(format!("its journal ends canceled: {}", walk.canceled));
    }
    walk.told
}

/// The journal in short, for whoever looks into a violation.
pub(super) fn told(record: &Record, run: RunId) -> String {
    let sql = "SELECT seq, record FROM journal WHERE run = ? ORDER BY seq";
    let rows = record.fetch(sql, &[Cell::Id(run.to_bytes())]).unwrap_or_default();
    let mut told = format!("  journal of {run}:");
    for row in rows {
        let Ok(turn) = Turn::decode(row.blob(1).unwrap_or_default()) else {
            continue;
        };
        let firings: Vec<_> = turn
            .firings
            .iter()
            .map(|firing| (firing.rule, firing.section))
            .collect();
        let note = turn.note.is_some();
        let Turn {
            at, causes, effects, ..
        } = turn;
        let line = format!(
            "\n      turn {} at {at}: {causes:?} fired {firings:?} {effects:?}{}",
            row.int(0).unwrap_or(0),
            if note { " put aside" } else { "" }
        );
        told.push_str(&line.chars().take(TOLD_MAX).collect::<String>());
    }
    told
}

struct Walk<'a> {
    row: &'a Row,
    pauses: &'a Pauses,
    said: &'a Said,
    calls: BTreeMap<CallId, Call>,
    paused: bool,
    /// Whether it has completed or failed.
    ended: bool,
    canceled: bool,
    /// Where the turn before stands among those of all runs.
    position: i64,
    /// The rules before which it stops.
    rules: Vec<String>,
    told: Told,
}

impl Walk<'_> {
    /// While an order stops its workflow nothing fires, but in the turn that was under way when the order came. People may
    /// let single runs go on, and try those again that have failed; and finished runs are not stopped.
    fn stands(&mut self, seq: u64, position: i64, turn: &Turn) {
        let before = std::mem::replace(&mut self.position, position);
        let since = self
            .pauses
            .since(&self.row.service, &self.row.operation, position);
        let is_wished = turn.causes.iter().any(|cause| {
            matches!(
                cause,
                Cause::Resumed { .. } | Cause::CancelRequested { .. } | Cause::RetryRequested { .. }
            )
        });
        if since.is_some_and(|since| since < before) && !is_wished && !self.ended && !turn.firings.is_empty()
        {
            self.told.broken.push(format!(
                "rules fired in turn {seq} while its workflow was stopped"
            ));
        }
        if turn
            .causes
            .iter()
            .any(|cause| matches!(cause, Cause::RetryRequested { .. }))
        {
            self.ended = false;
        }
        let ends = |effect: &Recorded| matches!(effect, Recorded::Complete { .. } | Recorded::Fail { .. });
        self.ended |= turn.effects.iter().any(ends) || matches!(turn.note, Some(Note::Quarantined { .. }));
    }

    /// Takes in what people said of the run as a whole. One that had ended stops nowhere.
    fn steered(&mut self, seq: u64, turn: &Turn, had_ended: bool) {
        let mut is_free = false;
        for cause in &turn.causes {
            match cause {
                Cause::BreakpointsSet { rules, .. } => self.rules.clone_from(rules),
                Cause::Resumed { by, .. } => {
                    is_free = true;
                    self.told.actors.push(by.clone());
                }
                Cause::CancelRequested { by, .. } | Cause::RetryRequested { by, .. } => {
                    self.told.actors.push(by.clone());
                }
                _ => {}
            }
        }
        let stopped = match &turn.note {
            Some(Note::Paused { by, .. }) => {
                self.told.actors.push(by.clone());
                None
            }
            Some(Note::Stopped { rule, .. }) => Some(rule.clone()),
            _ => None,
        };
        let fires = !had_ended && !self.rules.is_empty() && !turn.firings.is_empty();
        if stopped.is_some() || fires {
            self.told.stops.push(Stop {
                seq,
                rules: self.rules.clone(),
                is_free,
                stopped,
            });
        }
    }

    fn turn(&mut self, seq: u64, turn: Turn) {
        if self.canceled {
            self.told
                .broken
                .push(format!("turn {seq} comes after the run was canceled"));
        }
        for cause in &turn.causes {
            match cause {
                Cause::Succeeded { call, result, .. } => self.succeeded(seq, *call, result),
                Cause::Failed { call, class, .. } => self.failed(seq, *call, *class),
                Cause::TimerFired { call } => self.fired(seq, *call, turn.at),
                Cause::Resumed { .. } => self.paused = false,
                // A completed run is not canceled any more; the oracle sees it by its state.
                Cause::CancelRequested { .. } => (self.paused, self.canceled) = (false, true),
                Cause::Upgraded { from, to } => self.told.moves.push(Move {
                    seq,
                    from: *from,
                    to: *to,
                }),
                Cause::Started
                | Cause::RetryRequested { .. }
                | Cause::FactsWritten { .. }
                | Cause::Prioritized { .. }
                | Cause::BreakpointsSet { .. }
                | Cause::Restarted { .. }
                | Cause::Swept { .. }
                | Cause::Woken => {}
            }
        }
        if self.paused && !turn.firings.is_empty() {
            self.told
                .broken
                .push(format!("rules fired in turn {seq} while it was paused"));
        }
        // What a run keeps is in nobody's name: it may wait at a gate.
        let stops = match &turn.note {
            Some(Note::Paused { by, .. }) => !by.is_empty(),
            Some(Note::Stopped { .. }) => true,
            _ => false,
        };
        if stops {
            self.paused = true;
        }
        for (effect, index) in turn.effects.into_iter().zip(0_u32..) {
            let what = match effect {
                Recorded::Call { function, input } => What::Function {
                    name: function,
                    input: serde_json::from_str(&input).unwrap_or(Value::Null),
                },
                Recorded::Timer { at } => What::Timer { at },
                Recorded::Request { .. } => What::Request,
                _ => continue,
            };
            self.calls
                .insert(CallId { seq, index }, Call { what, answers: 0 });
        }
    }

    fn call(&mut self, seq: u64, id: CallId) -> Option<&mut Call> {
        if !self.calls.contains_key(&id) {
            self.told.broken.push(format!(
                "turn {seq} is given an answer to {id}, which was never called"
            ));
        }
        self.calls.get_mut(&id)
    }

    fn succeeded(&mut self, seq: u64, id: CallId, result: &str) {
        let Some(call) = self.call(seq, id) else { return };
        call.answers += 1;
        if let What::Function { name, input } = &call.what {
            let right = answer(name, input);
            if serde_json::from_str::<Value>(result).ok().as_ref() != Some(&right) {
                let broken = format!("turn {seq} is given another result of {id} than {name}({input})");
                self.told.broken.push(broken);
            }
        }
    }

    fn failed(&mut self, seq: u64, id: CallId, class: ErrorClass) {
        let (run, said) = (self.row.run, self.said);
        let Some(call) = self.call(seq, id) else { return };
        call.answers += 1;
        if let What::Function { .. } = &call.what {
            let classes = said.failed.get(&(run, id)).map_or(&[][..], Vec::as_slice);
            if !classes.contains(&class) {
                self.told.broken.push(format!(
                    "turn {seq} is told that {id} failed ({}), which no worker has said",
                    class.name()
                ));
            }
        }
    }

    fn fired(&mut self, seq: u64, id: CallId, now: Timestamp) {
        let Some(call) = self.call(seq, id) else { return };
        call.answers += 1;
        if let What::Timer { at } = call.what
            && now < at
        {
            self.told
                .broken
                .push(format!("timer {id}, set for {at}, fires in turn {seq} at {now}"));
        }
    }
}
