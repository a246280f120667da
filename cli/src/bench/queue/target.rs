//! The store a bench of the queue stands on: opened, closed, and opened again as after a restart.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use celesta_queue::{AnyQueues, Queues};
use celesta_runtime::{Clock, Shutdown, TaskSet};
use celesta_store::reference::{Reference, plain_table};
use celesta_store::{Store, StoreOptions};
use tempfile::TempDir;

use crate::bench::rig::Place;
use crate::exit::Failure;

/// Committing what was handed over takes no longer, unless something is wrong.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);

const TABLE_BYTES: &str = "SELECT pg_total_relation_size('queue_messages')";

/// Where messages are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// Nowhere: the order alone.
    Memory,
    /// A file of the bench's own, synced at every commit.
    Sqlite,
    /// This PostgreSQL database.
    Postgres(String),
}

impl StoreKind {
    /// The name in the figures.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

impl FromStr for StoreKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "memory" => Ok(Self::Memory),
            "sqlite" => Ok(Self::Sqlite),
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(Self::Postgres(url.to_owned()))
            }
            _ => Err("expected memory, sqlite or postgres://…".to_owned()),
        }
    }
}

/// Queues on a store of their own.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) queues: AnyQueues,
    pub(crate) clock: Clock,
    kind: StoreKind,
    store: Option<Store>,
    keepers: TaskSet,
    folder: TempDir,
}

impl Target {
    /// Opens fresh queues.
    ///
    /// # Errors
    /// When the folder or the store cannot be made.
    pub(crate) async fn open(place: &Place, kind: &StoreKind) -> Result<Self, Failure> {
        let (clock, folder) = (Clock::system(), place.folder()?);
        let (queues, store, keepers) = opened(kind, folder.path(), &clock).await?;
        Ok(Self {
            queues,
            clock,
            kind: kind.clone(),
            store,
            keepers,
            folder,
        })
    }

    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a plain table of the same server gives for as many messages; nothing where there is no server.
    ///
    /// # Errors
    /// When the server does not do it.
    pub(crate) async fn plain_table(
        &self,
        messages: u64,
        payload: u32,
        batch: u64,
        connections: u64,
    ) -> Result<Option<Reference>, Failure> {
        let Some(database) = self.store.as_ref().and_then(Store::database) else {
            return Ok(None);
        };
        let whole = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let (messages, batch, connections) = (whole(messages), whole(batch), whole(connections));
        plain_table(database, &self.clock, messages, payload, batch, connections)
            .await
            .map(Some)
            .map_err(|error| Failure::internal(format!("cannot measure a plain table: {error}")))
    }

    /// What is stored: the files of SQLite, its log included; the table of messages with its indexes on PostgreSQL.
    ///
    /// # Errors
    /// When nobody tells.
    pub(crate) async fn stored_bytes(&self) -> Result<u64, Failure> {
        let untold = |error: &dyn std::fmt::Display| {
            Failure::internal(format!("cannot tell how much is stored: {error}"))
        };
        if let Some(store) = &self.store
            && store.database().is_some()
        {
            let rows = store
                .fetch(TABLE_BYTES, &[])
                .await
                .map_err(|error| untold(&error))?;
            let bytes = rows.first().and_then(|row| row.int(0));
            return Ok(bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0));
        }
        let mut bytes = 0;
        for file in std::fs::read_dir(self.folder()).map_err(|error| untold(&error))? {
            let file = file
                .and_then(|file| file.metadata())
                .map_err(|error| untold(&error))?;
            bytes += file.len();
        }
        Ok(bytes)
    }

    /// Closes everything, then opens it again; gives how long the opening took. Queues without a record stay open.
    ///
    /// # Errors
    /// When something does not close or open.
    pub(crate) async fn reopen(self) -> Result<(Self, Option<Duration>), Failure> {
        if self.kind == StoreKind::Memory {
            return Ok((self, None));
        }
        let Self {
            queues,
            clock,
            kind,
            store,
            keepers,
            folder,
        } = self;
        close(queues, store, &keepers).await?;
        let begun = clock.monotonic();
        let (queues, store, keepers) = opened(&kind, folder.path(), &clock).await?;
        let took = clock.monotonic().saturating_sub(begun);
        let target = Self {
            queues,
            clock,
            kind,
            store,
            keepers,
            folder,
        };
        Ok((target, Some(took)))
    }

    /// Closes everything and removes the files, unless they are to be kept.
    ///
    /// # Errors
    /// When the store does not end in time.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        close(self.queues, self.store, &self.keepers).await?;
        drop(self.folder);
        Ok(())
    }
}

async fn close(queues: AnyQueues, store: Option<Store>, keepers: &TaskSet) -> Result<(), Failure> {
    keepers.shutdown().request();
    drop((queues, store));
    if keepers.stop(CLOSE_PATIENCE).await {
        Ok(())
    } else {
        Err(Failure::internal("the store has not ended in time"))
    }
}

async fn opened(
    kind: &StoreKind,
    folder: &Path,
    clock: &Clock,
) -> Result<(AnyQueues, Option<Store>, TaskSet), Failure> {
    let keepers = TaskSet::new(Shutdown::new());
    let options = celesta_queue::Options::default();
    let at = match kind {
        StoreKind::Memory => {
            let queues = Queues::in_memory(clock, &keepers, options);
            return Ok((queues.into(), None, keepers));
        }
        StoreKind::Sqlite => StoreOptions::at(folder.join("queue.db")),
        StoreKind::Postgres(url) => StoreOptions::postgres(url.as_str()),
    };
    let store = Store::open(&at, celesta_queue::MIGRATIONS, clock, &keepers)
        .await
        .map_err(|error| Failure::internal(format!("cannot open the store: {error}")))?;
    let queues = AnyQueues::open(&store, clock, &keepers, options)
        .await
        .map_err(|error| Failure::internal(format!("cannot open the queues: {error}")))?;
    Ok((queues, Some(store), keepers))
}
