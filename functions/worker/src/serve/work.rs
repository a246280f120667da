//! Giving a warm process something to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celesta_functions::Invocation;
use celesta_functions::protocol::Request;
use celesta_queue::Leased;
use celesta_types::ErrorClass;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc};

use super::flights::Flight;
use super::{Prepared, Process, held};
use crate::files;
use crate::floor::{Floor, Held};
use crate::judge::check_input;
use crate::outcome::Failure;

impl Process {
    pub(super) async fn take_on(&mut self, works: Vec<Leased>) {
        let Some(most_urgent) = works.iter().map(|work| work.priority.rank()).min() else {
            return;
        };
        if let Some((_, tenure)) = &self.cpu {
            tenure.rank.store(most_urgent, Ordering::Relaxed);
            if tenure.parked.swap(false, Ordering::Relaxed) {
                // From here on further messages are for others.
                self.floor.slots.changed.notify_one();
            }
        }
        self.floor
            .metrics
            .running
            .add(i64::try_from(works.len()).unwrap_or(0));
        let (now, monotonic) = (self.floor.clock.now(), self.floor.clock.monotonic());
        let mut others = Vec::new();
        let mut refused = Vec::new();
        for leased in works {
            let payload = Arc::clone(&leased.payload);
            let Ok(invocation) = Invocation::decode(&payload) else {
                tracing::error!(message = %leased.id, "an invocation cannot be read");
                continue;
            };
            if invocation.bundle != self.bundle {
                others.push(leased);
                continue;
            }
            self.floor
                .metrics
                .queue_wait
                .observe(now.since(leased.enqueued_at).as_secs_f64());
            let held = Held::new(leased, &invocation, now);
            let timeout =
                Duration::from_millis(invocation.timeout_ms.unwrap_or(self.package.manifest.timeout_ms));
            if let Err(failure) = check_input(&self.package.manifest, invocation.input) {
                self.floor.metrics.running.dec();
                refused.push(self.finish_now(&held, Err(failure)));
            } else if invocation.has_artifacts {
                self.preparing
                    .push(prepare(Arc::clone(&self.floor), held, timeout));
            } else {
                self.send(held, timeout, invocation.input, None, monotonic);
            }
        }
        if !refused.is_empty() {
            self.floor.feed.settle(refused).await;
        }
        if !others.is_empty() {
            self.pass_on(others).await;
        }
    }

    /// Another version of the function is asked for: the dispatcher finds it a process, and this one makes room.
    pub(super) async fn pass_on(&mut self, others: Vec<Leased>) {
        self.floor
            .metrics
            .running
            .sub(i64::try_from(others.len()).unwrap_or(0));
        self.stopping = true;
        if let Err(mpsc::error::SendError((_, others))) =
            self.strays.send((Arc::clone(&self.lane), others)).await
        {
            let held = others
                .into_iter()
                .filter_map(|leased| held(&self.floor, leased).ok());
            let released = held.map(|held| self.floor.released(&held)).collect();
            self.floor.feed.settle(released).await;
        }
    }

    pub(super) fn send(
        &mut self,
        held: Held,
        timeout: Duration,
        input: &[u8],
        folder: Option<PathBuf>,
        now: Duration,
    ) {
        let attempt = held.leased.attempt;
        let deadline_ms = held.started.after(timeout).as_millis();
        let flight = Flight {
            held: Some(held),
            timeout,
            deadline: now + timeout,
            extended_at: now,
            folder,
            printed: None,
        };
        let work = flight.folder.as_ref().map(|folder| folder.join("work"));
        let id = self.flights.add(flight);
        let dir = work.as_ref().map(|work| work.to_string_lossy());
        Request {
            id,
            input,
            attempt,
            deadline_ms,
            dir: dir.as_deref(),
        }
        .write(&mut self.outgoing);
    }

    pub(super) fn send_prepared(&mut self, prepared: Prepared) {
        let Prepared {
            held,
            timeout,
            input,
            folder,
        } = prepared;
        match input {
            Ok(input) => self.send(held, timeout, &input, Some(folder), self.floor.clock.monotonic()),
            Err(failure) => {
                let flight = Flight {
                    held: Some(held),
                    timeout,
                    deadline: Duration::MAX,
                    extended_at: Duration::ZERO,
                    folder: Some(folder),
                    printed: None,
                };
                self.finish_later(flight, Err(failure));
            }
        }
    }
}

fn prepare(floor: Arc<Floor>, held: Held, timeout: Duration) -> BoxFuture<'static, Prepared> {
    Box::pin(async move {
        let folder = floor.fresh_folder("attempts");
        let payload = Arc::clone(&held.leased.payload);
        let input = match (
            tokio::fs::create_dir_all(folder.join("work")).await,
            Invocation::decode(&payload),
        ) {
            (Ok(()), Ok(invocation)) => {
                let inputs = folder.join("inputs");
                let bringing = files::bring_in(invocation.input, &inputs, &floor.artifacts);
                floor.holding(held.leased.lease(), &Notify::new(), bringing).await
            }
            (Err(error), _) => Err(Failure::new(
                ErrorClass::Transient,
                format!("cannot make the working directory: {error}"),
            )),
            (_, Err(damaged)) => Err(Failure::internal(damaged.to_string())),
        };
        Prepared {
            held,
            timeout,
            input,
            folder,
        }
    })
}
