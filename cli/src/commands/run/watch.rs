//! `celesta run watch`: a run's events as they happen, until it ends.

use std::time::Duration;

use serde_json::Value;

use super::history::effect_text;
use super::state_text;
use crate::client::{Client, Event, EventStream, RunView};
use crate::commands::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, Output, shorten};
use crate::signals;

/// A progress bar's whole, so that fractions become positions.
const WHOLE: f64 = 1_000.0;

/// Prints events until the run ends.
pub(crate) async fn run(context: &Context, client: &Client, run: &str) -> Outcome {
    let out = context.out;
    let mut events = EventStream::new(client, run, None);
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            () = signals::interrupted() => return Ok(Exit::Interrupted),
        };
        let Some(event) = event else { break };
        out.json(&serde_json::json!({ "id": event.id, "kind": event.kind, "data": event.data }))?;
        out.line(shown(&event))?;
    }
    let view: RunView = client.view(&["v1", "runs", run]).await?;
    Ok(if view.state == "completed" {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// One event in one line.
fn shown(event: &Event) -> String {
    let text = |key: &str| {
        event
            .data
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let said = match event.kind.as_str() {
        "progress" => format!("{:.0} % {}", fraction(&event.data) * 100.0, text("text")),
        "log" => text("text"),
        "turn" => turn_text(&event.data),
        _ if client_is_done(&event.kind) => {
            return format!(
                "{DIM}{:>8}{DIM:#}  {}  {}",
                event.id,
                state_text(&event.kind),
                rest(&event.data)
            );
        }
        _ => rest(&event.data),
    };
    format!(
        "{DIM}{:>8}{DIM:#}  {DIM}{:9}{DIM:#}  {said}",
        event.id, event.kind
    )
}

fn client_is_done(kind: &str) -> bool {
    matches!(kind, "completed" | "failed" | "canceled" | "quarantined")
}

fn rest(data: &Value) -> String {
    let value = ["result", "message", "error", "reason"]
        .iter()
        .find_map(|key| data.get(*key))
        .unwrap_or(data);
    shorten(
        &value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        160,
    )
}

fn fraction(data: &Value) -> f64 {
    data.get("fraction")
        .and_then(Value::as_f64)
        .unwrap_or_default()
        .clamp(0.0, 1.0)
}

/// The rules that fired and what they asked for.
fn turn_text(turn: &Value) -> String {
    let list = |key: &str| {
        turn.get(key)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    let rules: Vec<&str> = list("firings")
        .iter()
        .filter_map(|firing| firing.get("rule").and_then(Value::as_str))
        .collect();
    let effects: Vec<String> = list("effects").iter().map(effect_text).collect();
    if rules.is_empty() && effects.is_empty() {
        return shorten(&turn.to_string(), 160);
    }
    shorten(&format!("{} → {}", rules.join(", "), effects.join("; ")), 160)
}

/// Follows a run with a progress bar until it ends, and gives the run.
///
/// # Errors
/// When the server stays away, `timeout` passes, or the user interrupts: the run itself goes on.
pub(crate) async fn follow_to_end(
    context: &Context,
    client: &Client,
    run: &str,
    timeout: Option<Duration>,
) -> Result<Value, Failure> {
    let patience = timeout.unwrap_or(Duration::MAX);
    let waited = tokio::select! {
        followed = follow(context.out, client, run) => followed.map(|()| true)?,
        // The longest sleep the timer knows stands for "no limit".
        () = client.clock().sleep(patience.min(Duration::from_secs(365 * 86_400))) => false,
        () = signals::interrupted() => {
            return Err(Failure::new(Exit::Interrupted, format!("interrupted; {run} goes on"))
                .hint(format!("celesta run watch {run}, or celesta run cancel {run}")));
        }
    };
    if !waited {
        return Err(
            Failure::new(Exit::Failed, format!("{run} has not ended in time; it goes on"))
                .hint(format!("celesta run watch {run}")),
        );
    }
    client.get(&["v1", "runs", run], &[]).await
}

async fn follow(out: Output, client: &Client, run: &str) -> Result<(), Failure> {
    let bar = out.count_bar(1_000, "");
    bar.set_style(
        indicatif::ProgressStyle::with_template("{bar:32} {percent:>3} % {msg} {elapsed}")
            .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar())
            .progress_chars("━╸─"),
    );
    let mut events = EventStream::new(client, run, None);
    while let Some(event) = events.next().await? {
        let text = event
            .data
            .get("text")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        match event.kind.as_str() {
            "progress" => {
                bar.set_position(position(fraction(&event.data)));
                bar.set_message(shorten(&text, 60));
            }
            "log" => bar.suspend(|| out.note(format_args!("{DIM}rules │{DIM:#} {text}"))),
            _ => {}
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// The fraction as a position of a bar of 1,000.
fn position(fraction: f64) -> u64 {
    let text = format!("{:.0}", fraction.clamp(0.0, 1.0) * WHOLE);
    text.parse().unwrap_or_default()
}
