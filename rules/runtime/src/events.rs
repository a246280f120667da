//! Events: `CloudEvents` from outside and from rules, routed to operations and runs by what services subscribe to.
//!
//! An event and everything it brings about (new runs, facts for runs) become durable in one unit with the event's name,
//! (source, id): it counts once as long as names are kept. What rules emit takes the same way: the turn sends it to a
//! queue of its own, and whoever takes it from there routes it in the unit that completes its message.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use celesta_bundle::{Correlation, Delivery, Mapping, Subscription};
use celesta_functions::INLINE_JSON_MAX;
use celesta_queue::{LeaseRequest, Leased, NewMessage, QueueName, Settings};
use celesta_store::{Cell, CommitError, QueryError, Unit};
use celesta_types::{CallId, ErrorKind, MessageId, Priority, RunId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::gate::Then;
use crate::head::RunHead;
use crate::live::Live;
use crate::message::HostMessage;
use crate::registry::Version;
use crate::runtime::{Inner, Runtime};
use crate::schema::{EVENT_INSERT, EVENTS_FORGET};
use crate::send::{Outgoing, REQUEST_DEPTH_MAX};
use crate::state::RunState;
use crate::submit::{begin, new_live};
use crate::turn::Done;

/// Events of one call: one commit.
pub const EVENTS_MAX: usize = 1_000;
/// Runs that one event may reach by a label: one commit.
const REACHED_MAX: usize = 1_000;
/// Bytes of an event's attribute, as the specification advises for sources and ids.
const ATTRIBUTE_BYTES_MAX: usize = 1_024;
/// Names of events are forgotten after so many new ones: next to no cost.
const FORGET_EVERY: usize = 256;
/// How often a batch is tried whose events somebody else sends at the same time.
const TRIES: usize = 4;
/// Emitted events that are taken at once.
const EMITTED_PER_LEASE: usize = 64;
/// How long the router waits in one call; only bounds how soon it notices a shutdown that no message announces.
const WAIT: Duration = Duration::from_secs(3_600);
/// The queue of what rules emit.
const EMITTED_QUEUE: &str = "celesta/events";
/// An event is routed until it can be: only a store that does not answer stands in its way.
const EMITTED_ATTEMPTS: u32 = 1_000_000;

/// A `CloudEvent` 1.0 in its JSON form.
#[derive(Debug, Clone)]
pub struct CloudEvent {
    id: String,
    source: String,
    event_type: String,
    value: Value,
}

impl CloudEvent {
    /// Takes an event over from its structured JSON form.
    ///
    /// # Errors
    /// When it is no event of version 1.0, or too large; the text says what is wrong.
    pub fn read(value: Value) -> Result<Self, String> {
        let Value::Object(members) = &value else {
            return Err("an event is a JSON object".to_owned());
        };
        let attribute = |name: &str| match members.get(name) {
            Some(Value::String(text)) if text.is_empty() => Err(format!("`{name}` is empty")),
            Some(Value::String(text)) if text.len() > ATTRIBUTE_BYTES_MAX => Err(format!(
                "`{name}` has {} bytes, more than {ATTRIBUTE_BYTES_MAX}",
                text.len()
            )),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("`{name}` is not a text")),
            None => Err(format!("`{name}` is missing")),
        };
        let version = attribute("specversion")?;
        if version != "1.0" {
            return Err(format!("`specversion` is `{version}`; expected `1.0`"));
        }
        let event = Self {
            id: attribute("id")?,
            source: attribute("source")?,
            event_type: attribute("type")?,
            value: Value::Null,
        };
        if members.contains_key("data") && members.contains_key("data_base64") {
            return Err("it has both `data` and `data_base64`".to_owned());
        }
        let bytes = value.to_string().len();
        if bytes > INLINE_JSON_MAX {
            return Err(format!(
                "it has {bytes} bytes, more than {INLINE_JSON_MAX}; store large values as artifacts"
            ));
        }
        Ok(Self { value, ..event })
    }

    /// Its id within its source.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its source.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Its id.
    pub id: String,
    /// Its source.
    pub source: String,
    /// Whether it came before and counted then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// What it brought about; empty when nobody subscribes to it.
    pub deliveries: Vec<DeliveryView>,
}

