//! Turns one at a time, for a driver that wants to say when each step of an evaluator happens: the simulation.
//!
//! A runtime opened with no evaluators takes no turn by itself. Its driver leases with [`Runtime::take_turns`] and evaluates
//! with [`Runtime::evaluate`], as the evaluators do, and decides what happens in between.

use std::fmt::Debug;
use std::time::Duration;

use celesta_queue::{LeaseError, LeasedKey};
use celesta_types::RunId;

use crate::evaluate::evaluate_keys;
use crate::live::Live;
use crate::load::LoadError;
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
    /// Leases up to `runs_max` runs that have something to do, without waiting for one.
    ///
    /// # Errors
    /// When the queue does not answer.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing is leased then.
    pub async fn take_turns(&self, runs_max: usize) -> Result<Turns, LeaseError> {
        let request = self.inner.lease_of_runs(runs_max, Duration::ZERO);
        let keys = self.inner.queues.lease_keys(&request).await?;
        Ok(Turns { keys })
    }

    /// How the run in memory differs from what is read again from the record; `None` when it does not, or is not in memory.
    ///
    /// # Errors
    /// When the run cannot be read.
    pub async fn differs_from_record(&self, run: RunId) -> Result<Option<String>, LoadError> {
        let read = self.inner.load(run).await?;
        let differs = self.inner.cache.peek(run, |live| {
            let Some(read) = read else {
                return Some("there is no such run".to_owned());
            };
            let differs = |what: &str, memory: &dyn Debug, record: &dyn Debug| {
                let (memory, record) = (format!("{memory:?}"), format!("{record:?}"));
                (memory != record).then(|| format!("{what} {memory} in memory, {record} in the record"))
            };
            let open = |live: &Live| -> Vec<_> { live.memory.open_calls().map(|open| open.call).collect() };
            let facts = |live: &Live| -> Vec<String> {
                live.memory.facts().map(|fact| format!("{fact:?}")).collect()
            };
            differs("turn", &live.seq, &read.seq)
                .or_else(|| differs("state", &live.head.state, &read.head.state))
                .or_else(|| differs("result", &live.head.result, &read.head.result))
                .or_else(|| differs("open calls", &open(live), &open(&read)))
                .or_else(|| differs("facts", &facts(live), &facts(&read)))
        });
        Ok(differs.flatten())
    }

    /// Evaluates a turn of each run and hands what becomes durable to the store.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped, the runs that are left wait until their leases lapse.
    pub async fn evaluate(&self, turns: Turns) {
        evaluate_keys(&self.inner, turns.keys).await;
    }
}
