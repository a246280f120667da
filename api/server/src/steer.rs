//! What people do to runs: cancel, retry, pause, resume, step, prioritize, clone, restart, and write their facts.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use celesta_runs::{Action, LifecycleError, Restart, RestartError, WriteError, WriteFacts};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::actor::{actor, wish};
use crate::body::{PATIENCE, whole};
use crate::orders;
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
pub(crate) async fn cancel(shared: State, Path(run): Path<String>, headers: HeaderMap, body: Body) -> Answer {
    act(shared, &run, &headers, body, Action::Cancel).await
}

/// Does something to a run whose body gives the reason.
async fn act(shared: State, run: &str, headers: &HeaderMap, body: Body, action: Action) -> Answer {
    let id = run_id(run)?;
    let unless_given = match action {
        Action::Cancel => "canceled by a client",
        Action::Retry => "retried by a client",
        Action::Pause => "paused by a client",
        Action::Resume | Action::Step | Action::ResumeStopped => "resumed by a client",
    };
    let wish = wish(headers, reason(&shared, body, unless_given).await?)?;
    shared.api.runtime.act(id, action, &wish).await.map_err(refused)?;
    let told = json!({ "id": id, "reason": wish.reason, "by": wish.by });
    Ok((StatusCode::ACCEPTED, Json(told)).into_response())
}

/// Try again what made a run fail.
#[utoipa::path(post, path = "/v1/runs/{run}/retry", operation_id = "retry_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run has neither failed nor been put aside.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn retry(shared: State, Path(run): Path<String>, headers: HeaderMap, body: Body) -> Answer {
    act(shared, &run, &headers, body, Action::Retry).await
}

/// Stop a run for a while: calls that run go on, their results wait.
#[utoipa::path(post, path = "/v1/runs/{run}/pause", operation_id = "pause_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run has ended.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn pause(shared: State, Path(run): Path<String>, headers: HeaderMap, body: Body) -> Answer {
    act(shared, &run, &headers, body, Action::Pause).await
}

/// Let a paused run go on with what it was sent meanwhile.
#[utoipa::path(post, path = "/v1/runs/{run}/resume", operation_id = "resume_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run is not paused.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn resume(shared: State, Path(run): Path<String>, headers: HeaderMap, body: Body) -> Answer {
    act(shared, &run, &headers, body, Action::Resume).await
}

/// Let a paused run go on by one firing.
#[utoipa::path(post, path = "/v1/runs/{run}/step", operation_id = "step_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once, and stops before the next rule fires.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run is not paused.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn step(shared: State, Path(run): Path<String>, headers: HeaderMap, body: Body) -> Answer {
    act(shared, &run, &headers, body, Action::Step).await
}

/// The rules before which a run stops.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Breakpoints {
    rules: Vec<String>,
}

/// Say before which rules a run stops, in place of what was said before.
#[utoipa::path(put, path = "/v1/runs/{run}/breakpoints", operation_id = "set_breakpoints", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    request_body(content = serde_json::Value, description = "`{\"rules\": [\"…\"]}`; an empty list takes all back."),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once.", body = serde_json::Value),
        (status = 404, description = "There is no such run or rule.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run has ended.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn set_breakpoints(
    shared: State,
    Path(run): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = run_id(&run)?;
    let body = json_body(&shared, &headers, body).await?;
    let given: Breakpoints = serde_json::from_slice(&body).map_err(Problem::invalid_parameter)?;
    let told = json!({ "id": id, "rules": given.rules });
    let set = shared
        .api
        .runtime
        .set_breakpoints(id, given.rules, &actor(&headers)?)
        .await;
    set.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(told)).into_response())
}

