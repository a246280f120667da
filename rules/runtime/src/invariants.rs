//! What holds of every store at every instant, in one place: `celesta doctor` checks it of a file, the simulation of its
//! world, and debug builds of each turn before it is handed to the committer.
//!
//! [`check`] looks at a [`Snapshot`] and at the artifacts and says every breach with its place, [`check_deployment`] at
//! what many nodes share in a database. They change nothing and need no node. What a record does to a run's state is said once more here, apart from `turn.rs`, so that one of the two
//! being wrong is found.

mod archive;
mod artifacts;
mod between;
mod deployment;
mod events;
mod gates;
mod groups;
mod messages;
mod releases;
mod runs;
mod shared;
mod versions;

use std::fmt;

use celesta_artifacts::Artifacts;
use celesta_store::{QueryError, Snapshot};
use serde::Serialize;

pub use self::deployment::{Looks, Tables, check_deployment};
use crate::record::{Cause, Note, Record, Recorded};
use crate::state::{RunState, RunStep};

/// Violations that are listed one by one: beyond it the store is lost and a count says as much.
const LISTED_MAX: usize = 10_000;

/// One thing that holds of every store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// The database's own file is sound.
    File,
    /// The row of each run can be read.
    RunRow,
    /// The turns of a run are numbered without a gap, from the first or from what its snapshot holds.
    JournalGap,
    /// Each journal record can be read.
    Record,
    /// Each journal record and snapshot belongs to a run.
    JournalOrphan,
    /// A snapshot is of a turn that was taken, and gives a working memory together with the turns after it.
    Snapshot,
    /// The state in a run's row is the one its journal leads to, and it has an end exactly when it has ended.
    State,
    /// A run that goes on is given what it waits for: each open call has a message, a run or an answer under way.
    Stuck,
    /// Never are more runs of a group under way than its limit says.
    Group,
    /// Each row of the queue can be read and belongs to a queue.
    MessageRow,
    /// Each message to a run, and each call of a function, is of a run that exists.
    MessageOrphan,
    /// The run that asked for another one exists.
    ChildOrphan,
    /// An idempotency key names a run that exists.
    IdempotencyOrphan,
    /// The version that new runs of a service follow exists, and so do those of its runs.
    VersionMissing,
    /// The files of a version can be read and compile.
    VersionUnreadable,
    /// The releases of a service are numbered without a gap and lead to its current version; they, its canary, and what its
    /// runs have left are versions that exist.
    Release,
    /// The kept versions of each shared fact can be read and follow each other.
    SharedFact,
    /// A run stands in the index of interests under each of its keys, and only runs that exist do.
    Interest,
    /// Each sweep can be read, is counted right, and has an end exactly when it has ended.
    Sweep,
    /// Each place at a gate can be read and is of a run; no more have passed than may.
    Gate,
    /// Each order and bulk operation can be read, and an operation has an end exactly when it has ended.
    Order,
    /// Each kept event has a name, and the labels by which events find runs are those of the runs.
    Event,
    /// A message that becomes visible much later can be read, is found by its own columns, and stands nowhere else.
    FarTimer,
    /// Each archived run reads from its place in the archive.
    Archive,
    /// Partitions are those that were settled, each with its tables, and what stands in one belongs there.
    Partition,
    /// Each letter can be read and goes to the partition of its run or gate; each receipt is of a partition.
    Mail,
    /// An artifact that is named anywhere exists.
    ArtifactMissing,
    /// An artifact is what its digest says.
    ArtifactDigest,
}

impl Invariant {
    /// All of them, in the order they are checked.
    pub const ALL: [Self; 28] = [
        Self::File,
        Self::Partition,
        Self::MessageRow,
        Self::FarTimer,
        Self::VersionMissing,
        Self::VersionUnreadable,
        Self::Release,
        Self::RunRow,
        Self::JournalGap,
        Self::Record,
        Self::Snapshot,
        Self::State,
        Self::Stuck,
        Self::Group,
        Self::JournalOrphan,
        Self::MessageOrphan,
        Self::ChildOrphan,
        Self::IdempotencyOrphan,
        Self::Archive,
        Self::SharedFact,
        Self::Interest,
        Self::Sweep,
        Self::Gate,
        Self::Order,
        Self::Event,
        Self::Mail,
        Self::ArtifactMissing,
        Self::ArtifactDigest,
    ];

