//! The driver: has the open sweeps of a store take their steps, each by itself.
//!
//! A step that waits for its runs is a future beside the others, and a sweep that is ahead of its rate is merely not due
//! yet. So one service's sweeps never wait for another's, unless there are more steps than `rounds.rs` has room for.

use std::sync::Arc;
use std::time::Duration;

use celesta_store::QueryError;
use celesta_types::SweepId;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::SweepError;
use super::rounds::Rounds;
use super::step::step;
use crate::runtime::Inner;

/// The driver looks for sweeps by itself after this, whatever it was told.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// When the store did not answer, it is asked again after this.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Drives sweeps until shutdown.
pub(crate) async fn drive(inner: Arc<Inner>) {
    let shutdown = inner.tasks.shutdown().clone();
    tokio::select! {
        () = work(&inner) => {}
        () = shutdown.requested() => {}
    }
}

/// What the driver has done beside everything else.
#[derive(Debug, Clone, Copy)]
enum Errand {
    /// Look which sweeps go on by themselves.
    Look,
    /// A step of one of them.
    Step(SweepId),
}

/// What came of it.
#[derive(Debug)]
enum Outcome {
    Looked(Result<Vec<(SweepId, Arc<str>)>, QueryError>),
    Stepped(SweepId, Result<Option<Duration>, SweepError>),
}

async fn run(inner: &Inner, errand: Errand) -> Outcome {
    match errand {
        Errand::Look => Outcome::Looked(inner.moving_sweeps().await),
        Errand::Step(sweep) => Outcome::Stepped(sweep, step(inner, sweep).await),
    }
}

async fn work(inner: &Inner) {
    let mut rounds = Rounds::default();
    let mut under_way = FuturesUnordered::new();
    // When it looks again; none while it looks.
    let mut look_at = Some(inner.clock.monotonic());
    loop {
        let now = inner.clock.monotonic();
        if look_at.take_if(|at| *at <= now).is_some() {
            under_way.push(run(inner, Errand::Look));
        }
        while let Some(sweep) = rounds.begin(now) {
            under_way.push(run(inner, Errand::Step(sweep)));
        }
        let next = rounds.next_due(now).into_iter().chain(look_at).min();
        let rest = next.map(|due| due.saturating_sub(now));
        // Everything that is under way is polled here, also while it is looked for more: all read through the same
        // connections, and one that holds a connection must go on.
        tokio::select! {
            biased;
            // Rung while it looks, it looks again after that.
            () = inner.sweeps.bell.notified(), if look_at.is_some() => look_at = Some(now),
            Some(outcome) = under_way.next() => {
                let now = inner.clock.monotonic();
                match outcome {
                    Outcome::Looked(looked) => look_at = Some(now + take_up(&mut rounds, looked, now)),
                    Outcome::Stepped(sweep, stepped) => rounds.end(sweep, next_of(sweep, stepped, now), now),
                }
            }
            () = inner.clock.sleep(rest.unwrap_or_default()), if rest.is_some() => {}
        }
    }
}

/// Takes up what was found. Gives after how long it is looked again.
fn take_up(
    rounds: &mut Rounds,
    looked: Result<Vec<(SweepId, Arc<str>)>, QueryError>,
    now: Duration,
) -> Duration {
    match looked {
        Ok(found) => {
            rounds.take_up(found, now);
            LOOK_AGAIN
        }
        Err(error) => {
            tracing::warn!(%error, "sweeps cannot be looked for; it is tried again");
            TRY_AGAIN
        }
    }
}

/// When the next step of the sweep is due; one that has failed is tried again.
fn next_of(sweep: SweepId, stepped: Result<Option<Duration>, SweepError>, now: Duration) -> Option<Duration> {
    stepped.unwrap_or_else(|error| {
        tracing::warn!(%sweep, %error, "a sweep cannot go on; it is tried again");
        Some(now + TRY_AGAIN)
    })
}
