//! Accepting a request: validate, name, hand over; answer when it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use celesta_bundle::{Correlation, Delivery, Violation};
use celesta_engine::WorkingMemory;
use celesta_functions::INLINE_JSON_MAX;
use celesta_queue::{HandOver, NewMessage};
use celesta_store::{Cell, Store, Unit};
use celesta_types::{ErrorKind, MessageId, Priority, RunId};
use hashbrown::HashSet;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::gate::{Then, WAITING_MAX};
use crate::gates::{self, described};
use crate::head::RunHead;
use crate::live::Live;
use crate::registry::Version;
use crate::runtime::Runtime;
use crate::schema::{CORRELATION_INSERT, IDEMPOTENCY_INSERT};
use crate::shared::Interests;
use crate::state::RunState;
use crate::steering::Steering;
use crate::view::RunView;

/// A request to run an operation.
#[derive(Debug, Clone, Default)]
pub struct Submit {
    /// The service.
    pub service: String,
    /// Its operation.
    pub operation: String,
    /// The body, JSON.
    pub input: Vec<u8>,
    /// The client's key: the same key and body name the same run.
    pub idempotency_key: Option<String>,
    /// The priority; the operation's when none.
    pub priority: Option<Priority>,
    /// Labels to find the run by.
    pub labels: BTreeMap<String, String>,
    /// W3C `traceparent`.
    pub trace: Option<String>,
    /// Whether calls are run even when results of pure functions are recorded.
    pub fresh: bool,
}

/// What became of a request.
#[derive(Debug)]
pub struct Submitted {
    /// The run.
    pub run: RunId,
    /// Whether it was there before: the client's key was used with the same body.
    pub existing: bool,
    /// How the run stands, when the client wanted to wait.
    pub view: Option<RunView>,
}

/// Why a request was refused. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// There is no such service.
    #[error("there is no service `{service}`")]
    UnknownService {
        /// The name.
        service: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The service has no such operation.
    #[error("service `{service}` has no operation `{operation}`")]
    UnknownOperation {
        /// The service.
        service: String,
        /// The name.
        operation: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The body is not what the operation's schema says.
    #[error("the request does not fit the operation's schema")]
    InvalidInput {
        /// Where and why.
        violations: Vec<Violation>,
    },
    /// The client's key was used with another body.
    #[error("the idempotency key was used for run {run} with another body")]
    IdempotencyConflict {
        /// That run.
        run: RunId,
    },
    /// The same key is being accepted at this moment.
    #[error("a request with this idempotency key is being accepted; ask again")]
    InFlight,
    /// Too many runs of its group wait already.
    #[error("{WAITING_MAX} runs of workflow `{workflow}` and this key wait already")]
    TooManyWaiting {
        /// The workflow.
        workflow: String,
    },
    /// The body is too large.
    #[error("the body has {bytes} bytes, more than {INLINE_JSON_MAX}; store large values as artifacts")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not now.
    #[error("the request cannot be stored: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl SubmitError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownService { .. } | Self::UnknownOperation { .. } => ErrorKind::NotFound,
            Self::InvalidInput { .. } | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::IdempotencyConflict { .. } | Self::InFlight => ErrorKind::Conflict,
            Self::TooManyWaiting { .. } | Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }

    pub(crate) fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: error.to_string(),
        }
    }
}

/// Clients' keys that are being accepted: two requests at once cannot both find a key unused.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashSet<(Arc<str>, String)>>);

/// One key being accepted; free again when dropped.
struct Accepting<'a> {
    keys: &'a InFlight,
    key: (Arc<str>, String),
}

impl InFlight {
    fn accept(&self, service: &Arc<str>, key: &str) -> Option<Accepting<'_>> {
        let key = (Arc::clone(service), key.to_owned());
        let is_free = self.0.lock().insert(key.clone());
        // Made only when the key is ours: what is dropped frees it.
        is_free.then(|| Accepting { keys: self, key })
    }
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        self.keys.0.lock().remove(&self.key);
    }
}