    /// The name, as in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::RunRow => "run-row",
            Self::JournalGap => "journal-gap",
            Self::Record => "record",
            Self::JournalOrphan => "journal-orphan",
            Self::Snapshot => "snapshot",
            Self::State => "state",
            Self::Stuck => "stuck",
            Self::Group => "group",
            Self::MessageRow => "message-row",
            Self::MessageOrphan => "message-orphan",
            Self::ChildOrphan => "child-orphan",
            Self::IdempotencyOrphan => "idempotency-orphan",
            Self::VersionMissing => "version-missing",
            Self::VersionUnreadable => "version-unreadable",
            Self::Release => "release",
            Self::SharedFact => "shared-fact",
            Self::Interest => "interest",
            Self::Sweep => "sweep",
            Self::Gate => "gate",
            Self::Order => "order",
            Self::Event => "event",
            Self::FarTimer => "far-timer",
            Self::Archive => "archive",
            Self::Partition => "partition",
            Self::Mail => "mail",
            Self::ArtifactMissing => "artifact-missing",
            Self::ArtifactDigest => "artifact-digest",
        }
    }

    /// What somebody may do about a breach.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::File => "the disk or a foreign program has damaged the file: restore the last backup",
            Self::RunRow | Self::JournalGap | Self::Record | Self::Snapshot => {
                "nothing of this run can be trusted after that place: clone it from its request, or restore a backup"
            }
            Self::State => {
                "the journal tells what happened; a turn brings the row back in step: retry, resume or write a fact"
            }
            Self::Stuck => {
                "nothing will move the run by itself: cancel it and clone it, and report this as a fault"
            }
            Self::Group => {
                "pause or cancel some of its runs if they are in each other's way, and report this as a fault"
            }
            Self::JournalOrphan | Self::MessageOrphan => {
                "harmless to other runs: it is dropped when it is met"
            }
            Self::MessageRow => "the node does not open the queue with it: restore a backup",
            Self::ChildOrphan => "the run goes on; nobody hears its answer",
            Self::IdempotencyOrphan => {
                "a repeated request is answered with a run that is not there: use another key"
            }
            Self::VersionMissing | Self::VersionUnreadable => {
                "push the same files again: the version comes back under the same digest"
            }
            Self::Release => {
                "push the service again: that is a release, and takes its canary back; runs go on as they are"
            }
            Self::SharedFact => {
                "write the fact once more; runs that saw the damaged version may need a write of a fact"
            }
            Self::Interest => {
                "write a fact to the run, or change the shared fact again: its turn mends the index"
            }
            Self::Sweep => "abort the sweep, and change the shared fact again",
            Self::Gate => {
                "cancel the run that stands there and ask again; a gate is read anew when a node starts"
            }
            Self::Order => "give the order again, or take it back; begin the operation again",
            Self::Event => {
                "events that are sent again may count twice, or miss the run: write the fact to the run"
            }
            Self::FarTimer => {
                "the node does not bring it near: restore a backup, or cancel the run that waits for it"
            }
            Self::Archive => "the run is lost to readers: copy the artifact of its segment from a backup",
            Self::Partition => "stop all nodes and restore a backup: what is elsewhere is never found",
            Self::Mail => "it stays where it is: write the fact to the run, and remove the row",
            Self::ArtifactMissing => "put the content again: it comes back under the same digest",
            Self::ArtifactDigest => "remove the file and put the content again, or copy it from a backup",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One breach of one invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// What does not hold.
    pub invariant: Invariant,
    /// Where: a run, a row, a digest.
    pub place: String,
    /// What was found there.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.invariant, self.place, self.found)
    }
}

/// What a check has looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Runs.
    pub runs: u64,
    /// Journal records.
    pub records: u64,
    /// Messages of the queue.
    pub messages: u64,
    /// Artifacts that something names.
    pub artifacts: u64,
    /// What does not hold, at most ten thousand.
    pub violations: Vec<Violation>,
    /// How many more there are.
    pub unlisted: u64,
}

impl Findings {
    pub(crate) fn report(
        &mut self,
        invariant: Invariant,
        place: impl fmt::Display,
        found: impl fmt::Display,
    ) {
        if self.violations.len() < LISTED_MAX {
            self.violations.push(Violation {
                invariant,
                place: place.to_string(),
                found: found.to_string(),
            });
        } else {
            self.unlisted += 1;
        }
    }

    /// Whether everything holds.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }
}

/// The artifacts a check looks at.
#[derive(Debug, Clone, Copy)]
pub struct Blobs<'a> {
    /// Where they are.
    pub artifacts: &'a Artifacts,
    /// Whether each is read whole and hashed.
    pub hash: bool,
}

/// Checks every invariant of what `snapshot` shows. Costs a read of everything and memory for the messages only.
///
/// # Errors
/// When the database cannot answer; damage is no error but in the findings.
pub async fn check(snapshot: &mut Snapshot, blobs: Blobs<'_>) -> Result<Findings, QueryError> {
    let mut findings = Findings::default();
    for line in snapshot.integrity().await? {
        findings.report(Invariant::File, "the file", line);
    }
    match check_rows(snapshot, blobs, &mut findings).await {
        // Of a broken file more cannot be read.
        Err(error) if !findings.is_sound() => {
            findings.report(Invariant::File, "the rest was not checked", error);
            Ok(findings)
        }
        checked => checked.map(|()| findings),
    }
}

async fn check_rows(
    snapshot: &mut Snapshot,
    blobs: Blobs<'_>,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let mut named = artifacts::Named::default();
    let mut versions =
        versions::Versions::read(snapshot, Some(blobs.artifacts), &mut named, findings).await?;
    releases::check(snapshot, &versions, findings).await?;
    let messages_known = snapshot.is_file();
    let mut between = between::Between::new();
    check_store(
        snapshot,
        Some(blobs),
        messages_known,
        &mut versions,
        &mut named,
        &mut between,
        findings,
    )
    .await?;
    between.judge(findings);
    artifacts::check(named, blobs, findings).await;
    Ok(())
}

