//! What people and schedulers do with queues: configure, look, cancel, redrive, reorder.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use celesta_store::Unit;
use celesta_types::{MessageId, Priority, Timestamp};

use crate::Queues;
use crate::core::{Core, Group, Queue, Settlement};
use crate::entry::{Entry, Order};
use crate::error::{Error, MessageError};
use crate::limits::{BATCH_MAX, LIST_MAX};
use crate::machine::{IllegalTransition, State as Life};
use crate::message::{Filter, History, MessageView, Page, Stats};
use crate::name::QueueName;
use crate::settings::{ConfigureError, Settings};
use crate::state::{Mark, State};
use crate::watch::Watch;

impl Queues {
    /// Makes `queue` or changes what it is configured to do, at once; the record follows in the background. Messages
    /// that are in the queue keep the attempts and times they were given.
    ///
    /// # Errors
    /// When a setting is out of range, or the kind of a queue that holds messages would change.
    pub fn configure(&self, queue: &QueueName, settings: Settings) -> Result<(), ConfigureError> {
        settings.validate()?;
        let queue = match self.core.find(queue) {
            Some(queue) => queue,
            None => self.core.make(queue, settings.clone())?,
        };
        let changed = self.core.with(&queue, |state, _, _| {
            if state.settings == settings {
                return Ok(false);
            }
            if state.slots.len() > 0 && state.settings.kind != settings.kind {
                return Err(ConfigureError::KindInUse {
                    queue: queue.name.clone(),
                    kind: state.settings.kind,
                });
            }
            state.settings = settings;
            Ok(true)
        })?;
        if changed {
            self.core.save(&queue);
        }
        Ok(())
    }

    /// All queues by name.
    #[must_use]
    pub fn list_queues(&self) -> Vec<Stats> {
        let mut queues = self.core.registry.read().by_index.clone();
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        queues.iter().map(|queue| self.core.stats(queue)).collect()
    }

    /// One queue in numbers.
    #[must_use]
    pub fn stats(&self, queue: &QueueName) -> Option<Stats> {
        self.core.find(queue).map(|queue| self.core.stats(&queue))
    }

    /// How many messages of the queue have not ended: invisible, pending or running.
    #[must_use]
    pub fn depth(&self, queue: &QueueName) -> usize {
        self.stats(queue).map_or(0, |stats| {
            [Life::Invisible, Life::Pending, Life::Running]
                .map(|state| stats.count(state))
                .iter()
                .sum()
        })
    }

    /// What can be leased this instant: messages, or free keys of an exclusive queue. Takes no lock.
    #[must_use]
    pub fn ready_count(&self, queue: &QueueName) -> usize {
        self.core
            .find(queue)
            .map_or(0, |queue| queue.ready.load(Ordering::Acquire))
    }

    /// A watch on these queues; each is made from its template when there is none yet.
    ///
    /// # Errors
    /// When there are too many queues to make one.
    pub fn watch(&self, queues: &[QueueName]) -> Result<Watch, ConfigureError> {
        let watch = Watch::new(&self.core);
        queues.iter().try_for_each(|queue| watch.add(queue))?;
        Ok(watch)
    }

    /// A watch on all queues, present and future, whose names begin with `prefix`.
    #[must_use]
    pub fn watch_prefix(&self, prefix: &str) -> Watch {
        let watch = Watch::new(&self.core);
        watch.add_prefix(prefix);
        watch
    }

