//! Whole bundles, right and wrong: what is found, where, and what is made of them.

use super::*;
use crate::FileEntry;

const SERVICE: &str = r#"
name = "copier"

[operations.copy]
workflow = "copy"
fact = "Job"
input = "schemas/copy.json"
priority = "high"
"#;

const RULES: &str = r#"workflow copy;

fact Job { id: string, source: artifact, times: int, ratio: float = 1.0, note: string?, state: string = "new" }

rule "copy" {
    match    { job: Job where job.state == "new"; }
    action   { job.state = "copying"; call("copy", #{ source: job.source }); }
    reaction { complete(#{ copy: result.copy }); }
}
"#;

const SCHEMA: &str = r#"{
  "type": "object",
  "required": ["source", "times"],
  "properties": { "source": { "type": "object" }, "times": { "type": "integer", "minimum": 1 }, "ratio": {}, "note": {} }
}"#;

const MANIFEST: &str = "name = \"copy\"\ncommand = [\"cp\"]\n";

fn files() -> Files {
    [
        ("service.toml", SERVICE),
        ("rules/copy.rules", RULES),
        ("schemas/copy.json", SCHEMA),
        ("functions/copy/function.toml", MANIFEST),
        (
            "functions/shared/lines.txt",
            "a folder without a manifest is shared",
        ),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), FileEntry::text(text)))
    .collect()
}

fn with(path: &str, text: &str) -> Files {
    let mut files = files();
    files.insert(path.to_owned(), FileEntry::text(text));
    files
}

fn operation() -> Operation {
    let bundle = Bundle::compile(&files()).expect("a right bundle");
    bundle.operations["copy"].clone()
}

fn run() -> celesta_types::RunId {
    celesta_types::RunId::from_bits(7)
}

fn artifact() -> String {
    format!("{{\"$artifact\":\"sha256:{}\",\"size\":3}}", "0".repeat(64))
}

#[test]
fn a_right_bundle_compiles_to_its_parts() {
    let bundle = Bundle::compile(&files()).expect("a right bundle");
    assert_eq!(bundle.name, "copier");
    assert_eq!(bundle.operations.keys().collect::<Vec<_>>(), ["copy"]);
    assert_eq!(bundle.workflows.keys().collect::<Vec<_>>(), ["copy"]);
    assert_eq!(bundle.functions.keys().collect::<Vec<_>>(), ["copy"]);
    assert_eq!(bundle.operations["copy"].priority, celesta_types::Class::High);
    assert_eq!(bundle.digest, digest(&files()));
    assert_eq!(bundle.warnings, []);
}

#[test]
fn mistakes_of_all_files_are_found_at_once_each_at_its_place() {
    let mut files = files();
    let service = r#"
name = "Copier"
descripton = "a slip"

[operations.copy]
workflow = "copi"
fact = "Job"

[operations.again]
workflow = "copy"
fact = "Jobb"
input = "schemas/copi.json"
priority = "urgent"
"#;
    files.insert("service.toml".to_owned(), FileEntry::text(service));
    files.insert(
        "schemas/broken.json".to_owned(),
        FileEntry::text("{\n  \"type\": \"object\",\n  \"required\": }\n"),
    );
    files.insert(
        "functions/copy/function.toml".to_owned(),
        FileEntry::text("name = \"copied\"\ncommand = [\"cp\"]\n"),
    );
    files.insert(
        "functions/other/function.toml".to_owned(),
        FileEntry::text("name = \"other\"\ncomand = [\"cp\"]\n"),
    );
    files.insert("rules/other.rules".to_owned(), FileEntry::text(RULES));
    files.insert("rules/notes.txt".to_owned(), FileEntry::text("a note"));
    let errors = Bundle::compile(&files).expect_err("a wrong bundle");
    insta::assert_snapshot!(errors);
}

#[test]
fn mistakes_in_rules_are_shown_with_the_others() {
    let rules = RULES
        .replace("job.state == \"new\"", "job.stat == \"new\"")
        .replace("call(\"copy\"", "call(\"coppy\"");
    let errors = Bundle::compile(&with("rules/copy.rules", &rules)).expect_err("a wrong bundle");
    assert_eq!(errors.errors(), 2, "{errors}");
    let text = errors.to_string();
    assert!(
        text.contains("rules/copy.rules:6:") && text.contains("rules/copy.rules:7:"),
        "{text}"
    );
}

#[test]
fn a_schema_that_demands_what_the_fact_does_not_have_is_an_error_and_the_opposite_a_warning() {
    let schema = r#"{ "type": "object", "required": ["source", "tims"] }"#;
    let errors = Bundle::compile(&with("schemas/copy.json", schema)).expect_err("a wrong bundle");
    assert_eq!(errors.errors(), 1, "{errors}");
    assert!(errors.to_string().contains("did you mean `times`?"), "{errors}");
    let schema = r#"{ "type": "object", "required": ["source"] }"#;
    let bundle = Bundle::compile(&with("schemas/copy.json", schema)).expect("warnings only");
    assert_eq!(bundle.warnings.len(), 1);
    assert!(bundle.warnings[0].message.contains("`times`"));
}

#[test]
fn an_empty_bundle_and_files_that_are_not_text_are_refused() {
    assert_eq!(Bundle::compile(&Files::new()).expect_err("empty").errors(), 1);
    let mut files = files();
    for path in ["service.toml", "rules/copy.rules", "functions/copy/function.toml"] {
        files.insert(
            path.to_owned(),
            FileEntry {
                content: vec![0xff, 0xfe],
                executable: false,
            },
        );
    }
    let errors = Bundle::compile(&files).expect_err("not text");
    assert_eq!(
        errors.0.iter().filter(|one| one.code == "not-text").count(),
        3,
        "{errors}"
    );
}

#[test]
fn no_file_however_broken_brings_the_checker_down() {
    for (path, whole) in files() {
        let text = whole.content;
        for cut in (0..text.len()).step_by(3) {
            let mut files = files();
            files.insert(
                path.clone(),
                FileEntry {
                    content: text[..cut].to_vec(),
                    executable: false,
                },
            );
            Bundle::compile(&files).ok();
            let mut changed = text.clone();
            changed[cut] = b"{}[]\"=\x00\xff#,"[cut % 10];
            files.insert(
                path.clone(),
                FileEntry {
                    content: changed,
                    executable: false,
                },
            );
            Bundle::compile(&files).ok();
        }
    }
}

#[test]
fn a_request_that_fits_becomes_the_fact_with_the_runs_id() {
    let operation = operation();
    let body = format!(
        "{{\"source\":{},\"times\":2,\"ratio\":1,\"note\":null,\"id\":\"mine\"}}",
        artifact()
    );
    assert_eq!(operation.validate(body.as_bytes()), Ok(()));
    let event = operation.request_event(run(), body.as_bytes()).expect("a fact");
    let celesta_engine::Event::Insert { fact_type, value } = event else {
        panic!("a fact is inserted")
    };
    assert_eq!(&*fact_type, "Job");
    assert_eq!(
        value.get("id").and_then(celesta_engine::Value::as_str),
        Some(run().to_string().as_str())
    );
    assert_eq!(value.get("times"), Some(&celesta_engine::Value::Int(2)));
}

#[test]
fn everything_that_is_wrong_with_a_request_is_named_with_its_place() {
    let violations = |body: &str| operation().validate(body.as_bytes()).expect_err("refused");
    let wrong = violations(r#"{"source":"file","times":0,"ration":1,"note":[1],"note":2}"#);
    let mut places: Vec<&str> = wrong.iter().map(|one| one.pointer.as_str()).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places, ["/note", "/ration", "/source", "/times"], "{wrong:?}");
    assert!(
        wrong
            .iter()
            .any(|one| one.message.contains("did you mean `ratio`?")),
        "{wrong:?}"
    );
    for body in ["[]", "null", "3", "\"x\""] {
        assert_eq!(violations(body).len(), 1, "{body}");
    }
}

#[test]
fn wrong_json_is_one_violation_with_line_and_column() {
    for body in ["{\n  \"source\": \n}", "", "{\"a\":1} x", "{'a':1}"] {
        let wrong = operation().validate(body.as_bytes()).expect_err("refused");
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].message.contains("line"), "{wrong:?}");
    }
    let deep = format!("{{\"note\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(operation().validate(deep.as_bytes()).is_err());
}

