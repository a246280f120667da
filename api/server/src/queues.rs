//! `/v1/queues`: the queue on its own, for producers and consumers in any language.
//!
//! One file for each thing one does with messages. Queues of the platform (`runs`, `functions/…`) can be looked at
//! here and are changed by the platform alone. Calls about several messages answer for each of them; when all of them
//! are refused, the answer is the problem of the first.

pub(crate) mod change;
pub(crate) mod enqueue;
mod envelope;
pub(crate) mod lease;
pub(crate) mod look;
mod outcomes;
mod refuse;
pub(crate) mod settle;
pub(crate) mod shapes;

pub use envelope::content;

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use celesta_functions::names::{FUNCTION_QUEUES, RUNS_QUEUE};
use celesta_queue::machine::State as Life;
use celesta_queue::{QueueName, Settings, Stats};
use celesta_runs::Page;
use serde_json::{Map, Value, json};

use crate::problem::{Answer, Problem};
use crate::server::State;
use crate::submit::json_body;

/// Names that the platform keeps for itself beside those it uses today.
const RESERVED_PREFIX: &str = "celesta/";

/// Whether a queue is the platform's own.
fn is_reserved(queue: &QueueName) -> bool {
    let name = queue.as_str();
    name == RUNS_QUEUE || name.starts_with(FUNCTION_QUEUES) || name.starts_with(RESERVED_PREFIX)
}

/// A queue that is looked at.
fn named(queue: &str) -> Answer<QueueName> {
    QueueName::new(queue).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "invalid-queue-name",
            "this cannot name a queue",
            error.to_string(),
        )
    })
}

/// A queue that is worked with: not one of the platform's.
fn open_to_all(queue: &str) -> Answer<QueueName> {
    let queue = named(queue)?;
    if is_reserved(&queue) {
        let detail = format!("`{queue}` belongs to the platform and can only be looked at");
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "queue-reserved",
            "the queue is the platform's",
            detail,
        ));
    }
    Ok(queue)
}

/// The queue in numbers, or that there is none.
async fn found(shared: &State, queue: &QueueName) -> Answer<Stats> {
    let stats = shared.api.queues.stats(queue).await;
    let stats = stats.map_err(|error| refuse::whole(&error))?;
    stats.ok_or_else(|| refuse::no_such_queue(queue.as_str()))
}

/// List queues.
#[utoipa::path(get, path = "/v1/queues", operation_id = "list_queues", tag = "queues",
    responses((status = 200, description = "All queues by name in `rows`, with settings and counts.", body = serde_json::Value)))]
pub(crate) async fn list(shared: State) -> Answer<Json<Page<Value>>> {
    let queues = shared.api.queues.list_queues().await;
    let queues = queues.map_err(|error| refuse::whole(&error))?;
    let rows = queues.iter().map(view).collect();
    Ok(Json(Page { rows, next: None }))
}

/// Show a queue: its settings and how many messages are in which state.
#[utoipa::path(get, path = "/v1/queues/{queue}", operation_id = "show_queue", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    responses(
        (status = 200, description = "The queue.", body = serde_json::Value),
        (status = 404, description = "There is no such queue.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn show(shared: State, Path(queue): Path<String>) -> Answer<Json<Value>> {
    found(&shared, &named(&queue)?)
        .await
        .map(|stats| Json(view(&stats)))
}

/// Configure a queue, whole: what is not given takes its default. Makes the queue when there is none.
#[utoipa::path(put, path = "/v1/queues/{queue}", operation_id = "configure_queue", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body(content = serde_json::Value, description = "Settings as `show_queue` gives them."),
    responses(
        (status = 200, description = "The queue, configured.", body = serde_json::Value),
        (status = 201, description = "The queue is new.", body = serde_json::Value),
        (status = "4XX", description = "Refused; nothing has changed.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn configure(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let queue = open_to_all(&queue)?;
    let given: Map<String, Value> = object(&json_body(&shared, &headers, body).await?)?;
    let there = shared.api.queues.stats(&queue).await;
    let is_new = there.map_err(|error| refuse::whole(&error))?.is_none();
    let stats = apply(&shared, &queue, settings(given)?).await?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(view(&stats))).into_response())
}

/// Change single settings of a queue: block and unblock it, for example.
#[utoipa::path(patch, path = "/v1/queues/{queue}", operation_id = "change_queue", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body(content = serde_json::Value, description = "The settings that change, for example `{\"dequeue_blocked\": true}`."),
    responses(
        (status = 200, description = "The queue, changed.", body = serde_json::Value),
        (status = "4XX", description = "Refused; nothing has changed.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn patch(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    let queue = open_to_all(&queue)?;
    let given: Map<String, Value> = object(&json_body(&shared, &headers, body).await?)?;
    let stats = found(&shared, &queue).await?;
    let mut merged = match json!(stats.settings) {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    merged.extend(given);
    apply(&shared, &queue, settings(merged)?)
        .await
        .map(|stats| Json(view(&stats)))
}

fn object(body: &[u8]) -> Answer<Map<String, Value>> {
    serde_json::from_slice(body).map_err(|error| shapes::shape(&error))
}

fn settings(given: Map<String, Value>) -> Answer<Settings> {
    serde_json::from_value(Value::Object(given)).map_err(|error| {
        refuse::unprocessable("invalid-settings", "a setting is not allowed", error.to_string())
    })
}

async fn apply(shared: &State, queue: &QueueName, settings: Settings) -> Answer<Stats> {
    let configured = shared.api.queues.configure(queue, settings).await;
    let configured = configured.map_err(|error| refuse::whole(&error))?;
    configured.map_err(|error| refuse::configure(&error))?;
    found(shared, queue).await
}

fn view(stats: &Stats) -> Value {
    let counts: Map<String, Value> = Life::ALL
        .into_iter()
        .map(|state| (state.name().to_owned(), stats.count(state).into()))
        .collect();
    json!({
        "name": stats.queue.as_str(),
        "reserved": is_reserved(&stats.queue),
        "ready": stats.ready,
        "counts": counts,
        "overtaken": stats.overtaken,
        "settings": stats.settings,
    })
}
