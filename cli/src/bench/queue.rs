//! `celesta bench queue`: the queue by itself, measured in this process on the library, without HTTP.
//!
//! One run is: fill, then lease and complete everything, each timed, with every id checked off when it is delivered.
//! With a backlog the same is done a second time on top of it, after the store was closed and opened again. Other
//! forms hold a rate, let thousands of consumers wait, or put one hot key beside others.

mod churn;
mod load;
mod phases;
mod target;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{Kind, Settings};
use clap::Args;
use serde::Serialize;

use self::load::{Load, Seen};
use self::phases::{Crowd, Drained, refused};
pub(super) use self::target::{StoreKind, Target};
use super::fsync::Probe;
use super::quantile::{Durations, number, rounded};
use super::rig::Place;
use super::usage::Usage;
use crate::commands::Context;
use crate::exit::Failure;

/// The queue that is measured.
const QUEUE: &str = "bench";
/// Exclusivity keys that take turns, unless told otherwise.
const KEYS: u64 = 10_000;
/// Messages of one call while a backlog is made: it is not what is measured.
const BACKLOG_BATCH: u64 = 5_000;
/// Messages that are trickled to waiting consumers.
const TRICKLE: u64 = 2_000;
/// The first lease after a start comes at once, or something is wrong.
const FIRST_LEASE_PATIENCE: Duration = Duration::from_secs(60);
/// Appends and fsyncs before and after the measurement.
const FSYNCS: u32 = 100;

/// Options of `bench queue`.
#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// Where messages are kept: `memory`, `sqlite` or the `postgres://…` address of a database of its own
    #[arg(long, default_value = "sqlite", value_name = "STORE")]
    store: StoreKind,
    /// Measure an exclusive queue: messages have keys, several messages of a key are leased together
    #[arg(long)]
    exclusive: bool,
    /// Exclusivity keys that take turns
    #[arg(long, default_value_t = KEYS, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// How many messages are enqueued, leased and completed
    #[arg(long, default_value_t = 200_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Random bytes in each
    #[arg(long, default_value_t = 200, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=32_768))]
    payload: u32,
    /// How many enqueue at once
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    producers: u64,
    /// How many lease at once
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    consumers: u64,
    /// Messages of one call
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch: u64,
    /// Measure again with so many more messages pending, after the store was opened anew
    #[arg(long, default_value_t = 0, value_name = "N")]
    backlog: u64,
    /// Lease at this rate instead of as fast as it goes; latencies count from the moment a lease was due
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Measure so many consumers that wait: their processor time, and how soon a message reaches one of them
    #[arg(long, value_name = "N", conflicts_with_all = ["backlog", "rate", "hot_key"], value_parser = clap::value_parser!(u64).range(1..=10_000))]
    idle_consumers: Option<u64>,
    /// Let all messages pass through a queue that holds at most so many at a time, and compare its end with its start
    #[arg(long, value_name = "DEPTH", conflicts_with_all = ["backlog", "rate", "hot_key", "idle_consumers"], value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    churn: Option<u64>,
    /// Give one leased key all messages, and measure how soon messages of other keys are delivered
    #[arg(long, conflicts_with_all = ["backlog", "rate"])]
    hot_key: bool,
}

/// The figures. What was not measured is absent.
#[derive(Debug, Default, Serialize)]
struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    enqueue_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dequeue_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complete_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_p99_ms: Option<f64>,
    /// The same without the backlog, measured before it was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    empty_lease_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    empty_lease_p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog_enqueue_per_s: Option<f64>,
    /// Through a plain table of the same server, measured after the queue: leased and deleted, and inserted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference_enqueue_per_s: Option<f64>,
    /// From opening the store to the first lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_cpu_percent: Option<f64>,
    /// Messages a second through the whole queue, enqueued, leased and completed at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    churn_per_s: Option<f64>,
    /// Stored after the first tenth of the messages, and after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_start_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_end_mb: Option<f64>,
    /// Of the leases of the first tenth of the messages, and of the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_tenth_lease_p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_tenth_lease_p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_max_ms: Option<f64>,
    cpu_s: f64,
    peak_rss_mb: f64,
    duplicates: u64,
    lost: u64,
    stale: u64,
    messages: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog: Option<u64>,
    fsync_p50_ms: f64,
    store: &'static str,
    queue: &'static str,
}

