//! The world around a run: a virtual clock, functions that answer as the scenario says, timers, people.
//!
//! Whatever is due at one instant reaches the run in one turn, in the order in which it was arranged. The same scenario
//! always gives the same trace.

mod calls;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use celesta_engine::{Effect, Event, Outcome, Section, Turn, WorkingMemory};
use celesta_types::{CallId, ErrorClass, RunId, Timestamp};
use serde_json::Value;

use super::read::{Callee, Injected, Scenario, Start};
use super::template::{Names, shown};
use super::trace::{State, Trace};
use crate::bundle::Bundle;
use shared::Service;
pub(super) use shared::Sharing;

/// The instant at which every scenario begins: 2026-01-01T00:00:00Z.
const BEGIN_MS: i64 = 1_767_225_600_000;
/// Turns of one scenario: beyond that its rules keep each other busy for ever.
const TURNS_MAX: u64 = 100_000;
/// Ten years of virtual time: beyond that a scenario waits for something that repeats itself.
const ELAPSED_MS_MAX: i64 = 3_650 * 86_400_000;
/// Turns for the time's sake alone, one after the other: rules with `every` go on for as long as their run.
const WAKES_MAX: usize = 100;

/// What will happen at an instant.
enum Due {
    Event(Event),
    Sharing(Sharing),
    Attempt {
        call: CallId,
        attempt: u32,
    },
    Failed {
        call: CallId,
        attempt: u32,
        class: ErrorClass,
        message: String,
    },
    Succeeded {
        call: CallId,
        result: Value,
    },
    Timer {
        call: CallId,
    },
}

/// A call that is awaited.
struct Call {
    callee: Callee,
    input: Value,
    timeout_ms: Option<i64>,
}

struct World<'s> {
    bundle: &'s Bundle,
    scenario: &'s Scenario,
    memory: WorkingMemory,
    now_ms: i64,
    due: BTreeMap<(i64, u64), Due>,
    arranged: u64,
    calls: BTreeMap<CallId, Call>,
    timers: BTreeSet<CallId>,
    used: Vec<u64>,
    /// When a condition on the time changes next.
    wake_at: Option<i64>,
    service: Service,
    /// Whether a shared fact has changed since the last turn.
    shared_changed: bool,
    trace: Trace,
}

/// Plays a scenario to its end.
pub(super) fn play(bundle: &Bundle, scenario: &Scenario) -> Trace {
    let run = RunId::new(Timestamp::from_millis(BEGIN_MS), 1);
    let rules = &bundle.workflows[&scenario.workflow];
    let mut world = World {
        bundle,
        scenario,
        memory: WorkingMemory::new(rules, run),
        now_ms: BEGIN_MS,
        due: BTreeMap::new(),
        arranged: 0,
        calls: BTreeMap::new(),
        timers: BTreeSet::new(),
        used: vec![0; scenario.answers.len()],
        wake_at: None,
        service: Service::default(),
        shared_changed: false,
        trace: Trace::new(run),
    };
    world.begin();
    world.go();
    world.end()
}

