//! Requests sent on to the node that owns what they are about.
//!
//! Bodies stream both ways, connections are kept. What a client said goes along unchanged, its token too; one header says
//! that the request has been sent on already, so that it is never sent on twice.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONNECTION, HOST, HeaderName, TRANSFER_ENCODING};
use axum::http::uri::{Parts as UriParts, PathAndQuery, Scheme, Uri};
use axum::http::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Names the partition a request is for, on its way between nodes.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("celesta-partition");
/// The answer of a node that does not own the partition (any more): nothing was done.
pub(crate) const NOT_OWNER: HeaderName = HeaderName::from_static("celesta-not-owner");
/// The answer of a node that gave the partition up while a client waited: the wait goes on elsewhere.
pub(crate) const UNFINISHED: HeaderName = HeaderName::from_static("celesta-unfinished");

/// A node answers a connection at once or is gone.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Idle connections to one node: a few hundred requests at once find one.
const IDLE_MAX: usize = 256;
/// Shorter than the silence after which servers close a connection.
const IDLE: Duration = Duration::from_secs(60);

/// Sends requests on.
#[derive(Clone)]
pub(crate) struct Forwarder {
    client: Client<HttpConnector, Body>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The request has not left: it may be sent again.
    NotSent(String),
    /// It may have been taken in.
    Unknown(String),
}

impl Forwarder {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_PATIENCE));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Self { client }
    }

    /// Sends `request` to `address` (`http://host:port`) for `partition`.
    pub(crate) async fn send(
        &self,
        address: &str,
        partition: u32,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Broken> {
        let uri = target(address, request.uri().path_and_query());
        *request.uri_mut() = uri.ok_or_else(|| Broken::NotSent(format!("{address} is no address")))?;
        *request.version_mut() = axum::http::Version::HTTP_11;
        let headers = request.headers_mut();
        // These are between two neighbors; the client sets its own.
        for own in [HOST, CONNECTION, TRANSFER_ENCODING] {
            headers.remove(own);
        }
        headers.insert(FORWARDED, partition.into());
        match self.client.request(request).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) if error.is_connect() => Err(Broken::NotSent(error.to_string())),
            Err(error) => Err(Broken::Unknown(error.to_string())),
        }
    }
}

fn target(address: &str, path: Option<&PathAndQuery>) -> Option<Uri> {
    let mut parts = UriParts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(
        address
            .strip_prefix("http://")?
            .trim_end_matches('/')
            .parse()
            .ok()?,
    );
    parts.path_and_query = Some(path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).ok()
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_and_the_query_go_along() {
        let path = PathAndQuery::from_static("/v1/runs/run_1/facts?limit=3");
        let uri = target("http://127.0.0.1:7071/", Some(&path)).expect("an address");
        assert_eq!(
            uri.to_string(),
            "http://127.0.0.1:7071/v1/runs/run_1/facts?limit=3"
        );
        assert!(target("https://127.0.0.1:7071", Some(&path)).is_none());
    }
}
