//! The evaluators: threads that lease keys of the exclusive queue, run turns and hand their units to the committer.
//!
//! They are threads of their own because rules are CPU work: a long script holds one of them, never the threads that
//! serve HTTP, commits and workers. As many as cores evaluate at once.

use std::sync::Arc;
use std::time::Duration;

use celesta_engine::SharedFacts;
use celesta_queue::{Failure, LeaseKeys, Leased, LeasedKey};
use celesta_runtime::Fate;
use celesta_runtime::metrics::{Histogram, IntCounter, counter, durations};
use celesta_store::Unit;
use celesta_types::{Partition, RunId};
use tokio::runtime::Handle;

use crate::archive;
use crate::live::Live;
use crate::message::HostMessage;
use crate::runtime::Inner;
use crate::send::Outgoing;
use crate::sweep::Swept;
use crate::turn::{Done, turn, wakes};
use crate::under_way::Seeing;

/// Runs leased at once by one evaluator: enough to share the lock, few enough to leave some to the other evaluators.
const KEYS_PER_LEASE: usize = 64;
/// Messages of one run in one turn: a fan-in of 10,000 results is a few turns, and a turn stays short.
const MESSAGES_PER_TURN: usize = 4_096;
/// How long a turn may take before its run is given to somebody else: far above the bound of a script.
const LEASE_MS: i64 = 60_000;
/// A run or a gate that could not be read is tried again after this; far below the lease, which holds meanwhile.
const RELOAD_DELAY: Duration = Duration::from_secs(1);
/// How long an evaluator waits in one call; only bounds how soon it notices a shutdown that no message announces.
const WAIT: Duration = Duration::from_secs(3_600);

/// What evaluators count.
#[derive(Debug)]
pub(crate) struct Meters {
    turns: IntCounter,
    firings: IntCounter,
    messages: IntCounter,
    seconds: Histogram,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            turns: counter("celesta_runs_turns_total", "Turns evaluated."),
            firings: counter("celesta_runs_firings_total", "Sections of rules that ran."),
            messages: counter("celesta_runs_messages_total", "Messages applied by turns."),
            seconds: durations(
                "celesta_runs_turn_seconds",
                "Time of one turn, without its commit.",
            ),
        }
    }
}

/// Evaluates until shutdown. Runs on a thread that may block.
pub(crate) fn evaluate(inner: &Arc<Inner>, handle: &Handle) {
    let shutdown = inner.tasks.shutdown().clone();
    let request = inner.lease_of_runs(KEYS_PER_LEASE, WAIT);
    while !shutdown.is_requested() {
        let leased = match inner.queues.try_lease_keys(&request) {
            // Nothing is there now, or not in memory whole.
            Ok(keys) if keys.is_empty() => handle.block_on(async {
                tokio::select! {
                    leased = inner.queues.lease_keys(&request) => leased,
                    () = shutdown.requested() => Ok(Vec::new()),
                }
            }),
            leased => leased,
        };
        match leased {
            Ok(keys) => handle.block_on(evaluate_keys(inner, keys)),
            // The queue says so before the shutdown was heard of here.
            Err(_) if shutdown.is_requested() => return,
            Err(error) => {
                tracing::error!(%error, "cannot lease runs");
                handle.block_on(async {
                    tokio::select! {
                        () = inner.clock.sleep(Duration::from_secs(1)) => {}
                        () = shutdown.requested() => {}
                    }
                });
            }
        }
    }
}

impl Inner {
    /// What an evaluator asks the queue for.
    pub(crate) fn lease_of_runs(&self, max_keys: usize, wait: Duration) -> LeaseKeys {
        LeaseKeys {
            metadata: Vec::new(),
            queue: self.runs_queue.clone(),
            max_keys,
            max_messages_per_key: MESSAGES_PER_TURN,
            lease_ms: Some(LEASE_MS),
            wait,
            consumer: Arc::clone(&self.node),
        }
    }
}

