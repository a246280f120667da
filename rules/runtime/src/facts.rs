//! Facts written from outside: inserted, updated and retracted by clients, each write once.
//!
//! A request's writes travel to the run as one message and are applied in one turn, in their order, before rules fire.
//! Each write stands alone: one that does not fit (another version, an unknown field) is refused and the others count.
//! Whoever waits hears what became of each when the turn is durable.

use std::time::Duration;

use celesta_engine::{Event, FactId, Value};
use celesta_functions::INLINE_JSON_MAX;
use celesta_queue::HandOver;
use celesta_store::{Cell, Store, Unit};
use celesta_types::{ErrorKind, MessageId, RunId};
use hashbrown::HashMap;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use crate::lifecycle::LifecycleError;
use crate::message::HostMessage;
use crate::runtime::{Inner, Runtime};
use crate::schema::IDEMPOTENCY_INSERT;
use crate::state::RunStep;

/// Writes of one request: all of them fit into one message, and a turn stays short.
pub const WRITES_MAX: usize = 1_000;

/// One write to the facts of a run: exactly one of `insert`, `update` and `retract`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactWrite {
    /// The type of a new fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insert: Option<String>,
    /// The fact to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<u64>,
    /// The fact to remove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retract: Option<u64>,
    /// The fields of a new fact, or those to set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Value>,
    /// The version the fact must have; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

impl FactWrite {
    fn event(self) -> Result<Event, &'static str> {
        let empty = || Value::map(std::iter::empty::<(&str, Value)>());
        match self {
            Self {
                insert: Some(fact_type),
                update: None,
                retract: None,
                fields,
                version: None,
            } => Ok(Event::Insert {
                fact_type: fact_type.into(),
                value: fields.unwrap_or_else(empty),
            }),
            Self {
                insert: None,
                update: Some(fact),
                retract: None,
                fields: Some(value),
                version,
            } => Ok(Event::Update {
                fact: FactId(fact),
                version,
                value,
            }),
            Self {
                insert: None,
                update: None,
                retract: Some(fact),
                fields: None,
                version,
            } => Ok(Event::Retract {
                fact: FactId(fact),
                version,
            }),
            _ => Err(
                "is neither `insert` (a type) with `fields`, nor `update` (a fact) with `fields`, nor `retract` (a fact); \
                 `version` goes with the last two",
            ),
        }
    }
}

/// Writes to the facts of a run.
#[derive(Debug, Clone, Default)]
pub struct WriteFacts {
    /// The JSON list of [`FactWrite`]s, as it came.
    pub writes: Vec<u8>,
    /// The client's key: the same key and writes are applied once.
    pub idempotency_key: Option<String>,
    /// Who asks.
    pub by: String,
}

/// What became of writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The turn that applied them.
    pub turn: u64,
    /// How many there were.
    pub writes: usize,
    /// Those that changed nothing, by their place, and why.
    pub refused: Vec<(u32, String)>,
}

/// Why writes were not taken. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// They are not what a write is.
    #[error("{reason}")]
    Invalid {
        /// What is wrong, and where.
        reason: String,
    },
    /// They are too large for one message.
    #[error("the writes have {bytes} bytes, more than {INLINE_JSON_MAX}; send them in parts")]
    TooLarge {
        /// Their size.
        bytes: usize,
    },
    /// The client's key was used with other writes.
    #[error("the idempotency key was used with other writes")]
    IdempotencyConflict,
    /// The run cannot take them.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
}

impl WriteError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::IdempotencyConflict => ErrorKind::Conflict,
            Self::Lifecycle(error) => error.kind(),
        }
    }
}

/// Reads writes into engine events.
///
/// # Errors
/// When the text is not a list of writes; the message says which one is wrong.
pub(crate) fn events_of(writes: &[u8]) -> Result<Vec<Event>, String> {
    let writes: Vec<FactWrite> = serde_json::from_slice(writes).map_err(|error| error.to_string())?;
    let numbered = writes.into_iter().enumerate();
    numbered
        .map(|(at, write)| write.event().map_err(|why| format!("write {at} {why}")))
        .collect()
}

/// Clients that wait to hear what became of their writes.
#[derive(Debug, Default)]
pub(crate) struct Writers(Mutex<HashMap<MessageId, oneshot::Sender<Written>, FxBuildHasher>>);

