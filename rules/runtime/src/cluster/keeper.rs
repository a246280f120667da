//! The keeper of a node's partitions: looks at the table each second and when told to, and does what is decided.
//!
//! Opening and closing take their time and are spawned, so that the leases are renewed meanwhile; their ends come back as
//! events, and only the loop changes how a partition stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use celesta_runtime::Fate;
use celesta_store::{Heard, Listener};
use celesta_types::Partition;
use tokio::sync::mpsc;

use super::ownership::{Own, Standing, Step, decide};
use super::table::Table;
use super::{Cluster, Member, OpenError, Partitions, moving};
use crate::runtime::RuntimeConfig;

/// Time between two looks: a fifth of the lease.
const BEAT: Duration = Duration::from_secs(1);
/// A partition that could not be opened here is left to others for so many looks.
const REFUSED_LOOKS: u32 = 30;
/// Events that may wait: a few for each partition.
const EVENTS_MAX: usize = 1_024;

enum Event {
    Opened {
        partition: u32,
        epoch: i64,
        outcome: Result<Arc<Member>, OpenError>,
    },
    /// It cannot go on here.
    Ended {
        partition: u32,
        epoch: i64,
    },
    Closed {
        partition: u32,
    },
}

struct Keeper {
    partitions: Partitions,
    table: Arc<Table>,
    own: Own,
    refusals: BTreeMap<u32, u32>,
    events: mpsc::Sender<Event>,
}

/// Hears what other nodes say, as long as this node lives.
pub(super) async fn hear(partitions: Partitions, mut listener: Listener) {
    let Some(cluster) = &partitions.shared.cluster else {
        return;
    };
    let shutdown = cluster.parts.tasks.shutdown().clone();
    loop {
        let heard = tokio::select! {
            heard = listener.heard() => heard,
            () = shutdown.requested() => return,
        };
        match heard {
            Heard::Said(news) if cluster.readers.post().is_news(&news, &cluster.config.node) => {}
            Heard::Said(_) => cluster.wake.notify_one(),
            Heard::Gap => {}
        }
    }
}

/// Keeps this node's share until shutdown.
pub(super) async fn run(partitions: Partitions, table: Table) {
    let Some(cluster) = &partitions.shared.cluster else {
        return;
    };
    let (events, mut happened) = mpsc::channel(EVENTS_MAX);
    let mut keeper = Keeper {
        own: Own {
            process: table.process.clone(),
            leaving: false,
            refused: BTreeSet::new(),
            standings: BTreeMap::new(),
            overdue: BTreeMap::new(),
        },
        table: Arc::new(table),
        partitions: partitions.clone(),
        refusals: BTreeMap::new(),
        events,
    };
    let (shutdown, clock) = (
        cluster.parts.tasks.shutdown().clone(),
        cluster.parts.clock.clone(),
    );
    loop {
        keeper.look(cluster).await;
        let pause = clock.sleep(BEAT);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = cluster.wake.notified() => break,
                () = &mut pause => break,
                Some(event) = happened.recv() => {
                    if keeper.handle(cluster, event) {
                        break;
                    }
                }
            }
        }
    }
}

/// Where a partition is, and where it is wanted.
#[derive(Debug)]
struct Placed {
    place: Option<String>,
    wanted: Option<String>,
}

/// Opens the partition where it is, as the owner of `epoch`.
async fn open(
    cluster: &Cluster,
    partition: Partition,
    epoch: i64,
    place: Option<&str>,
    config: RuntimeConfig,
) -> Result<Member, OpenError> {
    let (parts, registry) = (&cluster.parts, Arc::clone(&cluster.registry));
    let url = cluster.marks.url(place).await?;
    if place.is_some() {
        moving::shut_main(parts, partition, epoch).await?;
    }
    Member::open(
        partition,
        epoch,
        url,
        config,
        parts,
        registry,
        cluster.readers.clone(),
    )
    .await
}

