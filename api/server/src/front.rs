//! Where requests meet partitions: the one place that knows that a run may be somewhere else.
//!
//! Each partition that is here has routes of its own over its own runtime, so handlers know nothing of partitions. What a
//! request is about is read off its path: a run's id names its partition, a client's key the partition where the key is
//! kept, and a new request without a key goes to any partition, best to one that is here. A partition that is elsewhere is
//! asked there; one that has no owner at this moment is waited for.

mod events;
mod shared;
mod unite;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use celesta_runs::{Member, Partitions, lead};
use celesta_types::{ErrorKind, OperationId, Partition, RunId};
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::Deserialize;
use tower_service::Service as _;

pub(crate) use self::unite::given_id;
use self::unite::{GIVEN_ID, step_of, united};
use crate::body::{PATIENCE, whole};
use crate::forward::{Broken, FORWARDED, Forwarder, NOT_OWNER, UNFINISHED};
use crate::problem::{Answer, Problem};
use crate::publish::BATCH_BODY_MAX;
use crate::server::Shared;
use crate::{shared_facts, submit};

/// Bytes of a body that is kept until the answer is there, so that it can be sent again: above what any route about runs
/// takes.
const BODY_KEPT_MAX: usize = 80 * 1024;
/// How long a request waits for its partition to have an owner: a lease, two looks, and the time to open it.
const OWNER_PATIENCE: Duration = Duration::from_secs(20);
/// The same for a request that was sent on: whoever sent it looks again.
const SENT_PATIENCE: Duration = Duration::from_millis(500);
/// How long open requests go on once this node stops: within the time the server gives them.
const LAST_PATIENCE: Duration = Duration::from_secs(4);
/// Between two tries while nothing is heard.
const PAUSE: Duration = Duration::from_millis(50);
/// A wait that ends so much before its time was cut short.
const SHORT: Duration = Duration::from_millis(100);

/// All routes of this node.
#[derive(Debug)]
pub(crate) struct Front {
    home: Router,
    shared: Arc<Shared>,
    partitions: Partitions,
    /// The routes of each partition that is here, made when first needed.
    routes: Mutex<BTreeMap<u32, (i64, Router)>>,
    forwarder: Forwarder,
    turn: AtomicU32,
    make: fn(Arc<Shared>) -> Router,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// No partition: services, queues, artifacts, lists.
    Home,
    /// This one.
    Partition(u32),
    /// Whichever is nearest.
    Any,
    /// Something of every partition: each is asked, or told.
    Each,
    /// Events, each of which has a partition where its name is kept.
    Events,
    /// A write of shared facts, which go to their lead.
    SharedWrite,
}

/// The body of a run, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Standing {
    state: String,
}

impl Front {
    pub(crate) fn new(
        shared: Arc<Shared>,
        partitions: Partitions,
        make: fn(Arc<Shared>) -> Router,
    ) -> Arc<Self> {
        Arc::new(Self {
            home: make(Arc::clone(&shared)),
            shared,
            partitions,
            routes: Mutex::default(),
            forwarder: Forwarder::new(),
            turn: AtomicU32::new(0),
            make,
        })
    }

