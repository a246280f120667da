//! `celesta bench fanout`: one run that makes many calls at once and takes in all their results.

use clap::Args;
use serde::Serialize;

use super::quantile::rounded;
use super::rig::{GroundArgs, Place, Rig};
use super::steps::{Over, connect, one_run, warm_up};
use crate::commands::Context;
use crate::exit::Failure;

/// Options of `bench fanout`.
#[derive(Debug, Args)]
pub(crate) struct FanoutArgs {
    /// Calls of the run
    #[arg(long, default_value_t = 10_000)]
    children: u64,
    #[command(flatten)]
    ground: GroundArgs,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Figures {
    wall_s: f64,
    peak_rss_mb: f64,
    lost: u64,
    doubled: u64,
    children: u64,
    cpu_s: f64,
    store: &'static str,
}

/// Runs the bench; says whether nothing was lost or doubled.
pub(crate) async fn run(context: &Context, place: &Place, args: &FanoutArgs) -> Result<bool, Failure> {
    let rig = Rig::start(place, &args.ground).await?;
    warm_up(&rig).await?;
    let mut wire = connect(&rig.host()).await?;
    let before = rig.usage();
    let begun = rig.clock.monotonic();
    let body = format!("{{\"children\":{}}}", args.children);
    let over = one_run(&rig, &mut wire, "/v1/services/bench/fanout", &body).await?;
    let wall = rig.clock.monotonic().saturating_sub(begun);
    let after = rig.usage();
    let store = rig.ground.name();
    rig.stop().await;
    let counted = match over {
        Over::Counted(counted) => counted,
        Over::Trouble(reason) => return Err(Failure::new(crate::exit::Exit::Failed, reason)),
    };
    // The sum of the indexes tells one that is missing from one that came twice when the counts agree.
    let expected = args.children * args.children.saturating_sub(1) / 2;
    let swapped = u64::from(counted.count == args.children && counted.indexes != expected);
    let figures = Figures {
        wall_s: rounded(wall.as_secs_f64()),
        peak_rss_mb: after.peak_rss_mb(),
        lost: args.children.saturating_sub(counted.count) + swapped,
        doubled: counted.count.saturating_sub(args.children) + swapped,
        children: args.children,
        cpu_s: rounded(after.cpu_s_since(&before)),
        store,
    };
    super::print(context.out, &figures)?;
    Ok(figures.lost == 0 && figures.doubled == 0)
}
