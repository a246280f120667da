//! What people do to a run: cancel it, try it again, stop it for a while, run the same request once more.

use celesta_queue::NewMessage;
use celesta_types::{ErrorKind, RunId};

use crate::load::LoadError;
use crate::message::HostMessage;
use crate::runtime::{Inner, Runtime};
use crate::send::asked_id;
use crate::state::{IllegalStep, RunState, RunStep};
use crate::submit::{Submit, SubmitError, Submitted};

/// The label of a run that says which run's request it repeats.
pub const CLONED_FROM: &str = "celesta.cloned-from";

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
    /// The run stands in the archive, where nothing moves any more.
    #[error("run {run} was archived; clone it to run its request again")]
    Archived {
        /// The run.
        run: RunId,
    },
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
    pub(crate) fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: error.to_string(),
        }
    }

    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Illegal(_) | Self::Archived { .. } => ErrorKind::Conflict,
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
        let reason = bounded(reason)?;
        self.inner
            .ask(run, RunStep::Cancel, &HostMessage::Cancel { reason })
            .await
    }

    /// Tries again what made the run fail: its failed calls, or the turn that put it aside.
    ///
    /// # Errors
    /// When there is no such run, or it has neither failed nor been put aside.
    pub async fn retry(&self, run: RunId) -> Result<RunState, LifecycleError> {
        self.inner.ask(run, RunStep::Retry, &HostMessage::Retry).await
    }

    /// Stops the run for a while: calls that run go on, but their results wait, and no rule fires until
    /// [`Runtime::resume`]. Returns when the wish is durable.
    ///
    /// # Errors
    /// When there is no such run, or it has ended.
    pub async fn pause(&self, run: RunId, reason: &str) -> Result<RunState, LifecycleError> {
        let reason = bounded(reason)?;
        self.inner
            .ask(run, RunStep::Pause, &HostMessage::Pause { reason })
            .await
    }

    /// Lets a paused run go on with everything it was sent meanwhile, in order.
    ///
    /// # Errors
    /// When there is no such run, or it is not paused.
    pub async fn resume(&self, run: RunId, reason: &str) -> Result<RunState, LifecycleError> {
        let reason = bounded(reason)?;
        self.inner
            .ask(run, RunStep::Resume, &HostMessage::Resume { reason })
            .await
    }

    /// Starts a new run with the request of `run`: the same operation, input, priority and labels, with the service's
    /// current version.
    ///
    /// # Errors
    /// When there is no such run, or the current version refuses its request.
    pub async fn clone_run(
        &self,
        run: RunId,
        idempotency_key: Option<String>,
    ) -> Result<Option<Submitted>, SubmitError> {
        let view = self.inner.view(run).await.map_err(SubmitError::unavailable)?;
        let Some(view) = view else { return Ok(None) };
        let mut labels = view.labels;
        labels.insert(CLONED_FROM.to_owned(), run.to_string());
        let request = Submit {
            service: view.service,
            operation: view.operation,
            input: view
                .input
                .map_or_else(Vec::new, |input| input.get().as_bytes().to_vec()),
            idempotency_key,
            priority: Some(view.priority),
            labels,
            trace: view.trace,
        };
        self.submit(request, None).await.map(Some)
    }
}

fn bounded(reason: &str) -> Result<String, LifecycleError> {
    if reason.len() > REASON_BYTES_MAX {
        return Err(LifecycleError::ReasonTooLong { bytes: reason.len() });
    }
    Ok(reason.to_owned())
}

impl Inner {
    pub(crate) async fn state_of(&self, run: RunId) -> Result<RunState, LifecycleError> {
        let view = self.view(run).await.map_err(LoadError::from)?;
        let view = view.ok_or(LifecycleError::NotFound { run })?;
        if view.archived {
            return Err(LifecycleError::Archived { run });
        }
        Ok(view.state)
    }

    /// Sends `message` to the run when `step` means something where the run stands.
    async fn ask(
        &self,
        run: RunId,
        step: RunStep,
        message: &HostMessage,
    ) -> Result<RunState, LifecycleError> {
        let state = self.state_of(run).await?;
        state.after(step)?;
        let enqueued = self.queues.enqueue(vec![self.message_to(run, message)]).await;
        for outcome in enqueued.map_err(LifecycleError::unavailable)? {
            outcome.map_err(LifecycleError::unavailable)?;
        }
        Ok(state)
    }

    /// A message to the run on behalf of a person.
    pub(crate) fn message_to(&self, run: RunId, message: &HostMessage) -> NewMessage {
        let id = asked_id(run, self.clock.now(), self.random.next_u128());
        NewMessage::new(id, self.runs_queue.clone(), message.encode()).with_key(run)
    }
}
