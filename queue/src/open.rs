//! The start: reading the record, and the one timer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use celesta_runtime::{Clock, Fate, Shutdown, TaskSet};
use celesta_store::{Cell, Store, Unit};
use celesta_types::wire::Reader;
use hashbrown::HashMap;
use tokio::sync::mpsc;

use crate::Queues;
use crate::core::{Core, Timers};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::limits::{LOAD_ROWS, SUSPECT_MS};
use crate::name::QueueName;
use crate::rows::{self, Row, Standing};
use crate::settings::{Options, Settings};
use crate::shard::{Queue, TOKEN_BITS};
use crate::{later, legacy, past, payloads, schema};

/// Shards that may ask for payloads at once.
const ASKING_MAX: usize = 1_024;
/// Rows that a start changes in one commit.
const CHANGED_ROWS: usize = 20_000;
/// Settings of a queue are read back from JSON of this shape.
const SELECT_QUEUES: &str = "SELECT id, name, settings FROM queue_queues ORDER BY id";
const SELECT_EPOCH: &str = "SELECT value FROM queue_meta WHERE name = 'epoch'";

impl Queues {
    /// Opens the queues on `store`, whose migrations must include [`crate::MIGRATIONS`]: reads all messages, and makes
    /// those that were running pending again, with that attempt spent. Starts the timer in `tasks`.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub async fn open(
        store: &Store,
        clock: &Clock,
        tasks: &TaskSet,
        options: Options,
    ) -> Result<Self, Error> {
        let core = Arc::new(Core::new(Some(store.clone()), clock, tasks.shutdown(), options));
        core.begin_epoch(store).await?;
        let queues = core.load_queues(store).await?;
        legacy::convert(store).await?;
        core.load_messages(store, &queues).await?;
        core.open_later(store).await?;
        core.suspect_until
            .store(core.now().saturating_add(SUSPECT_MS), Ordering::Relaxed);
        for queue in queues.values() {
            for shard in 0..queue.shards() {
                core.read_ahead(queue, shard).await?;
            }
        }
        let (ask, asked) = mpsc::channel(ASKING_MAX);
        core.read_ahead.get_or_init(|| ask);
        let ahead = payloads::run(Arc::downgrade(&core), asked, core.shutdown.clone());
        tasks.spawn("queue.read_ahead", Fate::Expendable, ahead);
        let past = past::run(Arc::downgrade(&core), core.clock.clone(), core.shutdown.clone());
        tasks.spawn("queue.past", Fate::Expendable, past);
        let later = later::run(
            Arc::downgrade(&core),
            Arc::clone(&core.later),
            core.clock.clone(),
            core.shutdown.clone(),
        );
        tasks.spawn("queue.later", Fate::Expendable, later);
        Ok(Self::start(core, tasks))
    }

    /// Queues without a record, for tests and simulation: the same machine and order, and nothing outlives the process.
    /// Staged changes stand at once, whatever becomes of their unit; a unit given as companion is told that it is durable.
    #[must_use]
    pub fn in_memory(clock: &Clock, tasks: &TaskSet, options: Options) -> Self {
        Self::start(Arc::new(Core::new(None, clock, tasks.shutdown(), options)), tasks)
    }

    fn start(core: Arc<Core>, tasks: &TaskSet) -> Self {
        let timer = run_timer(
            Arc::downgrade(&core),
            Arc::clone(&core.timers),
            core.clock.clone(),
            core.shutdown.clone(),
        );
        tasks.spawn("queue.timer", Fate::Expendable, timer);
        Self { core }
    }
}

impl Core {
    async fn begin_epoch(&self, store: &Store) -> Result<(), Error> {
        let rows = store.fetch(SELECT_EPOCH, &[]).await?;
        let epoch = rows.first().and_then(|row| row.int(0)).unwrap_or(0) + 1;
        let mut unit = Unit::new();
        unit.add(&schema::SET_META, [Cell::from("epoch"), Cell::Int(epoch)]);
        store.commit(unit).await?;
        *self.ledger.write() = Ledger::recorded(epoch);
        self.tokens.store(
            (u64::try_from(epoch).unwrap_or(0) << TOKEN_BITS) + 1,
            Ordering::Relaxed,
        );
        Ok(())
    }

    async fn load_queues(&self, store: &Store) -> Result<HashMap<i64, Arc<Queue>>, Error> {
        let mut queues = HashMap::new();
        for row in store.fetch(SELECT_QUEUES, &[]).await? {
            let id = row.int(0).unwrap_or(0);
            let corrupt = |what| Error::Corrupt { seq: id, what };
            let name = row
                .text(1)
                .and_then(|name| QueueName::new(name).ok())
                .ok_or_else(|| corrupt("queue name"))?;
            let settings: Settings = row
                .text(2)
                .and_then(|text| serde_json::from_str(text).ok())
                .ok_or_else(|| corrupt("queue settings"))?;
            let queue = self
                .insert(&mut self.registry.write(), name, id, settings)
                .map_err(|_| corrupt("too many queues"))?;
            queue.registered.store(true, Ordering::Release);
            queues.insert(id, queue);
        }
        Ok(queues)
    }

