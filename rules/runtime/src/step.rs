//! Turns one at a time, for a driver that wants to say when each step of an evaluator happens: the simulation.
//!
//! A runtime opened with no evaluators does nothing by itself. Its driver leases with [`Runtime::take_turns`] and evaluates
//! with [`Runtime::evaluate`], as the evaluators do, and decides what happens in between.

use std::time::Duration;

use celesta_queue::{LeaseError, LeasedKey};
use celesta_types::RunId;

use crate::evaluate::evaluate_keys;
use crate::runtime::Runtime;

/// Runs that were leased with their messages and are not evaluated yet. Dropped, their leases lapse.
#[derive(Debug)]
#[must_use = "the runs wait until their leases lapse"]
pub struct Turns {
    keys: Vec<LeasedKey>,
}

impl Turns {
    /// The runs, in the order they are evaluated.
    pub fn runs(&self) -> impl Iterator<Item = RunId> {
        self.keys.iter().map(|key| RunId::from_bits(key.key.bits()))
    }

    /// How many messages they have been sent in all.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.keys.iter().map(|key| key.messages.len()).sum()
    }

    /// Whether no run had anything to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Runtime {
    /// Leases up to `runs_max` runs that have something to do, without waiting.
    ///
    /// # Errors
    /// When the queue does not answer.
    pub fn take_turns(&self, runs_max: usize) -> Result<Turns, LeaseError> {
        let request = self.inner.lease_of_runs(runs_max, Duration::ZERO);
        let keys = self.inner.queues.try_lease_keys(&request)?;
        Ok(Turns { keys })
    }

    /// Evaluates a turn of each run and hands what becomes durable to the store.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped, the runs that are left wait until their leases lapse.
    pub async fn evaluate(&self, turns: Turns) {
        evaluate_keys(&self.inner, turns.keys).await;
    }
}
