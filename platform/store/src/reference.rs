//! What a plain table gives on this very server: the measure for everything that promises more.
//!
//! One table, `FOR UPDATE SKIP LOCKED`, a batch for each statement, no classes, keys, shares or histories.

use std::time::Duration;

use celesta_runtime::Clock;
use futures_util::future::try_join_all;

use crate::error::QueryError;
use crate::postgres::{Arg, Call, Postgres};

/// Messages a second through a plain table.
#[derive(Debug, Clone, Copy)]
pub struct Reference {
    /// Inserted.
    pub inserted_per_s: f64,
    /// Leased in one statement and deleted in another.
    pub settled_per_s: f64,
}

/// Sends `messages` of `payload` bytes through a table that is made for it and dropped, `batch` at a time, over so many
/// connections.
///
/// # Errors
/// When the server does not do it.
pub async fn plain_table(
    database: &Postgres,
    clock: &Clock,
    messages: u32,
    payload: u32,
    batch: u32,
    connections: u32,
) -> Result<Reference, QueryError> {
    let database = &database.with_sessions(connections as usize);
    let plain = |name, sql| Call {
        name,
        sql,
        args: Vec::new(),
    };
    database
        .ask(&plain(
            "reference.create",
            "CREATE TABLE IF NOT EXISTS queue_reference (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
             leased BOOLEAN NOT NULL DEFAULT false, payload BYTEA NOT NULL)",
        ))
        .await?;
    database
        .ask(&plain(
            "reference.index",
            "CREATE INDEX IF NOT EXISTS queue_reference_free ON queue_reference (id) WHERE NOT leased",
        ))
        .await?;
    let rounds = messages.div_ceil(batch.max(1)).div_ceil(connections.max(1));
    let sent = f64::from(rounds) * f64::from(batch) * f64::from(connections);
    let bytes: std::sync::Arc<[u8]> = vec![7; payload as usize].into();
    let begun = clock.monotonic();
    let inserting = (0..connections).map(|_| async {
        for _ in 0..rounds {
            let rows = vec![bytes.clone(); batch as usize];
            let call = Call {
                name: "reference.insert",
                sql: "INSERT INTO queue_reference (payload) SELECT unnest($1::bytea[])",
                args: vec![Arg::Blobs(rows)],
            };
            database.ask(&call).await?;
        }
        Ok::<_, QueryError>(())
    });
    try_join_all(inserting).await?;
    let inserted = clock.monotonic().saturating_sub(begun);
    let begun = clock.monotonic();
    let settling = (0..connections).map(|_| async {
        loop {
            let lease = Call {
                name: "reference.lease",
                sql: "UPDATE queue_reference SET leased = true WHERE id = ANY (ARRAY(SELECT id FROM queue_reference \
                      WHERE NOT leased ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING id, payload",
                args: vec![Arg::Int(batch.into())],
            };
            let leased = database.ask(&lease).await?;
            if leased.is_empty() {
                return Ok::<_, QueryError>(());
            }
            let settle = Call {
                name: "reference.settle",
                sql: "DELETE FROM queue_reference WHERE id = ANY ($1)",
                args: vec![Arg::Ints(leased.iter().filter_map(|row| row.int(0)).collect())],
            };
            database.ask(&settle).await?;
        }
    });
    try_join_all(settling).await?;
    let settled = clock.monotonic().saturating_sub(begun);
    database
        .ask(&plain("reference.drop", "DROP TABLE queue_reference"))
        .await?;
    let rate = |time: Duration| sent / time.as_secs_f64().max(f64::EPSILON);
    Ok(Reference {
        inserted_per_s: rate(inserted),
        settled_per_s: rate(settled),
    })
}
