//! `POST /v1/services/{service}/{operation}`: a request becomes a run.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use celesta_runs::{Submit, SubmitError};
use celesta_types::{Class, Priority, Timestamp};
use serde_json::json;

use crate::body::{PATIENCE, whole};
use crate::problem::{Answer, Problem};
use crate::server::State;

/// Bytes of a request's body: inline JSON is small, everything else is an artifact.
pub(crate) const BODY_BYTES_MAX: usize = 32 * 1024;
/// Bytes of an idempotency key.
const KEY_BYTES_MAX: usize = 255;
/// The longest a client may wait in one request.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Labels of one run, and bytes of a label's key or value.
const LABELS_MAX: usize = 16;
const LABEL_BYTES_MAX: usize = 256;

/// Start a run.
#[utoipa::path(post, path = "/v1/services/{service}/{operation}", operation_id = "submit_request", tag = "services",
    params(
        ("service" = String, Path, description = "The service."),
        ("operation" = String, Path, description = "Its operation."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body name the same run."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when the run has ended, or after N seconds (at most 60)."),
        ("Celesta-Priority" = Option<String>, Header, description = "`critical`, `high`, `standard`, `low` or `background`, with `:number` for the place within the class."),
        ("Celesta-Deadline" = Option<String>, Header, description = "An RFC 3339 instant by which the work should be done."),
        ("Celesta-Label" = Option<String>, Header, description = "`key=value`; may be given several times."),
        ("Celesta-Reuse" = Option<String>, Header, description = "`no`: pure functions are run even when results are recorded."),
        ("traceparent" = Option<String>, Header, description = "W3C trace context."),
    ),
    request_body(content = serde_json::Value, description = "What the operation's input schema says, at most 32 KiB."),
    responses(
        (status = 200, description = "The run has ended, or the key named an existing run.", body = crate::openapi::Run),
        (status = 202, description = "Accepted and durable; `Location` is the run.", body = crate::openapi::Run),
        (status = "4XX", description = "Refused; nothing was stored.", body = crate::openapi::ProblemBody),
    ))]
pub(crate) async fn submit(
    shared: State,
    Path((service, operation)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let wait = wait(&headers)?;
    let input = json_body(&shared, &headers, body).await?;
    let request = Submit {
        idempotency_key: idempotency_key(&headers)?,
        priority: priority(&headers)?,
        labels: labels(&headers)?,
        trace: text(&headers, "traceparent")?.map(str::to_owned),
        fresh: fresh(&headers)?,
        service,
        operation,
        input,
    };
    let (service, operation) = (request.service.clone(), request.operation.clone());
    let submitted = shared.api.runtime.submit(request, wait).await.map_err(refused)?;
    let ended = submitted.view.as_ref().is_some_and(|view| view.state.is_ended());
    let status = if ended || submitted.existing {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let location = format!("/v1/runs/{}", submitted.run);
    let view = match submitted.view {
        // The run may have ended long ago: the client wants to know.
        None if submitted.existing => {
            let view = shared.api.runtime.run(submitted.run).await;
            view.map_err(|error| Problem::failure(error.kind(), &error))?
        }
        view => view,
    };
    let mut response = match view {
        Some(view) => (status, Json(view)).into_response(),
        None => {
            let body = json!({ "id": submitted.run, "service": service, "operation": operation, "state": "running" });
            (status, Json(body)).into_response()
        }
    };
    set(&mut response, header::LOCATION, &location);
    if let Some(wait) = wait {
        set(
            &mut response,
            HeaderName::from_static("preference-applied"),
            &format!("wait={}", wait.as_secs()),
        );
    }
    Ok(response)
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// The body when it is JSON and not too large.
pub(crate) async fn json_body(shared: &State, headers: &HeaderMap, body: Body) -> Answer<Vec<u8>> {
    json_body_of(shared, headers, body, BODY_BYTES_MAX, PATIENCE).await
}

/// The body when it is JSON and has at most `max` bytes.
pub(crate) async fn json_body_of(
    shared: &State,
    headers: &HeaderMap,
    body: Body,
    max: usize,
    patience: Duration,
) -> Answer<Vec<u8>> {
    let content_type = text(headers, "content-type")?.unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let detail = format!("the body is `{media_type}`; send `Content-Type: application/json`");
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "wrong-content-type",
            "the body is not JSON",
            detail,
        ));
    }
    let too_large = || {
        let detail = format!("the body has more than {max} bytes; put large values into artifacts");
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the body is too large",
            detail,
        )
    };
    let bytes = whole(&shared.api.clock, body, max, patience, too_large).await?;
    serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-json",
            "the body is not JSON",
            error.to_string(),
        )
        .with("line", error.line().into())
        .with("column", error.column().into())
    })?;
    Ok(bytes)
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Answer<Option<&'a str>> {
    let value = headers.get(name).map(HeaderValue::to_str).transpose();
    value.map_err(|_| Problem::invalid_header(format!("the header {name} is not text")))
}

