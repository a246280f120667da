//! A store that changes its database: its schema is copied, and where it was a grave is left.
//!
//! Whoever does so owns the store with an epoch that is higher than any before. Its fence stands at the source first, so
//! nobody writes there any more; then the target is made anew under the same epoch, filled in one transaction, and nothing
//! counts until the caller has said elsewhere, once and for all, where the store is. Whatever ends in between, the source
//! is as it was, and the next owner begins again.
//!
//! A *grave* is a schema of the store's name with nothing but a fence of the highest epoch (and what a transaction needs to
//! come so far): an earlier owner that still works is refused by it, and so is one that opens the store late, which would
//! make an empty one otherwise. Beside it stands the epoch with which the store left, so that only a later owner brings it
//! back.

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{FATES_TABLE, Fault, Postgres, Work, control, fence};
use crate::error::{OpenError, QueryError};
use crate::migrate::{Migration, migrate_postgres};

/// The epoch of a grave: nobody's is higher.
const NEVER: i64 = i64::MAX;
/// What belongs to a database and not to the store that is copied.
const OWN: &str = "('store_fence', 'store_fates', 'schema_migrations', 'schema_turn')";
/// How long a schema that was set aside is waited for when somebody still reads it; it is tried again later.
const DROP_WAIT: &str = "SET LOCAL lock_timeout = '3s'";
/// Bytes between two notes in the log.
const NOTE_BYTES: u64 = 1 << 30;

/// A schema in a PostgreSQL database.
#[derive(Clone)]
pub struct Site {
    database: Postgres,
    schema: String,
}

impl std::fmt::Debug for Site {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Site").field(&self.schema).finish()
    }
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Tables.
    pub tables: usize,
    /// Rows of all of them.
    pub rows: u64,
    /// Bytes on their way.
    pub bytes: u64,
}

/// Why a store could not be brought elsewhere. It is where it was.
#[derive(Debug, thiserror::Error)]
pub enum RelocateError {
    /// Somebody else owns it by now.
    #[error("the store belongs to another node by now")]
    Fenced,
    /// One of the databases did not do it.
    #[error("{side}: {reason}")]
    Failed {
        /// Where: `source` or `target`.
        side: &'static str,
        /// The database's own words.
        reason: String,
    },
}

impl RelocateError {
    fn at(side: &'static str, error: OpenError) -> Self {
        match error {
            OpenError::Fenced { .. } => Self::Fenced,
            error => Self::Failed {
                side,
                reason: error.to_string(),
            },
        }
    }

    fn of(side: &'static str, fault: Fault) -> Self {
        match fault {
            Fault::Fenced => Self::Fenced,
            fault => Self::Failed {
                side,
                reason: QueryError::from(fault).reason,
            },
        }
    }
}

