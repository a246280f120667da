//! Every store a release has written opens with this one: all of it reads, and what was under way goes on.
//!
//! `tests/stores/store-N.tar.gz` were written by `tests/stores/write.sh` with the binary of their release: 1 is the first
//! one (journal records 1, queue rows as columns), 2 the one with journal records 2 and rows of bytes. `make` writes none
//! anew; a format that changes adds one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use celesta_tests::{Server, celesta};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn kept(store: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stores").join(store)
}

/// Lays out a packed store as the data of a node.
fn unpack(store: &str, data: &Path) {
    let packed = std::fs::File::open(kept(store)).expect("a kept store");
    std::fs::create_dir_all(data).expect("a new folder");
    tar::Archive::new(flate2::read::GzDecoder::new(packed))
        .unpack(data)
        .expect("a packed folder");
}

/// The runs by the label `name`: those of a client only.
async fn runs(server: &Server) -> std::collections::BTreeMap<String, Value> {
    let page = server.get("/v1/runs?limit=100").await;
    let rows = page.json["runs"]
        .as_array()
        .or_else(|| page.json["rows"].as_array());
    let rows = rows.unwrap_or_else(|| panic!("a page of runs: {page:?}"));
    let of_clients = rows.iter().filter(|run| run["parent"].is_null());
    of_clients
        .map(|run| {
            let name = run["labels"]["name"].as_str().expect("a name");
            (name.to_owned(), run.clone())
        })
        .collect()
}

async fn opens_and_goes_on(store: &str, pauses: bool) {
    let mut server = Server::start_on(&["--workers", "4"], |data| unpack(store, data));
    let before = runs(&server).await;
    let mut names: Vec<&str> = before.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "aside", "asking", "called", "canceled", "crash", "failed", "finished", "parent", "paused",
            "timer", "years"
        ]
    );
    for (name, run) in &before {
        let id = run["id"].as_str().expect("an id");
        let history = server.get(&format!("/v1/runs/{id}/history")).await;
        assert_eq!(history.status, 200, "{name}: {history:?}");
        assert!(history.text.contains("\"seq\":1,"), "{name}: {history:?}");
        let facts = server.get(&format!("/v1/runs/{id}/facts")).await;
        assert_eq!(facts.status, 200, "{name}: {facts:?}");
        assert_eq!(
            facts.text.contains("\"type\""),
            *name != "aside",
            "{name}: {facts:?}"
        );
        let calls = server.get(&format!("/v1/runs/{id}/calls")).await;
        assert_eq!(calls.status, 200, "{name}: {calls:?}");
    }
    for (name, state) in [
        ("finished", "completed"),
        ("parent", "completed"),
        ("failed", "failed"),
        ("aside", "quarantined"),
        ("canceled", "canceled"),
        ("paused", if pauses { "paused" } else { "running" }),
        ("years", "running"),
    ] {
        assert_eq!(before[name]["state"], state, "{name}");
    }
    assert_eq!(before["finished"]["result"], json!({ "done": 3 }));

    // What was called, asked for or timed comes; the function that the crash ended is tried again, which takes a minute
    // and is not waited for.
    for (name, done) in [("timer", 1), ("called", 2), ("asking", 1)] {
        let path = format!("/v1/runs/{}", before[name]["id"].as_str().expect("an id"));
        let ended = server
            .until(&path, PATIENCE, |answer| answer.json["state"] == "completed")
            .await;
        assert_eq!(ended.json["result"], json!({ "done": done }), "{name}");
    }
    let crash = before["crash"]["id"].as_str().expect("an id");
    let calls = server.get(&format!("/v1/runs/{crash}/calls")).await;
    assert!(calls.text.contains("outstanding"), "{calls:?}");
    let id = |name: &str| before[name]["id"].as_str().expect("an id").to_owned();
    if pauses {
        let resumed = server
            .post(&format!("/v1/runs/{}/resume", id("paused")), &[], &json!({}))
            .await;
        assert!(resumed.status < 300, "{resumed:?}");
    }
    // The same key still names the same run, and failed and timed runs take what people ask for.
    let again = server
        .post(
            "/v1/services/kept/work",
            &[("Idempotency-Key", "key-finished")],
            &json!({ "calls": 3 }),
        )
        .await;
    assert_eq!(again.json["id"], before["finished"]["id"], "{again:?}");
    for (name, wish) in [("years", "cancel"), ("crash", "cancel"), ("failed", "retry")] {
        let asked = server
            .post(&format!("/v1/runs/{}/{wish}", id(name)), &[], &json!({}))
            .await;
        assert!(asked.status < 300, "{name}: {asked:?}");
    }
    for (name, state) in [("years", "canceled"), ("crash", "canceled"), ("failed", "failed")] {
        let path = format!("/v1/runs/{}", id(name));
        server
            .until(&path, PATIENCE, |answer| answer.json["state"] == state)
            .await;
    }
    let fresh = server
        .post("/v1/services/kept/work", &[], &json!({ "calls": 1 }))
        .await;
    let path = format!("/v1/runs/{}", fresh.json["id"].as_str().expect("an id"));
    server
        .until(&path, PATIENCE, |answer| answer.json["state"] == "completed")
        .await;
    assert_eq!(server.terminate(), 0);
    let data = server.data();
    let said = celesta(
        server.folder(),
        &[
            "doctor",
            "--json",
            "--data",
            data.to_str().expect("a path of text"),
        ],
    );
    assert_eq!(
        (said.code, &said.json()["violations"]),
        (0, &json!([])),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_store_of_the_first_release_opens_and_goes_on() {
    opens_and_goes_on("store-1.tar.gz", false).await;
}

#[tokio::test]
async fn a_store_of_the_second_release_opens_and_goes_on() {
    opens_and_goes_on("store-2.tar.gz", true).await;
}
