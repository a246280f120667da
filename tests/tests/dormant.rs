//! Finished runs that a shared fact moves, while the server is killed in the middle of the sweep.

use std::time::Duration;

use celesta_tests::{Answer, Server, celesta, example};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
const RUNS: usize = 24;

async fn titles(server: &Server, family: &str) -> Vec<String> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        // One name: the work of the first is the work of all.
        let body = json!({ "name": "Metropolis", "family": family });
        let answer = server
            .post("/v1/services/shelf/keep", &[("Prefer", "wait=30")], &body)
            .await;
        assert_eq!(
            answer.json["result"],
            json!({ "title": "Metropolis", "ready": 0 }),
            "{answer:?}"
        );
        runs.push(answer.json["id"].as_str().expect("an id").to_owned());
    }
    runs
}

#[tokio::test]
async fn a_new_recipe_moves_finished_runs_through_a_kill_and_no_others() {
    let mut server = Server::start();
    server.push(&example("shelf"));
    let films = titles(&server, "film").await;
    let clips = titles(&server, "clip").await;
    let writes = r#"[{"insert":"Recipe","fields":{"name":"web","family":"film","height":1080}}]"#;
    let asked = server.celesta(&[
        "--json",
        "service",
        "facts",
        "write",
        "shelf",
        writes,
        "--dry-run",
    ]);
    assert_eq!(asked.json()["runs"], RUNS, "{asked:?}");
    // Batches of four.
    let written = server.celesta(&[
        "--json", "service", "facts", "write", "shelf", writes, "--rate", "16",
    ]);
    let sweep = written.json()["sweep"].as_str().expect("a sweep").to_owned();
    let path = format!("/v1/sweeps/{sweep}");
    let begun = |answer: &Answer| answer.json["told"].as_u64() > Some(0);
    server.until(&path, PATIENCE, begun).await;
    server.kill();
    server.restart();
    let done = server
        .until(&path, PATIENCE, |answer| answer.json["state"] == "done")
        .await;
    assert_eq!(done.json["moved"], RUNS, "{done:?}");
    assert_eq!(
        (&done.json["told"], &done.json["missed"]),
        (&json!(RUNS), &json!(0)),
        "{done:?}"
    );
    for run in films {
        let path = format!("/v1/runs/{run}");
        let ready = |answer: &Answer| answer.json["result"]["ready"] == 1;
        server.until(&path, PATIENCE, ready).await;
        let facts = server.get(&format!("{path}/facts?type=Rendition")).await;
        assert_eq!(
            facts.json["rows"].as_array().map(Vec::len),
            Some(1),
            "made once: {facts:?}"
        );
    }
    for run in clips {
        let history = server.get(&format!("/v1/runs/{run}/history")).await;
        assert_eq!(
            history.json["rows"].as_array().map(Vec::len),
            Some(1),
            "{history:?}"
        );
    }
    let shown = server.celesta(&["sweep", "show", &sweep]);
    assert!(shown.stdout.contains(&format!("{RUNS} of {RUNS}")), "{shown:?}");
}

#[test]
fn the_bench_moves_exactly_the_runs_that_are_concerned() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_str().expect("a text");
    let said = celesta(
        folder.path(),
        &["--json", "bench", "dormant", "--runs", "2500", "--data", data],
    );
    let figures = said.json();
    assert_eq!(
        (said.code, &figures["moved"], &figures["lost"]),
        (0, &json!(1_000), &json!(0)),
        "{figures}"
    );
    let bytes = figures["bytes_per_run"].as_f64().unwrap_or(f64::MAX);
    assert!(bytes < 1_500.0, "{figures}");
}
