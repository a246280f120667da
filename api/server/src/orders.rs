//! What holds for all runs of a service or a workflow: pauses and breakpoints.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use celesta_runs::{OrderError, OrderView, Page};
use celesta_types::OperationId;
use serde::Deserialize;
use serde_json::json;

use crate::actor::wish;
use crate::front::given_id;
use crate::problem::{Answer, Problem};
use crate::server::State;
use crate::steer::reason;
use crate::submit::json_body;

/// The query of a list of orders.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrdersQuery {
    service: String,
}

/// The pauses and breakpoints of a service's workflows.
#[utoipa::path(get, path = "/v1/orders", operation_id = "list_orders", tag = "orders",
    params(("service" = String, Query, description = "The service.")),
    responses((status = 200, description = "What holds, by whom and why.", body = serde_json::Value)))]
pub(crate) async fn list(
    shared: State,
    given: Result<Query<OrdersQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<Page<OrderView>>> {
    let Query(given) = given.map_err(|error| Problem::invalid_parameter(error.body_text()))?;
    let rows = shared.api.runtime.orders(&given.service);
    Ok(Json(Page { rows, next: None }))
}

/// Pause all runs of a service: each stops when it would move next, and new ones do not begin.
#[utoipa::path(put, path = "/v1/pauses/{service}", operation_id = "pause_service", tag = "orders",
    params(("service" = String, Path, description = "The service.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 200, description = "It holds.", body = serde_json::Value),
        (status = 404, description = "There is no such service.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn pause_service(
    shared: State,
    Path(service): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    pause(shared, &service, None, &headers, body).await
}

/// Pause all runs of a workflow.
#[utoipa::path(put, path = "/v1/pauses/{service}/{workflow}", operation_id = "pause_workflow", tag = "orders",
    params(("service" = String, Path, description = "The service."), ("workflow" = String, Path, description = "The workflow.")),
    request_body(content = serde_json::Value, description = "`{\"reason\": \"…\"}`, or nothing."),
    responses(
        (status = 200, description = "It holds.", body = serde_json::Value),
        (status = 404, description = "There is no such service or workflow.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn pause_workflow(
    shared: State,
    Path((service, workflow)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    pause(shared, &service, Some(&workflow), &headers, body).await
}

async fn pause(
    shared: State,
    service: &str,
    workflow: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let reason = reason(&shared, body, "paused by a client").await?;
    let wish = wish(headers, reason)?;
    let paused = shared.api.runtime.pause_all(service, workflow, &wish).await;
    paused.map_err(refused)?;
    let told = json!({ "service": service, "workflow": workflow, "reason": wish.reason, "by": wish.by });
    Ok(Json(told).into_response())
}

/// Take the pause of a service back, and let the runs go on that it has stopped.
#[utoipa::path(delete, path = "/v1/pauses/{service}", operation_id = "resume_service", tag = "orders",
    params(("service" = String, Path, description = "The service.")),
    responses(
        (status = 202, description = "It holds no more; the runs go on as the operation proceeds.", body = serde_json::Value),
        (status = 404, description = "There is no such service.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn resume_service(shared: State, Path(service): Path<String>, headers: HeaderMap) -> Answer {
    resume(shared, &service, None, &headers).await
}

/// Take the pause of a workflow back, and let the runs go on that it has stopped.
#[utoipa::path(delete, path = "/v1/pauses/{service}/{workflow}", operation_id = "resume_workflow", tag = "orders",
    params(("service" = String, Path, description = "The service."), ("workflow" = String, Path, description = "The workflow.")),
    responses(
        (status = 202, description = "It holds no more; the runs go on as the operation proceeds.", body = serde_json::Value),
        (status = 404, description = "There is no such service or workflow.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn resume_workflow(
    shared: State,
    Path((service, workflow)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    resume(shared, &service, Some(&workflow), &headers).await
}

async fn resume(shared: State, service: &str, workflow: Option<&str>, headers: &HeaderMap) -> Answer {
    let wish = wish(headers, "the pause is over".to_owned())?;
    let given = given_id(headers).map(OperationId::from_bits);
    let runtime = &shared.api.runtime;
    let operation = runtime.unpause_all_as(given, service, workflow, &wish).await;
    let operation = operation.map_err(refused)?;
    let told = json!({ "service": service, "workflow": workflow, "operation": operation });
    Ok((StatusCode::ACCEPTED, Json(told)).into_response())
}

/// The rules before which all runs of a workflow stop.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Breakpoints {
    rules: Vec<String>,
    #[serde(default)]
    reason: String,
}

/// Say before which rules all runs of a workflow stop, in place of what was said before.
#[utoipa::path(put, path = "/v1/breakpoints/{service}/{workflow}", operation_id = "set_workflow_breakpoints", tag = "orders",
    params(("service" = String, Path, description = "The service."), ("workflow" = String, Path, description = "The workflow.")),
    request_body(content = serde_json::Value, description = "`{\"rules\": [\"…\"]}`; an empty list takes all back."),
    responses(
        (status = 200, description = "They hold.", body = serde_json::Value),
        (status = 404, description = "There is no such service, workflow or rule.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn set_breakpoints(
    shared: State,
    Path((service, workflow)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let body = json_body(&shared, &headers, body).await?;
    let given: Breakpoints = serde_json::from_slice(&body).map_err(Problem::invalid_parameter)?;
    let wish = wish(&headers, given.reason)?;
    let runtime = &shared.api.runtime;
    let set = runtime.set_workflow_breakpoints(&service, &workflow, &given.rules, &wish);
    set.await.map_err(refused)?;
    Ok(Json(json!({ "service": service, "workflow": workflow, "rules": given.rules })).into_response())
}

pub(crate) fn refused(error: OrderError) -> Problem {
    let not_found = |code, title| Problem::new(StatusCode::NOT_FOUND, code, title, error.to_string());
    match &error {
        OrderError::UnknownService { .. } => not_found("no-such-service", "there is no such service"),
        OrderError::UnknownWorkflow { .. } => {
            not_found("no-such-workflow", "the service has no such workflow")
        }
        OrderError::UnknownRule { .. } => not_found("no-such-rule", "there is no such rule"),
        OrderError::TooMany { .. } | OrderError::ReasonTooLong { .. } => Problem::invalid_parameter(error),
        OrderError::Unavailable { .. } => Problem::failure(error.kind(), &error),
    }
}
