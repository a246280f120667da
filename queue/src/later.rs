//! Messages that become visible much later: they stand in a table of their own, by their instant, and take no memory.
//!
//! A million timers for next month cost disk only. What is due within [`FAR_MS`] is brought into memory in batches, well
//! before its instant, and moves to the table of all others in one commit; from then on it is a message like any other, as
//! exact as those are. A message that has something rare (metadata, a fairness key, an expiry) stays in memory, so that
//! every question about these is answered there.
//!
//! *What is asked of a far message by its id* (a look, a cancel, another priority) brings it near first. A cancel that is
//! staged into somebody's unit cannot wait for a read: its row is deleted by its id, and an approach under way leaves it
//! out. How many there are is counted in memory, and counted again where such a delete could not tell whether it met one.
//! A start reads three numbers of the table, however large it is.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use celesta_runtime::{Clock, Shutdown};
use celesta_store::{Cell, CommitError, Expect, Row as StoredRow, Statement, Store, Unit};
use celesta_types::wire::Reader;
use celesta_types::{MessageId, Timestamp};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::{Core, Group};
use crate::entry::{Entry, NEVER};
use crate::error::{EnqueueError, Error};
use crate::limits::{FAR_MS, LATER_MAX};
use crate::machine::State as Life;
use crate::message::{Filter, History, MessageView, NewMessage};
use crate::name::{Key, QueueName};
use crate::rows::{self, Standing};
use crate::schema;
use crate::shard::Queue;
use crate::state::{Mark, State, Then};

/// Messages brought near in one commit.
const ROWS: usize = 2_000;
/// Ids of one read.
const IDS: usize = 256;
/// How long before it would be in memory a message is brought there, so that one look serves many of them.
const AHEAD_MS: i64 = 30_000;
/// Between two countings: a count reads an index of all far messages, some 20 ms for a million.
const RECOUNT_MS: i64 = 2_000;
/// After a failed read the next try.
const AGAIN_MS: i64 = 1_000;

static INSERT: Statement = Statement {
    name: "queue.later_insert",
    rank: 10,
    head: "INSERT INTO queue_later (seq, at, queue, id, head, payload) VALUES ",
    row: "(?, ?, ?, ?, ?, ?)",
    // The same message again is left as it is.
    tail: " ON CONFLICT DO NOTHING",
    cells: 6,
    expect: Expect::Any,
};

/// Gives a far message a row among all others. One that was called back meanwhile is not there, and the unit fails.
static APPROACH: Statement = Statement {
    name: "queue.later_approach",
    rank: 10,
    head: "INSERT INTO queue_rows (seq, head, changes, payload) \
           SELECT v.column1, later.head, v.column2, later.payload FROM (VALUES ",
    row: "(?, ?)",
    tail: ") AS v CROSS JOIN queue_later AS later WHERE later.seq = v.column1",
    cells: 2,
    expect: Expect::Each,
};

/// Moves a row of an earlier release here.
static RECEDE: Statement = Statement {
    name: "queue.later_recede",
    rank: 10,
    head: "INSERT INTO queue_later (seq, at, queue, id, head, payload) \
           SELECT v.column1, v.column2, v.column3, v.column4, near.head, near.payload FROM (VALUES ",
    row: "(?, ?, ?, ?)",
    tail: ") AS v CROSS JOIN queue_rows AS near WHERE near.seq = v.column1",
    cells: 4,
    expect: Expect::Each,
};

