//! Leasing and settling: what consumers call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celesta_store::Unit;
use celesta_types::Timestamp;

use crate::Queues;
use crate::core::{Core, Group, Queue, Settlement};
use crate::error::{Error, ExtendError, LeaseError, StaleToken};
use crate::limits::{BATCH_MAX, DELAY_MS_MAX, ERROR_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN};
use crate::message::{Failed, Failure, LeaseKeys, LeaseRef, LeaseRequest, Leased, LeasedKey};
use crate::name::QueueName;
use crate::settings::Kind;
use crate::state::{Failing, Parcel, State, Taking};

impl Queues {
    /// Leases messages; waits up to `wait` when there is none, without polling. Of an exclusive queue it leases one
    /// message each of up to `max` keys. An empty answer means that the time is over.
    ///
    /// # Errors
    /// When the request is wrong, the queue unknown or blocked, or the process is stopping.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing is leased then.
    pub async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>, LeaseError> {
        let queue = self
            .core
            .queue_to_lease(&request.queue, request.max, request.lease_ms)?;
        self.core
            .waiting(&queue, request.wait, || self.core.lease_now(&queue, request))
            .await
    }

    /// Leases messages as [`Queues::lease`] does, without waiting.
    ///
    /// # Errors
    /// When the request is wrong, or the queue unknown or blocked.
    pub fn try_lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>, LeaseError> {
        let queue = self
            .core
            .queue_to_lease(&request.queue, request.max, request.lease_ms)?;
        self.core.lease_now(&queue, request)
    }

    /// Leases keys of an exclusive queue, each with its pending messages; waits up to `wait` when no key is free.
    ///
    /// # Errors
    /// When the request is wrong, the queue unknown, blocked or not exclusive, or the process is stopping.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing is leased then.
    pub async fn lease_keys(&self, request: &LeaseKeys) -> Result<Vec<LeasedKey>, LeaseError> {
        let queue = self
            .core
            .queue_to_lease(&request.queue, request.max_keys, request.lease_ms)?;
        self.core
            .waiting(&queue, request.wait, || self.core.lease_keys_now(&queue, request))
            .await
    }

    /// Leases keys as [`Queues::lease_keys`] does, without waiting.
    ///
    /// # Errors
    /// When the request is wrong, or the queue unknown, blocked or not exclusive.
    pub fn try_lease_keys(&self, request: &LeaseKeys) -> Result<Vec<LeasedKey>, LeaseError> {
        let queue = self
            .core
            .queue_to_lease(&request.queue, request.max_keys, request.lease_ms)?;
        self.core.lease_keys_now(&queue, request)
    }

    /// Completes leased messages in the caller's `unit`: they are gone once it is durable. When the unit fails or is
    /// dropped the leases go on, and lapse in their time; messages handed over unstored were then never sent. Until the
    /// unit is decided nobody else can lease them or their keys.
    ///
    /// # Errors
    /// When one of the leases is over; then none of them is staged.
    pub fn stage_complete(&self, unit: &mut Unit, leases: &[LeaseRef]) -> Result<(), StaleToken> {
        let core = &self.core;
        let mut groups = Vec::new();
        // Every lease is looked at before the first is changed, so that an error leaves the unit as it was.
        for same in leases.chunk_by(|a, b| a.queue == b.queue) {
            let queue = core.queue_of(&same[0])?;
            let stale = core.with(&queue, |state, _, _| {
                same.iter()
                    .find(|lease| state.held(lease.id, lease.token).is_none())
            });
            if let Some(lease) = stale {
                return Err(lease.stale());
            }
            groups.push((queue, same));
        }
        let mut staged = Settlement::new(Arc::clone(core), Vec::new());
        let mut rows = Unit::new();
        for (queue, same) in groups {
            let mut marks = Vec::with_capacity(same.len());
            let stale = core.with(&queue, |state, now, _| {
                for lease in same {
                    match state.begin_complete(lease.id, lease.token, now, &mut rows) {
                        Some(mark) => marks.push(mark),
                        None => return Some(lease),
                    }
                }
                None
            });
            staged.push(Group { queue, marks });
            if let Some(lease) = stale {
                return Err(lease.stale());
            }
        }
        unit.merge(rows);
        core.attach(unit, staged.take());
        Ok(())
    }

