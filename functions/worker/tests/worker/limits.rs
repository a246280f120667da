//! Time, memory and the end of everything.

use std::time::Duration;

use celesta_types::ErrorClass;
use serde_json::json;

use crate::stage::{Ask, Function, Settled, Stage, processes};

/// Forks children that sleep for ever, one of them in a session of its own and twice forked.
const FORKER: &str = r#"
marker=$(cat | tr -d '"')
sh -c "sleep 1000; : $marker" &
setsid sh -c "trap '' TERM HUP; (sh -c 'trap \"\" TERM; sleep 1000; : $marker' &) ; sleep 1000; : $marker" &
: > "$CELESTA_FUNCTION_DIR/started"
sleep 1000
"#;

const BREATH: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_function_that_forks_and_sleeps_is_gone_with_its_children_two_seconds_after_its_timeout() {
    let stage = Stage::open(&[Function {
        name: "forker",
        manifest: "command = [\"sh\", \"f.sh\"]\n",
        files: &[("f.sh", FORKER)],
    }])
    .await;
    let marker = "marker-timeout-4711";
    let id = stage.ask("forker", &Ask::new(format!("\"{marker}\"")).within(1_000));
    let started = stage
        .eventually(Duration::from_secs(5), || {
            (processes(marker).len() >= 3).then_some(())
        })
        .await;
    assert!(
        started.is_some(),
        "the children are there first: {:?}",
        processes(marker)
    );
    let text = stage.settled(id).await.retry_text();
    assert!(text.contains("1000 ms"), "{text}");
    let record = stage.record(id).expect("a record");
    let took = record.ended.since(record.started);
    assert!(took < Duration::from_millis(3_000), "{took:?}");
    assert_eq!(
        processes(marker),
        Vec::<i32>::new(),
        "nobody is left when it is reported"
    );
    stage.stop().await;
}