static DROP: Statement = Statement {
    name: "queue.later_drop",
    rank: 31,
    head: "DELETE FROM queue_later WHERE seq IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

static CANCEL: Statement = Statement {
    name: "queue.later_cancel",
    rank: 31,
    head: "DELETE FROM queue_later WHERE seq IN (SELECT later.seq FROM (VALUES ",
    row: "(?, ?)",
    tail: ") AS v CROSS JOIN queue_later AS later WHERE later.queue = v.column1 AND later.id = v.column2)",
    cells: 2,
    expect: Expect::Any,
};

const COLUMNS: &str = "SELECT seq, at, queue, head, payload FROM queue_later";

/// What is known of far messages without reading them.
pub(crate) struct Later {
    /// No message is due before this.
    next: AtomicI64,
    /// The first of those that became durable since the last look at the record began.
    fresh: Mutex<i64>,
    counts: Mutex<Counts>,
    /// All of [`Counts`], readable without its lock.
    total: AtomicI64,
    /// The counts may be too high.
    uncertain: AtomicBool,
    /// Ids that are being called back by units which are not decided.
    canceling: Mutex<HashSet<(i64, MessageId)>>,
    /// One approach at a time.
    approaching: tokio::sync::Mutex<()>,
    changed: Notify,
}

/// How many there are in each queue, by its number. Never too few.
#[derive(Default)]
struct Counts {
    durable: HashMap<i64, i64>,
    /// In units that are not decided.
    staged: HashMap<i64, i64>,
    /// Those that became durable since the last counting began: it may have missed them.
    recent: HashMap<i64, i64>,
}

impl Default for Later {
    fn default() -> Self {
        Self {
            next: AtomicI64::new(NEVER),
            fresh: Mutex::new(NEVER),
            counts: Mutex::default(),
            total: AtomicI64::new(0),
            uncertain: AtomicBool::new(false),
            canceling: Mutex::default(),
            approaching: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Later {
    /// Whether there is none at all: the answer on nearly all paths.
    pub(crate) fn is_empty(&self) -> bool {
        self.total.load(Ordering::Acquire) <= 0
    }

    /// How many there are in the queue with that number, those on their way included.
    pub(crate) fn count(&self, queue: i64) -> usize {
        if self.is_empty() {
            return 0;
        }
        let counts = self.counts.lock();
        let of = |counts: &HashMap<i64, i64>| counts.get(&queue).copied().unwrap_or(0);
        usize::try_from(of(&counts.durable) + of(&counts.staged)).unwrap_or(0)
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.lock();
        change(&mut counts);
        let total = counts.durable.values().sum::<i64>() + counts.staged.values().sum::<i64>();
        self.total.store(total, Ordering::Release);
    }

    fn stage(&self, queue: i64) {
        self.change(|counts| *counts.staged.entry(queue).or_default() += 1);
    }

    fn settle(&self, queue: i64, durable: bool) {
        self.change(|counts| {
            *counts.staged.entry(queue).or_default() -= 1;
            if durable {
                *counts.durable.entry(queue).or_default() += 1;
                *counts.recent.entry(queue).or_default() += 1;
            }
        });
    }

    fn expect_at(&self, at: i64) {
        let mut fresh = self.fresh.lock();
        *fresh = at.min(*fresh);
        let earlier = self.next.fetch_min(at, Ordering::AcqRel) > at;
        drop(fresh);
        if earlier {
            self.changed.notify_one();
        }
    }

    /// What the record says of the first, and what has become durable since.
    fn expect_first(&self, at: i64) {
        let fresh = self.fresh.lock();
        self.next.store(at.min(*fresh), Ordering::Release);
    }

    /// Wakes whoever brings messages near, so that it ends with the queues.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }
}

/// Whether a message of that kind may stand apart.
fn is_far(entry: &Entry, now: i64) -> bool {
    entry.standing.state == Life::Invisible
        && entry.at > now.saturating_add(FAR_MS)
        && entry.standing.attempt == 0
        && entry.rare().is_none()
}

impl Core {
    /// Adds a message that is due much later to the unit; gives it back when it belongs into memory.
    pub(crate) fn admit_later(
        self: &Arc<Self>,
        queue: i64,
        entry: Entry,
        key: Option<Key>,
        now: i64,
        unit: &mut Unit,
    ) -> Result<Option<(Entry, Option<Key>)>, EnqueueError> {
        if self.store.is_none() || !is_far(&entry, now) {
            return Ok(Some((entry, key)));
        }
        let total = usize::try_from(self.later.total.load(Ordering::Acquire)).unwrap_or(0);
        if total >= LATER_MAX {
            return Err(EnqueueError::Full { max: LATER_MAX });
        }
        let payload = entry.payload.as_deref().map_or_else(Vec::new, <[u8]>::to_vec);
        unit.add(
            &INSERT,
            [
                Cell::Int(entry.seq),
                Cell::Int(entry.at),
                Cell::Int(queue),
                schema::id_cell(entry.id()),
                Cell::Blob(rows::head(queue, key, &entry)),
                Cell::Blob(payload),
            ],
        );
        self.later.stage(queue);
        let staged = Staged {
            later: Arc::clone(&self.later),
            queue,
            at: entry.at,
            durable: false,
        };
        unit.on_done(move |outcome| staged.decide(outcome.is_ok()));
        Ok(None)
    }

    /// Brings near what `messages` name and is far, so that each is seen to be known.
    pub(crate) async fn known_later(self: &Arc<Self>, messages: &[NewMessage]) -> Result<(), Error> {
        if self.later.is_empty() {
            return Ok(());
        }
        let mut names: Vec<&QueueName> = messages.iter().map(|message| &message.queue).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let Some(queue) = self.find(name).filter(|queue| self.later.count(queue.id) > 0) else {
                continue;
            };
            let of_queue = messages.iter().filter(|message| message.queue == *name);
            let ids: Vec<MessageId> = of_queue.map(|message| message.id).collect();
            self.bring_near(&queue, &ids).await?;
        }
        Ok(())
    }

    /// Begins to call messages back: from now on none of `ids` comes near. `None` when the queue has no far messages.
    /// Call it before looking for them in memory, so that none slips past in between.
    pub(crate) fn begin_calling(&self, queue: i64, ids: &[MessageId]) -> Option<Calling> {
        if ids.is_empty() || self.later.count(queue) == 0 {
            return None;
        }
        let mut canceling = self.later.canceling.lock();
        canceling.extend(ids.iter().map(|&id| (queue, id)));
        drop(canceling);
        Some(Calling {
            later: Arc::clone(&self.later),
            queue,
            ids: ids.to_vec(),
        })
    }

    /// Reads what is needed at the start; rows of an earlier release are moved by [`Core::recede`] before.
    pub(crate) async fn open_later(&self, store: &Store) -> Result<(), Error> {
        self.recount(store).await?;
        let rows = store
            .fetch(
                "SELECT (SELECT min(at) FROM queue_later), (SELECT max(seq) FROM queue_later)",
                &[],
            )
            .await?;
        let row = rows.first();
        let next = row.and_then(|row| row.int(0)).unwrap_or(NEVER);
        self.later.next.store(next, Ordering::Release);
        let last = row.and_then(|row| row.int(1)).unwrap_or(0);
        self.seq.fetch_max(last + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Moves a message that was read among all others here, when that is where it belongs.
    pub(crate) fn recede(queue: i64, entry: &Entry, now: i64, unit: &mut Unit) -> bool {
        if !is_far(entry, now) {
            return false;
        }
        unit.add(
            &RECEDE,
            [
                Cell::Int(entry.seq),
                Cell::Int(entry.at),
                Cell::Int(queue),
                schema::id_cell(entry.id()),
            ],
        );
        schema::collect(unit, entry.seq);
        true
    }

    async fn recount(&self, store: &Store) -> Result<(), Error> {
        self.later.uncertain.store(false, Ordering::Release);
        self.later.counts.lock().recent.clear();
        let rows = store
            .fetch("SELECT queue, count(*) FROM queue_later GROUP BY queue", &[])
            .await?;
        self.later.change(|counts| {
            counts.durable = rows
                .iter()
                .filter_map(|row| Some((row.int(0)?, row.int(1)?)))
                .collect();
            for (queue, count) in std::mem::take(&mut counts.recent) {
                *counts.durable.entry(queue).or_default() += count;
                self.later.uncertain.store(true, Ordering::Release);
            }
        });
        Ok(())
    }

    /// Brings near what is due by now, for whoever looks for it: after a jump of the clock there may be some. Costs one
    /// load when there is nothing to do.
    pub(crate) async fn catch_up(self: &Arc<Self>) {
        let now = self.now();
        if self.later.next.load(Ordering::Acquire) <= now
            && let Err(error) = self.approach(now).await
        {
            tracing::warn!(%error, "far messages could not be brought near");
        }
    }

    /// Brings near everything that is due by `until`.
    async fn approach(self: &Arc<Self>, until: i64) -> Result<(), Error> {
        let Some(store) = &self.store else { return Ok(()) };
        let _one_at_a_time = self.later.approaching.lock().await;
        let sql = format!("{COLUMNS} WHERE at <= ? ORDER BY at, seq LIMIT ?");
        let cells = [
            Cell::Int(until),
            Cell::Int(i64::try_from(ROWS).unwrap_or(i64::MAX)),
        ];
        loop {
            // Somebody else may have brought them near meanwhile.
            if self.later.next.load(Ordering::Acquire) > until {
                return Ok(());
            }
            *self.later.fresh.lock() = NEVER;
            let step = async {
                let read = store.fetch(&sql, &cells).await?;
                let is_last = read.len() < ROWS;
                let brought = self.bring(read).await?;
                if !is_last || !brought {
                    return Ok::<_, Error>(None);
                }
                let rows = store.fetch("SELECT min(at) FROM queue_later", &[]).await?;
                Ok(Some(rows.first().and_then(|row| row.int(0)).unwrap_or(NEVER)))
            };
            if let Some(next) = step.await? {
                self.later.expect_first(next);
                return Ok(());
            }
        }
    }

    /// Brings those of `ids` near that are far.
    pub(crate) async fn bring_near(self: &Arc<Self>, queue: &Queue, ids: &[MessageId]) -> Result<(), Error> {
        if self.later.count(queue.id) == 0 {
            return Ok(());
        }
        let _one_at_a_time = self.later.approaching.lock().await;
        loop {
            let rows = self.far(queue, ids).await?;
            if self.bring(rows).await? {
                return Ok(());
            }
        }
    }

    /// The rows of those of `ids` that are far and not in memory.
    async fn far(&self, queue: &Queue, ids: &[MessageId]) -> Result<Vec<StoredRow>, Error> {
        let Some(store) = &self.store else {
            return Ok(Vec::new());
        };
        let is_absent = |id: MessageId| {
            let mut shards = (0..queue.shards()).map(|shard| queue.shard(shard));
            shards.all(|shard| shard.state.lock().find(id).is_none())
        };
        let absent: Vec<MessageId> = ids.iter().copied().filter(|&id| is_absent(id)).collect();
        let mut rows = Vec::new();
        for part in absent.chunks(IDS) {
            let places = vec!["?"; part.len()].join(",");
            let sql = format!("{COLUMNS} WHERE queue = ? AND id IN ({places})");
            let mut cells = vec![Cell::Int(queue.id)];
            cells.extend(part.iter().map(|&id| schema::id_cell(id)));
            rows.extend(store.fetch(&sql, &cells).await?);
        }
        Ok(rows)
    }

    /// Places rows in memory and moves them among all others in one commit. Says whether that stands: one that was called
    /// back meanwhile makes the commit conflict, and what is left is to be read again.
    async fn bring(self: &Arc<Self>, read: Vec<StoredRow>) -> Result<bool, Error> {
        let mut unit = Unit::new();
        let mut groups: Vec<Group> = Vec::new();
        let mut moved: HashMap<i64, i64> = HashMap::new();
        for mut row in read {
            let payload = row.take_blob(4).unwrap_or_default();
            let (number, mut entry, key) = decode(row)?;
            let (seq, id) = (entry.seq, entry.id());
            let queue = self
                .numbered(number)
                .ok_or(Error::Corrupt { seq, what: "queue" })?;
            if self.room(payload.len()).ample {
                entry.payload = Some(payload.into());
            }
            let shard = queue.shard_of(id, key);
            let placed = self.with(&queue, shard, |state, _, _| {
                if self.later.canceling.lock().contains(&(number, id)) {
                    return None;
                }
                unit.add(&DROP, [Cell::Int(seq)]);
                // The same id may have come again, for earlier: that one counts.
                Some(state.approach(entry, key, &mut unit))
            });
            let Some(mark) = placed else { continue };
            *moved.entry(number).or_default() += 1;
            let mark = mark.map(|at| Mark {
                at,
                then: Then::Arrive,
            });
            match groups.last_mut() {
                Some(group) if group.shard == shard && group.queue.id == number => group.marks.extend(mark),
                _ => groups.push(Group {
                    queue,
                    shard,
                    marks: mark.into_iter().collect(),
                }),
            }
        }
        if unit.is_empty() {
            return Ok(true);
        }
        self.attach(&mut unit, groups);
        match self.commit(unit).await {
            Ok(()) => {
                self.later.change(|counts| {
                    for (queue, count) in moved {
                        *counts.durable.entry(queue).or_default() -= count;
                    }
                });
                Ok(true)
            }
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn numbered(&self, number: i64) -> Option<Arc<Queue>> {
        let registry = self.registry.read();
        let found = registry.by_index.iter().find(|queue| queue.id == number);
        found.map(Arc::clone)
    }

    /// A far message as people look at it.
    pub(crate) async fn far_history(&self, queue: &Queue, id: MessageId) -> Result<Option<History>, Error> {
        if self.later.count(queue.id) == 0 {
            return Ok(None);
        }
        let mut rows = self.far(queue, &[id]).await?;
        let Some(mut row) = rows.pop() else {
            return Ok(None);
        };
        let payload = row.take_blob(4);
        let (queue, entry, key) = decode(row)?;
        let mut history = rows::history(&rows::Row { queue, key, entry });
        history.message.payload = payload.map(Into::into);
        Ok(Some(history))
    }

    /// Far messages of the queue after row `after`, and where to go on.
    pub(crate) async fn far_page(
        &self,
        queue: &Queue,
        after: i64,
        max: usize,
    ) -> Result<(Vec<MessageView>, Option<i64>), Error> {
        let Some(store) = &self.store else {
            return Ok((Vec::new(), None));
        };
        let sql = format!("{COLUMNS} WHERE queue = ? AND seq > ? ORDER BY seq LIMIT ?");
        let limit = i64::try_from(max).unwrap_or(i64::MAX);
        let cells = [Cell::Int(queue.id), Cell::Int(after), Cell::Int(limit)];
        let mut views = Vec::new();
        let mut last = None;
        for mut row in store.fetch(&sql, &cells).await? {
            let payload = row.take_blob(4);
            let (number, entry, key) = decode(row)?;
            last = Some(entry.seq);
            let row = rows::Row {
                queue: number,
                key,
                entry,
            };
            let mut view = rows::history(&row).message;
            view.payload = payload.map(Into::into);
            views.push(view);
        }
        let more = views.len() == max;
        Ok((views, last.filter(|_| more)))
    }

    /// How many far messages of the queue match.
    pub(crate) fn far_matching(&self, queue: &Queue, filter: &Filter) -> usize {
        if wants_far(filter) {
            self.later.count(queue.id)
        } else {
            0
        }
    }
}

/// Whether far messages match: they are invisible and have no metadata.
pub(crate) fn wants_far(filter: &Filter) -> bool {
    filter.metadata.is_empty() && (filter.states.is_empty() || filter.states.contains(&Life::Invisible))
}

fn decode(mut row: StoredRow) -> Result<(i64, Entry, Option<Key>), Error> {
    let seq = row.int(0).unwrap_or(0);
    let corrupt = |what| Error::Corrupt { seq, what };
    let head = row.take_blob(3).ok_or_else(|| corrupt("head"))?;
    let rows::Row { key, mut entry, .. } =
        rows::read(&mut Reader::new(&head)).map_err(|_| corrupt("bytes"))?;
    entry.standing.state = Life::Invisible;
    entry.at = row.int(1).ok_or_else(|| corrupt("instant"))?;
    let queue = row.int(2).ok_or_else(|| corrupt("queue"))?;
    Ok((queue, entry, key))
}

/// A far message whose unit is not decided. Dropped without a decision it was never sent.
struct Staged {
    later: Arc<Later>,
    queue: i64,
    at: i64,
    durable: bool,
}

impl Staged {
    /// What the commit says. Takes it whole, so that its end settles the count.
    fn decide(mut self, durable: bool) {
        self.durable = durable;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.later.settle(self.queue, self.durable);
        if self.durable {
            self.later.expect_at(self.at);
        }
    }
}

/// Far messages that a unit calls back, until it is decided.
pub(crate) struct Calling {
    later: Arc<Later>,
    queue: i64,
    ids: Vec<MessageId>,
}

impl Calling {
    /// Adds the deletion of their rows to the unit, also of those that are on their way into memory: their approach may
    /// fail, and they would come again.
    pub(crate) fn stage(self, unit: &mut Unit) {
        for &id in &self.ids {
            unit.add(&CANCEL, [Cell::Int(self.queue), schema::id_cell(id)]);
        }
        unit.on_done(move |_| drop(self));
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        let mut canceling = self.later.canceling.lock();
        for id in self.ids.drain(..) {
            canceling.remove(&(self.queue, id));
        }
        drop(canceling);
        self.later.uncertain.store(true, Ordering::Release);
        self.later.changed.notify_one();
    }
}

impl State {
    /// Takes a message that was far: hidden until the unit that gives it a row is durable. `None` when its id is here.
    fn approach(&mut self, mut entry: Entry, key: Option<Key>, unit: &mut Unit) -> Option<crate::entry::Ref> {
        if self.find(entry.id()).is_some() {
            return None;
        }
        let standing = Standing {
            state: Life::Invisible,
            attempt: 0,
            at: entry.at,
            error: None,
            happened: &[],
        };
        let changes = Cell::Blob(rows::changes(&entry, &standing));
        unit.add(&APPROACH, [Cell::Int(entry.seq), changes]);
        entry.stored = true;
        Some(self.admit_hidden(entry, key))
    }
}

/// Brings near what is due soon, until the queues are gone.
pub(crate) async fn run(core: Weak<Core>, later: Arc<Later>, clock: Clock, shutdown: Shutdown) {
    let mut counted = None;
    loop {
        let Some(strong) = core.upgrade() else { return };
        let wake = strong.look_after(&mut counted).await;
        drop(strong);
        let due = async {
            match wake {
                Some(at) => clock.sleep_until(Timestamp::from_millis(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            () = later.changed.notified() => {}
            () = due => {}
        }
    }
}

impl Core {
    /// Counts again where that is needed, brings near what is due soon, and says when to look again.
    async fn look_after(self: &Arc<Self>, counted: &mut Option<i64>) -> Option<i64> {
        let (later, store) = (&self.later, self.store.as_ref()?);
        let now = self.now();
        let mut wake = NEVER;
        if later.uncertain.load(Ordering::Acquire) {
            let again = counted.map_or(now, |counted| counted.saturating_add(RECOUNT_MS));
            if again > now {
                wake = again;
            } else {
                *counted = Some(now);
                if let Err(error) = self.recount(store).await {
                    tracing::warn!(%error, "far messages could not be counted");
                    later.uncertain.store(true, Ordering::Release);
                }
                if later.uncertain.load(Ordering::Acquire) {
                    wake = now.saturating_add(RECOUNT_MS);
                }
            }
        }
        let near = now.saturating_add(FAR_MS);
        if later.next.load(Ordering::Acquire) <= near
            && let Err(error) = self.approach(near.saturating_add(AHEAD_MS)).await
        {
            tracing::warn!(%error, "far messages could not be brought near");
            wake = wake.min(now.saturating_add(AGAIN_MS));
        }
        let next = later.next.load(Ordering::Acquire);
        if next < NEVER {
            wake = wake.min(next.saturating_sub(FAR_MS).max(now + 1));
        }
        (wake < NEVER).then_some(wake)
    }
}
