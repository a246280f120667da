//! `POST /v1/events`: `CloudEvents` 1.0 in each of the modes of their HTTP binding.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use base64::Engine as _;
use celesta_runs::{CloudEvent, EVENTS_MAX, PublishError, Published};
use celesta_runtime::Clock;
use serde_json::{Map, Value, json};

use crate::body::{PATIENCE, whole};
use crate::problem::{Answer, Problem};
use crate::server::State;
use crate::submit::text;

/// Bytes of one event's body, and of a batch.
const EVENT_BODY_MAX: usize = 64 * 1024;
pub(crate) const BATCH_BODY_MAX: usize = 8 << 20;
const STRUCTURED: &str = "application/cloudevents+json";
pub(crate) const BATCH: &str = "application/cloudevents-batch+json";

/// Publish events: each starts runs and becomes facts of runs, as services subscribe to it.
#[utoipa::path(post, path = "/v1/events", operation_id = "publish_events", tag = "events",
    request_body(content = serde_json::Value, description = "A CloudEvent 1.0: structured (`application/cloudevents+json`), a batch (`application/cloudevents-batch+json`, at most 1,000), or binary (attributes in `ce-…` headers, the body is the data)."),
    responses(
        (status = 200, description = "The event came before, and counted then.", body = serde_json::Value),
        (status = 202, description = "All that the events bring about is durable.", body = serde_json::Value),
        (status = 400, description = "That is no event.", body = crate::openapi::ProblemBody),
        (status = 422, description = "No subscriber can use the event; nothing is kept of it.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn publish(shared: State, headers: HeaderMap, body: Body) -> Answer {
    let (events, batch) = events_of(&shared.api.clock, &headers, body).await?;
    let published = shared
        .api
        .runtime
        .publish(&events)
        .await
        .map_err(|error| match error {
            PublishError::TooMany { .. } => invalid(&error.to_string()),
            PublishError::Unavailable { .. } => Problem::failure(error.kind(), &error),
        })?;
    told(published, batch)
}

/// The events of a request, and whether they are a batch.
pub(crate) async fn events_of(
    clock: &Clock,
    headers: &HeaderMap,
    body: Body,
) -> Answer<(Vec<CloudEvent>, bool)> {
    let content_type = text(headers, "content-type")?.unwrap_or_default().to_owned();
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let batch = media_type == BATCH;
    let max = if batch { BATCH_BODY_MAX } else { EVENT_BODY_MAX };
    let too_large = || {
        let detail = format!("the body has more than {max} bytes; put large values into artifacts");
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the body is too large",
            detail,
        )
    };
    let bytes = whole(clock, body, max, PATIENCE, too_large).await?;
    let values = if batch {
        read::<Vec<Value>>(&bytes)?
    } else if media_type == STRUCTURED {
        vec![read(&bytes)?]
    } else {
        vec![binary(headers, &media_type, &bytes)?]
    };
    if values.len() > EVENTS_MAX {
        let detail = format!("there are {} events; expected at most {EVENTS_MAX}", values.len());
        return Err(invalid(&detail));
    }
    let events = values.into_iter().enumerate().map(|(at, value)| {
        CloudEvent::read(value)
            .map_err(|why| invalid(&if batch { format!("event {at}: {why}") } else { why }))
    });
    Ok((events.collect::<Answer<Vec<CloudEvent>>>()?, batch))
}

/// What is answered when the events were taken.
pub(crate) fn told(mut published: Vec<Published>, batch: bool) -> Answer {
    if !published.is_empty() && published.iter().all(Published::is_refused) {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unusable-event",
            "no subscriber can use the event",
            "services subscribe to it, and none of them can use it; `events` says why",
        )
        .with("events", json!(published)));
    }
    let status = if published.iter().all(|one| one.duplicate) {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    if batch {
        return Ok((status, Json(json!({ "events": published }))).into_response());
    }
    Ok((status, Json(published.pop())).into_response())
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-json",
            "the body is not JSON",
            error.to_string(),
        )
    })
}

fn invalid(detail: &str) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "invalid-event",
        "that is no CloudEvent 1.0",
        detail,
    )
}

/// An event whose attributes are headers and whose data is the body, in its structured form.
fn binary(headers: &HeaderMap, media_type: &str, body: &[u8]) -> Answer<Value> {
    let mut event = Map::new();
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else {
            continue;
        };
        let text = value
            .to_str()
            .map_err(|_| Problem::invalid_header(format!("the header {name} is not text")))?;
        event.insert(attribute.to_owned(), percent_decoded(text).into());
    }
    if event.is_empty() {
        let detail = format!(
            "the body is `{media_type}` and there are no `ce-…` headers; send `{STRUCTURED}`, `{BATCH}`, or binary mode"
        );
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "wrong-content-type",
            "the body is no CloudEvent",
            detail,
        ));
    }
    if !media_type.is_empty() {
        event.insert("datacontenttype".to_owned(), media_type.into());
    }
    if !body.is_empty() {
        let is_json =
            media_type.is_empty() || media_type == "application/json" || media_type.ends_with("+json");
        if is_json {
            event.insert("data".to_owned(), read(body)?);
        } else if let Ok(text) = std::str::from_utf8(body) {
            event.insert("data".to_owned(), text.into());
        } else {
            let data = base64::engine::general_purpose::STANDARD.encode(body);
            event.insert("data_base64".to_owned(), data.into());
        }
    }
    Ok(Value::Object(event))
}

/// Attributes travel in headers with what is not printable ASCII as `%XX`.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_and_nonsense_is_left() {
        assert_eq!(percent_decoded("Euro%20%E2%82%AC"), "Euro €");
        assert_eq!(percent_decoded("100% %zz %4"), "100% %zz %4");
    }
}
