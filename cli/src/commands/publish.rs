//! `celesta publish`: one event, to whoever subscribes to it.

use celesta_runtime::Random;
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::Context;
use crate::client::{self, Repeat};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, table};

/// Options of `publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The event's type, for example `com.example.order.placed`
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// Where it comes from
    #[arg(long, default_value = "/celesta/cli", value_name = "SOURCE")]
    source: String,
    /// Its id within its source: the same one counts once. A new one unless given
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// What it is about
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Its data, as JSON
    #[arg(short, long, value_name = "JSON")]
    data: Option<String>,
}

/// Publishes the event.
pub(crate) async fn run(context: &Context, args: PublishArgs) -> Outcome {
    let id = args
        .id
        .unwrap_or_else(|| format!("cli-{:032x}", Random::system().next_u128()));
    let mut event = json!({
        "specversion": "1.0",
        "type": args.event_type,
        "source": args.source,
        "id": id,
    });
    if let Some(event) = event.as_object_mut() {
        event.extend(args.subject.map(|subject| ("subject".to_owned(), subject.into())));
        if let Some(data) = &args.data {
            let data: Value = serde_json::from_str(data)
                .map_err(|error| Failure::usage(format!("the data is not JSON: {error}")))?;
            event.insert("data".to_owned(), data);
        }
    }
    let client = context.client()?;
    let request = client
        .request(Method::POST, client.url(&["v1", "events"], &[]))
        .header("Content-Type", "application/cloudevents+json")
        .body(event.to_string());
    let answer = client::json(client.send(request, Repeat::Safe).await?).await?;
    context.out.json(&answer)?;
    let deliveries = answer.get("deliveries").and_then(Value::as_array).cloned();
    let deliveries = deliveries.unwrap_or_default();
    if answer.get("duplicate").is_some() {
        context.out.line("it came before, and counted then")?;
    } else if deliveries.is_empty() {
        context.out.line("nobody subscribes to it")?;
    } else {
        let text = |row: &Value, name: &str| {
            row.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let rows: Vec<Vec<String>> = deliveries
            .iter()
            .map(|row| {
                let subscription = format!("{}/{}", text(row, "service"), text(row, "subscription"));
                vec![subscription, text(row, "run"), text(row, "error")]
            })
            .collect();
        context.out.line(table(&["subscription", "run", ""], &rows))?;
    }
    context.out.note(format_args!("{DIM}event {id}{DIM:#}"));
    Ok(Exit::Done)
}
