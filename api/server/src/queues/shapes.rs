//! What requests about queues say: their JSON, read strictly.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use celesta_queue::machine::State as Life;
use celesta_queue::{Filter, LeaseRef, QueueName, Token};
use celesta_types::{Class, Priority, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::envelope;
use super::refuse;
use crate::body::PATIENCE;
use crate::problem::{Answer, Problem};
use crate::server::State;
use crate::submit::json_body_of;

/// Bytes of a request about messages: 250 of the largest, or thousands of usual ones.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Messages, leases or ids of one request; the queue's own bound.
pub(crate) const BATCH_MAX: usize = celesta_queue::limits::BATCH_MAX;

/// Messages to be enqueued.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enqueue {
    /// At least one, at most 10,000.
    pub(crate) messages: Vec<Message>,
}

/// A message to be enqueued. It has one of `payload` and `payload_base64`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    /// The producer's id: sending it again is the same as sending it once. Made here unless given.
    pub(crate) id: Option<String>,
    /// The exclusivity key; an exclusive queue wants one.
    pub(crate) key: Option<String>,
    /// Any JSON of at most 32 KiB.
    #[schema(value_type = Option<serde_json::Value>)]
    #[serde(default, deserialize_with = "given")]
    pub(crate) payload: Option<Box<RawValue>>,
    /// Bytes in base 64, at most 32 KiB of them.
    pub(crate) payload_base64: Option<String>,
    /// A class, a class with `:number`, or class, number and deadline.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) priority: Option<Prioritized>,
    /// Not delivered before: RFC 3339 or milliseconds since the epoch.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) visible_at: Option<Instant>,
    /// Not delivered before so many milliseconds have passed; instead of `visible_at`.
    pub(crate) delay_ms: Option<i64>,
    /// How long it may wait before it expires.
    pub(crate) ttl_ms: Option<i64>,
    /// How often it is tried.
    pub(crate) attempts_max: Option<i64>,
    /// Whose share of the queue it takes.
    pub(crate) fairness: Option<String>,
    /// Up to eight pairs to find it by.
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// A class, a class with a number, or everything.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Prioritized {
    Text(String),
    Full {
        #[serde(default)]
        class: Class,
        #[serde(default)]
        number: i16,
        #[serde(default)]
        deadline: Option<Instant>,
    },
}

/// RFC 3339 or milliseconds since the epoch.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Instant {
    Millis(i64),
    Text(String),
}

impl Instant {
    pub(crate) fn timestamp(&self) -> Result<Timestamp, String> {
        match self {
            Self::Millis(millis) => Ok(Timestamp::from_millis(*millis)),
            Self::Text(text) => text
                .parse::<jiff::Timestamp>()
                .map(|instant| Timestamp::from_millis(instant.as_millisecond()))
                .map_err(|error| format!("`{text}` is not an instant: {error}")),
        }
    }
}

impl Prioritized {
    pub(crate) fn priority(&self) -> Result<Priority, String> {
        match self {
            Self::Text(text) => {
                let (class, number) = text.split_once(':').unwrap_or((text, "0"));
                let class = class.parse::<Class>().map_err(|error| error.to_string())?;
                let number = number
                    .parse()
                    .map_err(|_| format!("`{number}` is not a number between -32768 and 32767"))?;
                Ok(Priority {
                    class,
                    number,
                    deadline: None,
                })
            }
            Self::Full {
                class,
                number,
                deadline,
            } => Ok(Priority {
                class: *class,
                number: *number,
                deadline: deadline.as_ref().map(Instant::timestamp).transpose()?,
            }),
        }
    }
}

/// Asks for messages.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lease {
    /// At most so many messages, 1 unless given; of an exclusive queue each of another key.
    pub(crate) max: Option<i64>,
    /// Instead of `max`: at most so many keys of an exclusive queue, each with its pending messages.
    pub(crate) max_keys: Option<i64>,
    /// At most so many messages of each key, 100 unless given.
    pub(crate) max_messages_per_key: Option<i64>,
    /// How long to hold them, 10 ms to 7 days; the queue's own unless given.
    pub(crate) lease_ms: Option<i64>,
    /// How long to wait when there is none, at most 60,000; not at all unless given.
    pub(crate) wait_ms: Option<i64>,
    /// Only messages with all of these pairs.
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, String>,
    /// Who asks; shown to people.
    pub(crate) consumer: Option<String>,
}

/// Leases to be completed or released.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settle {
    /// At least one, at most 10,000.
    pub(crate) leases: Vec<Held>,
}

