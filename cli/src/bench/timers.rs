//! `celesta bench timers`: what messages for much later cost in memory, and how exact those are that come due while the
//! queue is busy. The library in this process, on SQLite, without HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use celesta_queue::{AnyQueues, Key, LeaseKeys, LeaseRequest, Leased, NewMessage, QueueName, Settings};
use celesta_runtime::Clock;
use celesta_types::{MessageId, Timestamp};
use clap::Args;
use serde::Serialize;

use super::quantile::{Durations, number, rounded};
use super::queue::{StoreKind, Target};
use super::rig::Place;
use super::usage::Usage;
use crate::commands::Context;
use crate::exit::Failure;

/// Messages of one call.
const BATCH: u64 = 5_000;
/// Messages of one call of the load.
const LOAD_BATCH: u64 = 100;
/// Timers come due from this long after they are set, so that all of them are set in time.
const FIRST_MS: i64 = 3_000;
/// A timer that comes later than this after its instant has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pending timers are spread over a year, beginning tomorrow.
const DAY_MS: i64 = 24 * 3_600_000;
const YEAR_MS: i64 = 365 * DAY_MS;

/// Options of `bench timers`.
#[derive(Debug, Args)]
pub(crate) struct TimersArgs {
    /// Timers that wait for another day
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pending: u64,
    /// Timers that come due while the queue is busy
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    due: u64,
    /// Over how many seconds they come due
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
}

#[derive(Debug, Serialize)]
struct Figures {
    pending: u64,
    set_per_s: f64,
    /// Memory that the pending timers take after a restart, beside what the empty queue takes.
    pending_mb: f64,
    disk_mb: f64,
    ready_s: f64,
    due: u64,
    /// How late a consumer has a timer, while the load below passes through the queue.
    late_p50_ms: f64,
    late_p99_ms: f64,
    late_max_ms: f64,
    /// Timers that came before their instant.
    early: u64,
    lost: u64,
    load_per_s: f64,
    cpu_s: f64,
}

/// Measures; `false` when a timer was early, lost or later than 100 ms in the 99th percentile.
pub(crate) async fn run(context: &Context, place: &Place, args: &TimersArgs) -> Result<bool, Failure> {
    let cpu = Usage::of_self();
    let timers = QueueName::new("timers").map_err(Failure::internal)?;
    let target = Target::open(place, &StoreKind::Sqlite).await?;
    configure(&target.queues, &timers).await?;
    let (target, _) = target.reopen().await?;
    let empty_kb = resident_kb();

    let begun = target.clock.monotonic();
    let now = target.clock.now().as_millis();
    let step = YEAR_MS / i64::try_from(args.pending).unwrap_or(i64::MAX).max(1);
    for first in (0..args.pending).step_by(usize::try_from(BATCH).unwrap_or(1)) {
        let last = args.pending.min(first + BATCH);
        let messages = (first..last).map(|at| {
            let due = now + DAY_MS + i64::try_from(at).unwrap_or(0) * step;
            timer(&timers, u128::from(at), due)
        });
        enqueue(&target.queues, messages.collect()).await?;
    }
    let took = target.clock.monotonic().saturating_sub(begun);
    let disk_mb = number(target.stored_bytes().await?) / 1_048_576.0;
    let (target, ready) = target.reopen().await?;
    let pending_kb = resident_kb().saturating_sub(empty_kb);

    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::task::JoinSet::from_iter([load(
        target.queues.clone(),
        target.clock.clone(),
        Arc::clone(&stop),
    )]);
    let mut late = late(&target, &timers, args).await?;
    stop.store(true, Ordering::Relaxed);
    let loads = load.join_all().await;
    let load_per_s = loads.into_iter().next().unwrap_or(Ok(0.0))?;
    target.close().await?;
    let figures = Figures {
        pending: args.pending,
        set_per_s: rounded(number(args.pending) / took.as_secs_f64()),
        pending_mb: rounded(number(pending_kb) / 1_024.0),
        disk_mb: rounded(disk_mb),
        ready_s: rounded(ready.unwrap_or_default().as_secs_f64()),
        due: args.due,
        late_p50_ms: late.late.quantile_ms(50),
        late_p99_ms: late.late.quantile_ms(99),
        late_max_ms: late.late.quantile_ms(100),
        early: late.early,
        lost: args.due - late.came,
        load_per_s: rounded(load_per_s),
        cpu_s: rounded(Usage::of_self().cpu_s_since(&cpu)),
    };
    let sound = figures.early == 0 && figures.lost == 0 && figures.late_p99_ms <= 100.0;
    super::print(context.out, &figures)?;
    Ok(sound)
}

