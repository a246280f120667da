//! What a function is and what is said about it: manifests, invocations, reports, retries, the line protocol.
//!
//! A [`Manifest`] is the checked form of a `function.toml`. An [`Invocation`] is the payload of one message of a
//! function's queue; a [`RunMessage`] is the payload of one message to a run, and its first kind is the [`Report`] that
//! answers an invocation. [`retry`] decides what follows a failed attempt. [`protocol`] holds the lines that travel
//! between a worker and a warm process.
//!
//! This crate starts no process, opens no queue and reads no clock; the only files it reads are those of a manifest's
//! folder, in [`Manifest::load`]. The worker, the runtime and the bundle checker stand on it.

mod invocation;
mod manifest;
pub mod names;
pub mod protocol;
mod report;
pub mod retry;
mod schema;

pub use invocation::{INLINE_JSON_MAX, Invocation};
pub use manifest::{
    FILE_NAME as MANIFEST_FILE, Manifest, ManifestError, ManifestErrors, Processes, Program, Protocol,
    Resources,
};
pub use report::{HOST_TAG_FIRST, Report, ReportOutcome, RunMessage, report_id};
pub use retry::{Backoff, RetryPolicy, Verdict};
pub use schema::{Schema, SchemaError, VIOLATIONS_MAX, Violation};
