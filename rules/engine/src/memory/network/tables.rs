//! Where tokens and entries are found again: chained hash tables for equalities, ordered sets for ranges.

use std::hash::Hasher;
use std::ops::Bound;

use rustc_hash::FxHasher;
use smallvec::SmallVec;

use super::{NONE, Network, Pair, World};
use crate::Value;
use crate::expression::Expr;
use crate::ruleset::Test;
use crate::ruleset::plan::{Edge, Index, Join, Part};
use crate::value::{Text, to_float};

/// A value's place in an order that agrees with every comparison of the language that can hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Of no order: no comparison holds.
    Nowhere,
    Truth(bool),
    Number(u64),
    Text(Text),
    /// Behind everything.
    End,
}

impl Place {
    fn of(value: &Value) -> Self {
        match value {
            Value::Int(whole) => Self::number(to_float(*whole)),
            Value::Float(fraction) if fraction.is_nan() => Self::Nowhere,
            Value::Float(fraction) => Self::number(*fraction),
            Value::Str(text) => Self::Text(text.clone()),
            Value::Bool(truth) => Self::Truth(*truth),
            Value::Null | Value::List(_) | Value::Map(_) => Self::Nowhere,
        }
    }

    /// The bits of a number with a fraction, in its order; adding zero makes one zero of the two.
    fn number(number: f64) -> Self {
        let bits = (number + 0.0).to_bits();
        Self::Number(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
    }

    /// The number that stands here.
    fn as_number(&self) -> Option<f64> {
        let Self::Number(bits) = *self else { return None };
        Some(f64::from_bits(if bits >> 63 == 1 {
            bits & !(1 << 63)
        } else {
            !bits
        }))
    }

    /// Whether all values that stand here are equal: larger whole numbers are rounded.
    fn is_exact(&self) -> bool {
        self.as_number().is_none_or(|number| number.abs() < EXACT_MAX)
    }

    /// The least and the greatest place of the same kind.
    fn kind(&self) -> (Self, Self) {
        match self {
            Self::Nowhere | Self::End => (Self::End, Self::End),
            Self::Truth(_) => (Self::Truth(false), Self::Truth(true)),
            Self::Number(_) => (Self::Number(0), Self::Number(u64::MAX)),
            Self::Text(_) => (Self::Text("".into()), Self::End),
        }
    }
}

/// Up to here whole numbers are exact as numbers with fractions.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// How much sums of the ends of ranges may be rounded, as a part of the largest number in them; generous.
const ROUNDED: f64 = 1e-14;

/// A token or an entry in order: join or index, key, place, number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sorted {
    owner: u32,
    key: u64,
    place: Place,
    at: u32,
}

/// Entries that may go with a token.
pub(super) enum Bucket {
    Chain(u32),
    List(std::vec::IntoIter<u32>),
}

