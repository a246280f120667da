//! Finding messages by metadata, and views of them. Each look is bounded; where it stops, the next one goes on.

use std::sync::Arc;

use celesta_types::Timestamp;

use super::leasing::Take;
use super::{State, Taking};
use crate::entry::{Entry, Order};
use crate::machine::State as Life;
use crate::message::{Filter, LeasedKey, MessageView};

/// Messages looked at before others get the lock: well below a millisecond.
const LOOKED_AT_MAX: usize = 4_096;

/// What is to be leased by its metadata.
pub(crate) struct Search<'a> {
    pub(crate) metadata: &'a [(String, String)],
    /// Where the last look stopped.
    pub(crate) after: Option<Order>,
    /// At most so many messages, or keys.
    pub(crate) max: usize,
    /// Messages of each key, when keys are leased.
    pub(crate) of_each_key: Option<usize>,
}

/// What a look has found.
pub(crate) struct Found {
    pub(crate) messages: Vec<MessageView>,
    /// The payloads that are in the record: the index above, and the row.
    pub(crate) missing: Vec<(usize, i64)>,
    /// Where to go on; absent at the end.
    pub(crate) next: Option<i64>,
}

impl State {
    /// Leases messages, or keys by their first message, that have all `metadata`. Gives where to go on when there may be
    /// more.
    pub(crate) fn lease_matching(
        &mut self,
        search: &Search<'_>,
        taking: &Taking<'_>,
        keys: &mut Vec<LeasedKey>,
        take: &mut Take,
    ) -> Option<Order> {
        if self.settings.dequeue_blocked {
            return None;
        }
        let numbers = self.pairs.resolve(search.metadata)?;
        let line = self.pairs.seated(&numbers)?;
        let mut matching = Vec::new();
        let mut looked_at = 0;
        let mut last = None;
        for order in line.iter_after(search.after) {
            looked_at += 1;
            last = Some(order);
            let entry = self.slots.get(order.slot);
            if entry.is_some_and(|entry| {
                has_all(entry, &numbers) && (entry.payload.is_some() || !taking.resident_only)
            }) {
                matching.push(order);
            }
            if matching.len() == search.max || looked_at == LOOKED_AT_MAX {
                break;
            }
        }
        let more = looked_at == LOOKED_AT_MAX && matching.len() < search.max;
        for order in matching {
            match search.of_each_key {
                Some(of_each_key) => self.serve_key(&order, of_each_key, taking, keys, take),
                None => self.serve(&order, 1, taking, take),
            }
        }
        last.filter(|_| more)
    }

    /// Messages that match, from the place `after` on, at most `max`.
    pub(crate) fn look(&self, filter: &Filter, after: Option<i64>, max: usize) -> Found {
        let mut found = Found {
            messages: Vec::new(),
            missing: Vec::new(),
            next: None,
        };
        if filter.metadata.is_empty() {
            let first = after.map_or(0, |after| u32::try_from(after + 1).unwrap_or(u32::MAX));
            let mut looked_at = 0;
            for slot in first..self.slots.places() {
                looked_at += 1;
                if let Some(entry) = self.slots.get(slot).filter(|entry| in_state(entry, filter)) {
                    self.add(entry, &mut found);
                }
                if found.messages.len() == max || looked_at == LOOKED_AT_MAX {
                    found.next = Some(slot.into());
                    break;
                }
            }
            return found;
        }
        let Some(numbers) = self.pairs.resolve(&filter.metadata) else {
            return found;
        };
        let Some(line) = self.pairs.members(&numbers) else {
            return found;
        };
        let after = after.map(|seq| Order {
            rank: 0,
            slot: 0,
            deadline: crate::entry::NEVER,
            seq,
        });
        for (order, looked_at) in line.iter_after(after).zip(1..) {
            let entry = self.slots.get(order.slot);
            if let Some(entry) = entry.filter(|entry| in_state(entry, filter) && has_all(entry, &numbers)) {
                self.add(entry, &mut found);
            }
            if found.messages.len() == max || looked_at == LOOKED_AT_MAX {
                found.next = Some(order.seq);
                break;
            }
        }
        found
    }

    /// How many messages match, when that can be said without a look at each.
    pub(crate) fn count_at_once(&self, filter: &Filter) -> Option<usize> {
        match &*filter.metadata {
            [] if filter.states.is_empty() => Some(self.counts.iter().sum()),
            [] => {
                let counts = Life::ALL.iter().zip(self.counts);
                let wanted = counts.filter(|(state, _)| filter.states.contains(state));
                Some(wanted.map(|(_, count)| count).sum())
            }
            [pair] if filter.states.is_empty() && self.arriving == 0 => {
                let numbers = self.pairs.resolve(std::slice::from_ref(pair));
                Some(numbers.map_or(0, |numbers| {
                    self.pairs.members(&numbers).map_or(0, crate::line::Line::len)
                }))
            }
            _ => None,
        }
    }

    fn add(&self, entry: &Entry, found: &mut Found) {
        if entry.payload.is_none() {
            found.missing.push((found.messages.len(), entry.seq));
        }
        found.messages.push(self.view(entry));
    }

    /// A message as people look at it.
    pub(crate) fn view(&self, entry: &Entry) -> MessageView {
        let rare = entry.rare();
        let metadata = rare.and_then(|rare| rare.metadata.as_ref());
        MessageView {
            id: entry.id(),
            key: self.key_of(entry),
            state: entry.standing.state,
            priority: entry.priority(),
            attempt: entry.standing.attempt,
            attempts_max: entry.standing.attempts_max,
            enqueued_at: Timestamp::from_millis(entry.enqueued_at),
            at: (entry.standing.state != Life::Pending).then(|| Timestamp::from_millis(entry.at)),
            consumer: rare.and_then(|rare| rare.consumer.clone()),
            error: entry.error().map(|error| (**error).to_owned()),
            metadata: metadata.map_or_else(Vec::new, |pairs| pairs.to_vec()),
            payload: entry.payload.as_ref().map(Arc::clone),
        }
    }
}

fn in_state(entry: &Entry, filter: &Filter) -> bool {
    !entry.arriving && (filter.states.is_empty() || filter.states.contains(&entry.standing.state))
}

fn has_all(entry: &Entry, numbers: &[u32]) -> bool {
    let pairs = entry.pairs();
    numbers.iter().all(|number| pairs.binary_search(number).is_ok())
}
