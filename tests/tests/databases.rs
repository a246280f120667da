//! A deployment over two PostgreSQL servers: its partitions change their database under load, and whoever copies one is
//! killed in the middle, and nothing is lost or done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use celesta_tests::{Answer, Cluster, Server};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(90);

/// When a node is killed after a move was asked for: before the partition is given up, while it is copied, when it has
/// just been moved. Nobody is killed where there is none.
const KILLS: [Option<u64>; 12] = [
    None,
    Some(0),
    Some(60),
    Some(200),
    Some(500),
    None,
    Some(900),
    Some(1_300),
    Some(1_600),
    Some(1_800),
    Some(2_000),
    Some(2_400),
];

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// The partition as the answer of `/v1/nodes` shows it.
fn partition(answer: &Answer, number: usize) -> Value {
    answer.json["partitions"][number].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_change_their_database_under_load_and_nothing_is_lost_or_doubled() {
    let (Some(main), Some(other)) = (Cluster::start(), Cluster::start()) else {
        let said = "initdb of PostgreSQL is not installed: several databases were not tested\n";
        std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).expect("standard error");
        return;
    };
    let (url, fast) = (main.url(), format!("fast={}", other.url()));
    let arguments = [
        "--store",
        &url,
        "--database",
        &fast,
        "--partitions",
        "4",
        "--workers",
        "2",
    ];
    let first = Server::start_with(&arguments);
    first.push(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/limits"));
    let mut nodes = [first, Server::start_with(&arguments)];
    for node in &nodes {
        node.until("/v1/nodes", PATIENCE, |answer| owned(&answer.json) == [2, 2])
            .await;
    }
    let places = nodes[0].get("/v1/nodes").await;
    let places: Vec<Value> = (0..4)
        .map(|at| partition(&places, at)["database"].clone())
        .collect();
    assert_eq!(places, ["main", "fast", "main", "fast"]);
    let refused = nodes[0].celesta(&["node", "move", "0", "--to", "nowhere"]);
    assert_eq!(refused.code, 3, "{refused:?}");

    let hosts = [nodes[0].url.clone(), nodes[1].url.clone()];
    let over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..6 {
        clients.spawn(load(
            client,
            hosts.clone(),
            Arc::clone(&over),
            Arc::clone(&served),
        ));
    }
    for (round, kill) in KILLS.into_iter().enumerate() {
        let number = round % 4;
        let before = served.load(Ordering::SeqCst);
        let seen = nodes[0].get("/v1/nodes").await;
        let row = partition(&seen, number);
        let to = if row["database"] == "main" { "fast" } else { "main" };
        let at = format!("/v1/nodes/partitions/{number}/move");
        let asked = nodes[round % 2].post(&at, &[], &json!({ "to": to })).await;
        assert_eq!(asked.status, 202, "round {round}: {asked:?}");
        if let Some(ms) = kill {
            pause(ms).await;
            // Its owner claims it again as a rule, and so copies it.
            let mut owners = seen.json["nodes"].as_array().into_iter().flatten();
            let owner = owners.find(|node| node["name"] == row["node"]);
            let address = owner.map_or(Value::Null, |owner| owner["address"].clone());
            let victim = nodes.iter_mut().find(|node| address == node.url.as_str());
            let victim = victim.expect("one of the two");
            victim.kill();
            victim.restart();
        }
        for node in &nodes {
            node.until("/v1/nodes", PATIENCE, |answer| {
                let row = partition(answer, number);
                row["database"] == to && row["node"].is_string() && row["moving_to"].is_null()
            })
            .await;
        }
        // Everything goes on, that partition included.
        let goal = before + 24;
        let patience = async {
            while served.load(Ordering::SeqCst) < goal {
                pause(10).await;
            }
        };
        let went_on = tokio::time::timeout(PATIENCE, patience).await;
        assert!(went_on.is_ok(), "nothing goes on after round {round}");
    }
    over.store(true, Ordering::SeqCst);
    let mut runs = BTreeMap::new();
    while let Some(had) = clients.join_next().await {
        runs.extend(had.expect("no client panics"));
    }
    assert!(runs.len() >= 24 * KILLS.len(), "{}", runs.len());
    let ids: BTreeSet<String> = runs.values().cloned().collect();
    assert_eq!(ids.len(), runs.len(), "each key has a run of its own");
    let mut listed = BTreeSet::new();
    let mut next = Some(String::new());
    while let Some(cursor) = next {
        let page = nodes[1].get(&format!("/v1/runs?limit=100{cursor}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        for row in page.json["rows"].as_array().into_iter().flatten() {
            assert_eq!(row["state"], "completed", "{row}");
            assert!(listed.insert(row["id"].as_str().unwrap_or_default().to_owned()));
        }
        next = page.json["next"]
            .as_str()
            .map(|cursor| format!("&cursor={cursor}"));
    }
    assert_eq!(listed, ids, "no run is lost, and none was made twice");
    let looked = nodes[0].celesta(&["doctor", "--json", "--store", &url, "--database", &fast]);
    assert_eq!(looked.code, 0, "{looked:?}");
    assert_eq!(looked.json()["runs"].as_u64(), u64::try_from(ids.len()).ok());
    let partly = nodes[0].celesta(&["doctor", "--store", &url]);
    assert_eq!(partly.code, 1, "{partly:?}");
    assert!(partly.stdout.contains("--database fast=URL"), "{partly:?}");
    let list = nodes[1].celesta(&["node", "ls"]);
    assert!(
        list.stdout.contains("fast") && !list.stdout.contains("postgres://"),
        "{list:?}"
    );
    assert!(!looked.stderr.contains("postgres://"), "{looked:?}");
}

/// How many partitions each node owns.
fn owned(nodes: &Value) -> Vec<usize> {
    let nodes = nodes["nodes"].as_array().cloned().unwrap_or_default();
    let owned = nodes
        .iter()
        .filter_map(|node| node["partitions"].as_array().map(Vec::len));
    owned.collect()
}

/// Requests one run after the other, each with a key, and asks again with it until it has ended; gives key and run.
async fn load(
    client: usize,
    hosts: [String; 2],
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> Vec<(String, String)> {
    let http = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client");
    let mut had = Vec::new();
    let mut node = client;
    while !over.load(Ordering::SeqCst) {
        let key = format!("client-{client}-{}", had.len());
        let run = loop {
            node += 1;
            let request = http
                .post(format!("{}/v1/services/limits/nap", hosts[node % 2]))
                .header("Prefer", "wait=30")
                .header("Idempotency-Key", &key)
                .json(&json!({ "seconds": "0.01" }));
            if let Ok(answer) = request.send().await
                && let Ok(text) = answer.text().await
                && let Ok(view) = serde_json::from_str::<Value>(&text)
                && view["state"] == "completed"
            {
                break view["id"].as_str().unwrap_or_default().to_owned();
            }
            pause(20).await;
        };
        had.push((key, run));
        served.fetch_add(1, Ordering::SeqCst);
    }
    had
}
