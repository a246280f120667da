//! The feed of a worker in the process that owns the queues: no wire between them, one commit for both.
//!
//! A finished invocation is *handed over*: the message to the run carries the completion of the function's message (and
//! the attempt's row, if there is one) as its companion, and as a rule all of it becomes durable in the unit of the turn
//! that consumes it. Should that unit fail, the report is handed over again.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use celesta_functions::names::{FUNCTION_QUEUES, RUNS_QUEUE};
use celesta_functions::{Invocation, Report, ReportOutcome, RunMessage, report_id};
use celesta_queue::{
    Failure, HandOver, Key, LeaseRef, LeaseRequest, Leased, NewMessage, Payload, QueueName, Queues, Settings,
    Watch,
};
use celesta_runtime::{Clock, Fate, TaskSet};
use celesta_store::{Store, Unit};
use celesta_types::{CallId, Priority, RunId};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::attempts::{self, AttemptRecord};
use crate::feed::{Feed, FeedError, Finish, Finished, Progress, ProgressHook, Ready};
use crate::packages::Packages;
use crate::recall::{Recall, Recalled};
use crate::shared_results::SharedResults;
use crate::sift::sift;

/// Reports that wait to be handed over again after their unit failed. What does not fit lapses and is run again.
const AGAIN_MAX: usize = 16_384;
/// The wait before that: a store that refused a unit needs a moment.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Leases of one invocation in all: the policy of a function decides long before, and a message that ran out of them
/// would be a dead letter of which its run never hears.
const LEASES_MAX: u32 = 1_000_000;

/// What the queues of functions are to be configured like, for the queues' options: a prefix and its settings.
#[must_use]
pub fn queue_template() -> (String, Settings) {
    (
        FUNCTION_QUEUES.to_owned(),
        Settings {
            attempts_max: LEASES_MAX,
            ..Settings::simple()
        },
    )
}

/// A feed straight from the queues of this process.
pub struct QueueFeed {
    queues: Queues,
    pub(crate) store: Store,
    tasks: TaskSet,
    runs: QueueName,
    consumer: Arc<str>,
    watching: Mutex<Watching>,
    progress: ProgressHook,
    again: mpsc::Sender<Again>,
    clock: Clock,
    pub(crate) packages: Arc<dyn Packages>,
    pub(crate) recall: Recall,
}

/// The queues that are watched at this moment.
struct Watching {
    watch: Arc<Watch>,
    asked: Arc<[QueueName]>,
    queues: HashSet<QueueName>,
}

/// A report whose unit failed.
#[derive(Debug)]
struct Again {
    lease: LeaseRef,
    run: RunId,
    priority: Priority,
    payload: Payload,
}

impl QueueFeed {
    /// A feed from `queues`. Rows of attempts and recorded results go to `store`, progress to `progress`; `packages` says
    /// which functions are pure.
    ///
    /// # Errors
    /// When a queue cannot be watched.
    pub fn start(
        queues: Queues,
        store: Store,
        clock: &Clock,
        tasks: &TaskSet,
        consumer: impl Into<Arc<str>>,
        packages: Arc<dyn Packages>,
        progress: ProgressHook,
    ) -> Result<Arc<Self>, FeedError> {
        let broken = |reason: String| FeedError {
            reason,
            kind: celesta_types::ErrorKind::Internal,
        };
        let runs = QueueName::new(RUNS_QUEUE).map_err(|error| broken(error.to_string()))?;
        let watch = queues.watch(&[]).map_err(|error| broken(error.to_string()))?;
        let watching = Watching {
            watch: Arc::new(watch),
            asked: Arc::default(),
            queues: HashSet::new(),
        };
        let (again, failed) = mpsc::channel(AGAIN_MAX);
        let feed = Arc::new(Self {
            queues,
            store,
            tasks: tasks.clone(),
            runs,
            consumer: consumer.into(),
            watching: Mutex::new(watching),
            progress,
            again,
            clock: clock.clone(),
            packages,
            recall: Recall::default(),
        });
        tasks.spawn(
            "worker pure functions",
            Fate::Expendable,
            follow(Arc::clone(&feed)),
        );
        let repeating = repeat(Arc::clone(&feed), clock.clone(), failed);
        tasks.spawn("worker reports again", Fate::Expendable, repeating);
        Ok(feed)
    }

    /// Brings the watch in line with what is asked for.
    fn watch(&self, asked: &Arc<[QueueName]>) -> Arc<Watch> {
        let mut watching = self.watching.lock();
        if watching.asked != *asked {
            let wanted: HashSet<QueueName> = asked.iter().cloned().collect();
            for queue in watching.queues.difference(&wanted) {
                watching.watch.remove(queue);
            }
            for queue in wanted.difference(&watching.queues) {
                if let Err(error) = watching.watch.add(queue) {
                    tracing::error!(%error, %queue, "a function's queue cannot be watched");
                }
            }
            watching.asked = Arc::clone(asked);
            watching.queues = wanted;
        }
        Arc::clone(&watching.watch)
    }

