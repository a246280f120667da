//! The life of a run as a machine: total, pure, readable at a glance.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Accepted, or waiting for calls, timers or requests.
    Running,
    /// No rule matches and nothing is awaited: only a new fact can move it.
    Idle,
    /// A rule completed it. Its facts stay, and new ones may move it again.
    Completed,
    /// A rule failed it, or an error had no `error` section. May be retried.
    Failed,
    /// Somebody called it off.
    Canceled,
    /// Put aside by the platform: its rules went in a cycle, or an invariant broke. May be retried.
    Quarantined,
    /// Somebody has stopped it for a while: running calls go on, what it is sent waits.
    Paused,
    /// Accepted, and too many of its group are under way: it has not begun.
    Waiting,
}

/// What may happen to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunStep {
    /// A turn ended and something is awaited.
    Awaits,
    /// A turn ended and nothing is awaited.
    Rests,
    /// A rule completed the run.
    Completes,
    /// The run failed.
    Fails,
    /// Somebody called it off.
    Cancel,
    /// The platform puts it aside.
    Quarantine,
    /// Somebody wants another try.
    Retry,
    /// Somebody stops it for a while.
    Pause,
    /// Somebody lets it go on.
    Resume,
    /// Somebody writes its facts.
    Write,
    /// It has passed its gates.
    Admit,
}

impl RunStep {
    /// All steps.
    pub const ALL: [Self; 11] = [
        Self::Awaits,
        Self::Rests,
        Self::Completes,
        Self::Fails,
        Self::Cancel,
        Self::Quarantine,
        Self::Retry,
        Self::Pause,
        Self::Resume,
        Self::Write,
        Self::Admit,
    ];
}

/// A step that means nothing in that state; it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a run that is {state} cannot take the step {step:?}")]
pub struct IllegalStep {
    /// The state.
    pub state: RunState,
    /// The step.
    pub step: RunStep,
}

