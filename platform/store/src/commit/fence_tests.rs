//! Stores in schemas of one database, and what a later owner does to an earlier one. On real PostgreSQL.

use celesta_runtime::{Clock, Shutdown, TaskSet};

use super::{Store, StoreOptions};
use crate::error::{CommitError, OpenError};
use crate::migrate::Migration;
use crate::statement::{Expect, Statement};
use crate::testing::TestDatabase;
use crate::unit::{Cell, Unit};

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
    sql: "",
    postgres: "CREATE TABLE t (k BIGINT PRIMARY KEY)",
};

async fn open(database: &TestDatabase, schema: &str, epoch: i64) -> Result<Store, OpenError> {
    let options = StoreOptions::postgres(database.url())
        .in_schema(schema)
        .fenced(epoch);
    let tasks = TaskSet::new(Shutdown::new());
    Store::open(&options, &[TABLE], &Clock::system(), &tasks).await
}

async fn insert(store: &Store, key: i64) -> Result<(), CommitError> {
    let mut unit = Unit::new();
    unit.add(&INSERT, [Cell::Int(key)]);
    store.commit(unit).await
}

async fn keys(store: &Store) -> Vec<i64> {
    let rows = store
        .fetch("SELECT k FROM t ORDER BY k", &[])
        .await
        .expect("it answers");
    rows.iter().filter_map(|row| row.int(0)).collect()
}

#[tokio::test]
async fn an_earlier_owner_changes_nothing_and_is_told() {
    let database = TestDatabase::create().await;
    let first = open(&database, "part", 1).await.expect("it opens");
    insert(&first, 1).await.expect("it is the owner");
    let second = open(&database, "part", 2).await.expect("it opens");
    assert_eq!(insert(&first, 2).await, Err(CommitError::Fenced));
    first.fenced().await;
    // Not even asked any more.
    assert_eq!(insert(&first, 3).await, Err(CommitError::Fenced));
    insert(&second, 4).await.expect("it is the owner");
    assert_eq!(keys(&second).await, [1, 4]);
    let late = open(&database, "part", 1).await;
    assert!(matches!(late, Err(OpenError::Fenced { epoch: 1 })), "{late:?}");
}

/// A group that conflicts is executed again unit by unit; that way has the same fence.
#[tokio::test]
async fn units_one_by_one_are_fenced_too() {
    let database = TestDatabase::create().await;
    let first = open(&database, "part", 1).await.expect("it opens");
    insert(&first, 1).await.expect("it is the owner");
    let (a, b) = tokio::join!(insert(&first, 1), insert(&first, 2));
    assert!(matches!(a, Err(CommitError::Conflict { .. })), "{a:?}");
    b.expect("it has nothing to do with the other");
    let second = open(&database, "part", 2).await.expect("it opens");
    let (a, b) = tokio::join!(insert(&first, 1), insert(&first, 3));
    assert_eq!((a, b), (Err(CommitError::Fenced), Err(CommitError::Fenced)));
    assert_eq!(keys(&second).await, [1, 2]);
}

/// The new owner waits for the commit under way: what it reads is all there will ever be.
#[tokio::test]
async fn nothing_is_committed_behind_the_back_of_a_new_owner() {
    let database = TestDatabase::create().await;
    let mut owner = open(&database, "part", 1).await.expect("it opens");
    let mut next = 0;
    for epoch in 2..12 {
        let writing: Vec<_> = (next..next + 40).map(|key| insert(&owner, key)).collect();
        next += 40;
        let (written, taken) = tokio::join!(
            futures_util::future::join_all(writing),
            open(&database, "part", epoch)
        );
        let taken = taken.expect("it opens");
        let seen = keys(&taken).await;
        let stood = written.iter().filter(|outcome| outcome.is_ok()).count();
        let before = usize::try_from(next - 40).unwrap_or(0);
        let seen_of_these = seen.iter().filter(|key| **key >= next - 40).count();
        assert_eq!(
            seen_of_these, stood,
            "epoch {epoch}: what was acknowledged is what is there"
        );
        assert!(seen.len() <= before + 40);
        owner = taken;
    }
}

#[tokio::test]
async fn schemas_do_not_see_each_other() {
    let database = TestDatabase::create().await;
    let (one, two) = tokio::join!(open(&database, "one", 1), open(&database, "two", 1));
    let (one, two) = (one.expect("it opens"), two.expect("it opens"));
    insert(&one, 1).await.expect("it is the owner");
    insert(&two, 1).await.expect("another table");
    assert_eq!((keys(&one).await, keys(&two).await), (vec![1], vec![1]));
}
