//! Bulk operations: one action done to all runs of a filter, in the background, a page at a time.

mod drive;
mod machine;

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_store::{Cell, CommitError, QueryError, Row, Unit};
use celesta_types::{ErrorKind, OperationId, RunId, Timestamp};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

pub use self::machine::{IllegalOperationStep, OperationState, OperationStep};
use crate::lifecycle::{Action, REASON_BYTES_MAX, Wish};
use crate::query::conditions;
use crate::runtime::{Inner, Runtime};
use crate::schema::{OPERATION_INSERT, OPERATION_STAND};
use crate::view::{Page, RunFilter};

/// Runs a second unless said otherwise: the platform's other work hardly notices.
pub const OPERATION_RATE: u32 = 1_000;
/// The most that may be asked for.
pub const OPERATION_RATE_MAX: u32 = 100_000;
/// Operations that have not ended.
const OPEN_MAX: usize = 100;
pub(crate) const OPERATION_COLUMNS: &str = "id, state, action, filter, reason, actor, rate, bookmark, seen, done, refused, created_at, \
     updated_at, ended_at";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Bulk {
    /// What is done to each run.
    pub action: Action,
    /// Which runs; not all there are.
    pub filter: RunFilter,
    /// Runs a second at most, in all partitions of a deployment together.
    pub rate: u32,
}

/// An operation as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct OperationView {
    /// Its id.
    pub id: OperationId,
    /// Where it stands.
    pub state: OperationState,
    /// What is done to each run.
    pub action: Action,
    /// Which runs.
    pub filter: RunFilter,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub by: String,
    /// Runs a second at most.
    pub rate: u32,
    /// The last run that was looked at; runs are taken in the order of their ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bookmark: Option<RunId>,
    /// Runs that were looked at.
    pub seen: u64,
    /// Runs it was done to.
    pub done: u64,
    /// Runs that stood where it means nothing.
    pub refused: u64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last moved.
    pub updated_at: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// Why an operation is not begun or changed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is no such operation.
    #[error("there is no operation {id}")]
    NotFound {
        /// The id.
        id: OperationId,
    },
    /// It stands where that means nothing.
    #[error(transparent)]
    Illegal(#[from] IllegalOperationStep),
    /// It would be done to everything.
    #[error("the filter names no runs; give at least one of service, workflow, operation, state and label")]
    NoFilter,
    /// The rate is none.
    #[error("the rate is {rate} runs a second; expected 1 to {OPERATION_RATE_MAX}")]
    Rate {
        /// The rate.
        rate: u32,
    },
    /// There are too many.
    #[error("{OPEN_MAX} operations have not ended; wait for one, or abort it")]
    TooMany,
    /// The reason is too long.
    #[error("the reason has {bytes} bytes, more than {REASON_BYTES_MAX}")]
    ReasonTooLong {
        /// Its size.
        bytes: usize,
    },
    /// Not now.
    #[error("the operation cannot be stored: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl OperationError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Illegal(_) => ErrorKind::Conflict,
            Self::NoFilter | Self::Rate { .. } | Self::TooMany | Self::ReasonTooLong { .. } => {
                ErrorKind::Invalid
            }
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }

    fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: error.to_string(),
        }
    }
}

/// The operations that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    open: Mutex<BTreeMap<OperationId, OperationView>>,
    /// Those that follow an order, by the service and the revision in which it was taken back: while turns are under way
    /// that have seen less, they do not begin.
    held: Mutex<BTreeMap<OperationId, (String, u64)>>,
    moved: Notify,
}

impl Operations {
    /// Reads the operations that have not ended.
    pub(crate) async fn open(store: &celesta_store::Store) -> Result<Self, QueryError> {
        let sql = format!("SELECT {OPERATION_COLUMNS} FROM operations WHERE ended_at IS NULL");
        let operations = Self::default();
        let rows = store.fetch(&sql, &[]).await?;
        let views = rows.iter().filter_map(stored);
        operations.open.lock().extend(views.map(|view| (view.id, view)));
        Ok(operations)
    }

    pub(crate) fn hold(&self, id: OperationId, service: String, revision: u64) {
        self.held.lock().insert(id, (service, revision));
    }
}

