//! How people steer sweeps.

use celesta_runs::{Runtime, SweepError, SweepState};
use celesta_types::{ErrorKind, SweepId};

use super::{Answer, Ask, Model};
use crate::node::Waiting;

/// What is wished for a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SweepWish {
    Pause,
    Resume,
    Abort,
}

impl Model {
    /// Somebody steers a sweep. Nobody's other wish for it is on its way.
    pub(crate) fn steer_sweep(
        &mut self,
        runtime: &Runtime,
        sweep: SweepId,
        wish: SweepWish,
    ) -> (Ask, Waiting<Answer>) {
        // From now on nobody may count on what was promised before.
        self.paused_sweeps.remove(&sweep);
        self.has_aborted |= wish == SweepWish::Abort;
        let runtime = runtime.clone();
        let answer = async move {
            Answer::Sweep(match wish {
                SweepWish::Pause => runtime.pause_sweep(sweep, "simulated").await,
                SweepWish::Resume => runtime.resume_sweep(sweep, "simulated").await,
                SweepWish::Abort => runtime.abort_sweep(sweep, "simulated").await,
            })
        };
        (Ask::Sweep { sweep, wish }, Box::pin(answer))
    }

    pub(super) fn heard_of_sweep(
        &mut self,
        sweep: SweepId,
        wish: SweepWish,
        answer: Result<SweepState, SweepError>,
    ) -> String {
        match answer {
            Ok(state) => {
                let expected = match wish {
                    SweepWish::Pause => &[SweepState::Paused][..],
                    SweepWish::Resume => &[SweepState::Running, SweepState::Pending],
                    SweepWish::Abort => &[SweepState::Aborted],
                };
                if !expected.contains(&state) {
                    self.violations
                        .push(format!("{wish:?} of {sweep} was promised and it is {state}"));
                }
                if wish == SweepWish::Pause {
                    self.paused_sweeps.insert(sweep);
                }
                format!("{wish:?} of {sweep} is promised: {state}")
            }
            Err(error) => {
                if !matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::NotFound
                ) {
                    self.violations
                        .push(format!("a good wish for a sweep was refused: {error}"));
                }
                format!("{wish:?} of {sweep} is refused: {error}")
            }
        }
    }
}
