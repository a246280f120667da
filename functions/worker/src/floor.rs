//! What all parts of a running worker share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use celesta_artifacts::Artifacts;
use celesta_functions::retry::{self, Verdict};
use celesta_functions::{Invocation, Manifest, Report, ReportOutcome};
use celesta_queue::{LeaseRef, Leased};
use celesta_runtime::{Clock, Random, TaskSet};
use celesta_types::{CallId, ErrorClass, MessageId, RunId, Timestamp};
use tokio::sync::{Notify, broadcast};

use crate::attempts::{AttemptRecord, INLINE_OUTPUT_MAX, Output};
use crate::capture::Capture;
use crate::config::WorkerConfig;
use crate::feed::{Feed, Finish, Finished};
use crate::metrics::Metrics;
use crate::outcome::{Ended, Failure};
use crate::packages::Packages;
use crate::slots::Slots;

#[derive(Debug)]
pub(crate) struct Floor {
    pub(crate) config: WorkerConfig,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) tasks: TaskSet,
    pub(crate) feed: Arc<dyn Feed>,
    pub(crate) packages: Arc<dyn Packages>,
    pub(crate) artifacts: Artifacts,
    pub(crate) slots: Arc<Slots>,
    pub(crate) metrics: Metrics,
    /// Invocations that shall stop. Who runs one of them hears it here.
    pub(crate) cancels: broadcast::Sender<Arc<[MessageId]>>,
    /// Numbers folders of processes.
    pub(crate) folders: AtomicU64,
}

/// One leased invocation, with what is needed to report it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) leased: Leased,
    pub(crate) run: RunId,
    pub(crate) call: CallId,
    pub(crate) started: Timestamp,
}

impl Held {
    pub(crate) const fn new(leased: Leased, invocation: &Invocation<'_>, started: Timestamp) -> Self {
        Self {
            run: invocation.run,
            call: invocation.call,
            leased,
            started,
        }
    }
}

impl Floor {
    /// A folder nobody else uses.
    pub(crate) fn fresh_folder(&self, kind: &str) -> PathBuf {
        let number = self.folders.fetch_add(1, Ordering::Relaxed);
        self.config.folder.join(kind).join(number.to_string())
    }

    /// Does `work` while the lease is extended in the background. Tells `lost` when the lease is over; `work` goes on
    /// until it heeds that.
    pub(crate) async fn holding<T>(
        &self,
        lease: LeaseRef,
        lost: &Notify,
        work: impl Future<Output = T>,
    ) -> T {
        let extending = async {
            loop {
                self.clock.sleep(self.config.lease / 3).await;
                let holds = self.feed.extend(vec![lease.clone()], self.config.lease).await;
                if holds.first() == Some(&false) {
                    lost.notify_one();
                    return std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = extending => unreachable!("extending never ends"),
        }
    }

    /// The variables of one attempt.
    pub(crate) fn variables(held: &Held, function: &str) -> Vec<(&'static str, String)> {
        vec![
            ("CELESTA_RUN", held.run.to_string()),
            ("CELESTA_CALL", held.call.to_string()),
            ("CELESTA_ATTEMPT", held.leased.attempt.to_string()),
            ("CELESTA_FUNCTION", function.to_owned()),
        ]
    }

    /// A success that printed nothing: the path nearly all invocations take.
    pub(crate) fn succeeded(&self, held: &Held, result: &[u8]) -> Finished {
        self.metrics.succeeded.inc();
        self.report(held, ReportOutcome::Succeeded { result }, None)
    }

    fn report(&self, held: &Held, outcome: ReportOutcome<'_>, record: Option<AttemptRecord>) -> Finished {
        let report = Report {
            call: held.call,
            attempt: held.leased.attempt,
            started: held.started,
            ended: self.clock.now(),
            worker: &self.config.name,
            avoided: false,
            outcome,
        };
        let finish = Finish::Report(report.encode());
        Finished {
            lease: held.leased.lease(),
            run: held.run,
            priority: held.leased.priority,
            finish,
            record,
        }
    }

    /// Decides what follows an attempt that ended in whatever way.
    pub(crate) fn finish(&self, held: &Held, manifest: &Manifest, ended: Ended) -> Finished {
        match ended.result {
            Ok(result) => {
                self.metrics.succeeded.inc();
                let printed = ended.stderr.bytes > 0 || ended.stdout.bytes > 0;
                let record =
                    printed.then(|| self.record(held, &manifest.name, None, ended.stdout, ended.stderr));
                self.report(held, ReportOutcome::Succeeded { result: &result }, record)
            }
            Err(failure) => {
                self.metrics.failed(failure.class);
                let kept = Some((failure.class, failure.message.clone()));
                let record = Some(self.record(held, &manifest.name, kept, ended.stdout, ended.stderr));
                self.failed(held, manifest, failure, record)
            }
        }
    }

    fn failed(
        &self,
        held: &Held,
        manifest: &Manifest,
        failure: Failure,
        record: Option<AttemptRecord>,
    ) -> Finished {
        let attempt = held.leased.attempt;
        // What a function calls preempted is something outside that failed: only the platform preempts.
        let class = if failure.class == ErrorClass::Preempted {
            ErrorClass::Transient
        } else {
            failure.class
        };
        let verdict = retry::next(&manifest.retry, class, attempt, self.random.fraction());
        match verdict {
            Verdict::Retry { after_ms, .. } if attempt < held.leased.attempts_max => Finished {
                lease: held.leased.lease(),
                run: held.run,
                priority: held.leased.priority,
                finish: Finish::Retry {
                    after_ms: i64::try_from(after_ms).unwrap_or(i64::MAX),
                    error: failure.message,
                },
                record,
            },
            Verdict::Retry { .. } | Verdict::GiveUp => self.report(
                held,
                ReportOutcome::Failed {
                    class,
                    message: &failure.message,
                    attempts: attempt,
                },
                record,
            ),
        }
    }

    /// Gives an invocation back untouched.
    pub(crate) fn released(&self, held: &Held) -> Finished {
        self.metrics.released.inc();
        let finish = Finish::Release;
        Finished {
            lease: held.leased.lease(),
            run: held.run,
            priority: held.leased.priority,
            finish,
            record: None,
        }
    }

    fn record(
        &self,
        held: &Held,
        function: &str,
        failure: Option<(ErrorClass, String)>,
        stdout: Output,
        stderr: Output,
    ) -> AttemptRecord {
        AttemptRecord {
            run: held.run,
            call: held.call,
            attempt: held.leased.attempt,
            function: function.to_owned(),
            worker: self.config.name.to_string(),
            started: held.started,
            ended: self.clock.now(),
            failure,
            stdout,
            stderr,
        }
    }

    /// What of a captured stream is kept in the row, and what as an artifact.
    pub(crate) async fn output(&self, capture: Capture) -> Output {
        let bytes = capture.total();
        let kept = capture.finish();
        if kept.len() <= INLINE_OUTPUT_MAX {
            return Output {
                bytes,
                inline: kept,
                artifact: None,
            };
        }
        let tail = kept[kept.len() - INLINE_OUTPUT_MAX..].to_vec();
        match self
            .artifacts
            .put_bytes(kept, Some("text/plain".to_owned()))
            .await
        {
            Ok(stored) => Output {
                bytes,
                inline: Vec::new(),
                artifact: Some(stored.digest),
            },
            Err(error) => {
                tracing::warn!(%error, "an attempt's output is cut to its end");
                Output {
                    bytes,
                    inline: tail,
                    artifact: None,
                }
            }
        }
    }
}
