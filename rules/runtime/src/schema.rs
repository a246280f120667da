//! The tables of services, runs and their journal, and the statements that write them.
//!
//! Everything of a run is keyed by its id and nothing joins two runs, so that runs can be split over databases by id.
//! The journal is append-only; its unique key (run, seq) is the fence: a second writer of the same turn conflicts.

pub(crate) mod releases;
mod shared;

use celesta_store::{Expect, Migration, Statement};

/// The schema steps of this crate.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        subsystem: "runs",
        version: 1,
        sql: "
CREATE TABLE versions (
    service TEXT NOT NULL,
    digest BLOB NOT NULL,
    artifact BLOB NOT NULL,
    pushed_at INTEGER NOT NULL,
    PRIMARY KEY (service, digest)
) STRICT;
CREATE TABLE services (
    name TEXT NOT NULL PRIMARY KEY,
    digest BLOB NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    id BLOB NOT NULL PRIMARY KEY,
    service TEXT NOT NULL,
    operation TEXT NOT NULL,
    workflow TEXT NOT NULL,
    version BLOB NOT NULL,
    state INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    ended_at INTEGER,
    rank INTEGER NOT NULL,
    deadline INTEGER,
    labels TEXT,
    idempotency_key TEXT,
    trace TEXT,
    parent BLOB,
    parent_call TEXT,
    depth INTEGER NOT NULL,
    input BLOB NOT NULL,
    result BLOB,
    error TEXT,
    progress TEXT
) STRICT;
CREATE INDEX runs_by_state ON runs (service, state, id);
CREATE TABLE journal (
    position INTEGER PRIMARY KEY,
    run BLOB NOT NULL,
    seq INTEGER NOT NULL,
    record BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX journal_by_run ON journal (run, seq);
CREATE TABLE snapshots (
    run BLOB NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT;
CREATE TABLE idempotency (
    service TEXT NOT NULL,
    key TEXT NOT NULL,
    run BLOB NOT NULL,
    body BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (service, key)
) STRICT, WITHOUT ROWID;
",
        postgres: "
CREATE TABLE versions (
    service TEXT NOT NULL,
    digest BYTEA NOT NULL,
    artifact BYTEA NOT NULL,
    pushed_at BIGINT NOT NULL,
    PRIMARY KEY (service, digest)
);
CREATE TABLE services (
    name TEXT NOT NULL PRIMARY KEY,
    digest BYTEA NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE runs (
    id UUID NOT NULL PRIMARY KEY,
    service TEXT NOT NULL,
    operation TEXT NOT NULL,
    workflow TEXT NOT NULL,
    version BYTEA NOT NULL,
    state BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    ended_at BIGINT,
    rank BIGINT NOT NULL,
    deadline BIGINT,
    labels TEXT,
    idempotency_key TEXT,
    trace TEXT,
    parent UUID,
    parent_call TEXT,
    depth BIGINT NOT NULL,
    input BYTEA NOT NULL,
    result BYTEA,
    error TEXT,
    progress TEXT
);
CREATE INDEX runs_by_state ON runs (service, state, id);
CREATE TABLE journal (
    run UUID NOT NULL,
    seq BIGINT NOT NULL,
    record BYTEA NOT NULL,
    PRIMARY KEY (run, seq)
);
CREATE TABLE snapshots (
    run UUID NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL,
    state BYTEA NOT NULL
);
CREATE TABLE idempotency (
    service TEXT NOT NULL,
    key TEXT NOT NULL,
    run UUID NOT NULL,
    body BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (service, key)
);
",
    },
    Migration {
        subsystem: "runs",
        version: 2,
        sql: "
ALTER TABLE runs ADD COLUMN steering TEXT;
CREATE TABLE events (
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (source, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX events_by_time ON events (received_at);
CREATE TABLE correlations (
    service TEXT NOT NULL,
    label TEXT NOT NULL,
    value TEXT NOT NULL,
    run BLOB NOT NULL,
    PRIMARY KEY (service, label, value, run)
) STRICT, WITHOUT ROWID;
CREATE TABLE places (
    gate BLOB NOT NULL,
    place INTEGER NOT NULL,
    stand INTEGER NOT NULL,
    passage BLOB NOT NULL,
    PRIMARY KEY (gate, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE orders (
    service TEXT NOT NULL,
    workflow TEXT NOT NULL,
    kind TEXT NOT NULL,
    rule TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    given_at INTEGER NOT NULL,
    PRIMARY KEY (service, workflow, kind, rule)
) STRICT, WITHOUT ROWID;
CREATE TABLE operations (
    id BLOB NOT NULL PRIMARY KEY,
    state INTEGER NOT NULL,
    action TEXT NOT NULL,
    filter TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    rate INTEGER NOT NULL,
    bookmark BLOB,
    seen INTEGER NOT NULL,
    done INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT, WITHOUT ROWID;
",
        postgres: "
ALTER TABLE runs ADD COLUMN steering TEXT;
CREATE TABLE events (
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (source, id)
);
CREATE INDEX events_by_time ON events (received_at);
CREATE TABLE correlations (
    service TEXT NOT NULL,
    label TEXT NOT NULL,
    value TEXT NOT NULL,
    run UUID NOT NULL,
    PRIMARY KEY (service, label, value, run)
);
CREATE TABLE places (
    gate UUID NOT NULL,
    place BIGINT NOT NULL,
    stand BIGINT NOT NULL,
    passage BYTEA NOT NULL,
    PRIMARY KEY (gate, place)
);
CREATE TABLE orders (
    service TEXT NOT NULL,
    workflow TEXT NOT NULL,
    kind TEXT NOT NULL,
    rule TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    given_at BIGINT NOT NULL,
    PRIMARY KEY (service, workflow, kind, rule)
);
CREATE TABLE operations (
    id UUID NOT NULL PRIMARY KEY,
    state BIGINT NOT NULL,
    action TEXT NOT NULL,
    filter TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    rate BIGINT NOT NULL,
    bookmark UUID,
    seen BIGINT NOT NULL,
    done BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    ended_at BIGINT
);
",
    },
    crate::archive::MIGRATION,
    shared::STEP,
    releases::MIGRATION,
    shared::KEYS_BY_TIME,
];

pub(crate) static VERSION_INSERT: Statement = Statement {
    name: "versions.insert",
    rank: 10,
    head: "INSERT INTO versions (service, digest, artifact, pushed_at) VALUES ",
    row: "(?, ?, ?, ?)",
    tail: " ON CONFLICT (service, digest) DO NOTHING",
    cells: 4,
    expect: Expect::Any,
};

pub(crate) static SERVICE_UPSERT: Statement = Statement {
    name: "services.upsert",
    rank: 11,
    head: "INSERT INTO services (name, digest, updated_at) VALUES ",
    row: "(?, ?, ?)",
    tail: " ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, updated_at = excluded.updated_at",
    cells: 3,
    expect: Expect::Each,
};

pub(crate) static RUN_INSERT: Statement = Statement {
    name: "runs.insert",
    rank: 10,
    head: "INSERT INTO runs (id, service, operation, workflow, version, state, created_at, updated_at, rank, deadline, \
           labels, idempotency_key, trace, parent, parent_call, depth, input, steering) VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?/*bigint*/, ?/*text*/, ?/*text*/, ?/*text*/, ?/*uuid*/, ?/*text*/, ?, ?, ?/*text*/)",
    tail: "",
    cells: 18,
    expect: Expect::Each,
};

pub(crate) static RUN_UPDATE: Statement = Statement {
    name: "runs.update",
    rank: 20,
    head: "UPDATE runs SET state = v.column2, updated_at = v.column3, ended_at = v.column4, result = v.column5, \
           error = v.column6, progress = v.column7 FROM (VALUES ",
    row: "(?, ?, ?, ?/*bigint*/, ?/*bytea*/, ?/*text*/, ?/*text*/)",
    tail: ") AS v WHERE id = v.column1",
    cells: 7,
    expect: Expect::Each,
};

/// What people and parents change of a run: rare, and so apart from what turns change.
pub(crate) static RUN_STEER: Statement = Statement {
    name: "runs.steer",
    rank: 21,
    head: "UPDATE runs SET rank = v.column2, deadline = v.column3, steering = v.column4 FROM (VALUES ",
    row: "(?, ?, ?/*bigint*/, ?/*text*/)",
    tail: ") AS v WHERE id = v.column1",
    cells: 4,
    expect: Expect::Each,
};

pub(crate) static EVENT_INSERT: Statement = Statement {
    name: "events.insert",
    rank: 10,
    head: "INSERT INTO events (source, id, received_at) VALUES ",
    row: "(?, ?, ?)",
    tail: "",
    cells: 3,
    expect: Expect::Each,
};

pub(crate) static EVENTS_FORGET: Statement = Statement {
    name: "events.forget",
    rank: 30,
    head: "DELETE FROM events WHERE received_at < (SELECT max(v.column1) FROM (VALUES ",
    row: "(?)",
    tail: ") AS v)",
    cells: 1,
    expect: Expect::Any,
};

pub(crate) static CORRELATION_INSERT: Statement = Statement {
    name: "correlations.insert",
    rank: 14,
    head: "INSERT INTO correlations (service, label, value, run) VALUES ",
    row: "(?, ?, ?, ?)",
    tail: " ON CONFLICT (service, label, value, run) DO NOTHING",
    cells: 4,
    expect: Expect::Any,
};

pub(crate) static PLACE_PUT: Statement = Statement {
    name: "places.put",
    rank: 15,
    head: "INSERT INTO places (gate, place, stand, passage) VALUES ",
    row: "(?, ?, ?, ?)",
    tail: "",
    cells: 4,
    expect: Expect::Each,
};

pub(crate) static PLACE_STAND: Statement = Statement {
    name: "places.stand",
    rank: 22,
    head: "UPDATE places SET stand = v.column3 FROM (VALUES ",
    row: "(?, ?, ?)",
    tail: ") AS v WHERE gate = v.column1 AND place = v.column2",
    cells: 3,
    expect: Expect::Each,
};

pub(crate) static PLACE_FREE: Statement = Statement {
    name: "places.free",
    rank: 23,
    head: "DELETE FROM places WHERE (gate, place) IN (VALUES ",
    row: "(?, ?)",
    tail: ")",
    cells: 2,
    expect: Expect::Each,
};

pub(crate) static ORDER_UPSERT: Statement = Statement {
    name: "orders.upsert",
    rank: 17,
    head: "INSERT INTO orders (service, workflow, kind, rule, reason, actor, given_at) VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?)",
    tail: " ON CONFLICT (service, workflow, kind, rule) DO UPDATE SET reason = excluded.reason, actor = excluded.actor, \
           given_at = excluded.given_at",
    cells: 7,
    expect: Expect::Each,
};

pub(crate) static ORDER_DELETE: Statement = Statement {
    name: "orders.delete",
    rank: 18,
    head: "DELETE FROM orders WHERE (service, workflow, kind, rule) IN (VALUES ",
    row: "(?, ?, ?, ?)",
    tail: ")",
    cells: 4,
    expect: Expect::Any,
};

pub(crate) static OPERATION_INSERT: Statement = Statement {
    name: "operations.insert",
    rank: 10,
    head: "INSERT INTO operations (id, state, action, filter, reason, actor, rate, created_at, updated_at, seen, done, \
           refused) SELECT v.column1, v.column2, v.column3, v.column4, v.column5, v.column6, v.column7, v.column8, \
           v.column9, 0, 0, 0 FROM (VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
    tail: ") AS v",
    cells: 9,
    expect: Expect::Each,
};

pub(crate) static OPERATION_ADVANCE: Statement = Statement {
    name: "operations.advance",
    rank: 20,
    head: "UPDATE operations SET bookmark = v.column2, seen = v.column3, done = v.column4, refused = v.column5, \
           updated_at = v.column6 FROM (VALUES ",
    row: "(?, ?/*uuid*/, ?, ?, ?, ?)",
    tail: ") AS v WHERE id = v.column1 AND ended_at IS NULL",
    cells: 6,
    expect: Expect::Each,
};

pub(crate) static OPERATION_STAND: Statement = Statement {
    name: "operations.stand",
    rank: 21,
    head: "UPDATE operations SET state = v.column2, updated_at = v.column3, ended_at = v.column4 FROM (VALUES ",
    row: "(?, ?, ?, ?/*bigint*/, ?)",
    tail: ") AS v WHERE id = v.column1 AND state = v.column5",
    cells: 5,
    expect: Expect::Each,
};

pub(crate) static IDEMPOTENCY_INSERT: Statement = Statement {
    name: "idempotency.insert",
    rank: 10,
    head: "INSERT INTO idempotency (service, key, run, body, created_at) VALUES ",
    row: "(?, ?, ?, ?, ?)",
    tail: "",
    cells: 5,
    expect: Expect::Each,
};

pub(crate) static JOURNAL_APPEND: Statement = Statement {
    name: "journal.append",
    rank: 12,
    head: "INSERT INTO journal (run, seq, record) VALUES ",
    row: "(?, ?, ?)",
    tail: "",
    cells: 3,
    expect: Expect::Each,
};

pub(crate) static SNAPSHOT_UPSERT: Statement = Statement {
    name: "snapshots.upsert",
    rank: 13,
    head: "INSERT INTO snapshots (run, seq, state) VALUES ",
    row: "(?, ?, ?)",
    tail: " ON CONFLICT (run) DO UPDATE SET seq = excluded.seq, state = excluded.state",
    cells: 3,
    expect: Expect::Each,
};
