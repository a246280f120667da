//! Rows as the first release wrote them: read once, written anew, and deleted in the same commit.

use std::sync::Arc;

use celesta_store::{Cell, Expect, Row, Statement, Store, Unit};
use celesta_types::MessageId;
use serde::Deserialize;

use crate::entry::{Entry, NEVER};
use crate::error::Error;
use crate::limits::LOAD_ROWS;
use crate::machine::State;
use crate::name::Key;
use crate::schema;

static DELETE: Statement = Statement {
    name: "queue.delete_first",
    rank: 30,
    head: "DELETE FROM queue_messages WHERE seq IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Each,
};

/// What few messages have, as one JSON text.
#[derive(Debug, Default, Deserialize)]
struct Extra {
    #[serde(default)]
    fairness: Option<Arc<str>>,
    #[serde(default)]
    metadata: Vec<(String, String)>,
}

/// Moves all rows of the first format to the present one.
pub(crate) async fn convert(store: &Store) -> Result<(), Error> {
    if store.database().is_some() {
        // That release had owned queues on SQLite only.
        return Ok(());
    }
    loop {
        let rows = store
            .fetch(SELECT_MESSAGES, &[Cell::Int(0), Cell::Int(LOAD_ROWS)])
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut unit = Unit::new();
        for row in &rows {
            let (queue, key, entry) = read(row)?;
            schema::insert(&mut unit, queue, key, &entry);
            unit.add(&DELETE, [Cell::Int(entry.seq)]);
        }
        store.commit(unit).await?;
    }
}

const SELECT_MESSAGES: &str = "SELECT seq, id, queue, key, rank, enqueued_at, attempts_max, payload, state, attempt, at, \
     deadline, expires_at, error, extra FROM queue_messages WHERE seq > ? ORDER BY seq LIMIT ?";

/// Reads one row of [`SELECT_MESSAGES`]: the queue it belongs to, and the entry.
fn read(row: &Row) -> Result<(i64, Option<Key>, Entry), Error> {
    let seq = row.int(0).unwrap_or(0);
    let corrupt = |what| Error::Corrupt { seq, what };
    let number = |at: usize, what| {
        row.int(at)
            .and_then(|value| u32::try_from(value).ok())
            .ok_or_else(|| corrupt(what))
    };
    let id = row
        .blob(1)
        .and_then(MessageId::from_bytes)
        .ok_or_else(|| corrupt("id"))?;
    let state = row
        .int(8)
        .and_then(State::from_code)
        .ok_or_else(|| corrupt("state"))?;
    let mut entry = Entry::new(
        id,
        seq,
        Some(row.blob(7).ok_or_else(|| corrupt("payload"))?.into()),
    );
    let key = match row.blob(3) {
        Some(bytes) => Some(Key::from_bits(u128::from_be_bytes(
            bytes.try_into().map_err(|_| corrupt("key"))?,
        ))),
        None => None,
    };
    entry.rank = number(4, "rank")?;
    entry.enqueued_at = row.int(5).ok_or_else(|| corrupt("enqueued_at"))?;
    entry.standing.attempts_max = number(6, "attempts_max")?;
    entry.standing.state = state;
    entry.standing.attempt = number(9, "attempt")?;
    entry.at = row.int(10).unwrap_or(0);
    entry.deadline = row.int(11).unwrap_or(NEVER);
    entry.expire_at(row.int(12).unwrap_or(NEVER));
    if let Some(error) = row.text(13) {
        entry.rare_mut().error = Some(error.into());
    }
    if let Some(text) = row.text(14) {
        let extra: Extra = serde_json::from_str(text).map_err(|_| corrupt("extra"))?;
        let rare = entry.rare_mut();
        rare.fairness = extra.fairness;
        rare.metadata = (!extra.metadata.is_empty()).then(|| extra.metadata.into());
    }
    entry.stored = true;
    let queue = row.int(2).ok_or_else(|| corrupt("queue"))?;
    Ok((queue, key, entry))
}