#[test]
fn without_a_schema_the_fact_type_decides() {
    let service = "name = \"copier\"\n[operations.copy]\nworkflow = \"copy\"\nfact = \"Job\"\n";
    let bundle = Bundle::compile(&with("service.toml", service)).expect("a right bundle");
    let operation = &bundle.operations["copy"];
    let wrong = operation.validate(b"{\"times\":1.5}").expect_err("refused");
    let all: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    assert_eq!(
        all,
        ["/times: expected int, found a float", "\"source\" is missing"]
    );
}

#[test]
fn a_shared_fact_is_the_same_in_every_rules_file() {
    let rules = |workflow: &str, field: &str| {
        format!(
            "workflow {workflow}; fact Job {{ name: string }} shared fact Recipe {{ name: string, {field} }}\n\
             rule \"r\" {{ match {{ j: Job; c: shared Recipe where c.name == j.name; }} action {{ complete(#{{}}); }} }}"
        )
    };
    let service = "name = \"s\"\n[operations.one]\nworkflow = \"one\"\nfact = \"Job\"\n";
    let of = |other: &str, service: &str| {
        let (one, two) = (rules("one", "crf: int = 1"), rules("two", other));
        let entries = [
            ("service.toml", service),
            ("rules/one.rules", one.as_str()),
            ("rules/two.rules", two.as_str()),
        ];
        let entries = entries.into_iter();
        let files: Files = entries
            .map(|(path, text)| (path.to_owned(), FileEntry::text(text)))
            .collect();
        Bundle::compile(&files)
            .map(|_| ())
            .map_err(|errors| errors.to_string())
    };
    assert_eq!(of("crf: int = 1", service), Ok(()));
    for other in [
        "crf: int",
        "crf: int = 2",
        "crf: float = 1.0",
        "crf: int = 1, more: string?",
    ] {
        let errors = of(other, service).expect_err(other);
        assert!(
            errors.contains("has other fields than in `rules/one.rules`"),
            "{errors}"
        );
    }
    let errors = of("crf: int = 1", &service.replace("\"Job\"", "\"Recipe\"")).expect_err("a shared fact");
    assert!(errors.contains("which no request makes"), "{errors}");
    let errors = of(
        "crf: int = 1",
        &service.replace("operations.one", "operations.facts"),
    )
    .expect_err("a name");
    assert!(errors.contains("no operation can be named `facts`"), "{errors}");
}

