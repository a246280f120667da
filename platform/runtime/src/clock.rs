//! The one owner of time: a clock is handed to whoever needs to know the instant or to wait.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use celesta_types::Timestamp;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A source of instants and of waiting. Cheap to clone; clones agree.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(ManualClock),
}

impl Clock {
    /// The machine's own clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at `start` until its handle is advanced.
    #[must_use]
    pub fn manual(start: Timestamp) -> (Self, ManualClock) {
        let handle = ManualClock {
            state: Arc::new(Mutex::new(Sleepers {
                now: start,
                order: 0,
                waiting: BTreeMap::new(),
            })),
        };
        (Self(Source::Manual(handle.clone())), handle)
    }

    /// The present instant. May step when the machine's clock is set; for measuring use [`Clock::monotonic`].
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the owner of the wall clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Source::Manual(manual) => manual.state.lock().now,
        }
    }

    /// Time since an arbitrary fixed moment of this process; never steps back. For durations and bounds.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System => monotonic(),
            Source::Manual(manual) => manual.state.lock().now.since(Timestamp::default()),
        }
    }

    /// Waits for `duration`.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the wait.
    pub async fn sleep(&self, duration: Duration) {
        match &self.0 {
            Source::System => tokio::time::sleep(duration).await,
            Source::Manual(manual) => {
                // Never shorter than asked, as with the system's: who waits for a moment again and again would wait for ever.
                let millis = u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
                let until = manual.state.lock().now.after(Duration::from_millis(millis));
                manual.sleep_until(until).await;
            }
        }
    }

    /// Waits until the instant `at`; returns at once when it has passed.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the wait.
    pub async fn sleep_until(&self, at: Timestamp) {
        match &self.0 {
            Source::System => tokio::time::sleep(at.since(self.now())).await,
            Source::Manual(manual) => manual.sleep_until(at).await,
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::System => f.write_str("Clock(system)"),
            Source::Manual(_) => write!(f, "Clock(manual at {})", self.now()),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the owner of the monotonic clock"
)]
fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// The hand that moves a manual clock.
#[derive(Clone, Debug)]
pub struct ManualClock {
    state: Arc<Mutex<Sleepers>>,
}

#[derive(Debug)]
struct Sleepers {
    now: Timestamp,
    /// Breaks ties between sleepers of one instant, so that they wake in the order they went to sleep.
    order: u64,
    waiting: BTreeMap<(Timestamp, u64), oneshot::Sender<()>>,
}

impl ManualClock {
    /// Moves time on and wakes whoever waited for an instant up to the new one.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock();
        state.now = state.now.after(by);
        let later = (state.now.after_millis(1), 0);
        let still_waiting = state.waiting.split_off(&later);
        let due = std::mem::replace(&mut state.waiting, still_waiting);
        drop(state);
        for sleeper in due.into_values() {
            // The sleeper may have been dropped meanwhile: that is its right.
            sleeper.send(()).ok();
        }
    }

    /// The earliest instant somebody waits for.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.state
            .lock()
            .waiting
            .first_key_value()
            .map(|((at, _), _)| *at)
    }

    async fn sleep_until(&self, at: Timestamp) {
        let (sender, receiver) = oneshot::channel();
        let asleep = {
            let mut state = self.state.lock();
            if at <= state.now {
                return;
            }
            state.order += 1;
            let place = (at, state.order);
            state.waiting.insert(place, sender);
            Asleep { clock: self, place }
        };
        receiver.await.ok();
        drop(asleep);
    }
}

/// Somebody who waits for an instant; forgotten when dropped.
struct Asleep<'a> {
    clock: &'a ManualClock,
    place: (Timestamp, u64),
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.clock.state.lock().waiting.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_only_those_whose_time_has_come() {
        let (clock, hand) = Clock::manual(Timestamp::from_millis(0));
        let mut early = Box::pin(clock.sleep(Duration::from_millis(10)));
        let mut late = Box::pin(clock.sleep(Duration::from_millis(20)));
        assert!(futures_util::poll!(&mut early).is_pending());
        assert!(futures_util::poll!(&mut late).is_pending());
        hand.advance(Duration::from_millis(10));
        assert!(futures_util::poll!(&mut early).is_ready());
        assert!(futures_util::poll!(&mut late).is_pending());
        assert_eq!(hand.next_wake(), Some(Timestamp::from_millis(20)));
        drop(late);
        assert_eq!(hand.next_wake(), None, "who is gone waits no more");
    }
}
