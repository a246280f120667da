//! SQLite itself: how connections are opened, rows bound and read, and errors translated.

mod groups;
mod log;
mod packed;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Row as _, SqliteConnection,
    TypeInfo as _, ValueRef as _,
};

use crate::error::CommitError;
use crate::statement::{Expect, Placed, Statement, sorted};
use crate::unit::{Cell, Row, Rows};
pub(crate) use groups::Groups;
use packed::Packed;

/// Rows of one execution where rows cannot be packed, or are executed apart. Sizes are powers of two up to this, so that
/// the cache of prepared statements stays small.
const ROWS_PER_EXECUTION_MAX: usize = 256;
/// SQLite's own limit is 32,766 variables in a statement.
const CELLS_PER_EXECUTION_MAX: usize = 32_000;
/// Groups differ in which statements they have and which of their columns hold NULLs: some dozens of texts.
const PREPARED_MAX: usize = 256;
/// Rows that the connection's thread reads before whoever asked has taken the first: each time it waits costs two switches of
/// threads.
const ROWS_AHEAD: usize = 1_024;
const BEGIN: &str = "BEGIN IMMEDIATE";
const COMMIT: &str = "COMMIT";
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
        .row_buffer_size(ROWS_AHEAD)
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
        self.texts
            .entry((statement.name, rows))
            .or_insert_with(|| statement.sql(rows).leak())
    }

    /// Commits all rows of `units` in one transaction. After an error it may be open still.
    pub(crate) async fn commit(
        &mut self,
        connection: &mut SqliteConnection,
        units: &[Rows],
    ) -> Result<(), CommitError> {
        let rows = sorted(units);
        let steps = packable(&rows, units);
        // As a rule all of it is one text: each round trip to the connection's thread costs two switches of threads.
        if rows.len() <= packed::ROWS_MAX {
            let mut whole = Packed::default();
            whole.control(BEGIN);
            if steps.iter().all(|&step| whole.add(step, units)) {
                whole.control(COMMIT);
                return whole.execute(connection).await;
            }
        }
        control(connection, BEGIN).await?;
        for step in steps {
            let mut alone = Packed::default();
            if alone.add(step, units) {
                alone.execute(connection).await?;
            } else {
                for step in listed(step.1) {
                    self.execute_step(connection, step, units).await?;
                }
            }
        }
        control(connection, COMMIT).await
    }

    /// Executes all rows of one unit within a transaction.
    pub(crate) async fn execute(
        &mut self,
        connection: &mut SqliteConnection,
        unit: &Rows,
    ) -> Result<(), CommitError> {
        let units = std::slice::from_ref(unit);
        for step in listed(&sorted(units)) {
            self.execute_step(connection, step, units).await?;
        }
        Ok(())
    }

    async fn execute_step(
        &mut self,
        connection: &mut SqliteConnection,
        step: Step<'_>,
        units: &[Rows],
    ) -> Result<(), CommitError> {
        let (statement, rows) = step;
        let mut arguments = SqliteArguments::default();
        bind_rows(&mut arguments, step, units);
        let text = self.text(statement, rows.len());
        let done = sqlx::query_with(text, arguments)
            .execute(&mut *connection)
            .await
            .map_err(|error| translate(statement.name, &error))?;
        check(statement, rows.len(), done.rows_affected())
    }
}

/// Rows of one statement that are executed at once.
type Step<'a> = (&'static Statement, &'a [Placed]);

/// All rows, as many as can be packed in each step.
fn packable<'a>(rows: &'a [Placed], units: &[Rows]) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for same in rows.chunk_by(|a, b| a.0.name == b.0.name) {
        let mut rest = same;
        while let Some(&(statement, ..)) = rest.first() {
            let (now, later) = rest.split_at(packed::fitting(rest, units));
            steps.push((statement, now));
            rest = later;
        }
    }
    steps
}

/// All rows, as many as a list of values takes in each step.
fn listed(rows: &[Placed]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for same in rows.chunk_by(|a, b| a.0.name == b.0.name) {
        let mut rest = same;
        while let Some(&(statement, ..)) = rest.first() {
            let most = ROWS_PER_EXECUTION_MAX.min(prev_power_of_two(
                CELLS_PER_EXECUTION_MAX / statement.cells.max(1),
            ));
            let (now, later) = rest.split_at(prev_power_of_two(rest.len()).min(most));
            steps.push((statement, now));
            rest = later;
        }
    }
    steps
}

/// Executes a statement without rows.
async fn control(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), CommitError> {
    sqlx::query(sql)
        .execute(connection)
        .await
        .map_err(|error| translate("transaction", &error))?;
    Ok(())
}

fn bind_rows(arguments: &mut SqliteArguments, (statement, rows): Step<'_>, units: &[Rows]) {
    arguments.reserve(rows.len() * statement.cells, 0);
    for &(_, unit, start) in rows {
        for cell in &units[unit].cells[start..start + statement.cells] {
            bind(arguments, cell);
        }
    }
}

fn check(statement: &Statement, rows: usize, changed: u64) -> Result<(), CommitError> {
    if statement.expect == Expect::Each && u64::try_from(rows) != Ok(changed) {
        return Err(CommitError::Conflict {
            statement: statement.name,
            reason: format!("{rows} rows given, {changed} changed"),
        });
    }
    Ok(())
}

/// The largest power of two not above `number`, at least one.
const fn prev_power_of_two(number: usize) -> usize {
    if number == 0 {
        1
    } else {
        1 << (usize::BITS - 1 - number.leading_zeros())
    }
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

pub(crate) async fn fetch(
    connection: &mut SqliteConnection,
    sql: &str,
    cells: &[Cell],
) -> Result<Vec<Row>, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    for cell in cells {
        bind(&mut arguments, cell);
    }
    // Every caller passes text made of constants; values travel as arguments.
    let rows = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments)
        .fetch_all(connection)
        .await?;
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
                    let column = row
                        .columns()
                        .get(at)
                        .map_or_else(String::new, |column| column.name().to_owned());
                    return Err(sqlx::Error::ColumnDecode {
                        index: column,
                        source: format!("unexpected type {other}").into(),
                    });
                }
            })
        })
        .collect::<Result<_, _>>()
        .map(Row)
}

pub(crate) fn translate(statement: &'static str, error: &sqlx::Error) -> CommitError {
    match error {
        sqlx::Error::Database(database)
            if database.is_unique_violation() || database.is_check_violation() =>
        {
            CommitError::Conflict {
                statement,
                reason: database.message().to_owned(),
            }
        }
        other => CommitError::Unavailable {
            reason: other.to_string(),
        },
    }
}
