//! Two nodes on one PostgreSQL: requests find their runs, keys hold, a killed node is replaced, a rolling restart fails
//! nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use celesta_tests::{Cluster, Server, example};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(60);

fn bundle(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name)
}

/// A database and two nodes on it, the bundle pushed at the first; nothing where PostgreSQL is not installed.
async fn nodes() -> Option<(Cluster, Server, Server)> {
    let Some(cluster) = Cluster::start() else {
        let said = "initdb of PostgreSQL is not installed: nodes that share a database were not tested\n";
        std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).expect("standard error");
        return None;
    };
    let url = cluster.url();
    let arguments = ["--store", url.as_str(), "--partitions", "4", "--workers", "2"];
    let first = Server::start_with(&arguments);
    first.push(&bundle("limits"));
    let second = Server::start_with(&arguments);
    for node in [&first, &second] {
        node.until("/v1/nodes", PATIENCE, |answer| owned(&answer.json) == [2, 2])
            .await;
    }
    Some((cluster, first, second))
}

/// How many partitions each node owns.
fn owned(nodes: &Value) -> Vec<usize> {
    let nodes = nodes["nodes"].as_array().cloned().unwrap_or_default();
    let owned = nodes
        .iter()
        .filter_map(|node| node["partitions"].as_array().map(Vec::len));
    owned.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_answer_for_each_other_and_replace_each_other() {
    let Some((_cluster, first, mut second)) = nodes().await else {
        return;
    };
    second
        .until("/v1/services", PATIENCE, |answer| answer.text.contains("limits"))
        .await;
    // A run made at one node is seen, waited for, followed and listed at the other.
    let mut runs = Vec::new();
    for number in 0..8 {
        let (here, there) = if number % 2 == 0 {
            (&first, &second)
        } else {
            (&second, &first)
        };
        let answer = here
            .post("/v1/services/limits/nap", &[], &json!({ "seconds": "0" }))
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let run = answer.json["id"].as_str().expect("an id").to_owned();
        let ended = there
            .send(
                there
                    .request("GET", &format!("/v1/runs/{run}"))
                    .header("Prefer", "wait=30"),
            )
            .await;
        assert_eq!(ended.json["state"], "completed", "{ended:?}");
        let events = there.get(&format!("/v1/runs/{run}/events")).await;
        assert!(events.text.contains("event: completed"), "{events:?}");
        runs.push(run);
    }
    let unknown = first.get("/v1/runs/run_00000000000000000000000000").await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (404, "no-such-run"),
        "{unknown:?}"
    );
    for node in [&first, &second] {
        let list = node.get("/v1/runs?limit=100").await;
        assert!(
            runs.iter().all(|run| list.text.contains(run.as_str())),
            "{list:?}"
        );
    }
    // A key names one run, whichever node is asked, also when both are asked at once.
    for key in 0..8 {
        let header = [("Idempotency-Key", format!("key-{key}"))];
        let header = [(header[0].0, header[0].1.as_str())];
        let (path, body) = ("/v1/services/limits/nap", json!({ "seconds": "0" }));
        let (one, two) = tokio::join!(
            first.post(path, &header, &body),
            second.post(path, &header, &body)
        );
        let again = first.post(path, &header, &body).await;
        for answer in [one, two] {
            // While the first is being accepted, the other is told to ask again.
            assert!(
                answer.json["id"] == again.json["id"] || answer.code() == "request-in-flight",
                "{answer:?} {again:?}"
            );
        }
    }
    // Calls that are outstanding when their node is killed are run by the other.
    let mut long = Vec::new();
    for _ in 0..6 {
        let answer = second
            .post(
                "/v1/services/limits/nap",
                &[],
                &json!({ "seconds": "0.3", "naps": 4 }),
            )
            .await;
        long.push(answer.json["id"].as_str().expect("an id").to_owned());
    }
    second.kill();
    for run in &long {
        let ended = first
            .send(
                first
                    .request("GET", &format!("/v1/runs/{run}"))
                    .header("Prefer", "wait=60"),
            )
            .await;
        assert_eq!(ended.json["state"], "completed", "{ended:?}");
        assert_eq!(ended.json["result"], json!({ "taken": 4 }));
        let calls = first.get(&format!("/v1/runs/{run}/calls")).await;
        assert_eq!(
            calls.text.matches("\"succeeded\"").count(),
            4,
            "each nap counts once: {calls:?}"
        );
    }
}

