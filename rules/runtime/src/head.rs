//! What is known of a run besides its facts: the row of the `runs` table, as kept in memory while the run is live.

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_store::{Cell, Row, Unit};
use celesta_types::{CallId, Digest, Priority, RunId, Timestamp};

use crate::schema::{RUN_INSERT, RUN_STEER, RUN_UPDATE};
use crate::state::RunState;
use crate::steering::{NOTHING, Steering};
use crate::view::{ProgressView, RunView, raw};

/// The columns of a head, in the order [`RunHead::from_row`] reads them.
pub(crate) const COLUMNS: &str = "id, service, operation, workflow, version, state, created_at, updated_at, ended_at, rank, \
     deadline, labels, trace, parent, parent_call, result, error, progress, depth, steering";
/// The columns of a head.
pub(crate) const COLUMN_COUNT: usize = 20;

/// A run's row.
#[derive(Debug, Clone)]
pub(crate) struct RunHead {
    pub(crate) run: RunId,
    pub(crate) service: Arc<str>,
    pub(crate) operation: Arc<str>,
    pub(crate) workflow: Arc<str>,
    pub(crate) version: Digest,
    pub(crate) state: RunState,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) priority: Priority,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) trace: Option<Arc<str>>,
    pub(crate) parent: Option<(RunId, CallId)>,
    /// How many requests lie between this run and a client's.
    pub(crate) depth: u32,
    pub(crate) result: Option<Arc<str>>,
    pub(crate) error: Option<Arc<str>>,
    pub(crate) progress: Option<ProgressView>,
    /// What was said about this run in particular; nearly always nothing.
    pub(crate) steering: Option<Box<Steering>>,
}

impl RunHead {
    /// Adds the new run's row to `unit`.
    pub(crate) fn insert(&self, unit: &mut Unit, input: &[u8], idempotency_key: Option<&str>) {
        let labels =
            (!self.labels.is_empty()).then(|| serde_json::to_string(&self.labels).unwrap_or_default());
        unit.add(
            &RUN_INSERT,
            [
                Cell::Id(self.run.to_bytes()),
                Cell::Text(Arc::clone(&self.service)),
                Cell::Text(Arc::clone(&self.operation)),
                Cell::Text(Arc::clone(&self.workflow)),
                self.version.as_bytes().to_vec().into(),
                i64::from(self.state.code()).into(),
                self.created_at.as_millis().into(),
                self.updated_at.as_millis().into(),
                i64::from(self.priority.rank()).into(),
                self.priority.deadline.map(Timestamp::as_millis).into(),
                labels.into(),
                idempotency_key.into(),
                self.trace.as_deref().into(),
                self.parent
                    .map_or(Cell::Null, |(run, _)| Cell::Id(run.to_bytes())),
                self.parent.map(|(_, call)| call.to_string()).into(),
                i64::from(self.depth).into(),
                input.to_vec().into(),
                self.steering_text().into(),
            ],
        );
    }

    /// Adds the change of what people and parents can change to `unit`.
    pub(crate) fn steer(&self, unit: &mut Unit) {
        unit.add(
            &RUN_STEER,
            [
                Cell::Id(self.run.to_bytes()),
                i64::from(self.priority.rank()).into(),
                self.priority.deadline.map(Timestamp::as_millis).into(),
                self.steering_text().into(),
            ],
        );
    }

    fn steering_text(&self) -> Option<String> {
        let steering = self.steering.as_deref()?;
        (*steering != NOTHING).then(|| serde_json::to_string(steering).unwrap_or_default())
    }

    /// What was said about this run in particular.
    pub(crate) fn steering(&self) -> &Steering {
        self.steering.as_deref().unwrap_or(&NOTHING)
    }

    pub(crate) fn steering_mut(&mut self) -> &mut Steering {
        self.steering.get_or_insert_default()
    }

    /// Adds the change of what a turn can change to `unit`.
    pub(crate) fn update(&self, unit: &mut Unit) {
        unit.add(
            &RUN_UPDATE,
            [
                Cell::Id(self.run.to_bytes()),
                i64::from(self.state.code()).into(),
                self.updated_at.as_millis().into(),
                self.ended_at.map(Timestamp::as_millis).into(),
                self.result
                    .as_ref()
                    .map_or(Cell::Null, |result| result.as_bytes().to_vec().into()),
                self.error.as_deref().into(),
                self.progress
                    .as_ref()
                    .and_then(|progress| serde_json::to_string(progress).ok())
                    .into(),
            ],
        );
    }

    /// Reads a row of [`COLUMNS`]; `None` when it holds what no release writes.
    pub(crate) fn from_row(row: &Row) -> Option<Self> {
        let text = |at: usize| row.text(at).map(Arc::<str>::from);
        let instant = |at: usize| row.int(at).map(Timestamp::from_millis);
        let rank = u32::try_from(row.int(9)?).ok()?;
        let parent = match (row.blob(13), row.text(14)) {
            (Some(run), Some(call)) => Some((RunId::from_bytes(run)?, call.parse().ok()?)),
            _ => None,
        };
        Some(Self {
            run: RunId::from_bytes(row.blob(0)?)?,
            service: text(1)?,
            operation: text(2)?,
            workflow: text(3)?,
            version: Digest::from_bytes(row.blob(4)?.try_into().ok()?),
            state: RunState::from_code(row.int(5)?)?,
            created_at: instant(6)?,
            updated_at: instant(7)?,
            ended_at: instant(8),
            priority: Priority::from_rank(rank, instant(10))?,
            labels: row.text(11).map_or_else(
                || Some(BTreeMap::new()),
                |labels| serde_json::from_str(labels).ok(),
            )?,
            trace: text(12),
            parent,
            depth: row
                .int(18)
                .and_then(|depth| u32::try_from(depth).ok())
                .unwrap_or(0),
            result: row
                .blob(15)
                .and_then(|result| std::str::from_utf8(result).ok())
                .map(Arc::from),
            error: text(16),
            progress: row
                .text(17)
                .and_then(|progress| serde_json::from_str(progress).ok()),
            steering: match row.text(19) {
                None => None,
                Some(steering) => Some(serde_json::from_str(steering).ok()?),
            },
        })
    }

    /// What clients see; the input is added where it was read.
    pub(crate) fn view(&self) -> RunView {
        RunView {
            id: self.run,
            service: self.service.to_string(),
            operation: self.operation.to_string(),
            workflow: self.workflow.to_string(),
            version: self.version,
            state: self.state,
            created_at: self.created_at,
            updated_at: self.updated_at,
            ended_at: self.ended_at,
            priority: self.priority,
            labels: self.labels.clone(),
            input: None,
            result: self.result.as_deref().map(raw),
            error: self.error.as_deref().map(str::to_owned),
            progress: self.progress.clone(),
            parent: self.parent.map(|(run, _)| run),
            trace: self.trace.as_deref().map(str::to_owned),
            archived: false,
            concurrency: self.steering().gates.clone(),
            breakpoints: self.steering().breakpoints.clone(),
            stopped: self.steering().stopped.clone(),
            avoided: self.steering().avoided,
        }
    }
}
