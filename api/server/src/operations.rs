//! Bulk operations: one action done to all runs of a filter, in the background.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use celesta_runs::{
    Action, Bulk, OPERATION_RATE, OperationError, OperationStep, OperationView, Page, RunFilter,
};
use celesta_types::OperationId;
use serde::Deserialize;
use serde_json::json;

use crate::actor::wish;
use crate::front::given_id;
use crate::problem::{Answer, Problem};
use crate::runs::{instant, limit};
use crate::server::State;
use crate::submit::{json_body, label};

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    action: Action,
    filter: Filter,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    rate: Option<u32>,
    #[serde(default)]
    preview: bool,
}

/// Which runs: the same as the query of a list of runs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    service: Option<String>,
    workflow: Option<String>,
    operation: Option<String>,
    state: Option<String>,
    label: Option<String>,
    created_after: Option<String>,
    created_before: Option<String>,
}

impl Filter {
    fn read(self) -> Answer<RunFilter> {
        Ok(RunFilter {
            created_after: instant("created_after", self.created_after.as_ref())?,
            created_before: instant("created_before", self.created_before.as_ref())?,
            label: (self.label.as_deref().map(label).transpose()).map_err(Problem::invalid_parameter)?,
            state: (self.state.as_deref().map(str::parse).transpose())
                .map_err(|error: String| Problem::invalid_parameter(error))?,
            service: self.service,
            workflow: self.workflow,
            operation: self.operation,
        })
    }
}

/// The query of a list of operations.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperationsQuery {
    cursor: Option<String>,
    limit: Option<usize>,
}

fn operation_id(text: &str) -> Answer<OperationId> {
    text.parse().map_err(Problem::invalid_parameter)
}

/// Do something to all runs of a filter, in the background.
#[utoipa::path(post, path = "/v1/operations", operation_id = "begin_operation", tag = "operations",
    request_body(content = serde_json::Value, description = "`{\"action\": \"cancel\", \"filter\": {\"service\": \"…\", \"state\": \"failed\"}, \"reason\": \"…\", \"rate\": 1000}`; actions are `cancel`, `retry`, `pause`, `resume`, `step` and `resume_stopped`. With `\"preview\": true` the answer is how many runs there are, and nothing is done."),
    responses(
        (status = 200, description = "How many runs the filter names.", body = serde_json::Value),
        (status = 202, description = "The operation is durable and goes on by itself.", body = serde_json::Value),
        (status = 400, description = "The filter names nothing, or the rate is none.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn begin(shared: State, headers: HeaderMap, body: Body) -> Answer {
    let body = json_body(&shared, &headers, body).await?;
    let asked: Asked = serde_json::from_slice(&body).map_err(Problem::invalid_parameter)?;
    let bulk = Bulk {
        action: asked.action,
        filter: asked.filter.read()?,
        rate: asked.rate.unwrap_or(OPERATION_RATE),
    };
    let runtime = &shared.api.runtime;
    if asked.preview {
        let runs = runtime.preview_operation(&bulk).await.map_err(refused)?;
        return Ok(Json(json!({ "runs": runs })).into_response());
    }
    let wish = wish(&headers, asked.reason)?;
    let operation = runtime
        .begin_operation_as(given_id(&headers).map(OperationId::from_bits), bulk, &wish)
        .await
        .map_err(refused)?;
    let location = format!("/v1/operations/{}", operation.id);
    let mut response = (StatusCode::ACCEPTED, Json(operation)).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// List operations, the newest first.
#[utoipa::path(get, path = "/v1/operations", operation_id = "list_operations", tag = "operations",
    params(
        ("cursor" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<usize>, Query, description = "1 to 500, 100 unless given.")),
    responses((status = 200, description = "A page of operations.", body = serde_json::Value)))]
pub(crate) async fn list(
    shared: State,
    given: Result<Query<OperationsQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<Page<OperationView>>> {
    let Query(given) = given.map_err(|error| Problem::invalid_parameter(error.body_text()))?;
    let cursor = given.cursor.as_deref().map(operation_id).transpose()?;
    let page = shared.api.runtime.operations(cursor, limit(given.limit)?).await;
    page.map(Json)
        .map_err(|error| Problem::failure(error.kind(), &error))
}

/// Show an operation and how far it is.
#[utoipa::path(get, path = "/v1/operations/{operation}", operation_id = "show_operation", tag = "operations",
    params(("operation" = String, Path, description = "The operation's id.")),
    responses(
        (status = 200, description = "The operation.", body = serde_json::Value),
        (status = 404, description = "There is no such operation.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn show(shared: State, Path(operation): Path<String>) -> Answer<Json<OperationView>> {
    let id = operation_id(&operation)?;
    let view = shared.api.runtime.operation(id).await;
    let view = view.map_err(|error| Problem::failure(error.kind(), &error))?;
    view.map(Json)
        .ok_or_else(|| refused(OperationError::NotFound { id }))
}

/// Pause, resume or abort an operation: before its next page.
#[utoipa::path(post, path = "/v1/operations/{operation}/{step}", operation_id = "change_operation", tag = "operations",
    params(
        ("operation" = String, Path, description = "The operation's id."),
        ("step" = String, Path, description = "`pause`, `resume` or `abort`.")),
    responses(
        (status = 200, description = "How it stands now.", body = serde_json::Value),
        (status = 404, description = "There is no such operation.", body = crate::openapi::ProblemBody),
        (status = 409, description = "It has ended.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn change(
    shared: State,
    Path((operation, step)): Path<(String, String)>,
) -> Answer<Json<OperationView>> {
    let id = operation_id(&operation)?;
    let step = match step.as_str() {
        "pause" => OperationStep::Pause,
        "resume" => OperationStep::Resume,
        "abort" => OperationStep::Abort,
        other => {
            return Err(Problem::invalid_parameter(format!(
                "`{other}` cannot be done to an operation; expected pause, resume or abort"
            )));
        }
    };
    let changed = shared.api.runtime.change_operation(id, step).await;
    changed.map(Json).map_err(refused)
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn refused(error: OperationError) -> Problem {
    let problem = |status, code, title| Problem::new(status, code, title, error.to_string());
    match &error {
        OperationError::NotFound { .. } => problem(
            StatusCode::NOT_FOUND,
            "no-such-bulk-operation",
            "there is no such operation",
        ),
        OperationError::Illegal(_) => problem(
            StatusCode::CONFLICT,
            "illegal-state",
            "the operation stands where that means nothing",
        ),
        OperationError::Unavailable { .. } => Problem::failure(error.kind(), &error),
        _ => problem(
            StatusCode::BAD_REQUEST,
            "invalid-bulk-operation",
            "that is no bulk operation",
        ),
    }
}
