//! Schema steps: each subsystem brings its own, each is applied once, in order, in a transaction of its own.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row as _, SqliteConnection};

use crate::error::OpenError;
use crate::postgres::{FATES_TABLE, Fault, Postgres, Work};
use crate::unit::Row;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (subsystem TEXT NOT NULL, version INTEGER NOT NULL, \
     fingerprint INTEGER NOT NULL, PRIMARY KEY (subsystem, version))";

/// One step of a subsystem's schema. A step that was released is never edited: the next one mends it.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Whose tables, for example `queue`.
    pub subsystem: &'static str,
    /// The step, from 1 without gaps.
    pub version: i64,
    /// One or more SQL statements for SQLite.
    pub sql: &'static str,
    /// The same for PostgreSQL; empty where the subsystem does not run on it.
    pub postgres: &'static str,
}

impl Migration {
    /// FNV-1a of the text: tells an edited step from the one that was applied.
    fn fingerprint(text: &str) -> i64 {
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        i64::from_ne_bytes(hash.to_ne_bytes())
    }
}

pub(crate) async fn migrate_sqlite(
    connection: &mut SqliteConnection,
    migrations: &[Migration],
) -> Result<(), OpenError> {
    let table = Migration {
        subsystem: "store",
        version: 0,
        sql: TABLE,
        postgres: TABLE,
    };
    apply(connection, &table, false).await?;
    let applied = applied(connection)
        .await
        .map_err(|error| failed(&table, &error))?;
    for step in missing(&applied, migrations, |step| step.sql)? {
        apply(connection, step, true).await?;
    }
    Ok(())
}

/// The steps that the file lacks; it is left as it is.
pub(crate) async fn unapplied<'a>(
    connection: &mut SqliteConnection,
    migrations: &'a [Migration],
) -> Result<Vec<&'a Migration>, OpenError> {
    let applied = applied(connection).await.map_err(|error| OpenError::Connect {
        path: "the file".to_owned(),
        reason: format!("it is no store: {error}"),
    })?;
    missing(&applied, migrations, |step| step.sql)
}

/// The steps that a PostgreSQL schema lacks, of which these rows (subsystem, version, fingerprint) are applied.
pub(crate) fn unapplied_of<'a>(
    rows: &[Row],
    migrations: &'a [Migration],
) -> Result<Vec<&'a Migration>, OpenError> {
    let read = |row: &Row| Some(((row.text(0)?.to_owned(), row.int(1)?), row.int(2)?));
    let applied = rows.iter().filter_map(read).collect();
    missing(&applied, migrations, |step| step.postgres)
}

/// The steps that are not applied yet.
fn missing<'a>(
    applied: &BTreeMap<(String, i64), i64>,
    migrations: &'a [Migration],
    text: impl Fn(&Migration) -> &'static str,
) -> Result<Vec<&'a Migration>, OpenError> {
    for (subsystem, version) in applied.keys() {
        if !migrations
            .iter()
            .any(|known| known.subsystem == subsystem && known.version == *version)
        {
            return Err(OpenError::Unknown {
                subsystem: subsystem.clone(),
                version: *version,
                problem: "does not know",
            });
        }
    }
    let mut missing = Vec::new();
    for step in migrations {
        match applied.get(&(step.subsystem.to_owned(), step.version)) {
            None => missing.push(step),
            Some(&fingerprint) if fingerprint == Migration::fingerprint(text(step)) => {}
            Some(_) => {
                return Err(OpenError::Unknown {
                    subsystem: step.subsystem.to_owned(),
                    version: step.version,
                    problem: "has with another text",
                });
            }
        }
    }
    Ok(missing)
}

/// All missing steps in one transaction, which changes nothing when it is repeated. Nodes that start at the same time
/// take turns.
pub(crate) async fn migrate_postgres(database: &Postgres, migrations: &[Migration]) -> Result<(), OpenError> {
    let connect = |fault: Fault| OpenError::Connect {
        path: "PostgreSQL".to_owned(),
        reason: fault.into_commit().to_string(),
    };
    let mut steps = Steps(migrations);
    database.repeat(&mut steps).await.map_err(connect)?
}

