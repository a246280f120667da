//! Producers and consumers over HTTP while the server is killed with SIGKILL: nothing acknowledged is lost, nothing is
//! in two hands at once, and the order of each key stands.
//!
//! The long form: `cargo test -p celesta-tests --test queue_crash -- --ignored`.

mod check;
mod clients;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use celesta_tests::{Cluster, Server};
use serde_json::json;
use tokio::time::Instant;

use self::check::Log;
use self::clients::Crowd;

/// Clients of each sort.
const CLIENTS: u64 = 4;
/// Completed messages are known for longer than a producer repeats a call whose answer it never had.
const REMEMBERED_MS: u64 = 3_600_000;
/// All of it ends within this time, or something hangs.
const PATIENCE: Duration = Duration::from_secs(900);

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_of_an_exclusive_queue() {
    withstands(true, 5, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_of_a_simple_queue() {
    withstands(false, 5, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_of_the_database_lose_nothing() {
    let Some(cluster) = Cluster::start() else {
        let said =
            "initdb of PostgreSQL is not installed: queues were not tested through crashes of a database\n";
        std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).expect("standard error");
        return;
    };
    for exclusive in [true, false] {
        let mut server = Server::start_with(&["--queues", &cluster.url()]);
        // Leases are rows there: they outlive the database's crash, so no kill excuses anything.
        carries(&mut server, exclusive, 3, 400, |_, _| cluster.crash()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long form: a hundred kills, some minutes"]
async fn a_hundred_kills_lose_nothing() {
    withstands(true, 100, 20_000).await;
}

/// Sends `messages` through a queue while the server is killed `kills` times at moments spread over the work.
async fn withstands(exclusive: bool, kills: u64, messages: u64) {
    let mut server = Server::start();
    carries(&mut server, exclusive, kills, messages, |server, log| {
        log.lock().expect("nobody panicked").kills.push(Instant::now());
        server.kill();
        server.restart();
    })
    .await;
}

/// Sends `messages` through a queue of `server`, with `strikes` strikes spread over the work, and checks what was seen.
async fn carries(
    server: &mut Server,
    exclusive: bool,
    strikes: u64,
    messages: u64,
    strike: impl Fn(&mut Server, &Mutex<Log>),
) {
    let queue = if exclusive { "accounts" } else { "mail" };
    let kind = if exclusive { "exclusive" } else { "simple" };
    let settings = server
        .request("PUT", &format!("/v1/queues/{queue}"))
        .json(&json!({ "kind": kind, "keep_completed_ms": REMEMBERED_MS }));
    assert_eq!(server.send(settings).await.status, 201);
    let crowd = Arc::new(Crowd {
        url: server.url.clone(),
        queue,
        exclusive,
        log: Mutex::new(Log::default()),
        progress: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let mut producers = tokio::task::JoinSet::new();
    let mut consumers = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let of_producer = Arc::clone(&crowd);
        producers.spawn(async move { clients::produce(&of_producer, number, messages / CLIENTS).await });
        let of_consumer = Arc::clone(&crowd);
        consumers.spawn(async move { clients::consume(&of_consumer, number).await });
    }
    let worked = tokio::time::timeout(PATIENCE, async {
        for number in 1..=strikes {
            // The moment is where the work happens to be: clients are in the middle of everything.
            let so_far = number * messages / (strikes + 1);
            while crowd.progress.load(Ordering::Relaxed) < so_far {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            strike(server, &crowd.log);
        }
        while let Some(ended) = producers.join_next().await {
            ended.expect("a producer ends well");
        }
        let drained = |answer: &celesta_tests::Answer| {
            let alive = ["invisible", "pending", "running"];
            alive.iter().all(|state| answer.json["counts"][state] == 0)
        };
        let path = format!("/v1/queues/{queue}");
        server.until(&path, PATIENCE, drained).await;
        crowd.over.store(true, Ordering::Relaxed);
        while let Some(ended) = consumers.join_next().await {
            ended.expect("a consumer ends well");
        }
    });
    assert!(worked.await.is_ok(), "everything is delivered in time");
    let log = crowd.log.lock().expect("nobody panicked");
    let faults = log.faults(exclusive);
    assert_eq!(
        log.enqueued.len(),
        usize::try_from(messages).unwrap_or(0),
        "all were acknowledged"
    );
    assert!(
        faults.is_empty(),
        "{} faults in {} deliveries: {:#?}",
        faults.len(),
        log.delivered.len(),
        &faults[..faults.len().min(10)]
    );
}
