//! What stands before every handler: room, the right host, the right token.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use celesta_runtime::metrics::{IntCounterVec, counters};
use tokio::sync::SemaphorePermit;

use crate::problem::{self, Answer, Problem};
use crate::server::Shared;

/// Paths that answer without a token: probes carry none.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "celesta_http_requests_total",
        "Requests answered.",
        &["method", "status"],
    )
});

pub(crate) async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = match check(&shared, &request) {
        Err(problem) => problem.into_response(),
        Ok(_room) => next.run(request).await,
    };
    let response = problem::complete(response, uri.path());
    REQUESTS
        .with_label_values(&[known_method(&method), response.status().as_str()])
        .inc();
    response
}

/// Everything that is asked before a handler; gives the room the request takes, none for probes.
fn check<'s>(shared: &'s Shared, request: &Request) -> Answer<Option<SemaphorePermit<'s>>> {
    if OPEN.contains(&request.uri().path()) {
        return Ok(None);
    }
    check_token(shared, request)?;
    check_host(shared, request)?;
    shared
        .room
        .try_acquire()
        .map(Some)
        .map_err(|_| overloaded("as many requests are open as this server takes; try again"))
}

/// There is no room.
pub(crate) fn overloaded(detail: &str) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "too many requests at once",
        detail,
    )
}

/// A method's name; anybody may invent methods, and metrics must not grow with them.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

fn check_token(shared: &Shared, request: &Request) -> Answer<()> {
    let Some(token) = &shared.token else { return Ok(()) };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' '));
    let given = given
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
        .map_or("", |(_, token)| token);
    if same(given.as_bytes(), token.as_bytes()) {
        return Ok(());
    }
    let detail = "send the server's token as `Authorization: Bearer …`";
    Err(Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "a token is needed",
        detail,
    ))
}

/// Takes the same time wherever the difference is.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let different = given
        .iter()
        .zip(expected)
        .fold(0, |different, (a, b)| different | (a ^ b));
    given.len() == expected.len() && different == 0
}

/// Without a token, only pages of this machine may speak to it: a browser led here under another name is refused.
fn check_host(shared: &Shared, request: &Request) -> Answer<()> {
    if shared.token.is_some() || !shared.loopback {
        return Ok(());
    }
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    let host = host
        .or_else(|| request.uri().authority().map(Authority::as_str))
        .unwrap_or_default();
    // Browsers name the page that sends a request; programs send no origin.
    let origin = request
        .headers()
        .get(header::ORIGIN)
        .map(|origin| origin.to_str().unwrap_or_default());
    let origin = origin.map(|origin| origin.split_once("://").map_or("", |(_, host)| host));
    for name in std::iter::once(host).chain(origin) {
        if !is_loopback(name) {
            let name: String = name.chars().take(100).collect();
            let detail = format!("this server answers on loopback names only, not as or for `{name}`");
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "wrong-host",
                "not the host this server is",
                detail,
            ));
        }
    }
    Ok(())
}

/// Whether `host`, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for own in [
            "localhost",
            "LOCALHOST:7070",
            "127.0.0.1",
            "127.0.0.1:7070",
            "[::1]",
            "[::1]:7070",
        ] {
            assert!(is_loopback(own), "{own}");
        }
        for other in [
            "",
            "example.org",
            "127.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "[2001:db8::1]:80",
            "null",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn tokens_are_equal_or_not() {
        assert!(same(b"secret", b"secret"));
        assert!(
            !same(b"secre", b"secret")
                && !same(b"secret!", b"secret")
                && !same(b"Secret", b"secret")
                && !same(b"", b"secret")
        );
    }
}
