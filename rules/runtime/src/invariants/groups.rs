//! Groups of runs, of which only so many may be under way at once.

use std::collections::BTreeMap;

use super::{Findings, Invariant};
use crate::head::RunHead;
use crate::state::RunState;

/// The runs of each group that are under way.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<u128, Group>);

#[derive(Debug)]
struct Group {
    /// Where it is, for people.
    place: String,
    under_way: usize,
    /// Runs of several versions may meet at one gate: the widest of their limits.
    at_once: usize,
}

impl Groups {
    /// Counts the run where it is under way: from the turn that it was let in for until it has ended.
    pub(super) fn add(&mut self, head: &RunHead) {
        if !matches!(head.state, RunState::Running | RunState::Idle | RunState::Paused) {
            return;
        }
        let gates = head.steering().gates(&head.service, &head.workflow);
        let keys = head.steering().gates.iter().map(|gate| gate.key.as_str());
        for ((gate, strategy), key) in gates.into_iter().zip(keys) {
            let group = self.0.entry(gate).or_insert_with(|| Group {
                place: format!("workflow `{}` of `{}`, key `{key}`", head.workflow, head.service),
                under_way: 0,
                at_once: 0,
            });
            group.under_way += 1;
            group.at_once = group.at_once.max(strategy.limit());
        }
    }

    pub(super) fn report(self, findings: &mut Findings) {
        for Group {
            place,
            under_way,
            at_once,
        } in self
            .0
            .into_values()
            .filter(|group| group.under_way > group.at_once)
        {
            let found = format!("{under_way} runs are under way, and {at_once} may be");
            findings.report(Invariant::Group, place, found);
        }
    }
}
