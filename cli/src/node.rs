//! A node: the only place where adapters meet services.
//!
//! Store, artifacts, queues, runtime, worker and server are opened here in that order, and stopped in the opposite one:
//! the server takes nothing new, workers and evaluators drain to a deadline and give their leases back, the store
//! commits what was handed to it, and what is still there is dropped with the process. Nothing else of this program
//! knows how they are put together.

mod broker;
mod deployment;
mod lock;
mod packages;

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_queue::AnyQueues;
use celesta_rabbitmq::BrokerUrl;
use celesta_runs::{Databases, Partitions, Runtime};
use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use celesta_server::{Api, Server, ServerConfig};
use celesta_store::{Migration, Store, StoreOptions};
use celesta_worker::{GuardProgram, PartedFeed, SharedResults, Worker, WorkerConfig, WorkerParts};

use self::deployment::{Deployment, Feeding, Means};
use self::lock::DataLock;
use self::packages::Registered;
use crate::child::own_binary;
use crate::exit::{Exit, Failure, Outcome};
use crate::signals;

/// Requests and functions under way may end within this time after a stop was asked for; the worker gives leases back
/// after five seconds, and the store needs one commit more.
const DRAIN: Duration = Duration::from_secs(10);
/// The store commits what it was handed.
const STORE_DRAIN: Duration = Duration::from_secs(5);

/// The record of a node, in its data folder.
pub(crate) const STORE_FILE: &str = "celesta.db";
/// The blobs of a node, in its data folder.
pub(crate) const ARTIFACTS_FOLDER: &str = "artifacts";

/// The schema of a node's record.
pub(crate) fn migrations() -> Vec<Migration> {
    migrations_with(celesta_queue::MIGRATIONS)
}

/// The schema of what the nodes of a deployment share, and that of each partition.
pub(crate) fn deployment_migrations() -> (Vec<Migration>, Vec<Migration>) {
    let shared = [
        celesta_queue::MIGRATIONS,
        celesta_runs::MIGRATIONS,
        celesta_runs::CLUSTER_MIGRATIONS,
        celesta_worker::SHARED_MIGRATIONS,
    ];
    let mut partition = migrations_with(celesta_queue::OWNED_MIGRATIONS);
    partition.extend_from_slice(celesta_runs::PARTITION_MIGRATIONS);
    (shared.concat(), partition)
}

/// The schema of runs, with that of the queues they go through.
fn migrations_with(queues: &[Migration]) -> Vec<Migration> {
    [queues, celesta_runs::MIGRATIONS, celesta_worker::MIGRATIONS].concat()
}

/// The databases of a deployment: the one at `store`, and each `NAME=URL` of `named`, which may hold several.
pub(crate) fn databases(store: &str, named: &[String]) -> Result<Databases, Failure> {
    let named = named.iter().flat_map(|text| text.split_whitespace());
    Databases::new(store, named).map_err(|error| {
        Failure::new(Exit::Usage, error.to_string())
            .hint("write --database fast=postgres://user@host:port/database")
    })
}

/// How a node is set up.
#[derive(Debug, Clone)]
pub(crate) struct NodeOptions {
    /// The folder of its data.
    pub(crate) data: PathBuf,
    /// Where it listens.
    pub(crate) listen: String,
    /// What clients must show; needed beyond this machine.
    pub(crate) token: Option<String>,
    /// A PostgreSQL database for the queues of `/v1/queues`; the data folder unless given.
    pub(crate) queues: Option<String>,
    /// A broker that gets the messages of queues which are configured so.
    pub(crate) broker: Option<BrokerUrl>,
    /// Processor slots for functions; the machine's unless given. Zero runs no functions here.
    pub(crate) workers: Option<u32>,
    /// How long the ids of events are kept, so that one that comes again counts once; a week unless given.
    pub(crate) events_kept: Option<Duration>,
    /// The PostgreSQL database of the deployment this node is part of; a file in the data folder unless given.
    pub(crate) store: Option<String>,
    /// Other databases of the deployment, each `NAME=URL`, or several with spaces between.
    pub(crate) databases: Vec<String>,
    /// The name of this node among others; made once and kept in the data folder unless given.
    pub(crate) node: Option<String>,
    /// Where the other nodes reach this one, `host:port`; where it listens unless given.
    pub(crate) advertise: Option<String>,
    /// How many partitions a new deployment gets.
    pub(crate) partitions: Option<u32>,
    /// The folder of artifacts, which nodes share; in the data folder unless given.
    pub(crate) artifacts: Option<PathBuf>,
}

