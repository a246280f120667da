//! Settling: how a lease or a message ends, before and after the commit that decides it.

use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::MessageId;

use super::{Failing, Mark, Parcel, State, Then, shift};
use crate::entry::{NEVER, Ref};
use crate::machine::{Event, IllegalTransition, Standing, State as Life, Transition, transition};
use crate::name::Token;
use crate::schema;
use crate::settings::Kind;

impl State {
    /// Hides a held message until the caller's unit decides, and adds to the unit what completes it.
    pub(crate) fn begin_complete(
        &mut self,
        id: MessageId,
        token: Token,
        now: i64,
        unit: &mut Unit,
    ) -> Option<Mark> {
        let keep = self.settings.keep_completed_ms > 0;
        let queue = self.id;
        let (slot, entry) = self.held(id, token)?;
        entry.settling = true;
        if let Some(companion) = entry.companion.take() {
            unit.merge(*companion);
        }
        let attempt = entry.standing.attempt;
        match (entry.stored, keep) {
            (true, false) => schema::complete(unit, entry.seq),
            (true, true) => schema::settle(unit, entry, Life::Completed, attempt, now, None),
            (false, true) => schema::insert_as(unit, queue, entry, Life::Completed, attempt, now),
            (false, false) => {}
        }
        Some(Mark {
            at: self.slots.reference(slot),
            then: Then::Complete,
        })
    }

    /// Hides a held message until the unit decides, and adds to the unit what its failure changes.
    pub(crate) fn begin_fail(
        &mut self,
        id: MessageId,
        token: Token,
        failing: Failing,
        unit: &mut Unit,
    ) -> Option<(Mark, Standing)> {
        let Failing {
            retryable,
            visible_at,
            now,
            error,
        } = failing;
        let queue = self.id;
        let (slot, entry) = self.held(id, token)?;
        let delayed = visible_at > now;
        let Ok(Transition::Moved(standing)) = transition(entry.standing, Event::Fail { retryable, delayed })
        else {
            unreachable!("a running message may always fail")
        };
        entry.settling = true;
        let at = if standing.state.is_ended() {
            now
        } else {
            visible_at
        };
        if let Some(companion) = entry.companion.take() {
            unit.merge(*companion);
        }
        if entry.stored {
            schema::settle(unit, entry, standing.state, standing.attempt, at, Some(&error));
        } else {
            let before = entry.error.replace(Arc::clone(&error));
            schema::insert_as(unit, queue, entry, standing.state, standing.attempt, at);
            entry.error = before;
        }
        let then = Then::Fail {
            retryable,
            delayed,
            visible_at,
            error,
        };
        Some((
            Mark {
                at: self.slots.reference(slot),
                then,
            },
            standing,
        ))
    }

    /// Gives a held message back untouched.
    pub(crate) fn release(&mut self, id: MessageId, token: Token, parcels: &mut Vec<Parcel>) -> bool {
        let Some((slot, _)) = self.held(id, token) else {
            return false;
        };
        self.give_back(slot, Event::Release, parcels);
        true
    }

    /// The lease of a running message is over, without its consumer being done.
    pub(super) fn give_back(&mut self, slot: u32, event: Event, parcels: &mut Vec<Parcel>) {
        let queue = self.id;
        let at = self.slots.reference(slot);
        let Some(entry) = self.slots.get_mut(slot) else {
            return;
        };
        let Ok(Transition::Moved(standing)) = transition(entry.standing, event) else {
            return;
        };
        let (key_slot, keyed) = (entry.key_slot, entry.key.is_some());
        let ended_at = entry.at;
        shift(&mut self.counts, entry, standing);
        entry.token = 0;
        if standing.state == Life::Errored {
            entry.error = Some("the lease lapsed on the last attempt".into());
        }
        let mut unit = Unit::new();
        let mut marks = Vec::new();
        if let Some(companion) = entry.companion.take() {
            unit = *companion;
        }
        if entry.stored {
            if entry.recorded || event == Event::Lapse {
                entry.recorded = false;
                schema::settle(&mut unit, entry, standing.state, standing.attempt, ended_at, None);
            }
        } else {
            entry.settling = true;
            schema::insert(&mut unit, queue, entry);
            marks.push(Mark {
                at,
                then: Then::Stored,
            });
        }
        if standing.state.is_ended() {
            self.tally.failed += 1;
            self.retire(at, standing.state, ended_at);
        } else {
            self.expose(slot);
        }
        if keyed && self.settings.kind == Kind::Exclusive {
            self.keys.done(key_slot, &self.slots);
        }
        if !unit.is_empty() || !marks.is_empty() {
            parcels.push(Parcel { unit, marks });
        }
    }