impl Runtime {
    /// Begins to do something to all runs of a filter. Returns when the operation is durable; it goes on by itself.
    ///
    /// # Errors
    /// When the filter names nothing, there are too many operations, or it cannot be stored.
    pub async fn begin_operation(&self, bulk: Bulk, wish: &Wish) -> Result<OperationView, OperationError> {
        self.begin_operation_as(None, bulk, wish).await
    }

    /// As [`Runtime::begin_operation`] under an id that is given, as to each partition of a deployment: one that is there
    /// already is not begun again.
    ///
    /// # Errors
    /// As for [`Runtime::begin_operation`].
    pub async fn begin_operation_as(
        &self,
        id: Option<OperationId>,
        bulk: Bulk,
        wish: &Wish,
    ) -> Result<OperationView, OperationError> {
        if let Some(known) = self.known_operation(id).await? {
            return Ok(known);
        }
        let mut unit = Unit::new();
        let view = self.stage_operation(&mut unit, id, bulk, wish)?;
        let committed = self.inner.store.commit(unit).await;
        committed.map_err(OperationError::unavailable)?;
        Ok(view)
    }

    /// The operation of an id that is given, if there is one already.
    pub(crate) async fn known_operation(
        &self,
        id: Option<OperationId>,
    ) -> Result<Option<OperationView>, OperationError> {
        match id {
            Some(id) => self.operation(id).await.map_err(OperationError::unavailable),
            None => Ok(None),
        }
    }

    pub(crate) fn new_operation(&self) -> OperationId {
        OperationId::new(self.inner.clock.now(), self.inner.random.next_u128())
    }

    /// Has an operation begin when `unit` is durable.
    pub(crate) fn stage_operation(
        &self,
        unit: &mut Unit,
        id: Option<OperationId>,
        bulk: Bulk,
        wish: &Wish,
    ) -> Result<OperationView, OperationError> {
        let inner = &self.inner;
        check(&bulk, wish)?;
        if inner.operations.open.lock().len() >= OPEN_MAX {
            return Err(OperationError::TooMany);
        }
        let now = inner.clock.now();
        let view = OperationView {
            id: id.unwrap_or_else(|| self.new_operation()),
            state: OperationState::Running,
            action: bulk.action,
            filter: bulk.filter,
            reason: wish.reason.clone(),
            by: wish.by.clone(),
            rate: bulk.rate,
            bookmark: None,
            seen: 0,
            done: 0,
            refused: 0,
            created_at: now,
            updated_at: now,
            ended_at: None,
        };
        let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
        unit.add(
            &OPERATION_INSERT,
            [
                Cell::Id(view.id.to_bytes()),
                i64::from(view.state.code()).into(),
                json(serde_json::to_string(&view.action)).into(),
                json(serde_json::to_string(&view.filter)).into(),
                view.reason.as_str().into(),
                view.by.as_str().into(),
                i64::from(view.rate).into(),
                now.as_millis().into(),
                now.as_millis().into(),
            ],
        );
        let (inner, begun) = (Arc::clone(inner), view.clone());
        unit.on_done(move |outcome| {
            if outcome.is_ok() {
                inner.operations.open.lock().insert(begun.id, begun);
                inner.operations.moved.notify_one();
            }
        });
        Ok(view)
    }

    /// How many runs an operation would look at now.
    ///
    /// # Errors
    /// When the filter names nothing, or the store does not answer.
    pub async fn preview_operation(&self, bulk: &Bulk) -> Result<u64, OperationError> {
        check(bulk, &Wish::anonymous(""))?;
        let (condition, cells) = conditions(&bulk.filter, self.inner.store.path().is_some());
        let sql = format!("SELECT count(*) FROM runs WHERE {condition}");
        let rows = self.inner.store.fetch(&sql, &cells).await;
        let rows = rows.map_err(OperationError::unavailable)?;
        let count = rows.first().and_then(|row| row.int(0)).unwrap_or(0);
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// An operation, whether it has ended or not.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn operation(&self, id: OperationId) -> Result<Option<OperationView>, QueryError> {
        if let Some(view) = self.inner.operations.open.lock().get(&id) {
            return Ok(Some(view.clone()));
        }
        let sql = format!("SELECT {OPERATION_COLUMNS} FROM operations WHERE id = ?");
        let rows = self.inner.store.fetch(&sql, &[Cell::Id(id.to_bytes())]).await?;
        Ok(rows.first().and_then(stored))
    }

