//! Messages that travel unstored: durable by being completed, stored on their own only when nobody comes.

use celesta_queue::{EnqueueError, Enqueued, HandOver, Leased};
use celesta_store::{Committed, Store, Unit};

use crate::bed::{Bed, id, keyed, message, name, numbers};

/// Completes a message of `q` and hands over its answer to key 1 of `x/q`.
fn answer(bed: &Bed, leased: &Leased, number: u128) -> (HandOver, Committed) {
    let mut companion = Unit::new();
    bed.queues
        .stage_complete(&mut companion, &[leased.lease()])
        .expect("held");
    let committed = Store::watch(&mut companion);
    (
        HandOver {
            message: keyed("x/q", number, 1),
            companion,
        },
        committed,
    )
}

async fn handed_over(bed: &Bed) -> Committed {
    bed.enqueue(vec![message("q", 1)]).await;
    let leased = bed.lease("q", 1).await;
    let (hand_over, committed) = answer(bed, &leased[0], 2);
    assert!(bed.queues.hand_over(vec![hand_over]).is_empty());
    committed
}

async fn rows(bed: &Bed) -> i64 {
    let store = bed.store.as_ref().expect("a record");
    store
        .fetch("SELECT count(*) FROM queue_rows", &[])
        .await
        .expect("readable")[0]
        .int(0)
        .expect("a count")
}

#[tokio::test]
async fn a_message_taken_in_time_is_never_stored() {
    let bed = Bed::sqlite().await;
    let committed = handed_over(&bed).await;
    let keys = bed.lease_keys("x/q", 1).await;
    assert_eq!(numbers(&keys[0].messages), [2]);
    bed.settle().await;
    assert_eq!(rows(&bed).await, 1, "the companion waits for the turn");
    let mut turn = Unit::new();
    bed.queues
        .stage_complete(&mut turn, &[keys[0].messages[0].lease()])
        .expect("held");
    bed.store
        .as_ref()
        .expect("a record")
        .commit(turn)
        .await
        .expect("durable");
    committed.wait().await.expect("durable with the turn");
    assert_eq!(rows(&bed).await, 0);
    assert_eq!(
        (bed.queues.depth(&name("q")), bed.queues.depth(&name("x/q"))),
        (0, 0)
    );
}

#[tokio::test]
async fn a_message_nobody_takes_is_stored_with_its_companion() {
    let bed = Bed::sqlite().await;
    let committed = handed_over(&bed).await;
    tokio::task::yield_now().await;
    bed.advance(20);
    committed.wait().await.expect("durable on its own");
    assert_eq!(rows(&bed).await, 1);
    let after = bed.crash().await;
    assert_eq!(after.queues.depth(&name("q")), 0);
    assert_eq!(numbers(&after.lease_keys("x/q", 1).await[0].messages), [2]);
    bed.complete(&bed.lease_keys("x/q", 1).await[0].messages).await;
    assert_eq!(rows(&bed).await, 0);
}

#[tokio::test]
async fn a_released_message_is_stored_with_its_companion() {
    let bed = Bed::sqlite().await;
    let committed = handed_over(&bed).await;
    let keys = bed.lease_keys("x/q", 1).await;
    assert_eq!(bed.queues.release(&[keys[0].messages[0].lease()]), [Ok(())]);
    committed.wait().await.expect("durable on its own");
    bed.settle().await;
    assert_eq!(bed.lease_keys("x/q", 1).await[0].messages[0].attempt, 1);
}

#[tokio::test]
async fn a_lapsed_message_is_stored_with_its_companion() {
    let bed = Bed::sqlite().await;
    let committed = handed_over(&bed).await;
    let keys = bed.lease_keys("x/q", 1).await;
    bed.advance(30_000);
    assert!(
        bed.queues
            .complete(&[keys[0].messages[0].lease()])
            .await
            .expect("works")[0]
            .is_err()
    );
    committed.wait().await.expect("durable on its own");
    bed.settle().await;
    assert_eq!(bed.lease_keys("x/q", 1).await[0].messages[0].attempt, 2);
}