/// Runs the bench; says whether nothing was lost or delivered twice.
pub(crate) async fn run(context: &Context, place: &Place, args: &QueueArgs) -> Result<bool, Failure> {
    let exclusive = args.exclusive || args.hot_key;
    let mut figures = Figures {
        messages: args.messages,
        store: args.store.name(),
        queue: if exclusive { Kind::Exclusive } else { Kind::Simple }.name(),
        ..Figures::default()
    };
    let target = Target::open(place, &args.store).await?;
    let mut probe = Probe::new(target.folder(), &target.clock)?;
    let mut fsyncs = Durations::default();
    for _ in 0..FSYNCS {
        fsyncs.add(probe.append()?);
    }
    let before = Usage::of_self();
    let target = if let Some(waiters) = args.idle_consumers {
        idle(target, args, waiters, &mut figures).await?
    } else if let Some(depth) = args.churn {
        churning(target, args, depth, &mut figures).await?
    } else if args.hot_key {
        hot_key(target, args, &mut figures).await?
    } else {
        let target = throughput(target, args, &mut figures).await?;
        if let Some(reference) = target
            .plain_table(args.messages, args.payload, args.batch, args.consumers)
            .await?
        {
            figures.reference_per_s = Some(reference.settled_per_s.round());
            figures.reference_enqueue_per_s = Some(reference.inserted_per_s.round());
        }
        target
    };
    figures.cpu_s = rounded(Usage::of_self().cpu_s_since(&before));
    figures.peak_rss_mb = Usage::of_tree(std::process::id()).peak_rss_mb();
    for _ in 0..FSYNCS {
        fsyncs.add(probe.append()?);
    }
    figures.fsync_p50_ms = fsyncs.quantile_ms(50);
    target.close().await?;
    super::print(context.out, &figures)?;
    Ok(figures.lost == 0 && figures.duplicates == 0)
}

/// Fills and empties, without a backlog and then with one.
async fn throughput(target: Target, args: &QueueArgs, figures: &mut Figures) -> Result<Target, Failure> {
    let (first, total) = (
        args.messages + args.backlog,
        args.messages.saturating_mul(2).saturating_add(args.backlog),
    );
    let keys = args.exclusive.then_some(args.keys);
    let (load, seen) = (load(&target, args, keys).await?, Arc::new(Seen::none_of(total)));
    let crowd = Arc::new(crowd(&target, args, &load, &seen));
    let filled = crowd.fill(0..args.messages).await?;
    let drained = crowd.drain(args.messages, args.rate).await?;
    figures.stale = drained.stale;
    figures.lost = lost(&crowd, args.messages).await?;
    if args.backlog == 0 {
        figures.take_in(args, filled, drained);
        figures.duplicates = seen.duplicates();
        return Ok(target);
    }
    let mut empty = drained.leases;
    figures.empty_lease_p50_ms = Some(empty.quantile_ms(50));
    figures.empty_lease_p99_ms = Some(empty.quantile_ms(99));
    let bulk = Arc::new(Crowd {
        batch: BACKLOG_BATCH,
        ..Crowd::clone(&crowd)
    });
    drop(crowd);
    let took = bulk.fill(args.messages..first).await?;
    drop(bulk);
    figures.backlog = Some(args.backlog);
    figures.backlog_enqueue_per_s = Some(per_s(args.backlog, took));

    let (target, opened) = target.reopen().await?;
    let crowd = Arc::new(self::crowd(&target, args, &load, &seen));
    let begun = target.clock.monotonic();
    let leased = crowd.lease(1, FIRST_LEASE_PATIENCE).await?;
    let first_lease = target.clock.monotonic().saturating_sub(begun);
    figures.ready_s = opened.map(|opened| rounded((opened + first_lease).as_secs_f64()));
    crowd.complete(&leased).await?;
    let filled = crowd.fill(first..total).await?;
    let drained = crowd.drain(args.messages, args.rate).await?;
    figures.stale += drained.stale;
    figures.lost = lost(&crowd, total).await?;
    figures.duplicates = seen.duplicates();
    figures.take_in(args, filled, drained);
    Ok(target)
}

async fn idle(
    target: Target,
    args: &QueueArgs,
    waiters: u64,
    figures: &mut Figures,
) -> Result<Target, Failure> {
    let count = args.messages.min(TRICKLE);
    let keys = args.exclusive.then_some(args.keys);
    let (load, seen) = (
        load(&target, args, keys).await?,
        Arc::new(Seen::none_of(count + waiters)),
    );
    let crowd = Arc::new(crowd(&target, args, &load, &seen));
    let mut idle = waiting::idle(&crowd, waiters, count).await?;
    figures.messages = count;
    figures.idle_cpu_percent = Some(idle.cpu_percent);
    figures.deliveries(&mut idle.delivered);
    figures.duplicates = seen.duplicates();
    Ok(target)
}