/// Make a run more or less urgent, with its calls that wait and the runs it waits for.
#[utoipa::path(post, path = "/v1/runs/{run}/prioritize", operation_id = "prioritize_run", tag = "runs",
    params(
        ("run" = String, Path, description = "The run's id."),
        ("Celesta-Priority" = Option<String>, Header, description = "`critical`, `high`, `standard`, `low` or `background`, with `:number` for the place within the class."),
        ("Celesta-Deadline" = Option<String>, Header, description = "An RFC 3339 instant by which the work should be done.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 202, description = "The wish is durable; the run follows at once.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run has ended.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn prioritize(
    shared: State,
    Path(run): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = run_id(&run)?;
    let priority = submit::priority(&headers)?.ok_or_else(|| {
        Problem::invalid_header("say how urgent it is: `Celesta-Priority`, `Celesta-Deadline`, or both")
    })?;
    let wish = wish(&headers, reason(&shared, body, "").await?)?;
    let told = json!({ "id": id, "priority": priority, "reason": wish.reason, "by": wish.by });
    let done = shared.api.runtime.prioritize(id, priority, &wish).await;
    done.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(told)).into_response())
}

/// Where a run is done over from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Over {
    #[serde(default)]
    rule: Option<String>,
    #[serde(default)]
    turn: Option<u64>,
    #[serde(default)]
    writes: Option<Box<RawValue>>,
    #[serde(default)]
    reason: String,
}

/// Do a run over as a new one: from its start, or from the turn in which a rule first fired, with other facts.
#[utoipa::path(post, path = "/v1/runs/{run}/restart", operation_id = "restart_run", tag = "runs", params(("run" = String, Path, description = "The run's id.")),
    request_body(content = serde_json::Value, description = "`{\"rule\": \"…\", \"writes\": [{\"update\": 3, \"fields\": {…}}], \"reason\": \"…\"}`, all optional; `turn` in place of the rule's first."),
    responses(
        (status = 202, description = "The new run.", body = serde_json::Value),
        (status = 404, description = "There is no such run, or the rule never fired there.", body = crate::openapi::ProblemBody),
        (status = 409, description = "The run is under way, or the current version cannot go on where it was.", body = crate::openapi::ProblemBody),
        (status = 422, description = "The writes are wrong.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn restart(
    shared: State,
    Path(run): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = run_id(&run)?;
    let body = json_body(&shared, &headers, body).await?;
    let given: Over = serde_json::from_slice(&body).map_err(Problem::invalid_parameter)?;
    let wish = wish(&headers, given.reason)?;
    let request = Restart {
        rule: given.rule,
        turn: given.turn,
        writes: given
            .writes
            .map_or_else(Vec::new, |writes| writes.get().as_bytes().to_vec()),
    };
    let new = shared.api.runtime.restart(id, request, &wish).await;
    let new = new.map_err(not_restarted)?;
    let body = json!({ "id": new, "restarted_from": id });
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    located(&mut response, &format!("/v1/runs/{new}"));
    Ok(response)
}

fn not_restarted(error: RestartError) -> Problem {
    let problem = |status, code, title| Problem::new(status, code, title, error.to_string());
    match error {
        RestartError::NeverFired { .. } | RestartError::NoTurn { .. } => problem(
            StatusCode::NOT_FOUND,
            "never-fired",
            "the rule or turn is not in the run's history",
        ),
        RestartError::UnderWay { .. } => problem(
            StatusCode::CONFLICT,
            "illegal-state",
            "the run stands where that means nothing",
        ),
        RestartError::Version { .. } => problem(
            StatusCode::CONFLICT,
            "cannot-go-on",
            "the current version cannot go on there",
        ),
        RestartError::Writes { reason } => invalid(&reason),
        RestartError::Lifecycle(error) => refused(error),
    }
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
        by: actor(&headers)?,
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
        LifecycleError::Archived { .. } => Problem::new(
            StatusCode::CONFLICT,
            "illegal-state",
            "the run stands where that means nothing",
            error.to_string(),
        ),
        LifecycleError::Ended { state, .. } => Problem::new(
            StatusCode::CONFLICT,
            "illegal-state",
            "the run stands where that means nothing",
            error.to_string(),
        )
        .with("state", json!(state)),
        LifecycleError::Order(_) => match error {
            LifecycleError::Order(error) => orders::refused(error),
            error => Problem::failure(error.kind(), &error),
        },
        LifecycleError::ReasonTooLong { .. } => Problem::invalid_parameter(error),
        LifecycleError::Load(_) | LifecycleError::Unavailable { .. } => {
            Problem::failure(error.kind(), &error)
        }
    }
}
