//! What differs from the queues of one process, and what only the database's own tables can show.

use std::time::Duration;

use celesta_queue::{Enqueued, Settings};
use celesta_store::{Arg, Call};
use celesta_types::{Class, Priority, Timestamp};

use crate::bed::{Bed, START, id, keyed, message, name, numbers, request_keys};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_keep_one_exact_order() {
    let bed = Bed::postgres().await;
    let sharded = Settings {
        shards: 4,
        ..Settings::simple()
    };
    assert_eq!(bed.queues.configure(&name("q"), sharded), Ok(()));
    bed.enqueue((0..100).map(|number| message("q", number)).collect())
        .await;
    let leased = bed.lease("q", 100).await;
    assert_eq!(numbers(&leased), (0..100).collect::<Vec<_>>());
    let stats = bed.queues.stats(&name("q")).expect("it is there");
    assert_eq!((stats.settings.shards, stats.overtaken), (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn class_number_and_deadline_decide_across_batches() {
    let bed = Bed::postgres().await;
    let due = |millis| {
        let mut priority = Priority::of(Class::Standard);
        priority.deadline = Some(Timestamp::from_millis(START + millis));
        priority
    };
    let messages = [
        Priority::of(Class::Background),
        Priority::of(Class::Standard),
        due(5_000),
        due(1_000),
        Priority::of(Class::Critical),
        Priority::of(Class::High),
        Priority::of(Class::Critical),
    ];
    for (number, priority) in (0..).zip(messages) {
        bed.enqueue(vec![message("q", number).with_priority(priority)])
            .await;
        bed.enqueue(vec![keyed("x/q", number, number).with_priority(priority)])
            .await;
    }
    assert_eq!(numbers(&bed.lease("q", 2).await), [4, 6]);
    assert_eq!(numbers(&bed.lease("q", 10).await), [5, 3, 2, 1, 0]);
    assert_eq!(numbers(&bed.lease("x/q", 10).await), [4, 6, 5, 3, 2, 1, 0]);
}

/// How many histories the tables hold, after their slots have had their turn.
async fn histories(bed: &Bed) -> Option<i64> {
    let database = bed.store.database().expect("on PostgreSQL");
    let turn = Call {
        name: "turn",
        sql: "SELECT queue_turn_slots($1)",
        args: vec![Arg::Int(bed.clock.now().as_millis())],
    };
    database.write(&[turn]).await.expect("the database answers");
    let count = Call {
        name: "count",
        sql: "SELECT count(*) FROM queue_history",
        args: Vec::new(),
    };
    database.ask(&count).await.expect("the database answers")[0].int(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_kept_for_its_time_and_its_row_not_for_ever() {
    const MINUTE: u64 = 60_000;
    let bed = Bed::postgres().await;
    let settings = Settings {
        history_ms: 10 * 60_000,
        ..Settings::simple()
    };
    bed.queues.configure(&name("q"), settings).expect("in range");
    bed.enqueue(vec![message("q", 1)]).await;
    bed.complete(&bed.lease("q", 1).await).await;
    let known = async || {
        bed.queues
            .history(&name("q"), id(1))
            .await
            .expect("readable")
            .is_some()
    };
    bed.advance(10 * MINUTE - 1);
    assert!(known().await);
    assert_eq!(histories(&bed).await, Some(1));
    bed.advance(1);
    assert!(!known().await, "its time is over");
    let mut turns = 0;
    while histories(&bed).await != Some(0) {
        turns += 1;
        assert!(turns < 60, "no slot was emptied within an hour");
        bed.advance(MINUTE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_leased_for_a_consumer_that_has_gone_are_given_back() {
    let bed = Bed::postgres().await;
    bed.enqueue(vec![keyed("x/q", 1, 1), keyed("x/q", 2, 1)]).await;
    let wanted = request_keys("x/q", 1);
    for _ in 0..20 {
        tokio::select! {
            biased;
            _ = bed.queues.lease_keys(&wanted) => panic!("the database is not that fast"),
            () = std::future::ready(()) => {}
        }
    }
    let mut waiting = request_keys("x/q", 1);
    waiting.wait = Duration::from_secs(60);
    let keys = bed.queues.lease_keys(&waiting).await.expect("leased");
    assert_eq!(numbers(&keys[0].messages), [1, 2]);
    assert_eq!(keys[0].messages[0].attempt, 1, "nobody is blamed");
    bed.complete(&keys[0].messages).await;
    let again = bed.queues.enqueue(vec![keyed("x/q", 3, 1)]).await;
    assert_eq!(again.expect("durable"), [Ok(Enqueued::New)]);
}
