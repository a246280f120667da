//! One process an invocation.

use celesta_types::ErrorClass;
use serde_json::json;

use crate::stage::{Ask, Function, Settled, Stage};

fn sh(name: &'static str, script: &'static str) -> (String, [(&'static str, &'static str); 1], &'static str) {
    (
        "command = [\"sh\", \"run.sh\"]\n".to_owned(),
        [("run.sh", script)],
        name,
    )
}

async fn stage(functions: &[(&'static str, &'static str)]) -> Stage {
    let parts: Vec<_> = functions.iter().map(|(name, script)| sh(name, script)).collect();
    let functions: Vec<Function<'_>> = parts
        .iter()
        .map(|(manifest, files, name)| Function {
            name,
            manifest,
            files,
        })
        .collect();
    Stage::open(&functions).await
}

#[tokio::test]
async fn a_function_reads_json_and_answers_json() {
    let stage = stage(&[("echo", "cat")]).await;
    assert_eq!(
        stage.call("echo", r#"{"a":[1,2]}"#).await,
        Settled::Ok(json!({ "a": [1, 2] }))
    );
    stage.stop().await;
}

#[tokio::test]
async fn a_function_sees_its_own_variables_and_nothing_else() {
    let stage = stage(&[(
        "env",
        "env -u PWD -u SHLVL -u _ | sort | cut -d= -f1 | sed 's/.*/\"&\"/' | paste -sd, | sed 's/.*/[&]/'",
    )])
    .await;
    let Settled::Ok(names) = stage.call("env", "{}").await else {
        panic!("a result")
    };
    let expected = json!([
        "CELESTA_ATTEMPT",
        "CELESTA_CALL",
        "CELESTA_FUNCTION",
        "CELESTA_FUNCTION_DIR",
        "CELESTA_RUN",
        "HOME",
        "LANG",
        "PATH",
        "TMPDIR"
    ]);
    let without_shell: Vec<_> = names
        .as_array()
        .expect("names")
        .iter()
        .filter(|name| *name != "OLDPWD")
        .cloned()
        .collect();
    assert_eq!(json!(without_shell), expected);
    stage.stop().await;
}

#[tokio::test]
async fn a_failure_is_the_functions_own_word_or_its_last_lines() {
    let stage = stage(&[
        (
            "said",
            r#"echo '{"error":{"class":"input","message":"no such recipe"}}'; exit 1"#,
        ),
        (
            "said-last",
            r#"echo noise >&2; echo '{"error":{"class":"transient","message":"later"}}' >&2; exit 3"#,
        ),
        ("silent", "echo one >&2; echo two >&2; exit 7"),
        ("crashed", "kill -SEGV $$"),
    ])
    .await;
    assert_eq!(
        stage.call("said", "{}").await,
        Settled::Err(ErrorClass::Input, "no such recipe".to_owned(), 1)
    );
    let Settled::Retry(after_ms, error) = stage.call("said-last", "{}").await else {
        panic!("a retry")
    };
    assert_eq!(error, "later");
    assert!((900..=1_100).contains(&after_ms), "{after_ms}");
    assert_eq!(stage.call("crashed", "{}").await.retry_text(), "signal 11");
    let id = stage.ask(
        "silent",
        &Ask {
            attempt: 3,
            ..Ask::new("{}")
        },
    );
    assert_eq!(
        stage.settled(id).await,
        Settled::Err(ErrorClass::User, "exit code 7: one\ntwo".to_owned(), 3)
    );
    let record = stage.record(id).expect("a failed attempt is recorded");
    assert_eq!(record.stderr.inline, b"one\ntwo\n");
    assert_eq!(record.failure.expect("a failure").0, ErrorClass::User);
    stage.stop().await;
}

#[tokio::test]
async fn a_quiet_success_is_not_recorded_and_a_talkative_one_is() {
    let stage = stage(&[("quiet", "echo 1"), ("loud", "echo hello >&2; echo 2")]).await;
    let quiet = stage.ask("quiet", &Ask::new("{}"));
    let loud = stage.ask("loud", &Ask::new("{}"));
    assert_eq!(stage.settled(quiet).await, Settled::Ok(json!(1)));
    assert_eq!(stage.settled(loud).await, Settled::Ok(json!(2)));
    assert_eq!(stage.record(quiet), None);
    assert_eq!(stage.record(loud).expect("a record").stderr.inline, b"hello\n");
    stage.stop().await;
}

#[tokio::test]
async fn wrong_and_oversized_output_is_the_functions_fault() {
    let stage = stage(&[
        ("nothing", "true"),
        ("not-json", "echo hello"),
        ("two", "echo 1; echo 2"),
        ("large", "head -c 100000 /dev/zero | tr '\\0' 1"),
        ("flood", "yes | head -c 50000000 >&2; echo 1"),
        ("absent", ""),
    ])
    .await;
    assert!(
        stage
            .call("nothing", "{}")
            .await
            .retry_text()
            .contains("printed nothing")
    );
    assert!(
        stage
            .call("not-json", "{}")
            .await
            .retry_text()
            .contains("not one JSON value")
    );
    assert!(
        stage
            .call("two", "{}")
            .await
            .retry_text()
            .contains("not one JSON value")
    );
    assert!(stage.call("large", "{}").await.retry_text().contains("$file"));
    let flood = stage.ask("flood", &Ask::new("{}"));
    assert_eq!(stage.settled(flood).await, Settled::Ok(json!(1)));
    assert_eq!(stage.record(flood).expect("a record").stderr.bytes, 50_000_000);
    stage.stop().await;
}

#[tokio::test]
async fn a_program_that_does_not_exist_and_an_image_are_clear_errors() {
    let functions = [
        Function {
            name: "gone",
            manifest: "command = [\"no-such-program\"]\n",
            files: &[],
        },
        Function {
            name: "image",
            manifest: "image = \"debian:12\"\n",
            files: &[],
        },
    ];
    let stage = Stage::open(&functions).await;
    assert!(
        stage
            .call("gone", "{}")
            .await
            .retry_text()
            .contains("cannot start `no-such-program`")
    );
    assert!(
        stage
            .call("image", "{}")
            .await
            .retry_text()
            .contains("containers")
    );
    stage.stop().await;
}

#[tokio::test]
async fn inputs_and_results_must_fit_their_schemas() {
    let manifest = "command = [\"cat\"]\ninput = { required = [\"a\"] }\noutput = { properties = { a = { type = \"integer\" } } }\n";
    let stage = Stage::open(&[Function {
        name: "checked",
        manifest,
        files: &[],
    }])
    .await;
    assert_eq!(
        stage.call("checked", r#"{"a":1}"#).await,
        Settled::Ok(json!({ "a": 1 }))
    );
    let Settled::Err(ErrorClass::Input, message, 1) = stage.call("checked", "{}").await else {
        panic!("an input error")
    };
    assert!(message.contains("schema"), "{message}");
    assert!(
        stage
            .call("checked", r#"{"a":"x"}"#)
            .await
            .retry_text()
            .contains("/a")
    );
    stage.stop().await;
}

#[tokio::test]
async fn an_input_nobody_reads_is_no_fault() {
    let stage = stage(&[("deaf", "echo 1")]).await;
    let input = format!("\"{}\"", "x".repeat(30_000));
    for _ in 0..3 {
        assert_eq!(stage.call("deaf", &input).await, Settled::Ok(json!(1)));
    }
    stage.stop().await;
}

impl Settled {
    pub(crate) fn retry_text(self) -> String {
        match self {
            Self::Retry(_, error) => error,
            other => panic!("expected a retry, found {other:?}"),
        }
    }
}