impl Site {
    /// The schema of that name in the database at `url`; nothing is connected yet.
    ///
    /// # Errors
    /// When the URL is none.
    ///
    /// # Panics
    /// When the name has other characters than `a` to `z`, digits and `_`: names are made by the code.
    pub fn new(url: &str, schema: &str) -> Result<Self, OpenError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(schema.bytes().all(plain), "{schema} is no name of a schema");
        let database = Postgres::at(url, Some(schema), Some(1)).map_err(|_| OpenError::Connect {
            path: "the URL given".to_owned(),
            // The driver's words may quote it.
            reason: "it is no URL of a PostgreSQL database".to_owned(),
        })?;
        Ok(Self {
            database,
            schema: schema.to_owned(),
        })
    }

    /// Copies the store to `target` as the owner of `epoch`: afterwards both are the same, nobody with a lower epoch
    /// writes to either, and neither has changed hands. Before anything is read, `first` is executed at the source as one
    /// of the owner's commits.
    ///
    /// # Errors
    /// When a later owner has either, or a database does not do it; the source is as it was.
    ///
    /// # Cancel safety
    /// May be dropped; then the target is to be copied again.
    pub async fn copy_to(
        &self,
        target: &Self,
        epoch: i64,
        migrations: &[Migration],
        first: &'static str,
    ) -> Result<Copied, RelocateError> {
        let source = |error| RelocateError::at("source", error);
        fence::make_schema(&self.database, &self.schema)
            .await
            .map_err(source)?;
        fence::raise(&self.database, epoch).await.map_err(source)?;
        migrate_postgres(&self.database, migrations)
            .await
            .map_err(source)?;
        self.database
            .repeat(&mut First { epoch, sql: first })
            .await
            .map_err(|fault| RelocateError::of("source", fault))?;
        target
            .make_room(epoch)
            .await
            .map_err(|fault| RelocateError::of("target", fault))?;
        migrate_postgres(&target.database, migrations)
            .await
            .map_err(|error| RelocateError::at("target", error))?;
        self.fill(target, epoch).await
    }

    /// Makes the schema anew, with nothing but the fence of `epoch`.
    async fn make_room(&self, epoch: i64) -> Result<(), Fault> {
        self.database
            .repeat(&mut MakeRoom {
                schema: &self.schema,
                epoch,
            })
            .await
    }

    async fn fill(&self, target: &Self, epoch: i64) -> Result<Copied, RelocateError> {
        let at_source = |fault| RelocateError::of("source", fault);
        let at_target = |fault| RelocateError::of("target", fault);
        let mut from = self.database.connect().await.map_err(at_source)?;
        let mut to = target.database.connect().await.map_err(at_target)?;
        control(&mut from, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .await
            .map_err(at_source)?;
        control(&mut to, "BEGIN").await.map_err(at_target)?;
        fence::hold(&mut to, epoch).await.map_err(at_target)?;
        let tables = tables(&mut from, &self.schema).await.map_err(at_source)?;
        let there = self::tables(&mut to, &target.schema).await.map_err(at_target)?;
        if tables != there {
            return Err(RelocateError::Failed {
                side: "target",
                reason: "its tables are not those of the source".to_owned(),
            });
        }
        let mut copied = Copied {
            tables: tables.len(),
            rows: 0,
            bytes: 0,
        };
        for table in &tables {
            copy(&mut from, &mut to, table, &mut copied).await?;
        }
        positions(&mut from, &self.schema, &mut to, &target.schema).await?;
        control(&mut to, "COMMIT").await.map_err(at_target)?;
        Ok(copied)
    }

    /// Leaves a grave where the store is not, as the owner of `epoch`, and sets what is left of it there aside. Where
    /// there is nothing, a grave is made only when `always`. What a later owner has is left alone.
    ///
    /// # Errors
    /// When the database does not do it.
    pub async fn bury(&self, epoch: i64, always: bool) -> Result<(), QueryError> {
        let mut burying = Bury {
            schema: &self.schema,
            epoch,
            always,
        };
        self.database.repeat(&mut burying).await?;
        Ok(())
    }

    /// Removes what graves and copies have set aside. Somebody who read it before may hold it for a while; then it stays
    /// until the next time.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn clear(&self) -> Result<(), QueryError> {
        let remains = self.database.repeat(&mut Remains(&self.schema)).await?;
        for name in remains {
            if let Err(fault) = self.database.repeat(&mut DropSchema(&name)).await {
                let reason = QueryError::from(fault).reason;
                tracing::info!(schema = name, reason, "an emptied schema is removed later");
            }
        }
        Ok(())
    }
}

/// What stands in a fence: the epoch, and with which one the store left when it is a grave. Held until the transaction
/// ends.
async fn stands(connection: &mut PgConnection, schema: &str) -> Result<Option<(i64, i64)>, Fault> {
    loop {
        let before = fence_of(connection, schema).await?;
        match before {
            None => return Ok(None),
            Some(None) => return Ok(Some((0, 0))),
            Some(Some(_)) => {}
        }
        let found = hold_fence(connection, schema).await?;
        // While it was waited for, the schema may have got another name, and another one its own.
        if fence_of(connection, schema).await? == before {
            return Ok(Some(found));
        }
    }
}

/// Which table is the fence of a schema of that name; nothing when there is no schema, or no fence in it.
async fn fence_of(connection: &mut PgConnection, schema: &str) -> Result<Option<Option<i64>>, Fault> {
    let fault = |error: sqlx::Error| Fault::of("grave", &error);
    let sql = "SELECT c.oid::bigint FROM pg_namespace n \
               LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'store_fence' AND c.relkind = 'r' \
               WHERE n.nspname::text = $1";
    let row = sqlx::query(sql)
        .bind(schema)
        .fetch_optional(connection)
        .await
        .map_err(fault)?;
    row.map(|row| row.try_get(0)).transpose().map_err(fault)
}