    /// Completes leased messages and waits until that is durable. The answer has one outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the completions back.
    pub async fn complete(&self, leases: &[LeaseRef]) -> Result<Vec<Result<(), StaleToken>>, Error> {
        let core = &self.core;
        within_batch(leases.len())?;
        let mut unit = Unit::new();
        let mut staged = Settlement::new(Arc::clone(core), Vec::new());
        let mut outcomes = Vec::with_capacity(leases.len());
        for same in leases.chunk_by(|a, b| a.queue == b.queue) {
            let Ok(queue) = core.queue_of(&same[0]) else {
                outcomes.extend(same.iter().map(|lease| Err(lease.stale())));
                continue;
            };
            let mut marks = Vec::with_capacity(same.len());
            core.with(&queue, |state, now, _| {
                for lease in same {
                    let mark = state.begin_complete(lease.id, lease.token, now, &mut unit);
                    outcomes.push(if mark.is_some() {
                        Ok(())
                    } else {
                        Err(lease.stale())
                    });
                    marks.extend(mark);
                }
            });
            staged.push(Group { queue, marks });
        }
        core.attach(&mut unit, staged.take());
        core.commit(unit).await?;
        Ok(outcomes)
    }

    /// Says that the work of leases has failed and waits until that is durable: each message is tried again after its
    /// delay, or is a dead letter. The answer has one outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the failures back.
    pub async fn fail(&self, failures: Vec<Failure>) -> Result<Vec<Result<Failed, StaleToken>>, Error> {
        let core = &self.core;
        within_batch(failures.len())?;
        let mut unit = Unit::new();
        let mut staged = Settlement::new(Arc::clone(core), Vec::new());
        let mut outcomes = Vec::with_capacity(failures.len());
        for failure in failures {
            let lease = failure.lease;
            let Ok(queue) = core.queue_of(&lease) else {
                outcomes.push(Err(lease.stale()));
                continue;
            };
            let error: Arc<str> = cut(&failure.error).into();
            let staged_one = core.with(&queue, |state, now, _| {
                let visible_at = now.saturating_add(failure.delay_ms.clamp(0, DELAY_MS_MAX));
                let failing = Failing {
                    retryable: failure.retryable,
                    visible_at,
                    now,
                    error,
                };
                let begun = state.begin_fail(lease.id, lease.token, failing, &mut unit);
                begun.map(|(mark, standing)| (mark, standing, visible_at))
            });
            match staged_one {
                None => outcomes.push(Err(lease.stale())),
                Some((mark, standing, visible_at)) => {
                    staged.push(Group {
                        queue,
                        marks: vec![mark],
                    });
                    outcomes.push(Ok(if standing.state.is_ended() {
                        Failed::Errored
                    } else {
                        Failed::Retried {
                            visible_at: Timestamp::from_millis(visible_at),
                        }
                    }));
                }
            }
        }
        core.attach(&mut unit, staged.take());
        core.commit(unit).await?;
        Ok(outcomes)
    }

    /// Has leases hold for `lease_ms` from now on. The answer has one outcome for each, in order: the new end.
    #[must_use]
    pub fn extend(&self, leases: &[LeaseRef], lease_ms: i64) -> Vec<Result<Timestamp, ExtendError>> {
        let extend = |lease: &LeaseRef| {
            if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&lease_ms) {
                return Err(ExtendError::LeaseOutOfRange {
                    lease_ms,
                    min: LEASE_MS_MIN,
                    max: LEASE_MS_MAX,
                });
            }
            let queue = self.core.queue_of(lease)?;
            let extended = self.core.with(&queue, |state, now, _| {
                let until = now.saturating_add(lease_ms);
                state.extend(lease.id, lease.token, until).then_some(until)
            });
            extended
                .map(Timestamp::from_millis)
                .ok_or_else(|| lease.stale().into())
        };
        leases.iter().map(extend).collect()
    }

    /// Gives leases back untouched: the messages can be leased again at once, and no attempt is burned. The answer has
    /// one outcome for each, in order.
    #[must_use]
    pub fn release(&self, leases: &[LeaseRef]) -> Vec<Result<(), StaleToken>> {
        let release = |lease: &LeaseRef| {
            let queue = self.core.queue_of(lease)?;
            let released = self.core.with(&queue, |state, _, parcels| {
                state.release(lease.id, lease.token, parcels)
            });
            if released { Ok(()) } else { Err(lease.stale()) }
        };
        leases.iter().map(release).collect()
    }
}

impl LeaseRef {
    pub(crate) fn stale(&self) -> StaleToken {
        StaleToken {
            queue: self.queue.clone(),
            id: self.id,
        }
    }
}

impl Core {
    fn queue_of(&self, lease: &LeaseRef) -> Result<Arc<Queue>, StaleToken> {
        self.find(&lease.queue).ok_or_else(|| lease.stale())
    }

    fn queue_to_lease(
        &self,
        name: &QueueName,
        max: usize,
        lease_ms: Option<i64>,
    ) -> Result<Arc<Queue>, LeaseError> {
        if max == 0 || max > BATCH_MAX {
            return Err(LeaseError::BatchOutOfRange {
                given: max,
                max: BATCH_MAX,
            });
        }
        if let Some(lease_ms) = lease_ms.filter(|lease_ms| !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(lease_ms))
        {
            return Err(LeaseError::LeaseOutOfRange {
                lease_ms,
                min: LEASE_MS_MIN,
                max: LEASE_MS_MAX,
            });
        }
        self.find(name)
            .ok_or_else(|| LeaseError::UnknownQueue { queue: name.clone() })
    }

