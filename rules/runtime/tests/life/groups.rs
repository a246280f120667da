//! Groups of runs, of which only so many are under way at once.

use std::time::Duration;

use celesta_functions::Invocation;
use celesta_runs::{RunState, Wish};
use celesta_types::{ErrorClass, RunId};

use crate::bed::{Node, node};
use crate::line::line;

async fn ready(folder: &tempfile::TempDir) -> Node {
    let node = node(folder.path()).await;
    node.runtime.push("line", line()).await.expect("a good bundle");
    node
}

fn named(name: &str) -> String {
    format!(r#"{{"name":"{name}"}}"#)
}

/// The runs whose calls are served next, with their leases answered.
async fn serve_one(node: &Node, error: Option<(ErrorClass, &str)>) -> RunId {
    let leased = node.lease_of("line", 1).await;
    let leased = leased.first().expect("a call comes");
    node.answer(leased, error);
    Invocation::decode(&leased.payload).expect("readable").run
}

async fn places(node: &Node) -> usize {
    let rows = node.store.fetch("SELECT * FROM places", &[]).await;
    rows.expect("reads").len()
}

/// Waits until the gates have heard that all runs have left: a run is seen to have ended before.
async fn all_have_left(node: &Node) {
    while places(node).await > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_in_the_order_they_came_even_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = ready(&folder).await;
    let mut runs = Vec::new();
    for at in 0..5 {
        let run = first.ask("limited", &named(&at.to_string())).await;
        if at < 2 {
            first.until(run, RunState::Running).await;
        }
        // Each has come to the gate before the next is asked for.
        while places(&first).await <= at {
            tokio::task::yield_now().await;
        }
        runs.push(run);
    }
    let view = first.until(runs[2], RunState::Waiting).await;
    assert_eq!(view.concurrency[0].strategy, "parallel(2)");
    assert_eq!(view.labels.get("order").map(String::as_str), Some("2"));
    first.stop().await;

    let second = node(folder.path()).await;
    for waiting in &runs[2..] {
        assert_eq!(second.view(*waiting).await.state, RunState::Waiting);
    }
    let mut served = vec![serve_one(&second, None).await, serve_one(&second, None).await];
    served.sort();
    assert_eq!(served, runs[..2]);
    let mut served = vec![serve_one(&second, None).await, serve_one(&second, None).await];
    served.sort();
    assert_eq!(served, runs[2..4]);
    assert_eq!(serve_one(&second, None).await, runs[4]);
    for run in runs {
        assert_eq!(second.ended(run).await.state, RunState::Completed);
    }
    assert!(
        places(&second).await <= 2,
        "nothing is left of a group that is done"
    );
    all_have_left(&second).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_blocks_a_strict_group_and_no_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let first = node.ask("strict", &named("a")).await;
    node.until(first, RunState::Running).await;
    let second = node.ask("strict", &named("a")).await;
    serve_one(&node, Some((ErrorClass::User, "no luck"))).await;
    node.until(first, RunState::Failed).await;
    let other = node.ask("strict", &named("b")).await;
    assert_eq!(
        serve_one(&node, None).await,
        other,
        "another key is another group"
    );
    node.ended(other).await;
    assert_eq!(node.view(second).await.state, RunState::Waiting);
    node.runtime
        .retry(first, &Wish::anonymous("mended"))
        .await
        .expect("it has failed");
    assert_eq!(serve_one(&node, None).await, first);
    assert_eq!(serve_one(&node, None).await, second);
    node.until(second, RunState::Completed).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_only_cancels_the_later() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let first = node.ask("first", &named("a")).await;
    node.until(first, RunState::Running).await;
    let second = node.ask("first", &named("b")).await;
    let view = node.until(second, RunState::Canceled).await;
    assert!(view.error.is_some_and(|error| error.contains("first-only")));
    serve_one(&node, None).await;
    node.until(first, RunState::Completed).await;
    all_have_left(&node).await;
    let third = node.ask("first", &named("c")).await;
    assert_eq!(serve_one(&node, None).await, third);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_only_cancels_the_earlier() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let first = node.ask("last", &named("a")).await;
    node.until(first, RunState::Running).await;
    let second = node.ask("last", &named("b")).await;
    node.until(first, RunState::Canceled).await;
    node.until(second, RunState::Running).await;
    assert_eq!(
        serve_one(&node, None).await,
        second,
        "the first one's call is called off"
    );
    node.until(second, RunState::Completed).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_only_keeps_the_newest_of_those_that_wait() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let first = node.ask("latest", &named("a")).await;
    node.until(first, RunState::Running).await;
    let second = node.ask("latest", &named("b")).await;
    node.until(second, RunState::Waiting).await;
    let third = node.ask("latest", &named("c")).await;
    node.until(second, RunState::Canceled).await;
    assert_eq!(node.view(first).await.state, RunState::Running);
    assert_eq!(serve_one(&node, None).await, first);
    assert_eq!(serve_one(&node, None).await, third);
    node.until(third, RunState::Completed).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_run_can_be_called_off_and_keeps_facts_that_are_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let first = node.ask("double", &named("a")).await;
    node.until(first, RunState::Running).await;
    let second = node.ask("double", &named("a")).await;
    let third = node.ask("double", &named("a")).await;
    let writes = celesta_runs::WriteFacts {
        writes: br#"[{"insert":"Job","fields":{"name":"more"}}]"#.to_vec(),
        idempotency_key: None,
        by: "ann".to_owned(),
    };
    let written = node.runtime.write_facts(third, writes, Duration::ZERO).await;
    assert_eq!(written.expect("it is durable"), None);
    node.runtime
        .cancel(second, &Wish::anonymous("not that one"))
        .await
        .expect("a waiting run may be canceled");
    node.until(second, RunState::Canceled).await;
    assert_eq!(serve_one(&node, None).await, first);
    // Both of its facts call: the request's and the one that was written while it waited.
    let leased = [node.lease_of("line", 1).await, node.lease_of("line", 1).await].concat();
    let mut names: Vec<_> = leased
        .iter()
        .map(|leased| {
            let invocation = Invocation::decode(&leased.payload).expect("readable");
            assert_eq!(invocation.run, third);
            String::from_utf8_lossy(invocation.input).into_owned()
        })
        .collect();
    names.sort();
    assert_eq!(names, [named("a"), named("more")]);
    let facts = node
        .runtime
        .facts(third, None, 0, 10)
        .await
        .expect("reads")
        .expect("there");
    assert!(
        facts.rows[0].value.get().contains("\"a\""),
        "the request came first: {facts:?}"
    );
    node.stop().await;
}
