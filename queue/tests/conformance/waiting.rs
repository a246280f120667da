//! Consumers wait; nobody polls.

use std::time::Duration;

use celesta_queue::LeaseError;
use celesta_types::Timestamp;

use crate::bed::{Bed, START, keyed, message, name, numbers, request, request_keys};
use crate::on_every_store;

on_every_store!(
    a_waiting_consumer_is_woken_by_a_message,
    a_waiting_consumer_is_woken_when_a_message_becomes_visible,
    a_waiting_consumer_is_woken_when_a_key_is_freed,
    every_waiting_consumer_is_woken_when_there_is_enough,
    a_wait_ends_in_time_with_nothing,
    a_wait_ends_at_shutdown,
);

async fn a_waiting_consumer_is_woken_by_a_message(bed: Bed) {
    bed.queues
        .configure(&name("q"), celesta_queue::Settings::simple())
        .expect("in range");
    let mut waiting = request("q", 1);
    waiting.wait = Duration::from_secs(60);
    let (leased, ()) = tokio::join!(bed.queues.lease(&waiting), bed.enqueue(vec![message("q", 1)]));
    assert_eq!(numbers(&leased.expect("leased")), [1]);
}

async fn a_waiting_consumer_is_woken_when_a_message_becomes_visible(bed: Bed) {
    bed.enqueue(vec![
        message("q", 1).visible_at(Timestamp::from_millis(START + 50)),
    ])
    .await;
    let mut waiting = request("q", 1);
    waiting.wait = Duration::from_secs(60);
    let (leased, ()) = tokio::join!(bed.queues.lease(&waiting), async {
        tokio::task::yield_now().await;
        bed.advance(50);
    });
    assert_eq!(numbers(&leased.expect("leased")), [1]);
}

async fn a_waiting_consumer_is_woken_when_a_key_is_freed(bed: Bed) {
    bed.enqueue(vec![keyed("x/q", 1, 1)]).await;
    let first = bed.lease_keys("x/q", 1).await;
    bed.enqueue(vec![keyed("x/q", 2, 1)]).await;
    let mut waiting = request_keys("x/q", 1);
    waiting.wait = Duration::from_secs(60);
    let (leased, ()) = tokio::join!(bed.queues.lease_keys(&waiting), bed.complete(&first[0].messages));
    assert_eq!(numbers(&leased.expect("leased")[0].messages), [2]);
}

async fn every_waiting_consumer_is_woken_when_there_is_enough(bed: Bed) {
    bed.queues
        .configure(&name("q"), celesta_queue::Settings::simple())
        .expect("in range");
    let mut waiting = request("q", 1);
    waiting.wait = Duration::from_secs(60);
    let consumers: Vec<_> = (0..50).map(|_| bed.queues.lease(&waiting)).collect();
    let consumers = futures_util::future::join_all(consumers);
    let (leased, ()) = tokio::join!(
        consumers,
        bed.enqueue((0..50).map(|number| message("q", number)).collect())
    );
    let mut all: Vec<_> = leased
        .into_iter()
        .flat_map(|leased| numbers(&leased.expect("leased")))
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..50).collect::<Vec<_>>());
}

async fn a_wait_ends_in_time_with_nothing(bed: Bed) {
    bed.queues
        .configure(&name("q"), celesta_queue::Settings::simple())
        .expect("in range");
    let mut waiting = request("q", 1);
    waiting.wait = Duration::from_millis(100);
    let (leased, ()) = tokio::join!(bed.queues.lease(&waiting), async { bed.advance(100) });
    assert!(leased.expect("the request is right").is_empty());
}

async fn a_wait_ends_at_shutdown(bed: Bed) {
    bed.queues
        .configure(&name("q"), celesta_queue::Settings::simple())
        .expect("in range");
    let mut waiting = request("q", 1);
    waiting.wait = Duration::from_secs(60);
    let (leased, ()) = tokio::join!(bed.queues.lease(&waiting), async {
        bed.tasks.shutdown().request();
    });
    assert_eq!(leased.expect_err("stopping"), LeaseError::Stopping);
}
