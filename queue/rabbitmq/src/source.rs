//! Where messages come from and outcomes go: the seam between the road and the record.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{AnyQueues, Failure, LeaseError, LeaseRef, LeaseRequest, Leased, QueueName};
use celesta_types::{ErrorKind, MessageId};
use futures_util::future::BoxFuture;

use crate::wire::Outcome;

/// The end of one lease as a consumer reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The lease.
    pub lease: LeaseRef,
    /// Which try it was.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why the record did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the record refuses: {reason}")]
pub struct SourceError {
    /// Why.
    pub reason: String,
    /// What a caller may do about it.
    pub kind: ErrorKind,
}

/// The record, seen from the road. Every call is a batch.
pub trait Source: Send + Sync + fmt::Debug + 'static {
    /// Leases up to `max` messages of `queue` for `lease`; waits up to `wait` when there is none.
    ///
    /// # Cancel safety
    /// May be dropped while it waits: nothing is leased then.
    fn lease(
        &self,
        queue: QueueName,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Leased>, SourceError>>;

    /// Extends leases; says for each whether it still holds.
    fn extend(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, Vec<bool>>;

    /// Gives leases back untouched. Those that are over are passed over.
    fn release(&self, leases: Vec<LeaseRef>) -> BoxFuture<'_, ()>;

    /// Settles leases and waits until that is durable; says for each whether the lease still held. After an error
    /// the same call is made again: what was durable after all is then a lease that is over.
    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, SourceError>>;

    /// Hears how far a message is.
    fn progress(&self, _id: MessageId, _progress: Vec<u8>) {}
}

/// The queues themselves as a source: results are not kept.
#[derive(Debug, Clone)]
pub struct QueueSource {
    queues: AnyQueues,
    consumer: Arc<str>,
}

impl QueueSource {
    /// A source from `queues`; `consumer` is who leases, shown to people.
    #[must_use]
    pub fn new(queues: impl Into<AnyQueues>, consumer: &str) -> Self {
        Self {
            queues: queues.into(),
            consumer: consumer.into(),
        }
    }
}

impl Source for QueueSource {
    fn lease(
        &self,
        queue: QueueName,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Leased>, SourceError>> {
        Box::pin(async move {
            let request = LeaseRequest {
                queue,
                max,
                lease_ms: Some(millis(lease)),
                wait,
                consumer: Arc::clone(&self.consumer),
                metadata: Vec::new(),
            };
            let leased = self.queues.lease(&request).await;
            leased.map_err(|error: LeaseError| SourceError {
                kind: error.kind(),
                reason: error.to_string(),
            })
        })
    }

    fn extend(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, Vec<bool>> {
        Box::pin(async move {
            match self.queues.extend(&leases, millis(lease)).await {
                Ok(extended) => extended.into_iter().map(|outcome| outcome.is_ok()).collect(),
                Err(error) => {
                    // The record is away: whether they hold is seen when it is back.
                    tracing::warn!(%error, "leases on the road cannot be extended now");
                    vec![true; leases.len()]
                }
            }
        })
    }

    fn release(&self, leases: Vec<LeaseRef>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match self.queues.release(&leases).await {
                Ok(released) => {
                    for stale in released.into_iter().filter_map(Result::err) {
                        tracing::debug!(%stale, "a lease to be given back was over");
                    }
                }
                Err(error) => tracing::warn!(%error, "leases lapse that were to be given back"),
            }
        })
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, SourceError>> {
        Box::pin(async move {
            let mut held = vec![true; settlements.len()];
            let (mut completed, mut failed, mut released) = (Vec::new(), Vec::new(), Vec::new());
            let (mut completed_at, mut failed_at) = (Vec::new(), Vec::new());
            for (at, Settlement { lease, outcome, .. }) in settlements.into_iter().enumerate() {
                match outcome {
                    Outcome::Completed { .. } => {
                        completed.push(lease);
                        completed_at.push(at);
                    }
                    Outcome::Failed {
                        retryable,
                        delay_ms,
                        error,
                        ..
                    } => {
                        failed.push(Failure {
                            lease,
                            retryable,
                            delay_ms,
                            error,
                        });
                        failed_at.push(at);
                    }
                    Outcome::Released => released.push(lease),
                }
            }
            self.release(released).await;
            let broken = |error: celesta_queue::Error| SourceError {
                kind: error.kind(),
                reason: error.to_string(),
            };
            // At the same time: both share one commit.
            let (completed, failed) =
                tokio::join!(self.queues.complete(&completed), self.queues.fail(failed));
            for (at, outcome) in completed_at.into_iter().zip(completed.map_err(broken)?) {
                held[at] = outcome.is_ok();
            }
            for (at, outcome) in failed_at.into_iter().zip(failed.map_err(broken)?) {
                held[at] = outcome.is_ok();
            }
            Ok(held)
        })
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
