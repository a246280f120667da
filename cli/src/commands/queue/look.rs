//! `celesta queue ls|show|stats|peek|history`.

use celesta_types::Timestamp;
use clap::Args;
use serde_json::Value;

use super::{content_text, priority_text, text};
use crate::client::{Client, instant_text};
use crate::commands::call::read_pair;
use crate::commands::run::{all_pages, state_text};
use crate::commands::service;
use crate::exit::{Exit, Outcome};
use crate::output::{DIM, Output, STRONG, paint, shorten, table};

/// The states that are counted, in the order of a message's life.
const STATES: [&str; 7] = [
    "invisible",
    "pending",
    "running",
    "completed",
    "canceled",
    "errored",
    "expired",
];

/// Options of `queue peek`.
#[derive(Debug, Args)]
pub(crate) struct PeekArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Only in this state; may be repeated
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<String>,
    /// Only with this pair; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_pair)]
    metadata: Vec<(String, String)>,
    /// How many at most
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
}

/// Options of `queue history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// The message's id
    #[arg(value_name = "MESSAGE")]
    message: String,
}

/// Prints all queues.
pub(crate) async fn list(client: &Client, out: Output) -> Outcome {
    let answer = client.get(&["v1", "queues"], &[]).await?;
    out.json(&answer)?;
    let queues = service::rows(answer);
    let rows: Vec<_> = queues.as_array().into_iter().flatten().map(row).collect();
    let header = [
        "queue",
        "kind",
        "ready",
        "pending",
        "running",
        "invisible",
        "errored",
        "",
    ];
    out.line(table(&header, &rows))?;
    Ok(Exit::Done)
}

fn row(queue: &Value) -> Vec<String> {
    let (settings, counts) = (&queue["settings"], &queue["counts"]);
    let mut remarks = Vec::new();
    for (name, remark) in [
        ("enqueue_blocked", "no new messages"),
        ("dequeue_blocked", "no leases"),
    ] {
        if settings[name] == true {
            remarks.push(remark);
        }
    }
    if queue["reserved"] == true {
        remarks.push("the platform's");
    }
    let mut row = vec![
        paint(STRONG, text(&queue["name"])),
        text(&settings["kind"]),
        text(&queue["ready"]),
    ];
    row.extend(["pending", "running", "invisible", "errored"].map(|state| text(&counts[state])));
    row.push(paint(DIM, remarks.join(", ")));
    row
}

/// Prints one queue.
pub(crate) async fn show(client: &Client, out: Output, queue: &str) -> Outcome {
    let answer = client.get(&["v1", "queues", queue], &[]).await?;
    out.json(&answer)?;
    out.line(shown(&answer))?;
    Ok(Exit::Done)
}

/// A queue as people read it.
pub(super) fn shown(queue: &Value) -> String {
    let settings = queue["settings"].as_object().cloned().unwrap_or_default();
    let mut rows: Vec<_> = settings
        .iter()
        .map(|(name, value)| vec![name.clone(), setting(name, value)])
        .collect();
    rows.extend(counted(queue));
    table(&[&text(&queue["name"]), ""], &rows)
}

/// Durations are shown as people say them.
fn setting(name: &str, value: &Value) -> String {
    match value.as_u64().filter(|_| name.ends_with("_ms")) {
        Some(millis) => crate::output::duration(std::time::Duration::from_millis(millis)),
        None if value.is_null() => "-".to_owned(),
        None => text(value),
    }
}

/// Prints how many messages are in which state.
pub(crate) async fn stats(client: &Client, out: Output, queue: &str) -> Outcome {
    let answer = client.get(&["v1", "queues", queue], &[]).await?;
    out.json(&serde_json::json!({
        "name": answer["name"],
        "ready": answer["ready"],
        "counts": answer["counts"],
        "overtaken": answer["overtaken"],
    }))?;
    out.line(table(&["state", "messages"], &counted(&answer)))?;
    Ok(Exit::Done)
}

fn counted(queue: &Value) -> Vec<Vec<String>> {
    let counts = STATES.map(|state| vec![state_text(state), text(&queue["counts"][state])]);
    let mut rows = counts.to_vec();
    rows.push(vec!["ready".to_owned(), text(&queue["ready"])]);
    rows
}

/// Prints the next messages, or those that match.
pub(crate) async fn peek(client: &Client, out: Output, args: &PeekArgs) -> Outcome {
    let pairs: Vec<String> = args
        .metadata
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut query: Vec<(&str, &str)> = args
        .states
        .iter()
        .map(|state| ("state", state.as_str()))
        .collect();
    query.extend(pairs.iter().map(|pair| ("metadata", pair.as_str())));
    if query.is_empty() {
        query.push(("peek", "true"));
    }
    let segments = ["v1", "queues", &args.queue, "messages"];
    let messages = all_pages(client, &segments, &query, args.limit).await?;
    out.json(&messages)?;
    let rows: Vec<_> = messages.iter().map(message_row).collect();
    let header = [
        "message", "state", "priority", "key", "attempt", "enqueued", "payload",
    ];
    out.line(table(&header, &rows))?;
    Ok(Exit::Done)
}

fn message_row(message: &Value) -> Vec<String> {
    let remark = match message["error"].as_str() {
        Some(error) => error.to_owned(),
        None => content_text(message),
    };
    vec![
        text(&message["id"]),
        state_text(&text(&message["state"])),
        priority_text(&message["priority"]),
        text(&message["key"]),
        format!("{}/{}", message["attempt"], message["attempts_max"]),
        instant_text(instant(&message["enqueued_at"])),
        shorten(&remark, 60),
    ]
}

fn instant(value: &Value) -> Option<Timestamp> {
    value.as_i64().map(Timestamp::from_millis)
}

/// Prints what happened to a message.
pub(crate) async fn history(client: &Client, out: Output, args: &HistoryArgs) -> Outcome {
    let segments = ["v1", "queues", &args.queue, "messages", &args.message, "history"];
    let answer = client.get(&segments, &[]).await?;
    out.json(&answer)?;
    let timeline = answer["timeline"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<_> = timeline.iter().map(event_row).collect();
    if rows.is_empty() {
        out.note("no history is kept of this message; it stands as follows");
    } else {
        out.line(table(&["at", "event", ""], &rows))?;
    }
    let message = &answer["message"];
    out.line(table(
        &[
            "message", "state", "priority", "key", "attempt", "enqueued", "payload",
        ],
        &[message_row(message)],
    ))?;
    Ok(Exit::Done)
}

/// An event: when, what, and whatever else is said of it.
fn event_row(event: &Value) -> Vec<String> {
    let more = event.as_object().into_iter().flatten();
    let more = more.filter(|(name, _)| !matches!(name.as_str(), "at" | "event"));
    let more: Vec<String> = more
        .map(|(name, value)| match name.as_str() {
            "priority" => priority_text(value),
            "until" => format!("until {}", instant_text(instant(value))),
            "attempt" => format!("attempt {value}"),
            _ => text(value),
        })
        .collect();
    vec![
        instant_text(instant(&event["at"])),
        text(&event["event"]),
        more.join(", "),
    ]
}