    /// The whole of it as routes.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        Router::new().fallback(serve).with_state(self)
    }

    fn about(&self, parts: &Parts) -> About {
        about(
            &parts.method,
            parts.uri.path(),
            &parts.headers,
            self.partitions.count(),
        )
    }

    /// A partition for a request that fits into any: one that is here, in turn.
    fn any(&self) -> u32 {
        let members = self.partitions.members();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let len = u32::try_from(members.len()).unwrap_or(0);
        match turn.checked_rem(len) {
            Some(at) => members[usize::try_from(at).unwrap_or(0)].partition.index,
            None => turn % self.partitions.count(),
        }
    }

    fn routes_of(&self, member: &Arc<Member>) -> Router {
        let mut routes = self.routes.lock();
        let partition = member.partition.index;
        match routes.get(&partition) {
            Some((epoch, router)) if *epoch == member.epoch => router.clone(),
            _ => {
                let router = (self.make)(Arc::new(self.shared.of(member)));
                routes.insert(partition, (member.epoch, router.clone()));
                router
            }
        }
    }

    /// Answers a request about `partition`, wherever that is.
    async fn at(&self, partition: u32, parts: &Parts, body: &Bytes) -> Response {
        let sent = parts.headers.contains_key(FORWARDED);
        let clock = &self.shared.api.clock;
        let patience = if sent { SENT_PATIENCE } else { OWNER_PATIENCE };
        let mut deadline = clock.monotonic() + patience;
        let mut stopping = false;
        let mut changes = self.partitions.changes();
        loop {
            changes.borrow_and_update();
            let mut wait = PAUSE;
            let here = self.partitions.here(partition);
            if here.is_none() {
                self.routes.lock().remove(&partition);
            }
            if let Some(member) = here {
                let response = call(self.routes_of(&member), request(parts, body)).await;
                let closed = member.tasks.shutdown().is_requested();
                if !closed {
                    return response;
                }
                // Refused while the partition was given up: nothing of it was done.
                if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                    return unfinished(response);
                }
            } else if !sent && let Some(address) = self.partitions.elsewhere(partition) {
                match self
                    .forwarder
                    .send(&address, partition, request(parts, body))
                    .await
                {
                    Ok(response) if response.headers().contains_key(NOT_OWNER) => {}
                    Ok(response) => return response,
                    Err(Broken::NotSent(reason)) => {
                        tracing::debug!(partition, address, reason, "the owner is away");
                    }
                    Err(Broken::Unknown(reason)) if repeatable(parts) => {
                        tracing::debug!(partition, address, reason, "the owner has gone; asked again");
                    }
                    Err(Broken::Unknown(reason)) => {
                        let reason = format!(
                            "the node that owns the run broke off ({reason}); whether the request counts can be seen there"
                        );
                        return Problem::failure(ErrorKind::Unavailable, &reason).into_response();
                    }
                }
            } else {
                // Changes are told; this only bounds what was missed.
                wait = PATIENCE;
            }
            if self.shared.shutdown.is_requested() && !stopping {
                stopping = true;
                deadline = deadline.min(clock.monotonic() + LAST_PATIENCE);
            }
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return away(partition, sent);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = clock.sleep(wait.min(left)) => {}
                () = self.shared.shutdown.requested(), if !stopping => {}
            }
        }
    }

    /// Asks or tells every partition, wherever it is, and makes one answer of theirs: not at one instant, and not all or
    /// nothing. A failure of one is the answer; what the others have done stands, and the same request may be repeated.
    async fn each(&self, parts: &Parts, body: &Bytes) -> Response {
        let mut parts = parts.clone();
        if !parts.method.is_safe() {
            // What it begins has one id, in whatever partitions.
            self.give_id(&mut parts);
        }
        let response = self.united(&parts, body).await;
        let Some(thing) = step_of(parts.uri.path()).filter(|_| response.status().is_success()) else {
            return response;
        };
        // Parts that had ended before are of it, too.
        let shown = read_only(&parts, thing);
        self.united(&shown, &Bytes::new()).await
    }

    fn give_id(&self, parts: &mut Parts) {
        let id = OperationId::new(self.shared.api.clock.now(), self.shared.random.next_u128());
        let id = HeaderValue::from_str(&format!("{:032x}", id.bits()));
        parts.headers.extend(id.ok().map(|id| (GIVEN_ID, id)));
    }

    async fn united(&self, parts: &Parts, body: &Bytes) -> Response {
        let asked = (0..self.partitions.count()).map(|partition| self.at(partition, parts, body));
        united(&parts.uri, join_all(asked).await).await
    }

    /// Goes on with a wait that was cut short because the partition changed hands.
    async fn rewait(&self, parts: &Parts, response: Response, begun: Duration) -> Response {
        let Ok(Some(wait)) = submit::wait(&parts.headers) else {
            return response;
        };
        let Some(run) = run_of(parts, &response) else {
            return response;
        };
        let clock = &self.shared.api.clock;
        let (mut head, mut body) = response.into_parts();
        loop {
            let left = wait.saturating_sub(clock.monotonic().saturating_sub(begun));
            if left < SHORT {
                return Response::from_parts(head, body);
            }
            let partition = Partition::of_run(run, self.partitions.count());
            let asking = ask_again(parts, run, left);
            let nothing = Bytes::new();
            let last = async {
                self.shared.shutdown.requested().await;
                clock.sleep(LAST_PATIENCE).await;
            };
            let answer = tokio::select! {
                answer = self.at(partition.index, &asking, &nothing) => answer,
                // This node ends; that the run was taken in is an answer, too.
                () = last => return Response::from_parts(head, body),
            };
            if answer.status() != StatusCode::OK {
                // What was known before is still true.
                return Response::from_parts(head, body);
            }
            let cut = answer.headers().contains_key(UNFINISHED);
            body = answer.into_body();
            head.headers.remove(header::CONTENT_LENGTH);
            if !cut {
                let bytes = axum::body::to_bytes(body, ANSWER_MAX).await.unwrap_or_default();
                if ended(&bytes) {
                    head.status = StatusCode::OK;
                }
                return Response::from_parts(head, Body::from(bytes));
            }
        }
    }
}

/// Bytes of a run's view: its result and input are bounded far below.
const ANSWER_MAX: usize = 1 << 20;

