//! Requests between services: urgency, time, cancellation and trace go down the tree, and trees have a bottom.

use std::time::Duration;

use celesta_functions::Invocation;
use celesta_runs::{RunFilter, RunState, Wish};
use celesta_types::{Class, Priority, RunId, Timestamp};

use crate::bed::{Node, node};
use crate::line::line;

async fn ready(folder: &tempfile::TempDir) -> Node {
    let node = node(folder.path()).await;
    node.runtime.push("line", line()).await.expect("a good bundle");
    node
}

async fn child_of(node: &Node, parent: RunId) -> RunId {
    loop {
        let calls = node.runtime.calls(parent).await.expect("reads");
        if let Some(call) = calls.first() {
            return parent.child(call.call);
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_becomes_urgent_lifts_its_child_and_its_calls() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let low = Priority::of(Class::Low);
    let input = r#"{"target":"line/one","input":{"name":"lifted"}}"#;
    let parent = node.ask_at("ask", input, low).await;
    let child = child_of(&node, parent).await;
    node.until_it(child, |view| view.priority.class == Class::Low)
        .await;
    // Something of ordinary urgency would be served before it.
    let other = node.ask("one", r#"{"name":"ordinary"}"#).await;
    for run in [child, other] {
        while node.runtime.calls(run).await.expect("reads").is_empty() {
            tokio::task::yield_now().await;
        }
    }
    let critical = Priority {
        deadline: Some(Timestamp::from_millis(4_000_000_000_000)),
        ..Priority::of(Class::Critical)
    };
    let wish = Wish {
        reason: "the customer waits".to_owned(),
        by: "ann".to_owned(),
    };
    node.runtime
        .prioritize(parent, critical, &wish)
        .await
        .expect("it is running");
    let view = node
        .until_it(child, |view| view.priority.class == Class::Critical)
        .await;
    assert_eq!(view.priority.deadline, critical.deadline, "{view:?}");
    let leased = node.lease_of("line", 1).await;
    let invocation = Invocation::decode(&leased[0].payload).expect("readable");
    assert_eq!(invocation.run, child, "its call overtakes");
    assert!(invocation.trace.is_some(), "calls of children belong to a trace");
    let turns = node
        .runtime
        .history(parent, 0, 10)
        .await
        .expect("reads")
        .expect("there");
    let cause = &turns.last().expect("a turn").causes[0];
    assert_eq!((cause.kind, cause.by.as_deref()), ("priority", Some("ann")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_has_the_earlier_deadline_and_its_parents_trace() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let deadline = Timestamp::from_millis(4_000_000_000_000);
    let input = r#"{"target":"line/one","input":{"name":"x"},"timeout":"1h"}"#;
    let urgent = Priority {
        deadline: Some(deadline),
        ..Priority::default()
    };
    let parent = node.ask_at("ask", input, urgent).await;
    let child = node.view(child_of(&node, parent).await).await;
    let own = child.priority.deadline.expect("its parent gave it an hour");
    assert!(own < deadline, "{child:?}");
    assert_eq!(child.parent, Some(parent));
    let trace = child.trace.expect("a link");
    let span = parent.bits() & u128::from(u64::MAX);
    assert_eq!(trace, format!("00-{:032x}-{span:016x}-01", parent.bits()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_answered_in_time_fails_and_its_run_is_called_off() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let input = r#"{"target":"line/one","input":{"name":"x"},"timeout":"50ms"}"#;
    let parent = node.ask("ask", input).await;
    let child = child_of(&node, parent).await;
    let view = node.ended(parent).await;
    assert_eq!(view.state, RunState::Failed);
    assert!(
        view.error
            .is_some_and(|error| error.contains("not answered in time"))
    );
    node.until(child, RunState::Canceled).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_parent_cancels_its_tree_even_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = ready(&folder).await;
    let input = r#"{"target":"line/ask","input":{"target":"line/one","input":{"name":"x"}}}"#;
    let parent = first.ask("ask", input).await;
    let child = child_of(&first, parent).await;
    let grandchild = child_of(&first, child).await;
    first.until(grandchild, RunState::Running).await;
    first.stop().await;
    let second = node(folder.path()).await;
    second
        .runtime
        .cancel(parent, &Wish::anonymous("no more"))
        .await
        .expect("legal");
    for run in [parent, child, grandchild] {
        second.until(run, RunState::Canceled).await;
    }
    let turns = second
        .runtime
        .history(grandchild, 0, 10)
        .await
        .expect("reads")
        .expect("there");
    let by = turns.last().and_then(|turn| turn.causes[0].by.clone());
    assert_eq!(by, Some(child.to_string()), "who asked stands in the history");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_cycle_end_with_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    // Each level asks for the next one, deeper than requests may nest.
    let mut input = r#"{"target":"line/one","input":{"name":"x"}}"#.to_owned();
    for _ in 0..20 {
        input = format!(r#"{{"target":"line/ask","input":{input}}}"#);
    }
    let run = node.ask("ask", &input).await;
    let view = node
        .runtime
        .wait(run, Duration::from_secs(20))
        .await
        .expect("the store answers")
        .expect("the run is there");
    assert_eq!(view.state, RunState::Failed);
    let error = view.error.expect("a reason");
    assert!(
        error.contains("requests nest at most 16 deep") && error.contains("the cycle is line/ask → line/ask"),
        "{error}"
    );
    let all = node
        .runtime
        .list(&RunFilter::default(), None, 100)
        .await
        .expect("reads");
    assert_eq!(all.rows.len(), 17, "no more were made");
    node.stop().await;
}