/// A turn for each key.
pub(crate) async fn evaluate_keys(inner: &Arc<Inner>, keys: Vec<LeasedKey>) {
    for key in keys {
        if let Some(unit) = archive::settle(inner, &key).await {
            inner.store.submit(unit).await;
            continue;
        }
        if key
            .messages
            .first()
            .is_some_and(|first| HostMessage::is_for_gate(&first.payload))
        {
            if Partition::of_bits(key.key.bits(), inner.partition.count) != inner.partition {
                if let Some(unit) = inner.send_on(&key) {
                    inner.store.submit(unit).await;
                }
                continue;
            }
            match inner.gate(key.key.bits()).await {
                Ok(gate) => {
                    if let Some(unit) = inner.evaluate_gate(&key, gate) {
                        inner.store.submit(unit).await;
                    }
                }
                Err(error) => read_later(inner, &key, &error.to_string()),
            }
            continue;
        }
        if key
            .messages
            .first()
            .is_some_and(|first| HostMessage::is_copy(&first.payload))
        {
            match inner.copy_shared(&key).await {
                Ok(Some(unit)) => inner.store.submit(unit).await,
                Ok(None) => {}
                Err(error) => read_later(inner, &key, &error.to_string()),
            }
            continue;
        }
        let run = RunId::from_bits(key.key.bits());
        let live = match inner.cache.take(run) {
            Some(live) => Ok(Some(live)),
            None => inner.load(run).await,
        };
        // A run that goes on is given what was kept for it; its key is ours, so nothing more is kept meanwhile.
        let held = match &live {
            Ok(Some(live))
                if live.keeps_messages()
                    && key.messages.iter().any(|message| wakes(live.head.state, message)) =>
            {
                inner.held_messages(run).await
            }
            _ => Ok(Vec::new()),
        };
        let seen = match &live {
            Ok(Some(live)) => inner.seen_by(&live.head.service, &live.rules).await,
            _ => Ok(None),
        };
        let given = held.and_then(|held| Ok((held, seen?)));
        let live = given.and_then(|given| live.map(|live| live.map(|live| (live, given))));
        match live {
            Ok(Some((live, (held, seen)))) => {
                if let Some(unit) = evaluate_key(inner, &key, live, &held, seen) {
                    inner.store.submit(unit).await;
                }
            }
            // A run's row may travel with its first message, which is not stored yet, while the run has left the cache:
            // given back, the two are stored.
            Ok(None) if key.messages.iter().any(|message| message.attempt == 1) => {
                give_back(inner, &key, "the run is not in the record yet").await;
            }
            Ok(None) => {
                tracing::warn!(%run, messages = key.messages.len(), "messages of a run that does not exist are dropped");
                let mut unit = Unit::new();
                inner.note_swept_as(&key, Swept::Missed, &mut unit);
                if inner.acknowledge(&mut unit, &key).is_ok() {
                    inner.store.submit(unit).await;
                }
            }
            Err(error) => {
                read_later(inner, &key, &error.to_string());
            }
        }
    }
}

/// What cannot be read now may be read soon. Its messages are kept until then and given back untouched: were they to come
/// again by themselves, what comes meanwhile would overtake them.
fn read_later(inner: &Arc<Inner>, key: &LeasedKey, error: &str) {
    tracing::error!(key = ?key.key, %error, "cannot read a run or a gate; it is read again");
    let leases: Vec<_> = key.messages.iter().map(Leased::lease).collect();
    let (keeper, shutdown) = (Arc::clone(inner), inner.tasks.shutdown().clone());
    let due = inner.clock.monotonic() + RELOAD_DELAY;
    let keeping = async move {
        let pause = due.saturating_sub(keeper.clock.monotonic());
        tokio::select! {
            () = keeper.clock.sleep(pause) => {}
            () = shutdown.requested() => {}
        }
        // Who is refused has lost the key: its messages are another's already.
        drop(keeper.queues.release(&leases));
    };
    inner.tasks.spawn("runs.read-later", Fate::Expendable, keeping);
}

/// The messages come again at once.
async fn give_back(inner: &Inner, key: &LeasedKey, error: &str) {
    let failure = |message: &Leased| Failure {
        lease: message.lease(),
        retryable: true,
        delay_ms: 0,
        error: error.to_owned(),
    };
    let failures = key.messages.iter().map(failure).collect();
    if let Err(error) = inner.queues.fail(failures).await {
        tracing::warn!(%error, "the messages come back when their lease lapses");
    }
}

