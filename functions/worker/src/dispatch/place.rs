//! Giving leased works to processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use celesta_functions::{Invocation, Manifest, Protocol};
use celesta_queue::Leased;
use celesta_runtime::Fate;
use celesta_types::{Digest, ErrorClass};
use tokio::sync::mpsc;

use super::{Dispatcher, STRAY_PATIENCE};
use crate::exec::Exec;
use crate::lane::{Idle, Lane, Order, most, share};
use crate::outcome::Failure;
use crate::packages::{Package, PackageError};
use crate::serve::{Start, Started};

impl Dispatcher {
    /// Gives leased works to processes of the versions they ask for; what does not fit waits as strays.
    pub(super) async fn place(&mut self, lane: &Arc<Lane>, works: Vec<Leased>, since: Duration) {
        let mut versions: BTreeMap<Digest, Vec<Leased>> = BTreeMap::new();
        for leased in works {
            match Invocation::decode(&leased.payload).map(|invocation| invocation.bundle) {
                Ok(bundle) => versions.entry(bundle).or_default().push(leased),
                Err(error) => tracing::error!(%error, message = %leased.id, "an invocation cannot be read"),
            }
        }
        for (bundle, works) in versions {
            let left = match self
                .floor
                .packages
                .package(&lane.service, &bundle, &lane.function)
                .await
            {
                Ok(package) => {
                    let works = self.give_up_on_lost(works, &package.manifest).await;
                    match package.manifest.protocol {
                        Protocol::Exec => self.place_exec(&package, works),
                        Protocol::Serve => self.place_serve(lane, &package, bundle, works),
                    }
                }
                Err(error @ PackageError::NotFound { .. }) => {
                    self.fail(
                        works,
                        &lane.manifest(),
                        &Failure::new(ErrorClass::Input, error.to_string()),
                    )
                    .await;
                    continue;
                }
                Err(error @ PackageError::Unavailable { .. }) => {
                    self.fail(
                        works,
                        &lane.manifest(),
                        &Failure::new(ErrorClass::Transient, error.to_string()),
                    )
                    .await;
                    continue;
                }
            };
            if !left.is_empty() {
                self.strays.push((Arc::clone(lane), left, since));
            }
        }
    }

    /// A message that comes back beyond every policy has lost its worker each time: that is how it fails.
    pub(super) async fn give_up_on_lost(&self, works: Vec<Leased>, manifest: &Manifest) -> Vec<Leased> {
        let most = manifest.retry.attempts_max();
        let (lost, fresh): (Vec<_>, Vec<_>) = works.into_iter().partition(|leased| leased.attempt > most);
        if !lost.is_empty() {
            let message = "every attempt lost its worker or took longer than its lease";
            self.fail(lost, manifest, &Failure::new(ErrorClass::Node, message))
                .await;
        }
        fresh
    }

    pub(super) fn place_exec(&self, package: &Arc<Package>, works: Vec<Leased>) -> Vec<Leased> {
        let share = share(&package.manifest);
        let mut left = Vec::new();
        for leased in works {
            let Some(slot) = self.floor.slots.take(share) else {
                left.push(leased);
                continue;
            };
            let Some(held) = self.held(leased) else { continue };
            let wait = held.started.since(held.leased.enqueued_at);
            self.floor.metrics.queue_wait.observe(wait.as_secs_f64());
            let exec = Exec {
                floor: Arc::clone(&self.floor),
                package: Arc::clone(package),
                held,
                slot,
            };
            self.floor
                .tasks
                .spawn("function attempt", Fate::Expendable, exec.run());
        }
        left
    }

    pub(super) fn place_serve(
        &self,
        lane: &Arc<Lane>,
        package: &Arc<Package>,
        bundle: Digest,
        works: Vec<Leased>,
    ) -> Vec<Leased> {
        if works.is_empty() {
            return works;
        }
        let share = share(&package.manifest);
        let Some(cpu) = self.floor.slots.take(share.cpu()) else {
            return works;
        };
        let idle = {
            let mut crew = lane.crew.lock();
            let at = crew.idle.iter().rposition(|idle| idle.bundle == bundle);
            at.map(|at| crew.idle.remove(at))
        };
        let orders = match idle {
            Some(Idle { orders, .. }) => orders,
            None => match self.start(lane, package, bundle) {
                Some((_, orders)) => orders,
                None => {
                    Self::retire_other_version(lane, bundle);
                    return works;
                }
            },
        };
        match orders.try_send(Order::Work(cpu, works)) {
            Ok(()) => Vec::new(),
            // It has just ended: the next round finds another.
            Err(mpsc::error::TrySendError::Closed(order) | mpsc::error::TrySendError::Full(order)) => {
                match order {
                    Order::Work(_, works) => works,
                    Order::Yield | Order::Stop => Vec::new(),
                }
            }
        }
    }

    /// Starts a warm process when there is room for it.
    pub(super) fn start(
        &self,
        lane: &Arc<Lane>,
        package: &Arc<Package>,
        bundle: Digest,
    ) -> Option<(u64, mpsc::Sender<Order>)> {
        let now = self.floor.clock.monotonic();
        {
            let crew = lane.crew.lock();
            let most = most(&package.manifest, self.floor.slots.total());
            if crew.processes >= most {
                return None;
            }
        }
        if !lane.may_start(self.floor.slots.total(), now) {
            return None;
        }
        let memory = self.floor.slots.take(share(&package.manifest).memory())?;
        lane.crew.lock().processes += 1;
        let start = Start {
            floor: Arc::clone(&self.floor),
            lane: Arc::clone(lane),
            package: Arc::clone(package),
            bundle,
            memory,
            strays: self.stray_sender.clone(),
        };
        let Started {
            process,
            orders,
            work,
        } = start.start();
        self.floor.tasks.spawn("function process", Fate::Expendable, work);
        Some((process, orders))
    }

    pub(super) fn start_idle(&self, lane: &Arc<Lane>, package: &Arc<Package>, bundle: Digest) {
        if let Some((process, orders)) = self.start(lane, package, bundle) {
            let since = self.floor.clock.monotonic();
            lane.crew.lock().idle.push(Idle {
                process,
                bundle,
                since,
                orders,
            });
        }
    }

    /// A process of another version gives its place up.
    pub(super) fn retire_other_version(lane: &Lane, bundle: Digest) {
        let mut crew = lane.crew.lock();
        if let Some(at) = crew.idle.iter().position(|idle| idle.bundle != bundle) {
            // Should its mailbox be full, it has work and ends its idleness that way.
            drop(crew.idle.remove(at).orders.try_send(Order::Stop));
        } else {
            for tenure in crew.tenures.iter().filter(|tenure| tenure.is_parked()) {
                tenure.ask_to_yield();
            }
        }
    }

    pub(super) async fn place_strays(&mut self) {
        let now = self.floor.clock.monotonic();
        for (lane, works, since) in std::mem::take(&mut self.strays) {
            if now.saturating_sub(since) > STRAY_PATIENCE {
                let released = works
                    .into_iter()
                    .filter_map(|leased| self.held(leased))
                    .map(|held| self.floor.released(&held));
                let released = released.collect();
                self.floor.feed.settle(released).await;
            } else {
                self.place(&lane, works, since).await;
            }
        }
        if !self.strays.is_empty() {
            self.look_soon(now);
        }
    }
}
