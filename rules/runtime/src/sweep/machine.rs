//! The life of a sweep as a machine: total, pure, readable at a glance.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a sweep stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SweepState {
    /// Durable; its runs are not counted yet.
    Pending,
    /// Its runs are counted; it waits for somebody to let it go on.
    Previewed,
    /// It tells its runs, batch by batch.
    Running,
    /// Stopped for a while.
    Paused,
    /// All of its runs were told and have taken their turn.
    Done,
    /// Somebody gave it up; what was told stays told.
    Aborted,
}

/// What happens to a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepStep {
    /// Its runs were counted, and somebody is to look first.
    Counted,
    /// Its runs were counted, and nobody needs to look.
    Started,
    /// Somebody stops it for a while.
    Pause,
    /// Somebody lets it go on, or begin.
    Resume,
    /// Somebody gives it up.
    Abort,
    /// No run is left.
    Exhausted,
}

/// A step that means nothing where the sweep stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {state} sweep cannot take the step {}", format!("{step:?}").to_lowercase())]
pub struct IllegalSweepStep {
    /// Where it stands.
    pub state: SweepState,
    /// What was tried.
    pub step: SweepStep,
}

impl SweepState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Previewed,
        Self::Running,
        Self::Paused,
        Self::Done,
        Self::Aborted,
    ];

    /// The name as people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Previewed => "previewed",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Aborted => "aborted",
        }
    }

    /// The stored form.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Previewed => 1,
            Self::Running => 2,
            Self::Paused => 3,
            Self::Done => 4,
            Self::Aborted => 5,
        }
    }

    /// The state stored as `code`.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        let at = usize::try_from(code).ok()?;
        Self::ALL.get(at).copied()
    }

    /// Whether nothing comes after.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }

    /// Where the sweep stands after `step`. Total: every pair is written out.
    ///
    /// # Errors
    /// When the step means nothing there; nothing has changed then.
    pub const fn after(self, step: SweepStep) -> Result<Self, IllegalSweepStep> {
        use SweepStep::{Abort, Counted, Exhausted, Pause, Resume, Started};
        Ok(match (self, step) {
            (Self::Pending | Self::Previewed, Counted) => Self::Previewed,
            (Self::Pending, Started) | (Self::Previewed | Self::Running | Self::Paused, Resume) => {
                Self::Running
            }
            // It will go on by itself.
            (Self::Pending, Resume) => Self::Pending,
            (Self::Pending | Self::Previewed | Self::Running | Self::Paused, Pause) => Self::Paused,
            (Self::Pending | Self::Previewed | Self::Running | Self::Paused | Self::Aborted, Abort) => {
                Self::Aborted
            }
            (Self::Running, Exhausted) => Self::Done,
            // What the driver finds may come after what a person has decided.
            (Self::Previewed, Started) => Self::Previewed,
            (Self::Running, Counted | Started) => Self::Running,
            (Self::Paused, Counted | Started | Exhausted) => Self::Paused,
            (Self::Aborted, Counted | Started | Exhausted) => Self::Aborted,
            (Self::Done, Counted | Started | Exhausted) => Self::Done,
            (Self::Done, Pause | Resume | Abort)
            | (Self::Aborted, Pause | Resume)
            | (Self::Pending | Self::Previewed, Exhausted) => {
                return Err(IllegalSweepStep { state: self, step });
            }
        })
    }
}

impl fmt::Display for SweepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SweepState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|state| state.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            let text: String = text.chars().take(64).collect();
            format!("`{text}` is not a sweep's state; expected one of {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    const STEPS: [SweepStep; 6] = [
        SweepStep::Counted,
        SweepStep::Started,
        SweepStep::Pause,
        SweepStep::Resume,
        SweepStep::Abort,
        SweepStep::Exhausted,
    ];

    #[test]
    fn the_whole_machine_is_written_out() {
        let mut table = String::new();
        for state in SweepState::ALL {
            write!(table, "{state:<9}").expect("writing to a string");
            for step in STEPS {
                let cell = state.after(step).map_or("-", SweepState::name);
                write!(table, " {step:?}={cell}").expect("writing to a string");
            }
            table.push('\n');
        }
        insta::assert_snapshot!(table, @r"
        pending   Counted=previewed Started=running Pause=paused Resume=pending Abort=aborted Exhausted=-
        previewed Counted=previewed Started=previewed Pause=paused Resume=running Abort=aborted Exhausted=-
        running   Counted=running Started=running Pause=paused Resume=running Abort=aborted Exhausted=done
        paused    Counted=paused Started=paused Pause=paused Resume=running Abort=aborted Exhausted=paused
        done      Counted=done Started=done Pause=- Resume=- Abort=- Exhausted=done
        aborted   Counted=aborted Started=aborted Pause=- Resume=- Abort=aborted Exhausted=aborted
        ");
    }

    #[test]
    fn names_and_codes_read_back() {
        for state in SweepState::ALL {
            assert_eq!(state.name().parse(), Ok(state));
            assert_eq!(SweepState::from_code(state.code().into()), Some(state));
        }
    }
}
