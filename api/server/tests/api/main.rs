//! The API as its clients see it: a real server on a port the system chose, with the real runtime behind it.
//!
//! No worker runs here: what is tested is HTTP. Functions are run by the end-to-end tests of the whole platform.

mod artifacts;
mod bed;
mod bundles;
mod guards;
mod problems;
mod queues;
mod runs;
mod shared_facts;
mod steering;
