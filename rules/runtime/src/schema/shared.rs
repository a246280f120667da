//! The tables of shared facts, of the index that finds the runs they may concern, and of sweeps.

use celesta_store::Migration;

/// Schema step 4 of this crate.
pub(super) const STEP: Migration = Migration {
    subsystem: "runs",
    version: 4,
    sql: "
CREATE TABLE shared_facts (
    service TEXT NOT NULL,
    revision INTEGER NOT NULL,
    fact INTEGER NOT NULL,
    version INTEGER NOT NULL,
    fact_type TEXT NOT NULL,
    fields TEXT,
    written_at INTEGER NOT NULL,
    PRIMARY KEY (service, revision)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX shared_facts_by_fact ON shared_facts (service, fact, version);
CREATE TABLE shared_keys (
    service TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    answer TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (service, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE interests (
    key INTEGER NOT NULL,
    run BLOB NOT NULL,
    PRIMARY KEY (key, run)
) STRICT, WITHOUT ROWID;
CREATE TABLE interest_shapes (
    service TEXT NOT NULL,
    shape TEXT NOT NULL,
    PRIMARY KEY (service, shape)
) STRICT, WITHOUT ROWID;
CREATE TABLE sweeps (
    id BLOB NOT NULL PRIMARY KEY,
    service TEXT NOT NULL,
    plan TEXT NOT NULL,
    state INTEGER NOT NULL,
    hold INTEGER NOT NULL,
    rate INTEGER NOT NULL,
    place BLOB,
    runs INTEGER,
    told INTEGER NOT NULL DEFAULT 0,
    moved INTEGER NOT NULL DEFAULT 0,
    still INTEGER NOT NULL DEFAULT 0,
    missed INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT;
CREATE INDEX sweeps_open ON sweeps (service) WHERE ended_at IS NULL;
CREATE INDEX sweeps_by_service ON sweeps (service, id);
CREATE TABLE swept (
    sweep BLOB NOT NULL,
    run BLOB NOT NULL,
    outcome INTEGER NOT NULL,
    PRIMARY KEY (sweep, run)
) STRICT, WITHOUT ROWID;
",
    postgres: "
CREATE TABLE shared_facts (
    service TEXT NOT NULL,
    revision BIGINT NOT NULL,
    fact BIGINT NOT NULL,
    version BIGINT NOT NULL,
    fact_type TEXT NOT NULL,
    fields TEXT,
    written_at BIGINT NOT NULL,
    PRIMARY KEY (service, revision)
);
CREATE UNIQUE INDEX shared_facts_by_fact ON shared_facts (service, fact, version);
CREATE TABLE shared_keys (
    service TEXT NOT NULL,
    key TEXT NOT NULL,
    body BYTEA NOT NULL,
    answer TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (service, key)
);
CREATE TABLE interests (
    key BIGINT NOT NULL,
    run UUID NOT NULL,
    PRIMARY KEY (key, run)
);
CREATE TABLE interest_shapes (
    service TEXT NOT NULL,
    shape TEXT NOT NULL,
    PRIMARY KEY (service, shape)
);
CREATE TABLE sweeps (
    id UUID NOT NULL PRIMARY KEY,
    service TEXT NOT NULL,
    plan TEXT NOT NULL,
    state BIGINT NOT NULL,
    hold BIGINT NOT NULL,
    rate BIGINT NOT NULL,
    place BYTEA,
    runs BIGINT,
    told BIGINT NOT NULL DEFAULT 0,
    moved BIGINT NOT NULL DEFAULT 0,
    still BIGINT NOT NULL DEFAULT 0,
    missed BIGINT NOT NULL DEFAULT 0,
    reason TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX sweeps_open ON sweeps (service) WHERE ended_at IS NULL;
CREATE INDEX sweeps_by_service ON sweeps (service, id);
CREATE TABLE swept (
    sweep UUID NOT NULL,
    run UUID NOT NULL,
    outcome BIGINT NOT NULL,
    PRIMARY KEY (sweep, run)
);
",
};

/// Schema step 6: the oldest keys of clients are found without reading all of them.
pub(super) const KEYS_BY_TIME: Migration = Migration {
    subsystem: "runs",
    version: 6,
    sql: "CREATE INDEX shared_keys_by_time ON shared_keys (created_at);",
    postgres: "CREATE INDEX shared_keys_by_time ON shared_keys (created_at);",
};
