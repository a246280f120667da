//! `celesta queue …`: the queue on its own. One file for each kind of user; the list of actions stands here.

mod consume;
mod look;
mod produce;
mod steer;
mod work;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Context;
use crate::client::{Client, json};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{BAD, GOOD, Output, paint, table};

/// Options of `queue`.
#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    #[command(subcommand)]
    action: Action,
}

/// A queue by its name.
#[derive(Debug, Args)]
struct Target {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the queues
    Ls,
    /// Show a queue: settings and counts
    Show(Target),
    /// Count the messages of a queue, state by state
    Stats(Target),
    /// Look at messages without taking them: the next ones, or those that match
    Peek(look::PeekArgs),
    /// Show what happened to a message
    History(look::HistoryArgs),
    /// Send messages: one with --payload, or a line of standard input each
    Enqueue(produce::EnqueueArgs),
    /// Take messages, and wait for them
    Lease(consume::LeaseArgs),
    /// Run a command for each message that comes from the broker
    Consume(work::ConsumeArgs),
    /// Say that leased messages are done
    Complete(consume::SettleArgs),
    /// Say that the work of leased messages has failed
    Fail(consume::FailArgs),
    /// Have leases hold longer
    Extend(consume::ExtendArgs),
    /// Give leased messages back untouched
    Release(consume::SettleArgs),
    /// Call messages back
    Cancel(steer::ChoiceArgs),
    /// Give errored or expired messages another chance
    Redrive(steer::ChoiceArgs),
    /// Move waiting messages within the order
    Reprioritize(steer::ReprioritizeArgs),
    /// Refuse new messages, leases, or both
    Block(steer::BlockArgs),
    /// Take new messages and leases again
    Unblock(steer::BlockArgs),
    /// Make a queue, or change its settings
    Configure(steer::ConfigureArgs),
}

/// Does what was asked.
pub(crate) async fn run(context: &Context, args: QueueArgs) -> Outcome {
    let (client, out) = (context.client()?, context.out);
    match args.action {
        Action::Consume(args) => work::consume(context, args).await,
        Action::Ls => look::list(&client, out).await,
        Action::Show(target) => look::show(&client, out, &target.queue).await,
        Action::Stats(target) => look::stats(&client, out, &target.queue).await,
        Action::Peek(args) => look::peek(&client, out, &args).await,
        Action::History(args) => look::history(&client, out, &args).await,
        Action::Enqueue(args) => produce::enqueue(&client, out, args).await,
        Action::Lease(args) => consume::lease(&client, out, &args).await,
        Action::Complete(args) => consume::settle(&client, out, &args, "complete").await,
        Action::Release(args) => consume::settle(&client, out, &args, "release").await,
        Action::Fail(args) => consume::fail(&client, out, &args).await,
        Action::Extend(args) => consume::extend(&client, out, &args).await,
        Action::Cancel(args) => steer::choose(&client, out, &args, "cancel").await,
        Action::Redrive(args) => steer::choose(&client, out, &args, "redrive").await,
        Action::Reprioritize(args) => steer::reprioritize(&client, out, &args).await,
        Action::Block(args) => steer::block(&client, out, &args, true).await,
        Action::Unblock(args) => steer::block(&client, out, &args, false).await,
        Action::Configure(args) => steer::configure(&client, out, &args).await,
    }
}

/// Sends `body` to an action of a queue.
///
/// # Errors
/// When the server is away or refuses all of it.
async fn post(client: &Client, queue: &str, action: &str, body: &Value) -> Result<Value, Failure> {
    client.post(&["v1", "queues", queue, action], body).await
}

/// Tells the outcomes of a call: one line each, and a failure when one was refused.
///
/// # Errors
/// When standard output cannot be written.
fn told(out: Output, answer: &Value) -> Outcome {
    out.json(answer)?;
    let outcomes = answer["outcomes"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<_> = outcomes.iter().map(outcome_row).collect();
    if rows.is_empty() {
        out.note("there was nothing to do");
    } else {
        out.line(table(&["message", "outcome", ""], &rows))?;
    }
    let refused = outcomes.iter().any(|outcome| outcome["outcome"] == "refused");
    Ok(if refused { Exit::Failed } else { Exit::Done })
}

fn outcome_row(outcome: &Value) -> Vec<String> {
    let problem = &outcome["problem"];
    let what = text(&outcome["outcome"]);
    let style = if problem.is_null() { GOOD } else { BAD };
    let remark = if problem.is_null() {
        String::new()
    } else {
        format!("{} [{}]", text(&problem["detail"]), text(&problem["code"]))
    };
    vec![text(&outcome["id"]), paint(style, what), remark]
}

/// A value as people read it: texts without quotes, nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A class, with its number when it has one.
fn priority_text(priority: &Value) -> String {
    let class = text(&priority["class"]);
    match priority["number"].as_i64() {
        None | Some(0) => class,
        Some(number) => format!("{class}:{number}"),
    }
}

/// The content of a message in one line.
fn content_text(message: &Value) -> String {
    match message.get("payload_base64") {
        Some(bytes) => format!("base64:{}", text(bytes)),
        None => message.get("payload").map(Value::to_string).unwrap_or_default(),
    }
}

/// Sends JSON with any method and reads JSON.
///
/// # Errors
/// When the server is away or answers with a problem.
async fn send(client: &Client, method: reqwest::Method, queue: &str, body: &Value) -> Result<Value, Failure> {
    let request = client.request(method, client.url(&["v1", "queues", queue], &[]));
    let response = client
        .send(request.json(body), crate::client::Repeat::Safe)
        .await?;
    json(response).await
}
