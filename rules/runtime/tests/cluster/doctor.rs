//! A sound deployment has no violation, also while its nodes work; each kind of damage to what they share is found.

use std::collections::BTreeMap;

use celesta_artifacts::Artifacts;
use celesta_runs::invariants::{Blobs, Findings, Invariant, Looks, Tables, check_deployment};
use celesta_runs::{CLUSTER_MIGRATIONS, MAIN_SCHEMA, MIGRATIONS};
use celesta_runtime::{Clock, Shutdown, TaskSet};
use celesta_store::testing::TestDatabase;
use celesta_store::{Cell, Expect, Snapshot, Statement, Store, StoreOptions, Unit};
use celesta_types::{Partition, RunId};

use crate::bed::{Node, submit};

const COUNT: u32 = 2;

async fn look(database: &TestDatabase, artifacts: Option<&Artifacts>) -> Findings {
    look_at(database, &[], artifacts).await
}

/// The same with other databases by name.
pub(crate) async fn look_at(
    database: &TestDatabase,
    others: &[(&str, &TestDatabase)],
    artifacts: Option<&Artifacts>,
) -> Findings {
    let snapshot = async |database: &TestDatabase| {
        let taken = Snapshot::of_database(&database.url()).await;
        taken.expect("a database")
    };
    let mut looks = Looks {
        main: snapshot(database).await,
        named: BTreeMap::new(),
        versions: Some(snapshot(database).await),
    };
    for (name, other) in others {
        looks.named.insert((*name).to_owned(), snapshot(other).await);
    }
    let shared = [MIGRATIONS, CLUSTER_MIGRATIONS].concat();
    let partition = [celesta_queue::OWNED_MIGRATIONS, MIGRATIONS].concat();
    let tables = Tables {
        shared: &shared,
        partition: &partition,
    };
    let blobs = artifacts.map(|artifacts| Blobs {
        artifacts,
        hash: true,
    });
    let checked = check_deployment(&mut looks, tables, blobs).await;
    checked.expect("the database answers")
}

/// Does `sql` to the schema, once with `cell`.
pub(crate) async fn write(
    database: &TestDatabase,
    schema: &str,
    head: &'static str,
    tail: &'static str,
    cell: Cell,
) {
    let tasks = TaskSet::new(Shutdown::new());
    let options = StoreOptions::postgres(database.url())
        .in_schema(schema)
        .sessions(1)
        .as_found();
    let store = Store::open(&options, &[], &Clock::system(), &tasks)
        .await
        .expect("the store opens");
    let statement: &'static Statement = Box::leak(Box::new(Statement {
        name: "test.damage",
        rank: 10,
        head,
        row: "(?)",
        tail,
        cells: 1,
        expect: Expect::Any,
    }));
    let mut unit = Unit::new();
    unit.add(statement, [cell]);
    store.commit(unit).await.expect("the damage is done");
    tasks.shutdown().request();
}

