//! The start: reading the record, and the one timer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use celesta_runtime::{Clock, Fate, Shutdown, TaskSet};
use celesta_store::{Cell, Store, Unit};
use hashbrown::HashMap;

use crate::Queues;
use crate::core::{Core, Queue, Timers};
use crate::error::Error;
use crate::limits::{LOAD_ROWS, SUSPECT_MS};
use crate::machine::State as Life;
use crate::name::QueueName;
use crate::schema;
use crate::settings::{Options, Settings};

/// Tokens count in the lower 40 bits: at 50,000 leases a second that is 254 days without a restart.
const TOKEN_BITS: u32 = 40;
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
        core.load_messages(store, &queues).await?;
        core.suspect_until
            .store(core.now().saturating_add(SUSPECT_MS), Ordering::Relaxed);
        Ok(Self::start(core, tasks))
    }

    /// Queues without a record, for tests and simulation: the same machine and order, and nothing outlives the process.
    /// Staged changes stand at once, whatever becomes of their unit, and a unit given as companion is dropped.
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
        let mut after = 0;
        let mut changed = Unit::new();
        loop {
            let rows = store
                .fetch(schema::SELECT_MESSAGES, &[Cell::Int(after), Cell::Int(LOAD_ROWS)])
                .await?;
            let Some(last) = rows.last() else { break };
            after = last.int(0).unwrap_or(i64::MAX);
            for row in &rows {
                let (queue, entry) = schema::read(row)?;
                let queue = queues.get(&queue).ok_or(Error::Corrupt {
                    seq: entry.seq,
                    what: "queue",
                })?;
                let was_running = entry.standing.state == Life::Running;
                self.with(queue, |state, now, _| {
                    let at = state.recover(entry, now);
                    if was_running && let Some(entry) = state.slots.get(at.slot) {
                        schema::settle(
                            &mut changed,
                            entry,
                            entry.standing.state,
                            entry.standing.attempt,
                            entry.at,
                            None,
                        );
                    }
                });
            }
        }
        self.seq.store(after + 1, Ordering::Relaxed);
        if !changed.is_empty() {
            // Before anybody leases: the attempts that ended with the last process are spent for good.
            store.commit(changed).await?;
        }
        Ok(())
    }

    /// Sends off what nobody has taken, so that its producers learn of it before the process ends.
    fn store_all(self: &Arc<Self>) {
        let queues = self.registry.read().by_index.clone();
        for queue in queues {
            self.with(&queue, |state, _, parcels| {
                state.store_lingering(i64::MAX, parcels);
            });
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
        }
        core.send_overflow().await;
        if stopping {
            return;
        }
        let now = core.now();
        while let Some(index) = timers.pop_due(now) {
            let queue = core.registry.read().by_index.get(index as usize).map(Arc::clone);
            if let Some(queue) = queue {
                core.with(&queue, |_, _, _| ());
            }
        }
    }
}
