//! `celesta queue enqueue`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Read as _};
use std::time::Duration;

use celesta_runtime::{Clock, Random};
use celesta_types::MessageId;
use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::told;
use crate::client::{self, Client, Repeat};
use crate::commands::call::{read_duration, read_pair};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Output;

/// Lines sent in one call, and their bytes: below what the server takes, and a progress people can see.
const BATCH_LINES: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;

/// Options of `queue enqueue`.
#[derive(Debug, Args)]
pub(crate) struct EnqueueArgs {
    /// The queue; made on first use
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// One message's payload: JSON, `@FILE`, or `-` for standard input. Unless given, each line of standard input is a payload
    #[arg(short, long, value_name = "JSON|@FILE|-")]
    payload: Option<String>,
    /// Lines are whole messages, as the API takes them: id, key, payload, priority and so on
    #[arg(long, conflicts_with = "payload")]
    messages: bool,
    /// The message's id: sending it again changes nothing
    #[arg(long, requires = "payload")]
    id: Option<String>,
    /// The exclusivity key
    #[arg(long)]
    key: Option<String>,
    /// How urgent: critical, high, standard, low or background, and `:number` within
    #[arg(long, value_name = "CLASS[:N]")]
    priority: Option<String>,
    /// Not delivered before this time has passed, for example 10s or 2h
    #[arg(long, value_name = "DURATION", value_parser = read_duration)]
    delay: Option<Duration>,
    /// Expires when it has waited so long
    #[arg(long, value_name = "DURATION", value_parser = read_duration)]
    ttl: Option<Duration>,
    /// How often it is tried
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// Whose share of the queue it takes
    #[arg(long, value_name = "KEY")]
    fairness: Option<String>,
    /// A pair to find it by; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_pair)]
    metadata: Vec<(String, String)>,
}

/// Sends one message or many.
pub(crate) async fn enqueue(client: &Client, out: Output, args: EnqueueArgs) -> Outcome {
    let sender = Sender {
        client,
        out,
        ids: Random::system(),
        clock: Clock::system(),
        template: template(&args),
        whole: args.messages,
        queue: &args.queue,
    };
    let Some(payload) = &args.payload else {
        return sender.lines().await;
    };
    let payload = read_payload(payload)?;
    let mut message = sender.message(&payload)?;
    if let Some(id) = args.id {
        message.insert("id".to_owned(), serde_json::value::to_raw_value(&id)?);
    }
    let answer = sender.send(&[message]).await?;
    told(out, &answer)
}

type Message = BTreeMap<String, Box<RawValue>>;

struct Sender<'a> {
    client: &'a Client,
    out: Output,
    ids: Random,
    clock: Clock,
    template: Map<String, Value>,
    whole: bool,
    queue: &'a str,
}

impl Sender<'_> {
    /// Sends each line of standard input, many in a call.
    async fn lines(&self) -> Outcome {
        let (mut batch, mut bytes, mut exit) = (Vec::new(), 0, Exit::Done);
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot read standard input: {error}"))
            })?;
            if line.trim().is_empty() {
                continue;
            }
            if batch.len() == BATCH_LINES || bytes + line.len() > BATCH_BYTES && !batch.is_empty() {
                exit = worse(exit, self.flush(&mut batch).await?);
                bytes = 0;
            }
            bytes += line.len();
            batch.push(self.message(&line)?);
        }
        if !batch.is_empty() {
            exit = worse(exit, self.flush(&mut batch).await?);
        }
        Ok(exit)
    }

    async fn flush(&self, batch: &mut Vec<Message>) -> Outcome {
        let answer = self.send(batch).await?;
        batch.clear();
        told(self.out, &answer)
    }

    /// A message of `text`: its payload, or all of it. The id is made here, so that the call may be repeated.
    fn message(&self, text: &str) -> Result<Message, Failure> {
        let wrong =
            |error| Failure::usage(format!("not JSON: {error}: {}", crate::output::shorten(text, 80)));
        let mut message = Message::new();
        for (name, value) in &self.template {
            message.insert(name.clone(), serde_json::value::to_raw_value(value)?);
        }
        if self.whole {
            let given: Message = serde_json::from_str(text).map_err(wrong)?;
            message.extend(given);
        } else {
            let payload: Box<RawValue> = serde_json::from_str(text).map_err(wrong)?;
            message.insert("payload".to_owned(), payload);
        }
        if !message.contains_key("id") {
            let id = MessageId::new(self.clock.now(), self.ids.next_u128());
            message.insert("id".to_owned(), serde_json::value::to_raw_value(&id)?);
        }
        Ok(message)
    }

    async fn send(&self, messages: &[Message]) -> Result<Value, Failure> {
        let url = self.client.url(&["v1", "queues", self.queue, "messages"], &[]);
        let body = BTreeMap::from([("messages", messages)]);
        let request = self.client.request(reqwest::Method::POST, url).json(&body);
        client::json(self.client.send(request, Repeat::Safe).await?).await
    }
}

/// What all messages of the call share.
fn template(args: &EnqueueArgs) -> Map<String, Value> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut template = Map::new();
    let metadata: Map<String, Value> = args
        .metadata
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    for (name, value) in [
        ("key", json!(args.key)),
        ("priority", json!(args.priority)),
        ("delay_ms", json!(args.delay.map(millis))),
        ("ttl_ms", json!(args.ttl.map(millis))),
        ("attempts_max", json!(args.attempts)),
        ("fairness", json!(args.fairness)),
        ("metadata", json!((!metadata.is_empty()).then_some(metadata))),
    ] {
        if !value.is_null() {
            template.insert(name.to_owned(), value);
        }
    }
    template
}

/// The text that `--payload` names.
fn read_payload(given: &str) -> Result<String, Failure> {
    if given == "-" {
        let mut text = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut text);
        read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}")))?;
        return Ok(text);
    }
    match given.strip_prefix('@') {
        Some(path) => {
            let path = std::path::Path::new(path);
            std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))
        }
        None => Ok(given.to_owned()),
    }
}

fn worse(one: Exit, other: Exit) -> Exit {
    if one == Exit::Done { other } else { one }
}
