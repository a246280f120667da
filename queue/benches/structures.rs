//! What the queue's structures in memory cost, without a record: `cargo bench -p celesta-queue --bench structures`.
//!
//! A queue holds 100,000 messages. A round enqueues 100 more, leases 100 and completes them, so the depth stays; a search leases
//! what has certain metadata. Times are of a round of 100 messages.

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{Key, LeaseRequest, NewMessage, Options, QueueName, Queues, Settings};
use celesta_runtime::{Clock, Shutdown, TaskSet};
use celesta_types::MessageId;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const DEPTH: u128 = 100_000;
const BATCH: u128 = 100;

/// What messages have beside their payload.
#[derive(Clone, Copy)]
enum Shape {
    Plain,
    /// 10,000 exclusivity keys take turns.
    Keyed,
    /// 100 fairness keys take turns.
    Fair,
    /// One of 1,000 colors.
    Colored,
}

struct Bench {
    runtime: Runtime,
    queues: Queues,
    queue: QueueName,
    shape: Shape,
    next: u128,
}

impl Bench {
    fn new(shape: Shape) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let queue = QueueName::new("q").expect("a good name");
        let queues = runtime.block_on(async {
            let tasks = TaskSet::new(Shutdown::new());
            let queues = Queues::in_memory(&Clock::system(), &tasks, Options::default());
            let settings = match shape {
                Shape::Keyed => Settings::exclusive(),
                Shape::Plain | Shape::Fair | Shape::Colored => Settings::simple(),
            };
            queues.configure(&queue, settings).expect("in range");
            queues
        });
        let mut bench = Self {
            runtime,
            queues,
            queue,
            shape,
            next: 0,
        };
        while bench.next < DEPTH {
            let messages = bench.messages();
            bench.enqueue(messages);
        }
        bench
    }

    fn messages(&mut self) -> Vec<NewMessage> {
        let from = self.next;
        self.next += BATCH;
        (from..self.next)
            .map(|number| {
                let message = NewMessage::new(MessageId::from_bits(number), self.queue.clone(), [7; 200]);
                match self.shape {
                    Shape::Plain => message,
                    Shape::Keyed => message.with_key(Key::from_bits(number % 10_000)),
                    Shape::Fair => NewMessage {
                        fairness: Some(Arc::from(format!("customer {}", number % 100))),
                        ..message
                    },
                    Shape::Colored => NewMessage {
                        metadata: vec![("color".to_owned(), (number % 1_000).to_string())],
                        ..message
                    },
                }
            })
            .collect()
    }

    fn enqueue(&self, messages: Vec<NewMessage>) {
        let done = self.runtime.block_on(self.queues.enqueue(messages));
        assert!(
            done.expect("there is no record that could fail")
                .iter()
                .all(Result::is_ok)
        );
    }

    fn take(&self, metadata: Vec<(String, String)>) -> usize {
        let request = LeaseRequest {
            queue: self.queue.clone(),
            max: 100,
            lease_ms: Some(60_000),
            wait: Duration::ZERO,
            consumer: Arc::from("bench"),
            metadata,
        };
        let leased = self.queues.try_lease(&request).expect("a good request");
        let leases: Vec<_> = leased.iter().map(celesta_queue::Leased::lease).collect();
        let done = self.runtime.block_on(self.queues.complete(&leases));
        assert!(
            done.expect("there is no record that could fail")
                .iter()
                .all(Result::is_ok)
        );
        leased.len()
    }
}

fn rounds(criterion: &mut Criterion) {
    for (name, shape) in [
        ("simple", Shape::Plain),
        ("10,000 keys", Shape::Keyed),
        ("100 fairness keys", Shape::Fair),
        ("metadata", Shape::Colored),
    ] {
        let bench = std::cell::RefCell::new(Bench::new(shape));
        criterion.bench_function(&format!("enqueue, lease and complete 100, {name}"), |bencher| {
            bencher.iter_batched(
                || bench.borrow_mut().messages(),
                |messages| {
                    let bench = bench.borrow();
                    bench.enqueue(messages);
                    assert_eq!(bench.take(Vec::new()), 100);
                },
                BatchSize::SmallInput,
            );
        });
    }
    let bench = std::cell::RefCell::new(Bench::new(Shape::Colored));
    let mut color = 0;
    criterion.bench_function(
        "enqueue 100, then lease and complete what has one color of 1,000",
        |bencher| {
            bencher.iter_batched(
                || {
                    color = (color + 1) % 1_000;
                    let messages = bench.borrow_mut().messages();
                    (messages, vec![("color".to_owned(), color.to_string())])
                },
                |(messages, metadata)| {
                    let bench = bench.borrow();
                    bench.enqueue(messages);
                    bench.take(metadata)
                },
                BatchSize::SmallInput,
            );
        },
    );
}

criterion_group!(benches, rounds);
criterion_main!(benches);
