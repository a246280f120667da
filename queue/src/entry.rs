//! One message in memory, and the place where all messages of a queue are kept.

use std::cmp::Ordering;
use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::{MessageId, Priority, Timestamp};

use crate::machine::{Standing, State};
use crate::message::Payload;
use crate::name::Key;

/// The instant of something that will not happen.
pub(crate) const NEVER: i64 = i64::MAX;
/// Places of one chunk: memory grows by this much at a time and nothing is ever moved under the lock.
const CHUNK: usize = 4_096;

/// One message.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts beside the state of the machine, packed in a hot structure"
)]
pub(crate) struct Entry {
    pub(crate) id: MessageId,
    pub(crate) seq: i64,
    pub(crate) rank: u32,
    /// The slot of its key in [`crate::keys::Keys`] while it is pending or running in an exclusive queue.
    pub(crate) key_slot: u32,
    pub(crate) deadline: i64,
    pub(crate) standing: Standing,
    /// When it becomes visible, its lease lapses, or it ended, by its state.
    pub(crate) at: i64,
    pub(crate) expires_at: i64,
    pub(crate) enqueued_at: i64,
    /// The token of the lease; zero when there is none.
    pub(crate) token: u64,
    pub(crate) key: Option<Key>,
    pub(crate) payload: Payload,
    pub(crate) consumer: Option<Arc<str>>,
    pub(crate) fairness: Option<Arc<str>>,
    pub(crate) metadata: Option<Arc<[(String, String)]>>,
    pub(crate) error: Option<Arc<str>>,
    /// What has to become durable with it, while it is not stored.
    pub(crate) companion: Option<Box<Unit>>,
    /// It has a row, durable or on its way.
    pub(crate) stored: bool,
    /// The unit that enqueues it is not durable yet.
    pub(crate) arriving: bool,
    /// A unit that changes it is not durable yet.
    pub(crate) settling: bool,
    /// The row says it is running.
    pub(crate) recorded: bool,
    /// It was found in the record at the start.
    pub(crate) recovered: bool,
}

impl Entry {
    pub(crate) fn new(id: MessageId, seq: i64, payload: Payload) -> Self {
        Self {
            id,
            seq,
            rank: 0,
            key_slot: 0,
            deadline: NEVER,
            standing: Standing {
                state: State::Pending,
                attempt: 0,
                attempts_max: 1,
            },
            at: 0,
            expires_at: NEVER,
            enqueued_at: 0,
            token: 0,
            key: None,
            payload,
            consumer: None,
            fairness: None,
            metadata: None,
            error: None,
            companion: None,
            stored: false,
            arriving: false,
            settling: false,
            recorded: false,
            recovered: false,
        }
    }

    pub(crate) fn priority(&self) -> Priority {
        let deadline = (self.deadline != NEVER).then(|| Timestamp::from_millis(self.deadline));
        Priority::from_rank(self.rank, deadline).unwrap_or_default()
    }

    pub(crate) fn prioritize(&mut self, priority: &Priority) {
        self.rank = priority.rank();
        self.deadline = priority.deadline.map_or(NEVER, Timestamp::as_millis);
    }

    pub(crate) const fn is_hidden(&self) -> bool {
        self.arriving || self.settling
    }

    pub(crate) const fn order(&self, slot: u32) -> Order {
        Order {
            rank: self.rank,
            deadline: self.deadline,
            seq: self.seq,
            slot,
        }
    }
}

/// The place of a message in the order of its queue. The smaller is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) rank: u32,
    pub(crate) slot: u32,
    pub(crate) deadline: i64,
    pub(crate) seq: i64,
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.rank, self.deadline, self.seq).cmp(&(other.rank, other.deadline, other.seq))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Names an entry; it names nothing any more once the place was given to another message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ref {
    pub(crate) slot: u32,
    pub(crate) stamp: u32,
}

struct Place {
    stamp: u32,
    entry: Option<Entry>,
}

/// All messages of a queue.
#[derive(Default)]
pub(crate) struct Slots {
    chunks: Vec<Vec<Place>>,
    free: Vec<u32>,
    used: usize,
}

impl Slots {
    pub(crate) const fn len(&self) -> usize {
        self.used
    }

    pub(crate) fn insert(&mut self, entry: Entry) -> Ref {
        self.used += 1;
        if let Some(slot) = self.free.pop()
            && let Some(place) = self.place_mut(slot)
        {
            place.entry = Some(entry);
            return Ref {
                slot,
                stamp: place.stamp,
            };
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self
            .chunks
            .last_mut()
            .expect("a chunk was just pushed when there was none");
        let slot = u32::try_from(before + chunk.len()).expect("messages are bounded far below 2^32");
        chunk.push(Place {
            stamp: 0,
            entry: Some(entry),
        });
        Ref { slot, stamp: 0 }
    }

    /// Takes the entry out; its references name nothing from now on.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let place = self.place_mut(slot)?;
        let entry = place.entry.take()?;
        place.stamp = place.stamp.wrapping_add(1);
        self.free.push(slot);
        self.used -= 1;
        Some(entry)
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Entry> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.entry.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.place_mut(slot)?.entry.as_mut()
    }

    /// The entry, if the reference still names one.
    pub(crate) fn resolve(&mut self, at: Ref) -> Option<&mut Entry> {
        let place = self.place_mut(at.slot)?;
        if place.stamp == at.stamp {
            place.entry.as_mut()
        } else {
            None
        }
    }

    pub(crate) fn reference(&self, slot: u32) -> Ref {
        let index = slot as usize;
        let stamp = self
            .chunks
            .get(index / CHUNK)
            .and_then(|chunk| chunk.get(index % CHUNK))
            .map_or(0, |place| place.stamp);
        Ref { slot, stamp }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        let places = self.chunks.iter().flatten().zip(0_u32..);
        places.filter_map(|(place, slot)| place.entry.as_ref().map(|entry| (slot, entry)))
    }

    /// Whether the place in the order is still that of a message to be leased.
    pub(crate) fn is_current(&self, order: &Order) -> bool {
        self.get(order.slot).is_some_and(|entry| {
            entry.seq == order.seq
                && entry.standing.state == State::Pending
                && !entry.is_hidden()
                && entry.rank == order.rank
                && entry.deadline == order.deadline
        })
    }

    fn place_mut(&mut self, slot: u32) -> Option<&mut Place> {
        let slot = slot as usize;
        self.chunks.get_mut(slot / CHUNK)?.get_mut(slot % CHUNK)
    }
}
