//! A function's limits hold for everything it starts.

use std::path::Path;
use std::time::{Duration, Instant};

use celesta_tests::Server;
use serde_json::json;

/// The function's timeout.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long after its timeout everything must be gone, and how much later a busy machine lets us look.
const GONE: Duration = Duration::from_millis(2_500);

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test measures real time")]
async fn a_function_that_forks_and_sleeps_is_gone_two_seconds_after_its_timeout() {
    let server = Server::start();
    server.push(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/limits"));
    let marker = "86312";
    let answer = server
        .post("/v1/services/limits/fork", &[], &json!({ "marker": marker }))
        .await;
    let run = answer.json["id"].as_str().expect("an id").to_owned();
    let begun = loop {
        if sleepers(marker) >= 4 {
            break Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    while sleepers(marker) > 0 {
        assert!(
            begun.elapsed() < TIMEOUT + GONE,
            "{} processes are left",
            sleepers(marker)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let path = format!("/v1/runs/{run}");
    let ended = server
        .until(&path, Duration::from_secs(20), |answer| {
            answer.json["state"] == "completed"
        })
        .await;
    assert_eq!(ended.json["result"]["kind"], "timeout", "{ended:?}");
}

/// How many processes have the marker in their command line.
fn sleepers(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    let commands = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands
        .filter(|command| String::from_utf8_lossy(command).contains(marker))
        .count()
}