impl RunState {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::Running,
        Self::Idle,
        Self::Completed,
        Self::Failed,
        Self::Canceled,
        Self::Quarantined,
        Self::Paused,
        Self::Waiting,
    ];

    /// The name as shown and filtered by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Quarantined => "quarantined",
            Self::Paused => "paused",
            Self::Waiting => "waiting",
        }
    }

    /// The stored form.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Running => 0,
            Self::Idle => 1,
            Self::Completed => 2,
            Self::Failed => 3,
            Self::Canceled => 4,
            Self::Quarantined => 5,
            Self::Paused => 6,
            Self::Waiting => 7,
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

    /// Whether a client that waits has its answer.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Canceled | Self::Quarantined
        )
    }

    /// The state after `step`.
    ///
    /// # Errors
    /// When the step means nothing here.
    pub const fn after(self, step: RunStep) -> Result<Self, IllegalStep> {
        use RunStep::{
            Admit, Awaits, Cancel, Completes, Fails, Pause, Quarantine, Rests, Resume, Retry, Write,
        };
        Ok(match (self, step) {
            (Self::Running | Self::Idle, Awaits) => Self::Running,
            (Self::Running | Self::Idle, Rests) => Self::Idle,
            // A finished run that new facts have moved: it keeps its result until it has another.
            (Self::Completed, Awaits | Rests | Completes | Write) => Self::Completed,
            (Self::Running | Self::Idle, Completes) => Self::Completed,
            (Self::Running | Self::Idle | Self::Completed, Fails) => Self::Failed,
            (
                Self::Running | Self::Idle | Self::Failed | Self::Quarantined | Self::Paused | Self::Waiting,
                Cancel,
            ) => Self::Canceled,
            (
                Self::Running | Self::Idle | Self::Completed | Self::Failed | Self::Paused | Self::Waiting,
                Quarantine,
            ) => Self::Quarantined,
            (Self::Waiting, Admit) => Self::Running,
            // Whoever has begun needs no leave; whoever is let in after it has ended goes at once.
            (_, Admit) => self,
            // It keeps what it is sent until it begins.
            (Self::Waiting, Awaits | Rests | Completes | Fails | Write) => Self::Waiting,
            (Self::Failed | Self::Quarantined, Retry) => Self::Running,
            (Self::Running | Self::Idle, Pause) => Self::Paused,
            (Self::Paused, Resume) => Self::Running,
            (Self::Running, Write) => Self::Running,
            (Self::Idle, Write) => Self::Idle,
            // Late results find the run ended: they are recorded and change nothing. Facts of a failed run may be mended
            // before it is tried again.
            (Self::Failed, Awaits | Rests | Completes | Fails | Write) => Self::Failed,
            (Self::Canceled, Awaits | Rests | Completes | Fails | Cancel | Quarantine) => Self::Canceled,
            // What these two are sent is kept for later.
            (Self::Quarantined, Awaits | Rests | Completes | Fails | Quarantine | Write) => Self::Quarantined,
            (Self::Paused, Awaits | Rests | Completes | Fails | Write | Pause) => Self::Paused,
            (Self::Completed, Cancel | Retry | Pause | Resume)
            | (Self::Running | Self::Idle, Retry | Resume)
            | (Self::Paused, Retry)
            | (Self::Failed | Self::Quarantined, Pause | Resume)
            | (Self::Waiting, Retry | Pause | Resume)
            | (Self::Canceled, Retry | Pause | Resume | Write) => {
                return Err(IllegalStep { state: self, step });
            }
        })
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RunState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == text)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|state| state.name()).collect();
                format!(
                    "`{}` is not a run's state; expected one of {}",
                    text.chars().take(64).collect::<String>(),
                    names.join(", ")
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn the_whole_machine_is_written_out() {
        let mut table = String::new();
        for state in RunState::ALL {
            write!(table, "{state:<11}").expect("writing to a string");
            for step in RunStep::ALL {
                let cell = state.after(step).map_or("-", RunState::name);
                write!(table, " {step:?}={cell}").expect("writing to a string");
            }
            table.push('\n');
        }
        insta::assert_snapshot!(table, @r"
        running     Awaits=running Rests=idle Completes=completed Fails=failed Cancel=canceled Quarantine=quarantined Retry=- Pause=paused Resume=- Write=running Admit=running
        idle        Awaits=running Rests=idle Completes=completed Fails=failed Cancel=canceled Quarantine=quarantined Retry=- Pause=paused Resume=- Write=idle Admit=idle
        completed   Awaits=completed Rests=completed Completes=completed Fails=failed Cancel=- Quarantine=quarantined Retry=- Pause=- Resume=- Write=completed Admit=completed
        failed      Awaits=failed Rests=failed Completes=failed Fails=failed Cancel=canceled Quarantine=quarantined Retry=running Pause=- Resume=- Write=failed Admit=failed
        canceled    Awaits=canceled Rests=canceled Completes=canceled Fails=canceled Cancel=canceled Quarantine=canceled Retry=- Pause=- Resume=- Write=- Admit=canceled
        quarantined Awaits=quarantined Rests=quarantined Completes=quarantined Fails=quarantined Cancel=canceled Quarantine=quarantined Retry=running Pause=- Resume=- Write=quarantined Admit=quarantined
        paused      Awaits=paused Rests=paused Completes=paused Fails=paused Cancel=canceled Quarantine=quarantined Retry=- Pause=paused Resume=running Write=paused Admit=paused
        waiting     Awaits=waiting Rests=waiting Completes=waiting Fails=waiting Cancel=canceled Quarantine=quarantined Retry=- Pause=- Resume=- Write=waiting Admit=running
        ");
    }

    #[test]
    fn names_and_codes_read_back() {
        for state in RunState::ALL {
            assert_eq!(state.name().parse(), Ok(state));
            assert_eq!(RunState::from_code(state.code().into()), Some(state));
        }
    }
}
