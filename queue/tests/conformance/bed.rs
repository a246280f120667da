//! A set of queues with a clock the test moves.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{
    Enqueued, Key, LeaseKeys, LeaseRequest, Leased, LeasedKey, MIGRATIONS, NewMessage, Options, QueueName,
    Queues, Settings,
};
use celesta_runtime::{Clock, ManualClock, Shutdown, TaskSet};
use celesta_store::{Store, StoreOptions};
use celesta_types::{MessageId, Timestamp};

pub(crate) struct Bed {
    pub(crate) queues: Queues,
    pub(crate) store: Option<Store>,
    pub(crate) hand: ManualClock,
    pub(crate) clock: Clock,
    pub(crate) tasks: TaskSet,
    _folder: Option<tempfile::TempDir>,
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
    pub(crate) fn memory() -> Self {
        let (clock, hand) = Clock::manual(Timestamp::from_millis(START));
        let tasks = TaskSet::new(Shutdown::new());
        let queues = Queues::in_memory(&clock, &tasks, options());
        Self {
            queues,
            store: None,
            hand,
            clock,
            tasks,
            _folder: None,
        }
    }

    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut bed = Self::at(&folder.path().join("queue.db"), START).await;
        bed._folder = Some(folder);
        bed
    }

    pub(crate) async fn at(path: &Path, now: i64) -> Self {
        let (clock, hand) = Clock::manual(Timestamp::from_millis(now));
        let tasks = TaskSet::new(Shutdown::new());
        let store = Store::open(&StoreOptions::at(path), MIGRATIONS, &clock, &tasks)
            .await
            .expect("the store opens");
        let queues = Queues::open(&store, &clock, &tasks, options())
            .await
            .expect("the queues open");
        Self {
            queues,
            store: Some(store),
            hand,
            clock,
            tasks,
            _folder: None,
        }
    }

    /// What the process would find if it were killed now: the files as they are.
    pub(crate) async fn crash(&self) -> Self {
        let store = self.store.as_ref().expect("only a record survives");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let from = store.path().expect("a file").display().to_string();
        let to = folder.path().join("queue.db").display().to_string();
        for suffix in ["", "-wal"] {
            std::fs::copy(format!("{from}{suffix}"), format!("{to}{suffix}")).expect("the files are there");
        }
        let mut bed = Self::at(Path::new(&to), self.clock.now().as_millis()).await;
        bed._folder = Some(folder);
        bed
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

    /// Waits until everything that was sent to the record before is durable.
    pub(crate) async fn settle(&self) {
        if let Some(store) = &self.store {
            store
                .commit(celesta_store::Unit::new())
                .await
                .expect("an empty unit commits");
        }
    }
}
