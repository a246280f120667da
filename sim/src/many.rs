//! Many seeds on as many threads as there are cores.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::driver::{Options, Outcome, run};
use crate::node::{Ground, SimError};

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that ran to their end.
    pub seeds: u64,
    /// Events chosen in all of them, without those that brought them to rest.
    pub events: u64,
    /// The digests of all of them together, in whatever order they ended.
    pub digest: u64,
    /// Those with violations, by seed.
    pub violating: Vec<Outcome>,
    /// What happened how often, added up.
    pub counts: std::collections::BTreeMap<&'static str, u64>,
}

/// Runs seeds `first..first + seeds` on `threads` threads, each with `options` but for the seed; stops beginning new ones
/// when `enough` says so of a seed that has ended.
///
/// # Errors
/// When the simulation itself cannot go on.
pub fn run_many(
    first: u64,
    seeds: u64,
    threads: usize,
    options: &Options,
    enough: impl Fn(&Outcome) -> bool + Sync,
) -> Result<Summary, SimError> {
    let next = AtomicU64::new(first);
    let summary = Mutex::new(Summary::default());
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                stay_on_a_core();
                let worked = work(&next, first.saturating_add(seeds), options, &summary, &enough);
                if let Err(error) = worked
                    && let Ok(mut failed) = failed.lock()
                {
                    *failed = Some(error);
                }
            });
        }
    });
    if let Ok(Some(error)) = failed.into_inner() {
        return Err(error);
    }
    let mut summary = summary
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.violating.sort_by_key(|outcome| outcome.seed);
    Ok(summary)
}

/// Keeps this thread and those that it begins on one core, each on the next one: every read of a record goes to the thread
/// of its connection and back, and takes twice as long between cores.
fn stay_on_a_core() {
    #[cfg(target_os = "linux")]
    {
        use std::sync::atomic::AtomicUsize;

        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let Ok(allowed) = sched_getaffinity(None) else {
            return;
        };
        let cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let cores: Vec<usize> = cores.collect();
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) % cores.len().max(1);
        if let Some(core) = cores.get(turn) {
            let mut only = CpuSet::new();
            only.set(*core);
            // It is slower without, and as right.
            sched_setaffinity(None, &only).ok();
        }
    }
}

fn work(
    next: &AtomicU64,
    end: u64,
    options: &Options,
    summary: &Mutex<Summary>,
    enough: &(impl Fn(&Outcome) -> bool + Sync),
) -> Result<(), SimError> {
    let ground = Ground::new()?;
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return Ok(());
        }
        let outcome = run(
            &ground,
            &Options {
                seed,
                ..options.clone()
            },
        )?;
        if enough(&outcome) {
            next.store(end, Ordering::Relaxed);
        }
        if let Ok(mut summary) = summary.lock() {
            summary.seeds += 1;
            summary.digest ^= outcome.digest;
            summary.events += outcome.events;
            for (what, count) in &outcome.counts {
                *summary.counts.entry(what).or_default() += count;
            }
            if !outcome.violations.is_empty() {
                summary.violating.push(outcome);
            }
        }
    }
}
