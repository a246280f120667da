//! The record's end of the road: messages out, reports in.
//!
//! A lane for each destination leases, publishes and waits for confirms; one reader settles what consumers report and
//! acknowledges the report when the record has it; one sweep extends leases and looks after what got lost. None of them
//! keeps anything that is not in the record: a dispatcher that dies is a set of leases that lapse.

mod lane;
mod reports;
mod sweep;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{LeaseRef, QueueName};
use celesta_runtime::{Clock, Fate, Random, TaskSet};
use celesta_types::MessageId;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock, mpsc};

use crate::broker::BrokerUrl;
use crate::ledger::{Ledger, Times};
use crate::limits::{BATCH, LEASE, NOTICES_WAITING, ROAD_TIME, SILENCE, WINDOW};
use crate::link::Link;
use crate::metrics::Metrics;
use crate::names::{NameTooLong, Namespace};
use crate::publish::Publisher;
use crate::source::Source;
use crate::wire::Notice;

/// How a dispatcher works.
#[derive(Debug, Clone)]
pub struct DispatcherConfig {
    /// The name of this node: no two dispatchers have the same at the same time. One that comes back under the same
    /// name takes up the reports that were sent meanwhile.
    pub node: Arc<str>,
    /// What names in the broker begin with.
    pub namespace: Namespace,
    /// Messages of one destination in the broker and in nobody's hands.
    pub window: usize,
    /// Messages leased and published in one go.
    pub batch: usize,
    /// How long a lease holds unless it is extended.
    pub lease: Duration,
    /// How long a message may lie in the broker.
    pub road_time: Duration,
    /// How long a consumer may say nothing.
    pub silence: Duration,
}

impl DispatcherConfig {
    /// The usual bounds for a node of that name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            namespace: Namespace::default(),
            window: WINDOW,
            batch: BATCH,
            lease: LEASE,
            road_time: ROAD_TIME,
            silence: SILENCE,
        }
    }
}

/// A running dispatcher. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: DispatcherConfig,
    source: Arc<dyn Source>,
    clock: Clock,
    tasks: TaskSet,
    metrics: Metrics,
    publisher: Publisher,
    /// The connection reports come through: one that publishes may be blocked, and would block acknowledgements.
    intake: Link,
    reports: String,
    ledger: Mutex<Ledger>,
    lanes: Mutex<HashMap<QueueName, Arc<Lane>>>,
    /// Each lane reads it for as long as it may lease.
    leasing: RwLock<()>,
    notices: mpsc::Sender<Vec<Notice>>,
}

/// One destination.
#[derive(Debug)]
struct Lane {
    queue: QueueName,
    destination: String,
    /// There may be room again.
    room: Notify,
    /// It is to take nothing more.
    leaving: Notify,
}

impl Dispatcher {
    /// Starts a dispatcher that serves no queue yet. It connects when the broker is there, and again when it is back.
    ///
    /// # Errors
    /// When the node's name is too long for the broker.
    pub fn start(
        config: DispatcherConfig,
        broker: &BrokerUrl,
        source: Arc<dyn Source>,
        clock: &Clock,
        random: &Random,
        tasks: &TaskSet,
    ) -> Result<Self, NameTooLong> {
        let metrics = Metrics::new();
        let link = |role: &str| {
            let name = format!("celesta dispatcher {} {role}", config.node);
            Link::start(broker, name, clock, random, tasks, &metrics)
        };
        let times = Times {
            lease: config.lease,
            road: config.road_time,
            silence: config.silence,
        };
        let (notices, waiting) = mpsc::channel(NOTICES_WAITING);
        let inner = Arc::new(Inner {
            source,
            clock: clock.clone(),
            tasks: tasks.clone(),
            publisher: Publisher::new(link("out")),
            intake: link("in"),
            reports: config.namespace.reports(&config.node)?,
            ledger: Mutex::new(Ledger::new(times, config.window)),
            lanes: Mutex::default(),
            leasing: RwLock::default(),
            notices,
            metrics,
            config,
        });
        tasks.spawn("road reports", Fate::Essential, reports::run(Arc::clone(&inner)));
        tasks.spawn("road sweep", Fate::Essential, sweep::run(Arc::clone(&inner)));
        tasks.spawn(
            "road notices",
            Fate::Essential,
            sweep::send_notices(Arc::clone(&inner), waiting),
        );
        Ok(Self { inner })
    }

    /// Sends the messages of `queue` too, from now on.
    ///
    /// # Errors
    /// When the queue's name is too long for the broker.
    pub fn serve(&self, queue: &QueueName) -> Result<(), NameTooLong> {
        let destination = self.inner.config.namespace.destination(queue)?;
        let mut lanes = self.inner.lanes.lock();
        if lanes.contains_key(queue) {
            return Ok(());
        }
        let lane = Arc::new(Lane {
            queue: queue.clone(),
            destination,
            room: Notify::new(),
            leaving: Notify::new(),
        });
        lanes.insert(queue.clone(), Arc::clone(&lane));
        drop(lanes);
        let running = lane::run(Arc::clone(&self.inner), lane);
        self.inner.tasks.spawn("road lane", Fate::Expendable, running);
        Ok(())
    }

    /// Leases no more messages of `queue`. What is on the road or in hand comes to its end.
    pub fn leave(&self, queue: &QueueName) {
        if let Some(lane) = self.inner.lanes.lock().remove(queue) {
            lane.leaving.notify_one();
        }
    }

    /// Tells every consumer to stop working on these messages: they were canceled in the record.
    pub fn cancel(&self, messages: &[MessageId]) {
        let over: Vec<LeaseRef> = {
            let mut ledger = self.inner.ledger.lock();
            messages
                .iter()
                .filter_map(|id| ledger.remove(*id, None))
                .collect()
        };
        self.inner.wake(&over);
        self.inner
            .notify(messages.iter().map(|&id| Notice { id, token: None }).collect());
    }

    /// How many messages are on the road or in the hands of consumers.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.ledger.lock().len()
    }
}

impl Inner {
    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    fn in_reach(&self) -> bool {
        self.publisher.link().is_writable() && self.intake.is_writable()
    }

    /// There may be room for messages of these leases' queues.
    fn wake(&self, over: &[LeaseRef]) {
        if over.is_empty() {
            return;
        }
        let lanes = self.lanes.lock();
        for same in over.chunk_by(|a, b| a.queue == b.queue) {
            if let Some(lane) = lanes.get(&same[0].queue) {
                lane.room.notify_one();
            }
        }
    }

    fn notify(&self, notices: Vec<Notice>) {
        if !notices.is_empty() && self.notices.try_send(notices).is_err() {
            self.metrics.count("notice_dropped", 1);
        }
    }
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("node", &self.inner.config.node)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
