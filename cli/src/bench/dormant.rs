//! `celesta bench dormant`: many finished runs that cost disk and no memory, and the few that a shared fact moves.
//!
//! Runs are made over the public API and end at once. Then the server is started anew on the same store, a shared fact is
//! written that concerns a thousand of them, and each run is asked what it has heard.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::quantile::{number, rounded};
use super::rig::{Ended, GroundArgs, Place, Rig};
use super::steps::connect;
use crate::client;
use crate::commands::Context;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Runs of a group: what the shared fact concerns.
const GROUP: u64 = 1_000;
/// The text that runs of the group hear.
const NOTICE: &str = "wake up";
/// The last runs have ended within this time after they were accepted.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long to wait before asking again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Options of `bench dormant`.
#[derive(Debug, Args)]
pub(crate) struct DormantArgs {
    /// How many runs
    #[arg(long, default_value_t = 100_000)]
    runs: u64,
    /// Requests at a time while they are made
    #[arg(long, default_value_t = 512)]
    concurrency: u64,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Figures {
    runs: u64,
    /// All of the store on disk, the runs' facts included, by run.
    bytes_per_run: f64,
    /// From the start of the process to its first answer.
    ready_s: f64,
    /// Of the server after the restart, until everything has moved.
    peak_rss_mb: f64,
    /// Runs that a rule has fired in, as the sweep has counted.
    moved: u64,
    /// From the write of the shared fact to the end of the sweep.
    moved_s: f64,
    /// Runs of the group that have not heard, and others that have moved.
    lost: u64,
    /// Runs made in a second.
    made_per_s: f64,
    /// Of the server while they were made.
    making_peak_rss_mb: f64,
    store: &'static str,
}

/// What the clients share: they take turns on one thread.
struct Shared {
    host: String,
    runs: u64,
    begun: Cell<u64>,
    /// The runs that the shared fact will concern.
    group: RefCell<Vec<String>>,
    wanted: u64,
}

/// The sweep as the bench reads it.
#[derive(Debug, Deserialize)]
struct Sweep {
    state: String,
    runs: Option<u64>,
    moved: u64,
}

/// Runs the bench; says whether exactly the runs that are concerned have moved.
pub(crate) async fn run(context: &Context, place: &Place, args: &DormantArgs) -> Result<bool, Failure> {
    let rig = Rig::start(place, &GroundArgs::file()).await?;
    let empty = bytes_of(&rig.options[0].data);
    // A group in the middle: neither the first nor the last pages of anything.
    let wanted = args.runs.div_ceil(GROUP) / 2;
    let shared = Shared {
        host: rig.host(),
        runs: args.runs,
        begun: Cell::new(0),
        group: RefCell::default(),
        wanted,
    };
    let begun = rig.clock.monotonic();
    let clients = (0..args.concurrency.clamp(1, args.runs.max(1))).map(|_| make(&shared));
    let outcomes = futures_util::future::join_all(clients).await;
    outcomes.into_iter().collect::<Result<Vec<()>, Failure>>()?;
    let making = rig.clock.monotonic().saturating_sub(begun);
    all_ended(&rig).await?;
    let made = rig.usage();
    let (rig, ready) = rig.restart().await?;
    let bytes = bytes_of(&rig.options[0].data).saturating_sub(empty);
    let begun = rig.clock.monotonic();
    let sweep = notify(&rig, wanted).await?;
    let moved_s = rig.clock.monotonic().saturating_sub(begun);
    let after = rig.usage();
    let group = shared.group.take();
    let lost = unheard(&rig, &group).await?;
    let concerned = u64::try_from(group.len()).unwrap_or(u64::MAX);
    // What moved beyond the group.
    let others = sweep.moved.saturating_sub(concerned) + sweep.runs.unwrap_or(0).saturating_sub(concerned);
    rig.stop().await;
    let figures = Figures {
        runs: args.runs,
        bytes_per_run: (number(bytes) / number(args.runs.max(1))).round(),
        ready_s: rounded(ready.as_secs_f64()),
        peak_rss_mb: after.peak_rss_mb(),
        moved: sweep.moved,
        moved_s: rounded(moved_s.as_secs_f64()),
        lost: lost + others,
        made_per_s: (number(args.runs) / making.as_secs_f64()).round(),
        making_peak_rss_mb: made.peak_rss_mb(),
        store: "sqlite",
    };
    super::print(context.out, &figures)?;
    Ok(figures.lost == 0 && figures.moved == concerned)
}

fn broken(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Unreachable, format!("the connection broke: {error}"))
}

