//! Making room: warm processes that stand ready, fill up, or give way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celesta_functions::Processes;
use celesta_types::Priority;

use super::{Dispatcher, QUANTUM};
use crate::lane::{Lane, Order};

impl Dispatcher {
    /// Starts the processes that shall stand ready before the first message.
    pub(super) async fn warm_up(&self) {
        let now = self.floor.clock.monotonic();
        let lanes: Vec<Arc<Lane>> = self.lanes.values().cloned().collect();
        for lane in lanes {
            let (Processes { min, .. }, bundle) = (lane.manifest().processes, lane.bundle());
            if lane.crew.lock().processes >= min || !lane.may_start(self.floor.slots.total(), now) {
                continue;
            }
            if let Ok(package) = self
                .floor
                .packages
                .package(&lane.service, &bundle, &lane.function)
                .await
            {
                self.start_idle(&lane, &package, bundle);
            }
        }
    }

    pub(super) fn look_soon(&mut self, now: Duration) {
        let at = now + QUANTUM;
        self.look_at = Some(self.look_at.map_or(at, |look| look.min(at)));
    }

    /// Asks warm processes to give way to work that stands at `head`.
    pub(super) fn make_room(&mut self, lane: &Lane, head: Priority) {
        let now = self.floor.clock.monotonic();
        let free = self.floor.slots.free();
        let wanted = lane.share();
        let others = || self.lanes.values().filter(|other| other.queue != lane.queue);
        if free.memory_bytes < wanted.memory_bytes {
            // Warm processes without work keep memory: the one idle longest goes.
            let idlest = others()
                .filter_map(|other| Some((other.crew.lock().idle.first()?.since, other)))
                .min_by_key(|(since, _)| *since);
            if let Some((_, other)) = idlest {
                let mut crew = other.crew.lock();
                if !crew.idle.is_empty() {
                    drop(crew.idle.remove(0).orders.try_send(Order::Stop));
                }
            }
        }
        let mut asked = 0;
        for other in others() {
            let crew = other.crew.lock();
            asked += crew
                .tenures
                .iter()
                .filter(|tenure| tenure.is_parked() && tenure.ask_to_yield())
                .count();
        }
        if asked == 0 {
            let givers = others().flat_map(|other| other.crew.lock().tenures.clone());
            let giver = givers
                .filter(|tenure| {
                    tenure.rank.load(Ordering::Relaxed) >= head.rank()
                        && now.saturating_sub(tenure.since) >= QUANTUM
                })
                .max_by_key(|tenure| {
                    (
                        tenure.rank.load(Ordering::Relaxed),
                        std::cmp::Reverse(tenure.since),
                    )
                });
            if let Some(tenure) = giver {
                tenure.ask_to_yield();
            }
        }
        self.look_soon(now);
    }

    /// Processes fill themselves up when no further one can be started beside them.
    pub(super) fn tell_saturation(&self) {
        let now = self.floor.clock.monotonic();
        for lane in self.lanes.values() {
            let (processes, idle) = {
                let crew = lane.crew.lock();
                (crew.processes, !crew.idle.is_empty())
            };
            if processes > 0 {
                let share = lane.share();
                let startable = lane.may_start(self.floor.slots.total(), now) && self.floor.slots.fits(share);
                let usable = idle && self.floor.slots.fits(share.cpu());
                lane.set_saturated(!startable && !usable);
            }
        }
        self.floor
            .metrics
            .cpu_free
            .set(i64::from(self.floor.slots.free().cpu_millis));
    }
}