/// Everything of one store but its versions and what these are made of. `messages_known`: its queues are rows that one
/// process owns.
async fn check_store(
    snapshot: &mut Snapshot,
    blobs: Option<Blobs<'_>>,
    messages_known: bool,
    versions: &mut versions::Versions,
    named: &mut artifacts::Named,
    between: &mut between::Between,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let waiting = messages::check(snapshot, messages_known, between, findings).await?;
    runs::check(snapshot, &waiting, versions, named, between, findings).await?;
    archive::check(snapshot, blobs, named, findings).await?;
    runs::check_orphans(snapshot, findings).await?;
    messages::check_orphans(snapshot, &waiting, findings).await?;
    releases::check_upgrades(snapshot, versions, findings).await?;
    shared::check(snapshot, findings).await?;
    gates::check(snapshot, &waiting, between, findings).await?;
    events::check(snapshot, findings).await
}

/// The state of a run after `record`, when it was in `before`. Running also stands for idle: a record does not say whether
/// something is awaited.
pub(crate) fn follow(before: RunState, record: &Record) -> RunState {
    match &record.note {
        Some(Note::Quarantined { .. }) => return before.after(RunStep::Quarantine).unwrap_or(before),
        // A run that has not begun keeps what it is sent, in nobody's name.
        Some(Note::Paused { by, .. }) if before == RunState::Waiting && by.is_empty() => return before,
        Some(Note::Paused { .. } | Note::Stopped { .. }) => return RunState::Paused,
        None => {}
    }
    let mut state = before;
    let mut canceled = false;
    for cause in &record.causes {
        let step = match cause {
            Cause::Started | Cause::Restarted { .. } => RunStep::Admit,
            Cause::RetryRequested { .. } => RunStep::Retry,
            Cause::Resumed { .. } => RunStep::Resume,
            Cause::CancelRequested { .. } => {
                canceled = true;
                continue;
            }
            _ => continue,
        };
        state = state.after(step).unwrap_or(state);
    }
    let ended = record.effects.iter().rev().find_map(|effect| match effect {
        Recorded::Complete { .. } => Some(RunStep::Completes),
        Recorded::Fail { .. } => Some(RunStep::Fails),
        _ => None,
    });
    let step = if canceled {
        RunStep::Cancel
    } else {
        ended.unwrap_or(RunStep::Awaits)
    };
    state.after(step).unwrap_or(state)
}

/// Whether the two are the same as far as a journal tells.
pub(crate) const fn alike(one: RunState, other: RunState) -> bool {
    matches!(
        (one, other),
        (
            RunState::Running | RunState::Idle,
            RunState::Running | RunState::Idle
        ) | (RunState::Completed, RunState::Completed)
            | (RunState::Failed, RunState::Failed)
            | (RunState::Canceled, RunState::Canceled)
            | (RunState::Quarantined, RunState::Quarantined)
            | (RunState::Paused, RunState::Paused)
            | (RunState::Waiting, RunState::Waiting)
    )
}

/// In debug builds: `record` is what leads a run from `before` to `after`.
pub(crate) fn debug_follows(before: RunState, record: &Record, after: RunState) {
    debug_assert!(
        alike(follow(before, record), after),
        "a run that was {before} is {after} after {record:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invariant_has_its_own_name_and_is_checked() {
        let mut names: Vec<_> = Invariant::ALL.iter().map(|one| one.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Invariant::ALL.len());
        for one in Invariant::ALL {
            let json = serde_json::to_value(one).expect("a name");
            assert_eq!(json, one.name(), "JSON and text say the same");
        }
    }

    #[test]
    fn a_cancel_wins_over_a_result_and_a_retry_comes_first() {
        let complete = || Recorded::Complete {
            result: "1".to_owned(),
        };
        let reason = String::new;
        let canceled = Record {
            causes: vec![Cause::CancelRequested {
                reason: reason(),
                by: reason(),
            }],
            effects: vec![complete()],
            ..Record::default()
        };
        assert_eq!(follow(RunState::Running, &canceled), RunState::Canceled);
        assert_eq!(follow(RunState::Completed, &canceled), RunState::Completed);
        let retried = Record {
            causes: vec![Cause::RetryRequested {
                reason: reason(),
                by: reason(),
            }],
            effects: vec![complete()],
            ..Record::default()
        };
        assert_eq!(follow(RunState::Failed, &retried), RunState::Completed);
        let late = Record::default();
        assert_eq!(follow(RunState::Failed, &late), RunState::Failed);
        let held = Record {
            note: Some(Note::Paused {
                reason: reason(),
                by: reason(),
                messages: Vec::new(),
            }),
            ..Record::default()
        };
        assert_eq!(follow(RunState::Waiting, &held), RunState::Waiting);
        let begun = Record {
            causes: vec![Cause::Started],
            ..Record::default()
        };
        assert_eq!(follow(RunState::Waiting, &begun), RunState::Running);
    }
}
