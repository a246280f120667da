//! The life of runs on a real store and a real queue, with a test in the place of the workers.

mod archive;
mod bed;
mod children;
mod compaction;
mod damage;
mod driven;
mod events;
#[path = "../given/mod.rs"]
mod given;
mod groups;
mod holds;
mod line;
mod sharing;
mod steering;
mod stops;
mod sweeping;
mod versions;

use std::collections::BTreeMap;
use std::sync::Arc;

use bed::{files, node};
use celesta_runs::{RunFilter, RunState, SubmitError, Wish};
use celesta_types::ErrorClass;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_becomes_a_run_and_its_result_is_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node
        .submit("count", r#"{"total":3}"#, None)
        .await
        .expect("accepted");
    node.serve(3).await;
    let view = node.ended(run).await;
    assert_eq!(view.state, RunState::Completed, "{view:?}");
    assert_eq!(
        view.result.as_ref().map(|result| result.get()),
        Some(r#"{"count":3}"#)
    );
    let calls = node.runtime.calls(run).await.expect("the journal reads");
    assert_eq!(calls.len(), 3);
    assert!(
        calls
            .iter()
            .all(|call| call.attempts == 1 && call.target == "echo")
    );
    let turns = node
        .runtime
        .history(run, 0, 100)
        .await
        .expect("the journal reads")
        .expect("the run is there");
    assert_eq!(
        turns.len(),
        4,
        "one for the request and one for each result: {turns:?}"
    );
    let facts = node
        .runtime
        .facts(run, None, 0, 10)
        .await
        .expect("the run reads")
        .expect("the run is there");
    assert_eq!(facts.rows.len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_at_once_lose_and_double_nothing_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = node(folder.path()).await;
    first.runtime.push("bench", files()).await.expect("a good bundle");
    let mut runs = Vec::new();
    for _ in 0..50 {
        runs.push(
            first
                .submit("count", r#"{"total":4}"#, None)
                .await
                .expect("accepted"),
        );
    }
    first.serve(75).await;
    first.stop().await;
    let second = node(folder.path()).await;
    second.serve(125).await;
    for run in runs {
        let view = second.ended(run).await;
        assert_eq!(
            view.result.as_ref().map(|result| result.get()),
            Some(r#"{"count":4}"#),
            "{view:?}"
        );
    }
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_names_the_same_run_and_another_body_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node
        .submit("count", r#"{"total":0}"#, Some("k"))
        .await
        .expect("accepted");
    assert_eq!(
        node.submit("count", r#"{"total":0}"#, Some("k"))
            .await
            .expect("the same"),
        run
    );
    let other = node.submit("count", r#"{"total":1}"#, Some("k")).await;
    assert!(
        matches!(other, Err(SubmitError::IdempotencyConflict { run: first }) if first == run),
        "{other:?}"
    );
    let wrong = node.submit("count", r#"{"total":-1}"#, None).await;
    assert!(
        matches!(wrong, Err(SubmitError::InvalidInput { .. })),
        "{wrong:?}"
    );
    let page = node
        .runtime
        .list(&RunFilter::default(), None, 10)
        .await
        .expect("the store answers");
    assert_eq!(page.rows.len(), 1, "nothing else was stored");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_in_a_cycle_are_put_aside_and_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node.submit("cycle", "{}", None).await.expect("accepted");
    let view = node.ended(run).await;
    assert_eq!(view.state, RunState::Quarantined);
    let error = view.error.expect("a reason");
    assert!(error.contains("up") && error.contains("down"), "{error}");
    // The store still reads, and the run can be called off.
    node.runtime
        .cancel(run, &Wish::anonymous("never mind"))
        .await
        .expect("cancel is legal");
    loop {
        let view = node
            .runtime
            .run(run)
            .await
            .expect("the store answers")
            .expect("the run is there");
        if view.state == RunState::Canceled {
            break;
        }
        tokio::task::yield_now().await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_is_tried_again_from_its_failed_call() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node
        .submit("failing", r#"{"name":"x"}"#, None)
        .await
        .expect("accepted");
    let leased = node.lease(1).await;
    node.answer(&leased[0], Some((ErrorClass::User, "no luck")));
    let view = node.ended(run).await;
    assert_eq!(view.state, RunState::Failed, "{view:?}");
    assert!(
        view.error
            .as_deref()
            .is_some_and(|error| error.contains("no luck")),
        "{view:?}"
    );
    node.runtime
        .retry(run, &Wish::anonymous("again"))
        .await
        .expect("a failed run may be tried again");
    node.serve(1).await;
    let mut view = node.ended(run).await;
    while view.state == RunState::Failed {
        tokio::task::yield_now().await;
        view = node.ended(run).await;
    }
    assert_eq!(view.state, RunState::Completed, "{view:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_told_once_each_and_end_with_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = Arc::new(node(folder.path()).await);
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node
        .submit("count", r#"{"total":2}"#, None)
        .await
        .expect("accepted");
    let mut events = node.runtime.events(run, 0);
    let mut seen = BTreeMap::new();
    let mut served = false;
    while let Some(batch) = events.next().await.expect("the run reads") {
        for event in batch {
            assert!(
                seen.insert((event.seq, event.index), event.kind).is_none(),
                "{event:?} was told twice"
            );
        }
        if !served {
            served = true;
            node.serve(2).await;
        }
    }
    assert_eq!(seen.values().filter(|kind| **kind == "turn").count(), 3);
    assert_eq!(seen.values().last(), Some(&"completed"));
    drop(events);
    Arc::into_inner(node).expect("no other holder").stop().await;
}
