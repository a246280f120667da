//! Requests become runs, and runs answer.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::bed::{Answer, Bed};

const GREET: &str = "/v1/services/hello/greet";

/// A run that waits for a function nobody runs.
pub(crate) async fn waiting(bed: &Bed) -> String {
    let accepted = bed
        .post("/v1/services/hello/wait", &[], r#"{"name":"Ann"}"#)
        .await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let run = accepted.header("location").to_owned();
    let called = |answer: &Answer| {
        answer.json["rows"]
            .as_array()
            .is_some_and(|rows| !rows.is_empty())
    };
    until(bed, &format!("{run}/calls"), called).await;
    run
}

/// Asks until the answer is the wanted one, at most 20 seconds.
pub(crate) async fn until(bed: &Bed, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let asked = async {
        loop {
            let answer = bed.get(path).await;
            if wanted(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), asked).await;
    match answer {
        Ok(answer) => answer,
        Err(_) => panic!("{path} did not become what was wanted: {:?}", bed.get(path).await),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_gets_its_result() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let done = bed
        .post(GREET, &[("Prefer", "wait=20")], r#"{"name":"Ann"}"#)
        .await;
    assert_eq!(
        (done.status, done.json["state"].as_str()),
        (200, Some("completed")),
        "{done:?}"
    );
    assert_eq!(done.json["result"], json!({ "greeting": "hello Ann" }));
    let run = done.header("location");
    let shown = bed.get(run).await;
    assert_eq!(
        (&shown.json["input"], &shown.json["result"]),
        (&json!({ "name": "Ann" }), &done.json["result"])
    );
    let facts = bed.get(&format!("{run}/facts?type=Guest")).await;
    assert_eq!(facts.json["rows"][0]["value"]["name"], "Ann", "{facts:?}");
    let history = bed.get(&format!("{run}/history")).await;
    assert_eq!(
        history.json["rows"][0]["firings"][0]["rule"], "greet",
        "{history:?}"
    );
    let explained = bed.get(&format!("{run}/explain?rule=greet")).await;
    assert!(
        explained.json["text"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{explained:?}"
    );
    bed.get(&format!("{run}/explain?rule=nothing"))
        .await
        .is_problem(404, "no-such-rule");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_input_is_told_with_pointers_and_not_stored() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let refused = bed.post(GREET, &[], r#"{"name":7,"odd":true}"#).await;
    refused.is_problem(422, "invalid-input");
    let errors = refused.json["errors"].as_array().cloned().unwrap_or_default();
    assert!(
        errors.iter().any(|error| error["pointer"] == "/name"),
        "{errors:?}"
    );
    assert!(errors.len() >= 2, "all violations at once: {errors:?}");
    bed.post("/v1/services/hello/nothing", &[], "{}")
        .await
        .is_problem(404, "no-such-operation");
    assert_eq!(bed.get("/v1/runs").await.json["rows"], json!([]));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_names_one_run_and_one_body() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let key = [("Idempotency-Key", "k"), ("Prefer", "wait=20")];
    let first = bed.post(GREET, &key, r#"{"name":"Ann"}"#).await;
    let again = bed.post(GREET, &key[..1], r#"{"name":"Ann"}"#).await;
    assert_eq!(
        (again.status, again.header("location")),
        (200, first.header("location"))
    );
    assert_eq!(
        again.json["state"], "completed",
        "the run as it stands: {again:?}"
    );
    let other = bed.post(GREET, &key, r#"{"name":"Bob"}"#).await;
    other.is_problem(409, "idempotency-conflict");
    assert!(
        first
            .header("location")
            .ends_with(other.json["run"].as_str().unwrap_or("-"))
    );
    assert_eq!(
        bed.get("/v1/runs").await.json["rows"].as_array().map(Vec::len),
        Some(1)
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    for number in 0..5 {
        let label = format!("parity={}", number % 2);
        let done = bed
            .post(
                GREET,
                &[("Prefer", "wait=20"), ("Celesta-Label", &label)],
                r#"{"name":"Ann"}"#,
            )
            .await;
        assert_eq!(done.status, 200, "{done:?}");
    }
    let mut seen = BTreeSet::new();
    let mut path = "/v1/runs?limit=2".to_owned();
    loop {
        let page = bed.get(&path).await;
        let rows = page.json["rows"].as_array().cloned().unwrap_or_default();
        assert!(
            rows.len() <= 2 && rows.iter().all(|run| seen.insert(run["id"].to_string())),
            "{page:?}"
        );
        let Some(next) = page.json["next"].as_str() else {
            break;
        };
        path = format!("/v1/runs?limit=2&cursor={next}");
    }
    assert_eq!(seen.len(), 5);
    for (filter, count) in [
        ("label=parity%3D1", 2),
        ("state=completed", 5),
        ("state=failed", 0),
        ("service=hello&operation=greet", 5),
        ("operation=wait", 0),
        ("created_after=2000-01-01T00:00:00Z", 5),
        ("created_before=2000-01-01T00:00:00Z", 0),
    ] {
        let listed = bed.get(&format!("/v1/runs?{filter}")).await;
        assert_eq!(
            listed.json["rows"].as_array().map(Vec::len),
            Some(count),
            "{filter}: {listed:?}"
        );
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_end_with_the_run_and_resume_after_the_last_seen() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let done = bed
        .post(GREET, &[("Prefer", "wait=20")], r#"{"name":"Ann"}"#)
        .await;
    let path = format!("{}/events", done.header("location"));
    let whole = bed.get(&path).await;
    assert_eq!(whole.header("content-type"), "text/event-stream");
    let whole = events(&whole);
    let kinds: Vec<&str> = whole.iter().map(|(_, kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["log", "turn", "completed"]);
    assert_eq!(whole[2].2["result"], json!({ "greeting": "hello Ann" }));
    for (seen, (id, ..)) in whole.iter().enumerate() {
        let rest = bed
            .send(bed.request(Method::GET, &path).header("Last-Event-ID", id))
            .await;
        assert_eq!(events(&rest), whole[seen + 1..], "after {id}");
    }
    let odd = bed
        .send(bed.request(Method::GET, &path).header("Last-Event-ID", "odd"))
        .await;
    odd.is_problem(400, "invalid-header");
    bed.stop().await;
}

/// Id, kind and content of each event.
fn events(answer: &Answer) -> Vec<(String, String, Value)> {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let blocks = text.split("\n\n").filter(|block| block.contains("event:"));
    let field = |block: &str, name: &str| {
        let line = block
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    blocks
        .map(|block| {
            (
                field(block, "id"),
                field(block, "event"),
                serde_json::from_str(&field(block, "data")).unwrap_or_default(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_run_shows_its_call_and_is_called_off() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let run = waiting(&bed).await;
    let calls = bed.get(&format!("{run}/calls")).await;
    let call = &calls.json["rows"][0];
    assert_eq!(
        (call["target"].as_str(), call["state"].as_str()),
        (Some("nobody"), Some("outstanding")),
        "{calls:?}"
    );
    let id = call["id"].as_str().unwrap_or_default();
    assert_eq!(
        bed.get(&format!("{run}/calls/{id}/attempts")).await.json["rows"],
        json!([])
    );
    bed.get(&format!("{run}/calls/{id}/attempts/1/stderr"))
        .await
        .is_problem(404, "no-such-attempt");
    bed.send(bed.request(Method::POST, &format!("{run}/retry")))
        .await
        .is_problem(409, "illegal-state");

    let cancel = format!("{run}/cancel");
    bed.post(&cancel, &[], r#"{"reason": 7}"#)
        .await
        .is_problem(400, "bad-json");
    let canceled = bed.post(&cancel, &[], r#"{"reason":"never mind"}"#).await;
    assert_eq!(canceled.status, 202, "{canceled:?}");
    let ended = until(&bed, &run, |answer| answer.json["state"] == "canceled").await;
    assert!(
        ended.json["error"]
            .as_str()
            .is_some_and(|error| error.contains("never mind")),
        "{ended:?}"
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_run_is_paused_written_to_and_goes_on() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let run = waiting(&bed).await;
    bed.send(bed.request(Method::POST, &format!("{run}/resume")))
        .await
        .is_problem(409, "illegal-state");
    let facts = format!("{run}/facts");
    bed.post(&facts, &[], r#"{"writes":[{"insert":"X","retract":1}]}"#)
        .await
        .is_problem(422, "invalid-writes");
    let written = bed
        .post(&facts, &[], r#"{"writes":[{"insert":"NoSuchType"}]}"#)
        .await;
    assert_eq!(written.status, 200, "{written:?}");
    assert_eq!(written.json["outcomes"][0]["ok"], false, "{written:?}");

    let paused = bed
        .post(&format!("{run}/pause"), &[], r#"{"reason":"a while"}"#)
        .await;
    assert_eq!(paused.status, 202, "{paused:?}");
    until(&bed, &run, |answer| answer.json["state"] == "paused").await;
    let later = bed
        .post(
            &facts,
            &[("prefer", "wait=0")],
            r#"{"writes":[{"insert":"NoSuchType"}]}"#,
        )
        .await;
    assert_eq!(later.status, 202, "{later:?}");
    let resumed = bed
        .send(bed.request(Method::POST, &format!("{run}/resume")))
        .await;
    assert_eq!(resumed.status, 202, "{resumed:?}");
    until(&bed, &run, |answer| answer.json["state"] == "running").await;
    let history = bed.get(&format!("{run}/history")).await;
    assert!(history.json.to_string().contains("a while"), "{history:?}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_a_run_of_its_own() {
    let bed = Bed::new().await;
    bed.push_hello().await;
    let run = waiting(&bed).await;
    let clone = bed.send(bed.request(Method::POST, &format!("{run}/clone"))).await;
    assert_eq!(clone.status, 202, "{clone:?}");
    let id = clone.json["id"].as_str().unwrap_or_default();
    let view = bed.get(&format!("/v1/runs/{id}")).await;
    assert_eq!(
        view.json["labels"]["celesta.cloned-from"], clone.json["cloned_from"],
        "{view:?}"
    );
    bed.stop().await;
}
