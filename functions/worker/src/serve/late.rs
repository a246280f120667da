//! What time does to invocations in flight: late, canceled, to be extended; and to a process without work.

use std::time::Duration;

use celesta_types::{ErrorClass, MessageId};

use super::flights::Flight;
use super::{GONE_PATIENCE, Next, Process, TICK, TICK_IDLE, sleep};
use crate::attempts::Output;
use crate::judge::timed_out;
use crate::outcome::{Ended, Failure};

impl Process {
    /// Settles canceled invocations now; the process may still answer them.
    pub(super) async fn cancel(&mut self, ids: &[MessageId]) {
        let gone_by = self.floor.clock.monotonic() + GONE_PATIENCE;
        let mut canceled = Vec::new();
        for flight in self.flights.of(ids) {
            flight.deadline = gone_by;
            canceled.extend(flight.held.take());
        }
        if canceled.is_empty() {
            return;
        }
        self.flights.look_again();
        self.floor
            .metrics
            .running
            .sub(i64::try_from(canceled.len()).unwrap_or(0));
        let failure = || Failure::new(ErrorClass::Canceled, "the call was canceled");
        let finished = canceled
            .into_iter()
            .map(|held| self.finish_now(&held, Err(failure())))
            .collect();
        self.floor.feed.settle(finished).await;
    }

    pub(super) async fn on_tick(&mut self) -> Next {
        let now = self.floor.clock.monotonic();
        let working = !self.flights.is_empty();
        self.tick = sleep(&self.floor, if working { TICK } else { TICK_IDLE });
        if self.drain_until.is_some_and(|until| until <= now) {
            return Next::End;
        }
        if working {
            if self.flights.may_be_late(now) && self.settle_late(now).await {
                // It did not answer: whoever else is in flight runs elsewhere, at no cost of an attempt.
                return Next::End;
            }
            self.extend(now).await;
            return Next::On;
        }
        let unused = now.saturating_sub(self.without_work_since) > self.floor.config.idle;
        let spare = self.lane.crew.lock().processes > self.package.manifest.processes.min;
        if unused && spare && self.preparing.is_empty() && self.finishing.is_empty() {
            self.stopping = true;
        }
        Next::On
    }

    /// Settles what is late; says whether the process has failed to answer something settled before.
    pub(super) async fn settle_late(&mut self, now: Duration) -> bool {
        let mut late = Vec::new();
        let mut hung = false;
        for flight in self.flights.iter_mut().filter(|flight| flight.deadline <= now) {
            match flight.held.take() {
                Some(held) => {
                    flight.deadline = now + GONE_PATIENCE;
                    late.push((held, flight.timeout, flight.printed.take()));
                }
                None => hung = true,
            }
        }
        self.flights.look_again();
        self.floor
            .metrics
            .running
            .sub(i64::try_from(late.len()).unwrap_or(0));
        let mut finished = Vec::with_capacity(late.len());
        for (held, timeout, printed) in late {
            let stderr = match printed {
                Some(printed) => self.floor.output(*printed).await,
                None => Output::default(),
            };
            let ended = Ended {
                result: Err(timed_out(timeout)),
                stdout: Output::default(),
                stderr,
            };
            finished.push(self.floor.finish(&held, &self.package.manifest, ended));
        }
        if !finished.is_empty() {
            self.floor.feed.settle(finished).await;
        }
        hung
    }

    /// Extends the leases that are a third through, all in one call.
    pub(super) async fn extend(&mut self, now: Duration) {
        let third = self.floor.config.lease / 3;
        let due =
            |flight: &&mut Flight| flight.held.is_some() && now.saturating_sub(flight.extended_at) >= third;
        let mut leases = Vec::new();
        for flight in self.flights.iter_mut().filter(due) {
            flight.extended_at = now;
            leases.extend(flight.held.as_ref().map(|held| held.leased.lease()));
        }
        if leases.is_empty() {
            return;
        }
        let ids: Vec<MessageId> = leases.iter().map(|lease| lease.id).collect();
        let holds = self.floor.feed.extend(leases, self.floor.config.lease).await;
        let lost: Vec<MessageId> = ids
            .into_iter()
            .zip(holds)
            .filter(|(_, holds)| !holds)
            .map(|(id, _)| id)
            .collect();
        for flight in self.flights.of(&lost) {
            // Somebody else reports it; an answer of this process meets nobody.
            flight.held = None;
            flight.deadline = now + flight.timeout;
            self.floor.metrics.running.dec();
        }
    }
}
