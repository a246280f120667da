//! `celesta queue lease|complete|fail|extend|release`.

use std::io::Read as _;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{content_text, post, priority_text, text, told};
use crate::client::Client;
use crate::commands::call::{read_duration, read_pair};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, shorten, table};

/// Options of `queue lease`.
#[derive(Debug, Args)]
pub(crate) struct LeaseArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// How many messages at most
    #[arg(
        short = 'n',
        long,
        default_value_t = 1,
        value_name = "N",
        allow_negative_numbers = true
    )]
    max: i64,
    /// Take so many keys of an exclusive queue, each with its messages
    #[arg(long, value_name = "N", conflicts_with = "max")]
    keys: Option<i64>,
    /// How long to hold them; the queue's own time unless given
    #[arg(long, value_name = "DURATION", value_parser = read_duration)]
    lease: Option<Duration>,
    /// Wait for messages, at most a minute
    #[arg(short, long, value_name = "DURATION", value_parser = read_duration)]
    wait: Option<Duration>,
    /// Only messages with this pair; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_pair)]
    metadata: Vec<(String, String)>,
    /// The name shown to people
    #[arg(long, default_value = "celesta queue lease", value_name = "NAME")]
    consumer: String,
}

/// Leases by what `lease` has printed.
#[derive(Debug, Args)]
pub(crate) struct SettleArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// The leases as `lease` prints them, `MESSAGE#TOKEN`; `-` reads what `lease --json` has printed
    #[arg(value_name = "LEASE", required = true)]
    leases: Vec<String>,
}

/// Options of `queue fail`.
#[derive(Debug, Args)]
pub(crate) struct FailArgs {
    #[command(flatten)]
    settle: SettleArgs,
    /// No other try: the messages become dead letters
    #[arg(long = "final")]
    is_final: bool,
    /// Wait so long before the next try
    #[arg(long, value_name = "DURATION", value_parser = read_duration, default_value = "0s")]
    delay: Duration,
    /// What went wrong
    #[arg(long, value_name = "TEXT", default_value = "")]
    error: String,
}

/// Options of `queue extend`.
#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    #[command(flatten)]
    settle: SettleArgs,
    /// How long they hold from now on
    #[arg(long, value_name = "DURATION", value_parser = read_duration)]
    lease: Duration,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Takes messages.
pub(crate) async fn lease(client: &Client, out: Output, args: &LeaseArgs) -> Outcome {
    let mut body = Map::new();
    match args.keys {
        Some(keys) => body.insert("max_keys".to_owned(), keys.into()),
        None => body.insert("max".to_owned(), args.max.into()),
    };
    if let Some(lease) = args.lease {
        body.insert("lease_ms".to_owned(), millis(lease).into());
    }
    if let Some(wait) = args.wait {
        body.insert("wait_ms".to_owned(), millis(wait).into());
    }
    let metadata: Map<String, Value> = args
        .metadata
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    body.insert("metadata".to_owned(), metadata.into());
    body.insert("consumer".to_owned(), args.consumer.as_str().into());
    let answer = post(client, &args.queue, "lease", &body.into()).await?;
    out.json(&answer)?;
    let rows: Vec<_> = messages(&answer).into_iter().map(row).collect();
    if rows.is_empty() {
        out.note("there was no message");
    } else {
        out.line(table(&["lease", "priority", "key", "attempt", "payload"], &rows))?;
    }
    Ok(Exit::Done)
}

/// The messages of an answer, by themselves or below their keys.
fn messages(answer: &Value) -> Vec<&Value> {
    let keys = answer["keys"].as_array().into_iter().flatten();
    let lists = keys.map(|key| &key["messages"]).chain([&answer["messages"]]);
    lists.filter_map(Value::as_array).flatten().collect()
}

fn row(message: &Value) -> Vec<String> {
    vec![
        format!("{}#{}", text(&message["id"]), text(&message["token"])),
        priority_text(&message["priority"]),
        text(&message["key"]),
        format!("{}/{}", message["attempt"], message["attempts_max"]),
        shorten(&content_text(message), 60),
    ]
}

/// Completes leases, or gives them back.
pub(crate) async fn settle(client: &Client, out: Output, args: &SettleArgs, action: &str) -> Outcome {
    let body = json!({ "leases": args.read()? });
    told(out, &post(client, &args.queue, action, &body).await?)
}

/// Fails leases.
pub(crate) async fn fail(client: &Client, out: Output, args: &FailArgs) -> Outcome {
    let mut leases = args.settle.read()?;
    for lease in &mut leases {
        lease.insert("retryable".to_owned(), (!args.is_final).into());
        lease.insert("delay_ms".to_owned(), millis(args.delay).into());
        lease.insert("error".to_owned(), args.error.as_str().into());
    }
    let body = json!({ "leases": leases });
    told(out, &post(client, &args.settle.queue, "fail", &body).await?)
}

/// Extends leases.
pub(crate) async fn extend(client: &Client, out: Output, args: &ExtendArgs) -> Outcome {
    let body = json!({ "leases": args.settle.read()?, "lease_ms": millis(args.lease) });
    told(out, &post(client, &args.settle.queue, "extend", &body).await?)
}

impl SettleArgs {
    fn read(&self) -> Result<Vec<Map<String, Value>>, Failure> {
        if self.leases == ["-"] {
            return read_answers();
        }
        self.leases.iter().map(|lease| read_lease(lease)).collect()
    }
}

/// Reads `MESSAGE#TOKEN`; an id may hold a `#` itself.
fn read_lease(text: &str) -> Result<Map<String, Value>, Failure> {
    let (id, token) = text.rsplit_once('#').ok_or_else(|| {
        Failure::usage(format!("`{text}` is not a lease"))
            .hint("write it as `celesta queue lease` has printed it: MESSAGE#TOKEN")
    })?;
    Ok(lease_of(id, token))
}

fn lease_of(id: &str, token: &str) -> Map<String, Value> {
    let mut lease = Map::new();
    lease.insert("id".to_owned(), id.into());
    lease.insert("token".to_owned(), token.into());
    lease
}

/// Reads what `lease --json` has printed.
fn read_answers() -> Result<Vec<Map<String, Value>>, Failure> {
    let mut input = String::new();
    let read = std::io::stdin().lock().read_to_string(&mut input);
    read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}")))?;
    let mut leases = Vec::new();
    for answer in serde_json::Deserializer::from_str(&input).into_iter::<Value>() {
        let answer = answer.map_err(|error| Failure::usage(format!("standard input is no JSON: {error}")))?;
        let messages = messages(&answer);
        leases.extend(
            messages
                .iter()
                .map(|message| lease_of(&text(&message["id"]), &text(&message["token"]))),
        );
    }
    Ok(leases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_as_it_was_printed() {
        let message = json!({ "id": "a#b", "token": "77", "priority": { "class": "high", "number": 2 }, "attempt": 1, "attempts_max": 5, "payload": [1] });
        let row = row(&message);
        assert_eq!(row, ["a#b#77", "high:2", "", "1/5", "[1]"]);
        assert_eq!(read_lease(&row[0]).expect("a lease"), lease_of("a#b", "77"));
        assert!(read_lease("nothing").is_err());
    }
}
