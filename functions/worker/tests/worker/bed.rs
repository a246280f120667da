//! A worker on real queues, with the test in the place of the run that asks and hears.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_functions::Invocation;
use celesta_functions::names::{RUNS_QUEUE, function_queue};
use celesta_queue::{LeaseKeys, Leased, NewMessage, Options, QueueName, Queues, Settings};
use celesta_runtime::{Clock, Random, TaskSet};
use celesta_store::{Migration, Store, StoreOptions, Unit};
use celesta_types::{CallId, MessageId, RunId};
use celesta_worker::{Feed, Packages, QueueFeed, Worker, WorkerConfig, WorkerParts};

use crate::stage::{BUNDLE, guard};

/// A store and the queues in it.
pub(crate) struct Part {
    pub(crate) store: Store,
    pub(crate) queues: Queues,
}

/// One call that a run asks for.
pub(crate) struct Ask {
    pub(crate) call: CallId,
    pub(crate) input: String,
    /// A recorded result will not do.
    pub(crate) fresh: bool,
}

impl Part {
    /// Opens a store for queues and a worker; `queues` are the migrations of the queues.
    pub(crate) async fn open(
        place: &StoreOptions,
        queues: &[Migration],
        clock: &Clock,
        tasks: &TaskSet,
    ) -> Self {
        let migrations = [queues, celesta_worker::MIGRATIONS].concat();
        let store = Store::open(place, &migrations, clock, tasks)
            .await
            .expect("a store");
        let options = Options {
            templates: vec![
                celesta_worker::queue_template(),
                (RUNS_QUEUE.to_owned(), Settings::exclusive()),
            ],
            ..Options::default()
        };
        let queues = Queues::open(&store, clock, tasks, options).await.expect("queues");
        let runs = QueueName::new(RUNS_QUEUE).expect("a name");
        queues.configure(&runs, Settings::exclusive()).expect("settings");
        Self { store, queues }
    }

    /// What brings the calls of these queues to a worker.
    pub(crate) fn feed(
        &self,
        clock: &Clock,
        tasks: &TaskSet,
        packages: &Arc<dyn Packages>,
    ) -> Arc<QueueFeed> {
        let feed = QueueFeed::start(
            self.queues.clone(),
            self.store.clone(),
            clock,
            tasks,
            "house",
            Arc::clone(packages),
            Arc::new(|_| {}),
        );
        feed.expect("a feed")
    }

    /// Asks for calls of a function for a run.
    pub(crate) async fn ask(&self, run: RunId, function: &str, asks: impl Iterator<Item = Ask>) {
        let queue = QueueName::new(&function_queue("test", function)).expect("a name");
        let messages = asks.map(|Ask { call, input, fresh }| {
            let invocation = Invocation {
                run,
                call,
                service: "test",
                function,
                bundle: BUNDLE,
                input: input.as_bytes(),
                has_artifacts: false,
                timeout_ms: None,
                trace: None,
                fresh,
            };
            NewMessage::new(MessageId::derived(run, call), queue.clone(), invocation.encode())
        });
        let outcomes = self.queues.enqueue(messages.collect()).await.expect("a commit");
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }

    /// What a run hears next; completed when it is read.
    pub(crate) async fn heard(&self) -> Vec<Leased> {
        let request = LeaseKeys {
            metadata: Vec::new(),
            queue: QueueName::new(RUNS_QUEUE).expect("a name"),
            max_keys: 1,
            max_messages_per_key: 1_000,
            lease_ms: None,
            wait: Duration::from_secs(20),
            consumer: "run".into(),
        };
        let keys = self.queues.lease_keys(&request).await.expect("a lease");
        let messages = keys.into_iter().next().expect("it comes in time").messages;
        let mut unit = Unit::new();
        let leases: Vec<_> = messages.iter().map(Leased::lease).collect();
        self.queues
            .stage_complete(&mut unit, &leases)
            .expect("our leases");
        self.store.commit(unit).await.expect("a commit");
        messages
    }
}

/// Runs a worker on the feed; its artifacts and what it works with are in the folder.
pub(crate) async fn work(
    folder: &Path,
    feed: Arc<dyn Feed>,
    packages: Arc<dyn Packages>,
    clock: Clock,
    tasks: TaskSet,
) -> Artifacts {
    let artifacts = Artifacts::open(folder.join("artifacts"))
        .await
        .expect("artifacts");
    let parts = WorkerParts {
        clock,
        random: Random::seeded(1),
        tasks,
        feed,
        packages,
        artifacts: artifacts.clone(),
    };
    let config = WorkerConfig::new("house", folder.join("worker"), guard());
    Worker::new(config, parts).run().expect("a worker");
    artifacts
}