/// Leases to be extended.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Extend {
    /// At least one, at most 10,000.
    pub(crate) leases: Vec<Held>,
    /// How long they hold from now on, 10 ms to 7 days.
    pub(crate) lease_ms: i64,
}

/// One lease: what the answer to `lease` said of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    /// The message.
    pub(crate) id: String,
    /// The token of the lease.
    pub(crate) token: String,
}

/// Leases whose work has failed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fail {
    /// At least one, at most 10,000.
    pub(crate) leases: Vec<FailedLease>,
}

/// One lease whose work has failed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailedLease {
    /// The message.
    pub(crate) id: String,
    /// The token of the lease.
    pub(crate) token: String,
    /// Whether another try may succeed; it may unless said otherwise.
    #[serde(default = "yes")]
    pub(crate) retryable: bool,
    /// How long to wait before the next try.
    #[serde(default)]
    pub(crate) delay_ms: i64,
    /// What went wrong, for people.
    #[serde(default)]
    pub(crate) error: String,
}

/// A value that was given: `null` is one, too.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

const fn yes() -> bool {
    true
}

/// Which messages: these, or those that match.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    /// These.
    pub(crate) ids: Option<Vec<String>>,
    /// All that match.
    pub(crate) filter: Option<Matching>,
    /// At most so many of those that match, 1,000 unless given; ask again for more.
    pub(crate) max: Option<i64>,
}

/// What messages match.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matching {
    /// In one of these states; in any when empty.
    #[serde(default)]
    pub(crate) states: Vec<String>,
    /// With all of these pairs.
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Matching {
    pub(crate) fn filter(self) -> Answer<Filter> {
        let states = self
            .states
            .iter()
            .map(|state| life(state))
            .collect::<Answer<_>>()?;
        Ok(Filter {
            states,
            metadata: self.metadata.into_iter().collect(),
        })
    }
}

/// Messages to be moved within the order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reprioritize {
    /// At least one, at most 10,000.
    pub(crate) changes: Vec<Change>,
}

/// One message and its new priority.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// The message.
    pub(crate) id: String,
    /// A class, a class with `:number`, or class, number and deadline.
    #[schema(value_type = serde_json::Value)]
    pub(crate) priority: Prioritized,
}

/// The state of that name.
pub(crate) fn life(name: &str) -> Answer<Life> {
    let state = Life::ALL.into_iter().find(|state| state.name() == name);
    state.ok_or_else(|| {
        let known: Vec<_> = Life::ALL.iter().map(|state| state.name()).collect();
        Problem::invalid_parameter(format!(
            "`{name}` is not a state of a message; expected one of {}",
            known.join(", ")
        ))
    })
}

/// Reads a body of that shape.
pub(crate) async fn read<T: DeserializeOwned>(shared: &State, headers: &HeaderMap, body: Body) -> Answer<T> {
    let bytes = json_body_of(shared, headers, body, BODY_BYTES_MAX, PATIENCE).await?;
    serde_json::from_slice(&bytes).map_err(|error| shape(&error))
}

/// The body is JSON of another shape.
pub(crate) fn shape(error: &serde_json::Error) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid-input",
        "the input does not fit the schema",
        error.to_string(),
    )
}

/// One to as many as a call may have.
pub(crate) fn batch(what: &str, given: usize) -> Answer<()> {
    if (1..=BATCH_MAX).contains(&given) {
        Ok(())
    } else {
        Err(refuse::batch_out_of_range(format!(
            "{given} {what} in one call; expected 1 to {BATCH_MAX}"
        )))
    }
}

/// A count within 1 and `max`.
pub(crate) fn count(what: &str, given: Option<i64>, otherwise: usize, max: usize) -> Answer<usize> {
    let Some(given) = given else { return Ok(otherwise) };
    usize::try_from(given)
        .ok()
        .filter(|count| (1..=max).contains(count))
        .ok_or_else(|| refuse::batch_out_of_range(format!("{what} is {given}; expected 1 to {max}")))
}

/// The lease that a request names. A token of another shape is of no lease.
pub(crate) fn lease_ref(queue: &QueueName, id: &str, token: &str) -> LeaseRef {
    LeaseRef {
        queue: queue.clone(),
        id: envelope::id_of(id),
        token: Token::from_bits(token.parse().unwrap_or(0)),
    }
}

/// Who asks.
pub(crate) fn consumer(given: Option<&str>) -> Arc<str> {
    let name = given.filter(|name| !name.is_empty()).unwrap_or("http");
    name.chars()
        .take(envelope::TEXT_BYTES_MAX)
        .collect::<String>()
        .into()
}
