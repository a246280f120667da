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
//!
//! Here is how they come and go, and what is known of them without reading them; `near` brings them into memory, `look` reads
//! them where they are.

mod look;
mod near;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use celesta_store::{Cell, Expect, Statement, Store, Unit};
use celesta_types::MessageId;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) use near::run;

use crate::core::Core;
use crate::entry::{Entry, NEVER};
use crate::error::{EnqueueError, Error};
use crate::limits::{FAR_MS, LATER_MAX};
use crate::machine::State as Life;
use crate::name::Key;
use crate::rows;
use crate::schema;

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

static CANCEL: Statement = Statement {
    name: "queue.later_cancel",
    rank: 31,
    head: "DELETE FROM queue_later WHERE seq IN (SELECT later.seq FROM (VALUES ",
    row: "(?, ?)",
    tail: ") AS v CROSS JOIN queue_later AS later WHERE later.queue = v.column1 AND later.id = v.column2)",
    cells: 2,
    expect: Expect::Any,
};

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
    /// One approach at a time, or a counting.
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

    /// Messages are among all others now, as many of each queue. `bringer` is theirs who brings them, alone until this: when
    /// it has been dropped before, others may be counting, and the record is asked again.
    fn came_near(&self, moved: HashMap<i64, i64>, bringer: &Weak<()>) {
        let mut is_alone = false;
        self.change(|counts| {
            is_alone = bringer.strong_count() > 0;
            if is_alone {
                for (queue, count) in moved {
                    *counts.durable.entry(queue).or_default() -= count;
                }
            }
        });
        if !is_alone {
            self.doubt();
        }
    }

    /// The counts may be too high: the record says how many there are.
    fn doubt(&self) {
        self.uncertain.store(true, Ordering::Release);
        self.changed.notify_one();
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

    /// Counts in the record. Nobody brings messages near meanwhile: what they take from the counts would be taken from
    /// rows that are counted without it, or not at all from rows that are counted with it.
    async fn recount(&self, store: &Store) -> Result<(), Error> {
        let _nobody_approaches = self.later.approaching.lock().await;
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
            // These became durable meanwhile, or are about to: the rows may have had them.
            let recent = std::mem::take(&mut counts.recent);
            if !recent.is_empty() || counts.staged.values().any(|&count| count > 0) {
                self.later.uncertain.store(true, Ordering::Release);
            }
            for (queue, count) in recent {
                *counts.durable.entry(queue).or_default() += count;
            }
        });
        Ok(())
    }
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
        self.later.doubt();
    }
}
