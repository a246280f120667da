//! `kill -9` and a restart lose nothing.

use std::path::Path;
use std::time::Duration;

use celesta_tests::Server;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

fn bundle() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/limits")
}

#[tokio::test]
async fn a_run_goes_on_where_it_was_after_a_kill() {
    let mut server = Server::start();
    server.push(&bundle());
    let answer = server
        .post(
            "/v1/services/limits/nap",
            &[],
            &json!({ "seconds": "0.4", "naps": 4 }),
        )
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let run = answer.json["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/runs/{run}");
    let calls = format!("{path}/calls");
    let one_is_done = |answer: &celesta_tests::Answer| answer.text.contains("succeeded");
    server.until(&calls, PATIENCE, one_is_done).await;
    for _ in 0..2 {
        server.kill();
        server.restart();
    }
    let ended = server
        .until(&path, PATIENCE, |answer| answer.json["state"] == "completed")
        .await;
    assert_eq!(ended.json["result"], json!({ "taken": 4 }));
    let calls = server.get(&calls).await;
    assert_eq!(
        calls.text.matches("\"succeeded\"").count(),
        4,
        "each nap is counted once: {calls:?}"
    );
}

#[tokio::test]
async fn an_idempotency_key_is_kept_over_a_kill() {
    let mut server = Server::start();
    server.push(&bundle());
    let (key, body) = ([("Idempotency-Key", "nap-1")], json!({ "seconds": "0" }));
    let first = server.post("/v1/services/limits/nap", &key, &body).await;
    server.kill();
    server.restart();
    let second = server.post("/v1/services/limits/nap", &key, &body).await;
    assert!(first.json["id"].is_string(), "{first:?}");
    assert_eq!(first.json["id"], second.json["id"]);
    let other = server
        .post("/v1/services/limits/nap", &key, &json!({ "seconds": "1" }))
        .await;
    assert_eq!(
        (other.status, other.code()),
        (409, "idempotency-conflict"),
        "{other:?}"
    );
}

#[tokio::test]
async fn functions_die_with_a_killed_server() {
    let mut server = Server::start();
    server.push(&bundle());
    let marker = "86311";
    server
        .post("/v1/services/limits/nap", &[], &json!({ "seconds": marker }))
        .await;
    let begun = wait_until(|| sleepers(marker) > 0).await;
    assert!(begun, "the nap has begun");
    server.kill();
    assert!(
        wait_until(|| sleepers(marker) == 0).await,
        "nobody sleeps any more"
    );
}

/// Histories are compacted when a node starts: it is killed at another moment of that each time.
#[tokio::test]
async fn a_kill_amid_compaction_loses_no_turn() {
    let mut server = Server::start();
    server.push(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/ledger"));
    let mut runs = Vec::new();
    for _ in 0..30 {
        let answer = server
            .post("/v1/services/ledger/open", &[], &json!({ "name": "ann" }))
            .await;
        runs.push(answer.json["id"].as_str().expect("an id").to_owned());
    }
    let book = json!({ "writes": [{ "insert": "Entry", "fields": { "amount": 1 } }] });
    let mut booked = 0;
    for kill in 0..8 {
        for run in &runs {
            for _ in 0..2 {
                let answer = server.post(&format!("/v1/runs/{run}/facts"), &[], &book).await;
                assert!(answer.status < 300, "{answer:?}");
            }
        }
        booked += 2;
        for run in &runs {
            let path = format!("/v1/runs/{run}/facts?type=Account");
            let total = |answer: &celesta_tests::Answer| answer.json["rows"][0]["value"]["total"] == booked;
            server.until(&path, PATIENCE, total).await;
        }
        // The second for which a history is kept.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        server.kill();
        server.restart();
        // From nothing done to nearly all.
        tokio::time::sleep(Duration::from_millis(15 * kill)).await;
        server.kill();
        server.restart();
    }
    let first = |answer: &celesta_tests::Answer| answer.json["rows"][0]["seq"].as_u64() > Some(1);
    server
        .until(&format!("/v1/runs/{}/history", runs[0]), PATIENCE, first)
        .await;
    for run in &runs {
        let facts = server.get(&format!("/v1/runs/{run}/facts?type=Account")).await;
        assert_eq!(facts.json["rows"][0]["value"]["total"], booked, "{facts:?}");
    }
    server.kill();
    let looked = server.celesta(&["doctor", "--json", "--data", "data"]);
    assert_eq!(looked.code, 0, "{looked:?}");
}

/// How many processes sleep for exactly so many seconds.
fn sleepers(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    let commands = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands
        .filter(|command| *command == format!("sleep\0{marker}\0").as_bytes())
        .count()
}

async fn wait_until(wanted: impl Fn() -> bool) -> bool {
    for _ in 0..500 {
        if wanted() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}
