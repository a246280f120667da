//! SQLite itself: how connections are opened, rows bound and read, and errors translated.

mod groups;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Either, Executor as _, Row as _,
    SqliteConnection, TypeInfo as _, ValueRef as _,
};

use crate::error::CommitError;
use crate::statement::{Expect, Placed, Statement, sorted};
use crate::unit::{Cell, Row, Rows};
pub(crate) use groups::Groups;

/// Rows of one execution. Sizes are powers of two up to this, so that the cache of prepared statements stays small
/// and a group of any size takes few executions.
const ROWS_PER_EXECUTION_MAX: usize = 256;
/// SQLite's own limit is 32,766 variables in a statement.
const CELLS_PER_EXECUTION_MAX: usize = 32_000;
/// All statements in all sizes stay prepared, and the texts of the small groups that come again and again.
const PREPARED_MAX: usize = 2_048;
/// A group of at most so many rows is sent as one text. Larger groups vary too much in shape to stay prepared.
const ROWS_AT_ONCE_MAX: usize = 12;
const BEGIN: &str = "BEGIN IMMEDIATE";
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
        self.texts
            .entry((statement.name, rows))
            .or_insert_with(|| statement.sql(rows).leak())
    }

    /// Begins a transaction and executes all rows of `units` grouped by statement.
    pub(crate) async fn begin(
        &mut self,
        connection: &mut SqliteConnection,
        units: &[Rows],
    ) -> Result<(), CommitError> {
        let rows = sorted(units);
        let steps = steps(&rows);
        if rows.len() <= ROWS_AT_ONCE_MAX {
            return self.execute_at_once(connection, &steps, units).await;
        }
        sqlx::query(BEGIN)
            .execute(&mut *connection)
            .await
            .map_err(|error| translate("transaction", &error))?;
        for step in steps {
            self.execute_step(connection, step, units).await?;
        }
        Ok(())
    }

    /// Executes all rows of one unit within a transaction.
    pub(crate) async fn execute(
        &mut self,
        connection: &mut SqliteConnection,
        unit: &Rows,
    ) -> Result<(), CommitError> {
        let units = std::slice::from_ref(unit);
        for step in steps(&sorted(units)) {
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

    /// A small group is one text, begin included: one round trip to the connection's thread, where each costs some
    /// 20 to 50 microseconds, more than the statements themselves.
    async fn execute_at_once(
        &mut self,
        connection: &mut SqliteConnection,
        steps: &[Step<'_>],
        units: &[Rows],
    ) -> Result<(), CommitError> {
        let mut text = BEGIN.to_owned();
        let mut arguments = SqliteArguments::default();
        for &step in steps {
            text.push(';');
            text.push_str(self.text(step.0, step.1.len()));
            bind_rows(&mut arguments, step, units);
        }
        let mut answers = connection.fetch_many(sqlx::query_with(AssertSqlSafe(text), arguments));
        // The first answer is that of BEGIN, the others come in the order of the steps.
        let mut current = None;
        let mut upcoming = steps.iter();
        while let Some(answer) = answers.next().await {
            let statement = upcoming
                .as_slice()
                .first()
                .map_or("transaction", |step| step.0.name);
            let Either::Left(done) = answer.map_err(|error| {
                translate(
                    if current.is_some() {
                        statement
                    } else {
                        "transaction"
                    },
                    &error,
                )
            })?
            else {
                continue;
            };
            if current.is_some()
                && let Some((statement, rows)) = upcoming.next()
            {
                check(statement, rows.len(), done.rows_affected())?;
            }
            current = Some(());
        }
        Ok(())
    }
}

/// Rows of one statement that are executed at once.
type Step<'a> = (&'static Statement, &'a [Placed]);

fn steps(rows: &[Placed]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = rows;
    while let Some(&(statement, ..)) = rest.first() {
        let same = rest
            .iter()
            .take_while(|(other, ..)| other.name == statement.name)
            .count();
        let most = ROWS_PER_EXECUTION_MAX.min(prev_power_of_two(
            CELLS_PER_EXECUTION_MAX / statement.cells.max(1),
        ));
        let (now, later) = rest.split_at(prev_power_of_two(same).min(most));
        steps.push((statement, now));
        rest = later;
    }
    steps
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
