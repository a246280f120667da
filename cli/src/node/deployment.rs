//! Where a node's runs are: in a file of its own, or in partitions of a database that nodes share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_queue::{AnyQueues, Options, Queues};
use celesta_runs::{
    ClusterConfig, ClusterParts, MAIN_SCHEMA, Member, Partitions, Parts, Runtime, RuntimeConfig,
};
use celesta_runtime::{Clock, Fate, Random, TaskSet};
use celesta_store::{Store, StoreOptions};
use celesta_types::ErrorKind;
use celesta_worker::{Handle, PartedFeed, QueueFeed};

use super::{NodeOptions, STORE_FILE};
use crate::exit::{Exit, Failure};

/// Functions that run in a partition which is given up may end within this time; longer ones are run again.
const DRAIN: Duration = Duration::from_secs(4);

/// What is opened before anybody works.
pub(super) struct Deployment {
    pub(super) partitions: Partitions,
    /// The record of what belongs to no partition.
    pub(super) store: Store,
    /// The queues of `/v1/queues`.
    pub(super) queues: AnyQueues,
}

/// The time, chance and sets of spawned work of a node.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) clock: &'a Clock,
    pub(super) random: &'a Random,
    pub(super) tasks: &'a TaskSet,
    pub(super) keepers: &'a TaskSet,
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::internal(format!("cannot open {what}: {error}"))
}

/// A store of this node's own, in its data folder.
pub(super) async fn alone(
    data: &Path,
    options: &NodeOptions,
    artifacts: &Artifacts,
    means: Means<'_>,
) -> Result<Deployment, Failure> {
    let Means {
        clock,
        random,
        tasks,
        keepers,
    } = means;
    let place = StoreOptions::at(data.join(STORE_FILE));
    let store = Store::open(&place, &super::migrations(), clock, keepers)
        .await
        .map_err(|error| failed("the store", &error))?;
    let queues = Queues::open(&store, clock, keepers, Options::default())
        .await
        .map_err(|error| failed("the queues", &error))?;
    let parts = Parts {
        store: store.clone(),
        queues: queues.clone(),
        artifacts: artifacts.clone(),
        clock: clock.clone(),
        random: random.clone(),
        tasks: tasks.clone(),
    };
    let mut config = RuntimeConfig::new(data.join("bundles"));
    config.events_kept = options.events_kept.unwrap_or(config.events_kept);
    let runtime = Runtime::open(config, parts)
        .await
        .map_err(|error| failed("the runtime", &error))?;
    Ok(Deployment {
        partitions: Partitions::alone(runtime, store.clone(), queues.clone(), tasks.clone()),
        queues: queues.into(),
        store,
    })
}

/// A part in the deployment that lives in the database at `url`.
pub(super) async fn shared(
    url: &str,
    data: &Path,
    options: &NodeOptions,
    artifacts: &Artifacts,
    means: Means<'_>,
) -> Result<Deployment, Failure> {
    let Means {
        clock,
        random,
        tasks,
        keepers,
    } = means;
    let databases = super::databases(url, &options.databases)?;
    let unreachable = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Unreachable, format!("cannot open the store: {error}"))
            .hint("name a PostgreSQL database that is there, as postgres://user@host:port/database")
    };
    let (main, partition) = super::deployment_migrations();
    let place = StoreOptions::postgres(url).in_schema(MAIN_SCHEMA);
    let store = Store::open(&place, &main, clock, keepers)
        .await
        .map_err(|error| unreachable(&error))?;
    // Connections of their own: leases must not wait for what clients do with queues.
    let queues = Store::open(&place, &main, clock, keepers)
        .await
        .map_err(|error| unreachable(&error))?;
    let queues = AnyQueues::open(&queues, clock, keepers, Options::default())
        .await
        .map_err(|error| failed("the queues", &error))?;
    let config = ClusterConfig {
        node: match &options.node {
            Some(name) => name.clone(),
            None => name_in(data, random)?,
        },
        partitions: options.partitions.unwrap_or(celesta_runs::PARTITIONS),
        bundles: data.join("bundles"),
        events_kept: options.events_kept,
    };
    let parts = ClusterParts {
        store: store.clone(),
        databases,
        migrations: partition,
        queues: Options::default(),
        artifacts: artifacts.clone(),
        clock: clock.clone(),
        random: random.clone(),
        tasks: tasks.clone(),
        keepers: keepers.clone(),
    };
    let partitions = Partitions::open(config, parts)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::Invalid => Failure::new(Exit::Usage, error.to_string())
                .hint("every node is given the same databases, under the same names"),
            _ => unreachable(&error),
        })?;
    Ok(Deployment {
        partitions,
        store,
        queues,
    })
}

