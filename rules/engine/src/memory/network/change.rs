//! One step of change: what a section has written, taken in all at once.
//!
//! [`Network::plan_insert`], [`Network::plan_update`] and [`Network::plan_retract`] say what each fact's change means
//! for its entries; [`Network::withdraw`] is called while the facts are as they were, [`Network::offer`] when they are
//! as they will be. No fact is in one batch twice.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{Entry, LEAF, NONE, Network, World, state};
use crate::Value;
use crate::memory::store::Store;
use crate::ruleset::plan::Index;
use crate::ruleset::{NodeKind, RuleSet};

/// Up to so many joins of an index the tokens of an entry are gone through for each of them.
const FEW: usize = 4;

/// What the changes of one step mean.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Joins and entries to take apart, and to put together.
    pub(super) out: Vec<(u32, u32)>,
    back: Vec<(u32, u32)>,
    /// Entries that go.
    gone: Vec<u32>,
    /// Entries whose slots change: out of the table, and into it again.
    moved: Vec<u32>,
    /// Facts and indexes that come together.
    come: Vec<(u32, u32)>,
    /// Entries whose tokens stay and whose rules may read the slots.
    kept: Vec<(u32, u64)>,
    /// Joins, entries and slots that only deeper joins look at.
    deep: Vec<(u32, u32, u64)>,
    /// Joins and tokens that were taken out of them, to be offered again.
    loose: Vec<(u32, u32)>,
    known: Known,
}

/// Conditions that were looked at for a fact, and whether they hold: a list, or from many on a table.
#[derive(Debug, Default)]
struct Known {
    few: SmallVec<[(u32, bool); 8]>,
    many: FxHashMap<u32, bool>,
}

impl Known {
    fn clear(&mut self) {
        self.few.clear();
        self.many.clear();
    }

    fn get(&self, alpha: u32) -> Option<bool> {
        if self.many.is_empty() {
            let found = self.few.iter().find(|(known, _)| *known == alpha);
            return found.map(|(_, holds)| *holds);
        }
        self.many.get(&alpha).copied()
    }

    fn add(&mut self, alpha: u32, holds: bool) {
        if self.few.len() < 8 {
            return self.few.push((alpha, holds));
        }
        if self.many.is_empty() {
            self.many.extend(self.few.iter().copied());
        }
        self.many.insert(alpha, holds);
    }
}

impl Batch {
    /// Gives its memory back.
    pub(crate) fn shrink(&mut self) {
        *self = Self::default();
    }
}

impl Network {
    fn passes(&mut self, world: World<'_>, alpha: u32, fact: u32) -> bool {
        let alpha = &world.rules.plan.alphas[alpha as usize];
        self.all(world, alpha.rule, &alpha.tests, NONE, 0, fact)
    }

    /// The conditions that a fact may meet by the literals they name, once each.
    fn candidates(world: World<'_>, fact: u32) -> impl Iterator<Item = u32> {
        let fact = world.store.get(fact);
        let dispatch = &world.rules.plan.kinds[fact.kind];
        let literal = dispatch.slots.iter().flat_map(|(slot, alphas)| {
            let hash = crate::value::hash_of(&fact.slots[*slot]);
            alphas.get(&hash).into_iter().flatten()
        });
        literal.chain(&dispatch.others).copied()
    }

    fn first_entry(&self, fact: u32) -> u32 {
        self.of_fact.get(fact as usize).copied().unwrap_or(NONE)
    }

    /// A new fact, in the store already.
    pub(crate) fn plan_insert(&mut self, world: World<'_>, batch: &mut Batch, fact: u32) {
        for alpha in Self::candidates(world, fact) {
            if self.passes(world, alpha, fact) {
                let indexes = &world.rules.plan.alphas[alpha as usize].indexes;
                batch.come.extend(indexes.iter().map(|index| (fact, *index)));
            }
        }
    }

    /// A fact that is about to go.
    pub(crate) fn plan_retract(&self, world: World<'_>, batch: &mut Batch, fact: u32) {
        let mut entry = self.first_entry(fact);
        while entry != NONE {
            let index = &world.rules.plan.indexes[self.entries[entry as usize].index as usize];
            batch.out.extend(index.counts.iter().map(|join| (*join, entry)));
            batch.gone.push(entry);
            entry = self.entries[entry as usize].next_of_fact;
        }
    }

