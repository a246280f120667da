//! Numbered messages: what is sent, and who has seen which.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use celesta_queue::{Key, NewMessage, Payload, QueueName};
use celesta_runtime::{Clock, Random};
use celesta_types::MessageId;

use crate::exit::Failure;

/// Random bytes that payloads are cut from: large enough that two neighbors share nothing, small enough for a cache.
const POOL_BYTES: usize = 1 << 20;

/// How messages look.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) queue: QueueName,
    /// The upper half of every id, as of an id made now.
    stem: u128,
    pool: Vec<u8>,
    payload: usize,
    /// How many exclusivity keys take turns.
    keys: Option<u64>,
}

impl Load {
    /// Messages with random payloads of `payload` bytes for `queue`, with `keys` exclusivity keys if any.
    ///
    /// # Errors
    /// When the name cannot name a queue.
    pub(crate) fn new(
        queue: &str,
        payload: usize,
        keys: Option<u64>,
        clock: &Clock,
    ) -> Result<Self, Failure> {
        let random = Random::system();
        let words = (POOL_BYTES + payload).div_ceil(8);
        let pool = (0..words).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        let stem = MessageId::new(clock.now(), random.next_u128()).bits() >> 64 << 64;
        Ok(Self {
            queue: QueueName::new(queue).map_err(Failure::internal)?,
            stem,
            pool,
            payload,
            keys,
        })
    }

    /// Message `number`.
    pub(crate) fn message(&self, number: u64) -> NewMessage {
        // An odd step visits the whole pool before it repeats a place.
        let at = usize::try_from(number.wrapping_mul(1_000_003) % (POOL_BYTES as u64)).unwrap_or(0);
        let payload = Payload::from(&self.pool[at..at + self.payload]);
        let id = MessageId::from_bits(self.stem | u128::from(number));
        let message = NewMessage::new(id, self.queue.clone(), payload);
        match self.keys {
            Some(keys) => message.with_key(Key::from_bits(u128::from(number % keys))),
            None => message,
        }
    }

    /// Whether they have exclusivity keys.
    pub(crate) const fn is_keyed(&self) -> bool {
        self.keys.is_some()
    }

    /// All messages of `numbers`.
    pub(crate) fn messages(&self, numbers: Range<u64>) -> Vec<NewMessage> {
        numbers.map(|number| self.message(number)).collect()
    }

    /// Which message an id names; none when it is not one of these.
    pub(crate) fn number(&self, id: MessageId) -> Option<u64> {
        u64::try_from(id.bits() ^ self.stem).ok()
    }
}

/// Which messages were delivered: a bit for each.
#[derive(Debug)]
pub(crate) struct Seen {
    words: Vec<AtomicU64>,
    first: AtomicU64,
    again: AtomicU64,
}

impl Seen {
    /// Nothing seen of `count` messages.
    pub(crate) fn none_of(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
        Self {
            words: std::iter::repeat_with(AtomicU64::default).take(words).collect(),
            first: AtomicU64::new(0),
            again: AtomicU64::new(0),
        }
    }

    /// Message `number` was delivered. One that was never sent counts as delivered twice.
    pub(crate) fn mark(&self, number: Option<u64>) {
        let bit = 1 << (number.unwrap_or(0) % 64);
        let word = number.and_then(|number| self.words.get(usize::try_from(number / 64).ok()?));
        let is_first = word.is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0);
        let counter = if is_first { &self.first } else { &self.again };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many different messages were delivered.
    pub(crate) fn delivered(&self) -> u64 {
        self.first.load(Ordering::Relaxed)
    }

    /// How many deliveries were of messages delivered before.
    pub(crate) fn duplicates(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_by_its_id_and_counted_once() {
        let load = Load::new("bench", 200, Some(7), &Clock::system()).expect("a valid name");
        let seen = Seen::none_of(100);
        for message in load.messages(0..100) {
            assert_eq!(message.payload.len(), 200);
            seen.mark(load.number(message.id));
        }
        assert_eq!((seen.delivered(), seen.duplicates()), (100, 0));
        seen.mark(load.number(load.message(99).id));
        seen.mark(load.number(MessageId::from_bits(5)));
        assert_eq!((seen.delivered(), seen.duplicates()), (100, 2));
    }
}
