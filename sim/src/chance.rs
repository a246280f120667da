//! What the seed chooses.

use celesta_runtime::Random;

/// Draws from the seed's sequence.
#[derive(Debug, Clone)]
pub(crate) struct Chance(Random);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Random::seeded(seed))
    }

    /// A number below `bound`; 0 when that is 0.
    pub(crate) fn below(&self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.0.next_u64() % bound).unwrap_or(0)
    }

    /// A number from `low` to `high`.
    pub(crate) fn between(&self, low: usize, high: usize) -> usize {
        low + self.below(high + 1 - low)
    }

    /// Yes in so many of a hundred.
    pub(crate) fn percent(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of them, by weight.
    pub(crate) fn weighted<'a, T>(&self, choices: &'a [(T, usize)]) -> &'a T {
        let total = choices.iter().map(|(_, weight)| weight).sum();
        let mut at = self.below(total);
        let chosen = choices.iter().find(|(_, weight)| {
            let hit = at < *weight;
            at = at.saturating_sub(*weight);
            hit
        });
        chosen.map_or_else(|| &choices[0].0, |(choice, _)| choice)
    }
}
