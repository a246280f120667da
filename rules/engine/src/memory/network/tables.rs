//! Where tokens and entries are found again: chained hash tables for equalities, ordered sets for ranges.

use std::hash::Hasher;

use rustc_hash::FxHasher;
use smallvec::SmallVec;

use super::{NONE, Network, Pair, World};
use crate::Value;
use crate::ruleset::plan::{Index, Join};
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
        let number = |number: f64| {
            // The bits of a number with a fraction, in its order; adding zero makes one zero of the two.
            let bits = (number + 0.0).to_bits();
            Self::Number(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
        };
        match value {
            Value::Int(whole) => number(to_float(*whole)),
            Value::Float(fraction) if fraction.is_nan() => Self::Nowhere,
            Value::Float(fraction) => number(*fraction),
            Value::Str(text) => Self::Text(text.clone()),
            Value::Bool(truth) => Self::Truth(*truth),
            Value::Null | Value::List(_) | Value::Map(_) => Self::Nowhere,
        }
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

    fn bound(&self, world: World<'_>, join: &Join, left: u32) -> Option<Place> {
        let range = join.range.as_ref()?;
        let pair = Pair {
            world,
            network: self,
            left,
            depth: join.depth,
            fact: NONE,
        };
        Some(
            range
                .bound
                .value(&pair)
                .map_or(Place::Nowhere, |value| Place::of(&value)),
        )
    }

    // ---- tokens ----

    pub(super) fn link_left(&mut self, world: World<'_>, at: u32, join: &Join) {
        let (key, owner) = (self.token(at).key, self.token(at).next);
        if let Some(place) = self.bound(world, join, at) {
            self.sorted_lefts.insert(Sorted {
                owner,
                key,
                place,
                at,
            });
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
        if let Some(place) = self.bound(world, join, at) {
            self.sorted_lefts.remove(&Sorted {
                owner,
                key,
                place,
                at,
            });
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
            // Those with a bound below the slot, when the slot is to be above it.
            let place = Place::of(&world.store.get(fact).slots[range.slot]);
            let (least, most) = place.kind();
            let (from, to) = if range.upward {
                (least, place)
            } else {
                (place, most)
            };
            let ends = self.ends(at, key, from, to);
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

    #[expect(clippy::unused_self, reason = "reads as a part of the lookup")]
    fn ends(&self, owner: u32, key: u64, from: Place, to: Place) -> std::ops::RangeInclusive<Sorted> {
        let end = |place: Place, at: u32| Sorted {
            owner,
            key,
            place,
            at,
        };
        // A search for nothing must still have its ends in order.
        if from > to || from == Place::Nowhere {
            return end(Place::End, 0)..=end(Place::End, 0);
        }
        end(from, 0)..=end(to, u32::MAX)
    }

    // ---- entries ----

    pub(super) fn right_key(world: World<'_>, index: &Index, fact: u32) -> u64 {
        let mut hasher = FxHasher::default();
        let slots = &world.store.get(fact).slots;
        index
            .slots
            .iter()
            .for_each(|slot| slots[*slot].hash_into(&mut hasher));
        hasher.finish()
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
        let key = Self::right_key(world, index, fact);
        let entry = &mut self.entries[at as usize];
        entry.key = key;
        entry.next = NONE;
        entry.previous = NONE;
        if let Some(sorted) = self.sorted_entry(world, index, at) {
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
        if let Some(place) = self.bound(world, join, left) {
            let (least, most) = place.kind();
            let upward = join.range.as_ref().is_some_and(|range| range.upward);
            let (from, to) = if upward { (place, most) } else { (least, place) };
            let ends = self.ends(owner, key, from, to);
            let found: Vec<u32> = self.sorted_rights.range(ends).map(|sorted| sorted.at).collect();
            return Bucket::List(found.into_iter());
        }
        let same = |head: &u32| {
            let head = &self.entries[*head as usize];
            head.key == key && head.index == owner
        };
        Bucket::Chain(self.rights.find(mix(owner, key), same).copied().unwrap_or(NONE))
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
