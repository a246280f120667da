//! `celesta bench fanout`: one run that makes many calls at once and takes in all their results; or, beyond what one run
//! holds, a tree: one run that asks for many runs, each of which makes its share of the calls.

use clap::Args;
use serde::Serialize;

use super::quantile::{number, rounded};
use super::rig::{GroundArgs, Place, Rig};
use super::steps::{Over, connect, one_run, warm_up};
use crate::commands::Context;
use crate::exit::Failure;

/// Options of `bench fanout`.
#[derive(Debug, Args)]
pub(crate) struct FanoutArgs {
    /// Calls in all; a tree of runs when they are more than 100,000
    #[arg(long, default_value_t = 10_000)]
    children: u64,
    /// Make a tree: so many runs below the first one, each with an equal share of the calls
    #[arg(long, value_name = "RUNS")]
    branches: Option<u64>,
    #[command(flatten)]
    ground: GroundArgs,
}

/// Calls of one run unless a tree is asked for: what one run takes well.
const SINGLE_MAX: u64 = 100_000;
/// Calls of each run of a tree unless the number of runs is given.
const LEAVES: u64 = 1_000;

/// The figures.
#[derive(Debug, Serialize)]
struct Figures {
    wall_s: f64,
    peak_rss_mb: f64,
    lost: u64,
    doubled: u64,
    children: u64,
    /// Runs below the first one; 0 when it makes the calls itself.
    branches: u64,
    cpu_s: f64,
    cpu_us_per_leaf: f64,
    store: &'static str,
}

/// Runs the bench; says whether nothing was lost or doubled.
pub(crate) async fn run(context: &Context, place: &Place, args: &FanoutArgs) -> Result<bool, Failure> {
    let branches = match args.branches {
        Some(branches) => branches,
        None if args.children > SINGLE_MAX => args.children.div_ceil(LEAVES),
        None => 0,
    };
    let leaves = args.children.checked_div(branches).unwrap_or(args.children);
    if leaves * branches.max(1) != args.children {
        return Err(Failure::usage(format!(
            "{} calls cannot be shared equally by {branches} runs",
            args.children
        )));
    }
    let (path, body) = if branches == 0 {
        ("/v1/services/bench/fanout", format!("{{\"children\":{leaves}}}"))
    } else {
        (
            "/v1/services/bench/tree",
            format!("{{\"branches\":{branches},\"leaves\":{leaves}}}"),
        )
    };
    let rig = Rig::start(place, &args.ground).await?;
    warm_up(&rig).await?;
    let mut wire = connect(&rig.host()).await?;
    let before = rig.usage();
    let begun = rig.clock.monotonic();
    let over = one_run(&rig, &mut wire, path, &body).await?;
    let wall = rig.clock.monotonic().saturating_sub(begun);
    let after = rig.usage();
    let store = rig.ground.name();
    rig.stop().await;
    let counted = match over {
        Over::Counted(counted) => counted,
        Over::Trouble(reason) => return Err(Failure::new(crate::exit::Exit::Failed, reason)),
    };
    // The sum of the indexes tells one that is missing from one that came twice when the counts agree.
    let expected = branches.max(1) * (leaves * leaves.saturating_sub(1) / 2);
    let swapped = u64::from(counted.count == args.children && counted.indexes != expected);
    let figures = Figures {
        wall_s: rounded(wall.as_secs_f64()),
        peak_rss_mb: after.peak_rss_mb(),
        lost: args.children.saturating_sub(counted.count) + swapped,
        doubled: counted.count.saturating_sub(args.children) + swapped,
        children: args.children,
        branches,
        cpu_s: rounded(after.cpu_s_since(&before)),
        cpu_us_per_leaf: rounded(after.cpu_s_since(&before) * 1e6 / number(args.children.max(1))),
        store,
    };
    super::print(context.out, &figures)?;
    Ok(figures.lost == 0 && figures.doubled == 0)
}
