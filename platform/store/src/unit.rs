//! What becomes durable together, and the values it is made of.

use std::fmt;
use std::sync::Arc;

use crate::error::CommitError;
use crate::statement::Statement;

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// SQL NULL.
    Null,
    /// A 64-bit integer; also instants (milliseconds) and flags (0 and 1).
    Int(i64),
    /// A text.
    Text(Arc<str>),
    /// The 16 bytes of an id.
    Id([u8; 16]),
    /// Bytes.
    Blob(Vec<u8>),
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value.into())
    }
}

impl From<Vec<u8>> for Cell {
    fn from(value: Vec<u8>) -> Self {
        Self::Blob(value)
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// One row of an answer. Getters give `None` for NULL, for another type and for a column that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(pub(crate) Vec<Cell>);

impl Row {
    /// The integer of column `at`, from 0.
    #[must_use]
    pub fn int(&self, at: usize) -> Option<i64> {
        if let Some(Cell::Int(value)) = self.0.get(at) {
            Some(*value)
        } else {
            None
        }
    }

    /// The text of column `at`.
    #[must_use]
    pub fn text(&self, at: usize) -> Option<&str> {
        if let Some(Cell::Text(value)) = self.0.get(at) {
            Some(value)
        } else {
            None
        }
    }

    /// The bytes of column `at`.
    #[must_use]
    pub fn blob(&self, at: usize) -> Option<&[u8]> {
        match self.0.get(at) {
            Some(Cell::Blob(value)) => Some(value),
            Some(Cell::Id(value)) => Some(value),
            _ => None,
        }
    }

    /// Takes the bytes of column `at` out of the row.
    #[must_use]
    pub fn take_blob(&mut self, at: usize) -> Option<Vec<u8>> {
        match self.0.get_mut(at).map(|cell| std::mem::replace(cell, Cell::Null)) {
            Some(Cell::Blob(value)) => Some(value),
            Some(Cell::Id(value)) => Some(value.to_vec()),
            _ => None,
        }
    }
}

/// Called once, after the unit is durable or has failed.
pub(crate) type Hook = Box<dyn FnOnce(Result<(), &CommitError>) + Send>;

/// The rows of a unit: for each, its statement and where its cells begin.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) starts: Vec<(&'static Statement, usize)>,
    pub(crate) cells: Vec<Cell>,
}

/// What becomes durable together, or not at all.
#[derive(Default)]
pub struct Unit {
    rows: Rows,
    hooks: Vec<Hook>,
}

impl Unit {
    /// An empty unit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one row for `statement`.
    ///
    /// # Panics
    /// When the number of cells is not the statement's: both are constants of the code.
    pub fn add<const CELLS: usize>(&mut self, statement: &'static Statement, cells: [Cell; CELLS]) {
        assert_eq!(
            CELLS, statement.cells,
            "{} takes {} cells",
            statement.name, statement.cells
        );
        self.rows.starts.push((statement, self.rows.cells.len()));
        self.rows.cells.extend(cells);
    }

    /// Has `hook` called once when the unit is durable (`Ok`) or has failed (`Err`), in the order of commits. Hooks run
    /// on the committer: they must be quick and must not block.
    pub fn on_done(&mut self, hook: impl FnOnce(Result<(), &CommitError>) + Send + 'static) {
        self.hooks.push(Box::new(hook));
    }

    /// Moves all of `other` to the end of this unit: both become durable together.
    pub fn merge(&mut self, other: Self) {
        let offset = self.rows.cells.len();
        self.rows.starts.extend(
            other
                .rows
                .starts
                .into_iter()
                .map(|(statement, at)| (statement, at + offset)),
        );
        self.rows.cells.extend(other.rows.cells);
        self.hooks.extend(other.hooks);
    }

    /// How many rows it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows.starts.len()
    }

    /// Whether it holds no row. An empty unit still has its hooks called, in order.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.starts.is_empty()
    }

    /// Tells those who wait for the unit how it ended, when it never goes to a store: where there is no record, or it
    /// was given up.
    pub fn finish(self, outcome: Result<(), &CommitError>) {
        call(self.hooks, outcome);
    }

    pub(crate) const fn of_parts(rows: Rows, hooks: Vec<Hook>) -> Self {
        Self { rows, hooks }
    }

    pub(crate) fn into_parts(self) -> (Rows, Vec<Hook>) {
        (self.rows, self.hooks)
    }
}

/// Tells those who wait for a unit how it ended.
pub(crate) fn call(hooks: Vec<Hook>, outcome: Result<(), &CommitError>) {
    for hook in hooks {
        hook(outcome);
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unit")
            .field("rows", &self.rows.starts.len())
            .field("hooks", &self.hooks.len())
            .finish_non_exhaustive()
    }
}
