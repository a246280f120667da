//! Time: what becomes due by itself.

use std::cmp::Reverse;

use celesta_store::Unit;

use super::leasing::record_lease;
use super::{Due, Mark, Parcel, State, Then, push_rows, shift};
use crate::entry::NEVER;
use crate::limits::{ENDED_MAX, RECORD_AFTER_MS};
use crate::machine::{Event, State as Life, Transition, transition};
use crate::message::Happened;
use crate::rows::Standing;
use crate::schema;

impl State {
    /// Does what has become due by `now`.
    pub(crate) fn tick(&mut self, now: i64, parcels: &mut Vec<Parcel>) {
        self.store_lingering(now, parcels);
        let mut unit = Unit::new();
        while let Some(&(at, message, token)) = self.young.front()
            && at <= now
        {
            self.young.pop_front();
            let Some(entry) = self.slots.resolve(message) else {
                continue;
            };
            if entry.standing.state != Life::Running || entry.token() != token {
                continue;
            }
            if entry.stored && !entry.settling && !entry.recorded {
                record_lease(entry, &mut unit);
            }
            let until = entry.at;
            self.push_due(until, message.slot, false);
        }
        push_rows(unit, parcels);
        while let Some(&Reverse(due)) = self.due.peek()
            && due.at <= now
        {
            self.due.pop();
            self.become_due(due, now, parcels);
        }
        self.collect(now, parcels);
    }

    /// Stores the messages nobody has taken in time, each with its companion.
    pub(crate) fn store_lingering(&mut self, now: i64, parcels: &mut Vec<Parcel>) {
        let queue = self.id;
        while let Some(&(at, message)) = self.lingering.front() {
            let waits = self
                .slots
                .resolve(message)
                .is_some_and(|entry| entry.has_companion());
            if waits && at > now {
                break;
            }
            self.lingering.pop_front();
            let unclaimed = self.slots.resolve(message).is_some_and(|entry| {
                entry.has_companion() && entry.standing.state == Life::Pending && !entry.is_hidden()
            });
            if !unclaimed {
                continue;
            }
            self.withdraw(message.slot);
            let Some(entry) = self.slots.resolve(message) else {
                continue;
            };
            let Some(mut unit) = entry.take_companion() else {
                continue;
            };
            entry.settling = true;
            if let Some(entry) = self.slots.get(message.slot) {
                schema::insert(&mut unit, queue, self.key_of(entry), entry);
            }
            parcels.push(Parcel {
                unit,
                marks: vec![Mark {
                    at: message,
                    then: Then::Stored,
                }],
            });
        }
    }

    pub(super) fn become_due(&mut self, due: Due, now: i64, parcels: &mut Vec<Parcel>) {
        let slot = due.message.slot;
        let Some(entry) = self.slots.resolve(due.message) else {
            return;
        };
        if entry.is_hidden() {
            // Whoever hides it exposes it again.
            return;
        }
        let event = if due.expiry {
            if entry.expires_at() > now {
                return;
            }
            Event::Expire
        } else if entry.at > now {
            if entry.standing.state == Life::Running && entry.token() != 0 {
                let until = entry.at;
                self.push_due(until, slot, false);
            }
            return;
        } else if entry.standing.state == Life::Running {
            self.tally.lapsed += 1;
            self.give_back(slot, Event::Lapse, now, parcels);
            return;
        } else {
            Event::BecomeVisible
        };
        let Ok(Transition::Moved(standing)) = transition(entry.standing, event) else {
            return;
        };
        self.withdraw(slot);
        if event == Event::BecomeVisible {
            self.note_at(slot, Happened::Visible, now);
        } else {
            self.note_at(slot, Happened::Expired, now);
        }
        let Some(entry) = self.slots.get_mut(slot) else {
            return;
        };
        shift(&mut self.counts, entry, standing);
        if event == Event::BecomeVisible {
            self.expose(slot);
            return;
        }
        entry.at = now;
        let mut unit = entry.take_companion().unwrap_or_default();
        let stored = entry.stored;
        entry.settling = !stored;
        let row = Standing {
            state: standing.state,
            attempt: standing.attempt,
            at: now,
            error: None,
            happened: &[],
        };
        self.write(slot, &row, true, now, &mut unit);
        let mut marks = Vec::new();
        if !stored {
            marks.push(Mark {
                at: due.message,
                then: Then::Stored,
            });
        }
        self.tally.expired += 1;
        self.retire(due.message, standing.state, now);
        parcels.push(Parcel { unit, marks });
    }

    /// Forgets ended messages whose time is over, and the oldest when there are too many.
    pub(super) fn collect(&mut self, now: i64, parcels: &mut Vec<Parcel>) {
        let mut unit = Unit::new();
        while let Some(&(at, message)) = self.ended.front() {
            let ended = self
                .slots
                .resolve(message)
                .is_some_and(|entry| entry.standing.state.is_ended());
            if ended && at > now && self.ended.len() <= ENDED_MAX {
                break;
            }
            self.ended.pop_front();
            let Some(entry) = self.slots.resolve(message) else {
                continue;
            };
            if !entry.standing.state.is_ended() {
                continue;
            }
            if entry.settling {
                // Its row is on its way: it is collected a little later.
                self.ended
                    .push_back((now.saturating_add(RECORD_AFTER_MS), message));
                break;
            }
            let state = entry.standing.state;
            schema::collect(&mut unit, entry.seq);
            self.counts[state.index()] -= 1;
            self.forget(message.slot);
        }
        push_rows(unit, parcels);
        while self
            .past
            .front()
            .is_some_and(|(at, _)| *at <= now || self.past.len() > ENDED_MAX)
        {
            self.past.pop_front();
        }
    }

    /// The next instant something becomes due; gives it when the timer does not know it yet.
    pub(crate) fn rearm(&mut self) -> Option<i64> {
        let next = [
            self.due.peek().map(|Reverse(due)| due.at),
            self.lingering.front().map(|&(at, _)| at),
            self.young.front().map(|&(at, ..)| at),
            self.ended
                .front()
                .map(|&(at, _)| if self.ended.len() > ENDED_MAX { 0 } else { at }),
        ];
        let next = next.into_iter().flatten().min().unwrap_or(NEVER);
        if next < self.armed {
            self.armed = next;
            return Some(next);
        }
        None
    }
}
