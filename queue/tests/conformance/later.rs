//! Messages that become visible much later stand in the record alone, and nobody can tell but by the memory.

use std::time::Duration;

use celesta_queue::machine::State;
use celesta_queue::{Enqueued, Filter, NewMessage};
use celesta_store::Unit;
use celesta_types::{Priority, Timestamp};

use crate::bed::{Bed, START, id, keyed, message, name, numbers, request};
use crate::on_every_store;

const HOUR: i64 = 3_600_000;
/// For what must come about, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

on_every_store!(
    a_message_for_next_month_comes_at_its_instant_and_not_before,
    a_far_message_is_looked_at_listed_and_counted,
    a_far_message_is_called_back_by_id_by_filter_and_in_a_unit,
    a_far_message_is_known_and_takes_another_priority,
    a_unit_that_fails_leaves_no_far_message,
    a_far_key_is_exclusive_when_its_time_comes,
);

fn at(hours: i64) -> Timestamp {
    Timestamp::from_millis(START + hours * HOUR)
}

fn far(number: u128, hours: i64) -> NewMessage {
    message("q", number).visible_at(at(hours))
}

fn advance(bed: &Bed, hours: i64) {
    bed.hand
        .advance(Duration::from_millis((hours * HOUR).unsigned_abs()));
}

/// Rows that stand apart.
async fn apart(bed: &Bed) -> Option<i64> {
    let store = bed.store.as_ref()?;
    let rows = store.fetch("SELECT count(*) FROM queue_later", &[]).await;
    rows.expect("the record reads").first().and_then(|row| row.int(0))
}

/// Waits until none is counted that matches: what units have called back is found by the next counting, some seconds later
/// by the clock of the queues.
async fn none_left(bed: &Bed, filter: &Filter) {
    let counted = async {
        while bed.queues.count(&name("q"), filter).await != Ok(0) {
            bed.advance(1_000);
            bed.settle().await;
            tokio::task::yield_now().await;
        }
    };
    let counted = tokio::time::timeout(PATIENCE, counted).await;
    counted.expect("they are counted again");
}

async fn a_message_for_next_month_comes_at_its_instant_and_not_before(bed: Bed) {
    bed.enqueue((1..=40).map(|number| far(number, 720)).collect())
        .await;
    bed.enqueue(vec![message("q", 99)]).await;
    if bed.store.is_some() {
        assert_eq!(apart(&bed).await, Some(40));
    }
    assert_eq!(numbers(&bed.lease("q", 100).await), [99]);
    let after = if bed.store.is_some() {
        bed.crash().await
    } else {
        bed
    };
    after
        .hand
        .advance(Duration::from_millis((720 * HOUR - 1).unsigned_abs()));
    assert!(
        numbers(&after.lease("q", 100).await)
            .iter()
            .all(|&number| number == 99),
        "a millisecond before"
    );
    after.advance(1);
    let mut due = numbers(&after.lease("q", 100).await);
    due.retain(|&number| number != 99);
    assert_eq!(due, (1..=40).collect::<Vec<_>>(), "in the order they came");
    if after.store.is_some() {
        assert_eq!(apart(&after).await, Some(0));
    }
}