    /// A page of operations, the newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn operations(
        &self,
        cursor: Option<OperationId>,
        limit: usize,
    ) -> Result<Page<OperationView>, QueryError> {
        let sql = format!(
            "SELECT {OPERATION_COLUMNS} FROM operations WHERE id < ? ORDER BY id DESC LIMIT {}",
            limit + 1
        );
        let before = cursor.map_or([0xff; 16], OperationId::to_bytes);
        let rows = self.inner.store.fetch(&sql, &[Cell::Id(before)]).await?;
        let mut rows: Vec<OperationView> = rows.iter().filter_map(stored).collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|last| last.id.to_string());
        Ok(Page { rows, next })
    }

    /// Pauses, resumes or aborts an operation: it takes effect before the next page.
    ///
    /// # Errors
    /// When there is no such operation, or it has ended.
    pub async fn change_operation(
        &self,
        id: OperationId,
        step: OperationStep,
    ) -> Result<OperationView, OperationError> {
        loop {
            let found = self.operation(id).await.map_err(OperationError::unavailable)?;
            let found = found.ok_or(OperationError::NotFound { id })?;
            let state = found.state.after(step)?;
            match self.inner.stand(id, found.state, state).await {
                Ok(()) => break,
                // It has ended, or somebody else was first: it stands otherwise now.
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(OperationError::unavailable(error)),
            }
        }
        let changed = self.operation(id).await.map_err(OperationError::unavailable)?;
        changed.ok_or(OperationError::NotFound { id })
    }
}

fn check(bulk: &Bulk, wish: &Wish) -> Result<(), OperationError> {
    let filter = &bulk.filter;
    let names_some = filter.service.is_some()
        || filter.workflow.is_some()
        || filter.operation.is_some()
        || filter.state.is_some()
        || filter.label.is_some();
    if !names_some {
        return Err(OperationError::NoFilter);
    }
    if !(1..=OPERATION_RATE_MAX).contains(&bulk.rate) {
        return Err(OperationError::Rate { rate: bulk.rate });
    }
    let bytes = wish.reason.len();
    if bytes > REASON_BYTES_MAX {
        return Err(OperationError::ReasonTooLong { bytes });
    }
    Ok(())
}

impl Inner {
    /// The operation, which stands as in `from`, stands so from now on; a conflict when it does not.
    async fn stand(
        self: &Arc<Self>,
        id: OperationId,
        from: OperationState,
        state: OperationState,
    ) -> Result<(), CommitError> {
        let now = self.clock.now();
        let ended = state.is_ended().then_some(now);
        let mut unit = Unit::new();
        let cells = [
            Cell::Id(id.to_bytes()),
            i64::from(state.code()).into(),
            now.as_millis().into(),
            ended.map(Timestamp::as_millis).into(),
            i64::from(from.code()).into(),
        ];
        unit.add(&OPERATION_STAND, cells);
        let inner = Arc::clone(self);
        unit.on_done(move |outcome| {
            if outcome.is_err() {
                return;
            }
            let mut open = inner.operations.open.lock();
            if ended.is_some() {
                open.remove(&id);
                inner.operations.held.lock().remove(&id);
            } else if let Some(view) = open.get_mut(&id) {
                (view.state, view.updated_at) = (state, now);
            }
            drop(open);
            inner.operations.moved.notify_one();
        });
        self.store.commit(unit).await
    }
}

/// An operation as it is stored.
pub(crate) fn stored(row: &Row) -> Option<OperationView> {
    let instant = |at: usize| row.int(at).map(Timestamp::from_millis);
    let count = |at: usize| row.int(at).and_then(|count| u64::try_from(count).ok());
    Some(OperationView {
        id: OperationId::from_bytes(row.blob(0)?)?,
        state: OperationState::from_code(row.int(1)?)?,
        action: serde_json::from_str(row.text(2)?).ok()?,
        filter: serde_json::from_str(row.text(3)?).ok()?,
        reason: row.text(4)?.to_owned(),
        by: row.text(5)?.to_owned(),
        rate: u32::try_from(row.int(6)?).ok()?,
        bookmark: row.blob(7).and_then(RunId::from_bytes),
        seen: count(8)?,
        done: count(9)?,
        refused: count(10)?,
        created_at: instant(11)?,
        updated_at: instant(12)?,
        ended_at: instant(13),
    })
}
