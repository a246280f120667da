//! `celesta run show|facts|explain`: where a run stands, what it knows, why a rule did what it did.

use clap::Args;
use serde_json::Value;

use super::{Target, all_pages, state_text};
use crate::client::{self, Client, FactView, RunView, instant_text};
use crate::commands::Context;
use crate::commands::service::short_version;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, STRONG, duration, paint, shorten, table};

/// A run's facts are bounded; this shows them all.
const FACTS_MAX: usize = 1_000_000;

/// Options of `run facts`.
#[derive(Debug, Args)]
pub(crate) struct FactsArgs {
    #[command(flatten)]
    target: Target,
    /// Only facts of this type
    #[arg(long = "type", value_name = "TYPE")]
    fact_type: Option<String>,
}

/// Options of `run explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    target: Target,
    /// The rule, by its name
    rule: String,
}

/// Prints a run.
pub(crate) async fn run(context: &Context, client: &Client, run: &str) -> Outcome {
    let answer = client.get(&["v1", "runs", run], &[]).await?;
    context.out.json(&answer)?;
    context.out.line(shown(&client::read(answer)?))?;
    Ok(Exit::Done)
}

fn shown(run: &RunView) -> String {
    let mut lines = vec![
        format!("{STRONG}{}{STRONG:#}  {}", run.id, state_text(&run.state)),
        format!(
            "operation  {}/{} {DIM}(version {}){DIM:#}",
            run.service,
            run.operation,
            short_version(&run.version)
        ),
        format!("workflow   {}", run.workflow),
        format!("created    {}", instant_text(run.created_at)),
    ];
    if let (Some(created), Some(ended)) = (run.created_at, run.ended_at) {
        lines.push(format!(
            "ended      {} {DIM}after {}{DIM:#}",
            instant_text(Some(ended)),
            duration(ended.since(created))
        ));
    }
    if let Some(class) = run
        .priority
        .get("class")
        .and_then(Value::as_str)
        .filter(|class| *class != "standard")
    {
        lines.push(format!("priority   {class}"));
    }
    for (key, value) in &run.labels {
        lines.push(format!("label      {key}={value}"));
    }
    if let Some(parent) = &run.parent {
        lines.push(format!("parent     {parent}"));
    }
    for gate in &run.concurrency {
        let key = if gate.key.is_empty() {
            String::new()
        } else {
            format!(" for {}", gate.key)
        };
        lines.push(format!("group      {}{key}", gate.strategy));
    }
    if !run.breakpoints.is_empty() {
        lines.push(format!("stops at   {}", run.breakpoints.join(", ")));
    }
    if let Some(stopped) = &run.stopped {
        lines.push(format!("stopped by {}", stopped.text()));
    }
    if run.avoided > 0 {
        lines.push(format!(
            "avoided    {} calls, answered with recorded results",
            run.avoided
        ));
    }
    if let Some(progress) = &run.progress {
        lines.push(format!(
            "progress   {:.0} % {}",
            progress.fraction * 100.0,
            progress.text
        ));
    }
    for (title, value) in [("input", &run.input), ("result", &run.result)] {
        if let Some(value) = value {
            lines.push(format!("{title:10} {}", indented(value)));
        }
    }
    if let Some(error) = run.error_text() {
        lines.push(format!("error      {error}"));
    }
    lines.join("\n")
}

fn indented(value: &Value) -> String {
    serde_json::to_string_pretty(value)
        .unwrap_or_default()
        .replace('\n', "\n           ")
}

/// Prints a run's facts.
pub(crate) async fn facts(context: &Context, client: &Client, args: &FactsArgs) -> Outcome {
    let run = args.target.resolve(client).await?;
    let query: Vec<(&str, &str)> = args
        .fact_type
        .iter()
        .map(|name| ("type", name.as_str()))
        .collect();
    let facts = all_pages(client, &["v1", "runs", &run, "facts"], &query, FACTS_MAX).await?;
    context.out.json(&facts)?;
    let mut rows = Vec::with_capacity(facts.len());
    for fact in facts {
        let fact: FactView = client::read(fact)?;
        rows.push(vec![
            fact.id.to_string(),
            paint(STRONG, &fact.fact_type),
            fact.version.to_string(),
            shorten(&fact.written_by, 30),
            fact.value.to_string(),
        ]);
    }
    context
        .out
        .line(table(&["id", "type", "version", "written by", "value"], &rows))?;
    Ok(Exit::Done)
}

/// Prints why a rule fired or did not.
pub(crate) async fn explain(context: &Context, client: &Client, args: &ExplainArgs) -> Outcome {
    let run = args.target.resolve(client).await?;
    let answer = client
        .get(&["v1", "runs", &run, "explain"], &[("rule", &args.rule)])
        .await;
    let answer = answer.map_err(|failure| unknown_rule(failure, &args.rule))?;
    context.out.json(&answer)?;
    let text = answer
        .get("text")
        .and_then(Value::as_str)
        .map(|text| text.trim_end().to_owned());
    context
        .out
        .line(text.map_or_else(|| serde_json::to_string_pretty(&answer), Ok)?)?;
    Ok(Exit::Done)
}

fn unknown_rule(failure: Failure, rule: &str) -> Failure {
    let about_rule = failure
        .problem
        .as_ref()
        .is_some_and(|problem| problem.code.contains("rule"));
    if about_rule {
        failure.hint(format!(
            "rules are named as in their file: \"{rule}\" must be spelled the same"
        ))
    } else {
        failure
    }
}
