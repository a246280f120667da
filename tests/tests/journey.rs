//! The way of a new author, with the program alone: create, test, push, call, look, steer.

use std::time::Duration;

use celesta_tests::{Server, celesta, example};
use serde_json::{Value, json};

/// A server with the starter bundle under the name `hello`.
fn with_starter() -> Server {
    let server = Server::start();
    assert_eq!(celesta(server.folder(), &["new", "hello"]).code, 0);
    let said = celesta(server.folder(), &["test", "hello"]);
    assert_eq!(said.code, 0, "{said:?}");
    server.push(&server.folder().join("hello"));
    server
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect()
}

#[test]
fn a_request_becomes_a_run_that_can_be_looked_at() {
    let server = with_starter();
    let input = r#"{"names":["Ada","Grace"]}"#;
    let said = server.celesta(&[
        "call",
        "hello/welcome",
        "--input",
        input,
        "--label",
        "who=test",
        "--wait",
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(
        said.json(),
        json!({ "greetings": ["Hello, Ada!", "Hello, Grace!"] })
    );

    let listed = server.celesta(&["--json", "run", "list", "--label", "who=test"]);
    let run = listed.json()[0]["id"].as_str().expect("an id").to_owned();
    let shown = server.celesta(&["--json", "run", "show", &run]);
    assert_eq!(shown.json()["state"], "completed");
    assert_eq!(shown.json()["labels"]["who"], "test");
    assert_eq!(shown.json()["input"], json!({ "names": ["Ada", "Grace"] }));

    let facts = server.celesta(&["--json", "run", "facts", "last", "--type", "Guest"]);
    assert_eq!(facts.json().as_array().map(Vec::len), Some(2), "{facts:?}");
    let calls = server.celesta(&["--json", "run", "calls", &run]);
    assert!(
        calls
            .json()
            .as_array()
            .is_some_and(|calls| calls.iter().all(|call| call["state"] == "succeeded")),
        "{calls:?}"
    );
    let history = server.celesta(&["--json", "run", "history", &run]);
    let turns = lines(&history.stdout);
    assert_eq!(turns[0]["causes"][0]["kind"], "request", "{history:?}");
    assert!(history.stdout.contains("all have been greeted"), "{history:?}");
    let logs = server.celesta(&["run", "logs", &run]);
    assert!(
        logs.stdout.contains("greeting Ada") && logs.stdout.contains("greeting Grace"),
        "{logs:?}"
    );
    let watched = server.celesta(&["--json", "run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}");
    assert_eq!(
        lines(&watched.stdout).last().map(|event| event["kind"].clone()),
        Some(json!("completed"))
    );

    let fired = server.celesta(&["run", "explain", &run, "all have been greeted"]);
    assert_eq!(fired.code, 0, "{fired:?}");
    assert!(fired.stdout.contains("fired"), "{fired:?}");
    let unknown = server.celesta(&["run", "explain", &run, "no such rule"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    for arguments in [
        vec!["run", "show"],
        vec!["run", "history"],
        vec!["run", "calls"],
        vec!["run", "facts"],
        vec!["run", "watch"],
    ] {
        let said = server.celesta(&[arguments.as_slice(), &["last"]].concat());
        assert!(
            said.code == 0 && !said.stdout.contains('\u{1b}'),
            "piped output is plain: {said:?}"
        );
    }
}

#[test]
fn services_can_be_looked_at() {
    let server = with_starter();
    let listed = server.celesta(&["service", "list"]);
    assert!(
        listed.stdout.contains("hello") && listed.stdout.contains("welcome"),
        "{listed:?}"
    );
    let shown = server.celesta(&["service", "show", "hello"]);
    assert!(
        shown.stdout.contains("hello/welcome") && shown.stdout.contains("greet"),
        "{shown:?}"
    );
    let unknown = server.celesta(&["service", "show", "nobody"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    let again = server.celesta(&["push", "hello"]);
    assert_eq!(again.code, 0, "the same content is pushed again: {again:?}");
}

#[test]
fn a_wrong_request_says_what_is_wrong() {
    let server = with_starter();
    let said = server.celesta(&["call", "hello/welcome", "--input", r#"{"names":[1],"extra":2}"#]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr.contains("names") && said.stderr.contains("extra"),
        "{said:?}"
    );
    let unknown = server.celesta(&["call", "hello/goodbye"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    let keyed = |names: &str| {
        server.celesta(&[
            "call",
            "hello/welcome",
            "--input",
            names,
            "--idempotency-key",
            "k",
        ])
    };
    let first = keyed(r#"{"names":["Ada"]}"#);
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(
        first.stdout,
        keyed(r#"{"names":["Ada"]}"#).stdout,
        "the same call is the same run"
    );
    assert_eq!(keyed(r#"{"names":["Bob"]}"#).code, 4);
}

#[tokio::test]
async fn a_run_can_be_called_off() {
    let server = Server::start();
    server.push(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/limits"));
    let run = server
        .celesta(&["call", "limits/nap", "--input", r#"{"seconds":"86313"}"#])
        .stdout
        .trim()
        .to_owned();
    let path = format!("/v1/runs/{run}");
    server
        .until(&format!("{path}/calls"), Duration::from_secs(20), |answer| {
            answer.text.contains("outstanding")
        })
        .await;
    let said = server.celesta(&["run", "cancel", &run, "--reason", "enough"]);
    assert_eq!(said.code, 0, "{said:?}");
    let ended = server
        .until(&path, Duration::from_secs(20), |answer| {
            answer.json["state"] == "canceled"
        })
        .await;
    assert!(ended.text.contains("enough"), "{ended:?}");
    let again = server.celesta(&["run", "retry", &run]);
    assert_eq!(again.code, 4, "a canceled run is not retried: {again:?}");
    let watched = server.celesta(&["run", "watch", &run]);
    assert_eq!(watched.code, 1, "{watched:?}");
}

#[test]
fn the_greeter_greets() {
    let server = Server::start();
    let folder = example("greeter");
    let tested = celesta(
        server.folder(),
        &["test", folder.to_str().expect("a path of text")],
    );
    assert_eq!(tested.code, 0, "{tested:?}");
    server.push(&folder);
}
