//! The life of a connection, pure: what happened in, what to do next out.
//!
//! | event | down | connecting | open | blocked | stopped |
//! |---|---|---|---|---|---|
//! | due | connecting | – | – | – | – |
//! | connected | – | open | – | – | – |
//! | refused | – | down | – | – | – |
//! | lost | – | down | down | down | – |
//! | blocked | – | – | blocked | – | – |
//! | unblocked | – | – | – | open | – |
//! | stop | stopped | stopped | stopped | stopped | – |
//!
//! Late and repeated events are legal and change nothing. The wait before the next try doubles with each refusal, up to
//! a bound, and half of it is drawn by chance, so that a thousand workers do not come back in one instant. A connection
//! that was open counts as no refusal: the first try comes soon.

use std::time::Duration;

use crate::limits::{RETRY_FIRST, RETRY_MAX};

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Not connected; the next try comes when it is due.
    Down {
        /// Tries in vain since it was open last.
        refusals: u32,
    },
    /// A try is under way.
    Connecting {
        /// Tries in vain before this one.
        refusals: u32,
    },
    /// Connected.
    Open,
    /// Connected, and asked by the broker to publish nothing.
    Blocked,
    /// Over for good.
    Stopped,
}

/// What can happen to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The wait is over.
    Due,
    /// The try has succeeded.
    Connected,
    /// The try has failed.
    Refused,
    /// The connection is gone.
    Lost,
    /// The broker wants nothing published.
    Blocked,
    /// The broker takes messages again.
    Unblocked,
    /// The process is stopping.
    Stop,
}

impl State {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 5] = [
        Self::Down { refusals: 0 },
        Self::Connecting { refusals: 0 },
        Self::Open,
        Self::Blocked,
        Self::Stopped,
    ];

    #[cfg(test)]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Down { .. } => "down",
            Self::Connecting { .. } => "connecting",
            Self::Open => "open",
            Self::Blocked => "blocked",
            Self::Stopped => "stopped",
        }
    }

    /// Whether there is a connection.
    pub(crate) const fn is_up(self) -> bool {
        matches!(self, Self::Open | Self::Blocked)
    }

    /// The state after `event`.
    pub(crate) const fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Stopped, _) | (_, Event::Stop) => Self::Stopped,
            (Self::Down { refusals }, Event::Due) => Self::Connecting { refusals },
            (Self::Connecting { .. }, Event::Connected) | (Self::Blocked, Event::Unblocked) => Self::Open,
            (Self::Connecting { refusals }, Event::Refused | Event::Lost) => Self::Down {
                refusals: refusals.saturating_add(1),
            },
            (Self::Open | Self::Blocked, Event::Lost) => Self::Down { refusals: 0 },
            (Self::Open, Event::Blocked) => Self::Blocked,
            (
                Self::Down { .. },
                Event::Connected | Event::Refused | Event::Lost | Event::Blocked | Event::Unblocked,
            )
            | (Self::Connecting { .. }, Event::Due | Event::Blocked | Event::Unblocked)
            | (Self::Open, Event::Due | Event::Connected | Event::Refused | Event::Unblocked)
            | (Self::Blocked, Event::Due | Event::Connected | Event::Refused | Event::Blocked) => self,
        }
    }
}

/// The wait before the next try. `chance` is drawn from `0..1`.
pub(crate) fn wait(refusals: u32, chance: f64) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1_u32.checked_shl(refusals.min(16)).unwrap_or(u32::MAX));
    let longest = doubled.min(RETRY_MAX);
    longest.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [(&str, Event); 7] = [
        ("due", Event::Due),
        ("connected", Event::Connected),
        ("refused", Event::Refused),
        ("lost", Event::Lost),
        ("blocked", Event::Blocked),
        ("unblocked", Event::Unblocked),
        ("stop", Event::Stop),
    ];

    #[test]
    fn the_table_above_is_the_machine() {
        let source = include_str!("machine.rs");
        for (name, event) in EVENTS {
            let cells = State::ALL.map(|state| {
                let after = state.after(event);
                if after.name() == state.name() {
                    "–"
                } else {
                    after.name()
                }
            });
            let row = format!("//! | {name} | {} |", cells.join(" | "));
            assert!(source.contains(&row), "the table should have the row\n{row}");
        }
    }

    #[test]
    fn waits_double_up_to_a_bound_and_start_anew_after_a_connection() {
        let longest: Vec<u128> = (0..9).map(|refusals| wait(refusals, 1.0).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(wait(3, 0.0).as_millis(), 400);
        assert_eq!(wait(u32::MAX, 1.0), RETRY_MAX);
        let down = State::Down { refusals: 5 };
        let lost = [Event::Due, Event::Connected, Event::Lost]
            .into_iter()
            .fold(down, State::after);
        assert_eq!(lost, State::Down { refusals: 0 });
        let refused = [Event::Due, Event::Refused].into_iter().fold(down, State::after);
        assert_eq!(refused, State::Down { refusals: 6 });
    }
}
