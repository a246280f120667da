//! The runtime as a component: opened with its parts, cheap to clone, stopped with its task set.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_engine::Explanation;
use celesta_functions::names::RUNS_QUEUE;
use celesta_queue::{LeaseRef, Leased, LeasedKey, QueueName, Queues, Settings, StaleToken};
use celesta_runtime::{Clock, Fate, Random, TaskSet};
use celesta_store::{QueryError, Store, Unit};
use celesta_types::{MessageId, Partition, RunId, Timestamp};

use crate::archive;
use crate::cache::Cache;
use crate::cluster::Readers;
use crate::evaluate::{Meters, evaluate};
use crate::events::Events;
use crate::facts::Writers;
use crate::gates::Gates;
use crate::live::Live;
use crate::load::LoadError;
use crate::operations::Operations;
use crate::orders::Orders;
use crate::query::ExplainError;
use crate::registry::{PushError, Pushed, Registry, Version, Versions};
use crate::release::Share;
use crate::shared::Shared;
use crate::submit::InFlight;
use crate::sweep::Sweeps;
use crate::view::{CallView, FactView, Page, RunEvent, RunFilter, RunView, TurnView};
use crate::watch::{Watch, Watchers};

/// Live runs take at most this much memory unless configured: tens of thousands of ordinary runs.
const CACHE_BYTES: usize = 192 * 1024 * 1024;

/// Ids of events are kept so long unless configured: longer than producers try.
const EVENTS_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A message of a run is never given up: a turn that fails for want of a disk is repeated until there is one. Turns that
/// fail for reasons of their own put the run aside instead.
const RUN_ATTEMPTS: u32 = 1_000_000;

/// How a runtime is set up.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The folder for unpacked bundles.
    pub bundles: PathBuf,
    /// How many turns are evaluated at once; cores, unless there is a reason. With none, whoever opens the runtime leases
    /// and evaluates turns.
    pub evaluators: usize,
    /// The bound of the cache of live runs, in bytes.
    pub cache_bytes: usize,
    /// The name of this node in leases.
    pub node: String,
    /// Which part of the deployment's runs it has: new runs are made there.
    pub partition: Partition,
    /// Does nothing by itself, not even tidy up: somebody else owns the store.
    pub reads_only: bool,
    /// How long the ids of events are kept: an event that comes again within it counts once.
    pub events_kept: Duration,
    /// The versions that are compiled already.
    pub versions: Versions,
}

impl RuntimeConfig {
    /// The usual set-up with bundles in `bundles`.
    #[must_use]
    pub fn new(bundles: PathBuf) -> Self {
        let evaluators = std::thread::available_parallelism()
            .map_or(2, std::num::NonZero::get)
            .max(2);
        Self {
            bundles,
            evaluators,
            cache_bytes: CACHE_BYTES,
            node: "local".to_owned(),
            partition: Partition::WHOLE,
            reads_only: false,
            events_kept: EVENTS_KEPT,
            versions: Versions::default(),
        }
    }
}

/// The parts a runtime stands on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The record.
    pub store: Store,
    /// The queue.
    pub queues: Queues,
    /// The blobs.
    pub artifacts: Artifacts,
    /// The time.
    pub clock: Clock,
    /// Randomness for ids.
    pub random: Random,
    /// Where the evaluators are spawned.
    pub tasks: TaskSet,
}

/// What all handles share.
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) queues: Queues,
    pub(crate) artifacts: Artifacts,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) tasks: TaskSet,
    pub(crate) registry: Arc<Registry>,
    pub(crate) partition: Partition,
    pub(crate) reads_only: bool,
    /// All partitions of the deployment, where there are several.
    pub(crate) readers: Readers,
    pub(crate) cache: Cache,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) runs_queue: QueueName,
    pub(crate) node: Arc<str>,
    pub(crate) meters: Meters,
    pub(crate) in_flight: InFlight,
    pub(crate) writers: Writers,
    pub(crate) sweeps: Sweeps,
    pub(crate) shared: Shared,
    pub(crate) gates: Gates,
    pub(crate) orders: Orders,
    pub(crate) events: Events,
    pub(crate) operations: Operations,
    /// Told which calls were called off, so that running ones stop at once and not at their next sign of life.
    pub(crate) canceled: OnceLock<CancelHook>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Hears of calls that were called off; must return at once.
pub(crate) type CancelHook = Box<dyn Fn(&[MessageId]) + Send + Sync>;

