//! Sweeps: what finds many resting runs and has each take one turn, in the background.
//!
//! A sweep has a *selection* (which runs: those an index of interests names, or those a filter names) and an *order*
//! (what each is told). It is a row: its state, where it is, what it has counted. One driver for each store (`drive.rs`)
//! has each open sweep take its steps, a batch at a time: a step (`step.rs`) reads the next runs, sends each one message
//! of the background class, waits until their turns are durable, and keeps its place and counts in one commit. So a sweep
//! is rate-limited, never has more than a batch on the way, and goes on at its place after a crash; a run that is told
//! twice notices and counts once, because what became of it (`swept`) is a row of its own turn's commit. Sweeps do not
//! wait for each other: neither one that is slow, nor one whose runs are silent, nor one that fails holds up the rest.
//!
//! To sweep for another reason: add an [`Order`], read it in the turn where `HostMessage::Swept` is read, and call
//! [`Runtime::sweep`] with [`Selection::Runs`]. Counting, pausing, crashing and reporting are taken care of.

mod answers;
mod drive;
mod machine;
mod rounds;
mod rows;
mod selected;
mod step;

use celesta_store::{QueryError, Unit};
use celesta_types::{Digest, ErrorKind, RunId, SweepId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub(crate) use drive::drive;
pub use machine::{IllegalSweepStep, SweepState, SweepStep};
pub(crate) use rows::{COLUMNS as SWEEP_COLUMNS, Found as StoredSweep, place};

use self::answers::Answers;
use crate::runtime::{Inner, Runtime};
use crate::state::RunState;
use crate::view::Page;

/// Runs told in a second unless the sweep says otherwise: they leave most of a node to ordinary work.
pub const SWEEP_RATE: u32 = 1_000;
/// The fastest and the slowest a sweep may be asked to be, in runs a second.
pub const SWEEP_RATES: std::ops::RangeInclusive<u32> = 1..=100_000;
/// Open sweeps of a service: the driver knows when each is due.
pub const SWEEPS_OPEN_MAX: usize = 1_000;
/// Ended sweeps of a service that are kept for their reports; older ones are forgotten.
pub const SWEEPS_KEPT: usize = 1_000;
/// Index keys of one sweep: the changes of the largest request, old and new values, a few clauses.
pub const SWEEP_KEYS_MAX: usize = 16_384;

/// Which runs a sweep is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Those that stand in the index of interests under one of these keys.
    Interests {
        /// The keys, sorted.
        keys: Vec<i64>,
        /// The revision of the shared facts that the runs are to see: turns that have seen less are waited for.
        revision: u64,
    },
    /// Those that a filter names.
    Runs(SweepFilter),
}

/// A filter of runs of the sweep's service; what is not said does not matter. Runs made after the sweep are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepFilter {
    /// Of this workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// In one of these states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<RunState>,
    /// Of this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Digest>,
    /// Of any version but this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_than: Option<Digest>,
    /// With this label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<(String, String)>,
}

/// What each run of a sweep is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Take a turn: there may be something new to see.
    Look,
}

/// A sweep to be made.
#[derive(Debug, Clone)]
pub struct NewSweep {
    /// Its id, when the caller repeats itself or asks several stores; a new one otherwise.
    pub id: Option<SweepId>,
    /// The service whose runs it is about.
    pub service: String,
    /// Why, in a sentence for people.
    pub cause: String,
    /// The rules that may fire, `workflow: rule`, as far as they are known.
    pub rules: Vec<String>,
    /// Which runs.
    pub selection: Selection,
    /// What they are told.
    pub order: Order,
    /// Whether it stops when its runs are counted, until somebody lets it go on.
    pub hold: bool,
    /// Runs told in a second.
    pub rate: u32,
}

