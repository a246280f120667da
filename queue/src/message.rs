//! What goes in and what comes out: messages, leases, requests and views. Plain values without behavior.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use celesta_store::Unit;
use celesta_types::{MessageId, Priority, Timestamp};

use crate::machine::State;
use crate::name::{Key, QueueName, Token};
use crate::settings::Settings;

/// The bytes of a message. Cheap to clone.
pub type Payload = Arc<[u8]>;

/// A message to be enqueued.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The producer's id: enqueuing it again is the same as enqueuing it once.
    pub id: MessageId,
    /// The queue; made on first use.
    pub queue: QueueName,
    /// The exclusivity key; an exclusive queue refuses a message without.
    pub key: Option<Key>,
    /// Where it stands.
    pub priority: Priority,
    /// Not leased before this instant; the queue's own delay when absent.
    pub visible_at: Option<Timestamp>,
    /// How long it may wait before it expires; the queue's own when absent.
    pub ttl_ms: Option<i64>,
    /// How often it is tried; the queue's own when absent.
    pub attempts_max: Option<u32>,
    /// Whose share of the queue it takes: keys that have messages of one class are served in turn, by their weights.
    pub fairness: Option<Arc<str>>,
    /// Up to eight pairs to find it by.
    pub metadata: Vec<(String, String)>,
    /// The bytes, up to 32 KiB.
    pub payload: Payload,
    /// Says that the producer's own transaction keeps the id unique, so that a store need not look for it.
    pub repeatable_id: bool,
}

impl NewMessage {
    /// A message with nothing else said.
    #[must_use]
    pub fn new(id: MessageId, queue: QueueName, payload: impl Into<Payload>) -> Self {
        Self {
            id,
            queue,
            key: None,
            priority: Priority::default(),
            visible_at: None,
            ttl_ms: None,
            attempts_max: None,
            fairness: None,
            metadata: Vec::new(),
            payload: payload.into(),
            repeatable_id: false,
        }
    }

    /// With an exclusivity key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Key>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With a priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Not leased before `at`.
    #[must_use]
    pub const fn visible_at(mut self, at: Timestamp) -> Self {
        self.visible_at = Some(at);
        self
    }
}

/// A message together with what became due by the same event, for example the completion of the message it answers.
pub struct HandOver {
    /// The message.
    pub message: NewMessage,
    /// What must become durable with it. Its hooks tell the caller when that is so.
    pub companion: Unit,
}

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver")
            .field("message", &self.message)
            .field("companion", &self.companion)
            .finish()
    }
}

/// What became of one message of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It is in the queue now, durable.
    New,
    /// A message of that id is known already; nothing has changed.
    Existing,
}

/// A message in the hands of a consumer.
#[derive(Debug, Clone)]
pub struct Leased {
    /// Its id.
    pub id: MessageId,
    /// Its queue.
    pub queue: QueueName,
    /// Its exclusivity key.
    pub key: Option<Key>,
    /// Where it stood.
    pub priority: Priority,
    /// The bytes.
    pub payload: Payload,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// How many tries it has.
    pub attempts_max: u32,
    /// Proves the lease.
    pub token: Token,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// When the lease lapses unless it is extended.
    pub leased_until: Timestamp,
    /// Its pairs.
    pub metadata: Option<Arc<[(String, String)]>>,
}

impl Leased {
    /// What completes, fails, extends or releases it.
    #[must_use]
    pub fn lease(&self) -> LeaseRef {
        LeaseRef {
            queue: self.queue.clone(),
            id: self.id,
            token: self.token,
        }
    }
}

/// Names one lease of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRef {
    /// The queue.
    pub queue: QueueName,
    /// The message.
    pub id: MessageId,
    /// The token the lease was given.
    pub token: Token,
}

/// Asks for messages of one queue.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// The queue.
    pub queue: QueueName,
    /// At most so many messages.
    pub max: usize,
    /// How long to hold them; the queue's own when absent.
    pub lease_ms: Option<i64>,
    /// How long to wait when there is none.
    pub wait: Duration,
    /// Only messages that have all of these pairs; any when empty.
    pub metadata: Vec<(String, String)>,
    /// Who asks; shown to people.
    pub consumer: Arc<str>,
}

