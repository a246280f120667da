//! The worker as a component: configuration in, handle out.

use std::fmt;
use std::sync::Arc;

use celesta_artifacts::Artifacts;
use celesta_runtime::{Clock, Fate, Random, TaskSet};
use celesta_types::{ErrorKind, MessageId};
use tokio::sync::broadcast;

use crate::config::WorkerConfig;
use crate::dispatch::Dispatcher;
use crate::feed::Feed;
use crate::floor::Floor;
use crate::metrics::Metrics;
use crate::packages::Packages;
use crate::slots::{Share, Slots};

/// Calls to cancel that may be on their way to processes that are slow to hear.
const CANCELS_MAX: usize = 1_024;

/// Runs functions of the queues it is given.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    parts: WorkerParts,
}

/// What a worker stands on.
#[derive(Debug, Clone)]
pub struct WorkerParts {
    /// Time.
    pub clock: Clock,
    /// For the jitter of retries.
    pub random: Random,
    /// What it spawns; its shutdown drains, gives leases back and ends processes.
    pub tasks: TaskSet,
    /// Where invocations come from.
    pub feed: Arc<dyn Feed>,
    /// Where functions come from.
    pub packages: Arc<dyn Packages>,
    /// Where artifacts are.
    pub artifacts: Artifacts,
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folder cannot be used.
    #[error("cannot use the worker's folder {folder}: {source}")]
    Folder {
        /// The folder.
        folder: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The guard is not there.
    #[error("there is no guard program at {program}")]
    Guard {
        /// Where it should be.
        program: String,
    },
}

impl StartError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Folder { .. } => ErrorKind::Unavailable,
            Self::Guard { .. } => ErrorKind::Invalid,
        }
    }
}

impl Worker {
    /// A worker that is not running yet.
    #[must_use]
    pub const fn new(config: WorkerConfig, parts: WorkerParts) -> Self {
        Self { config, parts }
    }

    /// Empties its folder of leftovers and starts it.
    ///
    /// # Errors
    /// When the folder cannot be used or the guard's program does not exist.
    pub fn run(self) -> Result<Handle, StartError> {
        let Self { config, parts } = self;
        if !config.guard.program.is_file() {
            return Err(StartError::Guard {
                program: config.guard.program.display().to_string(),
            });
        }
        for kind in ["attempts", "processes"] {
            let folder = config.folder.join(kind);
            let emptied = match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => std::fs::create_dir_all(&folder),
            };
            emptied.map_err(|source| StartError::Folder {
                folder: folder.display().to_string(),
                source,
            })?;
        }
        let total = Share {
            cpu_millis: config.cpu_millis,
            memory_bytes: config.memory_bytes,
        };
        let (cancels, _) = broadcast::channel(CANCELS_MAX);
        let tasks = parts.tasks.clone();
        let floor = Arc::new(Floor {
            config,
            clock: parts.clock,
            random: parts.random,
            tasks: parts.tasks,
            feed: parts.feed,
            packages: parts.packages,
            artifacts: parts.artifacts,
            slots: Slots::new(total),
            metrics: Metrics::new(),
            cancels,
            folders: std::sync::atomic::AtomicU64::new(1),
        });
        let handle = Handle {
            floor: Arc::clone(&floor),
        };
        tasks.spawn(
            "function dispatcher",
            Fate::Essential,
            Dispatcher::new(floor).run(),
        );
        Ok(handle)
    }
}

/// A running worker. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    floor: Arc<Floor>,
}

/// What a worker has to give and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of processors in all.
    pub cpu_millis: u32,
    /// Those not given to functions.
    pub cpu_millis_free: u32,
    /// Bytes of memory in all.
    pub memory_bytes: u64,
    /// Those not given to functions.
    pub memory_bytes_free: u64,
}

impl Handle {
    /// Stops those of `invocations` that run here. Their calls are reported as canceled.
    pub fn cancel(&self, invocations: &[MessageId]) {
        // Without a receiver nothing runs here.
        self.floor.cancels.send(invocations.into()).ok();
    }

    /// What it has and what is left.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let (total, free) = (self.floor.slots.total(), self.floor.slots.free());
        Capacity {
            cpu_millis: total.cpu_millis,
            cpu_millis_free: free.cpu_millis,
            memory_bytes: total.memory_bytes,
            memory_bytes_free: free.memory_bytes,
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("worker", &self.floor.config.name)
            .field("capacity", &self.capacity())
            .finish()
    }
}
