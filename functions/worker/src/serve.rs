//! The `serve` protocol: a warm process that takes many invocations, one JSON line each.
//!
//! One spawned piece of work owns one process. Its `select!` only builds an [`Event`]; [`Process::handle`] does the rest.
//! While it holds a slot of processors it fills itself: when nothing is in flight it is *parked* and waits for its queue,
//! so that a lone invocation goes from the queue to the process without passing anybody else; when no further process
//! can be started it takes more whenever something was answered. The dispatcher may ask it to yield at any time.
//!
//! All answers read at once are settled at once, and all requests of a batch are written at once.

mod ending;
mod finish;
mod flights;
mod late;
mod lines;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use celesta_functions::Invocation;
use celesta_queue::Leased;
use celesta_types::{Digest, MessageId};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{broadcast, mpsc, watch};

use self::flights::Flights;
use crate::capture::Capture;
use crate::feed::{FeedError, Finished};
use crate::floor::{Floor, Held};
use crate::lane::{Idle, Lane, Order, Tenure};
use crate::launch::{Launch, Running, Streams};
use crate::outcome::{Ended, Failure};
use crate::packages::Package;
use crate::slots::Slot;

/// Orders that may wait for a process: one of each kind and some.
const ORDERS_MAX: usize = 8;
/// Room made for each read: many answers at once under load.
const READ_CHUNK: usize = 64 * 1024;
/// How often deadlines are looked at while something is in flight.
const TICK: Duration = Duration::from_millis(100);
/// How often a process without work looks whether it is wanted still.
const TICK_IDLE: Duration = Duration::from_secs(1);
/// A process that has not answered a late or canceled request by then is ended. With the guard's grace, all is over
/// within two seconds of the timeout.
const GONE_PATIENCE: Duration = Duration::from_millis(500);
/// How long a parked process waits for its queue before it asks anew.
const PARKED_WAIT: Duration = Duration::from_secs(60);
/// How long a process that closed its output may take to end.
const END_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes kept of what a process prints outside of any one attempt.
const LOG_MAX: usize = 64 * 1024;

/// Works that belong to another version of the function than the process that leased them.
pub(crate) type Strays = (Arc<Lane>, Vec<Leased>);

/// What a warm process is started with.
pub(crate) struct Start {
    pub(crate) floor: Arc<Floor>,
    pub(crate) lane: Arc<Lane>,
    pub(crate) package: Arc<Package>,
    pub(crate) bundle: Digest,
    pub(crate) memory: Slot,
    pub(crate) strays: mpsc::Sender<Strays>,
}

/// Where orders for a started process go.
pub(crate) struct Started {
    pub(crate) process: u64,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) work: BoxFuture<'static, ()>,
}

impl Start {
    /// Prepares the process; it starts when the future is first polled.
    pub(crate) fn start(self) -> Started {
        let (orders, mailbox) = mpsc::channel(ORDERS_MAX);
        let process = self.floor.folders.fetch_add(1, Ordering::Relaxed);
        let work = Box::pin(run(self, process, orders.clone(), mailbox));
        Started {
            process,
            orders,
            work,
        }
    }
}

async fn run(start: Start, number: u64, orders: mpsc::Sender<Order>, mailbox: mpsc::Receiver<Order>) {
    let (floor, lane) = (Arc::clone(&start.floor), Arc::clone(&start.lane));
    let died = match Process::start(start, number, orders, mailbox).await {
        Ok(process) => process.run().await,
        Err((mut mailbox, package, reason)) => {
            // The work that was meant for it fails with the reason.
            mailbox.close();
            let mut finished = Vec::new();
            while let Some(order) = mailbox.recv().await {
                if let Order::Work(_slot, works) = order {
                    finished.extend(works.into_iter().filter_map(|leased| {
                        let held = held(&floor, leased).ok()?;
                        let (stdout, stderr) = Default::default();
                        Some(floor.finish(
                            &held,
                            &package.manifest,
                            Ended {
                                result: Err(Failure::user(reason.clone())),
                                stdout,
                                stderr,
                            },
                        ))
                    }));
                }
            }
            floor.feed.settle(finished).await;
            true
        }
    };
    lane.process_gone(number, died, floor.clock.monotonic());
    floor.slots.changed.notify_one();
}

