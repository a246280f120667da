//! `celesta run history`: the journal of a run, turn by turn.

use clap::Args;
use serde_json::Value;

use super::Target;
use crate::client::{self, Client, TurnView, instant_text};
use crate::commands::Context;
use crate::commands::service::rows;
use crate::exit::{Exit, Outcome};
use crate::output::{BAD, DIM, STRONG, shorten};

/// Turns asked for at once.
const PAGE_TURNS: &str = "200";

/// Options of `run history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    target: Target,
    /// Only turns after this one
    #[arg(long, default_value_t = 0, value_name = "TURN")]
    after: u64,
}

/// Prints the turns; one JSON line each with `--json`.
pub(crate) async fn run(context: &Context, client: &Client, args: &HistoryArgs) -> Outcome {
    let run = args.target.resolve(client).await?;
    let mut after = args.after;
    loop {
        let text = after.to_string();
        let page = client
            .get(
                &["v1", "runs", &run, "history"],
                &[("after", &text), ("limit", PAGE_TURNS)],
            )
            .await?;
        let more = page.get("next").is_some_and(|next| !next.is_null());
        let turns: Vec<Value> = client::read(rows(page))?;
        let before = after;
        for turn in turns {
            context.out.json(&turn)?;
            let turn: TurnView = client::read(turn)?;
            after = turn.seq;
            context.out.line(shown(&turn))?;
        }
        if !more || after == before {
            return Ok(Exit::Done);
        }
    }
}

fn shown(turn: &TurnView) -> String {
    let causes: Vec<String> = turn
        .causes
        .iter()
        .map(|cause| {
            let call = cause
                .call
                .as_ref()
                .map(|call| format!(" {call}"))
                .unwrap_or_default();
            let message = cause
                .message
                .as_ref()
                .map(|text| format!(": {}", shorten(text, 80)))
                .unwrap_or_default();
            let by = cause
                .by
                .as_ref()
                .map(|by| format!(" by {by}"))
                .unwrap_or_default();
            format!("{}{call}{by}{message}", cause.kind)
        })
        .collect();
    let causes = shorten(&causes.join(", "), 160);
    let mut lines = vec![format!(
        "{STRONG}turn {}{STRONG:#}  {DIM}{}{DIM:#}  {causes}",
        turn.seq,
        instant_text(turn.at)
    )];
    for firing in &turn.firings {
        let facts: Vec<String> = firing
            .facts
            .iter()
            .map(|(id, version)| format!("{id}@{version}"))
            .collect();
        let threw = firing
            .threw
            .as_ref()
            .map(|text| format!("  {BAD}threw{BAD:#} {text}"))
            .unwrap_or_default();
        lines.push(format!(
            "  {} · {}  {DIM}{}{DIM:#}{threw}",
            firing.rule,
            firing.section,
            shorten(&facts.join(" "), 60)
        ));
    }
    lines.extend(
        turn.effects
            .iter()
            .map(|effect| format!("    → {}", effect_text(effect))),
    );
    if let Some(note) = &turn.note {
        lines.push(format!("  {DIM}{note}{DIM:#}"));
    }
    lines.join("\n")
}

/// An effect in one line: its kind, then what else it says.
pub(crate) fn effect_text(effect: &Value) -> String {
    let Some(object) = effect.as_object() else {
        return effect.to_string();
    };
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or("effect");
    let rest = object.iter().filter(|(key, _)| key.as_str() != "kind");
    let parts: Vec<String> = rest
        .map(|(key, value)| match value.as_str() {
            Some(text) => format!("{key} {text}"),
            None => format!("{key} {value}"),
        })
        .collect();
    shorten(&format!("{kind} {}", parts.join(" ")), 160)
}
