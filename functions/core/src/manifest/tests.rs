use super::*;
use celesta_types::ErrorClass;

fn parse(text: &str) -> Result<Manifest, ManifestErrors> {
    Manifest::parse("functions/encode/function.toml", text, &|name| {
        (name == "in.json").then(|| br#"{"type":"object"}"#.to_vec())
    })
}

#[test]
fn a_short_manifest_has_the_documented_defaults() {
    let manifest = parse("name = \"greet\"\ncommand = [\"sh\", \"greet.sh\"]\n").expect("a right manifest");
    assert_eq!(&*manifest.name, "greet");
    assert_eq!(manifest.protocol, Protocol::Exec);
    assert_eq!(
        (manifest.timeout_ms, manifest.batch, manifest.pure),
        (600_000, 16, false)
    );
    assert_eq!(manifest.resources, Resources::default());
    assert_eq!(manifest.retry, RetryPolicy::default());
}

#[test]
fn a_full_manifest_reads() {
    let manifest = parse(
        r#"
name = "encode"
version = "2.1"
description = "Encodes a chunk."
command = ["python3", "encode.py"]
protocol = "serve"
timeout = "1h30m"
batch = 4
pure = true
processes = { min = 1, max = 3 }
input = "in.json"
output = { type = "object", required = ["file"], properties = { size = { type = "integer", minimum = 1 } } }

[resources]
cpu = 1.5
memory = "1GiB"
memory_max = "3GiB"
disk = "20GB"

[retry]
attempts = 5
first = "250ms"

[retry.transient]
attempts = 10
cap = "1m"

[env]
PRESET = "veryfast"
"#,
    )
    .expect("a right manifest");
    assert_eq!(manifest.timeout_ms, 5_400_000);
    assert_eq!(manifest.processes, Processes { min: 1, max: Some(3) });
    assert_eq!(manifest.resources.cpu_millis, 1_500);
    assert_eq!(manifest.resources.memory_after(0), 1 << 30);
    assert_eq!(manifest.resources.memory_after(1), 2 << 30);
    assert_eq!(manifest.resources.memory_after(9), 3 << 30);
    assert_eq!(manifest.resources.disk_bytes, 20_000_000_000);
    let transient = manifest.retry.backoff(ErrorClass::Transient);
    assert_eq!(
        (transient.attempts, transient.first_ms, transient.cap_ms),
        (10, 250, 60_000)
    );
    assert_eq!(manifest.retry.backoff(ErrorClass::User).attempts, 5);
    assert_eq!(manifest.env["PRESET"], "veryfast");
    assert_eq!(
        manifest
            .output
            .expect("a schema")
            .violations(&serde_json::json!({ "file": 1, "size": 0 }))
            .len(),
        1
    );
}

#[test]
fn all_mistakes_of_a_file_are_shown_each_at_its_place() {
    let errors = parse(
        r#"name = "Encode"
comand = ["python3"]
protocol = "srve"
timeout = "10 minutes"
batch = 0
input = "absent.json"
output = { type = "strnig" }

[resources]
cpu = "two"
memory = "512 megs"
memroy = "1GiB"

[retry.input]
attempts = 2

[env]
CELESTA_RUN = "x"
LEVEL = 3
"#,
    )
    .expect_err("many mistakes");
    insta::assert_snapshot!(errors);
}

#[test]
fn a_syntax_error_is_shown_at_its_place() {
    let errors = parse("name = \"encode\"\ncommand = [\"a\"\ntimeout = \"1m\"\n").expect_err("an open list");
    assert!(
        errors.0.iter().all(|error| (2..=3).contains(&error.line)),
        "{errors}"
    );
}

#[test]
fn a_schema_outside_of_the_folder_is_refused() {
    let errors = parse("name = \"a\"\ncommand = [\"b\"]\ninput = \"../x.json\"\n").expect_err("an escape");
    assert_eq!((errors.0[0].line, errors.0[0].column), (3, 9));
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let errors = Manifest::load(folder.path()).expect_err("no file");
    assert!(errors.to_string().contains("function.toml"), "{errors}");
}
