//! What can go wrong at the record, in words that name no database driver.

use celesta_types::ErrorKind;

/// Why a unit was not committed. Nothing of it is durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A row did not do what its statement expects: somebody else changed the thing first.
    #[error("conflict in {statement}: {reason}")]
    Conflict {
        /// The name of the statement.
        statement: &'static str,
        /// What was found instead.
        reason: String,
    },
    /// The database did not answer, or its disk is full; the same unit may succeed later.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// The database's own words.
        reason: String,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// Somebody else owns the store by now: nothing this process writes to it stands any more.
    #[error("the store belongs to another node by now")]
    Fenced,
}

impl CommitError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Unavailable { .. } | Self::Closed | Self::Fenced => ErrorKind::Unavailable,
        }
    }
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read from the store: {reason}")]
pub struct QueryError {
    /// The database's own words.
    pub reason: String,
}

impl QueryError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}

impl From<sqlx::Error> for QueryError {
    fn from(error: sqlx::Error) -> Self {
        Self {
            reason: error.to_string(),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or created.
    #[error("cannot open the store at {path}: {reason}")]
    Connect {
        /// The file.
        path: String,
        /// The database's own words.
        reason: String,
    },
    /// A later owner has the store.
    #[error("the store has an owner of a later epoch than {epoch}")]
    Fenced {
        /// The epoch it was to be opened with.
        epoch: i64,
    },
    /// A migration failed; nothing of it was applied.
    #[error("migration {subsystem} {version} failed: {reason}")]
    Migrate {
        /// Whose tables.
        subsystem: &'static str,
        /// Which step.
        version: i64,
        /// The database's own words.
        reason: String,
    },
    /// The store was written by a later release, or its history was changed.
    #[error(
        "the store has migration {subsystem} {version}, which this release {problem}; use the release that wrote it"
    )]
    Unknown {
        /// Whose tables.
        subsystem: String,
        /// Which step.
        version: i64,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl OpenError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. } | Self::Fenced { .. } => ErrorKind::Unavailable,
            Self::Migrate { .. } => ErrorKind::Internal,
            Self::Unknown { .. } => ErrorKind::Invalid,
        }
    }
}
