//! What a worker is told at its start.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The program that is started as guard: as a rule this binary itself, with a hidden subcommand.
#[derive(Debug, Clone)]
pub struct GuardProgram {
    /// The binary.
    pub program: PathBuf,
    /// The words before the guard's own arguments.
    pub arguments: Vec<OsString>,
}

/// What a worker is told at its start.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// How reports and attempts name this worker.
    pub name: Arc<str>,
    /// Its folder: attempts and processes have theirs below it. Emptied of leftovers at start.
    pub folder: PathBuf,
    /// Thousandths of processors it may give to functions.
    pub cpu_millis: u32,
    /// Bytes of memory it may give to functions.
    pub memory_bytes: u64,
    /// Serve only these services, when given.
    pub services: Option<BTreeSet<String>>,
    /// Who watches functions.
    pub guard: GuardProgram,
    /// The `PATH` functions see. Nothing else of this process' environment reaches them.
    pub search_path: OsString,
    /// How long a lease holds unless it is extended; a third of it passes between two extensions.
    pub lease: Duration,
    /// How long running functions may go on after shutdown was asked for, before their leases are given back.
    pub drain: Duration,
    /// How long a warm process stays without work.
    pub idle: Duration,
}

/// Long enough that a busy machine extends in time, short enough that a lost one is noticed soon.
const LEASE: Duration = Duration::from_secs(30);
/// Most functions of a turn end within it; the rest is run again by whoever comes next, at no cost of an attempt.
const DRAIN: Duration = Duration::from_secs(5);
/// A warm process costs memory only.
const IDLE: Duration = Duration::from_secs(60);

impl WorkerConfig {
    /// A worker with the usual durations, two processors and 4 GiB unless changed.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, folder: PathBuf, guard: GuardProgram) -> Self {
        Self {
            name: name.into(),
            folder,
            cpu_millis: 2_000,
            memory_bytes: 4 << 30,
            services: None,
            guard,
            search_path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            lease: LEASE,
            drain: DRAIN,
            idle: IDLE,
        }
    }
}
