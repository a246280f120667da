//! Filling a queue and emptying it with many producers and consumers at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use celesta_queue::{AnyQueues, LeaseKeys, LeaseRequest, Leased};
use celesta_runtime::Clock;
use tokio::task::JoinSet;

use super::load::{Load, Seen};
use crate::bench::quantile::Durations;
use crate::exit::{Exit, Failure};

/// Consumers wait this long for a message before they look whether all are delivered.
const WAIT: Duration = Duration::from_millis(500);
/// After so many waits without a message what is missing counts as lost.
const WAITS_MAX: u32 = 20;
/// Long enough that no lease lapses while its consumer waits for a commit.
const LEASE_MS: i64 = 120_000;

/// What all producers and consumers share.
#[derive(Debug, Clone)]
pub(crate) struct Crowd {
    pub(crate) queues: AnyQueues,
    pub(crate) clock: Clock,
    pub(crate) load: Arc<Load>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) exclusive: bool,
    pub(crate) producers: u64,
    pub(crate) consumers: u64,
    pub(crate) batch: u64,
}

/// What emptying has shown.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// Until the last message was leased, and until the last was completed.
    pub(crate) leased_in: Duration,
    pub(crate) completed_in: Duration,
    pub(crate) leases: Durations,
    pub(crate) completed: u64,
    /// Leases that were over when their consumer completed them.
    pub(crate) stale: u64,
}

impl Crowd {
    /// Enqueues the messages of `numbers`; gives how long that took, the last commit included.
    ///
    /// # Errors
    /// When a message is refused.
    pub(crate) async fn fill(self: &Arc<Self>, numbers: Range<u64>) -> Result<Duration, Failure> {
        let (next, end) = (Arc::new(AtomicU64::new(numbers.start)), numbers.end);
        let begun = self.clock.monotonic();
        let mut producers = JoinSet::new();
        for _ in 0..self.producers {
            let (crowd, next) = (Arc::clone(self), Arc::clone(&next));
            producers.spawn(async move {
                loop {
                    let from = next.fetch_add(crowd.batch, Ordering::Relaxed);
                    if from >= end {
                        return Ok(());
                    }
                    crowd.enqueue(from..(from + crowd.batch).min(end)).await?;
                }
            });
        }
        all(producers).await?;
        Ok(self.clock.monotonic().saturating_sub(begun))
    }

    /// Enqueues these messages in one call.
    ///
    /// # Errors
    /// When one is refused.
    pub(crate) async fn enqueue(&self, numbers: Range<u64>) -> Result<(), Failure> {
        let messages = self.load.messages(numbers);
        let outcomes = self.queues.enqueue(messages).await.map_err(refused)?;
        for outcome in outcomes {
            outcome.map_err(refused)?;
        }
        Ok(())
    }

    /// Leases and completes `count` messages; at `rate` messages a second when given, else as fast as it goes.
    ///
    /// # Errors
    /// When a call fails.
    pub(crate) async fn drain(self: &Arc<Self>, count: u64, rate: Option<f64>) -> Result<Drained, Failure> {
        let left = Arc::new(AtomicU64::new(count));
        let begun = self.clock.monotonic();
        let mut consumers = JoinSet::new();
        for number in 0..self.consumers {
            let (crowd, left) = (Arc::clone(self), Arc::clone(&left));
            let pace = rate.map(|rate| Pace::new(&crowd, begun, number, rate));
            consumers.spawn(async move { crowd.consume(&left, begun, pace).await });
        }
        let mut drained = Drained::default();
        for one in all(consumers).await? {
            drained.leased_in = drained.leased_in.max(one.leased_in);
            drained.completed_in = drained.completed_in.max(one.completed_in);
            drained.leases.merge(one.leases);
            drained.completed += one.completed;
            drained.stale += one.stale;
        }
        Ok(drained)
    }

    async fn consume(
        &self,
        left: &AtomicU64,
        begun: Duration,
        mut pace: Option<Pace>,
    ) -> Result<Drained, Failure> {
        let mut drained = Drained::default();
        let mut waits = 0;
        let mut held = Vec::new();
        while waits < WAITS_MAX {
            let share = take(left, self.batch);
            if share == 0 {
                break;
            }
            let asked = match &mut pace {
                Some(pace) => pace.turn(&self.clock).await,
                None => self.clock.monotonic(),
            };
            // A consumer asks for what comes next while it completes what it has.
            let leasing = async {
                let leased = self.lease(share, WAIT).await?;
                Ok::<_, Failure>((leased, self.clock.monotonic()))
            };
            let before = std::mem::take(&mut held);
            let (leased, ()) = tokio::try_join!(leasing, self.settle(&before, begun, &mut drained))?;
            let (leased, got) = leased;
            let count = u64::try_from(leased.len()).unwrap_or(share);
            left.fetch_add(share.saturating_sub(count), Ordering::Relaxed);
            if leased.is_empty() {
                waits += 1;
                continue;
            }
            waits = 0;
            drained.leases.add(got.saturating_sub(asked));
            drained.leased_in = got.saturating_sub(begun);
            held = leased;
        }
        self.settle(&held, begun, &mut drained).await?;
        Ok(drained)
    }

