//! The sweep: in the background it looks for runs that have been finished long enough, writes segments of them and asks
//! the evaluators to let them go. It takes no input, may be stopped anywhere, and begins anew each time.

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::NewMessage;
use celesta_store::Cell;
use celesta_types::{Class, MessageId, Priority, RunId};

use super::frame::{Frame, Segment};
use super::{Place, may_be_archived};
use crate::load::LoadError;
use crate::message::HostMessage;
use crate::query::fact_view;
use crate::runtime::Inner;
use crate::state::RunState;
use crate::view::FactView;

/// Between two sweeps.
const PAUSE: Duration = Duration::from_secs(60);
/// Between two segments, so that the work of live runs goes before.
const BREATH: Duration = Duration::from_millis(50);
/// Rows looked at for one segment.
const LOOKED_AT: i64 = 500;
/// A segment is closed when it has so many bytes: one read of it stays cheap to copy and to verify.
const SEGMENT_BYTES: usize = 8 << 20;
/// The media type of a segment.
const MEDIA_TYPE: &str = "application/vnd.celesta.archive";

/// What can go wrong with a segment; all of it is tried again.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the segment cannot be kept: {0}")]
    Artifacts(#[from] celesta_artifacts::Error),
    #[error("a frame cannot be packed: {0}")]
    Pack(#[from] std::io::Error),
    #[error("the runs cannot be told: {0}")]
    Queue(#[from] celesta_queue::Error),
}

impl From<celesta_store::QueryError> for SweepError {
    fn from(error: celesta_store::QueryError) -> Self {
        Self::Load(error.into())
    }
}

/// Sweeps until shutdown.
pub(crate) async fn run(inner: Arc<Inner>) {
    let shutdown = inner.tasks.shutdown().clone();
    let mut pushes = inner.registry.changes();
    loop {
        let swept = tokio::select! {
            swept = inner.sweep() => swept,
            () = shutdown.requested() => return,
        };
        match swept {
            Ok(0) => {}
            Ok(runs) => tracing::info!(runs, "finished runs are being archived"),
            Err(error) => tracing::warn!(%error, "finished runs could not be archived"),
        }
        tokio::select! {
            () = inner.clock.sleep(PAUSE) => {}
            // A new version may keep runs for a shorter time.
            Ok(()) = pushes.changed() => {}
            () = shutdown.requested() => return,
        }
    }
}

impl Inner {
    /// Asks every run to be archived that has been finished long enough; gives how many.
    async fn sweep(&self) -> Result<usize, SweepError> {
        let mut asked = 0;
        for version in self.registry.all() {
            for (workflow, retention) in &version.bundle.retention {
                let Some(finished_ms) = retention.finished_ms else {
                    continue;
                };
                for state in RunState::ALL.into_iter().filter(|state| may_be_archived(*state)) {
                    let mut after = RunId::from_bits(0);
                    while let Some((last, runs)) = self
                        .archive_some(&version.service, workflow, state, finished_ms, after)
                        .await?
                    {
                        after = last;
                        asked += runs;
                        self.clock.sleep(BREATH).await;
                    }
                }
            }
        }
        Ok(asked)
    }

    /// Writes one segment of the runs after `after` and tells them; gives the last run looked at and how many were told.
    async fn archive_some(
        &self,
        service: &str,
        workflow: &str,
        state: RunState,
        finished_ms: i64,
        after: RunId,
    ) -> Result<Option<(RunId, usize)>, SweepError> {
        let before = self.clock.now().after_millis(-finished_ms);
        // Ids are in the order of creation: what is younger than its keeping time is not looked at.
        let sql = "SELECT id, workflow, ended_at FROM runs WHERE service = ? AND state = ? AND id > ? AND id < ? \
                   ORDER BY id LIMIT ?";
        let cells = [
            service.into(),
            i64::from(state.code()).into(),
            Cell::Id(after.to_bytes()),
            Cell::Id(RunId::new(before, 0).to_bytes()),
            LOOKED_AT.into(),
        ];
        let rows = self.store.fetch(sql, &cells).await?;
        let mut last = None;
        let mut segment = Segment::new();
        let mut places = Vec::new();
        for row in &rows {
            let Some(run) = row.blob(0).and_then(RunId::from_bytes) else {
                continue;
            };
            last = Some(run);
            let over = row.int(2).is_some_and(|ended| ended < before.as_millis());
            if !over || row.text(1) != Some(workflow) {
                continue;
            }
            match self.frame(run).await {
                Ok(Some((seq, frame))) => {
                    let (at, bytes) = segment.add(run, &frame.encode()?);
                    places.push((run, seq, at, bytes));
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%run, %error, "a run cannot be archived"),
            }
            if segment.len() >= SEGMENT_BYTES {
                break;
            }
        }
        let Some(last) = last else { return Ok(None) };
        if places.is_empty() {
            return Ok(Some((last, 0)));
        }
        let kept = self
            .artifacts
            .put_bytes(segment.finish(), Some(MEDIA_TYPE.to_owned()))
            .await?;
        let told = places.len();
        let messages = places.into_iter().map(|(run, seq, at, bytes)| {
            let place = Place {
                seq,
                artifact: kept.digest,
                at,
                bytes,
            };
            self.archive_message(run, place)
        });
        self.queues.enqueue(messages.collect()).await?;
        Ok(Some((last, told)))
    }

    fn archive_message(&self, run: RunId, place: Place) -> NewMessage {
        // The same turn has the same id: what is under way already is not sent twice.
        let id = MessageId::from_producer(&format!("archive {run} {}", place.seq));
        let message = NewMessage::new(id, self.runs_queue.clone(), HostMessage::Archive(place).encode());
        message
            .with_key(run)
            .with_priority(Priority::of(Class::Background))
    }

    /// Everything that is kept of a run, and its last turn; `None` when it is not as finished as it looks.
    async fn frame(&self, run: RunId) -> Result<Option<(u64, Frame)>, LoadError> {
        let Some(live) = self.load(run).await? else {
            return Ok(None);
        };
        // A completed run may still wait for calls: it is let go when they have come.
        if !may_be_archived(live.head.state)
            || live.head.state == RunState::Completed && live.memory.open_calls().next().is_some()
        {
            return Ok(None);
        }
        let mut records = Vec::new();
        let mut after = 0;
        loop {
            let read = self.records(run, after, usize::MAX).await?;
            let Some((last, _)) = read.last() else { break };
            after = *last;
            records.extend(read);
        }
        if after != live.seq {
            // It has moved between the two reads.
            return Ok(None);
        }
        let facts: Vec<FactView> = live.memory.facts().map(|fact| fact_view(&fact)).collect();
        let sql = "SELECT input FROM runs WHERE id = ?";
        let rows = self.store.fetch(sql, &[Cell::Id(run.to_bytes())]).await?;
        let input = rows.first().and_then(|row| row.blob(0)).unwrap_or_default();
        let rules = live.rules.rules().iter().map(|rule| rule.name().to_owned());
        let frame = Frame::new(&live.head, input, rules.collect(), &facts, records);
        Ok(Some((live.seq, frame)))
    }
}
