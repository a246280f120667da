//! Enqueuing with group commit: batches that arrive together are one statement over arrays.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use celesta_store::{Arg, CommitError};
use celesta_types::Timestamp;
use tokio::sync::oneshot;

use super::gather::Request;
use super::{Core, Entry, SharedQueues, call, narrow, text, unavailable};
use crate::entry::NEVER;
use crate::error::{EnqueueError, Error};
use crate::limits::BATCH_MAX;
use crate::message::{Enqueued, NewMessage};
use crate::settings::Kind;
use crate::stage::validate;
use crate::state::Tally;

/// Rows of one statement: the lower 14 bits of a message's number are its place there.
const ROWS_MAX: usize = 8_192;
/// A step of virtual time of a fairness key of weight 1.
pub(super) const STEP: i64 = 1_000_000;

const ENQUEUE: &str = "SELECT * FROM queue_put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

impl Request for Batch {
    fn rows(&self) -> usize {
        self.messages.len()
    }
}

/// Messages of one caller on their way.
pub(super) struct Batch {
    messages: Vec<(Arc<Entry>, NewMessage)>,
    answer: oneshot::Sender<Result<Vec<bool>, CommitError>>,
}

impl SharedQueues {
    /// Enqueues `messages` and waits until they are durable; calls at the same time share a commit. The answer has one
    /// outcome for each message, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then none of them is enqueued.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the messages back; their ids make another call safe.
    pub async fn enqueue(
        &self,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Result<Enqueued, EnqueueError>>, Error> {
        if messages.len() > BATCH_MAX {
            return Err(Error::BatchTooLarge {
                given: messages.len(),
                max: BATCH_MAX,
            });
        }
        let mut outcomes = Vec::with_capacity(messages.len());
        let mut admitted: Vec<(Arc<Entry>, NewMessage)> = Vec::with_capacity(messages.len());
        let mut places = Vec::with_capacity(messages.len());
        for message in messages {
            let known = admitted.last().filter(|(entry, _)| entry.name == message.queue);
            let entry = match known {
                Some((entry, _)) => Ok(Arc::clone(entry)),
                None => self.core.queue_for(&message.queue).await?,
            };
            let allowed = entry.and_then(|entry| {
                validate(&message, &entry.settings.read())?;
                Ok(entry)
            });
            match allowed {
                Ok(entry) => {
                    places.push(outcomes.len());
                    outcomes.push(Ok(Enqueued::Existing));
                    admitted.push((entry, message));
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        if admitted.is_empty() {
            return Ok(outcomes);
        }
        let (answer, answered) = oneshot::channel();
        self.core
            .enqueues
            .ask(Batch {
                messages: admitted,
                answer,
            })
            .await;
        let new = answered.await.unwrap_or(Err(CommitError::Closed))?;
        for (place, new) in places.into_iter().zip(new) {
            if new {
                outcomes[place] = Ok(Enqueued::New);
            }
        }
        Ok(outcomes)
    }
}

pub(super) async fn serve(core: Arc<Core>, batches: Vec<Batch>) {
    let mut rest = batches.into_iter().peekable();
    while rest.peek().is_some() {
        let mut rows = 0;
        let mut group = Vec::new();
        while let Some(batch) =
            rest.next_if(|batch| group.is_empty() || rows + batch.messages.len() <= ROWS_MAX)
        {
            rows += batch.messages.len();
            group.push(batch);
        }
        enqueue_group(&core, group).await;
    }
}

async fn enqueue_group(core: &Core, group: Vec<Batch>) {
    let now = core.now();
    let mut columns = Columns::default();
    let mut ends = Vec::with_capacity(group.len());
    let mut answers = Vec::with_capacity(group.len());
    for Batch { messages, answer } in group {
        for (entry, message) in messages {
            columns.push(core, entry, message, now);
        }
        ends.push(columns.ids.len());
        answers.push(answer);
    }
    let (entries, calls) = columns.into_call(now);
    let outcome = core.database.write(std::slice::from_ref(&calls)).await;
    let outcome = outcome.map_err(unavailable).map(|answers| {
        let mut new = vec![true; entries.len()];
        for row in answers.iter().flatten() {
            let place = row.int(0).and_then(|place| usize::try_from(place - 1).ok());
            if let Some(new) = place.and_then(|place| new.get_mut(place)) {
                *new = false;
            }
        }
        new
    });
    if let Ok(new) = &outcome {
        for (same, new) in entries.chunk_by(|a, b| a.0.id == b.0.id).scan(0, |at, same| {
            let from = *at;
            *at += same.len();
            Some((same, &new[from..*at]))
        }) {
            let count = same
                .iter()
                .zip(new)
                .filter(|((_, at), new)| **new && *at <= now)
                .count();
            if count > 0
                && let Some((entry, _)) = same.first()
            {
                core.metrics.of(entry.settings.read().kind).add(&Tally {
                    enqueued: u64::try_from(count).unwrap_or(0),
                    ..Tally::default()
                });
                entry.wake(count);
                core.tell(entry.id, count);
            }
        }
    }
    let mut from = 0;
    for (answer, end) in answers.into_iter().zip(ends) {
        let part = outcome
            .as_ref()
            .map(|new| new[from..end].to_vec())
            .map_err(Clone::clone);
        from = end;
        // Whoever asked may be gone: the messages stand all the same.
        answer.send(part).ok();
    }
}

/// One array for each column.
#[derive(Default)]
struct Columns {
    entries: Vec<(Arc<Entry>, i64)>,
    queues: Vec<i64>,
    exclusive: Vec<i64>,
    ids: Vec<Option<[u8; 16]>>,
    keys: Vec<Option<[u8; 16]>>,
    ranks: Vec<i64>,
    deadlines: Vec<i64>,
    visible: Vec<i64>,
    expires: Vec<Option<i64>>,
    attempts: Vec<i64>,
    fairness: Vec<Option<Arc<str>>>,
    steps: Vec<i64>,
    fair: bool,
    metadata: Vec<Option<Arc<str>>>,
    payloads: Vec<Arc<[u8]>>,
}

impl Columns {
    fn push(&mut self, core: &Core, entry: Arc<Entry>, message: NewMessage, now: i64) {
        let settings = entry.settings.read();
        let visible = message
            .visible_at
            .map_or_else(|| now.saturating_add(settings.delay_ms), Timestamp::as_millis);
        let expires = message
            .ttl_ms
            .or(settings.ttl_ms)
            .map(|ttl| now.saturating_add(ttl));
        if visible > now {
            core.arm(visible);
        }
        if let Some(expires) = expires {
            core.arm(expires);
        }
        let weight = message
            .fairness
            .as_ref()
            .and_then(|key| settings.weights.get(&**key));
        self.steps.push(STEP / i64::from(*weight.unwrap_or(&1)).max(1));
        if message.fairness.is_some() {
            entry.fair.store(true, Ordering::Relaxed);
        }
        self.fair |= entry.fair.load(Ordering::Relaxed);
        self.queues.push(entry.id);
        self.exclusive.push((settings.kind == Kind::Exclusive).into());
        self.ids.push(Some(message.id.to_bytes()));
        self.keys.push(message.key.map(|key| key.bits().to_be_bytes()));
        self.ranks.push(message.priority.rank().into());
        self.deadlines
            .push(message.priority.deadline.map_or(NEVER, Timestamp::as_millis));
        self.visible.push(visible);
        self.expires.push(expires);
        self.attempts
            .push(message.attempts_max.unwrap_or(settings.attempts_max).into());
        self.fairness.push(message.fairness.map(|key| text::plain(&key)));
        self.metadata.push(text::pairs(&message.metadata));
        self.payloads.push(message.payload);
        drop(settings);
        self.entries.push((entry, visible));
    }

    fn into_call(self, now: i64) -> (Vec<(Arc<Entry>, i64)>, celesta_store::Call) {
        // Virtual time is counted place by place.
        let (queues, ranks, fairness, steps) = if self.fair {
            let (queues, ranks) = (Arg::Ints(self.queues), Arg::Ints(self.ranks));
            (queues, ranks, Arg::Texts(self.fairness), Arg::Ints(self.steps))
        } else {
            (narrow(self.queues), narrow(self.ranks), Arg::NoTexts, Arg::NoInts)
        };
        let some = |any: bool, arg: Arg, none: Arg| if any { arg } else { none };
        let has_keys = self.keys.iter().any(Option::is_some);
        let has_expiry = self.expires.iter().any(Option::is_some);
        let has_metadata = self.metadata.iter().any(Option::is_some);
        let args = vec![
            Arg::Int(now),
            queues,
            narrow(self.exclusive),
            Arg::Ids(self.ids),
            some(has_keys, Arg::Ids(self.keys), Arg::NoIds),
            ranks,
            narrow(self.deadlines),
            narrow(self.visible),
            some(has_expiry, Arg::OptionalInts(self.expires), Arg::NoInts),
            narrow(self.attempts),
            fairness,
            steps,
            some(has_metadata, Arg::Texts(self.metadata), Arg::NoTexts),
            Arg::Blobs(self.payloads),
        ];
        (self.entries, call("queue.enqueue", ENQUEUE, args))
    }
}
