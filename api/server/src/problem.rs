//! Problems per RFC 9457: every refusal has a stable code, and every code has a page.

use std::sync::Arc;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use celesta_types::ErrorKind;
use serde_json::{Map, Value};

macro_rules! codes {
    ($($code:literal),+ $(,)?) => {
        /// Every code with its page.
        pub const CODES: &[(&str, &str)] = &[$(($code, include_str!(concat!("../../../docs/errors/", $code, ".md")))),+];
    };
}

codes!(
    "bad-json",
    "bad-request",
    "batch-out-of-range",
    "body-incomplete",
    "body-too-large",
    "bundle-invalid",
    "bundle-path-escapes",
    "bundle-too-large",
    "bundle-unreadable",
    "cannot-go-on",
    "cannot-move",
    "digest-mismatch",
    "fact-conflict",
    "facts-would-break",
    "idempotency-conflict",
    "illegal-message-state",
    "illegal-state",
    "internal",
    "invalid-bulk-operation",
    "invalid-event",
    "invalid-header",
    "invalid-input",
    "invalid-message",
    "invalid-parameter",
    "invalid-queue-name",
    "invalid-settings",
    "invalid-writes",
    "lease-out-of-range",
    "message-in-flight",
    "missing-key",
    "never-fired",
    "no-earlier-release",
    "no-such-artifact",
    "no-such-attempt",
    "no-such-bulk-operation",
    "no-such-database",
    "no-such-fact",
    "no-such-message",
    "no-such-method",
    "no-such-operation",
    "no-such-partition",
    "no-such-path",
    "no-such-queue",
    "no-such-rule",
    "no-such-run",
    "no-such-service",
    "no-such-sweep",
    "no-such-workflow",
    "overloaded",
    "payload-too-large",
    "queue-blocked",
    "queue-full",
    "queue-in-use",
    "queue-reserved",
    "range-not-satisfiable",
    "request-in-flight",
    "request-timeout",
    "stale-lease",
    "too-many-facts",
    "too-many-queues",
    "too-many-sweeps",
    "too-many-waiting",
    "unauthorized",
    "unavailable",
    "unusable-event",
    "wrong-content-type",
    "wrong-host",
    "wrong-queue-kind",
);

/// A refusal. Boxed: handlers return it beside small results.
#[derive(Debug)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    more: Map<String, Value>,
    content_range: Option<HeaderValue>,
}

/// What handlers answer.
pub(crate) type Answer<T = Response> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        debug_assert!(
            CODES.iter().any(|(known, _)| *known == code),
            "the code {code} has no page"
        );
        Self(Box::new(Parts {
            status,
            code,
            title,
            detail: detail.into(),
            more: Map::new(),
            content_range: None,
        }))
    }

    /// With one more member.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.0.more.insert(name.to_owned(), value);
        self
    }

    /// All members, as they stand in an answer.
    pub(crate) fn members(&self) -> Map<String, Value> {
        let parts = &self.0;
        let mut members = Map::new();
        members.insert("type".to_owned(), format!("/errors/{}", parts.code).into());
        members.insert("title".to_owned(), parts.title.into());
        members.insert("status".to_owned(), parts.status.as_u16().into());
        members.insert("detail".to_owned(), parts.detail.clone().into());
        members.insert("code".to_owned(), parts.code.into());
        members.extend(parts.more.clone());
        members
    }

    /// With `this` in the detail written as `that`.
    pub(crate) fn saying(mut self, this: &str, that: &str) -> Self {
        self.0.detail = self.0.detail.replace(this, that);
        self
    }

    /// With the header that says how long the content is, when a range lies outside of it.
    pub(crate) fn with_content_range(mut self, size: u64) -> Self {
        self.0.content_range = HeaderValue::from_str(&format!("bytes */{size}")).ok();
        self
    }

    pub(crate) fn invalid_parameter(detail: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-parameter",
            "a parameter is wrong",
            detail.to_string(),
        )
    }

    pub(crate) fn invalid_header(detail: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-header",
            "a header is wrong",
            detail.to_string(),
        )
    }

    pub(crate) fn no_such_run(run: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no-such-run",
            "there is no such run",
            format!("there is no run {run}"),
        )
    }

    /// A failure of the platform: retried when it may pass, without inner text when it is our fault.
    pub(crate) fn failure(kind: ErrorKind, error: &dyn std::fmt::Display) -> Self {
        if kind == ErrorKind::Unavailable {
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "not now",
                error.to_string(),
            );
        }
        tracing::error!(%error, "a request failed");
        Self::internal()
    }

    fn internal() -> Self {
        let detail = "the server's log says more";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "a fault of the platform",
            detail,
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let members = self.members();
        let Parts {
            status,
            content_range,
            ..
        } = *self.0;
        let mut response = (status, Json(&members)).into_response();
        response.extensions_mut().insert(Members(Arc::new(members)));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(range) = content_range {
            headers.insert(header::CONTENT_RANGE, range);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The members of the problem a response holds, for whoever adds to it.
#[derive(Debug, Clone)]
struct Members(Arc<Map<String, Value>>);

fn is_problem(response: &Response) -> bool {
    let media_type = response.headers().get(header::CONTENT_TYPE);
    media_type.is_some_and(|media_type| media_type == "application/problem+json")
}

/// A problem with the path it happened at; a refusal of the framework's own becomes a problem first.
pub(crate) fn complete(response: Response, path: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let response = match response.extensions().get::<Members>() {
        Some(_) => response,
        // Another node said it.
        None if is_problem(&response) => return response,
        None if status.is_server_error() => Problem::internal().into_response(),
        None => {
            let detail = status
                .canonical_reason()
                .unwrap_or("the request is not understood");
            Problem::new(status, "bad-request", "the request is not understood", detail).into_response()
        }
    };
    let Some(Members(members)) = response.extensions().get().cloned() else {
        return response;
    };
    let mut members = Arc::unwrap_or_clone(members);
    members.insert("instance".to_owned(), path.into());
    let (mut parts, _) = response.into_parts();
    let body = Json(members).into_response().into_body();
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body)
}

/// `GET /errors/{code}`: the page of a code.
pub(crate) async fn page(Path(code): Path<String>) -> Answer {
    let page = CODES
        .iter()
        .find(|(known, _)| *known == code)
        .map(|(_, page)| *page);
    let page = page.ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-path",
            "there is nothing here",
            format!("there is no problem `{code}`"),
        )
    })?;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], page).into_response())
}

pub(crate) async fn no_such_path(uri: Uri) -> Problem {
    let detail = format!(
        "there is nothing at {}; /openapi.json lists all paths",
        uri.path()
    );
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-path",
        "there is nothing here",
        detail,
    )
}

pub(crate) async fn no_such_method(method: axum::http::Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}", uri.path());
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "no-such-method",
        "the path does not take this method",
        detail,
    )
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is tower-http's")]
pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    tracing::error!(panic = %text, "a handler panicked");
    Problem::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_that_says_what_happened_and_what_to_do() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        let mut pages: Vec<String> = std::fs::read_dir(folder)
            .expect("the folder is there")
            .filter_map(|entry| {
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_suffix(".md")
                    .map(str::to_owned)
            })
            .collect();
        pages.sort();
        let codes: Vec<&str> = CODES.iter().map(|(code, _)| *code).collect();
        assert_eq!(pages, codes, "pages and codes are the same");
        for (code, page) in CODES {
            assert!(page.starts_with(&format!("# {code}\n")), "{code}");
            assert!(
                page.contains("## What happened") && page.contains("## What to do"),
                "{code}"
            );
        }
    }
}
