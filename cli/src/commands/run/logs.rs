//! `celesta run logs`: what the rules said with `log` and what the functions printed, attempt by attempt.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Target, all_pages, calls};
use crate::client::{self, AttemptView, CallView, Client, Repeat};
use crate::commands::Context;
use crate::commands::service::rows;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, STRONG};

/// Options of `run logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    target: Target,
    /// Only of this call, for example 3.0
    #[arg(long, value_name = "CALL")]
    call: Option<String>,
}

/// Prints the logs; with `--json` one line for each piece.
pub(crate) async fn run(context: &Context, client: &Client, args: &LogsArgs) -> Outcome {
    let run = args.target.resolve(client).await?;
    if args.call.is_none() {
        rule_logs(context, client, &run).await?;
    }
    let calls = all_pages(client, &["v1", "runs", &run, "calls"], &[], calls::CALLS_MAX).await?;
    for call in calls {
        let call: CallView = client::read(call)?;
        let wanted = args.call.as_ref().is_none_or(|id| *id == call.id);
        if wanted && matches!(call.kind.as_str(), "function" | "") {
            call_logs(context, client, &run, &call).await?;
        }
    }
    Ok(Exit::Done)
}

/// Prints the lines the rules have logged.
async fn rule_logs(context: &Context, client: &Client, run: &str) -> Result<(), Failure> {
    let mut after = "0".to_owned();
    loop {
        let page = client
            .get(
                &["v1", "runs", run, "history"],
                &[("after", &after), ("limit", "500")],
            )
            .await?;
        let more = page.get("next").is_some_and(|next| !next.is_null());
        let turns: Vec<Value> = client::read(rows(page))?;
        for turn in &turns {
            let effects = turn
                .get("effects")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            for effect in effects.filter(|effect| effect.get("kind").is_some_and(|kind| kind == "log")) {
                let text = effect.get("text").and_then(Value::as_str).unwrap_or_default();
                context.out.json(
                    &json!({ "turn": turn.get("seq"), "at": turn.get("at"), "from": "rules", "text": text }),
                )?;
                context.out.line(format_args!("{DIM}rules │{DIM:#} {text}"))?;
            }
        }
        let last = turns
            .last()
            .and_then(|turn| turn.get("seq"))
            .map(Value::to_string);
        match last {
            Some(seq) if more => after = seq,
            _ => return Ok(()),
        }
    }
}

/// Prints what the attempts of one call have printed.
async fn call_logs(context: &Context, client: &Client, run: &str, call: &CallView) -> Result<(), Failure> {
    let path = ["v1", "runs", run, "calls", &call.id, "attempts"];
    let attempts: Vec<AttemptView> = client::read(rows(client.get(&path, &[]).await?))?;
    for attempt in attempts {
        let number = attempt.attempt.to_string();
        for (stream, size) in [("stdout", attempt.stdout_size), ("stderr", attempt.stderr_size)] {
            if size == 0 {
                continue;
            }
            let url = client.url(
                &["v1", "runs", run, "calls", &call.id, "attempts", &number, stream],
                &[],
            );
            let response = client
                .send(client.request(Method::GET, url), Repeat::Safe)
                .await?;
            let body = response.bytes().await.map_err(|error| {
                Failure::new(
                    Exit::Unreachable,
                    format!("the server's answer broke off: {error}"),
                )
            })?;
            let text = String::from_utf8_lossy(&body);
            let function = if attempt.function.is_empty() {
                &call.target
            } else {
                &attempt.function
            };
            let from = json!({ "call": call.id, "function": function, "attempt": attempt.attempt, "stream": stream, "text": text });
            context.out.json(&from)?;
            context.out.line(format_args!(
                "{STRONG}{function}{STRONG:#} {DIM}call {} attempt {number} {stream}{DIM:#}",
                call.id
            ))?;
            for line in text.lines() {
                context.out.line(format_args!("{DIM}│{DIM:#} {line}"))?;
            }
        }
    }
    Ok(())
}