impl Writers {
    fn wait(&self, message: MessageId) -> Waiting<'_> {
        let (sender, told) = oneshot::channel();
        self.0.lock().insert(message, sender);
        Waiting {
            writers: self,
            message,
            told,
        }
    }

    /// Tells whoever waits for `message`.
    pub(crate) fn tell(&self, message: MessageId, written: Written) {
        let waiting = self.0.lock().remove(&message);
        if let Some(waiting) = waiting {
            // A client that went away has no use for the answer.
            waiting.send(written).ok();
        }
    }
}

/// A client that waits; forgotten when it goes away.
struct Waiting<'a> {
    writers: &'a Writers,
    message: MessageId,
    told: oneshot::Receiver<Written>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.writers.0.lock().remove(&self.message);
    }
}

impl Runtime {
    /// Writes facts of a run. Returns when the writes are durable, with what became of each if the run took them within
    /// `patience`; a paused run takes them when it goes on.
    ///
    /// # Errors
    /// When the writes are wrong, or the run is not there or was canceled. Nothing has changed then.
    ///
    /// # Cancel safety
    /// Writes that were handed over become durable even when nobody waits for the answer.
    pub async fn write_facts(
        &self,
        run: RunId,
        request: WriteFacts,
        patience: Duration,
    ) -> Result<Option<Written>, WriteError> {
        let inner = &self.inner;
        let bytes = request.writes.len();
        if bytes > INLINE_JSON_MAX {
            return Err(WriteError::TooLarge { bytes });
        }
        let events = events_of(&request.writes).map_err(|reason| WriteError::Invalid { reason })?;
        if events.is_empty() || events.len() > WRITES_MAX {
            return Err(WriteError::Invalid {
                reason: format!("there are {} writes; expected 1 to {WRITES_MAX}", events.len()),
            });
        }
        inner
            .state_of(run)
            .await?
            .after(RunStep::Write)
            .map_err(LifecycleError::from)?;
        let mut companion = Unit::new();
        if let Some(key) = &request.idempotency_key {
            let digest = Sha256::digest(&request.writes);
            if let Some((_, body)) = inner
                .idempotent(&run.to_string(), key)
                .await
                .map_err(LifecycleError::unavailable)?
            {
                return if body == digest.as_slice() {
                    Ok(None)
                } else {
                    Err(WriteError::IdempotencyConflict)
                };
            }
            companion.add(
                &IDEMPOTENCY_INSERT,
                [
                    run.to_string().as_str().into(),
                    key.as_str().into(),
                    Cell::Id(run.to_bytes()),
                    digest.to_vec().into(),
                    inner.clock.now().as_millis().into(),
                ],
            );
        }
        let writes = String::from_utf8(request.writes).map_err(|error| WriteError::Invalid {
            reason: error.to_string(),
        })?;
        let message = inner.message_to(
            run,
            &HostMessage::Facts {
                writes,
                by: request.by,
            },
        );
        let id = message.id;
        let durable = Store::watch(&mut companion);
        let mut waiting = inner.writers.wait(id);
        let refused = inner
            .queues
            .hand_over(vec![HandOver { message, companion }])
            .pop();
        let stored = match refused {
            Some(refused) => Err(LifecycleError::unavailable(refused.error)),
            None => durable.wait().await.map_err(LifecycleError::unavailable),
        };
        stored?;
        tokio::select! {
            Ok(written) = &mut waiting.told => Ok(Some(written)),
            () = inner.clock.sleep(patience) => Ok(None),
        }
    }
}

impl Inner {
    /// Tells clients what became of their writes, once that is durable.
    pub(crate) fn told(&self, answers: Vec<(MessageId, Written)>) {
        for (message, written) in answers {
            self.writers.tell(message, written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_one_of_three_things() {
        let read = |text: &str| events_of(text.as_bytes());
        let good =
            r#"[{"insert":"Job","fields":{"n":1}},{"update":3,"version":2,"fields":{"n":2}},{"retract":4}]"#;
        assert_eq!(read(good).map(|events| events.len()), Ok(3));
        for wrong in [
            r#"[{"insert":"Job","retract":4}]"#,
            r#"[{"update":3}]"#,
            r#"[{"fields":{}}]"#,
            r#"[{"retract":4,"fields":{}}]"#,
            r#"[{"insert":"Job","version":1}]"#,
        ] {
            let error = read(wrong).expect_err(wrong);
            assert!(error.starts_with("write 0 is neither"), "{error}");
        }
        assert!(
            read(r#"[{"inserts":"Job"}]"#)
                .expect_err("an unknown member")
                .contains("inserts")
        );
    }
}
