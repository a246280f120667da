//! Enqueuing: in a caller's unit, handed over unstored, or on its own with group commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use celesta_store::Unit;
use celesta_types::Timestamp;

use crate::Queues;
use crate::core::{Core, Group, Settlement};
use crate::entry::Entry;
use crate::error::{EnqueueError, Error, Refused};
use crate::limits::{
    ATTEMPTS_MAX, BATCH_MAX, DELAY_MS_MAX, METADATA_BYTES_MAX, METADATA_PAIRS_MAX, PAYLOAD_BYTES_MAX,
    STAGED_MAX,
};
use crate::machine::State as Life;
use crate::message::{Enqueued, HandOver, NewMessage};
use crate::name::{Key, QueueName};
use crate::settings::{Kind, Settings};
use crate::shard::Queue;
use crate::state::{Mark, Room, State, Then};

/// What became of a message on its way into a unit.
enum Admitted {
    New(Mark),
    Existing,
    /// Somebody else's unit brings it, and is not durable yet.
    InFlight,
    /// It stays in the record until its time comes near.
    Later,
}

impl Queues {
    /// Adds `messages` to the caller's `unit`. They can be leased once the unit is durable; a unit that fails, or is
    /// dropped, leaves no trace of them. A message whose id is known already is left as it is.
    ///
    /// # Errors
    /// When a message is not allowed; then none of them is staged.
    pub fn stage_enqueue(&self, unit: &mut Unit, messages: Vec<NewMessage>) -> Result<(), EnqueueError> {
        if messages.len() > STAGED_MAX {
            return Err(EnqueueError::BatchTooLarge {
                given: messages.len(),
                max: STAGED_MAX,
            });
        }
        let core = &self.core;
        core.has_room(messages.len())?;
        // The rows go to a unit of their own first, so that an error leaves the caller's as it was.
        let mut rows = Unit::new();
        let mut staged = Settlement::new(core, Vec::new());
        let mut messages = core.by_shard(messages, |message| message).into_iter().peekable();
        while let Some(first) = messages.next() {
            let queue = core.queue_for(&first.queue)?;
            let name = first.queue.clone();
            Core::register_if_new(&queue, &mut rows);
            let shard = queue.shard_of(first.id, first.key);
            let mut marks = Vec::new();
            let outcome = core.with(&queue, shard, |state, now, _| {
                let mut next = Some(first);
                while let Some(message) = next {
                    if let Admitted::New(mark) = core.admit(state, message, now, &mut rows)? {
                        marks.push(mark);
                    }
                    next = messages.next_if(|message| belongs(message, &name, &queue, shard));
                }
                Ok(())
            });
            staged.push(Group { queue, shard, marks });
            outcome?;
        }
        unit.merge(rows);
        core.attach(unit, staged.take());
        Ok(())
    }

