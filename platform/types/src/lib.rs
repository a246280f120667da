//! The words every other crate speaks: ids, time, priority, error classes, digests.
//!
//! Nothing here does I/O, reads a clock or draws a random number; a value of this crate means the same on every
//! node and in every release. It is floor 0 of the house: it sees no other crate of the workspace.

mod artifact;
mod class;
mod ids;
mod priority;
mod time;
pub mod wire;

pub use artifact::{ArtifactRef, Digest, ParseDigestError};
pub use class::{ErrorClass, ErrorKind};
pub use ids::{CallId, MessageId, OperationId, ParseIdError, RunId, SweepId, TraceId};
pub use priority::{Class, ParseClassError, Priority};
pub use time::{ParseDurationError, Timestamp, duration_ms};
