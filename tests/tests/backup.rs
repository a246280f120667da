//! A backup is taken while its node works, is checked before it is restored, and gives back every run.

use std::path::Path;
use std::time::Duration;

use celesta_tests::{Answer, Server, celesta};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

async fn ask(server: &Server, body: Value) -> String {
    let answer = server.post("/v1/services/kept/work", &[], &body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json["id"].as_str().expect("an id").to_owned()
}

fn completed(answer: &Answer) -> bool {
    answer.json["state"] == "completed"
}

#[tokio::test]
async fn a_backup_of_a_working_node_gives_back_every_run() {
    let mut server = Server::start();
    server.push(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/kept"));
    let done = ask(&server, json!({ "calls": 2 })).await;
    server
        .until(&format!("/v1/runs/{done}"), PATIENCE, completed)
        .await;
    let waiting = ask(&server, json!({ "wait": "3s" })).await;
    let mut busy = Vec::new();
    for _ in 0..20 {
        busy.push(ask(&server, json!({ "calls": 3 })).await);
    }
    let (data, backup, place) = (
        server.data(),
        server.folder().join("backup"),
        server.folder().join("restored"),
    );
    let taken = server.celesta(&["backup", "--json", "--data", text(&data), text(&backup)]);
    assert_eq!(taken.code, 0, "{taken:?}");
    let again = server.celesta(&["backup", "--data", text(&data), text(&backup)]);
    assert_eq!(again.code, 4, "a backup overwrites nothing: {again:?}");
    let before = server.get(&format!("/v1/runs/{done}/history")).await;
    server.kill();

    // A backup is a data folder: the doctor looks at it where it is.
    let looked = celesta(server.folder(), &["doctor", "--json", "--data", text(&backup)]);
    assert_eq!(looked.code, 0, "{looked:?}");
    let restored = celesta(
        server.folder(),
        &["restore", text(&backup), "--data", text(&place)],
    );
    assert_eq!(restored.code, 0, "{restored:?}");
    let occupied = celesta(
        server.folder(),
        &["restore", text(&backup), "--data", text(&place)],
    );
    assert_eq!(occupied.code, 4, "a restore overwrites nothing: {occupied:?}");

    let second = Server::start_on(&[], |data| {
        std::fs::rename(&place, data).expect("the same disk");
    });
    let after = second.get(&format!("/v1/runs/{done}/history")).await;
    assert_eq!(before.json, after.json, "the same history");
    for run in busy.iter().chain([&waiting]) {
        second
            .until(&format!("/v1/runs/{run}"), PATIENCE, completed)
            .await;
    }
}

#[tokio::test]
async fn a_damaged_backup_restores_nothing() {
    let mut server = Server::start_with(&["--workers", "0"]);
    server.push(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/kept"));
    let (data, folder) = (server.data(), server.folder().to_owned());
    assert_eq!(server.terminate(), 0);
    let place = folder.join("restored");
    for damage in [
        "celesta.db",
        "artifacts.txt",
        "manifest.json",
        "artifact",
        "missing",
    ] {
        let backup = folder.join(damage);
        let taken = celesta(&folder, &["backup", "--data", text(&data), text(&backup)]);
        assert_eq!(taken.code, 0, "{taken:?}");
        let list = std::fs::read_to_string(backup.join("artifacts.txt")).expect("the list");
        let hex = list.trim().strip_prefix("sha256:").expect("one artifact");
        let blob = backup
            .join("artifacts")
            .join(&hex[..2])
            .join(&hex[2..4])
            .join(hex);
        match damage {
            "missing" => std::fs::remove_file(&blob).expect("it was there"),
            "artifact" => {
                std::fs::remove_file(&blob).expect("it was there");
                std::fs::write(&blob, "something else").expect("writable");
            }
            file => {
                let path = backup.join(file);
                let mut bytes = std::fs::read(&path).expect("readable");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&path, bytes).expect("writable");
            }
        }
        let restored = celesta(&folder, &["restore", text(&backup), "--data", text(&place)]);
        assert_eq!(restored.code, 1, "{damage}: {restored:?}");
        assert!(!place.exists(), "{damage}: nothing was restored");
    }
}
