//! `celesta run cancel|retry|pause|resume|step|break|prioritize|restart|clone|write`.

use clap::Args;
use serde_json::{Value, json};

use super::Target;
use crate::client::{self, Client};
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

/// Options of `run retry`, `pause`, `resume` and `step`.
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
pub(crate) async fn retry(context: &Context, client: &Client, args: &ReasonArgs) -> Outcome {
    wish(context, client, args, "retry", "running again").await
}

/// Lets a paused run go on by one firing.
pub(crate) async fn step(context: &Context, client: &Client, args: &ReasonArgs) -> Outcome {
    wish(context, client, args, "step", "one step further").await
}

/// Options of `run break`.
#[derive(Debug, Args)]
pub(crate) struct BreakArgs {
    #[command(flatten)]
    target: Target,
    /// The rules, in place of those given before; none takes all back
    #[arg(value_name = "RULE")]
    rules: Vec<String>,
}

/// Says before which rules a run stops.
pub(crate) async fn set_breakpoints(context: &Context, client: &Client, args: &BreakArgs) -> Outcome {
    let run = args.target.resolve(client).await?;
    let path = ["v1", "runs", &run, "breakpoints"];
    let body = json!({ "rules": args.rules });
    let answer = client.set(reqwest::Method::PUT, &path, Some(&body)).await?;
    let what = if args.rules.is_empty() {
        "stops nowhere".to_owned()
    } else {
        format!("stops before {}", args.rules.join(", "))
    };
    told(context, &run, answer, &what)
}

/// Options of `run prioritize`.
#[derive(Debug, Args)]
pub(crate) struct PrioritizeArgs {
    #[command(flatten)]
    target: Target,
    /// critical, high, standard, low or background, with `:NUMBER` for the place within the class
    #[arg(value_name = "PRIORITY")]
    priority: String,
    /// When the work should be done, as RFC 3339
    #[arg(long, value_name = "INSTANT")]
    deadline: Option<String>,
    /// Why; kept in the run's history
    #[arg(long, default_value = "on the command line")]
    reason: String,
}

/// Makes a run more or less urgent.
pub(crate) async fn prioritize(context: &Context, client: &Client, args: &PrioritizeArgs) -> Outcome {
    let run = args.target.resolve(client).await?;
    let url = client.url(&["v1", "runs", &run, "prioritize"], &[]);
    let mut request = client
        .request(reqwest::Method::POST, url)
        .header("Celesta-Priority", &args.priority)
        .json(&json!({ "reason": args.reason }));
    if let Some(deadline) = &args.deadline {
        request = request.header("Celesta-Deadline", deadline);
    }
    let answer = client::json(client.send(request, client::Repeat::Safe).await?).await?;
    told(context, &run, answer, &args.priority)
}

/// Options of `run restart`.
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    target: Target,
    /// Begin with the turn in which this rule first fired, and not with the request
    #[arg(long, value_name = "RULE")]
    from: Option<String>,
    /// Begin with this turn, in place of the rule's first
    #[arg(long, value_name = "TURN")]
    turn: Option<u64>,
    /// Change facts before rules fire: a JSON list as for `run write`
    #[arg(long, value_name = "WRITES")]
    facts: Option<String>,
    /// Why; kept in the new run's history
    #[arg(long, default_value = "on the command line")]
    reason: String,
}

/// Does a run over.
pub(crate) async fn restart(context: &Context, client: &Client, args: &RestartArgs) -> Outcome {
    let writes: Option<Value> = match &args.facts {
        Some(text) => Some(
            serde_json::from_str(text)
                .map_err(|error| Failure::usage(format!("the facts are not JSON: {error}")))?,
        ),
        None => None,
    };
    let run = args.target.resolve(client).await?;
    let mut body = json!({ "rule": args.from, "turn": args.turn, "reason": args.reason });
    if let (Some(body), Some(writes)) = (body.as_object_mut(), writes) {
        body.insert("writes".to_owned(), writes);
    }
    let answer = client.post(&["v1", "runs", &run, "restart"], &body).await?;
    let new = answer
        .get("id")
        .and_then(Value::as_str)
        .unwrap_or(&run)
        .to_owned();
    told(context, &new, answer, "running")
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
