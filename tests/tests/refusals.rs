//! What is wrong is refused with a problem of its own code, and nothing is stored.

use std::io::Write as _;

use celesta_tests::{Answer, Server, example};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

/// A tar.gz of these entries; paths may be anything.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    for (path, content) in entries {
        let mut header = tar::Header::new_ustar();
        // The checked setter refuses what an attacker would write.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(u64::try_from(content.len()).expect("small"));
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        packed.write_all(header.as_bytes()).expect("memory");
        packed.write_all(content).expect("memory");
        let padding = (512 - content.len() % 512) % 512;
        packed.write_all(&vec![0; padding]).expect("memory");
    }
    packed.write_all(&[0; 1024]).expect("memory");
    packed.finish().expect("memory")
}

async fn put(server: &Server, service: &str, body: Vec<u8>) -> Answer {
    let request = server
        .request("PUT", &format!("/v1/services/{service}"))
        .header("Content-Type", "application/gzip");
    server.send(request.body(body)).await
}

/// The answer is a problem with a code, and the code has a page.
async fn is_problem(server: &Server, answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(!answer.code().is_empty(), "{answer:?}");
    let content_type = answer
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    assert!(content_type.starts_with("application/problem+json"), "{answer:?}");
    assert_eq!(answer.json["status"], status, "{answer:?}");
    let page = server.get(&format!("/errors/{}", answer.code())).await;
    assert_eq!(page.status, 200, "the code {} has no page", answer.code());
}

async fn is_empty(server: &Server, path: &str) {
    let listed = server.get(path).await;
    assert!(
        !listed.text.contains("\"name\"") && !listed.text.contains("run_"),
        "{listed:?}"
    );
}

#[tokio::test]
async fn wrong_bundles_are_refused_and_not_stored() {
    let server = Server::start();
    let service: (&str, &[u8]) = ("service.toml", b"name = \"bad\"\n");

    let escaping = put(
        &server,
        "bad",
        archive(&[service, ("../escaped.rules", b"workflow x;")]),
    )
    .await;
    is_problem(&server, &escaping, 400).await;
    let absolute = put(&server, "bad", archive(&[service, ("/etc/escaped", b"x")])).await;
    is_problem(&server, &absolute, 400).await;
    assert!(!server.data().join("escaped.rules").exists() && !server.folder().join("escaped.rules").exists());

    let bomb = put(
        &server,
        "bad",
        archive(&[service, ("zeros", &vec![0; 300 * 1024 * 1024])]),
    )
    .await;
    is_problem(&server, &bomb, 413).await;

    let garbage = put(&server, "bad", b"this is no archive".to_vec()).await;
    assert!((400..500).contains(&garbage.status), "{garbage:?}");
    is_problem(&server, &garbage, garbage.status).await;

    let mistaken = archive(&[
        service,
        (
            "rules/x.rules",
            b"workflow x;\nrule \"r\" { match { a: Nowhere; } action { } }\n",
        ),
    ]);
    let mistaken = put(&server, "bad", mistaken).await;
    assert!((400..500).contains(&mistaken.status), "{mistaken:?}");
    is_problem(&server, &mistaken, mistaken.status).await;
    assert!(mistaken.text.contains("rules/x.rules"), "{mistaken:?}");

    is_empty(&server, "/v1/services").await;
}

#[tokio::test]
async fn wrong_requests_are_refused_and_not_stored() {
    let server = Server::start();
    server.push(&example("greeter"));
    let service = server.get("/v1/services/greeter").await;
    let operation = service.json["operations"][0]["name"]
        .as_str()
        .expect("the greeter has an operation")
        .to_owned();
    let path = format!("/v1/services/greeter/{operation}");

    let unknown = server.post("/v1/services/nobody/nothing", &[], &json!({})).await;
    is_problem(&server, &unknown, 404).await;
    let unknown = server.post("/v1/services/greeter/nothing", &[], &json!({})).await;
    is_problem(&server, &unknown, 404).await;

    let json_type = ("Content-Type", "application/json");
    let wrong_json = server
        .send(
            server
                .request("POST", &path)
                .header(json_type.0, json_type.1)
                .body("{\"a\": "),
        )
        .await;
    is_problem(&server, &wrong_json, 400).await;
    let no_json = server
        .send(
            server
                .request("POST", &path)
                .header("Content-Type", "text/plain")
                .body("hello"),
        )
        .await;
    is_problem(&server, &no_json, 415).await;
    let wrong_schema = server.post(&path, &[], &json!({ "surely-not-a-field": 1 })).await;
    is_problem(&server, &wrong_schema, 422).await;
    assert!(
        wrong_schema.json["errors"]
            .as_array()
            .is_some_and(|errors| !errors.is_empty()),
        "{wrong_schema:?}"
    );
    let oversized = server
        .post(&path, &[], &json!({ "name": "x".repeat(40 * 1024) }))
        .await;
    is_problem(&server, &oversized, 413).await;

    for (method, path, status) in [
        ("GET", "/v1/runs/run_00000000000000000000000000", 404),
        ("GET", "/v1/runs/nonsense", 400),
        ("GET", "/v1/nowhere", 404),
        ("DELETE", "/v1/runs", 405),
        ("GET", "/v1/runs?limit=0", 400),
        ("GET", "/v1/artifacts/sha256:00", 400),
    ] {
        let answer = server.send(server.request(method, path)).await;
        assert!((400..500).contains(&answer.status), "{method} {path}: {answer:?}");
        let expected = if (400..423).contains(&status) && answer.status == 422 {
            422
        } else {
            status
        };
        is_problem(&server, &answer, expected).await;
    }
    is_empty(&server, "/v1/runs").await;
}
