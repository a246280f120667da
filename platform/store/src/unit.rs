//! What becomes durable together, and the values it is made of.

use std::fmt;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

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
type Hook = Box<dyn FnOnce(Result<(), &CommitError>) + Send>;

/// Who wants to hear once of all units that ended together, instead of once for each.
pub trait GroupEnd: Send + Sync {
    /// All units of a group have ended and their hooks were called; those who wait for one of them hear of it after this.
    fn group_ended(self: Arc<Self>);
}

/// What follows the end of a unit.
#[derive(Default)]
pub(crate) struct After {
    hooks: Vec<Hook>,
    group_end: Option<Weak<dyn GroupEnd>>,
    answers: Vec<oneshot::Sender<Result<(), CommitError>>>,
}

impl After {
    /// Tells of all units of a group: first their hooks, then whoever hears of the group, then those who wait.
    fn tell<'a>(group: impl Iterator<Item = (Self, Result<(), &'a CommitError>)>) {
        let mut answers = Vec::new();
        let mut group_ends: Vec<Arc<dyn GroupEnd>> = Vec::new();
        for (after, outcome) in group {
            for hook in after.hooks {
                hook(outcome);
            }
            if let Some(group_end) = after.group_end.and_then(|group_end| group_end.upgrade())
                && !group_ends.iter().any(|known| Arc::ptr_eq(known, &group_end))
            {
                group_ends.push(group_end);
            }
            answers.extend(after.answers.into_iter().map(|answer| (answer, outcome)));
        }
        group_ends.into_iter().for_each(GroupEnd::group_ended);
        for (answer, outcome) in answers {
            // Nobody may be waiting any more: the commit stands all the same.
            answer.send(outcome.map_err(Clone::clone)).ok();
        }
    }

    /// As [`After::tell`], with what came of a group whole.
    pub(crate) fn tell_all(group: Vec<Self>, outcomes: &Result<Vec<Result<(), CommitError>>, CommitError>) {
        match outcomes {
            Ok(outcomes) => {
                let outcomes = outcomes.iter().map(|outcome| outcome.as_ref().map(|&()| ()));
                Self::tell(group.into_iter().zip(outcomes));
            }
            Err(error) => Self::tell(group.into_iter().map(|after| (after, Err(error)))),
        }
    }

    fn merge(&mut self, other: Self) {
        if self.hooks.is_empty() {
            self.hooks = other.hooks;
        } else {
            self.hooks.extend(other.hooks);
        }
        if self.group_end.is_none() {
            self.group_end = other.group_end;
        }
        self.answers.extend(other.answers);
    }
}

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
    after: After,
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
        self.after.hooks.push(Box::new(hook));
    }

    /// Has `group_end` hear once of all units that end together with this one, after their hooks. Of several for one unit
    /// the first counts. The unit does not keep it: units may wait in what it is.
    pub fn at_group_end(&mut self, group_end: &Arc<impl GroupEnd + 'static>) {
        if self.after.group_end.is_none() {
            let group_end = Arc::downgrade(group_end);
            self.after.group_end = Some(group_end);
        }
    }

    pub(crate) fn answer(&mut self, answer: oneshot::Sender<Result<(), CommitError>>) {
        self.after.answers.push(answer);
    }

    /// Moves all of `other` to the end of this unit: both become durable together.
    pub fn merge(&mut self, other: Self) {
        if self.is_empty() && self.rows.cells.is_empty() {
            self.rows = other.rows;
            self.after.merge(other.after);
            return;
        }
        let offset = self.rows.cells.len();
        self.rows.starts.extend(
            other
                .rows
                .starts
                .into_iter()
                .map(|(statement, at)| (statement, at + offset)),
        );
        self.rows.cells.extend(other.rows.cells);
        self.after.merge(other.after);
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
        After::tell(std::iter::once((self.after, outcome)));
    }

    pub(crate) const fn of_parts(rows: Rows, after: After) -> Self {
        Self { rows, after }
    }

    pub(crate) fn into_parts(self) -> (Rows, After) {
        (self.rows, self.after)
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unit")
            .field("rows", &self.rows.starts.len())
            .field("hooks", &self.after.hooks.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<&'static str>>);

    impl GroupEnd for Log {
        fn group_ended(self: Arc<Self>) {
            self.0.lock().push("end");
        }
    }

    #[test]
    fn a_group_is_told_by_its_hooks_then_once_as_a_whole_then_those_who_wait() {
        let log = Arc::new(Log::default());
        let mut receivers = Vec::new();
        let units = ["first", "second"].map(|name| {
            let mut unit = Unit::new();
            let hooked = Arc::clone(&log);
            unit.on_done(move |_| hooked.0.lock().push(name));
            unit.at_group_end(&log);
            let (sender, receiver) = oneshot::channel();
            unit.answer(sender);
            receivers.push(receiver);
            unit.into_parts().1
        });
        let waits = |receivers: &mut Vec<oneshot::Receiver<_>>| {
            receivers.iter_mut().all(|receiver| receiver.try_recv().is_err())
        };
        assert!(waits(&mut receivers));
        let group = Vec::from(units);
        After::tell_all(group, &Ok(vec![Ok(()), Err(CommitError::Closed)]));
        assert_eq!(*log.0.lock(), ["first", "second", "end"]);
        let mut outcomes = receivers.into_iter().map(|mut receiver| receiver.try_recv());
        assert_eq!(outcomes.next(), Some(Ok(Ok(()))));
        assert_eq!(outcomes.next(), Some(Ok(Err(CommitError::Closed))));
    }
}