pub(crate) fn wait(headers: &HeaderMap) -> Answer<Option<Duration>> {
    for value in headers.get_all("prefer") {
        let value = value.to_str().unwrap_or_default();
        for preference in value.split(',').map(str::trim) {
            let Some(seconds) = preference.strip_prefix("wait=") else {
                continue;
            };
            let seconds = seconds.trim_matches('"').parse().map_err(|_| {
                Problem::invalid_header(format!(
                    "`Prefer: {preference}` is not understood; write `wait=` and a number of seconds"
                ))
            })?;
            return Ok(Some(Duration::from_secs(seconds).min(WAIT_MAX)));
        }
    }
    Ok(None)
}

pub(crate) fn idempotency_key(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(key) = text(headers, "idempotency-key")? else {
        return Ok(None);
    };
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Problem::invalid_header(format!(
            "an idempotency key has 1 to {KEY_BYTES_MAX} characters, this one {}",
            key.len()
        )));
    }
    Ok(Some(key.to_owned()))
}

pub(crate) fn priority(headers: &HeaderMap) -> Answer<Option<Priority>> {
    let class = text(headers, "celesta-priority")?;
    let deadline = text(headers, "celesta-deadline")?;
    if class.is_none() && deadline.is_none() {
        return Ok(None);
    }
    let mut priority = Priority::default();
    if let Some(text) = class {
        let (class, number) = text
            .split_once(':')
            .map_or((text, None), |(class, number)| (class, Some(number)));
        priority.class = class.parse::<Class>().map_err(Problem::invalid_header)?;
        if let Some(number) = number {
            let wrong =
                || Problem::invalid_header(format!("`{number}` is not a number between -32768 and 32767"));
            priority.number = number.parse().map_err(|_| wrong())?;
        }
    }
    if let Some(deadline) = deadline {
        let instant: jiff::Timestamp = deadline.parse().map_err(|error| {
            Problem::invalid_header(format!("`{deadline}` is not an RFC 3339 instant: {error}"))
        })?;
        priority.deadline = Some(Timestamp::from_millis(instant.as_millisecond()));
    }
    Ok(Some(priority))
}

/// Whether recorded results are not to be used.
fn fresh(headers: &HeaderMap) -> Answer<bool> {
    match text(headers, "celesta-reuse")? {
        None | Some("yes") => Ok(false),
        Some("no") => Ok(true),
        Some(other) => Err(Problem::invalid_header(format!(
            "`Celesta-Reuse: {other}` is not understood; write `no`, or nothing"
        ))),
    }
}

fn labels(headers: &HeaderMap) -> Answer<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for value in headers.get_all("celesta-label") {
        let text = value
            .to_str()
            .map_err(|_| Problem::invalid_header("the header Celesta-Label is not text"))?;
        let (key, value) = label(text).map_err(Problem::invalid_header)?;
        labels.insert(key, value);
    }
    if labels.len() > LABELS_MAX {
        return Err(Problem::invalid_header(format!(
            "a run has at most {LABELS_MAX} labels, these are {}",
            labels.len()
        )));
    }
    Ok(labels)
}

/// `key=value`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not a label; write `key=value`"))?;
    if key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX || key.contains('"') {
        return Err(format!(
            "a label's key and value have at most {LABEL_BYTES_MAX} characters, and the key at least one and no quote"
        ));
    }
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn refused(error: SubmitError) -> Problem {
    let detail = error.to_string();
    let not_found = |code, title| Problem::new(StatusCode::NOT_FOUND, code, title, detail.clone());
    match error {
        SubmitError::UnknownService { known, .. } => {
            not_found("no-such-service", "there is no such service").with("known", json!(known))
        }
        SubmitError::UnknownOperation { known, .. } => {
            not_found("no-such-operation", "the service has no such operation").with("known", json!(known))
        }
        SubmitError::InvalidInput { violations } => {
            let errors: Vec<_> = violations
                .iter()
                .map(|violation| json!({ "pointer": violation.pointer, "message": violation.message }))
                .collect();
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-input",
                "the input does not fit the schema",
                detail,
            )
            .with("errors", json!(errors))
        }
        SubmitError::IdempotencyConflict { run } => Problem::new(
            StatusCode::CONFLICT,
            "idempotency-conflict",
            "the key was used with another body",
            detail,
        )
        .with("run", json!(run)),
        SubmitError::InFlight => Problem::new(
            StatusCode::CONFLICT,
            "request-in-flight",
            "the same key is being accepted",
            detail,
        ),
        SubmitError::TooLarge { .. } => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the body is too large",
            detail,
        ),
        SubmitError::TooManyWaiting { .. } => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-waiting",
            "too many runs wait already",
            detail,
        ),
        SubmitError::Unavailable { .. } => Problem::failure(error.kind(), &detail),
    }
}
