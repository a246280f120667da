//! The road through `RabbitMQ`: leased messages to consumers elsewhere, and their reports back.
//!
//! The database is the record, the broker the road. A [`Dispatcher`] leases messages from a [`Source`], publishes them
//! with confirms to a durable queue for each destination, and settles in the record what consumers report; it keeps few
//! messages in the broker, so that priority and deadlines are decided by the record. A [`Road`] is the consumer's end.
//! Losing the broker, with everything in it, loses nothing: a message that does not come back from the road is leased
//! again.
//!
//! Both ends connect by themselves, again and again: the life of a connection is the pure machine in `link/machine.rs`,
//! what a dispatcher has on the road is `ledger.rs`, what a consumer has in hand `hand.rs`, what travels `wire.rs`.
//!
//! This crate is the only one that knows the broker's protocol. It knows nothing of functions and runs: a result is
//! bytes. It stands on the fourth floor, above the queue.

mod broker;
mod dispatcher;
mod hand;
mod ledger;
pub mod limits;
mod link;
mod metrics;
mod names;
mod publish;
mod road;
mod source;
mod wire;

pub use broker::{BrokerUrl, UrlError};
pub use dispatcher::{Dispatcher, DispatcherConfig};
pub use names::{NameTooLong, Namespace};
pub use road::{Intake, Road, RoadConfig, Settled};
pub use source::{QueueSource, Settlement, Source, SourceError};
pub use wire::{Delivery, Notice, Outcome, Unreadable, VERSION};
