//! Groups of units on PostgreSQL: one transaction, statements over arrays, savepoints when one of them conflicts.

use std::collections::HashMap;

use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, PgConnection};

use super::translate::{named_types, type_of, unnest};
use super::values::Uuid;
use super::{Fault, Postgres, Work, control, fence};
use crate::error::CommitError;
use crate::statement::{Expect, Placed, Statement, sorted};
use crate::unit::{Cell, Rows};

/// What each unit of a group came to.
type Outcomes = Vec<Result<(), CommitError>>;
/// A statement with the types of its columns: one text each.
type Shape = (&'static str, Vec<Option<&'static str>>);

/// Commits groups of units.
#[derive(Debug)]
pub(crate) struct Groups {
    database: Postgres,
    texts: HashMap<Shape, &'static str>,
    /// The epoch each group asks for first.
    epoch: Option<i64>,
}

impl Groups {
    pub(crate) fn new(database: Postgres, epoch: Option<i64>) -> Self {
        Self {
            database,
            texts: HashMap::new(),
            epoch,
        }
    }

    /// Commits the group; when one of it conflicts, each unit behind a savepoint of its own: still one fsync for those
    /// that fit.
    pub(crate) async fn commit(&mut self, group: &[Rows]) -> Result<Outcomes, CommitError> {
        let database = self.database.clone();
        let mut together = Together {
            texts: &mut self.texts,
            group,
            epoch: self.epoch,
        };
        match database.transact(&mut together).await {
            Err(Fault::Conflict { .. }) => {}
            Err(fault) => return Err(fault.into_commit()),
            Ok(()) => return Ok(vec![Ok(()); group.len()]),
        }
        let mut apart = Apart {
            texts: &mut self.texts,
            group,
            epoch: self.epoch,
        };
        database.transact(&mut apart).await.map_err(Fault::into_commit)
    }
}

struct Together<'a> {
    texts: &'a mut HashMap<Shape, &'static str>,
    group: &'a [Rows],
    epoch: Option<i64>,
}

impl Work for Together<'_> {
    type Out = ();

    async fn run(&mut self, connection: &mut PgConnection) -> Result<(), Fault> {
        fence::check(connection, self.epoch).await?;
        let rows = sorted(self.group);
        for same in rows.chunk_by(|a, b| std::ptr::eq(a.0, b.0) || a.0.name == b.0.name) {
            execute(self.texts, connection, same, self.group).await?;
        }
        Ok(())
    }
}

struct Apart<'a> {
    texts: &'a mut HashMap<Shape, &'static str>,
    group: &'a [Rows],
    epoch: Option<i64>,
}

impl Work for Apart<'_> {
    type Out = Outcomes;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Outcomes, Fault> {
        fence::check(connection, self.epoch).await?;
        let mut outcomes = Vec::with_capacity(self.group.len());
        for unit in self.group {
            control(connection, "SAVEPOINT unit").await?;
            let outcome = match alone(self.texts, connection, std::slice::from_ref(unit)).await {
                Ok(()) => Ok(()),
                Err(conflict @ Fault::Conflict { .. }) => {
                    control(connection, "ROLLBACK TO unit").await?;
                    Err(conflict.into_commit())
                }
                Err(fault) => return Err(fault),
            };
            control(connection, "RELEASE unit").await?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}

/// One unit, row by row: a statement may name a key twice, and rows are taken in order.
async fn alone(
    texts: &mut HashMap<Shape, &'static str>,
    connection: &mut PgConnection,
    unit: &[Rows],
) -> Result<(), Fault> {
    for row in sorted(unit).chunks(1) {
        execute(texts, connection, row, unit).await?;
    }
    Ok(())
}

/// Executes rows of one statement at once.
async fn execute(
    texts: &mut HashMap<Shape, &'static str>,
    connection: &mut PgConnection,
    rows: &[Placed],
    units: &[Rows],
) -> Result<(), Fault> {
    let Some(&(statement, ..)) = rows.first() else {
        return Ok(());
    };
    let mut types = named_types(statement.row);
    types.resize(statement.cells, None);
    for (at, kind) in types.iter_mut().enumerate() {
        let mut cells = rows
            .iter()
            .map(|&(_, unit, start)| &units[unit].cells[start + at]);
        *kind = cells.find_map(type_of).or(*kind);
    }
    let mut arguments = PgArguments::default();
    for (at, kind) in types.iter().enumerate() {
        if let Some(kind) = kind {
            let cells = rows
                .iter()
                .map(|&(_, unit, start)| &units[unit].cells[start + at]);
            bind_column(&mut arguments, kind, cells);
        }
    }
    let text = *texts
        .entry((statement.name, types))
        .or_insert_with_key(|(_, types)| unnest(statement, types).leak());
    let done = sqlx::query_with(text, arguments)
        .execute(connection)
        .await
        .map_err(|error| Fault::of(statement.name, &error))?;
    check(statement, rows.len(), done.rows_affected())
}

fn check(statement: &Statement, rows: usize, changed: u64) -> Result<(), Fault> {
    if statement.expect == Expect::Each && u64::try_from(rows) != Ok(changed) {
        return Err(Fault::Conflict {
            statement: statement.name,
            reason: format!("{rows} rows given, {changed} changed"),
        });
    }
    Ok(())
}

/// One column of all rows as an array. A cell of another type than its column is NULL: columns have one type.
fn bind_column<'a>(arguments: &mut PgArguments, kind: &str, cells: impl Iterator<Item = &'a Cell>) {
    match kind {
        "bigint" => {
            let int = |cell: &Cell| {
                if let Cell::Int(value) = cell {
                    Some(*value)
                } else {
                    None
                }
            };
            arguments.add(cells.map(int).collect::<Vec<_>>())
        }
        "uuid" => {
            let id = |cell: &Cell| {
                if let Cell::Id(value) = cell {
                    Some(Uuid(*value))
                } else {
                    None
                }
            };
            arguments.add(cells.map(id).collect::<Vec<_>>())
        }
        "bytea" => {
            let bytes = |cell: &'a Cell| match cell {
                Cell::Blob(value) => Some(value.as_slice()),
                Cell::Id(value) => Some(value.as_slice()),
                Cell::Null | Cell::Int(_) | Cell::Text(_) => None,
            };
            arguments.add(cells.map(bytes).collect::<Vec<_>>())
        }
        _ => {
            let text = |cell: &'a Cell| {
                if let Cell::Text(value) = cell {
                    Some(&**value)
                } else {
                    None
                }
            };
            arguments.add(cells.map(text).collect::<Vec<_>>())
        }
    }
    .expect("integers, texts and bytes always encode");
}
