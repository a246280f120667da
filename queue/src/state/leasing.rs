//! Leasing: who gets what is first, and for how long.

use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::{MessageId, Timestamp};

use super::{Parcel, State, Taking, push_rows, shift};
use crate::entry::Entry;
use crate::limits::RECORD_AFTER_MS;
use crate::machine::{Event, State as Life, Transition, transition};
use crate::message::{Leased, LeasedKey};
use crate::name::Token;
use crate::schema;
use crate::settings::Kind;

impl State {
    /// Leases up to `max` messages of a simple queue, or one message each of up to `max` keys.
    pub(crate) fn lease(
        &mut self,
        taking: &Taking<'_>,
        max: usize,
        leased: &mut Vec<Leased>,
        parcels: &mut Vec<Parcel>,
    ) {
        if self.settings.dequeue_blocked {
            return;
        }
        let mut unit = Unit::new();
        if self.settings.kind == Kind::Exclusive {
            while leased.len() < max
                && let Some((_, slot)) = self.keys.first(&self.slots)
            {
                self.take_key(slot, 1, taking, &mut unit, leased);
            }
        } else {
            while leased.len() < max
                && let Some(order) = self.head()
            {
                self.order.pop();
                self.waiting -= 1;
                let token = (taking.token)();
                leased.extend(self.start(order.slot, token, taking, &mut unit));
            }
        }
        push_rows(unit, parcels);
    }

    /// Leases up to `max_keys` keys with their messages.
    pub(crate) fn lease_keys(
        &mut self,
        taking: &Taking<'_>,
        max_keys: usize,
        max_messages: usize,
        leased: &mut Vec<LeasedKey>,
        parcels: &mut Vec<Parcel>,
    ) {
        if self.settings.dequeue_blocked {
            return;
        }
        let mut unit = Unit::new();
        while leased.len() < max_keys
            && let Some((key, slot)) = self.keys.first(&self.slots)
        {
            let mut messages = Vec::new();
            self.take_key(slot, max_messages, taking, &mut unit, &mut messages);
            leased.push(LeasedKey { key, messages });
        }
        push_rows(unit, parcels);
    }

    pub(super) fn take_key(
        &mut self,
        slot: u32,
        max: usize,
        taking: &Taking<'_>,
        unit: &mut Unit,
        leased: &mut Vec<Leased>,
    ) {
        let mut taken = std::mem::take(&mut self.taken);
        self.keys.take(slot, max, &self.slots, &mut taken);
        let token = (taking.token)();
        leased.reserve(taken.len());
        for slot in taken.drain(..) {
            leased.extend(self.start(slot, token, taking, unit));
        }
        self.taken = taken;
    }

    pub(super) fn start(
        &mut self,
        slot: u32,
        token: u64,
        taking: &Taking<'_>,
        unit: &mut Unit,
    ) -> Option<Leased> {
        let until = taking.now.saturating_add(taking.lease_ms);
        let suspects = taking.now < taking.suspect_until;
        let at = self.slots.reference(slot);
        let entry = self.slots.get_mut(slot)?;
        let moved = transition(entry.standing, Event::Lease);
        let Ok(Transition::Moved(standing)) = moved else {
            unreachable!("only pending messages are in the order: {moved:?}")
        };
        shift(&mut self.counts, entry, standing);
        entry.at = until;
        entry.token = token;
        entry.consumer = Some(Arc::clone(taking.consumer));
        if entry.deadline < taking.now {
            self.tally.missed_deadlines += 1;
        }
        if entry.recovered && suspects && entry.stored {
            entry.recorded = true;
            schema::record_lease(unit, entry);
        }
        let leased = Leased {
            id: entry.id,
            queue: taking.queue.clone(),
            key: entry.key,
            priority: entry.priority(),
            payload: Arc::clone(&entry.payload),
            attempt: entry.standing.attempt,
            attempts_max: entry.standing.attempts_max,
            token: Token::from_bits(token),
            enqueued_at: Timestamp::from_millis(entry.enqueued_at),
            leased_until: Timestamp::from_millis(until),
            metadata: entry.metadata.clone(),
        };
        if taking.lease_ms > RECORD_AFTER_MS {
            self.drop_stale_young();
            self.young
                .push_back((taking.now.saturating_add(RECORD_AFTER_MS), at, token));
        } else {
            self.push_due(until, slot, false);
        }
        Some(leased)
    }

    pub(super) fn drop_stale_young(&mut self) {
        while let Some(&(_, at, token)) = self.young.front()
            && self
                .slots
                .resolve(at)
                .is_none_or(|entry| entry.token != token || entry.standing.state != Life::Running)
        {
            self.young.pop_front();
        }
    }

    /// The entry of a lease that still holds and is not being settled.
    pub(crate) fn held(&mut self, id: MessageId, token: Token) -> Option<(u32, &mut Entry)> {
        let slot = *self.by_id.get(&id)?;
        let entry = self.slots.get_mut(slot)?;
        let holds = entry.standing.state == Life::Running && entry.token == token.bits() && !entry.settling;
        holds.then_some((slot, entry))
    }

    pub(crate) fn extend(&mut self, id: MessageId, token: Token, until: i64) -> bool {
        let Some((slot, entry)) = self.held(id, token) else {
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