/// A sweep as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SweepView {
    /// Its id.
    pub id: SweepId,
    /// The service whose runs it is about.
    pub service: String,
    /// Why.
    pub cause: String,
    /// The rules that may fire, `workflow: rule`, as far as they are known.
    pub rules: Vec<String>,
    /// Where it stands.
    pub state: SweepState,
    /// Whether it stops when its runs are counted.
    pub hold: bool,
    /// Runs told in a second.
    pub rate: u32,
    /// How many runs it is about, once they are counted.
    pub runs: Option<u64>,
    /// How many were told and have taken their turn.
    pub told: u64,
    /// Those that moved: a rule fired, or the order changed them.
    pub moved: u64,
    /// Those that looked and had nothing to do.
    pub still: u64,
    /// Those that could not be told: paused, put aside, removed, or silent.
    pub missed: u64,
    /// Why it was paused or given up.
    pub reason: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// What became of one run of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Swept {
    /// It looked and had nothing to do.
    Still,
    /// It moved.
    Moved,
    /// It could not be told.
    Missed,
}

impl Swept {
    pub(crate) const fn code(self) -> i64 {
        match self {
            Self::Still => 0,
            Self::Moved => 1,
            Self::Missed => 2,
        }
    }

    pub(crate) const fn from_code(code: i64) -> Option<Self> {
        match code {
            0 => Some(Self::Still),
            1 => Some(Self::Moved),
            2 => Some(Self::Missed),
            _ => None,
        }
    }
}

/// Which sweeps a list shows.
#[derive(Debug, Clone, Default)]
pub struct SweepsFilter {
    /// Only of this service.
    pub service: Option<String>,
    /// Only in this state.
    pub state: Option<SweepState>,
}

/// Why nothing was done to a sweep.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// There is no such sweep.
    #[error("there is no sweep {sweep}")]
    NotFound {
        /// The sweep.
        sweep: SweepId,
    },
    /// It stands where that means nothing.
    #[error(transparent)]
    Illegal(#[from] IllegalSweepStep),
    /// What was asked is not what a sweep is.
    #[error("{reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// The service has too many open sweeps.
    #[error("service `{service}` has {SWEEPS_OPEN_MAX} open sweeps; let some end, or abort them")]
    TooMany {
        /// The service.
        service: String,
    },
    /// Not now.
    #[error("the sweep cannot be kept: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl SweepError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Illegal(_) | Self::TooMany { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }

    pub(crate) fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: error.to_string(),
        }
    }
}

impl From<QueryError> for SweepError {
    fn from(error: QueryError) -> Self {
        Self::unavailable(error)
    }
}

/// The driver's bell, and what it waits for.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    /// Rung when a sweep is made or let go on.
    pub(crate) bell: Notify,
    answers: Answers,
}

impl Runtime {
    /// Makes a sweep and returns when it is durable; the driver does the rest.
    ///
    /// # Errors
    /// When it is wrong, there are too many, or it cannot be kept. Nothing has changed then. The same id again is no
    /// error and changes nothing.
    pub async fn sweep(&self, new: NewSweep) -> Result<SweepId, SweepError> {
        let inner = &self.inner;
        let id = new.id.unwrap_or_else(|| inner.sweep_id());
        if inner.find_sweep(id).await?.is_some() {
            return Ok(id);
        }
        inner.may_sweep(&new).await?;
        let mut unit = Unit::new();
        place(&mut unit, id, &new, inner.clock.now());
        inner.store.commit(unit).await.map_err(SweepError::unavailable)?;
        inner.sweeps.bell.notify_one();
        Ok(id)
    }

