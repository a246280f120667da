//! Events from outside and from rules reach operations and runs, once.

use celesta_runs::{CloudEvent, Published, RunFilter, RunState};
use serde_json::json;

use crate::bed::{Node, node};
use crate::line::line;

async fn ready(folder: &tempfile::TempDir) -> Node {
    let node = node(folder.path()).await;
    node.runtime.push("line", line()).await.expect("a good bundle");
    node
}

fn event(id: &str, event_type: &str, more: serde_json::Value) -> CloudEvent {
    let mut event = json!({ "specversion": "1.0", "id": id, "source": "/shop", "type": event_type });
    if let (Some(event), serde_json::Value::Object(more)) = (event.as_object_mut(), more) {
        event.extend(more);
    }
    CloudEvent::read(event).expect("a good event")
}

async fn publish(node: &Node, events: &[CloudEvent]) -> Vec<Published> {
    node.runtime.publish(events).await.expect("taken")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_starts_a_run_once_even_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = ready(&folder).await;
    let ordered = || event("1", "shop.order.placed", json!({ "data": { "name": "ann" } }));
    let unheard = event("2", "weather", json!({}));
    let published = publish(&first, &[ordered(), ordered(), unheard]).await;
    assert!(published[1].duplicate && !published[0].duplicate, "{published:?}");
    assert!(published[2].deliveries.is_empty(), "{published:?}");
    let run = published[0].deliveries[0].run.expect("a run");
    let view = first.until(run, RunState::Running).await;
    assert_eq!(view.labels.get("order").map(String::as_str), Some("ann"));
    first.stop().await;
    let second = node(folder.path()).await;
    let again = publish(&second, &[ordered()]).await;
    assert!(again[0].duplicate, "{again:?}");
    let all = second
        .runtime
        .list(&RunFilter::default(), None, 10)
        .await
        .expect("reads");
    assert_eq!(all.rows.len(), 1);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_sent_many_times_at_once_counts_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let ordered = [event(
        "1",
        "shop.order.placed",
        json!({ "data": { "name": "ann" } }),
    )];
    let sends = (0..16).map(|_| node.runtime.publish(&ordered));
    let all = futures_util::future::join_all(sends).await;
    let fresh = all
        .into_iter()
        .filter(|published| published.as_ref().is_ok_and(|published| !published[0].duplicate));
    assert_eq!(fresh.count(), 1);
    let all = node
        .runtime
        .list(&RunFilter::default(), None, 100)
        .await
        .expect("reads");
    assert_eq!(all.rows.len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_becomes_a_fact_of_the_runs_with_its_label() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let seven = node.ask("await", r#"{"order":"7"}"#).await;
    let eight = node.ask("await", r#"{"order":"8"}"#).await;
    let paid = event("1", "shop.paid", json!({ "data": { "order": "7", "amount": 5 } }));
    let published = publish(&node, &[paid]).await;
    assert_eq!(published[0].deliveries[0].run, Some(seven), "{published:?}");
    let view = node.ended(seven).await;
    let result = view.result.as_ref().map(|result| result.get());
    assert_eq!(result, Some(r#"{"amount":5,"order":"7"}"#));
    let turns = node
        .runtime
        .history(seven, 0, 10)
        .await
        .expect("reads")
        .expect("there");
    let by = turns.last().and_then(|turn| turn.causes[0].by.clone());
    assert_eq!(by.as_deref(), Some("event 1 of /shop"));
    assert_eq!(node.view(eight).await.state, RunState::Idle);

    let told = event(
        "2",
        "shop.told",
        json!({ "subject": eight.to_string(), "data": { "amount": 9 } }),
    );
    publish(&node, &[told]).await;
    assert_eq!(node.ended(eight).await.state, RunState::Completed);

    let nobody = event("3", "shop.paid", json!({ "data": { "order": "9", "amount": 5 } }));
    let published = publish(&node, std::slice::from_ref(&nobody)).await;
    assert!(published[0].is_refused(), "{published:?}");
    assert!(!publish(&node, &[nobody]).await[0].duplicate, "it was not kept");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rules_emit_reaches_other_services_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let run = node.ask("announce", r#"{"name":"ann"}"#).await;
    let leased = node.lease_of("line", 1).await;
    node.answer(&leased[0], None);
    let filter = RunFilter {
        operation: Some("one".to_owned()),
        ..RunFilter::default()
    };
    let started = node.runtime.list(&filter, None, 10).await.expect("reads").rows;
    assert_eq!(started.len(), 1, "the other event has no subscriber");
    let view = node.ended(started[0].id).await;
    assert_eq!(
        view.result.as_ref().map(|result| result.get()),
        Some(r#"{"name":"ann"}"#)
    );
    let trace = view.trace.expect("a link to the run that emitted it");
    assert!(trace.contains(&format!("{:032x}", run.bits())), "{trace}");
    node.stop().await;
}