struct Late {
    late: Durations,
    came: u64,
    early: u64,
}

/// Sets timers that come due soon, waits for each and says how late it was.
async fn late(target: &Target, timers: &QueueName, args: &TimersArgs) -> Result<Late, Failure> {
    let now = target.clock.now().as_millis();
    let spread = i64::try_from(args.seconds * 1_000).unwrap_or(i64::MAX);
    let due = i64::try_from(args.due).unwrap_or(i64::MAX);
    for first in (0..args.due).step_by(usize::try_from(BATCH).unwrap_or(1)) {
        let last = args.due.min(first + BATCH);
        let messages = (first..last).map(|at| {
            let instant = now + FIRST_MS + i64::try_from(at).unwrap_or(0) * spread / due;
            timer(timers, (1 << 64) | u128::from(at), instant)
        });
        enqueue(&target.queues, messages.collect()).await?;
    }
    let request = LeaseKeys {
        metadata: Vec::new(),
        queue: timers.clone(),
        max_keys: 1_000,
        max_messages_per_key: 16,
        lease_ms: None,
        wait: PATIENCE,
        consumer: "bench".into(),
    };
    let mut late = Late {
        late: Durations::default(),
        came: 0,
        early: 0,
    };
    while late.came < args.due {
        let keys = target
            .queues
            .lease_keys(&request)
            .await
            .map_err(Failure::internal)?;
        let got = target.clock.now().as_millis();
        let leased: Vec<Leased> = keys.into_iter().flat_map(|key| key.messages).collect();
        if leased.is_empty() {
            break;
        }
        for message in &leased {
            let bytes = <[u8; 8]>::try_from(&*message.payload).unwrap_or_default();
            let after = got - i64::from_le_bytes(bytes);
            late.early += u64::from(after < 0);
            late.late
                .add(Duration::from_millis(u64::try_from(after).unwrap_or(0)));
            late.came += 1;
        }
        let leases: Vec<_> = leased.iter().map(Leased::lease).collect();
        target.queues.complete(&leases).await.map_err(Failure::internal)?;
    }
    Ok(late)
}

/// Has messages pass through another queue until told to stop; gives how many a second.
async fn load(queues: AnyQueues, clock: Clock, stop: Arc<AtomicBool>) -> Result<f64, Failure> {
    let queue = QueueName::new("load").map_err(Failure::internal)?;
    let request = LeaseRequest {
        metadata: Vec::new(),
        queue: queue.clone(),
        max: usize::try_from(LOAD_BATCH).unwrap_or(1),
        lease_ms: None,
        wait: PATIENCE,
        consumer: "load".into(),
    };
    let begun = clock.monotonic();
    let mut passed = 0;
    while !stop.load(Ordering::Relaxed) {
        let messages = (0..LOAD_BATCH).map(|at| {
            let id = MessageId::from_bits((2 << 64) | u128::from(passed + at));
            NewMessage::new(id, queue.clone(), vec![0; 200])
        });
        enqueue(&queues, messages.collect()).await?;
        let leased = queues.lease(&request).await.map_err(Failure::internal)?;
        let leases: Vec<_> = leased.iter().map(Leased::lease).collect();
        queues.complete(&leases).await.map_err(Failure::internal)?;
        passed += LOAD_BATCH;
    }
    let took = clock.monotonic().saturating_sub(begun);
    Ok(number(passed) / took.as_secs_f64().max(0.001))
}

fn timer(queue: &QueueName, at: u128, due: i64) -> NewMessage {
    let message = NewMessage::new(
        MessageId::from_bits(at),
        queue.clone(),
        due.to_le_bytes().to_vec(),
    );
    message
        .with_key(Key::from_bits(at))
        .visible_at(Timestamp::from_millis(due))
}

async fn configure(queues: &AnyQueues, queue: &QueueName) -> Result<(), Failure> {
    let settings = Settings {
        history_ms: 0,
        ..Settings::exclusive()
    };
    let configured = queues.configure(queue, settings).await;
    configured.map_err(Failure::internal)?.map_err(Failure::internal)
}

async fn enqueue(queues: &AnyQueues, messages: Vec<NewMessage>) -> Result<(), Failure> {
    let outcomes = queues.enqueue(messages).await.map_err(Failure::internal)?;
    for outcome in outcomes {
        outcome.map_err(Failure::internal)?;
    }
    Ok(())
}

/// What this process has resident, in KiB.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}