/// Events come to both nodes at once, some of them twice, and their orders are anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn events_reach_their_subscribers_once_whichever_node_is_asked() {
    let Some((cluster, first, second)) = nodes().await else {
        return;
    };
    first.push(&bundle("shop"));
    second
        .until("/v1/services", PATIENCE, |answer| answer.text.contains("shop"))
        .await;
    let mut orders = Vec::new();
    for node in [&first, &second, &first, &second, &first, &second] {
        let answer = node
            .post("/v1/services/shop/await", &[], &json!({ "order": "7" }))
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
        orders.push(answer.json["id"].as_str().expect("an id").to_owned());
    }
    let event = |id: usize, kind: &str, order: &str| {
        json!({
            "specversion": "1.0", "id": id.to_string(), "source": "/till", "type": kind,
            "data": { "order": order, "amount": 1 << id },
        })
    };
    let send = async |node: &Server, kind: &str, body: &Value| {
        let request = node.request("POST", "/v1/events").header("Content-Type", kind);
        node.send(request.body(body.to_string())).await
    };
    let (structured, batch) = (
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    );
    let one = event(0, "shop.paid", "7");
    let (here, there) = tokio::join!(send(&first, structured, &one), send(&second, structured, &one));
    let mut statuses = [here.status, there.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 202], "{here:?} {there:?}");
    let rest = json!([
        one,
        event(1, "shop.paid", "7"),
        event(2, "weather", ""),
        event(3, "shop.paid", "7"),
        event(4, "shop.placed", "8"),
        event(5, "shop.paid", "nobody's"),
    ]);
    let answer = send(&second, batch, &rest).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let events = answer.json["events"].as_array().cloned().unwrap_or_default();
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["id"].as_str().unwrap_or_default(),
                event["deliveries"].as_array().map_or(0, Vec::len),
            )
        })
        .collect();
    assert_eq!(
        told,
        [("0", 0), ("1", 6), ("2", 0), ("3", 6), ("4", 1), ("5", 1)],
        "{answer:?}"
    );
    assert_eq!(events[0]["duplicate"], true);
    let nobody = send(&second, structured, &event(5, "shop.paid", "nobody's")).await;
    assert_eq!(
        (nobody.status, nobody.code()),
        (422, "unusable-event"),
        "{nobody:?}"
    );
    for run in &orders {
        let path = format!("/v1/runs/{run}");
        let ended = first
            .send(first.request("GET", &path).header("Prefer", "wait=30"))
            .await;
        assert_eq!(ended.json["result"], json!({ "paid": 11 }), "{ended:?}");
    }
    let list = first.get("/v1/runs?service=shop&limit=100").await;
    assert_eq!(list.json["rows"].as_array().map(Vec::len), Some(7), "{list:?}");
    let url = cluster.url();
    let looked = first.celesta(&["doctor", "--json", "--store", &url]);
    assert_eq!(looked.code, 0, "{looked:?}");
    assert!(looked.json()["runs"].as_u64() >= Some(7), "{looked:?}");
}

/// An operation has parts in all partitions, and is one: its counts are theirs together, and a step is taken by all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_many_runs_is_one_operation() {
    let Some((_cluster, first, second)) = nodes().await else {
        return;
    };
    second
        .until("/v1/services", PATIENCE, |answer| answer.text.contains("limits"))
        .await;
    for number in 0..12 {
        let node = if number % 2 == 0 { &first } else { &second };
        let answer = node
            .post("/v1/services/limits/nap", &[], &json!({ "seconds": "60" }))
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let filter = json!({ "service": "limits", "workflow": "nap" });
    let cancel = json!({ "action": "cancel", "filter": filter, "reason": "enough", "rate": 1 });
    let mut preview = cancel.clone();
    preview["preview"] = true.into();
    let counted = second.post("/v1/operations", &[], &preview).await;
    assert_eq!(counted.json, json!({ "runs": 12 }), "{counted:?}");

    let begun = second.post("/v1/operations", &[], &cancel).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let path = format!("/v1/operations/{}", begun.json["id"].as_str().expect("an id"));
    let done = first
        .until(&path, PATIENCE, |answer| answer.json["state"] == "done")
        .await;
    let counts = ["seen", "done", "refused"].map(|count| done.json[count].as_u64());
    assert_eq!(counts, [Some(12), Some(12), Some(0)], "{done:?}");
    assert!(done.json["ended_at"].is_i64(), "{done:?}");
    for node in [&first, &second] {
        let list = node.get("/v1/operations?limit=5").await;
        let ids: Vec<&Value> = list.json["rows"].as_array().expect("rows").iter().collect();
        assert_eq!(ids.len(), 1, "{list:?}");
        assert_eq!((&ids[0]["id"], &ids[0]["done"]), (&begun.json["id"], &json!(12)));
    }
    let again = first.post(&format!("{path}/abort"), &[], &json!({})).await;
    assert_eq!((again.status, again.code()), (409, "illegal-state"), "{again:?}");

    // A pause holds in all partitions, is listed once, and one operation lets the runs go on.
    let paused = first
        .send(
            first
                .request("PUT", "/v1/pauses/limits")
                .json(&json!({ "reason": "tea" })),
        )
        .await;
    assert_eq!(paused.status, 200, "{paused:?}");
    let orders = second.get("/v1/orders?service=limits").await;
    assert_eq!(
        orders.json["rows"].as_array().map(Vec::len),
        Some(1),
        "{orders:?}"
    );
    let mut runs = Vec::new();
    for _ in 0..6 {
        let answer = second
            .post("/v1/services/limits/nap", &[], &json!({ "seconds": "0" }))
            .await;
        let run = format!("/v1/runs/{}", answer.json["id"].as_str().expect("an id"));
        first
            .until(&run, PATIENCE, |answer| answer.json["state"] == "paused")
            .await;
        runs.push(run);
    }
    let resumed = first.send(first.request("DELETE", "/v1/pauses/limits")).await;
    assert_eq!(resumed.status, 202, "{resumed:?}");
    for run in runs {
        first
            .until(&run, PATIENCE, |answer| answer.json["state"] == "completed")
            .await;
    }
    let id = resumed.json["operation"]["id"].as_str().expect("an id");
    let done = second
        .until(&format!("/v1/operations/{id}"), PATIENCE, |answer| {
            answer.json["state"] == "done"
        })
        .await;
    assert_eq!(done.json["done"], 6, "{done:?}");
}

