//! Results of pure functions that all partitions of a deployment know, wherever each was found.
//!
//! Each partition keeps its own results, in the commit that reports them (`recall.rs`). Here is one table more, in the
//! database that all nodes share: a result goes there once it is durable in its partition, a little later and together with
//! others, and a call whose result its own partition does not know is looked for there, all calls of a batch by one query.
//! What is found is kept in the asking partition too, in the commit that reports it.
//!
//! It saves work and owes nothing: a result that is lost on the way, is not there yet or cannot be read in time is a miss,
//! and a miss costs one run of the function. So nobody waits for a result to be written, and nobody hears of a failure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use celesta_functions::INLINE_JSON_MAX;
use celesta_runtime::{Clock, Fate, TaskSet};
use celesta_store::{Cell, Expect, Migration, QueryError, Statement, Store, Unit};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::recall::{Known, RESULTS_MAX};

/// The tables of this crate that all nodes of a deployment share. On PostgreSQL only.
pub const SHARED_MIGRATIONS: &[Migration] = &[Migration {
    subsystem: "results",
    version: 1,
    sql: "",
    postgres: "CREATE TABLE shared_results (
            place BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, known_by BYTEA NOT NULL UNIQUE,
            result BYTEA NOT NULL);",
}];

/// Results that wait to be written; what does not fit is left out. Each has 32 KiB at most.
const WAITING_MAX: usize = 1_024;
/// Results of one commit.
const BATCH_MAX: usize = 256;
/// Between two commits: they are nobody's hurry, and take an fsync each from those that are.
const LINGER: Duration = Duration::from_millis(20);
/// The oldest are looked for after so many new ones, so that forgetting costs next to nothing.
const FORGET_EVERY: usize = 4_096;
/// How long calls wait to hear whether their results are known: much less than what is worth keeping takes to run.
const PATIENCE: Duration = Duration::from_millis(500);
/// For so long after a failure nothing is looked for.
const QUIET: Duration = Duration::from_secs(5);
/// Looks at once: the connections are those of the leases of partitions, which must not wait.
const LOOKS_MAX: usize = 4;

static PUBLISH: Statement = Statement {
    name: "results.publish",
    rank: 10,
    head: "INSERT INTO shared_results (known_by, result) VALUES ",
    row: "(?, ?)",
    tail: " ON CONFLICT (known_by) DO NOTHING",
    cells: 2,
    expect: Expect::Any,
};

static FORGET: Statement = Statement {
    name: "results.forget",
    rank: 30,
    head: "DELETE FROM shared_results WHERE place <= (SELECT max(place) FROM shared_results) - (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

/// The table of results that all partitions share. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub struct SharedResults {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    clock: Clock,
    found: mpsc::Sender<(Known, Vec<u8>)>,
    looks: Semaphore,
    /// Nothing is looked for before.
    quiet_until: Mutex<Duration>,
}

impl SharedResults {
    /// The table in `store`, which was opened with [`SHARED_MIGRATIONS`] in what all nodes share. What is still to be
    /// written when the tasks are stopped is left out.
    #[must_use]
    pub fn start(store: Store, clock: &Clock, tasks: &TaskSet) -> Self {
        let (found, waiting) = mpsc::channel(WAITING_MAX);
        let shutdown = tasks.shutdown().clone();
        let writing = write(store.clone(), clock.clone(), waiting);
        tasks.spawn("worker shared results", Fate::Expendable, async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = writing => {}
            }
        });
        Self {
            shared: Arc::new(Shared {
                store,
                clock: clock.clone(),
                found,
                looks: Semaphore::new(LOOKS_MAX),
                quiet_until: Mutex::default(),
            }),
        }
    }

    /// Has the other partitions know a result that is durable in its own. Returns at once.
    pub(crate) fn publish(&self, known: Known, result: Vec<u8>) {
        if result.len() <= INLINE_JSON_MAX {
            // When there is no room, or nobody writes any more, it is found anew where it is needed.
            self.shared.found.try_send((known, result)).ok();
        }
    }

    /// Those of the results that any partition has published; nothing when that cannot be said in time.
    ///
    /// # Cancel safety
    /// It only reads.
    pub(crate) async fn find(&self, known: impl Iterator<Item = Known>) -> HashMap<Known, Vec<u8>> {
        let shared = &self.shared;
        let known: Vec<Known> = known.collect();
        if known.is_empty() || shared.clock.monotonic() < *shared.quiet_until.lock() {
            return HashMap::new();
        }
        let read = async {
            let _turn = shared.looks.acquire().await;
            read(&shared.store, "shared_results", known.into_iter()).await
        };
        let reason = tokio::select! {
            read = read => match read {
                Ok(found) => return found,
                Err(error) => error.reason,
            },
            () = shared.clock.sleep(PATIENCE) => "no answer in time".to_owned(),
        };
        tracing::warn!(%reason, "results of other partitions cannot be read; the functions run");
        *shared.quiet_until.lock() = shared.clock.monotonic() + QUIET;
        HashMap::new()
    }
}

