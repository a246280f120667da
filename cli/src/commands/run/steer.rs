//! `celesta run cancel|retry|pause|resume|clone|write`.

use clap::Args;
use serde_json::{Value, json};

use super::Target;
use crate::client::Client;
use crate::commands::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, GOOD};

/// Options of `run cancel`.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    target: Target,
    /// Why; kept in the run's history
    #[arg(long, default_value = "canceled on the command line")]
    reason: String,
}

/// Calls a run off.
pub(crate) async fn cancel(context: &Context, client: &Client, args: &CancelArgs) -> Outcome {
    let run = args.target.resolve(client).await?;
    let answer = client
        .post(&["v1", "runs", &run, "cancel"], &json!({ "reason": args.reason }))
        .await?;
    told(context, &run, answer, "canceled")
}

/// Options of `run pause` and `run resume`.
#[derive(Debug, Args)]
pub(crate) struct ReasonArgs {
    #[command(flatten)]
    target: Target,
    /// Why; kept in the run's history
    #[arg(long, default_value = "on the command line")]
    reason: String,
}

/// Stops a run for a while.
pub(crate) async fn pause(context: &Context, client: &Client, args: &ReasonArgs) -> Outcome {
    wish(context, client, args, "pause", "paused").await
}

/// Lets a paused run go on.
pub(crate) async fn resume(context: &Context, client: &Client, args: &ReasonArgs) -> Outcome {
    wish(context, client, args, "resume", "running again").await
}

async fn wish(context: &Context, client: &Client, args: &ReasonArgs, verb: &str, what: &str) -> Outcome {
    let run = args.target.resolve(client).await?;
    let answer = client
        .post(&["v1", "runs", &run, verb], &json!({ "reason": args.reason }))
        .await?;
    told(context, &run, answer, what)
}

/// Runs the request of a run once more.
pub(crate) async fn clone_run(context: &Context, client: &Client, run: &str) -> Outcome {
    let answer = client.post(&["v1", "runs", run, "clone"], &json!({})).await?;
    let new = answer.get("id").and_then(Value::as_str).unwrap_or(run).to_owned();
    told(context, &new, answer, "running")
}

/// Options of `run write`.
#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    target: Target,
    /// A JSON list of writes, or `-` for standard input:
    /// {"insert": TYPE, "fields": {…}}, {"update": FACT, "version": N, "fields": {…}}, {"retract": FACT}
    #[arg(value_name = "WRITES")]
    writes: String,
}

/// Writes facts of a run.
pub(crate) async fn write(context: &Context, client: &Client, args: &WriteArgs) -> Outcome {
    let text = if args.writes == "-" {
        std::io::read_to_string(std::io::stdin())
            .map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?
    } else {
        args.writes.clone()
    };
    let writes: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("the writes are not JSON: {error}")))?;
    let run = args.target.resolve(client).await?;
    let answer = client
        .post(&["v1", "runs", &run, "facts"], &json!({ "writes": writes }))
        .await?;
    let outcomes = answer.get("outcomes").and_then(Value::as_array).cloned();
    let refused: Vec<String> = (outcomes.iter().flatten().enumerate())
        .filter_map(|(at, outcome)| {
            let why = outcome.get("error")?.as_str()?;
            Some(format!("write {at} changed nothing: {why}"))
        })
        .collect();
    if refused.is_empty() {
        let what = if outcomes.is_some() {
            "written"
        } else {
            "the run takes the writes later"
        };
        return told(context, &run, answer, what);
    }
    context.out.either(&answer, || refused.join("\n"))?;
    Ok(Exit::Conflict)
}

/// Tries a failed run again.
pub(crate) async fn retry(context: &Context, client: &Client, run: &str) -> Outcome {
    let answer = client.post(&["v1", "runs", run, "retry"], &json!({})).await?;
    told(context, run, answer, "running again")
}

fn told(context: &Context, run: &str, answer: Value, what: &str) -> Outcome {
    let answer = if answer.is_null() {
        json!({ "id": run })
    } else {
        answer
    };
    context
        .out
        .either(&answer, || format!("{GOOD}{what}{GOOD:#} {DIM}{run}{DIM:#}"))?;
    Ok(Exit::Done)
}
