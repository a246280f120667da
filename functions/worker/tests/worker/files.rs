//! Artifacts in and out.

use celesta_types::ErrorClass;
use serde_json::{Value, json};

use crate::stage::{Ask, Function, Settled, Stage};

const COPY: &str = r#"
import json, os, sys
given = json.load(sys.stdin)
if "name" in given:
    print(json.dumps({"file": {"$file": given["name"]}}))
    sys.exit()
text = open(given["source"]["path"]).read()
os.makedirs("out", exist_ok=True)
open("out/copy.txt", "w").write(text + "!")
open("other", "w").write("other")
print(json.dumps({"file": {"$file": "out/copy.txt", "media_type": "text/plain", "lines": 1}, "all": [{"$file": "other"}]}))
"#;

async fn stage() -> Stage {
    let manifest = "command = [\"python3\", \"copy.py\"]\n[retry]\nattempts = 1\n";
    Stage::open(&[Function {
        name: "copy",
        manifest,
        files: &[("copy.py", COPY)],
    }])
    .await
}

#[tokio::test]
async fn artifacts_come_as_files_and_files_go_as_artifacts() {
    let stage = stage().await;
    let source = stage
        .artifacts
        .put_bytes(b"hello".to_vec(), Some("text/plain".to_owned()))
        .await
        .expect("stored");
    let input = json!({ "source": source }).to_string();
    let id = stage.ask(
        "copy",
        &Ask {
            has_artifacts: true,
            ..Ask::new(input)
        },
    );
    let Settled::Ok(result) = stage.settled(id).await else {
        panic!("a result")
    };
    assert_eq!(
        (
            &result["file"]["size"],
            &result["file"]["media_type"],
            &result["file"]["lines"]
        ),
        (&json!(6), &json!("text/plain"), &json!(1))
    );
    assert_eq!(content(&stage, &result["file"]).await, "hello!");
    assert_eq!(content(&stage, &result["all"][0]).await, "other");
    assert_eq!(
        content(&stage, &json!(source)).await,
        "hello",
        "the source is untouched"
    );
    stage.stop().await;
}

async fn content(stage: &Stage, reference: &Value) -> String {
    let digest = reference["$artifact"]
        .as_str()
        .expect("a digest")
        .parse()
        .expect("a digest");
    let path = stage
        .artifacts
        .path(&digest)
        .await
        .expect("readable")
        .expect("stored");
    std::fs::read_to_string(path).expect("a file")
}

#[tokio::test]
async fn no_file_outside_of_the_working_directory_is_taken() {
    let stage = stage().await;
    std::os::unix::fs::symlink("/etc", stage.path("functions/copy/etc")).expect("a link");
    let link = stage.path("functions/copy/etc/passwd");
    for name in [
        "../status.json",
        "/etc/passwd",
        "out/../../x",
        link.to_str().expect("UTF-8"),
        "absent",
        ".",
    ] {
        let input = json!({ "name": name }).to_string();
        let Settled::Err(class, message, 1) = stage.call("copy", &input).await else {
            panic!("an error for {name}")
        };
        assert_eq!(class, ErrorClass::User, "{name}: {message}");
    }
    stage.stop().await;
}

#[tokio::test]
async fn an_artifact_that_is_not_there_is_an_input_error() {
    let stage = stage().await;
    let input =
        json!({ "source": { "$artifact": format!("sha256:{}", "0".repeat(64)), "size": 1 } }).to_string();
    let id = stage.ask(
        "copy",
        &Ask {
            has_artifacts: true,
            ..Ask::new(input)
        },
    );
    let Settled::Err(ErrorClass::Input, message, 1) = stage.settled(id).await else {
        panic!("an input error")
    };
    assert!(message.contains("no artifact"), "{message}");
    stage.stop().await;
}
