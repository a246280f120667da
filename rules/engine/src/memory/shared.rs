//! Shared facts in a run's memory: put back as the run has seen them, then brought up to date; and what the run's own
//! facts say of the shared facts that may concern it.

use std::collections::BTreeSet;
use std::hash::Hasher as _;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::network::World;
use super::store::{FROM_REQUEST, Fact, SHARED_FIRST};
use super::{Update, WorkingMemory};
use crate::expression::{Bound, Frame};
use crate::ruleset::NodeKind;
use crate::ruleset::interest::is_scripted;
use crate::shared::{SharedFacts, Standing};
use crate::{RuleSet, Value};

/// A run with more facts than this is interested in every shared fact of a type: its keys would be as many.
const FACTS_LOOKED_AT: usize = 4_096;
/// Keys of one run and shape; a run with more is interested in every fact of the type.
const KEYS_MAX: usize = 64;

/// A restored state that is not matched yet: it waits for the shared facts it has seen.
#[derive(Debug)]
pub(super) struct Unmatched {
    pub(super) quiet: Vec<bool>,
    pub(super) pending: Vec<(String, Vec<u64>)>,
}

/// A fact as a memory holds it. All shared facts are equally old to a run, so that a restored one fires in the same order.
fn held(standing: Standing<'_>) -> Fact {
    Fact {
        id: standing.id,
        kind: standing.kind,
        version: standing.version,
        writer: FROM_REQUEST,
        slots: standing.slots.into(),
        inserted: 0,
        later: Box::default(),
        live: true,
        dirty: 0,
        // Never told by a delta.
        fresh: true,
    }
}

impl WorkingMemory {
    /// The revision of the service's shared facts that the run has seen.
    #[must_use]
    pub const fn shared_seen(&self) -> Option<u64> {
        self.seen
    }

    /// Wakes a memory at rest, and shows it the shared facts as they are.
    pub(super) fn see(&mut self, shared: Option<&SharedFacts>) {
        if let (true, Some(shared), Some(seen)) = (self.at_rest, shared, self.seen) {
            let store = &mut self.context_mut().store;
            for standing in shared.at(seen) {
                store.add(held(standing));
            }
            self.keep_ghosts(shared);
        }
        self.wake();
        if let Some(shared) = shared {
            self.catch_up(shared);
        }
    }

    /// Facts that open firings bind and that are gone: their sections still read them.
    fn keep_ghosts(&mut self, shared: &SharedFacts) {
        let pinned: Vec<u64> = self
            .pins
            .keys()
            .filter(|id| **id >= SHARED_FIRST)
            .copied()
            .collect();
        let context = self.context_mut();
        for id in pinned {
            if context.store.find(id).is_none()
                && let Some(last) = shared.last(id)
            {
                context.ghosts.insert(id, held(last));
            }
        }
    }

    /// One step of change from what the memory holds to what there is.
    fn catch_up(&mut self, shared: &SharedFacts) {
        if self.seen == Some(shared.revision()) {
            return;
        }
        self.seen = Some(shared.revision());
        let rules = Arc::clone(&self.rules);
        let mut context = self.context.take().expect("no script runs");
        let mut gone: BTreeSet<u64> = context.store.shared().collect();
        let mut updates = std::mem::take(&mut self.updates);
        for standing in shared.at(shared.revision()) {
            gone.remove(&standing.id);
            let Some(place) = context.store.find(standing.id) else {
                let place = context.store.add(held(standing));
                let store = &context.store;
                let world = World { rules: &rules, store };
                self.network.plan_insert(world, &mut self.batch, place);
                continue;
            };
            let fact = context.store.get(place);
            if fact.version == standing.version {
                continue;
            }
            let changed = standing.slots.iter().enumerate();
            let mut slots: SmallVec<[(usize, Value); 2]> = changed
                .filter(|(slot, value)| fact.slots[*slot] != **value)
                .map(|(slot, value)| (slot, value.clone()))
                .collect();
            let mask = slots.iter().fold(0, |mask, (slot, _)| mask | 1_u64 << *slot);
            if mask != 0 {
                let (network, batch) = (&mut self.network, &mut self.batch);
                network.plan_update(&rules, &mut context.store, batch, place, mask, &mut slots);
            }
            context.store.get_mut(place).version = standing.version;
            updates.push(Update {
                place,
                slots,
                stamp: 0,
            });
        }
        for id in gone {
            if let Some(place) = context.store.find(id) {
                let store = &context.store;
                let world = World { rules: &rules, store };
                self.network.plan_retract(world, &mut self.batch, place);
                self.retracted.push((id, place));
            }
        }
        self.step(&rules, &mut context, &mut updates);
        self.updates = updates;
        self.network.settle(World {
            rules: &rules,
            store: &context.store,
        });
        self.context = Some(context);
    }