impl Runtime {
    /// Accepts a request and answers when it is durable; with `wait`, when its run has ended or the time is over.
    ///
    /// # Errors
    /// When the request is wrong or cannot be stored; nothing was stored then.
    ///
    /// # Cancel safety
    /// A request that was handed over becomes durable even when nobody waits for the answer.
    pub async fn submit(&self, request: Submit, wait: Option<Duration>) -> Result<Submitted, SubmitError> {
        let inner = &self.inner;
        if request.input.len() > INLINE_JSON_MAX {
            return Err(SubmitError::TooLarge {
                bytes: request.input.len(),
            });
        }
        let now = inner.clock.now();
        let run = inner.new_run(now);
        let version = inner
            .registry
            .chosen(&request.service, run, &request.labels)
            .ok_or_else(|| SubmitError::UnknownService {
                service: request.service.clone(),
                known: inner
                    .registry
                    .all()
                    .iter()
                    .map(|version| version.service.to_string())
                    .collect(),
            })?;
        let operation = version.bundle.operations.get(&request.operation).ok_or_else(|| {
            SubmitError::UnknownOperation {
                service: request.service.clone(),
                operation: request.operation.clone(),
                known: version.bundle.operations.keys().cloned().collect(),
            }
        })?;
        operation
            .validate(&request.input)
            .map_err(|violations| SubmitError::InvalidInput { violations })?;
        let accepting = match &request.idempotency_key {
            None => None,
            Some(key) => {
                let accepting = inner
                    .in_flight
                    .accept(&version.service, key)
                    .ok_or(SubmitError::InFlight)?;
                if let Some(run) = self.existing(&request, key).await? {
                    drop(accepting);
                    return self.answer(run, true, wait).await;
                }
                Some(accepting)
            }
        };
        let mut head = RunHead {
            run,
            service: Arc::clone(&version.service),
            operation: request.operation.as_str().into(),
            workflow: operation.workflow.as_str().into(),
            version: version.digest,
            state: RunState::Running,
            created_at: now,
            updated_at: now,
            ended_at: None,
            priority: request
                .priority
                .unwrap_or_else(|| Priority::of(operation.priority)),
            labels: request.labels,
            trace: request.trace.as_deref().map(Arc::from),
            parent: None,
            depth: 0,
            result: None,
            error: None,
            progress: None,
            steering: request.fresh.then(|| {
                Box::new(Steering {
                    fresh: true,
                    ..Steering::default()
                })
            }),
        };
        let mut companion = Unit::new();
        let key = request.idempotency_key.as_deref();
        let start = begin(
            &inner.runs_queue,
            &mut head,
            &version,
            &request.input,
            key,
            Then::Start,
            &mut companion,
        );
        if head
            .steering()
            .gates(&head.service, &head.workflow)
            .iter()
            .any(|(gate, _)| inner.gates.is_full(*gate))
        {
            return Err(SubmitError::TooManyWaiting {
                workflow: head.workflow.to_string(),
            });
        }
        if let Some(key) = &request.idempotency_key {
            companion.add(
                &IDEMPOTENCY_INSERT,
                [
                    Cell::Text(Arc::clone(&version.service)),
                    key.as_str().into(),
                    Cell::Id(run.to_bytes()),
                    Sha256::digest(&request.input).to_vec().into(),
                    now.as_millis().into(),
                ],
            );
        }
        let durable = Store::watch(&mut companion);
        let watch = wait.map(|_| inner.watchers.watch(run));
        if let Some(live) = new_live(head, version, request.input.into()) {
            inner.cache.put(live);
        }
        if !inner.is_for_here(&start) {
            // Its first gate is elsewhere.
            inner.post(&mut companion, [start]);
            inner.store.submit(companion).await;
        } else if let Some(refused) = inner
            .queues
            .hand_over(vec![HandOver {
                message: start,
                companion,
            }])
            .pop()
        {
            inner.cache.take(run);
            return Err(SubmitError::unavailable(refused.error));
        }
        durable.wait().await.map_err(SubmitError::unavailable)?;
        drop(accepting);
        let view = match (watch, wait) {
            // The run is accepted: that it cannot be read now is no refusal.
            (Some(watch), Some(patience)) => self.wait_heard(watch, run, patience).await.unwrap_or_default(),
            _ => None,
        };
        Ok(Submitted {
            run,
            existing: false,
            view,
        })
    }

    async fn existing(&self, request: &Submit, key: &str) -> Result<Option<RunId>, SubmitError> {
        let found = self
            .inner
            .idempotent(&request.service, key)
            .await
            .map_err(SubmitError::unavailable)?;
        match found {
            None => Ok(None),
            Some((run, body)) if body == Sha256::digest(&request.input).as_slice() => Ok(Some(run)),
            Some((run, _)) => Err(SubmitError::IdempotencyConflict { run }),
        }
    }

