//! What only a record can show: callers' units, failures, crashes.

use std::time::Duration;

use celesta_queue::machine::State;
use celesta_queue::{Enqueued, Failure, Leased};
use celesta_store::{Store, Unit};
use celesta_types::Timestamp;

use crate::bed::{Bed, START, id, keyed, message, name, numbers, request};

#[tokio::test]
async fn a_staged_message_is_visible_once_its_unit_is_durable() {
    let bed = Bed::sqlite().await;
    let mut unit = Unit::new();
    bed.queues
        .stage_enqueue(&mut unit, vec![message("q", 1), keyed("x/q", 2, 1)])
        .expect("allowed");
    assert!(bed.lease("q", 1).await.is_empty());
    let store = bed.store.as_ref().expect("a record");
    store.commit(unit).await.expect("durable");
    assert_eq!(numbers(&bed.lease("q", 1).await), [1]);
    assert_eq!(numbers(&bed.lease("x/q", 1).await), [2]);
}

#[tokio::test]
async fn a_dropped_unit_leaves_no_trace() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![message("q", 1)]).await;
    let leased = bed.lease("q", 1).await;
    let mut unit = Unit::new();
    bed.queues
        .stage_enqueue(&mut unit, vec![message("q", 2)])
        .expect("allowed");
    bed.queues
        .stage_complete(&mut unit, &[leased[0].lease()])
        .expect("held");
    assert!(
        bed.queues
            .stage_complete(&mut Unit::new(), &[leased[0].lease()])
            .is_err(),
        "it is being settled"
    );
    drop(unit);
    assert!(
        bed.queues
            .view(&name("q"), id(2))
            .await
            .expect("readable")
            .is_none()
    );
    bed.complete(&leased).await;
    bed.enqueue(vec![message("q", 2)]).await;
}

#[tokio::test]
async fn a_failed_unit_leaves_the_lease_to_lapse() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![keyed("x/q", 1, 1)]).await;
    let leased = bed.lease_keys("x/q", 1).await;
    let lease = leased[0].messages[0].lease();
    let mut unit = Unit::new();
    bed.queues
        .stage_complete(&mut unit, std::slice::from_ref(&lease))
        .expect("held");
    bed.advance(40_000);
    assert!(
        bed.lease_keys("x/q", 1).await.is_empty(),
        "nobody takes what is being settled"
    );
    drop(unit);
    assert_eq!(bed.lease_keys("x/q", 1).await[0].messages[0].attempt, 2);
}

#[tokio::test]
async fn an_error_in_a_batch_stages_nothing() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![message("q", 1)]).await;
    let leased = bed.lease("q", 1).await;
    let mut gone = leased[0].lease();
    gone.id = id(99);
    let mut unit = Unit::new();
    assert!(
        bed.queues
            .stage_complete(&mut unit, &[leased[0].lease(), gone])
            .is_err()
    );
    assert!(
        bed.queues
            .stage_enqueue(&mut unit, vec![message("q", 2), message("x/q", 3)])
            .is_err()
    );
    assert!(unit.is_empty());
    assert!(
        bed.queues
            .view(&name("q"), id(2))
            .await
            .expect("readable")
            .is_none()
    );
    bed.complete(&leased).await;
}

#[tokio::test]
async fn everything_acknowledged_survives_a_crash() {
    let bed = Bed::sqlite().await;
    let mut rich = message("q", 4).visible_at(Timestamp::from_millis(START + 5_000));
    rich.metadata = vec![("tenant".to_owned(), "a".to_owned())];
    rich.fairness = Some("a".into());
    rich.attempts_max = Some(9);
    bed.enqueue(vec![message("q", 1), message("q", 2), keyed("x/q", 3, 1), rich])
        .await;
    bed.complete(&bed.lease("q", 1).await).await;
    let failed = bed.lease("q", 1).await;
    let failure = Failure {
        lease: failed[0].lease(),
        retryable: false,
        delay_ms: 0,
        error: "broken".to_owned(),
    };
    bed.queues.fail(vec![failure]).await.expect("durable")[0]
        .clone()
        .expect("held");
    let after = bed.crash().await;
    assert!(
        after
            .queues
            .view(&name("q"), id(1))
            .await
            .expect("readable")
            .is_none(),
        "completed"
    );
    let dead = after
        .queues
        .view(&name("q"), id(2))
        .await
        .expect("readable")
        .expect("kept");
    assert_eq!(
        (dead.state, dead.error.as_deref()),
        (State::Errored, Some("broken"))
    );
    assert_eq!(numbers(&after.lease_keys("x/q", 1).await[0].messages), [3]);
    assert!(after.lease("q", 1).await.is_empty());
    after.advance(5_000);
    let rich = after.lease("q", 1).await;
    assert_eq!((numbers(&rich), rich[0].attempts_max), (vec![4], 9));
    assert_eq!(rich[0].metadata.as_ref().expect("kept")[0].1, "a");
    assert_eq!(
        after
            .queues
            .enqueue(vec![message("q", 2)])
            .await
            .expect("durable"),
        [Ok(Enqueued::Existing)]
    );
}

