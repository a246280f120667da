//! A sound store has no violation; each kind of damage, made on purpose in a real file, is found and named.

use std::path::Path;
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_runs::invariants::{Blobs, Findings, Invariant, check};
use celesta_runs::{RunState, Wish};
use celesta_store::{Cell, Snapshot, StoreOptions};
use celesta_types::{ErrorClass, RunId};

use super::bed::{files, migrations, node};
use super::given;
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
    closed(folder).await;
    Patient {
        done,
        waiting,
        failed,
    }
}

/// Waits until the last connection has gone and what stood in the log is in the file.
async fn closed(folder: &Path) {
    let log = folder.join("celesta.db-wal");
    for _ in 0..1_000 {
        if !log.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the log is still there: a connection is open");
}

pub(crate) async fn look(folder: &Path) -> Findings {
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
pub(crate) async fn damage(folder: &Path, head: &'static str, tail: &'static str, cell: Cell) {
    let options = StoreOptions::at(folder.join("celesta.db"));
    given::damage(&options, &migrations(), head, tail, cell).await;
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

/// The same for what belongs to a service as a whole, and to what holds for many runs.
#[rustfmt::skip]
fn wider_cases(patient: &Patient) -> Vec<Case> {
    let id = |run: RunId| Cell::Id(run.to_bytes());
    let nobody = || id(RunId::from_bits(7));
    let text = |text: &str| Cell::from(text);
    vec![
        ("INSERT INTO shared_facts SELECT 'bench', 1, 1, 1, 'T', v.column1, 5 FROM (VALUES ", ") AS v",
            text("{"), Invariant::SharedFact, "cannot be read"),
        ("INSERT INTO shared_facts SELECT 'bench', n.r, 1, n.v, 'T', v.column1, 5 FROM (SELECT 1 AS r, 1 AS v \
          UNION SELECT 2, 3) AS n, (VALUES ", ") AS v",
            text("{}"), Invariant::SharedFact, "version 2 is missing"),
        ("INSERT INTO shared_facts SELECT 'bench', n.r, 1, n.v, 'T', v.column1, 5 FROM (SELECT 2 AS r, 1 AS v \
          UNION SELECT 1, 2) AS n, (VALUES ", ") AS v",
            text("{}"), Invariant::SharedFact, "not later than revision 2"),
        ("INSERT INTO shared_facts SELECT 'bench', n.r, 1, n.r, 'T', CASE n.r WHEN 2 THEN v.column1 END, 5 FROM \
          (SELECT 1 AS r UNION SELECT 2) AS n, (VALUES ", ") AS v",
            text("{}"), Invariant::SharedFact, "retracted"),
        ("INSERT INTO interests SELECT 5, v.column1 FROM (VALUES ", ") AS v",
            nobody(), Invariant::Interest, "does not exist"),
        ("INSERT INTO interest_shapes SELECT 'bench', v.column1 FROM (VALUES ", ") AS v",
            text("[]"), Invariant::Interest, "no type"),
        ("INSERT INTO sweeps (id, service, plan, state, hold, rate, created_at, updated_at) \
          SELECT zeroblob(16), 'bench', v.column1, 2, 0, 9, 5, 5 FROM (VALUES ", ") AS v",
            text("{}"), Invariant::Sweep, "no release writes"),
        ("INSERT INTO sweeps (id, service, plan, state, hold, rate, told, created_at, updated_at) \
          SELECT zeroblob(16), 'bench', v.column1, 2, 0, 9, 3, 5, 5 FROM (VALUES ", ") AS v",
            text(PLAN), Invariant::Sweep, "has told 3 runs, of which 0 moved"),
        ("INSERT INTO sweeps (id, service, plan, state, hold, rate, created_at, updated_at, ended_at) \
          SELECT zeroblob(16), 'bench', v.column1, 2, 0, 9, 5, 5, 5 FROM (VALUES ", ") AS v",
            text(PLAN), Invariant::Sweep, "do not agree"),
        ("INSERT INTO sweeps (id, service, plan, state, hold, rate, place, created_at, updated_at) \
          SELECT zeroblob(16), 'bench', v.column1, 2, 0, 9, CAST(x'0000000000000009' || zeroblob(16) AS BLOB), 5, 5 FROM (VALUES ", ") AS v",
            text(PLAN), Invariant::Sweep, "key 9 of 1"),
        ("INSERT INTO swept SELECT zeroblob(16), v.column1, 9 FROM (VALUES ", ") AS v",
            id(patient.done), Invariant::Sweep, "what became of it in a sweep is 9"),
        ("INSERT INTO places SELECT zeroblob(16), 0, 1, v.column1 FROM (VALUES ", ") AS v",
            Cell::Blob(vec![1]), Invariant::Gate, "cannot be read"),
        ("INSERT INTO orders SELECT 'bench', 'count', v.column1, '', '', '', 5 FROM (VALUES ", ") AS v",
            text("stop"), Invariant::Order, "the order `stop`"),
        ("INSERT INTO operations SELECT zeroblob(16), 0, v.column1, '{}', '', '', 1, NULL, 0, 0, 0, 5, 5, NULL FROM (VALUES ", ") AS v",
            text("7"), Invariant::Order, "no release writes"),
        ("INSERT INTO operations SELECT zeroblob(16), 2, v.column1, '{}', '', '', 1, NULL, 0, 0, 0, 5, 5, NULL FROM (VALUES ", ") AS v",
            text("\"cancel\""), Invariant::Order, "do not agree"),
        ("INSERT INTO operations SELECT zeroblob(16), 0, v.column1, '{}', '', '', 1, NULL, 3, 1, 1, 5, 5, NULL FROM (VALUES ", ") AS v",
            text("\"cancel\""), Invariant::Order, "has seen 3 runs"),
        ("UPDATE releases SET number = number + (VALUES ", ")",
            Cell::Int(1), Invariant::Release, "release 1 is missing"),
        ("UPDATE releases SET digest = zeroblob(v.column1) FROM (VALUES ", ") AS v",
            Cell::Int(32), Invariant::Release, "new runs follow another version"),
        ("INSERT INTO canaries SELECT 'nobody', zeroblob(32), v.column1, NULL, NULL, 5 FROM (VALUES ", ") AS v",
            Cell::Int(1), Invariant::Release, "there is no such service"),
        ("INSERT INTO canaries SELECT 'bench', digest, v.column1, NULL, NULL, 5 FROM versions, (VALUES ", ") AS v",
            Cell::Int(101), Invariant::Release, "0 to 100 percent"),
        ("INSERT INTO upgrades SELECT v.column1, 1, zeroblob(32) FROM (VALUES ", ") AS v",
            id(patient.done), Invariant::Release, "does not exist"),
        ("INSERT INTO upgrades SELECT v.column1, 1, digest FROM versions, (VALUES ", ") AS v",
            nobody(), Invariant::Release, "the run does not exist"),
        ("INSERT INTO events SELECT v.column1, 'x', 5 FROM (VALUES ", ") AS v",
            text(""), Invariant::Event, "has no name"),
        ("INSERT INTO correlations SELECT 'bench', 'order', '7', v.column1 FROM (VALUES ", ") AS v",
            nobody(), Invariant::Event, "the run does not exist"),
        ("INSERT INTO correlations SELECT 'bench', 'order', '7', v.column1 FROM (VALUES ", ") AS v",
            id(patient.done), Invariant::Event, "no such label"),
        ("INSERT INTO queue_later SELECT max(seq), 5, 77, zeroblob(v.column1), head, payload FROM queue_rows, (VALUES ", ") AS v",
            Cell::Int(16), Invariant::FarTimer, "another queue or id"),
        ("INSERT INTO queue_later SELECT max(seq), 5, 77, zeroblob(v.column1), head, payload FROM queue_rows, (VALUES ", ") AS v",
            Cell::Int(16), Invariant::FarTimer, "among those that are near"),
        ("INSERT INTO archived SELECT v.column1, zeroblob(32), 0, 9 FROM (VALUES ", ") AS v",
            id(patient.done), Invariant::RunRow, "both among the runs and in the archive"),
        ("INSERT INTO archived SELECT v.column1, artifact, 0, 9 FROM versions, (VALUES ", ") AS v",
            nobody(), Invariant::Archive, "a frame"),
    ]
}

/// A sweep's plan as it is stored.
const PLAN: &str =
    r#"{"cause":"c","rules":[],"selection":{"interests":{"keys":[1],"revision":1}},"order":"look"}"#;

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
    for (head, tail, cell, invariant, words) in cases(&patient).into_iter().chain(wider_cases(&patient)) {
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
