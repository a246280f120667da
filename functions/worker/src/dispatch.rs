//! Who runs next: one spawned piece of work that gives processors and memory to functions by the urgency of what waits.
//!
//! It looks at the queues of all functions that could be given something now. The most urgent head goes first; among
//! equals, the function that was served longest ago. When the most urgent one does not fit, nothing less urgent is
//! started either, so that a large function is not starved by small ones, and warm processes are asked to make room:
//! at once those that are parked, after a quantum those whose work is no more urgent.

mod place;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use celesta_functions::{Invocation, Manifest, Protocol};
use celesta_queue::{Leased, QueueName};
use celesta_types::{ErrorClass, Priority};
use tokio::sync::mpsc;

use crate::feed::Ready;
use crate::floor::{Floor, Held};
use crate::lane::{Lane, Order, share};
use crate::outcome::{Ended, Failure};
use crate::serve::Strays;
use crate::slots::Share;

/// How long a warm process keeps its slot while equally urgent work of another function waits.
const QUANTUM: Duration = Duration::from_millis(50);
/// Works without a process yet are given back after this long: well within their lease.
const STRAY_PATIENCE: Duration = Duration::from_secs(5);
/// `exec` processes started in one round, so that a deep queue does not keep the others waiting.
const EXEC_BATCH: usize = 64;
/// Strays that may wait to be looked at.
const STRAYS_MAX: usize = 256;

/// The dispatcher of one worker.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    floor: Arc<Floor>,
    lanes: BTreeMap<QueueName, Arc<Lane>>,
    /// Lanes that did not fit; looked at again when something was given back.
    blocked: BTreeSet<QueueName>,
    /// Leased works without a process yet, and since when.
    strays: Vec<(Arc<Lane>, Vec<Leased>, Duration)>,
    stray_sender: mpsc::Sender<Strays>,
    stray_receiver: mpsc::Receiver<Strays>,
    /// When to look again without being woken.
    look_at: Option<Duration>,
}

enum Event {
    Ready(Vec<Ready>, Arc<[QueueName]>),
    Changed,
    Served,
    Stray(Strays),
    Look,
    Shutdown,
}

enum Given {
    /// Something was started, or there was nothing left to start.
    Yes,
    /// It does not fit now.
    NoRoom,
}

