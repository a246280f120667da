//! The record of attempts that failed or printed something. A quiet success costs no row.

use std::fmt;

use celesta_artifacts::Artifacts;
use celesta_store::{Cell, Expect, Migration, QueryError, Row, Statement, Store, Unit};
use celesta_types::{CallId, Digest, ErrorClass, ErrorKind, RunId, Timestamp};

/// The tables of this crate.
pub const MIGRATIONS: &[Migration] = &[Migration {
    subsystem: "worker",
    version: 1,
    sql: "CREATE TABLE attempts (
            run BLOB NOT NULL, seq INTEGER NOT NULL, place INTEGER NOT NULL, attempt INTEGER NOT NULL,
            function TEXT NOT NULL, worker TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL,
            class INTEGER, message TEXT,
            stdout BLOB, stdout_artifact BLOB, stdout_bytes INTEGER NOT NULL,
            stderr BLOB, stderr_artifact BLOB, stderr_bytes INTEGER NOT NULL,
            PRIMARY KEY (run, seq, place, attempt));",
    postgres: "CREATE TABLE attempts (
            run UUID NOT NULL, seq BIGINT NOT NULL, place BIGINT NOT NULL, attempt BIGINT NOT NULL,
            function TEXT NOT NULL, worker TEXT NOT NULL, started BIGINT NOT NULL, ended BIGINT NOT NULL,
            class BIGINT, message TEXT,
            stdout BYTEA, stdout_artifact BYTEA, stdout_bytes BIGINT NOT NULL,
            stderr BYTEA, stderr_artifact BYTEA, stderr_bytes BIGINT NOT NULL,
            PRIMARY KEY (run, seq, place, attempt));",
}, Migration {
    subsystem: "worker",
    version: 2,
    sql: "CREATE TABLE recorded_results (
            place INTEGER PRIMARY KEY, known_by BLOB NOT NULL UNIQUE, result BLOB NOT NULL, run BLOB NOT NULL) STRICT;",
    postgres: "CREATE TABLE recorded_results (
            place BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, known_by BYTEA NOT NULL UNIQUE,
            result BYTEA NOT NULL, run UUID NOT NULL);",
}];

/// Bytes of a stream kept in the row; what is longer is an artifact, so that rows stay small.
pub const INLINE_OUTPUT_MAX: usize = 64 * 1024;
/// Attempts returned at once: a call has few, a large run has many calls.
const ATTEMPTS_MAX: i64 = 10_000;

static RECORD: Statement = Statement {
    name: "attempts.record",
    rank: 10,
    // The same attempt is recorded again when its report was lost with the process.
    head: "INSERT INTO attempts VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?, ?, ?/*bigint*/, ?/*text*/, ?/*bytea*/, ?/*bytea*/, ?, ?/*bytea*/, ?/*bytea*/, ?)",
    tail: " ON CONFLICT (run, seq, place, attempt) DO UPDATE SET worker = excluded.worker, started = excluded.started, \
           ended = excluded.ended, class = excluded.class, message = excluded.message, stdout = excluded.stdout, \
           stdout_artifact = excluded.stdout_artifact, stdout_bytes = excluded.stdout_bytes, stderr = excluded.stderr, \
           stderr_artifact = excluded.stderr_artifact, stderr_bytes = excluded.stderr_bytes",
    cells: 16,
    expect: Expect::Any,
};

/// One stream of an attempt as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// How many bytes there were.
    pub bytes: u64,
    /// What was kept, when it is small.
    pub inline: Vec<u8>,
    /// What was kept, when it is not.
    pub artifact: Option<Digest>,
}

/// One attempt of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The run.
    pub run: RunId,
    /// The call.
    pub call: CallId,
    /// From 1.
    pub attempt: u32,
    /// The function.
    pub function: String,
    /// Who ran it.
    pub worker: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How it failed, if it did.
    pub failure: Option<(ErrorClass, String)>,
    /// Standard output, when it is of interest: the result of a success is not repeated here.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
}

/// Which stream of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why an attempt's output cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The store does not answer.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The artifact cannot be read.
    #[error("cannot read the output: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl OutputError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}

impl AttemptRecord {
    /// Adds the row to `unit`.
    pub(crate) fn stage(self, unit: &mut Unit) {
        let (class, message) = self.failure.unzip();
        let digest = |digest: Option<Digest>| digest.map(|digest| digest.as_bytes().to_vec());
        let count = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        unit.add(
            &RECORD,
            [
                Cell::Id(self.run.to_bytes()),
                count(self.call.seq).into(),
                i64::from(self.call.index).into(),
                i64::from(self.attempt).into(),
                self.function.into(),
                self.worker.into(),
                self.started.as_millis().into(),
                self.ended.as_millis().into(),
                class.map(|class| i64::from(class.code())).into(),
                message.into(),
                self.stdout.inline.into(),
                digest(self.stdout.artifact).into(),
                count(self.stdout.bytes).into(),
                self.stderr.inline.into(),
                digest(self.stderr.artifact).into(),
                count(self.stderr.bytes).into(),
            ],
        );
    }
}

