//! `celesta bulk …`: one thing done to many runs, in the background.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::Context;
use crate::client::Client;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, GOOD, table};

/// Options of `bulk`.
#[derive(Debug, Args)]
pub(crate) struct BulkArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Begin an operation on all runs of a filter
    Begin(BeginArgs),
    /// List operations, newest first
    List,
    /// Show an operation and how far it is
    Show(Target),
    /// Stop an operation for a while
    Pause(Target),
    /// Let a paused operation go on
    Resume(Target),
    /// End an operation; what it did stays done
    Abort(Target),
}

/// An operation by its id.
#[derive(Debug, Args)]
struct Target {
    /// The operation, `op_…`
    #[arg(value_name = "OPERATION")]
    operation: String,
}

/// What is done to each run.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Cancel,
    Retry,
    Pause,
    Resume,
}

/// Options of `bulk begin`.
#[derive(Debug, Args)]
struct BeginArgs {
    /// What is done to each run
    what: What,
    /// Only runs of this service
    #[arg(long)]
    service: Option<String>,
    /// Only of this workflow
    #[arg(long)]
    workflow: Option<String>,
    /// Only of this operation
    #[arg(long)]
    operation: Option<String>,
    /// Only in this state
    #[arg(long)]
    state: Option<String>,
    /// Only with this label
    #[arg(long, value_name = "KEY=VALUE")]
    label: Option<String>,
    /// Only accepted at or after this instant, RFC 3339
    #[arg(long, value_name = "INSTANT")]
    created_after: Option<String>,
    /// Only accepted before this instant
    #[arg(long, value_name = "INSTANT")]
    created_before: Option<String>,
    /// Runs a second at most
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Only say how many runs there are
    #[arg(long)]
    preview: bool,
    /// Why; kept in the history of each run
    #[arg(long, default_value = "on the command line")]
    reason: String,
}

/// Does what was asked.
pub(crate) async fn run(context: &Context, args: BulkArgs) -> Outcome {
    let client = context.client()?;
    match args.action {
        Action::Begin(args) => begin(context, &client, args).await,
        Action::List => list(context, &client).await,
        Action::Show(target) => {
            let answer = client.get(&["v1", "operations", &target.operation], &[]).await?;
            shown(context, &answer)
        }
        Action::Pause(target) => change(context, &client, &target, "pause").await,
        Action::Resume(target) => change(context, &client, &target, "resume").await,
        Action::Abort(target) => change(context, &client, &target, "abort").await,
    }
}

async fn begin(context: &Context, client: &Client, args: BeginArgs) -> Outcome {
    let action = match args.what {
        What::Cancel => "cancel",
        What::Retry => "retry",
        What::Pause => "pause",
        What::Resume => "resume",
    };
    let filters = [
        ("service", args.service),
        ("workflow", args.workflow),
        ("operation", args.operation),
        ("state", args.state),
        ("label", args.label),
        ("created_after", args.created_after),
        ("created_before", args.created_before),
    ];
    let filter: Map<String, Value> = filters
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
        .collect();
    if filter.is_empty() {
        return Err(Failure::usage("no filter is given, and not every run is meant")
            .hint("give at least one of --service, --workflow, --operation, --state and --label"));
    }
    let body = json!({
        "action": action,
        "filter": filter,
        "reason": args.reason,
        "rate": args.rate,
        "preview": args.preview,
    });
    let answer = client.post(&["v1", "operations"], &body).await?;
    if args.preview {
        let runs = answer.get("runs").cloned().unwrap_or_default();
        context.out.either(&answer, || format!("{runs} runs"))?;
        return Ok(Exit::Done);
    }
    let id = answer.get("id").and_then(Value::as_str).unwrap_or_default();
    context
        .out
        .either(&answer, || format!("{GOOD}begun{GOOD:#} {DIM}{id}{DIM:#}"))?;
    context
        .out
        .note(format_args!("{DIM}follow it with{DIM:#} celesta bulk show {id}"));
    Ok(Exit::Done)
}

async fn change(context: &Context, client: &Client, target: &Target, step: &str) -> Outcome {
    let path = ["v1", "operations", &target.operation, step];
    let answer = client.post(&path, &json!({})).await?;
    shown(context, &answer)
}

async fn list(context: &Context, client: &Client) -> Outcome {
    let answer = client.get(&["v1", "operations"], &[]).await?;
    context.out.json(&answer)?;
    let rows: Vec<Vec<String>> = super::service::rows(answer)
        .as_array()
        .into_iter()
        .flatten()
        .map(row)
        .collect();
    context.out.line(table(HEADINGS, &rows))?;
    Ok(Exit::Done)
}

fn shown(context: &Context, operation: &Value) -> Outcome {
    context.out.json(operation)?;
    context.out.line(table(HEADINGS, &[row(operation)]))?;
    Ok(Exit::Done)
}

const HEADINGS: &[&str] = &[
    "operation",
    "what",
    "state",
    "seen",
    "done",
    "refused",
    "by",
    "why",
];

fn row(operation: &Value) -> Vec<String> {
    let cell = |name: &&str| match operation.get(*name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    ["id", "action", "state", "seen", "done", "refused", "by", "reason"]
        .iter()
        .map(cell)
        .collect()
}