async fn hold_fence(connection: &mut PgConnection, schema: &str) -> Result<(i64, i64), Fault> {
    let fault = |error: sqlx::Error| Fault::of("grave", &error);
    let rows = sqlx::raw_sql(AssertSqlSafe(format!(
        "SELECT one, epoch FROM {schema}.store_fence ORDER BY one FOR UPDATE"
    )))
    .fetch_all(connection)
    .await
    .map_err(fault)?;
    let mut found = (0, 0);
    for row in rows {
        // The text protocol of raw statements.
        let read = |at: usize| row.try_get_unchecked::<i64, _>(at).map_err(fault);
        match read(0)? {
            1 => found.0 = read(1)?,
            _ => found.1 = read(1)?,
        }
    }
    Ok(found)
}

/// Gives the schema another name under which nobody looks for it.
async fn set_aside(connection: &mut PgConnection, schema: &str) -> Result<(), Fault> {
    let fault = |error: sqlx::Error| Fault::of("set aside", &error);
    let row = sqlx::query("SELECT substr(md5(random()::text), 1, 8)")
        .fetch_one(&mut *connection)
        .await
        .map_err(fault)?;
    let suffix: String = row.try_get(0).map_err(fault)?;
    run(
        connection,
        format!("ALTER SCHEMA {schema} RENAME TO {schema}_left_{suffix}"),
    )
    .await
}

/// Executes a text made of constants and of checked names.
async fn run(connection: &mut PgConnection, sql: String) -> Result<(), Fault> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map_err(|error| Fault::of("relocate", &error))?;
    Ok(())
}

struct First {
    epoch: i64,
    sql: &'static str,
}

impl Work for First {
    type Out = ();

    async fn run(&mut self, connection: &mut PgConnection) -> Result<(), Fault> {
        fence::check(connection, Some(self.epoch)).await?;
        run(connection, self.sql.to_owned()).await
    }
}

struct MakeRoom<'a> {
    schema: &'a str,
    epoch: i64,
}

impl Work for MakeRoom<'_> {
    type Out = ();

    async fn run(&mut self, connection: &mut PgConnection) -> Result<(), Fault> {
        let Self { schema, epoch } = self;
        if let Some((found, left)) = stands(connection, schema).await? {
            let later = if found == NEVER {
                left >= *epoch
            } else {
                found > *epoch
            };
            if later {
                return Err(Fault::Fenced);
            }
            set_aside(connection, schema).await?;
        }
        let made = format!(
            "CREATE SCHEMA {schema}; \
             CREATE TABLE {schema}.store_fence (one BIGINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL); \
             INSERT INTO {schema}.store_fence VALUES (1, {epoch})"
        );
        run(connection, made).await
    }
}

struct Bury<'a> {
    schema: &'a str,
    epoch: i64,
    always: bool,
}

impl Work for Bury<'_> {
    type Out = ();

    async fn run(&mut self, connection: &mut PgConnection) -> Result<(), Fault> {
        let Self {
            schema,
            epoch,
            always,
        } = self;
        match stands(connection, schema).await? {
            Some((found, _)) if found > *epoch => return Ok(()),
            Some((0, 0)) | None if !*always => return Ok(()),
            Some(_) => {
                // Whoever waits for the row finds it changed.
                let known = format!(
                    "CREATE TABLE IF NOT EXISTS {schema}.store_fence (one BIGINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL); \
                     UPDATE {schema}.store_fence SET epoch = {NEVER}"
                );
                run(connection, known).await?;
                set_aside(connection, schema).await?;
            }
            None => {}
        }
        let grave = format!(
            "CREATE SCHEMA {schema}; \
             CREATE TABLE {schema}.store_fence (one BIGINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL); \
             INSERT INTO {schema}.store_fence VALUES (1, {NEVER}), (2, {epoch}); {FATES_TABLE}"
        );
        run(connection, grave).await
    }
}

/// The schemas that were set aside.
struct Remains<'a>(&'a str);

impl Work for Remains<'_> {
    type Out = Vec<String>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Self::Out, Fault> {
        let fault = |error: sqlx::Error| Fault::of("remains", &error);
        let prefix = format!("{}_left_", self.0);
        let rows = sqlx::query("SELECT nspname::text FROM pg_namespace WHERE starts_with(nspname::text, $1)")
            .bind(prefix)
            .fetch_all(connection)
            .await
            .map_err(fault)?;
        let names = rows.iter().map(|row| row.try_get::<String, _>(0));
        names.collect::<Result<_, _>>().map_err(fault)
    }
}