    /// A fact whose slots of `mask` are about to have these values; the store is as before when this returns.
    pub(crate) fn plan_update(
        &mut self,
        rules: &RuleSet,
        store: &mut Store,
        batch: &mut Batch,
        fact: u32,
        mask: u64,
        slots: &mut [(usize, Value)],
    ) {
        let mut swap = |store: &mut Store| {
            let held = &mut store.get_mut(fact).slots;
            slots
                .iter_mut()
                .for_each(|(slot, value)| std::mem::swap(&mut held[*slot], value));
        };
        swap(store);
        let world = World { rules, store };
        // Conditions that were looked at, and whether they hold.
        batch.known.clear();
        let mut entry = self.first_entry(fact);
        while entry != NONE {
            let index = &rules.plan.indexes[self.entries[entry as usize].index as usize];
            let alpha = &rules.plan.alphas[index.alpha as usize];
            let holds = match batch.known.get(index.alpha) {
                Some(holds) => holds,
                None => {
                    let holds = alpha.reads & mask == 0 || self.passes(world, index.alpha, fact);
                    batch.known.add(index.alpha, holds);
                    holds
                }
            };
            batch.entry(rules, index, entry, holds, mask);
            entry = self.entries[entry as usize].next_of_fact;
        }
        for alpha in Self::candidates(world, fact) {
            if rules.plan.alphas[alpha as usize].reads & mask != 0
                && batch.known.get(alpha).is_none()
                && self.passes(world, alpha, fact)
            {
                let indexes = &rules.plan.alphas[alpha as usize].indexes;
                batch.come.extend(indexes.iter().map(|index| (fact, *index)));
            }
        }
        swap(store);
    }

    /// Takes apart what no longer holds.
    pub(crate) fn withdraw(&mut self, world: World<'_>, batch: &mut Batch) {
        // No match stays of what goes or moves.
        for entry in batch.gone.iter().chain(&batch.moved) {
            loop {
                let token = self.entries[*entry as usize].tokens;
                if token == NONE {
                    break;
                }
                self.delete(world, token, true);
            }
        }
        batch.out.sort_unstable();
        // Tokens of entries that many joins look at, by join: they are gone through once.
        let mut sorted: FxHashMap<u32, Vec<(u32, u32)>> = FxHashMap::default();
        for (at, entry) in batch.out.drain(..) {
            let join = world.join(at);
            if join.kind != NodeKind::Bind {
                self.count(world, at, entry, false);
                continue;
            }
            let index = self.entries[entry as usize].index;
            if world.rules.plan.indexes[index as usize].joins.len() <= FEW {
                for token in self.tokens_by_join(world, entry, Some(at)) {
                    self.delete(world, token.1, true);
                }
                continue;
            }
            let tokens = sorted.entry(entry).or_insert_with(|| {
                let mut tokens = self.tokens_by_join(world, entry, None).into_vec();
                tokens.sort_unstable();
                tokens
            });
            let first = tokens.partition_point(|(join, _)| *join < at);
            for (_, token) in tokens[first..].iter().take_while(|(join, _)| *join == at) {
                // It may have gone with another one.
                if self.is(*token, state::LIVE) {
                    self.delete(world, *token, true);
                }
            }
        }
        for (at, entry, mask) in batch.deep.drain(..) {
            for (_, token) in self.tokens_by_join(world, entry, Some(at)) {
                self.loosen(world, token, world.join(at).depth, mask, &mut batch.loose);
            }
        }
        for entry in &batch.moved {
            self.unlink_entry(world, *entry);
        }
        for entry in batch.gone.drain(..) {
            self.unlink_entry(world, entry);
            self.drop_entry(entry);
        }
    }

    /// Takes the matches of a token apart from the first joins on that look at a changed slot of the fact at this depth.
    fn loosen(&mut self, world: World<'_>, at: u32, depth: usize, mask: u64, loose: &mut Vec<(u32, u32)>) {
        let next = self.token(at).next;
        if next & LEAF != 0 || self.is(at, state::LOOSE) {
            return;
        }
        let looks = &world.join(next).looks;
        if (looks.iter()).any(|(known, slots)| *known == depth && slots & mask != 0) {
            self.delete_children(world, at);
            self.leave(world, at);
            let token = self.token_mut(at);
            token.state |= state::LOOSE;
            token.matched = 0;
            loose.push((next, at));
            return;
        }
        let mut child = self.token(at).first_child;
        while child != NONE {
            let following = self.token(child).next_sibling;
            self.loosen(world, child, depth, mask, loose);
            child = following;
        }
    }

    /// The tokens with an entry's fact, each with its join, of all joins or of one.
    fn tokens_by_join(&self, world: World<'_>, entry: u32, only: Option<u32>) -> SmallVec<[(u32, u32); 16]> {
        let mut found = SmallVec::new();
        let mut token = self.entries[entry as usize].tokens;
        while token != NONE {
            let at = Self::join_of(world, self.token(token));
            if only.is_none_or(|only| only == at) {
                found.push((at, token));
            }
            token = self.token(token).next_of_entry;
        }
        found
    }

