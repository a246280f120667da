//! One consistent look at a store while others write it: for checks and for copies.
//!
//! On SQLite a snapshot is a read transaction on a connection of its own: every read sees the same instant, nobody waits
//! for it, and the write-ahead log grows as long as it is held. On PostgreSQL each read of a store's snapshot stands for
//! itself; one that is opened by itself ([`Snapshot::of_database`]) is a transaction that sees one instant of all
//! schemas. Nothing is migrated and nothing can be written through it.

use std::path::Path;

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, SqliteConnection};

use crate::commit::Store;
use crate::driven::Record;
use crate::error::{OpenError, QueryError};
use crate::migrate::{Migration, unapplied, unapplied_of};
use crate::postgres::{self, Postgres};
use crate::sqlite::{self, connect_options};
use crate::unit::{Cell, Row};

/// What SQLite says of a page that cannot be one.
const MALFORMED: &str = "malformed";

/// A consistent view of a store; see the module. Dropped, it ends.
#[derive(Debug)]
pub struct Snapshot {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Sqlite(Box<SqliteConnection>),
    Postgres(Postgres),
    Instant(Box<PgConnection>),
    Driven(Record),
}

impl Store {
    /// What is durable at this instant, for as long as the answer is held.
    ///
    /// # Errors
    /// When the database cannot be opened once more.
    pub async fn snapshot(&self) -> Result<Snapshot, QueryError> {
        if let Some(record) = self.record() {
            return Ok(record.snapshot());
        }
        let source = match (self.path(), self.database()) {
            (Some(path), _) => Source::Sqlite(Box::new(begin(path).await?)),
            (None, Some(database)) => Source::Postgres(database.clone()),
            (None, None) => unreachable!("a store is a file or a database"),
        };
        Ok(Snapshot { source })
    }
}

impl Record {
    /// What stands in the record. It is one instant as long as no hand commits.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            source: Source::Driven(self.clone()),
        }
    }
}

impl Snapshot {
    /// A look at the SQLite file `path`, whoever writes it meanwhile.
    ///
    /// # Errors
    /// When the file is not there or is no store, or when its schema is not that of `migrations`: an earlier release has
    /// to be opened by a node first, a later one is unknown here.
    pub async fn open(path: &Path, migrations: &[Migration]) -> Result<Self, OpenError> {
        let connect = |reason: String| OpenError::Connect {
            path: path.display().to_string(),
            reason,
        };
        if !path.is_file() {
            return Err(connect("there is no such file".to_owned()));
        }
        let mut connection = begin(path).await.map_err(|error| connect(error.reason))?;
        let missing = unapplied(&mut connection, migrations).await?;
        if let Some(step) = missing.first() {
            return Err(connect(earlier(step)));
        }
        Ok(Self {
            source: Source::Sqlite(Box::new(connection)),
        })
    }

    /// A look at the PostgreSQL database at `url`, whoever writes it meanwhile: all schemas at one instant. Before it is
    /// read, [`Snapshot::enter`] one of them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn of_database(url: &str) -> Result<Self, OpenError> {
        let connection = postgres::instant(url).await.map_err(|error| OpenError::Connect {
            path: "PostgreSQL".to_owned(),
            reason: error.reason,
        })?;
        Ok(Self {
            source: Source::Instant(Box::new(connection)),
        })
    }

    /// Has every later read be of the tables in `schema`, a name made of constants.
    ///
    /// # Errors
    /// When there is no such schema, or its tables are not those of `migrations`, as for [`Snapshot::open`]; or this is
    /// no look at a whole database.
    pub async fn enter(&mut self, schema: &str, migrations: &[Migration]) -> Result<(), OpenError> {
        let connect = |reason: String| OpenError::Connect {
            path: format!("schema {schema}"),
            reason,
        };
        let Source::Instant(connection) = &mut self.source else {
            return Err(connect("this is no look at a whole database".to_owned()));
        };
        postgres::enter(connection, schema)
            .await
            .map_err(|error| connect(error.reason))?;
        let sql =
            "SELECT 1 FROM pg_tables WHERE schemaname::text = ? AND tablename::text = 'schema_migrations'";
        let known = self.fetch(sql, &[schema.into()]).await;
        if known.map_err(|error| connect(error.reason))?.is_empty() {
            return Err(connect("it is not there".to_owned()));
        }
        let sql = "SELECT subsystem, version, fingerprint FROM schema_migrations";
        let rows = self
            .fetch(sql, &[])
            .await
            .map_err(|error| connect(error.reason))?;
        match unapplied_of(&rows, migrations)?.first() {
            Some(step) => Err(connect(earlier(step))),
            None => Ok(()),
        }
    }

    /// Reads rows as [`Store::fetch`].
    ///
    /// # Errors
    /// When the database cannot answer.
    pub async fn fetch(&mut self, sql: &str, cells: &[Cell]) -> Result<Vec<Row>, QueryError> {
        match &mut self.source {
            Source::Sqlite(connection) => Ok(sqlite::fetch(connection, sql, cells).await?),
            Source::Postgres(database) => database.fetch(sql, cells).await,
            Source::Instant(connection) => postgres::fetch_on(connection, sql, cells).await,
            Source::Driven(record) => record.fetch(sql, cells),
        }
    }

    /// Whether this is a look at a SQLite file, or at one in memory.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        matches!(self.source, Source::Sqlite(_) | Source::Driven(_))
    }

    /// What the database itself finds wrong with its file, at most a hundred lines; nothing when it is sound. PostgreSQL is
    /// not asked.
    ///
    /// # Errors
    /// When the database cannot answer.
    pub async fn integrity(&mut self) -> Result<Vec<String>, QueryError> {
        if !self.is_file() {
            return Ok(Vec::new());
        }
        match self.fetch("PRAGMA integrity_check(100)", &[]).await {
            Ok(rows) => {
                let lines = rows.iter().filter_map(|row| row.text(0));
                Ok(lines.filter(|line| *line != "ok").map(str::to_owned).collect())
            }
            // It is broken so badly that the check itself stumbles.
            Err(error) if error.reason.contains(MALFORMED) => Ok(vec![error.reason]),
            Err(error) => Err(error),
        }
    }
}

