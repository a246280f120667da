//! Leasing: what the consumers of this node want of one queue at the same time is leased by one statement.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celesta_runtime::Fate;
use celesta_store::{Arg, Call, QueryError, Row};
use tokio::sync::oneshot;

use super::gather::Request;
use super::rows::{Taken, leased, leased_columns};
use super::works::Work;
use super::{Core, Entry, SharedQueues, call, text};
use crate::error::{Error, LeaseError};
use crate::limits::{BATCH_MAX, LEASE_MS_MAX, LEASE_MS_MIN, METADATA_PAIRS_MAX, STAGED_MAX};
use crate::message::{LeaseKeys, LeaseRef, LeaseRequest, Leased, LeasedKey};
use crate::name::QueueName;
use crate::settings::Kind;
use crate::state::Tally;

/// Messages of one statement.
const ROWS_MAX: usize = 4_096;
/// Consumers woken by one change; each that takes all it may wakes the next.
const WOKEN_AT_ONCE: usize = 4;

const LEASE: &str = "SELECT * FROM queue_take($1, $2, $3, $4, $5, $6)";
const LEASE_MATCHING: &str = concat!(
    leased_columns!(),
    "queue_lease_matching($1, $2, $3, $4, $5, $6, $7)"
);
const LEASE_KEYS: &str = concat!(
    leased_columns!(),
    "queue_lease_keys($1, $2, $3, $4, $5, $6, $7, $8)"
);

type Answer = Result<Handed, QueryError>;

/// What one consumer wants.
pub(super) struct Wanted {
    entry: Arc<Entry>,
    max: usize,
    lease_ms: i64,
    consumer: Arc<str>,
    answer: oneshot::Sender<Answer>,
}

impl Wanted {
    pub(super) const fn max(&self) -> usize {
        self.max
    }
}

impl Request for Vec<LeaseRef> {
    fn rows(&self) -> usize {
        self.len()
    }
}

/// Leases on their way to a consumer. When it has gone meanwhile they are given back.
struct Handed {
    core: Arc<Core>,
    leased: Vec<Leased>,
}

impl Handed {
    const fn new(core: Arc<Core>, leased: Vec<Leased>) -> Self {
        Self { core, leased }
    }

    /// The consumer has them.
    fn keep(mut self) -> Vec<Leased> {
        std::mem::take(&mut self.leased)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if !self.leased.is_empty() {
            self.core
                .returns
                .offer(self.leased.iter().map(Leased::lease).collect());
        }
    }
}

/// Gives back what nobody waits for any more; what cannot be given back lapses in its time.
pub(super) async fn serve_returns(core: Arc<Core>, returned: Vec<Vec<LeaseRef>>) {
    for leases in returned.concat().chunks(BATCH_MAX) {
        if let Err(error) = core.release(leases).await {
            tracing::debug!(%error, "leases nobody waits for lapse in their time");
        }
    }
}

impl SharedQueues {
    /// Leases messages; waits up to `wait` when there is none, without polling. Of an exclusive queue it leases one
    /// message each of up to `max` keys. An empty answer means that the time is over.
    ///
    /// # Errors
    /// When the request is wrong, the queue unknown or blocked, the database away, or the process is stopping.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what was leased for it then is given back.
    pub async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>, LeaseError> {
        let core = &self.core;
        let entry = core
            .queue_to_lease(&request.queue, request.max, request.lease_ms, &request.metadata)
            .await?;
        core.waiting(&entry, request.wait, request.max, || {
            core.lease_once(&entry, request)
        })
        .await
    }

