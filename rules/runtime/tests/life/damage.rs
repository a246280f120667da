//! A sound store has no violation; each kind of damage, made on purpose in a real file, is found and named.

use std::path::Path;

use celesta_artifacts::Artifacts;
use celesta_runs::invariants::{Blobs, Findings, Invariant, check};
use celesta_runs::{RunState, Wish};
use celesta_runtime::{Clock, Shutdown, TaskSet};
use celesta_store::{Cell, Expect, Snapshot, Statement, Store, StoreOptions, Unit};
use celesta_types::{ErrorClass, RunId};

use super::bed::{files, migrations, node};
use super::line::line;

/// Runs of every kind, and what is needed to damage them.
struct Patient {
    done: RunId,
    waiting: RunId,
    failed: RunId,
}

/// A store with runs that are finished, waiting, failed, put aside and paused.
async fn patient(folder: &Path) -> Patient {
    let node = node(folder).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let done = node
        .submit("count", r#"{"total":2}"#, Some("a key"))
        .await
        .expect("accepted");
    node.serve(2).await;
    node.ended(done).await;
    let failed = node
        .submit("failing", r#"{"name":"x"}"#, None)
        .await
        .expect("accepted");
    let leased = node.lease(1).await;
    node.answer(&leased[0], Some((ErrorClass::User, "no")));
    node.ended(failed).await;
    let aside = node.submit("cycle", "{}", None).await.expect("accepted");
    node.ended(aside).await;
    let paused = node
        .submit("count", r#"{"total":1}"#, None)
        .await
        .expect("accepted");
    node.runtime
        .pause(paused, &Wish::anonymous("wait"))
        .await
        .expect("it runs");
    node.until(paused, RunState::Paused).await;
    let waiting = node
        .submit("count", r#"{"total":9}"#, None)
        .await
        .expect("accepted");
    // One is of the paused run, whose result waits.
    node.serve(3).await;
    node.stop().await;
    Patient {
        done,
        waiting,
        failed,
    }
}

async fn look(folder: &Path) -> Findings {
    let mut snapshot = Snapshot::open(&folder.join("celesta.db"), &migrations())
        .await
        .expect("a store");
    let artifacts = Artifacts::reading(folder.join("artifacts"));
    let blobs = Blobs {
        artifacts: &artifacts,
        hash: true,
    };
    check(&mut snapshot, blobs).await.expect("the file reads")
}

/// Does `sql` to the file, once with `cell`.
async fn damage(folder: &Path, head: &'static str, tail: &'static str, cell: Cell) {
    let tasks = TaskSet::new(Shutdown::new());
    let options = StoreOptions::at(folder.join("celesta.db"));
    let store = Store::open(&options, &migrations(), &Clock::system(), &tasks)
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
    drop(store);
    assert!(
        tasks.stop(std::time::Duration::from_secs(20)).await,
        "everything ends"
    );
}

/// One kind of damage: what is done to whom, what is found, and words of the finding.
type Case = (&'static str, &'static str, Cell, Invariant, &'static str);

fn cases(patient: &Patient) -> Vec<Case> {
    let id = |run: RunId| Cell::Id(run.to_bytes());
    let nobody = || id(RunId::from_bits(7));
    vec![
        (
            "UPDATE runs SET state = 77 WHERE id IN (VALUES ",
            ")",
            id(patient.done),
            Invariant::RunRow,
            "no release writes",
        ),
        (
            "UPDATE runs SET state = 3 WHERE id IN (VALUES ",
            ")",
            id(patient.done),
            Invariant::State,
            "its row says failed, its journal completed",
        ),
        (
            "UPDATE runs SET ended_at = NULL WHERE id IN (VALUES ",
            ")",
            id(patient.failed),
            Invariant::State,
            "without an end",
        ),
        (
            "DELETE FROM journal WHERE seq = 2 AND run IN (VALUES ",
            ")",
            id(patient.done),
            Invariant::JournalGap,
            "turn 3 follows turn 1",
        ),
        (
            "UPDATE journal SET record = substr(record, 1, 9) WHERE seq = 2 AND run IN (VALUES ",
            ")",
            id(patient.done),
            Invariant::Record,
            "damaged at byte",
        ),
        (
            "INSERT INTO snapshots SELECT v.column1, 99, x'0102' FROM (VALUES ",
            ") AS v",
            id(patient.waiting),
            Invariant::Snapshot,
            "its snapshot is of turn 99",
        ),
        (
            "INSERT INTO snapshots SELECT v.column1, 1, x'0102' FROM (VALUES ",
            ") AS v",
            id(patient.waiting),
            Invariant::Snapshot,
            "",
        ),
        (
            "DELETE FROM runs WHERE id IN (VALUES ",
            ")",
            id(patient.done),
            Invariant::JournalOrphan,
            "does not exist",
        ),
        (
            "DELETE FROM runs WHERE id IN (VALUES ",
            ")",
            id(patient.done),
            Invariant::IdempotencyOrphan,
            "does not exist",
        ),
        (
            "DELETE FROM runs WHERE id IN (VALUES ",
            ")",
            id(patient.waiting),
            Invariant::MessageOrphan,
            "does not exist",
        ),
        (
            "DELETE FROM queue_rows WHERE seq > (VALUES ",
            ")",
            Cell::Int(0),
            Invariant::Stuck,
            "of which there is no message",
        ),
        (
            "UPDATE queue_rows SET head = CAST(x'09' || head AS BLOB) WHERE seq > (VALUES ",
            ")",
            Cell::Int(0),
            Invariant::MessageRow,
            "the head of a message",
        ),
        (
            "DELETE FROM queue_queues WHERE id > (VALUES ",
            ")",
            Cell::Int(0),
            Invariant::MessageRow,
            "does not exist",
        ),
        (
            "UPDATE runs SET parent_call = '1.0', parent = (VALUES ",
            ")",
            nobody(),
            Invariant::ChildOrphan,
            "does not exist",
        ),
        (
            "DELETE FROM versions WHERE length(digest) > (VALUES ",
            ")",
            Cell::Int(1),
            Invariant::VersionMissing,
            "does not exist",
        ),
        (
            "UPDATE versions SET artifact = zeroblob(v.column1) FROM (VALUES ",
            ") AS v",
            Cell::Int(32),
            Invariant::ArtifactMissing,
            "is named by version",
        ),
        (
            "UPDATE runs SET input = CAST('{\"a\":{\"$artifact\":\"sha256:' || hex(zeroblob(v.column1)) || '\"}}' AS BLOB) FROM (VALUES ",
            ") AS v",
            Cell::Int(32),
            Invariant::ArtifactMissing,
            "the request of run_",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_store_has_no_violation_and_every_damage_is_found() {
    let healthy = tempfile::tempdir().expect("a temporary folder");
    let patient = patient(healthy.path()).await;
    let findings = look(healthy.path()).await;
    assert!(findings.is_sound(), "{findings:?}");
    assert_eq!(findings.runs, 5);
    assert!(
        findings.records > 5 && findings.messages > 0 && findings.artifacts == 1,
        "{findings:?}"
    );
    for (head, tail, cell, invariant, words) in cases(&patient) {
        let sick = tempfile::tempdir().expect("a temporary folder");
        copy(healthy.path(), sick.path());
        damage(sick.path(), head, tail, cell).await;
        let findings = look(sick.path()).await;
        let found = findings
            .violations
            .iter()
            .any(|found| found.invariant == invariant && found.found.contains(words));
        assert!(found, "{head} is not found: {findings:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_artifact_and_a_broken_file_are_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    patient(folder.path()).await;
    let blob = blobs(&folder.path().join("artifacts")).pop().expect("the bundle");
    let mut content = std::fs::read(&blob).expect("readable");
    content[20] ^= 1;
    std::fs::remove_file(&blob).expect("removable");
    std::fs::write(&blob, content).expect("writable");
    let findings = look(folder.path()).await;
    let kinds: Vec<_> = findings.violations.iter().map(|found| found.invariant).collect();
    assert!(kinds.contains(&Invariant::ArtifactDigest), "{findings:#?}");
    assert!(kinds.contains(&Invariant::VersionUnreadable), "{findings:#?}");

    let file = folder.path().join("celesta.db");
    let mut bytes = std::fs::read(&file).expect("readable");
    // The number of cells of a page in the middle of the file.
    let page = bytes.len() / 4_096 / 2 * 4_096;
    bytes[page + 3..page + 5].copy_from_slice(&[0x7f, 0xff]);
    std::fs::write(&file, bytes).expect("writable");
    let findings = look(folder.path()).await;
    assert_eq!(findings.violations[0].invariant, Invariant::File, "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_runs_under_way_than_their_group_may_have_are_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime.push("line", line()).await.expect("a good bundle");
    let mut runs = Vec::new();
    for name in ["a", "b", "c"] {
        runs.push(node.ask("limited", &format!(r#"{{"name":"{name}"}}"#)).await);
    }
    node.until(runs[1], RunState::Running).await;
    node.until(runs[2], RunState::Waiting).await;
    node.stop().await;
    let findings = look(folder.path()).await;
    assert!(findings.is_sound(), "{findings:?}");
    let running = "UPDATE runs SET state = (SELECT state FROM runs ORDER BY id LIMIT 1) WHERE id IN (VALUES ";
    damage(folder.path(), running, ")", Cell::Id(runs[2].to_bytes())).await;
    let findings = look(folder.path()).await;
    let mut found = findings.violations.iter();
    let group = found.find(|found| found.invariant == Invariant::Group);
    let group = group.map(|found| found.found.as_str());
    assert_eq!(group, Some("3 runs are under way, and 2 may be"), "{findings:#?}");
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).expect("a new folder");
            copy(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), target) {
            // SQLite removes its side files when the last of its connections is closed, which may be now.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

/// The files below `folder` whose names are digests.
fn blobs(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            found.extend(blobs(&entry.path()));
        } else if entry.file_name().len() == 64 {
            found.push(entry.path());
        }
    }
    found
}