#[tokio::test]
async fn a_failed_turn_undoes_both_and_the_answer_can_be_given_again() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![message("q", 1)]).await;
    let leased = bed.lease("q", 1).await;
    let (hand_over, committed) = answer(&bed, &leased[0], 2);
    assert!(bed.queues.hand_over(vec![hand_over]).is_empty());
    let keys = bed.lease_keys("x/q", 1).await;
    let mut turn = Unit::new();
    bed.queues
        .stage_complete(&mut turn, &[keys[0].messages[0].lease()])
        .expect("held");
    drop(turn);
    assert!(committed.wait().await.is_err());
    assert!(
        bed.queues
            .view(&name("x/q"), id(2))
            .await
            .expect("readable")
            .is_none(),
        "it was never sent"
    );
    let (again, _committed) = answer(&bed, &leased[0], 2);
    assert!(bed.queues.hand_over(vec![again]).is_empty());
    assert_eq!(numbers(&bed.lease_keys("x/q", 1).await[0].messages), [2]);
}

#[tokio::test]
async fn a_crash_before_the_turn_leaves_the_answered_message() {
    let bed = Bed::sqlite().await;
    let _committed = handed_over(&bed).await;
    bed.lease_keys("x/q", 1).await;
    bed.settle().await;
    let after = bed.crash().await;
    assert_eq!(
        numbers(&after.lease("q", 1).await),
        [1],
        "its function runs again"
    );
    assert_eq!(after.queues.depth(&name("x/q")), 0);
}

#[tokio::test]
async fn what_is_not_allowed_is_given_back_whole() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![message("q", 1)]).await;
    let leased = bed.lease("q", 1).await;
    let (mut wrong, _committed) = answer(&bed, &leased[0], 2);
    wrong.message.key = None;
    let refused = bed.queues.hand_over(vec![wrong]);
    assert!(matches!(refused[0].error, EnqueueError::MissingKey { .. }));
    drop(refused);
    bed.complete(&leased).await;
}

#[tokio::test]
async fn a_repeated_answer_of_a_stored_message_commits_its_companion() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![message("q", 1), keyed("x/q", 2, 1)]).await;
    let leased = bed.lease("q", 1).await;
    let (again, committed) = answer(&bed, &leased[0], 2);
    assert!(bed.queues.hand_over(vec![again]).is_empty());
    committed.wait().await.expect("durable");
    assert_eq!(bed.queues.depth(&name("x/q")), 1);
    assert_eq!(
        bed.queues
            .enqueue(vec![keyed("x/q", 2, 1)])
            .await
            .expect("durable"),
        [Ok(Enqueued::Existing)]
    );
}

#[tokio::test]
async fn shutdown_stores_what_still_waits() {
    let bed = Bed::sqlite().await;
    let committed = handed_over(&bed).await;
    bed.tasks.shutdown().request();
    committed.wait().await.expect("durable before the end");
}

#[tokio::test]
async fn a_fan_in_is_taken_and_completed_in_one_turn() {
    let bed = Bed::sqlite().await;
    bed.enqueue((0..90).map(|number| message("q", number)).collect())
        .await;
    let leased = bed.lease("q", 100).await;
    let (hand_overs, commits): (Vec<_>, Vec<_>) = leased
        .iter()
        .map(|leased| answer(&bed, leased, 1_000 + leased.id.bits()))
        .unzip();
    assert!(bed.queues.hand_over(hand_overs).is_empty());
    let keys = bed.lease_keys("x/q", 1).await;
    assert_eq!(keys[0].messages.len(), 90);
    bed.complete(&keys[0].messages).await;
    for commit in commits {
        commit.wait().await.expect("durable with the turn");
    }
    assert_eq!(rows(&bed).await, 0);
}
