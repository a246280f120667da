//! SQLite itself: how connections are opened, rows bound and read, and errors translated.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Row as _, SqliteConnection, TypeInfo as _, ValueRef as _};

use crate::error::CommitError;
use crate::statement::{Expect, Statement};
use crate::unit::{Cell, Row, Rows};

/// Rows of one execution. Sizes are powers of two up to this, so that the cache of prepared statements stays small
/// and a group of any size takes few executions.
const ROWS_PER_EXECUTION_MAX: usize = 256;
/// SQLite's own limit is 32,766 variables in a statement.
const CELLS_PER_EXECUTION_MAX: usize = 32_000;
/// All statements in all sizes stay prepared.
const PREPARED_MAX: usize = 1_024;
/// Another process that holds the file (a backup, a shell) is waited for this long.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_PATIENCE)
        .statement_cache_capacity(PREPARED_MAX)
        .foreign_keys(false)
        .pragma("temp_store", "memory")
        // The committer decides when to checkpoint, so that no commit waits for one.
        .pragma("wal_autocheckpoint", "0")
        // 64 MiB of pages: the live part of the tables under load.
        .pragma("cache_size", "-65536")
        .disable_statement_logging()
}

/// The writer: executes units on its connection.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    texts: HashMap<(&'static str, usize), &'static str>,
}

impl Writer {
    /// The SQL for that many rows, built once: there are at most nine sizes of each constant statement.
    fn text(&mut self, statement: &'static Statement, rows: usize) -> &'static str {
        self.texts.entry((statement.name, rows)).or_insert_with(|| statement.sql(rows).leak())
    }

    /// Executes all rows of `units` grouped by statement. The caller holds the transaction.
    pub(crate) async fn execute(&mut self, connection: &mut SqliteConnection, units: &[Rows]) -> Result<(), CommitError> {
        let mut rows: Vec<(&'static Statement, usize, usize)> = Vec::with_capacity(units.iter().map(|unit| unit.starts.len()).sum());
        for (at, unit) in units.iter().enumerate() {
            rows.extend(unit.starts.iter().map(|&(statement, start)| (statement, at, start)));
        }
        // Stable: rows of one statement stay in the order their units were submitted.
        rows.sort_by_key(|(statement, ..)| (statement.rank, statement.name));
        let mut rest = rows.as_slice();
        while let Some((statement, ..)) = rest.first() {
            let same = rest.iter().take_while(|(other, ..)| other.name == statement.name).count();
            let most = ROWS_PER_EXECUTION_MAX.min(prev_power_of_two(CELLS_PER_EXECUTION_MAX / statement.cells.max(1)));
            let count = prev_power_of_two(same).min(most);
            let (now, later) = rest.split_at(count);
            self.execute_rows(connection, statement, now, units).await?;
            rest = later;
        }
        Ok(())
    }

    async fn execute_rows(
        &mut self,
        connection: &mut SqliteConnection,
        statement: &'static Statement,
        rows: &[(&'static Statement, usize, usize)],
        units: &[Rows],
    ) -> Result<(), CommitError> {
        let mut arguments = SqliteArguments::default();
        arguments.reserve(rows.len() * statement.cells, 0);
        for &(_, unit, start) in rows {
            for cell in &units[unit].cells[start..start + statement.cells] {
                bind(&mut arguments, cell);
            }
        }
        let text = self.text(statement, rows.len());
        let done = sqlx::query_with(text, arguments)
            .execute(&mut *connection)
            .await
            .map_err(|error| translate(statement.name, &error))?;
        let changed = usize::try_from(done.rows_affected()).unwrap_or(usize::MAX);
        if statement.expect == Expect::Each && changed != rows.len() {
            return Err(CommitError::Conflict {
                statement: statement.name,
                reason: format!("{} rows given, {changed} changed", rows.len()),
            });
        }
        Ok(())
    }
}

/// The largest power of two not above `number`, at least one.
const fn prev_power_of_two(number: usize) -> usize {
    if number == 0 { 1 } else { 1 << (usize::BITS - 1 - number.leading_zeros()) }
}

/// Values of these kinds always encode, so the result carries nothing.
pub(crate) fn bind(arguments: &mut SqliteArguments, cell: &Cell) {
    match cell {
        Cell::Null => arguments.add(None::<i64>),
        Cell::Int(value) => arguments.add(*value),
        Cell::Text(value) => arguments.add(std::sync::Arc::clone(value)),
        Cell::Id(value) => arguments.add(value.as_slice()),
        Cell::Blob(value) => arguments.add(value.as_slice()),
    }
    .expect("integers, texts and bytes always encode");
}

pub(crate) async fn fetch(connection: &mut SqliteConnection, sql: &str, cells: &[Cell]) -> Result<Vec<Row>, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    for cell in cells {
        bind(&mut arguments, cell);
    }
    // Every caller passes text made of constants; values travel as arguments.
    let rows = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments).fetch_all(connection).await?;
    rows.iter().map(read_row).collect()
}

fn read_row(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    (0..row.columns().len())
        .map(|at| {
            let value = row.try_get_raw(at)?;
            if value.is_null() {
                return Ok(Cell::Null);
            }
            let type_info = value.type_info();
            Ok(match type_info.name() {
                "INTEGER" | "BOOLEAN" => Cell::Int(row.try_get_unchecked(at)?),
                "TEXT" => Cell::Text(row.try_get_unchecked::<String, _>(at)?.into()),
                "BLOB" => Cell::Blob(row.try_get_unchecked(at)?),
                other => {
                    let column = row.columns().get(at).map_or_else(String::new, |column| column.name().to_owned());
                    return Err(sqlx::Error::ColumnDecode { index: column, source: format!("unexpected type {other}").into() });
                }
            })
        })
        .collect::<Result<_, _>>()
        .map(Row)
}

pub(crate) fn translate(statement: &'static str, error: &sqlx::Error) -> CommitError {
    match error {
        sqlx::Error::Database(database) if database.is_unique_violation() || database.is_check_violation() => {
            CommitError::Conflict { statement, reason: database.message().to_owned() }
        }
        other => CommitError::Unavailable { reason: other.to_string() },
    }
}
