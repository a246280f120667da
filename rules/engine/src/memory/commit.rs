//! What a section has written is taken in: facts and matches change together, and the journal is told.

use std::sync::Arc;

use smallvec::SmallVec;

use super::network::World;
use super::section::{Context, Write};
use super::store::Fact;
use super::{Halt, WorkingMemory};
use crate::Value;
use crate::ruleset::RuleSet;
use crate::turn::{Change, FactChange, FactId, Section};

/// A change of a fact that is planned and not yet made.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) place: u32,
    pub(super) slots: SmallVec<[(usize, Value); 2]>,
    pub(super) stamp: u64,
}

impl WorkingMemory {
    pub(super) fn begin(&mut self, section: Section) {
        self.context_mut().begin(section);
    }

    /// Takes in what a section has written.
    pub(super) fn commit(&mut self, writer: u32) {
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
    pub(super) fn step(&mut self, rules: &RuleSet, context: &mut Context, updates: &mut Vec<Update>) {
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