/// Reads what is needed to report a message; a damaged one is settled nowhere and lapses.
fn held(floor: &Floor, leased: Leased) -> Result<Held, MessageId> {
    match Invocation::decode(&Arc::clone(&leased.payload)) {
        Ok(invocation) => Ok(Held::new(leased, &invocation, floor.clock.now())),
        Err(error) => {
            tracing::error!(%error, message = %leased.id, "an invocation cannot be read");
            Err(leased.id)
        }
    }
}

/// A request that is ready to be written, or failed before it was.
struct Prepared {
    held: Held,
    timeout: Duration,
    input: Result<Vec<u8>, Failure>,
    folder: PathBuf,
}

struct Process {
    floor: Arc<Floor>,
    lane: Arc<Lane>,
    package: Arc<Package>,
    bundle: Digest,
    number: u64,
    folder: PathBuf,
    running: Running,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    orders: mpsc::Sender<Order>,
    mailbox: mpsc::Receiver<Order>,
    strays: mpsc::Sender<Strays>,
    saturated: watch::Receiver<bool>,
    cancels: broadcast::Receiver<Arc<[MessageId]>>,
    /// Held for the life of the process.
    memory: Slot,
    /// Held while it works or is parked.
    cpu: Option<(Slot, Arc<Tenure>)>,
    flights: Flights,
    preparing: FuturesUnordered<BoxFuture<'static, Prepared>>,
    finishing: FuturesUnordered<BoxFuture<'static, Finished>>,
    leasing: Option<BoxFuture<'static, Result<Vec<Leased>, FeedError>>>,
    /// Requests that are not written yet.
    outgoing: Vec<u8>,
    written: usize,
    /// Lines that are not complete yet.
    incoming: Vec<u8>,
    /// Bytes of them that were searched for a line's end.
    searched: usize,
    log: Capture,
    chunk: Vec<u8>,
    concurrency: usize,
    tick: BoxFuture<'static, ()>,
    without_work_since: Duration,
    yielding: bool,
    stopping: bool,
    /// Set by shutdown: when the rest is given back.
    drain_until: Option<Duration>,
}

enum Event {
    Read(usize),
    Wrote(usize),
    Printed(usize),
    Order(Order),
    Leased(Result<Vec<Leased>, FeedError>),
    Prepared(Prepared),
    Finished(Finished),
    Cancel(Arc<[MessageId]>),
    Saturation,
    Tick,
    Shutdown,
}

/// Whether a process goes on.
enum Next {
    On,
    /// It has closed its output: it is dead or as good as dead.
    Ended,
    /// It must go; what is in flight is somebody else's.
    End,
}

