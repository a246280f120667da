//! The committer against real SQLite files and real PostgreSQL databases: the same tests on both.

use super::*;
use crate::postgres::Heard;
use crate::statement::{Expect, Statement};
use crate::testing::TestDatabase;
use celesta_runtime::Shutdown;

static INSERT: Statement = Statement {
    name: "test.insert",
    rank: 10,
    head: "INSERT INTO t (k, v) VALUES ",
    row: "(?, ?)",
    tail: "",
    cells: 2,
    expect: Expect::Each,
};
static UPDATE: Statement = Statement {
    name: "test.update",
    rank: 20,
    head: "UPDATE t SET v = v.column2 FROM (VALUES ",
    row: "(?, ?)",
    tail: ") AS v WHERE k = v.column1",
    cells: 2,
    expect: Expect::Each,
};
static DELETE: Statement = Statement {
    name: "test.delete",
    rank: 30,
    head: "DELETE FROM t WHERE k IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Each,
};
static UPSERT: Statement = Statement {
    name: "test.upsert",
    rank: 10,
    head: "INSERT INTO t (k, v) VALUES ",
    row: "(?, ?)",
    tail: " ON CONFLICT (k) DO UPDATE SET v = excluded.v",
    cells: 2,
    expect: Expect::Any,
};
const TABLE: Migration = Migration {
    subsystem: "test",
    version: 1,
    sql: "CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER) STRICT",
    postgres: "CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT)",
};

/// What a test runs on.
enum Ground {
    Sqlite(tempfile::TempDir),
    Postgres(TestDatabase),
}

impl Ground {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("a temporary folder"))
    }

    async fn postgres() -> Self {
        Self::Postgres(TestDatabase::create().await)
    }

    fn options(&self) -> StoreOptions {
        match self {
            Self::Sqlite(folder) => StoreOptions::at(folder.path().join("test.db")),
            Self::Postgres(database) => StoreOptions::postgres(database.url()),
        }
    }

    async fn open(&self) -> (Store, TaskSet) {
        let tasks = TaskSet::new(Shutdown::new());
        let store = Store::open(&self.options(), &[TABLE], &Clock::system(), &tasks)
            .await
            .expect("a new store opens");
        (store, tasks)
    }
}

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::Ground::sqlite()).await; })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::Ground::postgres().await).await; })*
        }
    };
}

on_both!(
    a_thousand_units_become_durable_and_survive_reopening,
    a_conflict_fails_its_own_unit_whole_and_no_other,
    an_update_or_delete_that_finds_nothing_is_a_conflict,
    insert_update_and_delete_of_one_key_work_in_one_group,
    an_upsert_takes_rows_of_one_key_in_order,
    a_store_of_a_later_release_is_refused,
);

fn insert(key: i64) -> Unit {
    let mut unit = Unit::new();
    unit.add(&INSERT, [key.into(), (key * 10).into()]);
    unit
}

async fn count(store: &Store) -> i64 {
    let rows = store
        .fetch("SELECT count(*) FROM t", &[])
        .await
        .expect("counting works");
    rows[0].int(0).expect("a count is an integer")
}

async fn a_thousand_units_become_durable_and_survive_reopening(ground: Ground) {
    let (store, tasks) = ground.open().await;
    let commits: Vec<_> = (0..1_000).map(|key| store.commit(insert(key))).collect();
    for commit in futures_util::future::join_all(commits).await {
        commit.expect("distinct keys do not conflict");
    }
    drop(store);
    assert!(tasks.stop(Duration::from_secs(20)).await);
    let (store, _tasks) = ground.open().await;
    assert_eq!(count(&store).await, 1_000);
}

#[tokio::test]
async fn a_new_log_is_long_and_what_was_committed_to_it_is_found_again() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
    let [log, left_behind] = [&first, &second].map(|folder| folder.path().join("test.db-wal"));
    let [first, second] = [first, second].map(Ground::Sqlite);
    let length = || std::fs::metadata(&log).expect("a log").len();
    let (store, _tasks) = first.open().await;
    assert_eq!(length(), 8 << 20);
    store.commit(insert(1)).await.expect("it fits");
    assert_eq!(length(), 8 << 20);
    // As a process that is killed leaves them.
    for name in ["test.db", "test.db-wal"] {
        std::fs::copy(log.with_file_name(name), left_behind.with_file_name(name)).expect("a copy");
    }
    let (store, _tasks) = second.open().await;
    assert_eq!(count(&store).await, 1);
}