async fn serve(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let partition = match front.about(&parts) {
        About::Home => return call(front.home.clone(), Request::from_parts(parts, body)).await,
        About::Partition(partition) => partition,
        About::Any => front.any(),
        About::SharedWrite => {
            return match front.shared_write(parts, body).await {
                Ok(response) => response,
                Err(problem) => problem.into_response(),
            };
        }
        About::Events => {
            return match front.events(&parts, body).await {
                Ok(response) => response,
                Err(problem) => problem.into_response(),
            };
        }
        About::Each => {
            return match keep(&front, &parts, body).await {
                Ok(body) => front.each(&parts, &body).await,
                Err(problem) => problem.into_response(),
            };
        }
    };
    let begun = front.shared.api.clock.monotonic();
    let body = match keep(&front, &parts, body).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let response = front.at(partition, &parts, &body).await;
    // A request that was sent on is asked again by whoever sent it.
    if parts.headers.contains_key(FORWARDED) || !response.headers().contains_key(UNFINISHED) {
        return response;
    }
    let mut response = front.rewait(&parts, response, begun).await;
    response.headers_mut().remove(UNFINISHED);
    response
}

async fn keep(front: &Front, parts: &Parts, body: Body) -> Answer<Bytes> {
    let max = if is_events(parts) {
        BATCH_BODY_MAX
    } else if parts.uri.path().starts_with("/v1/services/") && parts.uri.path().ends_with("/facts") {
        shared_facts::BODY_BYTES_MAX
    } else {
        BODY_KEPT_MAX
    };
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the body is too large",
            format!("the body has more than {max} bytes; put large values into artifacts"),
        )
    };
    let bytes = whole(&front.shared.api.clock, body, max, PATIENCE, too_large).await?;
    Ok(bytes.into())
}

async fn call(mut router: Router, request: Request<Body>) -> Response {
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => {
            let never: Infallible = never;
            match never {}
        }
    }
}

fn request(parts: &Parts, body: &Bytes) -> Request<Body> {
    let mut request = Request::new(Body::from(body.clone()));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    request
}

/// What a request is about, from what stands before its body.
fn about(method: &Method, path: &str, headers: &HeaderMap, count: u32) -> About {
    let mut segments = path.trim_start_matches('/').split('/');
    let first = (segments.next(), segments.next());
    let said = headers
        .get(FORWARDED)
        .and_then(|said| said.to_str().ok()?.parse().ok())
        .filter(|said| *said < count);
    let (Some("v1"), Some(what)) = first else {
        return About::Home;
    };
    match (what, segments.next(), segments.next(), segments.next()) {
        ("runs", Some(run), ..) => run.parse::<RunId>().map_or(About::Home, |run| {
            About::Partition(Partition::of_run(run, count).index)
        }),
        ("services", Some(service), Some(operation), None)
            if method == Method::POST && !OF_SERVICES.contains(&operation) =>
        {
            let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
            match (key, said) {
                (Some(key), _) => About::Partition(Partition::of_key(service, key, count).index),
                (None, Some(said)) => About::Partition(said),
                (None, None) => About::Any,
            }
        }
        ("services", Some(_), Some("facts"), None) if method == Method::POST => {
            said.map_or(About::SharedWrite, About::Partition)
        }
        ("services", Some(service), Some("facts"), _) => About::Partition(lead(service, count).index),
        ("events", None, ..) => said.map_or(About::Events, About::Partition),
        ("runs" | "nodes" | "queues" | "artifacts" | "releases", ..) | ("services", _, None, _) => {
            About::Home
        }
        // Whatever else there is belongs to a service as a whole.
        _ => said.map_or(About::Each, About::Partition),
    }
}

/// What stands where an operation's name stands, and is none.
const OF_SERVICES: [&str; 1] = ["facts"];

/// Whether a request that may have been taken in can be sent again.
fn repeatable(parts: &Parts) -> bool {
    parts.method.is_safe()
        || (parts.headers.contains_key("idempotency-key") && is_done_once(parts.uri.path()))
        // Orders and steps are the same twice, and what has a given id is begun or written once.
        || parts.headers.contains_key(GIVEN_ID)
        || is_events(parts)
}

/// Whether what has come to this path under a key counts once: nothing else looks at the key.
fn is_done_once(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    matches!(
        segments[..],
        ["v1", "services", _, _] | ["v1", "runs", _, "facts" | "clone"]
    )
}

/// Events are known by their names: they may come again.
fn is_events(parts: &Parts) -> bool {
    parts.uri.path() == "/v1/events"
}

/// Nobody owns the partition, or not in time.
fn away(partition: u32, sent: bool) -> Response {
    let reason = format!("partition {partition} has no owner at this moment; ask again");
    let mut response = Problem::failure(ErrorKind::Unavailable, &reason).into_response();
    if sent {
        response
            .headers_mut()
            .insert(NOT_OWNER, HeaderValue::from_static("1"));
    }
    response
}

