//! `no`, `any` and the aggregates: counters beside their left token, looked at when a section's changes are in.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::exact::Exact;
use super::{NONE, Network, Pair, World, state};
use crate::Value;
use crate::ruleset::NodeKind;
use crate::ruleset::plan::Join;

/// What an aggregate knows of a left token's facts, beside their number.
#[derive(Debug, Default)]
pub(super) struct Sum {
    whole: i128,
    fractions: u32,
    fraction: Option<Exact>,
    ordered: BTreeMap<Ordered, u32>,
}

#[derive(Debug, PartialEq)]
struct Ordered(Value);

impl Eq for Ordered {}
impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_order(&other.0)
    }
}

impl Network {
    /// Adds or takes away a fact in the counters of the left tokens it goes with.
    pub(super) fn count(&mut self, world: World<'_>, at: u32, entry: u32, adds: bool) {
        let join = world.join(at);
        if join.blocks {
            return self.count_blocked(world, at, entry, adds);
        }
        let fact = self.entries[entry as usize].fact;
        for left in self.lefts_of(world, at, entry) {
            if self.joins(world, join, left, fact) {
                self.tally(world, join, left, fact, adds);
                self.touch(left);
            }
        }
    }

    fn touch(&mut self, left: u32) {
        if !self.is(left, state::TOUCHED) {
            self.token_mut(left).state |= state::TOUCHED;
            self.touched.push(left);
        }
    }

    // ---- where one fact is enough ----
    //
    // A token that an entry blocks stands in that entry's list: facts that come do not look at it, and facts that go
    // only at those they block. Of the others it is looked for another blocker when all changes are in.

    fn count_blocked(&mut self, world: World<'_>, at: u32, entry: u32, adds: bool) {
        let join = world.join(at);
        if adds {
            let fact = self.entries[entry as usize].fact;
            for left in self.lefts_of(world, at, entry) {
                if self.joins(world, join, left, fact) {
                    self.unlink_left(world, left, join);
                    self.block(left, entry);
                    self.touch(left);
                }
            }
            return;
        }
        let mut token = self.entries[entry as usize].blocked;
        while token != NONE {
            let next = self.token(token).next_left;
            if self.token(token).next == at {
                self.unblock(token);
                self.link_left(world, token, join);
                self.touch(token);
            }
            token = next;
        }
    }

    /// Puts a token that stands nowhere into the list of the entry that blocks it.
    pub(super) fn block(&mut self, at: u32, entry: u32) {
        let first = std::mem::replace(&mut self.entries[entry as usize].blocked, at);
        let token = self.token_mut(at);
        token.state |= state::BLOCKED;
        token.matched = entry;
        token.next_left = first;
        token.previous_left = NONE;
        if first != NONE {
            self.token_mut(first).previous_left = at;
        }
    }

    /// Takes a token out of the list of the entry that blocks it.
    pub(super) fn unblock(&mut self, at: u32) {
        let token = self.token_mut(at);
        token.state &= !state::BLOCKED;
        let (entry, before, after) = (token.matched, token.previous_left, token.next_left);
        token.next_left = NONE;
        token.previous_left = NONE;
        if before == NONE {
            self.entries[entry as usize].blocked = after;
        } else {
            self.token_mut(before).next_left = after;
        }
        if after != NONE {
            self.token_mut(after).previous_left = before;
        }
    }

    /// Looks for another blocker of a token that has lost its own.
    fn search(&mut self, world: World<'_>, at: u32) {
        let join = world.join(self.token(at).next);
        if join.blocks
            && !self.is(at, state::BLOCKED)
            && let Some(entry) = self.blocker(world, join, at)
        {
            self.unlink_left(world, at, join);
            self.block(at, entry);
        }
    }

    fn measured(&self, world: World<'_>, join: &Join, left: u32, fact: u32) -> Value {
        let pair = Pair {
            world,
            network: self,
            left,
            depth: join.depth,
            fact,
        };
        let measure = join.measure.as_ref().map(|measure| measure.value(&pair));
        match measure {
            Some(Ok(value)) => value.into_owned(),
            _ => Value::Null,
        }
    }