impl World<'_> {
    fn arrange(&mut self, at_ms: i64, due: Due) {
        self.arranged += 1;
        self.due.insert((at_ms.max(self.now_ms), self.arranged), due);
    }

    fn begin(&mut self) {
        let scenario = self.scenario;
        let names = Names {
            run: self.trace.run,
            input: None,
        };
        for (fact_type, value) in &scenario.shared {
            self.arrange_fact(BEGIN_MS, fact_type, value);
        }
        match &scenario.start {
            Start::Request { operation, input } => match names
                .fill(input)
                .and_then(|input| self.request(operation, &input))
            {
                Ok(event) => self.arrange(BEGIN_MS, Due::Event(event)),
                Err(message) if scenario.expect.refused.is_some() => self.trace.refused = Some(message),
                Err(message) => self.trace.broken.push(message),
            },
            Start::Facts { facts } => {
                for (fact_type, value) in facts {
                    self.arrange_fact(BEGIN_MS, fact_type, value);
                }
            }
        }
        for inject in &scenario.injects {
            let at_ms = BEGIN_MS.saturating_add(inject.after_ms);
            match &inject.what {
                Injected::Fact(fact_type, value) => self.arrange_fact(at_ms, fact_type, value),
                Injected::Cancel(reason) => self.arrange(
                    at_ms,
                    Due::Event(Event::Cancel {
                        reason: reason.clone(),
                    }),
                ),
                Injected::Retry => self.arrange(at_ms, Due::Event(Event::RetryFailed)),
                Injected::Update(fact, value) => match self.filled(value) {
                    Ok(value) => self.arrange(at_ms, Due::Sharing(Sharing::Update(*fact, value))),
                    Err(message) => self.trace.broken.push(format!("shared fact {fact}: {message}")),
                },
                Injected::Retract(fact) => self.arrange(at_ms, Due::Sharing(Sharing::Retract(*fact))),
            }
        }
    }

    fn request(&self, operation: &str, input: &Value) -> Result<Event, String> {
        let operation = &self.bundle.operations[operation];
        let body = input.to_string();
        if let Err(violations) = operation.validate(body.as_bytes()) {
            let list: Vec<String> = violations.iter().map(|one| format!("\n{one}")).collect();
            return Err(format!("input: the request would be refused{}", list.concat()));
        }
        operation
            .request_event(self.trace.run, body.as_bytes())
            .map_err(|error| error.to_string())
    }

    fn filled(&self, value: &Value) -> Result<celesta_engine::Value, String> {
        let names = Names {
            run: self.trace.run,
            input: None,
        };
        let value = names.fill(value)?;
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn arrange_fact(&mut self, at_ms: i64, fact_type: &str, value: &Value) {
        let rules = self.memory.rules();
        let is_shared = rules.fact_type(fact_type).is_some_and(|known| known.shared);
        match self.filled(value) {
            Ok(value) if is_shared => {
                let insert = Sharing::Insert(fact_type.to_owned(), value);
                self.arrange(at_ms, Due::Sharing(insert));
            }
            Ok(value) => self.arrange(
                at_ms,
                Due::Event(Event::Insert {
                    fact_type: Arc::from(fact_type),
                    value,
                }),
            ),
            Err(message) => self.trace.broken.push(format!("fact {fact_type}: {message}")),
        }
    }

    /// When something happens next: something that is due, or a condition on the time.
    fn next(&self) -> Option<i64> {
        let due = self.due.first_key_value().map(|(&(at_ms, _), _)| at_ms);
        due.into_iter().chain(self.wake_at).min()
    }

    /// Turn after turn until nothing is due.
    fn go(&mut self) {
        let mut wakes = 0;
        while let Some(at_ms) = self.next() {
            if !self.trace.broken.is_empty() {
                return;
            }
            wakes = if self.due.is_empty() { wakes + 1 } else { 0 };
            if wakes > WAKES_MAX {
                return;
            }
            if self.trace.turns >= TURNS_MAX || at_ms - BEGIN_MS > ELAPSED_MS_MAX {
                let elapsed = Timestamp::from_millis(at_ms);
                self.trace.broken.push(format!(
                    "the run does not come to an end: {} turns, and it is {elapsed}",
                    self.trace.turns
                ));
                return;
            }
            self.now_ms = at_ms;
            let mut events = Vec::new();
            while let Some(entry) = self.due.first_entry() {
                if entry.key().0 != at_ms {
                    break;
                }
                let due = entry.remove();
                self.happen(due, &mut events);
            }
            if !events.is_empty()
                || self.shared_changed
                || self.wake_at.is_some_and(|wake_at| wake_at <= at_ms)
            {
                self.turn(events);
            }
        }
    }

    fn turn(&mut self, mut events: Vec<Event>) {
        self.trace.turns += 1;
        self.shared_changed = false;
        let cancel = events.iter().find_map(|event| match event {
            Event::Cancel { reason } => Some(reason.clone()),
            _ => None,
        });
        let retried = events.iter().any(|event| matches!(event, Event::RetryFailed));
        if self.trace.state == State::Quarantined || self.trace.state == State::Canceled {
            self.wake_at = None;
            return;
        }
        if retried && self.trace.state == State::Failed {
            self.trace.state = State::Running;
            self.trace.error = None;
        }
        let rules = self.memory.rules();
        if rules.reads_shared() {
            events.push(self.service.event(rules));
        }
        let outcome = self.memory.turn(Turn {
            seq: self.trace.turns,
            now_ms: self.now_ms,
            events,
        });
        if let Some(fault) = &outcome.fault {
            self.trace.state = State::Quarantined;
            self.trace.error = Some(fault.to_string());
            self.due.clear();
            self.wake_at = None;
            return;
        }
        self.settle(outcome, cancel);
    }

    fn settle(&mut self, outcome: Outcome, cancel: Option<String>) {
        // Never into the past: the world moves on with each turn.
        self.wake_at = outcome.next_wake_ms.map(|at| at.max(self.now_ms + 1));
        for (_, message) in &outcome.rejected {
            self.trace.broken.push(format!("a fact was refused: {message}"));
        }
        let rules = self.bundle.workflows[&self.scenario.workflow].rules();
        for firing in &outcome.firings {
            let rule = &rules[firing.rule];
            if let Some(message) = &firing.error {
                self.trace.threw.push(format!(
                    "the {} of \"{}\" threw: {message}",
                    firing.section.name(),
                    rule.name()
                ));
            }
            // A rule fires with its first section; what follows belongs to the same firing.
            let first = if rule.has(Section::Action) {
                Section::Action
            } else {
                Section::Reaction
            };
            if firing.section == first {
                self.trace.fired.push(rule.name().to_owned());
            }
        }
        let active = matches!(self.trace.state, State::Running | State::Idle);
        let mut ended = false;
        for effect in outcome.effects {
            match effect {
                Effect::Call {
                    call,
                    function,
                    input_json,
                    options,
                    ..
                } => {
                    let manifest = &self.bundle.functions[&*function];
                    let timeout_ms = options
                        .timeout_ms
                        .or_else(|| i64::try_from(manifest.timeout_ms).ok());
                    self.open(
                        call,
                        Callee::Function(function.to_string()),
                        &input_json,
                        options.delay_ms,
                        timeout_ms,
                    );
                }
                Effect::Request {
                    call,
                    target,
                    input_json,
                    options,
                } => {
                    self.open(
                        call,
                        Callee::Request(target.to_string()),
                        &input_json,
                        options.delay_ms,
                        None,
                    );
                }
                Effect::Timer { call, at_ms } => {
                    self.timers.insert(call);
                    self.arrange(at_ms, Due::Timer { call });
                }
                Effect::CancelCalls { calls } => {
                    for call in calls {
                        self.calls.remove(&call);
                        self.timers.remove(&call);
                    }
                }
                Effect::Complete { result_json } => {
                    self.trace.result = serde_json::from_str(&result_json).unwrap_or(Value::Null);
                    self.trace.state = State::Completed;
                    self.trace.error = None;
                    ended = true;
                }
                Effect::Fail { message, .. } => {
                    self.trace.error = Some(message);
                    self.trace.state = State::Failed;
                    ended = true;
                }
                Effect::Progress { fraction, .. } => self.trace.progress = Some(fraction),
                // Events and logs change nothing here; neither do effects of a later engine.
                _ => {}
            }
        }
        // A completed run is not canceled: its result stands.
        let cancelable = matches!(self.trace.state, State::Running | State::Idle | State::Failed);
        if let Some(reason) = cancel.filter(|_| cancelable) {
            self.trace.state = State::Canceled;
            self.trace.error = Some(reason);
            ended = true;
        } else if !ended && active {
            self.trace.state = if outcome.outstanding == 0 {
                State::Idle
            } else {
                State::Running
            };
        }
        if ended || active {
            self.trace.elapsed_ms = self.now_ms - BEGIN_MS;
        }
    }

    fn end(mut self) -> Trace {
        for fact in self.memory.facts() {
            let slots = fact.slots.iter();
            let value = slots
                .map(|(name, value)| {
                    (
                        (*name).to_owned(),
                        serde_json::to_value(value).unwrap_or(Value::Null),
                    )
                })
                .collect();
            self.trace
                .facts
                .push((fact.fact_type.to_owned(), Value::Object(value)));
        }
        let expect = &self.scenario.expect;
        let wanted = expect
            .fired
            .iter()
            .chain(&expect.fired_exactly)
            .flatten()
            .chain(expect.counts.keys());
        for rule in wanted {
            let shared = self.service.seen_by(self.memory.rules());
            if let Ok(explanation) = self.memory.explain_seeing(rule, Some(&shared)) {
                self.trace
                    .explanations
                    .insert(rule.clone(), explanation.to_string());
            }
        }
        for call in self.calls.values() {
            let (Callee::Function(name) | Callee::Request(name)) = &call.callee;
            self.trace
                .awaited
                .push(format!("`{name}` with the input {}", shown(&call.input)));
        }
        self.trace
    }
}
