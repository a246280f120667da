//! Random operations by many workers on an exclusive queue, with crashes; the checker reads the log of what they saw.
//!
//! In `make test` a short storm. The long one, a million operations:
//! `CELESTA_STORM=1000000 cargo test --release -p celesta-queue --test conformance storm -- --nocapture`

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use celesta_queue::check::{Call, Did, End, Held, Order, check};
use celesta_queue::machine::State;
use celesta_queue::{Failure, Filter, LeaseRef, Leased, Queues, Settings};
use celesta_types::{Class, Priority};
use parking_lot::{Mutex, RwLock};

use crate::bed::{Bed, id, keyed, name, request_keys};

const WORKERS: usize = 64;
const KEYS: u64 = 200;
/// Operations of the short storm.
const OPERATIONS: usize = 20_000;
/// Operations between two crashes.
const LIFE: usize = 5_000;

/// A small generator: the same seed gives the same choices.
struct Random(u64);

impl Random {
    const fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

struct Storm {
    /// Counts on with every look: the instants of the log. The queue's own clock stands still but for small steps, so
    /// that leases lapse by the storm's will.
    tick: AtomicI64,
    log: Mutex<Vec<Call>>,
    ids: AtomicU64,
    left: AtomicUsize,
    /// Held for reading by each operation, for writing by a crash.
    bed: RwLock<Option<Queues>>,
}

impl Storm {
    fn now(&self) -> i64 {
        self.tick.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, begin: i64, end: Option<i64>, did: Did) {
        self.log.lock().push(Call { begin, end, did });
    }
}

/// One operation; answers are noted only if they came.
async fn operate(storm: &Storm, queues: &Queues, random: &mut Random, hands: &mut VecDeque<Leased>) {
    let queue = name("x/storm");
    match random.next(10) {
        0..=3 => {
            let count = 1 + random.next(4);
            let messages: Vec<_> = (0..count)
                .map(|_| {
                    let number = u128::from(storm.ids.fetch_add(1, Ordering::Relaxed));
                    let class = Class::ALL[usize::try_from(random.next(5)).expect("small")];
                    let mut message = keyed("x/storm", number, u128::from(random.next(KEYS)))
                        .with_priority(Priority::of(class));
                    // Leases that lapse in a crash must not use the attempts up.
                    message.attempts_max = Some(1_000);
                    message
                })
                .collect();
            let begin = storm.now();
            let outcome = queues.enqueue(messages.clone()).await;
            let end = outcome.is_ok().then(|| storm.now());
            for message in messages {
                let did = Did::Enqueued {
                    id: message.id,
                    key: message.key,
                    priority: message.priority,
                    delayed: false,
                };
                storm.note(begin, end, did);
            }
        }
        4..=6 => {
            let mut request = request_keys("x/storm", 2);
            request.max_messages_per_key = 1 + usize::try_from(random.next(4)).expect("small");
            // Far beyond the storm: nothing lapses but by crashes.
            request.lease_ms = Some(7 * 24 * 3_600_000);
            let begin = storm.now();
            let keys = queues.lease_keys(&request).await.expect("the request is right");
            let end = storm.now();
            let leased: Vec<_> = keys.into_iter().flat_map(|key| key.messages).collect();
            let held = leased.iter().map(|leased| Held {
                id: leased.id,
                key: leased.key,
                token: leased.token,
                until: i64::MAX,
            });
            let held = held.collect();
            storm.note(begin, Some(end), Did::Leased { held });
            hands.extend(leased);
        }
        choice => {
            let Some(leased) = hands.pop_front() else { return };
            let lease = leased.lease();
            let begin = storm.now();
            let (how, accepted) = settle(queues, choice, lease).await;
            let end = accepted.map(|_| storm.now());
            let did = Did::Ended {
                id: leased.id,
                token: leased.token,
                how,
                accepted,
            };
            storm.note(begin, end, did);
            if random.next(50) == 0 {
                let target = id(u128::from(random.next(storm.ids.load(Ordering::Relaxed) + 1)));
                let begin = storm.now();
                let canceled = queues.cancel(&queue, &[target]).await;
                if canceled.is_ok_and(|outcomes| outcomes[0].is_ok()) {
                    let end = Some(storm.now());
                    storm.note(begin, end, Did::Canceled { id: target });
                }
            }
        }
    }
}

async fn settle(queues: &Queues, choice: u64, lease: LeaseRef) -> (End, Option<bool>) {
    match choice {
        7 => {
            let failure = Failure {
                lease,
                retryable: true,
                delay_ms: 0,
                error: "stormy".to_owned(),
            };
            let outcome = queues.fail(vec![failure]).await;
            (End::Failed, outcome.ok().map(|outcomes| outcomes[0].is_ok()))
        }
        8 => (End::Released, Some(queues.release(&[lease])[0].is_ok())),
        _ => {
            let outcome = queues.complete(&[lease]).await;
            (End::Completed, outcome.ok().map(|outcomes| outcomes[0].is_ok()))
        }
    }
}

async fn work(storm: Arc<Storm>, worker: u64) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (worker + 1));
    let mut hands = VecDeque::new();
    loop {
        let Some(queues) = storm.bed.read().clone() else {
            return;
        };
        if storm
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1))
            .is_err()
        {
            return;
        }
        operate(&storm, &queues, &mut random, &mut hands).await;
    }
}

