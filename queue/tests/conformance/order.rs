//! What is leased first, what comes back, what ends.

use celesta_queue::machine::State;
use celesta_queue::{Enqueued, Failed, Failure, Leased, Settings};
use celesta_types::{Class, Priority, Timestamp};

use crate::bed::{Bed, START, id, keyed, message, name, numbers};
use crate::on_every_store;

on_every_store!(
    class_number_deadline_and_enqueue_order_decide,
    a_repeated_id_is_enqueued_once,
    an_expired_lease_returns_the_message,
    an_extended_lease_holds,
    the_last_attempt_makes_a_dead_letter_and_redrive_revives_it,
    a_retry_waits_for_its_delay,
    a_released_message_burns_no_attempt,
    a_delayed_message_is_invisible_until_its_instant,
    a_message_expires,
    a_canceled_message_is_never_leased_and_its_lease_is_over,
    a_reprioritized_message_moves,
    one_key_is_leased_once_with_all_its_messages,
    a_leased_key_delays_no_other,
    a_failed_message_frees_its_key,
    completed_messages_can_be_kept,
    ended_messages_are_forgotten_in_time,
);

async fn class_number_deadline_and_enqueue_order_decide(bed: Bed) {
    let at = |class, number, deadline: Option<i64>| Priority {
        class,
        number,
        deadline: deadline.map(Timestamp::from_millis),
    };
    let priorities = [
        at(Class::Background, 0, None),
        at(Class::Standard, 0, None),
        at(Class::Standard, 0, Some(START + 90)),
        at(Class::Standard, 0, None),
        at(Class::Standard, 5, None),
        at(Class::Critical, 0, None),
        at(Class::Standard, 0, Some(START + 20)),
    ];
    bed.enqueue(
        priorities
            .into_iter()
            .zip(0..)
            .map(|(priority, number)| message("q", number).with_priority(priority))
            .collect(),
    )
    .await;
    let peeked: Vec<_> = bed
        .queues
        .peek(&name("q"), 10)
        .await
        .expect("readable")
        .iter()
        .map(|view| view.id.bits())
        .collect();
    assert_eq!(peeked, [5, 4, 6, 2, 1, 3, 0]);
    assert_eq!(numbers(&bed.lease("q", 3).await), [5, 4, 6]);
    assert_eq!(numbers(&bed.lease("q", 10).await), [2, 1, 3, 0]);
}

async fn a_repeated_id_is_enqueued_once(bed: Bed) {
    bed.enqueue(vec![message("q", 1)]).await;
    let outcomes = bed
        .queues
        .enqueue(vec![message("q", 1), message("q", 2), message("q", 2)])
        .await
        .expect("durable");
    assert_eq!(
        outcomes,
        [Ok(Enqueued::Existing), Ok(Enqueued::New), Ok(Enqueued::Existing)]
    );
    assert_eq!(numbers(&bed.lease("q", 10).await), [1, 2]);
}

async fn an_expired_lease_returns_the_message(bed: Bed) {
    bed.enqueue(vec![message("q", 1)]).await;
    let first = bed.lease("q", 1).await;
    bed.advance(29_999);
    assert!(bed.lease("q", 1).await.is_empty());
    bed.advance(1);
    let second = bed.lease("q", 1).await;
    assert_eq!((first[0].attempt, second[0].attempt), (1, 2));
    assert!(second[0].token > first[0].token);
    let stale = bed
        .queues
        .complete(&[first[0].lease()])
        .await
        .expect("the call itself works");
    assert!(stale[0].is_err(), "a stale token is refused");
    bed.complete(&second).await;
    assert_eq!(bed.queues.depth(&name("q")), 0);
}

async fn an_extended_lease_holds(bed: Bed) {
    bed.enqueue(vec![message("q", 1)]).await;
    let leased = bed.lease("q", 1).await;
    bed.advance(20_000);
    let until = bed.queues.extend(&[leased[0].lease()], 60_000);
    assert_eq!(until, [Ok(Timestamp::from_millis(START + 80_000))]);
    bed.advance(50_000);
    assert!(bed.lease("q", 1).await.is_empty());
    bed.advance(10_000);
    assert_eq!(bed.lease("q", 1).await.len(), 1);
}

