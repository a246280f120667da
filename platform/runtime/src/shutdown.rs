//! Spawned work has a name, a fate and an end: the one place where tasks are spawned.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Says when to stop. Cheap to clone; every clone sees the same request.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A shutdown nobody has asked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody to stop. Asking twice is the same as asking once.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether somebody has asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until somebody asks.
    ///
    /// # Cancel safety
    /// May be dropped and asked again at any time.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }
}

/// What the end of a piece of spawned work means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Without it the process is of no use: when it ends before shutdown, or panics, everybody is asked to stop.
    Essential,
    /// Its end concerns nobody else; a panic is logged.
    Expendable,
}

/// The set of a component's spawned work.
#[derive(Debug, Clone)]
pub struct TaskSet {
    tracker: TaskTracker,
    shutdown: Shutdown,
    polls: Arc<AtomicU64>,
}

impl TaskSet {
    /// An empty set that stops when `shutdown` is requested.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            tracker: TaskTracker::new(),
            shutdown,
            polls: Arc::default(),
        }
    }

    /// How often the work of this set has been polled. On a runtime of one thread it stands still exactly when there is
    /// nothing to do before something else happens: a simulation waits for that after each of its steps.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// The shutdown of this set.
    #[must_use]
    pub const fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Spawns `work` under `name`. The work itself watches [`TaskSet::shutdown`].
    #[expect(clippy::disallowed_methods, reason = "this is the owner of spawning")]
    pub fn spawn<F>(&self, name: &'static str, fate: Fate, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let polls = Arc::clone(&self.polls);
        let tracked = self.tracker.track_future(async move {
            let mut work = pin!(work);
            poll_fn(|context| {
                polls.fetch_add(1, Ordering::Relaxed);
                work.as_mut().poll(context)
            })
            .await;
        });
        let tracker = self.tracker.clone();
        tracker.spawn(async move {
            let outcome = tokio::spawn(tracked).await;
            if let Err(error) = &outcome
                && error.is_panic()
            {
                tracing::error!(work = name, "spawned work panicked");
            }
            if fate == Fate::Essential && !shutdown.is_requested() {
                tracing::error!(work = name, "essential work ended; stopping");
                shutdown.request();
            }
        });
    }

    /// Asks for shutdown and waits until all work has ended, at most `patience`; says whether it has.
    #[must_use]
    pub async fn stop(&self, patience: Duration) -> bool {
        self.shutdown.request();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_essential_work_stops_everybody() {
        let tasks = TaskSet::new(Shutdown::new());
        tasks.spawn("short", Fate::Essential, async {});
        tasks.shutdown().requested().await;
        assert!(tasks.stop(Duration::from_secs(5)).await);
        assert!(tasks.stop(Duration::from_secs(5)).await, "stopping twice is safe");
    }
}
