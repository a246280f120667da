//! The committer against real SQLite files.

use super::*;
use crate::statement::{Expect, Statement};
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
const TABLE: Migration = Migration {
    subsystem: "test",
    version: 1,
    sql: "CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER) STRICT",
};

async fn open(folder: &tempfile::TempDir) -> (Store, TaskSet) {
    let tasks = TaskSet::new(Shutdown::new());
    let options = StoreOptions::at(folder.path().join("test.db"));
    let store = Store::open(&options, &[TABLE], &Clock::system(), &tasks)
        .await
        .expect("a new store opens");
    (store, tasks)
}

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

#[tokio::test]
async fn a_thousand_units_become_durable_and_survive_reopening() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, tasks) = open(&folder).await;
    let commits: Vec<_> = (0..1_000).map(|key| store.commit(insert(key))).collect();
    for commit in futures_util::future::join_all(commits).await {
        commit.expect("distinct keys do not conflict");
    }
    drop(store);
    assert!(tasks.stop(Duration::from_secs(20)).await);
    let (store, _tasks) = open(&folder).await;
    assert_eq!(count(&store).await, 1_000);
}

#[tokio::test]
async fn a_conflict_fails_its_own_unit_whole_and_no_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, _tasks) = open(&folder).await;
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

#[tokio::test]
async fn an_update_or_delete_that_finds_nothing_is_a_conflict() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, _tasks) = open(&folder).await;
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

#[tokio::test]
async fn insert_update_and_delete_of_one_key_work_in_one_group() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, _tasks) = open(&folder).await;
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

#[tokio::test]
async fn a_store_of_a_later_release_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, tasks) = open(&folder).await;
    drop(store);
    assert!(tasks.stop(Duration::from_secs(20)).await);
    let options = StoreOptions::at(folder.path().join("test.db"));
    let again = Store::open(&options, &[], &Clock::system(), &TaskSet::new(Shutdown::new())).await;
    assert!(
        matches!(again, Err(OpenError::Unknown { version: 1, .. })),
        "{again:?}"
    );
}