async fn hot_key(target: Target, args: &QueueArgs, figures: &mut Figures) -> Result<Target, Failure> {
    let load = load(&target, args, Some(1)).await?;
    let seen = Arc::new(Seen::none_of(args.messages + waiting::OTHERS));
    let crowd = Arc::new(Crowd {
        batch: BACKLOG_BATCH,
        ..crowd(&target, args, &load, &seen)
    });
    let mut delivered = waiting::hot_key(&crowd, args.messages).await?;
    figures.deliveries(&mut delivered);
    figures.duplicates = seen.duplicates();
    Ok(target)
}

async fn churning(
    target: Target,
    args: &QueueArgs,
    depth: u64,
    figures: &mut Figures,
) -> Result<Target, Failure> {
    let keys = args.exclusive.then_some(args.keys);
    let load = load(&target, args, keys).await?;
    let seen = Arc::new(Seen::none_of(args.messages));
    let crowd = Arc::new(crowd(&target, args, &load, &seen));
    let mut churned = churn::churn(&target, &crowd, args.messages, depth).await?;
    figures.churn_per_s = Some(per_s(churned.completed, churned.took));
    figures.size_start_mb = Some(megabytes(churned.bytes_start));
    figures.size_end_mb = Some(megabytes(churned.bytes_end));
    figures.first_tenth_lease_p99_ms = Some(churned.first.quantile_ms(99));
    figures.last_tenth_lease_p99_ms = Some(churned.last.quantile_ms(99));
    figures.lease_p50_ms = Some(churned.all.quantile_ms(50));
    figures.lease_p99_ms = Some(churned.all.quantile_ms(99));
    figures.stale = churned.stale;
    figures.lost = lost(&crowd, args.messages).await?;
    figures.duplicates = seen.duplicates();
    Ok(target)
}

fn megabytes(bytes: u64) -> f64 {
    rounded(number(bytes) / 1e6)
}

/// The messages, and the queue they go to.
async fn load(target: &Target, args: &QueueArgs, keys: Option<u64>) -> Result<Arc<Load>, Failure> {
    let payload = usize::try_from(args.payload).unwrap_or(0);
    // A database may hold the queues of benches before.
    let name = format!("{QUEUE}-{}", target.clock.now().as_millis());
    let load = Load::new(&name, payload, keys, &target.clock)?;
    let settings = if keys.is_some() {
        Settings::exclusive()
    } else {
        Settings::simple()
    };
    let settings = Settings {
        // What is kept on purpose is not what churn asks about.
        history_ms: if args.churn.is_some() {
            0
        } else {
            settings.history_ms
        },
        ..settings
    };
    target
        .queues
        .configure(&load.queue, settings)
        .await
        .map_err(refused)?
        .map_err(refused)?;
    Ok(Arc::new(load))
}

fn crowd(target: &Target, args: &QueueArgs, load: &Arc<Load>, seen: &Arc<Seen>) -> Crowd {
    Crowd {
        queues: target.queues.clone(),
        clock: target.clock.clone(),
        load: Arc::clone(load),
        seen: Arc::clone(seen),
        exclusive: load.is_keyed(),
        producers: args.producers,
        consumers: args.consumers,
        batch: args.batch,
    }
}

/// How many of the `sent` messages were neither delivered nor are still there to be delivered.
async fn lost(crowd: &Crowd, sent: u64) -> Result<u64, Failure> {
    let waiting = crowd.queues.depth(&crowd.load.queue).await.map_err(refused)?;
    let waiting = u64::try_from(waiting).unwrap_or(0);
    Ok(sent.saturating_sub(crowd.seen.delivered() + waiting))
}

fn per_s(count: u64, took: Duration) -> f64 {
    (number(count) / took.as_secs_f64().max(1e-9)).round()
}

impl Figures {
    fn take_in(&mut self, args: &QueueArgs, filled: Duration, mut drained: Drained) {
        self.enqueue_per_s = Some(per_s(args.messages, filled));
        self.dequeue_per_s = Some(per_s(args.messages, drained.leased_in));
        self.complete_per_s = Some(per_s(drained.completed, drained.completed_in));
        self.lease_p50_ms = Some(drained.leases.quantile_ms(50));
        self.lease_p99_ms = Some(drained.leases.quantile_ms(99));
    }

    fn deliveries(&mut self, delivered: &mut Durations) {
        self.delivered_p50_ms = Some(delivered.quantile_ms(50));
        self.delivered_p99_ms = Some(delivered.quantile_ms(99));
        self.delivered_max_ms = Some(delivered.quantile_ms(100));
    }
}
