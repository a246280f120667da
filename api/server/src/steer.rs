//! What people do to runs: cancel, retry, pause, resume, clone, and write their facts.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use celesta_runs::{LifecycleError, WriteError, WriteFacts};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::body::{PATIENCE, whole};
use crate::problem::{Answer, Problem};
use crate::runs::run_id;
use crate::server::State;
use crate::submit::{self, idempotency_key, json_body};

/// Bytes of the body that gives a reason.
const REASON_BODY_MAX: usize = 8 * 1024;
/// How long a client waits to hear what became of its writes, unless it says so: a turn takes milliseconds, and a run
/// that is busy longer takes the writes later.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Call a run off.
#[utoipa::path(post, path = "/v1/runs/{run}/cancel", operation_id = "cancel_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run has completed.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn cancel(shared: State, Path(run): Path<String>, body: Body) -> Answer {
    let id = run_id(&run)?;
    let reason = reason(&shared, body, "canceled by a client").await?;
    shared.api.runtime.cancel(id, &reason).await.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id, "reason": reason }))).into_response())
}

/// Try again what made a run fail.
#[utoipa::path(post, path = "/v1/runs/{run}/retry", operation_id = "retry_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run has neither failed nor been put aside.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn retry(shared: State, Path(run): Path<String>) -> Answer {
    let id = run_id(&run)?;
    shared.api.runtime.retry(id).await.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response())
}

/// Stop a run for a while: calls that run go on, their results wait.
#[utoipa::path(post, path = "/v1/runs/{run}/pause", operation_id = "pause_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run has ended.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn pause(shared: State, Path(run): Path<String>, body: Body) -> Answer {
    let id = run_id(&run)?;
    let reason = reason(&shared, body, "paused by a client").await?;
    shared.api.runtime.pause(id, &reason).await.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id, "reason": reason }))).into_response())
}

/// Let a paused run go on with what it was sent meanwhile.
#[utoipa::path(post, path = "/v1/runs/{run}/resume", operation_id = "resume_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run is not paused.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn resume(shared: State, Path(run): Path<String>, body: Body) -> Answer {
    let id = run_id(&run)?;
    let reason = reason(&shared, body, "resumed by a client").await?;
    shared.api.runtime.resume(id, &reason).await.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id, "reason": reason }))).into_response())
}

/// Run the request of a run once more, with the service's current version.
#[utoipa::path(post, path = "/v1/runs/{run}/clone", operation_id = "clone_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    responses(
        (status = 202, description = "The new run.", body = serde_json::Value),
        (status = 404, description = "There is no such run, or its service or operation is gone.", body = crate::openapi::ProblemBody),
        (status = 422, description = "The current version refuses the request.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn clone_run(shared: State, Path(run): Path<String>, headers: HeaderMap) -> Answer {
    let id = run_id(&run)?;
    let key = idempotency_key(&headers)?;
    let submitted = shared
        .api
        .runtime
        .clone_run(id, key)
        .await
        .map_err(submit::refused)?;
    let submitted = submitted.ok_or_else(|| Problem::no_such_run(id))?;
    let body = json!({ "id": submitted.run, "cloned_from": id });
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    located(&mut response, &format!("/v1/runs/{}", submitted.run));
    Ok(response)
}

fn located(response: &mut Response, location: &str) {
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
}

/// The writes of a request, unread: the run reads them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Writes {
    writes: Box<RawValue>,
}

/// Write facts of a run: insert, update, retract.
#[utoipa::path(post, path = "/v1/runs/{run}/facts", operation_id = "write_facts", tag = "runs",
    params(
        ("run" = String, Path, description = "The run's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and writes count once."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: how long to wait for the run to take them; 10 s unless given.")),
    request_body(content = serde_json::Value, description = "`{\"writes\": [{\"insert\": \"Type\", \"fields\": {…}}, {\"update\": 3, \"version\": 2, \"fields\": {…}}, {\"retract\": 4}]}`"),
    responses(
        (status = 200, description = "The run has taken them: the turn, and for each write whether it counts or why not.", body = serde_json::Value),
        (status = 202, description = "They are durable; the run takes them later, or took them before under this key.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run was canceled, or the key was used with other writes.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn write_facts(
    shared: State,
    Path(run): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = run_id(&run)?;
    let body = json_body(&shared, &headers, body).await?;
    let writes: Writes = serde_json::from_slice(&body).map_err(|error| invalid(&error.to_string()))?;
    let request = WriteFacts {
        writes: writes.writes.get().as_bytes().to_vec(),
        idempotency_key: idempotency_key(&headers)?,
    };
    let patience = submit::wait(&headers)?.unwrap_or(WRITE_PATIENCE);
    let written = shared.api.runtime.write_facts(id, request, patience).await;
    let Some(written) = written.map_err(unwritten)? else {
        return Ok((StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response());
    };
    let outcomes: Vec<_> = (0_u32..)
        .take(written.writes)
        .map(
            |at| match written.refused.iter().find(|(refused, _)| *refused == at) {
                None => json!({ "ok": true }),
                Some((_, why)) => json!({ "ok": false, "error": why }),
            },
        )
        .collect();
    Ok(Json(json!({ "id": id, "turn": written.turn, "outcomes": outcomes })).into_response())
}

fn invalid(detail: &str) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid-writes",
        "the writes are not what writes are",
        detail,
    )
}

fn unwritten(error: WriteError) -> Problem {
    match error {
        WriteError::Invalid { reason } => invalid(&reason),
        WriteError::TooLarge { .. } => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the body is too large",
            error.to_string(),
        ),
        WriteError::IdempotencyConflict => Problem::new(
            StatusCode::CONFLICT,
            "idempotency-conflict",
            "the key was used with another body",
            error.to_string(),
        ),
        WriteError::Lifecycle(error) => refused(error),
    }
}

pub(crate) async fn reason(shared: &State, body: Body, unless_given: &str) -> Answer<String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Reason {
        #[serde(default)]
        reason: Option<String>,
    }
    let too_large = || {
        let detail = format!("the body has more than {REASON_BODY_MAX} bytes");
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the body is too large",
            detail,
        )
    };
    let bytes = whole(&shared.api.clock, body, REASON_BODY_MAX, PATIENCE, too_large).await?;
    if bytes.is_empty() {
        return Ok(unless_given.to_owned());
    }
    let reason: Reason = serde_json::from_slice(&bytes).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-json",
            "the body is not `{\"reason\": …}`",
            error.to_string(),
        )
    })?;
    Ok(reason.reason.unwrap_or_else(|| unless_given.to_owned()))
}

fn refused(error: LifecycleError) -> Problem {
    match &error {
        LifecycleError::NotFound { run } => Problem::no_such_run(run),
        LifecycleError::Illegal(illegal) => Problem::new(
            StatusCode::CONFLICT,
            "illegal-state",
            "the run stands where that means nothing",
            illegal.to_string(),
        )
        .with("state", json!(illegal.state)),
        LifecycleError::ReasonTooLong { .. } => Problem::invalid_parameter(error),
        LifecycleError::Load(_) | LifecycleError::Unavailable { .. } => {
            Problem::failure(error.kind(), &error)
        }
    }
}
