//! A record whose commits happen when a driver says so, and end as it says: what a simulation stands on.
//!
//! A [`Record`] is what survives a crash: SQLite in memory, written by the statements and the groups of the real committer.
//! A process of the simulation opens a [`Store`] on it and gets nothing done by itself: units wait until the [`Hand`]
//! commits some of them. How often, how many at once and with which [`Ending`] is the driver's choice, so commits are as
//! slow, as grouped and as interrupted as a seed wants. A crash is dropping the hand: what waited is lost, unheard.
//!
//! Everything happens on the caller's thread, before the call returns: the same calls give the same outcomes. Nothing here
//! is durable beyond the process.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use parking_lot::Mutex;

use crate::commit::{Store, UNITS_WAITING_MAX};
use crate::error::{CommitError, OpenError, QueryError};
use crate::line::{Line, line};
use crate::migrate::Migration;
use crate::sqlite::Groups;
use crate::unit::{After, Cell, Row, Rows, Unit};

/// Where the record says it is.
pub(crate) const PLACE: &str = ":memory:";

/// What outlives the simulated processes. Cheap to clone; clones are one record.
#[derive(Clone)]
pub struct Record {
    groups: Arc<Mutex<Groups>>,
    refused_reads: Arc<AtomicU32>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").finish_non_exhaustive()
    }
}

/// How a commit ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is durable and everybody hears of it.
    Durable,
    /// Nothing of it is durable, and everybody hears that.
    Failed,
    /// It is durable and nobody hears of it. The process dies with it: the next step is to drop the hand.
    Unheard,
    /// It is durable and everybody hears that it is not, as when a disk fails after the log was written. The process dies
    /// before it commits again: a later commit would overwrite the log.
    Denied,
}