    /// Hides a message until the unit decides, and adds to the unit what calls it back.
    pub(crate) fn begin_cancel(
        &mut self,
        slot: u32,
        now: i64,
        unit: &mut Unit,
    ) -> Result<Option<Mark>, IllegalTransition> {
        let queue = self.id;
        let Some(entry) = self.slots.get(slot) else {
            return Ok(None);
        };
        match transition(entry.standing, Event::Cancel)? {
            Transition::Unchanged => return Ok(None),
            Transition::Moved(_) => {}
        }
        self.withdraw(slot);
        let keep = self.settings.keep_ended_ms > 0;
        let Some(entry) = self.slots.get_mut(slot) else {
            return Ok(None);
        };
        entry.settling = true;
        if let Some(companion) = entry.companion.take() {
            unit.merge(*companion);
        }
        let attempt = entry.standing.attempt;
        match (entry.stored, keep) {
            (true, true) => schema::settle(unit, entry, Life::Canceled, attempt, now, None),
            (true, false) => schema::collect(unit, entry.seq),
            (false, true) => schema::insert_as(unit, queue, entry, Life::Canceled, attempt, now),
            (false, false) => {}
        }
        Ok(Some(Mark {
            at: self.slots.reference(slot),
            then: Then::Cancel,
        }))
    }

    /// Hides a dead letter until the unit decides, and adds to the unit what gives it new attempts.
    pub(crate) fn begin_redrive(
        &mut self,
        slot: u32,
        now: i64,
        unit: &mut Unit,
    ) -> Result<Option<Mark>, IllegalTransition> {
        let Some(entry) = self.slots.get_mut(slot) else {
            return Ok(None);
        };
        if let Transition::Moved(standing) = transition(entry.standing, Event::Redrive)? {
            entry.settling = true;
            entry.expires_at = NEVER;
            schema::settle(unit, entry, standing.state, standing.attempt, now, None);
            return Ok(Some(Mark {
                at: self.slots.reference(slot),
                then: Then::Redrive,
            }));
        }
        Ok(None)
    }