/// Asks for keys of one exclusive queue, each with its pending messages.
#[derive(Debug, Clone)]
pub struct LeaseKeys {
    /// The queue.
    pub queue: QueueName,
    /// At most so many keys.
    pub max_keys: usize,
    /// At most so many messages of each key.
    pub max_messages_per_key: usize,
    /// How long to hold them; the queue's own when absent.
    pub lease_ms: Option<i64>,
    /// How long to wait when there is none.
    pub wait: Duration,
    /// Only keys whose first message has all of these pairs; any when empty.
    pub metadata: Vec<(String, String)>,
    /// Who asks; shown to people.
    pub consumer: Arc<str>,
}

/// A key in the hands of a consumer. The key is free again when all of these messages are completed, failed or released.
#[derive(Debug, Clone)]
pub struct LeasedKey {
    /// The key.
    pub key: Key,
    /// Its messages, in the order of the queue. They share one token.
    pub messages: Vec<Leased>,
}

/// Says that the work of one lease has failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which lease.
    pub lease: LeaseRef,
    /// Whether another try may succeed.
    pub retryable: bool,
    /// How long to wait before the next try.
    pub delay_ms: i64,
    /// What went wrong, for people; cut to 4 KiB.
    pub error: String,
}

/// What became of a failed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// It will be tried again from this instant on.
    Retried {
        /// When it becomes visible.
        visible_at: Timestamp,
    },
    /// It is a dead letter now.
    Errored,
}

/// One message as people look at it.
#[derive(Debug, Clone)]
pub struct MessageView {
    /// Its id.
    pub id: MessageId,
    /// Its exclusivity key.
    pub key: Option<Key>,
    /// Its state.
    pub state: State,
    /// Where it stands.
    pub priority: Priority,
    /// Tries so far, the running one included.
    pub attempt: u32,
    /// How many tries it has.
    pub attempts_max: u32,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// When it becomes visible, its lease lapses, or it ended, by its state.
    pub at: Option<Timestamp>,
    /// Who holds it, or held it last.
    pub consumer: Option<Arc<str>>,
    /// What went wrong last.
    pub error: Option<String>,
    /// Its pairs.
    pub metadata: Vec<(String, String)>,
    /// The bytes; absent when only the history of the message is left.
    pub payload: Option<Payload>,
}

/// One message from its beginning to now.
#[derive(Debug, Clone)]
pub struct History {
    /// The message as it stands, or stood at its end.
    pub message: MessageView,
    /// What happened to it, the oldest first. Of very many events the first and the last are kept.
    pub timeline: Vec<TimelineEvent>,
}

/// One event in the life of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineEvent {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub what: Happened,
}

/// What happened to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// Its producer sent it.
    Enqueued,
    /// It could be leased from then on, after a delay.
    Visible,
    /// A consumer took it.
    Leased {
        /// Who.
        consumer: Arc<str>,
        /// Which try it was, from 1.
        attempt: u32,
    },
    /// Its consumer asked for more time.
    Extended {
        /// The new end of the lease.
        until: Timestamp,
    },
    /// Its consumer was done.
    Completed,
    /// Its consumer failed.
    Failed {
        /// What went wrong.
        error: Arc<str>,
    },
    /// Its consumer gave it back.
    Released,
    /// Its lease ran out.
    Lapsed,
    /// Somebody called it back.
    Canceled,
    /// It waited longer than it may.
    Expired,
    /// Somebody gave it a new set of attempts.
    Redriven,
    /// Somebody moved it within the order.
    Reprioritized {
        /// Its new priority.
        priority: Priority,
    },
}

/// What was listed.
#[derive(Debug, Clone)]
pub struct Page {
    /// The messages.
    pub messages: Vec<MessageView>,
    /// Where the next page begins; absent at the end.
    pub next: Option<u64>,
}

/// What to list: everything unless narrowed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only messages in one of these states; any when empty.
    pub states: Vec<State>,
    /// Only messages that have all of these pairs.
    pub metadata: Vec<(String, String)>,
}

/// One queue in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// The queue.
    pub queue: QueueName,
    /// What it is configured to do.
    pub settings: Settings,
    /// What can be leased this instant: messages, or free keys of an exclusive queue.
    pub ready: usize,
    /// Messages whose unit is not durable yet.
    pub arriving: usize,
    /// Messages in each state, in the order of [`State::ALL`].
    pub counts: [usize; State::ALL.len()],
    /// Messages leased although one of another shard came first by class or number, since the start.
    pub overtaken: u64,
}

impl Stats {
    /// Messages in `state`.
    #[must_use]
    pub const fn count(&self, state: State) -> usize {
        self.counts[state.index()]
    }
}
