//! What runs answer to sweeps: noted in their turns' own units, and heard by the step that waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use celesta_queue::LeasedKey;
use celesta_store::{Cell, Unit};
use celesta_types::{RunId, SweepId};
use hashbrown::HashMap;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;

use super::Swept;
use super::rows::SWEPT_NOTE;
use crate::message::HostMessage;
use crate::runtime::Inner;
use crate::state::RunState;
use crate::turn::Done;

/// The batches on the way: whose answers are waited for.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    awaited: Mutex<HashMap<SweepId, Awaited, FxBuildHasher>>,
}

#[derive(Debug)]
struct Awaited {
    /// Those that have not answered.
    silent: BTreeSet<RunId>,
    /// Rung when there are none.
    answered: Arc<Notify>,
}

impl Answers {
    /// From now on these runs are waited for; what is given is rung when all of them have answered.
    pub(super) fn expect(&self, sweep: SweepId, runs: &[RunId]) -> Arc<Notify> {
        let answered = Arc::new(Notify::new());
        let awaited = Awaited {
            silent: runs.iter().copied().collect(),
            answered: Arc::clone(&answered),
        };
        self.awaited.lock().insert(sweep, awaited);
        answered
    }

    /// Nobody waits for the sweep's runs any longer.
    pub(super) fn forget(&self, sweep: SweepId) {
        self.awaited.lock().remove(&sweep);
    }

    /// A run's turn for a sweep is durable.
    fn told(&self, sweep: SweepId, run: RunId) {
        if let Some(awaited) = self.awaited.lock().get_mut(&sweep)
            && awaited.silent.remove(&run)
            && awaited.silent.is_empty()
        {
            awaited.answered.notify_one();
        }
    }
}

impl Inner {
    /// Notes in a turn's unit what became of the run for the sweeps whose messages it had.
    pub(crate) fn note_swept(self: &Arc<Self>, key: &LeasedKey, done: &mut Done) {
        let outcome = match &done.live {
            Some(live) if matches!(live.head.state, RunState::Paused) => Swept::Missed,
            None => Swept::Missed,
            Some(_) if done.firings > 0 || done.changed => Swept::Moved,
            Some(live) if live.head.state == RunState::Quarantined => Swept::Missed,
            Some(_) => Swept::Still,
        };
        self.note_swept_as(key, outcome, &mut done.unit);
    }

    /// The same for messages of a run that took no turn.
    pub(crate) fn note_swept_as(self: &Arc<Self>, key: &LeasedKey, outcome: Swept, unit: &mut Unit) {
        let run = RunId::from_bits(key.key.bits());
        for message in &key.messages {
            let Some(HostMessage::Swept { sweep, .. }) = HostMessage::read(&message.payload) else {
                continue;
            };
            unit.add(
                &SWEPT_NOTE,
                [
                    Cell::Id(sweep.to_bytes()),
                    Cell::Id(run.to_bytes()),
                    outcome.code().into(),
                ],
            );
            let inner = Arc::clone(self);
            unit.on_done(move |done| {
                if done.is_ok() {
                    inner.sweeps.answers.told(sweep, run);
                }
            });
        }
    }
}