    /// Leases keys of an exclusive queue, each with its pending messages; waits up to `wait` when no key is free.
    ///
    /// # Errors
    /// When the request is wrong, the queue unknown, blocked or not exclusive, the database away, or the process is stopping.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what was leased for it then is given back.
    pub async fn lease_keys(&self, request: &LeaseKeys) -> Result<Vec<LeasedKey>, LeaseError> {
        let core = &self.core;
        let entry = core
            .queue_to_lease(
                &request.queue,
                request.max_keys,
                request.lease_ms,
                &request.metadata,
            )
            .await?;
        let per_key = request.max_messages_per_key;
        if per_key == 0 || per_key > STAGED_MAX {
            return Err(LeaseError::BatchOutOfRange {
                given: per_key,
                max: STAGED_MAX,
            });
        }
        let kind = entry.settings.read().kind;
        if kind != Kind::Exclusive {
            return Err(LeaseError::WrongKind {
                queue: entry.name.clone(),
                kind,
            });
        }
        core.waiting(&entry, request.wait, request.max_keys, || async {
            let taken = core
                .take_keys(
                    &entry,
                    request.max_keys,
                    per_key,
                    request.lease_ms,
                    &request.consumer,
                    &request.metadata,
                )
                .await?;
            Ok(by_key(taken))
        })
        .await
    }
}

fn by_key(taken: Vec<Leased>) -> Vec<LeasedKey> {
    let mut keys: Vec<LeasedKey> = Vec::new();
    let mut places = hashbrown::HashMap::new();
    for leased in taken {
        let Some(key) = leased.key else { continue };
        let place = *places.entry(key.bits()).or_insert_with(|| {
            keys.push(LeasedKey {
                key,
                messages: Vec::new(),
            });
            keys.len() - 1
        });
        keys[place].messages.push(leased);
    }
    keys
}

impl Core {
    async fn queue_to_lease(
        &self,
        name: &QueueName,
        max: usize,
        lease_ms: Option<i64>,
        metadata: &[(String, String)],
    ) -> Result<Arc<Entry>, LeaseError> {
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
        let entry = self.find(name).await?;
        entry.ok_or_else(|| LeaseError::UnknownQueue { queue: name.clone() })
    }

    /// Repeats `attempt` whenever the queue may have something, until it gives something or the time is over.
    async fn waiting<T, F>(
        &self,
        entry: &Entry,
        wait: Duration,
        max: usize,
        attempt: impl Fn() -> F,
    ) -> Result<Vec<T>, LeaseError>
    where
        F: Future<Output = Result<Vec<T>, LeaseError>>,
    {
        // From now on, not from when the database has answered.
        let give_up = self.clock.sleep_until(self.clock.now().after(wait));
        tokio::pin!(give_up);
        loop {
            if entry.settings.read().dequeue_blocked {
                return Err(LeaseError::Blocked {
                    queue: entry.name.clone(),
                });
            }
            // Registered before it looks: what comes while it looks is not missed.
            let woken = entry.waiting.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let sweeps = self.sweeps();
            let mut got = attempt().await?;
            if got.is_empty() && self.sweep_after(sweeps).await? {
                got = attempt().await?;
            }
            if !got.is_empty() || wait.is_zero() {
                if got.len() >= max {
                    entry.waiting.notify_one();
                }
                return Ok(got);
            }
            entry.waiters.fetch_add(1, Ordering::Relaxed);
            let _waiter = Waiter(entry);
            tokio::select! {
                biased;
                () = self.shutdown.requested() => return Err(LeaseError::Stopping),
                () = woken => {}
                () = &mut give_up => return Ok(Vec::new()),
            }
        }
    }

    async fn lease_once(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        request: &LeaseRequest,
    ) -> Result<Vec<Leased>, LeaseError> {
        let kind = entry.settings.read().kind;
        if kind == Kind::Exclusive {
            return self
                .take_keys(
                    entry,
                    request.max,
                    1,
                    request.lease_ms,
                    &request.consumer,
                    &request.metadata,
                )
                .await;
        }
        let lease_ms = request.lease_ms.unwrap_or_else(|| entry.settings.read().lease_ms);
        if let Some(pairs) = text::pairs(&request.metadata) {
            let (until, event) = self.terms(entry, lease_ms, &request.consumer);
            let args = vec![
                Arg::Int(self.now()),
                Arg::Int(entry.id),
                Arg::Int(i64::try_from(request.max).unwrap_or(i64::MAX)),
                Arg::Int(until),
                Arg::Texts(vec![Some(text::plain(&request.consumer))]),
                Arg::Text(Some(event)),
                Arg::Text(Some(pairs)),
            ];
            return self
                .take_apart(entry, call("queue.lease", LEASE_MATCHING, args))
                .await;
        }
        let (answer, answered) = oneshot::channel();
        let wanted = Wanted {
            entry: Arc::clone(entry),
            max: request.max,
            lease_ms,
            consumer: Arc::clone(&request.consumer),
            answer,
        };
        self.works.ask(Work::Lease(wanted)).await;
        match answered.await {
            Ok(handed) => Ok(handed?.keep()),
            Err(_) => Err(LeaseError::Stopping),
        }
    }

