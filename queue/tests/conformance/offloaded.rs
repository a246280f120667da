//! Payloads that stay in the record, histories that are forgotten, and rows of the first format.

use celesta_queue::{MIGRATIONS, Options, Queues, Settings};
use celesta_runtime::{Clock, Shutdown, TaskSet};
use celesta_store::{Store, StoreOptions};
use celesta_types::Timestamp;

use crate::bed::{Bed, START, id, keyed, message, name, request, request_keys};

#[tokio::test]
async fn payloads_that_do_not_fit_are_read_when_they_are_leased() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (clock, _hand) = Clock::manual(Timestamp::from_millis(START));
    let tasks = TaskSet::new(Shutdown::new());
    let store = Store::open(
        &StoreOptions::at(folder.path().join("queue.db")),
        MIGRATIONS,
        &clock,
        &tasks,
    )
    .await
    .expect("the store opens");
    let options = Options {
        resident_bytes_max: 10_000,
        templates: vec![("x/".to_owned(), Settings::exclusive())],
        ..Options::default()
    };
    let queues = Queues::open(&store, &clock, &tasks, options)
        .await
        .expect("the queues open");
    let text = |number: u128| format!("{number:0>100}").into_bytes();
    for batch in 0..10 {
        let messages = (batch * 500..(batch + 1) * 500).flat_map(|number| {
            let mut one = message("q", number);
            one.payload = text(number).into();
            let mut other = keyed("x/q", 10_000 + number, number % 700);
            other.payload = text(10_000 + number).into();
            [one, other]
        });
        let outcomes = queues.enqueue(messages.collect()).await.expect("durable");
        assert!(outcomes.iter().all(Result::is_ok));
    }
    let mut expected = 0;
    while expected < 5_000 {
        let leased = queues.lease(&request("q", 70)).await.expect("leased");
        for leased in &leased {
            assert_eq!(leased.id, id(expected), "the order is exact all the same");
            assert_eq!(*leased.payload, *text(expected));
            expected += 1;
        }
        let leases: Vec<_> = leased.iter().map(celesta_queue::Leased::lease).collect();
        let outcomes = queues.complete(&leases).await.expect("durable");
        assert!(outcomes.iter().all(Result::is_ok));
    }
    let mut seen = 0;
    loop {
        let keys = queues.lease_keys(&request_keys("x/q", 50)).await.expect("leased");
        if keys.is_empty() {
            break;
        }
        for leased in keys.iter().flat_map(|key| &key.messages) {
            assert_eq!(*leased.payload, *text(leased.id.bits()));
            seen += 1;
        }
    }
    assert_eq!(seen, 5_000);
    let peeked = queues
        .list(&name("x/q"), &celesta_queue::Filter::default(), None, 1_000)
        .await;
    let peeked = peeked.expect("readable").messages;
    assert!(
        peeked
            .iter()
            .all(|view| view.payload.as_deref() == Some(&text(view.id.bits())[..]))
    );
}

#[tokio::test]
async fn histories_are_forgotten_in_time() {
    let bed = Bed::sqlite().await;
    let settings = Settings {
        history_ms: 60_000,
        ..Settings::simple()
    };
    bed.queues.configure(&name("q"), settings).expect("in range");
    bed.enqueue((0..5_000).map(|number| message("q", number)).collect())
        .await;
    bed.complete(&bed.lease("q", 5_000).await).await;
    let store = bed.store.as_ref().expect("a record");
    let count = async || {
        let rows = store.fetch("SELECT count(*) FROM queue_history", &[]).await;
        rows.expect("readable")[0].int(0).expect("a count")
    };
    assert_eq!(count().await, 5_000);
    let found = bed.queues.history(&name("q"), id(4_321)).await.expect("readable");
    assert!(found.is_some());
    tokio::task::yield_now().await;
    bed.advance(3 * 60_000);
    while count().await > 0 {
        bed.settle().await;
    }
    assert!(
        bed.queues
            .history(&name("q"), id(4_321))
            .await
            .expect("readable")
            .is_none()
    );
}

#[tokio::test]
async fn rows_of_the_first_format_are_taken_over() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("queue.db");
    let (clock, _hand) = Clock::manual(Timestamp::from_millis(START));
    let tasks = TaskSet::new(Shutdown::new());
    let store = Store::open(&StoreOptions::at(&path), MIGRATIONS, &clock, &tasks)
        .await
        .expect("the store opens");
    let mut unit = celesta_store::Unit::new();
    unit.add(&FIRST_QUEUE, [celesta_store::Cell::Int(1)]);
    unit.add(&FIRST, [celesta_store::Cell::Int(1)]);
    store.commit(unit).await.expect("durable");
    let queues = Queues::open(&store, &clock, &tasks, Options::default())
        .await
        .expect("the queues open");
    let leased = queues.lease(&request("old", 10)).await.expect("there");
    assert_eq!(
        (leased.len(), leased[0].attempt, &*leased[0].payload),
        (1, 3, &b"payload"[..])
    );
    assert_eq!(
        leased[0].metadata.as_deref(),
        Some(&[("a".to_owned(), "b".to_owned())][..])
    );
    let rows = store.fetch("SELECT count(*) FROM queue_messages", &[]).await;
    assert_eq!(rows.expect("readable")[0].int(0), Some(0));
}

/// Writes a queue as the first release did.
static FIRST_QUEUE: celesta_store::Statement = celesta_store::Statement {
    name: "first_queue",
    rank: 1,
    head: "INSERT INTO queue_queues (id, name, settings) SELECT v.column1, 'old', '{}' FROM (VALUES ",
    row: "(?)",
    tail: ") AS v",
    cells: 1,
    expect: celesta_store::Expect::Any,
};

/// Writes a message as the first release did.
static FIRST: celesta_store::Statement = celesta_store::Statement {
    name: "first",
    rank: 1,
    head: "INSERT INTO queue_messages (seq, id, queue, key, rank, enqueued_at, payload, state, attempt, attempts_max, extra) \
           SELECT 5, x'000102030405060708090a0b0c0d0e0f', v.column1, NULL, 163839, 900000, CAST('payload' AS BLOB), 1, 2, 9, \
           '{\"metadata\":[[\"a\",\"b\"]]}' FROM (VALUES ",
    row: "(?)",
    tail: ") AS v",
    cells: 1,
    expect: celesta_store::Expect::Any,
};
