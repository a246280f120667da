//! Workers: they lease invocations, run functions as processes of this machine, and report.
//!
//! A [`Worker`] stands on three seams: a [`Feed`] gives it invocations and takes outcomes (the queues of this process
//! through [`QueueFeed`], or a server far away), [`Packages`] gives it the files of functions, and `celesta-artifacts`
//! holds what functions read and write. Every function runs below a [`guard`], which bounds it and ends it whole.
//!
//! - `dispatch` decides who runs next and holds no process; `lane` is one function's queue and its warm processes.
//! - `exec` and `serve` are the two protocols; `launch` starts a guard; `files` brings artifacts in and out.
//! - `recall` keeps results of pure functions, `sift` takes out of what was leased whose result is known, and
//!   [`SharedResults`] is what the partitions of a deployment know of each other's.
//! - [`attempts`] is the record of what failed or printed something.
//!
//! It decides nothing about runs and never parses the JSON that passes through, unless a manifest has a schema or the
//! JSON names artifacts or files. It starts no containers.

mod attempts;
mod capture;
mod config;
mod dispatch;
mod exec;
mod feed;
mod files;
mod floor;
pub mod guard;
mod judge;
mod lane;
mod launch;
mod metrics;
mod outcome;
mod packages;
mod parted;
mod queue_feed;
mod recall;
mod serve;
mod shared_results;
mod sift;
mod slots;
mod worker;

pub use attempts::{
    AttemptRecord, INLINE_OUTPUT_MAX, MIGRATIONS, Output, OutputError, Stream, attempt_output, attempts,
};
pub use capture::OUTPUT_MAX;
pub use config::{GuardProgram, WorkerConfig};
pub use feed::{Feed, FeedError, Finish, Finished, Progress, ProgressHook, Ready};
pub use packages::{Package, PackageError, Packages, Served};
pub use parted::PartedFeed;
pub use queue_feed::{QueueFeed, queue_template};
pub use recall::RESULTS_MAX;
pub use shared_results::{SHARED_MIGRATIONS, SharedResults};
pub use worker::{Capacity, Handle, StartError, Worker, WorkerParts};
