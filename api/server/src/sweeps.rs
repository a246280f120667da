//! `/v1/sweeps`: what finds resting runs and has each take a turn.

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use celesta_runs::{Page, SweepError, SweepView, SweepsFilter};
use celesta_types::{ErrorKind, SweepId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::problem::{Answer, Problem};
use crate::runs::{MaybeQuery, PageQuery, limit, query, run_id};
use crate::server::State;
use crate::steer::reason;

/// The query of a list of sweeps.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    service: Option<String>,
    state: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

fn sweep_id(text: &str) -> Answer<SweepId> {
    text.parse().map_err(Problem::invalid_parameter)
}

fn no_such_sweep(sweep: SweepId) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-sweep",
        "there is no such sweep",
        format!("there is no sweep {sweep}"),
    )
}

/// List sweeps, the newest first.
#[utoipa::path(get, path = "/v1/sweeps", operation_id = "list_sweeps", tag = "sweeps",
    params(
        ("service" = Option<String>, Query, description = "Only of this service."),
        ("state" = Option<String>, Query, description = "pending, previewed, running, paused, done or aborted."),
        ("cursor" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<usize>, Query, description = "1 to 500, 100 unless given.")),
    responses(
        (status = 200, description = "A page of sweeps.", body = serde_json::Value),
        (status = 400, description = "A parameter is wrong.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn list(shared: State, given: MaybeQuery<ListQuery>) -> Answer<Json<Page<SweepView>>> {
    let given = query(given)?;
    let state = given.state.as_deref().map(str::parse).transpose();
    let filter = SweepsFilter {
        service: given.service,
        state: state.map_err(|error: String| Problem::invalid_parameter(error))?,
    };
    let cursor = given.cursor.as_deref().map(sweep_id).transpose()?;
    let page = shared
        .api
        .runtime
        .list_sweeps(&filter, cursor, limit(given.limit)?)
        .await;
    page.map(Json)
        .map_err(|error| Problem::failure(error.kind(), &error))
}

/// Show a sweep: its cause, state and counts.
#[utoipa::path(get, path = "/v1/sweeps/{sweep}", operation_id = "show_sweep", tag = "sweeps",
    params(("sweep" = String, Path, description = "The sweep's id.")),
    responses(
        (status = 200, description = "The sweep.", body = serde_json::Value),
        (status = 404, description = "There is no such sweep.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn show(shared: State, Path(sweep): Path<String>) -> Answer<Json<SweepView>> {
    let id = sweep_id(&sweep)?;
    let found = shared.api.runtime.show_sweep(id).await;
    let found = found.map_err(|error| Problem::failure(error.kind(), &error))?;
    found.map(Json).ok_or_else(|| no_such_sweep(id))
}

/// The runs that a sweep has moved or missed.
#[utoipa::path(get, path = "/v1/sweeps/{sweep}/runs", operation_id = "list_swept_runs", tag = "sweeps",
    params(
        ("sweep" = String, Path, description = "The sweep's id."),
        ("after" = Option<String>, Query, description = "The `next` of the page before: a run."),
        ("limit" = Option<usize>, Query, description = "1 to 500, 100 unless given.")),
    responses(
        (status = 200, description = "A page of runs, each with `outcome`: moved or missed.", body = serde_json::Value),
        (status = 404, description = "There is no such sweep.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn runs(
    shared: State,
    Path(sweep): Path<String>,
    given: MaybeQuery<PageQuery>,
) -> Answer<Json<Page<Value>>> {
    let sweep = show(shared.clone(), Path(sweep)).await?.0;
    let given = query(given)?;
    let after = given.after().map(run_id).transpose()?;
    let page = shared
        .api
        .runtime
        .swept_runs(sweep.id, after, limit(given.limit)?)
        .await;
    let page = page.map_err(|error| Problem::failure(error.kind(), &error))?;
    let rows = page
        .rows
        .iter()
        .map(|(run, outcome)| json!({ "run": run, "outcome": outcome }));
    Ok(Json(Page {
        rows: rows.collect(),
        next: page.next,
    }))
}

/// How many runs a sweep has before it, and which rules may fire.
#[utoipa::path(get, path = "/v1/sweeps/{sweep}/preview", operation_id = "preview_sweep", tag = "sweeps",
    params(("sweep" = String, Path, description = "The sweep's id.")),
    responses(
        (status = 200, description = "`runs` and `rules`.", body = serde_json::Value),
        (status = 404, description = "There is no such sweep.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn preview(shared: State, Path(sweep): Path<String>) -> Answer<Json<Value>> {
    let view = show(shared.clone(), Path(sweep)).await?.0;
    let runs = if view.state.is_ended() {
        0
    } else {
        shared.api.runtime.preview_sweep(view.id).await.map_err(refused)?
    };
    Ok(Json(
        json!({ "id": view.id, "state": view.state, "runs": runs, "rules": view.rules }),
    ))
}

/// Stop a sweep for a while.
#[utoipa::path(post, path = "/v1/sweeps/{sweep}/pause", operation_id = "pause_sweep", tag = "sweeps",
    params(("sweep" = String, Path, description = "The sweep's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 200, description = "It is paused; the batch on the way takes its turns.", body = serde_json::Value),
        (status = 404, description = "There is no such sweep.", body = crate::openapi::ProblemBody),
        (status = 409, description = "It has ended.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn pause(shared: State, Path(sweep): Path<String>, body: Body) -> Answer {
    let id = sweep_id(&sweep)?;
    let reason = reason(&shared, body, "paused by a client").await?;
    let state = shared
        .api
        .runtime
        .pause_sweep(id, &reason)
        .await
        .map_err(refused)?;
    Ok(Json(json!({ "id": id, "state": state })).into_response())
}

/// Let a sweep go on, or begin after its preview.
#[utoipa::path(post, path = "/v1/sweeps/{sweep}/resume", operation_id = "resume_sweep", tag = "sweeps",
    params(("sweep" = String, Path, description = "The sweep's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 200, description = "It goes on.", body = serde_json::Value),
        (status = 404, description = "There is no such sweep.", body = crate::openapi::ProblemBody),
        (status = 409, description = "It has ended.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn resume(shared: State, Path(sweep): Path<String>, body: Body) -> Answer {
    let id = sweep_id(&sweep)?;
    let reason = reason(&shared, body, "resumed by a client").await?;
    let state = shared
        .api
        .runtime
        .resume_sweep(id, &reason)
        .await
        .map_err(refused)?;
    Ok(Json(json!({ "id": id, "state": state })).into_response())
}

/// Give a sweep up: what was told stays told.
#[utoipa::path(post, path = "/v1/sweeps/{sweep}/abort", operation_id = "abort_sweep", tag = "sweeps",
    params(("sweep" = String, Path, description = "The sweep's id.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 200, description = "It has ended.", body = serde_json::Value),
        (status = 404, description = "There is no such sweep.", body = crate::openapi::ProblemBody),
        (status = 409, description = "It is done.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn abort(shared: State, Path(sweep): Path<String>, body: Body) -> Answer {
    let id = sweep_id(&sweep)?;
    let reason = reason(&shared, body, "aborted by a client").await?;
    let state = shared
        .api
        .runtime
        .abort_sweep(id, &reason)
        .await
        .map_err(refused)?;
    Ok(Json(json!({ "id": id, "state": state })).into_response())
}

pub(crate) fn refused(error: SweepError) -> Problem {
    match &error {
        SweepError::NotFound { sweep } => no_such_sweep(*sweep),
        SweepError::Illegal(illegal) => Problem::new(
            StatusCode::CONFLICT,
            "illegal-state",
            "the sweep stands where that means nothing",
            illegal.to_string(),
        )
        .with("state", json!(illegal.state)),
        SweepError::Invalid { .. } => Problem::invalid_parameter(error),
        SweepError::TooMany { .. } => Problem::new(
            StatusCode::CONFLICT,
            "too-many-sweeps",
            "the service has too many open sweeps",
            error.to_string(),
        ),
        SweepError::Unavailable { .. } => Problem::failure(ErrorKind::Unavailable, &error),
    }
}
