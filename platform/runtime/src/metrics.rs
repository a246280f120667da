//! Prometheus metrics: every part of a process registers its own here, and `/metrics` shows them all.

use prometheus::{Encoder, HistogramOpts, Opts, TextEncoder};
pub use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// Bounds in seconds from 0.1 ms to 100 s: one set for all durations, so that they can be compared.
const DURATION_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 100.0,
];

/// A counter registered under `name`; a second one of that name counts for itself and is not shown.
///
/// # Panics
/// When `name` is not a Prometheus metric name: names are constants of the code.
#[must_use]
pub fn counter(name: &str, help: &str) -> IntCounter {
    let metric = IntCounter::new(name, help).expect("metric names are constants that follow the rules");
    prometheus::register(Box::new(metric.clone())).ok();
    metric
}

/// A counter with labels. See [`counter`].
///
/// # Panics
/// When a name is not a Prometheus name.
#[must_use]
pub fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)
        .expect("metric names are constants that follow the rules");
    prometheus::register(Box::new(metric.clone())).ok();
    metric
}

/// A gauge. See [`counter`].
///
/// # Panics
/// When `name` is not a Prometheus metric name.
#[must_use]
pub fn gauge(name: &str, help: &str) -> IntGauge {
    let metric = IntGauge::new(name, help).expect("metric names are constants that follow the rules");
    prometheus::register(Box::new(metric.clone())).ok();
    metric
}

/// A gauge with labels. See [`counter`].
///
/// # Panics
/// When a name is not a Prometheus name.
#[must_use]
pub fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)
        .expect("metric names are constants that follow the rules");
    prometheus::register(Box::new(metric.clone())).ok();
    metric
}

/// A histogram of durations in seconds. See [`counter`].
///
/// # Panics
/// When `name` is not a Prometheus metric name.
#[must_use]
pub fn durations(name: &str, help: &str) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
    let metric = Histogram::with_opts(options).expect("metric names are constants that follow the rules");
    prometheus::register(Box::new(metric.clone())).ok();
    metric
}

/// Histograms of durations in seconds with labels. See [`counter`].
///
/// # Panics
/// When a name is not a Prometheus name.
#[must_use]
pub fn durations_by(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
    let metric =
        HistogramVec::new(options, labels).expect("metric names are constants that follow the rules");
    prometheus::register(Box::new(metric.clone())).ok();
    metric
}

/// All registered metrics in Prometheus' text format.
#[must_use]
pub fn render() -> String {
    let mut text = Vec::new();
    TextEncoder::new().encode(&prometheus::gather(), &mut text).ok();
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_registered_counter_is_rendered() {
        super::counter("celesta_test_total", "only here").inc();
        assert!(super::render().contains("celesta_test_total 1"));
    }
}
