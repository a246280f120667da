//! Settling: how a lease or a message ends, before and after the commit that decides it.

use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::MessageId;

use super::{Failing, Mark, Parcel, State, Then, shift};
use crate::entry::{NEVER, Ref};
use crate::limits::ERROR_SHOWN_BYTES_MAX;
use crate::machine::{self, Event, IllegalTransition, State as Life, Transition, transition};
use crate::message::Happened;
use crate::name::Token;
use crate::rows::Standing;
use crate::schema;

impl State {
    /// Adds to the unit that the message in `slot` will stand so: its row, and when it ends its history.
    pub(super) fn write(&self, slot: u32, standing: &Standing<'_>, keep: bool, now: i64, unit: &mut Unit) {
        let Some(entry) = self.slots.get(slot) else { return };
        let key = self.key_of(entry);
        match (entry.stored, keep) {
            (true, true) => schema::change(unit, entry, standing),
            (false, true) => schema::insert_as(unit, self.id, key, entry, standing),
            (true, false) if standing.state == Life::Completed => schema::complete(unit, entry.seq),
            (true, false) => schema::collect(unit, entry.seq),
            (false, false) => {}
        }
        if standing.state.is_ended() && self.settings.history_ms > 0 {
            let until = now.saturating_add(self.settings.history_ms);
            if let Some(place) = self.ledger.place(until) {
                schema::history(unit, place, self.id, key, entry, standing);
            }
        }
    }

    /// Hides a held message until the caller's unit decides, and adds to the unit what completes it.
    pub(crate) fn begin_complete(
        &mut self,
        id: MessageId,
        token: Token,
        now: i64,
        unit: &mut Unit,
    ) -> Option<Mark> {
        let slot = self.held(id, token)?;
        let entry = self.slots.get_mut(slot)?;
        entry.settling = true;
        if let Some(companion) = entry.take_companion() {
            unit.merge(companion);
        }
        let entry = self.slots.get(slot)?;
        let happened = self.events(entry, Happened::Completed, now);
        let standing = Standing {
            state: Life::Completed,
            attempt: entry.standing.attempt,
            at: now,
            error: None,
            happened: &happened,
        };
        self.write(slot, &standing, self.settings.keep_completed_ms > 0, now, unit);
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
    ) -> Option<(Mark, machine::Standing)> {
        let Failing {
            retryable,
            visible_at,
            now,
            error,
        } = failing;
        let slot = self.held(id, token)?;
        let delayed = visible_at > now;
        let entry = self.slots.get_mut(slot)?;
        let Ok(Transition::Moved(moved)) = transition(entry.standing, Event::Fail { retryable, delayed })
        else {
            unreachable!("a running message may always fail")
        };
        entry.settling = true;
        if let Some(companion) = entry.take_companion() {
            unit.merge(companion);
        }
        let entry = self.slots.get(slot)?;
        let happened = self.events(entry, failed(&error), now);
        let standing = Standing {
            state: moved.state,
            attempt: moved.attempt,
            at: if moved.state.is_ended() { now } else { visible_at },
            error: Some(&error),
            happened: &happened,
        };
        self.write(slot, &standing, true, now, unit);
        let then = Then::Fail {
            retryable,
            delayed,
            visible_at,
            error: Arc::clone(&error),
        };
        Some((
            Mark {
                at: self.slots.reference(slot),
                then,
            },
            moved,
        ))
    }

    /// Gives a held message back untouched.
    pub(crate) fn release(
        &mut self,
        id: MessageId,
        token: Token,
        now: i64,
        parcels: &mut Vec<Parcel>,
    ) -> bool {
        let Some(slot) = self.held(id, token) else {
            return false;
        };
        self.give_back(slot, Event::Release, now, parcels);
        true
    }

