//! Seeds that run in every test: no violation, the same trace again, and the mistakes are found.

use std::fmt::Write as _;

use celesta_sim::bugs::{BUGS, Bug};
use celesta_sim::{Ground, Options, Outcome, Summary, run, run_many};

fn options(events: u64, bug: Option<Bug>) -> Options {
    Options {
        seed: 0,
        events,
        bug,
        print: false,
    }
}

fn told(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        writeln!(text, "seed {} after {} events:", outcome.seed, outcome.events)
            .expect("writing to a string");
        for line in outcome.latest.iter().chain(&outcome.violations) {
            writeln!(text, "  {line}").expect("writing to a string");
        }
    }
    text
}

fn many(seeds: u64, events: u64, bug: Option<Bug>, enough: impl Fn(&Outcome) -> bool + Sync) -> Summary {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    run_many(1, seeds, threads, &options(events, bug), enough).expect("the simulation runs")
}

#[test]
fn no_promise_is_broken() {
    let summary = many(8, 1_000, None, |outcome| !outcome.violations.is_empty());
    assert!(summary.violating.is_empty(), "{}", told(&summary.violating));
    assert_eq!((summary.seeds, summary.events), (8, 8_000));
    // They were not idle.
    for what in [
        "crashes",
        "restarts",
        "turns after their lease",
        "repeated answers",
        "conflicts",
        "snapshots",
        "runs of groups",
        "sweeps",
        "events",
        "runs that moved to another version",
        "archived runs",
        "bulk operations",
        "pauses of workflows",
        "pauses of sweeps",
        "runs done over",
    ] {
        assert!(
            summary.counts.get(what).is_some_and(|times| *times > 0),
            "{what}: {:?}",
            summary.counts
        );
    }
}

#[test]
fn a_seed_gives_the_same_trace_again() {
    let ground = Ground::new().expect("a folder");
    let other = Ground::new().expect("a folder");
    for seed in [1, 2] {
        let options = Options {
            seed,
            ..options(600, None)
        };
        let first = run(&ground, &options).expect("the simulation runs");
        let again = run(&other, &options).expect("the simulation runs");
        assert_eq!(
            (first.digest, first.latest),
            (again.digest, again.latest),
            "seed {seed}"
        );
    }
}

/// Words of the invariant that a mistake is there to break, where another might be broken first.
const BROKEN: &[(&str, &str)] = &[
    (
        "gate-forgotten",
        "begins while too many of its group are under way",
    ),
    ("interest-forgotten", "it has heard"),
    ("event-forgotten", "was promised as"),
    ("archive-misplaced", "is not archived"),
    ("move-untold", "tell different moves"),
    ("gate-shuffled", "came to its gate before"),
    ("pause-forgotten", "stand: true was promised"),
    ("bulk-place-forgotten", "runs; "),
    ("breakpoints-forgotten", "although it was to stop before"),
    ("sweep-goes-on", "the pause of"),
];

#[test]
fn mistakes_are_found() {
    for bug in BUGS {
        let words = BROKEN.iter().find(|(name, _)| *name == bug.name);
        let words = words.map_or("", |(_, words)| words);
        let found = |outcome: &Outcome| outcome.violations.iter().any(|what| what.contains(words));
        let summary = many(20, 1_500, Some(*bug), found);
        assert!(
            summary.violating.iter().any(found),
            "{} was not found in {} seeds:\n{}",
            bug.name,
            summary.seeds,
            told(&summary.violating)
        );
    }
}
