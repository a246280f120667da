//! `celesta service orders|pause|resume|break`: what holds for all runs of a service or workflow.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::Client;
use crate::commands::Context;
use crate::exit::{Exit, Outcome};
use crate::output::{DIM, GOOD, table};

/// Options of `service pause` and `service resume`.
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// The service, or one of its workflows
    #[arg(value_name = "SERVICE[/WORKFLOW]")]
    target: String,
    /// Why; kept in the histories of the runs
    #[arg(long, default_value = "on the command line")]
    reason: String,
}

impl PauseArgs {
    fn path(&self) -> Vec<&str> {
        ["v1", "pauses"]
            .into_iter()
            .chain(self.target.split('/'))
            .collect()
    }
}

/// Stops all runs.
pub(crate) async fn pause(context: &Context, client: &Client, args: &PauseArgs) -> Outcome {
    let body = json!({ "reason": args.reason });
    let answer = client.set(Method::PUT, &args.path(), Some(&body)).await?;
    told(context, &args.target, &answer, "paused")
}

/// Lets them go on.
pub(crate) async fn resume(context: &Context, client: &Client, args: &PauseArgs) -> Outcome {
    let answer = client.set(Method::DELETE, &args.path(), None).await?;
    let operation = answer
        .pointer("/operation/id")
        .and_then(Value::as_str)
        .unwrap_or_default();
    context.out.note(format_args!(
        "{DIM}runs go on with{DIM:#} celesta bulk show {operation}"
    ));
    told(context, &args.target, &answer, "going on")
}

/// Options of `service break`.
#[derive(Debug, Args)]
pub(crate) struct BreakArgs {
    /// The workflow
    #[arg(value_name = "SERVICE/WORKFLOW")]
    target: String,
    /// The rules, in place of those given before; none takes all back
    #[arg(value_name = "RULE")]
    rules: Vec<String>,
    /// Why
    #[arg(long, default_value = "on the command line")]
    reason: String,
}

/// Says before which rules all runs of a workflow stop.
pub(crate) async fn set_breakpoints(context: &Context, client: &Client, args: &BreakArgs) -> Outcome {
    let path: Vec<&str> = ["v1", "breakpoints"]
        .into_iter()
        .chain(args.target.split('/'))
        .collect();
    let body = json!({ "rules": args.rules, "reason": args.reason });
    let answer = client.set(Method::PUT, &path, Some(&body)).await?;
    let what = if args.rules.is_empty() {
        "stops nowhere".to_owned()
    } else {
        format!("stops before {}", args.rules.join(", "))
    };
    told(context, &args.target, &answer, &what)
}

/// Shows what holds.
pub(crate) async fn list(context: &Context, client: &Client, service: &str) -> Outcome {
    let answer = client.get(&["v1", "orders"], &[("service", service)]).await?;
    context.out.json(&answer)?;
    let text = |row: &Value, name: &str| {
        row.get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let rows: Vec<Vec<String>> = super::rows(answer)
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            ["kind", "workflow", "rule", "by", "reason"]
                .map(|name| text(row, name))
                .to_vec()
        })
        .collect();
    context
        .out
        .line(table(&["what", "workflow", "rule", "by", "why"], &rows))?;
    Ok(Exit::Done)
}

fn told(context: &Context, target: &str, answer: &Value, what: &str) -> Outcome {
    context
        .out
        .either(answer, || format!("{GOOD}{what}{GOOD:#} {DIM}{target}{DIM:#}"))?;
    Ok(Exit::Done)
}
