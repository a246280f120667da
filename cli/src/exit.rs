//! How a command ends: one documented exit code, and for a failure what to tell the user.
//!
//! Two tiers: what happened in the user's world (a run failed, a name is unknown, the server is away) has its own code
//! and says what to do; everything else is a fault of this program and ends with [`Exit::Internal`].

use std::fmt;
use std::process::ExitCode;

use crate::client::Problem;

/// The exit codes of every command. They are part of the contract with scripts and do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done,
    /// The thing asked for failed: a run failed, a test failed, a check found errors.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The thing named does not exist.
    NotFound,
    /// The thing changed meanwhile, or is in a state that does not allow this.
    Conflict,
    /// The server does not answer.
    Unreachable,
    /// The server refuses: no token, a wrong one, or a limit.
    Refused,
    /// A fault of this program or of the server.
    Internal,
    /// Stopped by Ctrl-C or SIGTERM.
    Interrupted,
}

impl Exit {
    /// All codes in the order of the documentation.
    pub(crate) const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::NotFound,
        Self::Conflict,
        Self::Unreachable,
        Self::Refused,
        Self::Internal,
        Self::Interrupted,
    ];

    /// The number given to the shell.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unreachable => 5,
            Self::Refused => 6,
            Self::Internal => 70,
            Self::Interrupted => 130,
        }
    }

    /// What the code means, for `celesta help exit-codes`.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "the thing asked for failed: a run failed, a test failed, a check found errors",
            Self::Usage => "the command line is wrong",
            Self::NotFound => "the thing named does not exist",
            Self::Conflict => "the thing changed meanwhile, or its state does not allow this",
            Self::Unreachable => "the server does not answer",
            Self::Refused => "the server refuses: no token, a wrong one, or a limit",
            Self::Internal => "a fault of this program or of the server",
            Self::Interrupted => "stopped by Ctrl-C or SIGTERM",
        }
    }

    /// The code that fits an HTTP status of the API.
    pub(crate) const fn of_status(status: u16) -> Self {
        match status {
            404 => Self::NotFound,
            409 | 412 => Self::Conflict,
            401 | 403 | 408 | 413 | 421 | 429 => Self::Refused,
            502..=504 => Self::Unreachable,
            500..=599 => Self::Internal,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What failed; empty when everything has been said already.
    pub(crate) message: String,
    /// What the user may do about it.
    pub(crate) hint: Option<String>,
    /// The server's answer, when it was the server who refused.
    pub(crate) problem: Option<Box<Problem>>,
}

/// What a command gives back.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    /// A failure with its code and message.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            problem: None,
        }
    }

    /// A failure about which everything has been printed already.
    pub(crate) const fn silent(exit: Exit) -> Self {
        Self {
            exit,
            message: String::new(),
            hint: None,
            problem: None,
        }
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A fault of this program.
    pub(crate) fn internal(message: impl fmt::Display) -> Self {
        Self::new(Exit::Internal, message.to_string())
    }

    /// A file of the user that cannot be read or written.
    pub(crate) fn file(verb: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::NotFound {
            Exit::NotFound
        } else {
            Exit::Failed
        };
        Self::new(exit, format!("cannot {verb} {}: {error}", path.display()))
    }

    /// Adds what the user may do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => Self::internal(format!("{error:#}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(format!("cannot write JSON: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_own() {
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 70, 130]);
    }

    #[test]
    fn http_statuses_have_the_documented_codes() {
        for (status, exit) in [
            (400, Exit::Failed),
            (401, Exit::Refused),
            (404, Exit::NotFound),
            (409, Exit::Conflict),
            (413, Exit::Refused),
            (422, Exit::Failed),
            (429, Exit::Refused),
            (500, Exit::Internal),
            (503, Exit::Unreachable),
        ] {
            assert_eq!(Exit::of_status(status), exit, "{status}");
        }
    }
}
