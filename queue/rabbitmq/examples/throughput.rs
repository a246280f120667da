//! How many messages a second travel the whole road: leased from a record in memory, published with confirms, worked on
//! by consumers that do nothing, reported with confirms, settled. One process, so both ends share its processors.
//!
//! `cargo run --release -p celesta-rabbitmq --example throughput -- [ADDRESS] [MESSAGES] [PAYLOAD] [CONSUMERS] [BATCH]`

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{NewMessage, Options, QueueName, Queues, Stats};
use celesta_rabbitmq::{
    Dispatcher, DispatcherConfig, Namespace, Outcome, QueueSource, Road, RoadConfig, Settled,
};
use celesta_runtime::{Clock, Fate, Random, Shutdown, TaskSet};
use celesta_types::MessageId;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "a program that prints what it has measured")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .unwrap_or_else(|| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
    let mut number = |usual: usize| {
        arguments
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(usual)
    };
    let (messages, payload, consumers, batch) = (number(50_000), number(200), number(8), number(100));
    let broker = address.parse().expect("the address of a broker");
    let (clock, random) = (Clock::system(), Random::system());
    let tasks = TaskSet::new(Shutdown::new());
    let queues = Queues::in_memory(&clock, &tasks, Options::default());
    let queue = QueueName::new("throughput").expect("a name");
    let bytes: Arc<[u8]> = vec![7; payload].into();
    for chunk in (1..=messages).collect::<Vec<_>>().chunks(5_000) {
        let enqueued = chunk.iter().map(|&id| {
            let id = MessageId::from_bits(u128::try_from(id).expect("it fits"));
            NewMessage::new(id, queue.clone(), Arc::clone(&bytes))
        });
        queues.enqueue(enqueued.collect()).await.expect("enqueued");
    }
    let namespace = Namespace::new("celesta-throughput");
    let config = RoadConfig {
        namespace: namespace.clone(),
        ..RoadConfig::new("throughput")
    };
    let road = Road::start(config, &broker, &clock, &random, &tasks);
    for _ in 0..consumers {
        let mut intake = road
            .consume(&queue, u16::try_from(batch).unwrap_or(u16::MAX))
            .expect("a short name");
        let road = road.clone();
        tasks.spawn("consumer", Fate::Expendable, async move {
            loop {
                let deliveries = intake.next(batch).await;
                if deliveries.is_empty() {
                    return;
                }
                let settled = deliveries.iter().map(|delivery| Settled {
                    id: delivery.id,
                    token: delivery.token,
                    outcome: Outcome::Completed { result: Vec::new() },
                });
                road.settle(settled.collect()).await;
            }
        });
    }
    let config = DispatcherConfig {
        namespace,
        ..DispatcherConfig::new("throughput")
    };
    let source = Arc::new(QueueSource::new(queues.clone(), "throughput"));
    let began = clock.monotonic();
    let dispatcher =
        Dispatcher::start(config, &broker, source, &clock, &random, &tasks).expect("a short name");
    dispatcher.serve(&queue).expect("a short name");
    let left = |stats: Stats| stats.counts[..3].iter().sum::<usize>();
    while queues.stats(&queue).map_or(0, left) > 0 {
        clock.sleep(Duration::from_millis(5)).await;
    }
    let seconds = (clock.monotonic() - began).as_secs_f64();
    let rate = f64::from(u32::try_from(messages).unwrap_or(u32::MAX)) / seconds;
    println!(
        "{{\"messages\":{messages},\"payload\":{payload},\"consumers\":{consumers},\"batch\":{batch},\"seconds\":{seconds:.2},\"messages_per_s\":{rate:.0}}}"
    );
    let ended = tasks.stop(Duration::from_secs(5)).await;
    assert!(ended, "everything ends");
}
