//! Compaction: the history of a run that has rested long enough gives way to a snapshot of where it rests.
//!
//! A run is still there, facts and last turn included, and goes on when something new comes; what it did before its last
//! turn cannot be read any more. Workflows say after how long (`history` in `[retention.…]`); without a word everything is
//! kept.
//!
//! 1. A pass looks for runs that rest (idle or ended) with more than one turn, and sends each a message.
//! 2. The evaluator that leases the run's key looks again, and commits in one unit: a snapshot of the run after its last
//!    turn, the deletion of the records before that turn, the acknowledgement. Since the key is leased no turn is under
//!    way, so the snapshot holds everything; and what was kept for a stopped run is never among those records, since a
//!    run that is paused or put aside is not compacted, and one that was has been given it.
//!
//! The last record stays: it says where the run is, for whoever archives it or writes the next one. A step that is done twice
//! changes nothing. Whoever reads a run meanwhile sees the gap and reads again (`load.rs`).

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{LeasedKey, NewMessage};
use celesta_store::{Cell, Expect, QueryError, Statement, Unit};
use celesta_types::{Class, MessageId, Priority, RunId};

use crate::load::LoadError;
use crate::message::HostMessage;
use crate::runtime::Inner;
use crate::schema::SNAPSHOT_UPSERT;
use crate::state::RunState;

/// Between two passes: histories take room, and nobody waits for it.
const PAUSE: Duration = Duration::from_secs(3_600);
/// Between two reads of a pass, so that the work of live runs goes before.
const BREATH: Duration = Duration::from_millis(50);
/// Runs looked at in one read.
const LOOKED_AT: usize = 500;

/// The records of a run before one of its turns.
static CUT: Statement = Statement {
    name: "journal.cut",
    rank: 30,
    head: "DELETE FROM journal WHERE (run, seq) IN (SELECT cut.run, cut.seq FROM (VALUES ",
    row: "(?, ?)",
    tail: ") AS v CROSS JOIN journal AS cut WHERE cut.run = v.column1 AND cut.seq < v.column2)",
    cells: 2,
    expect: Expect::Any,
};

/// Whether a run in that state rests: only something new moves it, and nothing is kept for it.
const fn rests(state: RunState) -> bool {
    matches!(
        state,
        RunState::Idle | RunState::Completed | RunState::Failed | RunState::Canceled
    )
}

/// Passes until shutdown.
pub(crate) async fn run(inner: Arc<Inner>) {
    let shutdown = inner.tasks.shutdown().clone();
    let mut pushes = inner.registry.changes();
    loop {
        let passed = tokio::select! {
            passed = inner.pass() => passed,
            () = shutdown.requested() => return,
        };
        match passed {
            Ok(0) => {}
            Ok(runs) => tracing::info!(runs, "histories are being compacted"),
            Err(reason) => tracing::warn!(reason, "histories could not be compacted"),
        }
        tokio::select! {
            () = inner.clock.sleep(PAUSE) => {}
            // A new version may keep histories for a shorter time.
            Ok(()) = pushes.changed() => {}
            () = shutdown.requested() => return,
        }
    }
}

/// What compacts the run of a key that is asked for nothing else, and settles the key; `None` for all other keys.
pub(super) async fn settle(inner: &Inner, key: &LeasedKey) -> Option<Unit> {
    let asks = |payload: &[u8]| matches!(HostMessage::read(payload), Some(HostMessage::Compact));
    if !key.messages.iter().all(|message| asks(&message.payload)) {
        return None;
    }
    let run = RunId::from_bits(key.key.bits());
    let mut unit = Unit::new();
    if let Err(error) = inner.compact(run, &mut unit).await {
        tracing::warn!(%run, %error, "the history of a run stays for now");
        unit = Unit::new();
    }
    if let Err(error) = inner.acknowledge(&mut unit, key) {
        tracing::debug!(%run, %error, "the wish to compact a run is somebody else's now");
        return Some(Unit::new());
    }
    Some(unit)
}

