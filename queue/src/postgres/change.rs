//! Changes of messages by their ids: cancel, redrive, reprioritize.

use std::sync::Arc;

use celesta_store::Arg;
use celesta_types::{MessageId, Priority, Timestamp};

use super::{Core, SharedQueues, call, text};
use crate::entry::NEVER;
use crate::error::{Error, MessageError};
use crate::limits::BATCH_MAX;
use crate::machine::{Event, Standing, State, transition};
use crate::message::Filter;
use crate::name::QueueName;

/// A change as the database knows it.
struct Change {
    code: i64,
    event: Event,
    letter: char,
    ranks: Vec<i64>,
    deadlines: Vec<i64>,
}

impl Change {
    const fn plain(code: i64, event: Event, letter: char) -> Self {
        Self {
            code,
            event,
            letter,
            ranks: Vec::new(),
            deadlines: Vec::new(),
        }
    }
}

impl SharedQueues {
    /// Calls messages back and waits until that is durable. The answer has one outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn cancel(
        &self,
        queue: &QueueName,
        ids: &[MessageId],
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        self.core
            .change(queue, ids, Change::plain(1, Event::Cancel, 'K'))
            .await
    }

    /// Gives errored or expired messages a new set of attempts and waits until that is durable. The answer has one
    /// outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn redrive(
        &self,
        queue: &QueueName,
        ids: &[MessageId],
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        self.core
            .change(queue, ids, Change::plain(2, Event::Redrive, 'D'))
            .await
    }

    /// Moves waiting messages within the order and waits until that is durable. The answer has one outcome for each, in
    /// order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn reprioritize(
        &self,
        queue: &QueueName,
        changes: &[(MessageId, Priority)],
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        let ids: Vec<_> = changes.iter().map(|(id, _)| *id).collect();
        let mut change = Change::plain(3, Event::Reprioritize, 'P');
        for (_, priority) in changes {
            change.ranks.push(priority.rank().into());
            change
                .deadlines
                .push(priority.deadline.map_or(NEVER, Timestamp::as_millis));
        }
        self.core.change(queue, &ids, change).await
    }

    /// Calls back up to `max` messages (at most 10,000) that match and have not ended, and waits until that is durable.
    /// Gives their ids; none when nothing is left to cancel.
    ///
    /// # Errors
    /// When the record does not take it; then nothing has changed.
    pub async fn cancel_matching(
        &self,
        queue: &QueueName,
        filter: &Filter,
        max: usize,
    ) -> Result<Vec<MessageId>, Error> {
        let mut alive = filter.clone();
        alive.states.retain(|state| !state.is_ended());
        if filter.states.is_empty() {
            alive.states = vec![State::Invisible, State::Pending, State::Running];
        } else if alive.states.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.core.matching(queue, &alive, max.min(BATCH_MAX)).await?;
        let outcomes = self.cancel(queue, &ids).await?;
        let canceled = ids.into_iter().zip(outcomes);
        Ok(canceled
            .filter_map(|(id, outcome)| outcome.is_ok().then_some(id))
            .collect())
    }
}

impl Core {
    async fn change(
        self: &Arc<Self>,
        queue: &QueueName,
        ids: &[MessageId],
        change: Change,
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        if ids.len() > BATCH_MAX {
            return Err(Error::BatchTooLarge {
                given: ids.len(),
                max: BATCH_MAX,
            });
        }
        let unknown = |&id: &MessageId| {
            Err(MessageError::Unknown {
                queue: queue.clone(),
                id,
            })
        };
        let mut outcomes: Vec<_> = ids.iter().map(unknown).collect();
        let Some(entry) = self.find(queue).await? else {
            return Ok(outcomes);
        };
        self.sweep_if_due().await?;
        let now = self.now();
        let event = text::event(1, now, change.letter, "");
        let args = vec![
            Arg::Int(now),
            Arg::Int(change.code),
            Arg::Int(entry.id),
            Arg::Ids(ids.iter().map(|id| Some(id.to_bytes())).collect()),
            Arg::Ints(change.ranks),
            Arg::Ints(change.deadlines),
            Arg::Text(Some(event)),
        ];
        let sql = "SELECT * FROM queue_change($1, $2, $3, $4, $5, $6, $7)";
        let rows = self.database.write(&[call("queue.change", sql, args)]).await?;
        let mut changed = false;
        for row in rows.iter().flatten() {
            let at = row.int(0).and_then(|place| usize::try_from(place - 1).ok());
            let (Some(at), Some(state)) = (at, row.int(1).and_then(State::from_code)) else {
                continue;
            };
            let standing = Standing {
                state,
                attempt: 0,
                attempts_max: 1,
            };
            let decided = transition(standing, change.event);
            changed |= decided.is_ok();
            outcomes[at] = decided
                .map(drop)
                .map_err(|source| MessageError::Illegal { id: ids[at], source });
        }
        if changed {
            self.arm(now.saturating_add(entry.settings.read().keep_ended_ms));
            self.freed(&entry);
        }
        Ok(outcomes)
    }
}
