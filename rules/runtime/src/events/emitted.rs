//! What rules emit: a message of the turn to a queue of its own, and whoever takes it from there.

use std::sync::Arc;
use std::time::Duration;

use celesta_functions::INLINE_JSON_MAX;
use celesta_queue::{LeaseRequest, Leased, NewMessage, QueueName, Settings};
use celesta_store::Unit;
use celesta_types::{CallId, MessageId, Priority};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{CloudEvent, PublishError, Routed};
use crate::live::Live;
use crate::runtime::Inner;
use crate::send::Outgoing;
use crate::turn::Done;

/// Emitted events that are taken at once.
const EMITTED_PER_LEASE: usize = 64;
/// How long the router waits in one call; only bounds how soon it notices a shutdown that no message announces.
const WAIT: Duration = Duration::from_secs(3_600);
/// The queue of what rules emit.
const EMITTED_QUEUE: &str = "celesta/events";
/// An event is routed until it can be: only a store that does not answer stands in its way.
const EMITTED_ATTEMPTS: u32 = 1_000_000;

/// What an emitted event is sent as.
#[derive(Debug, Serialize, Deserialize)]
struct Emitted {
    /// How many requests and events lie between the run that emitted it and a client.
    depth: u32,
    /// The priority of that run.
    rank: u32,
    event: Value,
}

impl Inner {
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
                // The queue says so before the shutdown was heard of here.
                Err(_) if shutdown.is_requested() => return,
                Err(error) => {
                    tracing::error!(%error, "cannot lease events");
                    tokio::select! {
                        () = self.clock.sleep(Duration::from_secs(1)) => {}
                        () = shutdown.requested() => return,
                    }
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
        self.stage(&mut unit, routed.outgoing)
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
