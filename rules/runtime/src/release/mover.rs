//! Moving runs in the background, for workflows whose policy is `upgrade`: each is told once, a batch at a time, and
//! moves in a turn of its own. Nothing is kept of how far it is: a run that has moved is not found again, so a node that
//! starts anew begins anew.

use std::sync::Arc;
use std::time::Duration;

use celesta_bundle::VersionPolicy;
use celesta_runtime::Fate;
use celesta_store::{Cell, QueryError};
use celesta_types::{Class, Priority, RunId};

use crate::message::HostMessage;
use crate::registry::Version;
use crate::runtime::Inner;
use crate::state::RunState;

/// Runs told at once, and how long they have: a thousand a second leave most of a node to ordinary work.
const BATCH: i64 = 200;
const PAUSE: Duration = Duration::from_millis(200);

impl Inner {
    /// Has the runs move in the background that are to follow the current version of `service`.
    pub(crate) fn move_runs(self: &Arc<Self>, service: &str) {
        let Some(version) = self.registry.current(service) else {
            return;
        };
        let mut versions = version.bundle.versions.values();
        if !versions.any(|versions| versions.policy == VersionPolicy::Upgrade) {
            return;
        }
        let inner = Arc::clone(self);
        let work = async move {
            let shutdown = inner.tasks.shutdown().clone();
            tokio::select! {
                moved = inner.move_all(&version) => {
                    if let Err(error) = moved {
                        tracing::warn!(service = %version.service, %error, "runs are not moved until the next start or push");
                    }
                }
                () = shutdown.requested() => {}
            }
        };
        self.tasks.spawn("runs.mover", Fate::Expendable, work);
    }

    async fn move_all(&self, version: &Arc<Version>) -> Result<(), QueryError> {
        for workflow in version.bundle.workflows.keys() {
            let versions = version.bundle.versions.get(workflow);
            if versions.is_some_and(|versions| versions.policy == VersionPolicy::Upgrade) {
                self.move_workflow(version, workflow).await?;
            }
        }
        Ok(())
    }

    async fn move_workflow(&self, version: &Arc<Version>, workflow: &str) -> Result<(), QueryError> {
        let sql = "SELECT id FROM runs WHERE service = ? AND workflow = ? AND version <> ? AND state NOT IN (?, ?, ?) \
                   AND id > ? ORDER BY id LIMIT ?";
        let [canceled, quarantined, paused] = [RunState::Canceled, RunState::Quarantined, RunState::Paused]
            .map(|state| i64::from(state.code()));
        let mut after = RunId::from_bits(0);
        loop {
            // Another version has become current: its own mover goes over the runs.
            let current = self.registry.current(&version.service);
            if current.is_none_or(|current| current.digest != version.digest) {
                return Ok(());
            }
            let cells = [
                Cell::Text(Arc::clone(&version.service)),
                workflow.into(),
                version.digest.as_bytes().to_vec().into(),
                canceled.into(),
                quarantined.into(),
                paused.into(),
                Cell::Id(after.to_bytes()),
                BATCH.into(),
            ];
            let rows = self.store.fetch(sql, &cells).await?;
            let runs: Vec<RunId> = rows
                .iter()
                .filter_map(|row| RunId::from_bytes(row.blob(0)?))
                .collect();
            let Some(last) = runs.last() else { return Ok(()) };
            after = *last;
            let wake = |run: &RunId| {
                let message = self.message_to(*run, &HostMessage::Wake);
                message.with_priority(Priority::of(Class::Background))
            };
            let told = self.queues.enqueue(runs.iter().map(wake).collect()).await;
            if let Err(error) = told {
                tracing::warn!(%error, "runs were not told of their new version");
            }
            self.clock.sleep(PAUSE).await;
        }
    }
}
