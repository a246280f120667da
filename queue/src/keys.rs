//! The keys of an exclusive queue: who is free, who is leased, and which free key comes first.
//!
//! A leased key is not in the heap of free keys at all, so no number of messages behind it delays another key. Heaps
//! are cleaned lazily: a place that is not current any more is dropped when it comes to the top.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::entry::{Order, Slots};
use crate::name::Key;

/// A heap that grew beyond this is not kept for the next key.
const KEPT_CAPACITY: usize = 64;
/// Stale places tolerated before the heap of free keys is rebuilt.
const STALE_MAX: usize = 1_024;

#[derive(Default)]
struct KeyState {
    key: Option<Key>,
    /// Messages to be leased, and places that are stale.
    pending: BinaryHeap<Reverse<Order>>,
    /// How many of `pending` are current.
    live: usize,
    running: usize,
    stamp: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FreeKey {
    head: Order,
    slot: u32,
    stamp: u32,
}

#[derive(Default)]
pub(crate) struct Keys {
    by_key: HashMap<Key, u32, FxBuildHasher>,
    states: Vec<KeyState>,
    unused: Vec<u32>,
    free: BinaryHeap<Reverse<FreeKey>>,
    /// Keys that may be leased.
    pub(crate) ready: usize,
}

impl Keys {
    /// A message of `key` may be leased from now on; gives the key's slot.
    pub(crate) fn arrive(&mut self, key: Key, order: Order) -> u32 {
        let slot = match self.by_key.get(&key) {
            Some(&slot) => slot,
            None => self.make(key),
        };
        let state = &mut self.states[slot as usize];
        let first = state.pending.peek().is_none_or(|Reverse(head)| order < *head);
        state.pending.push(Reverse(order));
        state.live += 1;
        if state.running == 0 {
            self.ready += usize::from(state.live == 1);
            if first || state.live == 1 {
                self.free.push(Reverse(FreeKey {
                    head: order,
                    slot,
                    stamp: state.stamp,
                }));
            }
        }
        slot
    }

    /// A message that was to be leased is not any more; its place goes stale.
    pub(crate) fn withdraw(&mut self, slot: u32) {
        let state = &mut self.states[slot as usize];
        state.live -= 1;
        if state.live == 0 {
            state.pending.clear();
            if state.running == 0 {
                self.ready -= 1;
                self.forget(slot);
            }
        }
    }

    /// The free key that comes first.
    pub(crate) fn first(&mut self, slots: &Slots) -> Option<(Key, u32)> {
        while let Some(&Reverse(candidate)) = self.free.peek() {
            let state = &mut self.states[candidate.slot as usize];
            if state.stamp != candidate.stamp || state.running > 0 || state.live == 0 {
                self.free.pop();
                continue;
            }
            match head(state, slots) {
                Some(current) if current == candidate.head => {
                    return state.key.map(|key| (key, candidate.slot));
                }
                Some(current) => {
                    self.free.pop();
                    self.free.push(Reverse(FreeKey {
                        head: current,
                        ..candidate
                    }));
                }
                None => {
                    self.free.pop();
                }
            }
        }
        None
    }

    /// The place in the order of the free key that comes first.
    pub(crate) fn first_order(&mut self, slots: &Slots) -> Option<Order> {
        let (_, slot) = self.first(slots)?;
        head(&mut self.states[slot as usize], slots)
    }

    /// Takes up to `max` messages of the key, in order; the caller marks each as running before it asks again.
    pub(crate) fn take(&mut self, slot: u32, max: usize, slots: &Slots, taken: &mut Vec<u32>) {
        let state = &mut self.states[slot as usize];
        let mut last = None;
        while taken.len() < max
            && let Some(order) = head(state, slots)
        {
            state.pending.pop();
            // A message may have two places when it left the order and came back.
            if last.replace(order) != Some(order) {
                taken.push(order.slot);
            }
        }
        if taken.is_empty() {
            return;
        }
        self.ready -= usize::from(state.running == 0);
        state.live -= taken.len();
        state.running += taken.len();
        if state.live == 0 {
            state.pending.clear();
        }
    }

    /// A running message of the key is not running any more. Frees the key when it was the last.
    pub(crate) fn done(&mut self, slot: u32, slots: &Slots) {
        let state = &mut self.states[slot as usize];
        state.running -= 1;
        if state.running > 0 {
            return;
        }
        if state.live == 0 {
            self.forget(slot);
            return;
        }
        self.ready += 1;
        if let Some(head) = head(state, slots) {
            let stamp = state.stamp;
            self.free.push(Reverse(FreeKey { head, slot, stamp }));
        }
        if self.free.len() > 2 * self.ready + STALE_MAX {
            let states = &self.states;
            self.free.retain(|Reverse(free)| {
                let state = &states[free.slot as usize];
                state.stamp == free.stamp && state.running == 0 && state.live > 0
            });
        }
    }

    fn make(&mut self, key: Key) -> u32 {
        let slot = self.unused.pop().unwrap_or_else(|| {
            self.states.push(KeyState::default());
            u32::try_from(self.states.len() - 1).expect("keys are at most as many as messages")
        });
        self.states[slot as usize].key = Some(key);
        self.by_key.insert(key, slot);
        slot
    }

    fn forget(&mut self, slot: u32) {
        let state = &mut self.states[slot as usize];
        state.stamp = state.stamp.wrapping_add(1);
        state.pending.clear();
        if state.pending.capacity() > KEPT_CAPACITY {
            state.pending = BinaryHeap::new();
        }
        if let Some(key) = state.key.take() {
            self.by_key.remove(&key);
        }
        self.unused.push(slot);
    }
}

/// The first current place of the key; stale ones before it are dropped.
fn head(state: &mut KeyState, slots: &Slots) -> Option<Order> {
    while let Some(Reverse(order)) = state.pending.peek() {
        if slots.is_current(order) {
            return Some(*order);
        }
        state.pending.pop();
    }
    None
}