    /// The messages to the runs, each with the completion of its invocation as its companion; nothing for leases that are
    /// over.
    fn hand_overs(&self, reports: Vec<(Again, Option<AttemptRecord>)>) -> Vec<HandOver> {
        let leases: Vec<LeaseRef> = reports.iter().map(|(again, _)| again.lease.clone()).collect();
        let completions = self.queues.stage_complete_each(&leases);
        let mut hand_overs = Vec::with_capacity(reports.len());
        let mut late = Vec::new();
        for ((again, record), completed) in reports.into_iter().zip(completions) {
            match completed {
                Ok(companion) => hand_overs.push(self.hand_over(again, record, companion)),
                Err(stale) => {
                    tracing::debug!(%stale, "an outcome came too late");
                    late.push(again.lease.id);
                }
            }
        }
        if !late.is_empty() {
            self.recall.forget(late.into_iter());
        }
        hand_overs
    }

    fn hand_over(&self, again: Again, record: Option<AttemptRecord>, mut companion: Unit) -> HandOver {
        let result = || match RunMessage::decode(&again.payload) {
            Ok(RunMessage::Report(Report {
                outcome: ReportOutcome::Succeeded { result },
                ..
            })) => Some(result),
            _ => None,
        };
        self.recall
            .ended(again.lease.id, again.run, result, &mut companion);
        if let Some(record) = record {
            record.stage(&mut companion);
        }
        let message = NewMessage {
            priority: again.priority,
            key: Some(Key::from(again.run)),
            // Reported once: by the commit that completes the invocation.
            repeatable_id: true,
            ..NewMessage::new(
                report_id(again.lease.id),
                self.runs.clone(),
                Arc::clone(&again.payload),
            )
        };
        let failed = self.again.clone();
        companion.on_done(move |outcome| {
            if outcome.is_err() {
                // When there is no room the lease lapses, and the invocation is run again.
                failed.try_send(again).ok();
            }
        });
        HandOver { message, companion }
    }

    /// Leases, whatever may be known of the results.
    ///
    /// # Cancel safety
    /// May be dropped while it waits: nothing is leased then.
    pub(crate) async fn take(
        &self,
        queue: &QueueName,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Leased>, FeedError> {
        let request = LeaseRequest {
            metadata: Vec::new(),
            queue: queue.clone(),
            max,
            lease_ms: Some(millis(lease)),
            wait,
            consumer: Arc::clone(&self.consumer),
        };
        let leased = self.queues.lease(&request).await;
        leased.map_err(|error| FeedError {
            kind: error.kind(),
            reason: error.to_string(),
        })
    }

    /// Has the feed tell what results it finds. Only the first counts.
    pub(crate) fn share_results(&self, results: &SharedResults) {
        self.recall.shared.set(results.clone()).ok();
    }

    /// Gives leases back that nobody has begun with.
    pub(crate) fn give_back(&self, leases: &[LeaseRef]) {
        self.recall.forget(leases.iter().map(|lease| lease.id));
        for stale in self.queues.release(leases).into_iter().filter_map(Result::err) {
            tracing::debug!(%stale, "a lease to be given back was over");
        }
    }

    /// Those of `queues` that have something to lease this instant.
    pub(crate) fn ready_now(&self, queues: &Arc<[QueueName]>) -> Vec<Ready> {
        indexed(queues, self.watch(queues).ready_now())
    }

    /// Where the first message of `queue` stands, if there is one to lease.
    pub(crate) fn head(&self, queue: &QueueName) -> Option<Priority> {
        self.queues.head(queue)
    }

    /// Reports what is known already.
    pub(crate) fn report(&self, recalled: Vec<Recalled>) {
        let now = self.clock.now();
        let reports = recalled.into_iter().filter_map(|Recalled { leased, result }| {
            let invocation = Invocation::decode(&leased.payload).ok()?;
            let report = Report {
                call: invocation.call,
                // Nothing was tried.
                attempt: 0,
                started: now,
                ended: now,
                worker: "",
                avoided: true,
                outcome: ReportOutcome::Succeeded { result: &result },
            };
            let again = Again {
                lease: leased.lease(),
                run: invocation.run,
                priority: leased.priority,
                payload: report.encode().into(),
            };
            Some((again, None))
        });
        self.hand_over_all(reports.collect());
    }

    fn hand_over_all(&self, reports: Vec<(Again, Option<AttemptRecord>)>) {
        for refused in self.queues.hand_over(self.hand_overs(reports)) {
            // The companion is dropped with it: the lease lapses, and the invocation is run again.
            tracing::error!(error = %refused.error, "a report was refused");
        }
    }

    /// Says that attempts failed and shall be repeated, apart from the reports: it waits for a commit.
    fn fail(&self, failures: Vec<Failure>, rows: Unit) {
        let (queues, store) = (self.queues.clone(), self.store.clone());
        self.tasks.spawn("worker failures", Fate::Expendable, async move {
            if !rows.is_empty()
                && let Err(error) = store.commit(rows).await
            {
                tracing::warn!(%error, "attempts are not recorded");
            }
            if let Err(error) = queues.fail(failures).await {
                tracing::warn!(%error, "failed attempts lapse instead of being repeated in time");
            }
        });
    }
}

/// Keeps in mind which functions are pure.
async fn follow(feed: Arc<QueueFeed>) {
    let shutdown = feed.tasks.shutdown().clone();
    let mut changes = feed.packages.changes();
    loop {
        feed.recall.refresh(&*feed.packages);
        tokio::select! {
            () = shutdown.requested() => break,
            changed = changes.changed() => if changed.is_err() { break },
        }
    }
}

async fn repeat(feed: Arc<QueueFeed>, clock: Clock, mut failed: mpsc::Receiver<Again>) {
    let shutdown = feed.tasks.shutdown().clone();
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            received = failed.recv_many(&mut waiting, AGAIN_MAX) => if received == 0 { break },
        }
        clock.sleep(AGAIN_AFTER).await;
        feed.hand_over_all(waiting.drain(..).map(|again| (again, None)).collect());
    }
}

