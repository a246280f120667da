//! Leasing: who gets what is first, and for how long.

use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::{MessageId, Timestamp};

use super::{Parcel, State, Taking, push_rows, shift};
use crate::entry::{Entry, Order};
use crate::limits::RECORD_AFTER_MS;
use crate::machine::{Event, State as Life, Transition, transition};
use crate::message::{Happened, Leased, LeasedKey};
use crate::name::Token;
use crate::rows::Standing;
use crate::schema;

/// What is being leased.
#[derive(Default)]
pub(crate) struct Take {
    pub(crate) leased: Vec<Leased>,
    /// Which of them still want their payload from the record, and the rows it is in.
    pub(crate) missing: Vec<(usize, i64)>,
    /// Where the messages of each leased key end.
    pub(crate) bounds: Vec<usize>,
    unit: Unit,
}

impl State {
    /// Leases up to `max` messages of a simple queue, or one message each of up to `max` keys.
    pub(crate) fn lease(&mut self, taking: &Taking<'_>, max: usize, take: &mut Take) {
        while take.leased.len() < max
            && let Some(order) = self.next(taking)
        {
            self.serve(&order, 1, taking, take);
        }
    }

    /// Leases up to `max_keys` keys of an exclusive queue with their messages.
    pub(crate) fn lease_keys(
        &mut self,
        taking: &Taking<'_>,
        max_keys: usize,
        max_messages: usize,
        keys: &mut Vec<LeasedKey>,
        take: &mut Take,
    ) {
        let before = keys.len();
        while keys.len() - before < max_keys
            && let Some(order) = self.next(taking)
        {
            self.serve_key(&order, max_messages, taking, keys, take);
        }
    }

    /// Sends off what leases have to write.
    pub(crate) fn written(take: &mut Take, parcels: &mut Vec<Parcel>) {
        push_rows(std::mem::take(&mut take.unit), parcels);
    }

    /// What comes first, unless it is to be left alone.
    fn next(&self, taking: &Taking<'_>) -> Option<Order> {
        if self.settings.dequeue_blocked {
            return None;
        }
        let order = self.schedule.first()?;
        let entry = self.slots.get(order.slot)?;
        (entry.payload.is_some() || !taking.resident_only).then_some(order)
    }

    pub(super) fn serve_key(
        &mut self,
        order: &Order,
        max_messages: usize,
        taking: &Taking<'_>,
        keys: &mut Vec<LeasedKey>,
        take: &mut Take,
    ) {
        let Some(key) = self.slots.get(order.slot).and_then(|entry| self.key_of(entry)) else {
            return;
        };
        let from = take.leased.len();
        self.serve(order, max_messages, taking, take);
        // They are cut off the flat list when their payloads are there.
        keys.push(LeasedKey {
            key,
            messages: Vec::with_capacity(take.leased.len() - from),
        });
        take.bounds.push(take.leased.len());
    }

    /// Leases the message at `order`, which is in the schedule, and of an exclusive queue up to `max` of its key.
    pub(super) fn serve(&mut self, order: &Order, max: usize, taking: &Taking<'_>, take: &mut Take) {
        let Some(entry) = self.slots.get(order.slot) else {
            return;
        };
        let (flow, key, exclusive) = (entry.flow, entry.key, self.is_exclusive(entry));
        self.unseat(order);
        self.schedule.charge(order, flow);
        let token = (taking.token)();
        if !exclusive {
            self.start(order.slot, token, taking, take);
            return;
        }
        let max = if taking.resident_only {
            let waiting = self.keys.waiting(key, max);
            let resident = waiting.iter().take_while(|&&slot| {
                let entry = self.slots.get(slot);
                entry.is_some_and(|entry| entry.payload.is_some())
            });
            resident.count()
        } else {
            max
        };
        let mut taken = std::mem::take(&mut self.taken);
        self.keys.take(key, max, &self.slots, &mut taken);
        take.leased.reserve(taken.len());
        for slot in taken.drain(..) {
            self.start(slot, token, taking, take);
        }
        self.taken = taken;
    }

    fn start(&mut self, slot: u32, token: u64, taking: &Taking<'_>, take: &mut Take) {
        let until = taking.now.saturating_add(taking.lease_ms);
        let suspects = taking.now < taking.suspect_until;
        let at = self.slots.reference(slot);
        let Some(entry) = self.slots.get_mut(slot) else {
            return;
        };
        let moved = transition(entry.standing, Event::Lease);
        let Ok(Transition::Moved(standing)) = moved else {
            unreachable!("only pending messages are in the order: {moved:?}")
        };
        shift(&mut self.counts, entry, standing);
        entry.at = until;
        let rare = entry.rare_mut();
        rare.token = token;
        rare.leased_at = taking.now;
        rare.consumer = Some(Arc::clone(taking.consumer));
        let metadata = rare.metadata.clone();
        if entry.deadline < taking.now {
            self.tally.missed_deadlines += 1;
        }
        if entry.recovered && suspects && entry.stored {
            record_lease(entry, &mut take.unit);
        }
        self.leased_since += 1;
        let payload = entry.payload.clone().unwrap_or_else(|| {
            take.missing.push((take.leased.len(), entry.seq));
            Arc::from([])
        });
        let key = entry.key;
        let mut leased = Leased {
            id: entry.id(),
            queue: taking.queue.clone(),
            key: None,
            priority: entry.priority(),
            payload,
            attempt: entry.standing.attempt,
            attempts_max: entry.standing.attempts_max,
            token: Token::from_bits(token),
            enqueued_at: Timestamp::from_millis(entry.enqueued_at),
            leased_until: Timestamp::from_millis(until),
            metadata,
        };
        if key != crate::entry::NO_KEY {
            leased.key = Some(self.keys.key(key));
        }
        take.leased.push(leased);
        if taking.lease_ms > RECORD_AFTER_MS {
            self.drop_stale_young();
            self.young
                .push_back((taking.now.saturating_add(RECORD_AFTER_MS), at, token));
        } else {
            self.push_due(until, slot, false);
        }
    }

    fn drop_stale_young(&mut self) {
        while let Some(&(_, at, token)) = self.young.front()
            && self
                .slots
                .resolve(at)
                .is_none_or(|entry| entry.token() != token || entry.standing.state != Life::Running)
        {
            self.young.pop_front();
        }
    }

    /// The slot of a lease that still holds and is not being settled.
    pub(crate) fn held(&self, id: MessageId, token: Token) -> Option<u32> {
        let (slot, entry) = self.find(id)?;
        let holds = entry.standing.state == Life::Running && entry.token() == token.bits() && !entry.settling;
        holds.then_some(slot)
    }

    pub(crate) fn extend(&mut self, id: MessageId, token: Token, until: i64, now: i64) -> bool {
        let Some(slot) = self.held(id, token) else {
            return false;
        };
        let what = Happened::Extended {
            until: Timestamp::from_millis(until),
        };
        self.note_at(slot, what, now);
        let Some(entry) = self.slots.get_mut(slot) else {
            return false;
        };
        let shorter = until < entry.at;
        entry.at = until;
        if shorter {
            self.push_due(until, slot, false);
        }
        true
    }
}

/// Writes down that the message is running, so that the attempt counts after a crash.
pub(super) fn record_lease(entry: &mut Entry, unit: &mut Unit) {
    entry.recorded = true;
    let standing = Standing {
        state: Life::Running,
        attempt: entry.standing.attempt,
        at: entry.at,
        error: None,
        happened: &[],
    };
    schema::change(unit, entry, &standing);
}