/// Where, what is done, what takes it back, what is found, and words of the finding.
type Case = (
    &'static str,
    [&'static str; 2],
    [&'static str; 2],
    Cell,
    Invariant,
    &'static str,
);

#[rustfmt::skip]
fn cases(run: RunId, key: &str) -> Vec<Case> {
    let id = || Cell::Id(run.to_bytes());
    vec![
        (MAIN_SCHEMA, ["UPDATE cluster_partitions SET epoch = epoch - (SELECT v.column1 FROM (VALUES ", ") AS v)"],
            ["UPDATE cluster_partitions SET epoch = epoch + (SELECT v.column1 FROM (VALUES ", ") AS v)"],
            Cell::Int(1), Invariant::Partition, "its fence has the epoch"),
        (MAIN_SCHEMA, ["UPDATE cluster_settings SET value = value + (SELECT v.column1 FROM (VALUES ", ") AS v)"],
            ["UPDATE cluster_settings SET value = value - (SELECT v.column1 FROM (VALUES ", ") AS v)"],
            Cell::Int(1), Invariant::Partition, "3 are settled"),
        (MAIN_SCHEMA, ["INSERT INTO cluster_mail (partition, run, payload) SELECT 7, v.column1, '\\x01' FROM (VALUES ", ") AS v"],
            ["DELETE FROM cluster_mail WHERE run IN (VALUES ", ")"],
            id(), Invariant::Mail, "where its run is not"),
        (MAIN_SCHEMA, ["INSERT INTO cluster_mail (partition, run, payload) SELECT 0, v.column1, '\\x' FROM (VALUES ", ") AS v"],
            ["DELETE FROM cluster_mail WHERE run IN (VALUES ", ")"],
            id(), Invariant::Mail, "cannot be read"),
        (MAIN_SCHEMA, ["UPDATE cluster_bundles SET packed = substr(packed, (SELECT v.column1 FROM (VALUES ", ") AS v)::int)"],
            ["UPDATE cluster_bundles SET packed = substring('\\x1f'::bytea || packed, (SELECT v.column1 - 1 FROM (VALUES ", ") AS v)::int)"],
            Cell::Int(2), Invariant::VersionUnreadable, ""),
        (MAIN_SCHEMA, ["UPDATE releases SET number = number + (SELECT v.column1 FROM (VALUES ", ") AS v)"],
            ["UPDATE releases SET number = number - (SELECT v.column1 FROM (VALUES ", ") AS v)"],
            Cell::Int(1), Invariant::Release, "release 1 is missing"),
        ("celesta_p0", ["UPDATE runs SET state = state + 70 WHERE id IN (VALUES ", ")"],
            ["UPDATE runs SET state = state - 70 WHERE id IN (VALUES ", ")"],
            id(), Invariant::RunRow, "no release writes"),
        ("celesta_p0", ["UPDATE journal SET seq = seq + 10 WHERE run IN (VALUES ", ")"],
            ["UPDATE journal SET seq = seq - 10 WHERE run IN (VALUES ", ")"],
            id(), Invariant::JournalGap, "follows turn 0"),
        ("celesta_p0", ["UPDATE queue_queues SET id = id + (SELECT v.column1 FROM (VALUES ", ") AS v)"],
            ["UPDATE queue_queues SET id = id - (SELECT v.column1 FROM (VALUES ", ") AS v)"],
            Cell::Int(1_000), Invariant::MessageRow, "does not exist"),
        ("celesta_p1", ["INSERT INTO interests SELECT 5, v.column1 FROM (VALUES ", ") AS v"],
            ["DELETE FROM interests WHERE run IN (VALUES ", ")"],
            id(), Invariant::Interest, "does not exist"),
        ("celesta_p1", ["INSERT INTO archived SELECT v.column1, '\\x00', 0, 9 FROM (VALUES ", ") AS v"],
            ["DELETE FROM archived WHERE run IN (VALUES ", ")"],
            id(), Invariant::Partition, "belongs into 0"),
        ("celesta_p1", ["INSERT INTO idempotency SELECT 'bench', v.column1, '00000000-0000-0000-0000-000000000000', '\\x', 5 FROM (VALUES ", ") AS v"],
            ["DELETE FROM idempotency WHERE key IN (VALUES ", ")"],
            key.into(), Invariant::Partition, "belongs into 0"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_deployment_has_no_violation_and_every_damage_is_found() {
    let database = TestDatabase::create().await;
    let node = Node::start(&database, "a", COUNT).await;
    node.push().await;
    let mut runs = Vec::new();
    for member in node.partitions.members() {
        for total in [1, 0] {
            runs.push(submit(&member.runtime, total, None).await.expect("accepted"));
        }
        crate::bed::serve_one(&member).await;
        for total in [2, 3] {
            runs.push(submit(&member.runtime, total, None).await.expect("accepted"));
        }
    }
    // Whatever is under way at this instant is sound.
    for _ in 0..5 {
        let findings = look(&database, None).await;
        assert!(findings.is_sound(), "{findings:#?}");
    }
    node.leave().await;
    let artifacts = tempfile::tempdir().expect("a temporary folder");
    let artifacts = Artifacts::reading(artifacts.path());
    let findings = look(&database, Some(&artifacts)).await;
    assert!(findings.is_sound(), "{findings:#?}");
    assert_eq!(findings.runs, 8);
    assert!(findings.records > 8 && findings.messages > 0, "{findings:?}");

    let first = runs[0];
    assert_eq!(Partition::of_run(first, COUNT).index, 0);
    let keys = (0..).map(|number| format!("key {number}"));
    let key = { keys }.find(|key| Partition::of_key("bench", key, COUNT).index == 0);
    let key = key.expect("half of them are there");
    for (schema, harm, mend, cell, invariant, words) in cases(first, &key) {
        write(&database, schema, harm[0], harm[1], cell.clone()).await;
        let findings = look(&database, None).await;
        let found = findings
            .violations
            .iter()
            .any(|found| found.invariant == invariant && found.found.contains(words));
        assert!(found, "{} is not found: {findings:#?}", harm[0]);
        write(&database, schema, mend[0], mend[1], cell).await;
    }
    let findings = look(&database, None).await;
    assert!(findings.is_sound(), "everything was mended: {findings:#?}");
}