fn earlier(step: &Migration) -> String {
    format!(
        "it was written by an earlier release (step {} {} is missing); start a node on it once",
        step.subsystem, step.version
    )
}

/// Writes a consistent copy of the SQLite file `from`, which may be written meanwhile, to the new file `to`.
///
/// # Errors
/// When `from` cannot be read or `to` cannot be written; what there is of `to` is to be thrown away.
pub async fn copy_file(from: &Path, to: &Path) -> Result<(), QueryError> {
    let failed = |reason: String| QueryError { reason };
    let target = to
        .to_str()
        .ok_or_else(|| failed(format!("{} is no text", to.display())))?;
    if !from.is_file() {
        return Err(failed(format!("there is no file {}", from.display())));
    }
    let mut connection = reading(from).connect().await?;
    sqlx::query("VACUUM INTO ?")
        .bind(target)
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

/// What the database finds wrong with the file `path`, of whatever release; nothing when it is sound.
///
/// # Errors
/// When the file is not there or no database.
pub async fn check_file(path: &Path) -> Result<Vec<String>, QueryError> {
    let mut connection = reading(path).connect().await?;
    let found = integrity(&mut connection).await;
    connection.close().await?;
    found
}

async fn integrity(connection: &mut SqliteConnection) -> Result<Vec<String>, QueryError> {
    match sqlite::fetch(connection, "PRAGMA integrity_check(100)", &[]).await {
        Ok(rows) => {
            let lines = rows.iter().filter_map(|row| row.text(0));
            Ok(lines.filter(|line| *line != "ok").map(str::to_owned).collect())
        }
        // It is broken so badly that the check itself stumbles.
        Err(error) if error.to_string().contains(MALFORMED) => Ok(vec![error.to_string()]),
        Err(error) => Err(error.into()),
    }
}

fn reading(path: &Path) -> sqlx::sqlite::SqliteConnectOptions {
    connect_options(path).create_if_missing(false)
}

async fn begin(path: &Path) -> Result<SqliteConnection, QueryError> {
    let mut connection = reading(path).pragma("query_only", "1").connect().await?;
    // The snapshot is taken by the first read of the transaction.
    for sql in ["BEGIN", "SELECT count(*) FROM sqlite_schema"] {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Expect, Statement};
    use crate::{StoreOptions, Unit};
    use celesta_runtime::{Clock, Shutdown, TaskSet};

    const NUMBERS: &[Migration] = &[Migration {
        subsystem: "numbers",
        version: 1,
        sql: "CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT",
        postgres: "",
    }];

    static INSERT: Statement = Statement {
        name: "numbers.insert",
        rank: 10,
        head: "INSERT INTO numbers (n) VALUES ",
        row: "(?)",
        tail: "",
        cells: 1,
        expect: Expect::Each,
    };

    async fn count(snapshot: &mut Snapshot) -> Option<i64> {
        let rows = snapshot.fetch("SELECT count(*) FROM numbers", &[]).await;
        rows.expect("the file reads").first().and_then(|row| row.int(0))
    }

    #[tokio::test]
    async fn a_snapshot_and_a_copy_stand_still_while_others_write() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("celesta.db");
        let tasks = TaskSet::new(Shutdown::new());
        let store = Store::open(&StoreOptions::at(&path), NUMBERS, &Clock::system(), &tasks)
            .await
            .expect("a new store");
        let add = async |n: i64| {
            let mut unit = Unit::new();
            unit.add(&INSERT, [Cell::Int(n)]);
            store.commit(unit).await.expect("durable");
        };
        add(1).await;
        let mut before = store.snapshot().await.expect("a snapshot");
        let copy = folder.path().join("copy.db");
        copy_file(&path, &copy).await.expect("a copy");
        add(2).await;
        let mut after = Snapshot::open(&path, NUMBERS).await.expect("a snapshot");
        let mut copied = Snapshot::open(&copy, NUMBERS).await.expect("a store of its own");
        assert_eq!(count(&mut before).await, Some(1));
        assert_eq!(count(&mut after).await, Some(2));
        assert_eq!(count(&mut copied).await, Some(1));
        assert_eq!(copied.integrity().await, Ok(Vec::new()));
        assert!(
            copy_file(&path, &copy).await.is_err(),
            "a copy overwrites nothing"
        );
        let other = Snapshot::open(&path, &[]).await;
        assert!(matches!(other, Err(OpenError::Unknown { .. })), "{other:?}");
    }
}