/// A handle on the runtime. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

/// The runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The services could not be read.
    #[error("cannot read the services: {0}")]
    Registry(#[from] PushError),
    /// The queue of runs could not be set up.
    #[error("cannot set up the queue of runs: {reason}")]
    Queue {
        /// The queue's words.
        reason: String,
    },
}

impl Runtime {
    /// Opens the runtime and starts its evaluators; those that find messages begin at once.
    ///
    /// # Errors
    /// When the services cannot be read from the store.
    pub async fn open(config: RuntimeConfig, parts: Parts) -> Result<Self, RuntimeError> {
        let registry = Registry::open(
            config.bundles.clone(),
            parts.store.clone(),
            parts.artifacts.clone(),
            parts.clock.clone(),
            config.versions.clone(),
        );
        let registry = Arc::new(registry.await?);
        Self::open_with(config, parts, registry, Readers::default()).await
    }

    /// As [`Runtime::open`] with the services of the whole node.
    pub(crate) async fn open_with(
        config: RuntimeConfig,
        parts: Parts,
        registry: Arc<Registry>,
        readers: Readers,
    ) -> Result<Self, RuntimeError> {
        let Parts {
            store,
            queues,
            artifacts,
            clock,
            random,
            tasks,
        } = parts;
        let runs_queue = QueueName::new(RUNS_QUEUE).map_err(|error| RuntimeError::Queue {
            reason: error.to_string(),
        })?;
        let settings = Settings {
            attempts_max: RUN_ATTEMPTS,
            // A run's own journal is its history.
            history_ms: 0,
            ..Settings::exclusive()
        };
        queues
            .configure(&runs_queue, settings)
            .map_err(|error| RuntimeError::Queue {
                reason: error.to_string(),
            })?;
        let orders = Orders::open(&store)
            .await
            .map_err(|error| RuntimeError::Registry(PushError::unavailable(error)))?;
        let operations = Operations::open(&store)
            .await
            .map_err(|error| RuntimeError::Registry(PushError::unavailable(error)))?;
        let inner = Arc::new(Inner {
            store,
            queues,
            artifacts,
            clock,
            random,
            tasks,
            registry,
            partition: config.partition,
            reads_only: config.reads_only,
            readers,
            cache: Cache::new(config.cache_bytes),
            watchers: Arc::default(),
            runs_queue,
            node: config.node.into(),
            meters: Meters::new(),
            in_flight: InFlight::default(),
            writers: Writers::default(),
            sweeps: Sweeps::default(),
            shared: Shared::default(),
            gates: Gates::default(),
            orders,
            events: Events::new(config.events_kept),
            operations,
            canceled: OnceLock::new(),
        });
        if !config.reads_only && inner.partition.count > 1 {
            inner
                .send_places_home()
                .await
                .map_err(|reason| RuntimeError::Queue { reason })?;
        }
        inner.registry.follow(&inner);
        for version in inner.registry.all() {
            inner.open_queues(&version)?;
        }
        for _ in 0..config.evaluators {
            let evaluator = Arc::clone(&inner);
            let work = async move {
                let handle = tokio::runtime::Handle::current();
                let thread = tokio::task::spawn_blocking(move || evaluate(&evaluator, &handle));
                if let Err(error) = thread.await {
                    tracing::error!(%error, "an evaluator ended");
                }
            };
            inner.tasks.spawn("runs.evaluator", Fate::Essential, work);
        }
        for version in inner.registry.all() {
            inner.move_runs(&version.service);
        }
        if !config.reads_only {
            let sweep = archive::run(Arc::clone(&inner));
            inner.tasks.spawn("runs.archive", Fate::Expendable, sweep);
            let compaction = archive::compact::run(Arc::clone(&inner));
            inner.tasks.spawn("runs.compact", Fate::Expendable, compaction);
            let router = Arc::clone(&inner);
            let routing = async move { router.route_emitted().await };
            inner.tasks.spawn("runs.events", Fate::Essential, routing);
            let operator = Arc::clone(&inner);
            let operating = async move { operator.operate().await };
            inner.tasks.spawn("runs.operations", Fate::Essential, operating);
            let sweeper = Arc::clone(&inner);
            let work = crate::sweep::drive(sweeper);
            inner.tasks.spawn("runs.sweeper", Fate::Essential, work);
        }
        Ok(Self { inner })
    }