#[tokio::test]
async fn what_a_function_leaves_in_the_background_goes_with_it() {
    let script = "sh -c 'sleep 1000; : marker-background-4711' >/dev/null 2>&1 & echo 5";
    let stage = Stage::open(&[Function {
        name: "leaver",
        manifest: "command = [\"sh\", \"f.sh\"]\n",
        files: &[("f.sh", script)],
    }])
    .await;
    assert_eq!(stage.call("leaver", "{}").await, Settled::Ok(json!(5)));
    assert_eq!(processes("marker-background-4711"), Vec::<i32>::new());
    stage.stop().await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_a_resource_error() {
    let script = "import time\nblocks = []\nfor _ in range(300):\n    blocks.append(bytearray(b'x' * (1 << 20)))\n    time.sleep(0.005)\nprint(1)\n";
    let manifest =
        "command = [\"python3\", \"f.py\"]\n[resources]\nmemory = \"64MiB\"\n[retry]\nattempts = 1\n";
    let stage = Stage::open(&[Function {
        name: "glutton",
        manifest,
        files: &[("f.py", script)],
    }])
    .await;
    let Settled::Err(class, message, 1) = stage.call("glutton", "{}").await else {
        panic!("an error")
    };
    assert_eq!(class, ErrorClass::Resource, "{message}");
    assert!(message.contains("more than 64 MiB"), "{message}");
    stage.stop().await;
}

#[tokio::test]
async fn the_next_attempt_after_a_shortage_has_twice_the_memory() {
    let script = "block = b'x' * (80 << 20)\nimport time\ntime.sleep(0.4)\nprint(1)\n";
    let manifest = "command = [\"python3\", \"f.py\"]\n[resources]\nmemory = \"64MiB\"\n";
    let stage = Stage::open(&[Function {
        name: "eater",
        manifest,
        files: &[("f.py", script)],
    }])
    .await;
    assert!(stage.call("eater", "{}").await.retry_text().contains("memory"));
    let id = stage.ask(
        "eater",
        &Ask {
            attempt: 2,
            ..Ask::new("{}")
        },
    );
    assert_eq!(stage.settled(id).await, Settled::Ok(json!(1)));
    stage.stop().await;
}

#[tokio::test]
async fn a_file_beyond_the_disk_limit_is_a_resource_error() {
    let manifest = "command = [\"python3\", \"-c\", \"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); open('f','wb').write(b'x' * 3000000)\"]\n[resources]\ndisk = \"1MiB\"\n[retry]\nattempts = 1\n";
    let stage = Stage::open(&[Function {
        name: "writer",
        manifest,
        files: &[],
    }])
    .await;
    let Settled::Err(class, message, _) = stage.call("writer", "{}").await else {
        panic!("an error")
    };
    assert_eq!(class, ErrorClass::Resource, "{message}");
    stage.stop().await;
}

#[tokio::test]
async fn a_function_larger_than_the_worker_is_refused() {
    let manifest = "command = [\"cat\"]\n[resources]\ncpu = 3\n[retry]\nattempts = 1\n";
    let stage = Stage::open(&[Function {
        name: "huge",
        manifest,
        files: &[],
    }])
    .await;
    let Settled::Err(class, message, _) = stage.call("huge", "{}").await else {
        panic!("an error")
    };
    assert_eq!(class, ErrorClass::Resource);
    assert!(message.contains("3000"), "{message}");
    stage.stop().await;
}

#[tokio::test]
async fn a_canceled_attempt_ends_soon_and_says_so() {
    let script = "sleep 1000 # marker-cancel-4711";
    let stage = Stage::open(&[Function {
        name: "sleeper",
        manifest: "command = [\"sh\", \"-c\", \"sleep 1000; : marker-cancel-4711\"]\n",
        files: &[("f.sh", script)],
    }])
    .await;
    let id = stage.ask("sleeper", &Ask::new("{}"));
    assert!(
        stage
            .eventually(Duration::from_secs(5), || (!processes("marker-cancel-4711")
                .is_empty())
            .then_some(()))
            .await
            .is_some()
    );
    stage.handle.cancel(&[id]);
    assert_eq!(
        stage.settled(id).await,
        Settled::Err(ErrorClass::Canceled, "the call was canceled".to_owned(), 1)
    );
    assert_eq!(processes("marker-cancel-4711"), Vec::<i32>::new());
    stage.stop().await;
}

#[tokio::test]
async fn a_long_attempt_is_extended_and_a_lost_lease_ends_it_without_a_report() {
    let functions = [Function {
        name: "long",
        manifest: "command = [\"sh\", \"-c\", \"sleep 1000; : marker-lost-4711\"]\n",
        files: &[],
    }];
    let stage = Stage::with(&functions, |config| config.lease = Duration::from_millis(300)).await;
    let id = stage.ask("long", &Ask::new("{}"));
    assert!(
        stage
            .eventually(Duration::from_secs(5), || (stage.extended() >= 2).then_some(()))
            .await
            .is_some()
    );
    assert!(!processes("marker-lost-4711").is_empty());
    stage.lose(id);
    assert!(
        stage
            .eventually(Duration::from_secs(5), || processes("marker-lost-4711")
                .is_empty()
                .then_some(()))
            .await
            .is_some()
    );
    assert_eq!(stage.settled_count(), 0);
    stage.stop().await;
}

#[tokio::test]
async fn shutdown_gives_back_what_does_not_end_in_time() {
    let functions = [Function {
        name: "long",
        manifest: "command = [\"sh\", \"-c\", \"sleep 1000; : marker-drain-4711\"]\n",
        files: &[],
    }];
    let stage = Stage::with(&functions, |config| config.drain = BREATH).await;
    let id = stage.ask("long", &Ask::new("{}"));
    assert!(
        stage
            .eventually(Duration::from_secs(5), || (!processes("marker-drain-4711")
                .is_empty())
            .then_some(()))
            .await
            .is_some()
    );
    stage.tasks.shutdown().request();
    assert_eq!(stage.settled(id).await, Settled::Released);
    stage.stop().await;
    assert_eq!(processes("marker-drain-4711"), Vec::<i32>::new());
}

#[tokio::test]
async fn no_more_runs_at_once_than_there_are_processors() {
    let script = "import os, sys, time, json\nd = os.environ['CELESTA_FUNCTION_DIR'] + '/running'\nos.makedirs(d, exist_ok=True)\nf = d + '/' + str(os.getpid())\nopen(f, 'w').close()\nn = len(os.listdir(d))\ntime.sleep(0.1)\nos.remove(f)\nprint(n)\n";
    let stage = Stage::open(&[Function {
        name: "counter",
        manifest: "command = [\"python3\", \"f.py\"]\n",
        files: &[("f.py", script)],
    }])
    .await;
    let ids: Vec<_> = (0..8).map(|_| stage.ask("counter", &Ask::new("{}"))).collect();
    let mut most = 0;
    for id in ids {
        let Settled::Ok(count) = stage.settled(id).await else {
            panic!("a result")
        };
        most = most.max(count.as_u64().expect("a count"));
    }
    assert_eq!(most, 2);
    assert_eq!(stage.handle.capacity().cpu_millis_free, 2_000);
    stage.stop().await;
}
