//! Finished runs that nobody needs at hand: many of them in one artifact, readable by the same questions.
//!
//! A *segment* is an artifact that holds the frames of up to some hundred runs; `frame.rs` says what stands there. A row in
//! `archived` tells where a run's frame is, and that is all that is left of it in the store.
//!
//! The steps, each of which may be the last one before a crash:
//! 1. the sweep (`sweep.rs`) reads finished runs and puts a segment, which is durable then;
//! 2. it sends each run a message that says where its frame is and of which turn;
//! 3. the evaluator that leases the run's key finds the run as it was in that turn and commits in one unit: the row in
//!    `archived`, the deletion of everything else, the acknowledgement. A run that has moved meanwhile stays.
//!
//! A step done twice changes nothing: a segment nobody points to is garbage, a second message finds the run gone. Since
//! the key is leased no turn of the run is under way, so nothing of it can come after its removal.

pub(crate) mod compact;
mod frame;
mod list;
mod sweep;

use std::collections::BTreeMap;

use celesta_artifacts::{Artifacts, Error as BlobError};
use celesta_queue::LeasedKey;
use celesta_store::{Cell, CommitError, Expect, Migration, Statement, Unit};
use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{Digest, RunId};
use tokio::io::AsyncReadExt as _;

use crate::load::LoadError;
use crate::message::HostMessage;
use crate::runtime::Inner;
use crate::state::RunState;

pub(crate) use frame::Frame;
pub(crate) use sweep::run;

/// The table of archived runs.
pub(crate) const MIGRATION: Migration = Migration {
    subsystem: "runs",
    version: 3,
    sql: "CREATE TABLE archived (
    run BLOB NOT NULL PRIMARY KEY,
    artifact BLOB NOT NULL,
    at INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;",
    postgres: "CREATE TABLE archived (
    run UUID NOT NULL PRIMARY KEY,
    artifact BYTEA NOT NULL,
    at BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);",
};

static INSERT: Statement = Statement {
    name: "archived.insert",
    rank: 10,
    head: "INSERT INTO archived (run, artifact, at, bytes) VALUES ",
    row: "(?, ?, ?, ?)",
    tail: "",
    cells: 4,
    expect: Expect::Each,
};

static DELETE_RUN: Statement = Statement {
    name: "runs.delete",
    rank: 30,
    head: "DELETE FROM runs WHERE id IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Each,
};

