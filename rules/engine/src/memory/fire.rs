//! One firing: the section of a rule runs over the facts that match, and its writes are applied or dropped.

use std::sync::Arc;

use celesta_types::{CallId, ErrorClass};
use rhai::Dynamic;

use super::firing::{CallState, Held, OpenFiring, Stage, error_value};
use super::network::World;
use super::section::Made;
use super::{Halt, TRACE, WorkingMemory};
use crate::Value;
use crate::scripts::{Handle, Source, Thrown};
use crate::turn::{CallError, Effect, FactId, FiringRecord, Section};

impl WorkingMemory {
    pub(super) fn fire(&mut self, token: u32) {
        let rules = Arc::clone(&self.rules);
        let number = self.network.rule_of(token);
        let rule = &rules.rules[number as usize];
        let place = usize::try_from(self.journal.fired).unwrap_or(0) % TRACE;
        self.journal.fired += 1;
        match self.journal.trace.get_mut(place) {
            Some(seen) => *seen = number,
            None => self.journal.trace.push(number),
        }
        let bindings = self.bindings(token, number);
        let facts = self.bound_facts(token);
        let mut firing = OpenFiring {
            rule: number,
            facts,
            bindings,
            calls: Vec::new(),
            open: 0,
            fail_fast: false,
            retries: 0,
            stage: Stage::Waiting,
        };
        if rule.has(Section::Action) {
            match self.run_section(&firing, Section::Action) {
                Ok(()) => {}
                Err(thrown) if rule.has(Section::Error) => {
                    let error = CallError {
                        kind: ErrorClass::User,
                        message: thrown.message,
                        function: String::new(),
                        attempts: 1,
                    };
                    return self.run_last(firing, Section::Error, Some(error));
                }
                Err(thrown) => {
                    let world = World {
                        rules: &rules,
                        store: &self.context.as_ref().expect("no script runs").store,
                    };
                    self.network.rearm(world, token);
                    return self.fail(number, Section::Action, &thrown);
                }
            }
        }
        let context = self.context_mut();
        let made = std::mem::take(&mut context.made);
        firing.fail_fast = context.fail_fast;
        self.commit(number);
        if made.is_empty() {
            if rule.has(Section::Reaction) && self.halted.is_none() {
                self.run_last(firing, Section::Reaction, None);
            }
            return;
        }
        firing.open = u32::try_from(made.len()).expect("effects are bounded far below 2^32");
        firing.calls = made
            .into_iter()
            .map(|(call, made)| CallState {
                call,
                made,
                outcome: None,
            })
            .collect();
        self.open(firing);
    }

    /// Runs a section after which the firing is over, unless it throws.
    pub(super) fn run_last(&mut self, firing: OpenFiring, section: Section, error: Option<CallError>) {
        let rule = firing.rule;
        let mut firing = firing;
        if let Some(error) = error {
            // The action threw: `error` sees it as it would see a failed call.
            let made = Made::Timer { at_ms: 0 };
            firing.calls.push(CallState {
                call: CallId { seq: 0, index: 0 },
                made,
                outcome: Some(Err(error)),
            });
        }
        match self.run_section(&firing, section) {
            Ok(()) => {
                self.context_mut().retry = None;
                self.commit(rule);
            }
            Err(thrown) => {
                firing.stage = Stage::FailedSection(section);
                self.open(firing);
                self.fail(rule, section, &thrown);
            }
        }
    }

    /// Runs a section; what it has done is kept in the context until it is committed, or undone when it throws.
    pub(super) fn run_section(&mut self, firing: &OpenFiring, section: Section) -> Result<(), Thrown> {
        let rules = Arc::clone(&self.rules);
        let script = rules.rules[firing.rule as usize]
            .script(section)
            .expect("the caller knows that it exists");
        let arguments = arguments(script, firing);
        self.begin(section);
        self.context_mut().fail_fast = firing.fail_fast;
        let context = self.context.take().expect("no script runs");
        self.port.put(context);
        let ran = rules.scripts.run(script, &self.port, arguments);
        self.context = self.port.take();
        if ran.is_err() {
            self.context_mut().roll_back();
        }
        self.journal.firings.push(FiringRecord {
            rule: firing.rule as usize,
            facts: firing
                .facts
                .iter()
                .map(|(id, version)| (FactId(*id), *version))
                .collect(),
            section,
            error: ran.as_ref().err().map(|thrown| thrown.message.clone()),
        });
        ran
    }

    /// The run has failed: rule, section and place are named.
    pub(super) fn fail(&mut self, rule: u32, section: Section, thrown: &Thrown) {
        let rule = &self.rules.rules[rule as usize];
        let place = thrown.place.map_or_else(
            || format!("{}:{}", self.rules.path, rule.line),
            |(line, column)| format!("{}:{line}:{column}", self.rules.path),
        );
        let message = format!(
            "rule `{}`, {}: {} ({place})",
            rule.name,
            section.name(),
            thrown.message
        );
        self.context_mut().effects.push(Effect::Fail {
            message,
            data_json: None,
        });
        self.halted = Some(Halt::Failed);
    }
}

/// The arguments of a section's script, in the order of its parameters.
fn arguments(script: &crate::scripts::Script, firing: &OpenFiring) -> Vec<Dynamic> {
    let held = |level: usize| {
        firing
            .bindings
            .iter()
            .find(|(at, _)| *at as usize == level)
            .map(|(_, held)| held)
    };
    let result = |call: &CallState| match &call.outcome {
        Some(Ok(value)) => value.to_dynamic(),
        _ => Dynamic::UNIT,
    };
    (script.arguments.iter())
        .map(|argument| match argument.source {
            Source::Level => match held(argument.level) {
                Some(Held::Fact(id)) => Dynamic::from(Handle(*id)),
                Some(Held::Value(value)) => value.to_dynamic(),
                Some(Held::Facts(facts)) => facts
                    .iter()
                    .map(|id| Dynamic::from(Handle(*id)))
                    .collect::<rhai::Array>()
                    .into(),
                None => Dynamic::UNIT,
            },
            Source::Result => firing.calls.first().map_or(Dynamic::UNIT, result),
            Source::Results if firing.failure().is_none() => {
                firing.calls.iter().map(result).collect::<rhai::Array>().into()
            }
            Source::Results => (firing.calls.iter())
                .filter(|call| call.call.seq > 0)
                .map(|call| {
                    let outcome = match &call.outcome {
                        Some(Ok(value)) => Value::map([("ok", Value::Bool(true)), ("result", value.clone())]),
                        Some(Err(error)) => {
                            Value::map([("ok", Value::Bool(false)), ("error", error_value(error))])
                        }
                        None => Value::Null,
                    };
                    outcome.to_dynamic()
                })
                .collect::<rhai::Array>()
                .into(),
            Source::Error => firing
                .failure()
                .map_or(Dynamic::UNIT, |error| error_value(error).to_dynamic()),
        })
        .collect()
}