    /// Hands over messages that are the outcome of consuming others: each can be leased at once, *unstored*, and
    /// becomes durable together with its companion in the unit that completes it ([`Queues::stage_complete`]). When
    /// nobody takes it in time, or its consumer fails or gives it back, companion and message are committed on their
    /// own. Either way the companion's hooks tell its end; when the unit that consumed it fails, they are told so, and
    /// the message was never sent: hand it over again.
    ///
    /// The bound on messages in memory does not apply: each completes one that leaves.
    ///
    /// Gives back those that are not allowed, untouched.
    #[must_use = "what was refused has not happened"]
    pub fn hand_over(&self, hand_overs: Vec<HandOver>) -> Vec<Refused> {
        let core = &self.core;
        let mut refused = Vec::new();
        let mut known = Vec::new();
        let linger = i64::try_from(core.options.linger.as_millis()).unwrap_or(0);
        let mut hand_overs = hand_overs.into_iter().peekable();
        while let Some(first) = hand_overs.next() {
            let name = first.message.queue.clone();
            let queue = match core.queue_for(&name) {
                Ok(queue) => queue,
                Err(error) => {
                    refused.push(Refused {
                        hand_over: first,
                        error,
                    });
                    continue;
                }
            };
            let shard = queue.shard_of(first.message.id, first.message.key);
            core.with(&queue, shard, |state, now, parcels| {
                let linger = if core.shutdown.is_requested() { 0 } else { linger };
                let mut next = Some(first);
                while let Some(hand_over) = next {
                    next = hand_overs.next_if(|hand_over| belongs(&hand_over.message, &name, &queue, shard));
                    if let Err(error) = validate(&hand_over.message, &state.settings) {
                        refused.push(Refused { hand_over, error });
                        continue;
                    }
                    if let Some((_, entry)) = state.find(hand_over.message.id) {
                        if entry.stored && !entry.is_hidden() {
                            known.push(hand_over.companion);
                        } else {
                            let error = EnqueueError::InFlight {
                                id: hand_over.message.id,
                            };
                            refused.push(Refused { hand_over, error });
                        }
                        continue;
                    }
                    let HandOver { message, companion } = hand_over;
                    let (mut entry, key) = core.entry(message, &state.settings, now);
                    if entry.standing.state == Life::Pending && core.store.is_some() {
                        entry.rare_mut().companion = Some(Box::new(companion));
                        state.admit_unstored(entry, key, now.saturating_add(linger));
                    } else {
                        // Nobody may take it yet, or there is no record: it has nobody to travel with.
                        let mut unit = companion;
                        let at = state.admit(entry, key, &mut unit, Room::AMPLE);
                        parcels.push(crate::state::Parcel {
                            unit,
                            marks: vec![Mark {
                                at,
                                then: Then::Arrive,
                            }],
                        });
                    }
                }
                if linger == 0 {
                    state.store_lingering(now, parcels);
                }
            });
        }
        for companion in known {
            core.submit(companion);
        }
        refused
    }

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
        let core = &self.core;
        if messages.len() > BATCH_MAX {
            return Err(Error::BatchTooLarge {
                given: messages.len(),
                max: BATCH_MAX,
            });
        }
        core.known_later(&messages).await?;
        let room = core.has_room(messages.len());
        let mut outcomes: Vec<_> = messages.iter().map(|_| Ok(Enqueued::New)).collect();
        let mut in_flight: Vec<(usize, QueueName, usize, celesta_types::MessageId)> = Vec::new();
        let mut unit = Unit::new();
        let mut staged = Settlement::new(core, Vec::new());
        let messages = messages.into_iter().enumerate().collect();
        let mut messages = core
            .by_shard(messages, |(_, message)| message)
            .into_iter()
            .peekable();
        while let Some((at, first)) = messages.next() {
            let name = first.queue.clone();
            let queue = match room.clone().and_then(|()| core.queue_for(&name)) {
                Ok(queue) => queue,
                Err(error) => {
                    outcomes[at] = Err(error);
                    continue;
                }
            };
            Core::register_if_new(&queue, &mut unit);
            let shard = queue.shard_of(first.id, first.key);
            let mut marks = Vec::new();
            core.with(&queue, shard, |state, now, _| {
                let mut next = Some((at, first));
                while let Some((at, message)) = next {
                    let id = message.id;
                    match core.admit(state, message, now, &mut unit) {
                        Ok(Admitted::New(mark)) => marks.push(mark),
                        Ok(Admitted::Later) => {}
                        Ok(Admitted::Existing) => outcomes[at] = Ok(Enqueued::Existing),
                        Ok(Admitted::InFlight) => {
                            in_flight.push((at, name.clone(), shard, id));
                            outcomes[at] = Err(EnqueueError::InFlight { id });
                        }
                        Err(error) => outcomes[at] = Err(error),
                    }
                    next = messages.next_if(|(_, message)| belongs(message, &name, &queue, shard));
                }
            });
            staged.push(Group { queue, shard, marks });
        }
        core.attach(&mut unit, staged.take());
        if !unit.is_empty() || !in_flight.is_empty() {
            // Units are decided in order, so whatever was on its way before is decided after this.
            core.commit(unit).await?;
        }
        for (at, name, shard, id) in in_flight {
            let Some(queue) = core.find(&name) else { continue };
            if queue
                .shard(shard)
                .state
                .lock()
                .find(id)
                .is_some_and(|(_, entry)| !entry.arriving && entry.stored)
            {
                outcomes[at] = Ok(Enqueued::Existing);
            }
        }
        Ok(outcomes)
    }
}

impl Core {
    /// Brings messages of the same shard together, so that each shard is locked once. Their order within it stays.
    fn by_shard<T>(&self, mut messages: Vec<T>, message: impl Fn(&T) -> &NewMessage) -> Vec<T> {
        let shard_of = |given: &T| {
            let given = message(given);
            let queue = self.find(&given.queue)?;
            (queue.shards() > 1).then(|| (queue.index, queue.shard_of(given.id, given.key)))
        };
        // Batches are nearly always for one queue: the first one tells.
        if messages.first().is_some_and(|first| shard_of(first).is_some()) {
            messages.sort_by_cached_key(shard_of);
        }
        messages
    }

