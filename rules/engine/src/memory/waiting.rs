//! Firings that wait for calls: opened, answered, concluded, made again.

use celesta_types::{CallId, ErrorClass};

use super::firing::{OpenFiring, Stage};
use super::section::Made;
use super::{Halt, WorkingMemory};
use crate::Value;
use crate::scripts::Thrown;
use crate::turn::{CallError, Effect, Section};

impl WorkingMemory {
    pub(super) fn answer(&mut self, call: CallId, outcome: Result<Value, CallError>) -> Result<(), String> {
        let (number, at) = *self
            .calls
            .get(&call)
            .ok_or_else(|| format!("call {call} is not awaited"))?;
        self.calls.remove(&call);
        let firing = self
            .firings
            .get_mut(&number)
            .expect("a known call belongs to a firing");
        let failed = outcome.is_err();
        firing.calls[at as usize].outcome = Some(outcome);
        firing.open -= 1;
        self.outstanding -= 1;
        self.journal.outcomes.push((number, at));
        if failed && firing.fail_fast && firing.open > 0 {
            self.cancel_siblings(number);
        }
        if self.firings[&number].open == 0 && self.halted.is_none() {
            self.finish(number);
        }
        Ok(())
    }

    pub(super) fn cancel_siblings(&mut self, number: u64) {
        let firing = self.firings.get_mut(&number).expect("the caller found it");
        let mut canceled = Vec::new();
        for (at, call) in (0_u32..).zip(&mut firing.calls) {
            if call.outcome.is_none() {
                let message = "canceled because another call of the rule failed".to_owned();
                let function = call.made.target().to_string();
                call.outcome = Some(Err(CallError {
                    kind: ErrorClass::Canceled,
                    message,
                    function,
                    attempts: 0,
                }));
                canceled.push(call.call);
                self.journal.outcomes.push((number, at));
            }
        }
        firing.open = 0;
        self.outstanding -= u64::try_from(canceled.len()).unwrap_or(0);
        for call in &canceled {
            self.calls.remove(call);
        }
        self.context_mut()
            .effects
            .push(Effect::CancelCalls { calls: canceled });
    }

