//! Many rows in one execution: each column of a statement travels as one packed value, and SQLite takes it apart.
//!
//! `VALUES (?, ?)` becomes `SELECT … AS column1, … AS column2 FROM temp.row_numbers WHERE place < ?`, where a column of ids is
//! `substr(?, place * 16 + 1, 16)`. The text does not depend on the number of rows. So a whole group, begin, checks and
//! commit included, is one prepared text and one round trip to the connection's thread, where each costs two switches
//! of threads: on a busy machine more than the statements themselves.
//!
//! Integers and places within a column travel as decimal digits of fixed width, since SQLite reads no binary numbers.

use std::fmt::Write as _;

use futures_util::StreamExt as _;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, Either, Executor as _, SqliteConnection};

use super::{Step, translate};
use crate::error::CommitError;
use crate::postgres::expressions;
use crate::statement::{Expect, Placed};
use crate::unit::{Cell, Rows};

/// Rows of one execution: as many as `temp.row_numbers` has.
pub(super) const ROWS_MAX: usize = 4_096;
/// Bytes of the packed columns of one execution: SQLite and the driver each hold a copy.
pub(super) const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Digits of an integer: those of the smallest one with its sign.
const INT_WIDTH: usize = 20;
/// Digits of a place or a length within a column, and the longest column they can say.
const PLACE_WIDTH: usize = 8;
const COLUMN_MAX: usize = 99_999_998;

/// What a connection needs that executes packed rows. A row in `mismatches` is a contradiction, so that a statement which
/// did not change each of its rows ends the text before the commit.
pub(super) const TABLES: &str = "
CREATE TEMP TABLE row_numbers (place INTEGER PRIMARY KEY);
WITH RECURSIVE upto (place) AS (SELECT 0 UNION ALL SELECT place + 1 FROM upto WHERE place < 4095)
INSERT INTO temp.row_numbers SELECT place FROM upto;
CREATE TEMP TABLE mismatches (changed INTEGER, CONSTRAINT each_row_changes_one CHECK (false));";
const CHECK: &str = "INSERT INTO temp.mismatches SELECT changes() WHERE changes() <> ?";

/// The kinds of cells in a column, a bit for each.
#[derive(Debug, Clone, Copy)]
struct Kinds(u8);

/// How a column travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Nulls,
    Ints { nullable: bool },
    Ids,
    Bytes { nullable: bool, text: bool },
}

impl Kinds {
    const NULL: u8 = 1;
    const INT: u8 = 2;
    const ID: u8 = 4;
    const BLOB: u8 = 8;
    const TEXT: u8 = 16;

    fn of<'a>(cells: impl Iterator<Item = &'a Cell>) -> Self {
        let bits = cells.map(|cell| match cell {
            Cell::Null => Self::NULL,
            Cell::Int(_) => Self::INT,
            Cell::Id(_) => Self::ID,
            Cell::Blob(_) => Self::BLOB,
            Cell::Text(_) => Self::TEXT,
        });
        Self(bits.fold(0, |all, one| all | one))
    }

    /// None when they do not go together, which no table of ours asks for.
    const fn packing(self) -> Option<Packing> {
        let nullable = self.0 & Self::NULL != 0;
        match self.0 & !Self::NULL {
            0 => Some(Packing::Nulls),
            Self::INT => Some(Packing::Ints { nullable }),
            Self::TEXT => Some(Packing::Bytes { nullable, text: true }),
            Self::ID if !nullable => Some(Packing::Ids),
            bytes if bytes & (Self::INT | Self::TEXT) == 0 => Some(Packing::Bytes {
                nullable,
                text: false,
            }),
            _ => None,
        }
    }
}