    /// Up to `limit` messages (at most 1,000) in the order they would be leased, without leasing them.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn peek(&self, queue: &QueueName, limit: usize) -> Result<Vec<MessageView>, Error> {
        let filter = Filter {
            states: vec![Life::Pending],
            metadata: Vec::new(),
        };
        Ok(self.first(queue, &filter, limit))
    }

    /// A page of up to `limit` messages (at most 1,000) that match, in no particular order. The next page begins `after`
    /// what this one gives as its end; a message that stays throughout is listed once.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn list(
        &self,
        queue: &QueueName,
        filter: &Filter,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page, Error> {
        let messages = if after.is_some() {
            Vec::new()
        } else {
            self.first(queue, filter, limit)
        };
        Ok(Page { messages, next: None })
    }

    fn first(&self, queue: &QueueName, filter: &Filter, limit: usize) -> Vec<MessageView> {
        let limit = limit.min(LIST_MAX);
        let Some(queue) = self.core.find(queue) else {
            return Vec::new();
        };
        let state = queue.state.lock();
        let mut first: BinaryHeap<Order> = BinaryHeap::with_capacity(limit + 1);
        for (slot, entry) in state
            .slots
            .iter()
            .filter(|(_, entry)| !entry.arriving && matches(entry, filter))
        {
            first.push(entry.order(slot));
            if first.len() > limit {
                first.pop();
            }
        }
        let orders = first.into_sorted_vec();
        orders
            .iter()
            .filter_map(|order| state.slots.get(order.slot))
            .map(view)
            .collect()
    }

    /// How many messages of the queue match.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn count(&self, queue: &QueueName, filter: &Filter) -> Result<usize, Error> {
        let Some(queue) = self.core.find(queue) else {
            return Ok(0);
        };
        let state = queue.state.lock();
        let entries = state.slots.iter().filter(|(_, entry)| !entry.arriving);
        Ok(entries.filter(|(_, entry)| matches(entry, filter)).count())
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
            alive.states = vec![Life::Invisible, Life::Pending, Life::Running];
        } else if alive.states.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = self
            .first(queue, &alive, max)
            .iter()
            .map(|message| message.id)
            .collect();
        let outcomes = self.cancel(queue, &ids).await?;
        let canceled = ids.into_iter().zip(outcomes);
        Ok(canceled
            .filter_map(|(id, outcome)| outcome.is_ok().then_some(id))
            .collect())
    }

    /// One message as it stands: its state, attempts, times and last error. Ended messages are known as long as the
    /// queue keeps them.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn view(&self, queue: &QueueName, id: MessageId) -> Result<Option<MessageView>, Error> {
        let Some(queue) = self.core.find(queue) else {
            return Ok(None);
        };
        let state = queue.state.lock();
        Ok(state.find(id).map(|(_, entry)| view(entry)))
    }

    /// One message from its beginning to now; also when it has ended, as long as the queue keeps histories.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn history(&self, queue: &QueueName, id: MessageId) -> Result<Option<History>, Error> {
        let message = self.view(queue, id).await?;
        Ok(message.map(|message| History {
            message,
            timeline: Vec::new(),
        }))
    }

    /// Calls messages back in the caller's `unit`. From now on nobody leases them; a consumer that has one finds its
    /// lease over once the unit is durable. Messages that are unknown, have ended or are being settled are left alone.
    /// Gives the ids that will be canceled.
    pub fn stage_cancel(&self, unit: &mut Unit, queue: &QueueName, ids: &[MessageId]) -> Vec<MessageId> {
        let Some(queue) = self.core.find(queue) else {
            return Vec::new();
        };
        let mut canceled = Vec::new();
        let begin = |state: &mut State, slot, now, unit: &mut Unit| state.begin_cancel(slot, now, unit);
        let (outcomes, marks) = self.core.begin(&queue, ids, unit, begin);
        canceled.extend(
            ids.iter()
                .zip(outcomes)
                .filter(|(_, outcome)| outcome.is_ok())
                .map(|(id, _)| *id),
        );
        self.core.attach(unit, vec![Group { queue, marks }]);
        canceled
    }

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
            .change(queue, ids, |state, slot, now, unit| {
                state.begin_cancel(slot, now, unit)
            })
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
            .change(queue, ids, |state, slot, now, unit| {
                state.begin_redrive(slot, now, unit)
            })
            .await
    }

    /// Moves waiting messages within the order, at once, and waits until that is durable. The answer has one outcome for
    /// each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; the order in memory stands all the same.
    pub async fn reprioritize(
        &self,
        queue: &QueueName,
        changes: &[(MessageId, Priority)],
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        let ids: Vec<_> = changes.iter().map(|(id, _)| *id).collect();
        let mut priorities = changes.iter().map(|(_, priority)| priority);
        let mut next = move || priorities.next().copied().unwrap_or_default();
        let Some(found) = self.core.find(queue) else {
            return Ok(ids
                .iter()
                .map(|&id| {
                    Err(MessageError::Unknown {
                        queue: queue.clone(),
                        id,
                    })
                })
                .collect());
        };
        if ids.len() > BATCH_MAX {
            return Err(Error::BatchTooLarge {
                given: ids.len(),
                max: BATCH_MAX,
            });
        }
        let mut unit = Unit::new();
        let outcomes = self.core.with(&found, |state, _, _| {
            let change = |&id: &MessageId| {
                let priority = next();
                let slot = state.slot_to_change(&found.name, id)?;
                state
                    .reprioritize(slot, &priority, &mut unit)
                    .map_err(|source| MessageError::Illegal { id, source })
            };
            ids.iter().map(change).collect()
        });
        self.core.commit(unit).await?;
        Ok(outcomes)
    }
}

