//! The tables that all nodes of a deployment share, in its main schema, and what they ask of them.
//!
//! Instants are the database's own, so that the clocks of nodes do not matter.

use celesta_store::{Expect, Migration, Statement};

/// The steps of the schema shared by all nodes. On PostgreSQL only: a store in a file has one owner.
pub const CLUSTER_MIGRATIONS: &[Migration] = &[
    Migration {
        subsystem: "cluster",
        version: 1,
        sql: "",
        postgres: "
CREATE TABLE cluster_settings (name TEXT NOT NULL PRIMARY KEY, value BIGINT NOT NULL);
CREATE TABLE cluster_nodes (
    name TEXT NOT NULL PRIMARY KEY,
    address TEXT NOT NULL,
    incarnation BIGINT NOT NULL,
    release TEXT NOT NULL,
    leaving BIGINT NOT NULL,
    seen BIGINT NOT NULL
);
CREATE TABLE cluster_partitions (
    partition BIGINT NOT NULL PRIMARY KEY,
    node TEXT,
    incarnation BIGINT,
    epoch BIGINT NOT NULL,
    until BIGINT NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE cluster_bundles (artifact BYTEA NOT NULL PRIMARY KEY, packed BYTEA NOT NULL);
ALTER TABLE cluster_bundles ALTER COLUMN packed SET STORAGE EXTERNAL;
",
    },
    super::mail::FORMER_MIGRATION,
    Migration {
        subsystem: "cluster",
        version: 3,
        sql: "",
        postgres: "
ALTER TABLE cluster_partitions ADD COLUMN place TEXT, ADD COLUMN wanted TEXT, ADD COLUMN problem TEXT;
ALTER TABLE cluster_nodes ADD COLUMN databases TEXT;
CREATE TABLE cluster_databases (name TEXT NOT NULL PRIMARY KEY, mark BIGINT NOT NULL);
",
    },
];

/// A packed bundle, so that a node needs nothing but the database to know every service.
pub(crate) static BUNDLE_INSERT: Statement = Statement {
    name: "cluster.bundle",
    rank: 9,
    head: "INSERT INTO cluster_bundles (artifact, packed) VALUES ",
    row: "(?, ?)",
    tail: " ON CONFLICT (artifact) DO NOTHING",
    cells: 2,
    expect: Expect::Any,
};

pub(crate) const BUNDLE: &str = "SELECT packed FROM cluster_bundles WHERE artifact = ?";

/// How many partitions there are: the first node's word.
pub(super) const SETTLE_COUNT: &str =
    "INSERT INTO cluster_settings VALUES ('partitions', $1) ON CONFLICT (name) DO NOTHING";
pub(super) const COUNT: &str = "SELECT value FROM cluster_settings WHERE name = 'partitions'";
/// `$1` how many, `$2` the databases they are dealt to; those that are there stay where they are.
pub(super) const MAKE_ROWS: &str = "INSERT INTO cluster_partitions (partition, epoch, until, place) \
     SELECT number, 0, 0, ($2::text[])[(1 + number % cardinality($2::text[]))::int] \
     FROM generate_series(0, $1::bigint - 1) AS number ON CONFLICT (partition) DO NOTHING";

/// The deployment's own number, by which its databases know it: the first node's word.
pub(super) const SETTLE_DEPLOYMENT: &str =
    "INSERT INTO cluster_settings (name, value) VALUES ('deployment', $1) ON CONFLICT (name) DO NOTHING";
pub(super) const DEPLOYMENT: &str = "SELECT value FROM cluster_settings WHERE name = 'deployment'";
/// `$1` name, `$2` mark.
pub(super) const KNOW_DATABASE: &str =
    "INSERT INTO cluster_databases (name, mark) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
pub(super) const KNOWN_DATABASE: &str = "SELECT mark FROM cluster_databases WHERE name = $1";

/// `$1` name, `$2` address, `$3` incarnation, `$4` release, `$5` whether it is leaving, `$6` the databases it knows.
pub(super) const SEEN: &str = "INSERT INTO cluster_nodes (name, address, incarnation, release, leaving, databases, seen) \
     VALUES ($1, $2, $3, $4, $5, $6, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) \
     ON CONFLICT (name) DO UPDATE SET address = excluded.address, incarnation = excluded.incarnation, \
     release = excluded.release, leaving = excluded.leaving, databases = excluded.databases, \
     seen = excluded.seen";
/// `$1` name, `$2` incarnation, `$3` the lease.
pub(super) const RENEW: &str = "UPDATE cluster_partitions SET until = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $3 \
     WHERE node = $1 AND incarnation = $2";
pub(super) const PARTITIONS: &str = "SELECT partition, node, incarnation, epoch, \
     until - (extract(epoch FROM clock_timestamp()) * 1000)::bigint, place, wanted, problem \
     FROM cluster_partitions ORDER BY partition";
pub(super) const NODES: &str = "SELECT name, address, incarnation, release, leaving, \
     (extract(epoch FROM clock_timestamp()) * 1000)::bigint - seen, databases FROM cluster_nodes ORDER BY name";
/// `$1` partition, `$2` the epoch it was seen with, `$3` name, `$4` incarnation, `$5` the lease.
pub(super) const CLAIM: &str = "UPDATE cluster_partitions SET node = $3, incarnation = $4, epoch = epoch + 1, \
     until = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $5 \
     WHERE partition = $1 AND epoch = $2 \
     AND (node IS NULL OR node = $3 OR until <= (extract(epoch FROM clock_timestamp()) * 1000)::bigint) RETURNING epoch, place, wanted";
/// `$1` partition, `$2` epoch, `$3` name, `$4` incarnation.
pub(super) const FREE: &str = "UPDATE cluster_partitions SET node = NULL, incarnation = NULL, until = 0 \
     WHERE partition = $1 AND epoch = $2 AND node = $3 AND incarnation = $4";
/// `$1` partition, `$2` the database it is wanted in.
pub(super) const WANT: &str = "UPDATE cluster_partitions SET wanted = $2, problem = NULL \
     WHERE partition = $1 AND wanted IS NULL AND COALESCE(place, 'main') <> $2 RETURNING partition";
/// `$1` partition, `$2` epoch, `$3` name, `$4` incarnation, `$5` the database where it is from now on.
pub(super) const MOVED: &str = "UPDATE cluster_partitions SET place = NULLIF($5, 'main'), wanted = NULL, problem = NULL \
     WHERE partition = $1 AND epoch = $2 AND node = $3 AND incarnation = $4 RETURNING partition";
/// `$1` partition, `$2` epoch, `$3` name, `$4` incarnation, `$5` why it stays where it is.
pub(super) const STAY: &str = "UPDATE cluster_partitions SET wanted = NULL, problem = $5 \
     WHERE partition = $1 AND epoch = $2 AND node = $3 AND incarnation = $4 RETURNING partition";
/// `$1` name, `$2` incarnation.
pub(super) const FORGET: &str = "DELETE FROM cluster_nodes WHERE name = $1 AND incarnation = $2";