impl Packing {
    /// The expression of one cell.
    fn expression(self) -> String {
        let digits = |width: usize| format!("substr(?, place * {width} + 1, {width})");
        // What stands for NULL are blanks, which no number is.
        let or_null = |width: usize| format!("NULLIF({}, x'{}')", digits(width), "20".repeat(width));
        match self {
            Self::Nulls => "NULL".to_owned(),
            Self::Ints { nullable: false } => format!("CAST({} AS INTEGER)", digits(INT_WIDTH)),
            Self::Ints { nullable: true } => format!("CAST({} AS INTEGER)", or_null(INT_WIDTH)),
            Self::Ids => digits(16),
            Self::Bytes { nullable, text } => {
                let begin = if nullable {
                    or_null(PLACE_WIDTH)
                } else {
                    digits(PLACE_WIDTH)
                };
                let bytes = format!("substr(?, {begin}, {})", digits(PLACE_WIDTH));
                if text {
                    format!("CAST({bytes} AS TEXT)")
                } else {
                    bytes
                }
            }
        }
    }

    /// Adds the values the expression takes, in its order.
    fn bind<'a>(
        self,
        arguments: &mut SqliteArguments,
        cells: impl ExactSizeIterator<Item = &'a Cell> + Clone,
    ) {
        let rows = cells.len();
        match self {
            Self::Nulls => {}
            Self::Ints { .. } => {
                let mut packed = Vec::with_capacity(rows * INT_WIDTH);
                for cell in cells {
                    match cell {
                        Cell::Int(value) => {
                            push_digits::<INT_WIDTH>(&mut packed, value.unsigned_abs(), *value < 0);
                        }
                        _ => packed.extend_from_slice(&[b' '; INT_WIDTH]),
                    }
                }
                add(arguments, packed);
            }
            Self::Ids => {
                let mut packed = Vec::with_capacity(rows * 16);
                cells.for_each(|cell| packed.extend_from_slice(bytes_of(cell)));
                add(arguments, packed);
            }
            Self::Bytes { .. } => {
                let total: usize = cells.clone().map(|cell| bytes_of(cell).len()).sum();
                let mut packed = Vec::with_capacity(total + 1);
                let mut begins = Vec::with_capacity(rows * PLACE_WIDTH);
                let mut lengths = Vec::with_capacity(rows * PLACE_WIDTH);
                for cell in cells {
                    let bytes = bytes_of(cell);
                    if matches!(cell, Cell::Null) {
                        begins.extend_from_slice(&[b' '; PLACE_WIDTH]);
                    } else {
                        push_digits::<PLACE_WIDTH>(&mut begins, number(packed.len() + 1), false);
                    }
                    push_digits::<PLACE_WIDTH>(&mut lengths, number(bytes.len()), false);
                    packed.extend_from_slice(bytes);
                }
                // To SQLite a part of nothing is NULL and no empty value.
                packed.push(0);
                add(arguments, packed);
                add(arguments, begins);
                add(arguments, lengths);
            }
        }
    }
}

/// A text of packed statements with its values, and what each of its answers is about.
#[derive(Default)]
pub(super) struct Packed {
    text: String,
    arguments: SqliteArguments,
    answers: Vec<&'static str>,
}

impl Packed {
    /// Adds a statement without rows.
    pub(super) fn control(&mut self, sql: &str) {
        self.push("transaction", sql);
    }

    /// Adds the rows of a step; false when they cannot be packed, and then nothing was added.
    pub(super) fn add(&mut self, (statement, rows): Step<'_>, units: &[Rows]) -> bool {
        let column = |at: usize| rows.iter().map(move |row| cell(units, row, at));
        let packings = (0..statement.cells).map(|at| Kinds::of(column(at)).packing());
        let Some(packings) = packings.collect::<Option<Vec<_>>>() else {
            return false;
        };
        let Some(head) = statement.head.trim_end().strip_suffix("VALUES") else {
            return false;
        };
        // One row alone may be larger than what is executed at once.
        if (0..statement.cells)
            .any(|at| column(at).map(|cell| bytes_of(cell).len()).sum::<usize>() > COLUMN_MAX)
        {
            return false;
        }
        let mut text = format!("{head}SELECT ");
        let mut cells = packings.iter();
        for (at, expression) in expressions(statement.row).into_iter().enumerate() {
            if at > 0 {
                text.push_str(", ");
            }
            let mut parts = expression.split('?');
            text.push_str(parts.next().unwrap_or_default());
            for part in parts {
                let Some(packing) = cells.next() else { return false };
                text.push_str(&packing.expression());
                text.push_str(part);
            }
            write!(text, " AS column{}", at + 1).expect("a String takes any text");
        }
        text.push_str(" FROM temp.row_numbers WHERE place < ?");
        text.push_str(statement.tail);
        self.push(statement.name, &text);
        for (at, packing) in packings.into_iter().enumerate() {
            packing.bind(&mut self.arguments, column(at));
        }
        add(&mut self.arguments, signed(rows.len()));
        // A plain insert changes each of its rows or fails.
        let is_plain = statement.head.starts_with("INSERT INTO") && statement.tail.is_empty();
        if statement.expect == Expect::Each && !is_plain {
            self.push(statement.name, CHECK);
            add(&mut self.arguments, signed(rows.len()));
        }
        true
    }

