//! The end of a warm process, wanted or not.

use std::time::Duration;

use celesta_types::ErrorClass;
use futures_util::StreamExt;

use super::{END_PATIENCE, LOG_MAX, Process, held};
use crate::capture::{Capture, last_lines};
use crate::feed::Finished;
use crate::floor::Held;
use crate::guard::Status;
use crate::judge::judge_cause;
use crate::lane::Order;
use crate::outcome::Failure;

impl Process {
    /// The process has ended without being asked: what was in flight fails with it.
    pub(super) async fn died(&mut self) {
        self.leave_lane();
        let clock = self.floor.clock.clone();
        let status = tokio::select! {
            status = self.running.ended() => status,
            () = clock.sleep(END_PATIENCE) => self.running.end().await,
        };
        self.read_rest().await;
        let failure = self.cause_of_death(&status);
        let flights = self.flights.drain();
        if flights.is_empty() {
            tracing::warn!(queue = %self.lane.queue, reason = %failure.message, "a process of a function ended");
        }
        for mut flight in flights {
            if flight.printed.is_none() {
                flight.printed = Some(Box::new(self.log.clone()));
            }
            self.finish_later(flight, Err(failure.clone()));
        }
        self.release_waiting().await;
        self.settle_finishing().await;
    }

    /// What it printed last says why it died.
    pub(super) async fn read_rest(&mut self) {
        let Some(stderr) = self.stderr.take() else {
            return;
        };
        let rest = tokio::time::timeout(END_PATIENCE, Capture::bounded(LOG_MAX).read(stderr)).await;
        if let Ok(rest) = rest
            && !rest.is_empty()
        {
            let rest = rest.finish();
            let log = self
                .flights
                .only()
                .map_or(&mut self.log, |flight| flight.printed.get_or_insert_default());
            log.push(&rest);
        }
    }

    pub(super) fn cause_of_death(&mut self, status: &Status) -> Failure {
        let memory_bytes = self.package.manifest.resources.memory_bytes;
        if let Some(failure) = judge_cause(status, Duration::ZERO, memory_bytes) {
            return failure;
        }
        let printed = self
            .flights
            .only()
            .and_then(|flight| flight.printed.as_deref().cloned());
        let lines = last_lines(&printed.unwrap_or_else(|| self.log.clone()).finish());
        let code = status.exit_code.map_or_else(
            || format!("signal {}", status.signal.unwrap_or(0)),
            |code| format!("exit code {code}"),
        );
        Failure::new(
            ErrorClass::Node,
            format!("the process ended with {code}: {lines}"),
        )
    }

    /// The process is no longer wanted, or does not answer: it is ended and the rest is given back.
    pub(super) async fn leave(&mut self) {
        self.leave_lane();
        let flights = self.flights.drain();
        let held: Vec<Held> = flights.into_iter().filter_map(|flight| flight.held).collect();
        self.floor
            .metrics
            .running
            .sub(i64::try_from(held.len()).unwrap_or(0));
        let released: Vec<Finished> = held.iter().map(|held| self.floor.released(held)).collect();
        if !released.is_empty() {
            self.floor.feed.settle(released).await;
        }
        self.release_waiting().await;
        self.running.end().await;
        self.settle_finishing().await;
    }

    /// Gives back what was being prepared, and orders that came too late.
    pub(super) async fn release_waiting(&mut self) {
        let mut released = Vec::new();
        while let Some(prepared) = self.preparing.next().await {
            self.floor.metrics.running.dec();
            released.push(self.floor.released(&prepared.held));
        }
        self.mailbox.close();
        while let Some(order) = self.mailbox.recv().await {
            if let Order::Work(_slot, works) = order {
                released.extend(
                    works
                        .into_iter()
                        .filter_map(|leased| held(&self.floor, leased).ok())
                        .map(|held| self.floor.released(&held)),
                );
            }
        }
        if !released.is_empty() {
            self.floor.feed.settle(released).await;
        }
    }

    pub(super) async fn settle_finishing(&mut self) {
        let mut finished = Vec::new();
        while let Some(one) = self.finishing.next().await {
            finished.push(one);
        }
        if !finished.is_empty() {
            self.floor.feed.settle(finished).await;
        }
    }

    /// From here on the dispatcher gives this process nothing.
    pub(super) fn leave_lane(&mut self) {
        self.leasing = None;
        let mut crew = self.lane.crew.lock();
        crew.tenures.retain(|tenure| tenure.process != self.number);
        crew.idle.retain(|idle| idle.process != self.number);
    }
}
