//! What people do to a run: cancel it, try it again.

use celesta_queue::NewMessage;
use celesta_types::{ErrorKind, RunId};

use crate::load::LoadError;
use crate::message::HostMessage;
use crate::runtime::{Inner, Runtime};
use crate::send::asked_id;
use crate::state::{IllegalStep, RunState, RunStep};

/// Bytes of a reason: it is a sentence, kept in the journal.
pub const REASON_BYTES_MAX: usize = 4_096;

/// Why nothing was done to a run.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// There is no such run.
    #[error("there is no run {run}")]
    NotFound {
        /// The run.
        run: RunId,
    },
    /// The run stands where that means nothing.
    #[error(transparent)]
    Illegal(#[from] IllegalStep),
    /// The reason is too long.
    #[error("the reason has {bytes} bytes, more than {REASON_BYTES_MAX}")]
    ReasonTooLong {
        /// Its size.
        bytes: usize,
    },
    /// The run cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Not now.
    #[error("the run cannot be told: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl LifecycleError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Illegal(_) => ErrorKind::Conflict,
            Self::ReasonTooLong { .. } => ErrorKind::Invalid,
            Self::Load(error) => error.kind(),
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }
}

impl Runtime {
    /// Calls the run off: its outstanding calls are canceled, running functions stopped. Returns when the wish is
    /// durable; the run follows at once.
    ///
    /// # Errors
    /// When there is no such run, or it has completed.
    pub async fn cancel(&self, run: RunId, reason: &str) -> Result<RunState, LifecycleError> {
        if reason.len() > REASON_BYTES_MAX {
            return Err(LifecycleError::ReasonTooLong { bytes: reason.len() });
        }
        let state = self.inner.state_of(run).await?;
        state.after(RunStep::Cancel)?;
        self.inner
            .tell(
                run,
                HostMessage::Cancel {
                    reason: reason.to_owned(),
                },
                Vec::new(),
            )
            .await?;
        Ok(state)
    }

    /// Tries again what made the run fail: its failed calls, or the turn that put it aside.
    ///
    /// # Errors
    /// When there is no such run, or it has neither failed nor been put aside.
    pub async fn retry(&self, run: RunId) -> Result<RunState, LifecycleError> {
        let state = self.inner.state_of(run).await?;
        state.after(RunStep::Retry)?;
        let held = if state == RunState::Quarantined {
            self.inner.held_messages(run).await?
        } else {
            Vec::new()
        };
        self.inner.tell(run, HostMessage::Retry, held).await?;
        Ok(state)
    }
}

impl Inner {
    async fn state_of(&self, run: RunId) -> Result<RunState, LifecycleError> {
        let view = self.view(run).await.map_err(LoadError::from)?;
        view.map(|view| view.state)
            .ok_or(LifecycleError::NotFound { run })
    }

    /// Sends `message` to the run, and after it whatever was `held` for it.
    async fn tell(&self, run: RunId, message: HostMessage, held: Vec<Vec<u8>>) -> Result<(), LifecycleError> {
        let payloads = std::iter::once(message.encode()).chain(held);
        let messages = payloads.map(|payload| {
            let id = asked_id(run, self.clock.now(), self.random.next_u128());
            NewMessage::new(id, self.runs_queue.clone(), payload).with_key(run)
        });
        let unavailable = |reason: String| LifecycleError::Unavailable { reason };
        let enqueued = self
            .queues
            .enqueue(messages.collect())
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        for outcome in enqueued {
            outcome.map_err(|error| unavailable(error.to_string()))?;
        }
        Ok(())
    }
}
