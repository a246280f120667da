//! The tables of releases, canaries and upgrades: which version of a service was current when, which one some new runs
//! follow, and which runs have left the version they followed.

use celesta_store::{Expect, Migration, Statement};

/// The schema step.
pub(crate) const MIGRATION: Migration = Migration {
    subsystem: "runs",
    version: 5,
    sql: "
CREATE TABLE releases (
    service TEXT NOT NULL,
    number INTEGER NOT NULL,
    digest BLOB NOT NULL,
    kind INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (service, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE canaries (
    service TEXT NOT NULL PRIMARY KEY,
    digest BLOB NOT NULL,
    percent INTEGER NOT NULL,
    label TEXT,
    value TEXT,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE upgrades (
    run BLOB NOT NULL,
    seq INTEGER NOT NULL,
    origin BLOB NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;
",
    postgres: "
CREATE TABLE releases (
    service TEXT NOT NULL,
    number BIGINT NOT NULL,
    digest BYTEA NOT NULL,
    kind BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (service, number)
);
CREATE TABLE canaries (
    service TEXT NOT NULL PRIMARY KEY,
    digest BYTEA NOT NULL,
    percent BIGINT NOT NULL,
    label TEXT,
    value TEXT,
    updated_at BIGINT NOT NULL
);
CREATE TABLE upgrades (
    run UUID NOT NULL,
    seq BIGINT NOT NULL,
    origin BYTEA NOT NULL,
    PRIMARY KEY (run, seq)
);
",
};

pub(crate) static RELEASE_INSERT: Statement = Statement {
    name: "releases.insert",
    rank: 12,
    head: "INSERT INTO releases (service, number, digest, kind, created_at) VALUES ",
    row: "(?, ?, ?, ?, ?)",
    tail: "",
    cells: 5,
    expect: Expect::Each,
};

pub(crate) static CANARY_UPSERT: Statement = Statement {
    name: "canaries.upsert",
    rank: 13,
    head: "INSERT INTO canaries (service, digest, percent, label, value, updated_at) VALUES ",
    row: "(?, ?, ?, ?/*text*/, ?/*text*/, ?)",
    tail: " ON CONFLICT (service) DO UPDATE SET digest = excluded.digest, percent = excluded.percent, \
           label = excluded.label, value = excluded.value, updated_at = excluded.updated_at",
    cells: 6,
    expect: Expect::Each,
};

pub(crate) static UPGRADE_INSERT: Statement = Statement {
    name: "upgrades.insert",
    rank: 14,
    head: "INSERT INTO upgrades (run, seq, origin) VALUES ",
    row: "(?, ?, ?)",
    tail: "",
    cells: 3,
    expect: Expect::Each,
};

pub(crate) static RUN_VERSION: Statement = Statement {
    name: "runs.version",
    rank: 21,
    head: "UPDATE runs SET version = v.column2 FROM (VALUES ",
    row: "(?, ?)",
    tail: ") AS v WHERE id = v.column1",
    cells: 2,
    expect: Expect::Each,
};
