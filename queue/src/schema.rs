//! The record of the queue: its tables and the statements that write them.
//!
//! `seq` is both the enqueue order and the rowid, so inserts append and there is no other index: the process that owns
//! the file keeps the order, the ids and the keys in memory, and reads all heads when it starts. The payload comes last in
//! the row and stays there until it is needed.
//!
//! A history is one row, written when its message ends, at a place that grows with the instant it is forgotten: old ones
//! are deleted from the front, and the pages they leave are filled by new ones. Its index is by pieces of 4,096 places,
//! so that its live part is small and stays in memory, however many histories there are.

use celesta_store::{Cell, Expect, Migration, Statement, Unit};
use celesta_types::MessageId;

use crate::entry::Entry;
use crate::machine::State;
use crate::name::Key;
use crate::rows::{self, Standing};

/// The steps of the queue's schema.
pub const MIGRATIONS: &[Migration] = &[
Migration {
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
},
Migration {
    subsystem: "queue",
    version: 2,
    sql: "
CREATE TABLE queue_rows (seq INTEGER PRIMARY KEY, head BLOB NOT NULL, changes BLOB, payload BLOB NOT NULL) STRICT;
CREATE TABLE queue_history (place INTEGER PRIMARY KEY, id BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE INDEX queue_history_by_id ON queue_history (place >> 12, substr(id, 13, 4));",
    postgres: "",
},
Migration {
    subsystem: "queue",
    version: 3,
    sql: "",
    postgres: crate::postgres::FEWER,
},
Migration {
    subsystem: "queue",
    version: 4,
    sql: "
CREATE TABLE queue_later (
  seq INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  queue INTEGER NOT NULL,
  id BLOB NOT NULL,
  head BLOB NOT NULL,
  payload BLOB NOT NULL
) STRICT;
CREATE INDEX queue_later_by_at ON queue_later (at);
CREATE UNIQUE INDEX queue_later_by_id ON queue_later (queue, id);",
    postgres: "",
},
Migration {
    subsystem: "queue",
    version: 5,
    sql: "",
    postgres: crate::postgres::STAGE,
},
Migration {
    subsystem: "queue",
    version: 6,
    sql: "",
    postgres: crate::postgres::HEADS,
},
Migration {
    subsystem: "queue",
    version: 7,
    sql: "",
    postgres: crate::postgres::ROWS,
},
];

/// The tables of queues that one process owns in a PostgreSQL schema of their own, as a partition of a cluster has them.
/// Queues that many nodes share have other tables, [`MIGRATIONS`].
pub const OWNED_MIGRATIONS: &[Migration] = &[Migration {
    subsystem: "queue",
    version: 1,
    sql: "",
    postgres: "
CREATE TABLE queue_meta (name TEXT PRIMARY KEY, value BIGINT NOT NULL);
CREATE TABLE queue_queues (id BIGINT PRIMARY KEY, name TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE queue_rows (seq BIGINT PRIMARY KEY, head BYTEA NOT NULL, changes BYTEA, payload BYTEA NOT NULL) WITH (
  -- Nearly every row is deleted soon: look at the table often, without resting between pages.
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_analyze_scale_factor = 1, autovacuum_analyze_threshold = 100000
);
ALTER TABLE queue_rows ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE queue_rows ALTER COLUMN head SET STORAGE PLAIN;
CREATE TABLE queue_history (place BIGINT PRIMARY KEY, id UUID NOT NULL, body BYTEA NOT NULL);
CREATE INDEX queue_history_by_id ON queue_history (id);
CREATE TABLE queue_later (
  seq BIGINT PRIMARY KEY,
  at BIGINT NOT NULL,
  queue BIGINT NOT NULL,
  id UUID NOT NULL,
  head BYTEA NOT NULL,
  payload BYTEA NOT NULL
);
CREATE INDEX queue_later_by_at ON queue_later (at);
CREATE UNIQUE INDEX queue_later_by_id ON queue_later (queue, id);",
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

/// Nearly all messages: they may be leased at once.
static INSERT: Statement = Statement {
    name: "queue.insert",
    rank: 10,
    head: "INSERT INTO queue_rows (seq, head, payload) VALUES ",
    row: "(?, ?, ?)",
    tail: "",
    cells: 3,
    expect: Expect::Each,
};

static INSERT_CHANGED: Statement = Statement {
    name: "queue.insert_changed",
    rank: 10,
    head: "INSERT INTO queue_rows (seq, head, changes, payload) VALUES ",
    row: "(?, ?, ?, ?)",
    tail: "",
    cells: 4,
    expect: Expect::Each,
};

/// Memory has decided already, and a message whose own insert has failed is rightly not found. An upsert takes rows in
/// order, so of two changes in one commit the later stands.
static CHANGE: Statement = Statement {
    name: "queue.change",
    rank: 20,
    head: "INSERT INTO queue_rows (seq, head, changes, payload) \
           SELECT v.column1, substr(known.head, 1, 0), v.column2, substr(known.head, 1, 0) FROM (VALUES ",
    row: "(?, ?)",
    tail: ") AS v CROSS JOIN queue_rows AS known WHERE known.seq = v.column1 \
           ON CONFLICT(seq) DO UPDATE SET changes = excluded.changes",
    cells: 2,
    expect: Expect::Any,
};

/// A completion that does not find its row is a second process on one file, or a bug: the unit must not stand.
static COMPLETE: Statement = Statement {
    name: "queue.complete",
    rank: 30,
    head: "DELETE FROM queue_rows WHERE seq IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Each,
};

static COLLECT: Statement = Statement {
    name: "queue.collect",
    rank: 31,
    head: "DELETE FROM queue_rows WHERE seq IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

static HISTORY: Statement = Statement {
    name: "queue.history",
    rank: 12,
    head: "INSERT INTO queue_history (place, id, body) VALUES ",
    row: "(?, ?, ?)",
    tail: "",
    cells: 3,
    expect: Expect::Each,
};

/// Deletes some of the histories that stand before a place.
static FORGET: Statement = Statement {
    name: "queue.forget",
    rank: 32,
    head: "DELETE FROM queue_history WHERE place IN (SELECT place FROM queue_history WHERE place < (VALUES ",
    row: "(?)",
    tail: ") ORDER BY place LIMIT 2000)",
    cells: 1,
    expect: Expect::Any,
};

/// Adds the row of `entry` as it stands. Its payload must be in memory.
pub(crate) fn insert(unit: &mut Unit, queue: i64, key: Option<Key>, entry: &Entry) {
    let standing = Standing {
        state: entry.standing.state,
        attempt: entry.standing.attempt,
        at: entry.at,
        error: None,
        happened: &[],
    };
    insert_as(unit, queue, key, entry, &standing);
}

/// Adds the row of `entry` as it will stand. Its payload must be in memory.
pub(crate) fn insert_as(
    unit: &mut Unit,
    queue: i64,
    key: Option<Key>,
    entry: &Entry,
    standing: &Standing<'_>,
) {
    let head = Cell::Blob(rows::head(queue, key, entry));
    let payload = entry.payload.as_deref().map_or_else(Vec::new, <[u8]>::to_vec);
    let plain = standing.state == State::Pending
        && standing.attempt == 0
        && standing.error.is_none()
        && entry.error().is_none()
        && standing.happened.is_empty();
    if plain {
        unit.add(&INSERT, [Cell::Int(entry.seq), head, Cell::Blob(payload)]);
    } else {
        let changes = Cell::Blob(rows::changes(entry, standing));
        unit.add(
            &INSERT_CHANGED,
            [Cell::Int(entry.seq), head, changes, Cell::Blob(payload)],
        );
    }
}

/// Writes how a stored message stands from now on.
pub(crate) fn change(unit: &mut Unit, entry: &Entry, standing: &Standing<'_>) {
    unit.add(
        &CHANGE,
        [Cell::Int(entry.seq), Cell::Blob(rows::changes(entry, standing))],
    );
}

pub(crate) fn complete(unit: &mut Unit, seq: i64) {
    unit.add(&COMPLETE, [Cell::Int(seq)]);
}

pub(crate) fn collect(unit: &mut Unit, seq: i64) {
    unit.add(&COLLECT, [Cell::Int(seq)]);
}

/// Adds the history of a message that ends so.
pub(crate) fn history(
    unit: &mut Unit,
    place: i64,
    queue: i64,
    key: Option<Key>,
    entry: &Entry,
    standing: &Standing<'_>,
) {
    let mut body = rows::head(queue, key, entry);
    body.extend(rows::changes(entry, standing));
    unit.add(
        &HISTORY,
        [
            Cell::Int(place),
            Cell::Id(entry.id().to_bytes()),
            Cell::Blob(body),
        ],
    );
}

/// Deletes some of the histories before `place`.
pub(crate) fn forget(unit: &mut Unit, place: i64) {
    unit.add(&FORGET, [Cell::Int(place)]);
}

/// The heads and changes of the next rows as one run of bytes, the last `seq` of them, and how many there are.
pub(crate) const SELECT_ROWS: &str = "SELECT CAST(group_concat(head || coalesce(changes, ''), '') AS BLOB), max(seq), count(*) \
     FROM (SELECT seq, head, changes FROM queue_rows WHERE seq > ? ORDER BY seq LIMIT ?)";

/// The same for PostgreSQL.
pub(crate) const SELECT_ROWS_POSTGRES: &str = "SELECT string_agg(head || coalesce(changes, ''::bytea), ''::bytea ORDER BY seq), max(seq), count(*) \
     FROM (SELECT seq, head, changes FROM queue_rows WHERE seq > ? ORDER BY seq LIMIT ?) AS rows";

/// Where the first history stands.
pub(crate) const SELECT_OLDEST: &str = "SELECT place FROM queue_history ORDER BY place LIMIT 1";

/// The histories of an id, the newest first: one look into each piece of the index.
pub(crate) const SELECT_HISTORY: &str = "WITH RECURSIVE piece(n) AS (\
       SELECT (SELECT place >> 12 FROM queue_history ORDER BY place LIMIT 1) \
       UNION ALL SELECT (SELECT place >> 12 FROM queue_history WHERE place >= (piece.n + 1) << 12 ORDER BY place LIMIT 1) \
         FROM piece WHERE piece.n IS NOT NULL) \
     SELECT h.body FROM piece CROSS JOIN queue_history AS h \
       ON h.place >> 12 = piece.n AND substr(h.id, 13, 4) = substr(?, 13, 4) \
     WHERE h.id = ? ORDER BY h.place DESC LIMIT 10";

/// The same for PostgreSQL, where an index by whole ids is cheap enough; it takes the id twice, too.
pub(crate) const SELECT_HISTORY_POSTGRES: &str =
    "SELECT body FROM queue_history WHERE id = ? AND id = ? ORDER BY place DESC LIMIT 10";

/// The bytes that make an id a cell.
pub(crate) fn id_cell(id: MessageId) -> Cell {
    Cell::Id(id.to_bytes())
}
