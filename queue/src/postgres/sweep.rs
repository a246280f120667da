//! What becomes due: each node sweeps in small batches past what others are sweeping, so none is needed in particular.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celesta_store::{Arg, QueryError};
use celesta_types::Timestamp;

use super::{Core, call};

/// Rows of one sweep: its transaction stays short.
const ROWS_MAX: i64 = 1_000;
/// How often a node looks for what it does not know to be due: another node may be gone.
const INTERVAL: Duration = Duration::from_millis(500);
/// The least time between two sweeps.
const PAUSE: Duration = Duration::from_millis(10);
/// Every so many looks also wake consumers, in case something was not heard: once a second.
const LOOKS_PER_WAKE: u64 = 2;
/// Every so many looks also tidy up: once a minute.
const LOOKS_PER_TIDY: u64 = 120;

pub(super) async fn run(core: Arc<Core>) {
    loop {
        let next = core.due.lock().first().copied();
        let due = async {
            match next {
                Some(at) => core.clock.sleep_until(Timestamp::from_millis(at)).await,
                None => std::future::pending().await,
            }
        };
        let look = tokio::select! {
            biased;
            () = core.shutdown.requested() => return,
            () = due => false,
            () = core.due_changed.notified() => continue,
            () = core.clock.sleep(INTERVAL) => true,
        };
        if let Err(error) = core.sweep().await {
            tracing::debug!(%error, "what is due cannot be swept now");
        }
        if look {
            let looks = core.looks.fetch_add(1, Ordering::Relaxed);
            if looks.is_multiple_of(LOOKS_PER_WAKE) {
                core.wake_waiting();
            }
            if looks % LOOKS_PER_TIDY == LOOKS_PER_TIDY - 1
                && let Err(error) = core.tidy().await
            {
                tracing::debug!(%error, "old histories are kept for another minute");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Core {
    /// How many sweeps there were.
    pub(super) fn sweeps(&self) -> u64 {
        self.sweeps.load(Ordering::Acquire)
    }

    /// Sweeps when this node knows something to be due; waits for a sweep that is under way. Says whether there was one
    /// after the first `before`.
    pub(super) async fn sweep_after(&self, before: u64) -> Result<bool, QueryError> {
        let sweeping = self.sweeping.lock().await;
        let now = self.now();
        if self.due.lock().first().is_some_and(|&at| at <= now) {
            self.sweep_locked().await?;
        }
        drop(sweeping);
        Ok(self.sweeps() != before)
    }

    /// Sweeps when this node knows something to be due.
    pub(super) async fn sweep_if_due(&self) -> Result<(), QueryError> {
        self.sweep_after(0).await.map(drop)
    }

    async fn sweep(&self) -> Result<(), QueryError> {
        let _sweeping = self.sweeping.lock().await;
        self.sweep_locked().await
    }

    /// Sweeps everything that is due.
    async fn sweep_locked(&self) -> Result<(), QueryError> {
        let now = self.now();
        // Most leases that could have lapsed were completed: a look is cheaper than a transaction.
        while self.is_anything_due(now).await? {
            let args = vec![Arg::Int(now), Arg::Int(ROWS_MAX)];
            let sql = "SELECT * FROM queue_sweep($1, $2)";
            let rows = self.database.write(&[call("queue.sweep", sql, args)]).await?;
            let mut looked_at = 0;
            for row in rows.iter().flatten() {
                match (row.int(0), row.int(1)) {
                    (Some(0), Some(count)) => looked_at = count,
                    (Some(queue), Some(count)) => {
                        let count = usize::try_from(count).unwrap_or(1);
                        if let Some(entry) = self.by_id(queue) {
                            self.arm(
                                now.saturating_add(entry.settings.read().keep_ended_ms)
                                    .saturating_add(1),
                            );
                            entry.wake(count);
                        }
                        self.tell(queue, count);
                    }
                    _ => {}
                }
            }
            if looked_at < ROWS_MAX {
                break;
            }
        }
        // Only now: whoever sees something due meanwhile sweeps too, past what this one holds.
        let mut due = self.due.lock();
        *due = due.split_off(&(now + 1));
        drop(due);
        self.sweeps.fetch_add(1, Ordering::Release);
        Ok(())
    }

    async fn is_anything_due(&self, now: i64) -> Result<bool, QueryError> {
        let sql = "SELECT 1 WHERE EXISTS (SELECT FROM queue_messages WHERE at <= $1 AND state <> 1) \
                   OR EXISTS (SELECT FROM queue_messages WHERE expires_at <= $1 AND expires_at IS NOT NULL AND state < 2)";
        let due = call("queue.due", sql, vec![Arg::Int(now)]);
        Ok(!self.database.ask(&due).await?.is_empty())
    }

    /// Empties the oldest slot of the history when its time has come, and forgets fairness keys that have caught up.
    async fn tidy(&self) -> Result<(), QueryError> {
        let now = self.now();
        let turn = call(
            "queue.turn_slots",
            "SELECT queue_turn_slots($1)",
            vec![Arg::Int(now)],
        );
        let lanes = call(
            "queue.lanes",
            "DELETE FROM queue_lanes l USING queue_lanes o WHERE o.fairness = '' AND l.fairness <> '' AND l.queue = o.queue \
             AND l.rank = o.rank AND l.pass <= o.pass",
            Vec::new(),
        );
        self.database.write(&[turn]).await?;
        self.database.write(&[lanes]).await?;
        Ok(())
    }
}
