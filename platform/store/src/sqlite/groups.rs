//! Groups of units on SQLite: one transaction with one fsync.

use std::path::Path;

use celesta_runtime::TaskSet;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::log::{self, Folds};
use super::{BEGIN, COMMIT, Writer, connect_options, control, packed};
use crate::error::{CommitError, OpenError};
use crate::migrate::{Migration, migrate_sqlite};
use crate::unit::{Cell, Row, Rows};

/// Commits groups of units.
pub(crate) struct Groups {
    connection: SqliteConnection,
    writer: Writer,
    folds: Folds,
}

impl Groups {
    /// Opens the file for writing, applies the missing migrations, and sees to the log in `tasks`.
    pub(crate) async fn open(
        path: &Path,
        migrations: &[Migration],
        tasks: &TaskSet,
    ) -> Result<Self, OpenError> {
        let connect = |error: sqlx::Error| OpenError::Connect {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        let connecting = connect_options(path);
        let mut connection = connecting.connect().await.map_err(connect)?;
        migrate_sqlite(&mut connection, migrations).await?;
        sqlx::raw_sql(packed::TABLES)
            .execute(&mut connection)
            .await
            .map_err(connect)?;
        log::lengthen(&mut connection, path).await;
        Ok(Self {
            connection,
            writer: Writer::default(),
            folds: Folds::start(&connecting, tasks).await.map_err(connect)?,
        })
    }

    /// Tables in memory that nothing is folded into.
    pub(crate) async fn in_memory(place: &Path, migrations: &[Migration]) -> Result<Self, OpenError> {
        let connect = |error: sqlx::Error| OpenError::Connect {
            path: place.display().to_string(),
            reason: error.to_string(),
        };
        let mut connection = connect_options(place).connect().await.map_err(connect)?;
        migrate_sqlite(&mut connection, migrations).await?;
        sqlx::raw_sql(packed::TABLES)
            .execute(&mut connection)
            .await
            .map_err(connect)?;
        Ok(Self {
            connection,
            writer: Writer::default(),
            folds: Folds::none(),
        })
    }

    /// Reads rows between two commits.
    pub(crate) async fn fetch(&mut self, sql: &str, cells: &[Cell]) -> Result<Vec<Row>, sqlx::Error> {
        super::fetch(&mut self.connection, sql, cells).await
    }

    pub(crate) async fn close(self) {
        self.connection.close().await.ok();
    }

    /// Commits the group; when one of it conflicts, each unit behind a savepoint of its own: still one fsync for those
    /// that fit.
    pub(crate) async fn commit(
        &mut self,
        group: &[Rows],
    ) -> Result<Vec<Result<(), CommitError>>, CommitError> {
        let outcomes = match self.transaction(group).await {
            Ok(()) => Ok(vec![Ok(()); group.len()]),
            Err(conflict @ CommitError::Conflict { .. }) if group.len() == 1 => Ok(vec![Err(conflict)]),
            Err(CommitError::Conflict { .. }) => self.transaction_apart(group).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &outcomes {
            // When the database itself has rolled back already there is nothing to do, and that is an error to it.
            control(&mut self.connection, "ROLLBACK").await.ok();
            tracing::warn!(%error, units = group.len(), "a commit failed");
        }
        outcomes
    }

    async fn transaction(&mut self, group: &[Rows]) -> Result<(), CommitError> {
        let outcome = self.writer.commit(&mut self.connection, group).await;
        if matches!(outcome, Err(CommitError::Conflict { .. })) {
            control(&mut self.connection, "ROLLBACK").await?;
        }
        outcome
    }

    async fn transaction_apart(
        &mut self,
        group: &[Rows],
    ) -> Result<Vec<Result<(), CommitError>>, CommitError> {
        let mut outcomes = Vec::with_capacity(group.len());
        control(&mut self.connection, BEGIN).await?;
        for unit in group {
            control(&mut self.connection, "SAVEPOINT unit").await?;
            let outcome = self.writer.execute(&mut self.connection, unit).await;
            match &outcome {
                Err(error @ CommitError::Unavailable { .. }) => return Err(error.clone()),
                Err(_) => control(&mut self.connection, "ROLLBACK TO unit").await?,
                Ok(()) => {}
            }
            control(&mut self.connection, "RELEASE unit").await?;
            outcomes.push(outcome);
        }
        control(&mut self.connection, COMMIT).await?;
        Ok(outcomes)
    }

    /// Has the log folded back by the other connection once it is long; says whether the rest of that is to be done here.
    pub(crate) fn wants_rest(&mut self) -> bool {
        self.folds.wants_rest()
    }

    /// Folds back what was written meanwhile, so that the log begins anew.
    pub(crate) async fn finish_log(&mut self) {
        log::checkpoint(&mut self.connection).await;
    }
}
