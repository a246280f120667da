//! `/v1/services`: what is pushed and what stands.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use celesta_bundle::{UnpackError, UnpackLimits, unpack};
use celesta_runs::{Page, PushError, Version};
use serde_json::{Value, json};

use crate::body::whole;
use crate::problem::{Answer, Problem};
use crate::server::State;
use crate::submit::text;

/// Bytes of a packed bundle; unpacked bounds are the bundle's own.
pub(crate) const PACKED_BYTES_MAX: usize = 64 << 20;

/// A bundle comes within this time even over a slow line.
const PUSH_PATIENCE: Duration = Duration::from_secs(300);
/// What a bundle may be declared as.
const PACKED_TYPES: [&str; 5] = [
    "application/gzip",
    "application/x-gzip",
    "application/x-tar",
    "application/tar+gzip",
    "application/octet-stream",
];

/// List services.
#[utoipa::path(get, path = "/v1/services", operation_id = "list_services", tag = "services",
    responses((status = 200, description = "All services in `rows`.", body = serde_json::Value)))]
pub(crate) async fn list(shared: State) -> Json<Page<Value>> {
    let rows = shared.api.runtime.services().iter().map(view).collect();
    Json(Page { rows, next: None })
}

/// Show a service.
#[utoipa::path(get, path = "/v1/services/{service}", operation_id = "show_service", tag = "services",
    params(("service" = String, Path, description = "The service.")),
    responses(
        (status = 200, description = "Its operations with their schemas, functions and version.", body = serde_json::Value),
        (status = 404, description = "There is no such service.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn show(shared: State, Path(service): Path<String>) -> Answer<Json<Value>> {
    let version = shared.api.runtime.service(&service);
    version.map(|version| Json(view(&version))).ok_or_else(|| {
        let detail = format!("there is no service `{service}`");
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-service",
            "there is no such service",
            detail,
        )
    })
}

/// Push a bundle as a new version.
#[utoipa::path(put, path = "/v1/services/{service}", operation_id = "push_bundle", tag = "services",
    params(("service" = String, Path, description = "The service, as named in the bundle's service.toml.")),
    request_body(content_type = "application/gzip", description = "The bundle as tar.gz, at most 64 MiB packed."),
    responses(
        (status = 200, description = "This content was the current version already.", body = serde_json::Value),
        (status = 201, description = "New runs follow this version.", body = serde_json::Value),
        (status = "4XX", description = "Refused; nothing was stored.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn push(
    shared: State,
    Path(service): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    check_type(&headers)?;
    let too_large = |detail: String| {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "bundle-too-large",
            "the bundle is too large",
            detail,
        )
    };
    let too_long = || {
        too_large(format!(
            "the packed bundle has more than {PACKED_BYTES_MAX} bytes"
        ))
    };
    let packed = whole(&shared.api.clock, body, PACKED_BYTES_MAX, PUSH_PATIENCE, too_long).await?;
    let unpacked =
        tokio::task::spawn_blocking(move || unpack(packed.as_slice(), &UnpackLimits::default())).await;
    let unpacked = unpacked.map_err(|error| Problem::failure(celesta_types::ErrorKind::Internal, &error))?;
    let files = unpacked.map_err(|error| {
        let detail = error.to_string();
        match error {
            error if error.is_too_large() => too_large(detail),
            UnpackError::Path { .. } | UnpackError::NotAFile { .. } => Problem::new(
                StatusCode::BAD_REQUEST,
                "bundle-path-escapes",
                "the bundle holds what it may not",
                detail,
            ),
            _ => Problem::new(
                StatusCode::BAD_REQUEST,
                "bundle-unreadable",
                "the body is not a bundle",
                detail,
            ),
        }
    })?;
    let pushed = shared.api.runtime.push(&service, files).await.map_err(refused)?;
    let status = if pushed.changed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(view(&pushed.version))).into_response())
}

/// A bundle is a tar archive, packed or plain; what nobody named may be one.
fn check_type(headers: &HeaderMap) -> Answer<()> {
    let Some(given) = text(headers, "content-type")? else {
        return Ok(());
    };
    let media_type = given
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if PACKED_TYPES.contains(&media_type.as_str()) {
        return Ok(());
    }
    let detail = format!("the body is `{media_type}`; send a tar.gz with `Content-Type: application/gzip`");
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "wrong-content-type",
        "the body is not a bundle",
        detail,
    ))
}

fn refused(error: PushError) -> Problem {
    let invalid = |detail: String| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "bundle-invalid",
            "the bundle has mistakes",
            detail,
        )
    };
    match error {
        PushError::Invalid(errors) => invalid(errors.to_string()).with("errors", json!(errors.0)),
        PushError::OtherService { .. } => invalid(error.to_string()),
        PushError::Unavailable { .. } => Problem::failure(error.kind(), &error),
    }
}

fn view(version: &Arc<Version>) -> Value {
    let bundle = &version.bundle;
    let operations: Vec<Value> = bundle
        .operations
        .values()
        .map(|operation| {
            json!({
                "name": operation.name,
                "description": operation.description,
                "workflow": operation.workflow,
                "fact": operation.fact,
                "input": operation.input.as_ref().map(|schema| schema.json()),
                "output": operation.output.as_ref().map(|schema| schema.json()),
                "priority": operation.priority,
            })
        })
        .collect();
    let workflows: Vec<Value> = bundle
        .workflows
        .iter()
        .map(|(name, rules)| json!({ "name": name, "rules": rules.rules().iter().map(|rule| rule.name()).collect::<Vec<_>>() }))
        .collect();
    json!({
        "name": bundle.name,
        "description": bundle.description,
        "version": version.digest,
        "pushed_at": version.pushed_at,
        "operations": operations,
        "workflows": workflows,
        "functions": bundle.functions.keys().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "warnings": bundle.warnings,
    })
}