    fn push(&mut self, name: &'static str, sql: &str) {
        if !self.text.is_empty() {
            self.text.push(';');
        }
        self.text.push_str(sql);
        self.answers.push(name);
    }

    /// Executes all of it; stops at the first statement that fails.
    pub(super) async fn execute(self, connection: &mut SqliteConnection) -> Result<(), CommitError> {
        let Self {
            text,
            arguments,
            answers: names,
        } = self;
        let mut names = names.into_iter();
        let mut answers = connection.fetch_many(sqlx::query_with(AssertSqlSafe(text), arguments));
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Either::Left(_)) => drop(names.next()),
                Ok(Either::Right(_)) => {}
                Err(error) => return Err(translate(names.next().unwrap_or("transaction"), &error)),
            }
        }
        Ok(())
    }
}

fn cell<'a>(units: &'a [Rows], &(_, unit, start): &Placed, at: usize) -> &'a Cell {
    &units[unit].cells[start + at]
}

/// How many of the first rows, all of one statement, are executed at once.
pub(super) fn fitting(rows: &[Placed], units: &[Rows]) -> usize {
    let mut bytes = 0;
    let fitting = rows.iter().take(ROWS_MAX).take_while(|(statement, unit, start)| {
        let cells = &units[*unit].cells[*start..*start + statement.cells];
        bytes += cells
            .iter()
            .map(|cell| bytes_of(cell).len() + INT_WIDTH)
            .sum::<usize>();
        bytes <= BYTES_MAX
    });
    fitting.count().max(1)
}

fn bytes_of(cell: &Cell) -> &[u8] {
    match cell {
        Cell::Null | Cell::Int(_) => &[],
        Cell::Text(text) => text.as_bytes(),
        Cell::Id(id) => id,
        Cell::Blob(bytes) => bytes,
    }
}

fn push_digits<const WIDTH: usize>(out: &mut Vec<u8>, mut number: u64, negative: bool) {
    let mut digits = [b' '; WIDTH];
    let mut at = WIDTH;
    while at > 0 {
        at -= 1;
        digits[at] = b"0123456789"[usize::try_from(number % 10).unwrap_or(0)];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    if negative && at > 0 {
        digits[at - 1] = b'-';
    }
    out.extend_from_slice(&digits);
}

fn add<'t>(
    arguments: &mut SqliteArguments,
    value: impl sqlx::Encode<'t, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
) {
    arguments.add(value).expect("integers and bytes always encode");
}

