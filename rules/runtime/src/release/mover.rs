//! Moving runs in the background, for workflows whose policy is `upgrade`: a sweep tells those that follow another version
//! to take a turn, and they move in it (`upgrade.rs`). So it has what sweeps have: a rate, progress, pause, abort, a
//! report, and its place after a crash.

use std::sync::Arc;

use celesta_bundle::VersionPolicy;
use celesta_runtime::Fate;

use crate::registry::Version;
use crate::runtime::Inner;
use crate::state::RunState;
use crate::sweep::{NewSweep, Order, SWEEP_RATE, Selection, SweepError, SweepFilter};

/// The states in which a run may move: stopped ones do when they go on, canceled ones never move again.
const MOVING: [RunState; 4] = [
    RunState::Running,
    RunState::Idle,
    RunState::Completed,
    RunState::Failed,
];

impl Inner {
    /// Has the runs move in the background that are to follow the current version of `service`.
    pub(crate) fn move_runs(self: &Arc<Self>, service: &str) {
        if self.reads_only {
            return;
        }
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
                asked = inner.sweep_to(&version) => {
                    if let Err(error) = asked {
                        tracing::warn!(service = %version.service, %error, "runs are not moved until the next start or push");
                    }
                }
                () = shutdown.requested() => {}
            }
        };
        self.tasks.spawn("runs.mover", Fate::Expendable, work);
    }

    /// Makes a sweep for each workflow whose runs are to move to `version`, when there are any and none is open.
    async fn sweep_to(&self, version: &Version) -> Result<(), SweepError> {
        for (workflow, versions) in &version.bundle.versions {
            if versions.policy != VersionPolicy::Upgrade || version.rules(workflow).is_none() {
                continue;
            }
            let filter = SweepFilter {
                workflow: Some(workflow.clone()),
                states: MOVING.into(),
                other_than: Some(version.digest),
                ..SweepFilter::default()
            };
            let new = NewSweep {
                id: None,
                service: version.service.to_string(),
                cause: format!("runs of workflow `{workflow}` move to version {}", version.digest),
                rules: Vec::new(),
                selection: Selection::Runs(filter),
                order: Order::Look,
                hold: false,
                rate: SWEEP_RATE,
            };
            self.sweep_unless_open(&new).await?;
        }
        Ok(())
    }
}
