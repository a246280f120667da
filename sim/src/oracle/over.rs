//! What must hold of runs that were done over, and of those that stop before rules.

use std::collections::BTreeMap;

use celesta_runs::{CLONED_FROM, RESTARTED_FROM};
use celesta_types::RunId;

use super::Row;
use crate::clients::{Derived, EDITS, How, Known, Model};
use crate::node::Node;

/// Turns of a run that are read at once: more than any has.
const TURNS_MAX: usize = 500;

/// From which run a run was made, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MadeFrom {
    pub(super) run: RunId,
    pub(super) is_restart: bool,
}

impl MadeFrom {
    pub(super) fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        let named = |label: &str| labels.get(label)?.parse().ok();
        let restarted = named(RESTARTED_FROM).map(|run| Self {
            run,
            is_restart: true,
        });
        let cloned = || {
            named(CLONED_FROM).map(|run| Self {
                run,
                is_restart: false,
            })
        };
        restarted.or_else(cloned)
    }

    fn by(derived: &Derived) -> Self {
        Self {
            run: derived.from,
            is_restart: derived.how != How::Clone,
        }
    }
}

/// Each promised wish has exactly one run, a refused one none.
pub(super) fn check(model: &Model, rows: &[Row], broken: &mut Vec<String>) {
    let mut made: BTreeMap<MadeFrom, Vec<RunId>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.is_child) {
        if let Some(from) = row.made_from {
            made.entry(from).or_default().push(row.run);
        }
    }
    let mut wishes: BTreeMap<MadeFrom, (usize, usize)> = BTreeMap::new();
    for derived in &model.derived {
        let from = MadeFrom::by(derived);
        let (promised, doubtful) = wishes.entry(from).or_default();
        match derived.known {
            Known::Promised => *promised += 1,
            Known::Doubtful => *doubtful += 1,
            Known::Refused => {}
        }
        let is_there = |run: &RunId| made.get(&from).is_some_and(|made| made.contains(run));
        if let Some(run) = derived.run
            && !is_there(&run)
        {
            broken.push(format!(
                "{run} was promised as {} done over, and is not there",
                from.run
            ));
        }
    }
    for (from, made) in &made {
        let (promised, doubtful) = wishes.get(from).copied().unwrap_or_default();
        if made.len() < promised || made.len() > promised + doubtful {
            broken.push(format!(
                "{} was done over as {made:?}; {promised} were promised, and {doubtful} are in doubt",
                from.run
            ));
        }
    }
}

/// Takes what a run that goes on where another was has from that one out of the notes that it has: those of the other, and
/// the one of whoever did it over.
pub(super) fn inherited(
    model: &Model,
    row: &Row,
    from: MadeFrom,
    there: &mut BTreeMap<i64, usize>,
) -> Result<(), String> {
    if !from.is_restart {
        return Ok(());
    }
    there.retain(|number, times| {
        let note = usize::try_from(*number)
            .ok()
            .and_then(|number| model.notes.get(number));
        *times > 1 || note.is_none_or(|note| note.run != from.run)
    });
    let mut edits = 0;
    for (number, derived) in model.derived.iter().enumerate() {
        let How::Restart { edit, .. } = derived.how else {
            continue;
        };
        if derived.from != from.run {
            continue;
        }
        let is_own = derived.run.is_none_or(|run| run == row.run);
        let times = there.get(&Derived::edit(number)).copied().unwrap_or(0);
        let is_promised = edit && derived.run == Some(row.run);
        if times > usize::from(is_own && edit) || times < usize::from(is_promised) {
            return Err(format!("the note of whoever did it over is there {times} times"));
        }
        edits += times;
    }
    there.retain(|number, _| *number < EDITS);
    if edits > 1 {
        return Err(format!("{edits} people have done it over"));
    }
    Ok(())
}

/// The rules before which a run stops in a turn.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) seq: u64,
    pub(super) rules: Vec<String>,
    /// Whether somebody let it go on: by one firing, whatever it is of.
    pub(super) is_free: bool,
    /// The rule before which it stopped.
    pub(super) stopped: Option<String>,
}

/// No rule has fired before which the run was to stop, but where somebody let it go on.
pub(super) fn stops_hold(node: &Node, run: RunId, stops: &[Stop]) -> Result<(), String> {
    if stops.is_empty() {
        return Ok(());
    }
    let turns = node.now(node.runtime.history(run, 0, TURNS_MAX));
    let turns = turns.map_err(|error| error.to_string())?.unwrap_or_default();
    for stop in stops {
        let Some(turn) = turns.iter().find(|turn| turn.seq == stop.seq) else {
            continue;
        };
        let fired = turn.firings.iter().filter(|firing| firing.section == "action");
        let fired = fired.filter(|firing| stop.rules.contains(&firing.rule)).count();
        if fired > usize::from(stop.is_free) {
            return Err(format!(
                "{fired} rules fired in turn {} although it was to stop before {:?}",
                stop.seq, stop.rules
            ));
        }
        let stopped = stop.stopped.as_ref();
        if stopped.is_some_and(|rule| !stop.is_free && !stop.rules.contains(rule)) {
            return Err(format!(
                "it stopped in turn {} before {stopped:?}, and was to before {:?}",
                stop.seq, stop.rules
            ));
        }
    }
    Ok(())
}