impl Process {
    async fn start(
        start: Start,
        number: u64,
        orders: mpsc::Sender<Order>,
        mailbox: mpsc::Receiver<Order>,
    ) -> Result<Self, (mpsc::Receiver<Order>, Arc<Package>, String)> {
        let Start {
            floor,
            lane,
            package,
            bundle,
            memory,
            strays,
        } = start;
        let folder = floor.config.folder.join("processes").join(number.to_string());
        let work = folder.join("work");
        if let Err(error) = tokio::fs::create_dir_all(&work).await {
            return Err((
                mailbox,
                package,
                format!("cannot make the working directory: {error}"),
            ));
        }
        let launch = Launch {
            guard: &floor.config.guard,
            search_path: &floor.config.search_path,
            package: &package,
            folder: &folder,
            work: &work,
            memory_bytes: package.manifest.resources.memory_bytes,
            cpu_ms: None,
            timeout: None,
            variables: vec![("CELESTA_FUNCTION", package.manifest.name.to_string())],
        };
        let (running, streams) = match launch.start(&floor.clock) {
            Ok(started) => started,
            Err(reason) => return Err((mailbox, package, reason)),
        };
        floor.metrics.cold_starts.inc();
        floor.metrics.processes.inc();
        let Streams {
            stdin,
            stdout,
            stderr,
        } = streams;
        let now = floor.clock.monotonic();
        Ok(Self {
            saturated: lane.saturated.subscribe(),
            cancels: floor.cancels.subscribe(),
            concurrency: usize::try_from(package.manifest.batch).unwrap_or(1),
            tick: sleep(&floor, TICK),
            without_work_since: now,
            stderr: Some(stderr),
            cpu: None,
            flights: Flights::default(),
            preparing: FuturesUnordered::new(),
            finishing: FuturesUnordered::new(),
            leasing: None,
            outgoing: Vec::new(),
            written: 0,
            incoming: Vec::new(),
            searched: 0,
            log: Capture::bounded(LOG_MAX),
            chunk: vec![0; 4_096],
            yielding: false,
            stopping: false,
            drain_until: None,
            floor,
            lane,
            package,
            bundle,
            number,
            folder,
            running,
            stdin,
            stdout,
            orders,
            mailbox,
            strays,
            memory,
        })
    }

    /// Serves until the process dies or is no longer wanted; says whether it died.
    async fn run(mut self) -> bool {
        let died = loop {
            let event = self.event().await;
            match self.handle(event).await {
                Next::On => {}
                Next::Ended => {
                    self.died().await;
                    break true;
                }
                Next::End => {
                    self.leave().await;
                    break false;
                }
            }
            if self.rest() {
                self.leave().await;
                break false;
            }
        };
        self.floor.metrics.processes.dec();
        tokio::fs::remove_dir_all(&self.folder).await.ok();
        drop(self.memory);
        died
    }

    fn wants_more(&self) -> bool {
        let idle = self.flights.is_empty() && self.preparing.is_empty();
        self.cpu.is_some()
            && !self.yielding
            && !self.stopping
            && self.drain_until.is_none()
            && self.room() > 0
            && (idle || *self.saturated.borrow())
    }

    fn room(&self) -> usize {
        self.concurrency
            .saturating_sub(self.flights.len() + self.preparing.len())
    }

    async fn event(&mut self) -> Event {
        if !self.wants_more() {
            self.leasing = None;
        } else if self.leasing.is_none() {
            let feed = Arc::clone(&self.floor.feed);
            // While others could take a part, one at a time: the dispatcher shares out the rest.
            let max = if *self.saturated.borrow() { self.room() } else { 1 };
            self.leasing =
                Some(feed.lease(self.lane.queue.clone(), max, self.floor.config.lease, PARKED_WAIT));
        }
        self.incoming.reserve(READ_CHUNK);
        let leasing = async {
            match self.leasing.as_mut() {
                Some(leasing) => leasing.await,
                None => std::future::pending().await,
            }
        };
        let stderr = async {
            match self.stderr.as_mut() {
                Some(stderr) => stderr.read(&mut self.chunk).await,
                None => std::future::pending().await,
            }
        };
        // What is bounded comes first, so that a process that prints without end is still timed out and canceled.
        tokio::select! {
            biased;
            () = &mut self.tick => Event::Tick,
            Some(order) = self.mailbox.recv() => Event::Order(order),
            Ok(ids) = self.cancels.recv() => Event::Cancel(ids),
            () = self.floor.tasks.shutdown().requested(), if self.drain_until.is_none() => Event::Shutdown,
            wrote = self.stdin.write(&self.outgoing[self.written..]), if self.written < self.outgoing.len() => {
                // A process that no longer reads will close its output too.
                Event::Wrote(wrote.unwrap_or(self.outgoing.len() - self.written))
            }
            leased = leasing => {
                self.leasing = None;
                Event::Leased(leased)
            }
            Some(prepared) = self.preparing.next() => Event::Prepared(prepared),
            Some(finished) = self.finishing.next() => Event::Finished(finished),
            Ok(()) = self.saturated.changed() => Event::Saturation,
            read = self.stdout.read_buf(&mut self.incoming) => Event::Read(read.unwrap_or(0)),
            printed = stderr => Event::Printed(printed.unwrap_or(0)),
        }
    }