/// Reads results by what they are known by, from either table.
pub(crate) async fn read(
    store: &Store,
    table: &'static str,
    known: impl Iterator<Item = Known>,
) -> Result<HashMap<Known, Vec<u8>>, QueryError> {
    let cells: Vec<Cell> = known.map(|known| known.to_vec().into()).collect();
    if cells.is_empty() {
        return Ok(HashMap::new());
    }
    let places = vec!["?"; cells.len()].join(", ");
    let sql = format!("SELECT known_by, result FROM {table} WHERE known_by IN ({places})");
    let rows = store.fetch(&sql, &cells).await?;
    let read = rows.into_iter().filter_map(|mut row| {
        let known = row.blob(0)?.try_into().ok()?;
        Some((known, row.take_blob(1)?))
    });
    Ok(read.collect())
}

async fn write(store: Store, clock: Clock, mut waiting: mpsc::Receiver<(Known, Vec<u8>)>) {
    let mut batch = Vec::new();
    let mut written = 0;
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        // Two nodes that write the same results in two orders would wait for each other.
        batch.sort_unstable_by_key(|(known, _)| *known);
        batch.dedup_by_key(|(known, _)| *known);
        let forgets = (written + batch.len()) / FORGET_EVERY > written / FORGET_EVERY;
        written += batch.len();
        let mut unit = Unit::new();
        for (known, result) in batch.drain(..) {
            unit.add(&PUBLISH, [known.to_vec().into(), result.into()]);
        }
        if forgets {
            unit.add(&FORGET, [RESULTS_MAX.into()]);
        }
        if let Err(error) = store.commit(unit).await {
            tracing::warn!(%error, "results are not known to the other partitions");
        }
        clock.sleep(LINGER).await;
    }
}

#[cfg(test)]
mod tests {
    use celesta_runtime::Shutdown;
    use celesta_store::StoreOptions;
    use celesta_store::testing::TestDatabase;

    use super::*;

    async fn open(database: &TestDatabase) -> (Store, TaskSet) {
        let tasks = TaskSet::new(Shutdown::new());
        let place = StoreOptions::postgres(database.url()).in_schema("celesta");
        let store = Store::open(&place, SHARED_MIGRATIONS, &Clock::system(), &tasks).await;
        (store.expect("a store"), tasks)
    }

    async fn known(results: &SharedResults, known: [u8; 32]) -> Vec<u8> {
        loop {
            if let Some(result) = results.find(std::iter::once(known)).await.remove(&known) {
                return result;
            }
        }
    }

    #[tokio::test]
    async fn the_first_result_stays_until_it_is_among_the_oldest() {
        let database = TestDatabase::create().await;
        let (store, tasks) = open(&database).await;
        let results = SharedResults::start(store.clone(), &Clock::system(), &tasks);
        for number in 0..5 {
            results.publish([number; 32], vec![number]);
            assert_eq!(known(&results, [number; 32]).await, [number]);
        }
        results.publish([0; 32], vec![9]);
        results.publish([5; 32], vec![5]);
        assert_eq!(known(&results, [5; 32]).await, [5]);
        assert_eq!(known(&results, [0; 32]).await, [0]);
        results.publish([6; 32], vec![0; INLINE_JSON_MAX + 1]);

        let mut unit = Unit::new();
        unit.add(&FORGET, [3.into()]);
        store.commit(unit).await.expect("it is kept");
        let found = results.find((0..7).map(|number| [number; 32])).await;
        let mut found: Vec<u8> = found.into_keys().map(|known| known[0]).collect();
        found.sort_unstable();
        assert_eq!(found, [4, 5], "places are used up by what was known, too");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_table_that_does_not_answer_is_a_miss_and_left_alone_for_a_while() {
        let database = TestDatabase::create().await;
        let (store, tasks) = open(&database).await;
        let clock = Clock::system();
        let results = SharedResults::start(store.clone(), &clock, &tasks);
        results.publish([1; 32], vec![1]);
        assert_eq!(known(&results, [1; 32]).await, [1]);
        let (other, _others) = open(&database).await;
        let held = "DO $$ BEGIN LOCK TABLE shared_results; PERFORM pg_sleep(8); END $$";
        let asking = async {
            let locked = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted \
                          AND relation = 'shared_results'::regclass";
            while store.fetch(locked, &[]).await.expect("it answers").is_empty() {}
            let begun = clock.monotonic();
            assert!(results.find(std::iter::once([1; 32])).await.is_empty());
            let waited = clock.monotonic() - begun;
            assert!(waited >= PATIENCE && waited < 6 * PATIENCE, "{waited:?}");
            assert!(results.find(std::iter::once([1; 32])).await.is_empty());
            let again = clock.monotonic() - begun - waited;
            assert!(again < PATIENCE / 2, "nothing is asked meanwhile: {again:?}");
        };
        tokio::select! {
            over = other.fetch(held, &[]) => panic!("it is held longer: {over:?}"),
            () = asking => {}
        }
    }
}
