//! What PostgreSQL's errors mean to whoever asked.

use crate::error::{CommitError, QueryError};

/// Why a try has failed.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The connection is gone, or there is none.
    Lost(String),
    /// The server gave up on the transaction (deadlock, serialization): the same may succeed at once.
    Again(String),
    /// A row did not do what its statement expects.
    Conflict { statement: &'static str, reason: String },
    /// The server does not do it: full disk, a wrong text.
    Refused(String),
    /// A later owner has the store.
    Fenced,
}

impl Fault {
    pub(crate) fn of(statement: &'static str, error: &sqlx::Error) -> Self {
        let sqlx::Error::Database(database) = error else {
            return Self::Lost(error.to_string());
        };
        let reason = database.message().to_owned();
        match database.code().as_deref().unwrap_or_default() {
            // unique, check, exclusion violation; a row touched twice by one upsert
            "23505" | "23514" | "23P01" | "21000" => Self::Conflict { statement, reason },
            // serialization failure, deadlock, lock not available
            "40001" | "40P01" | "55P03" => Self::Again(reason),
            // too many connections, shutting down, starting up, a read-only standby, connection failures
            "53300" | "25006" => Self::Lost(reason),
            code if code.starts_with("57P0") || code.starts_with("08") => Self::Lost(reason),
            code => Self::Refused(format!("{statement}: {reason} ({code})")),
        }
    }

    pub(crate) fn into_commit(self) -> CommitError {
        match self {
            Self::Conflict { statement, reason } => CommitError::Conflict { statement, reason },
            Self::Lost(reason) | Self::Again(reason) | Self::Refused(reason) => {
                CommitError::Unavailable { reason }
            }
            Self::Fenced => CommitError::Fenced,
        }
    }
}

impl From<Fault> for QueryError {
    fn from(fault: Fault) -> Self {
        let reason = match fault {
            Fault::Conflict { statement, reason } => format!("{statement}: {reason}"),
            Fault::Lost(reason) | Fault::Again(reason) | Fault::Refused(reason) => reason,
            Fault::Fenced => CommitError::Fenced.to_string(),
        };
        Self { reason }
    }
}
