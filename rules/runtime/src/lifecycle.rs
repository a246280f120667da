//! What people do to a run: cancel it, try it again, stop it for a while, run the same request once more.

use celesta_queue::NewMessage;
use celesta_store::Unit;
use celesta_types::{ErrorKind, Priority, RunId};
use serde::{Deserialize, Serialize};

use crate::gate::Then;
use crate::gates;
use crate::head::RunHead;
use crate::load::LoadError;
use crate::message::{HostMessage, Onward};
use crate::orders::{OrderError, check_breakpoints};
use crate::runtime::{Inner, Runtime};
use crate::send::asked_id;
use crate::state::{IllegalStep, RunState, RunStep};
use crate::submit::{Submit, SubmitError, Submitted};

/// The label of a run that says which run's request it repeats.
pub const CLONED_FROM: &str = "celesta.cloned-from";

/// Bytes of a reason: it is a sentence, kept in the journal.
pub const REASON_BYTES_MAX: usize = 4_096;

/// Who asks when nobody says so.
pub const ANONYMOUS: &str = "anonymous";

/// Who asks for something, and why; both stand in the run's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Why, in their words; at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// Who.
    pub by: String,
}

impl Wish {
    /// A wish of nobody in particular.
    #[must_use]
    pub fn anonymous(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            by: ANONYMOUS.to_owned(),
        }
    }

    pub(crate) fn bounded(&self) -> Result<(String, String), LifecycleError> {
        let bytes = self.reason.len().max(self.by.len());
        if bytes > REASON_BYTES_MAX {
            return Err(LifecycleError::ReasonTooLong { bytes });
        }
        Ok((self.reason.clone(), self.by.clone()))
    }
}

/// What is done to a run, or to all runs of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is called off.
    Cancel,
    /// What made it fail is tried again.
    Retry,
    /// It is stopped for a while.
    Pause,
    /// It goes on.
    Resume,
    /// It goes on by one firing.
    Step,
    /// It goes on when its workflow or service was stopped, and not the run itself.
    ResumeStopped,
}

impl Action {
    /// The step of the run's machine.
    pub(crate) const fn step(self) -> RunStep {
        match self {
            Self::Cancel => RunStep::Cancel,
            Self::Retry => RunStep::Retry,
            Self::Pause => RunStep::Pause,
            Self::Resume | Self::Step | Self::ResumeStopped => RunStep::Resume,
        }
    }

    fn message(self, reason: String, by: String) -> HostMessage {
        let resume = |how| HostMessage::Resume {
            reason: reason.clone(),
            by: by.clone(),
            how,
        };
        match self {
            Self::Resume => resume(Onward::Freely),
            Self::Step => resume(Onward::Step),
            Self::ResumeStopped => resume(Onward::Scope),
            Self::Cancel => HostMessage::Cancel { reason, by },
            Self::Retry => HostMessage::Retry { reason, by },
            Self::Pause => HostMessage::Pause { reason, by },
        }
    }
}

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
    /// The run has ended.
    #[error("run {run} has ended: it is {state}")]
    Ended {
        /// The run.
        run: RunId,
        /// How.
        state: RunState,
    },
    /// The breakpoints name no rules of the run, or are too many.
    #[error(transparent)]
    Order(#[from] OrderError),
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
            Self::Illegal(_) | Self::Archived { .. } | Self::Ended { .. } => ErrorKind::Conflict,
            Self::Order(error) => error.kind(),
            Self::ReasonTooLong { .. } => ErrorKind::Invalid,
            Self::Load(error) => error.kind(),
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }
}

impl Runtime {
    /// Calls the run off: its outstanding calls are canceled, running functions stopped, and so are the runs it has asked
    /// for. Returns when the wish is durable; the run follows at once.
    ///
    /// # Errors
    /// When there is no such run, or it has completed.
    pub async fn cancel(&self, run: RunId, wish: &Wish) -> Result<RunState, LifecycleError> {
        self.act(run, Action::Cancel, wish).await
    }

    /// Tries again what made the run fail: its failed calls, or the turn that put it aside. Where its workflow limits how
    /// many are under way, it waits for its turn again.
    ///
    /// # Errors
    /// When there is no such run, or it has neither failed nor been put aside.
    pub async fn retry(&self, run: RunId, wish: &Wish) -> Result<RunState, LifecycleError> {
        self.act(run, Action::Retry, wish).await
    }

    /// Stops the run for a while: calls that run go on, but their results wait, and no rule fires until
    /// [`Runtime::resume`]. Returns when the wish is durable.
    ///
    /// # Errors
    /// When there is no such run, or it has ended.
    pub async fn pause(&self, run: RunId, wish: &Wish) -> Result<RunState, LifecycleError> {
        self.act(run, Action::Pause, wish).await
    }