/// A change of shared facts that waits for a look at it, and whoever lets it go on does not wait for the partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_held_goes_on_in_all_partitions() {
    let Some((_cluster, first, second)) = nodes().await else {
        return;
    };
    first.push(&example("shelf"));
    second
        .until("/v1/services", PATIENCE, |answer| answer.text.contains("shelf"))
        .await;
    for number in 0..16 {
        let node = if number % 2 == 0 { &first } else { &second };
        let title = json!({ "name": "Metropolis", "family": "film" });
        let answer = node
            .post("/v1/services/shelf/keep", &[("Prefer", "wait=30")], &title)
            .await;
        assert_eq!(answer.json["state"], "completed", "{answer:?}");
    }
    for (height, step, moved) in [(480, "abort", 0), (720, "resume", 16)] {
        let recipe = json!({ "name": "web", "family": "film", "height": height });
        let write = json!({ "writes": [{ "insert": "Recipe", "fields": recipe }], "hold": true });
        let written = first.post("/v1/services/shelf/facts", &[], &write).await;
        let sweep = written.json["sweep"].as_str().expect("a sweep");
        let path = format!("/v1/sweeps/{sweep}");
        // Held until it is let go on; asked for at once, by a node that may not have counted yet.
        loop {
            let stepped = second.post(&format!("{path}/{step}"), &[], &json!({})).await;
            if stepped.status == 200 {
                break;
            }
            assert_eq!(stepped.status, 409, "it has not counted yet: {stepped:?}");
        }
        let ended = second
            .until(&path, PATIENCE, |answer| answer.json["ended_at"].is_i64())
            .await;
        assert_eq!(ended.json["moved"], moved, "{ended:?}");
    }
}

/// Each node is stopped and started again under load, as an upgrade does. Clients do what a load balancer does: they ask a
/// node that is ready, and another one when a connection is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_request() {
    let Some((_cluster, mut first, mut second)) = nodes().await else {
        return;
    };
    let hosts = [first.url.clone(), second.url.clone()];
    let over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let (hosts, over, served) = (hosts.clone(), Arc::clone(&over), Arc::clone(&served));
        clients.spawn(load(client, hosts, over, served));
    }
    let enough = |more: usize| {
        let (served, goal) = (Arc::clone(&served), served.load(Ordering::SeqCst) + more);
        async move {
            while served.load(Ordering::SeqCst) < goal {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    for _ in 0..2 {
        for node in [&mut first, &mut second] {
            enough(50).await;
            assert_eq!(node.terminate(), 0, "it ends in good order");
            enough(50).await;
            node.restart();
            node.until("/v1/nodes", PATIENCE, |answer| owned(&answer.json) == [2, 2])
                .await;
        }
    }
    over.store(true, Ordering::SeqCst);
    while let Some(failed) = clients.join_next().await {
        assert_eq!(failed.expect("no client panics"), Vec::<String>::new());
    }
}

/// Requests runs and waits for their ends until it is over; says what failed.
async fn load(
    client: usize,
    hosts: [String; 2],
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> Vec<String> {
    let http = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client");
    let mut failed = Vec::new();
    let mut node = client;
    while !over.load(Ordering::SeqCst) {
        let ready = http.get(format!("{}/readyz", hosts[node % 2])).send().await;
        if !ready.is_ok_and(|answer| answer.status() == 200) {
            node += 1;
            continue;
        }
        let request = http
            .post(format!("{}/v1/services/limits/nap", hosts[node % 2]))
            .header("Prefer", "wait=30")
            .json(&json!({ "seconds": "0.01" }));
        match request.send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let text = answer.text().await.unwrap_or_default();
                if status == 200 && text.contains("\"completed\"") {
                    served.fetch_add(1, Ordering::SeqCst);
                } else {
                    failed.push(format!("{status} {text}"));
                }
                node += 1;
            }
            // Nobody listens there: nothing was sent.
            Err(error) if error.is_connect() => node += 1,
            Err(error) => failed.push(format!("{error:?}")),
        }
    }
    failed
}
