//! `celesta bench rules`: the rule engine by itself, in this process, on one thread.
//!
//! Rules are compiled, facts are inserted while nothing fires, and then the firing alone is timed, to quiescence or to
//! `halt()`. The bounds of a turn do not apply: a bench may fire for minutes, up to `--firings`. Whether a named program's outcome is right
//! is checked after the clock has stopped.

mod check;
mod program;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use celesta_engine::{
    Effect, Environment, Event, FactsError, Limits, RuleSet, RunId, Source, Turn, WorkingMemory, compile,
    read_facts, write_facts,
};
use celesta_runtime::Clock;
use clap::Args;
use serde::Serialize;

use self::program::Program;
use super::quantile::number;
use super::usage::Usage;
use crate::commands::Context;
use crate::exit::{Exit, Failure};

/// The run that is measured; any will do, the engine is deterministic.
const RUN: RunId = RunId::from_bits(1);

/// Facts of a program: some gigabytes.
const FACTS_MAX: usize = 10_000_000;

/// After so many firings their records are counted and dropped, so that memory holds the facts and not the past.
const SLICE: u64 = 1 << 20;

/// Options of `bench rules`.
#[derive(Debug, Args)]
pub(crate) struct RulesArgs {
    /// A program that comes with the binary
    #[arg(long, value_enum, required_unless_present = "rules", conflicts_with = "rules")]
    program: Option<Program>,
    /// Guests, discs, chunks or drawings; 64, 15, 10000 and 100 unless given
    #[arg(long, value_name = "N", conflicts_with = "rules", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    size: Option<u32>,
    /// Your own rules
    #[arg(long, value_name = "FILE", requires = "facts")]
    rules: Option<PathBuf>,
    /// The facts to begin with: [[type, {field: value}], …]
    #[arg(long, value_name = "FILE", requires = "rules")]
    facts: Option<PathBuf>,
    /// Stop after so many firings: the program may not end
    #[arg(long, value_name = "N", default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    firings: u64,
    /// Write the facts at the end into FILE
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    program: String,
    /// The program's size; for own programs the facts they begin with.
    size: u64,
    compile_s: f64,
    load_s: f64,
    /// The firing alone.
    wall_s: f64,
    firings: u64,
    firings_per_s: f64,
    /// Facts inserted, updated and retracted by the rules, for each second of firing.
    changes_per_s: f64,
    peak_rss_mb: f64,
    /// Whether the program's outcome is right; for own programs, whether they ended without a section that threw.
    correct: bool,
    /// `video` only: the same changes made from outside, with rules whose actions are empty and never run.
    #[serde(skip_serializing_if = "Option::is_none")]
    match_changes_per_s: Option<f64>,
    /// Why it is not correct.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What is to be measured.
struct Given {
    name: String,
    size: u64,
    source: Source,
}

/// Measures and prints; true when the outcome is right.
pub(crate) fn run(context: &Context, args: &RulesArgs) -> Result<bool, Failure> {
    let size = (args.program).map_or(0, |program| args.size.unwrap_or_else(|| program.size()));
    let given = match (args.program, &args.rules) {
        (Some(program), _) => Given {
            name: program.name().to_owned(),
            size: size.into(),
            source: program.source(),
        },
        (None, Some(rules)) => Given {
            name: rules.display().to_string(),
            size: 0,
            source: Source {
                path: rules.display().to_string(),
                text: read(rules)?,
            },
        },
        (None, None) => return Err(Failure::new(Exit::Usage, "name --program or --rules")),
    };
    let (rules, compiling) = compiled(&given.source)?;
    let events = match (args.program, &args.facts) {
        (Some(program), _) => (program.facts(size)).map_err(|why| Failure::new(Exit::Usage, why))?,
        (None, Some(facts)) => read_facts(&rules, read(facts)?.as_bytes()).map_err(|error: FactsError| {
            Failure::new(Exit::Failed, format!("{}: {error}", facts.display()))
        })?,
        (None, None) => Vec::new(),
    };
    let mut figures = measured(&rules, given, compiling, events, args)?;
    if let Some(program) = args.program {
        figures.match_changes_per_s = program.match_changes_per_s(size)?;
    }
    super::print(context.out, &figures)?;
    Ok(figures.correct)
}

fn measured(
    rules: &Arc<RuleSet>,
    given: Given,
    compiling: Duration,
    events: Vec<Event>,
    args: &RulesArgs,
) -> Result<Figures, Failure> {
    let inserted = u64::try_from(events.len()).unwrap_or(u64::MAX);
    let size = if args.program.is_some() {
        given.size
    } else {
        inserted
    };
    let mut memory = WorkingMemory::new(rules, RUN);
    let loading = loaded(&mut memory, events)?;
    let watch = Stopwatch::start();
    let (mut fired, mut changed) = (0, 0);
    let mut left = args.firings;
    let mut more = true;
    while more && left > 0 {
        let slice = left.min(SLICE);
        more = memory.fire_some(slice);
        left -= slice;
        if more {
            let (firings, changes) = memory.take_records();
            fired += firings.len();
            changed += changes.len();
        }
    }
    let wall = watch.stop();
    let peak_rss_mb = Usage::of_tree(std::process::id()).peak_rss_mb();
    let outcome = memory.outcome(Vec::new(), None);
    fired += outcome.firings.len();
    changed += outcome.changes.len();
    let endless = more.then(|| {
        format!(
            "stopped after {} firings: the program may not end (--firings N lets it go on)",
            args.firings
        )
    });
    let error = endless.or_else(|| {
        outcome.effects.iter().find_map(|effect| match effect {
            Effect::Fail { message, .. } => Some(message.clone()),
            _ => None,
        })
    });
    let error = error.or_else(|| {
        args.program.and_then(|program| {
            program
                .verify(
                    args.size.unwrap_or_else(|| program.size()),
                    &memory,
                    &outcome,
                    fired,
                )
                .err()
        })
    });
    if let Some(dump) = &args.dump {
        std::fs::write(dump, write_facts(&memory)).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot write {}: {error}", dump.display()))
        })?;
    }
    let firings = u64::try_from(fired).unwrap_or(u64::MAX);
    let changes = u64::try_from(changed).unwrap_or(u64::MAX);
    Ok(Figures {
        program: given.name,
        size,
        compile_s: seconds(compiling),
        load_s: seconds(loading),
        wall_s: seconds(wall),
        firings,
        firings_per_s: rate(firings, wall),
        changes_per_s: rate(changes, wall),
        peak_rss_mb,
        correct: error.is_none(),
        match_changes_per_s: None,
        error,
    })
}