#[tokio::test]
async fn a_token_of_an_earlier_life_is_stale() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![message("q", 1)]).await;
    let old = bed.lease("q", 1).await;
    let after = bed.crash().await;
    let new = after.lease("q", 1).await;
    assert!(new[0].token > old[0].token);
    assert!(
        after
            .queues
            .complete(&[old[0].lease()])
            .await
            .expect("the call works")[0]
            .is_err()
    );
    after.complete(&new).await;
}

#[tokio::test]
async fn a_long_lease_counts_as_an_attempt_after_a_crash() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![message("q", 1), message("q", 2)]).await;
    bed.lease("q", 1).await;
    bed.advance(1_000);
    let short = bed.lease("q", 1).await;
    bed.settle().await;
    let after = bed.crash().await;
    assert_eq!(numbers(&short), [2]);
    let attempts: Vec<_> = after
        .lease("q", 2)
        .await
        .iter()
        .map(|leased| (leased.id.bits(), leased.attempt))
        .collect();
    assert_eq!(attempts, [(1, 2), (2, 1)]);
}

#[tokio::test]
async fn a_message_that_kills_every_process_ends_as_a_dead_letter() {
    let mut bed = Bed::sqlite().await;
    let mut poison = message("q", 1);
    poison.attempts_max = Some(3);
    bed.enqueue(vec![poison]).await;
    for _ in 0..10 {
        // Leased and killed at once: after the first start this is written down immediately.
        if bed.lease("q", 1).await.is_empty() {
            break;
        }
        bed.settle().await;
        bed = bed.crash().await;
    }
    assert_eq!(
        bed.queues
            .view(&name("q"), id(1))
            .await
            .expect("readable")
            .expect("kept")
            .state,
        State::Errored
    );
}

#[tokio::test]
async fn messages_and_settings_survive_an_orderly_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("queue.db");
    let bed = Bed::at(&path, START).await;
    let settings = celesta_queue::Settings {
        lease_ms: 5_000,
        ..celesta_queue::Settings::exclusive()
    };
    bed.queues
        .configure(&name("k"), settings.clone())
        .expect("in range");
    bed.enqueue(vec![keyed("k", 1, 1)]).await;
    let Bed {
        queues, store, tasks, ..
    } = bed;
    drop((queues, store));
    assert!(tasks.stop(Duration::from_secs(20)).await);
    let bed = Bed::at(&path, START).await;
    assert_eq!(bed.queues.stats(&name("k")).expect("there").settings, settings);
    assert_eq!(bed.lease_keys("k", 1).await.len(), 1);
}

#[tokio::test]
async fn a_staged_cancel_takes_effect_with_its_unit() {
    let bed = Bed::sqlite().await;
    bed.enqueue(vec![message("q", 1), message("q", 2)]).await;
    let mut unit = Unit::new();
    assert_eq!(
        bed.queues.stage_cancel(&mut unit, &name("q"), &[id(1), id(7)]),
        [id(1)]
    );
    assert_eq!(numbers(&bed.lease("q", 10).await), [2]);
    drop(unit);
    assert_eq!(
        numbers(&bed.lease("q", 10).await),
        [1],
        "the unit was dropped, so the message is back"
    );
    let mut unit = Unit::new();
    bed.queues.stage_cancel(&mut unit, &name("q"), &[id(1)]);
    let committed = Store::watch(&mut unit);
    bed.store.as_ref().expect("a record").submit(unit).await;
    committed.wait().await.expect("durable");
    assert_eq!(
        bed.queues
            .view(&name("q"), id(1))
            .await
            .expect("readable")
            .expect("kept")
            .state,
        State::Canceled
    );
    let after = bed.crash().await;
    assert_eq!(numbers(&after.lease("q", 10).await), [2]);
}

#[tokio::test]
async fn concurrent_producers_share_commits_and_lose_nothing() {
    let bed = Bed::sqlite().await;
    let producers = (0..200_u128).map(|producer| {
        let messages = (0..10)
            .map(|number| message("q", producer * 10 + number))
            .collect();
        bed.queues.enqueue(messages)
    });
    for outcome in futures_util::future::join_all(producers).await {
        assert!(outcome.expect("durable").iter().all(Result::is_ok));
    }
    let leased: Vec<Leased> = bed.queues.try_lease(&request("q", 5_000)).expect("there");
    assert_eq!(leased.len(), 2_000);
    bed.complete(&leased).await;
    let after = bed.crash().await;
    assert_eq!(after.queues.depth(&name("q")), 0);
}