    /// Moves a waiting message within the order.
    pub(crate) fn reprioritize(
        &mut self,
        slot: u32,
        priority: &celesta_types::Priority,
        unit: &mut Unit,
    ) -> Result<(), IllegalTransition> {
        let Some(entry) = self.slots.get(slot) else {
            return Ok(());
        };
        // The machine has no other answer for it: the state stays.
        let (Transition::Unchanged | Transition::Moved(_)) = transition(entry.standing, Event::Reprioritize)?;
        self.withdraw(slot);
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.prioritize(priority);
            if entry.stored {
                schema::reprioritize(unit, entry);
            }
        }
        self.expose(slot);
        Ok(())
    }

    /// What a commit has decided.
    pub(crate) fn settle(&mut self, marks: Vec<Mark>, durable: bool, now: i64) {
        for Mark { at, then } in marks {
            if durable {
                self.settle_durable(at, then, now);
            } else {
                self.settle_failed(at, &then, now);
            }
        }
    }

    pub(super) fn settle_durable(&mut self, at: Ref, then: Then, now: i64) {
        let Some(entry) = self.slots.resolve(at) else {
            return;
        };
        let event = match &then {
            Then::Arrive if !entry.arriving => return,
            Then::Arrive => {
                entry.arriving = false;
                self.arriving -= 1;
                self.tally.enqueued += 1;
                self.counts[entry.standing.state.index()] += 1;
                self.expose(at.slot);
                return;
            }
            Then::Stored => {
                entry.stored = true;
                entry.settling = false;
                self.expose(at.slot);
                return;
            }
            Then::Complete => Event::Complete,
            Then::Fail {
                retryable, delayed, ..
            } => Event::Fail {
                retryable: *retryable,
                delayed: *delayed,
            },
            Then::Cancel => Event::Cancel,
            Then::Redrive => Event::Redrive,
        };
        if entry.arriving {
            // It was called back by a unit that overtook its own.
            entry.arriving = false;
            self.arriving -= 1;
            self.counts[entry.standing.state.index()] += 1;
        }
        let moved = transition(entry.standing, event);
        let Ok(Transition::Moved(standing)) = moved else {
            unreachable!("a hidden message is changed by nobody else: {moved:?}")
        };
        let was_running = entry.standing.state == Life::Running;
        let (key_slot, keyed) = (entry.key_slot, entry.key.is_some());
        shift(&mut self.counts, entry, standing);
        entry.settling = false;
        entry.stored = true;
        entry.recorded = false;
        entry.token = 0;
        entry.at = now;
        match then {
            Then::Fail {
                visible_at, error, ..
            } => {
                entry.error = Some(error);
                self.tally.failed += 1;
                if !standing.state.is_ended() {
                    entry.at = visible_at;
                }
            }
            Then::Complete => self.tally.completed += 1,
            Then::Arrive | Then::Stored | Then::Cancel | Then::Redrive => {}
        }
        if standing.state.is_ended() {
            self.retire(at, standing.state, now);
        } else {
            self.expose(at.slot);
        }
        if was_running && keyed && self.settings.kind == Kind::Exclusive {
            self.keys.done(key_slot, &self.slots);
        }
    }

    pub(super) fn settle_failed(&mut self, at: Ref, then: &Then, now: i64) {
        let Some(entry) = self.slots.resolve(at) else {
            return;
        };
        if matches!(then, Then::Arrive) {
            if entry.arriving {
                self.arriving -= 1;
                self.forget(at.slot);
            }
            return;
        }
        entry.settling = false;
        let running = entry.standing.state == Life::Running;
        if !entry.stored && !entry.arriving {
            // Its companion has failed with the unit, so the message was never sent.
            let (state, key_slot, keyed) = (entry.standing.state, entry.key_slot, entry.key.is_some());
            self.counts[state.index()] -= 1;
            self.forget(at.slot);
            if running && keyed && self.settings.kind == Kind::Exclusive {
                self.keys.done(key_slot, &self.slots);
            }
        } else if running {
            let again = entry.at.max(now);
            self.push_due(again, at.slot, false);
        } else {
            self.expose(at.slot);
        }
    }

    pub(super) const fn keep_ms(&self, state: Life) -> i64 {
        if matches!(state, Life::Completed) {
            self.settings.keep_completed_ms
        } else {
            self.settings.keep_ended_ms
        }
    }

    /// An ended message is kept for a while, or forgotten at once.
    pub(super) fn retire(&mut self, at: Ref, state: Life, now: i64) {
        let keep = self.keep_ms(state);
        if keep == 0 && matches!(state, Life::Completed | Life::Canceled) {
            self.counts[state.index()] -= 1;
            self.forget(at.slot);
            return;
        }
        self.ended.push_back((now.saturating_add(keep), at));
    }

    pub(super) fn forget(&mut self, slot: u32) {
        if let Some(entry) = self.slots.remove(slot) {
            self.by_id.remove(&entry.id);
        }
    }
}