impl Inner {
    /// Asks every run to be compacted that has rested long enough; gives how many.
    async fn pass(&self) -> Result<usize, String> {
        let mut asked = 0;
        for version in self.registry.all() {
            for (workflow, retention) in &version.bundle.retention {
                let Some(history_ms) = retention.history_ms else {
                    continue;
                };
                for state in RunState::ALL.into_iter().filter(|state| rests(*state)) {
                    asked += self
                        .pass_over(&version.service, workflow, state, history_ms)
                        .await?;
                }
            }
        }
        Ok(asked)
    }

    async fn pass_over(
        &self,
        service: &str,
        workflow: &str,
        state: RunState,
        history_ms: i64,
    ) -> Result<usize, String> {
        let before = self.clock.now().after_millis(-history_ms);
        // Ids are in the order of creation: what is younger than its keeping time is not looked at.
        let sql = "SELECT id, workflow, updated_at, (SELECT min(seq) FROM journal WHERE run = runs.id), \
                   (SELECT max(seq) FROM journal WHERE run = runs.id) \
                   FROM runs WHERE service = ? AND state = ? AND id > ? AND id < ? ORDER BY id LIMIT ?";
        let mut asked = 0;
        let mut after = RunId::from_bits(0);
        loop {
            let cells = [
                service.into(),
                i64::from(state.code()).into(),
                Cell::Id(after.to_bytes()),
                Cell::Id(RunId::new(before, 0).to_bytes()),
                i64::try_from(LOOKED_AT).unwrap_or(i64::MAX).into(),
            ];
            let rows = self.store.fetch(sql, &cells).await;
            let rows = rows.map_err(|error: QueryError| error.to_string())?;
            let mut messages = Vec::new();
            for row in &rows {
                let Some(run) = row.blob(0).and_then(RunId::from_bytes) else {
                    continue;
                };
                after = run;
                let rested = row.int(2).is_some_and(|at| at < before.as_millis());
                if let (true, Some(first), Some(last)) = (rested, row.int(3), row.int(4))
                    && row.text(1) == Some(workflow)
                    && first < last
                {
                    messages.push(self.compact_message(run, last));
                }
            }
            if !messages.is_empty() {
                asked += messages.len();
                let told = self.queues.enqueue(messages).await;
                told.map_err(|error| error.to_string())?;
            }
            if rows.len() < LOOKED_AT {
                return Ok(asked);
            }
            self.clock.sleep(BREATH).await;
        }
    }

    fn compact_message(&self, run: RunId, last: i64) -> NewMessage {
        // The same turn has the same id: what is under way already is not sent twice.
        let id = MessageId::from_producer(&format!("compact {run} {last}"));
        let message = NewMessage::new(id, self.runs_queue.clone(), HostMessage::Compact.encode());
        message
            .with_key(run)
            .with_priority(Priority::of(Class::Background))
    }

    /// Adds what compacts the run to the unit, if it still rests and has done so long enough.
    async fn compact(&self, run: RunId, unit: &mut Unit) -> Result<(), LoadError> {
        let Some(live) = self.load(run).await? else {
            return Ok(());
        };
        let version = self.registry.current(&live.head.service);
        let kept = version
            .as_ref()
            .and_then(|version| version.bundle.retention.get(&*live.head.workflow)?.history_ms);
        let Some(history_ms) = kept else { return Ok(()) };
        let before = self.clock.now().after_millis(-history_ms);
        if !rests(live.head.state) || live.head.updated_at >= before || live.seq < 2 {
            return Ok(());
        }
        let seq = || Cell::from(i64::try_from(live.seq).unwrap_or(i64::MAX));
        let id = || Cell::Id(run.to_bytes());
        unit.add(&SNAPSHOT_UPSERT, [id(), seq(), live.memory.snapshot().into()]);
        unit.add(&CUT, [id(), seq()]);
        Ok(())
    }
}
