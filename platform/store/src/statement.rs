//! Statements are constants: text around a list of rows, so that one execution serves many rows.

use crate::unit::Rows;

/// What each row of a statement must do for its unit to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Each row changes exactly one row of the table; anything else is a conflict. This is how fencing works: an
    /// update or delete that names a stale version changes nothing.
    Each,
    /// Any number of rows may change.
    Any,
}

/// One write statement, executed for many rows at once.
///
/// The text sent is `head`, then `row` once for each row, joined by commas, then `tail`. Examples of the three parts:
///
/// - insert: `INSERT INTO journal (run, seq, record) VALUES ` · `(?, ?, ?)` · nothing
/// - delete: `DELETE FROM messages WHERE id IN (VALUES ` · `(?)` · `)`
/// - update: `UPDATE runs SET state = v.column2 FROM (VALUES ` · `(?, ?)` · `) AS v WHERE id = v.column1`
///
/// Two rows of one update that name the same key are a conflict for the group and are then executed one after the
/// other, which is correct and slow: keys that change often within a group want an upsert, which takes rows in order.
#[derive(Debug)]
pub struct Statement {
    /// A short name for metrics and errors, for example `journal.append`.
    pub name: &'static str,
    /// Within a group, statements of a lower rank are executed first: inserts (10) before updates (20) before deletes (30).
    pub rank: u8,
    /// The text before the rows.
    pub head: &'static str,
    /// The text of one row, with a `?` for each cell.
    pub row: &'static str,
    /// The text after the rows.
    pub tail: &'static str,
    /// How many cells a row has.
    pub cells: usize,
    /// What each row must do.
    pub expect: Expect,
}

impl Statement {
    /// The SQL for `rows` rows.
    pub(crate) fn sql(&self, rows: usize) -> String {
        let mut text = String::with_capacity(self.head.len() + rows * (self.row.len() + 1) + self.tail.len());
        text.push_str(self.head);
        for at in 0..rows {
            if at > 0 {
                text.push(',');
            }
            text.push_str(self.row);
        }
        text.push_str(self.tail);
        text
    }
}

/// One row: its statement, its unit, and where its cells begin there.
pub(crate) type Placed = (&'static Statement, usize, usize);

/// All rows by rank and statement; rows of one statement stay in the order their units were submitted.
pub(crate) fn sorted(units: &[Rows]) -> Vec<Placed> {
    // A group has thousands of rows and a handful of statements: those are sorted, and the rows are put into their places.
    let mut statements: Vec<(&'static Statement, usize)> = Vec::new();
    let mut total = 0;
    for (statement, _) in units.iter().flat_map(|unit| &unit.starts) {
        total += 1;
        match statements
            .iter_mut()
            .find(|(known, _)| std::ptr::eq(*known, *statement))
        {
            Some((_, count)) => *count += 1,
            None => statements.push((statement, 1)),
        }
    }
    statements.sort_by_key(|(statement, _)| (statement.rank, statement.name));
    let mut next = 0;
    for (_, place) in &mut statements {
        next += std::mem::replace(place, next);
    }
    let Some(&(first, _)) = statements.first() else {
        return Vec::new();
    };
    let mut rows = vec![(first, 0, 0); total];
    for (at, unit) in units.iter().enumerate() {
        for &(statement, start) in &unit.starts {
            let known = statements
                .iter_mut()
                .find(|(known, _)| std::ptr::eq(*known, statement));
            if let Some((_, place)) = known {
                rows[*place] = (statement, at, start);
                *place += 1;
            }
        }
    }
    rows
}