    /// Lets a paused run go on with everything it was sent meanwhile, in order.
    ///
    /// # Errors
    /// When there is no such run, or it is not paused.
    pub async fn resume(&self, run: RunId, wish: &Wish) -> Result<RunState, LifecycleError> {
        self.act(run, Action::Resume, wish).await
    }

    /// Does `action` to the run: returns how it stood when the wish became durable.
    ///
    /// # Errors
    /// When there is no such run, or the action means nothing where it stands.
    pub async fn act(&self, run: RunId, action: Action, wish: &Wish) -> Result<RunState, LifecycleError> {
        let (reason, by) = wish.bounded()?;
        let head = self.inner.head_of(run).await?;
        head.state.after(action.step())?;
        let message = self.inner.acting(&head, action, reason, by);
        self.inner.tell(message).await?;
        Ok(head.state)
    }

    /// Makes the run, its calls that wait and the runs it waits for more or less urgent. Runs below it only become more
    /// urgent.
    ///
    /// # Errors
    /// When there is no such run, or it has ended.
    pub async fn prioritize(
        &self,
        run: RunId,
        priority: Priority,
        wish: &Wish,
    ) -> Result<RunState, LifecycleError> {
        let (reason, by) = wish.bounded()?;
        let state = self.inner.open_state_of(run).await?;
        let message = HostMessage::Prioritize {
            priority,
            lift: false,
            reason,
            by,
        };
        let message = self.inner.message_to(run, &message);
        self.inner.tell(message.with_priority(priority)).await?;
        Ok(state)
    }

    /// Says before which rules the run stops, in place of what was said before.
    ///
    /// # Errors
    /// When there is no such run or rule, there are too many, or the run has ended.
    pub async fn set_breakpoints(
        &self,
        run: RunId,
        rules: Vec<String>,
        by: &str,
    ) -> Result<RunState, LifecycleError> {
        let state = self.inner.open_state_of(run).await?;
        let live = self
            .inner
            .load(run)
            .await?
            .ok_or(LifecycleError::NotFound { run })?;
        check_breakpoints(&live.head.workflow, &rules, live.rules.rules())?;
        let by = by.to_owned();
        let message = self
            .inner
            .message_to(run, &HostMessage::Breakpoints { rules, by });
        self.inner.tell(message).await?;
        Ok(state)
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
            fresh: false,
        };
        self.submit(request, None).await.map(Some)
    }
}

impl Inner {
    pub(crate) async fn state_of(&self, run: RunId) -> Result<RunState, LifecycleError> {
        Ok(self.head_of(run).await?.state)
    }

    async fn head_of(&self, run: RunId) -> Result<RunHead, LifecycleError> {
        if let Some(head) = self.head(run).await.map_err(LoadError::from)? {
            return Ok(head);
        }
        match self.view(run).await.map_err(LoadError::from)? {
            Some(view) if view.archived => Err(LifecycleError::Archived { run }),
            _ => Err(LifecycleError::NotFound { run }),
        }
    }

    /// How a run stands that has not ended.
    async fn open_state_of(&self, run: RunId) -> Result<RunState, LifecycleError> {
        let state = self.state_of(run).await?;
        if state.is_ended() {
            return Err(LifecycleError::Ended { run, state });
        }
        Ok(state)
    }

    /// The message that does `action` to the run: to the run itself, or to its gates when it is to begin again.
    pub(crate) fn acting(&self, head: &RunHead, action: Action, reason: String, by: String) -> NewMessage {
        if action == Action::Retry {
            let id = asked_id(head.run, self.clock.now(), self.random.next_u128());
            let then = Then::Retry {
                reason: reason.clone(),
                by: by.clone(),
            };
            if let Some(message) = gates::enter(&self.runs_queue, head, then, id) {
                return message;
            }
        }
        self.message_to(head.run, &action.message(reason, by))
            .with_priority(head.priority)
    }

    /// Sends a message, and answers when it is durable.
    pub(crate) async fn tell(&self, message: NewMessage) -> Result<(), LifecycleError> {
        if !self.is_for_here(&message) {
            let mut unit = Unit::new();
            self.post(&mut unit, [message]);
            return self.store.commit(unit).await.map_err(LifecycleError::unavailable);
        }
        let enqueued = self.queues.enqueue(vec![message]).await;
        for outcome in enqueued.map_err(LifecycleError::unavailable)? {
            outcome.map_err(LifecycleError::unavailable)?;
        }
        Ok(())
    }

    /// A message to the run on behalf of a person.
    pub(crate) fn message_to(&self, run: RunId, message: &HostMessage) -> NewMessage {
        self.message_of(run, message.encode())
    }

    /// The same of a message in its stored form.
    pub(crate) fn message_of(&self, run: RunId, payload: Vec<u8>) -> NewMessage {
        let id = asked_id(run, self.clock.now(), self.random.next_u128());
        NewMessage::new(id, self.runs_queue.clone(), payload).with_key(run)
    }
}
