//! The durable record: SQLite or PostgreSQL behind one committer that shares each commit among everybody who waits for one.
//!
//! A caller collects what must become durable *together* in a [`Unit`]: rows for statements that are declared once as
//! [`Statement`] constants. The committer takes all units that wait, groups their rows by statement, executes each
//! statement for many rows at once and commits them in one transaction with one fsync. A unit is durable whole or not
//! at all; units become durable in the order they were submitted, so whoever saw the effect of one unit never has it
//! outlive that unit.
//!
//! A row that does not do what its statement expects (a key that stands already, an update that finds nothing) is a
//! [`CommitError::Conflict`] of its unit alone: the group is executed again unit by unit behind savepoints.
//!
//! A store on PostgreSQL may change its database in the hands of its owner ([`Site`]).
//!
//! On PostgreSQL a subsystem may also say what rows cannot: [`Postgres::write`] executes its own statements in a transaction
//! of their own, exactly once, and [`Postgres::listener`] hears what other nodes say.
//!
//! This crate owns sqlx and knows no table of its own but `schema_migrations`; each subsystem brings its tables as
//! [`Migration`]s and its statements as constants. It is not a query builder and has no transactions held open by callers.

mod commit;
pub mod driven;
mod error;
mod line;
mod migrate;
mod postgres;
pub mod reference;
pub mod scratch;
mod snapshot;
mod sqlite;
mod statement;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod unit;

pub use commit::{Committed, Store, StoreOptions};
pub use error::{CommitError, OpenError, QueryError};
pub use migrate::Migration;
pub use postgres::relocate::{Copied, RelocateError, Site};
pub use postgres::{Arg, Call, Heard, Listener, Means, Postgres};
pub use snapshot::{Snapshot, check_file, copy_file};
pub use statement::{Expect, Statement};
pub use unit::{Cell, GroupEnd, Row, Unit};
