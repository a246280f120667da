//! Partitions: what a deployment of many nodes is made of, and the one type that holds it together.
//!
//! A partition is a complete store of its own (its tables stand in a PostgreSQL schema of its own), owned by one node at a
//! time. Within it everything is as on a node alone: queues in memory, hand-over, one unit for each turn, shared commits.
//! What is distributed is only who owns what: a table of partitions with a lease and an epoch for each (`table.rs`), steps
//! decided from looking at it (`ownership.rs`), and the fence of the store, which refuses every commit of an earlier owner.
//!
//! A node on a file is the same with one partition that is never lost. This module knows no HTTP: it says which partition
//! is here and where the others are.

mod databases;
mod error;
mod keeper;
mod mail;
mod member;
mod moving;
mod ownership;
mod readers;
mod schema;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_queue::Queues;
use celesta_runtime::{Clock, Fate, Random, Shutdown, TaskSet};
use celesta_store::{Migration, Store};
use celesta_types::{PARTITIONS_MAX, Partition};
use futures_util::future::{BoxFuture, join_all};
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use self::databases::Marks;
pub use self::databases::{DATABASE_NAME_MAX, DATABASES_MAX, Databases, DatabasesError, MAIN_DATABASE};
pub use self::error::OpenError;
pub use self::mail::PARTITION_MIGRATIONS;
pub use self::member::Member;
pub(crate) use self::member::schema as partition_schema;
pub use self::moving::MoveError;
use self::ownership::Process;
use self::readers::Reader;
pub(crate) use self::readers::Readers;
pub use self::schema::CLUSTER_MIGRATIONS;
pub(crate) use self::schema::{BUNDLE, BUNDLE_INSERT};
pub use self::table::NodeSeen;
use self::table::{Look, Table};
use crate::registry::{Registry, Versions};
use crate::runtime::{Parts, Runtime, RuntimeConfig};

/// The schema of what all nodes share.
pub const MAIN_SCHEMA: &str = "celesta";
/// Partitions of a new deployment unless told otherwise: enough for as many nodes as one database feeds.
pub const PARTITIONS: u32 = 8;
/// How long a node that joins waits for every partition to have an owner.
const SETTLE: Duration = Duration::from_secs(30);
/// For so long a node that leaves still takes requests, at least: load balancers ask each second or so.
const NOTICE: Duration = Duration::from_millis(1_500);
/// A database beside the main one that does not answer within this is not waited for at the start.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a node that leaves waits for its partitions to be given up.
const LEAVE: Duration = Duration::from_secs(20);

/// What a node of a deployment stands on.
#[derive(Debug, Clone)]
pub struct ClusterParts {
    /// What all nodes share, opened in [`MAIN_SCHEMA`] with [`CLUSTER_MIGRATIONS`] and [`crate::MIGRATIONS`].
    pub store: Store,
    /// The databases, where the partitions are; the main one is that of `store`.
    pub databases: Databases,
    /// The schema steps of a partition.
    pub migrations: Vec<Migration>,
    /// How the queues of a partition are set up.
    pub queues: celesta_queue::Options,
    /// The blobs.
    pub artifacts: Artifacts,
    /// The time.
    pub clock: Clock,
    /// Randomness for ids.
    pub random: Random,
    /// Where the keeper is spawned.
    pub tasks: TaskSet,
    /// Where the committer of what belongs to no partition is spawned.
    pub keepers: TaskSet,
}

impl ClusterParts {
    /// A runtime that owns nothing: it reads, and knows the services.
    async fn bystander(
        &self,
        store: Store,
        config: RuntimeConfig,
        registry: Arc<Registry>,
        readers: Readers,
        keepers: &TaskSet,
    ) -> Result<Runtime, OpenError> {
        let queues = Queues::in_memory(&self.clock, keepers, self.queues.clone());
        let config = RuntimeConfig {
            evaluators: 0,
            cache_bytes: 0,
            reads_only: true,
            ..config
        };
        let parts = Parts {
            store,
            queues,
            artifacts: self.artifacts.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            tasks: self.tasks.clone(),
        };
        Runtime::open_with(config, parts, registry, readers)
            .await
            .map_err(OpenError::failed)
    }
}

