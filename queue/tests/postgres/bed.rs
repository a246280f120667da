//! Queues on a database of their own, with a clock the test moves.

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{
    ConfigureError, Enqueued, ExtendError, Key, LeaseError, LeaseKeys, LeaseRef, LeaseRequest, Leased,
    LeasedKey, MIGRATIONS, NewMessage, Options, QueueName, Settings, SharedQueues, StaleToken, Stats,
};
use celesta_runtime::{Clock, ManualClock, Shutdown, TaskSet};
use celesta_store::testing::TestDatabase;
use celesta_store::{Store, StoreOptions};
use celesta_types::{MessageId, Timestamp};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

pub(crate) struct Bed {
    pub(crate) queues: Looking,
    pub(crate) store: Store,
    pub(crate) hand: ManualClock,
    pub(crate) clock: Clock,
    pub(crate) tasks: TaskSet,
    pub(crate) database: Arc<TestDatabase>,
}

/// The queues, with what the suite asks without waiting.
pub(crate) struct Looking(pub(crate) SharedQueues);

impl std::ops::Deref for Looking {
    type Target = SharedQueues;

    fn deref(&self) -> &SharedQueues {
        &self.0
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    block_in_place(|| Handle::current().block_on(future))
}

impl Looking {
    pub(crate) fn try_lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>, LeaseError> {
        wait(self.0.lease(request))
    }

    pub(crate) fn try_lease_keys(&self, request: &LeaseKeys) -> Result<Vec<LeasedKey>, LeaseError> {
        wait(self.0.lease_keys(request))
    }

    pub(crate) fn configure(&self, queue: &QueueName, settings: Settings) -> Result<(), ConfigureError> {
        wait(self.0.configure(queue, settings)).expect("the database answers")
    }

    pub(crate) fn extend(&self, leases: &[LeaseRef], lease_ms: i64) -> Vec<Result<Timestamp, ExtendError>> {
        wait(self.0.extend(leases, lease_ms)).expect("the database answers")
    }

    pub(crate) fn release(&self, leases: &[LeaseRef]) -> Vec<Result<(), StaleToken>> {
        wait(self.0.release(leases)).expect("the database answers")
    }

    pub(crate) fn depth(&self, queue: &QueueName) -> usize {
        wait(self.0.depth(queue)).expect("the database answers")
    }

    pub(crate) fn stats(&self, queue: &QueueName) -> Option<Stats> {
        wait(self.0.stats(queue)).expect("the database answers")
    }
}

pub(crate) const START: i64 = 1_000_000;

pub(crate) fn name(text: &str) -> QueueName {
    QueueName::new(text).expect("test names are valid")
}

pub(crate) fn id(number: u128) -> MessageId {
    MessageId::from_bits(number)
}

pub(crate) fn message(queue: &str, number: u128) -> NewMessage {
    NewMessage::new(id(number), name(queue), number.to_string().into_bytes())
}

pub(crate) fn keyed(queue: &str, number: u128, key: u128) -> NewMessage {
    message(queue, number).with_key(Key::from_bits(key))
}

pub(crate) fn numbers(leased: &[Leased]) -> Vec<u128> {
    leased.iter().map(|leased| leased.id.bits()).collect()
}

pub(crate) fn request(queue: &str, max: usize) -> LeaseRequest {
    LeaseRequest {
        metadata: Vec::new(),
        queue: name(queue),
        max,
        lease_ms: Some(30_000),
        wait: Duration::ZERO,
        consumer: Arc::from("test"),
    }
}

pub(crate) fn request_keys(queue: &str, max_keys: usize) -> LeaseKeys {
    LeaseKeys {
        metadata: Vec::new(),
        queue: name(queue),
        max_keys,
        max_messages_per_key: 100,
        lease_ms: Some(30_000),
        wait: Duration::ZERO,
        consumer: Arc::from("test"),
    }
}

fn options() -> Options {
    Options {
        templates: vec![("x/".to_owned(), Settings::exclusive())],
        ..Options::default()
    }
}

impl Bed {
    pub(crate) async fn postgres() -> Self {
        let (clock, hand) = Clock::manual(Timestamp::from_millis(START));
        Self::on(Arc::new(TestDatabase::create().await), clock, hand).await
    }

    /// Another node on the same database, with the same clock.
    pub(crate) async fn another(&self, clock: Clock) -> Self {
        Self::on(Arc::clone(&self.database), clock, self.hand.clone()).await
    }

    pub(crate) async fn on(database: Arc<TestDatabase>, clock: Clock, hand: ManualClock) -> Self {
        let url = database.url();
        Self::at(url, database, clock, hand).await
    }

    /// On the database as somebody who has that URL.
    pub(crate) async fn at(
        url: String,
        database: Arc<TestDatabase>,
        clock: Clock,
        hand: ManualClock,
    ) -> Self {
        let tasks = TaskSet::new(Shutdown::new());
        let store = Store::open(&StoreOptions::postgres(url), MIGRATIONS, &clock, &tasks)
            .await
            .expect("the store opens");
        let queues = SharedQueues::open(&store, &clock, &tasks, options())
            .await
            .expect("the queues open");
        Self {
            queues: Looking(queues),
            store,
            hand,
            clock,
            tasks,
            database,
        }
    }

    pub(crate) async fn enqueue(&self, messages: Vec<NewMessage>) {
        let count = messages.len();
        let outcomes = self
            .queues
            .enqueue(messages)
            .await
            .expect("the record takes them");
        assert_eq!(outcomes, vec![Ok(Enqueued::New); count]);
    }

    pub(crate) async fn lease(&self, queue: &str, max: usize) -> Vec<Leased> {
        let leased = self.queues.lease(&request(queue, max)).await;
        leased.expect("the queue is there")
    }

    pub(crate) async fn lease_keys(&self, queue: &str, max: usize) -> Vec<LeasedKey> {
        let leased = self.queues.lease_keys(&request_keys(queue, max)).await;
        leased.expect("the queue is there")
    }

    pub(crate) async fn complete(&self, leased: &[Leased]) {
        let leases: Vec<_> = leased.iter().map(Leased::lease).collect();
        let outcomes = self.queues.complete(&leases).await.expect("the record takes it");
        assert_eq!(outcomes, vec![Ok(()); leases.len()]);
    }

    pub(crate) fn advance(&self, millis: u64) {
        self.hand.advance(Duration::from_millis(millis));
    }
}
