//! `celesta sim`: the whole platform in this process under a simulated clock, with faults that seeds choose.

use celesta_runtime::Clock;
use celesta_sim::bugs::{self, BUGS};
use celesta_sim::{Options, Outcome as Seed, Summary, run_many};
use clap::Args;
use serde_json::json;

use super::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{BAD, DIM, GOOD, duration};

/// Seeds shown with everything that is known of them.
const SHOWN: usize = 5;

/// Options of `sim`.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// How many seeds
    #[arg(long, default_value_t = 100, value_name = "N", conflicts_with = "seed")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "seed")]
    first: u64,
    /// This seed only, as a failure names it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Events of each seed before everything comes to rest
    #[arg(long, visible_alias = "steps", default_value_t = 10_000, value_name = "M")]
    events: u64,
    /// Seeds at a time; as many as there are cores unless given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print everything that happens to standard error
    #[arg(long)]
    trace: bool,
    /// Put in a mistake on purpose, and stop when it is found
    #[arg(long, hide = true, value_name = "NAME")]
    bug: Option<String>,
}

/// Runs the seeds and says which of them broke a promise.
pub(crate) fn run(context: &Context, args: &SimArgs) -> Outcome {
    let bug = args.bug.as_deref().map(|name| {
        let known: Vec<_> = BUGS.iter().map(|bug| bug.name).collect();
        let unknown = || format!("there is no bug `{name}`; there are {}", known.join(", "));
        bugs::named(name).ok_or_else(|| Failure::new(Exit::Usage, unknown()))
    });
    let bug = bug.transpose()?;
    let options = Options {
        seed: 0,
        events: args.events,
        bug,
        print: args.trace,
    };
    let (first, seeds) = args.seed.map_or((args.first, args.seeds), |seed| (seed, 1));
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
    let clock = Clock::system();
    let begun = clock.monotonic();
    let enough = |seed: &Seed| bug.is_some() && !seed.violations.is_empty();
    let summary = run_many(first, seeds, threads, &options, enough)
        .map_err(|error| Failure::internal(error.to_string()))?;
    let took = clock.monotonic().saturating_sub(begun);
    context.out.json(&json!({
        "seeds": summary.seeds,
        "events": summary.events,
        "violations": summary.violating.len(),
        "elapsed_s": took.as_secs_f64(),
        "digest": format!("{:016x}", summary.digest),
        "violating": summary.violating.iter().map(|seed| json!({
            "seed": seed.seed,
            "events": seed.events,
            "found": seed.violations,
        })).collect::<Vec<_>>(),
        "counts": summary.counts,
    }))?;
    for seed in summary.violating.iter().take(SHOWN) {
        context.out.line(told(seed, args.events))?;
    }
    context.out.line(verdict(&summary, took))?;
    Ok(if summary.violating.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn told(seed: &Seed, events: u64) -> String {
    let number = seed.seed;
    let head = format!(
        "{BAD}seed {number} breaks promises{BAD:#} {DIM}again with: celesta sim --seed {number} --steps {events} --trace{DIM:#}"
    );
    let latest = seed.latest.iter().map(|line| format!("  {DIM}{line}{DIM:#}"));
    let found = seed
        .violations
        .iter()
        .map(|found| format!("  {BAD}✗{BAD:#} {found}"));
    let lines: Vec<String> = std::iter::once(head).chain(latest).chain(found).collect();
    lines.join("\n")
}

fn verdict(summary: &Summary, took: std::time::Duration) -> String {
    let counts: Vec<String> = summary
        .counts
        .iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    let broken = if summary.violating.is_empty() {
        format!("{GOOD}no promise broken{GOOD:#}")
    } else {
        format!("{BAD}{} seeds broke promises{BAD:#}", summary.violating.len())
    };
    format!(
        "{} seeds, {} events in {}: {broken}; digest {:016x}\n{DIM}{}{DIM:#}",
        summary.seeds,
        summary.events,
        duration(took),
        summary.digest,
        counts.join(", ")
    )
}