/// An answer given while the partition was closing: a wait in it may have been cut short.
fn unfinished(mut response: Response) -> Response {
    if response.status().is_success() {
        response
            .headers_mut()
            .insert(UNFINISHED, HeaderValue::from_static("1"));
    }
    response
}

fn ended(body: &[u8]) -> bool {
    let standing: Option<Standing> = serde_json::from_slice(body).ok();
    standing.is_some_and(|standing| {
        matches!(
            standing.state.as_str(),
            "completed" | "failed" | "canceled" | "quarantined"
        )
    })
}

/// The run whose end a request waits for: the one it has begun, or the one it asks for. Other waits are for something else.
fn run_of(parts: &Parts, response: &Response) -> Option<RunId> {
    let path = parts.uri.path();
    let run = if path.starts_with("/v1/services/") {
        let location = response.headers().get(header::LOCATION)?;
        location.to_str().ok()?
    } else {
        path
    };
    run.strip_prefix("/v1/runs/")?.parse().ok()
}

/// The question how a run stands, to be answered when it has ended or the time is over.
fn ask_again(parts: &Parts, run: RunId, left: Duration) -> Parts {
    let mut asking = read_only(parts, &format!("/v1/runs/{run}"));
    let seconds = left.as_secs().max(1);
    if let Ok(wait) = HeaderValue::from_str(&format!("wait={seconds}")) {
        asking.headers.insert("prefer", wait);
    }
    asking
}

/// A question about `path` by whoever has asked before.
fn read_only(parts: &Parts, path: &str) -> Parts {
    let mut request = Request::new(());
    *request.uri_mut() = path.parse().unwrap_or_default();
    if let Some(token) = parts.headers.get(header::AUTHORIZATION) {
        request.headers_mut().insert(header::AUTHORIZATION, token.clone());
    }
    request.into_parts().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_a_key_say_what_a_request_is_about() {
        let of = |method: Method, path: &str, headers: &[(&'static str, &str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| {
                    (
                        header::HeaderName::from_static(name),
                        HeaderValue::from_str(value).expect("text"),
                    )
                })
                .collect();
            about(&method, path, &headers, 8)
        };
        let run = Partition { index: 5, count: 8 }.place(RunId::from_bits(77));
        for path in [format!("/v1/runs/{run}"), format!("/v1/runs/{run}/facts")] {
            assert_eq!(of(Method::GET, &path, &[]), About::Partition(5));
            assert_eq!(
                of(Method::POST, &path, &[("celesta-partition", "1")]),
                About::Partition(5)
            );
        }
        for path in [
            "/v1/runs",
            "/v1/runs/nonsense",
            "/v1/services",
            "/v1/services/s",
            "/v1/releases/s",
            "/metrics",
            "/",
        ] {
            assert_eq!(of(Method::GET, path, &[]), About::Home, "{path}");
        }
        let submit = "/v1/services/shop/order";
        assert_eq!(of(Method::POST, submit, &[]), About::Any);
        assert_eq!(
            of(Method::POST, submit, &[("celesta-partition", "3")]),
            About::Partition(3)
        );
        let kept = About::Partition(Partition::of_key("shop", "k", 8).index);
        let keyed = [("idempotency-key", "k"), ("celesta-partition", "3")];
        assert_eq!(of(Method::POST, submit, &keyed), kept, "a key has one place");
        assert_eq!(of(Method::PUT, "/v1/services/shop", &[]), About::Home);
        // Done once: each partition would take one more version back.
        for step in ["rollback", "promote"] {
            let path = format!("/v1/releases/shop/{step}");
            assert_eq!(of(Method::POST, &path, &[]), About::Home, "{path}");
        }
        assert_eq!(of(Method::POST, "/v1/events", &[]), About::Events);
        let sent = [("celesta-partition", "3")];
        assert_eq!(of(Method::POST, "/v1/events", &sent), About::Partition(3));
        let lead = About::Partition(lead("shop", 8).index);
        let facts = "/v1/services/shop/facts";
        assert_eq!(of(Method::POST, facts, &[]), About::SharedWrite);
        assert_eq!(
            of(Method::POST, facts, &[("celesta-partition", "3")]),
            About::Partition(3)
        );
        assert_eq!(of(Method::GET, facts, &[]), lead);
        assert_eq!(of(Method::GET, "/v1/services/shop/facts/3", &[]), lead);
        for (method, path) in [(Method::GET, "/v1/sweeps/7"), (Method::POST, "/v1/something-new")] {
            assert_eq!(of(method.clone(), path, &[]), About::Each, "{path}");
            assert_eq!(
                of(method, path, &[("celesta-partition", "3")]),
                About::Partition(3)
            );
        }
    }
}
