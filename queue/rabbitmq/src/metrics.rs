//! What the road counts.

use celesta_runtime::metrics::{IntCounter, IntCounterVec, IntGauge, counter, counters, gauge};

/// The metrics of one end of the road.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Connections that stand.
    pub(crate) links_open: IntGauge,
    /// Connections that have ended.
    pub(crate) links_lost: IntCounter,
    /// Messages by what happened to them.
    messages: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            links_open: gauge("celesta_road_links", "Connections to the broker that stand."),
            links_lost: counter(
                "celesta_road_links_lost_total",
                "Connections to the broker that have ended.",
            ),
            messages: counters(
                "celesta_road_messages_total",
                "Messages on the road by event.",
                &["event"],
            ),
        }
    }

    /// Counts `count` messages to which `event` happened.
    pub(crate) fn count(&self, event: &str, count: usize) {
        if count > 0 {
            self.messages
                .with_label_values(&[event])
                .inc_by(u64::try_from(count).unwrap_or(0));
        }
    }
}