/// What an event brought about for one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryView {
    /// The service.
    pub service: String,
    /// Its subscription.
    pub subscription: String,
    /// The run that was started, or that is given a fact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Why nothing came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Published {
    /// Whether services subscribe to it, and none of them could use it: it is not kept, and may be sent again.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        !self.deliveries.is_empty() && self.deliveries.iter().all(|delivery| delivery.error.is_some())
    }
}

/// Why events were not taken. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There are too many in one call.
    #[error("there are {given} events; expected at most {EVENTS_MAX}")]
    TooMany {
        /// How many.
        given: usize,
    },
    /// Not now.
    #[error("the events cannot be stored: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl PublishError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::TooMany { .. } => ErrorKind::Invalid,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }

    fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: error.to_string(),
        }
    }
}

/// How long names of events are kept, and how many came since some were forgotten.
#[derive(Debug)]
pub(crate) struct Events {
    kept_ms: i64,
    since: AtomicUsize,
}

impl Events {
    pub(crate) fn new(kept: Duration) -> Self {
        Self {
            kept_ms: i64::try_from(kept.as_millis()).unwrap_or(i64::MAX),
            since: AtomicUsize::new(0),
        }
    }
}

/// What an emitted event is sent as.
#[derive(Debug, Serialize, Deserialize)]
struct Emitted {
    /// How many requests and events lie between the run that emitted it and a client.
    depth: u32,
    /// The priority of that run.
    rank: u32,
    event: Value,
}

/// What routing adds to a unit.
#[derive(Debug, Default)]
struct Routed {
    outgoing: Vec<NewMessage>,
    #[expect(
        clippy::vec_box,
        reason = "they go to the cache as they are, which keeps boxes"
    )]
    begun: Vec<Box<Live>>,
}

impl Runtime {
    /// Takes events and routes them: each starts runs and becomes facts of runs as services subscribe to it. Returns when
    /// all of it is durable.
    ///
    /// # Errors
    /// When there are too many, or they cannot be stored; nothing was stored then.
    pub async fn publish(&self, events: &[CloudEvent]) -> Result<Vec<Published>, PublishError> {
        if events.len() > EVENTS_MAX {
            return Err(PublishError::TooMany { given: events.len() });
        }
        for _ in 0..TRIES {
            match self.inner.publish(events).await? {
                Ok(published) => return Ok(published),
                Err(conflict) => tracing::debug!(%conflict, "events are sent twice at once"),
            }
        }
        Err(PublishError::unavailable(
            "the same events are being sent by somebody else; try again",
        ))
    }
}