    fn has_room(&self, count: usize) -> Result<(), EnqueueError> {
        let max = self.options.messages_max;
        let held = usize::try_from(self.messages.load(Ordering::Relaxed)).unwrap_or(0);
        if held.saturating_add(count) > max {
            Err(EnqueueError::Full { max })
        } else {
            Ok(())
        }
    }

    fn queue_for(&self, name: &QueueName) -> Result<Arc<Queue>, EnqueueError> {
        self.find_or_make(name).map_err(|source| EnqueueError::Queue {
            queue: name.clone(),
            source,
        })
    }

    /// Reserves a message's place and adds its row.
    fn admit(
        self: &Arc<Self>,
        state: &mut State,
        message: NewMessage,
        now: i64,
        unit: &mut Unit,
    ) -> Result<Admitted, EnqueueError> {
        validate(&message, &state.settings)?;
        if let Some((_, entry)) = state.find(message.id) {
            return Ok(if entry.arriving || !entry.stored {
                Admitted::InFlight
            } else {
                Admitted::Existing
            });
        }
        let room = self.room(message.payload.len());
        let (entry, key) = self.entry(message, &state.settings, now);
        let Some((entry, key)) = self.admit_later(state.id, entry, key, now, unit)? else {
            return Ok(Admitted::Later);
        };
        Ok(Admitted::New(Mark {
            at: state.admit(entry, key, unit, room),
            then: Then::Arrive,
        }))
    }

    fn entry(&self, message: NewMessage, settings: &Settings, now: i64) -> (Entry, Option<Key>) {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let mut entry = Entry::new(message.id, seq, Some(message.payload));
        entry.prioritize(&message.priority);
        entry.enqueued_at = now;
        entry.standing.attempts_max = message.attempts_max.unwrap_or(settings.attempts_max);
        let visible_at = message
            .visible_at
            .map_or_else(|| now.saturating_add(settings.delay_ms), Timestamp::as_millis);
        if visible_at > now {
            entry.standing.state = Life::Invisible;
            entry.at = visible_at;
        }
        if let Some(ttl_ms) = message.ttl_ms.or(settings.ttl_ms) {
            entry.expire_at(now.saturating_add(ttl_ms));
        }
        if message.fairness.is_some() || !message.metadata.is_empty() {
            let rare = entry.rare_mut();
            rare.fairness = message.fairness;
            rare.metadata = (!message.metadata.is_empty()).then(|| message.metadata.into());
        }
        (entry, message.key)
    }
}

fn belongs(message: &NewMessage, name: &QueueName, queue: &Queue, shard: usize) -> bool {
    message.queue == *name && queue.shard_of(message.id, message.key) == shard
}

pub(crate) fn validate(message: &NewMessage, settings: &Settings) -> Result<(), EnqueueError> {
    let id = message.id;
    if settings.enqueue_blocked {
        return Err(EnqueueError::Blocked {
            queue: message.queue.clone(),
        });
    }
    if message.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(EnqueueError::PayloadTooLarge {
            id,
            bytes: message.payload.len(),
            max: PAYLOAD_BYTES_MAX,
        });
    }
    if settings.kind == Kind::Exclusive && message.key.is_none() {
        return Err(EnqueueError::MissingKey {
            id,
            queue: message.queue.clone(),
        });
    }
    let within = |what, given: i64, min: i64, max: i64| {
        if (min..=max).contains(&given) {
            Ok(())
        } else {
            Err(EnqueueError::OutOfRange {
                id,
                what,
                given,
                min,
                max,
            })
        }
    };
    let size = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    if let Some(ttl_ms) = message.ttl_ms {
        within("ttl_ms", ttl_ms, 1, DELAY_MS_MAX)?;
    }
    if let Some(attempts) = message.attempts_max {
        within("attempts_max", attempts.into(), 1, ATTEMPTS_MAX.into())?;
    }
    within(
        "the number of metadata pairs",
        size(message.metadata.len()),
        0,
        size(METADATA_PAIRS_MAX),
    )?;
    for text in message.metadata.iter().flat_map(|(name, value)| [name, value]) {
        within(
            "the length of a metadata text",
            size(text.len()),
            0,
            size(METADATA_BYTES_MAX),
        )?;
    }
    if let Some(fairness) = &message.fairness {
        within(
            "the length of the fairness key",
            size(fairness.len()),
            1,
            size(METADATA_BYTES_MAX),
        )?;
    }
    Ok(())
}
