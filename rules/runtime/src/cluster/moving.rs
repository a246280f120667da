//! A partition that changes its database.
//!
//! Whoever wants it writes the wanted database into the partition's row. Its owner gives it up in good order, and whoever
//! claims it next copies it before opening it, under its own epoch. One update of the row, guarded by that epoch, makes the
//! copy the partition; before it the source is, whatever ends in between. A copy that fails is given up: the partition is
//! opened where it was, and its row says why.

use celesta_store::{QueryError, RelocateError, Site};
use celesta_types::{ErrorKind, Partition};

use super::member::schema;
use super::table::{self, Table};
use super::{Cluster, ClusterParts, MAIN_DATABASE, OpenError, Partitions, mail};

/// Why a partition is not brought elsewhere. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A node on its own has one partition, in a file.
    #[error("a node on its own has no partitions to move")]
    Alone,
    /// There is no such partition.
    #[error("there is no partition {partition}; there are {count}, from 0")]
    NoSuchPartition {
        /// Its number.
        partition: u32,
        /// How many there are.
        count: u32,
    },
    /// This node was not told of such a database.
    #[error("there is no database `{name}`; nodes are told of them with --database")]
    NoSuchDatabase {
        /// The name asked for.
        name: String,
    },
    /// A node that might claim the partition, or reads it for lists, was not told of the database.
    #[error("node `{node}` was not told of the database `{name}`: start it again with --database {name}=URL")]
    NodeLacks {
        /// The node.
        node: String,
        /// The database's name.
        name: String,
    },
    /// A node's release knows of one database only.
    #[error("node `{node}` is of release {release}, which knows of no other databases: upgrade it first")]
    NodeTooOld {
        /// The node.
        node: String,
        /// Its release.
        release: String,
    },
    /// It is on its way already.
    #[error("partition {partition} is on its way to `{to}`")]
    Moving {
        /// Its number.
        partition: u32,
        /// Where to.
        to: String,
    },
    /// The main database does not answer.
    #[error(transparent)]
    Unavailable(#[from] QueryError),
}

impl MoveError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchPartition { .. } | Self::NoSuchDatabase { .. } => ErrorKind::NotFound,
            Self::Alone | Self::NodeLacks { .. } | Self::NodeTooOld { .. } | Self::Moving { .. } => {
                ErrorKind::Conflict
            }
            Self::Unavailable(_) => ErrorKind::Unavailable,
        }
    }
}

impl Partitions {
    /// Has the partition brought into the database `to` (`main` is the main one); says whether it has to be: it may be
    /// there already. Returns when that is durable, not when it has been done.
    ///
    /// # Errors
    /// When there is no such partition or database, a node that is there does not know it, or the partition is on its way.
    pub async fn relocate(&self, partition: u32, to: &str) -> Result<bool, MoveError> {
        let cluster = self.shared.cluster.as_ref().ok_or(MoveError::Alone)?;
        let database = cluster.parts.store.database().ok_or(MoveError::Alone)?;
        let count = self.count();
        if partition >= count {
            return Err(MoveError::NoSuchPartition { partition, count });
        }
        let name = place(to);
        if cluster.parts.databases.url(name).is_none() {
            return Err(MoveError::NoSuchDatabase { name: to.to_owned() });
        }
        let look = Table::look(database).await?;
        if let Some(name) = name {
            for node in look.nodes.iter().filter(|node| node.alive) {
                let node_name = node.name.clone();
                match &node.databases {
                    None => {
                        return Err(MoveError::NodeTooOld {
                            node: node_name,
                            release: node.release.clone(),
                        });
                    }
                    Some(known) if !known.iter().any(|known| known == name) => {
                        return Err(MoveError::NodeLacks {
                            node: node_name,
                            name: name.to_owned(),
                        });
                    }
                    Some(_) => {}
                }
            }
        }
        let row = look.rows.iter().find(|row| row.partition == partition);
        let moving = |to: &str| MoveError::Moving {
            partition,
            to: to.to_owned(),
        };
        if let Some(wanted) = row.and_then(|row| row.wanted.as_deref()) {
            return Err(moving(wanted));
        }
        if row.is_some_and(|row| row.place.as_deref() == name) {
            return Ok(false);
        }
        if !table::want(database, partition, to).await? {
            return Err(moving("another place"));
        }
        tracing::info!(partition, database = to, "a partition is to be moved");
        cluster.wake.notify_one();
        if cluster.notices
            && let Err(error) = database.notify(table::CHANNEL, &[String::new()]).await
        {
            tracing::debug!(%error, "the other nodes were not told");
        }
        Ok(true)
    }
}

