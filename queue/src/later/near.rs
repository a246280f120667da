//! Bringing far messages near: in batches and well before their instants, or when one is asked for by its id.
//!
//! Placing messages in memory and moving their rows is one commit. Whoever calls one back meanwhile deletes its row, so that
//! the commit conflicts and what is left is read again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use celesta_runtime::{Clock, Shutdown};
use celesta_store::{Cell, CommitError, Expect, Row as StoredRow, Statement, Unit};
use celesta_types::{MessageId, Timestamp};
use hashbrown::HashMap;

use super::Later;
use super::look::{COLUMNS, decode};
use crate::core::{Core, Group};
use crate::entry::{Entry, NEVER};
use crate::error::Error;
use crate::limits::FAR_MS;
use crate::machine::State as Life;
use crate::message::NewMessage;
use crate::name::{Key, QueueName};
use crate::rows::{self, Standing};
use crate::shard::Queue;
use crate::state::{Mark, State, Then};

/// Messages brought near in one commit.
const ROWS: usize = 2_000;
/// How long before it would be in memory a message is brought there, so that one look serves many of them.
const AHEAD_MS: i64 = 30_000;
/// Between two countings: a count reads an index of all far messages, some 20 ms for a million.
const RECOUNT_MS: i64 = 2_000;
/// After a failed read the next try.
const AGAIN_MS: i64 = 1_000;

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

static DROP: Statement = Statement {
    name: "queue.later_drop",
    rank: 31,
    head: "DELETE FROM queue_later WHERE seq IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

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
        // Whoever waits for this may go away before the unit is decided.
        let waits = Arc::new(());
        let (later, bringer) = (Arc::clone(&self.later), Arc::downgrade(&waits));
        unit.on_done(move |outcome| {
            if outcome.is_ok() {
                later.came_near(moved, &bringer);
            }
        });
        self.attach(&mut unit, groups);
        let decided = self.commit(unit).await;
        drop(waits);
        match decided {
            Ok(()) => Ok(true),
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn numbered(&self, number: i64) -> Option<Arc<Queue>> {
        let registry = self.registry.read();
        let found = registry.by_index.iter().find(|queue| queue.id == number);
        found.map(Arc::clone)
    }

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