static DELETE_JOURNAL: Statement = Statement {
    name: "journal.delete",
    rank: 30,
    head: "DELETE FROM journal WHERE run IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

static DELETE_SNAPSHOT: Statement = Statement {
    name: "snapshots.delete",
    rank: 30,
    head: "DELETE FROM snapshots WHERE run IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

/// Events do not find the run any more.
static DELETE_CORRELATION: Statement = Statement {
    name: "correlations.delete",
    rank: 30,
    head: "DELETE FROM correlations WHERE (service, label, value, run) IN (VALUES ",
    row: "(?, ?, ?, ?)",
    tail: ")",
    cells: 4,
    expect: Expect::Any,
};

static DELETE_UPGRADES: Statement = Statement {
    name: "upgrades.delete",
    rank: 30,
    head: "DELETE FROM upgrades WHERE run IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

/// The key a run was requested with, and those of facts written to it.
static DELETE_KEY: Statement = Statement {
    name: "idempotency.delete",
    rank: 30,
    head: "DELETE FROM idempotency WHERE (service, key) IN (VALUES ",
    row: "(?, ?)",
    tail: ")",
    cells: 2,
    expect: Expect::Any,
};

static DELETE_WRITES: Statement = Statement {
    name: "idempotency.delete_writes",
    rank: 30,
    head: "DELETE FROM idempotency WHERE service IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

/// Where a run's frame is, and the turn it was taken after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) seq: u64,
    pub(crate) artifact: Digest,
    pub(crate) at: u64,
    pub(crate) bytes: u64,
}

impl Place {
    pub(crate) fn write(&self, to: &mut Writer) {
        to.uint(self.seq);
        to.raw(self.artifact.as_bytes());
        to.uint(self.at);
        to.uint(self.bytes);
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            seq: from.uint()?,
            artifact: Digest::from_bytes(from.array()?),
            at: from.uint()?,
            bytes: from.uint()?,
        })
    }
}

impl Inner {
    /// The archived run; `None` when it is not archived.
    pub(crate) async fn archived(&self, run: RunId) -> Result<Option<Frame>, LoadError> {
        let sql = "SELECT artifact, at, bytes FROM archived WHERE run = ?";
        let rows = self.store.fetch(sql, &[Cell::Id(run.to_bytes())]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let damaged = |reason: String| LoadError::Damaged { run, seq: 0, reason };
        let number = |at| row.int(at).and_then(|value| u64::try_from(value).ok());
        let artifact = row.blob(0).and_then(|bytes| bytes.try_into().ok());
        let (Some(artifact), Some(at), Some(bytes)) = (artifact, number(1), number(2)) else {
            return Err(damaged("its place in the archive cannot be read".to_owned()));
        };
        let digest = Digest::from_bytes(artifact);
        let frame = read_frame(&self.artifacts, run, &digest, at, bytes).await;
        frame.map(Some).map_err(damaged)
    }
}

/// Reads the frame of `run` from its place; says what is wrong there.
pub(crate) async fn read_frame(
    artifacts: &Artifacts,
    run: RunId,
    digest: &Digest,
    at: u64,
    bytes: u64,
) -> Result<Frame, String> {
    let read = async {
        let range = (at, (at + bytes).saturating_sub(1));
        let reader = artifacts.open_reader(digest, Some(range)).await?;
        let mut reader = reader.ok_or(BlobError::NotFound { digest: *digest })?;
        let mut frame = Vec::new();
        let read = reader.read_to_end(&mut frame).await;
        read.map_err(|source| BlobError::Io {
            what: "read the archive",
            source,
        })?;
        Ok::<_, BlobError>(frame)
    };
    let bytes = read.await.map_err(|error| error.to_string())?;
    let frame = Frame::decode(&bytes).map_err(|error| error.to_string())?;
    if frame.row.id == run {
        Ok(frame)
    } else {
        Err(format!("its place in the archive holds {}", frame.row.id))
    }
}

/// Whether the messages of a key ask for nothing but to archive their run, and where it is.
fn asks_for(key: &LeasedKey) -> Option<Place> {
    let mut place = None;
    for message in &key.messages {
        match HostMessage::read(&message.payload) {
            Some(HostMessage::Archive(given)) => place = Some(given),
            _ => return None,
        }
    }
    place
}

/// What archives or compacts the run of a key that is asked for nothing else, and settles the key; `None` for all other
/// keys.
pub(crate) async fn settle(inner: &Inner, key: &LeasedKey) -> Option<Unit> {
    let Some(place) = asks_for(key) else {
        return compact::settle(inner, key).await;
    };
    let run = RunId::from_bits(key.key.bits());
    let mut unit = Unit::new();
    match inner.removal(run, place, &mut unit).await {
        Ok(true) => drop(inner.cache.take(run)),
        // It has moved since, or is archived already.
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(%run, %error, "a run stays where it is for now");
            unit = Unit::new();
        }
    }
    unit.on_done(move |outcome| {
        if let Err(error @ CommitError::Conflict { .. }) = outcome {
            tracing::debug!(%run, %error, "a run is archived already");
        }
    });
    if let Err(error) = inner.acknowledge(&mut unit, key) {
        tracing::debug!(%run, %error, "the wish to archive a run is somebody else's now");
        return Some(Unit::new());
    }
    Some(unit)
}

impl Inner {
    /// Adds what removes the run to the unit when it stands as it did in the turn of `place`.
    async fn removal(&self, run: RunId, place: Place, unit: &mut Unit) -> Result<bool, LoadError> {
        let sql = "SELECT state, service, idempotency_key, (SELECT max(seq) FROM journal WHERE run = runs.id), \
                   labels FROM runs WHERE id = ?";
        let id = || Cell::Id(run.to_bytes());
        let rows = self.store.fetch(sql, &[id()]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let state = row.int(0).and_then(RunState::from_code);
        let last = row.int(3).and_then(|seq| u64::try_from(seq).ok());
        if !state.is_some_and(may_be_archived) || last != Some(place.seq) {
            return Ok(false);
        }
        let number = |value: u64| Cell::Int(i64::try_from(value).unwrap_or(i64::MAX));
        let artifact = Cell::Blob(place.artifact.as_bytes().to_vec());
        unit.add(&INSERT, [id(), artifact, number(place.at), number(place.bytes)]);
        unit.add(&DELETE_RUN, [id()]);
        unit.add(&DELETE_JOURNAL, [id()]);
        unit.add(&DELETE_SNAPSHOT, [id()]);
        unit.add(&DELETE_UPGRADES, [id()]);
        let labels = row.text(4).and_then(|labels| serde_json::from_str(labels).ok());
        let labels: BTreeMap<String, String> = labels.unwrap_or_default();
        for (label, value) in labels {
            let service = row.text(1).unwrap_or_default().into();
            unit.add(&DELETE_CORRELATION, [service, label.into(), value.into(), id()]);
        }
        if let (Some(service), Some(key)) = (row.text(1), row.text(2)) {
            unit.add(&DELETE_KEY, [service.into(), key.into()]);
        }
        unit.add(&DELETE_WRITES, [run.to_string().into()]);
        Ok(true)
    }
}

/// Whether a run in that state is finished for good. One that was put aside waits for somebody.
pub(crate) const fn may_be_archived(state: RunState) -> bool {
    matches!(state, RunState::Completed | RunState::Failed | RunState::Canceled)
}