/// The name as it stands for a place: none is the main one.
fn place(name: &str) -> Option<&str> {
    Some(name).filter(|name| *name != MAIN_DATABASE)
}

async fn site(cluster: &Cluster, place: Option<&str>, partition: u32) -> Result<Site, OpenError> {
    let url = cluster.marks.url(place).await?;
    Site::new(url, &schema(partition)).map_err(OpenError::failed)
}

/// Brings the partition from `from` to `wanted` as the owner of `epoch`, and says where it is afterwards.
///
/// # Errors
/// When nobody knows, or somebody else owns it by now: then it must not be opened.
pub(super) async fn bring(
    cluster: &Cluster,
    table: &Table,
    partition: u32,
    epoch: i64,
    from: Option<String>,
    wanted: &str,
) -> Result<Option<String>, OpenError> {
    let to = place(wanted);
    if from.as_deref() == to {
        stay(table, partition, epoch, None).await?;
        return Ok(from);
    }
    let source = site(cluster, from.as_deref(), partition).await?;
    let begun = cluster.parts.clock.monotonic();
    let copied = async {
        let target = site(cluster, to, partition)
            .await
            .map_err(|error| RelocateError::Failed {
                side: "target",
                reason: error.to_string(),
            })?;
        source
            .copy_to(&target, epoch, &cluster.parts.migrations, mail::CLOSE)
            .await
    };
    match copied.await {
        Ok(copied) => {
            if !table
                .moved(partition, epoch, wanted)
                .await
                .map_err(OpenError::failed)?
            {
                return Err(OpenError::failed(RelocateError::Fenced));
            }
            tracing::info!(
                partition,
                epoch,
                database = wanted,
                tables = copied.tables,
                rows = copied.rows,
                bytes = copied.bytes,
                took = ?cluster.parts.clock.monotonic().saturating_sub(begun),
                "a partition has been moved"
            );
            // Whoever reads there finds nothing from here on, and looks where it is.
            if let Err(error) = source.bury(epoch, from.is_none()).await {
                tracing::warn!(partition, %error, "what was left behind is taken away later");
            }
            Ok(to.map(str::to_owned))
        }
        Err(RelocateError::Fenced) => Err(OpenError::failed(RelocateError::Fenced)),
        Err(error) => {
            tracing::error!(partition, epoch, database = wanted, %error, "a partition cannot be moved and stays where it is");
            stay(table, partition, epoch, Some(&error.to_string())).await?;
            Ok(from)
        }
    }
}

async fn stay(table: &Table, partition: u32, epoch: i64, problem: Option<&str>) -> Result<(), OpenError> {
    let stays = table.stay(partition, epoch, problem).await;
    if stays.map_err(OpenError::failed)? {
        Ok(())
    } else {
        Err(OpenError::failed(RelocateError::Fenced))
    }
}

/// Before a partition that is not in the main database is opened: a release that knows of no other ones would open an
/// empty one there.
pub(super) async fn shut_main(
    parts: &ClusterParts,
    partition: Partition,
    epoch: i64,
) -> Result<(), OpenError> {
    let main = Site::new(parts.databases.main(), &schema(partition.index)).map_err(OpenError::failed)?;
    main.bury(epoch, true).await.map_err(OpenError::failed)
}

/// Takes away what moves have left of the partition where it is not. Whoever owns it may do so at any time: what a later
/// owner has there is left alone.
pub(super) async fn clear(cluster: &Cluster, partition: u32, epoch: i64, here: Option<&str>) {
    let named = cluster.parts.databases.named().map(|(name, _)| Some(name));
    for place in std::iter::once(None).chain(named) {
        let cleared = async {
            let site = site(cluster, place, partition).await?;
            if place != here {
                site.bury(epoch, false).await.map_err(OpenError::failed)?;
            }
            site.clear().await.map_err(OpenError::failed)
        };
        if let Err(error) = cleared.await {
            let database = place.unwrap_or(MAIN_DATABASE);
            tracing::info!(partition, database, %error, "what moves have left there is taken away later");
        }
    }
}
