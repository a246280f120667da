//! A service whose jobs apply recipes, which are shared facts.

use celesta_bundle::Files;
use celesta_engine::Value;
use celesta_runs::{SWEEP_RATE, SharedWrite, Submit, WriteShared};

use super::{files, request};

const RULES: &str = r#"
workflow encode;

fact Job     { id: string, recipe: string }
fact Applied { crf: int }
shared fact Recipe { name: string, crf: int }

rule "no recipe" {
    match  { job: Job; no shared Recipe r where r.name == job.recipe; }
    action { complete(#{ crf: () }); }
}

rule "apply" {
    match  { job: Job; r: shared Recipe where r.name == job.recipe; }
    action { insert("Applied", #{ crf: r.crf }); complete(#{ crf: r.crf }); }
}
"#;

/// The files of the service `encoder`.
pub(crate) fn encoder() -> Files {
    let service = "name = \"encoder\"\n[operations.encode]\nworkflow = \"encode\"\nfact = \"Job\"\n";
    files([("service.toml", service), ("rules/encode.rules", RULES)])
}

/// A request for a job by a recipe.
pub(crate) fn job(recipe: &str) -> Submit {
    request("encoder", "encode", &format!(r#"{{"recipe":"{recipe}"}}"#))
}

/// A new recipe.
pub(crate) fn insert(name: &str, crf: i64) -> SharedWrite {
    SharedWrite {
        insert: Some("Recipe".to_owned()),
        fields: Some(Value::map([("name", Value::from(name)), ("crf", crf.into())])),
        fact: None,
        update: None,
        retract: None,
        version: None,
    }
}

/// Another figure for a recipe, whatever its version.
pub(crate) fn update(fact: u64, crf: i64) -> SharedWrite {
    SharedWrite {
        insert: None,
        update: Some(fact),
        fields: Some(Value::map([("crf", Value::from(crf))])),
        ..insert("", 0)
    }
}

/// The writes as one request, whose sweep begins at once.
pub(crate) fn change(writes: Vec<SharedWrite>) -> WriteShared {
    WriteShared {
        writes,
        idempotency_key: None,
        sweep: None,
        hold: false,
        rate: SWEEP_RATE,
        dry_run: false,
    }
}
