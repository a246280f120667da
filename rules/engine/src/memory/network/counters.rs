//! `no`, `any` and the aggregates: counters beside their left token, looked at when a section's changes are in.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{NONE, Network, Pair, World, state};
use crate::Value;
use crate::ruleset::NodeKind;
use crate::ruleset::plan::Join;

/// What an aggregate knows of a left token's facts, beside their number.
#[derive(Debug, Default)]
pub(super) struct Sum {
    whole: i128,
    fractions: u32,
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
        let fact = self.entries[entry as usize].fact;
        for left in self.lefts_of(world, at, entry) {
            if self.joins(world, join, left, fact) {
                self.tally(world, join, left, fact, adds);
                if !self.is(left, state::TOUCHED) {
                    self.token_mut(left).state |= state::TOUCHED;
                    self.touched.push(left);
                }
            }
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
                Value::Float(_) if adds => sum.fractions += 1,
                Value::Float(_) => sum.fractions -= 1,
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
                let wanted = (matched == 0) == (join.kind == NodeKind::No);
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
                let value = self.aggregate(world, join, left);
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

    fn aggregate(&mut self, world: World<'_>, join: &Join, left: u32) -> Value {
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
            _ if sum.is_some_and(|sum| sum.fractions > 0) => {
                // Sums of fractions depend on the order; the facts' order makes them the same after every restore.
                let mut total = 0.0;
                for fact in self.collected(world, join, left) {
                    match self.measured(world, join, left, fact) {
                        Value::Int(number) => total += crate::value::to_float(number),
                        Value::Float(number) => total += number,
                        _ => {}
                    }
                }
                Value::Float(total)
            }
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