impl NodeOptions {
    /// A node on its own.
    pub(crate) const fn alone(data: PathBuf, listen: String) -> Self {
        Self {
            data,
            listen,
            token: None,
            queues: None,
            broker: None,
            workers: None,
            events_kept: None,
            store: None,
            databases: Vec::new(),
            node: None,
            advertise: None,
            partitions: None,
            artifacts: None,
        }
    }
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    /// What it owns of the deployment.
    partitions: Partitions,
    /// Where it listens.
    pub(crate) url: String,
    /// Processor slots for functions.
    pub(crate) slots: u32,
    pub(crate) clock: Clock,
    /// Server, worker, evaluators.
    pub(crate) tasks: TaskSet,
    /// The committer and the queue's keepers: they outlive those who hand work to them.
    keepers: TaskSet,
    /// The record of shared queues: its committer ends with the last handle.
    shared: Option<Store>,
    _lock: DataLock,
}

impl Node {
    /// Opens everything and listens.
    ///
    /// # Errors
    /// When another process has the data, something cannot be opened, or the address is taken.
    pub(crate) async fn start(options: NodeOptions) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::internal(format!("cannot open {what}: {error}"))
        };
        let lock = DataLock::take(&options.data)?;
        let data = std::path::absolute(&options.data)
            .map_err(|error| Failure::file("use", &options.data, &error))?;
        let (clock, random) = (Clock::system(), Random::system());
        let (tasks, keepers) = (TaskSet::new(Shutdown::new()), TaskSet::new(Shutdown::new()));

        let folder = options
            .artifacts
            .clone()
            .unwrap_or_else(|| data.join(ARTIFACTS_FOLDER));
        let artifacts = Artifacts::open(folder)
            .await
            .map_err(|error| failed("the artifacts", &error))?;
        let means = Means {
            clock: &clock,
            random: &random,
            tasks: &tasks,
            keepers: &keepers,
        };
        let Deployment {
            partitions,
            store,
            queues,
        } = match &options.store {
            Some(url) => deployment::shared(url, &data, &options, &artifacts, means).await?,
            None => deployment::alone(&data, &options, &artifacts, means).await?,
        };
        let (open_to_all, shared) = match &options.queues {
            Some(url) => shared_queues(url, &clock, &keepers).await?,
            None => (queues, None),
        };
        if let Some(url) = &options.broker {
            broker::start(url, &data, &open_to_all, &clock, &random, &tasks)?;
        }
        let runtime = partitions.home().clone();

        let slots = options.workers.unwrap_or_else(cores);
        if slots > 0 {
            let guard = GuardProgram {
                program: own_binary()?,
                arguments: vec!["guard".into()],
            };
            let mut config = WorkerConfig::new("local", data.join("worker"), guard);
            config.cpu_millis = slots.saturating_mul(1_000);
            config.memory_bytes = memory_bytes();
            if let Some(path) = search_path() {
                config.search_path = path;
            }
            let packages = Arc::new(Registered::new(runtime.clone()));
            // A partition on its own knows all results there are.
            let several = partitions.count() > 1;
            let results = several.then(|| SharedResults::start(store.clone(), &clock, &tasks));
            let feed = PartedFeed::new(partitions.count(), &clock, Arc::new(tell_progress), results);
            let feeding = Feeding {
                feed: Arc::clone(&feed),
                clock: clock.clone(),
                node: "local".into(),
                packages: Arc::clone(&packages) as Arc<dyn celesta_worker::Packages>,
                progress: Arc::new(tell_progress),
            };
            let parts = WorkerParts {
                clock: clock.clone(),
                random: random.clone(),
                tasks: tasks.clone(),
                feed,
                packages,
                artifacts: artifacts.clone(),
            };
            let worker = Worker::new(config, parts)
                .run()
                .map_err(|error| failed("the worker", &error))?;
            feeding.follow(&partitions, worker, &tasks)?;
        }

        let config = ServerConfig {
            listen: options.listen.clone(),
            token: options.token.clone(),
        };
        let api = Api {
            runtime: runtime.clone(),
            store,
            artifacts,
            queues: open_to_all,
            clock: clock.clone(),
        };
        let server = Server::bind(config, api).await.map_err(|error| {
            Failure::new(
                Exit::Conflict,
                format!("cannot listen on {}: {error}", options.listen),
            )
            .hint("name another address with --listen")
        })?;
        let url = format!("http://{}", server.address());
        let address = advertised(&options, server.address())?;
        let server = server.over(partitions.clone());
        partitions
            .join(address)
            .await
            .map_err(|error| failed("the partitions", &error))?;
        server.spawn(&tasks);
        Ok(Self {
            runtime,
            partitions,
            url,
            slots,
            clock,
            tasks,
            keepers,
            shared,
            _lock: lock,
        })
    }

    /// Serves until a signal comes or a part that everything stands on has ended, then stops in order.
    pub(crate) async fn run_to_end(self) -> Outcome {
        let asked = tokio::select! {
            () = signals::interrupted() => true,
            () = self.tasks.shutdown().requested() => false,
            () = self.keepers.shutdown().requested() => false,
        };
        let stopped = tokio::select! {
            () = self.stop() => true,
            () = signals::interrupted() => false,
        };
        match (asked, stopped) {
            (true, true) => Ok(Exit::Done),
            (true, false) => Ok(Exit::Interrupted),
            (false, _) => Err(Failure::internal("a part of the node ended; the log says which")),
        }
    }

    /// Stops in order.
    pub(crate) async fn stop(self) {
        // Requests are answered until others own what was here, and sent on to them from then on.
        self.partitions.leave().await;
        if !self.tasks.stop(DRAIN).await {
            tracing::warn!(
                "not everything has ended in time; what was not durable is done after the next start"
            );
        }
        // From here on the committer may end: it does so when the last handle on the store is dropped.
        self.keepers.shutdown().request();
        drop((self.runtime, self.partitions, self.shared));
        if !self.keepers.stop(STORE_DRAIN).await {
            tracing::warn!("the store has not ended in time");
        }
    }
}

