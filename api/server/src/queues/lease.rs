//! `POST /v1/queues/{queue}/lease`: messages on their way to a consumer, waited for when there are none.
//!
//! A consumer that goes away must not keep what it never received. While it waits, the dropped request leases nothing.
//! Once messages are leased, a [`Delivery`] watches over them: unless the whole answer has been taken by the connection
//! it gives them back, and no attempt is burned. What is lost beyond that, in the network, comes back when the lease
//! lapses.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use celesta_queue::{LeaseKeys, LeaseRef, LeaseRequest, Leased, QueueName};
use celesta_runtime::Fate;
use celesta_types::{Priority, Timestamp};
use futures_util::stream;
use serde::Serialize;

use super::envelope::{self, Shown};
use super::shapes::{self, Lease};
use super::{open_to_all, refuse};
use crate::problem::{Answer, Problem};
use crate::server::{Shared, State};

/// The longest a consumer waits in one request: proxies cut longer silences.
const WAIT_MS_MAX: i64 = 60_000;
/// Messages of one answer: at 32 KiB each some 45 MiB, written as base 64.
const LEASED_MAX: usize = 1_000;
/// Messages of each key unless the consumer says otherwise.
const PER_KEY: usize = 100;

/// Lease messages, and wait for them when there are none.
#[utoipa::path(post, path = "/v1/queues/{queue}/lease", operation_id = "lease_messages", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body = Lease,
    responses(
        (status = 200, description = "`messages`, or `keys` with the messages of each. Empty when there was nothing in time.", body = serde_json::Value),
        (status = 404, description = "There is no such queue.", body = crate::openapi::ProblemBody),
        (status = "4XX", description = "Refused; nothing was leased.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn lease(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let queue = open_to_all(&queue)?;
    let request: Lease = shapes::read(&shared, &headers, body).await?;
    let wait = wait(request.wait_ms)?;
    if request.max_keys.is_none() && request.max_messages_per_key.is_none() {
        messages(&shared, queue, request, wait).await
    } else {
        keys(&shared, queue, request, wait).await
    }
}

fn wait(given: Option<i64>) -> Answer<Duration> {
    let given = given.unwrap_or(0);
    let wait = u64::try_from(given).ok().filter(|_| given <= WAIT_MS_MAX);
    wait.map(Duration::from_millis)
        .ok_or_else(|| Problem::invalid_parameter(format!("wait_ms is {given}; expected 0 to {WAIT_MS_MAX}")))
}

async fn messages(shared: &State, queue: QueueName, request: Lease, wait: Duration) -> Answer {
    let request = LeaseRequest {
        queue,
        max: shapes::count("max", request.max, 1, LEASED_MAX)?,
        lease_ms: request.lease_ms,
        wait,
        metadata: request.metadata.into_iter().collect(),
        consumer: shapes::consumer(request.consumer.as_deref()),
    };
    let leased = shared.api.queues.lease(&request).await;
    let leased = leased.map_err(|error| refuse::lease(&error))?;
    let delivery = Delivery::of(shared, leased.iter());
    delivery.answer(&Messages {
        messages: leased.iter().map(LeasedBody::of).collect(),
    })
}

async fn keys(shared: &State, queue: QueueName, request: Lease, wait: Duration) -> Answer {
    if request.max.is_some() {
        return Err(Problem::invalid_parameter("give `max` or `max_keys`, not both"));
    }
    let max_keys = shapes::count("max_keys", request.max_keys, 1, LEASED_MAX)?;
    let per_key = request.max_messages_per_key;
    let per_key = shapes::count(
        "max_messages_per_key",
        per_key,
        PER_KEY.min(LEASED_MAX / max_keys),
        LEASED_MAX,
    )?;
    if max_keys.saturating_mul(per_key) > LEASED_MAX {
        return Err(refuse::batch_out_of_range(format!(
            "{max_keys} keys of {per_key} messages; at most {LEASED_MAX} messages are leased in one call"
        )));
    }
    let request = LeaseKeys {
        queue,
        max_keys,
        max_messages_per_key: per_key,
        lease_ms: request.lease_ms,
        wait,
        metadata: request.metadata.into_iter().collect(),
        consumer: shapes::consumer(request.consumer.as_deref()),
    };
    let leased = shared.api.queues.lease_keys(&request).await;
    let leased = leased.map_err(|error| refuse::lease(&error))?;
    let delivery = Delivery::of(shared, leased.iter().flat_map(|key| &key.messages));
    let keys = leased.iter().map(|key| {
        let messages: Vec<_> = key.messages.iter().map(LeasedBody::of).collect();
        let name = messages.first().and_then(|message| message.key.clone());
        KeyBody {
            key: name.unwrap_or_default(),
            messages,
        }
    });
    delivery.answer(&Keys { keys: keys.collect() })
}

#[derive(Debug, Serialize)]
struct Messages {
    messages: Vec<LeasedBody>,
}

#[derive(Debug, Serialize)]
struct Keys {
    keys: Vec<KeyBody>,
}

#[derive(Debug, Serialize)]
struct KeyBody {
    key: String,
    messages: Vec<LeasedBody>,
}

/// A message in the hands of a consumer.
#[derive(Debug, Serialize)]
struct LeasedBody {
    id: String,
    /// Proves the lease. A text: it has more bits than a number of JSON may be trusted with.
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(flatten)]
    content: Shown,
    attempt: u32,
    attempts_max: u32,
    priority: Priority,
    enqueued_at: Timestamp,
    leased_until: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

impl LeasedBody {
    fn of(leased: &Leased) -> Self {
        let opened = envelope::open(&leased.payload);
        Self {
            id: opened.id_text(leased.id),
            token: leased.token.bits().to_string(),
            key: leased.key.map(|key| opened.key_text(key)),
            content: opened.shown(),
            attempt: leased.attempt,
            attempts_max: leased.attempts_max,
            priority: leased.priority,
            enqueued_at: leased.enqueued_at,
            leased_until: leased.leased_until,
            metadata: leased
                .metadata
                .iter()
                .flat_map(|pairs| pairs.iter().cloned())
                .collect(),
        }
    }
}

/// Leases until the connection has taken the answer that tells of them. Dropped before, it gives them back.
#[derive(Debug)]
struct Delivery {
    shared: Arc<Shared>,
    leases: Vec<LeaseRef>,
}

impl Delivery {
    fn of<'a>(shared: &State, leased: impl Iterator<Item = &'a Leased>) -> Self {
        Self {
            shared: Arc::clone(shared),
            leases: leased.map(Leased::lease).collect(),
        }
    }

    fn answer(self, body: &impl Serialize) -> Answer {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| Problem::failure(celesta_types::ErrorKind::Internal, &error))?;
        let body = if self.leases.is_empty() {
            Body::from(bytes)
        } else {
            Body::from_stream(stream::unfold(Step::Answer(bytes.into(), self), next))
        };
        let mut response = Response::new(body);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok(response)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let leases = std::mem::take(&mut self.leases);
        if leases.is_empty() {
            return;
        }
        let queues = self.shared.api.queues.clone();
        self.shared
            .tasks
            .spawn("server.give_back", Fate::Expendable, async move {
                match queues.release(&leases).await {
                    Ok(released) => {
                        let back = released.iter().filter(|outcome| outcome.is_ok()).count();
                        tracing::debug!(back, "a consumer went away before it had its messages");
                    }
                    // They come back when their leases lapse.
                    Err(error) => {
                        tracing::warn!(%error, "messages of a consumer that went away were not given back");
                    }
                }
            });
    }
}

/// How far an answer is.
enum Step {
    Answer(Bytes, Delivery),
    Flushed(Delivery),
}

/// The answer, and its end once it has gone out: a connection that broke while it was written drops the body before
/// that.
async fn next(step: Step) -> Option<(Result<Bytes, Infallible>, Step)> {
    match step {
        Step::Answer(bytes, delivery) => Some((Ok(bytes), Step::Flushed(delivery))),
        Step::Flushed(mut delivery) => {
            // The connection flushes and looks for the client's end whenever the body has nothing ready.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            delivery.leases.clear();
            None
        }
    }
}
