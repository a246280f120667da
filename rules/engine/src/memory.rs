//! One run's memory: its facts, the matches among them, and the firings that wait.
//!
//! A turn applies events, fires rules until none is left, and says what has changed. The memory does no I/O and reads no
//! clock; a host keeps the deltas and gives them back to [`WorkingMemory::restore`].

mod codec;
mod explain;
mod firing;
mod network;
pub(crate) mod section;
pub(crate) mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_types::{CallId, ErrorClass, RunId};
use rhai::Dynamic;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

pub use codec::RestoreError;
pub(crate) use codec::schema;
pub use explain::{ClauseReport, Explanation, NearMiss, UnknownRule};

use crate::Value;
use crate::expression::Bound;
use crate::ruleset::RuleSet;
use crate::scripts::{Handle, Port, Source, Thrown};
use crate::turn::{
    CallError, Change, Effect, Event, FactChange, FactId, Fault, FiringRecord, OpenCall, Outcome, Section,
    Turn,
};
use firing::{Bindings, CallState, Held, OpenFiring, Stage, error_value};
use network::{NONE, Network, World};
use section::{Context, Made, Write};
use store::{FROM_REQUEST, Fact};

/// Why no rule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    Failed,
    Canceled,
}

/// One run's memory.
#[derive(Debug)]
pub struct WorkingMemory {
    rules: Arc<RuleSet>,
    run: RunId,
    /// Away only while a script runs.
    context: Option<Box<Context>>,
    port: Port,
    network: Network,
    firings: BTreeMap<u64, OpenFiring>,
    calls: FxHashMap<CallId, (u64, u32)>,
    pins: FxHashMap<u64, u32>,
    next_firing: u64,
    outstanding: u64,
    halted: Option<Halt>,
    journal: Journal,
}

/// What the delta of this turn has to say.
#[derive(Debug, Default)]
struct Journal {
    /// Changed facts in the order of their first change.
    dirty: Vec<u64>,
    gone: Vec<u64>,
    /// Firings to write whole.
    written: std::collections::BTreeSet<u64>,
    /// Firings from earlier turns that are over.
    closed: Vec<u64>,
    outcomes: Vec<(u64, u32)>,
    /// Firings below this number were known before the turn.
    first_firing: u64,
    /// The schema that the stored state was written with.
    schema: Option<Arc<[u8]>>,
    /// Whether the stored state names activations that are still to fire.
    pending: bool,
    changes: Vec<FactChange>,
    firings: Vec<FiringRecord>,
    fired: u32,
    /// The latest rules that fired, as a ring.
    trace: Vec<u32>,
}

/// How many firings are kept to name a cycle.
const TRACE: usize = 64;

/// One fact as a host may look at it.
#[derive(Debug, Clone)]
pub struct FactView<'a> {
    /// Its number.
    pub id: FactId,
    /// Its type.
    pub fact_type: &'a str,
    /// How often it was written: 1 when it is new.
    pub version: u32,
    /// The fields in the order of the file.
    pub slots: Vec<(&'a str, &'a Value)>,
    /// The rule that wrote it last, or `request`.
    pub written_by: &'a str,
}

impl WorkingMemory {
    /// The memory of a new run.
    #[must_use]
    pub fn new(rules: &Arc<RuleSet>, run: RunId) -> Self {
        let mut memory = Self::empty(rules, run);
        if let Some(context) = &memory.context {
            memory.network.start(World {
                rules,
                store: &context.store,
            });
        }
        memory
    }

    fn empty(rules: &Arc<RuleSet>, run: RunId) -> Self {
        let mut context = Box::new(Context::new(Arc::clone(rules), run));
        context.store.next_id = 1;
        Self {
            rules: Arc::clone(rules),
            run,
            context: Some(context),
            port: Port::default(),
            network: Network::new(rules),
            firings: BTreeMap::new(),
            calls: FxHashMap::default(),
            pins: FxHashMap::default(),
            next_firing: 1,
            outstanding: 0,
            halted: None,
            journal: Journal::default(),
        }
    }

    /// The run.
    #[must_use]
    pub const fn run(&self) -> RunId {
        self.run
    }

    /// The rules in force.
    #[must_use]
    pub const fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    fn context(&self) -> &Context {
        self.context.as_ref().expect("no script runs")
    }

    fn context_mut(&mut self) -> &mut Context {
        self.context.as_mut().expect("no script runs")
    }

