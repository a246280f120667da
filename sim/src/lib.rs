//! The whole platform in one process, on one thread, under a clock that the simulation moves and with faults that a seed
//! chooses: the same seed gives the same trace, byte for byte.
//!
//! What runs is the real thing: the runtime with its turns, the queues, the engine with rules from bundles, the feed of a
//! worker, and the statements of the store on SQLite. What is simulated is what stands around: the instant, the moment and
//! the end of each commit (`celesta_store::driven`), the functions, the clients, and the end of the process. After each step
//! everything that can go on by itself does so until nothing can (`node`), and then the seed chooses the next.
//!
//! - `driver` chooses what happens: the list of events with their weights is [`driver::EVENTS`].
//! - `clients` asks, and remembers what it was promised. `workers` leases calls and answers, late, twice or never.
//! - `workloads` are the services that are asked; add one there, with its rules in `bundles/`.
//! - `oracle` compares what stands in the record at the end with the promises.
//! - `history` keeps what the record went through and does not show any more.
//! - `bugs` are mistakes put in on purpose, to prove that they are found.
//!
//! It simulates one node with one record, as SQLite has it. The network, PostgreSQL and real processes have their own tests.

pub mod bugs;
mod chance;
mod clients;
pub mod driver;
mod history;
mod many;
mod node;
mod oracle;
mod trace;
mod workers;
pub mod workloads;

pub use driver::{Options, Outcome, run};
pub use many::{Summary, run_many};
pub use node::{Ground, SimError};
