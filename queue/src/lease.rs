//! Leasing: what consumers call to get messages, and how they wait for them.
//!
//! Nobody polls: a consumer that finds nothing waits for a notice. A message that is leased without its payload being in
//! memory has it read from the record before the consumer gets it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::Queues;
use crate::core::Core;
use crate::error::LeaseError;
use crate::limits::{BATCH_MAX, LEASE_MS_MAX, LEASE_MS_MIN, METADATA_PAIRS_MAX, STAGED_MAX};
use crate::message::{LeaseKeys, LeaseRequest, Leased, LeasedKey};
use crate::name::QueueName;
use crate::settings::Kind;
use crate::shard::Queue;
use crate::state::{Search, State, Take, Taking};

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
        let queue =
            self.core
                .queue_to_lease(&request.queue, request.max, request.lease_ms, &request.metadata)?;
        self.core.catch_up().await;
        self.core.lease_waiting(&queue, request).await
    }

    /// Leases messages as [`Queues::lease`] does, without waiting, and only those that are in memory whole.
    ///
    /// # Errors
    /// When the request is wrong, or the queue unknown or blocked.
    pub fn try_lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>, LeaseError> {
        let queue =
            self.core
                .queue_to_lease(&request.queue, request.max, request.lease_ms, &request.metadata)?;
        Ok(self
            .core
            .take(&queue, &Wanted::messages(request), true)?
            .into_messages())
    }

    /// Leases keys of an exclusive queue, each with its pending messages; waits up to `wait` when no key is free.
    ///
    /// # Errors
    /// When the request is wrong, the queue unknown, blocked or not exclusive, or the process is stopping.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing is leased then.
    pub async fn lease_keys(&self, request: &LeaseKeys) -> Result<Vec<LeasedKey>, LeaseError> {
        let queue = self.core.queue_to_lease(
            &request.queue,
            request.max_keys,
            request.lease_ms,
            &request.metadata,
        )?;
        self.core.catch_up().await;
        self.core.lease_keys_waiting(&queue, request).await
    }

    /// Leases keys as [`Queues::lease_keys`] does, without waiting, and only messages that are in memory whole.
    ///
    /// # Errors
    /// When the request is wrong, or the queue unknown, blocked or not exclusive.
    pub fn try_lease_keys(&self, request: &LeaseKeys) -> Result<Vec<LeasedKey>, LeaseError> {
        let queue = self.core.queue_to_lease(
            &request.queue,
            request.max_keys,
            request.lease_ms,
            &request.metadata,
        )?;
        Ok(self.core.take(&queue, &Wanted::keys(request)?, true)?.into_keys())
    }
}

/// What a consumer asks for, of messages and of keys alike.
struct Wanted<'a> {
    max: usize,
    /// Messages of each key, when keys are asked for.
    of_each_key: Option<usize>,
    lease_ms: Option<i64>,
    consumer: &'a Arc<str>,
    metadata: &'a [(String, String)],
}

impl<'a> Wanted<'a> {
    fn messages(request: &'a LeaseRequest) -> Self {
        Self {
            max: request.max,
            of_each_key: None,
            lease_ms: request.lease_ms,
            consumer: &request.consumer,
            metadata: &request.metadata,
        }
    }

    fn keys(request: &'a LeaseKeys) -> Result<Self, LeaseError> {
        let given = request.max_messages_per_key;
        if given == 0 || given > STAGED_MAX {
            return Err(LeaseError::BatchOutOfRange {
                given,
                max: STAGED_MAX,
            });
        }
        Ok(Self {
            max: request.max_keys,
            of_each_key: Some(given),
            lease_ms: request.lease_ms,
            consumer: &request.consumer,
            metadata: &request.metadata,
        })
    }
}

