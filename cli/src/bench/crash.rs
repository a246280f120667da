//! `celesta bench crash`: the server is killed with SIGKILL at random moments under load and restarted each time.
//!
//! Clients repeat each request under its idempotency key until they know its end. Then every run that was ever
//! acknowledged must be there under the same id, completed, with exactly its count of reactions; and there must be no
//! run that nobody asked for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use celesta_runtime::Random;
use clap::Args;
use serde::Serialize;

use super::quantile::rounded;
use super::rig::{Ended, Ground, GroundArgs, Place, Rig};
use super::steps::warm_up;
use super::wire::Wire;
use crate::child::ServerProcess;
use crate::client::Client;
use crate::commands::Context;
use crate::commands::run::all_pages;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// A kill comes this long after the server listens, at a random moment: from before the first request is in to well
/// within full load.
const KILL_AFTER_MS: std::ops::Range<u64> = 5..400;
/// Between two tries while the server is away.
const PAUSE: Duration = Duration::from_millis(10);
/// After the last kill everything must have ended within this time.
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
/// The store is restarted at one of so many moments, when it is to be restarted at all.
const RESTART_EACH: u64 = 5;
/// One of so many kills leaves the node away until the others own everything.
const AWAY_EACH: u64 = 15;
/// A lease, two looks, and the time to read the partitions, on a machine that is busy.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(60);
/// Runs read back at the end.
const RUNS_MAX: usize = 10_000_000;
/// The run of the warm-up.
const WARM_UP_RUNS: usize = 1;

/// Options of `bench crash`.
#[derive(Debug, Args)]
pub(crate) struct CrashArgs {
    /// How often the server is killed
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Steps of each run
    #[arg(long, default_value_t = 5)]
    steps: u64,
    /// Runs at a time
    #[arg(long, default_value_t = 32)]
    concurrency: u64,
    /// The seed of the moments; printed, so that a run can be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// Restart the database server without any farewell at a fifth of the moments; needs `--store postgres`
    #[arg(long)]
    restart_store: bool,
    #[command(flatten)]
    ground: GroundArgs,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Figures {
    kills: u64,
    runs: u64,
    lost: u64,
    doubled_results: u64,
    stuck: u64,
    seed: u64,
    restart_p50_ms: f64,
    wall_s: f64,
    store: &'static str,
    nodes: usize,
    /// How often another node took over what a killed one had, before that came back.
    takeovers: u64,
    store_restarts: u64,
}

/// What the clients know of one request.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The run, once the server has acknowledged it.
    run: Option<String>,
    /// The server named another run for the same key.
    other_run: bool,
    /// What the run counted in the end.
    count: Option<u64>,
    /// How else it ended.
    trouble: Option<String>,
}

struct Load {
    hosts: Vec<String>,
    seed: u64,
    steps: u64,
    over: Cell<bool>,
    known: RefCell<BTreeMap<String, Known>>,
}

/// Runs the bench; says whether nothing was lost, doubled or stuck.
pub(crate) async fn run(context: &Context, place: &Place, args: &CrashArgs) -> Result<bool, Failure> {
    let mut rig = Rig::start(place, &args.ground).await?;
    if args.restart_store && !matches!(rig.ground, Ground::Own(_)) {
        return Err(Failure::new(
            Exit::Usage,
            "--restart-store needs a database server of the bench's own: --store postgres",
        ));
    }
    warm_up(&rig).await?;
    let seed = args.seed.unwrap_or_else(|| Random::system().next_u64() >> 16);
    context.out.note(format_args!("seed {seed}"));
    // Restarts take the port of the first start, so that clients find it again.
    let hosts = rig.hosts();
    for (options, host) in rig.options.iter_mut().zip(&hosts) {
        options.listen.clone_from(host);
    }
    let load = Load {
        hosts,
        seed,
        steps: args.steps,
        over: Cell::new(false),
        known: RefCell::default(),
    };
    let clock = rig.clock.clone();
    let begun = clock.monotonic();
    let clients =
        futures_util::future::join_all((0..args.concurrency).map(|client| load.client(client, &clock)));
    let killer = async {
        let restarts = kill_again_and_again(context, &mut rig, args, seed).await;
        load.over.set(true);
        restarts
    };
    let patient = async {
        // The clients end by themselves once the last kill is over; the patience starts then.
        while !load.over.get() {
            clock.sleep(PAUSE).await;
        }
        clock.sleep(SETTLE_PATIENCE).await;
    };
    let loaded = async {
        tokio::select! {
            _ = clients => {}
            () = patient => {}
        }
    };
    let (restarts, ()) = tokio::join!(killer, loaded);
    let mut killed = restarts?;
    let stored = all_pages(&rig.client, &["v1", "runs"], &[("service", "bench")], RUNS_MAX).await?;
    let wall = clock.monotonic().saturating_sub(begun);
    let store = rig.ground.name();
    rig.stop().await;
    let known = load.known.take();
    let verdict = Verdict::of(&known, stored.len().saturating_sub(WARM_UP_RUNS), args.steps);
    for (key, request) in known
        .iter()
        .filter(|(_, request)| request.trouble.is_some())
        .take(5)
    {
        Output::remark(format_args!(
            "trouble: {key}: {}",
            request.trouble.as_deref().unwrap_or_default()
        ));
    }
    let figures = Figures {
        kills: args.kills,
        runs: verdict.runs,
        lost: verdict.lost,
        doubled_results: verdict.doubled,
        stuck: verdict.stuck,
        seed,
        restart_p50_ms: killed.restarts.quantile_ms(50),
        wall_s: rounded(wall.as_secs_f64()),
        store,
        nodes: args.ground.nodes.max(1),
        takeovers: killed.takeovers,
        store_restarts: killed.store_restarts,
    };
    super::print(context.out, &figures)?;
    Ok(figures.lost == 0 && figures.doubled_results == 0 && figures.stuck == 0)
}