impl Keeper {
    /// One look and what follows from it.
    async fn look(&mut self, cluster: &Cluster) {
        self.own.leaving = cluster.leaving.is_requested();
        let look = match self.table.beat(self.own.leaving).await {
            Ok(look) => look,
            Err(error) => {
                tracing::warn!(%error, "the table of partitions cannot be read");
                return;
            }
        };
        if let Err(error) = cluster.registry.refresh().await {
            tracing::warn!(%error, "the services cannot be read");
        }
        self.own.refused = self.refusals.keys().copied().collect();
        self.refusals.retain(|_, looks| {
            *looks -= 1;
            *looks > 0
        });
        let alive = look
            .nodes
            .iter()
            .filter(|node| node.alive && !node.leaving)
            .count();
        let (steps, overdue) = decide(&self.own, alive, &look.rows);
        self.own.overdue = overdue;
        let mine = look
            .rows
            .iter()
            .any(|row| row.holder.as_ref() == Some(&self.own.process));
        for (partition, place) in cluster.readers.stale(&look.rows) {
            self.read(cluster, partition, place);
        }
        *self.partitions.shared.look.write() = look;
        self.partitions.changed();
        let any = !steps.is_empty();
        for step in steps {
            self.step(cluster, step).await;
        }
        if self.own.leaving && !any && !mine && self.own.standings.is_empty() {
            if let Err(error) = self.table.forget().await {
                tracing::debug!(%error, "the others find out that this node is gone");
            }
            cluster.left.request();
        }
    }

    /// Opens a partition for reading, where it is by now.
    fn read(&self, cluster: &Cluster, partition: u32, place: Option<String>) {
        let partitions = self.partitions.clone();
        cluster
            .parts
            .tasks
            .spawn("cluster.reader", Fate::Expendable, async move {
                let Some(cluster) = &partitions.shared.cluster else {
                    return;
                };
                tokio::select! {
                    opened = partitions.reader(cluster, partition, place.as_deref()) => {
                        cluster.readers.put(partition, place.clone(), opened);
                    }
                    () = cluster.parts.tasks.shutdown().requested() => {}
                }
            });
    }

    async fn step(&mut self, cluster: &Cluster, step: Step) {
        match step {
            Step::Claim { partition, epoch } => match self.table.claim(partition, epoch).await {
                Ok(Some(claimed)) => {
                    let (place, wanted) = (claimed.place, claimed.wanted);
                    self.open(cluster, partition, claimed.epoch, Placed { place, wanted });
                }
                Ok(None) => tracing::debug!(partition, "somebody else was faster"),
                Err(error) => tracing::warn!(partition, %error, "cannot be claimed"),
            },
            Step::GiveUp { partition } => self.give_up(cluster, partition),
            Step::Drop { partition } => self.lose(partition),
            Step::Free { partition, epoch } => {
                if let Err(error) = self.table.free(partition, epoch).await {
                    tracing::warn!(partition, %error, "cannot be freed");
                }
            }
        }
    }

    fn open(&mut self, cluster: &Cluster, partition: u32, epoch: i64, placed: Placed) {
        self.own.standings.insert(partition, Standing::Opening { epoch });
        let count = self.partitions.count();
        let usual = cluster.config.usual();
        let config = RuntimeConfig {
            // Partitions share the cores; a turn is short, so one thread for each is enough.
            evaluators: 1,
            cache_bytes: usual.cache_bytes / usize::try_from(count).unwrap_or(1),
            ..usual
        };
        let (partitions, events, table) = (
            self.partitions.clone(),
            self.events.clone(),
            Arc::clone(&self.table),
        );
        cluster
            .parts
            .tasks
            .spawn("cluster.open", Fate::Expendable, async move {
                let which = Partition {
                    index: partition,
                    count,
                };
                let Some(cluster) = &partitions.shared.cluster else {
                    return;
                };
                let Placed { place, wanted } = placed;
                let place = match wanted {
                    None => Ok(place),
                    Some(wanted) => moving::bring(cluster, &table, partition, epoch, place, &wanted).await,
                };
                let outcome = match &place {
                    Ok(place) => open(cluster, which, epoch, place.as_deref(), config)
                        .await
                        .map(Arc::new),
                    Err(error) => Err(OpenError::failed(error)),
                };
                let opened = outcome.is_ok();
                // When the keeper has ended, so does the process.
                events
                    .send(Event::Opened {
                        partition,
                        epoch,
                        outcome,
                    })
                    .await
                    .ok();
                if let (true, Ok(place)) = (opened, place) {
                    // A database that does not answer is waited for by nobody else.
                    tokio::select! {
                        () = moving::clear(cluster, partition, epoch, place.as_deref()) => {}
                        () = cluster.parts.tasks.shutdown().requested() => {}
                    }
                }
            });
    }