    /// What the run is interested in, sorted: keys as [`crate::Shape::key`] makes them of the shared facts that a rule of
    /// the run may match or may have matched. Of nothing, when no rule can fire.
    #[must_use]
    pub fn interests(&self) -> Vec<u64> {
        if self.halted.is_some() || self.rules.interests.is_empty() {
            return Vec::new();
        }
        let many = self.context().store.len() > FACTS_LOOKED_AT;
        let mut looked = Looked {
            memory: self,
            passing: FxHashMap::default(),
        };
        let mut found: BTreeSet<u64> = BTreeSet::new();
        for interest in &self.rules.interests {
            let shape = &self.rules.shapes[interest.shape];
            let any = || shape.any().hasher().finish();
            if many {
                found.insert(any());
                continue;
            }
            let node = |level: &usize| interest.first + level;
            if interest
                .needs
                .iter()
                .any(|level| looked.passing(node(level)).is_empty())
            {
                continue;
            }
            let levels = interest.source.map_or(0, |level| level + 1);
            let sources: Vec<Option<u32>> = match interest.source {
                None => vec![None],
                Some(level) => looked.passing(node(&level)).iter().map(|at| Some(*at)).collect(),
            };
            let mut keys = BTreeSet::new();
            for source in sources {
                let mut frame: Vec<Bound> = vec![Bound::Nothing; levels];
                if let (Some(at), Some(last)) = (source, frame.last_mut()) {
                    *last = Bound::Fact(at);
                }
                let frame = Frame {
                    rules: &self.rules,
                    store: &self.context().store,
                    levels: &frame,
                };
                let mut hasher = shape.hasher();
                let values = interest.keys.iter().map(|key| key.value(&frame));
                // What has no value equals nothing.
                let mut known = values.map(|value| value.map(|value| value.hash_into(&mut hasher)).is_ok());
                if known.all(|known| known) {
                    keys.insert(hasher.finish());
                }
                if keys.len() > KEYS_MAX {
                    keys = BTreeSet::from([any()]);
                    break;
                }
            }
            found.append(&mut keys);
        }
        found.into_iter().collect()
    }
}

/// The run's facts that pass the tests of a clause, looked for once.
struct Looked<'a> {
    memory: &'a WorkingMemory,
    passing: FxHashMap<usize, Vec<u32>>,
}

impl Looked<'_> {
    fn passing(&mut self, at: usize) -> &[u32] {
        let memory = self.memory;
        self.passing.entry(at).or_insert_with(|| {
            let node = &memory.rules.nodes[at];
            let store = &memory.context().store;
            let live = store.live().filter(|(_, fact)| Some(fact.kind) == node.fact_type);
            let mut frame: Vec<Bound> = vec![Bound::Nothing; node.level as usize + 1];
            let mut passing: Vec<u32> = Vec::new();
            for (place, _) in live {
                if let Some(last) = frame.last_mut() {
                    *last = Bound::Fact(place);
                }
                let frame = Frame {
                    rules: &memory.rules,
                    store,
                    levels: &frame,
                };
                if memory.rules.passes(at, &frame) {
                    passing.push(place);
                }
            }
            passing
        })
    }
}

impl RuleSet {
    /// Whether the fact of a frame passes the tests that a clause makes of it alone; tests that need the script engine are
    /// taken as passed.
    fn passes(&self, node: usize, frame: &Frame<'_>) -> bool {
        let tests = &self.nodes[node].alpha;
        (tests.iter()).all(|test| is_scripted(&test.expr) || test.expr.holds(frame).unwrap_or(false))
    }

    /// The clauses that a shared fact of these slots passes alone.
    fn wanting(&self, kind: usize, slots: &[Value]) -> impl Iterator<Item = usize> {
        let mut store = super::store::Store::default();
        let place = store.add(held(Standing {
            id: SHARED_FIRST,
            kind,
            version: 1,
            slots,
        }));
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(move |(at, node)| {
            if node.fact_type != Some(kind) || node.kind == NodeKind::If {
                return None;
            }
            let mut levels: Vec<Bound> = vec![Bound::Nothing; node.level as usize];
            levels.push(Bound::Fact(place));
            let frame = Frame {
                rules: self,
                store: &store,
                levels: &levels,
            };
            self.passes(at, &frame).then_some(at)
        })
    }

    /// Whether some clause may match a shared fact of these slots.
    pub(crate) fn wants(&self, kind: usize, slots: &[Value]) -> bool {
        self.wanting(kind, slots).next().is_some()
    }

    /// The rules that may match a shared fact of this type and these fields, in the order of the file.
    #[must_use]
    pub fn rules_wanting(&self, fact_type: &str, fields: &Value) -> Vec<&str> {
        let Some(kind) = self.type_index.get(fact_type).copied() else {
            return Vec::new();
        };
        let Ok(slots) = self.types[kind].slots(fields) else {
            return Vec::new();
        };
        let nodes = self.wanting(kind, &slots);
        let mut rules: Vec<usize> = nodes.map(|at| self.nodes[at].rule as usize).collect();
        rules.dedup();
        rules.into_iter().map(|rule| &*self.rules[rule].name).collect()
    }
}
