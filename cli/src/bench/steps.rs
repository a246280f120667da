//! `celesta bench steps`: durable steps a second. A step is one function call made by a rule, run in a worker process,
//! its result committed and its reaction fired.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;

use super::quantile::{Durations, number, rounded};
use super::rig::{Ended, GroundArgs, Place, Rig};
use super::usage::Usage;
use super::wire::Wire;
use crate::commands::Context;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// A run that has not ended within the server's wait is asked for again after this long.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// No run of a sound system takes longer.
const RUN_PATIENCE: Duration = Duration::from_secs(600);

/// Options of `bench steps`.
#[derive(Debug, Args)]
pub(crate) struct StepsArgs {
    /// How many runs
    #[arg(long, default_value_t = 2_000)]
    runs: u64,
    /// Steps of each run, one after the other
    #[arg(long, default_value_t = 10)]
    steps: u64,
    /// Runs at a time
    #[arg(long, default_value_t = 256)]
    concurrency: u64,
    /// Runs of one step that are stored before the measurement begins
    #[arg(long, default_value_t = 0)]
    stored: u64,
    #[command(flatten)]
    ground: GroundArgs,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Figures {
    steps_per_s: f64,
    runs: u64,
    lost: u64,
    doubled: u64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_s_per_1k_steps: f64,
    /// With the database server's, where there is one on this machine.
    cpu_s_per_1k_steps_total: f64,
    client_cpu_s: f64,
    peak_rss_mb: f64,
    workers_peak_rss_mb: f64,
    wall_s: f64,
    store: &'static str,
    nodes: usize,
}

/// What the clients share: they take turns on one thread.
struct Shared<'a> {
    rig: &'a Rig,
    body: String,
    runs: u64,
    steps: u64,
    begun: Cell<u64>,
    tally: RefCell<Tally>,
}

impl<'a> Shared<'a> {
    fn new(rig: &'a Rig, runs: u64, steps: u64) -> Self {
        Self {
            rig,
            body: format!("{{\"total\":{steps}}}"),
            runs,
            steps,
            begun: Cell::new(0),
            tally: RefCell::default(),
        }
    }

    fn none_missing(&self) -> Result<(), Failure> {
        let tally = self.tally.borrow();
        match &tally.first_trouble {
            None if tally.lost == 0 && tally.doubled == 0 => Ok(()),
            trouble => Err(Failure::internal(format!(
                "of the steps to be stored {} were lost and {} doubled {}",
                tally.lost,
                tally.doubled,
                trouble.as_deref().unwrap_or_default()
            ))),
        }
    }
}

#[derive(Default)]
struct Tally {
    per_step: Durations,
    lost: u64,
    doubled: u64,
    first_trouble: Option<String>,
}

/// Runs the bench; says whether nothing was lost or doubled.
pub(crate) async fn run(context: &Context, place: &Place, args: &StepsArgs) -> Result<bool, Failure> {
    let rig = Rig::start(place, &args.ground).await?;
    warm_up(&rig).await?;
    // Connections are kept, so they are there before the first request.
    let hosts = rig.hosts();
    let clients = usize::try_from(args.concurrency.min(args.runs)).unwrap_or(usize::MAX);
    let connecting = hosts.iter().cycle().take(clients).map(|host| connect(host));
    let mut wires = futures_util::future::try_join_all(connecting).await?;
    let stored = Shared::new(&rig, args.stored, 1);
    drive(&stored, &mut wires).await?;
    stored.none_missing()?;
    let shared = Shared::new(&rig, args.runs, args.steps);
    let (before, database_before, client_before) = (rig.usage(), rig.database_usage(), Usage::of_self());
    let begun = rig.clock.monotonic();
    let outcome = drive(&shared, &mut wires).await;
    let wall = rig.clock.monotonic().saturating_sub(begun);
    let (after, database_after, client_after) = (rig.usage(), rig.database_usage(), Usage::of_self());
    outcome?;
    let mut tally = shared.tally.take();
    drop((stored, shared, wires));
    let store = rig.ground.name();
    rig.stop().await;
    if let Some(trouble) = &tally.first_trouble {
        Output::remark(format_args!("trouble: {trouble}"));
    }
    let steps = number(args.runs * args.steps);
    let figures = Figures {
        steps_per_s: (steps / wall.as_secs_f64()).round(),
        runs: args.runs,
        lost: tally.lost,
        doubled: tally.doubled,
        p50_ms: tally.per_step.quantile_ms(50),
        p99_ms: tally.per_step.quantile_ms(99),
        cpu_s_per_1k_steps: rounded(after.cpu_s_since(&before) * 1_000.0 / steps),
        cpu_s_per_1k_steps_total: rounded(
            (after.cpu_s_since(&before) + database_after.cpu_s_since(&database_before)) * 1_000.0 / steps,
        ),
        client_cpu_s: rounded(client_after.cpu_s_since(&client_before)),
        peak_rss_mb: after.peak_rss_mb(),
        workers_peak_rss_mb: after.workers_peak_rss_mb(),
        wall_s: rounded(wall.as_secs_f64()),
        store,
        nodes: args.ground.nodes.max(1),
    };
    super::print(context.out, &figures)?;
    Ok(figures.lost == 0 && figures.doubled == 0)
}

