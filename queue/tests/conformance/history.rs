//! Random operations against a naive model, on every store, with a checker over the log of what consumers saw.

use std::collections::{BTreeMap, BTreeSet};

use celesta_queue::{Failure, Key, LeaseRef, Leased};
use celesta_types::{Class, Priority};
use proptest::prelude::*;

use crate::bed::{Bed, id, keyed, name};

#[derive(Debug, Clone)]
enum Step {
    Enqueue { key: u128, class: usize, delay_ms: i64 },
    Lease { max: usize },
    Complete { which: usize },
    Fail { which: usize, delay_ms: i64 },
    Release { which: usize },
    Cancel { which: u128 },
    Advance { millis: u64 },
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u128, 0..5_usize, prop_oneof![3 => Just(0_i64), 1 => 1..5_000_i64])
            .prop_map(|(key, class, delay_ms)| Step::Enqueue { key, class, delay_ms }),
        5 => (1..4_usize).prop_map(|max| Step::Lease { max }),
        4 => (0..8_usize).prop_map(|which| Step::Complete { which }),
        2 => (0..8_usize, prop_oneof![Just(0_i64), 1..5_000_i64]).prop_map(|(which, delay_ms)| Step::Fail { which, delay_ms }),
        1 => (0..8_usize).prop_map(|which| Step::Release { which }),
        1 => (0..30_u128).prop_map(|which| Step::Cancel { which }),
        3 => (1..40_000_u64).prop_map(|millis| Step::Advance { millis }),
        1 => Just(Step::Crash),
    ]
}

#[derive(Debug, Clone)]
struct Known {
    key: u128,
    class: usize,
    visible_at: i64,
    attempt: u32,
    leased_until: Option<i64>,
}

const ATTEMPTS: u32 = 5;
const LEASE_MS: i64 = 30_000;

/// The naive model: everything is looked at every time.
#[derive(Default)]
struct Model {
    messages: BTreeMap<u128, Known>,
    /// Ids in enqueue order are their numbers.
    last: u128,
    now: i64,
}

impl Model {
    fn pass(&mut self) {
        let now = self.now;
        self.messages.retain(|_, known| {
            if known.leased_until.is_some_and(|until| until <= now) {
                known.leased_until = None;
                return known.attempt < ATTEMPTS;
            }
            true
        });
    }

    /// What one lease call must give: the first message of each free key, in order.
    fn lease(&mut self, max: usize) -> Vec<u128> {
        let mut leased = Vec::new();
        while leased.len() < max {
            let held: BTreeSet<u128> = self
                .messages
                .values()
                .filter(|known| known.leased_until.is_some())
                .map(|known| known.key)
                .collect();
            let free = self.messages.iter().filter(|(_, known)| {
                known.leased_until.is_none() && known.visible_at <= self.now && !held.contains(&known.key)
            });
            let Some(first) = free
                .min_by_key(|(number, known)| (known.class, **number))
                .map(|(number, _)| *number)
            else {
                break;
            };
            let known = self.messages.get_mut(&first).expect("just found");
            known.leased_until = Some(self.now + LEASE_MS);
            known.attempt += 1;
            leased.push(first);
        }
        leased
    }

    fn holds(&self, leased: &Leased) -> bool {
        self.messages
            .get(&leased.id.bits())
            .is_some_and(|known| known.leased_until.is_some() && known.attempt == leased.attempt)
    }
}

