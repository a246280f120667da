//! Two questions about an error: whose policy applies (its class), and what a caller may do (its kind).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The class of a failed call: it decides whether, when and where it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorClass {
    /// The function itself failed.
    User,
    /// The input is wrong; the same input would fail again, so it is never retried.
    Input,
    /// Something outside failed for a while.
    Transient,
    /// The machine or the worker was lost.
    Node,
    /// Memory, disk or processor time ran out; a retry asks for more.
    Resource,
    /// The attempt took longer than allowed.
    Timeout,
    /// The attempt was pushed aside by more urgent work; burns no attempt.
    Preempted,
    /// Someone asked for the call to stop.
    Canceled,
    /// A fault of the platform.
    Internal,
}

impl ErrorClass {
    /// All classes.
    pub const ALL: [Self; 9] = [
        Self::User,
        Self::Input,
        Self::Transient,
        Self::Node,
        Self::Resource,
        Self::Timeout,
        Self::Preempted,
        Self::Canceled,
        Self::Internal,
    ];

    /// The name as written in manifests, rules and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Input => "input",
            Self::Transient => "transient",
            Self::Node => "node",
            Self::Resource => "resource",
            Self::Timeout => "timeout",
            Self::Preempted => "preempted",
            Self::Canceled => "canceled",
            Self::Internal => "internal",
        }
    }

    /// The stored form, 0 to 8 in the order of [`ErrorClass::ALL`].
    #[must_use]
    pub fn code(self) -> u8 {
        Self::ALL
            .iter()
            .position(|&class| class == self)
            .and_then(|at| u8::try_from(at).ok())
            .unwrap_or(8)
    }

    /// The class stored as `code`.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ErrorClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|class| class.name() == text)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|class| class.name()).collect();
                format!(
                    "`{}` is not an error class; expected one of {}",
                    text.chars().take(64).collect::<String>(),
                    names.join(", ")
                )
            })
    }
}

/// What a caller of a seam may do about an error. Only `Unavailable` is worth the same call again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The call itself is wrong.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// The thing changed meanwhile, or the call repeats an id with another content.
    Conflict,
    /// Not now: full, stopping, disconnected.
    Unavailable,
    /// A broken invariant: a fault of the platform.
    Internal,
}