    async fn settle(&self, leased: &[Leased], begun: Duration, drained: &mut Drained) -> Result<(), Failure> {
        if leased.is_empty() {
            return Ok(());
        }
        let stale = self.complete(leased).await?;
        drained.completed_in = self.clock.monotonic().saturating_sub(begun);
        drained.completed += u64::try_from(leased.len()).unwrap_or(0).saturating_sub(stale);
        drained.stale += stale;
        Ok(())
    }

    /// Leases up to `share` messages: of an exclusive queue several of each of several keys.
    ///
    /// # Errors
    /// When the call fails.
    pub(crate) async fn lease(&self, share: u64, wait: Duration) -> Result<Vec<Leased>, Failure> {
        let share = usize::try_from(share).unwrap_or(1).max(1);
        let (queue, consumer) = (self.load.queue.clone(), Arc::from("bench"));
        if !self.exclusive {
            let request = LeaseRequest {
                queue,
                max: share,
                lease_ms: Some(LEASE_MS),
                wait,
                metadata: Vec::new(),
                consumer,
            };
            return self.queues.lease(&request).await.map_err(refused);
        }
        let keys = share.isqrt().max(1);
        let request = LeaseKeys {
            queue,
            max_keys: keys,
            max_messages_per_key: share / keys,
            lease_ms: Some(LEASE_MS),
            wait,
            metadata: Vec::new(),
            consumer,
        };
        let keys = self.queues.lease_keys(&request).await.map_err(refused)?;
        Ok(keys.into_iter().flat_map(|key| key.messages).collect())
    }

    /// Completes messages and notes that they were delivered; gives how many leases were over.
    ///
    /// # Errors
    /// When the call fails.
    pub(crate) async fn complete(&self, leased: &[Leased]) -> Result<u64, Failure> {
        for message in leased {
            self.seen.mark(self.load.number(message.id));
        }
        let leases: Vec<_> = leased.iter().map(Leased::lease).collect();
        let outcomes = self.queues.complete(&leases).await.map_err(refused)?;
        let stale = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        Ok(u64::try_from(stale).unwrap_or(u64::MAX))
    }
}

/// When one consumer's leases are due. Latency counts from the moment a lease was due, not from the moment its
/// consumer came to ask: a queue that stalls must not hide it by slowing its own clients.
#[derive(Debug)]
struct Pace {
    next: Duration,
    step: Duration,
}

impl Pace {
    fn new(crowd: &Crowd, begun: Duration, number: u64, rate: f64) -> Self {
        let per_lease = crate::bench::quantile::number(crowd.batch) / rate.max(1.0);
        let consumers = u32::try_from(crowd.consumers).unwrap_or(1);
        let gap = Duration::from_secs_f64(per_lease);
        Self {
            next: begun + gap * u32::try_from(number).unwrap_or(0),
            step: gap * consumers,
        }
    }

    /// Waits for the next moment and gives it.
    async fn turn(&mut self, clock: &Clock) -> Duration {
        let due = self.next;
        self.next += self.step;
        let ahead = due.saturating_sub(clock.monotonic());
        if !ahead.is_zero() {
            clock.sleep(ahead).await;
        }
        due
    }
}

/// Takes up to `most` from what is left.
fn take(left: &AtomicU64, most: u64) -> u64 {
    let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        Some(left.saturating_sub(most))
    });
    before.unwrap_or(0).min(most)
}

/// What all of them give, or the first failure.
///
/// # Errors
/// When one of them fails.
pub(crate) async fn all<T: 'static>(mut crowd: JoinSet<Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let mut given = Vec::with_capacity(crowd.len());
    while let Some(outcome) = crowd.join_next().await {
        given.push(outcome.map_err(Failure::internal)??);
    }
    Ok(given)
}

/// A call of the queue that failed.
pub(crate) fn refused(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, error.to_string())
}
