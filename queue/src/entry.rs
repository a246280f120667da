//! One message in memory, and the place where all messages of a shard are kept.
//!
//! Millions of messages wait at once, so an entry is slim: what few of them have stands apart, and the payload may be
//! left in the record.

use std::cmp::Ordering;
use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::{MessageId, Priority, Timestamp};

use crate::machine::{Standing, State};
use crate::message::{Payload, TimelineEvent};

/// The instant of something that will not happen.
pub(crate) const NEVER: i64 = i64::MAX;
/// The slot of no key.
pub(crate) const NO_KEY: u32 = u32::MAX;
/// The share of messages without a fairness key.
pub(crate) const NO_FLOW: u32 = 0;
/// Places of one chunk: memory grows by this much at a time and nothing is ever moved under the lock.
const CHUNK: usize = 4_096;
/// What a payload in memory costs beside its bytes: two counters and the allocator's own.
pub(crate) const PAYLOAD_OVERHEAD: usize = 24;

/// What few messages have, or have only while a consumer holds them.
#[derive(Default)]
pub(crate) struct Rare {
    /// The token of the lease; zero when there is none.
    pub(crate) token: u64,
    pub(crate) leased_at: i64,
    pub(crate) consumer: Option<Arc<str>>,
    /// Zero when it does not expire.
    pub(crate) expires_at: i64,
    pub(crate) fairness: Option<Arc<str>>,
    pub(crate) metadata: Option<Arc<[(String, String)]>>,
    /// The same pairs as numbers, sorted.
    pub(crate) pairs: Box<[u32]>,
    pub(crate) error: Option<Arc<str>>,
    /// What has to become durable with it, while it is not stored.
    pub(crate) companion: Option<Box<Unit>>,
    /// What happened to it that cannot be told from the entry itself.
    pub(crate) timeline: Vec<TimelineEvent>,
}

/// One message.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts beside the state of the machine, packed in a hot structure"
)]
pub(crate) struct Entry {
    id: [u64; 2],
    pub(crate) seq: i64,
    pub(crate) deadline: i64,
    /// When it becomes visible, its lease lapses, or it ended, by its state.
    pub(crate) at: i64,
    pub(crate) enqueued_at: i64,
    pub(crate) payload: Option<Payload>,
    rare: Option<Box<Rare>>,
    pub(crate) standing: Standing,
    pub(crate) rank: u32,
    /// The slot of its key in [`crate::keys::Keys`].
    pub(crate) key: u32,
    /// Whose share it takes.
    pub(crate) flow: u32,
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
    pub(crate) const fn new(id: MessageId, seq: i64, payload: Option<Payload>) -> Self {
        Self {
            id: split(id.bits()),
            seq,
            deadline: NEVER,
            at: 0,
            enqueued_at: 0,
            payload,
            rare: None,
            standing: Standing {
                state: State::Pending,
                attempt: 0,
                attempts_max: 1,
            },
            rank: 0,
            key: NO_KEY,
            flow: NO_FLOW,
            stored: false,
            arriving: false,
            settling: false,
            recorded: false,
            recovered: false,
        }
    }

    pub(crate) const fn id(&self) -> MessageId {
        MessageId::from_bits(join(self.id))
    }

    pub(crate) fn priority(&self) -> Priority {
        priority(self.rank, self.deadline)
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

    pub(crate) fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    /// What few have; made when there is none yet.
    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn token(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.token)
    }

    pub(crate) fn clear_token(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.token = 0;
        }
    }

    pub(crate) fn expires_at(&self) -> i64 {
        let expires_at = self.rare.as_ref().map_or(0, |rare| rare.expires_at);
        if expires_at == 0 { NEVER } else { expires_at }
    }

    pub(crate) fn expire_at(&mut self, at: i64) {
        if at != NEVER {
            self.rare_mut().expires_at = at;
        } else if let Some(rare) = &mut self.rare {
            rare.expires_at = 0;
        }
    }

    pub(crate) fn error(&self) -> Option<&Arc<str>> {
        self.rare.as_ref().and_then(|rare| rare.error.as_ref())
    }

    pub(crate) fn pairs(&self) -> &[u32] {
        self.rare.as_ref().map_or(&[], |rare| &rare.pairs)
    }

    pub(crate) fn has_companion(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.companion.is_some())
    }

    pub(crate) fn take_companion(&mut self) -> Option<Unit> {
        let companion = self.rare.as_mut()?.companion.take();
        companion.map(|companion| *companion)
    }

    /// Bytes its payload takes in memory.
    pub(crate) fn resident_bytes(&self) -> usize {
        self.payload
            .as_ref()
            .map_or(0, |payload| payload.len() + PAYLOAD_OVERHEAD)
    }
}

