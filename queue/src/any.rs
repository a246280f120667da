//! One handle on queues wherever their record is: what speaks to people and to other processes needs no more.
//!
//! What only a process that owns its queues can do (look without waiting, hand over unstored) stays with [`Queues`].

use celesta_runtime::{Clock, TaskSet};
use celesta_store::{Store, Unit};
use celesta_types::{MessageId, Priority, Timestamp};

use crate::error::{EnqueueError, Error, ExtendError, LeaseError, MessageError, StaleToken};
use crate::message::{
    Enqueued, Failed, Failure, Filter, History, LeaseKeys, LeaseRef, LeaseRequest, Leased, LeasedKey,
    MessageView, NewMessage, Page, Stats,
};
use crate::name::QueueName;
use crate::settings::{ConfigureError, Options, Settings};
use crate::{Queues, SharedQueues};

/// Queues of this process, or of a database shared by many nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub enum AnyQueues {
    /// In memory or on SQLite: this process owns them.
    Local(Queues),
    /// On PostgreSQL.
    Shared(SharedQueues),
}

impl From<Queues> for AnyQueues {
    fn from(queues: Queues) -> Self {
        Self::Local(queues)
    }
}

impl From<SharedQueues> for AnyQueues {
    fn from(queues: SharedQueues) -> Self {
        Self::Shared(queues)
    }
}

