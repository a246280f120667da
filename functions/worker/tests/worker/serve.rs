//! Warm processes.

use std::time::Duration;

use celesta_types::{Class, ErrorClass, Priority};
use serde_json::json;

use crate::stage::{Ask, Function, Settled, Stage, processes};

const ECHO: &str = r#"
import json, os, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    given = request["input"]
    answer = {"id": request["id"]}
    if isinstance(given, dict) and "sleep" in given:
        time.sleep(given["sleep"])
    if isinstance(given, dict) and "exit" in given:
        print("last words", file=sys.stderr, flush=True)
        os._exit(given["exit"])
    if isinstance(given, dict) and "error" in given:
        answer["error"] = given["error"]
    else:
        if isinstance(given, dict) and "say" in given:
            print(json.dumps({"id": request["id"], "log": given["say"]}))
            print(json.dumps({"id": request["id"], "progress": 0.5, "text": "half"}))
            print("not of the protocol")
        answer["result"] = {"given": given, "pid": os.getpid(), "attempt": request["attempt"]}
    print(json.dumps(answer), flush=True)
"#;

fn echo(manifest: &str) -> String {
    format!("command = [\"python3\", \"echo.py\"]\nprotocol = \"serve\"\n{manifest}")
}

async fn stage(manifest: &str) -> Stage {
    Stage::open(&[Function {
        name: "echo",
        manifest: &echo(manifest),
        files: &[("echo.py", ECHO)],
    }])
    .await
}

fn pid(settled: &Settled) -> u64 {
    match settled {
        Settled::Ok(value) => value["pid"].as_u64().expect("a process id"),
        other => panic!("expected a result, found {other:?}"),
    }
}

#[tokio::test]
async fn one_warm_process_answers_many() {
    let stage = stage("processes = { max = 1 }\n").await;
    let ids: Vec<_> = (0..200)
        .map(|number| stage.ask("echo", &Ask::new(number.to_string())))
        .collect();
    let mut pids = std::collections::BTreeSet::new();
    for (number, id) in ids.into_iter().enumerate() {
        let settled = stage.settled(id).await;
        pids.insert(pid(&settled));
        let Settled::Ok(value) = settled else {
            panic!("a result")
        };
        assert_eq!(value["given"], json!(number));
        assert_eq!(stage.record(id), None);
    }
    assert_eq!(pids.len(), 1);
    stage.stop().await;
}