async fn a_conflict_fails_its_own_unit_whole_and_no_other(ground: Ground) {
    let (store, _tasks) = ground.open().await;
    store.commit(insert(5)).await.expect("the first of a key stands");
    let mut torn = insert(100);
    torn.add(&INSERT, [5.into(), 0.into()]);
    let mut units = vec![insert(1), torn, insert(2)];
    let answers: Vec<_> = units.iter_mut().map(Store::watch).collect();
    for unit in units {
        store.submit(unit).await;
    }
    let outcomes = futures_util::future::join_all(answers.into_iter().map(Committed::wait)).await;
    assert_eq!(outcomes[0], Ok(()));
    assert!(
        matches!(
            outcomes[1],
            Err(CommitError::Conflict {
                statement: "test.insert",
                ..
            })
        ),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[2], Ok(()));
    assert_eq!(count(&store).await, 3, "nothing of the torn unit is there");
}

async fn an_update_or_delete_that_finds_nothing_is_a_conflict(ground: Ground) {
    let (store, _tasks) = ground.open().await;
    let mut stale = Unit::new();
    stale.add(&UPDATE, [7.into(), 1.into()]);
    assert!(matches!(
        store.commit(stale).await,
        Err(CommitError::Conflict {
            statement: "test.update",
            ..
        })
    ));
    let mut stale = Unit::new();
    stale.add(&DELETE, [7.into()]);
    assert!(matches!(
        store.commit(stale).await,
        Err(CommitError::Conflict {
            statement: "test.delete",
            ..
        })
    ));
}

async fn insert_update_and_delete_of_one_key_work_in_one_group(ground: Ground) {
    let (store, _tasks) = ground.open().await;
    let mut units: Vec<Unit> = vec![insert(1), Unit::new(), Unit::new(), Unit::new()];
    units[1].add(&UPDATE, [1.into(), 2.into()]);
    units[2].add(&UPDATE, [1.into(), 3.into()]);
    units[3].add(&DELETE, [1.into()]);
    let answers: Vec<_> = units.iter_mut().map(Store::watch).collect();
    for unit in units {
        store.submit(unit).await;
    }
    for answer in answers {
        assert_eq!(answer.wait().await, Ok(()));
    }
    assert_eq!(count(&store).await, 0);
}

async fn a_store_of_a_later_release_is_refused(ground: Ground) {
    let (store, tasks) = ground.open().await;
    drop(store);
    assert!(tasks.stop(Duration::from_secs(20)).await);
    let again = Store::open(
        &ground.options(),
        &[],
        &Clock::system(),
        &TaskSet::new(Shutdown::new()),
    )
    .await;
    assert!(
        matches!(again, Err(OpenError::Unknown { version: 1, .. })),
        "{again:?}"
    );
}

async fn an_upsert_takes_rows_of_one_key_in_order(ground: Ground) {
    let (store, _tasks) = ground.open().await;
    let mut units = vec![Unit::new(), Unit::new()];
    for (at, value) in [(0, 1), (0, 2), (1, 3), (1, 4)] {
        units[at].add(&UPSERT, [9.into(), value.into()]);
    }
    let answers: Vec<_> = units.iter_mut().map(Store::watch).collect();
    for unit in units {
        store.submit(unit).await;
    }
    for answer in answers {
        assert_eq!(answer.wait().await, Ok(()));
    }
    let rows = store
        .fetch("SELECT v FROM t WHERE k = ?", &[9.into()])
        .await
        .expect("reading works");
    assert_eq!(rows[0].int(0), Some(4));
}

/// Connections are ended again and again while units commit; what was acknowledged is there, once, and nothing else.
#[tokio::test]
async fn lost_connections_lose_and_double_nothing() {
    let database = TestDatabase::create().await;
    let ground = Ground::Postgres(database);
    let (store, _tasks) = ground.open().await;
    let Ground::Postgres(database) = &ground else {
        return;
    };
    let breaking = async {
        for _ in 0..20 {
            database.break_connections().await;
        }
    };
    // An insert that is executed twice conflicts with itself: the answer would be wrong.
    let committing = async {
        let mut next = 0;
        for _ in 0..200 {
            let commits: Vec<_> = (next..next + 5).map(|key| store.commit(insert(key))).collect();
            next += 5;
            for commit in futures_util::future::join_all(commits).await {
                commit.expect("tried again until it is durable");
            }
        }
    };
    tokio::join!(breaking, committing);
    assert_eq!(count(&store).await, 1_000);
}

#[tokio::test]
async fn what_one_node_says_another_hears() {
    let ground = Ground::postgres().await;
    let (store, _tasks) = ground.open().await;
    let database = store.database().expect("a store on PostgreSQL");
    let mut listener = database.listener("test_channel");
    assert_eq!(listener.heard().await, Heard::Gap);
    let texts = ["one".to_owned(), "two".to_owned()];
    database.notify("test_channel", &texts).await.expect("said");
    assert_eq!(listener.heard().await, Heard::Said("one".to_owned()));
    assert_eq!(listener.heard().await, Heard::Said("two".to_owned()));
}
