//! Runs that keep what they are sent, unread: paused, put aside, or waiting for their turn to begin.

use celesta_queue::Leased;
use celesta_types::Timestamp;

use super::{Done, append};
use crate::live::Live;
use crate::message::HostMessage;
use crate::record::{Cause, Note, Record};
use crate::state::RunState;
use crate::view::{StoppedBy, StoppedView};

/// What a run keeps for later: all it was given but the wishes to go on, which are spent, and what was taken in.
pub(super) fn kept(held: &[Vec<u8>], messages: &[Leased]) -> Vec<Vec<u8>> {
    let is_spent = |message: &&Leased| {
        matches!(
            HostMessage::read(&message.payload),
            Some(
                HostMessage::Retry { .. }
                    | HostMessage::Resume { .. }
                    | HostMessage::Pause { .. }
                    | HostMessage::Prioritize { .. }
                    | HostMessage::Breakpoints { .. }
                    // It sees all there is when it goes on.
                    | HostMessage::Swept { .. }
                    | HostMessage::Compact
            )
        )
    };
    let payloads = messages
        .iter()
        .filter(|message| !is_spent(message))
        .map(|message| message.payload.to_vec());
    held.iter().cloned().chain(payloads).collect()
}

/// Something stops the run: the messages that came with the wish wait like those to come.
pub(super) fn pause(
    mut live: Box<Live>,
    held: &[Vec<u8>],
    messages: &[Leased],
    now: Timestamp,
    stop: StoppedView,
    causes: Vec<Cause>,
) -> Done {
    live.head.state = RunState::Paused;
    live.head.updated_at = now;
    let by = match stop.by {
        StoppedBy::Request | StoppedBy::Breakpoint | StoppedBy::Step => stop.actor.clone(),
        StoppedBy::Workflow => format!("{} for the workflow", stop.actor),
        StoppedBy::Service => format!("{} for the service", stop.actor),
    };
    let note = Note::Paused {
        reason: stop.reason.clone(),
        by,
        // What a waiting run was sent is in the journal already, and stays there.
        messages: kept(&[], messages),
    };
    debug_assert!(
        held.is_empty() || live.seq > 0,
        "what is kept stands in the journal"
    );
    live.head.steering_mut().stopped = Some(stop);
    live.steered = true;
    let mut done = keep(live, note, now, causes);
    if let Some(live) = &done.live {
        live.head.update(&mut done.unit);
    }
    done
}

/// A run that was put aside or paused, or has not begun, keeps what it is sent, unread.
pub(super) fn hold(live: Box<Live>, messages: &[Leased], now: Timestamp, causes: Vec<Cause>) -> Done {
    let messages = kept(&[], messages);
    if messages.is_empty() && causes.is_empty() {
        return Done {
            live: Some(live),
            ..Done::nothing_of()
        };
    }
    let note = if live.head.state == RunState::Quarantined {
        Note::Quarantined {
            reason: "held".to_owned(),
            messages,
        }
    } else {
        Note::Paused {
            reason: String::new(),
            by: String::new(),
            messages,
        }
    };
    keep(live, note, now, causes)
}

fn keep(mut live: Box<Live>, note: Note, now: Timestamp, causes: Vec<Cause>) -> Done {
    let mut done = Done::nothing_of();
    let seq = live.seq + 1;
    let record = Record {
        at: now,
        causes,
        note: Some(note),
        ..Record::default()
    };
    append(&mut live, seq, &record, &mut done.unit);
    done.live = Some(live);
    done
}
