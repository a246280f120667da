use celesta_runtime::{Clock, Shutdown, TaskSet};

use super::*;
use crate::testing::TestDatabase;
use crate::{Cell, CommitError, Expect, Statement, Store, StoreOptions, Unit};

const SCHEMA: &str = "kept";

const NUMBERS: &[Migration] = &[Migration {
    subsystem: "numbers",
    version: 1,
    sql: "",
    postgres: "
CREATE TABLE numbers (n BIGINT PRIMARY KEY, half BIGINT GENERATED ALWAYS AS (n / 2) STORED,
    place BIGINT GENERATED ALWAYS AS IDENTITY, blob BYTEA, word TEXT);
CREATE TABLE settled (one BIGINT PRIMARY KEY);
INSERT INTO settled VALUES (1);
",
}];

static INSERT: Statement = Statement {
    name: "numbers.insert",
    rank: 10,
    head: "INSERT INTO numbers (n, blob) VALUES ",
    row: "(?, ?)",
    tail: "",
    cells: 2,
    expect: Expect::Each,
};

async fn open(database: &TestDatabase, epoch: i64, tasks: &TaskSet) -> Result<Store, OpenError> {
    let options = StoreOptions::postgres(database.url())
        .in_schema(SCHEMA)
        .fenced(epoch);
    Store::open(&options, NUMBERS, &Clock::system(), tasks).await
}

async fn add(store: &Store, n: i64) -> Result<(), CommitError> {
    let mut unit = Unit::new();
    unit.add(&INSERT, [Cell::Int(n), vec![0, 1, 255].into()]);
    store.commit(unit).await
}

fn site(database: &TestDatabase) -> Site {
    Site::new(&database.url(), SCHEMA).expect("a URL")
}

/// Number, place and half of each row.
async fn rows(store: &Store) -> Vec<[Option<i64>; 3]> {
    let sql = "SELECT n, place, half FROM numbers WHERE blob = '\\x0001ff' AND word IS NULL ORDER BY n";
    let rows = store.fetch(sql, &[]).await.expect("the store answers");
    rows.iter()
        .map(|row| [row.int(0), row.int(1), row.int(2)])
        .collect()
}

#[tokio::test]
async fn a_store_goes_elsewhere_and_comes_back_whole() {
    let (here, there) = (TestDatabase::create().await, TestDatabase::create().await);
    let tasks = TaskSet::new(Shutdown::new());
    let before = open(&here, 1, &tasks).await.expect("a new store");
    for n in [10, 20] {
        add(&before, n).await.expect("durable");
    }
    let copied = site(&here).copy_to(&site(&there), 2, NUMBERS, "SELECT 1").await;
    let copied = copied.expect("both answer");
    assert_eq!((copied.tables, copied.rows), (2, 3));
    // The fence stands at the source already.
    assert_eq!(add(&before, 30).await, Err(CommitError::Fenced));
    // Whoever ended in between begins again, and an earlier one does not any more.
    let again = site(&here).copy_to(&site(&there), 3, NUMBERS, "SELECT 1").await;
    assert_eq!(again.expect("both answer"), copied);
    let late = site(&here).copy_to(&site(&there), 2, NUMBERS, "SELECT 1").await;
    assert!(matches!(late, Err(RelocateError::Fenced)), "{late:?}");

    site(&here).bury(3, false).await.expect("the source answers");
    let moved = open(&there, 3, &tasks).await.expect("it is there");
    let whole = [[Some(10), Some(1), Some(5)], [Some(20), Some(2), Some(10)]];
    assert_eq!(rows(&moved).await, whole);
    add(&moved, 30).await.expect("durable");
    assert_eq!(
        rows(&moved).await[2],
        [Some(30), Some(3), Some(15)],
        "identities go on"
    );
    // Nobody makes an empty one where it was, with whatever epoch.
    for epoch in [1, 3, 1_000] {
        let opened = open(&here, epoch, &tasks).await;
        assert!(matches!(opened, Err(OpenError::Fenced { .. })), "{opened:?}");
    }
    assert_eq!(add(&before, 40).await, Err(CommitError::Fenced));

    // A grave is opened for a later owner alone.
    let late = site(&there).copy_to(&site(&here), 3, NUMBERS, "SELECT 1").await;
    assert!(matches!(late, Err(RelocateError::Fenced)), "{late:?}");
    let back = site(&there).copy_to(&site(&here), 4, NUMBERS, "SELECT 1").await;
    assert_eq!(back.expect("both answer").rows, 4);
    site(&there).bury(4, false).await.expect("the source answers");
    let home = open(&here, 4, &tasks).await.expect("it is back");
    assert_eq!(rows(&home).await.len(), 3);
    assert_eq!(add(&moved, 50).await, Err(CommitError::Fenced));
    tasks.shutdown().request();
}

#[tokio::test]
async fn what_a_later_owner_has_is_left_alone() {
    let database = TestDatabase::create().await;
    let tasks = TaskSet::new(Shutdown::new());
    site(&database).bury(7, false).await.expect("it answers");
    let store = open(&database, 5, &tasks)
        .await
        .expect("no grave where nothing was");
    add(&store, 1).await.expect("durable");
    site(&database).bury(4, true).await.expect("it answers");
    add(&store, 2).await.expect("its owner is later");
    site(&database).bury(5, true).await.expect("it answers");
    assert_eq!(add(&store, 3).await, Err(CommitError::Fenced));
    let remains = site(&database).database.repeat(&mut Remains(SCHEMA)).await;
    assert_eq!(remains.expect("it answers").len(), 1);
    site(&database).clear().await.expect("it answers");
    let remains = site(&database).database.repeat(&mut Remains(SCHEMA)).await;
    assert_eq!(remains.expect("it answers"), [""; 0]);
    tasks.shutdown().request();
}

#[tokio::test]
async fn who_has_waited_for_a_fence_asks_again_whose_it_is() {
    let database = TestDatabase::create().await;
    let place = site(&database);
    place.make_room(3).await.expect("it answers");
    let mut first = place.database.connect().await.expect("it answers");
    let mut late = place.database.connect().await.expect("it answers");
    for connection in [&mut first, &mut late] {
        control(connection, "BEGIN").await.expect("it answers");
    }
    let mut making = MakeRoom {
        schema: SCHEMA,
        epoch: 5,
    };
    making.run(&mut first).await.expect("nobody is in the way");
    let mut making = MakeRoom {
        schema: SCHEMA,
        epoch: 4,
    };
    let mut waiting = std::pin::pin!(making.run(&mut late));
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), &mut waiting).await;
    assert!(waited.is_err(), "the fence is held: {waited:?}");
    control(&mut first, "COMMIT").await.expect("it answers");
    let late = waiting.await;
    assert!(matches!(late, Err(Fault::Fenced)), "{late:?}");
}

#[tokio::test]
async fn a_transaction_that_nobody_ends_keeps_no_heir_out() {
    let database = TestDatabase::create().await;
    let tasks = TaskSet::new(Shutdown::new());
    drop(open(&database, 3, &tasks).await.expect("a new store"));
    let place = site(&database);
    let mut frozen = place.database.connect().await.expect("it answers");
    control(&mut frozen, "BEGIN").await.expect("it answers");
    fence::check(&mut frozen, Some(3)).await.expect("its own");
    open(&database, 4, &tasks)
        .await
        .expect("the heir waits for a while");
    let late = fence::check(&mut frozen, Some(4)).await;
    assert!(late.is_err(), "the server has ended the session: {late:?}");
    tasks.shutdown().request();
}