struct Steps<'a>(&'a [Migration]);

impl Work for Steps<'_> {
    type Out = Result<(), OpenError>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Self::Out, Fault> {
        let fault = |error: sqlx::Error| Fault::of("migrate", &error);
        // Whoever comes second waits for the row, or for the table when it is new: a lock that every database has.
        let turn = sqlx::raw_sql(
            "CREATE TABLE IF NOT EXISTS schema_turn (turn INTEGER PRIMARY KEY); \
             INSERT INTO schema_turn AS held VALUES (1) ON CONFLICT (turn) DO UPDATE SET turn = held.turn; \
             CREATE TABLE IF NOT EXISTS schema_migrations (subsystem TEXT NOT NULL, version BIGINT NOT NULL, \
             fingerprint BIGINT NOT NULL, PRIMARY KEY (subsystem, version))",
        );
        if let Err(error) = turn.execute(&mut *connection).await {
            return Err(if is_made_meanwhile(&error) {
                Fault::Again(error.to_string())
            } else {
                fault(error)
            });
        }
        sqlx::raw_sql(FATES_TABLE)
            .execute(&mut *connection)
            .await
            .map_err(fault)?;
        let rows = sqlx::query("SELECT subsystem, version, fingerprint FROM schema_migrations")
            .fetch_all(&mut *connection)
            .await
            .map_err(fault)?;
        let read = |row: &sqlx::postgres::PgRow| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?));
        let applied = rows.iter().map(read).collect::<Result<_, _>>().map_err(fault)?;
        let missing = match missing(&applied, self.0, |step| step.postgres) {
            Ok(missing) => missing,
            Err(error) => return Ok(Err(error)),
        };
        for step in missing {
            let run = async {
                sqlx::raw_sql(AssertSqlSafe(step.postgres))
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("INSERT INTO schema_migrations VALUES ($1, $2, $3)")
                    .bind(step.subsystem)
                    .bind(step.version)
                    .bind(Migration::fingerprint(step.postgres))
                    .execute(&mut *connection)
                    .await
            };
            if let Err(error) = run.await {
                let fault = Fault::of(step.subsystem, &error);
                return if matches!(fault, Fault::Lost(_) | Fault::Again(_)) {
                    Err(fault)
                } else {
                    // The transaction cannot go on: what was done of it is rolled back by its commit.
                    Ok(Err(failed(step, &error)))
                };
            }
        }
        Ok(Ok(()))
    }
}

/// Not even IF NOT EXISTS lets two at the same time make one table.
fn is_made_meanwhile(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    // unique violation (in the catalogue), duplicate table, duplicate object
    matches!(code.as_deref(), Some("23505" | "42P07" | "42710"))
}

async fn applied(connection: &mut SqliteConnection) -> Result<BTreeMap<(String, i64), i64>, sqlx::Error> {
    let rows = sqlx::query("SELECT subsystem, version, fingerprint FROM schema_migrations")
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?)))
        .collect()
}

async fn apply(connection: &mut SqliteConnection, step: &Migration, record: bool) -> Result<(), OpenError> {
    let run = async {
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(AssertSqlSafe(step.sql))
            .execute(&mut *transaction)
            .await?;
        if record {
            sqlx::query("INSERT INTO schema_migrations VALUES (?, ?, ?)")
                .bind(step.subsystem)
                .bind(step.version)
                .bind(Migration::fingerprint(step.sql))
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    };
    run.await.map_err(|error| failed(step, &error))
}

fn failed(step: &Migration, error: &sqlx::Error) -> OpenError {
    OpenError::Migrate {
        subsystem: step.subsystem,
        version: step.version,
        reason: error.to_string(),
    }
}
