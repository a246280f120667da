//! `/v1/services`: what is pushed and what stands.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use celesta_bundle::{UnpackError, UnpackLimits, unpack};
use celesta_runs::{Page, PushError, ReleaseError, Share, Version};
use serde_json::{Value, json};

use crate::body::whole;
use crate::problem::{Answer, Problem};
use crate::runs::query;
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
    params(("service" = String, Path, description = "The service, as named in the bundle's service.toml."), PushQuery),
    request_body(content_type = "application/gzip", description = "The bundle as tar.gz, at most 64 MiB packed."),
    responses(
        (status = 200, description = "This content was the current version already.", body = serde_json::Value),
        (status = 201, description = "New runs follow this version.", body = serde_json::Value),
        (status = "4XX", description = "Refused; nothing was stored.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn push(
    shared: State,
    Path(service): Path<String>,
    given: Result<Query<PushQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let wanted = query(given)?;
    let share = share(&wanted)?;
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
    let runtime = &shared.api.runtime;
    if wanted.preview {
        let workflows = runtime.preview(&service, files).await.map_err(refused)?;
        return Ok(Json(json!({ "workflows": workflows })).into_response());
    }
    let pushed = runtime.push_for(&service, files, share).await.map_err(refused)?;
    let status = if pushed.changed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(view(&pushed.version))).into_response())
}

/// How a bundle is pushed.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PushQuery {
    /// Keep nothing: say what would become of the runs there are.
    #[serde(default)]
    preview: bool,
    /// Only so many of a hundred new runs follow this version, 1 to 99.
    canary_percent: Option<u8>,
    /// Only new runs with this label follow it: `name=value`.
    canary_label: Option<String>,
}

fn share(query: &PushQuery) -> Answer<Option<Share>> {
    let wrong = |detail: &str| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "invalid-parameter",
            "a parameter is wrong",
            detail.to_owned(),
        )
    };
    match (query.canary_percent, &query.canary_label) {
        (None, None) => Ok(None),
        (Some(percent @ 1..=99), None) => Ok(Some(Share::Percent(percent))),
        (None, Some(label)) => match label.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Some(Share::Label(name.into(), value.into()))),
            _ => Err(wrong("`canary_label` is `name=value`")),
        },
        (Some(_), None) => Err(wrong("`canary_percent` is a number from 1 to 99")),
        (Some(_), Some(_)) => Err(wrong("a canary has a percentage or a label, not both")),
    }
}

/// List the releases of a service.
#[utoipa::path(get, path = "/v1/releases/{service}", operation_id = "list_releases", tag = "services",
    params(("service" = String, Path, description = "The service.")),
    responses(
        (status = 200, description = "The versions that were current in `rows`, the newest first, and the canary.", body = serde_json::Value),
        (status = 404, description = "There is no such service.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn releases(shared: State, Path(service): Path<String>) -> Answer<Json<Value>> {
    let (rows, canary) = shared.api.runtime.releases(&service).await.map_err(unreleased)?;
    if rows.is_empty() && shared.api.runtime.service(&service).is_none() {
        return Err(unreleased(ReleaseError::NotFound { service }));
    }
    let canary = canary.map(|canary| json!({ "version": canary.version.digest, "share": canary.share }));
    Ok(Json(json!({ "rows": rows, "canary": canary })))
}

/// Take the current version back, or the canary.
#[utoipa::path(post, path = "/v1/releases/{service}/rollback", operation_id = "roll_back", tag = "services",
    params(("service" = String, Path, description = "The service.")),
    responses(
        (status = 200, description = "New runs follow `to`; runs of `from` whose policy is not `pinned` go back with their next turn.", body = serde_json::Value),
        (status = 409, description = "There is nothing before.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn roll_back(shared: State, Path(service): Path<String>) -> Answer<Json<Value>> {
    let taken = shared.api.runtime.roll_back(&service).await.map_err(unreleased)?;
    Ok(Json(json!(taken)))
}

/// Make the canary the current version.
#[utoipa::path(post, path = "/v1/releases/{service}/promote", operation_id = "promote", tag = "services",
    params(("service" = String, Path, description = "The service.")),
    responses(
        (status = 200, description = "All new runs follow it.", body = serde_json::Value),
        (status = 409, description = "There is no canary.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn promote(shared: State, Path(service): Path<String>) -> Answer<Json<Value>> {
    let version = shared.api.runtime.promote(&service).await.map_err(unreleased)?;
    Ok(Json(view(&version)))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn unreleased(error: ReleaseError) -> Problem {
    let detail = error.to_string();
    match error {
        ReleaseError::NotFound { .. } => Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-service",
            "there is no such service",
            detail,
        ),
        ReleaseError::NoneBefore { .. } | ReleaseError::NoCanary { .. } => Problem::new(
            StatusCode::CONFLICT,
            "no-earlier-release",
            "there is no other version",
            detail,
        ),
        ReleaseError::Unavailable { .. } => Problem::failure(error.kind(), &error),
    }
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
        PushError::Breaks { ref broken } => Problem::new(
            StatusCode::CONFLICT,
            "facts-would-break",
            "stored facts would not fit",
            error.to_string(),
        )
        .with("breaks", json!(broken)),
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