    /// Puts together what holds now.
    pub(crate) fn offer(&mut self, world: World<'_>, batch: &mut Batch) {
        for entry in batch.moved.drain(..) {
            self.link_entry(world, entry);
        }
        for (fact, index) in batch.come.drain(..) {
            let entry = self.new_entry(fact, index);
            self.link_entry(world, entry);
            let joins = &world.rules.plan.indexes[index as usize].joins;
            batch.back.extend(joins.iter().map(|join| (*join, entry)));
        }
        batch.back.sort_unstable_by(|a, b| b.cmp(a));
        batch.loose.sort_unstable();
        for (at, entry) in batch.back.drain(..) {
            self.fasten(world, &mut batch.loose, at + 1);
            let join = world.join(at);
            if join.kind != NodeKind::Bind {
                self.count(world, at, entry, true);
            } else if join.depth == 0 {
                self.extend(world, NONE, join, entry, None);
            } else if self.has_lefts(at) {
                let fact = self.entries[entry as usize].fact;
                for left in self.lefts_of(world, at, entry) {
                    if self.joins(world, join, left, fact) {
                        self.extend(world, left, join, entry, None);
                    }
                }
            }
        }
        self.fasten(world, &mut batch.loose, 0);
        for (entry, mask) in batch.kept.drain(..) {
            let mut token = self.entries[entry as usize].tokens;
            while token != NONE {
                let at = Self::join_of(world, self.token(token));
                let join = world.join(at);
                if join.reads & mask != 0 {
                    self.refresh(world, token, join.depth, mask);
                }
                token = self.token(token).next_of_entry;
            }
        }
    }

    /// Offers tokens that were taken out of joins, down to this one, to them again.
    fn fasten(&mut self, world: World<'_>, loose: &mut Vec<(u32, u32)>, down_to: u32) {
        while let Some((at, token)) = loose.pop_if(|(at, _)| *at >= down_to) {
            // It may have gone with another one.
            if self.is(token, state::LOOSE) {
                self.token_mut(token).state &= !state::LOOSE;
                self.enter(world, token, at);
            }
        }
    }

    /// The full matches of a token whose rules read a changed slot are new.
    fn refresh(&mut self, world: World<'_>, at: u32, depth: usize, mask: u64) {
        let token = self.token(at);
        if token.next & LEAF != 0 {
            let rule = token.next & !LEAF;
            if world.chain(rule).reads[depth] & mask != 0 {
                self.activate(world, at);
            }
            return;
        }
        let wants = &world.join(token.next).wants;
        if !(wants.iter()).any(|(known, slots)| *known == depth && slots & mask != 0) {
            return;
        }
        let mut child = token.first_child;
        while child != NONE {
            self.refresh(world, child, depth, mask);
            child = self.token(child).next_sibling;
        }
    }

    fn new_entry(&mut self, fact: u32, index: u32) -> u32 {
        if self.of_fact.len() <= fact as usize {
            self.of_fact.resize(fact as usize + 1, NONE);
        }
        let entry = Entry {
            fact,
            index,
            key: 0,
            next: NONE,
            previous: NONE,
            next_of_fact: self.of_fact[fact as usize],
            tokens: NONE,
            blocked: NONE,
        };
        let at = if let Some(at) = self.free_entries.pop() {
            self.entries[at as usize] = entry;
            at
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("memory ends before 2^32 entries")
        };
        self.of_fact[fact as usize] = at;
        at
    }

    fn drop_entry(&mut self, at: u32) {
        let entry = &self.entries[at as usize];
        let (fact, next) = (entry.fact, entry.next_of_fact);
        let mut before = self.of_fact[fact as usize];
        if before == at {
            self.of_fact[fact as usize] = next;
        } else {
            while self.entries[before as usize].next_of_fact != at {
                before = self.entries[before as usize].next_of_fact;
            }
            self.entries[before as usize].next_of_fact = next;
        }
        self.free_entries.push(at);
    }
}

impl Batch {
    /// What a change of these slots means for an entry.
    fn entry(&mut self, rules: &RuleSet, index: &Index, entry: u32, holds: bool, mask: u64) {
        if !holds {
            self.out.extend(index.counts.iter().map(|join| (*join, entry)));
            self.gone.push(entry);
            return;
        }
        if index.mask & mask != 0 {
            self.out.extend(index.counts.iter().map(|join| (*join, entry)));
            self.moved.push(entry);
            self.back.extend(index.joins.iter().map(|join| (*join, entry)));
            return;
        }
        let mut read = false;
        for at in &index.joins {
            let join = &rules.plan.joins[*at as usize];
            if join.own & mask != 0 {
                self.out.push((*at, entry));
                self.back.push((*at, entry));
            } else if join.kind == NodeKind::Bind {
                if join.below & mask != 0 {
                    self.deep.push((*at, entry, mask));
                }
                read |= join.reads & mask != 0;
            }
        }
        if read {
            self.kept.push((entry, mask));
        }
    }
}