    async fn take_keys(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        max: usize,
        per_key: usize,
        lease_ms: Option<i64>,
        consumer: &Arc<str>,
        metadata: &[(String, String)],
    ) -> Result<Vec<Leased>, LeaseError> {
        let lease_ms = lease_ms.unwrap_or_else(|| entry.settings.read().lease_ms);
        let (until, event) = self.terms(entry, lease_ms, consumer);
        let args = vec![
            Arg::Int(self.now()),
            Arg::Int(entry.id),
            Arg::Int(i64::try_from(max).unwrap_or(i64::MAX)),
            Arg::Int(i64::try_from(per_key).unwrap_or(i64::MAX)),
            Arg::Int(until),
            Arg::Text(Some(text::plain(consumer))),
            Arg::Text(Some(event)),
            Arg::Text(text::pairs(metadata)),
        ];
        self.take_apart(entry, call("queue.lease_keys", LEASE_KEYS, args))
            .await
    }

    /// Takes apart from the caller, who may go away: then what was leased is given back.
    async fn take_apart(self: &Arc<Self>, entry: &Arc<Entry>, call: Call) -> Result<Vec<Leased>, LeaseError> {
        let (answer, answered) = oneshot::channel::<Answer>();
        let (core, entry) = (Arc::clone(self), Arc::clone(entry));
        self.tasks.spawn("queue.take", Fate::Expendable, async move {
            let taken = core.take(&entry, call).await;
            answer.send(taken.map(|taken| Handed::new(core, taken))).ok();
        });
        match answered.await {
            Ok(handed) => Ok(handed?.keep()),
            Err(_) => Err(LeaseError::Stopping),
        }
    }

    /// Until when a lease that begins now holds, and what the timeline says of it.
    fn terms(&self, entry: &Entry, lease_ms: i64, consumer: &str) -> (i64, Arc<str>) {
        let now = self.now();
        let event = text::event(entry.settings.read().history_ms, now, 'L', consumer);
        (now.saturating_add(lease_ms), event)
    }

    async fn take(&self, entry: &Entry, call: Call) -> Result<Vec<Leased>, QueryError> {
        let mut answers = self.database.write(std::slice::from_ref(&call)).await?;
        self.taken(entry, answers.pop().unwrap_or_default()).await
    }

    /// Reads what was leased.
    async fn taken(&self, entry: &Entry, rows: Vec<Row>) -> Result<Vec<Leased>, QueryError> {
        let mut taken = Vec::with_capacity(rows.len());
        for mut row in rows {
            let read = leased(&mut row, &entry.name).map_err(|error: Error| QueryError {
                reason: error.to_string(),
            });
            taken.push(read?);
        }
        taken.sort_unstable_by_key(|taken| taken.order);
        self.leased(entry, &taken).await;
        Ok(taken.into_iter().map(|taken| taken.leased).collect())
    }

    /// Remembers when the leases lapse, counts them, and moves the queue's virtual time on.
    async fn leased(&self, entry: &Entry, taken: &[Taken]) {
        let Some(first) = taken.first() else { return };
        self.arm(first.leased.leased_until.as_millis());
        let given = u64::try_from(taken.len()).unwrap_or(0);
        self.leases_given.fetch_add(given, Ordering::Relaxed);
        let metrics = self.metrics.of(entry.settings.read().kind);
        let now = self.clock.now();
        metrics.leased.inc_by(given);
        metrics
            .waited
            .observe(now.since(first.leased.enqueued_at).as_secs_f64());
        let late = taken
            .iter()
            .filter(|taken| taken.order.2 < now.as_millis())
            .count();
        metrics.add(&Tally {
            missed_deadlines: u64::try_from(late).unwrap_or(0),
            ..Tally::default()
        });
        for class in taken.chunk_by(|a, b| a.order.0 >> 16 == b.order.0 >> 16) {
            if let Some(last) = class
                .iter()
                .filter(|taken| taken.fair)
                .max_by_key(|taken| taken.order.1)
            {
                let args = vec![
                    Arg::Int(entry.id),
                    Arg::Int(i64::from(last.order.0 >> 16)),
                    Arg::Int(last.order.1),
                ];
                let sql = "SELECT queue_pass_on($1, $2, $3)";
                if let Err(error) = self.database.ask(&call("queue.pass_on", sql, args)).await {
                    tracing::debug!(%error, "the virtual time of a queue stays behind");
                }
            }
        }
    }
}

