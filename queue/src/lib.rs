//! The durable priority queue: everything in the platform travels through it.
//!
//! The *record* is the store: a message that was acknowledged is a row, and rows change in the same transactions as
//! whatever else their producers and consumers write ([`Queues::stage_enqueue`], [`Queues::stage_complete`]). The *order*
//! lives in memory: one process owns the file, so heaps, leases and waiting consumers need no table, a lease costs no
//! write, and nobody polls. After a restart the rows are read again and every message that was running is pending.
//!
//! A message that exists only because another one was consumed need not be stored at all when its own consumer is
//! there: it is handed over ([`Queues::hand_over`]) and becomes durable by being completed.
//!
//! The life of a message is the pure machine in [`machine`]. Consumers hold leases with fencing tokens; a token of a
//! lease that is over is refused and changes nothing. Deliveries are at least once.
//!
//! This crate knows nothing of runs, rules or functions, and speaks no network protocol. It stands on the third floor,
//! above the store.

mod admin;
mod any;
pub mod check;
mod consume;
mod core;
mod entry;
mod error;
mod index;
pub mod inspect;
mod keys;
mod later;
mod lease;
mod ledger;
mod legacy;
pub mod limits;
mod line;
pub mod machine;
mod message;
mod metrics;
mod name;
mod open;
mod pairs;
mod past;
mod payloads;
mod postgres;
mod rows;
mod schedule;
mod schema;
mod settings;
mod shard;
mod shares;
mod stage;
mod state;
mod watch;

use std::fmt;
use std::sync::Arc;

pub use any::AnyQueues;
pub use error::{EnqueueError, Error, ExtendError, LeaseError, MessageError, Refused, StaleToken};
pub use message::{
    Enqueued, Failed, Failure, Filter, HandOver, Happened, History, LeaseKeys, LeaseRef, LeaseRequest,
    Leased, LeasedKey, MessageView, NewMessage, Page, Payload, Stats, TimelineEvent,
};
pub use name::{Key, NameError, QueueName, Token};
pub use postgres::SharedQueues;
pub use schema::{MIGRATIONS, OWNED_MIGRATIONS};
pub use settings::{ConfigureError, Kind, Options, Settings, Transport};
pub use watch::{Ready, Watch};

/// A handle on all queues of this process. Cheap to clone.
#[derive(Clone)]
pub struct Queues {
    core: Arc<core::Core>,
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues")
            .field("queues", &self.core.registry.read().by_index.len())
            .finish_non_exhaustive()
    }
}
