//! Dead rows: every lease and every completion leaves one. The server's own cleaning comes once a minute, and a minute at
//! full speed is a gigabyte; so a node that has leased much has the tables cleaned itself, a tenth of the time at most.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Core, call};

/// Leases of this node that are worth a cleaning.
const LEASES_WORTH: u64 = 20_000;
/// The least time between two looks.
const EVERY: Duration = Duration::from_secs(3);
/// After a cleaning nobody cleans for so many times as long as it took.
const REST: u32 = 9;

/// Nodes that clean at the same time pass each other by, and the file is never cut: that would lock everybody out.
const CLEANINGS: [(&str, &str); 2] = [
    (
        "queue.clean",
        "VACUUM (SKIP_LOCKED, TRUNCATE false) queue_messages",
    ),
    (
        "queue.clean_keys",
        "VACUUM (SKIP_LOCKED, TRUNCATE false) queue_keys",
    ),
];

pub(super) async fn run(core: Arc<Core>) {
    let mut rest = EVERY;
    loop {
        tokio::select! {
            () = core.clock.sleep(rest) => {}
            () = core.shutdown.requested() => return,
        }
        rest = EVERY;
        if core.leases_given.load(Ordering::Relaxed) < LEASES_WORTH {
            continue;
        }
        core.leases_given.store(0, Ordering::Relaxed);
        let begun = core.clock.monotonic();
        for (name, sql) in CLEANINGS {
            if let Err(error) = core.database.ask(&call(name, sql, Vec::new())).await {
                tracing::debug!(%error, "the queue's tables are left to the server's own cleaning");
            }
        }
        let took = core.clock.monotonic().saturating_sub(begun);
        rest = rest.max(took * REST);
    }
}
