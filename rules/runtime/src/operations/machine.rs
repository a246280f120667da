//! The life of a bulk operation.

use serde::Serialize;

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// It goes on by itself.
    Running,
    /// Somebody has stopped it for a while.
    Paused,
    /// All runs were looked at.
    Done,
    /// Somebody has ended it: what was done stays done.
    Aborted,
}

/// What may happen to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationStep {
    /// Somebody stops it for a while.
    Pause,
    /// Somebody lets it go on.
    Resume,
    /// Somebody ends it.
    Abort,
    /// There are no more runs.
    Finish,
}

/// A step that means nothing in that state; it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an operation that is {state:?} cannot take the step {step:?}")]
pub struct IllegalOperationStep {
    /// The state.
    pub state: OperationState,
    /// The step.
    pub step: OperationStep,
}

impl OperationState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Running, Self::Paused, Self::Done, Self::Aborted];

    /// The stored form.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Running => 0,
            Self::Paused => 1,
            Self::Done => 2,
            Self::Aborted => 3,
        }
    }

    /// The state stored as `code`.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        usize::try_from(code)
            .ok()
            .and_then(|at| Self::ALL.get(at))
            .copied()
    }

    /// Whether nothing more is done.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }

    /// The state after `step`.
    ///
    /// # Errors
    /// When the step means nothing here.
    pub const fn after(self, step: OperationStep) -> Result<Self, IllegalOperationStep> {
        use OperationStep::{Abort, Finish, Pause, Resume};
        Ok(match (self, step) {
            (Self::Running | Self::Paused, Pause) => Self::Paused,
            (Self::Running | Self::Paused, Resume) => Self::Running,
            (Self::Running | Self::Paused | Self::Aborted, Abort) => Self::Aborted,
            // Its last page was on its way when it was paused or aborted: nothing is left to do.
            (Self::Running | Self::Paused | Self::Done, Finish) => Self::Done,
            (Self::Aborted, Finish) => Self::Aborted,
            (Self::Done, Pause | Resume | Abort) | (Self::Aborted, Pause | Resume) => {
                return Err(IllegalOperationStep { state: self, step });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_whole_machine_is_written_out() {
        use OperationStep::{Abort, Finish, Pause, Resume};
        let mut table = String::new();
        for state in OperationState::ALL {
            write!(table, "{:<8}", format!("{state:?}")).expect("writing to a string");
            for step in [Pause, Resume, Abort, Finish] {
                let cell = state
                    .after(step)
                    .map_or_else(|_| "-".to_owned(), |state| format!("{state:?}"));
                write!(table, " {step:?}={cell}").expect("writing to a string");
            }
            table.push('\n');
            assert_eq!(OperationState::from_code(state.code().into()), Some(state));
        }
        insta::assert_snapshot!(table, @r"
        Running  Pause=Paused Resume=Running Abort=Aborted Finish=Done
        Paused   Pause=Paused Resume=Running Abort=Aborted Finish=Done
        Done     Pause=- Resume=- Abort=- Finish=Done
        Aborted  Pause=- Resume=- Abort=Aborted Finish=Aborted
        ");
    }
}
