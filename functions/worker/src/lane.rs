//! One function's queue on this worker, and the warm processes that serve it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use celesta_functions::{Manifest, Protocol};
use celesta_queue::{Leased, QueueName};
use celesta_types::{Digest, Priority};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::packages::Served;
use crate::slots::{Share, Slot};

/// The wait before a process that died is replaced; doubled for each further death without a result between.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// The longest such wait: a function that cannot start is asked six times a minute.
const RESTART_MOST: Duration = Duration::from_secs(10);

/// What the dispatcher tells a warm process.
#[derive(Debug)]
pub(crate) enum Order {
    /// Work on these; the slot is yours until you are asked to yield.
    Work(Slot, Vec<Leased>),
    /// Finish what is in flight, then give the slot back.
    Yield,
    /// End as soon as nothing is in flight.
    Stop,
}

/// One function's queue.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) queue: QueueName,
    pub(crate) service: Arc<str>,
    pub(crate) function: Arc<str>,
    current: Mutex<(Digest, Arc<Manifest>)>,
    /// Whether no further process can be started, so that those that run shall fill themselves up.
    pub(crate) saturated: watch::Sender<bool>,
    pub(crate) crew: Mutex<Crew>,
}

/// The warm processes of a lane.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    /// All of them, whatever they do.
    pub(crate) processes: u32,
    /// Those without a slot.
    pub(crate) idle: Vec<Idle>,
    /// Those with one.
    pub(crate) tenures: Vec<Arc<Tenure>>,
    /// Deaths since the last result.
    deaths: u32,
    /// No process is started before this moment.
    start_after: Duration,
    /// When work was last handed to this lane: the one that waited longest goes first among equals.
    pub(crate) served_at: Duration,
}

/// A warm process without work.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) process: u64,
    pub(crate) bundle: Digest,
    pub(crate) since: Duration,
    pub(crate) orders: mpsc::Sender<Order>,
}

/// A warm process that holds a slot.
#[derive(Debug)]
pub(crate) struct Tenure {
    pub(crate) process: u64,
    pub(crate) since: Duration,
    /// Nothing is in flight and it waits for its queue by itself.
    pub(crate) parked: AtomicBool,
    /// It was asked to yield already.
    pub(crate) asked: AtomicBool,
    /// The rank of what it works on.
    pub(crate) rank: AtomicU32,
    pub(crate) orders: mpsc::Sender<Order>,
}

impl Tenure {
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    /// Asks it once to give its slot back; says whether the request went out.
    pub(crate) fn ask_to_yield(&self) -> bool {
        if self.asked.swap(true, Ordering::Relaxed) {
            return false;
        }
        // A full mailbox has orders of higher rank in it: the next round asks again.
        let sent = self.orders.try_send(Order::Yield).is_ok();
        self.asked.store(sent, Ordering::Relaxed);
        sent
    }
}

impl Lane {
    pub(crate) fn new(queue: QueueName, served: Served) -> Self {
        let Served {
            service,
            function,
            bundle,
            manifest,
        } = served;
        let (saturated, crew) = (watch::Sender::new(false), Mutex::default());
        Self {
            queue,
            service,
            function,
            current: Mutex::new((bundle, manifest)),
            saturated,
            crew,
        }
    }

    /// The manifest of the current version.
    pub(crate) fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.current.lock().1)
    }

    pub(crate) fn bundle(&self) -> Digest {
        self.current.lock().0
    }

    pub(crate) fn set_current(&self, bundle: Digest, manifest: Arc<Manifest>) {
        *self.current.lock() = (bundle, manifest);
    }

    /// What one process of the current version takes.
    pub(crate) fn share(&self) -> Share {
        share(&self.manifest())
    }

    /// Whether the dispatcher has something to decide when a message comes: not while a process waits for it already,
    /// and not while every process there may be is at work.
    pub(crate) fn is_open(&self, total: Share, now: Duration) -> bool {
        let manifest = self.manifest();
        if manifest.protocol == Protocol::Exec {
            return true;
        }
        let crew = self.crew.lock();
        if crew.tenures.iter().any(|tenure| tenure.is_parked()) {
            return false;
        }
        !crew.idle.is_empty() || (crew.processes < most(&manifest, total) && now >= crew.start_after)
    }

    /// Until when no process is started after deaths, when that is what closes the lane.
    pub(crate) fn reopens_at(&self, now: Duration) -> Option<Duration> {
        let crew = self.crew.lock();
        (crew.start_after > now).then_some(crew.start_after)
    }

    pub(crate) fn may_start(&self, total: Share, now: Duration) -> bool {
        let manifest = self.manifest();
        let crew = self.crew.lock();
        crew.processes < most(&manifest, total) && now >= crew.start_after
    }

    /// How many processes could take a part of what waits.
    pub(crate) fn takers(&self, total: Share, free: Share) -> usize {
        let manifest = self.manifest();
        let share = share(&manifest);
        let crew = self.crew.lock();
        let idle = u32::try_from(crew.idle.len()).unwrap_or(u32::MAX);
        let startable = most(&manifest, total).saturating_sub(crew.processes) + idle;
        let fitting = free.cpu_millis / share.cpu_millis.max(1);
        // Those at work come back for more.
        usize::try_from(startable.min(fitting)).unwrap_or(1).max(1) + crew.tenures.len()
    }

    pub(crate) fn says_result(&self) {
        let mut crew = self.crew.lock();
        crew.deaths = 0;
    }

    /// A process is gone; after a death the next one waits a while.
    pub(crate) fn process_gone(&self, process: u64, died: bool, now: Duration) {
        let mut crew = self.crew.lock();
        crew.processes = crew.processes.saturating_sub(1);
        crew.idle.retain(|idle| idle.process != process);
        crew.tenures.retain(|tenure| tenure.process != process);
        if died {
            crew.deaths = crew.deaths.saturating_add(1);
            let factor = 1_u32.checked_shl(crew.deaths - 1).unwrap_or(u32::MAX);
            crew.start_after = now + RESTART_FIRST.saturating_mul(factor).min(RESTART_MOST);
        }
    }

    /// Tells the processes at work whether they shall fill themselves up.
    pub(crate) fn set_saturated(&self, saturated: bool) {
        self.saturated
            .send_if_modified(|before| std::mem::replace(before, saturated) != saturated);
    }

    /// The place of the lane's most urgent work in the dispatcher's order.
    pub(crate) fn turn(&self, head: Priority) -> (Priority, Duration) {
        (head, self.crew.lock().served_at)
    }
}

pub(crate) fn share(manifest: &Manifest) -> Share {
    Share {
        cpu_millis: manifest.resources.cpu_millis,
        memory_bytes: manifest.resources.memory_bytes,
    }
}

/// How many processes of a function this worker may have at once.
pub(crate) fn most(manifest: &Manifest, total: Share) -> u32 {
    let fitting = (total.cpu_millis / manifest.resources.cpu_millis.max(1)).max(1);
    manifest.processes.max.unwrap_or(fitting)
}