    async fn handle(&mut self, event: Event) -> Next {
        match event {
            Event::Read(0) => return Next::Ended,
            Event::Read(_) => return self.read_lines().await,
            Event::Wrote(bytes) => {
                self.written += bytes;
                if self.written == self.outgoing.len() {
                    self.outgoing.clear();
                    self.written = 0;
                }
            }
            Event::Printed(0) => self.stderr = None,
            Event::Printed(bytes) => match self.flights.only() {
                Some(flight) => flight.printed.get_or_insert_default().push(&self.chunk[..bytes]),
                None => self.log.push(&self.chunk[..bytes]),
            },
            Event::Order(Order::Work(slot, works)) => {
                self.begin_tenure(slot);
                self.take_on(works).await;
            }
            Event::Order(Order::Yield) => self.yielding = true,
            Event::Order(Order::Stop) => self.stopping = true,
            Event::Leased(Ok(works)) => self.take_on(works).await,
            Event::Leased(Err(error)) => {
                tracing::warn!(%error, queue = %self.lane.queue, "nothing could be leased");
                self.yielding = true;
            }
            Event::Prepared(prepared) => self.send_prepared(prepared),
            Event::Finished(finished) => self.floor.feed.settle(vec![finished]).await,
            Event::Cancel(ids) => self.cancel(&ids).await,
            // What is being asked for no longer fits the situation.
            Event::Saturation => self.leasing = None,
            Event::Tick => return self.on_tick().await,
            Event::Shutdown => {
                self.drain_until = Some(self.floor.clock.monotonic() + self.floor.config.drain);
            }
        }
        Next::On
    }

    fn begin_tenure(&mut self, slot: Slot) {
        let tenure = Arc::new(Tenure {
            process: self.number,
            since: self.floor.clock.monotonic(),
            parked: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            rank: AtomicU32::new(u32::MAX),
            orders: self.orders.clone(),
        });
        self.lane.crew.lock().tenures.push(Arc::clone(&tenure));
        self.yielding = false;
        self.cpu = Some((slot, tenure));
    }

    /// Brings the process' standing in line with what it has to do; says whether it shall leave.
    fn rest(&mut self) -> bool {
        let working = !self.flights.is_empty() || !self.preparing.is_empty() || !self.finishing.is_empty();
        if working {
            return false;
        }
        if self.stopping || self.drain_until.is_some() {
            return true;
        }
        match &self.cpu {
            Some(_) if self.yielding => self.give_slot_back(),
            Some((_, tenure)) if !tenure.parked.swap(true, Ordering::Relaxed) => {
                self.without_work_since = self.floor.clock.monotonic();
            }
            Some(_) | None => {}
        }
        false
    }

    fn give_slot_back(&mut self) {
        self.leasing = None;
        let now = self.floor.clock.monotonic();
        {
            let mut crew = self.lane.crew.lock();
            crew.tenures.retain(|tenure| tenure.process != self.number);
            crew.idle.push(Idle {
                process: self.number,
                bundle: self.bundle,
                since: now,
                orders: self.orders.clone(),
            });
        }
        self.without_work_since = now;
        self.yielding = false;
        // Dropping the slot wakes the dispatcher.
        self.cpu = None;
    }
}

fn sleep(floor: &Floor, duration: Duration) -> BoxFuture<'static, ()> {
    let clock = floor.clock.clone();
    Box::pin(async move { clock.sleep(duration).await })
}