/// Where the other nodes reach this one.
fn advertised(options: &NodeOptions, listens: std::net::SocketAddr) -> Result<String, Failure> {
    match &options.advertise {
        Some(address) => Ok(format!("http://{address}")),
        None if options.store.is_some() && listens.ip().is_unspecified() => Err(Failure::new(
            Exit::Usage,
            format!("{listens} is no address at which other nodes reach this one"),
        )
        .hint("name one with --advertise host:port")),
        None => Ok(format!("http://{listens}")),
    }
}

/// Queues in a database that nodes share.
async fn shared_queues(
    url: &str,
    clock: &Clock,
    keepers: &TaskSet,
) -> Result<(AnyQueues, Option<Store>), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Unreachable,
            format!("cannot open the shared queues: {error}"),
        )
        .hint("name a PostgreSQL database that is there, as postgres://user@host:port/database")
    };
    let store = Store::open(
        &StoreOptions::postgres(url),
        celesta_queue::MIGRATIONS,
        clock,
        keepers,
    )
    .await
    .map_err(|error| failed(&error))?;
    let queues = AnyQueues::open(&store, clock, keepers, celesta_queue::Options::default())
        .await
        .map_err(|error| failed(&error))?;
    Ok((queues, Some(store)))
}

/// How far a function says it is. Rules say it of a run with `progress`; this is for who looks closely.
#[expect(clippy::needless_pass_by_value, reason = "the shape of the worker's hook")]
fn tell_progress(progress: celesta_worker::Progress) {
    tracing::debug!(run = %progress.run, call = %progress.call, fraction = progress.fraction, text = progress.text, "progress");
}

/// The machine's processors.
fn cores() -> u32 {
    std::thread::available_parallelism()
        .ok()
        .and_then(|cores| u32::try_from(NonZero::get(cores)).ok())
        .unwrap_or(1)
}

/// Memory for functions: three quarters of the machine's, the rest is the node's and the page cache's.
fn memory_bytes() -> u64 {
    const UNKNOWN: u64 = 4 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total_kb: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    total_kb.map_or(UNKNOWN, |kb| kb * 1_024 / 4 * 3)
}

/// The `PATH` of this process: functions find their interpreters where the user does.
#[expect(
    clippy::disallowed_methods,
    reason = "the cli is where the environment is read"
)]
fn search_path() -> Option<std::ffi::OsString> {
    std::env::var_os("PATH")
}
