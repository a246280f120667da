//! A PostgreSQL database for each test: made when asked for, dropped with its handle.
//!
//! The server is the one at `CELESTA_TEST_POSTGRES`, or at 127.0.0.1:5432.

use crate::scratch::ScratchDatabase;

const SERVER: &str = "postgres://postgres@127.0.0.1:5432";

/// An empty database.
#[derive(Debug)]
pub struct TestDatabase(ScratchDatabase);

impl TestDatabase {
    /// Makes a database of its own.
    ///
    /// # Panics
    /// When there is no server: tests run on the real one.
    #[expect(clippy::disallowed_methods, reason = "tests are told by their environment")]
    pub async fn create() -> Self {
        let server = std::env::var("CELESTA_TEST_POSTGRES").unwrap_or_else(|_| SERVER.to_owned());
        let database = ScratchDatabase::create(&server, "celesta_test").await;
        Self(database.expect("a PostgreSQL server for tests (CELESTA_TEST_POSTGRES names another)"))
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Its URL for a role that may neither notify nor take advisory locks.
    ///
    /// # Panics
    /// When the server does not let us make the role.
    pub async fn bare_url(&self) -> String {
        self.0.bare_url().await.expect("the server makes a role")
    }

    /// Ends every connection to it but the one that asks, as a broken network would.
    ///
    /// # Panics
    /// When the server is gone.
    pub async fn break_connections(&self) {
        self.0.break_connections().await.expect("the server takes it");
    }
}
