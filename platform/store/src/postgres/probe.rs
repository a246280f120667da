//! What a database that speaks PostgreSQL's protocol can do beyond tables, rows and row locks: asked, not assumed.

use super::{Call, Postgres};
use crate::error::QueryError;

/// What a database has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Means {
    /// What it says it is.
    pub version: String,
    /// Whether it carries notices between connections (LISTEN, NOTIFY).
    pub notices: bool,
}

impl Postgres {
    /// Asks what the database has.
    ///
    /// # Errors
    /// When it does not answer at all.
    pub async fn probe(&self) -> Result<Means, QueryError> {
        let call = |name, sql| Call {
            name,
            sql,
            args: Vec::new(),
        };
        let version = self.ask(&call("version", "SELECT version()")).await?;
        // Only a refusal tells that something is not there; a lost connection is tried again before.
        let notices = self
            .ask(&call("probe notices", "SELECT pg_notify('celesta_probe', '')"))
            .await;
        Ok(Means {
            version: version
                .first()
                .and_then(|row| row.text(0))
                .unwrap_or("a database that does not say what it is")
                .to_owned(),
            notices: notices.is_ok(),
        })
    }
}
