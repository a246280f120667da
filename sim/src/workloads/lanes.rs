//! Workflows of which only so many runs may be under way at once: one for each strategy, all with the same rules.

use std::fmt::Write as _;

use celesta_bundle::{FileEntry, Files};
use serde_json::json;

use super::{Workload, equal};

/// The service that has them.
pub(crate) const SERVICE: &str = "lanes";

/// What holds of the runs of a workflow that name the same lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// The operation and the workflow.
    pub(crate) operation: &'static str,
    /// As the bundle says it.
    pub(crate) strategy: &'static str,
    /// Runs under way at once.
    pub(crate) at_once: usize,
    /// Whether a run that has failed keeps the others out until it is settled.
    pub(crate) failed_block: bool,
    /// Whether runs are called off for the sake of others.
    pub(crate) turns_away: bool,
}

/// All of them.
pub(crate) const LIMITS: &[Limit] = &[
    limit("two", "parallel(2)", 2),
    limit("one", "sequential", 1),
    Limit {
        failed_block: true,
        ..limit("strict", "strict-sequential", 1)
    },
    Limit {
        turns_away: true,
        ..limit("first", "first-only", 1)
    },
    Limit {
        turns_away: true,
        ..limit("last", "last-only", 1)
    },
    Limit {
        turns_away: true,
        ..limit("latest", "latest-only", 1)
    },
];

/// Lanes of a workflow: few, so that runs meet in them, and one more, so that they do not always.
const LANES: usize = 2;

const RULES: &str = r#"
fact Job { lane: int, state: string = "new" }

rule "pass" {
    match    { j: Job where j.state == "new"; }
    action   { j.state = "out"; call("pass", #{ x: j.lane }); }
    reaction { j.state = "passed"; complete(#{ lane: result.y }); }
}
"#;

const FUNCTION: &str = "name = \"pass\"\nprotocol = \"exec\"\ncommand = [\"/bin/true\"]\n";

const fn limit(operation: &'static str, strategy: &'static str, at_once: usize) -> Limit {
    Limit {
        operation,
        strategy,
        at_once,
        failed_block: false,
        turns_away: false,
    }
}

/// The limit of an operation; none when there is none.
pub(crate) fn limit_of(service: &str, operation: &str) -> Option<Limit> {
    let mut limits = LIMITS.iter().filter(|_| service == SERVICE);
    limits.find(|limit| limit.operation == operation).copied()
}

/// What clients ask of one of them.
pub(super) const fn workload(operation: &'static str) -> Workload {
    Workload {
        service: SERVICE,
        operation,
        weight: 1,
        notes: None,
        event: None,
        fails: true,
        rules: &["pass"],
        input: |chance| json!({ "lane": chance.below(LANES) }),
        check: |run| equal("the lane", &run.result["lane"], &run.input["lane"]),
    }
}

/// The bundle.
pub(super) fn files() -> Files {
    let mut service = format!("name = \"{SERVICE}\"\n");
    let mut files = Files::from_iter([(
        "functions/pass/function.toml".to_owned(),
        FileEntry::text(FUNCTION),
    )]);
    for Limit {
        operation, strategy, ..
    } in LIMITS
    {
        write!(
            service,
            "\n[operations.{operation}]\nworkflow = \"{operation}\"\nfact = \"Job\"\n\
             \n[workflows.{operation}]\nconcurrency = {{ runs = \"{strategy}\", key = \"/lane\" }}\n"
        )
        .expect("writing to a string");
        let rules = format!("workflow {operation};\n{RULES}");
        files.insert(format!("rules/{operation}.rules"), FileEntry::text(&rules));
    }
    files.insert("service.toml".to_owned(), FileEntry::text(&service));
    files
}
