//! The committer: takes every unit that waits, makes them durable in one transaction, answers all of them.
//!
//! One connection writes, a few read. A lone unit is committed at once; under load the units that arrive during one
//! fsync share the next. The write-ahead log is folded back by a second connection while commits go on, and the
//! committer itself does only the short rest between two commits, so that the log starts again from its beginning.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use celesta_runtime::metrics::{Histogram, IntCounter, counter, durations};
use celesta_runtime::{Clock, Fate, TaskSet};
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};

use crate::error::{CommitError, OpenError, QueryError};
use crate::migrate::{Migration, migrate};
use crate::sqlite::{Writer, connect_options, fetch, translate};
use crate::unit::{Cell, Hook, Row, Rows, Unit, call};

/// Units that may wait for the committer: a few commits' worth at full load. Submitting beyond it waits.
const UNITS_WAITING_MAX: usize = 16_384;
/// Units of one commit: bounds the time the first of them waits for the last.
const UNITS_PER_COMMIT_MAX: usize = 4_096;
/// Rows of one commit, for the same reason when units are large.
const ROWS_PER_COMMIT_MAX: usize = 50_000;
/// Reads in parallel; they never wait for the writer (WAL).
const READERS: u32 = 4;
/// The log is folded back after this many commits.
const COMMITS_PER_CHECKPOINT: u32 = 1_000;
/// How long after shutdown the committer serves handles that are still held; it ends at once when all are dropped.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// Where the store lives.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The SQLite file; created with its folder when it does not exist.
    pub path: PathBuf,
}

impl StoreOptions {
    /// A store in the file `path`.
    #[must_use]
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
        }
    }
}

/// A handle on the durable record. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    units: mpsc::Sender<Unit>,
    readers: SqlitePool,
    path: Arc<Path>,
}

/// Resolves when a unit is durable, or has failed.
#[derive(Debug)]
pub struct Committed(oneshot::Receiver<Result<(), CommitError>>);

impl Committed {
    /// Waits for the commit.
    ///
    /// # Errors
    /// What the committer says of the unit.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the unit back.
    pub async fn wait(self) -> Result<(), CommitError> {
        self.0.await.unwrap_or(Err(CommitError::Closed))
    }
}