impl Feed for QueueFeed {
    fn ready(self: Arc<Self>, queues: Arc<[QueueName]>) -> BoxFuture<'static, Vec<Ready>> {
        Box::pin(async move {
            let watch = self.watch(&queues);
            loop {
                let ready = watch.ready().await;
                if ready.is_empty() {
                    // The process is stopping.
                    return std::future::pending().await;
                }
                let found = indexed(&queues, ready);
                if !found.is_empty() {
                    return found;
                }
            }
        })
    }

    fn lease(
        self: Arc<Self>,
        queue: QueueName,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<Leased>, FeedError>> {
        Box::pin(async move {
            let leased = self.take(&queue, max, lease, wait).await?;
            let sifted = sift(None, &queue, vec![(self, leased)]).await;
            Ok(sifted.into_iter().flat_map(|(_, leased)| leased).collect())
        })
    }

    fn extend(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, Vec<bool>> {
        let extended = self.queues.extend(&leases, millis(lease));
        Box::pin(std::future::ready(
            extended.into_iter().map(|outcome| outcome.is_ok()).collect(),
        ))
    }

    fn settle(&self, finished: Vec<Finished>) -> BoxFuture<'_, ()> {
        let mut reports = Vec::with_capacity(finished.len());
        let (mut failures, mut rows, mut releases) = (Vec::new(), Unit::new(), Vec::new());
        for Finished {
            lease,
            run,
            priority,
            finish,
            record,
        } in finished
        {
            match finish {
                Finish::Report(payload) => {
                    let again = Again {
                        lease,
                        run,
                        priority,
                        payload: payload.into(),
                    };
                    reports.push((again, record));
                }
                Finish::Retry { after_ms, error } => {
                    if let Some(record) = record {
                        record.stage(&mut rows);
                    }
                    failures.push(Failure {
                        lease,
                        retryable: true,
                        delay_ms: after_ms,
                        error,
                    });
                }
                Finish::Release => releases.push(lease),
            }
        }
        if !reports.is_empty() {
            self.hand_over_all(reports);
        }
        if !failures.is_empty() {
            self.fail(failures, rows);
        }
        self.give_back(&releases);
        Box::pin(std::future::ready(()))
    }

    fn shortages(&self, run: RunId, call: CallId) -> BoxFuture<'_, u32> {
        Box::pin(async move {
            attempts::shortages(&self.store, run, call)
                .await
                .unwrap_or_else(|error| {
                    tracing::warn!(%error, "the shape of an attempt is not known");
                    0
                })
        })
    }

    fn progress(&self, progress: Progress) {
        (self.progress)(progress);
    }
}

/// As the places in the list that was asked for.
fn indexed(queues: &[QueueName], ready: Vec<celesta_queue::Ready>) -> Vec<Ready> {
    let found = ready.into_iter().filter_map(|ready| {
        let index = queues.iter().position(|queue| *queue == ready.queue)?;
        Some(Ready {
            index,
            head: ready.head,
            depth: ready.count,
        })
    });
    found.collect()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Debug for QueueFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueFeed")
            .field("consumer", &self.consumer)
            .finish_non_exhaustive()
    }
}
