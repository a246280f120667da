//! The record of the queue: its tables, the statements that write them, and how rows are made and read.
//!
//! `seq` is both the enqueue order and the rowid, so inserts append and there is no other index: the process that owns
//! the file keeps the order, the ids and the keys in memory, and reads the whole table when it starts.

use std::sync::Arc;

use celesta_store::{Cell, Expect, Migration, Row, Statement, Unit};
use celesta_types::MessageId;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, NEVER};
use crate::error::Error;
use crate::machine::State;
use crate::name::Key;

/// The steps of the queue's schema.
pub const MIGRATIONS: &[Migration] = &[Migration {
    subsystem: "queue",
    version: 1,
    sql: "
CREATE TABLE queue_meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE queue_queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL, settings TEXT NOT NULL) STRICT;
CREATE TABLE queue_messages (
  seq INTEGER PRIMARY KEY,
  id BLOB NOT NULL,
  queue INTEGER NOT NULL,
  key BLOB,
  rank INTEGER NOT NULL,
  enqueued_at INTEGER NOT NULL,
  payload BLOB NOT NULL,
  state INTEGER NOT NULL DEFAULT 1,
  attempt INTEGER NOT NULL DEFAULT 0,
  attempts_max INTEGER NOT NULL,
  at INTEGER NOT NULL DEFAULT 0,
  deadline INTEGER,
  expires_at INTEGER,
  error TEXT,
  extra TEXT
) STRICT;",
    postgres: crate::postgres::SCHEMA,
}];

pub(crate) static SET_META: Statement = Statement {
    name: "queue.set_meta",
    rank: 5,
    head: "INSERT INTO queue_meta (name, value) VALUES ",
    row: "(?, ?)",
    tail: " ON CONFLICT(name) DO UPDATE SET value = excluded.value",
    cells: 2,
    expect: Expect::Any,
};

pub(crate) static SET_QUEUE: Statement = Statement {
    name: "queue.set_queue",
    rank: 5,
    head: "INSERT INTO queue_queues (id, name, settings) VALUES ",
    row: "(?, ?, ?)",
    tail: " ON CONFLICT(id) DO UPDATE SET settings = excluded.settings",
    cells: 3,
    expect: Expect::Any,
};

/// Nearly all messages: nothing said but a key and a rank.
static INSERT_PLAIN: Statement = Statement {
    name: "queue.insert",
    rank: 10,
    head: "INSERT INTO queue_messages (seq, id, queue, key, rank, enqueued_at, attempts_max, payload) VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?, ?)",
    tail: "",
    cells: 8,
    expect: Expect::Each,
};

static INSERT_FULL: Statement = Statement {
    name: "queue.insert_full",
    rank: 10,
    head: "INSERT INTO queue_messages (seq, id, queue, key, rank, enqueued_at, attempts_max, payload, \
           state, attempt, at, deadline, expires_at, error, extra) VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    tail: "",
    cells: 15,
    expect: Expect::Each,
};

/// Written behind the consumer's back while it works, so it comes before whatever settles the lease in the same commit.
static RECORD_LEASE: Statement = Statement {
    name: "queue.record_lease",
    rank: 20,
    head: "UPDATE queue_messages SET state = 2, attempt = v.column2 FROM (VALUES ",
    row: "(?, ?)",
    tail: ") AS v WHERE seq = v.column1",
    cells: 2,
    expect: Expect::Any,
};

static REPRIORITIZE: Statement = Statement {
    name: "queue.reprioritize",
    rank: 21,
    head: "UPDATE queue_messages SET rank = v.column2, deadline = v.column3 FROM (VALUES ",
    row: "(?, ?, ?)",
    tail: ") AS v WHERE seq = v.column1",
    cells: 3,
    expect: Expect::Any,
};

/// Memory has decided already, and a message whose own insert has failed is rightly not found.
static SETTLE: Statement = Statement {
    name: "queue.settle",
    rank: 22,
    head: "UPDATE queue_messages SET state = v.column2, attempt = v.column3, at = v.column4, error = v.column5, \
           expires_at = v.column6 FROM (VALUES ",
    row: "(?, ?, ?, ?, ?, ?)",
    tail: ") AS v WHERE seq = v.column1",
    cells: 6,
    expect: Expect::Any,
};

/// A completion that does not find its row is a second process on one file, or a bug: the unit must not stand.
static COMPLETE: Statement = Statement {
    name: "queue.complete",
    rank: 30,
    head: "DELETE FROM queue_messages WHERE seq IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Each,
};

static COLLECT: Statement = Statement {
    name: "queue.collect",
    rank: 31,
    head: "DELETE FROM queue_messages WHERE seq IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

/// What few messages have, as one JSON text.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Extra {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fairness: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    metadata: Vec<(String, String)>,
}