impl State {
    fn slot_to_change(&self, queue: &QueueName, id: MessageId) -> Result<u32, MessageError> {
        let (slot, entry) = self.find(id).ok_or_else(|| MessageError::Unknown {
            queue: queue.clone(),
            id,
        })?;
        if entry.settling {
            Err(MessageError::Busy { id })
        } else {
            Ok(slot)
        }
    }
}

impl Core {
    fn stats(self: &Arc<Self>, queue: &Arc<Queue>) -> Stats {
        self.with(queue, |state, _, _| Stats {
            queue: queue.name.clone(),
            settings: state.settings.clone(),
            ready: state.ready(),
            arriving: state.arriving,
            counts: state.counts,
            overtaken: 0,
        })
    }

    fn begin(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        ids: &[MessageId],
        unit: &mut Unit,
        begin: impl Fn(&mut State, u32, i64, &mut Unit) -> Result<Option<Mark>, IllegalTransition>,
    ) -> (Vec<Result<(), MessageError>>, Vec<Mark>) {
        let mut marks = Vec::new();
        let outcomes = self.with(queue, |state, now, _| {
            let change = |&id: &MessageId| {
                let slot = state.slot_to_change(&queue.name, id)?;
                marks.extend(
                    begin(state, slot, now, unit).map_err(|source| MessageError::Illegal { id, source })?,
                );
                Ok(())
            };
            ids.iter().map(change).collect()
        });
        (outcomes, marks)
    }

    async fn change(
        self: &Arc<Self>,
        queue: &QueueName,
        ids: &[MessageId],
        begin: impl Fn(&mut State, u32, i64, &mut Unit) -> Result<Option<Mark>, IllegalTransition>,
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        if ids.len() > BATCH_MAX {
            return Err(Error::BatchTooLarge {
                given: ids.len(),
                max: BATCH_MAX,
            });
        }
        let Some(found) = self.find(queue) else {
            return Ok(ids
                .iter()
                .map(|&id| {
                    Err(MessageError::Unknown {
                        queue: queue.clone(),
                        id,
                    })
                })
                .collect());
        };
        let mut unit = Unit::new();
        let (outcomes, marks) = self.begin(&found, ids, &mut unit, begin);
        let staged = Settlement::new(Arc::clone(self), vec![Group { queue: found, marks }]);
        self.attach(&mut unit, staged.take());
        self.commit(unit).await?;
        Ok(outcomes)
    }
}

fn matches(entry: &Entry, filter: &Filter) -> bool {
    let in_state = filter.states.is_empty() || filter.states.contains(&entry.standing.state);
    let has = |pair| entry.metadata.as_ref().is_some_and(|pairs| pairs.contains(pair));
    in_state && filter.metadata.iter().all(has)
}

fn view(entry: &Entry) -> MessageView {
    MessageView {
        id: entry.id,
        key: entry.key,
        state: entry.standing.state,
        priority: entry.priority(),
        attempt: entry.standing.attempt,
        attempts_max: entry.standing.attempts_max,
        enqueued_at: Timestamp::from_millis(entry.enqueued_at),
        at: (entry.standing.state != Life::Pending).then(|| Timestamp::from_millis(entry.at)),
        consumer: entry.consumer.clone(),
        error: entry.error.as_deref().map(str::to_owned),
        metadata: entry
            .metadata
            .as_ref()
            .map_or_else(Vec::new, |pairs| pairs.to_vec()),
        payload: Some(Arc::clone(&entry.payload)),
    }
}