/// 128 bits without their alignment of 16 bytes.
pub(crate) const fn split(bits: u128) -> [u64; 2] {
    let bytes = bits.to_ne_bytes();
    let (mut low, mut high) = ([0; 8], [0; 8]);
    let mut at = 0;
    while at < 8 {
        low[at] = bytes[at];
        high[at] = bytes[at + 8];
        at += 1;
    }
    [u64::from_ne_bytes(low), u64::from_ne_bytes(high)]
}

/// The 128 bits that were split.
pub(crate) const fn join([low, high]: [u64; 2]) -> u128 {
    let (low, high) = (low.to_ne_bytes(), high.to_ne_bytes());
    let mut bytes = [0; 16];
    let mut at = 0;
    while at < 8 {
        bytes[at] = low[at];
        bytes[at + 8] = high[at];
        at += 1;
    }
    u128::from_ne_bytes(bytes)
}

/// The priority of that class, number and deadline.
pub(crate) fn priority(rank: u32, deadline: i64) -> Priority {
    let deadline = (deadline != NEVER).then(|| Timestamp::from_millis(deadline));
    Priority::from_rank(rank, deadline).unwrap_or_default()
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

/// Places that were given out once, and by how many messages each.
struct Chunk {
    stamps: Vec<u32>,
    entries: Vec<Option<Entry>>,
}

/// All messages of a shard.
#[derive(Default)]
pub(crate) struct Slots {
    chunks: Vec<Chunk>,
    free: Vec<u32>,
    used: usize,
}

impl Slots {
    pub(crate) const fn len(&self) -> usize {
        self.used
    }

    /// Places, the vacant ones included.
    pub(crate) fn places(&self) -> u32 {
        let last = self.chunks.last().map_or(0, |chunk| chunk.entries.len());
        let before = self.chunks.len().saturating_sub(1) * CHUNK;
        u32::try_from(before + last).unwrap_or(u32::MAX)
    }

    pub(crate) fn insert(&mut self, entry: Entry) -> Ref {
        self.used += 1;
        if let Some(slot) = self.free.pop() {
            let at = slot as usize;
            let chunk = &mut self.chunks[at / CHUNK];
            chunk.entries[at % CHUNK] = Some(entry);
            return Ref {
                slot,
                stamp: chunk.stamps[at % CHUNK],
            };
        }
        if self
            .chunks
            .last()
            .is_none_or(|chunk| chunk.entries.len() == CHUNK)
        {
            // The first chunk grows as it fills: most queues are small.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Chunk {
                stamps: Vec::with_capacity(room),
                entries: Vec::with_capacity(room),
            });
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self
            .chunks
            .last_mut()
            .expect("a chunk was just pushed when there was none");
        let slot = u32::try_from(before + chunk.entries.len()).expect("messages are bounded far below 2^32");
        chunk.stamps.push(0);
        chunk.entries.push(Some(entry));
        Ref { slot, stamp: 0 }
    }

    /// Takes the entry out; its references name nothing from now on.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let at = slot as usize;
        let chunk = self.chunks.get_mut(at / CHUNK)?;
        let entry = chunk.entries.get_mut(at % CHUNK)?.take()?;
        let stamp = &mut chunk.stamps[at % CHUNK];
        *stamp = stamp.wrapping_add(1);
        self.free.push(slot);
        self.used -= 1;
        Some(entry)
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Entry> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.entries.get(slot % CHUNK)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        let slot = slot as usize;
        self.chunks
            .get_mut(slot / CHUNK)?
            .entries
            .get_mut(slot % CHUNK)?
            .as_mut()
    }

    /// The entry, if the reference still names one.
    pub(crate) fn resolve(&mut self, at: Ref) -> Option<&mut Entry> {
        if self.reference(at.slot).stamp == at.stamp {
            self.get_mut(at.slot)
        } else {
            None
        }
    }

    pub(crate) fn reference(&self, slot: u32) -> Ref {
        let at = slot as usize;
        let stamp = self
            .chunks
            .get(at / CHUNK)
            .and_then(|chunk| chunk.stamps.get(at % CHUNK));
        Ref {
            slot,
            stamp: stamp.copied().unwrap_or(0),
        }
    }

    /// The order of the message in that place.
    pub(crate) fn order(&self, slot: u32) -> Option<Order> {
        self.get(slot).map(|entry| entry.order(slot))
    }

    pub(crate) fn bits_of(&self, slot: u32) -> u128 {
        self.get(slot).map_or(0, |entry| join(entry.id))
    }
}
