//! One step of one sweep: counting its runs, or telling a batch of them and waiting for their turns.

use std::time::Duration;

use celesta_queue::NewMessage;
use celesta_types::{Class, MessageId, Priority, RunId, SweepId};

use super::rows::Found;
use super::{Selection, SweepError, SweepState, SweepStep, Swept};
use crate::message::HostMessage;
use crate::runtime::Inner;

/// Runs of a batch at most: what is on the way when somebody pauses.
const BATCH_RUNS_MAX: usize = 256;
/// Batches a second at the sweep's rate: a pause is felt this often.
const BATCHES_PER_SECOND: u32 = 4;
/// How long a batch's runs are waited for; one that stays silent counts as missed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Takes the next step of a sweep, as it stands now. Gives when, on the monotonic clock, the one after it is due; none
/// when the sweep has ended or waits for somebody.
pub(super) async fn step(inner: &Inner, sweep: SweepId) -> Result<Option<Duration>, SweepError> {
    let Some(found) = inner.find_sweep(sweep).await? else {
        return Ok(None);
    };
    match found.view.state {
        SweepState::Pending => {
            begin(inner, &found).await?;
            Ok(Some(inner.clock.monotonic()))
        }
        SweepState::Running => batch(inner, found).await,
        SweepState::Previewed | SweepState::Paused | SweepState::Done | SweepState::Aborted => Ok(None),
    }
}

/// Counts the runs of a sweep that is new.
async fn begin(inner: &Inner, found: &Found) -> Result<(), SweepError> {
    if let Selection::Interests { revision, .. } = &found.plan.selection {
        inner.await_turns(&found.view.service, *revision).await?;
    }
    let runs = inner.count_left(found).await?;
    let step = if found.view.hold {
        SweepStep::Counted
    } else {
        SweepStep::Started
    };
    inner.move_sweep(found.view.id, step, None, Some(runs)).await?;
    Ok(())
}

/// Tells the next runs of a sweep and waits for their turns. Its place is kept after all of them have answered, or none
/// is waited for any longer.
async fn batch(inner: &Inner, mut found: Found) -> Result<Option<Duration>, SweepError> {
    let begun = inner.clock.monotonic();
    // The rate is that of all partitions together.
    let (sweep, rate) = (found.view.id, (found.view.rate / inner.partition.count).max(1));
    let limit = usize::try_from(rate / BATCHES_PER_SECOND).unwrap_or(usize::MAX);
    let next = inner
        .next_runs(&found, found.place, limit.clamp(1, BATCH_RUNS_MAX))
        .await?;
    let Some((runs, place)) = next else {
        inner.move_sweep(sweep, SweepStep::Exhausted, None, None).await?;
        return Ok(None);
    };
    // A batch that was sent before a crash may have answered already; such runs are not told again.
    let mut settled = inner.outcomes(sweep, &runs).await?;
    let known = |settled: &[(RunId, Swept)], run: &RunId| settled.iter().any(|(known, _)| known == run);
    let silent: Vec<RunId> = runs.iter().filter(|run| !known(&settled, run)).copied().collect();
    if !silent.is_empty() {
        tell_and_wait(inner, &found, &silent).await?;
        settled = inner.outcomes(sweep, &runs).await?;
    }
    for run in runs {
        if !known(&settled, &run) {
            settled.push((run, Swept::Missed));
        }
    }
    let count = u32::try_from(settled.len()).unwrap_or(u32::MAX);
    inner.keep_place(&mut found, place, &settled).await?;
    // The last batch owes nobody its time.
    let ended = found.view.runs.is_some_and(|runs| found.view.told >= runs);
    let owed = if ended {
        Duration::ZERO
    } else {
        Duration::from_secs_f64(f64::from(count) / f64::from(rate))
    };
    Ok(Some(inner.clock.monotonic().max(begun + owed)))
}

/// Tells the runs, and returns when all of them have answered or were waited for long enough.
async fn tell_and_wait(inner: &Inner, found: &Found, runs: &[RunId]) -> Result<(), SweepError> {
    let sweep = found.view.id;
    // Known before they are told: they may answer at once.
    let answered = inner.sweeps.answers.expect(sweep, runs);
    let told = tell(inner, found, runs).await;
    if told.is_ok() {
        tokio::select! {
            biased;
            () = answered.notified() => {}
            () = inner.clock.sleep(PATIENCE) => {}
        }
    }
    inner.sweeps.answers.forget(sweep);
    told
}

async fn tell(inner: &Inner, found: &Found, runs: &[RunId]) -> Result<(), SweepError> {
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