fn number(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::{Connection as _, Row as _};

    use crate::statement::{Statement, sorted};
    use crate::unit::Unit;

    static ALL: Statement = Statement {
        name: "test.all",
        rank: 10,
        head: "INSERT INTO t (i, id, b, s, o) VALUES ",
        row: "(?, ?, ?, ?/*text*/, ?)",
        tail: " ON CONFLICT (i) DO NOTHING",
        cells: 5,
        expect: Expect::Each,
    };

    async fn connection() -> SqliteConnection {
        let mut connection = SqliteConnection::connect("sqlite::memory:")
            .await
            .expect("in memory");
        let table =
            "CREATE TABLE t (i INTEGER PRIMARY KEY, id BLOB NOT NULL, b BLOB, s TEXT, o INTEGER) STRICT";
        for sql in [TABLES, table] {
            sqlx::raw_sql(sql).execute(&mut connection).await.expect("made");
        }
        connection
    }

    fn all(i: i64, b: Option<Vec<u8>>, s: Option<&str>, o: Option<i64>) -> Rows {
        let mut unit = Unit::new();
        unit.add(&ALL, [i.into(), Cell::Id([7; 16]), b.into(), s.into(), o.into()]);
        unit.into_parts().0
    }

    async fn insert(connection: &mut SqliteConnection, units: &[Rows]) -> Result<(), CommitError> {
        let rows = sorted(units);
        let mut packed = Packed::default();
        packed.control("BEGIN");
        assert!(packed.add((&ALL, &rows), units));
        packed.control("COMMIT");
        packed.execute(connection).await
    }

    #[tokio::test]
    async fn every_value_arrives_as_it_was() {
        let mut connection = connection().await;
        let given = [
            (i64::MIN, Some(vec![]), Some(""), None),
            (-1, None, Some("grün"), Some(i64::MAX)),
            (0, Some(vec![0, 1, 0]), None, Some(0)),
            (i64::MAX, Some(b" 12".to_vec()), Some(" 7 "), Some(-5)),
        ];
        let units: Vec<Rows> = given
            .iter()
            .map(|(i, b, s, o)| all(*i, b.clone(), *s, *o))
            .collect();
        insert(&mut connection, &units).await.expect("stored");
        let rows = sqlx::query("SELECT i, id, b, s, o FROM t ORDER BY i");
        let rows = rows.fetch_all(&mut connection).await.expect("read");
        assert_eq!(rows.len(), given.len());
        for (row, (i, b, s, o)) in rows.iter().zip(given) {
            assert_eq!(row.get::<i64, _>(0), i);
            assert_eq!(row.get::<Vec<u8>, _>(1), [7; 16]);
            assert_eq!(row.get::<Option<Vec<u8>>, _>(2), b);
            assert_eq!(row.get::<Option<String>, _>(3).as_deref(), s);
            assert_eq!(row.get::<Option<i64>, _>(4), o);
        }
    }

    #[tokio::test]
    async fn a_column_of_nulls_and_one_of_empty_values_are_told_apart() {
        let mut connection = connection().await;
        let units = [all(1, Some(vec![]), None, None), all(2, Some(vec![]), None, None)];
        insert(&mut connection, &units).await.expect("stored");
        let count = "SELECT count(*) FROM t WHERE b = x'' AND s IS NULL AND o IS NULL";
        let row = sqlx::query(count).fetch_one(&mut connection).await.expect("read");
        assert_eq!(row.get::<i64, _>(0), 2);
    }

    #[tokio::test]
    async fn a_row_that_changes_nothing_ends_the_text_before_its_commit() {
        let mut connection = connection().await;
        insert(&mut connection, &[all(1, None, None, None)])
            .await
            .expect("stored");
        let twice = [all(2, None, None, None), all(1, None, None, None)];
        let outcome = insert(&mut connection, &twice).await;
        assert!(
            matches!(
                &outcome,
                Err(CommitError::Conflict {
                    statement: "test.all",
                    ..
                })
            ),
            "{outcome:?}"
        );
        sqlx::query("ROLLBACK")
            .execute(&mut connection)
            .await
            .expect("still open");
        let row = sqlx::query("SELECT count(*) FROM t")
            .fetch_one(&mut connection)
            .await
            .expect("read");
        assert_eq!(row.get::<i64, _>(0), 1);
    }

    #[test]
    fn columns_of_several_kinds_are_not_packed() {
        let kinds = Kinds::of([Cell::Int(1), Cell::from("a")].iter());
        assert_eq!(kinds.packing(), None);
        let kinds = Kinds::of([Cell::Id([0; 16]), Cell::Null].iter());
        let bytes = Packing::Bytes {
            nullable: true,
            text: false,
        };
        assert_eq!(kinds.packing(), Some(bytes));
    }
}