const COLUMNS: &str = "seq, place, attempt, function, worker, started, ended, class, message, \
                       stdout, stdout_artifact, stdout_bytes, stderr, stderr_artifact, stderr_bytes";

/// The recorded attempts of a run, or of one of its calls, in the order of calls and attempts; at most 10,000.
///
/// # Errors
/// When the store cannot answer.
pub async fn attempts(
    store: &Store,
    run: RunId,
    call: Option<CallId>,
) -> Result<Vec<AttemptRecord>, QueryError> {
    let mut cells = vec![Cell::Id(run.to_bytes())];
    let mut sql = format!("SELECT {COLUMNS} FROM attempts WHERE run = ?");
    if let Some(call) = call {
        sql.push_str(" AND seq = ? AND place = ?");
        cells.push(i64::try_from(call.seq).unwrap_or(i64::MAX).into());
        cells.push(i64::from(call.index).into());
    }
    sql.push_str(" ORDER BY seq, place, attempt LIMIT ?");
    cells.push(ATTEMPTS_MAX.into());
    let rows = store.fetch(&sql, &cells).await?;
    Ok(rows.into_iter().map(|row| read(run, row)).collect())
}

/// What one attempt printed, or `None` when nothing is recorded of it.
///
/// # Errors
/// When the store or the artifact cannot be read.
pub async fn attempt_output(
    store: &Store,
    artifacts: &Artifacts,
    run: RunId,
    call: CallId,
    attempt: u32,
    stream: Stream,
) -> Result<Option<Vec<u8>>, OutputError> {
    let Some(record) = attempts(store, run, Some(call))
        .await?
        .into_iter()
        .find(|record| record.attempt == attempt)
    else {
        return Ok(None);
    };
    let output = match stream {
        Stream::Stdout => record.stdout,
        Stream::Stderr => record.stderr,
    };
    let Some(digest) = output.artifact else {
        return Ok(Some(output.inline));
    };
    let unavailable = |error: &dyn fmt::Display| OutputError::Unavailable {
        reason: error.to_string(),
    };
    let path = artifacts
        .path(&digest)
        .await
        .map_err(|error| unavailable(&error))?;
    let path = path.ok_or_else(|| unavailable(&format!("artifact {digest} is gone")))?;
    tokio::fs::read(path)
        .await
        .map(Some)
        .map_err(|error| unavailable(&error))
}

/// How many attempts of a call have ended for want of memory, disk or processor time.
pub(crate) async fn shortages(store: &Store, run: RunId, call: CallId) -> Result<u32, QueryError> {
    let records = store
        .fetch(
            "SELECT count(*) FROM attempts WHERE run = ? AND seq = ? AND place = ? AND class = ?",
            &[
                Cell::Id(run.to_bytes()),
                i64::try_from(call.seq).unwrap_or(i64::MAX).into(),
                i64::from(call.index).into(),
                i64::from(ErrorClass::Resource.code()).into(),
            ],
        )
        .await?;
    Ok(records
        .first()
        .and_then(|row| row.int(0))
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(0))
}

fn read(run: RunId, mut row: Row) -> AttemptRecord {
    let integer = |row: &Row, at| row.int(at).unwrap_or(0);
    let text = |row: &Row, at| row.text(at).unwrap_or_default().to_owned();
    let digest = |row: &Row, at| {
        row.blob(at)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Digest::from_bytes)
    };
    let class = row
        .int(7)
        .and_then(|code| ErrorClass::from_code(u8::try_from(code).ok()?));
    AttemptRecord {
        run,
        call: CallId {
            seq: u64::try_from(integer(&row, 0)).unwrap_or(0),
            index: u32::try_from(integer(&row, 1)).unwrap_or(0),
        },
        attempt: u32::try_from(integer(&row, 2)).unwrap_or(0),
        function: text(&row, 3),
        worker: text(&row, 4),
        started: Timestamp::from_millis(integer(&row, 5)),
        ended: Timestamp::from_millis(integer(&row, 6)),
        failure: class.map(|class| (class, text(&row, 8))),
        stdout: Output {
            artifact: digest(&row, 10),
            bytes: u64::try_from(integer(&row, 11)).unwrap_or(0),
            inline: row.take_blob(9).unwrap_or_default(),
        },
        stderr: Output {
            artifact: digest(&row, 13),
            bytes: u64::try_from(integer(&row, 14)).unwrap_or(0),
            inline: row.take_blob(12).unwrap_or_default(),
        },
    }
}
