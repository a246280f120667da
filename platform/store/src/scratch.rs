//! A PostgreSQL database made for one purpose and dropped with its handle: of a test, of a bench.

use celesta_runtime::Random;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use crate::error::QueryError;

/// The role of [`ScratchDatabase::bare_url`], which a server keeps.
const BARE_ROLE: &str = "celesta_test_bare";

/// An empty database on somebody's server.
#[derive(Debug)]
pub struct ScratchDatabase {
    server: String,
    options: String,
    name: String,
}

impl ScratchDatabase {
    /// Makes a database on the server at `url` with `prefix` before its name. The database the URL names is left alone.
    ///
    /// # Errors
    /// When the server does not answer or does not let us make one.
    pub async fn create(url: &str, prefix: &str) -> Result<Self, QueryError> {
        let (base, options) = url
            .split_once('?')
            .map_or((url, String::new()), |(base, options)| {
                (base, format!("?{options}"))
            });
        let host = base.find("://").map_or(0, |at| at + 3);
        let end = base[host..].find('/').map_or(base.len(), |at| host + at);
        let database = Self {
            server: base[..end].to_owned(),
            options,
            name: format!("{prefix}_{:016x}", Random::system().next_u64()),
        };
        database
            .control(&format!("CREATE DATABASE {}", database.name))
            .await?;
        Ok(database)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/{}{}", self.server, self.name, self.options)
    }

    /// Its URL for a role that may do in it what it likes, but may neither notify nor take advisory locks: what a database
    /// looks like that speaks the protocol and has neither.
    ///
    /// # Errors
    /// When the server does not let us make the role.
    pub async fn bare_url(&self) -> Result<String, QueryError> {
        let (name, role) = (&self.name, BARE_ROLE);
        self.execute(&format!(
            "DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
             GRANT ALL ON DATABASE {name} TO {role};
             GRANT ALL ON SCHEMA public TO {role};
             REVOKE EXECUTE ON FUNCTION pg_notify(text, text), pg_advisory_xact_lock(bigint),
               pg_try_advisory_xact_lock(bigint), pg_advisory_lock(bigint), pg_try_advisory_lock(bigint) FROM PUBLIC"
        ))
        .await?;
        let host = self.server.find("://").map_or(0, |at| at + 3);
        let address = self.server[host..].rsplit('@').next().unwrap_or_default();
        Ok(format!(
            "{}{role}@{address}/{name}{}",
            &self.server[..host],
            self.options
        ))
    }

    /// Ends every connection to it but the one that asks, as a broken network would.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn break_connections(&self) -> Result<(), QueryError> {
        self.control(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
            self.name
        ))
        .await
    }

    /// Executes a text on the database itself: for tests that look at or spoil what is stored.
    ///
    /// # Errors
    /// When the server does not do it.
    pub async fn execute(&self, sql: &str) -> Result<(), QueryError> {
        run(&self.url(), sql).await
    }

    /// The process of the server itself, when it runs on this machine: the parent of whoever serves a connection.
    pub async fn postmaster(&self) -> Option<u32> {
        let mut connection = PgConnection::connect(&self.url()).await.ok()?;
        let row = sqlx::raw_sql("SELECT pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .ok()?;
        let pid: i32 = row.try_get_unchecked(0).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        connection.close().await.ok();
        let (name, rest) = stat.rsplit_once(')')?;
        // Another machine's process may have the same number here.
        if !name.contains("postgres") {
            return None;
        }
        rest.split_whitespace().nth(1)?.parse().ok()
    }

    async fn control(&self, sql: &str) -> Result<(), QueryError> {
        run(&format!("{}/postgres{}", self.server, self.options), sql).await
    }
}

/// Where a text made of constants, and of names that are made here, is executed.
async fn run(url: &str, sql: &str) -> Result<(), QueryError> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await?;
    connection.close().await.ok();
    Ok(())
}

impl Drop for ScratchDatabase {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let url = format!("{}/postgres{}", self.server, self.options);
        // A runtime of its own: the one it was made in may be ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                // A server that is gone has nothing to drop.
                runtime.block_on(run(&url, &sql)).ok();
            }
        });
        dropping.join().ok();
    }
}
