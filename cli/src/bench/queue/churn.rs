//! Churn: many messages through a queue that never holds many, and whether it is at the end what it was at the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::phases::{Crowd, all};
use super::target::Target;
use crate::bench::quantile::Durations;
use crate::exit::{Exit, Failure};

/// Consumers wait this long for a message before they look whether all are delivered.
const WAIT: Duration = Duration::from_millis(500);

/// What churn has shown.
#[derive(Debug, Default)]
pub(crate) struct Churned {
    pub(crate) took: Duration,
    /// The leases of the first and of the last tenth of the messages.
    pub(crate) first: Durations,
    pub(crate) last: Durations,
    pub(crate) all: Durations,
    /// What is stored after the first tenth and at the end.
    pub(crate) bytes_start: u64,
    pub(crate) bytes_end: u64,
    pub(crate) completed: u64,
    pub(crate) stale: u64,
}

/// How far all consumers are.
struct Course {
    count: u64,
    leased: AtomicU64,
    completed: AtomicU64,
    first_tenth: Notify,
    /// One permit for each message that may be enqueued.
    room: Semaphore,
}

/// Sends `count` messages through the queue, at most about `depth` in it at any time.
///
/// # Errors
/// When a call fails.
pub(crate) async fn churn(
    target: &Target,
    crowd: &Arc<Crowd>,
    count: u64,
    depth: u64,
) -> Result<Churned, Failure> {
    let depth = depth.max(crowd.batch * crowd.producers).min(count);
    crowd.fill(0..depth).await?;
    let course = Arc::new(Course {
        count,
        leased: AtomicU64::new(0),
        completed: AtomicU64::new(0),
        first_tenth: Notify::new(),
        room: Semaphore::new(0),
    });
    let begun = crowd.clock.monotonic();
    let next = Arc::new(AtomicU64::new(depth));
    let mut workers = JoinSet::new();
    for _ in 0..crowd.producers {
        let (crowd, course, next) = (Arc::clone(crowd), Arc::clone(&course), Arc::clone(&next));
        workers.spawn(async move {
            produce(&crowd, &course, &next).await?;
            Ok(Churned::default())
        });
    }
    for _ in 0..crowd.consumers {
        let (crowd, course) = (Arc::clone(crowd), Arc::clone(&course));
        workers.spawn(async move { consume(&crowd, &course).await });
    }
    let start = async {
        course.first_tenth.notified().await;
        target.stored_bytes().await
    };
    let working = async {
        let parts = all(workers).await;
        // However it went: nobody waits for a tenth that does not come.
        course.first_tenth.notify_one();
        parts
    };
    let (start, parts) = tokio::join!(start, working);
    let mut churned = Churned {
        took: crowd.clock.monotonic().saturating_sub(begun),
        bytes_start: start?,
        ..Churned::default()
    };
    for part in parts? {
        churned.first.merge(part.first);
        churned.last.merge(part.last);
        churned.all.merge(part.all);
        churned.completed += part.completed;
        churned.stale += part.stale;
    }
    churned.bytes_end = target.stored_bytes().await?;
    Ok(churned)
}

async fn produce(crowd: &Crowd, course: &Course, next: &AtomicU64) -> Result<(), Failure> {
    loop {
        let from = next.fetch_add(crowd.batch, Ordering::Relaxed);
        if from >= course.count {
            return Ok(());
        }
        let to = (from + crowd.batch).min(course.count);
        let permits = u32::try_from(to - from).unwrap_or(u32::MAX);
        let room = course.room.acquire_many(permits).await;
        room.map_err(Failure::internal)?.forget();
        crowd.enqueue(from..to).await?;
    }
}

async fn consume(crowd: &Crowd, course: &Course) -> Result<Churned, Failure> {
    let mut part = Churned::default();
    let mut empty = 0;
    while course.completed.load(Ordering::Relaxed) < course.count {
        let asked = crowd.clock.monotonic();
        let leased = crowd.lease(crowd.batch, WAIT).await?;
        let took = crowd.clock.monotonic().saturating_sub(asked);
        if leased.is_empty() {
            empty += 1;
            if empty > 40 {
                return Err(Failure::new(Exit::Failed, "messages do not arrive".to_owned()));
            }
            continue;
        }
        empty = 0;
        let count = u64::try_from(leased.len()).unwrap_or(0);
        let before = course.leased.fetch_add(count, Ordering::Relaxed);
        let tenth = course.count.div_ceil(10);
        if before < tenth {
            part.first.add(took);
            if before + count >= tenth {
                course.first_tenth.notify_one();
            }
        } else if before >= course.count - tenth {
            part.last.add(took);
        }
        part.all.add(took);
        let stale = crowd.complete(&leased).await?;
        part.completed += count.saturating_sub(stale);
        part.stale += stale;
        course.completed.fetch_add(count, Ordering::Relaxed);
        course.room.add_permits(usize::try_from(count).unwrap_or(0));
    }
    Ok(part)
}
