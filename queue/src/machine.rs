//! The life of one message: a pure, total function from state and event to the next state.
//!
//! It knows no clock, no token and no store. Whoever drives it checks the token first, and tells it whether a delay was
//! asked for. Late and repeated events are legal where they can happen by themselves (a timer that fires after the
//! message was leased), and change nothing; everything else that does not fit is an [`IllegalTransition`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a message is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Enqueued, and not to be leased before an instant.
    Invisible,
    /// May be leased.
    Pending,
    /// In the hands of a consumer.
    Running,
    /// Done.
    Completed,
    /// Called back before it was done.
    Canceled,
    /// Out of attempts, or failed for good: a dead letter.
    Errored,
    /// Waited longer than it may.
    Expired,
}

impl State {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Invisible,
        Self::Pending,
        Self::Running,
        Self::Completed,
        Self::Canceled,
        Self::Errored,
        Self::Expired,
    ];

    /// The place in [`State::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Invisible => 0,
            Self::Pending => 1,
            Self::Running => 2,
            Self::Completed => 3,
            Self::Canceled => 4,
            Self::Errored => 5,
            Self::Expired => 6,
        }
    }

    /// Whether nothing happens to it by itself any more.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Canceled | Self::Errored | Self::Expired
        )
    }

    /// The name as shown to people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invisible => "invisible",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Canceled => "canceled",
            Self::Errored => "errored",
            Self::Expired => "expired",
        }
    }

    /// The stored form.
    pub(crate) const fn code(self) -> i64 {
        match self {
            Self::Invisible => 0,
            Self::Pending => 1,
            Self::Running => 2,
            Self::Completed => 3,
            Self::Canceled => 4,
            Self::Errored => 5,
            Self::Expired => 6,
        }
    }

    pub(crate) fn from_code(code: i64) -> Option<Self> {
        Self::ALL.get(usize::try_from(code).ok()?).copied()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its producer sends it (again).
    Enqueue,
    /// The instant it was to stay invisible until has come.
    BecomeVisible,
    /// A consumer takes it.
    Lease,
    /// Its consumer asks for more time.
    Extend,
    /// Its consumer is done.
    Complete,
    /// Its consumer has failed.
    Fail {
        /// Whether another try may succeed.
        retryable: bool,
        /// Whether the next try has to wait.
        delayed: bool,
    },
    /// Its consumer gives it back untouched; burns no attempt.
    Release,
    /// Its lease has run out.
    Lapse,
    /// Somebody calls it back.
    Cancel,
    /// It has waited longer than it may.
    Expire,
    /// Somebody gives a dead letter a new set of attempts.
    Redrive,
    /// Somebody moves it within the order.
    Reprioritize,
}

impl Event {
    /// All events, with every flag both ways.
    pub const ALL: [Self; 15] = [
        Self::Enqueue,
        Self::BecomeVisible,
        Self::Lease,
        Self::Extend,
        Self::Complete,
        Self::Fail {
            retryable: true,
            delayed: false,
        },
        Self::Fail {
            retryable: true,
            delayed: true,
        },
        Self::Fail {
            retryable: false,
            delayed: false,
        },
        Self::Fail {
            retryable: false,
            delayed: true,
        },
        Self::Release,
        Self::Lapse,
        Self::Cancel,
        Self::Expire,
        Self::Redrive,
        Self::Reprioritize,
    ];

    /// The name as shown to people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::BecomeVisible => "become visible",
            Self::Lease => "lease",
            Self::Extend => "extend",
            Self::Complete => "complete",
            Self::Fail {
                retryable: true,
                delayed: false,
            } => "fail",
            Self::Fail {
                retryable: true,
                delayed: true,
            } => "fail with delay",
            Self::Fail { retryable: false, .. } => "fail for good",
            Self::Release => "release",
            Self::Lapse => "lapse",
            Self::Cancel => "cancel",
            Self::Expire => "expire",
            Self::Redrive => "redrive",
            Self::Reprioritize => "reprioritize",
        }
    }
}