    /// The sweep; none when there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn show_sweep(&self, sweep: SweepId) -> Result<Option<SweepView>, QueryError> {
        let found = self.inner.find_sweep(sweep).await?;
        Ok(found.map(|found| found.view))
    }

    /// A page of sweeps, the newest first; `cursor` is the `next` of the page before.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list_sweeps(
        &self,
        filter: &SweepsFilter,
        cursor: Option<SweepId>,
        limit: usize,
    ) -> Result<Page<SweepView>, QueryError> {
        self.inner.sweeps_page(filter, cursor, limit).await
    }

    /// The runs that the sweep has moved or missed, by id; those that stood still are only counted.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn swept_runs(
        &self,
        sweep: SweepId,
        after: Option<RunId>,
        limit: usize,
    ) -> Result<Page<(RunId, Swept)>, QueryError> {
        self.inner.swept_page(sweep, after, limit).await
    }

    /// How many runs the sweep has before it now.
    ///
    /// # Errors
    /// When there is no such sweep.
    pub async fn preview_sweep(&self, sweep: SweepId) -> Result<u64, SweepError> {
        let found = self.inner.find_sweep(sweep).await?;
        let found = found.ok_or(SweepError::NotFound { sweep })?;
        Ok(self.inner.count_left(&found).await?)
    }

    /// Stops the sweep for a while; the batch that is on the way takes its turns.
    ///
    /// # Errors
    /// When there is no such sweep or it has ended.
    pub async fn pause_sweep(&self, sweep: SweepId, reason: &str) -> Result<SweepState, SweepError> {
        self.step_sweep(sweep, SweepStep::Pause, reason).await
    }

    /// Lets the sweep go on, or begin after its preview.
    ///
    /// # Errors
    /// When there is no such sweep or it has ended.
    pub async fn resume_sweep(&self, sweep: SweepId, reason: &str) -> Result<SweepState, SweepError> {
        self.step_sweep(sweep, SweepStep::Resume, reason).await
    }

    /// Gives the sweep up. Runs that were told stay told; the others see what is new when they next take a turn.
    ///
    /// # Errors
    /// When there is no such sweep or it is done.
    pub async fn abort_sweep(&self, sweep: SweepId, reason: &str) -> Result<SweepState, SweepError> {
        self.step_sweep(sweep, SweepStep::Abort, reason).await
    }

    async fn step_sweep(
        &self,
        sweep: SweepId,
        step: SweepStep,
        reason: &str,
    ) -> Result<SweepState, SweepError> {
        if reason.len() > crate::REASON_BYTES_MAX {
            let reason = format!(
                "the reason has {} bytes, more than {}",
                reason.len(),
                crate::REASON_BYTES_MAX
            );
            return Err(SweepError::Invalid { reason });
        }
        let state = self.inner.move_sweep(sweep, step, Some(reason), None).await?;
        self.inner.sweeps.bell.notify_one();
        Ok(state)
    }
}

impl Inner {
    /// Makes the sweep, unless there is no run for it, or one that is about the same runs has not ended.
    pub(crate) async fn sweep_unless_open(&self, new: &NewSweep) -> Result<(), SweepError> {
        let open = self.open_sweeps(&new.service).await?;
        let is_open = open
            .iter()
            .any(|found| found.plan.selection == new.selection && found.plan.order == new.order);
        if is_open || self.count_selected(new).await? == 0 {
            return Ok(());
        }
        self.may_sweep(new).await?;
        let mut unit = Unit::new();
        place(&mut unit, self.sweep_id(), new, self.clock.now());
        self.store.commit(unit).await.map_err(SweepError::unavailable)?;
        self.sweeps.bell.notify_one();
        Ok(())
    }

    pub(crate) fn sweep_id(&self) -> SweepId {
        SweepId::new(self.clock.now(), self.random.next_u128())
    }

    /// Whether a sweep may be made.
    pub(crate) async fn may_sweep(&self, new: &NewSweep) -> Result<(), SweepError> {
        if !SWEEP_RATES.contains(&new.rate) {
            let (least, most) = (SWEEP_RATES.start(), SWEEP_RATES.end());
            let reason = format!(
                "the rate is {} runs a second; expected {least} to {most}",
                new.rate
            );
            return Err(SweepError::Invalid { reason });
        }
        if let Selection::Interests { keys, .. } = &new.selection
            && keys.len() > SWEEP_KEYS_MAX
        {
            let reason = format!(
                "the changes are looked up under {} keys, more than {SWEEP_KEYS_MAX}; make them in parts",
                keys.len()
            );
            return Err(SweepError::Invalid { reason });
        }
        if self.open_sweeps(&new.service).await?.len() >= SWEEPS_OPEN_MAX {
            return Err(SweepError::TooMany {
                service: new.service.clone(),
            });
        }
        Ok(())
    }
}
