//! Why a partition, or all of them, could not be opened.

use celesta_types::{ErrorKind, PARTITIONS_MAX};

/// A partition, or all of them, could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The number of partitions asked for.
    #[error("{asked} partitions; expected 1 to {PARTITIONS_MAX}")]
    Count {
        /// The number.
        asked: u32,
    },
    /// The shared store is none of PostgreSQL.
    #[error("partitions need a PostgreSQL database")]
    NoDatabase,
    /// Partitions are in a database this node was not told of.
    #[error("it is in the database `{name}`, which this node was not told: give it --database {name}=URL")]
    UnknownDatabase {
        /// Its name.
        name: String,
    },
    /// The same of a node that would start: its lists would have holes.
    #[error(
        "partitions {partitions:?} are in the database `{name}`, which this node was not told: give it --database {name}=URL"
    )]
    Unplaced {
        /// The partitions.
        partitions: Vec<u32>,
        /// The database's name.
        name: String,
    },
    /// A database is not the one that its name says.
    #[error("{reason}")]
    Database {
        /// What was found.
        reason: String,
    },
    /// Something did not open.
    #[error("{reason}")]
    Failed {
        /// What was said.
        reason: String,
    },
}

impl OpenError {
    pub(super) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed {
            reason: error.to_string(),
        }
    }

    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Count { .. }
            | Self::NoDatabase
            | Self::UnknownDatabase { .. }
            | Self::Unplaced { .. }
            | Self::Database { .. } => ErrorKind::Invalid,
            Self::Failed { .. } => ErrorKind::Unavailable,
        }
    }
}
