//! The keys of messages, and of an exclusive queue: which messages of a key wait, and whether the key is leased.
//!
//! Only the first message of a free key stands in the schedule. A leased key is not there at all, so no number of
//! messages behind it delays another key.

use crate::entry::{Order, Slots, join, split};
use crate::index::Index;
use crate::line::Line;
use crate::name::Key;

/// Keys of one chunk: nothing large is moved under the lock.
const CHUNK: usize = 4_096;

/// Messages of a key that wait. Nearly all keys have one.
#[derive(Default)]
enum Pending {
    #[default]
    None,
    One(u32),
    Many(Box<Line>),
}

impl Pending {
    fn first(&self, slots: &Slots) -> Option<Order> {
        match self {
            Self::None => None,
            Self::One(slot) => slots.order(*slot),
            Self::Many(line) => line.first(),
        }
    }

    fn insert(&mut self, order: Order, slots: &Slots) {
        match self {
            Self::None => *self = Self::One(order.slot),
            Self::One(slot) => {
                let mut line = Box::<Line>::default();
                if let Some(other) = slots.order(*slot) {
                    line.insert(other);
                }
                line.insert(order);
                *self = Self::Many(line);
            }
            Self::Many(line) => line.insert(order),
        }
    }

    fn remove(&mut self, order: &Order) {
        match self {
            Self::None => {}
            Self::One(_) => *self = Self::None,
            Self::Many(line) => {
                line.remove(order);
                if line.is_empty() {
                    *self = Self::None;
                }
            }
        }
    }
}

#[derive(Default)]
struct KeyState {
    key: [u64; 2],
    pending: Pending,
    running: u32,
    /// Messages that have this key, in whatever state.
    members: u32,
}

/// What a change of a key changes in the schedule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Reseat {
    pub(crate) out: Option<Order>,
    pub(crate) into: Option<Order>,
}

#[derive(Default)]
pub(crate) struct Keys {
    index: Index,
    chunks: Vec<Vec<KeyState>>,
    unused: Vec<u32>,
    made: usize,
}

impl Keys {
    fn state(&self, slot: u32) -> &KeyState {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn state_mut(&mut self, slot: u32) -> &mut KeyState {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    /// The slot of `key`, for one more message.
    pub(crate) fn join(&mut self, key: Key) -> u32 {
        let chunks = &self.chunks;
        let bits_of = |slot: u32| join(chunks[slot as usize / CHUNK][slot as usize % CHUNK].key);
        if let Some(slot) = self.index.find(key.bits(), bits_of) {
            self.state_mut(slot).members += 1;
            return slot;
        }
        let slot = self.unused.pop().unwrap_or_else(|| {
            if self.made.is_multiple_of(CHUNK) {
                self.chunks
                    .push(Vec::with_capacity(if self.made == 0 { 0 } else { CHUNK }));
            }
            let chunk = self.made / CHUNK;
            self.chunks[chunk].push(KeyState::default());
            self.made += 1;
            u32::try_from(self.made - 1).expect("keys are at most as many as messages")
        });
        let state = self.state_mut(slot);
        (state.key, state.members) = (split(key.bits()), 1);
        let chunks = &self.chunks;
        self.index.insert(key.bits(), slot, |slot: u32| {
            join(chunks[slot as usize / CHUNK][slot as usize % CHUNK].key)
        });
        slot
    }

    /// A message of the key is forgotten.
    pub(crate) fn leave(&mut self, slot: u32) {
        let state = self.state_mut(slot);
        state.members -= 1;
        if state.members == 0 {
            let bits = join(state.key);
            *state = KeyState::default();
            self.index.remove(bits, slot);
            self.unused.push(slot);
        }
    }

    pub(crate) fn key(&self, slot: u32) -> Key {
        Key::from_bits(join(self.state(slot).key))
    }

    /// A message of the key may be leased from now on.
    pub(crate) fn arrive(&mut self, slot: u32, order: Order, slots: &Slots) -> Reseat {
        let state = self.state_mut(slot);
        let head = state.pending.first(slots);
        state.pending.insert(order, slots);
        if state.running > 0 || head.is_some_and(|head| head < order) {
            return Reseat::default();
        }
        Reseat {
            out: head,
            into: Some(order),
        }
    }

    /// A message that was to be leased is not any more.
    pub(crate) fn withdraw(&mut self, slot: u32, order: &Order, slots: &Slots) -> Reseat {
        let state = self.state_mut(slot);
        let head = state.pending.first(slots);
        state.pending.remove(order);
        if state.running > 0 || head != Some(*order) {
            return Reseat::default();
        }
        Reseat {
            out: head,
            into: state.pending.first(slots),
        }
    }

    /// Takes up to `max` messages of a free key, in order; its seat in the schedule is to be taken away.
    pub(crate) fn take(&mut self, slot: u32, max: usize, slots: &Slots, taken: &mut Vec<u32>) {
        let state = self.state_mut(slot);
        while taken.len() < max
            && let Some(order) = state.pending.first(slots)
        {
            state.pending.remove(&order);
            state.running += 1;
            taken.push(order.slot);
        }
    }

    /// A running message of the key is not running any more. Gives the seat of the key when that was the last.
    pub(crate) fn done(&mut self, slot: u32, slots: &Slots) -> Reseat {
        let state = self.state_mut(slot);
        state.running -= 1;
        let into = (state.running == 0).then(|| state.pending.first(slots)).flatten();
        Reseat { out: None, into }
    }

    /// The first waiting messages of the key.
    pub(crate) fn waiting(&self, slot: u32, max: usize) -> Vec<u32> {
        match &self.state(slot).pending {
            Pending::None => Vec::new(),
            Pending::One(slot) => vec![*slot],
            Pending::Many(line) => line.iter().take(max).map(|order| order.slot).collect(),
        }
    }
}