fn failure(leased: &Leased, retryable: bool, delay_ms: i64) -> Failure {
    Failure {
        lease: leased.lease(),
        retryable,
        delay_ms,
        error: "no luck".to_owned(),
    }
}

async fn the_last_attempt_makes_a_dead_letter_and_redrive_revives_it(bed: Bed) {
    let mut twice = message("q", 1);
    twice.attempts_max = Some(2);
    bed.enqueue(vec![twice]).await;
    for expected in [
        Failed::Retried {
            visible_at: Timestamp::from_millis(START),
        },
        Failed::Errored,
    ] {
        let leased = bed.lease("q", 1).await;
        assert_eq!(
            bed.queues
                .fail(vec![failure(&leased[0], true, 0)])
                .await
                .expect("durable"),
            [Ok(expected)]
        );
    }
    assert!(bed.lease("q", 1).await.is_empty());
    let dead = bed
        .queues
        .view(&name("q"), id(1))
        .await
        .expect("readable")
        .expect("a dead letter is kept");
    assert_eq!(
        (dead.state, dead.attempt, dead.error.as_deref()),
        (State::Errored, 2, Some("no luck"))
    );
    assert_eq!(
        bed.queues.redrive(&name("q"), &[id(1)]).await.expect("durable"),
        [Ok(())]
    );
    assert_eq!(bed.lease("q", 1).await[0].attempt, 1);
}

async fn a_retry_waits_for_its_delay(bed: Bed) {
    bed.enqueue(vec![message("q", 1)]).await;
    let leased = bed.lease("q", 1).await;
    let outcome = bed
        .queues
        .fail(vec![failure(&leased[0], true, 500)])
        .await
        .expect("durable");
    assert_eq!(
        outcome,
        [Ok(Failed::Retried {
            visible_at: Timestamp::from_millis(START + 500)
        })]
    );
    bed.advance(499);
    assert!(bed.lease("q", 1).await.is_empty());
    bed.advance(1);
    assert_eq!(bed.lease("q", 1).await[0].attempt, 2);
}

async fn a_released_message_burns_no_attempt(bed: Bed) {
    bed.enqueue(vec![message("q", 1)]).await;
    let leased = bed.lease("q", 1).await;
    assert_eq!(bed.queues.release(&[leased[0].lease()]), [Ok(())]);
    assert_eq!(bed.lease("q", 1).await[0].attempt, 1);
}

async fn a_delayed_message_is_invisible_until_its_instant(bed: Bed) {
    bed.enqueue(vec![
        message("q", 1).visible_at(Timestamp::from_millis(START + 1_000)),
        message("q", 2),
    ])
    .await;
    assert_eq!(numbers(&bed.lease("q", 10).await), [2]);
    bed.advance(999);
    assert!(bed.lease("q", 1).await.is_empty());
    bed.advance(1);
    assert_eq!(numbers(&bed.lease("q", 10).await), [1]);
}

async fn a_message_expires(bed: Bed) {
    let mut mortal = message("q", 1);
    mortal.ttl_ms = Some(100);
    bed.enqueue(vec![mortal]).await;
    bed.advance(100);
    assert!(bed.lease("q", 1).await.is_empty());
    assert_eq!(
        bed.queues
            .view(&name("q"), id(1))
            .await
            .expect("readable")
            .expect("kept")
            .state,
        State::Expired
    );
}

async fn a_canceled_message_is_never_leased_and_its_lease_is_over(bed: Bed) {
    bed.enqueue(vec![message("q", 1), message("q", 2)]).await;
    let running = bed.lease("q", 1).await;
    let outcomes = bed
        .queues
        .cancel(&name("q"), &[id(1), id(2), id(3)])
        .await
        .expect("durable");
    assert_eq!(
        (outcomes[0].is_ok(), outcomes[1].is_ok(), outcomes[2].is_ok()),
        (true, true, false)
    );
    assert!(bed.lease("q", 10).await.is_empty());
    assert!(
        bed.queues
            .complete(&[running[0].lease()])
            .await
            .expect("the call works")[0]
            .is_err()
    );
}

