//! What the messages of a lease wish for a run as a whole: seen before any of them is applied.

use celesta_queue::Leased;

use crate::live::Live;
use crate::message::{HostMessage, Onward};
use crate::state::RunState;
use crate::view::{StoppedBy, StoppedView};

/// What the messages of a lease wish for a run as a whole.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a wish of its own, and any may come with any other"
)]
pub(super) struct Wishes {
    pub(super) start: bool,
    pub(super) retry: bool,
    pub(super) resume: bool,
    /// It goes on by one firing only.
    pub(super) step: bool,
    pub(super) cancel: bool,
    pub(super) pause: Option<StoppedView>,
}

impl Wishes {
    /// `ordered`: an order still stops the run's workflow.
    pub(super) fn of(live: &Live, messages: &[Leased], ordered: bool) -> Self {
        let mut wishes = Self::default();
        for message in messages {
            match HostMessage::read(&message.payload) {
                Some(HostMessage::Start | HostMessage::Restart { .. }) => wishes.start = true,
                Some(HostMessage::Retry { .. }) => wishes.retry = true,
                Some(HostMessage::Resume { how, .. })
                    if how != Onward::Scope || (live.is_stopped_by_order() && !ordered) =>
                {
                    wishes.resume = true;
                    wishes.step = how == Onward::Step;
                }
                Some(HostMessage::Cancel { .. }) => wishes.cancel = true,
                Some(HostMessage::Pause { reason, by }) => {
                    wishes.pause = Some(StoppedView {
                        by: StoppedBy::Request,
                        rule: None,
                        facts: Vec::new(),
                        reason,
                        actor: by,
                    });
                }
                _ => {}
            }
        }
        wishes
    }
}

/// Whether a message lets a run in this state go on, if it keeps what it is sent.
pub(crate) fn wakes(state: RunState, message: &Leased) -> bool {
    match HostMessage::read(&message.payload) {
        Some(HostMessage::Start | HostMessage::Restart { .. }) => state == RunState::Waiting,
        Some(HostMessage::Retry { .. } | HostMessage::Resume { .. }) => true,
        _ => false,
    }
}