const fn optional(instant: i64) -> Cell {
    if instant == NEVER {
        Cell::Null
    } else {
        Cell::Int(instant)
    }
}

/// Adds the row of `entry` as it stands.
pub(crate) fn insert(unit: &mut Unit, queue: i64, entry: &Entry) {
    insert_as(
        unit,
        queue,
        entry,
        entry.standing.state,
        entry.standing.attempt,
        entry.at,
    );
}

/// Adds the row of `entry` as it will stand.
pub(crate) fn insert_as(unit: &mut Unit, queue: i64, entry: &Entry, state: State, attempt: u32, at: i64) {
    let key = entry
        .key
        .map_or(Cell::Null, |key| Cell::Id(key.bits().to_be_bytes()));
    let first = [
        Cell::Int(entry.seq),
        Cell::Id(entry.id.to_bytes()),
        Cell::Int(queue),
        key,
        Cell::Int(entry.rank.into()),
        Cell::Int(entry.enqueued_at),
        Cell::Int(entry.standing.attempts_max.into()),
        Cell::Blob(entry.payload.to_vec()),
    ];
    let plain = state == State::Pending
        && attempt == 0
        && entry.deadline == NEVER
        && entry.expires_at == NEVER
        && entry.error.is_none()
        && entry.fairness.is_none()
        && entry.metadata.is_none();
    if plain {
        unit.add(&INSERT_PLAIN, first);
        return;
    }
    let extra = Extra {
        fairness: entry.fairness.clone(),
        metadata: entry
            .metadata
            .as_ref()
            .map_or_else(Vec::new, |metadata| metadata.to_vec()),
    };
    let extra = if extra.fairness.is_none() && extra.metadata.is_empty() {
        Cell::Null
    } else {
        Cell::from(serde_json::to_string(&extra).expect("texts always encode"))
    };
    let [seq, id, queue, key, rank, enqueued_at, attempts_max, payload] = first;
    unit.add(
        &INSERT_FULL,
        [
            seq,
            id,
            queue,
            key,
            rank,
            enqueued_at,
            attempts_max,
            payload,
            Cell::Int(state.code()),
            Cell::Int(attempt.into()),
            Cell::Int(at),
            optional(entry.deadline),
            optional(entry.expires_at),
            entry.error.as_deref().map_or(Cell::Null, Cell::from),
            extra,
        ],
    );
}

pub(crate) fn record_lease(unit: &mut Unit, entry: &Entry) {
    unit.add(
        &RECORD_LEASE,
        [Cell::Int(entry.seq), Cell::Int(entry.standing.attempt.into())],
    );
}

pub(crate) fn reprioritize(unit: &mut Unit, entry: &Entry) {
    unit.add(
        &REPRIORITIZE,
        [
            Cell::Int(entry.seq),
            Cell::Int(entry.rank.into()),
            optional(entry.deadline),
        ],
    );
}

pub(crate) fn settle(
    unit: &mut Unit,
    entry: &Entry,
    state: State,
    attempt: u32,
    at: i64,
    error: Option<&str>,
) {
    let error = error.or(entry.error.as_deref()).map_or(Cell::Null, Cell::from);
    let cells = [
        Cell::Int(entry.seq),
        Cell::Int(state.code()),
        Cell::Int(attempt.into()),
        Cell::Int(at),
        error,
        optional(entry.expires_at),
    ];
    unit.add(&SETTLE, cells);
}

pub(crate) fn complete(unit: &mut Unit, seq: i64) {
    unit.add(&COMPLETE, [Cell::Int(seq)]);
}

pub(crate) fn collect(unit: &mut Unit, seq: i64) {
    unit.add(&COLLECT, [Cell::Int(seq)]);
}

pub(crate) const SELECT_MESSAGES: &str = "SELECT seq, id, queue, key, rank, enqueued_at, attempts_max, payload, state, attempt, at, \
     deadline, expires_at, error, extra FROM queue_messages WHERE seq > ? ORDER BY seq LIMIT ?";

/// Reads one row of [`SELECT_MESSAGES`]: the queue it belongs to, and the entry.
pub(crate) fn read(row: &Row) -> Result<(i64, Entry), Error> {
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
    let mut entry = Entry::new(id, seq, row.blob(7).ok_or_else(|| corrupt("payload"))?.into());
    entry.key = match row.blob(3) {
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
    entry.expires_at = row.int(12).unwrap_or(NEVER);
    entry.error = row.text(13).map(Into::into);
    if let Some(text) = row.text(14) {
        let extra: Extra = serde_json::from_str(text).map_err(|_| corrupt("extra"))?;
        entry.fairness = extra.fairness;
        entry.metadata = (!extra.metadata.is_empty()).then(|| extra.metadata.into());
    }
    entry.stored = true;
    let queue = row.int(2).ok_or_else(|| corrupt("queue"))?;
    Ok((queue, entry))
}