async fn a_far_message_is_looked_at_listed_and_counted(bed: Bed) {
    bed.enqueue(vec![far(1, 2), message("q", 2), far(3, 3), far(4, 4)])
        .await;
    let (queues, q) = (&bed.queues, name("q"));
    let view = queues.view(&q, id(3)).await.expect("it reads").expect("there");
    assert_eq!((view.state, view.at), (State::Invisible, Some(at(3))));
    assert_eq!(view.payload.as_deref(), Some(&b"3"[..]));
    let history = queues.history(&q, id(4)).await.expect("it reads").expect("there");
    assert_eq!(history.message.id, id(4));
    assert_eq!(queues.depth(&q), 4);
    assert_eq!(queues.stats(&q).expect("there").count(State::Invisible), 3);
    let invisible = Filter {
        states: vec![State::Invisible],
        ..Filter::default()
    };
    assert_eq!(queues.count(&q, &invisible).await, Ok(3));
    assert_eq!(queues.count(&q, &Filter::default()).await, Ok(4));
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = queues
            .list(&q, &Filter::default(), after, 2)
            .await
            .expect("it reads");
        listed.extend(page.messages.iter().map(|message| message.id.bits()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    listed.sort_unstable();
    assert_eq!(listed, [1, 2, 3, 4], "each once");
}

async fn a_far_message_is_called_back_by_id_by_filter_and_in_a_unit(bed: Bed) {
    bed.enqueue((1..=4).map(|number| far(number, 2)).collect()).await;
    let (queues, q) = (&bed.queues, name("q"));
    assert_eq!(queues.cancel(&q, &[id(1)]).await, Ok(vec![Ok(())]));
    let mut unit = Unit::new();
    queues.stage_cancel(&mut unit, &q, &[id(2), id(77)]);
    match &bed.store {
        Some(store) => store.commit(unit).await.expect("durable"),
        None => unit.finish(Ok(())),
    }
    let mut given_up = Unit::new();
    queues.stage_cancel(&mut given_up, &q, &[id(3)]);
    if bed.store.is_some() {
        // Without a record staged changes stand at once.
        drop(given_up);
    }
    advance(&bed, 2);
    let due = numbers(&bed.lease("q", 1).await);
    assert_eq!(due, [if bed.store.is_some() { 3 } else { 4 }]);
    bed.enqueue((11..=13).map(|number| far(number, 9)).collect())
        .await;
    let invisible = Filter {
        states: vec![State::Invisible],
        ..Filter::default()
    };
    let canceled = queues
        .cancel_matching(&q, &invisible, 100)
        .await
        .expect("durable");
    assert_eq!(canceled.len(), 3);
    none_left(&bed, &invisible).await;
}

async fn a_far_message_is_known_and_takes_another_priority(bed: Bed) {
    bed.enqueue(vec![far(1, 2), far(2, 2)]).await;
    let again = bed
        .queues
        .enqueue(vec![message("q", 1)])
        .await
        .expect("it answers");
    assert_eq!(again, [Ok(Enqueued::Existing)]);
    assert!(bed.lease("q", 10).await.is_empty(), "it keeps its instant");
    let urgent = Priority {
        number: 5,
        ..Priority::default()
    };
    let moved = bed.queues.reprioritize(&name("q"), &[(id(2), urgent)]).await;
    assert_eq!(moved, Ok(vec![Ok(())]));
    advance(&bed, 2);
    assert_eq!(numbers(&bed.lease("q", 10).await), [2, 1]);
}

async fn a_unit_that_fails_leaves_no_far_message(bed: Bed) {
    let mut unit = Unit::new();
    bed.queues
        .stage_enqueue(&mut unit, vec![far(1, 2)])
        .expect("allowed");
    if bed.store.is_some() {
        drop(unit);
        assert_eq!(bed.queues.depth(&name("q")), 0);
        advance(&bed, 2);
        assert!(bed.lease("q", 1).await.is_empty());
    }
}

async fn a_far_key_is_exclusive_when_its_time_comes(bed: Bed) {
    bed.enqueue(vec![
        keyed("x/q", 1, 7).visible_at(at(1)),
        keyed("x/q", 2, 7).visible_at(at(1)),
        keyed("x/q", 3, 8).visible_at(at(1)),
    ])
    .await;
    advance(&bed, 1);
    let keys = bed.lease_keys("x/q", 10).await;
    let mut sizes: Vec<usize> = keys.iter().map(|key| key.messages.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2]);
    bed.enqueue(vec![keyed("x/q", 4, 7).visible_at(at(5))]).await;
    advance(&bed, 4);
    // The lease of thirty seconds is long over: the key is free again.
    assert_eq!(bed.lease_keys("x/q", 10).await.len(), 2);
}

#[tokio::test]
async fn a_waiting_consumer_is_woken_by_a_far_message() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![far(1, 1)]).await;
    let mut waiting = request("q", 1);
    waiting.wait = Duration::from_millis((2 * HOUR).unsigned_abs());
    let queues = bed.queues.clone();
    let leased = async { queues.lease(&waiting).await.expect("leased") };
    let moving = async {
        // First into memory, minutes before, then to its instant.
        bed.hand
            .advance(Duration::from_millis((HOUR - 60_000).unsigned_abs()));
        while apart(&bed).await != Some(0) {
            tokio::task::yield_now().await;
        }
        // The queues hear of a commit after it is there to be read.
        bed.settle().await;
        assert_eq!(bed.queues.depth(&name("q")), 1);
        bed.advance(60_000);
    };
    let (leased, ()) = tokio::join!(leased, moving);
    assert_eq!(numbers(&leased), [1]);
}

#[tokio::test]
async fn far_rows_of_an_earlier_release_are_moved_and_a_cancel_meets_an_approach() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, copy) = (folder.path().join("queue.db"), folder.path().join("copy.db"));
    // Near for this process, so among all others, and far for the next one, whose clock stands ten hours before.
    let bed = Bed::at(&path, START + 10 * HOUR - 60_000).await;
    bed.enqueue((1..=3_000).map(|number| far(number, 10)).collect())
        .await;
    assert_eq!(apart(&bed).await, Some(0));
    celesta_store::copy_file(&path, &copy).await.expect("a copy");
    let again = Bed::at(&copy, START).await;
    assert_eq!(apart(&again).await, Some(3_000));
    assert_eq!(again.queues.depth(&name("q")), 3_000);
    advance(&again, 9);
    again.hand.advance(Duration::from_millis(56 * 60_000));
    let mut gone = 0;
    for number in (1..=3_000).step_by(100) {
        let mut unit = Unit::new();
        again.queues.stage_cancel(&mut unit, &name("q"), &[id(number)]);
        let store = again.store.as_ref().expect("a record");
        store.commit(unit).await.expect("durable");
        gone += 1;
    }
    again.advance(240_000);
    let mut due = Vec::new();
    loop {
        let leased = again.lease("q", 5_000).await;
        if leased.is_empty() {
            break;
        }
        due.extend(numbers(&leased));
    }
    due.sort_unstable();
    due.dedup();
    assert_eq!(due.len(), 3_000 - gone);
    assert!(
        due.iter().all(|number| number % 100 != 1),
        "nobody gets what was called back"
    );
}