async fn weather(settings: Settings, operations: usize, order: Order) {
    let storm = Arc::new(Storm {
        tick: AtomicI64::new(1),
        log: Mutex::default(),
        ids: AtomicU64::new(0),
        left: AtomicUsize::new(0),
        bed: RwLock::new(None),
    });
    let mut bed = Bed::sqlite().await;
    let queue = name("x/storm");
    bed.queues.configure(&queue, settings).expect("in range");
    let mut done = 0;
    while done < operations {
        let life = LIFE.min(operations - done);
        storm.left.store(life, Ordering::Release);
        *storm.bed.write() = Some(bed.queues.clone());
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| work(Arc::clone(&storm), (worker + done) as u64))
            .collect();
        let crowd = celesta_runtime::TaskSet::new(celesta_runtime::Shutdown::new());
        let (sender, mut finished) = tokio::sync::mpsc::channel(WORKERS);
        for worker in workers {
            let sender = sender.clone();
            crowd.spawn("worker", celesta_runtime::Fate::Expendable, async move {
                worker.await;
                sender.send(()).await.ok();
            });
        }
        // Half of them are still at work when the files are taken as they are.
        for _ in 0..WORKERS / 2 {
            finished.recv().await;
        }
        *storm.bed.write() = None;
        let begin = storm.now();
        let after = bed.crash().await;
        // What the old process answers from here on is not heard: its workers end with it.
        drop(sender);
        while finished.recv().await.is_some() {}
        storm.log.lock().retain(|call| call.begin < begin);
        for call in storm.log.lock().iter_mut() {
            if call.end.is_some_and(|end| end > begin) {
                unhear(call);
            }
        }
        let end = Some(storm.now());
        storm.note(begin, end, Did::Crashed);
        bed = after;
        done += life;
    }
    let mut left = Vec::new();
    let mut after = None;
    loop {
        let page = bed
            .queues
            .list(&queue, &Filter::default(), after, 1_000)
            .await
            .expect("readable");
        let there = page.messages.iter().filter(|view| view.state != State::Completed);
        left.extend(there.map(|view| view.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let log = storm.log.lock();
    let leases = log
        .iter()
        .map(|call| match &call.did {
            Did::Leased { held } => held.len(),
            _ => 0,
        })
        .sum::<usize>();
    #[expect(clippy::print_stdout, reason = "the size of a long storm is its result")]
    {
        println!(
            "{} calls, {leases} messages leased, {} left",
            log.len(),
            left.len()
        );
    }
    assert!(leases > operations / 10, "the storm has leased something");
    let violations = check(&log, &left, order);
    assert!(
        violations.is_empty(),
        "{} violations: {:?}",
        violations.len(),
        &violations[..violations.len().min(5)]
    );
}

/// The answer came after the crash, so nobody heard it.
fn unhear(call: &mut Call) {
    call.end = None;
    match &mut call.did {
        Did::Ended { accepted, .. } => *accepted = None,
        Did::Leased { held } => held.clear(),
        Did::Extended { until, .. } => *until = None,
        Did::Enqueued { .. } | Did::Canceled { .. } | Did::Crashed => {}
    }
}

fn operations() -> usize {
    let given = option_env!("CELESTA_STORM").and_then(|text| text.parse().ok());
    given.unwrap_or(OPERATIONS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_and_crashes_break_no_promise() {
    weather(Settings::exclusive(), operations(), Order::Exact).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_and_crashes_break_no_promise_on_shards() {
    let settings = Settings {
        shards: 4,
        ..Settings::exclusive()
    };
    weather(settings, operations() / 2, Order::Loose).await;
}
