//! What the tests stand on: names of their own in the broker, both ends of the road, and a source that tells what it did.

use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{LeaseRef, Leased, NewMessage, Options, QueueName, Queues, Settings};
use celesta_rabbitmq::{
    BrokerUrl, Delivery, Dispatcher, DispatcherConfig, Intake, Namespace, Outcome, QueueSource, Road,
    RoadConfig, Settled, Settlement, Source, SourceError,
};
use celesta_runtime::{Clock, Fate, Random, Shutdown, TaskSet};
use celesta_types::{MessageId, Priority};
use futures_util::future::BoxFuture;
use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use tokio::sync::watch;

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who may use the broker: many tests at once, or one that disturbs it. Across processes too.
pub(crate) struct Turn {
    _file: File,
}

impl Turn {
    pub(crate) fn shared() -> Self {
        let file = lock_file();
        file.lock_shared().expect("the lock is to be had");
        Self { _file: file }
    }

    pub(crate) fn alone() -> Self {
        let file = lock_file();
        file.lock().expect("the lock is to be had");
        Self { _file: file }
    }
}

fn lock_file() -> File {
    let path = std::env::temp_dir().join("celesta-rabbitmq-tests.lock");
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .expect("a file in the temporary folder")
}

/// What a test must not wait for longer than.
pub(crate) async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "tests are told where the broker is")]
pub(crate) fn broker() -> String {
    std::env::var("CELESTA_TEST_RABBITMQ")
        .unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// Runs the broker's own tool.
#[expect(clippy::disallowed_methods, reason = "the broker's tool is a process")]
pub(crate) fn rabbitmqctl(arguments: &[&str]) {
    let output = std::process::Command::new("rabbitmqctl")
        .args(arguments)
        .output()
        .expect("rabbitmqctl is on this machine");
    assert!(
        output.status.success(),
        "rabbitmqctl {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A record and a corner of the broker for one test.
pub(crate) struct Place {
    pub(crate) namespace: Namespace,
    pub(crate) queue: QueueName,
    pub(crate) queues: Queues,
    pub(crate) source: Arc<Counting>,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) tasks: TaskSet,
    _turn: Turn,
}

impl Place {
    pub(crate) fn new(turn: Turn) -> Self {
        let (clock, random) = (Clock::system(), Random::system());
        let tasks = TaskSet::new(Shutdown::new());
        let options = Options {
            default: Settings {
                keep_completed_ms: 60_000,
                ..Settings::simple()
            },
            ..Options::default()
        };
        let queues = Queues::in_memory(&clock, &tasks, options);
        Self {
            namespace: Namespace::new(&format!("test-{:016x}", random.next_u64())),
            queue: QueueName::new("work").expect("a name"),
            source: Arc::new(Counting::new(QueueSource::new(queues.clone(), "road"))),
            queues,
            clock,
            random,
            tasks,
            _turn: turn,
        }
    }

    pub(crate) fn url() -> BrokerUrl {
        broker().parse().expect("the broker's address")
    }

    /// A dispatcher whose times are short.
    pub(crate) fn config(&self, node: &str) -> DispatcherConfig {
        DispatcherConfig {
            namespace: self.namespace.clone(),
            lease: Duration::from_secs(3),
            road_time: Duration::from_secs(2),
            silence: Duration::from_secs(3),
            ..DispatcherConfig::new(node)
        }
    }

    pub(crate) fn dispatch(&self, config: DispatcherConfig, tasks: &TaskSet) -> Dispatcher {
        let source = Arc::clone(&self.source) as Arc<dyn Source>;
        let dispatcher = Dispatcher::start(config, &Self::url(), source, &self.clock, &self.random, tasks)
            .expect("a short name");
        dispatcher.serve(&self.queue).expect("a short name");
        dispatcher
    }

    pub(crate) fn road(&self, consumer: &str) -> Road {
        let config = RoadConfig {
            namespace: self.namespace.clone(),
            hold_every: Duration::from_millis(200),
            ..RoadConfig::new(consumer)
        };
        Road::start(config, &Self::url(), &self.clock, &self.random, &self.tasks)
    }

    pub(crate) fn intake(&self, road: &Road, prefetch: u16) -> Intake {
        road.consume(&self.queue, prefetch).expect("a short name")
    }

    pub(crate) async fn enqueue(&self, ids: impl Iterator<Item = u128>, priority: Priority) {
        let messages = ids
            .map(|id| {
                let payload = id.to_be_bytes().to_vec();
                NewMessage::new(MessageId::from_bits(id), self.queue.clone(), payload).with_priority(priority)
            })
            .collect();
        let outcomes = self.queues.enqueue(messages).await.expect("enqueued");
        assert!(outcomes.iter().all(Result::is_ok));
    }

    /// Works on everything that comes, until the test is over.
    pub(crate) fn work(&self, road: &Road, prefetch: u16) -> watch::Receiver<usize> {
        let mut intake = self.intake(road, prefetch);
        let (worked, count) = watch::channel(0);
        let road = road.clone();
        self.tasks.spawn("test consumer", Fate::Expendable, async move {
            loop {
                let deliveries = intake.next(64).await;
                if deliveries.is_empty() {
                    return;
                }
                worked.send_modify(|worked| *worked += deliveries.len());
                let settled = deliveries.iter().map(completed).collect();
                road.settle(settled).await;
            }
        });
        count
    }

    /// Waits until the broker has so many messages of the queue.
    pub(crate) async fn broker_has(&self, count: u32) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let name = self.namespace.destination(&self.queue).expect("a short name");
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let mut levels = FieldTable::default();
        levels.insert("x-max-priority".into(), lapin::types::AMQPValue::LongInt(9));
        patiently("messages in the broker", async {
            loop {
                let declared = channel
                    .queue_declare(name.as_str().into(), durable, levels.clone())
                    .await
                    .expect("declared");
                if declared.message_count() == count {
                    return;
                }
            }
        })
        .await;
    }

    pub(crate) async fn delete_queue(&self) -> u32 {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let name = self.namespace.destination(&self.queue).expect("a short name");
        channel
            .queue_delete(name.into(), QueueDeleteOptions::default())
            .await
            .expect("deleted")
    }

    async fn connect(&self) -> lapin::Connection {
        lapin::Connection::connect(&broker(), lapin::ConnectionProperties::default())
            .await
            .expect("a RabbitMQ runs where the tests expect it; `make test` starts one")
    }

    /// Ends everything and takes the test's names out of the broker.
    pub(crate) async fn end(self, nodes: &[&str]) {
        assert!(self.tasks.stop(Duration::from_secs(5)).await, "everything ends");
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let mut queues: Vec<String> = nodes
            .iter()
            .map(|node| self.namespace.reports(node).expect("a short name"))
            .collect();
        queues.push(self.namespace.destination(&self.queue).expect("a short name"));
        for queue in queues {
            channel
                .queue_delete(queue.into(), QueueDeleteOptions::default())
                .await
                .expect("deleted");
        }
        channel
            .exchange_delete(self.namespace.notices().into(), ExchangeDeleteOptions::default())
            .await
            .expect("deleted");
    }
}

pub(crate) fn completed(delivery: &Delivery) -> Settled {
    settled(delivery, Outcome::Completed { result: Vec::new() })
}

pub(crate) fn settled(delivery: &Delivery, outcome: Outcome) -> Settled {
    Settled {
        id: delivery.id,
        token: delivery.token,
        outcome,
    }
}

/// A source that counts what the record took.
#[derive(Debug)]
pub(crate) struct Counting {
    queues: QueueSource,
    settled: watch::Sender<usize>,
    extensions: watch::Sender<usize>,
    progress: watch::Sender<usize>,
}

impl Counting {
    fn new(queues: QueueSource) -> Self {
        Self {
            queues,
            settled: watch::Sender::new(0),
            extensions: watch::Sender::new(0),
            progress: watch::Sender::new(0),
        }
    }

    /// Waits until leases are extended so many times more.
    pub(crate) async fn extended(&self, times: usize) {
        let mut extensions = self.extensions.subscribe();
        let enough = *extensions.borrow() + times;
        let waiting = extensions.wait_for(|extensions| *extensions >= enough);
        patiently("extensions", waiting)
            .await
            .expect("the source is there");
    }

    /// Waits until so many words about progress have come.
    pub(crate) async fn heard(&self, count: usize) {
        let mut progress = self.progress.subscribe();
        let waiting = progress.wait_for(|progress| *progress >= count);
        patiently("progress", waiting).await.expect("the source is there");
    }

    /// Waits until so many settlements were taken by the record.
    pub(crate) async fn settled(&self, count: usize) {
        let mut settled = self.settled.subscribe();
        let waiting = settled.wait_for(|settled| *settled >= count);
        patiently("settlements", waiting)
            .await
            .expect("the source is there");
    }
}

impl Source for Counting {
    fn lease(
        &self,
        queue: QueueName,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Leased>, SourceError>> {
        self.queues.lease(queue, max, lease, wait)
    }

    fn extend(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, Vec<bool>> {
        self.extensions.send_modify(|extensions| *extensions += 1);
        self.queues.extend(leases, lease)
    }

    fn progress(&self, _id: MessageId, _progress: Vec<u8>) {
        self.progress.send_modify(|progress| *progress += 1);
    }

    fn release(&self, leases: Vec<LeaseRef>) -> BoxFuture<'_, ()> {
        self.queues.release(leases)
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, SourceError>> {
        Box::pin(async move {
            let held = self.queues.settle(settlements).await?;
            let taken = held.iter().filter(|held| **held).count();
            self.settled.send_modify(|settled| *settled += taken);
            Ok(held)
        })
    }
}