    async fn answer(
        &self,
        run: RunId,
        existing: bool,
        wait: Option<Duration>,
    ) -> Result<Submitted, SubmitError> {
        let view = match wait {
            Some(patience) => self.wait(run, patience).await.map_err(SubmitError::unavailable)?,
            None => None,
        };
        Ok(Submitted { run, existing, view })
    }
}

/// Adds the new run's row to `unit`, with what its version says of its labels and groups, and gives the message with
/// which it begins or comes to its first gate.
pub(crate) fn begin(
    queue: &celesta_queue::QueueName,
    head: &mut RunHead,
    version: &Version,
    input: &[u8],
    idempotency_key: Option<&str>,
    then: Then,
    unit: &mut Unit,
) -> NewMessage {
    let bundle = &version.bundle;
    let limits = bundle.settings.get(&*head.workflow);
    let limits = limits.map_or(&[][..], |settings| &settings.concurrency);
    let named = bundle.operations.get(&*head.operation).map(|one| &one.labels);
    let named = named.filter(|labels| !labels.is_empty());
    if named.is_some() || limits.iter().any(|limit| limit.key.is_some()) {
        // It was validated: it is JSON.
        let body = serde_json::from_slice(input).unwrap_or_default();
        for (name, value) in named.map(|labels| labels.texts(&body)).unwrap_or_default() {
            head.labels.entry(name).or_insert(value);
        }
        let gates = limits
            .iter()
            .map(|limit| described(limit.strategy, limit.group(&body)));
        head.steering_mut().gates = gates.collect();
    } else if !limits.is_empty() {
        let gates = limits
            .iter()
            .map(|limit| described(limit.strategy, String::new()));
        head.steering_mut().gates = gates.collect();
    }
    let message = match gates::enter(queue, head, then.clone(), gates::first_id(head.run)) {
        Some(message) => {
            head.state = RunState::Waiting;
            message
        }
        None => first_message(queue, head, then),
    };
    for subscription in &bundle.subscriptions {
        if let Delivery::Fact {
            to: Correlation::Label { name, .. },
            ..
        } = &subscription.delivery
            && let Some(value) = head.labels.get(name)
        {
            let service = Cell::Text(Arc::clone(&head.service));
            let run = Cell::Id(head.run.to_bytes());
            let cells = [service, name.as_str().into(), value.as_str().into(), run];
            unit.add(&CORRELATION_INSERT, cells);
        }
    }
    head.insert(unit, input, idempotency_key);
    message
}

/// The first message of a run: its id is the run's own, so that it cannot be sent twice.
fn first_message(queue: &celesta_queue::QueueName, head: &RunHead, then: Then) -> NewMessage {
    let id = MessageId::from_bits(head.run.bits());
    let message = NewMessage::new(id, queue.clone(), then.message().encode());
    NewMessage {
        fairness: Some(Arc::clone(&head.service)),
        repeatable_id: true,
        ..message.with_key(head.run).with_priority(head.priority)
    }
}

/// A run before its first turn; `None` when its version has no such workflow, which a push refuses.
pub(crate) fn new_live(head: RunHead, version: Arc<Version>, input: Arc<[u8]>) -> Option<Box<Live>> {
    let rules = Arc::clone(version.rules(&head.workflow)?);
    let memory = WorkingMemory::new(&rules, head.run);
    Some(Box::new(Live {
        head,
        version,
        rules,
        memory,
        seq: 0,
        input: Some(input),
        interests: Interests::default(),
        requests: BTreeSet::new(),
        timed: BTreeSet::new(),
        steered: false,
        wake_at: None,
        delta_bytes: 0,
        deltas: 0,
        snapshot_bytes: 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_by_one_request_at_a_time() {
        let (keys, service) = (InFlight::default(), Arc::from("service"));
        let first = keys.accept(&service, "key");
        assert!(first.is_some());
        assert!(keys.accept(&service, "key").is_none());
        assert!(
            keys.accept(&service, "key").is_none(),
            "who was refused frees nothing"
        );
        assert!(keys.accept(&service, "other").is_some());
        drop(first);
        assert!(keys.accept(&service, "key").is_some());
    }
}