/// One connection: requests one after the other, each answered when its run is durable.
async fn make(shared: &Shared) -> Result<(), Failure> {
    let mut wire = connect(&shared.host).await?;
    loop {
        let at = shared.begun.get();
        if at >= shared.runs {
            return Ok(());
        }
        shared.begun.set(at + 1);
        let group = at / GROUP;
        let body = format!("{{\"group\":{group}}}");
        let answer = wire.post("/v1/services/bench/dormant", "", &body).await;
        let answer = answer.map_err(|error| broken(&error))?;
        let run = Ended::read(answer.body).filter(|_| answer.status < 300);
        let run = run.ok_or_else(|| {
            let text = String::from_utf8_lossy(answer.body).into_owned();
            Failure::new(Exit::Failed, format!("a request was refused: {text}"))
        })?;
        if group == shared.wanted {
            shared.group.borrow_mut().push(run.id.to_owned());
        }
    }
}

/// Waits until no run is under way.
async fn all_ended(rig: &Rig) -> Result<(), Failure> {
    let deadline = rig.clock.monotonic() + PATIENCE;
    let filter = [("service", "bench"), ("state", "running"), ("limit", "1")];
    while rig.clock.monotonic() < deadline {
        let page = rig.client.get(&["v1", "runs"], &filter).await?;
        let left = page
            .get("rows")
            .and_then(serde_json::Value::as_array)
            .map_or(0, Vec::len);
        if left == 0 {
            return Ok(());
        }
        rig.clock.sleep(ASK_AGAIN).await;
    }
    Err(Failure::new(Exit::Failed, "runs do not end"))
}

/// Writes the shared fact and waits until its sweep is done.
async fn notify(rig: &Rig, group: u64) -> Result<Sweep, Failure> {
    let fact = json!({ "insert": "Notice", "fields": { "group": group, "text": NOTICE } });
    let path = ["v1", "services", "bench", "facts"];
    let written = rig.client.post(&path, &json!({ "writes": [fact] })).await?;
    let sweep = written
        .get("sweep")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    let deadline = rig.clock.monotonic() + PATIENCE;
    loop {
        let view: Sweep = client::read(rig.client.get(&["v1", "sweeps", sweep], &[]).await?)?;
        if view.state == "done" {
            return Ok(view);
        }
        if rig.clock.monotonic() > deadline {
            let reason = format!("the sweep is {} and has moved {}", view.state, view.moved);
            return Err(Failure::new(Exit::Failed, reason));
        }
        rig.clock.sleep(ASK_AGAIN).await;
    }
}

/// How many of these runs have not heard.
async fn unheard(rig: &Rig, group: &[String]) -> Result<u64, Failure> {
    let mut wire = connect(&rig.host()).await?;
    let expected = format!("\"heard\":\"{NOTICE}\"");
    let mut unheard = 0;
    for run in group {
        let answer = wire.get(&format!("/v1/runs/{run}")).await;
        let answer = answer.map_err(|error| broken(&error))?;
        let text = String::from_utf8_lossy(answer.body);
        if !text.contains(&expected) {
            if unheard == 0 {
                Output::remark(format_args!("trouble: {text}"));
            }
            unheard += 1;
        }
    }
    Ok(unheard)
}

/// The bytes of the store's files.
fn bytes_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok().filter(std::fs::Metadata::is_file));
    sizes.map(|file| file.len()).sum()
}