#[test]
fn retention_is_of_workflows_there_are_and_reads_durations() {
    let service = |retention: &str| with("service.toml", &format!("{SERVICE}\n{retention}"));
    let bundle = Bundle::compile(&service(
        "[retention.copy]\nfinished = \"30d\"\nhistory = \"7d\"\n",
    ));
    let kept = bundle.expect("a right bundle").retention;
    assert_eq!(kept["copy"].finished_ms, Some(30 * 24 * 3_600_000));
    assert_eq!(kept["copy"].history_ms, Some(7 * 24 * 3_600_000));
    for (wrong, words) in [
        (
            "[retention.copied]\nfinished = \"30d\"\n",
            "there is no workflow `copied`",
        ),
        ("[retention.copy]\nfinished = \"soon\"\n", "soon"),
        ("[retention.copy]\nfinished = \"5ms\"\n", "less than a second"),
        (
            "[retention.copy]\nhistory = \"0s\"\n",
            "`history` is less than a second",
        ),
        ("[retention.copy]\nfinishd = \"5d\"\n", "finishd"),
        ("[retention]\ncopy = 3\n", "expected a table"),
    ] {
        let errors = Bundle::compile(&service(wrong)).expect_err(wrong);
        assert!(errors.to_string().contains(words), "{wrong}: {errors}");
    }
}
