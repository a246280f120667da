//! The queue from a shell: every action of `celesta queue`, and what wrong ones end with.

use celesta_tests::{Said, Server};
use serde_json::json;

/// Runs `celesta queue …` and gives what it said.
fn queue(server: &Server, arguments: &[&str]) -> Said {
    let mut all = vec!["queue"];
    all.extend(arguments);
    server.celesta(&all)
}

fn outcomes(said: &Said) -> Vec<String> {
    let json = said.json();
    let outcomes = json["outcomes"].as_array().cloned().unwrap_or_default();
    outcomes
        .iter()
        .map(|outcome| outcome["outcome"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// The leases of `queue lease --json` as arguments.
fn leases(said: &Said) -> Vec<String> {
    let json = said.json();
    let messages = json["messages"].as_array().cloned().unwrap_or_default();
    let lease = |message: &serde_json::Value| {
        let part = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        format!("{}#{}", part("id"), part("token"))
    };
    messages.iter().map(lease).collect()
}

#[tokio::test]
async fn a_queue_is_used_from_a_shell() {
    let server = Server::start();
    let made = queue(
        &server,
        &["configure", "mail", "kind=exclusive", "lease_ms=60000", "--json"],
    );
    assert_eq!(
        (made.code, &made.json()["settings"]["kind"]),
        (0, &json!("exclusive")),
        "{made:?}"
    );
    for (id, key) in [("1", "Ann"), ("2", "Bob"), ("3", "Cid")] {
        let sent = queue(
            &server,
            &[
                "enqueue",
                "mail",
                "--id",
                id,
                "--key",
                key,
                "--payload",
                "{\"n\":1}",
                "--metadata",
                "shop=7",
                "--json",
            ],
        );
        assert_eq!((sent.code, outcomes(&sent)), (0, vec!["enqueued".to_owned()]));
    }
    let peeked = queue(&server, &["peek", "mail", "--json"]);
    assert_eq!(peeked.json().as_array().map(Vec::len), Some(3), "{peeked:?}");
    let leased = queue(&server, &["lease", "mail", "-n", "3", "--wait", "5s", "--json"]);
    let held = leases(&leased);
    assert_eq!(held.len(), 3, "{leased:?}");
    let done = queue(&server, &["complete", "mail", &held[0], "--json"]);
    assert_eq!((done.code, outcomes(&done)), (0, vec!["completed".to_owned()]));
    let failed = queue(
        &server,
        &[
            "fail", "mail", &held[1], "--final", "--error", "no stamp", "--json",
        ],
    );
    assert_eq!(outcomes(&failed), ["errored"]);
    let back = queue(&server, &["release", "mail", &held[2], "--json"]);
    assert_eq!(outcomes(&back), ["released"]);
    let again = queue(&server, &["complete", "mail", &held[0]]);
    assert_eq!(again.code, 4, "a lease that is over is a conflict: {again:?}");
    let found = queue(
        &server,
        &["peek", "mail", "--state", "errored", "--metadata", "shop=7"],
    );
    assert!(found.stdout.contains("no stamp"), "{found:?}");
    assert_eq!(
        outcomes(&queue(&server, &["redrive", "mail", "--all", "--json"])),
        ["redriven"]
    );
    let moved = queue(&server, &["reprioritize", "mail", "critical", "3", "--json"]);
    assert_eq!(outcomes(&moved), ["reprioritized"]);
    let told = queue(&server, &["history", "mail", "3", "--json"]);
    assert_eq!(
        told.json()["message"]["priority"]["class"],
        "critical",
        "{told:?}"
    );
    assert_eq!(
        outcomes(&queue(&server, &["cancel", "mail", "3", "--json"])),
        ["canceled"]
    );
    let stats = queue(&server, &["stats", "mail", "--json"]);
    assert_eq!(stats.json()["counts"]["pending"], 1, "{stats:?}");
}

#[tokio::test]
async fn what_is_refused_ends_with_its_code() {
    let server = Server::start();
    let large = format!("\"{}\"", "x".repeat(33 * 1024));
    assert_eq!(queue(&server, &["enqueue", "plain", "--payload", "1"]).code, 0);
    assert_eq!(queue(&server, &["block", "plain"]).code, 0);
    for (arguments, code, said) in [
        (&["lease", "nowhere"][..], 3, "no-such-queue"),
        (&["lease", "plain"], 4, "queue-blocked"),
        (&["enqueue", "plain", "--payload", "1"], 4, "queue-blocked"),
        (&["enqueue", "other", "--payload", &large], 6, "payload-too-large"),
        (&["lease", "plain", "--lease", "0s"], 1, "lease-out-of-range"),
        (&["lease", "plain", "--lease", "400d"], 1, "lease-out-of-range"),
        (&["lease", "plain", "-n", "-3"], 1, "batch-out-of-range"),
        (&["complete", "plain", "m#1"], 4, "stale-lease"),
        (&["enqueue", "runs", "--payload", "1"], 6, "queue-reserved"),
        (&["enqueue", "plain", "--payload", "{"], 2, "not JSON"),
        (&["complete", "plain", "m"], 2, "is not a lease"),
        (&["cancel", "plain"], 2, "required"),
    ] {
        let told = queue(&server, arguments);
        assert_eq!(told.code, code, "{told:?}");
        assert!(told.stderr.contains(said), "{said}: {told:?}");
    }
    let shown = queue(&server, &["ls", "--json"]);
    let json = shown.json();
    let names: Vec<_> = json["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| &row["name"])
        .collect();
    assert_eq!(
        names,
        ["celesta/events", "plain", "runs"],
        "nothing was made on the way"
    );
    assert_eq!(json["rows"][1]["counts"]["pending"], 1);
}
