//! The live runs of this process: what saves a turn from reading the store. Never needed for correctness.
//!
//! A run is either here, taken out by the one evaluator that holds its key, or not in memory at all. It comes back when
//! its turn is durable, and is dropped when the turn is not: then the next turn reads the store.

use std::collections::VecDeque;

use celesta_runtime::metrics::{IntCounter, IntGauge, counter, gauge};
use celesta_types::RunId;
use hashbrown::HashMap;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;

use crate::live::Live;

/// Live runs by id, at most so many bytes of them.
#[derive(Debug)]
pub(crate) struct Cache {
    bytes_max: usize,
    held: Mutex<Held>,
    hits: IntCounter,
    misses: IntCounter,
    bytes: IntGauge,
}

#[derive(Debug, Default)]
struct Held {
    runs: HashMap<RunId, Entry, FxBuildHasher>,
    /// Runs in the order they came in; one that was used since is passed over once (second chance).
    order: VecDeque<(RunId, u64)>,
    bytes: usize,
    /// What of it the gauge was told; other caches of the process tell theirs.
    told: i64,
    ticket: u64,
}

#[derive(Debug)]
struct Entry {
    live: Box<Live>,
    bytes: usize,
    ticket: u64,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            held: Mutex::new(Held::default()),
            hits: counter(
                "celesta_runs_cache_hits_total",
                "Turns that found their run in memory.",
            ),
            misses: counter(
                "celesta_runs_cache_misses_total",
                "Turns that read their run from the store.",
            ),
            bytes: gauge("celesta_runs_cache_bytes", "Bytes of live runs in memory."),
        }
    }

    /// Takes the run out, for the evaluator that holds its key.
    pub(crate) fn take(&self, run: RunId) -> Option<Box<Live>> {
        let mut held = self.held.lock();
        let taken = held.runs.remove(&run);
        match taken {
            Some(entry) => {
                held.bytes -= entry.bytes;
                self.hits.inc();
                Some(entry.live)
            }
            None => {
                self.misses.inc();
                None
            }
        }
    }

    /// Looks at the run, when it is here.
    pub(crate) fn peek<T>(&self, run: RunId, look: impl FnOnce(&Live) -> T) -> Option<T> {
        self.held.lock().runs.get(&run).map(|entry| look(&entry.live))
    }

    /// Puts the run in, and puts out whatever has been here longest when there is too much.
    pub(crate) fn put(&self, live: Box<Live>) {
        let run = live.head.run;
        let bytes = live.bytes();
        let mut held = self.held.lock();
        held.ticket += 1;
        let ticket = held.ticket;
        held.bytes += bytes;
        held.order.push_back((run, ticket));
        if let Some(before) = held.runs.insert(run, Entry { live, bytes, ticket }) {
            held.bytes -= before.bytes;
        }
        let mut evicted = Vec::new();
        while held.bytes > self.bytes_max || held.order.len() > 4 * held.runs.len() + 1_024 {
            let Some((oldest, ticket)) = held.order.pop_front() else {
                break;
            };
            // An entry with a later ticket was used since.
            if held.runs.get(&oldest).is_some_and(|entry| entry.ticket == ticket)
                && held.bytes > self.bytes_max
                && let Some(entry) = held.runs.remove(&oldest)
            {
                held.bytes -= entry.bytes;
                evicted.push(entry);
            } else if held.runs.get(&oldest).is_some_and(|entry| entry.ticket == ticket) {
                held.order.push_back((oldest, ticket));
                break;
            }
        }
        let bytes = i64::try_from(held.bytes).unwrap_or(i64::MAX);
        self.bytes.add(bytes - held.told);
        held.told = bytes;
        drop(held);
        drop(evicted);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.bytes.sub(self.held.get_mut().told);
    }
}