/// How a node takes part.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Its name, which no other process has: as a rule it is bound to the data folder and so to its lock.
    pub node: String,
    /// How many partitions a new deployment gets; one that is there keeps its number.
    pub partitions: u32,
    /// The folder for unpacked bundles.
    pub bundles: PathBuf,
    /// How long the ids of events are kept; as usual unless given.
    pub events_kept: Option<Duration>,
}

impl ClusterConfig {
    /// How the runtimes of this node are set up.
    fn usual(&self) -> RuntimeConfig {
        let mut config = RuntimeConfig::new(self.bundles.clone());
        config.node.clone_from(&self.node);
        config.events_kept = self.events_kept.unwrap_or(config.events_kept);
        config
    }
}

/// Waits for what a worker still does for a partition that is being given up.
pub type Drain = Box<dyn Fn(Arc<Member>) -> BoxFuture<'static, ()> + Send + Sync>;

/// One partition as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSeen {
    /// Its number.
    pub partition: u32,
    /// The node that holds it.
    pub node: Option<String>,
    /// How often it has changed hands.
    pub epoch: i64,
    /// What is left of the lease.
    pub lease_ms: i64,
    /// The database where it is; nothing means the main one.
    pub database: Option<String>,
    /// The database it is on its way to.
    pub moving_to: Option<String>,
    /// Why it could not be moved the last time.
    pub problem: Option<String>,
}

/// The partitions of a deployment, as one node has and knows them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Partitions {
    shared: Arc<Shared>,
}

struct Shared {
    count: u32,
    home: Runtime,
    here: RwLock<BTreeMap<u32, Arc<Member>>>,
    /// What the last look at the table has shown.
    look: RwLock<Look>,
    /// Counts what changed in either.
    changes: watch::Sender<u64>,
    drain: OnceLock<Drain>,
    cluster: Option<Cluster>,
}