/// What the killing came to.
#[derive(Default)]
struct Killed {
    restarts: super::quantile::Durations,
    takeovers: u64,
    store_restarts: u64,
}

async fn kill_again_and_again(
    context: &Context,
    rig: &mut Rig,
    args: &CrashArgs,
    seed: u64,
) -> Result<Killed, Failure> {
    let random = Random::seeded(seed);
    let bar = context.out.count_bar(args.kills, "kills");
    let mut killed = Killed::default();
    let nodes = u64::try_from(rig.servers.len()).unwrap_or(1);
    for number in 0..args.kills {
        let span = KILL_AFTER_MS.end - KILL_AFTER_MS.start;
        let wait = Duration::from_millis(KILL_AFTER_MS.start + random.next_u64() % span);
        rig.clock.sleep(wait).await;
        let draw = random.next_u64();
        if args.restart_store && draw.is_multiple_of(RESTART_EACH) {
            if let Ground::Own(server) = &rig.ground {
                server.crash().await?;
                killed.store_restarts += 1;
            }
            bar.inc(1);
            continue;
        }
        let node = usize::try_from((draw >> 8) % nodes).unwrap_or(0);
        let begun = rig.clock.monotonic();
        rig.servers[node].kill_now().await?;
        if nodes > 1 && number % AWAY_EACH == AWAY_EACH - 1 {
            taken_over(rig, node).await?;
            killed.takeovers += 1;
            rig.servers[node] = ServerProcess::start(&rig.options[node]).await?;
        } else {
            rig.servers[node] = ServerProcess::start(&rig.options[node]).await?;
            killed.restarts.add(rig.clock.monotonic().saturating_sub(begun));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(killed)
}

/// Waits until the other nodes own everything.
async fn taken_over(rig: &Rig, gone: usize) -> Result<(), Failure> {
    let other = (gone + 1) % rig.servers.len();
    let client = Client::new(&rig.servers[other].url, None)?;
    let deadline = rig.clock.monotonic() + TAKEOVER_PATIENCE;
    let dead = rig.servers[gone].url.trim_end_matches('/').to_owned();
    while rig.clock.monotonic() < deadline {
        if let Ok(answer) = client.get(&["v1", "nodes"], &[]).await {
            let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
            let owned_by_dead = nodes
                .iter()
                .filter(|node| node["address"] == dead.as_str())
                .any(|node| {
                    node["partitions"]
                        .as_array()
                        .is_some_and(|owned| !owned.is_empty())
                });
            let owned: usize = nodes
                .iter()
                .filter_map(|node| node["partitions"].as_array().map(Vec::len))
                .sum();
            let all = answer["partitions"].as_array().map_or(0, Vec::len);
            if !owned_by_dead && owned == all && all > 0 {
                return Ok(());
            }
        }
        rig.clock.sleep(PAUSE * 10).await;
    }
    Err(Failure::new(
        Exit::Failed,
        "nobody took over what a killed node had",
    ))
}

impl Load {
    /// Requests runs, one after the other, until the killing is over; each until its end is known.
    async fn client(&self, client: u64, clock: &celesta_runtime::Clock) {
        let body = format!("{{\"total\":{}}}", self.steps);
        let mut wire: Option<Wire> = None;
        // As a load balancer does: another node when this one does not answer.
        let mut node = usize::try_from(client).unwrap_or(0);
        for number in 0_u64.. {
            if self.over.get() {
                return;
            }
            let key = format!("{:x}-{client}-{number}", self.seed);
            let header = format!("Prefer: wait=5\r\nIdempotency-Key: {key}\r\n");
            self.known.borrow_mut().insert(key.clone(), Known::default());
            loop {
                let connection = match wire.take() {
                    Some(connection) => Ok(connection),
                    None => Wire::connect(&self.hosts[node % self.hosts.len()]).await,
                };
                if let Ok(mut connection) = connection
                    && let Ok(answer) = connection.post("/v1/services/bench/steps", &header, &body).await
                {
                    let over = self.learn(&key, answer.status, answer.body);
                    wire = Some(connection);
                    if over {
                        break;
                    }
                } else {
                    node += 1;
                }
                clock.sleep(PAUSE).await;
            }
        }
    }

    /// Notes what an answer says; whether the end is known.
    fn learn(&self, key: &str, status: u16, body: &[u8]) -> bool {
        let mut known = self.known.borrow_mut();
        let request = known.entry(key.to_owned()).or_default();
        // A server that is stopping or full says so with a 5xx or 429, and one that is just accepting the same key with
        // a 409 of its own: asked again later.
        let in_flight = status == 409 && String::from_utf8_lossy(body).contains("request-in-flight");
        if status == 429 || status >= 500 || in_flight {
            return false;
        }
        let Some(ended) = Ended::read(body).filter(|_| status < 300) else {
            request.trouble = Some(format!("status {status}: {}", String::from_utf8_lossy(body)));
            return true;
        };
        request.other_run |= request.run.as_ref().is_some_and(|run| run != ended.id);
        request.run.get_or_insert_with(|| ended.id.to_owned());
        if !ended.is_over() {
            return false;
        }
        match ended.counted() {
            Some(counted) => request.count = Some(counted.count),
            None => request.trouble = Some(ended.reason()),
        }
        true
    }
}

/// What was found in the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    runs: u64,
    lost: u64,
    doubled: u64,
    stuck: u64,
}

impl Verdict {
    fn of(known: &BTreeMap<String, Known>, stored: usize, steps: u64) -> Self {
        let mut verdict = Self::default();
        for request in known.values() {
            match (request.count, &request.trouble) {
                (Some(count), _) => {
                    verdict.runs += 1;
                    verdict.lost += u64::from(count < steps);
                    verdict.doubled += u64::from(count > steps || request.other_run);
                }
                (None, Some(_)) => verdict.lost += 1,
                (None, None) => verdict.stuck += 1,
            }
        }
        // More runs than keys: a request was taken in twice. Fewer: an acknowledged run has gone.
        let (stored, asked) = (
            u64::try_from(stored).unwrap_or(u64::MAX),
            u64::try_from(known.len()).unwrap_or(u64::MAX),
        );
        verdict.doubled += stored.saturating_sub(asked);
        verdict.lost += asked
            .saturating_sub(stored)
            .saturating_sub(verdict.stuck + verdict.lost);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_loss_is_counted() {
        let known = |count, trouble: Option<&str>, other_run| Known {
            run: Some("run".to_owned()),
            other_run,
            count,
            trouble: trouble.map(str::to_owned),
        };
        let all = [
            known(Some(5), None, false),
            known(Some(4), None, false),
            known(Some(6), None, false),
            known(Some(5), None, true),
            known(None, Some("failed"), false),
            known(None, None, false),
        ];
        let all: BTreeMap<String, Known> = all
            .into_iter()
            .enumerate()
            .map(|(at, known)| (at.to_string(), known))
            .collect();
        assert_eq!(
            Verdict::of(&all, 6, 5),
            Verdict {
                runs: 4,
                lost: 2,
                doubled: 2,
                stuck: 1
            }
        );
        assert_eq!(Verdict::of(&all, 8, 5).doubled, 4, "two runs nobody asked for");
        let good = BTreeMap::from([("a".to_owned(), known(Some(5), None, false))]);
        assert_eq!(Verdict::of(&good, 0, 5).lost, 1, "an acknowledged run has gone");
    }
}
