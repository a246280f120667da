//! One firing: the section of a rule runs over the facts that match, and its writes are applied or dropped.

use std::sync::Arc;

use celesta_types::{CallId, ErrorClass};
use rhai::Dynamic;
use smallvec::SmallVec;

use super::effects::{self, Cell, Stop};
use super::firing::{Bindings, CallState, Held, OpenFiring, Stage, error_value};
use super::network::World;
use super::section::{Context, Made};
use super::{Halt, TRACE, WorkingMemory};
use crate::Value;
use crate::expression::Bound;
use crate::scripts::{Argument, Handle, Script, Source, Thrown, too_slow};
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

    /// The facts of a full match and their versions, in the order of the clauses.
    pub(super) fn bound_facts(&self, token: u32) -> SmallVec<[(u64, u32); 3]> {
        let store = &self.context().store;
        let facts = self.network.facts_of(self.world(), token);
        facts
            .iter()
            .map(|at| store.get(*at))
            .map(|fact| (fact.id, fact.version))
            .collect()
    }

    /// What the names stand for that the rule's sections use.
    fn bindings(&mut self, token: u32, rule: u32) -> Bindings {
        let rules = &*self.rules;
        let store = &self.context.as_ref().expect("no script runs").store;
        let world = World { rules, store };
        let chain = &rules.plan.chains[rule as usize];
        let mut bindings = Bindings::new();
        for level in &rules.rules[rule as usize].bound {
            let depth = chain.depths[*level as usize];
            let at = self.network.ancestor(world, token, depth);
            let held = match self.network.held(world, at) {
                Bound::Fact(at) => Held::Fact(store.get(at).id),
                Bound::Value(value) => Held::Value(value),
                Bound::Nothing => continue,
                Bound::Collected(_) => {
                    let join = &rules.plan.joins[chain.joins[depth as usize] as usize];
                    let facts = self.network.collected(world, join, self.network.parent(at));
                    Held::Facts(facts.into_iter().map(|at| store.get(at).id).collect())
                }
            };
            bindings.push((*level, held));
        }
        bindings
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

    /// Runs the native form of a section; when it is unsure the section stands as it has begun.
    fn run_native(&mut self, script: &Script, firing: &OpenFiring) -> Result<(), Stop> {
        let steps = script.steps.as_ref().ok_or(Stop::Unsure)?;
        let context = self.context_mut();
        let draws = context.draws;
        let cells = script.arguments.iter();
        let cells = cells.map(|argument| cell(argument, firing, context)).collect();
        let ran = effects::run(steps, context, cells);
        if ran.is_err() {
            context.roll_back();
            context.draws = draws;
            context.fail_fast = firing.fail_fast;
        }
        ran
    }

    fn run_script(&mut self, script: &Script, firing: &OpenFiring) -> Result<(), Thrown> {
        let arguments = arguments(script, firing);
        let context = self.context.take().expect("no script runs");
        self.port.put(context);
        let ran = self.rules.scripts.run(script, &self.port, arguments);
        self.context = self.port.take();
        ran
    }

    /// Runs a section; what it has done is kept in the context until it is committed, or undone when it throws.
    pub(super) fn run_section(&mut self, firing: &OpenFiring, section: Section) -> Result<(), Thrown> {
        let rules = Arc::clone(&self.rules);
        let script = rules.rules[firing.rule as usize]
            .script(section)
            .expect("the caller knows that it exists");
        self.begin(section);
        self.context_mut().fail_fast = firing.fail_fast;
        let ran = match self.run_native(script, firing) {
            Ok(()) => Ok(()),
            Err(Stop::Unsure) => self.run_script(script, firing),
            Err(Stop::Slow) => Err(Thrown {
                message: too_slow(rules.limits.section_ms),
                place: None,
            }),
        };
        let context = self.context_mut();
        if ran.is_err() {
            context.roll_back();
        }
        self.resting |= self.context().halting;
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

/// What a name of the section stands for that is no bound fact.
fn given(argument: &Argument, firing: &OpenFiring) -> Value {
    let result = |call: &CallState| match &call.outcome {
        Some(Ok(value)) => value.clone(),
        _ => Value::Null,
    };
    match argument.source {
        Source::Level => Value::Null,
        Source::Result => firing.calls.first().map_or(Value::Null, result),
        Source::Results if firing.failure().is_none() => Value::list(firing.calls.iter().map(result)),
        Source::Results => {
            Value::list((firing.calls.iter()).filter(|call| call.call.seq > 0).map(
                |call| match &call.outcome {
                    Some(Ok(value)) => Value::map([("ok", Value::Bool(true)), ("result", value.clone())]),
                    Some(Err(error)) => {
                        Value::map([("ok", Value::Bool(false)), ("error", error_value(error))])
                    }
                    None => Value::Null,
                },
            ))
        }
        Source::Error => firing.failure().map_or(Value::Null, error_value),
    }
}

fn held<'f>(argument: &Argument, firing: &'f OpenFiring) -> Option<&'f Held> {
    let mut bindings = firing.bindings.iter();
    bindings
        .find(|(at, _)| argument.source == Source::Level && *at as usize == argument.level)
        .map(|(_, held)| held)
}

/// An argument of a native section.
fn cell(argument: &Argument, firing: &OpenFiring, context: &Context) -> Cell {
    match held(argument, firing) {
        Some(Held::Fact(id)) => Cell::Fact(effects::Held {
            id: *id,
            place: context.store.find(*id),
        }),
        Some(Held::Value(value)) => Cell::Value(value.clone()),
        Some(Held::Facts(facts)) => Cell::Facts(facts.clone()),
        None => Cell::Value(given(argument, firing)),
    }
}

/// The arguments of a section's script, in the order of its parameters.
fn arguments(script: &Script, firing: &OpenFiring) -> Vec<Dynamic> {
    let arguments = script.arguments.iter();
    arguments
        .map(|argument| match held(argument, firing) {
            Some(Held::Fact(id)) => Dynamic::from(Handle(*id)),
            Some(Held::Value(value)) => value.to_dynamic(),
            Some(Held::Facts(facts)) => facts
                .iter()
                .map(|id| Dynamic::from(Handle(*id)))
                .collect::<rhai::Array>()
                .into(),
            None => given(argument, firing).to_dynamic(),
        })
        .collect()
}