/// What only a node among many has.
struct Cluster {
    config: ClusterConfig,
    parts: ClusterParts,
    registry: Arc<Registry>,
    /// Which database is which.
    marks: Marks,
    /// All partitions, for reading.
    readers: Readers,
    notices: bool,
    /// Has the keeper look at once.
    wake: Arc<Notify>,
    leaving: Shutdown,
    left: Shutdown,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partitions")
            .field("count", &self.count)
            .field("here", &self.here.read().keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Partitions {
    /// The one partition of a node on its own: never lost, and nobody else has any.
    #[must_use]
    pub fn alone(runtime: Runtime, store: Store, queues: Queues, tasks: TaskSet) -> Self {
        let member = Member::lasting(store, queues, runtime.clone(), tasks);
        Self {
            shared: Arc::new(Shared {
                count: 1,
                home: runtime,
                here: RwLock::new(BTreeMap::from([(0, Arc::new(member))])),
                look: RwLock::default(),
                changes: watch::Sender::new(0),
                drain: OnceLock::new(),
                cluster: None,
            }),
        }
    }

    /// Opens what all nodes share. Nothing is owned before [`Partitions::join`].
    ///
    /// # Errors
    /// When the store is not on PostgreSQL, does not answer, or the services cannot be read.
    pub async fn open(config: ClusterConfig, parts: ClusterParts) -> Result<Self, OpenError> {
        if !(1..=PARTITIONS_MAX).contains(&config.partitions) {
            return Err(OpenError::Count {
                asked: config.partitions,
            });
        }
        let database = parts.store.database().ok_or(OpenError::NoDatabase)?;
        let means = database.probe().await.map_err(OpenError::failed)?;
        tracing::info!(
            database = means.version,
            notices = means.notices,
            "ownership goes by rows with leases and epochs; changes are heard by {}",
            if means.notices {
                "LISTEN and a look each second"
            } else {
                "a look each second"
            }
        );
        let deal = parts.databases.deal();
        let count = Table::settle_count(database, config.partitions, deal)
            .await
            .map_err(OpenError::failed)?;
        let (databases, main) = (parts.databases.clone(), database.clone());
        let marks = Marks::open(databases, main, parts.random.clone(), parts.clock.clone())
            .await
            .map_err(OpenError::failed)?;
        marks.look_at_all().await?;
        let look = Table::look(database).await.map_err(OpenError::failed)?;
        parts.databases.cover(&look.rows)?;
        let registry = Registry::open(
            config.bundles.clone(),
            parts.store.clone(),
            parts.artifacts.clone(),
            parts.clock.clone(),
            Versions::default(),
        );
        let registry = Arc::new(registry.await.map_err(OpenError::failed)?);
        let usual = config.usual();
        let readers = Readers::default();
        let home = parts
            .bystander(
                parts.store.clone(),
                usual,
                Arc::clone(&registry),
                readers.clone(),
                &parts.keepers,
            )
            .await?;
        Ok(Self {
            shared: Arc::new(Shared {
                count,
                home,
                here: RwLock::default(),
                look: RwLock::default(),
                changes: watch::Sender::new(0),
                drain: OnceLock::new(),
                cluster: Some(Cluster {
                    config,
                    parts,
                    registry,
                    marks,
                    readers,
                    notices: means.notices,
                    wake: Arc::default(),
                    leaving: Shutdown::new(),
                    left: Shutdown::new(),
                }),
            }),
        })
    }

    /// Takes part: from here on this node claims its share of partitions, and others send it requests at `address`
    /// (`http://host:port`). Returns when every partition has an owner, or after half a minute.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn join(&self, address: String) -> Result<(), OpenError> {
        let Some(cluster) = &self.shared.cluster else {
            return Ok(());
        };
        let database = cluster.parts.store.database().ok_or(OpenError::NoDatabase)?;
        let incarnation = cluster.parts.random.next_u64() >> 1;
        let table = Table {
            database: database.clone(),
            process: Process {
                node: cluster.config.node.clone(),
                incarnation: i64::try_from(incarnation).unwrap_or(1),
            },
            address,
            notices: cluster.notices,
            databases: cluster.parts.databases.told(),
        };
        // A database that does not answer is said now, not found out later.
        table.beat(false).await.map_err(OpenError::failed)?;
        let mut changes = self.changes();
        if cluster.notices {
            let hearing = keeper::hear(self.clone(), database.listener(table::CHANNEL));
            cluster
                .parts
                .tasks
                .spawn("cluster.hearing", Fate::Expendable, hearing);
        }
        let delivering = mail::deliver(self.clone());
        cluster
            .parts
            .tasks
            .spawn("cluster.mail", Fate::Essential, delivering);
        let keeping = keeper::run(self.clone(), table);
        cluster
            .parts
            .tasks
            .spawn("cluster.keeper", Fate::Essential, keeping);
        let settled = async { while !self.is_settled() && changes.changed().await.is_ok() {} };
        tokio::select! {
            () = settled => {}
            () = cluster.parts.clock.sleep(SETTLE) => {
                tracing::warn!("not every partition has an owner yet; requests for the others wait");
            }
        }
        // Every partition has been opened by now, so its tables are there, unless its database does not answer.
        let look = Table::look(database).await.map_err(OpenError::failed)?;
        let places = look.rows.into_iter().map(|row| row.place);
        let readers = (0..).zip(places).map(async |(index, place)| {
            let opened = self.reader(cluster, index, place.as_deref()).await;
            (place, opened)
        });
        cluster.readers.set(join_all(readers).await);
        Ok(())
    }

    /// Opens a partition for reading, where it is.
    async fn reader(&self, cluster: &Cluster, index: u32, place: Option<&str>) -> Result<Reader, String> {
        let partition = Partition {
            index,
            count: self.shared.count,
        };
        let opening = async {
            let (usual, registry) = (cluster.config.usual(), Arc::clone(&cluster.registry));
            let url = cluster.marks.url(place).await?;
            Member::reader(partition, url, usual, &cluster.parts, registry).await
        };
        opening.await.map_err(|error| {
            tracing::warn!(partition = index, %error, "a partition cannot be read; lists fail until it can");
            error.to_string()
        })
    }

    /// Gives up every partition in good order, so that others go on with them at once. Requests are answered meanwhile,
    /// by those others.
    pub async fn leave(&self) {
        let Some(cluster) = &self.shared.cluster else {
            return;
        };
        cluster.leaving.request();
        cluster.wake.notify_one();
        let left = async {
            // Whoever sends requests here sees that it is not ready any more, and stops before nobody listens.
            cluster.parts.clock.sleep(NOTICE).await;
            cluster.left.requested().await;
        };
        tokio::select! {
            () = left => {}
            () = cluster.parts.tasks.shutdown().requested() => {}
            () = cluster.parts.clock.sleep(LEAVE) => {
                tracing::warn!("not every partition was given up in time; the others wait for the leases to end");
            }
        }
    }

    /// Whether this node is about to end.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        let cluster = self.shared.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.leaving.is_requested())
    }