    pub(super) fn retry_failed(&mut self) -> Result<(), String> {
        if self.halted != Some(Halt::Failed) {
            return Err("the run has not failed".into());
        }
        self.halted = None;
        for number in self.firings.keys().copied().collect::<Vec<_>>() {
            if self.halted.is_some() {
                break;
            }
            let Some(firing) = self.firings.get_mut(&number) else {
                continue;
            };
            match std::mem::replace(&mut firing.stage, Stage::Waiting) {
                Stage::Waiting if firing.open > 0 => {}
                Stage::Waiting => self.finish(number),
                Stage::FailedCalls => {
                    self.begin(Section::Action);
                    self.reissue(number, None);
                }
                Stage::FailedSection(section) => self.conclude(number, section),
            }
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, reason: &str) {
        self.halted = Some(Halt::Canceled);
        let mut calls: Vec<CallId> = self.calls.drain().map(|(call, _)| call).collect();
        calls.sort_unstable();
        self.outstanding = 0;
        for number in self.firings.keys().copied().collect::<Vec<_>>() {
            self.close(number);
        }
        let context = self.context_mut();
        if !calls.is_empty() {
            context.effects.push(Effect::CancelCalls { calls });
        }
        context.effects.push(Effect::Log {
            level: "info",
            text: format!("canceled: {reason}"),
        });
        self.network.silence();
    }

    pub(super) fn open(&mut self, firing: OpenFiring) {
        let number = self.next_firing;
        self.next_firing += 1;
        for fact in firing.bound_facts() {
            *self.pins.entry(fact).or_default() += 1;
        }
        for (at, call) in (0_u32..).zip(&firing.calls) {
            if call.outcome.is_none() {
                self.calls.insert(call.call, (number, at));
            }
        }
        self.outstanding += u64::from(firing.open);
        self.firings.insert(number, firing);
        self.journal.written.insert(number);
    }

    pub(super) fn close(&mut self, number: u64) {
        let Some(firing) = self.firings.remove(&number) else {
            return;
        };
        for fact in firing.bound_facts() {
            if let Some(pins) = self.pins.get_mut(&fact) {
                *pins -= 1;
                if *pins == 0 {
                    self.pins.remove(&fact);
                    self.context_mut().ghosts.remove(&fact);
                }
            }
        }
        self.journal.written.remove(&number);
        if number < self.journal.first_firing {
            self.journal.closed.push(number);
        }
    }

    /// All calls of the firing are back.
    pub(super) fn finish(&mut self, number: u64) {
        let firing = &self.firings[&number];
        let rule = firing.rule;
        let sections = &self.rules.rules[rule as usize];
        match firing.failure() {
            None if sections.has(Section::Reaction) => self.conclude(number, Section::Reaction),
            None => self.close(number),
            Some(_) if sections.has(Section::Error) => self.conclude(number, Section::Error),
            Some(error) => {
                let message = format!("{} failed ({}): {}", error.function, error.kind, error.message);
                self.stop_at(number, Stage::FailedCalls);
                self.fail(rule, Section::Action, &Thrown { message, place: None });
            }
        }
    }

    pub(super) fn stop_at(&mut self, number: u64, stage: Stage) {
        if let Some(firing) = self.firings.get_mut(&number) {
            firing.stage = stage;
            self.journal.written.insert(number);
        }
    }

    /// Runs the reaction or the error section of a firing that waited.
    pub(super) fn conclude(&mut self, number: u64, section: Section) {
        // Taken out and not cloned: results may be large.
        let Some(firing) = self.firings.remove(&number) else {
            return;
        };
        let rule = firing.rule;
        let ran = self.run_section(&firing, section);
        self.firings.insert(number, firing);
        match ran {
            Ok(()) => {
                let retry = self.context_mut().retry.take();
                let gave_up = self.context().failed;
                self.commit(rule);
                if gave_up {
                    self.stop_at(number, Stage::FailedCalls);
                } else if let Some(options) = retry {
                    self.reissue(number, Some(&options));
                } else {
                    self.close(number);
                }
            }
            Err(thrown) => {
                self.stop_at(number, Stage::FailedSection(section));
                self.fail(rule, section, &thrown);
            }
        }
    }

    /// Makes the failed calls of a firing again.
    pub(super) fn reissue(&mut self, number: u64, options: Option<&crate::CallOptions>) {
        let bound = self.rules.limits.retries;
        let mut context = self.context.take().expect("no script runs");
        let firing = self.firings.get_mut(&number).expect("the caller found it");
        let rule = firing.rule;
        let by_rule = options.is_some();
        if by_rule && firing.retries >= bound {
            self.context = Some(context);
            self.stop_at(number, Stage::FailedCalls);
            let message = format!("`retry` was called more than {bound} times");
            return self.fail(rule, Section::Error, &Thrown { message, place: None });
        }
        firing.retries = if by_rule { firing.retries + 1 } else { 0 };
        let mut again = 0;
        for (at, state) in (0_u32..).zip(&mut firing.calls) {
            if !matches!(state.outcome, Some(Err(_))) || state.call.seq == 0 {
                continue;
            }
            if let (Some(given), Made::Call { options, .. } | Made::Request { options, .. }) =
                (options, &mut state.made)
            {
                options.timeout_ms = given.timeout_ms.or(options.timeout_ms);
                options.priority = given.priority.or(options.priority);
                options.key = given.key.clone().or_else(|| options.key.take());
                options.delay_ms = given.delay_ms;
            }
            let call = context.next_call();
            context.effects.push(state.made.effect(call));
            state.call = call;
            state.outcome = None;
            self.calls.insert(call, (number, at));
            again += 1;
        }
        firing.open = again;
        firing.stage = Stage::Waiting;
        self.outstanding += u64::from(again);
        self.journal.written.insert(number);
        self.context = Some(context);
        if again == 0 {
            self.close(number);
        }
    }
}
