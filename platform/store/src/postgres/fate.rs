//! Whether a transaction has happened whose connection was lost while it committed.
//!
//! Every connection that writes has a row of its own in `store_fates`; each of its transactions begins by writing its
//! number there. What stands in the row tells the last transaction of that connection that was committed, and whoever
//! reads it under the row's lock waits for one that is still under way. The server's own numbers of transactions
//! (`pg_xact_status`) are no witness: a number that was given out before a crash, and whose records had not reached the
//! disk, is given out again after it, to somebody else.

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{Fault, control};

/// The table, and the rows of connections that are long gone.
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS store_fates (slot UUID NOT NULL PRIMARY KEY, number BIGINT NOT NULL, \
     at TIMESTAMPTZ NOT NULL) WITH (fillfactor = 20); DELETE FROM store_fates WHERE at < now() - interval '1 day'";

/// A connection and the row of its transactions, which it has once it has written.
pub(crate) struct Session {
    pub(crate) connection: PgConnection,
    slot: Option<String>,
    number: i64,
}

/// A transaction that was begun.
#[derive(Debug)]
pub(crate) struct Fate {
    slot: String,
    number: i64,
}

impl Session {
    pub(crate) const fn new(connection: PgConnection) -> Self {
        Self {
            connection,
            slot: None,
            number: 0,
        }
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&mut self) -> Result<Fate, Fault> {
        let slot = match &self.slot {
            Some(slot) => slot.clone(),
            None => self.prepare().await?,
        };
        self.number += 1;
        let number = self.number;
        let begin = format!("BEGIN; EXECUTE celesta_fate ({number})");
        sqlx::raw_sql(AssertSqlSafe(begin))
            .execute(&mut self.connection)
            .await
            .map_err(|error| Fault::of("begin", &error))?;
        Ok(Fate { slot, number })
    }

    /// Gives the connection its row, and the statement that writes it: planned once, sent with each `BEGIN`.
    async fn prepare(&mut self) -> Result<String, Fault> {
        let fault = |error: sqlx::Error| Fault::of("prepare a connection", &error);
        let row = sqlx::raw_sql("SELECT gen_random_uuid()::text")
            .fetch_one(&mut self.connection)
            .await
            .map_err(fault)?;
        let slot: String = row.try_get(0).map_err(fault)?;
        let statement = format!(
            "PREPARE celesta_fate (BIGINT) AS INSERT INTO store_fates (slot, number, at) VALUES ('{slot}', $1, now()) \
             ON CONFLICT (slot) DO UPDATE SET number = excluded.number, at = excluded.at"
        );
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut self.connection)
            .await
            .map_err(fault)?;
        self.slot = Some(slot.clone());
        Ok(slot)
    }
}

impl Fate {
    /// Whether the transaction stands. One that is still under way is waited for a moment, then the answer is a fault
    /// that may be tried again.
    pub(crate) async fn stands(&self, connection: &mut PgConnection) -> Result<bool, Fault> {
        let Self { slot, number } = self;
        // An upsert, not a read: it waits for the lost transaction even when that inserts the row.
        let ask = format!(
            "BEGIN; SET LOCAL lock_timeout = '1s'; INSERT INTO store_fates (slot, number, at) VALUES ('{slot}', 0, now()) \
             ON CONFLICT (slot) DO UPDATE SET at = excluded.at RETURNING number = {number}"
        );
        let answer = sqlx::raw_sql(AssertSqlSafe(ask))
            .fetch_all(&mut *connection)
            .await;
        let answer = answer.map_err(|error| Fault::of("fate of a transaction", &error));
        let end = if answer.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = control(connection, end).await;
        let rows = answer?;
        ended?;
        let stands = rows.first().map(|row| row.try_get_unchecked::<bool, _>(0));
        stands
            .and_then(Result::ok)
            .ok_or_else(|| Fault::Refused("the server gave no fate of a transaction".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::migrate_postgres;
    use crate::postgres::Postgres;
    use crate::testing::TestDatabase;

    async fn session(database: &Postgres) -> Session {
        Session::new(database.connect().await.expect("the server is there"))
    }

    #[tokio::test]
    async fn a_row_tells_what_became_of_each_transaction() {
        let ground = TestDatabase::create().await;
        let database = Postgres::new(&ground.url()).expect("a URL");
        migrate_postgres(&database, &[]).await.expect("an empty database");
        let (mut lost, mut asking) = (session(&database).await, session(&database).await);
        let asking = &mut asking.connection;

        let first = lost.begin().await.expect("it begins");
        let under_way = first.stands(asking).await;
        assert!(matches!(under_way, Err(Fault::Again(_))), "{under_way:?}");
        control(&mut lost.connection, "COMMIT").await.expect("it commits");
        assert!(first.stands(asking).await.expect("it is over"));

        let second = lost.begin().await.expect("it begins");
        drop(lost);
        assert!(!second.stands(asking).await.expect("it is over"));
        assert!(first.stands(asking).await.expect("the one before it stands"));
    }

    #[tokio::test]
    async fn a_connection_lost_in_its_first_transaction_has_done_nothing() {
        let ground = TestDatabase::create().await;
        let database = Postgres::new(&ground.url()).expect("a URL");
        migrate_postgres(&database, &[]).await.expect("an empty database");
        let mut lost = session(&database).await;
        let fate = lost.begin().await.expect("it begins");
        drop(lost);
        let mut asking = session(&database).await;
        assert!(!fate.stands(&mut asking.connection).await.expect("it is over"));
    }
}
