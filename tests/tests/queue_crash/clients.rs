//! Producers and consumers that go on through kills and write down what they saw.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::check::{Delivered, Enqueued, Log};

/// Messages of one call of a producer.
const BATCH: u64 = 5;
/// A lease that its consumer forgets lapses after this.
const LEASE_MS: u64 = 1_500;
/// A client whose server is away asks again after this.
const PAUSE: Duration = Duration::from_millis(5);
/// An answer that does not come in this time never comes.
const PATIENCE: Duration = Duration::from_secs(15);

/// What all clients share.
pub(crate) struct Crowd {
    pub(crate) url: String,
    pub(crate) queue: &'static str,
    pub(crate) exclusive: bool,
    pub(crate) log: Mutex<Log>,
    /// Completions that were acknowledged, or may have happened.
    pub(crate) progress: AtomicU64,
    pub(crate) over: AtomicBool,
}

/// A client with its own connections and its own dice.
struct Client<'a> {
    crowd: &'a Crowd,
    http: reqwest::Client,
    dice: u64,
}

impl<'a> Client<'a> {
    fn new(crowd: &'a Crowd, seed: u64) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build();
        Self {
            crowd,
            http: http.expect("a client"),
            dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// A number below `sides`; the generator is xorshift.
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    /// Sends JSON; none when nobody knows what became of it.
    async fn post(&self, action: &str, body: &Value) -> Option<Value> {
        let url = format!("{}/v1/queues/{}/{action}", self.crowd.url, self.crowd.queue);
        let answer = self.http.post(url).json(body).send().await.ok()?;
        if answer.status().as_u16() >= 500 {
            return None;
        }
        answer.json().await.ok()
    }
}

/// Enqueues `count` messages over two keys of its own, each batch again and again until it is acknowledged.
pub(crate) async fn produce(crowd: &Crowd, number: u64, count: u64) {
    let client = Client::new(crowd, number + 1);
    for first in (0..count).step_by(usize::try_from(BATCH).unwrap_or(1)) {
        let key = format!("key-{number}-{}", first / BATCH % 2);
        let ids: Vec<String> = (first..first + BATCH)
            .map(|at| format!("{number}-{at}"))
            .collect();
        let messages = ids.iter().map(|id| {
            let mut message = json!({ "id": id, "payload": id, "attempts_max": 1_000 });
            if crowd.exclusive {
                message["key"] = key.clone().into();
            }
            message
        });
        let body = json!({ "messages": messages.collect::<Value>() });
        let begun = Instant::now();
        loop {
            let answer = client.post("messages", &body).await;
            if answer.is_some_and(|answer| answer["refused"] == 0) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let ended = Instant::now();
        let enqueued = ids.into_iter().map(|id| Enqueued {
            scope: if crowd.exclusive { key.clone() } else { id.clone() },
            id,
            begun,
            ended,
        });
        crowd
            .log
            .lock()
            .expect("nobody panicked")
            .enqueued
            .extend(enqueued);
    }
}

/// Leases and completes, and sometimes fails, gives back or forgets, until all is over.
pub(crate) async fn consume(crowd: &Crowd, number: u64) {
    let mut client = Client::new(crowd, number + 1_000);
    while !crowd.over.load(Ordering::Relaxed) {
        let mut request = json!({ "wait_ms": 200, "lease_ms": LEASE_MS });
        if crowd.exclusive && client.roll(2) == 0 {
            request["max_keys"] = 2.into();
            request["max_messages_per_key"] = 4.into();
        } else {
            request["max"] = 5.into();
        }
        let asked = Instant::now();
        let Some(answer) = client.post("lease", &request).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let got = Instant::now();
        let messages = messages(&answer);
        if messages.is_empty() {
            // Before the first message there is no queue to wait at.
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let mut delivered: Vec<Delivered> = messages
            .iter()
            .map(|message| Delivered {
                id: text(&message["id"]),
                scope: text(message.get("key").unwrap_or_else(|| &message["id"])),
                token: text(&message["token"]),
                asked,
                got,
                until: asked + Duration::from_millis(LEASE_MS),
                completing: None,
                completed: None,
            })
            .collect();
        settle(&mut client, &mut delivered).await;
        crowd
            .log
            .lock()
            .expect("nobody panicked")
            .delivered
            .extend(delivered);
    }
}

async fn settle(client: &mut Client<'_>, delivered: &mut [Delivered]) {
    let action = match client.roll(20) {
        0 => return,
        1 | 2 => "fail",
        3 => "release",
        _ => "complete",
    };
    let leases = delivered
        .iter()
        .map(|one| json!({ "id": one.id, "token": one.token }));
    let body = json!({ "leases": leases.collect::<Value>() });
    let now = Instant::now();
    for one in delivered.iter_mut() {
        one.until = one.until.min(now);
        one.completing = (action == "complete").then_some(now);
    }
    let Some(answer) = client.post(action, &body).await else {
        return;
    };
    let ended = Instant::now();
    let outcomes: HashMap<String, bool> = answer["outcomes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|outcome| (text(&outcome["id"]), outcome["outcome"] == "completed"))
        .collect();
    for one in delivered.iter_mut() {
        match outcomes.get(&one.id) {
            Some(true) => {
                one.completed = Some(ended);
                client.crowd.progress.fetch_add(1, Ordering::Relaxed);
            }
            // It was told that the lease is over: this was no completion.
            Some(false) => one.completing = None,
            None => {}
        }
    }
}

/// The messages of an answer, by themselves or below their keys.
fn messages(answer: &Value) -> Vec<&Value> {
    let keys = answer["keys"].as_array().into_iter().flatten();
    let lists = keys.map(|key| &key["messages"]).chain([&answer["messages"]]);
    lists.filter_map(Value::as_array).flatten().collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