    fn lease_now(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        request: &LeaseRequest,
    ) -> Result<Vec<Leased>, LeaseError> {
        let leased = self.take(
            queue,
            &request.consumer,
            request.lease_ms,
            |state, taking, parcels| {
                let mut leased = Vec::with_capacity(request.max.min(state.ready()));
                state.lease(taking, request.max, &mut leased, parcels);
                Ok((leased, state.settings.kind))
            },
        )?;
        let (leased, kind) = leased;
        self.observe(kind, leased.iter());
        Ok(leased)
    }

    fn lease_keys_now(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        request: &LeaseKeys,
    ) -> Result<Vec<LeasedKey>, LeaseError> {
        let per_key = request.max_messages_per_key;
        if per_key == 0 || per_key > crate::limits::STAGED_MAX {
            return Err(LeaseError::BatchOutOfRange {
                given: per_key,
                max: crate::limits::STAGED_MAX,
            });
        }
        let leased = self.take(
            queue,
            &request.consumer,
            request.lease_ms,
            |state, taking, parcels| {
                if state.settings.kind != Kind::Exclusive {
                    return Err(LeaseError::WrongKind {
                        queue: queue.name.clone(),
                        kind: state.settings.kind,
                    });
                }
                let mut leased = Vec::with_capacity(request.max_keys.min(state.ready()));
                state.lease_keys(taking, request.max_keys, per_key, &mut leased, parcels);
                Ok(leased)
            },
        )?;
        self.observe(Kind::Exclusive, leased.iter().flat_map(|key| &key.messages));
        Ok(leased)
    }

    fn take<T>(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        consumer: &Arc<str>,
        lease_ms: Option<i64>,
        work: impl FnOnce(&mut State, &Taking<'_>, &mut Vec<Parcel>) -> Result<T, LeaseError>,
    ) -> Result<T, LeaseError> {
        let token = || self.tokens.fetch_add(1, Ordering::Relaxed);
        self.with(queue, |state, now, parcels| {
            if state.settings.dequeue_blocked {
                return Err(LeaseError::Blocked {
                    queue: queue.name.clone(),
                });
            }
            let taking = Taking {
                queue: &queue.name,
                consumer,
                now,
                lease_ms: lease_ms.unwrap_or(state.settings.lease_ms),
                suspect_until: self.suspect_until.load(Ordering::Relaxed),
                token: &token,
            };
            work(state, &taking, parcels)
        })
    }

    fn observe<'a>(&self, kind: Kind, leased: impl Iterator<Item = &'a Leased>) {
        let now = self.clock.now();
        let mut first = None;
        let mut count = 0;
        for leased in leased {
            count += 1;
            first.get_or_insert(leased.enqueued_at);
        }
        let Some(enqueued_at) = first else { return };
        let metrics = self.metrics.of(kind);
        metrics.leased.inc_by(count);
        // One of each batch is measured: the first, which waited longest among equals.
        metrics.waited.observe(now.since(enqueued_at).as_secs_f64());
    }

    /// Repeats `attempt` whenever the queue may have something, until it gives something or the time is over.
    async fn waiting<T>(
        &self,
        queue: &Queue,
        wait: Duration,
        attempt: impl Fn() -> Result<Vec<T>, LeaseError>,
    ) -> Result<Vec<T>, LeaseError> {
        let pass_on = |leased: Vec<T>| {
            // Whoever takes something and leaves something wakes the next.
            if queue.ready.load(Ordering::Acquire) > 0 {
                queue.waiting.notify_one();
            }
            leased
        };
        let leased = attempt()?;
        if !leased.is_empty() || wait.is_zero() {
            return Ok(pass_on(leased));
        }
        let over = self.clock.sleep(wait);
        tokio::pin!(over);
        loop {
            let notified = queue.waiting.notified();
            tokio::pin!(notified);
            // From here on a change is noticed, so that one between the look and the wait is not missed.
            notified.as_mut().enable();
            let leased = attempt()?;
            if !leased.is_empty() {
                return Ok(pass_on(leased));
            }
            tokio::select! {
                () = &mut notified => {}
                () = &mut over => return attempt().map(pass_on),
                () = self.shutdown.requested() => return Err(LeaseError::Stopping),
            }
        }
    }
}

const fn within_batch(given: usize) -> Result<(), Error> {
    if given > BATCH_MAX {
        Err(Error::BatchTooLarge {
            given,
            max: BATCH_MAX,
        })
    } else {
        Ok(())
    }
}

pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=ERROR_BYTES_MAX.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}