/// The slot of a table for a key of a join or index.
fn mix(owner: u32, key: u64) -> u64 {
    let mixed =
        (key ^ u64::from(owner).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl Network {
    /// The hash of what a left token says to a join's keys.
    pub(super) fn left_key(&mut self, world: World<'_>, join: &Join, left: u32) -> u64 {
        let mut hasher = FxHasher::default();
        let mut failed = None;
        let pair = Pair {
            world,
            network: self,
            left,
            depth: join.depth,
            fact: NONE,
        };
        for (expr, _) in &join.keys {
            if let Some(value) = expr.place(&pair) {
                value.hash_into(&mut hasher);
                continue;
            }
            match expr.value(&pair) {
                Ok(value) => value.hash_into(&mut hasher),
                Err(why) => failed = Some(why),
            }
        }
        let key = hasher.finish();
        if let Some(why) = failed {
            self.failures += 1;
            self.failure = Some((join.rule, why));
        }
        key
    }

    /// The ends of the range that a left token allows; none without a range.
    fn span(&self, world: World<'_>, join: &Join, left: u32) -> Option<(Place, Place)> {
        let range = join.range.as_ref()?;
        let end = |edge: &Edge, low: bool| {
            let pair = Pair {
                world,
                network: self,
                left,
                depth: join.depth,
                fact: NONE,
            };
            end(&pair, edge, low)
        };
        Some(match (&range.low, &range.high) {
            (Some(low), Some(high)) => (end(low, true), end(high, false)),
            (Some(low), None) => {
                let low = end(low, true);
                let (_, most) = low.kind();
                (low, most)
            }
            (None, Some(high)) => {
                let high = end(high, false);
                let (least, _) = high.kind();
                let from = match range.until {
                    // A fact that reaches the number begins at most the longest reach before it.
                    Some(_) => before(&high, self.reaches.get(&join.index)).unwrap_or(least),
                    None => least,
                };
                (from, high)
            }
            (None, None) => (Place::Nowhere, Place::Nowhere),
        })
    }

    /// Where a left token stands among those of its join: at the end that is written.
    fn sorted_left(&self, world: World<'_>, join: &Join, at: u32) -> Option<(Sorted, f64)> {
        let (low, high) = self.span(world, join, at)?;
        let range = join.range.as_ref()?;
        let width = match (low.as_number(), high.as_number()) {
            (Some(low), Some(high)) => (high - low).max(0.0),
            _ => f64::INFINITY,
        };
        let token = self.token(at);
        let sorted = Sorted {
            owner: token.next,
            key: token.key,
            place: if range.low.is_some() { low } else { high },
            at,
        };
        Some((sorted, width))
    }

    // ---- tokens ----

    /// Whether any token waits for facts of a join.
    pub(super) fn has_lefts(&self, join: u32) -> bool {
        self.lefts_by_join
            .get(join as usize)
            .is_some_and(|count| *count > 0)
    }

    pub(super) fn link_left(&mut self, world: World<'_>, at: u32, join: &Join) {
        let token = self.token_mut(at);
        // It may have stood elsewhere.
        token.next_left = NONE;
        token.previous_left = NONE;
        let (key, owner) = (token.key, token.next);
        if self.lefts_by_join.len() <= owner as usize {
            self.lefts_by_join.resize(world.rules.plan.joins.len(), 0);
        }
        self.lefts_by_join[owner as usize] += 1;
        if let Some((sorted, width)) = self.sorted_left(world, join, at) {
            self.sorted_lefts.insert(sorted);
            if join
                .range
                .as_ref()
                .is_some_and(|range| range.low.is_some() && range.high.is_some())
            {
                let widest = self.widths.entry(owner).or_default();
                *widest = widest.max(width);
            }
            return;
        }
        let tokens = &self.tokens;
        let same = |head: &u32| {
            let head = &tokens[*head as usize];
            head.key == key && head.next == owner
        };
        if let Some(head) = self.lefts.find_mut(mix(owner, key), same) {
            let next = std::mem::replace(head, at);
            self.token_mut(at).next_left = next;
            self.token_mut(next).previous_left = at;
        } else {
            self.lefts.insert_unique(mix(owner, key), at, |head| {
                let head = &tokens[*head as usize];
                mix(head.next, head.key)
            });
        }
    }

    pub(super) fn unlink_left(&mut self, world: World<'_>, at: u32, join: &Join) {
        let token = self.token(at);
        let (key, owner) = (token.key, token.next);
        let (before, after) = (token.previous_left, token.next_left);
        self.lefts_by_join[owner as usize] -= 1;
        if let Some((sorted, _)) = self.sorted_left(world, join, at) {
            self.sorted_lefts.remove(&sorted);
            return;
        }
        if before == NONE {
            if let Ok(mut slot) = self.lefts.find_entry(mix(owner, key), |head| *head == at) {
                if after == NONE {
                    slot.remove();
                } else {
                    *slot.get_mut() = after;
                }
            }
        } else {
            self.token_mut(before).next_left = after;
        }
        if after != NONE {
            self.token_mut(after).previous_left = before;
        }
    }

    /// The left tokens of a join that a fact may go with.
    pub(super) fn lefts_of(&self, world: World<'_>, at: u32, entry: u32) -> SmallVec<[u32; 8]> {
        let join = world.join(at);
        let (key, fact) = (
            self.entries[entry as usize].key,
            self.entries[entry as usize].fact,
        );
        let mut found = SmallVec::new();
        if let Some(range) = &join.range {
            let place = Place::of(&world.store.get(fact).slots[range.slot]);
            let (least, most) = place.kind();
            let (from, to) = match (&range.low, &range.high) {
                // A range that holds the slot begins at most the widest range before it.
                (Some(_), Some(_)) => {
                    let from = before(&place, self.widths.get(&at)).unwrap_or(least);
                    (from, place)
                }
                (Some(_), None) => (least, place),
                _ => match range
                    .until
                    .map(|slot| Place::of(&world.store.get(fact).slots[slot]))
                {
                    Some(until) if until <= most => (place, until),
                    _ => (place, most),
                },
            };
            let ends = Self::ends(at, key, from, to);
            found.extend(self.sorted_lefts.range(ends).map(|sorted| sorted.at));
            return found;
        }
        let same = |head: &u32| {
            let head = self.token(*head);
            head.key == key && head.next == at
        };
        let mut left = self.lefts.find(mix(at, key), same).copied().unwrap_or(NONE);
        while left != NONE {
            found.push(left);
            left = self.token(left).next_left;
        }
        found
    }

    fn ends(owner: u32, key: u64, from: Place, to: Place) -> std::ops::RangeInclusive<Sorted> {
        let end = |place: Place, at: u32| Sorted {
            owner,
            key,
            place,
            at,
        };
        // A search for nothing must still have its ends in order.
        if from > to || from == Place::Nowhere || to == Place::Nowhere {
            return end(Place::End, 0)..=end(Place::End, 0);
        }
        end(from, 0)..=end(to, u32::MAX)
    }

    // ---- entries ----

    /// The hash of what an index looks a fact up by.
    fn right_key(&mut self, world: World<'_>, index: &Index, fact: u32) -> u64 {
        let mut hasher = FxHasher::default();
        let slots = &world.store.get(fact).slots;
        let mut failed = None;
        for part in &index.parts {
            match part {
                Part::Slot(slot) => slots[*slot].hash_into(&mut hasher),
                Part::Computed(expr) => match expr.value(&self.sole(world, fact)) {
                    Ok(value) => value.hash_into(&mut hasher),
                    Err(why) => failed = Some(why),
                },
            }
        }
        let key = hasher.finish();
        if let Some(why) = failed {
            self.failures += 1;
            let rule = world.rules.plan.alphas[index.alpha as usize].rule;
            self.failure = Some((rule, why));
        }
        key
    }

    /// A fact as conditions on it alone see it.
    fn sole<'a>(&'a self, world: World<'a>, fact: u32) -> Pair<'a> {
        Pair {
            world,
            network: self,
            left: NONE,
            depth: 0,
            fact,
        }
    }

    /// Whether a fact has the parts that a left token asks for.
    pub(super) fn is_equal(&self, world: World<'_>, join: &Join, left: u32, fact: u32) -> bool {
        let pair = Pair {
            world,
            network: self,
            left,
            depth: join.depth,
            fact: NONE,
        };
        let slots = &world.store.get(fact).slots;
        let equal = |expr: &Expr, part: &Part| {
            // The commonest key, without a detour.
            if let (Some(value), Part::Slot(slot)) = (expr.place(&pair), part) {
                return Ok(value.same(&slots[*slot]));
            }
            let value = expr.value(&pair)?;
            Ok::<bool, String>(match part {
                Part::Slot(slot) => value.same(&slots[*slot]),
                Part::Computed(own) => own.value(&self.sole(world, fact))?.same(&value),
            })
        };
        (join.keys.iter()).all(|(expr, part)| equal(expr, part).unwrap_or(false))
    }

    fn sorted_entry(&self, world: World<'_>, index: &Index, at: u32) -> Option<Sorted> {
        let slot = index.ordered?;
        let entry = &self.entries[at as usize];
        Some(Sorted {
            owner: entry.index,
            key: entry.key,
            place: Place::of(&world.store.get(entry.fact).slots[slot]),
            at,
        })
    }

    pub(super) fn link_entry(&mut self, world: World<'_>, at: u32) {
        let (owner, fact) = (self.entries[at as usize].index, self.entries[at as usize].fact);
        let index = &world.rules.plan.indexes[owner as usize];
        let key = self.right_key(world, index, fact);
        let entry = &mut self.entries[at as usize];
        entry.key = key;
        entry.next = NONE;
        entry.previous = NONE;
        if let Some(sorted) = self.sorted_entry(world, index, at) {
            if let Some(until) = index.until {
                let until = Place::of(&world.store.get(fact).slots[until]);
                let reach = match (sorted.place.as_number(), until.as_number()) {
                    (Some(from), Some(until)) => (until - from).max(0.0),
                    _ => f64::INFINITY,
                };
                let longest = self.reaches.entry(owner).or_default();
                *longest = longest.max(reach);
            }
            self.sorted_rights.insert(sorted);
            return;
        }
        let entries = &self.entries;
        let same = |head: &u32| {
            let head = &entries[*head as usize];
            head.key == key && head.index == owner
        };
        if let Some(head) = self.rights.find_mut(mix(owner, key), same) {
            let next = std::mem::replace(head, at);
            self.entries[at as usize].next = next;
            self.entries[next as usize].previous = at;
        } else {
            self.rights.insert_unique(mix(owner, key), at, |head| {
                let head = &entries[*head as usize];
                mix(head.index, head.key)
            });
        }
    }

    /// Takes an entry out of its table; the fact is still as it was.
    pub(super) fn unlink_entry(&mut self, world: World<'_>, at: u32) {
        let entry = &self.entries[at as usize];
        let (owner, key, before, after) = (entry.index, entry.key, entry.previous, entry.next);
        let index = &world.rules.plan.indexes[owner as usize];
        if let Some(sorted) = self.sorted_entry(world, index, at) {
            self.sorted_rights.remove(&sorted);
            return;
        }
        if before == NONE {
            if let Ok(mut slot) = self.rights.find_entry(mix(owner, key), |head| *head == at) {
                if after == NONE {
                    slot.remove();
                } else {
                    *slot.get_mut() = after;
                }
            }
        } else {
            self.entries[before as usize].next = after;
        }
        if after != NONE {
            self.entries[after as usize].previous = before;
        }
    }

    /// The entries that may go with a left token.
    pub(super) fn bucket(&self, world: World<'_>, join: &Join, left: u32, key: u64) -> Bucket {
        let owner = join.index;
        if let Some((from, to)) = self.span(world, join, left) {
            let ends = Self::ends(owner, key, from, to);
            let found: Vec<u32> = self.sorted_rights.range(ends).map(|sorted| sorted.at).collect();
            return Bucket::List(found.into_iter());
        }
        let same = |head: &u32| {
            let head = &self.entries[*head as usize];
            head.key == key && head.index == owner
        };
        Bucket::Chain(self.rights.find(mix(owner, key), same).copied().unwrap_or(NONE))
    }

    /// The entry that decides a `no` or `any`, if there is one: of a range the nearest, so that few tokens have the same.
    pub(super) fn blocker(&mut self, world: World<'_>, join: &Join, left: u32) -> Option<u32> {
        let mut failed = Vec::new();
        let found = self.nearest(world, join, left, &mut failed);
        for why in failed {
            self.failures += 1;
            self.failure = Some((join.rule, why));
        }
        found
    }

    fn nearest(&self, world: World<'_>, join: &Join, left: u32, failed: &mut Vec<String>) -> Option<u32> {
        let (owner, key) = (join.index, self.token(left).key);
        let mut goes = |entry: &u32| {
            let fact = self.entries[*entry as usize].fact;
            let pair = Pair {
                world,
                network: self,
                left,
                depth: join.depth,
                fact,
            };
            let mut holds = |test: &Test| match test.expr.holds(&pair) {
                Ok(holds) => holds,
                Err(why) => {
                    failed.push(format!("`{}`: {why}", test.text));
                    false
                }
            };
            (join.keys.is_empty() || self.is_equal(world, join, left, fact))
                && join.tests.iter().all(&mut holds)
        };
        let (Some((from, to)), Some(range)) = (self.span(world, join, left), &join.range) else {
            let mut bucket = self.bucket(world, join, left, key);
            return std::iter::from_fn(|| self.next_entry(&mut bucket)).find(&mut goes);
        };
        let shut = |edge: &Option<Edge>, place: &Place| {
            edge.as_ref().is_some_and(|edge| edge.strict) && place.is_exact()
        };
        let (no_first, no_last) = (shut(&range.low, &from), shut(&range.high, &to));
        let (first, last) = Self::ends(owner, key, from.clone(), to.clone()).into_inner();
        if first.place == Place::End || (no_first || no_last) && from == to {
            return None;
        }
        let end = |place: Place, at: u32| {
            Bound::Excluded(Sorted {
                owner,
                key,
                place,
                at,
            })
        };
        let first = if no_first {
            end(from, u32::MAX)
        } else {
            Bound::Included(first)
        };
        let last = if no_last {
            end(to, 0)
        } else {
            Bound::Included(last)
        };
        let mut found = self.sorted_rights.range((first, last)).map(|sorted| sorted.at);
        if range.low.is_some() {
            found.find(goes)
        } else {
            found.rfind(goes)
        }
    }

    pub(super) fn next_entry(&self, bucket: &mut Bucket) -> Option<u32> {
        match bucket {
            Bucket::Chain(NONE) => None,
            Bucket::Chain(at) => {
                let entry = *at;
                *at = self.entries[entry as usize].next;
                Some(entry)
            }
            Bucket::List(list) => list.next(),
        }
    }
}

/// The place of a number less a distance, a little below for what is rounded; none where there are no numbers.
fn before(place: &Place, distance: Option<&f64>) -> Option<Place> {
    let number = place.as_number()?;
    let distance = distance.copied().unwrap_or(0.0);
    let from = number - distance - number.abs().max(distance) * ROUNDED;
    Some(Place::number(if from.is_finite() {
        from
    } else {
        f64::NEG_INFINITY
    }))
}

/// Where an end of a range stands.
fn end(pair: &Pair<'_>, edge: &Edge, low: bool) -> Place {
    if !edge.turned {
        let value = edge.terms.first().map(|(_, expr)| expr.value(pair));
        return match value {
            Some(Ok(value)) => Place::of(&value),
            _ => Place::Nowhere,
        };
    }
    let (mut total, mut largest) = (0.0_f64, 0.0_f64);
    for (adds, expr) in &edge.terms {
        let number = match expr.value(pair).as_deref() {
            Ok(Value::Int(whole)) => to_float(*whole),
            Ok(Value::Float(fraction)) => *fraction,
            // Neither number nor order: the condition does not hold.
            _ => return Place::Nowhere,
        };
        total += if *adds { number } else { -number };
        largest = largest.max(number.abs());
    }
    let widened = if low {
        total - largest * ROUNDED
    } else {
        total + largest * ROUNDED
    };
    match (widened.is_finite(), low) {
        (true, _) => Place::number(widened),
        (false, true) => Place::number(f64::NEG_INFINITY),
        (false, false) => Place::number(f64::INFINITY),
    }
}