async fn run(mut bed: Bed, steps: Vec<Step>) {
    let queue = name("x/q");
    bed.queues
        .configure(&queue, celesta_queue::Settings::exclusive())
        .expect("in range");
    let mut model = Model {
        now: crate::bed::START,
        ..Model::default()
    };
    let mut hands: Vec<Leased> = Vec::new();
    for step in steps {
        model.pass();
        match step {
            Step::Enqueue { key, class, delay_ms } => {
                model.last += 1;
                let mut message =
                    keyed("x/q", model.last, key).with_priority(Priority::of(Class::ALL[class]));
                message.visible_at = (delay_ms > 0).then(|| bed.clock.now().after_millis(delay_ms));
                bed.enqueue(vec![message]).await;
                let known = Known {
                    key,
                    class,
                    visible_at: model.now + delay_ms,
                    attempt: 0,
                    leased_until: None,
                };
                model.messages.insert(model.last, known);
            }
            Step::Lease { max } => {
                let leased = bed.lease("x/q", max).await;
                let expected = model.lease(max);
                assert_eq!(
                    leased.iter().map(|leased| leased.id.bits()).collect::<Vec<_>>(),
                    expected
                );
                for leased in &leased {
                    let known = &model.messages[&leased.id.bits()];
                    assert_eq!(
                        (leased.attempt, leased.key),
                        (known.attempt, Some(Key::from_bits(known.key)))
                    );
                }
                hands.extend(leased);
            }
            Step::Complete { which } if which < hands.len() => {
                let leased = hands.swap_remove(which);
                let done = bed.queues.complete(&[leased.lease()]).await.expect("durable")[0].is_ok();
                assert_eq!(done, model.holds(&leased), "a token counts while its lease holds");
                if done {
                    model.messages.remove(&leased.id.bits());
                }
            }
            Step::Fail { which, delay_ms } if which < hands.len() => {
                let leased = hands.swap_remove(which);
                let failure = Failure {
                    lease: leased.lease(),
                    retryable: true,
                    delay_ms,
                    error: String::new(),
                };
                let done = bed.queues.fail(vec![failure]).await.expect("durable")[0].is_ok();
                assert_eq!(done, model.holds(&leased));
                if done {
                    let now = model.now;
                    let known = model.messages.get_mut(&leased.id.bits()).expect("held");
                    known.leased_until = None;
                    known.visible_at = now + delay_ms;
                    if known.attempt >= ATTEMPTS {
                        model.messages.remove(&leased.id.bits());
                    }
                }
            }
            Step::Release { which } if which < hands.len() => {
                let leased = hands.swap_remove(which);
                let done = bed.queues.release(&[LeaseRef { ..leased.lease() }])[0].is_ok();
                assert_eq!(done, model.holds(&leased));
                if done {
                    let known = model.messages.get_mut(&leased.id.bits()).expect("held");
                    known.leased_until = None;
                    known.attempt -= 1;
                }
            }
            Step::Cancel { which } => {
                let done = bed.queues.cancel(&queue, &[id(which)]).await.expect("durable")[0].is_ok();
                if model.messages.remove(&which).is_some() {
                    assert!(done);
                }
            }
            Step::Advance { millis } => {
                bed.advance(millis);
                model.now += i64::try_from(millis).expect("small");
            }
            Step::Crash if bed.store.is_some() => {
                bed.settle().await;
                bed = bed.crash().await;
                hands.clear();
                // Which attempts were written down before the crash is the record's affair; all else must agree.
                let mut gone = Vec::new();
                for (&number, known) in &mut model.messages {
                    let view = bed.queues.view(&queue, id(number)).await.expect("readable");
                    let view = view.expect("nothing acknowledged is lost");
                    assert!(view.attempt <= known.attempt);
                    (known.leased_until, known.attempt) = (None, view.attempt);
                    if view.state.is_ended() {
                        gone.push(number);
                    }
                }
                model.messages.retain(|number, _| !gone.contains(number));
            }
            Step::Complete { .. } | Step::Fail { .. } | Step::Release { .. } | Step::Crash => {}
        }
        model.pass();
        assert_eq!(bed.queues.depth(&queue), model.messages.len());
    }
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_queue_in_memory_agrees_with_the_model(steps in proptest::collection::vec(step(), 1..200)) {
        block_on(async { run(Bed::memory(), steps).await });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_queue_on_sqlite_agrees_with_the_model(steps in proptest::collection::vec(step(), 1..80)) {
        block_on(async { run(Bed::sqlite().await, steps).await });
    }
}

/// Many consumers on many threads; the log of what they saw is checked afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_held_twice_and_nothing_is_lost_under_many_consumers() {
    const KEYS: u128 = 50;
    const MESSAGES: u128 = 5_000;
    let bed = Bed::sqlite().await;
    bed.queues
        .configure(&name("x/q"), celesta_queue::Settings::exclusive())
        .expect("in range");
    let held = std::sync::Arc::new(parking_lot::Mutex::new((BTreeSet::new(), Vec::new())));
    let consumers: Vec<_> = (0..16)
        .map(|number| {
            let (queues, held) = (bed.queues.clone(), std::sync::Arc::clone(&held));
            let mut request = crate::bed::request_keys("x/q", 3);
            request.max_messages_per_key = 7;
            request.wait = std::time::Duration::from_secs(60);
            request.consumer = number.to_string().into();
            async move {
                while let Ok(keys) = queues.lease_keys(&request).await {
                    for key in &keys {
                        assert!(held.lock().0.insert(key.key), "{:?} is held twice", key.key);
                    }
                    tokio::task::yield_now().await;
                    for key in keys {
                        let leases: Vec<_> = key.messages.iter().map(Leased::lease).collect();
                        {
                            let mut held = held.lock();
                            held.0.remove(&key.key);
                            held.1
                                .extend(key.messages.iter().map(|leased| (key.key, leased.id.bits())));
                        }
                        for outcome in queues.complete(&leases).await.expect("durable") {
                            outcome.expect("the lease holds");
                        }
                    }
                }
            }
        })
        .collect();
    for consumer in consumers {
        bed.tasks
            .spawn("consumer", celesta_runtime::Fate::Expendable, consumer);
    }
    for batch in 0..MESSAGES / 100 {
        bed.enqueue(
            (0..100)
                .map(|at| batch * 100 + at)
                .map(|number| keyed("x/q", number, number % KEYS))
                .collect(),
        )
        .await;
    }
    while bed.queues.depth(&name("x/q")) > 0 {
        bed.settle().await;
    }
    let seen = held.lock().1.clone();
    let mut numbers: Vec<_> = seen.iter().map(|(_, number)| *number).collect();
    for key in 0..KEYS {
        let of_key: Vec<_> = seen
            .iter()
            .filter(|(seen, _)| *seen == Key::from_bits(key))
            .map(|(_, number)| *number)
            .collect();
        assert!(of_key.is_sorted(), "messages of one key come in order");
    }
    numbers.sort_unstable();
    assert_eq!(
        numbers,
        (0..MESSAGES).collect::<Vec<_>>(),
        "each message was seen once"
    );
    bed.tasks.shutdown().request();
}