/// A mistake put in on purpose, to prove that a simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Whoever waits for a unit hears that it is durable when it arrives.
    HeardEarly,
    /// The rows of this statement are left out.
    LeftOut(&'static str),
    /// The rows of all statements on this table are left out.
    WithoutTable(&'static str),
    /// The rows of this statement become durable when their unit arrives, ahead of the rest of it.
    Ahead(&'static str),
    /// The last values of the first two rows of this statement in a unit change places.
    Swapped(&'static str),
    /// Rows of this statement have the number `to` in a column where they should have `from`.
    Altered {
        /// The statement.
        statement: &'static str,
        /// The column, from 0.
        column: usize,
        /// What should be there.
        from: i64,
        /// What is.
        to: i64,
    },
}

/// What one commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Did {
    /// The units of the group.
    pub units: usize,
    /// Their rows.
    pub rows: usize,
    /// The units that conflicted.
    pub conflicts: usize,
}

impl Record {
    /// A new record with these tables.
    ///
    /// # Errors
    /// When a migration fails.
    pub fn create(migrations: &[Migration]) -> Result<Self, OpenError> {
        let groups = block_on(Groups::in_memory(Path::new(PLACE), migrations))?;
        Ok(Self {
            groups: Arc::new(Mutex::new(groups)),
            refused_reads: Arc::default(),
        })
    }

    /// A store for a process that begins now, and the hand that commits for it.
    #[must_use]
    pub fn open(&self) -> (Store, Hand) {
        let (units, waiting) = line(UNITS_WAITING_MAX);
        let store = Store::driven(units, self.clone());
        let hand = Hand {
            record: self.clone(),
            arriving: waiting,
            waiting: VecDeque::new(),
            mistake: None,
        };
        (store, hand)
    }

    /// Has the next `reads` reads of all stores fail as if the disk did not answer.
    pub fn refuse_reads(&self, reads: u32) {
        self.refused_reads.store(reads, Ordering::Relaxed);
    }

    /// Reads rows, as [`Store::fetch`] does, also when no process is there; never refused.
    ///
    /// # Errors
    /// When the statement is wrong.
    pub fn fetch(&self, sql: &str, cells: &[Cell]) -> Result<Vec<Row>, QueryError> {
        let mut groups = self.groups.lock();
        Ok(block_on(groups.fetch(sql, cells))?)
    }

    /// How many stores and hands of processes that should be gone still hold the record: more than none is a leak.
    #[must_use]
    pub fn others(&self) -> usize {
        Arc::strong_count(&self.groups) - 1
    }

    pub(crate) fn fetch_for_store(&self, sql: &str, cells: &[Cell]) -> Result<Vec<Row>, QueryError> {
        let refused = self
            .refused_reads
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if refused.is_ok() {
            return Err(QueryError {
                reason: "disk I/O error (simulated)".to_owned(),
            });
        }
        self.fetch(sql, cells)
    }
}

/// Commits for one process.
#[derive(Debug)]
pub struct Hand {
    record: Record,
    arriving: Line,
    waiting: VecDeque<Unit>,
    mistake: Option<Mistake>,
}

impl Hand {
    /// From now on this hand makes that mistake.
    pub fn make(&mut self, mistake: Mistake) {
        self.mistake = Some(mistake);
    }

    /// How many units wait.
    pub fn waiting(&mut self) -> usize {
        while let Some(unit) = self.arriving.try_recv() {
            let unit = match self.mistake {
                None => unit,
                Some(mistake) => self.mistaken(unit, mistake),
            };
            self.waiting.push_back(unit);
        }
        self.waiting.len()
    }

    /// Commits the first `units` that wait as one group. Whoever waits for them has been told when this returns.
    pub fn commit(&mut self, units: usize, ending: Ending) -> Did {
        let units = self.waiting().min(units);
        let (rows, after): (Vec<Rows>, Vec<After>) =
            self.waiting.drain(..units).map(Unit::into_parts).unzip();
        let mut did = Did {
            units,
            rows: rows.iter().map(|unit| unit.starts.len()).sum(),
            conflicts: 0,
        };
        let failed = || CommitError::Unavailable {
            reason: "disk I/O error (simulated)".to_owned(),
        };
        let outcomes = match ending {
            Ending::Failed => Err(failed()),
            _ if did.rows == 0 => Ok(vec![Ok(()); units]),
            _ => block_on(self.record.groups.lock().commit(&rows)),
        };
        if let Ok(outcomes) = &outcomes {
            did.conflicts = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        }
        match (ending, outcomes) {
            (Ending::Unheard, _) => {}
            (Ending::Denied, _) => After::tell_all(after, &Err(failed())),
            (_, outcomes) => After::tell_all(after, &outcomes),
        }
        did
    }

    fn mistaken(&self, unit: Unit, mistake: Mistake) -> Unit {
        let (mut rows, after) = unit.into_parts();
        match mistake {
            Mistake::HeardEarly => {
                Unit::of_parts(Rows::default(), after).finish(Ok(()));
                Unit::of_parts(rows, After::default())
            }
            Mistake::LeftOut(name) => {
                rows.starts.retain(|(statement, _)| statement.name != name);
                Unit::of_parts(rows, after)
            }
            Mistake::WithoutTable(table) => {
                let of_table = |name: &str| name.split_once('.').is_some_and(|(of, _)| of == table);
                rows.starts.retain(|(statement, _)| !of_table(statement.name));
                Unit::of_parts(rows, after)
            }
            Mistake::Ahead(name) => {
                let (ahead, rest) = std::mem::take(&mut rows.starts)
                    .into_iter()
                    .partition(|(statement, _)| statement.name == name);
                let ahead = Rows {
                    starts: ahead,
                    cells: rows.cells.clone(),
                };
                rows.starts = rest;
                if !ahead.starts.is_empty() {
                    // Its outcome is nobody's: that is the mistake.
                    block_on(self.record.groups.lock().commit(&[ahead])).ok();
                }
                Unit::of_parts(rows, after)
            }
            Mistake::Swapped(name) => {
                let named = rows.starts.iter().filter(|(statement, _)| statement.name == name);
                let last: Vec<usize> = named
                    .map(|(statement, start)| start + statement.cells - 1)
                    .collect();
                if let [first, second, ..] = last[..] {
                    rows.cells.swap(first, second);
                }
                Unit::of_parts(rows, after)
            }
            Mistake::Altered {
                statement: name,
                column,
                from,
                to,
            } => {
                for (_, start) in rows.starts.iter().filter(|(statement, _)| statement.name == name) {
                    if let Some(cell) = rows.cells.get_mut(start + column)
                        && *cell == Cell::Int(from)
                    {
                        *cell = Cell::Int(to);
                    }
                }
                Unit::of_parts(rows, after)
            }
        }
    }
}

/// Wakes a thread that waits.
struct Waiting(Thread);

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// How often a thread that waits lets another one of its core go on before it sleeps: an answer takes microseconds, and
/// nobody has to be woken then.
const YIELDS: usize = 100;

/// Waits for the connection's own thread without letting anything else run on this one.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Waiting(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let mut yields = 0;
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(done) => return done,
            Poll::Pending if yields < YIELDS => {
                yields += 1;
                std::thread::yield_now();
            }
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Expect, Statement};

    static INSERT: Statement = Statement {
        name: "test.insert",
        rank: 10,
        head: "INSERT INTO t (k) VALUES ",
        row: "(?)",
        tail: "",
        cells: 1,
        expect: Expect::Each,
    };
    const TABLE: Migration = Migration {
        subsystem: "test",
        version: 1,
        sql: "CREATE TABLE t (k INTEGER PRIMARY KEY) STRICT",
        postgres: "",
    };

    fn row(key: i64) -> Unit {
        let mut unit = Unit::new();
        unit.add(&INSERT, [key.into()]);
        unit
    }

    fn keys(record: &Record) -> Vec<i64> {
        let rows = record.fetch("SELECT k FROM t ORDER BY k", &[]);
        rows.expect("it reads")
            .iter()
            .filter_map(|row| row.int(0))
            .collect()
    }

    #[tokio::test]
    async fn nothing_is_durable_before_the_hand_says_so_and_a_crash_loses_what_waits() {
        let record = Record::create(&[TABLE]).expect("a record");
        let (store, mut hand) = record.open();
        let mut first = row(1);
        let durable = Store::watch(&mut first);
        store.submit(first).await;
        store.submit(row(2)).await;
        assert_eq!((hand.waiting(), keys(&record)), (2, vec![]));
        let did = hand.commit(1, Ending::Durable);
        assert_eq!((did.units, did.conflicts), (1, 0));
        assert_eq!(durable.wait().await, Ok(()));
        drop((store, hand));
        let (store, mut hand) = record.open();
        assert_eq!((hand.waiting(), keys(&record)), (0, vec![1]));
        let mut again = row(1);
        let refused = Store::watch(&mut again);
        store.submit(again).await;
        store.submit(row(3)).await;
        assert_eq!(hand.commit(9, Ending::Durable).conflicts, 1);
        assert!(matches!(refused.wait().await, Err(CommitError::Conflict { .. })));
        assert_eq!(keys(&record), [1, 3]);
    }

    #[tokio::test]
    async fn endings_and_mistakes_are_what_they_say() {
        let record = Record::create(&[TABLE]).expect("a record");
        let (store, mut hand) = record.open();
        let mut end = async |key, ending| {
            let mut unit = row(key);
            let heard = Store::watch(&mut unit);
            store.submit(unit).await;
            hand.commit(1, ending);
            heard.wait().await
        };
        assert!(end(1, Ending::Failed).await.is_err());
        assert_eq!(end(2, Ending::Unheard).await, Err(CommitError::Closed));
        assert!(matches!(
            end(3, Ending::Denied).await,
            Err(CommitError::Unavailable { .. })
        ));
        assert_eq!(keys(&record), [2, 3]);
        record.refuse_reads(1);
        assert!(store.fetch("SELECT k FROM t", &[]).await.is_err());
        assert!(store.fetch("SELECT k FROM t", &[]).await.is_ok());

        hand.make(Mistake::HeardEarly);
        let mut unit = row(4);
        let heard = Store::watch(&mut unit);
        store.submit(unit).await;
        assert_eq!(hand.waiting(), 1);
        assert_eq!((heard.wait().await, keys(&record)), (Ok(()), vec![2, 3]));
        hand.make(Mistake::Ahead("test.insert"));
        store.submit(row(5)).await;
        assert_eq!((hand.waiting(), keys(&record)), (2, vec![2, 3, 5]));
        for (key, mistake) in [
            (6, Mistake::LeftOut("test.insert")),
            (7, Mistake::WithoutTable("test")),
        ] {
            hand.make(mistake);
            store.submit(row(key)).await;
            hand.waiting();
        }
        hand.make(Mistake::WithoutTable("tes"));
        store.submit(row(8)).await;
        hand.waiting();
        hand.make(Mistake::Altered {
            statement: "test.insert",
            column: 0,
            from: 9,
            to: 10,
        });
        for key in [9, 11] {
            store.submit(row(key)).await;
            hand.waiting();
        }
        hand.commit(9, Ending::Durable);
        assert_eq!(keys(&record), [2, 3, 4, 5, 8, 10, 11]);
        let mut unit = row(12);
        unit.add(&INSERT, [13.into()]);
        let (swapped, _) = hand.mistaken(unit, Mistake::Swapped("test.insert")).into_parts();
        assert_eq!(swapped.cells, [Cell::Int(13), Cell::Int(12)]);
    }
}
