//! What people and schedulers do with queues: configure, watch, cancel, redrive, reorder; and look, which is in `look`.

mod look;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use celesta_store::Unit;
use celesta_types::{MessageId, Priority};

use crate::Queues;
use crate::core::{Core, Group, Settlement};
use crate::error::{Error, MessageError};
use crate::limits::BATCH_MAX;
use crate::machine::{IllegalTransition, State as Life};
use crate::message::{Filter, Stats};
use crate::name::QueueName;
use crate::settings::{ConfigureError, Settings};
use crate::shard::Queue;
use crate::state::{Mark, State};
use crate::watch::Watch;

impl Queues {
    /// The queues whose messages are sent to a broker.
    #[must_use]
    pub fn on_broker(&self) -> Vec<QueueName> {
        let registry = self.core.registry.read();
        let sent = registry.by_index.iter().filter(|queue| queue.is_on_broker());
        sent.map(|queue| queue.name.clone()).collect()
    }

    /// Makes `queue` or changes what it is configured to do, at once; the record follows in the background. Messages
    /// that are in the queue keep the attempts and times they were given.
    ///
    /// # Errors
    /// When a setting is out of range, or the kind or the shards of a queue that holds messages would change.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a queue that is made takes them whole"
    )]
    pub fn configure(&self, queue: &QueueName, settings: Settings) -> Result<(), ConfigureError> {
        settings.validate()?;
        let queue = match self.core.find(queue) {
            Some(queue) => queue,
            None => self.core.make(queue, settings.clone())?,
        };
        let wanted = settings.kind;
        let now = queue.settings();
        if self.core.later.count(queue.id) > 0 && (now.kind != wanted || now.shards != settings.shards) {
            let (queue, kind, shards) = (queue.name.clone(), now.kind, now.shards);
            return Err(if kind == wanted {
                ConfigureError::ShardsInUse { queue, shards }
            } else {
                ConfigureError::KindInUse { queue, kind }
            });
        }
        let changed = queue.configure(&settings).map_err(|(kind, shards)| {
            let queue = queue.name.clone();
            if kind == wanted {
                ConfigureError::ShardsInUse { queue, shards }
            } else {
                ConfigureError::KindInUse { queue, kind }
            }
        })?;
        if changed {
            // What can be leased may have changed with it.
            for shard in 0..queue.shards() {
                self.core.with(&queue, shard, |_, _, _| ());
            }
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
        self.core.find(queue).map_or(0, |queue| queue.ready())
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
        let Some(found) = self.core.find(queue) else {
            return Ok(Vec::new());
        };
        let (max, mut ids, mut cursor) = (max.min(BATCH_MAX), Vec::new(), None);
        while ids.len() < max {
            let (messages, next) = self.core.look(&found, &alive, cursor, max - ids.len()).await?;
            ids.extend(messages.iter().map(|message| message.id));
            if next.is_none() {
                break;
            }
            cursor = next;
            tokio::task::yield_now().await;
        }
        let outcomes = self.cancel(queue, &ids).await?;
        let canceled = ids.into_iter().zip(outcomes);
        Ok(canceled
            .filter_map(|(id, outcome)| outcome.is_ok().then_some(id))
            .collect())
    }

    /// Calls messages back in the caller's `unit`. From now on nobody leases them; a consumer that has one finds its
    /// lease over once the unit is durable. Messages that are unknown, have ended or are being settled are left alone.
    /// Gives the ids that will be canceled, as far as they are in memory; those that become visible much later are called
    /// back with them.
    pub fn stage_cancel(&self, unit: &mut Unit, queue: &QueueName, ids: &[MessageId]) -> Vec<MessageId> {
        let Some(queue) = self.core.find(queue) else {
            return Vec::new();
        };
        let mut groups = Vec::new();
        let outcomes = self.core.begin_cancels(&queue, ids, unit, &mut groups);
        self.core.attach(unit, groups);
        let canceled = ids.iter().zip(outcomes);
        canceled
            .filter_map(|(id, outcome)| outcome.is_ok().then_some(*id))
            .collect()
    }

    /// Moves waiting messages within the order, in the caller's `unit`. Messages that are unknown, have ended, run or are
    /// being settled are left alone. The order in memory moves at once, and stands even when the unit fails.
    pub fn stage_reprioritize(&self, unit: &mut Unit, queue: &QueueName, changes: &[(MessageId, Priority)]) {
        let Some(queue) = self.core.find(queue) else {
            return;
        };
        let ids: Vec<_> = changes.iter().map(|(id, _)| *id).collect();
        let mut groups = Vec::new();
        let change = |state: &mut State, slot: u32, at: usize, now: i64, unit: &mut Unit| {
            state.reprioritize(slot, &changes[at].1, now, unit)?;
            Ok(None)
        };
        // Whatever is not there any more has no order.
        let _outcomes = self.core.begin(&queue, &ids, unit, &mut groups, change);
        self.core.attach(unit, groups);
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
            .change_with(queue, ids, |queue, unit, groups| {
                self.core.begin_cancels(queue, ids, unit, groups)
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
            .change(queue, ids, |state, slot, _, now, unit| {
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
        self.core
            .change(queue, &ids, |state, slot, at, now, unit| {
                state.reprioritize(slot, &changes[at].1, now, unit)?;
                Ok(None)
            })
            .await
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

/// What is done to one message: its slot, its place in the call, the instant, and the unit it goes into.
trait Change: Fn(&mut State, u32, usize, i64, &mut Unit) -> Result<Option<Mark>, IllegalTransition> {}

impl<T: Fn(&mut State, u32, usize, i64, &mut Unit) -> Result<Option<Mark>, IllegalTransition>> Change for T {}

impl Core {
    fn stats(self: &Arc<Self>, queue: &Arc<Queue>) -> Stats {
        let mut stats = Stats {
            queue: queue.name.clone(),
            settings: queue.settings(),
            ready: 0,
            arriving: 0,
            counts: [0; Life::ALL.len()],
            overtaken: queue.overtaken.load(Ordering::Relaxed),
        };
        for shard in 0..queue.shards() {
            self.with(queue, shard, |state, _, _| {
                stats.ready += state.ready();
                stats.arriving += state.arriving;
                for (sum, count) in stats.counts.iter_mut().zip(state.counts) {
                    *sum += count;
                }
            });
        }
        stats.counts[Life::Invisible.index()] += self.later.count(queue.id);
        stats
    }

    /// Begins a change of messages, each in the shard that has it.
    fn begin(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        ids: &[MessageId],
        unit: &mut Unit,
        groups: &mut Vec<Group>,
        change: impl Change,
    ) -> Vec<Result<(), MessageError>> {
        let unknown = |&id: &MessageId| {
            Err(MessageError::Unknown {
                queue: queue.name.clone(),
                id,
            })
        };
        let mut outcomes: Vec<_> = ids.iter().map(unknown).collect();
        for number in 0..queue.shards() {
            let mut marks = Vec::new();
            self.with(queue, number, |state, now, _| {
                for (at, &id) in ids.iter().enumerate() {
                    let slot = match state.slot_to_change(&queue.name, id) {
                        Ok(slot) => slot,
                        Err(MessageError::Unknown { .. }) => continue,
                        Err(error) => {
                            outcomes[at] = Err(error);
                            continue;
                        }
                    };
                    outcomes[at] = match change(state, slot, at, now, unit) {
                        Ok(mark) => {
                            marks.extend(mark);
                            Ok(())
                        }
                        Err(source) => Err(MessageError::Illegal { id, source }),
                    };
                }
            });
            groups.push(Group {
                queue: Arc::clone(queue),
                shard: number,
                marks,
            });
        }
        outcomes
    }

    /// Begins to call messages back, wherever they are.
    fn begin_cancels(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        ids: &[MessageId],
        unit: &mut Unit,
        groups: &mut Vec<Group>,
    ) -> Vec<Result<(), MessageError>> {
        let calling = self.begin_calling(queue.id, ids);
        let outcomes = self.begin(queue, ids, unit, groups, |state, slot, _, now, unit| {
            state.begin_cancel(slot, now, unit)
        });
        if let Some(calling) = calling {
            calling.stage(unit);
        }
        outcomes
    }

    async fn change(
        self: &Arc<Self>,
        queue: &QueueName,
        ids: &[MessageId],
        change: impl Change,
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        self.change_with(queue, ids, |queue, unit, groups| {
            self.begin(queue, ids, unit, groups, change)
        })
        .await
    }

    async fn change_with(
        self: &Arc<Self>,
        queue: &QueueName,
        ids: &[MessageId],
        begin: impl FnOnce(&Arc<Queue>, &mut Unit, &mut Vec<Group>) -> Vec<Result<(), MessageError>>,
    ) -> Result<Vec<Result<(), MessageError>>, Error> {
        if ids.len() > BATCH_MAX {
            return Err(Error::BatchTooLarge {
                given: ids.len(),
                max: BATCH_MAX,
            });
        }
        let Some(found) = self.find(queue) else {
            let unknown = |&id: &MessageId| {
                Err(MessageError::Unknown {
                    queue: queue.clone(),
                    id,
                })
            };
            return Ok(ids.iter().map(unknown).collect());
        };
        self.bring_near(&found, ids).await?;
        let mut unit = Unit::new();
        let mut groups = Vec::new();
        let outcomes = begin(&found, &mut unit, &mut groups);
        let staged = Settlement::new(self, groups);
        self.attach(&mut unit, staged.take());
        self.commit(unit).await?;
        Ok(outcomes)
    }
}
