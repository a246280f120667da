//! The tables of services, runs and their journal, and the statements that write them.
//!
//! Everything of a run is keyed by its id and nothing joins two runs, so that runs can be split over databases by id.
//! The journal is append-only; its unique key (run, seq) is the fence: a second writer of the same turn conflicts.

mod shared;

use celesta_store::{Expect, Migration, Statement};

/// The schema steps of this crate.
pub const MIGRATIONS: &[Migration] = &[RUNS, shared::STEP];

const RUNS: Migration = Migration {
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
};

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
           labels, idempotency_key, trace, parent, parent_call, depth, input) VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?/*bigint*/, ?/*text*/, ?/*text*/, ?/*text*/, ?/*uuid*/, ?/*text*/, ?, ?)",
    tail: "",
    cells: 17,
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