impl Store {
    /// Opens or creates the store, applies the missing migrations and starts the committer in `tasks`.
    ///
    /// # Errors
    /// When the file cannot be opened, a migration fails, or a later release wrote it.
    pub async fn open(
        options: &StoreOptions,
        migrations: &[Migration],
        clock: &Clock,
        tasks: &TaskSet,
    ) -> Result<Self, OpenError> {
        let connect = |error: &dyn std::fmt::Display| OpenError::Connect {
            path: options.path.display().to_string(),
            reason: error.to_string(),
        };
        if let Some(folder) = options.path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| connect(&error))?;
        }
        let connecting = connect_options(&options.path);
        let mut writer = connecting.connect().await.map_err(|error| connect(&error))?;
        migrate(&mut writer, migrations).await?;
        let folder = connecting.connect().await.map_err(|error| connect(&error))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(connecting.pragma("query_only", "1"))
            .await
            .map_err(|error| connect(&error))?;
        let (units, waiting) = mpsc::channel(UNITS_WAITING_MAX);
        let (fold, folds) = mpsc::channel(1);
        let (folded, done) = mpsc::channel(1);
        let committer = Committer {
            connection: writer,
            writer: Writer::default(),
            clock: clock.clone(),
            commits_since_fold: 0,
            fold,
            folded: done,
            commits: counter("celesta_store_commits_total", "Transactions committed."),
            units: counter("celesta_store_units_total", "Units committed."),
            seconds: durations(
                "celesta_store_commit_seconds",
                "Time of one commit, fsync included.",
            ),
        };
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("store.committer", Fate::Essential, async move {
            committer.run(waiting, shutdown).await;
        });
        tasks.spawn(
            "store.checkpoints",
            Fate::Expendable,
            fold_log(folder, folds, folded),
        );
        Ok(Self {
            units,
            readers,
            path: options.path.as_path().into(),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands `unit` to the committer and returns without waiting for the commit; the unit's hooks tell its end.
    /// Units become durable in the order of these calls.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped while the committer's queue is full, the unit is dropped with `Closed`.
    pub async fn submit(&self, unit: Unit) {
        if let Err(mpsc::error::SendError(unit)) = self.units.send(unit).await {
            unit.finish(Err(&CommitError::Closed));
        }
    }

    /// As [`Store::submit`] from a thread outside the async runtime: waits by blocking when the committer's queue is full.
    pub fn submit_blocking(&self, unit: Unit) {
        if let Err(mpsc::error::SendError(unit)) = self.units.blocking_send(unit) {
            unit.finish(Err(&CommitError::Closed));
        }
    }

    /// As [`Store::submit`], without waiting for room.
    ///
    /// # Errors
    /// Gives the unit back when the committer's queue is full or closed.
    pub fn try_submit(&self, unit: Unit) -> Result<(), Unit> {
        self.units
            .try_send(unit)
            .map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Adds to `unit` a hook that resolves the answer. Submit the unit afterwards.
    #[must_use]
    pub fn watch(unit: &mut Unit) -> Committed {
        let (sender, receiver) = oneshot::channel();
        unit.on_done(move |outcome| {
            // Nobody may be waiting any more: the commit stands all the same.
            sender.send(outcome.map_err(Clone::clone)).ok();
        });
        Committed(receiver)
    }

    /// Makes `unit` durable and waits for it.
    ///
    /// # Errors
    /// What the committer says of the unit; nothing of it is durable then.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the unit back once it was handed over.
    pub async fn commit(&self, mut unit: Unit) -> Result<(), CommitError> {
        let committed = Self::watch(&mut unit);
        self.submit(unit).await;
        committed.wait().await
    }

    /// Reads rows. `sql` is made of constants; values travel in `cells`, in the order of its `?`.
    ///
    /// # Errors
    /// When the database cannot answer.
    pub async fn fetch(&self, sql: &str, cells: &[Cell]) -> Result<Vec<Row>, QueryError> {
        let mut connection = self.readers.acquire().await?;
        Ok(fetch(&mut connection, sql, cells).await?)
    }
}

struct Committer {
    connection: SqliteConnection,
    writer: Writer,
    clock: Clock,
    commits_since_fold: u32,
    fold: mpsc::Sender<()>,
    folded: mpsc::Receiver<()>,
    commits: IntCounter,
    units: IntCounter,
    seconds: Histogram,
}

impl Committer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Unit>, shutdown: celesta_runtime::Shutdown) {
        let mut units = Vec::with_capacity(UNITS_PER_COMMIT_MAX);
        let clock = self.clock.clone();
        let drained = async move {
            shutdown.requested().await;
            clock.sleep(DRAIN_PATIENCE).await;
        };
        tokio::pin!(drained);
        loop {
            units.clear();
            let received = tokio::select! {
                biased;
                received = waiting.recv_many(&mut units, UNITS_PER_COMMIT_MAX) => received,
                () = &mut drained => 0,
            };
            if received == 0 {
                break;
            }
            while !units.is_empty() {
                let now = within_rows(&units);
                let later = units.split_off(now);
                let group = std::mem::replace(&mut units, later);
                self.commit_group(group).await;
            }
            self.fold_log().await;
        }
        waiting.close();
        while let Ok(unit) = waiting.try_recv() {
            unit.finish(Err(&CommitError::Closed));
        }
        self.connection.close().await.ok();
    }

    async fn commit_group(&mut self, group: Vec<Unit>) {
        let before = self.clock.monotonic();
        let (rows, hooks): (Vec<Rows>, Vec<Vec<Hook>>) = group.into_iter().map(Unit::into_parts).unzip();
        let outcomes = self.transactions(&rows).await;
        self.seconds
            .observe((self.clock.monotonic().saturating_sub(before)).as_secs_f64());
        match outcomes {
            Ok(outcomes) => {
                self.commits.inc();
                for (hooks, outcome) in hooks.into_iter().zip(outcomes) {
                    self.units.inc_by(u64::from(outcome.is_ok()));
                    call(hooks, outcome.as_ref().map(|&()| ()));
                }
            }
            Err(error) => hooks.into_iter().for_each(|hooks| call(hooks, Err(&error))),
        }
    }

    /// Commits the group; when one of it conflicts, each unit behind a savepoint of its own: still one fsync for those
    /// that fit.
    async fn transactions(&mut self, group: &[Rows]) -> Result<Vec<Result<(), CommitError>>, CommitError> {
        if group.iter().all(|unit| unit.starts.is_empty()) {
            return Ok(vec![Ok(()); group.len()]);
        }
        let outcomes = match self.transaction(group).await {
            Ok(()) => Ok(vec![Ok(()); group.len()]),
            Err(conflict @ CommitError::Conflict { .. }) if group.len() == 1 => Ok(vec![Err(conflict)]),
            Err(CommitError::Conflict { .. }) => self.transaction_apart(group).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &outcomes {
            // When the database itself has rolled back already there is nothing to do, and that is an error to it.
            self.control("ROLLBACK").await.ok();
            tracing::warn!(%error, units = group.len(), "a commit failed");
        }
        outcomes
    }

    async fn transaction(&mut self, group: &[Rows]) -> Result<(), CommitError> {
        let outcome = self.writer.begin(&mut self.connection, group).await;
        if matches!(outcome, Err(CommitError::Conflict { .. })) {
            self.control("ROLLBACK").await?;
        }
        outcome?;
        self.control("COMMIT").await
    }

    async fn transaction_apart(
        &mut self,
        group: &[Rows],
    ) -> Result<Vec<Result<(), CommitError>>, CommitError> {
        let mut outcomes = Vec::with_capacity(group.len());
        self.control("BEGIN IMMEDIATE").await?;
        for unit in group {
            self.control("SAVEPOINT unit").await?;
            let outcome = self.writer.execute(&mut self.connection, unit).await;
            match &outcome {
                Err(error @ CommitError::Unavailable { .. }) => return Err(error.clone()),
                Err(_) => self.control("ROLLBACK TO unit").await?,
                Ok(()) => {}
            }
            self.control("RELEASE unit").await?;
            outcomes.push(outcome);
        }
        self.control("COMMIT").await?;
        Ok(outcomes)
    }

    async fn control(&mut self, sql: &'static str) -> Result<(), CommitError> {
        sqlx::query(sql)
            .execute(&mut self.connection)
            .await
            .map_err(|error| translate("transaction", &error))?;
        Ok(())
    }

    /// Has the log folded back by the other connection, and finishes the rest when that is done.
    async fn fold_log(&mut self) {
        self.commits_since_fold += 1;
        if self.commits_since_fold >= COMMITS_PER_CHECKPOINT && self.fold.try_send(()).is_ok() {
            self.commits_since_fold = 0;
        }
        if self.folded.try_recv().is_ok() {
            checkpoint(&mut self.connection).await;
        }
    }
}

/// How many of the first units one commit takes.
fn within_rows(units: &[Unit]) -> usize {
    let mut rows = 0;
    let fitting = units.iter().take_while(|unit| {
        rows += unit.len();
        rows <= ROWS_PER_COMMIT_MAX
    });
    fitting.count().max(1)
}

async fn fold_log(mut connection: SqliteConnection, mut folds: mpsc::Receiver<()>, folded: mpsc::Sender<()>) {
    while folds.recv().await.is_some() {
        checkpoint(&mut connection).await;
        if folded.send(()).await.is_err() {
            break;
        }
    }
    connection.close().await.ok();
}

async fn checkpoint(connection: &mut SqliteConnection) {
    if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
        .execute(connection)
        .await
    {
        tracing::warn!(%error, "the write-ahead log could not be folded back");
    }
}

#[cfg(test)]
mod tests;
