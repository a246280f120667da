//! Shards: spread over locks where one process owns its queues, one exact order where nodes share them.

use celesta_queue::Settings;
use celesta_types::{Class, Priority};

use crate::bed::{Bed, id, keyed, message, name, numbers};
use crate::on_every_store;

on_every_store!(
    shards_keep_keys_apart_and_lose_nothing,
    a_shard_never_delays_a_class,
);

async fn shards_keep_keys_apart_and_lose_nothing(bed: Bed) {
    let settings = Settings {
        shards: 4,
        ..Settings::exclusive()
    };
    bed.queues
        .configure(&name("x/s"), settings.clone())
        .expect("in range");
    bed.enqueue(
        (0..1_000)
            .map(|number| keyed("x/s", number, number % 50))
            .collect(),
    )
    .await;
    let twice = bed
        .queues
        .enqueue(vec![keyed("x/s", 7, 7)])
        .await
        .expect("durable");
    assert_eq!(twice, [Ok(celesta_queue::Enqueued::Existing)]);
    let other = Settings {
        shards: 2,
        ..settings
    };
    assert!(bed.queues.configure(&name("x/s"), other).is_err());
    let mut seen = Vec::new();
    loop {
        let keys = bed.lease_keys("x/s", 16).await;
        if keys.is_empty() {
            break;
        }
        assert!(bed.queues.stats(&name("x/s")).expect("there").ready <= 50 - keys.len());
        for key in &keys {
            assert!(
                numbers(&key.messages).is_sorted(),
                "of one key the order is exact"
            );
            seen.extend(numbers(&key.messages));
            bed.complete(&key.messages).await;
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
}

async fn a_shard_never_delays_a_class(bed: Bed) {
    let settings = Settings {
        shards: 8,
        ..Settings::simple()
    };
    bed.queues.configure(&name("s"), settings).expect("in range");
    bed.enqueue((0..500).map(|number| message("s", number)).collect())
        .await;
    bed.enqueue(
        (500..508)
            .map(|number| message("s", number).with_priority(Priority::of(Class::Critical)))
            .collect(),
    )
    .await;
    let mut first = Vec::new();
    for _ in 0..8 {
        first.extend(numbers(&bed.lease("s", 1).await));
    }
    first.sort_unstable();
    assert_eq!(first, (500..508).collect::<Vec<_>>());
    let ids: Vec<_> = (0..20).map(id).collect();
    let canceled = bed.queues.cancel(&name("s"), &ids).await.expect("durable");
    assert!(canceled.iter().all(Result::is_ok));
    assert_eq!(bed.lease("s", 1_000).await.len(), 480);
}