    /// The facts by number.
    pub fn facts(&self) -> impl Iterator<Item = FactView<'_>> {
        let mut facts: Vec<_> = self.context().store.live().map(|(_, fact)| fact).collect();
        facts.sort_unstable_by_key(|fact| fact.id);
        facts.into_iter().map(|fact| self.view(fact))
    }

    fn view<'a>(&'a self, fact: &'a Fact) -> FactView<'a> {
        let fact_type = &self.rules.types[fact.kind];
        FactView {
            id: FactId(fact.id),
            fact_type: &fact_type.name,
            version: fact.version,
            slots: fact_type
                .fields
                .iter()
                .map(|field| &*field.name)
                .zip(fact.slots.iter())
                .collect(),
            written_by: usize::try_from(fact.writer)
                .ok()
                .and_then(|writer| self.rules.rules.get(writer))
                .map_or("request", |rule| &rule.name),
        }
    }

    /// The open calls, requests and timers, in the order in which they were made.
    pub fn open_calls(&self) -> impl Iterator<Item = OpenCall> {
        let mut open: Vec<OpenCall> = (self.firings.values())
            .flat_map(|firing| firing.calls.iter().map(move |call| (firing, call)))
            .filter(|(_, call)| call.outcome.is_none())
            .map(|(firing, call)| OpenCall {
                call: call.call,
                target: call.made.target(),
                at_ms: if let Made::Timer { at_ms } = call.made {
                    Some(at_ms)
                } else {
                    None
                },
                rule: Arc::clone(&self.rules.rules[firing.rule as usize].name),
            })
            .collect();
        open.sort_unstable_by_key(|open| open.call);
        open.into_iter()
    }

    /// The bytes the memory takes, roughly: for a cache's accounts.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let firings: usize = (self.firings.values())
            .map(|firing| {
                size_of::<OpenFiring>() + 32 + firing.calls.capacity() * (size_of::<CallState>() + 128)
            })
            .sum();
        size_of::<Self>()
            + size_of::<Context>()
            + self.context().store.bytes()
            + self.network.bytes()
            + firings
            + self.calls.capacity() * 33
            + self.pins.capacity() * 17
    }

    /// Applies the events in order, then fires rules until none is left.
    ///
    /// When the outcome has a fault, nothing of the turn counts and the memory must be dropped.
    #[must_use]
    pub fn turn(&mut self, turn: Turn) -> Outcome {
        self.journal.first_firing = self.next_firing;
        let context = self.context_mut();
        context.seq = turn.seq;
        context.now_ms = turn.now_ms;
        context.draws = 0;
        let mut rejected = Vec::new();
        for (at, event) in turn.events.into_iter().enumerate() {
            if let Err(why) = self.apply(event) {
                rejected.push((at, why));
            }
        }
        let fault = self.fire_all();
        self.warn_of_failed_conditions();
        let delta = self.delta();
        let effects = std::mem::take(&mut self.context_mut().effects);
        Outcome {
            delta,
            effects,
            firings: std::mem::take(&mut self.journal.firings),
            changes: std::mem::take(&mut self.journal.changes),
            rejected,
            quiescent: fault.is_none() && self.network.agenda.is_empty(),
            outstanding: self.outstanding,
            fault,
        }
    }

    fn warn_of_failed_conditions(&mut self) {
        let failures = std::mem::take(&mut self.network.failures);
        let Some((rule, why)) = self.network.failure.take() else {
            return;
        };
        let text = format!(
            "a condition of rule `{}` has no value and counts as false ({failures} times in this turn): {why}",
            self.rules.rules[rule as usize].name
        );
        // A log line beyond the bound on effects is dropped like any other.
        drop(self.context_mut().effect(Effect::Log { level: "warn", text }));
    }

    fn fire_all(&mut self) -> Option<Fault> {
        while self.halted.is_none() {
            let Some(token) = self.network.next() else { break };
            if self.journal.fired >= self.rules.limits.firings {
                let fault = Fault::FiringBudget {
                    firings: self.rules.limits.firings,
                    cycle: self.cycle(),
                };
                return Some(fault);
            }
            self.fire(token);
        }
        self.journal.fired = 0;
        self.journal.trace.clear();
        None
    }

    /// The shortest sequence of rules that the end of the trace repeats, or the rules seen there.
    fn cycle(&self) -> Vec<String> {
        let trace = &self.journal.trace;
        let start = usize::try_from(self.journal.fired).unwrap_or(0) % TRACE;
        let ordered: Vec<u32> = (0..trace.len())
            .map(|at| trace[(start + at) % trace.len()])
            .collect();
        let period = (1..=ordered.len() / 2).find(|period| {
            ordered
                .iter()
                .skip(*period)
                .zip(&ordered)
                .all(|(later, earlier)| later == earlier)
        });
        let mut rules: Vec<u32> = ordered[ordered.len() - period.unwrap_or(ordered.len())..].to_vec();
        if period.is_none() {
            rules.sort_unstable();
            rules.dedup();
        }
        rules
            .iter()
            .map(|rule| self.rules.rules[*rule as usize].name.to_string())
            .collect()
    }

    // ---- events ----

    fn apply(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Insert { fact_type, value } => {
                self.begin(Section::Action);
                self.context_mut().insert(&fact_type, &value)?;
                self.commit(FROM_REQUEST);
            }
            Event::Update { fact, version, value } => {
                self.check_version(fact, version)?;
                let Value::Map(map) = value else {
                    return Err("the fields to set are not a map".into());
                };
                self.begin(Section::Action);
                for (field, value) in map.iter() {
                    self.context_mut().write(fact.0, field, value.clone())?;
                }
                self.commit(FROM_REQUEST);
            }
            Event::Retract { fact, version } => {
                self.check_version(fact, version)?;
                self.begin(Section::Action);
                self.context_mut().retract(fact.0)?;
                self.commit(FROM_REQUEST);
            }
            Event::CallSucceeded { call, result } => self.answer(call, Ok(result))?,
            Event::CallFailed { call, error } => self.answer(call, Err(error))?,
            Event::TimerFired { call } => self.answer(call, Ok(Value::Null))?,
            Event::RetryFailed => self.retry_failed()?,
            Event::Cancel { reason } => self.cancel(&reason),
        }
        Ok(())
    }

    fn check_version(&self, fact: FactId, expected: Option<u32>) -> Result<(), String> {
        let store = &self.context().store;
        let at = store
            .find(fact.0)
            .ok_or_else(|| format!("there is no fact {fact}"))?;
        let version = store.get(at).version;
        match expected {
            Some(expected) if expected != version => {
                Err(format!("fact {fact} has version {version}, not {expected}"))
            }
            _ => Ok(()),
        }
    }

    fn answer(&mut self, call: CallId, outcome: Result<Value, CallError>) -> Result<(), String> {
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

    fn cancel_siblings(&mut self, number: u64) {
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

    fn retry_failed(&mut self) -> Result<(), String> {
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

    fn cancel(&mut self, reason: &str) {
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
        while self.network.next().is_some() {}
    }

    // ---- firing ----

    fn fire(&mut self, token: u32) {
        let rules = Arc::clone(&self.rules);
        let number = self.network.tokens[token as usize].rule;
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
    fn run_last(&mut self, firing: OpenFiring, section: Section, error: Option<CallError>) {
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

    fn open(&mut self, firing: OpenFiring) {
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

    fn close(&mut self, number: u64) {
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
    fn finish(&mut self, number: u64) {
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

    fn stop_at(&mut self, number: u64, stage: Stage) {
        if let Some(firing) = self.firings.get_mut(&number) {
            firing.stage = stage;
            self.journal.written.insert(number);
        }
    }

    /// Runs the reaction or the error section of a firing that waited.
    fn conclude(&mut self, number: u64, section: Section) {
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
    fn reissue(&mut self, number: u64, options: Option<&crate::CallOptions>) {
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

    /// The run has failed: rule, section and place are named.
    fn fail(&mut self, rule: u32, section: Section, thrown: &Thrown) {
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

    fn bound_facts(&self, mut token: u32) -> SmallVec<[(u64, u32); 3]> {
        let store = &self.context().store;
        let mut facts = SmallVec::new();
        while token != NONE {
            let state = &self.network.tokens[token as usize];
            if state.fact != NONE {
                let fact = store.get(state.fact);
                facts.push((fact.id, fact.version));
            }
            token = state.parent;
        }
        facts.reverse();
        facts
    }

    /// What the names stand for that the rule's sections use.
    fn bindings(&mut self, token: u32, rule: u32) -> Bindings {
        let rules = Arc::clone(&self.rules);
        let context = self.context.as_ref().expect("no script runs");
        let world = World {
            rules: &rules,
            store: &context.store,
        };
        let levels = self.network.levels(world, token, rule);
        let mut bindings = Bindings::new();
        for level in &rules.rules[rule as usize].bound {
            let held = match &levels[*level as usize] {
                Bound::Fact(at) => Held::Fact(context.store.get(*at).id),
                Bound::Value(value) => Held::Value(value.clone()),
                Bound::Nothing => continue,
                Bound::Collected(_) => {
                    let node = rules.rules[rule as usize].first + level;
                    let mut up = token;
                    while self.network.tokens[up as usize].node != node {
                        up = self.network.tokens[up as usize].parent;
                    }
                    let left = self.network.tokens[up as usize].parent;
                    let facts = self.network.collected(world, node, left);
                    Held::Facts(facts.into_iter().map(|at| context.store.get(at).id).collect())
                }
            };
            bindings.push((*level, held));
        }
        bindings
    }

    // ---- sections ----

    fn begin(&mut self, section: Section) {
        self.context_mut().begin(section);
    }

    /// Runs a section; what it has done is kept in the context until it is committed, or undone when it throws.
    fn run_section(&mut self, firing: &OpenFiring, section: Section) -> Result<(), Thrown> {
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

    /// Applies what the section has written.
    fn commit(&mut self, writer: u32) {
        let mut context = self.context.take().expect("no script runs");
        if context.failed {
            self.halted = self.halted.or(Some(Halt::Failed));
        }
        let rules = Arc::clone(&self.rules);
        context.store.next_id += u64::try_from(context.inserted.len()).unwrap_or(0);
        let mut writes = std::mem::take(&mut context.writes);
        for write in writes.drain(..) {
            match write {
                Write::Insert(at) => {
                    if context.inserted[at].kept {
                        self.insert(&rules, &mut context, at, writer);
                    }
                }
                Write::Update(at) => self.update(&rules, &mut context, at, writer),
                Write::Retract(id) => self.retract(&rules, &mut context, id),
            }
        }
        context.writes = writes;
        self.network.settle(World {
            rules: &rules,
            store: &context.store,
        });
        self.context = Some(context);
    }

    fn changed(&mut self, rules: &RuleSet, id: u64, kind: usize, change: Change) {
        let fact_type = Arc::clone(&rules.types[kind].name);
        self.journal.changes.push(FactChange {
            fact: FactId(id),
            fact_type,
            change,
        });
    }

    fn insert(&mut self, rules: &RuleSet, context: &mut Context, at: usize, writer: u32) {
        let inserted = &mut context.inserted[at];
        let slots = std::mem::take(&mut inserted.slots);
        let (id, kind) = (inserted.id, inserted.kind);
        let stamp = context.store.tick();
        let stamps = vec![stamp; slots.len() + 1].into();
        let fact = Fact {
            id,
            kind,
            version: 1,
            writer,
            slots,
            stamps,
            live: true,
            dirty: 0,
            fresh: true,
        };
        let place = context.store.add(fact);
        self.journal.dirty.push(id);
        self.changed(rules, id, kind, Change::Inserted);
        let world = World {
            rules,
            store: &context.store,
        };
        for node in &rules.listeners[kind] {
            self.network.offer(world, *node, place);
        }
    }

    fn update(&mut self, rules: &RuleSet, context: &mut Context, at: usize, writer: u32) {
        let id = context.updated[at].id;
        let Some(place) = context.store.find(id) else {
            return;
        };
        let fact = context.store.get(place);
        let slots = std::mem::take(&mut context.updated[at].slots);
        let mask: u64 = slots
            .iter()
            .filter(|(slot, value)| fact.slots[*slot] != *value)
            .map(|(slot, _)| 1 << slot)
            .sum();
        if mask == 0 {
            return;
        }
        let kind = fact.kind;
        let world = World {
            rules,
            store: &context.store,
        };
        let touched = |node: &&u32| rules.nodes[**node as usize].reads & mask != 0;
        for node in rules.listeners[kind].iter().filter(touched) {
            self.network.withdraw(world, *node, place);
        }
        let stamp = context.store.tick();
        let fact = context.store.get_mut(place);
        if fact.dirty == 0 && !fact.fresh {
            self.journal.dirty.push(id);
        }
        fact.version += 1;
        fact.writer = writer;
        fact.dirty |= mask;
        for (slot, value) in slots {
            if mask >> slot & 1 == 1 {
                fact.slots[slot] = value;
                fact.stamps[slot] = stamp;
            }
        }
        self.changed(rules, id, kind, Change::Updated);
        let world = World {
            rules,
            store: &context.store,
        };
        for node in rules.listeners[kind].iter().filter(touched) {
            self.network.offer(world, *node, place);
        }
    }

    fn retract(&mut self, rules: &RuleSet, context: &mut Context, id: u64) {
        let Some(place) = context.store.find(id) else {
            return;
        };
        let kind = context.store.get(place).kind;
        let world = World {
            rules,
            store: &context.store,
        };
        for node in &rules.listeners[kind] {
            self.network.withdraw(world, *node, place);
        }
        // The counters look at the fact no more: they were told above.
        let fact = context.store.remove(place);
        if !fact.fresh {
            self.journal.gone.push(id);
        }
        if self.pins.contains_key(&id) {
            context.ghosts.insert(id, fact);
        }
        self.changed(rules, id, kind, Change::Retracted);
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
