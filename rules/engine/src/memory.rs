//! One run's memory: its facts, the matches among them, and the firings that wait.
//!
//! A turn applies events, fires rules until none is left, and says what has changed. The memory does no I/O and reads no
//! clock; a host keeps the deltas and gives them back to [`WorkingMemory::restore`].

mod codec;
mod commit;
pub(crate) mod effects;
mod explain;
mod fire;
mod firing;
mod network;
pub(crate) mod section;
mod shared;
mod stops;
pub(crate) mod store;
mod turn;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_types::{CallId, RunId};
use rustc_hash::FxHashMap;

pub use codec::RestoreError;
pub(crate) use codec::schema;
pub use explain::{ClauseReport, Explanation, Fired, NearMiss, UnknownRule};

use crate::Value;
use crate::ruleset::RuleSet;
use crate::scripts::Port;
use crate::turn::{FactChange, FactId, FiringRecord, OpenCall, Stopped};
use commit::Update;
use firing::{CallState, OpenFiring};
use network::{Batch, Network, World};
use section::{Context, Made};
use shared::Unmatched;
use store::{Fact, SHARED_FIRST};

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

    fn world(&self) -> World<'_> {
        World {
            rules: &self.rules,
            store: &self.context().store,
        }
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
}
