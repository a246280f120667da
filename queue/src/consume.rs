//! Settling: what consumers call when they are done with a lease, or want more time.

use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::Timestamp;

use crate::Queues;
use crate::core::{Core, Group, Settlement};
use crate::error::{Error, ExtendError, StaleToken};
use crate::limits::{BATCH_MAX, DELAY_MS_MAX, ERROR_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN};
use crate::message::{Failed, Failure, LeaseRef};
use crate::shard::Queue;
use crate::state::Failing;

impl Queues {
    /// Completes leased messages in the caller's `unit`: they are gone once it is durable. When the unit fails or is
    /// dropped the leases go on, and lapse in their time; messages handed over unstored were then never sent. Until the
    /// unit is decided nobody else can lease them or their keys.
    ///
    /// # Errors
    /// When one of the leases is over; then none of them is staged.
    pub fn stage_complete(&self, unit: &mut Unit, leases: &[LeaseRef]) -> Result<(), StaleToken> {
        let core = &self.core;
        if let Some(first) = leases.first() {
            let queue = core.queue_of(first)?;
            let (shard, same) = same_shard(&queue, leases);
            if same.len() == leases.len() {
                return core.stage_complete_in(unit, &queue, shard, same);
            }
        }
        let mut groups = Vec::new();
        // Every lease is looked at before the first is changed, so that an error leaves the unit as it was.
        let mut rest = leases;
        while let Some(first) = rest.first() {
            let queue = core.queue_of(first)?;
            let (shard, same) = same_shard(&queue, rest);
            let stale = core.with(&queue, shard, |state, _, _| {
                same.iter()
                    .find(|lease| state.held(lease.id, lease.token).is_none())
            });
            if let Some(lease) = stale {
                return Err(lease.stale());
            }
            rest = &rest[same.len()..];
            groups.push((queue, shard, same));
        }
        let mut staged = Settlement::new(core, Vec::new());
        let mut rows = Unit::new();
        for (queue, shard, same) in groups {
            let mut marks = Vec::with_capacity(same.len());
            let stale = core.with(&queue, shard, |state, now, _| {
                for lease in same {
                    match state.begin_complete(lease.id, lease.token, now, &mut rows) {
                        Some(mark) => marks.push(mark),
                        None => return Some(lease),
                    }
                }
                None
            });
            staged.push(Group { queue, shard, marks });
            if let Some(lease) = stale {
                return Err(lease.stale());
            }
        }
        unit.merge(rows);
        core.attach(unit, staged.take());
        Ok(())
    }

    /// As [`Queues::stage_complete`], each lease in a unit of its own. One outcome for each, in order.
    #[must_use]
    pub fn stage_complete_each(&self, leases: &[LeaseRef]) -> Vec<Result<Unit, StaleToken>> {
        let core = &self.core;
        let mut outcomes = Vec::with_capacity(leases.len());
        let mut rest = leases;
        while let Some(first) = rest.first() {
            let Ok(queue) = core.queue_of(first) else {
                outcomes.push(Err(first.stale()));
                rest = &rest[1..];
                continue;
            };
            let (shard, same) = same_shard(&queue, rest);
            rest = &rest[same.len()..];
            let mut staged = Vec::with_capacity(same.len());
            core.with(&queue, shard, |state, now, _| {
                staged.extend(same.iter().map(|lease| {
                    let mut unit = Unit::new();
                    let mark = state.begin_complete(lease.id, lease.token, now, &mut unit);
                    mark.map(|mark| (unit, mark)).ok_or_else(|| lease.stale())
                }));
            });
            outcomes.extend(staged.into_iter().map(|staged| {
                staged.map(|(mut unit, mark)| {
                    let queue = Arc::clone(&queue);
                    let marks = vec![mark];
                    core.attach(&mut unit, vec![Group { queue, shard, marks }]);
                    unit
                })
            }));
        }
        outcomes
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
        let mut staged = Settlement::new(core, Vec::new());
        let mut outcomes = Vec::with_capacity(leases.len());
        let mut rest = leases;
        while let Some(first) = rest.first() {
            let Ok(queue) = core.queue_of(first) else {
                outcomes.push(Err(first.stale()));
                rest = &rest[1..];
                continue;
            };
            let (shard, same) = same_shard(&queue, rest);
            rest = &rest[same.len()..];
            let mut marks = Vec::with_capacity(same.len());
            core.with(&queue, shard, |state, now, _| {
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
            staged.push(Group { queue, shard, marks });
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
        let mut staged = Settlement::new(core, Vec::new());
        let mut outcomes = Vec::with_capacity(failures.len());
        for failure in failures {
            let lease = failure.lease;
            let Ok(queue) = core.queue_of(&lease) else {
                outcomes.push(Err(lease.stale()));
                continue;
            };
            let error: Arc<str> = cut(&failure.error).into();
            let shard = queue.shard_of_lease(lease.token);
            let staged_one = core.with(&queue, shard, |state, now, _| {
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
                        shard,
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
            let shard = queue.shard_of_lease(lease.token);
            let extended = self.core.with(&queue, shard, |state, now, _| {
                let until = now.saturating_add(lease_ms);
                let extended = state.extend(lease.id, lease.token, until, now);
                extended.then_some(until)
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
            let shard = queue.shard_of_lease(lease.token);
            let released = self.core.with(&queue, shard, |state, now, parcels| {
                state.release(lease.id, lease.token, now, parcels)
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
    /// Stages the completion of leases of one shard, which is locked once.
    fn stage_complete_in(
        self: &Arc<Self>,
        unit: &mut Unit,
        queue: &Arc<Queue>,
        shard: usize,
        leases: &[LeaseRef],
    ) -> Result<(), StaleToken> {
        let mut rows = Unit::new();
        let mut marks = Vec::with_capacity(leases.len());
        let stale = self.with(queue, shard, |state, now, _| {
            let is_over = |lease: &&LeaseRef| state.held(lease.id, lease.token).is_none();
            let stale = leases.iter().find(is_over);
            if stale.is_some() {
                return stale;
            }
            // A lease that is named twice is over when it is looked at again.
            leases.iter().find(|lease| {
                let mark = state.begin_complete(lease.id, lease.token, now, &mut rows);
                let is_stale = mark.is_none();
                marks.extend(mark);
                is_stale
            })
        });
        let group = Group {
            queue: Arc::clone(queue),
            shard,
            marks,
        };
        if let Some(lease) = stale {
            // Dropped, it gives back what was begun.
            drop(Settlement::new(self, vec![group]));
            return Err(lease.stale());
        }
        unit.merge(rows);
        self.attach(unit, vec![group]);
        Ok(())
    }

    fn queue_of(&self, lease: &LeaseRef) -> Result<Arc<Queue>, StaleToken> {
        self.find(&lease.queue).ok_or_else(|| lease.stale())
    }
}

/// The first leases as long as they are of one shard.
fn same_shard<'a>(queue: &Queue, leases: &'a [LeaseRef]) -> (usize, &'a [LeaseRef]) {
    let shard = leases
        .first()
        .map_or(0, |lease| queue.shard_of_lease(lease.token));
    let same = leases
        .iter()
        .take_while(|lease| lease.queue == queue.name && queue.shard_of_lease(lease.token) == shard);
    (shard, &leases[..same.count().max(1)])
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