    pub(super) fn tally(&mut self, world: World<'_>, join: &Join, left: u32, fact: u32, adds: bool) {
        let token = self.token_mut(left);
        token.matched = if adds {
            token.matched + 1
        } else {
            token.matched - 1
        };
        if join.measure.is_none() {
            return;
        }
        let value = self.measured(world, join, left, fact);
        let sum = self.sums.entry(left).or_default();
        if join.kind == NodeKind::Sum {
            match value {
                Value::Int(number) if adds => sum.whole += i128::from(number),
                Value::Int(number) => sum.whole -= i128::from(number),
                Value::Float(number) => {
                    sum.fraction.get_or_insert_default().add(number, adds);
                    if adds {
                        sum.fractions += 1;
                    } else {
                        sum.fractions -= 1;
                        if sum.fractions == 0 {
                            sum.fraction = None;
                        }
                    }
                }
                _ => {}
            }
        } else if !value.is_null() {
            if adds {
                *sum.ordered.entry(Ordered(value)).or_default() += 1;
            } else if let std::collections::btree_map::Entry::Occupied(mut held) =
                sum.ordered.entry(Ordered(value))
            {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
    }

    /// Looks at the counters that have changed.
    pub(crate) fn settle(&mut self, world: World<'_>) {
        while !self.touched.is_empty() {
            let mut touched = std::mem::take(&mut self.touched);
            // Earlier clauses first, so that a later one is not looked at in vain.
            touched.sort_unstable_by_key(|at| (self.token(*at).next, *at));
            for at in &touched {
                if self.is(*at, state::TOUCHED) {
                    self.token_mut(*at).state &= !state::TOUCHED;
                    self.search(world, *at);
                    self.decide(world, *at);
                }
            }
            if self.touched.is_empty() {
                touched.clear();
                self.touched = touched;
                return;
            }
        }
    }

    /// Brings the children of a counted token in line with its counter.
    pub(super) fn decide(&mut self, world: World<'_>, left: u32) {
        let token = self.token(left);
        let (at, child, matched) = (token.next, token.first_child, token.matched);
        let join = world.join(at);
        match join.kind {
            NodeKind::No | NodeKind::Any => {
                let found = if join.blocks {
                    token.state & state::BLOCKED != 0
                } else {
                    matched > 0
                };
                let wanted = found == (join.kind == NodeKind::Any);
                if wanted && child == NONE {
                    self.extend(world, left, join, NONE, None);
                } else if !wanted && child != NONE {
                    self.delete_children(world, left);
                }
            }
            NodeKind::Collect => {
                self.delete_children(world, left);
                self.extend(world, left, join, NONE, None);
            }
            _ => {
                let value = self.aggregate(join, left);
                if child != NONE {
                    if self.values.get(&child) == Some(&value) {
                        return;
                    }
                    self.delete_children(world, left);
                }
                self.extend(world, left, join, NONE, Some(&value));
            }
        }
    }

    fn aggregate(&self, join: &Join, left: u32) -> Value {
        let matched = self.token(left).matched;
        let sum = self.sums.get(&left);
        match join.kind {
            NodeKind::Count => Value::Int(i64::from(matched)),
            NodeKind::Min => sum
                .and_then(|sum| sum.ordered.keys().next())
                .map_or(Value::Null, |least| least.0.clone()),
            NodeKind::Max => sum
                .and_then(|sum| sum.ordered.keys().next_back())
                .map_or(Value::Null, |most| most.0.clone()),
            _ if sum.is_some_and(|sum| sum.fraction.is_some()) => Value::Float(
                sum.and_then(|sum| Some(sum.fraction.as_ref()?.rounded(sum.whole)))
                    .unwrap_or(0.0),
            ),
            _ => Value::Int(sum.map_or(0, |sum| i64::try_from(sum.whole).unwrap_or(i64::MAX))),
        }
    }

    /// The facts that go with a left token of a counting join, by number or in the join's order.
    pub(crate) fn collected(&mut self, world: World<'_>, join: &Join, left: u32) -> Vec<u32> {
        let key = self.token(left).key;
        let mut bucket = self.bucket(world, join, left, key);
        let mut facts = Vec::new();
        while let Some(entry) = self.next_entry(&mut bucket) {
            let fact = self.entries[entry as usize].fact;
            if self.joins(world, join, left, fact) {
                facts.push(fact);
            }
        }
        facts.sort_unstable_by_key(|fact| world.store.get(*fact).id);
        if let Some(order) = &join.order {
            let place = |fact: u32| {
                let pair = Pair {
                    world,
                    network: self,
                    left,
                    depth: join.depth,
                    fact,
                };
                order
                    .value(&pair)
                    .map_or(Value::Null, std::borrow::Cow::into_owned)
            };
            let mut keyed: Vec<(Value, u32)> = facts.into_iter().map(|fact| (place(fact), fact)).collect();
            keyed.sort_by(|a, b| a.0.total_order(&b.0));
            facts = keyed.into_iter().map(|(_, fact)| fact).collect();
        }
        facts
    }
}
