//! Events: `CloudEvents` from outside and from rules, routed to operations and runs by what services subscribe to.
//!
//! An event and everything it brings about (new runs, facts for runs) become durable in one unit with the event's name,
//! (source, id): it counts once as long as names are kept. What rules emit takes the same way: the turn sends it to a
//! queue of its own, and whoever takes it from there routes it in the unit that completes its message.
//!
//! In a deployment of several partitions one of them routes an event: the one where its name is kept, or that of the run
//! which emitted it. What it starts is started there; runs of other partitions get a letter (`cluster/mail.rs`) in the
//! same unit.

mod cloud;
mod emitted;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use celesta_bundle::{Correlation, Delivery, Mapping, Subscription};
use celesta_functions::INLINE_JSON_MAX;
use celesta_queue::NewMessage;
use celesta_store::{Cell, CommitError, QueryError, Unit};
use celesta_types::{ErrorKind, Partition, Priority, RunId, Timestamp};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::cloud::CloudEvent;
use crate::gate::Then;
use crate::head::RunHead;
use crate::live::Live;
use crate::message::HostMessage;
use crate::registry::Version;
use crate::runtime::{Inner, Runtime};
use crate::schema::{EVENT_INSERT, EVENTS_FORGET};
use crate::send::REQUEST_DEPTH_MAX;
use crate::state::RunState;
use crate::submit::{begin, new_live};

/// Events of one call: one commit.
pub const EVENTS_MAX: usize = 1_000;
/// Runs that one event may reach by a label: one commit.
const REACHED_MAX: usize = 1_000;
/// Names of events are forgotten after so many new ones: next to no cost.
const FORGET_EVERY: usize = 256;
/// How often a batch is tried whose events somebody else sends at the same time.
const TRIES: usize = 4;

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its id.
    pub id: String,
    /// Its source.
    pub source: String,
    /// Whether it came before and counted then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// What it brought about; empty when nobody subscribes to it.
    pub deliveries: Vec<DeliveryView>,
}

/// What an event brought about for one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Names that came before this, in milliseconds, may be forgotten; clients' keys of shared facts are kept as long.
    pub(crate) const fn kept_from(&self, now: Timestamp) -> i64 {
        now.as_millis().saturating_sub(self.kept_ms)
    }
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
        self: &Arc<Self>,
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
                    unit.add(&EVENTS_FORGET, [self.events.kept_from(now).into()]);
                }
            }
            all.push(published);
        }
        if unit.is_empty() {
            return Ok(Ok(all));
        }
        self.stage(&mut unit, routed.outgoing)
            .map_err(PublishError::unavailable)?;
        // Before anybody is given their first messages: what they know by then is not to be put back.
        let (keeper, begun) = (Arc::clone(self), routed.begun);
        unit.on_done(move |outcome| {
            if outcome.is_ok() {
                begun.into_iter().for_each(|live| keeper.cache.put(live));
            }
        });
        match self.store.commit(unit).await {
            Ok(()) => Ok(Ok(all)),
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
            run: self.new_run(now),
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
                let head = if self.has(run) {
                    self.head(run).await?
                } else {
                    let place = Partition::of_run(run, self.partition.count).index;
                    let reader = self.readers.one(place, &self.clock).await?;
                    reader.inner.head(run).await?
                };
                Ok(match head {
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
                let mut runs = Vec::new();
                if self.partition.count == 1 {
                    runs = self.labeled(&version.service, name, &text).await?;
                } else {
                    let readers = self.readers.opened(&self.clock).await?;
                    let found = readers
                        .iter()
                        .map(|reader| reader.inner.labeled(&version.service, name, &text));
                    for found in join_all(found).await {
                        runs.extend(found?);
                    }
                }
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
}

impl Inner {
    /// Whether the run is of this partition.
    fn has(&self, run: RunId) -> bool {
        Partition::of_run(run, self.partition.count) == self.partition
    }

    /// The runs of this partition with the label, one more than an event may reach at most.
    async fn labeled(&self, service: &Arc<str>, label: &str, value: &str) -> Result<Vec<RunId>, QueryError> {
        let sql = "SELECT run FROM correlations WHERE service = ? AND label = ? AND value = ? LIMIT ?";
        let limit = i64::try_from(REACHED_MAX + 1).unwrap_or(i64::MAX);
        let cells = [
            Cell::Text(Arc::clone(service)),
            label.into(),
            value.into(),
            limit.into(),
        ];
        let rows = self.store.fetch(sql, &cells).await?;
        let runs = rows.iter().filter_map(|row| RunId::from_bytes(row.blob(0)?));
        Ok(runs.collect())
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