impl Inner {
    /// One try; the inner error is that somebody else was faster with one of the events.
    async fn publish(
        &self,
        events: &[CloudEvent],
    ) -> Result<Result<Vec<Published>, CommitError>, PublishError> {
        let now = self.clock.now();
        let mut unit = Unit::new();
        let mut routed = Routed::default();
        let mut seen = HashSet::new();
        let mut all = Vec::with_capacity(events.len());
        for event in events {
            let mut published = Published {
                id: event.id.clone(),
                source: event.source.clone(),
                duplicate: false,
                deliveries: Vec::new(),
            };
            let name = [event.source.as_str().into(), event.id.as_str().into()];
            let sql = "SELECT 1 FROM events WHERE source = ? AND id = ?";
            let known = self.store.fetch(sql, &name).await;
            if !known.map_err(PublishError::unavailable)?.is_empty()
                || !seen.insert((event.source.as_str(), event.id.as_str()))
            {
                published.duplicate = true;
                all.push(published);
                continue;
            }
            let deliveries = self
                .route(event, 0, None, &mut unit, &mut routed)
                .await
                .map_err(PublishError::unavailable)?;
            published.deliveries = deliveries;
            if !published.deliveries.is_empty() && !published.is_refused() {
                let [source, id] = name;
                unit.add(&EVENT_INSERT, [source, id, now.as_millis().into()]);
                if self.events.since.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
                    let before = now.as_millis().saturating_sub(self.events.kept_ms);
                    unit.add(&EVENTS_FORGET, [before.into()]);
                }
            }
            all.push(published);
        }
        if unit.is_empty() {
            return Ok(Ok(all));
        }
        self.queues
            .stage_enqueue(&mut unit, routed.outgoing)
            .map_err(PublishError::unavailable)?;
        match self.store.commit(unit).await {
            Ok(()) => {
                routed.begun.into_iter().for_each(|live| self.cache.put(live));
                Ok(Ok(all))
            }
            Err(conflict @ CommitError::Conflict { .. }) => Ok(Err(conflict)),
            Err(error) => Err(PublishError::unavailable(error)),
        }
    }

    /// Adds what the event brings about to `unit` and `routed`.
    async fn route(
        &self,
        event: &CloudEvent,
        depth: u32,
        priority: Option<Priority>,
        unit: &mut Unit,
        routed: &mut Routed,
    ) -> Result<Vec<DeliveryView>, QueryError> {
        let mut deliveries = Vec::new();
        for version in self.registry.all() {
            for subscription in &version.bundle.subscriptions {
                if !subscription.concerns(&event.event_type, &event.source) {
                    continue;
                }
                let found = match &subscription.delivery {
                    Delivery::Start {
                        operation,
                        input,
                        labels,
                    } => {
                        let mapped = (input, labels);
                        let origin = (depth, priority);
                        vec![self.start(&version, operation, mapped, event, origin, unit, routed)]
                    }
                    Delivery::Fact { fact, fields, to } => {
                        self.deliver(&version, (fact, fields), to, event, routed).await?
                    }
                };
                deliveries.extend(
                    found
                        .into_iter()
                        .map(|outcome| view(&version, subscription, outcome)),
                );
            }
        }
        Ok(deliveries)
    }

    /// The event starts a run.
    #[expect(
        clippy::too_many_arguments,
        reason = "what an event starts is made of all of these"
    )]
    fn start(
        &self,
        version: &Arc<Version>,
        operation: &str,
        (input, labels): (&Mapping, &Mapping),
        event: &CloudEvent,
        (depth, priority): (u32, Option<Priority>),
        unit: &mut Unit,
        routed: &mut Routed,
    ) -> Result<RunId, String> {
        if depth >= REQUEST_DEPTH_MAX {
            return Err(format!(
                "requests and events lead from one run to the next {REQUEST_DEPTH_MAX} times already; is there a cycle \
                 of services?"
            ));
        }
        let found = version.bundle.operations.get(operation);
        let found = found.ok_or_else(|| format!("there is no operation `{operation}`"))?;
        let body = input.object(&event.value).to_string();
        found.validate(body.as_bytes()).map_err(|violations| {
            let all: Vec<String> = violations
                .iter()
                .map(|wrong| format!("{}: {}", wrong.pointer, wrong.message))
                .collect();
            format!(
                "the event does not fit operation `{operation}`: {}",
                all.join("; ")
            )
        })?;
        let now = self.clock.now();
        let own = Priority::of(found.priority);
        let trace = event.value.get("traceparent").and_then(Value::as_str);
        let mut head = RunHead {
            run: RunId::new(now, self.random.next_u128()),
            service: Arc::clone(&version.service),
            operation: operation.into(),
            workflow: found.workflow.as_str().into(),
            version: version.digest,
            state: RunState::Running,
            created_at: now,
            updated_at: now,
            ended_at: None,
            priority: priority.map_or(own, |from| crate::send::inherited(from, found.own_priority, None)),
            labels: labels.texts(&event.value),
            trace: trace.map(Arc::from),
            parent: None,
            depth,
            result: None,
            error: None,
            progress: None,
            steering: None,
        };
        if labels.is_empty() {
            head.labels = BTreeMap::new();
        }
        let message = begin(
            &self.runs_queue,
            &mut head,
            version,
            body.as_bytes(),
            None,
            Then::Start,
            unit,
        );
        let run = head.run;
        routed.outgoing.push(message);
        routed
            .begun
            .extend(new_live(head, Arc::clone(version), body.into_bytes().into()));
        Ok(run)
    }

    /// The event becomes a fact of runs.
    async fn deliver(
        &self,
        version: &Version,
        (fact, fields): (&str, &Mapping),
        to: &Correlation,
        event: &CloudEvent,
        routed: &mut Routed,
    ) -> Result<Vec<Result<RunId, String>>, QueryError> {
        let runs = match self.runs_for(version, to, event).await? {
            Ok(runs) => runs,
            Err(why) => return Ok(vec![Err(why)]),
        };
        let writes = json!([{ "insert": fact, "fields": fields.object(&event.value) }]).to_string();
        if writes.len() > INLINE_JSON_MAX {
            let bytes = writes.len();
            return Ok(vec![Err(format!(
                "the fact has {bytes} bytes, more than {INLINE_JSON_MAX}"
            ))]);
        }
        let by = format!("event {} of {}", event.id, event.source);
        for run in &runs {
            let message = HostMessage::Facts {
                writes: writes.clone(),
                by: by.clone(),
            };
            routed.outgoing.push(self.message_to(*run, &message));
        }
        Ok(runs.into_iter().map(Ok).collect())
    }

    async fn runs_for(
        &self,
        version: &Version,
        to: &Correlation,
        event: &CloudEvent,
    ) -> Result<Result<Vec<RunId>, String>, QueryError> {
        match to {
            Correlation::Run(pointer) => {
                let Some(text) = pointer.text(&event.value) else {
                    return Ok(Err(format!("there is no run id at {pointer}")));
                };
                let run: RunId = match text.parse() {
                    Ok(run) => run,
                    Err(error) => return Ok(Err(format!("{pointer}: {error}"))),
                };
                Ok(match self.head(run).await? {
                    Some(head) if head.service == version.service && head.state != RunState::Canceled => {
                        Ok(vec![run])
                    }
                    Some(head) if head.service == version.service => Err(format!("{run} was canceled")),
                    _ => Err(format!("service `{}` has no run {run}", version.service)),
                })
            }
            Correlation::Label { name, value } => {
                let Some(text) = value.text(&event.value) else {
                    return Ok(Err(format!("there is nothing at {value}")));
                };
                let sql =
                    "SELECT run FROM correlations WHERE service = ? AND label = ? AND value = ? LIMIT ?";
                let limit = i64::try_from(REACHED_MAX + 1).unwrap_or(i64::MAX);
                let cells = [
                    Cell::Text(Arc::clone(&version.service)),
                    name.as_str().into(),
                    text.as_str().into(),
                    limit.into(),
                ];
                let rows = self.store.fetch(sql, &cells).await?;
                let runs: Vec<RunId> = rows
                    .iter()
                    .filter_map(|row| RunId::from_bytes(row.blob(0)?))
                    .collect();
                Ok(if runs.is_empty() {
                    Err(format!("no run has the label {name}={text}"))
                } else if runs.len() > REACHED_MAX {
                    Err(format!(
                        "more than {REACHED_MAX} runs have the label {name}={text}"
                    ))
                } else {
                    Ok(runs)
                })
            }
        }
    }

    /// Routes what rules emit until shutdown.
    pub(crate) async fn route_emitted(self: Arc<Self>) {
        let Ok(queue) = QueueName::new(EMITTED_QUEUE) else {
            return;
        };
        let settings = Settings {
            attempts_max: EMITTED_ATTEMPTS,
            history_ms: 0,
            ..Settings::simple()
        };
        if let Err(error) = self.queues.configure(&queue, settings) {
            tracing::error!(%error, "the queue of events cannot be set up");
            return;
        }
        let shutdown = self.tasks.shutdown().clone();
        while !shutdown.is_requested() {
            let request = LeaseRequest {
                metadata: Vec::new(),
                queue: queue.clone(),
                max: EMITTED_PER_LEASE,
                lease_ms: None,
                wait: WAIT,
                consumer: self.node.clone(),
            };
            let leased = tokio::select! {
                leased = self.queues.lease(&request) => leased,
                () = shutdown.requested() => return,
            };
            match leased {
                Ok(leased) => {
                    for message in leased {
                        if let Err(error) = self.route_one(&message).await {
                            tracing::warn!(%error, "an event comes back when its lease lapses");
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot lease events");
                    self.clock.sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn route_one(self: &Arc<Self>, message: &Leased) -> Result<(), PublishError> {
        let mut unit = Unit::new();
        let mut routed = Routed::default();
        let emitted: Result<Emitted, _> = serde_json::from_slice(&message.payload);
        match emitted.map_err(|error| error.to_string()).and_then(|emitted| {
            let priority = Priority::from_rank(emitted.rank, None);
            Ok((emitted.depth, priority, CloudEvent::read(emitted.event)?))
        }) {
            Ok((depth, priority, event)) => {
                let routing = self.route(&event, depth + 1, priority, &mut unit, &mut routed);
                for delivery in routing.await.map_err(PublishError::unavailable)? {
                    if let Some(error) = delivery.error {
                        let (service, subscription) = (delivery.service, delivery.subscription);
                        tracing::warn!(event = %event.id, %service, %subscription, %error, "an event brings nothing about");
                    }
                }
            }
            Err(error) => tracing::error!(%error, "an event cannot be read and is dropped"),
        }
        self.queues
            .stage_enqueue(&mut unit, routed.outgoing)
            .map_err(PublishError::unavailable)?;
        self.queues
            .stage_complete(&mut unit, &[message.lease()])
            .map_err(PublishError::unavailable)?;
        let keeper = Arc::clone(self);
        let begun = routed.begun;
        unit.on_done(move |outcome| {
            if outcome.is_ok() {
                begun.into_iter().for_each(|live| keeper.cache.put(live));
            }
        });
        // Nobody waits: whatever fails comes again.
        self.store.submit(unit).await;
        Ok(())
    }
}

fn view(version: &Version, subscription: &Subscription, outcome: Result<RunId, String>) -> DeliveryView {
    let (run, error) = match outcome {
        Ok(run) => (Some(run), None),
        Err(error) => (None, Some(error)),
    };
    DeliveryView {
        service: version.service.to_string(),
        subscription: subscription.name.clone(),
        run,
        error,
    }
}

impl Outgoing<'_> {
    /// Sends what a rule emits, its effect `index` in this turn, to whoever routes events, when somebody subscribes to it.
    pub(crate) fn emit(&self, live: &Live, index: usize, event_type: &str, data_json: &str, done: &mut Done) {
        let source = format!("/services/{}", live.head.service);
        if !self.registry.is_subscribed(event_type, &source) {
            return;
        }
        let Ok(queue) = QueueName::new(EMITTED_QUEUE) else {
            return;
        };
        let call = CallId {
            seq: live.seq + 1,
            index: u32::try_from(index).unwrap_or(u32::MAX),
        };
        let data: Value = serde_json::from_str(data_json).unwrap_or_default();
        let emitted = Emitted {
            depth: live.head.depth,
            rank: live.head.priority.rank(),
            event: json!({
                "specversion": "1.0",
                "id": format!("{}/{call}", live.head.run),
                "source": source,
                "type": event_type,
                "subject": live.head.run,
                "time": self.now.to_string(),
                "datacontenttype": "application/json",
                "traceparent": crate::trace::child(&live.head),
                "data": data,
            }),
        };
        let Ok(payload) = serde_json::to_vec(&emitted) else {
            return;
        };
        if payload.len() > INLINE_JSON_MAX {
            tracing::warn!(run = %live.head.run, event_type, bytes = payload.len(), "an event is too large to be routed");
            return;
        }
        let id = MessageId::derived(live.head.run, call);
        let message = NewMessage::new(id, queue, payload);
        done.outgoing.push(NewMessage {
            repeatable_id: true,
            fairness: Some(Arc::clone(&live.head.service)),
            ..message.with_priority(live.head.priority)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(event: Value) -> String {
        CloudEvent::read(event).expect_err("no event")
    }

    #[test]
    fn an_event_is_what_the_specification_says() {
        let good = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "extra": 1 });
        assert!(CloudEvent::read(good).is_ok());
        assert!(refusal(json!([])).contains("object"));
        let old = json!({ "specversion": "0.3", "id": "1", "source": "/s", "type": "t" });
        assert!(refusal(old).contains("0.3"));
        let nameless = json!({ "specversion": "1.0", "id": "", "source": "/s", "type": "t" });
        assert!(refusal(nameless).contains("`id` is empty"));
        let both = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1, "data_base64": "" });
        assert!(refusal(both).contains("both"));
        let long = "x".repeat(INLINE_JSON_MAX);
        let large = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": long });
        assert!(refusal(large).contains("artifacts"));
    }
}