/// Leases that nobody has yet. Dropped, they are given back.
struct Taken {
    core: Arc<Core>,
    queue: Arc<Queue>,
    take: Take,
    keys: Vec<LeasedKey>,
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.take.leased.is_empty()
    }

    fn into_messages(mut self) -> Vec<Leased> {
        std::mem::take(&mut self.take.leased)
    }

    fn into_keys(mut self) -> Vec<LeasedKey> {
        let mut messages = std::mem::take(&mut self.take.leased).into_iter();
        let mut from = 0;
        let mut keys = std::mem::take(&mut self.keys);
        for (key, &to) in keys.iter_mut().zip(&self.take.bounds) {
            key.messages.extend(messages.by_ref().take(to - from));
            from = to;
        }
        keys.retain(|key| !key.messages.is_empty());
        keys
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for leased in std::mem::take(&mut self.take.leased) {
            let shard = self.queue.shard_of_lease(leased.token);
            self.core.with(&self.queue, shard, |state, now, parcels| {
                state.release(leased.id, leased.token, now, parcels)
            });
        }
    }
}

impl Core {
    fn queue_to_lease(
        &self,
        name: &QueueName,
        max: usize,
        lease_ms: Option<i64>,
        metadata: &[(String, String)],
    ) -> Result<Arc<Queue>, LeaseError> {
        if metadata.len() > METADATA_PAIRS_MAX {
            return Err(LeaseError::FilterTooLarge {
                given: metadata.len(),
                max: METADATA_PAIRS_MAX,
            });
        }
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

    async fn lease_waiting(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        request: &LeaseRequest,
    ) -> Result<Vec<Leased>, LeaseError> {
        let taken = self
            .waiting(queue, request.wait, &Wanted::messages(request))
            .await?;
        Ok(taken.into_messages())
    }

    async fn lease_keys_waiting(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        request: &LeaseKeys,
    ) -> Result<Vec<LeasedKey>, LeaseError> {
        let taken = self.waiting(queue, request.wait, &Wanted::keys(request)?).await?;
        Ok(taken.into_keys())
    }

    /// Leases what is wanted and there, shard by shard, from the one whose first message comes first.
    fn take(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        wanted: &Wanted<'_>,
        resident_only: bool,
    ) -> Result<Taken, LeaseError> {
        let mut taken = Taken {
            core: Arc::clone(self),
            queue: Arc::clone(queue),
            take: Take::default(),
            keys: Vec::new(),
        };
        let shards = queue.shards();
        if shards == 1 {
            self.take_from(queue, 0, wanted.max, wanted, resident_only, &mut taken)?;
        } else {
            self.take_from_many(queue, wanted, resident_only, &mut taken)?;
        }
        let kind = if wanted.of_each_key.is_some() {
            Kind::Exclusive
        } else {
            queue.kind()
        };
        self.observe(kind, taken.take.leased.iter());
        Ok(taken)
    }

    /// A part of the batch from the shard whose head comes first, and again: what is overtaken is at most a part.
    fn take_from_many(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        wanted: &Wanted<'_>,
        resident_only: bool,
        taken: &mut Taken,
    ) -> Result<(), LeaseError> {
        let part = wanted.max.div_ceil(queue.shards());
        let mut tried = 0_u64;
        let count = |taken: &Taken| {
            if wanted.of_each_key.is_some() {
                taken.keys.len()
            } else {
                taken.take.leased.len()
            }
        };
        if queue.first_shard(tried).is_none() {
            // Nothing is ready: a look lets time catch up and says what is wrong with the request.
            for shard in 0..queue.shards() {
                self.take_from(queue, shard, part, wanted, resident_only, taken)?;
            }
        }
        while count(taken) < wanted.max
            && let Some(shard) = queue.first_shard(tried)
        {
            let before = taken.take.leased.len();
            let max = part.min(wanted.max - count(taken));
            self.take_from(queue, shard, max, wanted, resident_only, taken)?;
            let new = &taken.take.leased[before..];
            if new.is_empty() {
                tried |= 1 << shard;
            }
            let first = queue.first_rank_beside(shard);
            let overtaken = new.iter().filter(|leased| leased.priority.rank() > first).count();
            queue.overtaken.fetch_add(overtaken as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn take_from(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        shard: usize,
        max: usize,
        wanted: &Wanted<'_>,
        resident_only: bool,
        taken: &mut Taken,
    ) -> Result<(), LeaseError> {
        let shards = queue.shards();
        let token = || self.next_token(shard, shards);
        let (take, keys) = (&mut taken.take, &mut taken.keys);
        let missed = take.missing.len();
        let mut after = None;
        let count = |take: &Take, keys: &[LeasedKey]| {
            if wanted.of_each_key.is_some() {
                keys.len()
            } else {
                take.leased.len()
            }
        };
        let until = count(take, keys) + max;
        loop {
            let max = until - count(take, keys);
            let next = self.with(queue, shard, |state, now, parcels| {
                if state.settings.dequeue_blocked {
                    return Err(LeaseError::Blocked {
                        queue: queue.name.clone(),
                    });
                }
                let kind = state.settings.kind;
                if wanted.of_each_key.is_some() && kind != Kind::Exclusive {
                    return Err(LeaseError::WrongKind {
                        queue: queue.name.clone(),
                        kind,
                    });
                }
                let taking = Taking {
                    queue: &queue.name,
                    consumer: wanted.consumer,
                    now,
                    lease_ms: wanted.lease_ms.unwrap_or(state.settings.lease_ms),
                    suspect_until: self.suspect_until.load(Ordering::Relaxed),
                    token: &token,
                    resident_only,
                };
                let next = Self::take_now(state, after, max, wanted, &taking, keys, take);
                State::written(take, parcels);
                Ok(next)
            })?;
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        if take.missing.len() > missed {
            self.missed(queue, shard);
        }
        Ok(())
    }

    fn take_now(
        state: &mut State,
        after: Option<crate::entry::Order>,
        max: usize,
        wanted: &Wanted<'_>,
        taking: &Taking<'_>,
        keys: &mut Vec<LeasedKey>,
        take: &mut Take,
    ) -> Option<crate::entry::Order> {
        if !wanted.metadata.is_empty() {
            let search = Search {
                metadata: wanted.metadata,
                after,
                max,
                of_each_key: wanted.of_each_key,
            };
            return state.lease_matching(&search, taking, keys, take);
        }
        match wanted.of_each_key {
            Some(of_each_key) => state.lease_keys(taking, max, of_each_key, keys, take),
            None => {
                let until = take.leased.len() + max;
                state.lease(taking, until, take);
            }
        }
        None
    }

    /// Reads the payloads that were not in memory. A message that is gone meanwhile is left out.
    async fn complete_take(&self, mut taken: Taken) -> Result<Taken, LeaseError> {
        if taken.take.missing.is_empty() {
            return Ok(taken);
        }
        let seqs = taken.take.missing.iter().map(|(_, seq)| *seq).collect();
        let payloads = self.payloads(seqs).await;
        let mut payloads = payloads.map_err(|error| LeaseError::Unreadable {
            reason: error.to_string(),
        })?;
        let missing = std::mem::take(&mut taken.take.missing);
        for (at, seq) in missing.into_iter().rev() {
            if let Some(payload) = payloads.remove(&seq) {
                taken.take.leased[at].payload = payload;
            } else {
                taken.take.leased.remove(at);
                let later = taken.take.bounds.iter_mut().filter(|bound| **bound > at);
                later.for_each(|bound| *bound -= 1);
            }
        }
        Ok(taken)
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

    /// Takes whenever the queue may have something, until there is something or the time is over.
    async fn waiting(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        wait: Duration,
        wanted: &Wanted<'_>,
    ) -> Result<Taken, LeaseError> {
        let is_choosy = !wanted.metadata.is_empty();
        let pass_on = || {
            // Whoever takes something and leaves something wakes the next.
            if queue.ready() > 0 && !is_choosy {
                queue.waiting.notify_one();
            }
        };
        let taken = self.take(queue, wanted, false)?;
        if !taken.is_empty() || wait.is_zero() {
            pass_on();
            return self.complete_take(taken).await;
        }
        let over = self.clock.sleep(wait);
        tokio::pin!(over);
        loop {
            let notice = if is_choosy { &queue.choosy } else { &queue.waiting };
            let notified = notice.notified();
            tokio::pin!(notified);
            // From here on a change is noticed, so that one between the look and the wait is not missed.
            notified.as_mut().enable();
            let taken = self.take(queue, wanted, false)?;
            if !taken.is_empty() {
                pass_on();
                return self.complete_take(taken).await;
            }
            tokio::select! {
                () = &mut notified => {}
                () = &mut over => {
                    let taken = self.take(queue, wanted, false)?;
                    pass_on();
                    return self.complete_take(taken).await;
                }
                () = self.shutdown.requested() => return Err(LeaseError::Stopping),
            }
        }
    }
}