/// One turn; gives what becomes durable, and nothing when the turn cannot stand.
fn evaluate_key(
    inner: &Arc<Inner>,
    key: &LeasedKey,
    live: Box<Live>,
    held: &[Vec<u8>],
    seen: Option<(Arc<SharedFacts>, Seeing)>,
) -> Option<Unit> {
    let begun = inner.clock.monotonic();
    let run = live.head.run;
    let version = Arc::clone(&live.version);
    let (shared, seeing) = seen.unzip();
    let (stopped, stopping) = inner
        .orders
        .seen_by(&live.head.service, &live.head.workflow)
        .unzip();
    let sender = Outgoing {
        registry: &inner.registry,
        runs_queue: &inner.runs_queue,
        orders: &inner.orders,
        stopped,
        now: inner.clock.now(),
        shared,
    };
    let mut done = turn(live, &key.messages, held, &sender);
    inner.note_swept(key, &mut done);
    if let Some(live) = &mut done.live {
        inner.note_interests(live, &mut done.unit);
    }
    let Done {
        live,
        mut unit,
        outgoing,
        canceled,
        reprioritized,
        children,
        answers,
        firings,
        ..
    } = done;
    // Calls of before may be queued where the version of before had them.
    let moved_to =
        (live.as_ref().map(|live| Arc::clone(&live.version))).filter(|after| after.digest != version.digest);
    if seeing.is_some() || stopping.is_some() {
        // The turn is under way until what it writes to the index of interests, and that it has stopped, is durable.
        unit.on_done(move |_| drop((seeing, stopping)));
    }
    inner.meters.turns.inc();
    inner.meters.firings.inc_by(u64::try_from(firings).unwrap_or(0));
    inner
        .meters
        .messages
        .inc_by(u64::try_from(key.messages.len()).unwrap_or(0));
    inner
        .meters
        .seconds
        .observe((inner.clock.monotonic().saturating_sub(begun)).as_secs_f64());
    // Before the acknowledgement: the run must be back in the cache when its key is free for the next lease.
    let keeper = Arc::clone(inner);
    unit.on_done(move |outcome| match outcome {
        Ok(()) => {
            for child in children {
                keeper.cache.put(child);
            }
            if let Some(live) = live {
                keeper.announce(&live);
                keeper.cache.put(live);
            } else {
                keeper.watchers.tell(run, u64::MAX, || None);
            }
            keeper.told(answers);
        }
        Err(error) => tracing::warn!(%run, %error, "a turn did not become durable; it will be repeated"),
    });
    if let Err(error) = inner.stage(&mut unit, outgoing) {
        // Nothing of the turn becomes durable; its lease lapses and it is evaluated again.
        tracing::error!(%run, %error, "the queue does not take what a turn sends");
        return None;
    }
    for (queue, changes) in &reprioritized {
        inner.queues.stage_reprioritize(&mut unit, queue, changes);
    }
    // Before calls are called off: one of them may be a timer whose message is among those of this lease.
    if let Err(error) = inner.acknowledge(&mut unit, key) {
        // Somebody else has been given the messages: a turn that stood now would count them twice.
        tracing::warn!(%run, %error, "a turn took longer than its lease; it is dropped");
        return None;
    }
    if !canceled.is_empty() {
        // A call does not say any more where it was sent: each queue takes what it knows.
        let known = |queue: &&celesta_queue::QueueName| version.queues.values().any(|known| known == *queue);
        let new = moved_to.iter().flat_map(|version| version.queues.values());
        let new = new.filter(|queue| !known(queue));
        for queue in version.queues.values().chain([&inner.runs_queue]).chain(new) {
            inner.queues.stage_cancel(&mut unit, queue, &canceled);
        }
        let teller = Arc::clone(inner);
        unit.on_done(move |outcome| {
            if let (Ok(()), Some(hook)) = (outcome, teller.canceled.get()) {
                hook(&canceled);
            }
        });
    }
    Some(unit)
}