struct DropSchema<'a>(&'a str);

impl Work for DropSchema<'_> {
    type Out = ();

    async fn run(&mut self, connection: &mut PgConnection) -> Result<(), Fault> {
        control(connection, DROP_WAIT).await?;
        let dropped = run(
            connection,
            format!("DROP SCHEMA IF EXISTS \"{}\" CASCADE", self.0),
        )
        .await;
        dropped.map_err(|fault| match fault {
            // Waited for long enough.
            Fault::Again(reason) => Fault::Refused(reason),
            fault => fault,
        })
    }
}

/// A table and its columns, as they stand in a text.
type Table = (String, String);

/// The tables to copy with their columns, both by name.
async fn tables(connection: &mut PgConnection, schema: &str) -> Result<Vec<Table>, Fault> {
    let fault = |error: sqlx::Error| Fault::of("tables", &error);
    let sql = format!(
        "SELECT c.relname::text, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attname) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
         WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname NOT IN {OWN} GROUP BY c.relname ORDER BY 1"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(schema)
        .fetch_all(connection)
        .await
        .map_err(fault)?;
    let read = |row: &sqlx::postgres::PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.iter().map(read).collect::<Result<_, _>>().map_err(fault)
}

/// Empties the table at the target and fills it with the rows of the source.
async fn copy(
    from: &mut PgConnection,
    to: &mut PgConnection,
    (table, columns): &Table,
    copied: &mut Copied,
) -> Result<(), RelocateError> {
    let source = |error: sqlx::Error| RelocateError::of("source", Fault::of("copy", &error));
    let target = |error: sqlx::Error| RelocateError::of("target", Fault::of("copy", &error));
    run(to, format!("DELETE FROM \"{table}\""))
        .await
        .map_err(|fault| RelocateError::of("target", fault))?;
    let row = sqlx::query(AssertSqlSafe(format!("SELECT count(*) FROM \"{table}\"")))
        .fetch_one(&mut *from)
        .await
        .map_err(source)?;
    let count: i64 = row.try_get(0).map_err(source)?;
    let mut rows = from
        .copy_out_raw(&format!(
            "COPY \"{table}\" ({columns}) TO STDOUT WITH (FORMAT binary)"
        ))
        .await
        .map_err(source)?;
    let mut taking = to
        .copy_in_raw(&format!(
            "COPY \"{table}\" ({columns}) FROM STDIN WITH (FORMAT binary)"
        ))
        .await
        .map_err(target)?;
    loop {
        let chunk = match rows.try_next().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                taking.abort("the source failed").await.ok();
                return Err(source(error));
            }
        };
        let before = copied.bytes / NOTE_BYTES;
        copied.bytes += u64::try_from(chunk.len()).unwrap_or(0);
        if copied.bytes / NOTE_BYTES > before {
            tracing::info!(table, bytes = copied.bytes, "a store is being copied");
        }
        taking.send(chunk).await.map_err(target)?;
    }
    let taken = taking.finish().await.map_err(target)?;
    if u64::try_from(count) != Ok(taken) {
        return Err(RelocateError::Failed {
            side: "target",
            reason: format!("{table} has {taken} rows there, and {count} at the source"),
        });
    }
    copied.rows += taken;
    Ok(())
}

/// Has the target's sequences go on where those of the source are.
async fn positions(
    from: &mut PgConnection,
    schema: &str,
    to: &mut PgConnection,
    there: &str,
) -> Result<(), RelocateError> {
    let source = |error: sqlx::Error| RelocateError::of("source", Fault::of("sequence", &error));
    let rows = sqlx::query(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relkind = 'S'",
    )
    .bind(schema)
    .fetch_all(&mut *from)
    .await
    .map_err(source)?;
    for row in rows {
        let name: String = row.try_get(0).map_err(source)?;
        let sql = format!("SELECT last_value, is_called FROM \"{name}\"");
        let row = sqlx::query(AssertSqlSafe(sql))
            .fetch_one(&mut *from)
            .await
            .map_err(source)?;
        let (last, called): (i64, bool) = (row.try_get(0).map_err(source)?, row.try_get(1).map_err(source)?);
        let set = format!("SELECT setval('{there}.\"{name}\"', {last}, {called})");
        run(to, set)
            .await
            .map_err(|fault| RelocateError::of("target", fault))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
