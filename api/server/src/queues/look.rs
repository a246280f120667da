//! Looking at messages without touching them.

use axum::Json;
use axum::extract::{Path, Query};
use celesta_queue::{Filter, Happened, MessageView, QueueName, TimelineEvent};
use celesta_runs::Page;
use serde_json::{Map, Value, json};

use super::envelope::{self, Opened};
use super::{found, named, refuse, shapes};
use crate::problem::{Answer, Problem};
use crate::runs::limit;
use crate::server::State;
use crate::submit::label;

type Pairs = Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>;

/// What is to be listed.
#[derive(Debug, Default)]
struct Asked {
    filter: Filter,
    peek: bool,
    after: Option<u64>,
    limit: Option<usize>,
}

/// List messages, or look at the next ones in the order they would be leased.
#[utoipa::path(get, path = "/v1/queues/{queue}/messages", operation_id = "list_messages", tag = "queues",
    params(
        ("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`."),
        ("state" = Option<String>, Query, description = "Only in this state; may be given several times."),
        ("metadata" = Option<String>, Query, description = "Only with this pair, `name=value`; may be given several times."),
        ("peek" = Option<bool>, Query, description = "`true`: pending messages in the order they would be leased; no filter and no pages."),
        ("cursor" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<usize>, Query, description = "1 to 500, 100 unless given.")),
    responses(
        (status = 200, description = "A page of messages.", body = serde_json::Value),
        (status = 404, description = "There is no such queue.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn list(
    shared: State,
    Path(queue): Path<String>,
    given: Pairs,
) -> Answer<Json<Page<Value>>> {
    let queue = named(&queue)?;
    let asked = asked(given)?;
    let limit = limit(asked.limit)?;
    found(&shared, &queue).await?;
    let queues = &shared.api.queues;
    let (messages, next) = if asked.peek {
        let messages = queues.peek(&queue, limit).await;
        (messages.map_err(|error| refuse::whole(&error))?, None)
    } else {
        let page = queues.list(&queue, &asked.filter, asked.after, limit).await;
        let page = page.map_err(|error| refuse::whole(&error))?;
        (page.messages, page.next)
    };
    Ok(Json(Page {
        rows: messages.iter().map(|message| view(message, None)).collect(),
        next: next.map(|next| next.to_string()),
    }))
}

fn asked(given: Pairs) -> Answer<Asked> {
    let Query(pairs) = given.map_err(|error| Problem::invalid_parameter(error.body_text()))?;
    let mut asked = Asked::default();
    let number = |name: &str, text: &str| {
        let wrong = || Problem::invalid_parameter(format!("{name}: `{text}` is not a number"));
        text.parse::<u64>().map_err(|_| wrong())
    };
    for (name, value) in pairs {
        match name.as_str() {
            "state" => asked.filter.states.push(shapes::life(&value)?),
            "metadata" => {
                let pair = label(&value).map_err(Problem::invalid_parameter)?;
                asked.filter.metadata.push(pair);
            }
            "peek" => {
                let wrong = || Problem::invalid_parameter(format!("peek: `{value}` is not true or false"));
                asked.peek = value.parse().map_err(|_| wrong())?;
            }
            "cursor" => asked.after = Some(number("cursor", &value)?),
            "limit" => asked.limit = Some(usize::try_from(number("limit", &value)?).unwrap_or(usize::MAX)),
            _ => {
                let known = "state, metadata, peek, cursor and limit";
                return Err(Problem::invalid_parameter(format!(
                    "unknown parameter `{name}`; expected {known}"
                )));
            }
        }
    }
    if asked.peek && (!asked.filter.states.is_empty() || !asked.filter.metadata.is_empty()) {
        return Err(Problem::invalid_parameter(
            "peek shows the order of all messages; list with a filter instead",
        ));
    }
    Ok(asked)
}

/// Show a message.
#[utoipa::path(get, path = "/v1/queues/{queue}/messages/{message}", operation_id = "show_message", tag = "queues",
    params(
        ("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`."),
        ("message" = String, Path, description = "The producer's id.")),
    responses(
        (status = 200, description = "The message as it stands.", body = serde_json::Value),
        (status = 404, description = "There is no such queue or message.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn show(shared: State, Path((queue, id)): Path<(String, String)>) -> Answer<Json<Value>> {
    let queue = named(&queue)?;
    found(&shared, &queue).await?;
    let message = shared.api.queues.view(&queue, envelope::id_of(&id)).await;
    let message = message.map_err(|error| refuse::whole(&error))?;
    let message = message.ok_or_else(|| unknown(&queue, &id))?;
    Ok(Json(view(&message, Some(&id))))
}

/// What happened to a message, from its beginning to now.
#[utoipa::path(get, path = "/v1/queues/{queue}/messages/{message}/history", operation_id = "message_history", tag = "queues",
    params(
        ("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`."),
        ("message" = String, Path, description = "The producer's id.")),
    responses(
        (status = 200, description = "The message and its `timeline`, the oldest event first.", body = serde_json::Value),
        (status = 404, description = "There is no such queue or message.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn history(shared: State, Path((queue, id)): Path<(String, String)>) -> Answer<Json<Value>> {
    let queue = named(&queue)?;
    found(&shared, &queue).await?;
    let history = shared.api.queues.history(&queue, envelope::id_of(&id)).await;
    let history = history.map_err(|error| refuse::whole(&error))?;
    let history = history.ok_or_else(|| unknown(&queue, &id))?;
    let timeline: Vec<Value> = history.timeline.iter().map(event).collect();
    Ok(Json(json!({
        "message": view(&history.message, Some(&id)),
        "timeline": timeline,
    })))
}

fn unknown(queue: &QueueName, id: &str) -> Problem {
    let id: String = id.chars().take(envelope::TEXT_BYTES_MAX).collect();
    refuse::no_such_message(format!("queue `{queue}` has no message `{id}`"))
}

/// A message as people look at it; `asked` is the id it was asked for by.
fn view(message: &MessageView, asked: Option<&str>) -> Value {
    let opened = message.payload.as_deref().map(envelope::open);
    let own = || asked.map_or_else(|| message.id.to_string(), str::to_owned);
    let key = message.key.map(|key| match &opened {
        Some(opened) => opened.key_text(key),
        None => format!("{:032x}", key.bits()),
    });
    let metadata: Map<String, Value> = message
        .metadata
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    let mut view = json!({
        "id": opened.as_ref().and_then(|opened| opened.id).map_or_else(own, str::to_owned),
        "key": key,
        "state": message.state.name(),
        "priority": message.priority,
        "attempt": message.attempt,
        "attempts_max": message.attempts_max,
        "enqueued_at": message.enqueued_at,
        "at": message.at,
        "consumer": message.consumer.as_deref(),
        "error": message.error,
        "metadata": metadata,
    });
    if let (Some(view), Ok(Value::Object(content))) = (
        view.as_object_mut(),
        serde_json::to_value(opened.as_ref().map(Opened::shown).unwrap_or_default()),
    ) {
        view.extend(content);
    }
    view
}

fn event(event: &TimelineEvent) -> Value {
    let (name, more) = match &event.what {
        Happened::Enqueued => ("enqueued", json!({})),
        Happened::Visible => ("visible", json!({})),
        Happened::Leased { consumer, attempt } => {
            ("leased", json!({ "consumer": &**consumer, "attempt": attempt }))
        }
        Happened::Extended { until } => ("extended", json!({ "until": until })),
        Happened::Completed => ("completed", json!({})),
        Happened::Failed { error } => ("failed", json!({ "error": &**error })),
        Happened::Released => ("released", json!({})),
        Happened::Lapsed => ("lapsed", json!({})),
        Happened::Canceled => ("canceled", json!({})),
        Happened::Expired => ("expired", json!({})),
        Happened::Redriven => ("redriven", json!({})),
        Happened::Reprioritized { priority } => ("reprioritized", json!({ "priority": priority })),
    };
    let mut view = Map::new();
    view.insert("at".to_owned(), json!(event.at));
    view.insert("event".to_owned(), name.into());
    if let Value::Object(more) = more {
        view.extend(more);
    }
    view.into()
}