    async fn load_messages(
        self: &Arc<Self>,
        store: &Store,
        queues: &HashMap<i64, Arc<Queue>>,
    ) -> Result<(), Error> {
        let mut changed = Unit::new();
        let mut after = 0;
        let mut next = self.read_rows(store, after).await?;
        while let Some((bytes, last)) = next {
            after = last;
            // The next rows are read while these take their places.
            let reading = self.read_rows(store, after);
            let placing = async { self.take_places(&bytes, queues, &mut changed) };
            let (read, placed) = futures_util::future::join(reading, placing).await;
            placed?;
            next = read?;
            if changed.len() >= CHANGED_ROWS {
                store.commit(std::mem::take(&mut changed)).await?;
            }
        }
        self.seq.store(after + 1, Ordering::Relaxed);
        if !changed.is_empty() {
            // Before anybody leases: the attempts that ended with the last process are spent for good.
            store.commit(changed).await?;
        }
        Ok(())
    }

    /// The next rows as one run of bytes, and the last of them.
    async fn read_rows(&self, store: &Store, after: i64) -> Result<Option<(Vec<u8>, i64)>, Error> {
        let sql = if store.database().is_some() {
            schema::SELECT_ROWS_POSTGRES
        } else {
            schema::SELECT_ROWS
        };
        let mut rows = store
            .fetch(sql, &[Cell::Int(after), Cell::Int(LOAD_ROWS)])
            .await?;
        let row = rows.first_mut();
        Ok(row.and_then(|row| Some((row.take_blob(0)?, row.int(1)?))))
    }

    fn take_places(
        self: &Arc<Self>,
        bytes: &[u8],
        queues: &HashMap<i64, Arc<Queue>>,
        changed: &mut Unit,
    ) -> Result<(), Error> {
        let mut reader = Reader::new(bytes);
        let mut read = Vec::new();
        while !reader.is_at_end() {
            read.push(rows::read(&mut reader).map_err(|_| Error::Corrupt {
                seq: 0,
                what: "bytes",
            })?);
        }
        let now = self.now();
        read.retain(|row: &Row| !Self::recede(row.queue, &row.entry, now, changed));
        let mut rest = read.into_iter().peekable();
        while let Some(first) = rest.next() {
            let id = first.queue;
            let queue = queues.get(&id).ok_or(Error::Corrupt {
                seq: first.entry.seq,
                what: "queue",
            })?;
            let shard_of = |row: &Row| queue.shard_of(row.entry.id(), row.key);
            let shard = shard_of(&first);
            self.with(queue, shard, |state, now, _| {
                let mut next = Some(first);
                while let Some(Row { key, entry, .. }) = next {
                    let (at, has_changed) = state.recover(entry, key, now);
                    if has_changed && let Some(entry) = state.slots.get(at.slot) {
                        let standing = Standing {
                            state: entry.standing.state,
                            attempt: entry.standing.attempt,
                            at: entry.at,
                            error: None,
                            happened: &[],
                        };
                        schema::change(changed, entry, &standing);
                    }
                    next = rest.next_if(|row| row.queue == id && shard_of(row) == shard);
                }
            });
        }
        Ok(())
    }

    /// Sends off what nobody has taken, so that its producers learn of it before the process ends.
    fn store_all(self: &Arc<Self>) {
        let queues = self.registry.read().by_index.clone();
        for queue in queues {
            for shard in 0..queue.shards() {
                self.with(&queue, shard, |state, _, parcels| {
                    state.store_lingering(i64::MAX, parcels);
                });
            }
        }
    }
}

async fn run_timer(core: Weak<Core>, timers: Arc<Timers>, clock: Clock, shutdown: Shutdown) {
    loop {
        let next = timers.next();
        let due = async {
            match next {
                Some(at) => clock.sleep_until(celesta_types::Timestamp::from_millis(at)).await,
                None => std::future::pending().await,
            }
        };
        let stopping = tokio::select! {
            biased;
            () = shutdown.requested() => true,
            () = timers.changed.notified() => false,
            () = due => false,
        };
        let Some(core) = core.upgrade() else { return };
        if stopping {
            core.store_all();
            return;
        }
        let now = core.now();
        while let Some((index, shard)) = timers.pop_due(now) {
            let queue = core.registry.read().by_index.get(index as usize).map(Arc::clone);
            if let Some(queue) = queue {
                core.with(&queue, shard, |_, _, _| ());
            }
        }
    }
}
