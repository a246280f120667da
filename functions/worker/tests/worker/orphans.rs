//! A worker that is killed takes its functions with it.

use std::time::Duration;

use celesta_worker::guard::GuardArguments;

use crate::stage::{Stage, processes};

/// Plays the worker: starts the guard and waits for ever.
const PARENT: &str = "import os, subprocess, sys, time\nwords = sys.argv[1:]\nwords[2] = str(os.getpid())\nsubprocess.Popen(words)\ntime.sleep(1000)\n";

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test plays a worker that is killed")]
async fn functions_of_a_killed_worker_are_gone_soon() {
    let stage = Stage::open(&[]).await;
    let arguments = GuardArguments {
        status: stage.path("status.json"),
        parent: 0,
        memory_bytes: 1 << 30,
        disk_bytes: 1 << 30,
        cpu_ms: None,
        timeout: None,
        command: ["sh", "-c", "trap '' TERM; setsid sh -c 'sleep 1000; : marker-orphan-4711' & sleep 1000; : marker-orphan-4711"]
            .map(Into::into)
            .to_vec(),
    };
    let mut parent = std::process::Command::new("python3")
        .args(["-c", PARENT, env!("CARGO_BIN_EXE_celesta-guard")])
        .args(arguments.to_words())
        .spawn()
        .expect("python3 starts");
    // The guard's own command line holds the marker too, and so does the parent's.
    let all = stage
        .eventually(Duration::from_secs(5), || {
            (processes("marker-orphan-4711").len() >= 4).then_some(())
        })
        .await;
    assert!(all.is_some(), "{:?}", processes("marker-orphan-4711"));
    parent.kill().expect("SIGKILL");
    parent.wait().expect("it is gone");
    let gone = stage
        .eventually(Duration::from_secs(2), || {
            processes("marker-orphan-4711").is_empty().then_some(())
        })
        .await;
    assert!(gone.is_some(), "{:?}", processes("marker-orphan-4711"));
    stage.stop().await;
}