    /// The lease of a running message is over, without its consumer being done.
    pub(super) fn give_back(&mut self, slot: u32, event: Event, now: i64, parcels: &mut Vec<Parcel>) {
        let at = self.slots.reference(slot);
        let Some(entry) = self.slots.get_mut(slot) else {
            return;
        };
        let Ok(Transition::Moved(moved)) = transition(entry.standing, event) else {
            return;
        };
        let what = if event == Event::Release {
            Happened::Released
        } else {
            Happened::Lapsed
        };
        self.note_at(slot, what, now);
        let Some(entry) = self.slots.get_mut(slot) else {
            return;
        };
        let key = entry.key;
        let ended_at = entry.at;
        shift(&mut self.counts, entry, moved);
        entry.clear_token();
        if moved.state == Life::Errored {
            entry.rare_mut().error = Some("the lease lapsed on the last attempt".into());
        }
        let mut unit = entry.take_companion().unwrap_or_default();
        let stored = entry.stored;
        let changes_row = !stored || entry.recorded || event == Event::Lapse;
        entry.recorded = false;
        entry.settling = !stored;
        if changes_row {
            let standing = Standing {
                state: moved.state,
                attempt: moved.attempt,
                at: ended_at,
                error: None,
                happened: &[],
            };
            self.write(slot, &standing, true, now, &mut unit);
        }
        let mut marks = Vec::new();
        if !stored {
            marks.push(Mark {
                at,
                then: Then::Stored,
            });
        }
        self.free_key(key);
        if moved.state.is_ended() {
            self.tally.failed += 1;
            self.retire(at, moved.state, ended_at);
        } else {
            self.expose(slot);
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
        let Some(entry) = self.slots.get(slot) else {
            return Ok(None);
        };
        match transition(entry.standing, Event::Cancel)? {
            Transition::Unchanged => return Ok(None),
            Transition::Moved(_) => {}
        }
        self.withdraw(slot);
        let Some(entry) = self.slots.get_mut(slot) else {
            return Ok(None);
        };
        entry.settling = true;
        if let Some(companion) = entry.take_companion() {
            unit.merge(companion);
        }
        let Some(entry) = self.slots.get(slot) else {
            return Ok(None);
        };
        let happened = self.events(entry, Happened::Canceled, now);
        let standing = Standing {
            state: Life::Canceled,
            attempt: entry.standing.attempt,
            at: now,
            error: None,
            happened: &happened,
        };
        self.write(slot, &standing, self.settings.keep_ended_ms > 0, now, unit);
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
        let Transition::Moved(moved) = transition(entry.standing, Event::Redrive)? else {
            return Ok(None);
        };
        entry.settling = true;
        entry.expire_at(NEVER);
        let Some(entry) = self.slots.get(slot) else {
            return Ok(None);
        };
        let happened = self.events(entry, Happened::Redriven, now);
        let standing = Standing {
            state: moved.state,
            attempt: moved.attempt,
            at: now,
            error: None,
            happened: &happened,
        };
        self.write(slot, &standing, true, now, unit);
        Ok(Some(Mark {
            at: self.slots.reference(slot),
            then: Then::Redrive,
        }))
    }

    /// Moves a waiting message within the order.
    pub(crate) fn reprioritize(
        &mut self,
        slot: u32,
        priority: &celesta_types::Priority,
        now: i64,
        unit: &mut Unit,
    ) -> Result<(), IllegalTransition> {
        let Some(entry) = self.slots.get(slot) else {
            return Ok(());
        };
        // The machine has no other answer for it: the state stays.
        let (Transition::Unchanged | Transition::Moved(_)) = transition(entry.standing, Event::Reprioritize)?;
        self.withdraw(slot);
        let what = Happened::Reprioritized { priority: *priority };
        self.note_at(slot, what, now);
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.prioritize(priority);
            if entry.stored {
                let standing = Standing {
                    state: entry.standing.state,
                    attempt: entry.standing.attempt,
                    at: entry.at,
                    error: None,
                    happened: &[],
                };
                schema::change(unit, entry, &standing);
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
        let key = entry.key;
        let what = match &then {
            Then::Fail { error, .. } => Some(failed(error)),
            Then::Complete => Some(Happened::Completed),
            Then::Cancel => Some(Happened::Canceled),
            Then::Redrive => Some(Happened::Redriven),
            Then::Arrive | Then::Stored => None,
        };
        let gone = standing.state.is_ended() && self.is_forgotten_at_once(standing.state);
        if gone && self.settings.history_ms > 0 && !self.ledger.is_recorded() {
            self.keep_past(at.slot, standing, what.clone(), now);
        }
        if !gone && let Some(what) = what {
            self.note_at(at.slot, what, now);
        }
        let Some(entry) = self.slots.get_mut(at.slot) else {
            return;
        };
        shift(&mut self.counts, entry, standing);
        entry.settling = false;
        entry.stored = true;
        entry.recorded = false;
        entry.clear_token();
        entry.at = now;
        match then {
            Then::Fail {
                visible_at, error, ..
            } => {
                entry.rare_mut().error = Some(error);
                self.tally.failed += 1;
                if !standing.state.is_ended() {
                    entry.at = visible_at;
                }
            }
            Then::Complete => self.tally.completed += 1,
            Then::Arrive | Then::Stored | Then::Cancel | Then::Redrive => {}
        }
        if was_running {
            self.free_key(key);
        }
        if standing.state.is_ended() {
            self.retire(at, standing.state, now);
        } else {
            self.expose(at.slot);
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
            let (state, key) = (entry.standing.state, entry.key);
            self.counts[state.index()] -= 1;
            if running {
                self.free_key(key);
            }
            self.forget(at.slot);
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
        if self.is_forgotten_at_once(state) {
            self.counts[state.index()] -= 1;
            self.forget(at.slot);
            return;
        }
        self.ended.push_back((now.saturating_add(keep), at));
    }

    /// Whether a message that ends so leaves memory with its end.
    const fn is_forgotten_at_once(&self, state: Life) -> bool {
        self.keep_ms(state) == 0 && matches!(state, Life::Completed | Life::Canceled)
    }

    fn keep_past(&mut self, slot: u32, moved: machine::Standing, what: Option<Happened>, now: i64) {
        let Some(entry) = self.slots.get(slot) else { return };
        let happened = what.map_or_else(Vec::new, |what| self.events(entry, what, now));
        let standing = Standing {
            state: moved.state,
            attempt: moved.attempt,
            at: now,
            error: None,
            happened: &happened,
        };
        self.remember(slot, &standing, now);
    }
}

/// The event of a failure; its text is cut, since a message may fail often.
fn failed(error: &Arc<str>) -> Happened {
    let end = error.floor_char_boundary(ERROR_SHOWN_BYTES_MAX);
    Happened::Failed {
        error: if end == error.len() {
            Arc::clone(error)
        } else {
            error[..end].into()
        },
    }
}
