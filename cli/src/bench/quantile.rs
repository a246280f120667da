//! Quantiles of measured durations, and figures rounded to what they can say.

use std::time::Duration;

/// A collection of durations.
#[derive(Debug, Default)]
pub(crate) struct Durations(Vec<Duration>);

impl Durations {
    /// Adds one.
    pub(crate) fn add(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// Adds all of `other`.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The smallest duration that `percent` of all do not exceed, in milliseconds; 0 when there is none.
    pub(crate) fn quantile_ms(&mut self, percent: usize) -> f64 {
        self.0.sort_unstable();
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        let duration = self.0.get(rank - 1).copied().unwrap_or_default();
        rounded(duration.as_secs_f64() * 1_000.0)
    }
}

/// Three digits after the point: more is noise.
pub(crate) fn rounded(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}

/// A count as a number to divide with. Exact for every count a bench reaches.
pub(crate) fn number(count: u64) -> f64 {
    let high = u32::try_from(count >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(count & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sample() {
        let mut durations = Durations::default();
        for ms in (1..=100).rev() {
            durations.add(Duration::from_millis(ms));
        }
        let found = [50, 99, 100].map(|percent| durations.quantile_ms(percent));
        assert!(
            found
                .iter()
                .zip([50.0, 99.0, 100.0])
                .all(|(found, expected)| (found - expected).abs() < 1e-9),
            "{found:?}"
        );
        assert!(Durations::default().quantile_ms(50).abs() < 1e-9);
    }
}
