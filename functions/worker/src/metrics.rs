//! What a worker counts.

use celesta_runtime::metrics::{
    Histogram, IntCounter, IntCounterVec, IntGauge, counter, counters, durations, gauge,
};
use celesta_types::ErrorClass;

#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) succeeded: IntCounter,
    outcomes: IntCounterVec,
    pub(crate) released: IntCounter,
    pub(crate) running: IntGauge,
    pub(crate) cpu_free: IntGauge,
    pub(crate) cold_starts: IntCounter,
    pub(crate) processes: IntGauge,
    pub(crate) queue_wait: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let outcomes = counters(
            "celesta_attempts_total",
            "Attempts that ended, by outcome or error class.",
            &["outcome"],
        );
        Self {
            succeeded: outcomes.with_label_values(&["succeeded"]),
            released: outcomes.with_label_values(&["released"]),
            outcomes,
            running: gauge("celesta_attempts_running", "Attempts running on this worker."),
            cpu_free: gauge(
                "celesta_worker_cpu_free_millis",
                "Thousandths of processors not given to functions.",
            ),
            cold_starts: counter(
                "celesta_worker_cold_starts_total",
                "Processes started for functions.",
            ),
            processes: gauge(
                "celesta_worker_processes",
                "Processes of functions alive on this worker.",
            ),
            queue_wait: durations(
                "celesta_function_queue_seconds",
                "From enqueuing an invocation to the start of its attempt.",
            ),
        }
    }

    pub(crate) fn failed(&self, class: ErrorClass) {
        self.outcomes.with_label_values(&[class.name()]).inc();
    }
}