async fn a_reprioritized_message_moves(bed: Bed) {
    bed.enqueue((0..3).map(|number| message("q", number)).collect())
        .await;
    let changes = [
        (id(2), Priority::of(Class::High)),
        (id(0), Priority::of(Class::Low)),
    ];
    assert_eq!(
        bed.queues
            .reprioritize(&name("q"), &changes)
            .await
            .expect("durable"),
        [Ok(()), Ok(())]
    );
    assert_eq!(numbers(&bed.lease("q", 10).await), [2, 1, 0]);
}

async fn one_key_is_leased_once_with_all_its_messages(bed: Bed) {
    bed.enqueue(vec![keyed("x/q", 1, 7), keyed("x/q", 2, 7), keyed("x/q", 3, 8)])
        .await;
    let keys = bed.lease_keys("x/q", 1).await;
    assert_eq!(numbers(&keys[0].messages), [1, 2]);
    bed.enqueue(vec![keyed("x/q", 4, 7)]).await;
    assert_eq!(numbers(&bed.lease_keys("x/q", 10).await[0].messages), [3]);
    assert!(bed.lease_keys("x/q", 10).await.is_empty());
    bed.complete(&keys[0].messages[..1]).await;
    assert!(
        bed.lease_keys("x/q", 10).await.is_empty(),
        "one message of the key is still running"
    );
    bed.complete(&keys[0].messages[1..]).await;
    assert_eq!(numbers(&bed.lease_keys("x/q", 10).await[0].messages), [4]);
}

async fn a_leased_key_delays_no_other(bed: Bed) {
    bed.enqueue((0..5_000).map(|number| keyed("x/q", number, 1)).collect())
        .await;
    let hot = bed.lease_keys("x/q", 1).await;
    assert_eq!(hot[0].messages.len(), 100, "bounded");
    bed.enqueue(vec![keyed("x/q", 9_999, 2)]).await;
    assert_eq!(numbers(&bed.lease_keys("x/q", 10).await[0].messages), [9_999]);
    bed.complete(&hot[0].messages).await;
    assert_eq!(numbers(&bed.lease_keys("x/q", 1).await[0].messages)[0], 100);
}

async fn a_failed_message_frees_its_key(bed: Bed) {
    bed.enqueue(vec![keyed("x/q", 1, 7), keyed("x/q", 2, 7)]).await;
    let first = bed.lease("x/q", 1).await;
    assert!(bed.lease("x/q", 1).await.is_empty());
    bed.queues
        .fail(vec![failure(&first[0], true, 1_000)])
        .await
        .expect("durable");
    assert_eq!(numbers(&bed.lease("x/q", 1).await), [2]);
    bed.advance(1_000);
    assert!(
        bed.lease("x/q", 1).await.is_empty(),
        "the key is held by the second message"
    );
}

async fn completed_messages_can_be_kept(bed: Bed) {
    let settings = Settings {
        keep_completed_ms: 1_000,
        ..Settings::simple()
    };
    bed.queues.configure(&name("q"), settings).expect("in range");
    bed.enqueue(vec![message("q", 1)]).await;
    bed.complete(&bed.lease("q", 1).await).await;
    assert_eq!(
        bed.queues
            .view(&name("q"), id(1))
            .await
            .expect("readable")
            .expect("kept")
            .state,
        State::Completed
    );
    assert_eq!(
        bed.queues.enqueue(vec![message("q", 1)]).await.expect("durable"),
        [Ok(Enqueued::Existing)]
    );
    bed.advance(1_000);
    assert!(bed.lease("q", 1).await.is_empty());
    assert!(
        bed.queues
            .view(&name("q"), id(1))
            .await
            .expect("readable")
            .is_none()
    );
}

async fn ended_messages_are_forgotten_in_time(bed: Bed) {
    bed.enqueue(vec![message("q", 1)]).await;
    bed.queues.cancel(&name("q"), &[id(1)]).await.expect("durable");
    assert_eq!(
        bed.queues
            .stats(&name("q"))
            .expect("there")
            .count(State::Canceled),
        1
    );
    bed.advance(7 * 24 * 3_600_000);
    assert_eq!(
        bed.queues
            .stats(&name("q"))
            .expect("there")
            .count(State::Canceled),
        0
    );
}
