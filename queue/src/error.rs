//! What can go wrong, by family of operations: each error says what was wrong and what is allowed.

use celesta_store::{CommitError, QueryError};
use celesta_types::{ErrorKind, MessageId};

use crate::machine::IllegalTransition;
use crate::message::HandOver;
use crate::name::QueueName;
use crate::settings::{ConfigureError, Kind};

/// Why one message was not enqueued. It left no trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnqueueError {
    /// The payload is too large.
    #[error(
        "the payload of {id} has {bytes} bytes; at most {max} are allowed, larger values travel as artifacts"
    )]
    PayloadTooLarge {
        /// The message.
        id: MessageId,
        /// Its size.
        bytes: usize,
        /// The most allowed.
        max: usize,
    },
    /// An exclusive queue wants a key.
    #[error("message {id} has no exclusivity key; queue `{queue}` is exclusive")]
    MissingKey {
        /// The message.
        id: MessageId,
        /// The queue.
        queue: QueueName,
    },
    /// The queue is blocked for new messages.
    #[error("queue `{queue}` is blocked for new messages")]
    Blocked {
        /// The queue.
        queue: QueueName,
    },
    /// A number of the message is outside of what is allowed.
    #[error("{what} of {id} is {given}; expected {min} to {max}")]
    OutOfRange {
        /// The message.
        id: MessageId,
        /// Which number.
        what: &'static str,
        /// What was given.
        given: i64,
        /// The least allowed.
        min: i64,
        /// The most allowed.
        max: i64,
    },
    /// Too many messages in one call.
    #[error("{given} messages in one call; at most {max} are allowed")]
    BatchTooLarge {
        /// How many were given.
        given: usize,
        /// The most allowed.
        max: usize,
    },
    /// Memory holds as many messages as it may.
    #[error("{max} messages wait already; try again when some are done")]
    Full {
        /// The most allowed.
        max: usize,
    },
    /// The same id is being enqueued by somebody else this moment, and it is not decided whether that will stand.
    #[error("message {id} is being enqueued by another call; try again")]
    InFlight {
        /// The message.
        id: MessageId,
    },
    /// The queue could not be made.
    #[error("queue `{queue}` cannot be made: {source}")]
    Queue {
        /// The queue.
        queue: QueueName,
        /// Why.
        source: ConfigureError,
    },
}

impl EnqueueError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::PayloadTooLarge { .. }
            | Self::MissingKey { .. }
            | Self::OutOfRange { .. }
            | Self::BatchTooLarge { .. } => ErrorKind::Invalid,
            Self::Blocked { .. } => ErrorKind::Conflict,
            Self::Full { .. } | Self::InFlight { .. } => ErrorKind::Unavailable,
            Self::Queue { source, .. } => source.kind(),
        }
    }
}

/// A hand-over that was not taken, given back whole.
#[derive(Debug)]
pub struct Refused {
    /// What was given.
    pub hand_over: HandOver,
    /// Why it was not taken.
    pub error: EnqueueError,
}

/// Why nothing was leased. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// No message was ever sent to that queue, and it was not configured.
    #[error("there is no queue `{queue}`")]
    UnknownQueue {
        /// The queue.
        queue: QueueName,
    },
    /// The queue is blocked for leases.
    #[error("queue `{queue}` is blocked for leases")]
    Blocked {
        /// The queue.
        queue: QueueName,
    },
    /// The lease is too short or too long.
    #[error("a lease of {lease_ms} ms; expected {min} to {max} ms")]
    LeaseOutOfRange {
        /// What was asked for.
        lease_ms: i64,
        /// The least allowed.
        min: i64,
        /// The most allowed.
        max: i64,
    },
    /// The batch is empty or too large.
    #[error("a batch of {given}; expected 1 to {max}")]
    BatchOutOfRange {
        /// What was asked for.
        given: usize,
        /// The most allowed.
        max: usize,
    },
    /// Keys were asked for, and the queue has none.
    #[error("queue `{queue}` is {}; keys are leased from exclusive queues", kind.name())]
    WrongKind {
        /// The queue.
        queue: QueueName,
        /// The kind it has.
        kind: Kind,
    },
    /// More metadata than a message can have.
    #[error("a filter of {given} pairs; at most {max} are allowed")]
    FilterTooLarge {
        /// How many were given.
        given: usize,
        /// The most allowed.
        max: usize,
    },
    /// The record does not answer; what was to be leased can be leased again.
    #[error("the record cannot be read: {reason}")]
    Unreadable {
        /// The record's own words.
        reason: String,
    },
    /// The process is stopping.
    #[error("the queues are stopping")]
    Stopping,
}

impl LeaseError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownQueue { .. } => ErrorKind::NotFound,
            Self::Blocked { .. } => ErrorKind::Conflict,
            Self::LeaseOutOfRange { .. }
            | Self::BatchOutOfRange { .. }
            | Self::FilterTooLarge { .. }
            | Self::WrongKind { .. } => ErrorKind::Invalid,
            Self::Unreadable { .. } | Self::Stopping => ErrorKind::Unavailable,
        }
    }
}

/// The lease is over: it lapsed, was settled or canceled, or belongs to an earlier life of the process. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lease of {id} on queue `{queue}` is over")]
pub struct StaleToken {
    /// The queue.
    pub queue: QueueName,
    /// The message.
    pub id: MessageId,
}

impl StaleToken {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Conflict
    }
}

/// Why a lease was not extended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtendError {
    /// The lease is over.
    #[error(transparent)]
    Stale(#[from] StaleToken),
    /// The new lease is too short or too long.
    #[error("a lease of {lease_ms} ms; expected {min} to {max} ms")]
    LeaseOutOfRange {
        /// What was asked for.
        lease_ms: i64,
        /// The least allowed.
        min: i64,
        /// The most allowed.
        max: i64,
    },
}

impl ExtendError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Stale(stale) => stale.kind(),
            Self::LeaseOutOfRange { .. } => ErrorKind::Invalid,
        }
    }
}

/// Why something asked of one message by its id was not done. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The queue knows no message of that id.
    #[error("queue `{queue}` has no message {id}")]
    Unknown {
        /// The queue.
        queue: QueueName,
        /// The message.
        id: MessageId,
    },
    /// The message is not in a state for it.
    #[error("message {id}: {source}")]
    Illegal {
        /// The message.
        id: MessageId,
        /// What the machine says.
        source: IllegalTransition,
    },
    /// Another change of the message is being made durable.
    #[error("message {id} is being settled by another call")]
    Busy {
        /// The message.
        id: MessageId,
    },
}

impl MessageError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { .. } => ErrorKind::NotFound,
            Self::Illegal { .. } => ErrorKind::Conflict,
            Self::Busy { .. } => ErrorKind::Unavailable,
        }
    }
}

/// Why a whole call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many in one call.
    #[error("a batch of {given}; at most {max} are allowed")]
    BatchTooLarge {
        /// What was given.
        given: usize,
        /// The most allowed.
        max: usize,
    },
    /// The record did not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The record could not be read.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The record holds a row this release cannot read.
    #[error("row {seq} of the queue's record cannot be read: {what}")]
    Corrupt {
        /// Which row.
        seq: i64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Error {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::BatchTooLarge { .. } => ErrorKind::Invalid,
            Self::Commit(error) => error.kind(),
            Self::Query(error) => error.kind(),
            Self::Corrupt { .. } => ErrorKind::Internal,
        }
    }
}
