//! What the queues count. Labels are the two kinds of queues, never names: names come from callers.

use std::sync::atomic::{AtomicI64, Ordering};

use celesta_runtime::metrics::{Histogram, IntCounter, IntGauge, counters, durations_by, gauges};

use crate::settings::Kind;
use crate::state::Tally;

/// The metrics of one kind of queues.
pub(crate) struct OfKind {
    enqueued: IntCounter,
    pub(crate) leased: IntCounter,
    completed: IntCounter,
    failed: IntCounter,
    lapsed: IntCounter,
    expired: IntCounter,
    missed: IntCounter,
    held: IntGauge,
    /// What of it is these queues': a process may have several, and they go with their partition.
    told: AtomicI64,
    pub(crate) waited: Histogram,
}

pub(crate) struct Metrics {
    simple: OfKind,
    exclusive: OfKind,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let events = counters(
            "celesta_queue_messages_total",
            "Messages by kind of queue and event.",
            &["kind", "event"],
        );
        let waited = durations_by(
            "celesta_queue_wait_seconds",
            "Time from enqueue to lease.",
            &["kind"],
        );
        let held = gauges(
            "celesta_queue_messages",
            "Messages in memory, ended ones that are kept included.",
            &["kind"],
        );
        let of = |kind: Kind| {
            let event = |name| events.with_label_values(&[kind.name(), name]);
            OfKind {
                enqueued: event("enqueued"),
                leased: event("leased"),
                completed: event("completed"),
                failed: event("failed"),
                lapsed: event("lapsed"),
                expired: event("expired"),
                missed: event("missed_deadline"),
                held: held.with_label_values(&[kind.name()]),
                told: AtomicI64::new(0),
                waited: waited.with_label_values(&[kind.name()]),
            }
        };
        Self {
            simple: of(Kind::Simple),
            exclusive: of(Kind::Exclusive),
        }
    }

    pub(crate) const fn of(&self, kind: Kind) -> &OfKind {
        match kind {
            Kind::Simple => &self.simple,
            Kind::Exclusive => &self.exclusive,
        }
    }
}

impl OfKind {
    /// So many messages more are in memory.
    pub(crate) fn hold(&self, change: i64) {
        self.held.add(change);
        self.told.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, tally: &Tally) {
        let Tally {
            enqueued,
            completed,
            failed,
            lapsed,
            expired,
            missed_deadlines,
        } = *tally;
        let counted = [
            (&self.enqueued, enqueued),
            (&self.completed, completed),
            (&self.failed, failed),
            (&self.lapsed, lapsed),
            (&self.expired, expired),
            (&self.missed, missed_deadlines),
        ];
        for (counter, count) in counted {
            if count > 0 {
                counter.inc_by(count);
            }
        }
    }
}

impl Drop for OfKind {
    fn drop(&mut self) {
        self.held.sub(*self.told.get_mut());
    }
}