    /// Whether the table should be looked at again at once.
    fn handle(&mut self, cluster: &Cluster, event: Event) -> bool {
        match event {
            Event::Opened {
                partition,
                epoch,
                outcome,
            } => {
                let expected = self.own.standings.get(&partition) == Some(&Standing::Opening { epoch });
                match outcome {
                    Ok(member) if expected => self.serve(cluster, member),
                    Ok(member) => member.abandon(),
                    Err(error) => {
                        tracing::error!(partition, epoch, %error, "a partition cannot be opened here");
                        self.own.standings.remove(&partition);
                        self.refusals.insert(partition, REFUSED_LOOKS);
                    }
                }
                true
            }
            Event::Ended { partition, epoch } => {
                if self.own.standings.get(&partition) == Some(&Standing::Open { epoch }) {
                    tracing::warn!(partition, epoch, "a partition is lost");
                    self.lose(partition);
                }
                true
            }
            Event::Closed { partition } => {
                self.own.standings.remove(&partition);
                true
            }
        }
    }

    fn serve(&mut self, cluster: &Cluster, member: Arc<Member>) {
        let (partition, epoch) = (member.partition.index, member.epoch);
        tracing::info!(partition, epoch, "a partition is here");
        self.own.standings.insert(partition, Standing::Open { epoch });
        let here = Arc::clone(&member);
        self.partitions.shared.here.write().insert(partition, here);
        self.partitions.changed();
        cluster.readers.post().look();
        let (events, table) = (self.events.clone(), Arc::clone(&self.table));
        let shutdown = cluster.parts.tasks.shutdown().clone();
        cluster
            .parts
            .tasks
            .spawn("cluster.watch", Fate::Expendable, async move {
                // Requests that wait for this partition elsewhere go on.
                table.tell().await;
                tokio::select! {
                    () = member.ended() => {}
                    () = shutdown.requested() => return,
                }
                events.send(Event::Ended { partition, epoch }).await.ok();
            });
    }

    fn give_up(&mut self, cluster: &Cluster, partition: u32) {
        let Some(member) = self.partitions.shared.here.write().remove(&partition) else {
            return;
        };
        let epoch = member.epoch;
        tracing::info!(partition, epoch, "a partition is given up");
        self.own.standings.insert(partition, Standing::Closing { epoch });
        self.partitions.changed();
        let (events, table, partitions) = (
            self.events.clone(),
            Arc::clone(&self.table),
            self.partitions.clone(),
        );
        cluster.parts.tasks.spawn("cluster.give_up", Fate::Expendable, async move {
            if let Some(drain) = partitions.shared.drain.get() {
                drain(Arc::clone(&member)).await;
            }
            member.close().await;
            if let Err(error) = table.free(partition, epoch).await {
                tracing::warn!(partition, %error, "cannot be freed; the others wait for the lease to end");
            }
            events.send(Event::Closed { partition }).await.ok();
        });
    }

    fn lose(&mut self, partition: u32) {
        // One that is opening is abandoned when it is open.
        self.own.standings.remove(&partition);
        if let Some(member) = self.partitions.shared.here.write().remove(&partition) {
            member.abandon();
        }
        self.partitions.changed();
    }
}