impl Dispatcher {
    pub(crate) fn new(floor: Arc<Floor>) -> Self {
        let (stray_sender, stray_receiver) = mpsc::channel(STRAYS_MAX);
        let (lanes, blocked, strays) = Default::default();
        Self {
            floor,
            lanes,
            blocked,
            strays,
            stray_sender,
            stray_receiver,
            look_at: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let mut changes = self.floor.packages.changes();
        self.refresh();
        loop {
            self.warm_up().await;
            match self.event(&mut changes).await {
                Event::Ready(ready, queues) => self.serve(&ready, &queues).await,
                Event::Changed => {
                    self.blocked.clear();
                    self.place_strays().await;
                }
                Event::Served => self.refresh(),
                Event::Stray((lane, works)) => {
                    self.strays.push((lane, works, self.floor.clock.monotonic()));
                    self.place_strays().await;
                }
                Event::Look => {
                    self.look_at = None;
                    self.blocked.clear();
                    self.place_strays().await;
                }
                Event::Shutdown => break,
            }
            self.tell_saturation();
        }
        self.give_back().await;
    }

    async fn event(&mut self, changes: &mut tokio::sync::watch::Receiver<u64>) -> Event {
        let (clock, now) = (self.floor.clock.clone(), self.floor.clock.monotonic());
        let queues = self.open_queues(now);
        let ready = async {
            if queues.is_empty() {
                std::future::pending().await
            } else {
                Arc::clone(&self.floor.feed).ready(Arc::clone(&queues)).await
            }
        };
        let look = async {
            match self.look_at {
                Some(at) => clock.sleep(at.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.floor.tasks.shutdown().requested() => Event::Shutdown,
            Some(strays) = self.stray_receiver.recv() => Event::Stray(strays),
            () = self.floor.slots.changed.notified() => Event::Changed,
            Ok(()) = changes.changed() => Event::Served,
            ready = ready => Event::Ready(ready, queues),
            () = look => Event::Look,
        }
    }

    /// The queues worth waiting for.
    fn open_queues(&mut self, now: Duration) -> Arc<[QueueName]> {
        let total = self.floor.slots.total();
        let mut look_at = self.look_at;
        let open = self.lanes.iter().filter(|(queue, lane)| {
            let open = !self.blocked.contains(*queue) && lane.is_open(total, now);
            if !open && let Some(at) = lane.reopens_at(now) {
                look_at = Some(look_at.map_or(at, |look| look.min(at)));
            }
            open
        });
        let queues = open.map(|(queue, _)| queue.clone()).collect();
        self.look_at = look_at;
        queues
    }

    /// Takes over the list of served functions.
    fn refresh(&mut self) {
        let mut before = std::mem::take(&mut self.lanes);
        let services = &self.floor.config.services;
        for served in self.floor.packages.served() {
            if services
                .as_ref()
                .is_some_and(|services| !services.contains(&*served.service))
            {
                continue;
            }
            let name = celesta_functions::names::function_queue(&served.service, &served.function);
            let Ok(queue) = QueueName::new(&name) else {
                tracing::error!(queue = name, "a function's queue cannot have this name");
                continue;
            };
            let lane = match before.remove(&queue) {
                Some(lane) => {
                    lane.set_current(served.bundle, served.manifest);
                    lane
                }
                None => Arc::new(Lane::new(queue.clone(), served)),
            };
            self.lanes.insert(queue, lane);
        }
        // Processes of functions that are served no more end when they have nothing in flight.
        for lane in before.into_values() {
            let crew = lane.crew.lock();
            let orders = crew
                .idle
                .iter()
                .map(|idle| &idle.orders)
                .chain(crew.tenures.iter().map(|tenure| &tenure.orders));
            orders.for_each(|orders| drop(orders.try_send(Order::Stop)));
        }
        self.blocked.clear();
    }

    async fn serve(&mut self, ready: &[Ready], queues: &[QueueName]) {
        let mut turns: Vec<((Priority, Duration), Arc<Lane>, Ready)> = ready
            .iter()
            .filter_map(|ready| {
                let lane = self.lanes.get(queues.get(ready.index)?)?;
                Some((lane.turn(ready.head), Arc::clone(lane), *ready))
            })
            .collect();
        turns.sort_by_key(|(turn, ..)| *turn);
        let mut full = false;
        for (_, lane, ready) in turns {
            if full {
                self.blocked.insert(lane.queue.clone());
                continue;
            }
            if let Given::NoRoom = self.give(&lane, &ready).await {
                full = true;
                self.blocked.insert(lane.queue.clone());
                self.make_room(&lane, ready.head);
            }
        }
    }

    /// Leases what can be run of a lane and runs it.
    async fn give(&mut self, lane: &Arc<Lane>, ready: &Ready) -> Given {
        let now = self.floor.clock.monotonic();
        let manifest = lane.manifest();
        let share = share(&manifest);
        if !self.floor.slots.could_fit(share) {
            self.refuse(lane, &manifest, share).await;
            return Given::Yes;
        }
        // Meanwhile a process may have parked there; it takes the message by itself.
        if !lane.is_open(self.floor.slots.total(), now) {
            return Given::Yes;
        }
        let free = self.floor.slots.free();
        let idle = !lane.crew.lock().idle.is_empty();
        let needed = if manifest.protocol == Protocol::Serve && idle {
            share.cpu()
        } else {
            share
        };
        if !self.floor.slots.fits(needed) {
            return Given::NoRoom;
        }
        let max = match manifest.protocol {
            Protocol::Exec => ready.depth.min(fitting(free, share)).min(EXEC_BATCH),
            Protocol::Serve => ready
                .depth
                .div_ceil(lane.takers(self.floor.slots.total(), free))
                .min(usize::try_from(manifest.batch).unwrap_or(1)),
        };
        let works = self.lease(lane, max.max(1)).await;
        if !works.is_empty() {
            lane.crew.lock().served_at = now;
            self.place(lane, works, now).await;
        }
        Given::Yes
    }

    async fn lease(&self, lane: &Lane, max: usize) -> Vec<Leased> {
        let feed = Arc::clone(&self.floor.feed);
        match feed
            .lease(lane.queue.clone(), max, self.floor.config.lease, Duration::ZERO)
            .await
        {
            Ok(works) => works,
            Err(error) => {
                tracing::warn!(%error, queue = %lane.queue, "nothing could be leased");
                Vec::new()
            }
        }
    }

    /// A function that asks for more than there is fails with a clear word.
    async fn refuse(&self, lane: &Lane, manifest: &Manifest, share: Share) {
        let total = self.floor.slots.total();
        let message = format!(
            "`{}` asks for {} thousandths of a processor and {} MiB of memory; this worker has {} and {} MiB",
            lane.function,
            share.cpu_millis,
            share.memory_bytes >> 20,
            total.cpu_millis,
            total.memory_bytes >> 20
        );
        let works = self.lease(lane, EXEC_BATCH).await;
        self.fail(works, manifest, &Failure::new(ErrorClass::Resource, message))
            .await;
    }

    async fn fail(&self, works: Vec<Leased>, manifest: &Manifest, failure: &Failure) {
        let mut finished = Vec::with_capacity(works.len());
        for leased in works {
            let Some(held) = self.held(leased) else { continue };
            let (stdout, stderr) = Default::default();
            finished.push(self.floor.finish(
                &held,
                manifest,
                Ended {
                    result: Err(failure.clone()),
                    stdout,
                    stderr,
                },
            ));
        }
        self.floor.feed.settle(finished).await;
    }

    fn held(&self, leased: Leased) -> Option<Held> {
        let payload = Arc::clone(&leased.payload);
        match Invocation::decode(&payload) {
            Ok(invocation) => Some(Held::new(leased, &invocation, self.floor.clock.now())),
            Err(error) => {
                tracing::error!(%error, message = %leased.id, "an invocation cannot be read");
                None
            }
        }
    }

    async fn give_back(&mut self) {
        self.stray_receiver.close();
        let mut works: Vec<Leased> = std::mem::take(&mut self.strays)
            .into_iter()
            .flat_map(|(_, works, _)| works)
            .collect();
        while let Ok((_, more)) = self.stray_receiver.try_recv() {
            works.extend(more);
        }
        let released: Vec<_> = works
            .into_iter()
            .filter_map(|leased| self.held(leased))
            .map(|held| self.floor.released(&held))
            .collect();
        if !released.is_empty() {
            self.floor.feed.settle(released).await;
        }
    }
}

/// How many shares fit.
fn fitting(free: Share, share: Share) -> usize {
    let by_cpu = free.cpu_millis / share.cpu_millis.max(1);
    let by_memory = free.memory_bytes / share.memory_bytes.max(1);
    usize::try_from(u64::from(by_cpu).min(by_memory)).unwrap_or(usize::MAX)
}
