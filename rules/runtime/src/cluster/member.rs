//! A partition that this process owns: a whole store, its queues and its runtime.

use std::time::Duration;

use celesta_queue::Queues;
use celesta_runtime::{Shutdown, TaskSet};
use celesta_store::{Migration, Store, StoreOptions, Unit};
use celesta_types::Partition;

use super::readers::Reader;
use super::{ClusterParts, OpenError, Readers, mail};
use crate::registry::Registry;
use crate::runtime::{Parts, Runtime, RuntimeConfig};

/// The turns under way end within this time, and what they left is written.
const DRAIN: Duration = Duration::from_secs(5);
/// Connections of one partition: one commits, the others read.
const SESSIONS: usize = 4;

/// A partition in the hands of this process.
#[derive(Debug)]
pub struct Member {
    /// Which one.
    pub partition: Partition,
    /// The epoch it is owned with; 0 where it has one owner for ever.
    pub epoch: i64,
    /// Its record.
    pub store: Store,
    /// Its queues.
    pub queues: Queues,
    /// Its runs.
    pub runtime: Runtime,
    /// Who works for it: evaluators, the worker's feed. Shutdown means that it is given up or lost.
    pub tasks: TaskSet,
    /// The queues' keepers and the committer: they outlive those who hand work to them.
    keepers: TaskSet,
    committer: TaskSet,
}

/// The schema of a partition.
pub(crate) fn schema(partition: u32) -> String {
    format!("celesta_p{partition}")
}

impl Member {
    /// What never changes hands: the store of a node on its own.
    pub(super) fn lasting(store: Store, queues: Queues, runtime: Runtime, tasks: TaskSet) -> Self {
        let (keepers, committer) = (tasks.clone(), tasks.clone());
        Self {
            partition: Partition::WHOLE,
            epoch: 0,
            store,
            queues,
            runtime,
            tasks,
            keepers,
            committer,
        }
    }

    /// Opens the partition in the database at `url` as the owner of `epoch`: from here on nobody with a lower one writes to
    /// it.
    pub(super) async fn open(
        partition: Partition,
        epoch: i64,
        url: &str,
        config: RuntimeConfig,
        parts: &ClusterParts,
        registry: std::sync::Arc<Registry>,
        readers: Readers,
    ) -> Result<Self, OpenError> {
        let set = || TaskSet::new(Shutdown::new());
        let (tasks, keepers, committer) = (set(), set(), set());
        let options = StoreOptions::postgres(url)
            .in_schema(&schema(partition.index))
            .fenced(epoch)
            .sessions(SESSIONS);
        let store = Store::open(&options, &parts.migrations, &parts.clock, &committer)
            .await
            .map_err(OpenError::failed)?;
        mail::open(&store).await?;
        let queues = Queues::open(&store, &parts.clock, &keepers, parts.queues.clone())
            .await
            .map_err(OpenError::failed)?;
        let config = RuntimeConfig { partition, ..config };
        let runtime = Runtime::open_with(
            config,
            Parts {
                store: store.clone(),
                queues: queues.clone(),
                artifacts: parts.artifacts.clone(),
                clock: parts.clock.clone(),
                random: parts.random.clone(),
                tasks: tasks.clone(),
            },
            registry,
            readers,
        )
        .await;
        Ok(Self {
            partition,
            epoch,
            store,
            queues,
            runtime: runtime.map_err(OpenError::failed)?,
            tasks,
            keepers,
            committer,
        })
    }

    /// Reads what others own, without a part in it: lists show every partition. `url` is that of its database.
    pub(super) async fn reader(
        partition: Partition,
        url: &str,
        config: RuntimeConfig,
        parts: &ClusterParts,
        registry: std::sync::Arc<Registry>,
    ) -> Result<Reader, OpenError> {
        let none: &[Migration] = &[];
        let options = StoreOptions::postgres(url)
            .in_schema(&schema(partition.index))
            .sessions(1)
            .as_found();
        // Its end is nobody's: another one follows when the partition changes its place.
        let keepers = TaskSet::new(Shutdown::new());
        let opening = async {
            let store = Store::open(&options, none, &parts.clock, &keepers)
                .await
                .map_err(OpenError::failed)?;
            let config = RuntimeConfig { partition, ..config };
            parts
                .bystander(store, config, registry, Readers::default(), &keepers)
                .await
        };
        match opening.await {
            Ok(runtime) => Ok(Reader { runtime, keepers }),
            Err(error) => {
                keepers.shutdown().request();
                Err(error)
            }
        }
    }

    /// Waits until it cannot go on: somebody else owns it, or a part of it has ended.
    pub(super) async fn ended(&self) {
        tokio::select! {
            () = self.store.fenced() => {}
            () = self.tasks.shutdown().requested() => {}
            () = self.keepers.shutdown().requested() => {}
            () = self.committer.shutdown().requested() => {}
        }
    }

    /// Ends it well: turns under way end, everything handed over is durable. Then nobody misses it.
    pub(super) async fn close(&self) {
        let partition = self.partition.index;
        if !self.tasks.stop(DRAIN).await {
            tracing::warn!(
                partition,
                "not everything has ended in time; it is done again by the next owner"
            );
        }
        if !self.keepers.stop(DRAIN).await {
            tracing::warn!(partition, "the queues have not ended in time");
        }
        // Units are committed in order: after this one, all that were handed over are.
        if let Err(error) = self.store.commit(Unit::new()).await {
            tracing::warn!(partition, %error, "the last commit failed; it is done again by the next owner");
        }
        self.committer.shutdown().request();
    }

    /// Ends it at once: nothing it does stands any more.
    pub(super) fn abandon(&self) {
        for set in [&self.tasks, &self.keepers, &self.committer] {
            set.shutdown().request();
        }
    }
}
