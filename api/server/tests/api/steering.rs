//! Events, breakpoints, restarts, pauses of workflows and bulk operations, as clients ask for them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bed::{Answer, Bed};
use crate::runs::{until, waiting};

async fn put(bed: &Bed, path: &str, body: &Value) -> Answer {
    let request = bed.request(Method::PUT, path).header("Celesta-Actor", "ann");
    bed.send(request.json(body)).await
}

async fn publish(bed: &Bed, headers: &[(&str, &str)], body: &str) -> Answer {
    let request = bed.request(Method::POST, "/v1/events").body(body.to_owned());
    let with = |request: reqwest::RequestBuilder, (name, value): &(&str, &str)| request.header(*name, *value);
    bed.send(headers.iter().fold(request, with)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_taken_in_each_mode_and_count_once() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let structured = ("Content-Type", "application/cloudevents+json");
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/door", "type": "guest.arrived", "data": { "name": "Ann" },
    });
    let first = publish(&bed, &[structured], &event.to_string()).await;
    assert_eq!(first.status, 202, "{first:?}");
    let run = first.json["deliveries"][0]["run"]
        .as_str()
        .expect("a run")
        .to_owned();
    let done = until(&bed, &format!("/v1/runs/{run}"), |run| {
        run.json["state"] == "completed"
    })
    .await;
    assert_eq!(done.json["result"]["greeting"], "hello Ann");
    let again = publish(&bed, &[structured], &event.to_string()).await;
    assert_eq!(
        (again.status, &again.json["duplicate"]),
        (200, &json!(true)),
        "{again:?}"
    );

    let binary = [
        ("Content-Type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "2"),
        ("ce-source", "/door"),
        ("ce-type", "guest.arrived"),
    ];
    let taken = publish(&bed, &binary, r#"{"name":"Bob"}"#).await;
    assert_eq!(taken.status, 202, "{taken:?}");
    assert!(taken.json["deliveries"][0]["run"].is_string(), "{taken:?}");

    let other = json!({ "specversion": "1.0", "id": "3", "source": "/door", "type": "weather" });
    let batch = json!([event, other]).to_string();
    let batch = publish(
        &bed,
        &[("Content-Type", "application/cloudevents-batch+json")],
        &batch,
    )
    .await;
    assert_eq!(batch.status, 202, "{batch:?}");
    assert_eq!(batch.json["events"][0]["duplicate"], true);
    assert_eq!(batch.json["events"][1]["deliveries"], json!([]));

    let useless = json!({ "specversion": "1.0", "id": "4", "source": "/door", "type": "guest.left" });
    publish(&bed, &[structured], &useless.to_string())
        .await
        .is_problem(422, "unusable-event");
    let wrong = json!({ "specversion": "1.0", "source": "/door", "type": "guest.left" });
    publish(&bed, &[structured], &wrong.to_string())
        .await
        .is_problem(400, "invalid-event");
    publish(&bed, &[structured], "{")
        .await
        .is_problem(400, "bad-json");
    publish(&bed, &[("Content-Type", "text/plain")], "hello")
        .await
        .is_problem(415, "wrong-content-type");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stops_before_a_rule_and_is_done_over() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    put(
        &bed,
        "/v1/breakpoints/hello/greet",
        &json!({ "rules": ["nothing"] }),
    )
    .await
    .is_problem(404, "no-such-rule");
    put(&bed, "/v1/breakpoints/hello/nothing", &json!({ "rules": [] }))
        .await
        .is_problem(404, "no-such-workflow");
    let set = put(
        &bed,
        "/v1/breakpoints/hello/greet",
        &json!({ "rules": ["greet"] }),
    )
    .await;
    assert_eq!(set.status, 200, "{set:?}");
    let orders = bed.get("/v1/orders?service=hello").await;
    assert_eq!(orders.json["rows"][0]["by"], "ann", "{orders:?}");
    let accepted = bed
        .post("/v1/services/hello/greet", &[], r#"{"name":"Ann"}"#)
        .await;
    let run = accepted.header("location").to_owned();
    let stopped = until(&bed, &run, |run| run.json["state"] == "paused").await;
    assert_eq!(stopped.json["stopped"]["rule"], "greet", "{stopped:?}");
    let stepped = bed
        .post(&format!("{run}/step"), &[("Celesta-Actor", "bob")], "")
        .await;
    assert_eq!(
        (stepped.status, &stepped.json["by"]),
        (202, &json!("bob")),
        "{stepped:?}"
    );
    until(&bed, &run, |run| run.json["state"] == "completed").await;
    let history = bed.get(&format!("{run}/history")).await;
    let resumed = history.json["rows"][1]["causes"][0].clone();
    assert_eq!(
        (&resumed["kind"], &resumed["by"]),
        (&json!("resume"), &json!("bob"))
    );
    put(&bed, "/v1/breakpoints/hello/greet", &json!({ "rules": [] })).await;

    let path = format!("{run}/restart");
    bed.post(&path, &[], r#"{"rule":"nothing"}"#)
        .await
        .is_problem(404, "never-fired");
    bed.post(&path, &[], r#"{"writes":[{"update":1}]}"#)
        .await
        .is_problem(422, "invalid-writes");
    let writes = r#"{"writes":[{"update":1,"fields":{"name":"Bob"}}]}"#;
    let over = bed.post(&path, &[], writes).await;
    assert_eq!(over.status, 202, "{over:?}");
    let new = over.header("location").to_owned();
    let done = until(&bed, &new, |run| run.json["state"] == "completed").await;
    assert_eq!(done.json["result"]["greeting"], "hello Bob");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_workflow_and_a_bulk_operation() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let run = waiting(&bed).await;
    put(&bed, "/v1/pauses/nothing", &json!({}))
        .await
        .is_problem(404, "no-such-service");
    let paused = put(&bed, "/v1/pauses/hello/wait", &json!({ "reason": "soon" })).await;
    assert_eq!(
        (paused.status, &paused.json["by"]),
        (200, &json!("ann")),
        "{paused:?}"
    );
    let accepted = bed
        .post("/v1/services/hello/wait", &[], r#"{"name":"Bob"}"#)
        .await;
    let held = accepted.header("location").to_owned();
    let stopped = until(&bed, &held, |run| run.json["state"] == "paused").await;
    assert_eq!(stopped.json["stopped"]["by"], "workflow", "{stopped:?}");
    let back = bed
        .send(bed.request(Method::DELETE, "/v1/pauses/hello/wait"))
        .await;
    assert_eq!(back.status, 202, "{back:?}");
    until(&bed, &held, |run| run.json["state"] == "running").await;

    let body = json!({ "action": "cancel", "filter": {} }).to_string();
    bed.post("/v1/operations", &[], &body)
        .await
        .is_problem(400, "invalid-bulk-operation");
    let filter = json!({ "service": "hello", "workflow": "wait", "state": "running" });
    let body = json!({ "action": "cancel", "filter": filter, "preview": true }).to_string();
    let preview = bed.post("/v1/operations", &[], &body).await;
    assert_eq!(preview.json, json!({ "runs": 2 }), "{preview:?}");
    let body = json!({ "action": "cancel", "filter": filter, "reason": "no more" }).to_string();
    let begun = bed
        .post("/v1/operations", &[("Celesta-Actor", "ann")], &body)
        .await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let operation = begun.header("location").to_owned();
    let done = until(&bed, &operation, |operation| operation.json["state"] == "done").await;
    assert_eq!(
        (&done.json["done"], &done.json["by"]),
        (&json!(2), &json!("ann")),
        "{done:?}"
    );
    for run in [run, held] {
        let canceled = until(&bed, &run, |run| run.json["state"] == "canceled").await;
        assert_eq!(canceled.json["error"], "no more");
    }
    bed.post(&format!("{operation}/abort"), &[], "")
        .await
        .is_problem(409, "illegal-state");
    bed.get("/v1/operations/op_00000000000000000000000000")
        .await
        .is_problem(404, "no-such-bulk-operation");
    let all = bed.get("/v1/operations?limit=1").await;
    assert_eq!(all.json["rows"][0]["action"], "cancel", "{all:?}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_becomes_urgent_and_reuse_is_a_header() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let run = waiting(&bed).await;
    let path = format!("{run}/prioritize");
    bed.post(&path, &[], "").await.is_problem(400, "invalid-header");
    let told = bed.post(&path, &[("Celesta-Priority", "critical:7")], "").await;
    assert_eq!(told.status, 202, "{told:?}");
    let urgent = until(&bed, &run, |run| run.json["priority"]["class"] == "critical").await;
    assert_eq!(urgent.json["priority"]["number"], 7, "{urgent:?}");
    bed.post(
        "/v1/services/hello/greet",
        &[("Celesta-Reuse", "perhaps")],
        r#"{"name":"Ann"}"#,
    )
    .await
    .is_problem(400, "invalid-header");
    let long = "x".repeat(300);
    bed.post(&format!("{run}/cancel"), &[("Celesta-Actor", &long)], "")
        .await
        .is_problem(400, "invalid-header");
    bed.stop().await;
}
