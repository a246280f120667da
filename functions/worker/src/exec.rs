//! The `exec` protocol: one process an invocation, JSON on standard input, JSON on standard output.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use celesta_functions::Invocation;
use celesta_types::{ErrorClass, MessageId};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, broadcast};

use crate::attempts::Output;
use crate::capture::Capture;
use crate::files;
use crate::floor::{Floor, Held};
use crate::guard::Status;
use crate::judge::{check_input, check_output, judge, timed_out};
use crate::launch::{Launch, Streams};
use crate::outcome::{Ended, Failure};
use crate::packages::Package;
use crate::slots::{Share, Slot};

/// The guard enforces the time limit; the worker steps in when the guard has not by then.
const TIMEOUT_SLACK: Duration = Duration::from_millis(200);
/// Processor time a tree may use for each second and processor it was promised. Programs use more threads than they
/// were promised processors, and that is no fault; a tree that spins on all cores of a large machine is.
const CPU_FACTOR: u64 = 4;

/// One attempt by a process of its own.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) floor: Arc<Floor>,
    pub(crate) package: Arc<Package>,
    pub(crate) held: Held,
    pub(crate) slot: Slot,
}

/// Why a running attempt was looked at.
enum Event {
    Ended(Status),
    Late,
    Canceled,
    LeaseLost,
    Drained,
}

impl Exec {
    /// Runs the attempt to its end and settles it.
    pub(crate) async fn run(self) {
        let Self {
            floor,
            package,
            held,
            slot,
        } = self;
        floor.metrics.running.inc();
        let folder = floor
            .config
            .folder
            .join("attempts")
            .join(held.leased.id.to_string())
            .join(held.leased.attempt.to_string());
        let lost = Notify::new();
        let mut attempt = Attempt {
            floor: &floor,
            package: &package,
            held: &held,
            folder: &folder,
            cancels: floor.cancels.subscribe(),
            lost: &lost,
            more: None,
        };
        let outcome = floor.holding(held.leased.lease(), &lost, attempt.run()).await;
        drop(attempt);
        if let Err(error) = tokio::fs::remove_dir_all(&folder).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, folder = %folder.display(), "an attempt's folder stays behind");
        }
        if let Some(parent) = folder.parent() {
            // Stands while another attempt of the same invocation is still being put away.
            tokio::fs::remove_dir(parent).await.ok();
        }
        floor.metrics.running.dec();
        let finished = match outcome {
            Outcome::Ended(ended) => floor.finish(&held, &package.manifest, ended),
            Outcome::GivenBack => floor.released(&held),
            Outcome::Lost => return,
        };
        floor.feed.settle(vec![finished]).await;
        drop(slot);
    }
}

enum Outcome {
    Ended(Ended),
    /// Shutdown: somebody else runs it.
    GivenBack,
    /// The lease is somebody else's already.
    Lost,
}

struct Attempt<'a> {
    floor: &'a Arc<Floor>,
    package: &'a Package,
    held: &'a Held,
    folder: &'a Path,
    cancels: broadcast::Receiver<Arc<[MessageId]>>,
    /// Told when the lease is somebody else's.
    lost: &'a Notify,
    /// Memory beyond the usual share, after earlier attempts ran out of it.
    more: Option<Slot>,
}

