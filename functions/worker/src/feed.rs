//! Where invocations come from and outcomes go: the seam between a worker and the queues, in this process or far away.
//!
//! All calls are batches. A feed is told of finished invocations and makes them durable in its own time: a lost report
//! is a lapsed lease, and the invocation is run again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{LeaseRef, Leased, QueueName};
use celesta_types::{CallId, ErrorKind, MessageId, Priority, RunId};
use futures_util::future::BoxFuture;

use crate::attempts::AttemptRecord;

/// A queue that has something to lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Which of the queues that were asked for.
    pub index: usize,
    /// Where the first message stands.
    pub head: Priority,
    /// How many messages can be leased.
    pub depth: usize,
}

/// What becomes of an invocation.
#[derive(Debug)]
pub enum Finish {
    /// The call has ended: the encoded report for the run.
    Report(Vec<u8>),
    /// It is tried again.
    Retry {
        /// After so long.
        after_ms: i64,
        /// Why, for people.
        error: String,
    },
    /// Somebody else shall run it; burns no attempt.
    Release,
}

/// One invocation this worker is done with.
#[derive(Debug)]
pub struct Finished {
    /// The lease it had.
    pub lease: LeaseRef,
    /// The run that hears of it.
    pub run: RunId,
    /// Where its message stood: the report stands there too.
    pub priority: Priority,
    /// What becomes of it.
    pub finish: Finish,
    /// The row of its attempt, when it is worth one.
    pub record: Option<AttemptRecord>,
}

/// How far an invocation is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The invocation.
    pub invocation: MessageId,
    /// The run.
    pub run: RunId,
    /// The call.
    pub call: CallId,
    /// From 0 to 1.
    pub fraction: f64,
    /// For people.
    pub text: String,
}

/// Why a feed gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no invocations: {reason}")]
pub struct FeedError {
    /// Why.
    pub reason: String,
    /// What a caller may do about it.
    pub kind: ErrorKind,
}

/// Hears of progress: sees it as it comes, must return at once.
pub type ProgressHook = Arc<dyn Fn(Progress) + Send + Sync>;

/// The seam between a worker and the queues.
pub trait Feed: Send + Sync + fmt::Debug + 'static {
    /// Waits until one of `queues` has something to lease, and says which have.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    fn ready(self: Arc<Self>, queues: Arc<[QueueName]>) -> BoxFuture<'static, Vec<Ready>>;

    /// Leases up to `max` messages of `queue` for `lease`; waits up to `wait` when there is none.
    ///
    /// # Cancel safety
    /// May be dropped while it waits: nothing is leased then.
    fn lease(
        self: Arc<Self>,
        queue: QueueName,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<Leased>, FeedError>>;

    /// Extends leases; says for each whether it still holds.
    fn extend(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, Vec<bool>>;

    /// Takes over what has finished. Leases that are over by now are passed over: somebody else reports those.
    fn settle(&self, finished: Vec<Finished>) -> BoxFuture<'_, ()>;

    /// How many attempts of a call have ended for want of resources.
    fn shortages(&self, run: RunId, call: CallId) -> BoxFuture<'_, u32>;

    /// Forwards progress.
    fn progress(&self, progress: Progress);
}