    /// Has `drain` wait for what workers still do for a partition before it is given up. Only the first counts.
    pub fn on_drain(&self, drain: Drain) {
        self.shared.drain.set(drain).ok();
    }

    /// How many partitions there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.shared.count
    }

    /// Whether no other node can have anything: the store is a file of this one.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.shared.cluster.is_none()
    }

    /// What belongs to no partition: services, and lists over all of them. On a node alone it is its one runtime.
    #[must_use]
    pub fn home(&self) -> &Runtime {
        &self.shared.home
    }

    /// The partition, when it is here.
    #[must_use]
    pub fn here(&self, partition: u32) -> Option<Arc<Member>> {
        self.shared.here.read().get(&partition).cloned()
    }

    /// All partitions that are here.
    #[must_use]
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.shared.here.read().values().cloned().collect()
    }

    /// Where the partition is owned, `http://host:port`; nothing when nobody is known to own it, or it is here.
    #[must_use]
    pub fn elsewhere(&self, partition: u32) -> Option<String> {
        let own = self.shared.cluster.as_ref()?.config.node.as_str();
        let look = self.shared.look.read();
        let row = look.rows.iter().find(|row| row.partition == partition)?;
        let holder = row.holder.as_ref().filter(|holder| holder.node != own)?;
        let node = look
            .nodes
            .iter()
            .find(|node| node.name == holder.node && node.incarnation == holder.incarnation)?;
        Some(node.address.clone())
    }

    /// Counts changes of what is here and of what is known of others.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// The nodes and the partitions as last seen. A node alone has none to tell of.
    #[must_use]
    pub fn seen(&self) -> (Vec<NodeSeen>, Vec<PartitionSeen>) {
        let look = self.shared.look.read();
        let partitions = look.rows.iter().map(|row| PartitionSeen {
            partition: row.partition,
            node: row.holder.as_ref().map(|holder| holder.node.clone()),
            epoch: row.epoch,
            lease_ms: row.left_ms,
            database: row.place.clone(),
            moving_to: row.wanted.clone(),
            problem: row.problem.clone(),
        });
        (look.nodes.clone(), partitions.collect())
    }

    /// Whether every partition is here or known to be elsewhere.
    fn is_settled(&self) -> bool {
        (0..self.shared.count).all(|at| self.here(at).is_some() || self.elsewhere(at).is_some())
    }

    fn changed(&self) {
        self.shared.changes.send_modify(|changes| *changes += 1);
    }
}

/// Reads a page of every partition and makes one of them, the newest first.
pub(crate) async fn merged<T, E, F>(
    pages: impl Iterator<Item = F>,
    limit: usize,
    order: impl Fn(&T, &T) -> std::cmp::Ordering,
    cursor: impl Fn(&T) -> String,
) -> Result<crate::view::Page<T>, E>
where
    F: Future<Output = Result<crate::view::Page<T>, E>>,
{
    let mut rows = Vec::new();
    let mut more = false;
    for page in join_all(pages).await {
        let page = page?;
        more |= page.next.is_some();
        rows.extend(page.rows);
    }
    rows.sort_by(order);
    more |= rows.len() > limit;
    rows.truncate(limit);
    let next = if more { rows.last().map(cursor) } else { None };
    Ok(crate::view::Page { rows, next })
}