impl Attempt<'_> {
    async fn run(&mut self) -> Outcome {
        let payload = Arc::clone(&self.held.leased.payload);
        let prepared = match Invocation::decode(&payload) {
            Ok(invocation) => self
                .prepare(&invocation)
                .await
                .map(|input| (input, invocation.timeout_ms)),
            Err(damaged) => Err(Failure::internal(damaged.to_string())),
        };
        match prepared {
            Ok((input, timeout)) => {
                let timeout = Duration::from_millis(timeout.unwrap_or(self.package.manifest.timeout_ms));
                self.execute(input, timeout).await
            }
            Err(failure) => Outcome::Ended(Ended {
                result: Err(failure),
                stdout: Output::default(),
                stderr: Output::default(),
            }),
        }
    }

    /// Checks the input and makes the files it refers to.
    async fn prepare(&self, invocation: &Invocation<'_>) -> Result<Vec<u8>, Failure> {
        check_input(&self.package.manifest, invocation.input)?;
        let work = self.folder.join("work");
        // Left by an attempt of the same number that was lost with the process.
        tokio::fs::remove_dir_all(&work).await.ok();
        let made = tokio::fs::create_dir_all(&work).await;
        made.map_err(|error| {
            Failure::new(
                ErrorClass::Transient,
                format!("cannot make the working directory: {error}"),
            )
        })?;
        if invocation.has_artifacts {
            files::bring_in(
                invocation.input,
                &self.folder.join("inputs"),
                &self.floor.artifacts,
            )
            .await
        } else {
            Ok(invocation.input.to_vec())
        }
    }

    /// The memory of this attempt: doubled for each earlier one that ran out of it. Waits until it is free.
    async fn memory(&mut self) -> u64 {
        let resources = self.package.manifest.resources;
        if self.held.leased.attempt == 1 {
            return resources.memory_bytes;
        }
        let shortages = self.floor.feed.shortages(self.held.run, self.held.call).await;
        let wanted = resources
            .memory_after(shortages)
            .min(self.floor.slots.total().memory_bytes);
        let more = Share {
            cpu_millis: 0,
            memory_bytes: wanted.saturating_sub(resources.memory_bytes),
        };
        self.more = self.floor.slots.take(more);
        // When that much is not free this attempt has what it can get; should it fail again, so does the next.
        if self.more.is_some() {
            wanted
        } else {
            resources.memory_bytes
        }
    }

    async fn execute(&mut self, input: Vec<u8>, timeout: Duration) -> Outcome {
        let memory_bytes = self.memory().await;
        let work = self.folder.join("work");
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let promised = u64::from(self.package.manifest.resources.cpu_millis.max(1_000));
        let launch = Launch {
            guard: &self.floor.config.guard,
            search_path: &self.floor.config.search_path,
            package: self.package,
            folder: self.folder,
            work: &work,
            memory_bytes,
            cpu_ms: Some(timeout_ms.saturating_mul(promised) / 1_000 * CPU_FACTOR),
            timeout: Some(timeout),
            variables: Floor::variables(self.held, &self.package.manifest.name),
        };
        let (mut running, streams) = match launch.start(&self.floor.clock) {
            Ok(started) => started,
            Err(reason) => {
                let failure = Failure::user(reason);
                return Outcome::Ended(Ended {
                    result: Err(failure),
                    stdout: Output::default(),
                    stderr: Output::default(),
                });
            }
        };
        self.floor.metrics.cold_starts.inc();
        let Streams {
            mut stdin,
            stdout,
            stderr,
        } = streams;
        let writing = async move {
            // A program that does not read its input may still answer.
            stdin.write_all(&input).await.ok();
            drop(stdin);
        };
        let streams = futures_util::future::join3(
            writing,
            Capture::default().read(stdout),
            Capture::default().read(stderr),
        );
        tokio::pin!(streams);
        // The streams are read while waiting; they end when the guard has ended the tree.
        let mut ended_streams = None;
        let event = {
            let watching = self.watch(&mut running, timeout);
            tokio::pin!(watching);
            loop {
                tokio::select! {
                    event = &mut watching => break event,
                    captured = &mut streams, if ended_streams.is_none() => ended_streams = Some(captured),
                }
            }
        };
        let (status, event) = match event {
            Event::Ended(status) => (status, None),
            other => (running.end().await, Some(other)),
        };
        let ((), stdout, stderr) = match ended_streams {
            Some(captured) => captured,
            None => streams.await,
        };
        match event {
            Some(Event::LeaseLost) => Outcome::Lost,
            Some(Event::Drained) => Outcome::GivenBack,
            Some(Event::Canceled) => {
                self.ended(
                    Err(Failure::new(ErrorClass::Canceled, "the call was canceled")),
                    stdout,
                    stderr,
                )
                .await
            }
            Some(Event::Late) => self.ended(Err(timed_out(timeout)), stdout, stderr).await,
            Some(Event::Ended(_)) | None => {
                let printed = stdout.clone().finish();
                let said = stderr.clone().finish();
                let judged = judge(&status, &printed, &said, stdout.total(), timeout, memory_bytes);
                let result = match judged {
                    Ok(result) => self.take_out(result, &work).await,
                    Err(failure) => Err(failure),
                };
                self.ended(result, stdout, stderr).await
            }
        }
    }

    async fn watch(&mut self, running: &mut crate::launch::Running, timeout: Duration) -> Event {
        let clock = self.floor.clock.clone();
        let shutdown = self.floor.tasks.shutdown().clone();
        let drain = self.floor.config.drain;
        let drained = async {
            shutdown.requested().await;
            clock.sleep(drain).await;
        };
        let late = clock.sleep(timeout + TIMEOUT_SLACK);
        tokio::pin!(drained, late);
        loop {
            tokio::select! {
                biased;
                status = running.ended() => return Event::Ended(status),
                canceled = self.cancels.recv() => match canceled {
                    Ok(ids) if ids.contains(&self.held.leased.id) => return Event::Canceled,
                    Ok(_) | Err(_) => {}
                },
                () = &mut late => return Event::Late,
                () = &mut drained => return Event::Drained,
                () = self.lost.notified() => return Event::LeaseLost,
            }
        }
    }

    async fn take_out(&self, result: Vec<u8>, work: &Path) -> Result<Vec<u8>, Failure> {
        let result = if files::names_files(&result) {
            files::take_out(&result, work, &self.floor.artifacts).await?
        } else {
            result
        };
        check_output(&self.package.manifest, &result)?;
        Ok(result)
    }

    async fn ended(&self, result: Result<Vec<u8>, Failure>, stdout: Capture, stderr: Capture) -> Outcome {
        // The standard output of a success is its result, and the run keeps that.
        let stdout = if result.is_ok() {
            Output::default()
        } else {
            self.floor.output(stdout).await
        };
        let stderr = self.floor.output(stderr).await;
        Outcome::Ended(Ended {
            result,
            stdout,
            stderr,
        })
    }
}