/// One run, so that the function's processes have started: their start is not what is measured.
///
/// # Errors
/// When that run does not complete.
pub(crate) async fn warm_up(rig: &Rig) -> Result<(), Failure> {
    let mut wire = connect(&rig.host()).await?;
    let answer = one_run(rig, &mut wire, "/v1/services/bench/steps", "{\"total\":3}").await?;
    match answer {
        Over::Counted(counted) if counted.count == 3 => Ok(()),
        Over::Counted(counted) => Err(Failure::internal(format!(
            "3 steps were counted as {}",
            counted.count
        ))),
        Over::Trouble(reason) => Err(Failure::internal(reason)),
    }
}

/// All runs, over all connections.
async fn drive(shared: &Shared<'_>, wires: &mut [Wire]) -> Result<(), Failure> {
    let mut clients: FuturesUnordered<_> = wires.iter_mut().map(|wire| client(shared, wire)).collect();
    while let Some(outcome) = clients.next().await {
        outcome?;
    }
    Ok(())
}

/// One connection of the closed loop: the next run begins when the last has ended.
async fn client(shared: &Shared<'_>, wire: &mut Wire) -> Result<(), Failure> {
    loop {
        let number = shared.begun.get();
        if number >= shared.runs {
            return Ok(());
        }
        shared.begun.set(number + 1);
        let begun = shared.rig.clock.monotonic();
        let over = one_run(shared.rig, wire, "/v1/services/bench/steps", &shared.body).await?;
        let took = shared.rig.clock.monotonic().saturating_sub(begun);
        let steps = u32::try_from(shared.steps).unwrap_or(u32::MAX).max(1);
        let mut tally = shared.tally.borrow_mut();
        tally.per_step.add(took / steps);
        match over {
            Over::Counted(counted) => {
                tally.lost += shared.steps.saturating_sub(counted.count);
                tally.doubled += counted.count.saturating_sub(shared.steps);
            }
            Over::Trouble(reason) => {
                tally.lost += shared.steps;
                tally.first_trouble.get_or_insert(reason);
            }
        }
    }
}

/// How a run ended.
pub(crate) enum Over {
    Counted(super::rig::Counted),
    Trouble(String),
}

/// Requests one run and waits for its end.
///
/// # Errors
/// When the connection breaks or the run never ends.
pub(crate) async fn one_run(rig: &Rig, wire: &mut Wire, path: &str, body: &str) -> Result<Over, Failure> {
    let broken =
        |error: std::io::Error| Failure::new(Exit::Unreachable, format!("the connection broke: {error}"));
    let deadline = rig.clock.monotonic() + RUN_PATIENCE;
    let answer = wire
        .post(path, "Prefer: wait=60\r\n", body)
        .await
        .map_err(broken)?;
    let status = answer.status;
    let Some(ended) = Ended::read(answer.body).filter(|_| status < 300) else {
        return Ok(Over::Trouble(format!(
            "status {status}: {}",
            String::from_utf8_lossy(answer.body)
        )));
    };
    if ended.is_over() {
        return Ok(over(&ended));
    }
    let path = format!("/v1/runs/{}", ended.id);
    while rig.clock.monotonic() < deadline {
        rig.clock.sleep(ASK_AGAIN).await;
        let answer = wire.get(&path).await.map_err(broken)?;
        if let Some(ended) = Ended::read(answer.body).filter(Ended::is_over) {
            return Ok(over(&ended));
        }
    }
    Ok(Over::Trouble(format!("{path} never ended")))
}

fn over(ended: &Ended<'_>) -> Over {
    ended
        .counted()
        .map_or_else(|| Over::Trouble(ended.reason()), Over::Counted)
}

/// A connection to the server.
///
/// # Errors
/// When it does not listen.
pub(crate) async fn connect(host: &str) -> Result<Wire, Failure> {
    Wire::connect(host)
        .await
        .map_err(|error| Failure::new(Exit::Unreachable, format!("cannot connect to {host}: {error}")))
}