/// Compiles for a bench: what bounds it is memory.
fn compiled(source: &Source) -> Result<(Arc<RuleSet>, Duration), Failure> {
    let limits = Limits {
        operations: u64::MAX,
        firings: u32::MAX,
        facts: FACTS_MAX,
        effects: usize::MAX,
        turn_bytes: usize::MAX,
        run_bytes: usize::MAX,
        list_length: usize::try_from(u32::MAX).unwrap_or(usize::MAX),
        ..Limits::default()
    };
    let environment = Environment {
        limits,
        ..Environment::default()
    };
    let watch = Stopwatch::start();
    match compile(source, &environment) {
        Ok(compiled) => Ok((compiled.rules, watch.stop())),
        Err(found) => Err(Failure::new(Exit::Failed, found.to_string())),
    }
}

/// Inserts the facts, or applies other events, while nothing fires.
fn loaded(memory: &mut WorkingMemory, events: Vec<Event>) -> Result<Duration, Failure> {
    let watch = Stopwatch::start();
    let rejected = memory.load(Turn {
        seq: 1,
        now_ms: 0,
        events,
    });
    let loading = watch.stop();
    // What was loaded belongs to another outcome than what fires.
    let outcome = memory.outcome(rejected, None);
    match outcome.rejected.first() {
        Some((at, why)) => Err(Failure::new(
            Exit::Failed,
            format!("fact {} of the list: {why}", at + 1),
        )),
        None => Ok(loading),
    }
}

/// Measures a duration.
struct Stopwatch(Clock, Duration);

impl Stopwatch {
    fn start() -> Self {
        let clock = Clock::system();
        let started = clock.monotonic();
        Self(clock, started)
    }

    fn stop(&self) -> Duration {
        self.0.monotonic().saturating_sub(self.1)
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let exit = if path.exists() {
            Exit::Failed
        } else {
            Exit::NotFound
        };
        Failure::new(exit, format!("cannot read {}: {error}", path.display()))
    })
}

/// Seconds to the microsecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

fn rate(count: u64, duration: Duration) -> f64 {
    (number(count) / duration.as_secs_f64().max(1e-9)).round()
}
