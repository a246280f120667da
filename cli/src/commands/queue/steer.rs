//! `celesta queue cancel|redrive|reprioritize|block|unblock|configure`.

use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{look, post, send, told};
use crate::client::Client;
use crate::commands::call::read_pair;
use crate::exit::{Exit, Outcome};
use crate::output::Output;

/// Which messages: these, or those that match.
#[derive(Debug, Args)]
pub(crate) struct ChoiceArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// The messages' ids
    #[arg(value_name = "MESSAGE", required_unless_present_any = ["all", "metadata", "states"])]
    ids: Vec<String>,
    /// All messages
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// All messages with this pair; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_pair, conflicts_with = "ids")]
    metadata: Vec<(String, String)>,
    /// All messages in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", conflicts_with = "ids")]
    states: Vec<String>,
}

/// Options of `queue reprioritize`.
#[derive(Debug, Args)]
pub(crate) struct ReprioritizeArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Where to: critical, high, standard, low or background, and `:number` within
    #[arg(value_name = "CLASS[:N]")]
    priority: String,
    /// The messages' ids
    #[arg(value_name = "MESSAGE", required = true)]
    ids: Vec<String>,
}

/// Options of `queue block` and `queue unblock`.
#[derive(Debug, Args)]
pub(crate) struct BlockArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// New messages alone
    #[arg(long, conflicts_with = "dequeue")]
    enqueue: bool,
    /// Leases alone
    #[arg(long)]
    dequeue: bool,
}

/// Options of `queue configure`.
#[derive(Debug, Args)]
pub(crate) struct ConfigureArgs {
    /// The queue; made when there is none
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Settings as `show --json` names them, for example `kind=exclusive lease_ms=60000`; what is not named stays as it is
    #[arg(value_name = "NAME=VALUE", value_parser = read_pair)]
    settings: Vec<(String, String)>,
}

/// Matching messages are changed so many at a time, as the server does it.
const AT_ONCE: u64 = 1_000;

/// Cancels or redrives.
pub(crate) async fn choose(client: &Client, out: Output, args: &ChoiceArgs, action: &str) -> Outcome {
    if !args.ids.is_empty() {
        let body = json!({ "ids": args.ids });
        return told(out, &post(client, &args.queue, action, &body).await?);
    }
    let metadata: Map<String, Value> = args
        .metadata
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    let filter = json!({ "states": args.states, "metadata": metadata });
    let body = json!({ "filter": filter, "max": AT_ONCE });
    let mut exit = Exit::Done;
    loop {
        let answer = post(client, &args.queue, action, &body).await?;
        let count = answer["outcomes"].as_array().map_or(0, Vec::len);
        let told = told(out, &answer)?;
        if told != Exit::Done {
            exit = told;
        }
        // A full batch without refusals may not have been all.
        if exit != Exit::Done || u64::try_from(count).unwrap_or(0) < AT_ONCE {
            return Ok(exit);
        }
    }
}

/// Reorders.
pub(crate) async fn reprioritize(client: &Client, out: Output, args: &ReprioritizeArgs) -> Outcome {
    let changes = args
        .ids
        .iter()
        .map(|id| json!({ "id": id, "priority": args.priority }));
    let body = json!({ "changes": changes.collect::<Value>() });
    told(out, &post(client, &args.queue, "reprioritize", &body).await?)
}

/// Blocks or unblocks new messages, leases, or both.
pub(crate) async fn block(client: &Client, out: Output, args: &BlockArgs, blocked: bool) -> Outcome {
    let mut change = Map::new();
    if !args.dequeue {
        change.insert("enqueue_blocked".to_owned(), blocked.into());
    }
    if !args.enqueue {
        change.insert("dequeue_blocked".to_owned(), blocked.into());
    }
    let answer = send(client, Method::PATCH, &args.queue, &change.into()).await?;
    out.either(&answer, || look::shown(&answer))?;
    Ok(Exit::Done)
}

/// Makes a queue, or changes single settings of one.
pub(crate) async fn configure(client: &Client, out: Output, args: &ConfigureArgs) -> Outcome {
    let settings = args.settings.iter().map(|(name, value)| {
        // What is no JSON is a text: `kind=exclusive`.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value.as_str()));
        (name.clone(), value)
    });
    let settings = Value::Object(settings.collect());
    let answer = match send(client, Method::PATCH, &args.queue, &settings).await {
        Err(failure) if failure.exit == Exit::NotFound => {
            send(client, Method::PUT, &args.queue, &settings).await?
        }
        other => other?,
    };
    out.either(&answer, || look::shown(&answer))?;
    Ok(Exit::Done)
}
