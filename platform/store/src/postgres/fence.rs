//! The fence of a store that one process owns at a time: an epoch, raised by each new owner, that every commit asks for.
//!
//! The epoch is one row in the store's own schema. A commit locks that row for sharing when it begins, a new owner updates
//! it: so the new owner waits for the commit under way, and every later commit of the old owner finds another epoch and
//! changes nothing. No clock takes part, and nothing but row locks is asked of the database.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Fault, Postgres, Work};
use crate::error::OpenError;

/// Raises the epoch of the database's schema to `epoch`, which must not be less than what stands there.
pub(crate) async fn raise(database: &Postgres, epoch: i64) -> Result<(), OpenError> {
    let connect = |fault: Fault| match fault {
        Fault::Fenced => OpenError::Fenced { epoch },
        fault => OpenError::Connect {
            path: "PostgreSQL".to_owned(),
            reason: fault.into_commit().to_string(),
        },
    };
    database.repeat(&mut Raise(epoch)).await.map_err(connect)
}

struct Raise(i64);

impl Work for Raise {
    type Out = ();

    async fn run(&mut self, connection: &mut PgConnection) -> Result<(), Fault> {
        let fault = |error: sqlx::Error| Fault::of("fence", &error);
        sqlx::raw_sql(
            "CREATE TABLE IF NOT EXISTS store_fence (one BIGINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL); \
             INSERT INTO store_fence VALUES (1, 0) ON CONFLICT (one) DO NOTHING",
        )
        .execute(&mut *connection)
        .await
        .map_err(fault)?;
        let raised = sqlx::query("UPDATE store_fence SET epoch = $1 WHERE one = 1 AND epoch <= $1")
            .bind(self.0)
            .execute(connection)
            .await
            .map_err(fault)?;
        if raised.rows_affected() == 1 {
            Ok(())
        } else {
            Err(Fault::Fenced)
        }
    }
}

/// The first statement of each commit of an owned store.
pub(crate) async fn check(connection: &mut PgConnection, epoch: Option<i64>) -> Result<(), Fault> {
    let Some(epoch) = epoch else { return Ok(()) };
    let found = sqlx::query("SELECT epoch FROM store_fence WHERE one = 1 AND epoch = $1 FOR SHARE")
        .bind(epoch)
        .fetch_optional(connection)
        .await
        .map_err(|error| Fault::of("fence", &error))?;
    found.map(drop).ok_or(Fault::Fenced)
}

/// As [`check`], and nobody else has the row until the transaction ends.
pub(super) async fn hold(connection: &mut PgConnection, epoch: i64) -> Result<(), Fault> {
    let found = sqlx::query("SELECT epoch FROM store_fence WHERE one = 1 AND epoch = $1 FOR UPDATE")
        .bind(epoch)
        .fetch_optional(connection)
        .await
        .map_err(|error| Fault::of("fence", &error))?;
    found.map(drop).ok_or(Fault::Fenced)
}

/// Makes the schema when it is not there. Nodes that do so at the same time do not mind each other.
pub(crate) async fn make_schema(database: &Postgres, schema: &str) -> Result<(), OpenError> {
    let mut making = Make(format!("CREATE SCHEMA IF NOT EXISTS {schema}"));
    let made = match database.repeat(&mut making).await {
        // Somebody else made it at this very moment.
        Err(Fault::Conflict { .. }) => database.repeat(&mut making).await,
        made => made,
    };
    made.map_err(|fault| OpenError::Connect {
        path: format!("schema {schema}"),
        reason: fault.into_commit().to_string(),
    })
}

/// A text made of constants and of a checked name.
struct Make(String);

impl Work for Make {
    type Out = ();

    async fn run(&mut self, connection: &mut PgConnection) -> Result<(), Fault> {
        sqlx::raw_sql(AssertSqlSafe(self.0.clone()))
            .execute(connection)
            .await
            .map_err(|error| Fault::of("schema", &error))?;
        Ok(())
    }
}