    /// Has `hook` told which calls were called off, once that is durable; it must return at once. Only the first hook
    /// counts.
    pub fn on_calls_canceled(&self, hook: impl Fn(&[MessageId]) + Send + Sync + 'static) {
        // A second hook is a mistake of the set-up that changes nothing.
        self.inner.canceled.set(Box::new(hook)).ok();
    }

    /// Checks a bundle, keeps it as a version of `service` and has new runs follow it.
    ///
    /// # Errors
    /// When the bundle is wrong (every mistake is in the error) or cannot be kept; nothing is stored then.
    pub async fn push(&self, service: &str, files: celesta_bundle::Files) -> Result<Pushed, PushError> {
        self.push_for(service, files, None).await
    }

    /// The same for some new runs only, when there is a share; the rest follow the version that is current.
    ///
    /// # Errors
    /// As for [`Runtime::push`].
    pub async fn push_for(
        &self,
        service: &str,
        files: celesta_bundle::Files,
        share: Option<Share>,
    ) -> Result<Pushed, PushError> {
        let inner = &self.inner;
        let pushed = inner.registry.push(inner, service, files, share).await?;
        self.inner.move_runs(service);
        Ok(pushed)
    }

    /// The current version of every service, by name.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<Version>> {
        self.inner.registry.all()
    }

    /// The current version of `service`.
    #[must_use]
    pub fn service(&self, service: &str) -> Option<Arc<Version>> {
        self.inner.registry.current(service)
    }

    /// The version with that digest.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn version(&self, digest: celesta_types::Digest) -> Result<Arc<Version>, PushError> {
        self.inner.registry.version(digest).await
    }

    /// Hears of each push.
    #[must_use]
    pub fn pushes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.registry.changes()
    }

    /// The blobs.
    #[must_use]
    pub fn artifacts(&self) -> &Artifacts {
        &self.inner.artifacts
    }

    /// The run with its input; `None` when there is no such run.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn run(&self, run: RunId) -> Result<Option<RunView>, QueryError> {
        self.inner.view(run).await
    }

    /// Waits at most `patience` for the run to end and says how it stands then; `None` when there is no such run.
    ///
    /// # Errors
    /// When the store does not answer.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn wait(&self, run: RunId, patience: Duration) -> Result<Option<RunView>, QueryError> {
        let watch = self.inner.watchers.watch(run);
        self.wait_with(watch, run, patience).await
    }

    async fn wait_with(
        &self,
        watch: Watch,
        run: RunId,
        patience: Duration,
    ) -> Result<Option<RunView>, QueryError> {
        let stands = self
            .inner
            .cache
            .peek(run, |live| live.head.state.is_ended().then(|| live.head.view()));
        match stands {
            Some(Some(view)) => return Ok(Some(view)),
            Some(None) => {}
            // In a turn, or not in memory: the row tells, and the watch what comes after it.
            None => match self.inner.view(run).await? {
                Some(view) if !view.state.is_ended() => {}
                ended_or_unknown => return Ok(ended_or_unknown),
            },
        }
        self.wait_heard(watch, run, patience).await
    }

    /// As [`Runtime::wait`] with a watch from before the run could end.
    pub(crate) async fn wait_heard(
        &self,
        mut watch: Watch,
        run: RunId,
        patience: Duration,
    ) -> Result<Option<RunView>, QueryError> {
        let ended = async {
            loop {
                let heard = watch.next().await;
                if let Some(view) = heard.ended {
                    return Some(RunView::clone(&view));
                }
                if heard.seq == u64::MAX {
                    return None;
                }
            }
        };
        tokio::select! {
            Some(view) = ended => Ok(Some(view)),
            // Whoever owns the run next tells its end; here nobody hears of it any more.
            () = self.inner.tasks.shutdown().requested() => self.inner.view(run).await,
            () = self.inner.clock.sleep(patience) => self.inner.view(run).await,
            else => self.inner.view(run).await,
        }
    }

    /// A page of runs, the newest first; `cursor` is the `next` of the page before.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list(
        &self,
        filter: &RunFilter,
        cursor: Option<RunId>,
        limit: usize,
    ) -> Result<Page<RunView>, QueryError> {
        let Some(readers) = self.inner.readers.get() else {
            return self.inner.list(filter, cursor, limit).await;
        };
        let readers = readers?;
        let pages = readers
            .iter()
            .map(|reader| reader.inner.list(filter, cursor, limit));
        let newest = |a: &RunView, b: &RunView| b.id.cmp(&a.id);
        crate::cluster::merged(pages, limit, newest, |last| last.id.to_string()).await
    }

    /// A page of the run's facts with ids above `after`; `None` when there is no such run.
    ///
    /// # Errors
    /// When the run cannot be read.
    pub async fn facts(
        &self,
        run: RunId,
        fact_type: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Option<Page<FactView>>, LoadError> {
        self.inner.facts(run, fact_type, after, limit).await
    }

    /// Up to `limit` turns after turn `after`, oldest first; `None` when there is no such run.
    ///
    /// # Errors
    /// When the run cannot be read.
    pub async fn history(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Option<Vec<TurnView>>, LoadError> {
        self.inner.turns(run, after, limit).await
    }

    /// All calls of the run in the order they were made; empty when there is no such run.
    ///
    /// # Errors
    /// When the run cannot be read.
    pub async fn calls(&self, run: RunId) -> Result<Vec<CallView>, LoadError> {
        self.inner.calls(run).await
    }

    /// Why `rule` fired in the run, or which clause is false and for which facts.
    ///
    /// # Errors
    /// When there is no such run or rule, or the run cannot be read.
    pub async fn explain(&self, run: RunId, rule: &str) -> Result<Explanation, ExplainError> {
        self.inner.explain(run, rule).await
    }

    /// The run's events after turn `after`, then those to come.
    #[must_use]
    pub fn events(&self, run: RunId, after: u64) -> EventStream {
        EventStream {
            watch: self.inner.watchers.watch(run),
            runtime: self.clone(),
            run,
            after,
        }
    }
}

/// Turns of the journal read for one step of an event stream.
const TURNS_PER_STEP: usize = 100;

/// The events of a run as they become durable.
#[derive(Debug)]
pub struct EventStream {
    runtime: Runtime,
    run: RunId,
    after: u64,
    watch: Watch,
}

impl EventStream {
    /// The next events; `None` when the run has ended and everything was told, or there is no such run.
    ///
    /// # Errors
    /// When the run cannot be read.
    ///
    /// # Cancel safety
    /// Nothing is lost: the next call begins after the last events returned.
    pub async fn next(&mut self) -> Result<Option<Vec<RunEvent>>, LoadError> {
        loop {
            // The state first: a turn that ends the run after this read is found by the next read of the journal.
            let Some(view) = self.runtime.inner.view(self.run).await? else {
                return Ok(None);
            };
            let (events, last) = self
                .runtime
                .inner
                .events(self.run, self.after, TURNS_PER_STEP)
                .await?;
            self.after = last;
            if !events.is_empty() {
                return Ok(Some(events));
            }
            if view.state.is_ended() {
                return Ok(None);
            }
            tokio::select! {
                _ = self.watch.next() => {}
                // The run has another owner, or the process stops: whoever follows it asks there, from here on.
                () = self.runtime.inner.tasks.shutdown().requested() => return Ok(None),
            }
        }
    }
}

impl Inner {
    /// The queues of a version's functions are there before the first call, so that workers can wait at them.
    pub(crate) fn open_queues(&self, version: &Version) -> Result<(), PushError> {
        for queue in version.queues.values() {
            // How often a call is tried is its manifest's to say; the queue only counts.
            let settings = Settings {
                attempts_max: RUN_ATTEMPTS,
                history_ms: 0,
                ..Settings::simple()
            };
            self.queues
                .configure(queue, settings)
                .map_err(PushError::unavailable)?;
        }
        Ok(())
    }

    /// The id of a new run of this partition.
    pub(crate) fn new_run(&self, now: Timestamp) -> RunId {
        self.partition.place(RunId::new(now, self.random.next_u128()))
    }

    /// The acknowledgement of a lease becomes part of `unit`.
    ///
    /// # Errors
    /// When the lease is over: nothing that was made of it may stand.
    pub(crate) fn acknowledge(&self, unit: &mut Unit, key: &LeasedKey) -> Result<(), StaleToken> {
        let leases: Vec<LeaseRef> = key.messages.iter().map(Leased::lease).collect();
        self.queues.stage_complete(unit, &leases)
    }

    /// A durable turn: whoever watches hears of it.
    pub(crate) fn announce(&self, live: &Live) {
        let ended = || live.head.state.is_ended().then(|| live.head.view());
        self.watchers.tell(live.head.run, live.seq, ended);
    }
}
