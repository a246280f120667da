//! `celesta run cancel|retry`.

use clap::Args;
use serde_json::{Value, json};

use super::Target;
use crate::client::Client;
use crate::commands::Context;
use crate::exit::{Exit, Outcome};
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
