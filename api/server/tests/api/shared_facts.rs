//! Shared facts and sweeps over HTTP: written, listed, refused, held and let go.

use std::time::Duration;

use celesta_bundle::{FileEntry, Files, pack};
use serde_json::json;

use crate::bed::{Answer, Bed};

const RULES: &str = r#"
workflow encode;

fact Job { recipe: string }
shared fact Recipe { name: string, crf: int }

rule "wait" { match { job: Job; no shared Recipe r where r.name == job.recipe; } action { complete(#{ crf: () }); } }
rule "apply" { match { job: Job; r: shared Recipe where r.name == job.recipe; } action { complete(#{ crf: r.crf }); } }
"#;

const FACTS: &str = "/v1/services/encoder/facts";

async fn encoder() -> Bed {
    let bed = Bed::new().await;
    let service = "name = \"encoder\"\n[operations.encode]\nworkflow = \"encode\"\nfact = \"Job\"\n";
    let entries = [("service.toml", service), ("rules/encode.rules", RULES)];
    let entries = entries.into_iter();
    let files: Files = entries
        .map(|(path, text)| (path.to_owned(), FileEntry::text(text)))
        .collect();
    let pushed = bed.push("encoder", pack(&files)).await;
    assert_eq!(pushed.status, 201, "{pushed:?}");
    bed
}

async fn write(bed: &Bed, body: serde_json::Value) -> Answer {
    bed.post(FACTS, &[], &body.to_string()).await
}

/// Asks for the sweep until it stands so.
async fn sweep(bed: &Bed, written: &Answer, state: &str) -> Answer {
    let sweep = written.json["sweep"]
        .as_str()
        .expect("a sweep was made")
        .to_owned();
    let path = format!("/v1/sweeps/{sweep}");
    let asked = async {
        loop {
            let answer = bed.get(&path).await;
            if answer.json["state"] == state {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), asked).await;
    answer.expect("the sweep gets there")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_is_written_read_and_swept_over() {
    let bed = encoder().await;
    let ran = bed
        .post(
            "/v1/services/encoder/encode",
            &[("Prefer", "wait=20")],
            r#"{"recipe":"web"}"#,
        )
        .await;
    assert_eq!(ran.json["result"], json!({ "crf": null }), "{ran:?}");
    let run = ran.json["id"].as_str().expect("a run").to_owned();

    let insert = json!({ "insert": "Recipe", "fields": { "name": "web", "crf": 23 } });
    let asked = write(&bed, json!({ "writes": [insert], "dry_run": true })).await;
    assert_eq!((asked.status, &asked.json["runs"]), (200, &json!(1)), "{asked:?}");
    assert_eq!(bed.get(FACTS).await.json["rows"], json!([]));

    let held = write(&bed, json!({ "writes": [insert], "hold": true, "rate": 50 })).await;
    assert_eq!(
        held.json["facts"],
        json!([{ "fact": 1, "version": 1, "changed": true }]),
        "{held:?}"
    );
    let previewed = sweep(&bed, &held, "previewed").await;
    assert_eq!(
        (&previewed.json["runs"], &previewed.json["rate"]),
        (&json!(1), &json!(50))
    );
    let path = format!("/v1/sweeps/{}", held.json["sweep"].as_str().unwrap_or_default());
    let preview = bed.get(&format!("{path}/preview")).await;
    assert_eq!(
        (&preview.json["runs"], &preview.json["rules"]),
        (&json!(1), &json!(["encode: apply", "encode: wait"]))
    );
    bed.post(&format!("{path}/pause"), &[], r#"{"reason":"look"}"#)
        .await;
    let resumed = bed.post(&format!("{path}/resume"), &[], "").await;
    assert_eq!(
        (resumed.status, &resumed.json["state"]),
        (200, &json!("running")),
        "{resumed:?}"
    );
    let done = sweep(&bed, &held, "done").await;
    assert_eq!(
        (&done.json["moved"], &done.json["told"]),
        (&json!(1), &json!(1)),
        "{done:?}"
    );
    let runs = bed.get(&format!("{path}/runs")).await;
    assert_eq!(runs.json["rows"], json!([{ "run": run, "outcome": "moved" }]));
    assert_eq!(
        bed.get(&format!("/v1/runs/{run}")).await.json["result"],
        json!({ "crf": 23 })
    );
    bed.post(&format!("{path}/abort"), &[], "")
        .await
        .is_problem(409, "illegal-state");

    let fact = bed.get(&format!("{FACTS}/1")).await;
    assert_eq!(
        (&fact.json["type"], &fact.json["value"]["crf"]),
        (&json!("Recipe"), &json!(23)),
        "{fact:?}"
    );
    let update = json!({ "update": 1, "version": 1, "fields": { "crf": 20 } });
    assert_eq!(write(&bed, json!({ "writes": [update] })).await.status, 200);
    write(&bed, json!({ "writes": [update] }))
        .await
        .is_problem(409, "fact-conflict");
    let listed = bed.get("/v1/sweeps?service=encoder").await;
    assert_eq!(
        listed.json["rows"].as_array().map(Vec::len),
        Some(2),
        "{listed:?}"
    );
    bed.stop().await;
}

#[tokio::test]
async fn what_is_not_there_or_wrong_is_a_problem() {
    let bed = encoder().await;
    bed.get("/v1/services/nobody/facts")
        .await
        .is_problem(404, "no-such-service");
    bed.get(&format!("{FACTS}/1"))
        .await
        .is_problem(404, "no-such-fact");
    bed.get(&format!("{FACTS}/x"))
        .await
        .is_problem(400, "invalid-parameter");
    bed.get("/v1/sweeps/swp_00000000000000000000000000")
        .await
        .is_problem(404, "no-such-sweep");
    bed.get("/v1/sweeps?state=lost")
        .await
        .is_problem(400, "invalid-parameter");
    for wrong in [
        json!({ "writes": [] }),
        json!({ "writes": [{ "insert": "Recipe" }] }),
        json!({ "writes": [{ "insert": "Job", "fields": { "recipe": "x" } }] }),
        json!({ "writes": [{ "update": 1 }] }),
        json!({ "facts": [] }),
    ] {
        write(&bed, wrong).await.is_problem(422, "invalid-writes");
    }
    write(&bed, json!({ "writes": [{ "retract": 1 }] }))
        .await
        .is_problem(409, "fact-conflict");
    let slow = json!({ "writes": [{ "insert": "Recipe", "fields": { "name": "x", "crf": 1 } }], "rate": 0 });
    write(&bed, slow).await.is_problem(400, "invalid-parameter");
    let large = "x".repeat(40_000);
    let large = json!({ "writes": [{ "insert": "Recipe", "fields": { "name": large, "crf": 1 } }] });
    write(&bed, large).await.is_problem(422, "invalid-writes");
    bed.stop().await;
}
