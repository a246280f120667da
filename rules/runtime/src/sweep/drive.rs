//! The driver: takes the open sweeps of a store in turn, a batch at a time.

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{LeasedKey, NewMessage};
use celesta_store::{Cell, Unit};
use celesta_types::{Class, MessageId, Priority, RunId, SweepId};

use super::rows::{Found, SWEPT_NOTE};
use super::{Selection, SweepError, SweepState, SweepStep, Swept};
use crate::message::HostMessage;
use crate::runtime::Inner;
use crate::state::RunState;
use crate::turn::Done;

/// Runs of a batch at most: what is on the way when somebody pauses.
const BATCH_RUNS_MAX: usize = 256;
/// Batches a second at the sweep's rate: a pause is felt, and other sweeps are looked at, this often.
const BATCHES_PER_SECOND: u32 = 4;
/// How long a batch's runs are waited for; one that stays silent counts as missed.
const PATIENCE: Duration = Duration::from_secs(120);
/// The driver looks again by itself after this, whatever it was told.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// When the store did not answer, the driver asks again after this.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Drives sweeps until shutdown.
pub(crate) async fn drive(inner: Arc<Inner>) {
    let shutdown = inner.tasks.shutdown().clone();
    let work = async {
        loop {
            let idle = match round(&inner).await {
                Ok(true) => continue,
                Ok(false) => LOOK_AGAIN,
                Err(error) => {
                    tracing::warn!(%error, "a sweep cannot go on; it is tried again");
                    TRY_AGAIN
                }
            };
            tokio::select! {
                () = inner.sweeps.bell.notified() => {}
                () = inner.clock.sleep(idle) => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.requested() => {}
    }
}

/// One batch of each open sweep; whether any of them has moved.
async fn round(inner: &Inner) -> Result<bool, SweepError> {
    let mut moved = false;
    for found in inner.open_sweeps(None).await? {
        moved |= match found.view.state {
            SweepState::Pending => {
                if let Selection::Interests { revision, .. } = &found.plan.selection {
                    inner.await_turns(&found.view.service, *revision).await?;
                }
                let runs = inner.count_left(&found).await?;
                let step = if found.view.hold {
                    SweepStep::Counted
                } else {
                    SweepStep::Started
                };
                inner.move_sweep(found.view.id, step, None, Some(runs)).await?;
                true
            }
            SweepState::Running => {
                batch(inner, found).await?;
                true
            }
            SweepState::Previewed | SweepState::Paused | SweepState::Done | SweepState::Aborted => false,
        };
    }
    Ok(moved)
}

/// Tells the next runs of a sweep and waits for their turns.
async fn batch(inner: &Inner, mut found: Found) -> Result<(), SweepError> {
    let begun = inner.clock.monotonic();
    // The rate is that of all partitions together.
    let (sweep, rate) = (found.view.id, (found.view.rate / inner.partition.count).max(1));
    let limit = usize::try_from(rate / BATCHES_PER_SECOND).unwrap_or(usize::MAX);
    let next = inner
        .next_runs(&found, found.place, limit.clamp(1, BATCH_RUNS_MAX))
        .await?;
    let Some((runs, place)) = next else {
        inner.move_sweep(sweep, SweepStep::Exhausted, None, None).await?;
        return Ok(());
    };
    // A batch that was sent before a crash may have answered already; such runs are not told again.
    let mut settled = inner.outcomes(sweep, &runs).await?;
    let known = |settled: &[(RunId, Swept)], run: &RunId| settled.iter().any(|(known, _)| known == run);
    let silent: Vec<RunId> = runs.iter().filter(|run| !known(&settled, run)).copied().collect();
    inner.await_runs(sweep, &silent);
    let told = tell(inner, &found, &silent).await;
    let answered = async {
        while !inner.sweeps.has_answered(sweep) {
            inner.sweeps.answered.notified().await;
        }
    };
    if told.is_ok() {
        tokio::select! {
            () = answered => {}
            () = inner.clock.sleep(PATIENCE) => {}
        }
    }
    inner.sweeps.awaited.lock().remove(&sweep);
    told?;
    if !silent.is_empty() {
        settled = inner.outcomes(sweep, &runs).await?;
    }
    for run in runs {
        if !known(&settled, &run) {
            settled.push((run, Swept::Missed));
        }
    }
    let count = u32::try_from(settled.len()).unwrap_or(u32::MAX);
    inner.keep_place(&mut found, place, &settled).await?;
    let due = Duration::from_secs_f64(f64::from(count) / f64::from(rate));
    let spent = inner.clock.monotonic().saturating_sub(begun);
    // The last batch owes nobody its time.
    let ended = found.view.runs.is_some_and(|runs| found.view.told >= runs);
    if spent < due && !ended {
        inner.clock.sleep(due.saturating_sub(spent)).await;
    }
    Ok(())
}

async fn tell(inner: &Inner, found: &Found, runs: &[RunId]) -> Result<(), SweepError> {
    if runs.is_empty() {
        return Ok(());
    }
    let sweep = found.view.id;
    let payload = HostMessage::Swept {
        sweep,
        order: found.plan.order,
    }
    .encode();
    let message = |run: &RunId| {
        let message = NewMessage::new(message_id(sweep, *run), inner.runs_queue.clone(), payload.clone());
        NewMessage {
            fairness: Some(found.view.service.as_str().into()),
            ..message
                .with_key(*run)
                .with_priority(Priority::of(Class::Background))
        }
    };
    let messages = runs.iter().map(message).collect();
    let outcomes = inner.queues.enqueue(messages).await;
    for outcome in outcomes.map_err(SweepError::unavailable)? {
        outcome.map_err(SweepError::unavailable)?;
    }
    Ok(())
}

/// The same sweep tells the same run by the same message.
fn message_id(sweep: SweepId, run: RunId) -> MessageId {
    MessageId::from_producer(&format!("{sweep} {run}"))
}

impl super::Sweeps {
    fn has_answered(&self, sweep: SweepId) -> bool {
        self.awaited
            .lock()
            .get(&sweep)
            .is_none_or(std::collections::BTreeSet::is_empty)
    }
}

impl Inner {
    fn await_runs(&self, sweep: SweepId, runs: &[RunId]) {
        self.sweeps
            .awaited
            .lock()
            .insert(sweep, runs.iter().copied().collect());
    }

    /// Notes in a turn's unit what became of the run for the sweeps whose messages it had.
    pub(crate) fn note_swept(self: &Arc<Self>, key: &LeasedKey, done: &mut Done) {
        let outcome = match &done.live {
            Some(live) if matches!(live.head.state, RunState::Paused) => Swept::Missed,
            None => Swept::Missed,
            Some(_) if done.firings > 0 || done.changed => Swept::Moved,
            Some(live) if live.head.state == RunState::Quarantined => Swept::Missed,
            Some(_) => Swept::Still,
        };
        self.note_swept_as(key, outcome, &mut done.unit);
    }

    /// The same for messages of a run that took no turn.
    pub(crate) fn note_swept_as(self: &Arc<Self>, key: &LeasedKey, outcome: Swept, unit: &mut Unit) {
        let run = RunId::from_bits(key.key.bits());
        for message in &key.messages {
            let Some(HostMessage::Swept { sweep, .. }) = HostMessage::read(&message.payload) else {
                continue;
            };
            unit.add(
                &SWEPT_NOTE,
                [
                    Cell::Id(sweep.to_bytes()),
                    Cell::Id(run.to_bytes()),
                    outcome.code().into(),
                ],
            );
            let inner = Arc::clone(self);
            unit.on_done(move |done| {
                if done.is_ok() {
                    inner.sweeps.told(sweep, run);
                }
            });
        }
    }
}
