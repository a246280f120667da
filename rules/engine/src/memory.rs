//! One run's memory: its facts, the matches among them, and the firings that wait.
//!
//! A turn applies events, fires rules until none is left, and says what has changed. The memory does no I/O and reads no
//! clock; a host keeps the deltas and gives them back to [`WorkingMemory::restore`].

mod codec;
pub(crate) mod effects;
mod explain;
mod fire;
mod firing;
mod network;
pub(crate) mod section;
mod shared;
mod stops;
pub(crate) mod store;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_types::{CallId, RunId};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

pub use codec::RestoreError;
pub(crate) use codec::schema;
pub use explain::{ClauseReport, Explanation, Fired, NearMiss, UnknownRule};

use crate::Value;
use crate::expression::Bound;
use crate::ruleset::RuleSet;
use crate::scripts::Port;
use crate::turn::{
    Change, Effect, Event, FactChange, FactId, Fault, FiringRecord, OpenCall, Outcome, Section, Stopped,
    Stops, Turn,
};
use firing::{Bindings, CallState, Held, OpenFiring};
use network::{Batch, Network, World};
use section::{Context, Made, Write};
use shared::Unmatched;
use store::{FROM_REQUEST, Fact, SHARED_FIRST};

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
    /// The network has been dropped; see `rest`.
    at_rest: bool,
    batch: Batch,
    /// What the section that commits has written; kept for their memory.
    updates: Vec<Update>,
    retracted: Vec<(u64, u32)>,
    firings: BTreeMap<u64, OpenFiring>,
    calls: FxHashMap<CallId, (u64, u32)>,
    pins: FxHashMap<u64, u32>,
    next_firing: u64,
    outstanding: u64,
    halted: Option<Halt>,
    /// A section has called `halt`: no rule fires for the rest of the turn.
    resting: bool,
    /// The revision of the service's shared facts that the run has seen.
    seen: Option<u64>,
    /// A restored state that waits for the shared facts it has seen.
    unmatched: Option<Box<Unmatched>>,
    /// Before which activation the turn has stopped.
    stopped: Option<Stopped>,
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
            network: Network::new(),
            at_rest: false,
            batch: Batch::default(),
            updates: Vec::new(),
            retracted: Vec::new(),
            firings: BTreeMap::new(),
            calls: FxHashMap::default(),
            pins: FxHashMap::default(),
            next_firing: 1,
            outstanding: 0,
            halted: None,
            resting: false,
            seen: None,
            unmatched: None,
            stopped: None,
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
        let live = self.context().store.live().map(|(_, fact)| fact);
        let mut facts: Vec<_> = live.filter(|fact| fact.id < SHARED_FIRST).collect();
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
                priority: call.made.options().and_then(|options| options.priority),
                timeout_ms: call.made.options().and_then(|options| options.timeout_ms),
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
        self.turn_until(turn, &Stops::default())
    }

    /// As [`WorkingMemory::turn`], and stops before what `stops` says; [`Outcome::stopped`] is the activation that would
    /// fire next. What was not fired waits for the next turn.
    #[must_use]
    pub fn turn_until(&mut self, turn: Turn, stops: &Stops<'_>) -> Outcome {
        let rejected = self.load(turn);
        let fault = self.fire_until(stops);
        self.outcome(rejected, fault)
    }

    /// Applies the events in order and fires nothing: the first half of [`WorkingMemory::turn`], for measuring and for
    /// looking at what would fire. Gives the refused events: index and reason.
    pub fn load(&mut self, turn: Turn) -> Vec<(usize, String)> {
        self.journal.first_firing = self.next_firing;
        let context = self.context_mut();
        context.seq = turn.seq;
        context.now_ms = turn.now_ms;
        context.draws = 0;
        self.resting = false;
        let shared = turn.events.iter().find_map(|event| match event {
            Event::Shared(shared) => Some(Arc::clone(shared)),
            _ => None,
        });
        self.see(shared.as_deref());
        if let Some(context) = &self.context {
            let world = World {
                rules: &self.rules,
                store: &context.store,
            };
            self.network.tell(world, turn.now_ms);
        }
        let mut rejected = Vec::new();
        for (at, event) in turn.events.into_iter().enumerate() {
            if let Err(why) = self.apply(event) {
                rejected.push((at, why));
            }
        }
        rejected
    }

    /// Fires rules until none is left: what [`WorkingMemory::turn`] does after the events, without the delta.
    pub fn fire_loaded(&mut self) -> Option<Fault> {
        self.fire_until(&Stops::default())
    }

    /// Fires at most `count` activations, whatever the bound of a turn is; true when there may be more. For measuring.
    pub fn fire_some(&mut self, count: u64) -> bool {
        for _ in 0..count {
            if self.halted.is_some() || self.resting {
                return false;
            }
            match self.next_activation() {
                Some(token) => self.fire(token),
                None => return false,
            }
        }
        true
    }

    /// The rules that have activations waiting to fire, and how many.
    #[must_use]
    pub fn waiting_by_rule(&self) -> Vec<(String, u64)> {
        let mut counts = BTreeMap::new();
        for pending in self.network.pending(self.world()) {
            *counts.entry(pending.rule).or_insert(0) += 1;
        }
        let name = |rule: u32| self.rules.rules[rule as usize].name.to_string();
        counts
            .into_iter()
            .map(|(rule, count)| (name(rule), count))
            .collect()
    }

    /// Takes what was recorded of firings and changes since the last outcome, so that it does not grow. For measuring:
    /// the next outcome does not tell of it.
    pub fn take_records(&mut self) -> (Vec<FiringRecord>, Vec<FactChange>) {
        (
            std::mem::take(&mut self.journal.firings),
            std::mem::take(&mut self.journal.changes),
        )
    }

    /// What has happened since the last outcome, with the delta.
    #[must_use]
    pub fn outcome(&mut self, rejected: Vec<(usize, String)>, fault: Option<Fault>) -> Outcome {
        self.warn_of_failed_conditions();
        let delta = self.delta();
        let effects = self.context_mut().take_effects();
        let next_wake_ms = self.network.next_wake_ms();
        let quiescent = fault.is_none() && self.network.waiting() == 0;
        self.rest();
        self.batch.shrink();
        self.updates = Vec::new();
        self.retracted = Vec::new();
        self.journal.trace = Vec::new();
        let context = self.context_mut();
        context.store.shrink();
        context.writes = Vec::new();
        context.inserted = Vec::new();
        context.updated = Vec::new();
        context.made = Vec::new();
        context.updated_at = FxHashMap::default();
        Outcome {
            delta,
            effects,
            firings: std::mem::take(&mut self.journal.firings),
            changes: std::mem::take(&mut self.journal.changes),
            rejected,
            quiescent,
            outstanding: self.outstanding,
            stopped: self.stopped.take(),
            next_wake_ms: if self.halted.is_none() && fault.is_none() {
                next_wake_ms
            } else {
                None
            },
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

    fn next_activation(&mut self) -> Option<u32> {
        let world = World {
            rules: &self.rules,
            store: &self.context.as_ref().expect("no script runs").store,
        };
        self.network.next(world)
    }

    fn fire_until(&mut self, stops: &Stops<'_>) -> Option<Fault> {
        let watching = stops.all || !stops.rules.is_empty();
        while self.halted.is_none() && !self.resting {
            if watching && self.journal.fired >= stops.free && self.stops_here(stops) {
                break;
            }
            let Some(token) = self.next_activation() else {
                break;
            };
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
            Event::Remake => self.remake(),
            Event::RetryFailed => self.retry_failed()?,
            // Seen before all others.
            Event::Shared(_) => {}
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

    // ---- firing ----

    fn world(&self) -> World<'_> {
        World {
            rules: &self.rules,
            store: &self.context().store,
        }
    }

    /// The facts of a full match and their versions, in the order of the clauses.
    fn bound_facts(&self, token: u32) -> SmallVec<[(u64, u32); 3]> {
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

    // ---- sections ----

    fn begin(&mut self, section: Section) {
        self.context_mut().begin(section);
    }

    /// Takes in what a section has written.
    fn commit(&mut self, writer: u32) {
        let mut context = self.context.take().expect("no script runs");
        if context.failed {
            self.halted = self.halted.or(Some(Halt::Failed));
        }
        let rules = Arc::clone(&self.rules);
        context.store.next_id += u64::try_from(context.inserted.len()).unwrap_or(0);
        // One instant for all that a section does: its facts are equally new, and the older ones go first.
        context.store.clock += 1;
        let mut writes = std::mem::take(&mut context.writes);
        let mut updates = std::mem::take(&mut self.updates);
        for write in writes.drain(..) {
            match write {
                Write::Insert(at) => {
                    if context.inserted[at].kept {
                        self.insert(&rules, &mut context, at, writer);
                    }
                }
                Write::Update(at) => {
                    if let Some(update) = self.update(&rules, &mut context, at, writer) {
                        updates.push(update);
                    }
                }
                Write::Retract(id) => self.retract(&rules, &context, id),
            }
        }
        context.writes = writes;
        self.step(&rules, &mut context, &mut updates);
        self.updates = updates;
        self.network.settle(World {
            rules: &rules,
            store: &context.store,
        });
        self.context = Some(context);
    }

    /// Takes the changes of a batch apart and puts them together again.
    fn step(&mut self, rules: &RuleSet, context: &mut Context, updates: &mut Vec<Update>) {
        let store = &context.store;
        self.network.withdraw(World { rules, store }, &mut self.batch);
        for update in updates.drain(..) {
            for (slot, value) in update.slots {
                context.store.set(update.place, slot, value, update.stamp);
            }
        }
        for (id, place) in self.retracted.drain(..) {
            let fact = context.store.remove(place);
            if !fact.fresh {
                self.journal.gone.push(id);
            }
            if self.pins.contains_key(&id) {
                context.ghosts.insert(id, fact);
            }
        }
        let store = &context.store;
        self.network.offer(World { rules, store }, &mut self.batch);
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
        let stamp = context.store.clock;
        let fact = Fact {
            id,
            kind,
            version: 1,
            writer,
            slots,
            inserted: stamp,
            later: Box::default(),
            live: true,
            dirty: 0,
            fresh: true,
        };
        let place = context.store.add(fact);
        self.journal.dirty.push(id);
        self.changed(rules, id, kind, Change::Inserted);
        let store = &context.store;
        self.network
            .plan_insert(World { rules, store }, &mut self.batch, place);
    }

    fn update(&mut self, rules: &RuleSet, context: &mut Context, at: usize, writer: u32) -> Option<Update> {
        let id = context.updated[at].id;
        let place = context.updated[at].place;
        let mut slots = std::mem::take(&mut context.updated[at].slots);
        let fact = context.store.get(place);
        slots.retain(|(slot, value)| fact.slots[*slot] != *value);
        let mask = slots.iter().fold(0, |mask, (slot, _)| mask | 1_u64 << *slot);
        if mask == 0 {
            return None;
        }
        let kind = fact.kind;
        // What the section has written before it retracted the fact is only seen by firings that are open.
        if !context.is_retracted(id) {
            self.network.plan_update(
                rules,
                &mut context.store,
                &mut self.batch,
                place,
                mask,
                &mut slots,
            );
        }
        let stamp = context.store.clock;
        let fact = context.store.get_mut(place);
        if fact.dirty == 0 && !fact.fresh {
            self.journal.dirty.push(id);
        }
        fact.version += 1;
        fact.writer = writer;
        fact.dirty |= mask;
        self.changed(rules, id, kind, Change::Updated);
        Some(Update { place, slots, stamp })
    }

    fn retract(&mut self, rules: &RuleSet, context: &Context, id: u64) {
        let Some(place) = context.store.find(id) else {
            return;
        };
        let store = &context.store;
        let kind = store.get(place).kind;
        self.network
            .plan_retract(World { rules, store }, &mut self.batch, place);
        self.retracted.push((id, place));
        self.changed(rules, id, kind, Change::Retracted);
    }
}

/// A change of a fact that is planned and not yet made.
#[derive(Debug)]
struct Update {
    place: u32,
    slots: SmallVec<[(usize, Value); 2]>,
    stamp: u64,
}
