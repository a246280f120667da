//! `celesta service facts list|show|write`.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{self, Client, Repeat};
use crate::commands::Context;
use crate::commands::run::all_pages;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, GOOD, shorten, table};

/// Options of `service facts`.
#[derive(Debug, Args)]
pub(crate) struct FactsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the shared facts of a service
    List {
        /// The service
        service: String,
        /// Only of this type
        #[arg(long = "type", value_name = "TYPE")]
        fact_type: Option<String>,
        /// How many at most
        #[arg(short = 'n', long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one shared fact
    Show {
        /// The service
        service: String,
        /// The fact's number
        fact: u64,
    },
    /// Insert, update and retract shared facts: all of the writes or none
    Write(WriteArgs),
}

/// Options of `service facts write`.
#[derive(Debug, Args)]
struct WriteArgs {
    /// The service
    service: String,
    /// A JSON list of writes, or `-` for standard input:
    /// {"insert": TYPE, "fields": {…}}, {"update": FACT, "version": N, "fields": {…}}, {"retract": FACT}
    #[arg(value_name = "WRITES")]
    writes: String,
    /// Only say how many runs and which rules the writes may concern
    #[arg(long)]
    dry_run: bool,
    /// Write, and let the sweep wait after its preview until `celesta sweep resume`
    #[arg(long)]
    hold: bool,
    /// Runs that the sweep tells in a second
    #[arg(long, value_name = "RUNS")]
    rate: Option<u32>,
    /// The same key and writes count once
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

/// Does what was asked.
pub(super) async fn run(context: &Context, client: &Client, args: FactsArgs) -> Outcome {
    let out = context.out;
    match args.action {
        Action::List {
            service,
            fact_type,
            limit,
        } => {
            let filter: Vec<(&str, &str)> =
                fact_type.iter().map(|wanted| ("type", wanted.as_str())).collect();
            let facts = all_pages(client, &["v1", "services", &service, "facts"], &filter, limit).await?;
            out.json(&facts)?;
            let rows: Vec<Vec<String>> = facts.iter().map(row).collect();
            out.line(table(&["fact", "type", "version", "value"], &rows))?;
        }
        Action::Show { service, fact } => {
            let fact = fact.to_string();
            let answer = client
                .get(&["v1", "services", &service, "facts", &fact], &[])
                .await?;
            out.either(&answer, || {
                serde_json::to_string_pretty(&answer).unwrap_or_default()
            })?;
        }
        Action::Write(args) => return write(context, client, &args).await,
    }
    Ok(Exit::Done)
}

fn row(fact: &Value) -> Vec<String> {
    let shown = |name: &str| fact.get(name).map_or_else(String::new, Value::to_string);
    vec![
        shown("fact"),
        fact.get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        shown("version"),
        shorten(&shown("value"), 80),
    ]
}

async fn write(context: &Context, client: &Client, args: &WriteArgs) -> Outcome {
    let text = if args.writes == "-" {
        std::io::read_to_string(std::io::stdin())
            .map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?
    } else {
        args.writes.clone()
    };
    let writes: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("the writes are not JSON: {error}")))?;
    let mut body = json!({ "writes": writes, "hold": args.hold, "dry_run": args.dry_run });
    if let Some(rate) = args.rate {
        body["rate"] = rate.into();
    }
    let url = client.url(&["v1", "services", &args.service, "facts"], &[]);
    let mut request = client.request(Method::POST, url).json(&body);
    let mut repeat = Repeat::Never;
    if let Some(key) = &args.key {
        request = request.header("Idempotency-Key", key);
        repeat = Repeat::Safe;
    }
    let answer = client::json(client.send(request, repeat).await?).await?;
    context.out.either(&answer, || told(&answer))?;
    Ok(Exit::Done)
}

fn told(answer: &Value) -> String {
    let list = |name: &str| {
        answer
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let rules: Vec<String> = (list("rules").iter())
        .filter_map(|rule| Some(format!("  {}", rule.as_str()?)))
        .collect();
    let rules = if rules.is_empty() {
        "no rule of the current version".to_owned()
    } else {
        format!("rules that may fire:\n{}", rules.join("\n"))
    };
    if let Some(runs) = answer.get("runs").and_then(Value::as_u64) {
        return format!("nothing is written; {runs} runs may be concerned, {rules}");
    }
    let mut lines: Vec<String> = (list("facts").iter())
        .map(|fact| {
            let number = |name: &str| fact.get(name).and_then(Value::as_u64).unwrap_or(0);
            let same = fact.get("changed").and_then(Value::as_bool) == Some(false);
            let remark = if same { " (as it was)" } else { "" };
            format!(
                "{GOOD}fact {}{GOOD:#} version {}{remark}",
                number("fact"),
                number("version")
            )
        })
        .collect();
    lines.push(rules);
    if let Some(sweep) = answer.get("sweep").and_then(Value::as_str) {
        lines.push(format!("{DIM}celesta sweep show {sweep}{DIM:#}"));
    }
    lines.join("\n")
}
