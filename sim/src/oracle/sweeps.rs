//! What must hold of sweeps that somebody steers: one that stands tells nobody, but for the batch that was on the way.

use std::collections::BTreeMap;

use celesta_runs::SweepState;
use celesta_store::driven::Record;

use crate::history;

/// Says of each sweep what must not be.
pub(super) fn check(record: &Record) -> Vec<String> {
    let lines = match history::read(record, &["sweep stands", "sweep told"]) {
        Ok(lines) => lines,
        Err(error) => return vec![error.to_string()],
    };
    let mut broken = Vec::new();
    // Where each stands, and how many batches were counted since.
    let mut sweeps: BTreeMap<Vec<u8>, (SweepState, usize)> = BTreeMap::new();
    for line in lines {
        let (state, batches) = sweeps.entry(line.id).or_insert((SweepState::Pending, 0));
        if line.what == "sweep stands" {
            let Some(stands) = SweepState::from_code(line.number) else {
                broken.push(format!("a sweep stands as {}", line.number));
                continue;
            };
            if state.is_ended() {
                broken.push(format!("a sweep that was {state} is {stands}"));
            }
            (*state, *batches) = (stands, 0);
            continue;
        }
        *batches += 1;
        let most = match state {
            SweepState::Running => usize::MAX,
            SweepState::Paused | SweepState::Aborted => 1,
            SweepState::Pending | SweepState::Previewed | SweepState::Done => 0,
        };
        if *batches > most {
            broken.push(format!(
                "a sweep that is {state} has told {batches} batches of runs"
            ));
        }
    }
    broken
}
