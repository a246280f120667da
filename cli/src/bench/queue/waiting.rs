//! Consumers that wait: what they cost while nothing comes, and how soon they have what does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use celesta_queue::{Key, LeaseKeys};
use tokio::task::JoinSet;

use super::phases::{Crowd, all, refused};
use crate::bench::quantile::{Durations, rounded};
use crate::bench::usage::Usage;
use crate::exit::{Exit, Failure};

/// How long idle consumers are watched: their processor time is counted in hundredths of a second.
const WATCHED: Duration = Duration::from_secs(10);
/// Waiting consumers ask again after this long, as long polls do.
const WAIT: Duration = Duration::from_secs(60);
/// Between two messages of the trickle.
const GAP: Duration = Duration::from_millis(2);
/// Messages of the other keys that are timed beside the hot one.
pub(crate) const OTHERS: u64 = 200;
/// A delivery that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What waiting has cost.
#[derive(Debug)]
pub(crate) struct Idle {
    /// Percent of one core, while nothing came.
    pub(crate) cpu_percent: f64,
    /// From the call of enqueue to the consumer, its commit included.
    pub(crate) delivered: Durations,
}

/// Lets `waiters` consumers wait, watches them, then trickles `count` messages and times each delivery.
///
/// # Errors
/// When a call fails or a message does not arrive.
pub(crate) async fn idle(crowd: &Arc<Crowd>, waiters: u64, count: u64) -> Result<Idle, Failure> {
    let sent: Arc<Vec<AtomicU64>> = Arc::new(
        std::iter::repeat_with(AtomicU64::default)
            .take(usize::try_from(count).unwrap_or(0))
            .collect(),
    );
    let arrived = Arc::new(AtomicU64::new(0));
    let mut consumers = JoinSet::new();
    for _ in 0..waiters {
        let (crowd, sent, arrived) = (Arc::clone(crowd), Arc::clone(&sent), Arc::clone(&arrived));
        consumers.spawn(async move {
            let mut delivered = Durations::default();
            while arrived.load(Ordering::Relaxed) < count {
                let leased = crowd.lease(1, WAIT).await?;
                let got = crowd.clock.monotonic();
                for message in &leased {
                    let number = crowd
                        .load
                        .number(message.id)
                        .and_then(|number| usize::try_from(number).ok());
                    if let Some(at) = number.and_then(|number| sent.get(number)) {
                        let at = Duration::from_micros(at.load(Ordering::Acquire));
                        delivered.add(got.saturating_sub(at));
                    }
                    arrived.fetch_add(1, Ordering::Relaxed);
                }
                crowd.complete(&leased).await?;
            }
            Ok::<_, Failure>(delivered)
        });
    }
    // Everybody has come to wait before the first tick is counted.
    crowd.clock.sleep(Duration::from_secs(2)).await;
    let before = Usage::of_self();
    crowd.clock.sleep(WATCHED).await;
    let cpu_percent = rounded(Usage::of_self().cpu_s_since(&before) / WATCHED.as_secs_f64() * 100.0);
    for number in 0..count {
        let at = u64::try_from(crowd.clock.monotonic().as_micros()).unwrap_or(0);
        if let Some(slot) = sent.get(usize::try_from(number).unwrap_or(usize::MAX)) {
            slot.store(at, Ordering::Release);
        }
        crowd.enqueue(number..number + 1).await?;
        crowd.clock.sleep(GAP).await;
    }
    let last = crowd.clock.monotonic() + PATIENCE;
    while arrived.load(Ordering::Relaxed) < count {
        if crowd.clock.monotonic() > last {
            return Err(Failure::new(
                Exit::Failed,
                "a message did not reach a waiting consumer",
            ));
        }
        crowd.clock.sleep(GAP).await;
    }
    // Those that still wait are told by one more message each; that is not measured.
    let farewell = crowd.load.messages(count..count + waiters);
    crowd.queues.enqueue(farewell).await.map_err(refused)?;
    let mut delivered = Durations::default();
    for one in all(consumers).await? {
        delivered.merge(one);
    }
    Ok(Idle {
        cpu_percent,
        delivered,
    })
}

/// Fills one key with `count` messages, leases it, and times messages of other keys that are enqueued last.
///
/// # Errors
/// When a call fails or a message does not arrive.
pub(crate) async fn hot_key(crowd: &Arc<Crowd>, count: u64) -> Result<Durations, Failure> {
    crowd.fill(0..count).await?;
    let request = |max_messages_per_key| LeaseKeys {
        queue: crowd.load.queue.clone(),
        max_keys: 1,
        max_messages_per_key,
        metadata: Vec::new(),
        lease_ms: None,
        wait: PATIENCE,
        consumer: Arc::from("bench"),
    };
    let hot = crowd.queues.lease_keys(&request(1)).await.map_err(refused)?;
    if hot.len() != 1 {
        return Err(Failure::new(Exit::Failed, "the hot key was not leased"));
    }
    let mut delivered = Durations::default();
    for other in count..count + OTHERS {
        let message = crowd
            .load
            .message(other)
            .with_key(Key::from_bits(u128::from(other) + 1));
        let begun = crowd.clock.monotonic();
        let leasing = async {
            let leased = crowd.queues.lease_keys(&request(1)).await;
            (leased, crowd.clock.monotonic())
        };
        let ((leased, got), enqueued) = tokio::join!(leasing, crowd.queues.enqueue(vec![message]));
        enqueued.map_err(refused)?;
        let leased: Vec<_> = leased
            .map_err(refused)?
            .into_iter()
            .flat_map(|key| key.messages)
            .collect();
        if leased.len() != 1 {
            return Err(Failure::new(
                Exit::Failed,
                "a message of another key was not delivered",
            ));
        }
        delivered.add(got.saturating_sub(begun));
        crowd.complete(&leased).await?;
    }
    Ok(delivered)
}
