//! The queue on PostgreSQL: many nodes share one database, so order and leases are rows.
//!
//! What must hold over all nodes is said by the database's own functions (`postgres/schema.sql`): a message is taken with
//! `FOR UPDATE SKIP LOCKED`, a lease is the token in its row, a key that is held is in no index that leasing looks at.
//! A node gathers what its callers ask for at the same time and asks once. Consumers wait in memory; a node that enqueues
//! says so by NOTIFY, and a slow look every second covers what was not heard.
//!
//! Instants are this node's clock: nodes must agree on the time to within a fraction of their leases.

mod change;
mod enqueue;
mod gather;
mod hear;
mod lease;
mod look;
mod registry;
mod rows;
mod settle;
mod stage;
mod sweep;
mod text;
mod vacuum;
mod works;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use celesta_runtime::{Clock, Fate, Random, Shutdown, TaskSet};
use celesta_store::{Arg, CommitError, Postgres, QueryError, Store};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::error::Error;
use crate::message::LeaseRef;
use crate::metrics::Metrics;
use crate::name::QueueName;
use crate::settings::{Options, Settings};

/// The PostgreSQL text of the queue's schema.
pub(crate) const SCHEMA: &str = include_str!("postgres/schema.sql");
/// What the third version changes.
pub(crate) const FEWER: &str = include_str!("postgres/fewer.sql");
/// What the fifth version adds.
pub(crate) const STAGE: &str = include_str!("postgres/stage.sql");
/// What the sixth version changes.
pub(crate) const HEADS: &str = include_str!("postgres/heads.sql");
/// What the seventh version changes.
pub(crate) const ROWS: &str = include_str!("postgres/rows.sql");

/// A handle on all queues of one database, which any number of nodes may share. Cheap to clone.
#[derive(Clone)]
pub struct SharedQueues {
    core: Arc<Core>,
}

impl fmt::Debug for SharedQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedQueues").finish_non_exhaustive()
    }
}

/// One queue as this node knows it.
struct Entry {
    id: i64,
    name: QueueName,
    settings: RwLock<Settings>,
    waiting: Notify,
    waiters: AtomicUsize,
    /// A message with a fairness key was seen: from then on the others take part in the shares too.
    fair: std::sync::atomic::AtomicBool,
}

struct Core {
    /// Held so that the committer goes on as long as there are queues.
    _store: Store,
    database: Postgres,
    clock: Clock,
    shutdown: Shutdown,
    tasks: TaskSet,
    options: Options,
    metrics: Metrics,
    registry: RwLock<registry::Known>,
    /// Instants at which this node knows something to become due.
    due: Mutex<BTreeSet<i64>>,
    due_changed: Notify,
    enqueues: gather::Gather<enqueue::Batch>,
    works: gather::Gather<works::Work>,
    /// Leases of consumers that have gone.
    returns: gather::Gather<Vec<LeaseRef>>,
    /// What other nodes have to be told.
    news: Mutex<hear::News>,
    news_changed: Notify,
    /// Tells this node's own notifications from those of others.
    node: u64,
    /// One sweep of this node at a time.
    sweeping: tokio::sync::Mutex<()>,
    sweeps: AtomicU64,
    looks: AtomicU64,
    /// Since the tables were last cleaned.
    leases_given: AtomicU64,
}

impl SharedQueues {
    /// Opens the queues on `store`, which must be on PostgreSQL and have [`crate::MIGRATIONS`]. Starts what gathers,
    /// sweeps and listens in `tasks`.
    ///
    /// # Errors
    /// When the store is not on PostgreSQL, or cannot be read.
    pub async fn open(
        store: &Store,
        clock: &Clock,
        tasks: &TaskSet,
        options: Options,
    ) -> Result<Self, Error> {
        let database = store.database().cloned().ok_or_else(|| QueryError {
            reason: "the store is not on PostgreSQL".to_owned(),
        })?;
        let (enqueues, to_enqueue) = gather::gather();
        let (works, to_work) = gather::gather();
        let (returns, to_return) = gather::gather();
        let core = Arc::new(Core {
            _store: store.clone(),
            database,
            clock: clock.clone(),
            shutdown: tasks.shutdown().clone(),
            tasks: tasks.clone(),
            options,
            metrics: Metrics::new(),
            registry: RwLock::default(),
            due: Mutex::default(),
            due_changed: Notify::new(),
            enqueues,
            works,
            returns,
            news: Mutex::default(),
            news_changed: Notify::new(),
            node: Random::system().next_u64(),
            sweeping: tokio::sync::Mutex::default(),
            sweeps: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            leases_given: AtomicU64::new(0),
        });
        core.load_queues().await?;
        gather::serve(tasks, "queue.enqueue", &core, &to_enqueue, enqueue::serve);
        gather::serve(tasks, "queue.consume", &core, &to_work, works::serve);
        gather::serve(tasks, "queue.return", &core, &to_return, lease::serve_returns);
        tasks.spawn("queue.sweep", Fate::Expendable, sweep::run(Arc::clone(&core)));
        tasks.spawn("queue.vacuum", Fate::Expendable, vacuum::run(Arc::clone(&core)));
        tasks.spawn("queue.listen", Fate::Expendable, hear::listen(Arc::clone(&core)));
        tasks.spawn("queue.notify", Fate::Expendable, hear::notify(Arc::clone(&core)));
        Ok(Self { core })
    }
}

impl Core {
    fn now(&self) -> i64 {
        self.clock.now().as_millis()
    }

    /// Something becomes due at that instant.
    fn arm(&self, at: i64) {
        let mut due = self.due.lock();
        let earlier = due.first().is_none_or(|&first| at < first);
        due.insert(at);
        drop(due);
        if earlier {
            self.due_changed.notify_one();
        }
    }
}

/// A call of one of the queue's functions.
fn call(name: &'static str, sql: &'static str, args: Vec<Arg>) -> celesta_store::Call {
    celesta_store::Call { name, sql, args }
}

/// One value for a column that is the same everywhere.
fn narrow(mut values: Vec<i64>) -> Arg {
    if values.windows(2).all(|pair| pair[0] == pair[1]) {
        values.truncate(1);
    }
    Arg::Ints(values)
}

fn unavailable(error: QueryError) -> CommitError {
    CommitError::Unavailable { reason: error.reason }
}
