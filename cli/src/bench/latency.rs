//! `celesta bench latency`: submit → result of a one-step run on an idle system, and a bare append with fsync on the
//! same disk between each two of them.

use clap::Args;
use serde::Serialize;

use super::fsync::Probe;
use super::quantile::Durations;
use super::rig::{GroundArgs, Place, Rig};
use super::steps::{Over, connect, one_run, warm_up};
use crate::commands::Context;
use crate::exit::{Exit, Failure};

/// The first runs meet cold caches and are not counted.
const WARM_UP_RUNS: u64 = 20;

/// Options of `bench latency`.
#[derive(Debug, Args)]
pub(crate) struct LatencyArgs {
    /// How many runs, one after the other
    #[arg(long, default_value_t = 500)]
    runs: u64,
    #[command(flatten)]
    ground: GroundArgs,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Figures {
    p50_ms: f64,
    p99_ms: f64,
    fsync_p50_ms: f64,
    fsync_p99_ms: f64,
    runs: u64,
    store: &'static str,
}

/// Runs the bench; says whether every run counted its one step.
pub(crate) async fn run(context: &Context, place: &Place, args: &LatencyArgs) -> Result<bool, Failure> {
    let rig = Rig::start(place, &args.ground).await?;
    warm_up(&rig).await?;
    let mut probe = Probe::new(&rig.options[0].data, &rig.clock)?;
    let mut wire = connect(&rig.host()).await?;
    let (mut runs, mut fsyncs) = (Durations::default(), Durations::default());
    for number in 0..WARM_UP_RUNS + args.runs {
        let fsync = probe.append()?;
        let begun = rig.clock.monotonic();
        let over = one_run(&rig, &mut wire, "/v1/services/bench/steps", "{\"total\":1}").await?;
        let took = rig.clock.monotonic().saturating_sub(begun);
        match over {
            Over::Counted(counted) if counted.count == 1 => {}
            Over::Counted(counted) => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("one step was counted as {}", counted.count),
                ));
            }
            Over::Trouble(reason) => return Err(Failure::new(Exit::Failed, reason)),
        }
        if number >= WARM_UP_RUNS {
            runs.add(took);
            fsyncs.add(fsync);
        }
    }
    let store = rig.ground.name();
    rig.stop().await;
    let figures = Figures {
        p50_ms: runs.quantile_ms(50),
        p99_ms: runs.quantile_ms(99),
        fsync_p50_ms: fsyncs.quantile_ms(50),
        fsync_p99_ms: fsyncs.quantile_ms(99),
        runs: args.runs,
        store,
    };
    super::print(context.out, &figures)?;
    Ok(true)
}