/// A message as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// Tries so far, the running one included.
    pub attempt: u32,
    /// How many tries it has.
    pub attempts_max: u32,
}

/// What an event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Transition {
    /// The message stands so from now on.
    Moved(Standing),
    /// The event is legal here and changes nothing: it came late, or again.
    Unchanged,
}

/// An event that does not fit the state. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {event} while {state}", event = event.name())]
pub struct IllegalTransition {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

/// What `event` does to a message that stands as `from`.
///
/// # Errors
/// When the event does not fit the state.
pub fn transition(from: Standing, event: Event) -> Result<Transition, IllegalTransition> {
    use Event as E;
    use State as S;
    let to = |state| Ok(Transition::Moved(Standing { state, ..from }));
    let illegal = Err(IllegalTransition {
        state: from.state,
        event,
    });
    let unchanged = Ok(Transition::Unchanged);
    match (from.state, event) {
        (S::Invisible, E::BecomeVisible) => to(S::Pending),
        (S::Pending, E::Lease) => Ok(Transition::Moved(Standing {
            state: S::Running,
            attempt: from.attempt.saturating_add(1),
            ..from
        })),
        (S::Running, E::Complete) => to(S::Completed),
        (
            S::Running,
            E::Fail {
                retryable: true,
                delayed: false,
            }
            | E::Lapse,
        ) if from.attempt < from.attempts_max => to(S::Pending),
        (
            S::Running,
            E::Fail {
                retryable: true,
                delayed: true,
            },
        ) if from.attempt < from.attempts_max => to(S::Invisible),
        (S::Running, E::Fail { .. } | E::Lapse) => to(S::Errored),
        (S::Running, E::Release) => Ok(Transition::Moved(Standing {
            state: S::Pending,
            attempt: from.attempt.saturating_sub(1),
            ..from
        })),
        (S::Invisible | S::Pending | S::Running, E::Cancel) => to(S::Canceled),
        (S::Invisible | S::Pending, E::Expire) => to(S::Expired),
        (S::Errored | S::Expired, E::Redrive) => Ok(Transition::Moved(Standing {
            state: S::Pending,
            attempt: 0,
            ..from
        })),

        // The producer repeats itself: the message is known.
        (_, E::Enqueue) => unchanged,
        // Timers that were set for an earlier state.
        (
            S::Pending | S::Running | S::Completed | S::Canceled | S::Errored | S::Expired,
            E::BecomeVisible,
        ) => unchanged,
        (S::Invisible | S::Pending | S::Completed | S::Canceled | S::Errored | S::Expired, E::Lapse) => {
            unchanged
        }
        (S::Running | S::Completed | S::Canceled | S::Errored | S::Expired, E::Expire) => unchanged,
        // Said twice.
        (S::Completed, E::Complete) | (S::Canceled, E::Cancel) => unchanged,
        // The holder keeps it, the order of a waiting message changes: not a matter of the state.
        (S::Running, E::Extend) | (S::Invisible | S::Pending, E::Reprioritize) => unchanged,

        (S::Invisible, E::Lease | E::Extend | E::Complete | E::Fail { .. } | E::Release | E::Redrive) => {
            illegal
        }
        (S::Pending, E::Extend | E::Complete | E::Fail { .. } | E::Release | E::Redrive) => illegal,
        (S::Running, E::Lease | E::Redrive | E::Reprioritize) => illegal,
        (
            S::Completed,
            E::Lease | E::Extend | E::Fail { .. } | E::Release | E::Cancel | E::Redrive | E::Reprioritize,
        ) => illegal,
        (
            S::Canceled,
            E::Lease | E::Extend | E::Complete | E::Fail { .. } | E::Release | E::Redrive | E::Reprioritize,
        ) => illegal,
        (
            S::Errored | S::Expired,
            E::Lease | E::Extend | E::Complete | E::Fail { .. } | E::Release | E::Cancel | E::Reprioritize,
        ) => illegal,
    }
}

#[cfg(test)]
mod tests;