struct Waiter<'a>(&'a Entry);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entry {
    /// There is something to lease.
    pub(super) fn wake(&self, count: usize) {
        for _ in 0..count.min(WOKEN_AT_ONCE) {
            self.waiting.notify_one();
        }
    }
}

/// Consumers whose leases are one statement.
pub(super) struct Group {
    entry: Arc<Entry>,
    wanted: Vec<Wanted>,
}

/// What is wanted, as statements.
pub(super) fn groups(core: &Core, mut wanted: Vec<Wanted>) -> Vec<(Group, Call)> {
    // Whoever has gone meanwhile wants nothing.
    wanted.retain(|wanted| !wanted.answer.is_closed());
    wanted.sort_by_key(|wanted| (wanted.entry.id, wanted.lease_ms));
    let mut groups = Vec::new();
    let mut rest = wanted.into_iter().peekable();
    while let Some(first) = rest.next() {
        let entry = Arc::clone(&first.entry);
        let same = (first.entry.id, first.lease_ms);
        let mut rows = first.max;
        let mut wanted = vec![first];
        while let Some(next) =
            rest.next_if(|next| (next.entry.id, next.lease_ms) == same && rows + next.max <= ROWS_MAX)
        {
            rows += next.max;
            wanted.push(next);
        }
        let call = lease_call(core, &entry, same.1, &wanted, rows);
        groups.push((Group { entry, wanted }, call));
    }
    groups
}

fn lease_call(core: &Core, entry: &Entry, lease_ms: i64, wanted: &[Wanted], rows: usize) -> Call {
    let one = wanted.windows(2).all(|pair| pair[0].consumer == pair[1].consumer);
    let name = wanted
        .first()
        .filter(|_| one)
        .map_or("", |first| &*first.consumer);
    let (until, mut event) = core.terms(entry, lease_ms, name);
    if !one && !event.is_empty() {
        // Who it was stands in the row; the timeline of a group says it of the node's consumers together.
        event = text::event(1, core.now(), 'L', "several consumers of one node");
    }
    let consumers = if one {
        vec![Some(text::plain(name))]
    } else {
        let each = |wanted: &Wanted| std::iter::repeat_n(Some(text::plain(&wanted.consumer)), wanted.max);
        wanted.iter().flat_map(each).collect()
    };
    let args = vec![
        Arg::Int(core.now()),
        Arg::Int(entry.id),
        Arg::Int(i64::try_from(rows).unwrap_or(i64::MAX)),
        Arg::Int(until),
        Arg::Texts(consumers),
        Arg::Text(Some(event)),
    ];
    call("queue.lease", LEASE, args)
}

impl Group {
    /// Shares out what was leased.
    pub(super) async fn finish(self, core: &Arc<Core>, answer: Result<Vec<Row>, QueryError>) {
        let taken = match answer {
            Ok(rows) => core.taken(&self.entry, rows).await,
            Err(error) => Err(error),
        };
        let mut taken = match taken {
            Ok(taken) => taken.into_iter(),
            Err(error) => {
                for wanted in self.wanted {
                    wanted.answer.send(Err(error.clone())).ok();
                }
                return;
            }
        };
        for wanted in self.wanted {
            let part: Vec<_> = taken.by_ref().take(wanted.max).collect();
            let handed = Handed::new(Arc::clone(core), part);
            wanted.answer.send(Ok(handed)).ok();
        }
    }
}
