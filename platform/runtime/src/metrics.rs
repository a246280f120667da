//! Prometheus metrics: every part of a process registers its own here, and `/metrics` shows them all.

use std::any::Any;
use std::collections::BTreeMap;

use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{Encoder, HistogramOpts, Opts, TextEncoder};
pub use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// Bounds in seconds from 0.1 ms to 100 s: one set for all durations, so that they can be compared.
const DURATION_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 100.0,
];

/// What is registered, by name.
static KNOWN: Mutex<BTreeMap<String, Box<dyn Any + Send>>> = Mutex::new(BTreeMap::new());

/// The metric of that name: made and registered once, since a process may have several of each part (a runtime and queues
/// for each partition), and what it shows is what they have done together.
fn registered<M: Collector + Clone + Send + 'static>(
    name: &str,
    make: impl FnOnce() -> prometheus::Result<M>,
) -> M {
    let mut known = KNOWN.lock();
    if let Some(metric) = known.get(name).and_then(|metric| metric.downcast_ref::<M>()) {
        return metric.clone();
    }
    let metric = make().expect("metric names are constants that follow the rules");
    prometheus::register(Box::new(metric.clone())).ok();
    known.insert(name.to_owned(), Box::new(metric.clone()));
    metric
}

/// The counter registered under `name`: all of that name are one.
///
/// # Panics
/// When `name` is not a Prometheus metric name: names are constants of the code.
#[must_use]
pub fn counter(name: &str, help: &str) -> IntCounter {
    registered(name, || IntCounter::new(name, help))
}

/// A counter with labels. See [`counter`].
///
/// # Panics
/// When a name is not a Prometheus name.
#[must_use]
pub fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(name, || IntCounterVec::new(Opts::new(name, help), labels))
}

/// A gauge. Parts of which a process has several add to it and take away, and never set it. See [`counter`].
///
/// # Panics
/// When `name` is not a Prometheus metric name.
#[must_use]
pub fn gauge(name: &str, help: &str) -> IntGauge {
    registered(name, || IntGauge::new(name, help))
}

/// A gauge with labels. See [`counter`].
///
/// # Panics
/// When a name is not a Prometheus name.
#[must_use]
pub fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(name, || IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A histogram of durations in seconds. See [`counter`].
///
/// # Panics
/// When `name` is not a Prometheus metric name.
#[must_use]
pub fn durations(name: &str, help: &str) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
    registered(name, || Histogram::with_opts(options))
}

/// Histograms of durations in seconds with labels. See [`counter`].
///
/// # Panics
/// When a name is not a Prometheus name.
#[must_use]
pub fn durations_by(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
    registered(name, || HistogramVec::new(options, labels))
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

    #[test]
    fn all_parts_of_a_process_count_in_one_metric() {
        let labels = ["part"];
        super::counters("celesta_test_parts_total", "of two", &labels)
            .with_label_values(&["one"])
            .inc();
        super::counters("celesta_test_parts_total", "of two", &labels)
            .with_label_values(&["one"])
            .inc();
        let shown = super::render();
        assert!(
            shown.contains("celesta_test_parts_total{part=\"one\"} 2"),
            "{shown}"
        );
    }
}
