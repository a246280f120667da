//! A PostgreSQL database for each test: made when asked for, dropped with its handle.
//!
//! The server is the one at `CELESTA_TEST_POSTGRES`, or at 127.0.0.1:5432.

use celesta_runtime::Random;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const SERVER: &str = "postgres://postgres@127.0.0.1:5432";

/// An empty database.
#[derive(Debug)]
pub struct TestDatabase {
    server: String,
    name: String,
}

impl TestDatabase {
    /// Makes a database of its own.
    ///
    /// # Panics
    /// When there is no server: tests run on the real one.
    #[expect(clippy::disallowed_methods, reason = "tests are told by their environment")]
    pub async fn create() -> Self {
        let server = std::env::var("CELESTA_TEST_POSTGRES").unwrap_or_else(|_| SERVER.to_owned());
        let name = format!("celesta_test_{:016x}", Random::system().next_u64());
        let database = Self { server, name };
        database
            .control(&format!("CREATE DATABASE {}", database.name))
            .await;
        database
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/{}", self.server, self.name)
    }

    /// Ends every connection to it but the one that asks, as a broken network would.
    pub async fn break_connections(&self) {
        self.control(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
            self.name
        ))
        .await;
    }

    async fn control(&self, sql: &str) {
        control(&self.server, sql).await;
    }
}

async fn control(server: &str, sql: &str) {
    let mut connection = PgConnection::connect(&format!("{server}/postgres"))
        .await
        .expect("a PostgreSQL server for tests (CELESTA_TEST_POSTGRES names another)");
    // Made of constants and of names that are made here.
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await
        .expect("the server takes it");
    connection.close().await.ok();
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let server = self.server.clone();
        // A runtime of its own: the test's may be the one that is ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(control(&server, &sql));
            }
        });
        dropping.join().ok();
    }
}