impl AnyQueues {
    /// Opens the queues on `store`, whatever it is.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub async fn open(
        store: &Store,
        clock: &Clock,
        tasks: &TaskSet,
        options: Options,
    ) -> Result<Self, Error> {
        Ok(if store.database().is_some() {
            Self::Shared(SharedQueues::open(store, clock, tasks, options).await?)
        } else {
            Self::Local(Queues::open(store, clock, tasks, options).await?)
        })
    }

    /// Leases messages; waits up to `wait` when there is none, without polling.
    ///
    /// # Errors
    /// When the request is wrong, the queue unknown or blocked, the database away, or the process is stopping.
    pub async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>, LeaseError> {
        match self {
            Self::Local(queues) => queues.lease(request).await,
            Self::Shared(queues) => queues.lease(request).await,
        }
    }

    /// Leases keys of an exclusive queue, each with its pending messages; waits up to `wait` when no key is free.
    ///
    /// # Errors
    /// When the request is wrong, the queue unknown, blocked or not exclusive, the database away, or the process is stopping.
    pub async fn lease_keys(&self, request: &LeaseKeys) -> Result<Vec<LeasedKey>, LeaseError> {
        match self {
            Self::Local(queues) => queues.lease_keys(request).await,
            Self::Shared(queues) => queues.lease_keys(request).await,
        }
    }

    /// Enqueues messages and waits until they are durable. One outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then none of them is enqueued.
    pub async fn enqueue(
        &self,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Result<Enqueued, EnqueueError>>, Error> {
        match self {
            Self::Local(queues) => queues.enqueue(messages).await,
            Self::Shared(queues) => queues.enqueue(messages).await,
        }
    }

    /// Adds messages to the caller's `unit`, which must be committed to the store these queues stand on: they are
    /// enqueued by that commit, or not at all.
    ///
    /// # Errors
    /// When the record is away. A message that is not allowed is the inner error; then none of them is staged.
    pub async fn stage_enqueue(
        &self,
        unit: &mut Unit,
        messages: Vec<NewMessage>,
    ) -> Result<Result<(), EnqueueError>, Error> {
        match self {
            Self::Local(queues) => Ok(queues.stage_enqueue(unit, messages)),
            Self::Shared(queues) => queues.stage_enqueue(unit, messages).await,
        }
    }

    /// Completes leased messages in the caller's `unit`, which must be committed to the store these queues stand on. A
    /// lease that is over is told at once where the process owns its queues (the inner error), and by a conflict of the
    /// commit where nodes share them; either way nothing of the unit stands.
    ///
    /// # Errors
    /// When the record is away; then none of them is staged.
    pub async fn stage_complete(
        &self,
        unit: &mut Unit,
        leases: &[LeaseRef],
    ) -> Result<Result<(), StaleToken>, Error> {
        match self {
            Self::Local(queues) => Ok(queues.stage_complete(unit, leases)),
            Self::Shared(queues) => queues.stage_complete(unit, leases).await.map(Ok),
        }
    }

    /// Completes leased messages and waits until that is durable. One outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn complete(&self, leases: &[LeaseRef]) -> Result<Vec<Result<(), StaleToken>>, Error> {
        match self {
            Self::Local(queues) => queues.complete(leases).await,
            Self::Shared(queues) => queues.complete(leases).await,
        }
    }

    /// Says that the work of leases has failed and waits until that is durable. One outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn fail(&self, failures: Vec<Failure>) -> Result<Vec<Result<Failed, StaleToken>>, Error> {
        match self {
            Self::Local(queues) => queues.fail(failures).await,
            Self::Shared(queues) => queues.fail(failures).await,
        }
    }

    /// Gives leases back untouched. One outcome for each, in order.
    ///
    /// # Errors
    /// When the record does not take it; then nothing has changed.
    pub async fn release(&self, leases: &[LeaseRef]) -> Result<Vec<Result<(), StaleToken>>, Error> {
        match self {
            Self::Local(queues) => Ok(queues.release(leases)),
            Self::Shared(queues) => queues.release(leases).await,
        }
    }

    /// Has leases hold for `lease_ms` from now on. One outcome for each, in order: the new end.
    ///
    /// # Errors
    /// When the record does not take it; then nothing has changed.
    pub async fn extend(
        &self,
        leases: &[LeaseRef],
        lease_ms: i64,
    ) -> Result<Vec<Result<Timestamp, ExtendError>>, Error> {
        match self {
            Self::Local(queues) => Ok(queues.extend(leases, lease_ms)),
            Self::Shared(queues) => queues.extend(leases, lease_ms).await,
        }
    }

    /// Calls messages back. One outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn cancel(
        &self,
        queue: &QueueName,
        ids: &[MessageId],
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        match self {
            Self::Local(queues) => queues.cancel(queue, ids).await,
            Self::Shared(queues) => queues.cancel(queue, ids).await,
        }
    }

    /// Calls back up to `max` messages that match and have not ended; gives their ids.
    ///
    /// # Errors
    /// When the record does not take it; then nothing has changed.
    pub async fn cancel_matching(
        &self,
        queue: &QueueName,
        filter: &Filter,
        max: usize,
    ) -> Result<Vec<MessageId>, Error> {
        match self {
            Self::Local(queues) => queues.cancel_matching(queue, filter, max).await,
            Self::Shared(queues) => queues.cancel_matching(queue, filter, max).await,
        }
    }

    /// Gives errored or expired messages a new set of attempts. One outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn redrive(
        &self,
        queue: &QueueName,
        ids: &[MessageId],
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        match self {
            Self::Local(queues) => queues.redrive(queue, ids).await,
            Self::Shared(queues) => queues.redrive(queue, ids).await,
        }
    }

    /// Moves waiting messages within the order. One outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn reprioritize(
        &self,
        queue: &QueueName,
        changes: &[(MessageId, Priority)],
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        match self {
            Self::Local(queues) => queues.reprioritize(queue, changes).await,
            Self::Shared(queues) => queues.reprioritize(queue, changes).await,
        }
    }

    /// Makes `queue` or changes what it is configured to do.
    ///
    /// # Errors
    /// When the record does not take it. A setting that is not allowed is the inner error.
    pub async fn configure(
        &self,
        queue: &QueueName,
        settings: Settings,
    ) -> Result<Result<(), ConfigureError>, Error> {
        match self {
            Self::Local(queues) => Ok(queues.configure(queue, settings)),
            Self::Shared(queues) => queues.configure(queue, settings).await,
        }
    }

    /// The queues whose messages are sent to a broker.
    #[must_use]
    pub fn on_broker(&self) -> Vec<QueueName> {
        match self {
            Self::Local(queues) => queues.on_broker(),
            Self::Shared(queues) => queues.on_broker(),
        }
    }

    /// All queues by name.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn list_queues(&self) -> Result<Vec<Stats>, Error> {
        match self {
            Self::Local(queues) => Ok(queues.list_queues()),
            Self::Shared(queues) => queues.list_queues().await,
        }
    }

    /// One queue in numbers.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn stats(&self, queue: &QueueName) -> Result<Option<Stats>, Error> {
        match self {
            Self::Local(queues) => Ok(queues.stats(queue)),
            Self::Shared(queues) => queues.stats(queue).await,
        }
    }

    /// How many messages of the queue have not ended.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn depth(&self, queue: &QueueName) -> Result<usize, Error> {
        match self {
            Self::Local(queues) => Ok(queues.depth(queue)),
            Self::Shared(queues) => queues.depth(queue).await,
        }
    }

    /// Up to `limit` messages in the order they would be leased, without leasing them.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn peek(&self, queue: &QueueName, limit: usize) -> Result<Vec<MessageView>, Error> {
        match self {
            Self::Local(queues) => queues.peek(queue, limit).await,
            Self::Shared(queues) => queues.peek(queue, limit).await,
        }
    }

    /// A page of up to `limit` messages that match.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn list(
        &self,
        queue: &QueueName,
        filter: &Filter,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page, Error> {
        match self {
            Self::Local(queues) => queues.list(queue, filter, after, limit).await,
            Self::Shared(queues) => queues.list(queue, filter, after, limit).await,
        }
    }

    /// How many messages of the queue match.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn count(&self, queue: &QueueName, filter: &Filter) -> Result<usize, Error> {
        match self {
            Self::Local(queues) => queues.count(queue, filter).await,
            Self::Shared(queues) => queues.count(queue, filter).await,
        }
    }

    /// One message as it stands.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn view(&self, queue: &QueueName, id: MessageId) -> Result<Option<MessageView>, Error> {
        match self {
            Self::Local(queues) => queues.view(queue, id).await,
            Self::Shared(queues) => queues.view(queue, id).await,
        }
    }

    /// One message from its beginning to now.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn history(&self, queue: &QueueName, id: MessageId) -> Result<Option<History>, Error> {
        match self {
            Self::Local(queues) => queues.history(queue, id).await,
            Self::Shared(queues) => queues.history(queue, id).await,
        }
    }
}