#[tokio::test]
async fn processes_share_what_waits() {
    let stage = stage("batch = 4\n").await;
    let ids: Vec<_> = (0..12)
        .map(|_| stage.ask("echo", &Ask::new(r#"{"sleep":0.05}"#)))
        .collect();
    let mut pids = std::collections::BTreeSet::new();
    for id in ids {
        pids.insert(pid(&stage.settled(id).await));
    }
    assert_eq!(pids.len(), 2, "two processors, two processes");
    stage.stop().await;
}

#[tokio::test]
async fn errors_logs_and_progress_reach_their_invocation() {
    let stage = stage("").await;
    let error = stage
        .call("echo", r#"{"error":{"class":"input","message":"no"}}"#)
        .await;
    assert_eq!(error, Settled::Err(ErrorClass::Input, "no".to_owned(), 1));
    let id = stage.ask("echo", &Ask::new(r#"{"say":"hello"}"#));
    assert!(matches!(stage.settled(id).await, Settled::Ok(_)));
    let progress = stage.first_progress().await;
    assert_eq!((progress.invocation, progress.text.as_str()), (id, "half"));
    assert_eq!(
        stage.record(id).expect("a record").stderr.inline,
        b"hello\nnot of the protocol\n"
    );
    stage.stop().await;
}

#[tokio::test]
async fn a_process_that_dies_fails_what_is_in_flight_and_is_replaced() {
    let stage = stage("processes = { max = 1 }\n").await;
    let before = pid(&stage.call("echo", "1").await);
    let id = stage.ask(
        "echo",
        &Ask {
            attempt: 3,
            ..Ask::new(r#"{"exit":9}"#)
        },
    );
    let Settled::Err(class, message, 3) = stage.settled(id).await else {
        panic!("an error")
    };
    assert_eq!(class, ErrorClass::Node);
    assert!(
        message.contains("exit code 9") && message.contains("last words"),
        "{message}"
    );
    assert_ne!(pid(&stage.call("echo", "2").await), before);
    stage.stop().await;
}

#[tokio::test]
async fn a_hung_invocation_times_out_and_the_others_are_given_back() {
    let stage = stage("processes = { max = 1 }\ntimeout = \"1m\"\n").await;
    let before = pid(&stage.call("echo", "1").await);
    let hung = stage.ask("echo", &Ask::new(r#"{"sleep":1000}"#).within(500));
    assert!(stage.settled(hung).await.retry_text().contains("500 ms"));
    let next = stage.ask("echo", &Ask::new("2"));
    match stage.settled(next).await {
        Settled::Released => {}
        other => assert_ne!(pid(&other), before),
    }
    assert_ne!(pid(&stage.call("echo", "3").await), before);
    stage.stop().await;
}

#[tokio::test]
async fn a_process_that_prints_without_end_is_still_timed_out() {
    let script = "import sys\nsys.stdin.readline()\nwhile True:\n    print('noise' * 20)\n";
    let manifest = "command = [\"python3\", \"noise.py\"]\nprotocol = \"serve\"\n";
    let stage = Stage::open(&[Function {
        name: "noise",
        manifest,
        files: &[("noise.py", script)],
    }])
    .await;
    let id = stage.ask("noise", &Ask::new("1").within(500));
    assert!(stage.settled(id).await.retry_text().contains("500 ms"));
    let record = stage.record(id).expect("a record");
    assert!(record.stderr.bytes > 100_000, "{}", record.stderr.bytes);
    stage.stop().await;
}

#[tokio::test]
async fn a_process_that_never_starts_fails_its_invocations() {
    let manifest = "command = [\"no-such-program\"]\nprotocol = \"serve\"\n";
    let stage = Stage::open(&[Function {
        name: "gone",
        manifest,
        files: &[],
    }])
    .await;
    assert!(
        stage
            .call("gone", "1")
            .await
            .retry_text()
            .contains("cannot start")
    );
    assert!(
        stage
            .call("gone", "1")
            .await
            .retry_text()
            .contains("cannot start")
    );
    stage.stop().await;
}

#[tokio::test]
async fn an_idle_process_ends_and_comes_back() {
    let functions = [Function {
        name: "echo",
        manifest: &echo(""),
        files: &[("echo.py", ECHO)],
    }];
    let stage = Stage::with(&functions, |config| config.idle = Duration::from_millis(100)).await;
    let first = pid(&stage.call("echo", "1").await);
    let gone = || (!std::path::Path::new(&format!("/proc/{first}")).exists()).then_some(());
    assert!(stage.eventually(Duration::from_secs(5), gone).await.is_some());
    assert_ne!(pid(&stage.call("echo", "1").await), first);
    stage.stop().await;
}

#[tokio::test]
async fn parked_processes_give_way_to_another_function() {
    let manifest = echo("processes = { max = 2 }\n");
    let other = "command = [\"cat\"]\n[resources]\ncpu = 2\n";
    let functions = [
        Function {
            name: "echo",
            manifest: &manifest,
            files: &[("echo.py", ECHO)],
        },
        Function {
            name: "cat",
            manifest: other,
            files: &[],
        },
    ];
    let stage = Stage::open(&functions).await;
    let ids: Vec<_> = (0..40)
        .map(|_| stage.ask("echo", &Ask::new(r#"{"sleep":0.01}"#)))
        .collect();
    for id in ids {
        stage.settled(id).await;
    }
    assert_eq!(stage.call("cat", "7").await, Settled::Ok(json!(7)));
    assert!(matches!(stage.call("echo", "8").await, Settled::Ok(_)));
    stage.stop().await;
}

#[tokio::test]
async fn urgent_work_of_another_function_does_not_wait_for_a_deep_queue() {
    let manifest = echo("batch = 1\n");
    let functions = [
        Function {
            name: "echo",
            manifest: &manifest,
            files: &[("echo.py", ECHO)],
        },
        Function {
            name: "cat",
            manifest: "command = [\"cat\"]\n",
            files: &[],
        },
    ];
    let stage = Stage::open(&functions).await;
    let deep: Vec<_> = (0..100)
        .map(|_| stage.ask("echo", &Ask::new(r#"{"sleep":0.05}"#)))
        .collect();
    stage.settled(deep[0]).await;
    let urgent = stage.ask(
        "cat",
        &Ask {
            priority: Priority::of(Class::Critical),
            ..Ask::new("7")
        },
    );
    assert_eq!(stage.settled(urgent).await, Settled::Ok(json!(7)));
    assert!(stage.settled_count() < 60, "{}", stage.settled_count());
    for id in deep {
        stage.settled(id).await;
    }
    stage.stop().await;
}

#[tokio::test]
async fn a_canceled_invocation_is_settled_at_once() {
    let stage = stage("processes = { max = 1 }\n").await;
    stage.call("echo", "1").await;
    let id = stage.ask("echo", &Ask::new(r#"{"sleep":30}"#));
    assert!(
        stage
            .eventually(Duration::from_secs(5), || (stage
                .handle
                .capacity()
                .cpu_millis_free
                == 1_000)
                .then_some(()))
            .await
            .is_some()
    );
    // The request may still be on its way to the process: asking again is allowed.
    let asked = stage.eventually(Duration::from_secs(5), || {
        stage.handle.cancel(&[id]);
        (stage.settled_count() == 2).then_some(())
    });
    assert!(asked.await.is_some());
    assert_eq!(
        stage.settled(id).await,
        Settled::Err(ErrorClass::Canceled, "the call was canceled".to_owned(), 1)
    );
    stage.stop().await;
}

#[tokio::test]
async fn shutdown_ends_the_processes() {
    let script = format!("{ECHO}\n# marker-serve-4711");
    let manifest = "command = [\"python3\", \"marker-serve-4711.py\"]\nprotocol = \"serve\"\n";
    let stage = Stage::open(&[Function {
        name: "echo",
        manifest,
        files: &[("marker-serve-4711.py", &script)],
    }])
    .await;
    stage.call("echo", "1").await;
    assert!(!processes("marker-serve-4711").is_empty());
    stage.stop().await;
    assert_eq!(processes("marker-serve-4711"), Vec::<i32>::new());
}
