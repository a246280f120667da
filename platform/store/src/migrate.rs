//! Schema steps: each subsystem brings its own, each is applied once, in order, in a transaction of its own.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, Row as _, SqliteConnection};

use crate::error::OpenError;

/// One step of a subsystem's schema. A step that was released is never edited: the next one mends it.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Whose tables, for example `queue`.
    pub subsystem: &'static str,
    /// The step, from 1 without gaps.
    pub version: i64,
    /// One or more SQL statements.
    pub sql: &'static str,
}

impl Migration {
    /// FNV-1a of the text: tells an edited step from the one that was applied.
    fn fingerprint(&self) -> i64 {
        let hash = self.sql.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        i64::from_ne_bytes(hash.to_ne_bytes())
    }
}

pub(crate) async fn migrate(
    connection: &mut SqliteConnection,
    migrations: &[Migration],
) -> Result<(), OpenError> {
    let table = Migration {
        subsystem: "store",
        version: 0,
        sql: "CREATE TABLE IF NOT EXISTS schema_migrations (subsystem TEXT NOT NULL, version INTEGER NOT NULL, \
              fingerprint INTEGER NOT NULL, PRIMARY KEY (subsystem, version))",
    };
    apply(connection, &table, false).await?;
    let applied = applied(connection)
        .await
        .map_err(|error| failed(&table, &error))?;
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
    for step in migrations {
        match applied.get(&(step.subsystem.to_owned(), step.version)) {
            None => apply(connection, step, true).await?,
            Some(&fingerprint) if fingerprint == step.fingerprint() => {}
            Some(_) => {
                let subsystem = step.subsystem.to_owned();
                return Err(OpenError::Unknown {
                    subsystem,
                    version: step.version,
                    problem: "has with another text",
                });
            }
        }
    }
    Ok(())
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
                .bind(step.fingerprint())
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
