//! `celesta bench …`: measuring the platform the way its users meet it.
//!
//! Each bench but `queue`, `timers` and `rules` starts a real server process with its store on a disk, pushes a bundle whose function runs in separate
//! warm processes, and drives it through the public HTTP API over kept connections. Nothing is prepared or skipped:
//! durability, validation and checking are as in production. The client's processor time is told apart. `bench queue`,
//! `bench timers` and `bench rules` measure the library in this process, and say so.

mod crash;
mod dormant;
mod fanout;
mod fsync;
mod latency;
mod quantile;
mod queue;
mod rig;
mod rules;
mod steps;
mod timers;
mod usage;
mod wire;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::commands::Context;
use crate::exit::{Exit, Outcome};
use crate::output::{Output, table};

/// Options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
    /// Put the store in a new folder under DIR: choose the disk. `target` or the current folder unless given
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Processor slots for functions
    #[arg(long, global = true, value_name = "N")]
    workers: Option<u32>,
    /// Keep the store and the server's log
    #[arg(long, global = true)]
    keep: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Many runs of sequential calls: how many durable steps a second
    Steps(steps::StepsArgs),
    /// One run that makes many calls at once
    Fanout(fanout::FanoutArgs),
    /// One-step runs on an idle system, beside a bare append and fsync on the same disk
    Latency(latency::LatencyArgs),
    /// Kill the server again and again under load and count what is lost
    Crash(crash::CrashArgs),
    /// Many finished runs, a restart, and a shared fact that moves a thousand of them
    Dormant(dormant::DormantArgs),
    /// The queue by itself, as a library in this process
    Queue(queue::QueueArgs),
    /// Timers: what pending ones cost, and how exact due ones are
    Timers(timers::TimersArgs),
    /// The rule engine by itself: classical programs, or your own rules and facts
    Rules(rules::RulesArgs),
}

/// Runs the bench that was asked for.
pub(crate) async fn run(context: &Context, args: BenchArgs) -> Outcome {
    let place = rig::Place {
        parent: args.data,
        workers: args.workers,
        keep: args.keep,
    };
    let sound = match args.bench {
        Bench::Steps(bench) => steps::run(context, &place, &bench).await?,
        Bench::Fanout(bench) => fanout::run(context, &place, &bench).await?,
        Bench::Latency(bench) => latency::run(context, &place, &bench).await?,
        Bench::Crash(bench) => crash::run(context, &place, &bench).await?,
        Bench::Dormant(bench) => dormant::run(context, &place, &bench).await?,
        Bench::Queue(bench) => queue::run(context, &place, &bench).await?,
        Bench::Timers(bench) => timers::run(context, &place, &bench).await?,
        Bench::Rules(bench) => rules::run(context, &bench)?,
    };
    Ok(if sound { Exit::Done } else { Exit::Failed })
}

/// Prints the figures: one JSON object, or a line each for people.
fn print(out: Output, figures: &impl Serialize) -> Result<(), crate::exit::Failure> {
    out.json(figures)?;
    let document = serde_json::to_value(figures)?;
    let rows: Vec<Vec<String>> = document
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| vec![name.clone(), figure(value)])
        .collect();
    out.line(table(&["figure", "value"], &rows))
}

fn figure(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
