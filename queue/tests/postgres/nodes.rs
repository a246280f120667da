//! Many nodes on one database.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{Enqueued, LeaseRequest, Leased};
use celesta_runtime::Clock;
use celesta_types::Timestamp;

use crate::bed::{Bed, keyed, message, name, numbers, request, request_keys};

async fn two_nodes() -> (Bed, Bed) {
    let (clock, hand) = Clock::manual(Timestamp::from_millis(crate::bed::START));
    let database = Arc::new(celesta_store::testing::TestDatabase::create().await);
    let one = Bed::on(database, clock.clone(), hand).await;
    let two = one.another(clock).await;
    (one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_is_woken_by_a_message_of_another_node() {
    let (one, two) = two_nodes().await;
    two.queues
        .configure(&name("q"), celesta_queue::Settings::simple())
        .expect("in range");
    let mut waiting = request("q", 1);
    waiting.wait = Duration::from_secs(60);
    let (leased, ()) = tokio::join!(one.queues.lease(&waiting), two.enqueue(vec![message("q", 1)]));
    assert_eq!(numbers(&leased.expect("leased")), [1]);
}

/// Some databases speak the protocol and have neither NOTIFY nor advisory locks: nodes find out by looking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_notices_and_advisory_locks_a_consumer_is_woken_by_a_look() {
    let database = Arc::new(celesta_store::testing::TestDatabase::create().await);
    let url = database.bare_url().await;
    let (clock, hand) = Clock::manual(Timestamp::from_millis(crate::bed::START));
    // Both at the same time: one waits until the other has made the tables.
    let (one, two) = tokio::join!(
        Bed::at(url.clone(), Arc::clone(&database), clock.clone(), hand.clone()),
        Bed::at(url, Arc::clone(&database), clock, hand),
    );
    let means = one.store.database().expect("it is PostgreSQL").probe().await;
    let means = means.expect("it answers");
    assert!(!means.notices, "{means:?}");
    let lock = one.store.fetch("SELECT pg_try_advisory_xact_lock(1)::text", &[]);
    assert!(lock.await.is_err(), "whoever took one would be refused");
    two.enqueue(vec![message("q", 1)]).await;
    assert_eq!(numbers(&one.lease("q", 1).await), [1]);
    let mut waiting = request("q", 1);
    waiting.wait = Duration::from_secs(3_600);
    let looking = async {
        // It waits by now, and nobody tells it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        two.enqueue(vec![message("q", 2)]).await;
        loop {
            one.advance(1_000);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let leased = tokio::select! {
        leased = one.queues.lease(&waiting) => leased,
        () = looking => unreachable!("it looks for ever"),
    };
    assert_eq!(numbers(&leased.expect("leased")), [2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_held_on_one_node_only() {
    let (one, two) = two_nodes().await;
    one.enqueue(vec![keyed("x/q", 1, 7), keyed("x/q", 2, 8)]).await;
    let first = one.lease_keys("x/q", 1).await;
    let second = two.lease_keys("x/q", 10).await;
    assert_eq!((first[0].key.bits(), second[0].key.bits()), (7, 8));
    assert_eq!(second.len(), 1);
    two.enqueue(vec![keyed("x/q", 3, 7)]).await;
    assert!(two.lease_keys("x/q", 10).await.is_empty());
    one.complete(&first[0].messages).await;
    assert_eq!(numbers(&two.lease_keys("x/q", 10).await[0].messages), [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_a_node_that_is_gone_lapses() {
    let (one, two) = two_nodes().await;
    one.enqueue(vec![message("q", 1)]).await;
    let first = one.lease("q", 1).await;
    drop(one);
    two.advance(30_000);
    let mut waiting = request("q", 1);
    waiting.wait = Duration::from_secs(600);
    let second = tokio::join!(two.queues.lease(&waiting), async {
        two.advance(1_000);
    })
    .0
    .expect("leased");
    assert_eq!(second[0].attempt, 2);
    assert!(second[0].token > first[0].token);
}

async fn consume(bed: &Bed, request: &LeaseRequest, total: usize, got: &parking_lot::Mutex<Vec<Leased>>) {
    while got.lock().len() < total {
        let leased = bed.queues.lease(request).await.expect("leased");
        let leases: Vec<_> = leased.iter().map(Leased::lease).collect();
        for outcome in bed.queues.complete(&leases).await.expect("completed") {
            outcome.expect("nobody else has it");
        }
        got.lock().extend(leased);
    }
}

/// Connections are ended again and again while two nodes work; every message is delivered and completed once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_lose_and_double_nothing() {
    const TOTAL: usize = 1_000;
    let (one, two) = two_nodes().await;
    one.enqueue(vec![message("q", 0)]).await;
    let got = parking_lot::Mutex::new(Vec::new());
    let wanted = request("q", 50);
    let producing = async {
        for batch in 0..(TOTAL as u128 / 50) {
            let messages: Vec<_> = (batch * 50..batch * 50 + 50)
                .map(|number| message("q", number + 1))
                .collect();
            let outcomes = two.queues.enqueue(messages).await.expect("enqueued");
            assert!(outcomes.iter().all(|outcome| *outcome == Ok(Enqueued::New)));
        }
    };
    let breaking = async {
        for _ in 0..10 {
            one.database.break_connections().await;
        }
    };
    tokio::join!(
        producing,
        breaking,
        consume(&one, &wanted, TOTAL + 1, &got),
        consume(&two, &wanted, TOTAL + 1, &got),
    );
    let got = got.into_inner();
    let ids: HashSet<_> = got.iter().map(|leased| leased.id.bits()).collect();
    assert_eq!((got.len(), ids.len()), (TOTAL + 1, TOTAL + 1));
    assert!(got.iter().all(|leased| leased.attempt == 1), "no lease was lost");
    assert_eq!(one.queues.depth(&name("q")), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_delays_no_other() {
    let (one, two) = two_nodes().await;
    for batch in 0..5_u128 {
        one.enqueue(
            (0..2_000)
                .map(|number| keyed("x/q", batch * 2_000 + number, 1))
                .collect(),
        )
        .await;
    }
    let hot = one.lease_keys("x/q", 1).await;
    assert_eq!(hot[0].messages.len(), 100);
    one.enqueue(vec![keyed("x/q", 99_999, 2)]).await;
    let other = two
        .queues
        .lease_keys(&request_keys("x/q", 10))
        .await
        .expect("leased");
    assert_eq!(numbers(&other[0].messages), [99_999]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_the_same_time_make_one_schema() {
    let (clock, hand) = Clock::manual(Timestamp::from_millis(crate::bed::START));
    let database = Arc::new(celesta_store::testing::TestDatabase::create().await);
    let start = || Bed::on(Arc::clone(&database), clock.clone(), hand.clone());
    let (one, two, _three, four) = tokio::join!(start(), start(), start(), start());
    one.enqueue(vec![message("q", 1)]).await;
    two.enqueue(vec![message("q", 2)]).await;
    assert_eq!(numbers(&four.lease("q", 2).await), [1, 2]);
}
