//! The one client of a server's HTTP API: connections, problems, retries, event streams.
//!
//! It retries only what may be repeated (reads, and requests with an idempotency key or a content digest) and only when
//! the connection failed; what the server answers is final. It knows paths and JSON, and prints nothing.

mod events;
mod problem;
mod views;

use std::time::Duration;

use celesta_runtime::Clock;
use reqwest::{Method, RequestBuilder, Response, Url, header};
use serde_json::Value;

pub(crate) use events::{Event, EventStream};
pub(crate) use problem::Problem;
pub(crate) use views::{AttemptView, CallView, FactView, RunView, ServiceView, TurnView, instant_text};

use crate::exit::{Exit, Failure};

/// How often a repeatable request is sent when the connection fails, and how long after each failure: together under
/// a second, so that a server that is not there is reported at once and one that restarts is not missed.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
];
/// Answers to `Prefer: wait` come within 60 seconds; everything else is quicker.
const ANSWER_PATIENCE: Duration = Duration::from_secs(90);
/// A server on the network is given this long to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// A client of one server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    clock: Clock,
    actor: Option<header::HeaderValue>,
}

/// Whether a request may be sent again when nobody knows if the first one arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It has the same effect however often it is sent.
    Safe,
    /// It would happen twice.
    Never,
}

impl Client {
    /// A client of the server at `base`.
    ///
    /// # Errors
    /// When `base` is not an HTTP URL or the token does not fit in a header.
    pub(crate) fn new(base: &str, token: Option<&str>) -> Result<Self, Failure> {
        let wrong = || {
            Failure::usage(format!("`{base}` is not the address of a server"))
                .hint("write it like http://127.0.0.1:7070 in --server or CELESTA_SERVER")
        };
        let parsed = Url::parse(base).map_err(|_| wrong())?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.cannot_be_a_base() {
            return Err(wrong());
        }
        let mut headers = header::HeaderMap::new();
        if let Some(token) = token {
            let mut value = header::HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Failure::usage("the token holds characters that fit in no header"))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("celesta/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_PATIENCE)
            .no_proxy()
            .build()
            .map_err(|error| Failure::internal(format!("cannot set up HTTP: {error}")))?;
        Ok(Self {
            http,
            base: parsed,
            clock: Clock::system(),
            actor: None,
        })
    }

    /// The same client, whose requests say who asks.
    ///
    /// # Errors
    /// When the name does not fit in a header.
    pub(crate) fn with_actor(mut self, actor: Option<&str>) -> Result<Self, Failure> {
        let value = actor.map(header::HeaderValue::from_str).transpose();
        self.actor = value
            .map_err(|_| Failure::usage("the name of the actor holds characters that fit in no header"))?;
        Ok(self)
    }

    /// The address of the server.
    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The clock this client waits with.
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The address of `path`, whose segments are given unescaped.
    pub(crate) fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// A request to be completed and given to [`Client::send`].
    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.actor {
            Some(actor) => request.header("Celesta-Actor", actor.clone()),
            None => request,
        }
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// When the server is away or answers with a problem.
    pub(crate) async fn get(&self, segments: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        let request = self
            .request(Method::GET, self.url(segments, query))
            .timeout(ANSWER_PATIENCE);
        json(self.send(request, Repeat::Safe).await?).await
    }

    /// Reads JSON into a view.
    ///
    /// # Errors
    /// As [`Client::get`], and when the answer has another shape.
    pub(crate) async fn view<T: serde::de::DeserializeOwned>(&self, segments: &[&str]) -> Result<T, Failure> {
        read(self.get(segments, &[]).await?)
    }

    /// Sends JSON and reads JSON.
    ///
    /// # Errors
    /// When the server is away or answers with a problem.
    pub(crate) async fn post(&self, segments: &[&str], body: &Value) -> Result<Value, Failure> {
        let request = self
            .request(Method::POST, self.url(segments, &[]))
            .timeout(ANSWER_PATIENCE)
            .json(body);
        json(self.send(request, Repeat::Never).await?).await
    }

    /// Sets something, or takes it back, with a JSON body when there is one.
    ///
    /// # Errors
    /// When the server is away or answers with a problem.
    pub(crate) async fn set(
        &self,
        method: Method,
        segments: &[&str],
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut request = self
            .request(method, self.url(segments, &[]))
            .timeout(ANSWER_PATIENCE);
        if let Some(body) = body {
            request = request.json(body);
        }
        json(self.send(request, Repeat::Safe).await?).await
    }

    /// Sends a request, again when that is safe and the connection failed.
    ///
    /// # Errors
    /// When the server is away or answers with a problem.
    pub(crate) async fn send(&self, request: RequestBuilder, repeat: Repeat) -> Result<Response, Failure> {
        let mut request = request;
        for pause in PAUSES {
            let again = if repeat == Repeat::Safe {
                request.try_clone()
            } else {
                None
            };
            match (request.send().await, again) {
                (Ok(response), _) => return checked(response).await,
                (Err(error), Some(next))
                    if error.is_connect() || error.is_request() && !error.is_timeout() =>
                {
                    self.clock.sleep(pause).await;
                    request = next;
                }
                (Err(error), _) => return Err(self.unreachable(&error)),
            }
        }
        match request.send().await {
            Ok(response) => checked(response).await,
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut reason: &dyn std::error::Error = error;
        while let Some(source) = reason.source() {
            reason = source;
        }
        Failure::new(
            Exit::Unreachable,
            format!("cannot reach {}: {reason}", self.base()),
        )
        .hint("start one with `celesta dev` or `celesta serve`, or name another with --server")
    }
}

/// The answer, or the problem it holds.
async fn checked(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return Ok(response);
    }
    let body = response.bytes().await.unwrap_or_default();
    let problem = Problem::read(status.as_u16(), &body);
    let mut failure = Failure::new(Exit::of_status(problem.status), problem.headline());
    if problem.status == 401 {
        failure = failure.hint("give the server's token with --token or CELESTA_TOKEN");
    }
    failure.problem = Some(Box::new(problem));
    Err(failure)
}

/// The JSON of an answer; null when it has no body.
///
/// # Errors
/// When the connection breaks or the body is no JSON.
pub(crate) async fn json(response: Response) -> Result<Value, Failure> {
    let body = response.bytes().await.map_err(|error| {
        Failure::new(
            Exit::Unreachable,
            format!("the server's answer broke off: {error}"),
        )
    })?;
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body)
        .map_err(|error| Failure::internal(format!("the server's answer is no JSON: {error}")))
}

/// A typed view of an answer.
///
/// # Errors
/// When the answer has another shape.
pub(crate) fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value)
        .map_err(|error| Failure::internal(format!("the server's answer has an unexpected shape: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_a_usage_error() {
        for wrong in ["", "localhost", "ftp://x", "mailto:a@b"] {
            let failure = Client::new(wrong, None).expect_err(wrong);
            assert_eq!(failure.exit, Exit::Usage);
        }
    }

    #[test]
    fn segments_and_queries_are_escaped() {
        let client = Client::new("http://h:1/prefix/", None).expect("a URL");
        let url = client.url(&["v1", "runs", "a/b c"], &[("rule", "split the source")]);
        assert_eq!(
            url.as_str(),
            "http://h:1/prefix/v1/runs/a%2Fb%20c?rule=split+the+source"
        );
    }
}
