//! Where histories go: each gets a place that grows with the instant it is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Histories are forgotten by the minute.
const MINUTE_MS: i64 = 60_000;
/// Places of one minute: at 200,000 ends a second they last.
const PLACE_BITS: u32 = 34;

/// Gives out places. Cheap to clone; all queues of a process share one.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    /// Absent where there is no record.
    next: Option<Arc<AtomicI64>>,
}

impl Ledger {
    /// A ledger in the record. Two processes, one after the other, differ in their epoch.
    pub(crate) fn recorded(epoch: i64) -> Self {
        Self {
            next: Some(Arc::new(AtomicI64::new((epoch & 0x3ff) << 24))),
        }
    }

    /// No record: queues keep histories in memory.
    pub(crate) const fn none() -> Self {
        Self { next: None }
    }

    pub(crate) const fn is_recorded(&self) -> bool {
        self.next.is_some()
    }

    /// The place of a history that is kept until the instant `until`.
    pub(crate) fn place(&self, until: i64) -> Option<i64> {
        let next = self.next.as_ref()?.fetch_add(1, Ordering::Relaxed);
        Some((minute(until) << PLACE_BITS) | (next & ((1 << PLACE_BITS) - 1)))
    }
}

fn minute(instant: i64) -> i64 {
    // The bits left for the minute reach a thousand years.
    (instant / MINUTE_MS + 1).clamp(0, (1 << 29) - 1)
}

/// Histories before this place are over at `now`.
pub(crate) fn over(now: i64) -> i64 {
    (now / MINUTE_MS).clamp(0, (1 << 29) - 1) << PLACE_BITS
}
