//! `celesta run calls`.

use super::{all_pages, state_text};
use crate::client::{self, CallView, Client};
use crate::commands::Context;
use crate::exit::{Exit, Outcome};
use crate::output::{duration, shorten, table};

/// A run's calls are bounded; this shows them all.
pub(super) const CALLS_MAX: usize = 1_000_000;

/// Prints the calls of a run.
pub(crate) async fn run(context: &Context, client: &Client, run: &str) -> Outcome {
    let calls = all_pages(client, &["v1", "runs", run, "calls"], &[], CALLS_MAX).await?;
    context.out.json(&calls)?;
    let mut rows = Vec::with_capacity(calls.len());
    for call in calls {
        rows.push(row(&client::read(call)?));
    }
    context.out.line(table(
        &["call", "what", "state", "attempts", "time", "worker", ""],
        &rows,
    ))?;
    Ok(Exit::Done)
}

fn row(call: &CallView) -> Vec<String> {
    let time = call
        .called_at
        .zip(call.ended_at)
        .map(|(called, ended)| duration(ended.since(called)));
    let what = if call.target.is_empty() {
        &call.kind
    } else {
        &call.target
    };
    let error = call.error.as_ref().map(|error| {
        let text = |key| {
            error
                .get(key)
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
        };
        shorten(&format!("{}: {}", text("class"), text("message")), 80)
    });
    vec![
        call.id.clone(),
        what.clone(),
        state_text(&call.state),
        call.attempts.to_string(),
        time.unwrap_or_else(|| "-".to_owned()),
        if call.avoided {
            "avoided".to_owned()
        } else {
            call.worker.clone().unwrap_or_default()
        },
        error.unwrap_or_default(),
    ]
}
