//! What happened to a message: noted as it happens, and brought into order when somebody asks.

use std::sync::Arc;

use celesta_types::Timestamp;

use super::State;
use crate::entry::Entry;
use crate::limits::TIMELINE_MAX;
use crate::message::{Happened, History, MessageView, TimelineEvent};
use crate::rows::Standing;

const fn event(at: i64, what: Happened) -> TimelineEvent {
    TimelineEvent {
        at: Timestamp::from_millis(at),
        what,
    }
}

/// The lease of a running message, unless it was noted already.
fn lease_event(entry: &Entry) -> Option<TimelineEvent> {
    let rare = entry.rare().filter(|rare| rare.leased_at != 0)?;
    let leased = Happened::Leased {
        consumer: rare.consumer.clone().unwrap_or_else(|| Arc::from("")),
        attempt: entry.standing.attempt,
    };
    Some(event(rare.leased_at, leased))
}

fn push(entry: &mut Entry, what: Happened, now: i64) {
    let leased = lease_event(entry);
    let rare = entry.rare_mut();
    rare.leased_at = 0;
    rare.timeline.extend(leased);
    rare.timeline.push(event(now, what));
    while rare.timeline.len() > TIMELINE_MAX {
        rare.timeline.remove(TIMELINE_MAX / 2);
    }
}

impl State {
    /// What the end of a lease, or of the message, adds to its timeline; nothing when no histories are kept.
    pub(super) fn events(&self, entry: &Entry, what: Happened, now: i64) -> Vec<TimelineEvent> {
        if self.settings.history_ms == 0 {
            return Vec::new();
        }
        let mut events = Vec::with_capacity(2);
        events.extend(lease_event(entry));
        events.push(event(now, what));
        events
    }

    /// Adds to the timeline; of very many events the first and the last stay.
    pub(super) fn note(&self, entry: &mut Entry, what: Happened, now: i64) {
        if self.settings.history_ms > 0 {
            push(entry, what, now);
        }
    }

    /// As [`State::note`] for the message in `slot`.
    pub(super) fn note_at(&mut self, slot: u32, what: Happened, now: i64) {
        if self.settings.history_ms == 0 {
            return;
        }
        if let Some(entry) = self.slots.get_mut(slot) {
            push(entry, what, now);
        }
    }

    /// The whole timeline of a message that stands so.
    pub(crate) fn history(&self, entry: &Entry) -> History {
        history(self.view(entry), entry, &[])
    }

    /// Keeps the history of a message that has ended, where there is no record to keep it.
    pub(super) fn remember(&mut self, slot: u32, standing: &Standing<'_>, now: i64) {
        let Some(entry) = self.slots.get(slot) else { return };
        let mut message = self.view(entry);
        message.state = standing.state;
        message.attempt = standing.attempt;
        message.at = Some(Timestamp::from_millis(standing.at));
        if let Some(error) = standing.error {
            message.error = Some(error.to_owned());
        }
        message.payload = None;
        let history = history(message, entry, standing.happened);
        self.past
            .push_back((now.saturating_add(self.settings.history_ms), history));
    }

    /// The history of a message that is not in memory any more, where there is no record.
    pub(crate) fn past(&self, id: celesta_types::MessageId) -> Option<History> {
        let mut newest_first = self.past.iter().rev();
        let found = newest_first.find(|(_, history)| history.message.id == id);
        found.map(|(_, history)| history.clone())
    }
}

/// A message with its timeline: what was noted, what is yet to be noted, and what the entry itself tells.
pub(crate) fn history(message: MessageView, entry: &Entry, more: &[TimelineEvent]) -> History {
    let mut timeline = vec![event(entry.enqueued_at, Happened::Enqueued)];
    timeline.extend(entry.rare().iter().flat_map(|rare| rare.timeline.iter().cloned()));
    if more.is_empty() {
        timeline.extend(lease_event(entry));
    } else {
        timeline.extend(more.iter().cloned());
    }
    timeline.sort_by_key(|event| event.at);
    History { message, timeline }
}