/// The name of the node whose data is here: made once, and as unique as the folder's lock makes its process.
fn name_in(data: &Path, random: &Random) -> Result<String, Failure> {
    let path = data.join("node");
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::file("read", &path, &error));
        }
        _ => {}
    }
    let name = format!("node-{:08x}", random.next_u64() >> 32);
    std::fs::write(&path, format!("{name}\n")).map_err(|error| Failure::file("write", &path, &error))?;
    Ok(name)
}

/// What a feed of one partition is made of.
pub(super) struct Feeding {
    pub(super) feed: Arc<PartedFeed>,
    pub(super) clock: Clock,
    pub(super) node: Arc<str>,
    pub(super) packages: Arc<dyn celesta_worker::Packages>,
    pub(super) progress: celesta_worker::ProgressHook,
}

impl Feeding {
    fn start(&self, member: &Member) -> Result<(), Failure> {
        let feed = QueueFeed::start(
            member.queues.clone(),
            member.store.clone(),
            &self.clock,
            &member.tasks,
            Arc::clone(&self.node),
            Arc::clone(&self.packages),
            Arc::clone(&self.progress),
        );
        let feed = feed.map_err(|error| failed("the worker's queues", &error))?;
        self.feed.add(member.partition.index, feed);
        Ok(())
    }

    /// Has the worker work for each partition that is here, as they come and go.
    pub(super) fn follow(
        self,
        partitions: &Partitions,
        worker: Handle,
        tasks: &TaskSet,
    ) -> Result<(), Failure> {
        let feed = Arc::clone(&self.feed);
        partitions.on_drain(Box::new(move |member| {
            let feed = Arc::clone(&feed);
            Box::pin(async move { feed.drain(member.partition.index, DRAIN).await })
        }));
        let mut working = BTreeMap::new();
        self.look(partitions, &worker, &mut working)?;
        let (partitions, shutdown) = (partitions.clone(), tasks.shutdown().clone());
        tasks.spawn("worker partitions", Fate::Essential, async move {
            let mut changes = partitions.changes();
            loop {
                tokio::select! {
                    () = shutdown.requested() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
                if let Err(error) = self.look(&partitions, &worker, &mut working) {
                    tracing::error!(%error, "functions of a partition are not run here");
                }
            }
        });
        Ok(())
    }

    fn look(
        &self,
        partitions: &Partitions,
        worker: &Handle,
        working: &mut BTreeMap<u32, Arc<Member>>,
    ) -> Result<(), Failure> {
        // One that is being given up still takes back what is under way.
        let over: Vec<u32> = working
            .iter()
            .filter(|(_, member)| member.tasks.shutdown().is_requested())
            .map(|(&partition, _)| partition)
            .collect();
        for partition in over {
            working.remove(&partition);
            self.feed.remove(partition);
        }
        for member in partitions.members() {
            let partition = member.partition.index;
            if working
                .get(&partition)
                .is_some_and(|known| known.epoch == member.epoch)
            {
                continue;
            }
            self.start(&member)?;
            let worker = worker.clone();
            member
                .runtime
                .on_calls_canceled(move |calls| worker.cancel(calls));
            working.insert(partition, member);
        }
        Ok(())
    }
}
