//! Reading a run into memory: its row, its last snapshot, the deltas since.

use std::sync::Arc;

use celesta_engine::WorkingMemory;
use celesta_store::{Cell, QueryError, Row};
use celesta_types::{Digest, ErrorKind, RunId};

use crate::head::{COLUMN_COUNT, COLUMNS, RunHead};
use crate::history::Names;
use crate::live::Live;
use crate::record::Record;
use crate::runtime::Inner;
use crate::shared::Interests;

/// Why a run could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The store does not answer.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// What stands in the store is not what this release writes.
    #[error("run {run} is damaged at turn {seq}: {reason}")]
    Damaged {
        /// The run.
        run: RunId,
        /// The turn.
        seq: u64,
        /// What was found.
        reason: String,
    },
    /// The version of the service it follows cannot be read.
    #[error("version {version} of run {run} cannot be read: {reason}")]
    Version {
        /// The run.
        run: RunId,
        /// The version.
        version: Digest,
        /// Why.
        reason: String,
    },
}

impl LoadError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Query(_) => ErrorKind::Unavailable,
            Self::Damaged { .. } | Self::Version { .. } => ErrorKind::Internal,
        }
    }
}

/// How often a run is read that changes meanwhile: it is compacted once in a long while.
const LOOKS: usize = 4;

impl Inner {
    /// The run's snapshot with its turn, 0 without, and the records of all turns after it.
    async fn stored_state(&self, run: RunId) -> Result<(i64, Option<Vec<u8>>, Vec<Row>), LoadError> {
        let id = || Cell::Id(run.to_bytes());
        let mut gap = (0, 0);
        for _ in 0..LOOKS {
            let mut snapshots = self
                .store
                .fetch("SELECT seq, state FROM snapshots WHERE run = ?", &[id()])
                .await?;
            let (from, snapshot) = match snapshots.first_mut() {
                Some(row) => (row.int(0).unwrap_or(0), row.take_blob(1)),
                None => (0, None),
            };
            let sql = "SELECT seq, record FROM journal WHERE run = ? AND seq > ? ORDER BY seq";
            let rows = self.store.fetch(sql, &[id(), from.into()]).await?;
            match rows.first().and_then(|row| row.int(0)) {
                // Between the two reads the records went into a later snapshot.
                Some(first) if first != from + 1 => gap = (from, first),
                _ => return Ok((from, snapshot, rows)),
            }
        }
        let (from, first) = gap;
        Err(LoadError::Damaged {
            run,
            seq: u64::try_from(first).unwrap_or(0),
            reason: format!("it follows turn {from}"),
        })
    }

    /// The run as of its last durable turn; `None` when there is no such run.
    pub(crate) async fn load(&self, run: RunId) -> Result<Option<Box<Live>>, LoadError> {
        let id = || Cell::Id(run.to_bytes());
        let sql = format!("SELECT {COLUMNS}, input FROM runs WHERE id = ?");
        let rows = self.store.fetch(&sql, &[id()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let damaged = |seq, reason: String| LoadError::Damaged { run, seq, reason };
        let head = RunHead::from_row(row).ok_or_else(|| damaged(0, "its row cannot be read".to_owned()))?;
        let version = self
            .registry
            .version(head.version)
            .await
            .map_err(|error| LoadError::Version {
                run,
                version: head.version,
                reason: error.to_string(),
            })?;
        let rules = version
            .rules(&head.workflow)
            .cloned()
            .ok_or_else(|| LoadError::Version {
                run,
                version: head.version,
                reason: format!("it has no workflow `{}`", head.workflow),
            })?;
        let (from, snapshot, rows) = self.stored_state(run).await?;
        let mut seq = u64::try_from(from).unwrap_or(0);
        let mut deltas = Vec::with_capacity(rows.len());
        for row in &rows {
            seq = row.int(0).and_then(|seq| u64::try_from(seq).ok()).unwrap_or(seq);
            let record = Record::decode(row.blob(1).unwrap_or_default())
                .map_err(|error| damaged(seq, error.to_string()))?;
            if !record.delta.is_empty() {
                deltas.push(record.delta);
            }
        }
        let delta_bytes = deltas.iter().map(Vec::len).sum();
        let memory =
            WorkingMemory::restore(&rules, run, snapshot.as_deref(), deltas.iter().map(Vec::as_slice))
                .map_err(|error| damaged(seq, error.to_string()))?;
        // Until a turn was kept the request is still to be applied.
        let input = if deltas.is_empty() && snapshot.is_none() {
            rows_input(row)
        } else {
            None
        };
        let requests = || memory.open_calls().filter(|open| open.target.contains('/'));
        let timed = requests().filter(|open| open.timeout_ms.is_some());
        let (timed, requests) = (
            timed.map(|open| open.call).collect(),
            requests().map(|open| open.call).collect(),
        );
        Ok(Some(Box::new(Live {
            interests: Interests::of(&head.service, &memory, deltas.is_empty()),
            requests,
            timed,
            steered: false,
            wake_at: None,
            head,
            version,
            rules,
            memory,
            seq,
            input,
            deltas: deltas.len(),
            delta_bytes,
            snapshot_bytes: snapshot.map_or(0, |snapshot| snapshot.len()),
        })))
    }

    /// The names behind the numbers in a run's journal; `None` when there is no such run.
    pub(crate) async fn version_of(&self, run: RunId) -> Result<Option<(Names, String)>, LoadError> {
        let rows = self
            .store
            .fetch(
                "SELECT version, workflow FROM runs WHERE id = ?",
                &[Cell::Id(run.to_bytes())],
            )
            .await?;
        let Some(row) = rows.first() else {
            // An archive keeps the names of the version it was made with.
            let frame = self.archived(run).await?;
            return Ok(frame.map(|frame| (frame.names(), String::new())));
        };
        let digest = row
            .blob(0)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Digest::from_bytes);
        let digest = digest.ok_or_else(|| LoadError::Damaged {
            run,
            seq: 0,
            reason: "its version cannot be read".to_owned(),
        })?;
        let version = self.registry.version(digest).await;
        let version = version.map_err(|error| LoadError::Version {
            run,
            version: digest,
            reason: error.to_string(),
        })?;
        let workflow = row.text(1).unwrap_or_default();
        Ok(Some((Names::of(&version, workflow), workflow.to_owned())))
    }
}

fn rows_input(row: &Row) -> Option<Arc<[u8]>> {
    row.blob(COLUMN_COUNT).map(Arc::from)
}
