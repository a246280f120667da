//! From the texts of SQLite to those of PostgreSQL.
//!
//! Statements are written once, as a list of rows with a `?` for each cell. PostgreSQL gets each column as one array, so
//! that there is one prepared text for any number of rows: `VALUES (?, ?)` becomes
//! `SELECT column1, column2 FROM UNNEST($1::bigint[], $2::text[])`. The type of a column is that of its cells. Where all
//! of them are NULL it is what a comment right behind the `?` says (`?/*bytea*/`, which SQLite does not see).

use std::fmt::Write as _;

use crate::statement::Statement;
use crate::unit::Cell;

/// The type of a column as PostgreSQL names it.
pub(super) const fn type_of(cell: &Cell) -> Option<&'static str> {
    match cell {
        Cell::Null => None,
        Cell::Int(_) => Some("bigint"),
        Cell::Text(_) => Some("text"),
        Cell::Id(_) => Some("uuid"),
        Cell::Blob(_) => Some("bytea"),
    }
}

/// The type a comment behind each `?` of the row names.
pub(super) fn named_types(row: &'static str) -> Vec<Option<&'static str>> {
    let named = |rest: &'static str| Some(rest.strip_prefix("/*")?.split_once("*/")?.0.trim());
    row.split('?').skip(1).map(named).collect()
}

/// The text for any number of rows whose columns have these types; `None` is a column of NULLs of which nothing is known.
pub(super) fn unnest(statement: &Statement, types: &[Option<&str>]) -> String {
    let values = |text: &str| text.trim_end().strip_suffix("VALUES").map(str::to_owned);
    let head = values(statement.head).unwrap_or_else(|| statement.head.to_owned());
    let mut columns = String::new();
    let mut arrays = String::new();
    let mut names = String::new();
    let mut cell = 0;
    for (at, expression) in expressions(statement.row).into_iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let mut text = String::new();
        for (part_at, part) in expression.split('?').enumerate() {
            if part_at > 0 {
                match types.get(cell).copied().flatten() {
                    Some(kind) => {
                        let comma = if arrays.is_empty() { "" } else { ", " };
                        let number = arrays.matches('$').count() + 1;
                        write!(arrays, "{comma}${number}::{kind}[]").expect("a String takes any text");
                        write!(names, "{comma}cell{cell}").expect("a String takes any text");
                        write!(text, "u.cell{cell}").expect("a String takes any text");
                    }
                    None => text.push_str("NULL"),
                }
                cell += 1;
            }
            text.push_str(part);
        }
        write!(columns, "{comma}{text} AS column{}", at + 1).expect("a String takes any text");
    }
    let (head, tail) = (head.trim_end(), statement.tail);
    format!(
        "{head} SELECT {columns} FROM UNNEST({arrays}) WITH ORDINALITY AS u({names}, place) ORDER BY u.place{tail}"
    )
}

/// The expressions of a row `(a, b, c)`.
pub(crate) fn expressions(row: &str) -> Vec<&str> {
    let inner = row.trim().trim_start_matches('(');
    let inner = inner.strip_suffix(')').unwrap_or(inner);
    let mut depth = 0_i32;
    let mut start = 0;
    let mut found = Vec::new();
    for (at, character) in inner.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(inner[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(inner[start..].trim());
    found
}

/// Numbers the placeholders of a text.
pub(super) fn numbered(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() + 16);
    let mut parts = sql.split('?');
    text.push_str(parts.next().unwrap_or_default());
    for (at, part) in parts.enumerate() {
        write!(text, "${}{part}", at + 1).expect("a String takes any text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::Expect;

    static UPSERT: Statement = Statement {
        name: "test.upsert",
        rank: 10,
        head: "INSERT INTO t (k, v, w) VALUES ",
        row: "(?, coalesce(?/*bytea*/, 'x'), 1)",
        tail: " ON CONFLICT (k) DO NOTHING",
        cells: 2,
        expect: Expect::Any,
    };

    #[test]
    fn rows_become_arrays_and_constants_stay() {
        assert_eq!(named_types(UPSERT.row), [None, Some("bytea")]);
        assert_eq!(
            unnest(&UPSERT, &[Some("bigint"), Some("bytea")]),
            "INSERT INTO t (k, v, w) SELECT u.cell0 AS column1, coalesce(u.cell1/*bytea*/, 'x') AS column2, 1 AS column3 \
             FROM UNNEST($1::bigint[], $2::bytea[]) WITH ORDINALITY AS u(cell0, cell1, place) ORDER BY u.place ON CONFLICT (k) DO NOTHING"
        );
        assert!(unnest(&UPSERT, &[Some("bigint"), None]).contains("coalesce(NULL"));
        assert_eq!(numbered("a = ? AND b = ?"), "a = $1 AND b = $2");
    }
}
