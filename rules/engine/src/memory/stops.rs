//! Stopping before a rule fires, and going on where another run was.

use super::WorkingMemory;
use super::firing::Stage;
use crate::turn::{FactId, Stopped, Stops};

impl WorkingMemory {
    /// Whether the turn ends here; what would fire next is kept for its outcome.
    pub(super) fn stops_here(&mut self, stops: &Stops<'_>) -> bool {
        let Some(token) = self.network.peek() else {
            return false;
        };
        let number = self.network.rule_of(token);
        let rule = &self.rules.rules[number as usize];
        if !stops.all && !stops.rules.iter().any(|stop| **stop == *rule.name) {
            return false;
        }
        let facts = self.bound_facts(token);
        self.stopped = Some(Stopped {
            rule: number as usize,
            facts: facts
                .iter()
                .map(|(id, version)| (FactId(*id), *version))
                .collect(),
        });
        true
    }

    /// Makes all open calls again, under new names.
    pub(super) fn remake(&mut self) {
        self.begin(crate::Section::Action);
        let mut context = self.context.take().expect("no script runs");
        self.calls.clear();
        for (number, firing) in &mut self.firings {
            if firing.open == 0 || firing.stage != Stage::Waiting {
                continue;
            }
            for (at, state) in (0_u32..).zip(&mut firing.calls) {
                if state.outcome.is_some() {
                    continue;
                }
                let call = context.next_call();
                context.effects.push(state.made.effect(call));
                state.call = call;
                self.calls.insert(call, (*number, at));
            }
            self.journal.written.insert(*number);
        }
        self.context = Some(context);
    }
}
