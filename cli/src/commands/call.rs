//! `celesta call SERVICE/OPERATION`: one request, and its result when it is waited for.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use celesta_runtime::Random;
use celesta_types::{Class, duration_ms};
use clap::Args;
use reqwest::{Method, header};
use serde_json::{Map, Value};

use super::{Context, artifact, run as runs};
use crate::client::{self, Client, Repeat, RunView};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{BAD, DIM, GOOD, STRONG, paint};

/// The server waits this long at most for one request; longer waits follow the run's events.
const PREFER_WAIT_S: u32 = 2;

/// Options of `call`.
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// What to request, for example `video-encoder/encode`
    #[arg(value_name = "SERVICE/OPERATION")]
    target: String,
    /// The request's body: JSON, `@FILE`, or `-` for standard input
    #[arg(short, long, value_name = "JSON|@FILE|-", default_value = "{}")]
    input: String,
    /// Upload FILE and put its reference at FIELD of the body (`a.b` for nested fields); may be repeated
    #[arg(short, long = "file", value_name = "FIELD=FILE", value_parser = read_pair)]
    files: Vec<(String, String)>,
    /// Wait for the end, show progress and print the result
    #[arg(short, long)]
    wait: bool,
    /// Wait no longer than this, for example 90s or 2h (with --wait)
    #[arg(long, value_name = "DURATION", value_parser = read_duration, requires = "wait")]
    timeout: Option<Duration>,
    /// A repeated call with this key and the same body gets the same run
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// How urgent it is: critical, high, standard, low or background
    #[arg(long, value_name = "CLASS")]
    priority: Option<Class>,
    /// A label of the run; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = read_pair)]
    labels: Vec<(String, String)>,
    /// Run pure functions even when their results are recorded
    #[arg(long)]
    no_reuse: bool,
}

/// Sends the request.
pub(crate) async fn run(context: &Context, args: CallArgs) -> Outcome {
    let (service, operation) = args
        .target
        .split_once('/')
        .filter(|(service, operation)| !service.is_empty() && !operation.is_empty() && !operation.contains('/'))
        .ok_or_else(|| {
            Failure::usage(format!("`{}` does not name an operation", args.target))
                .hint("write SERVICE/OPERATION, for example video-encoder/encode; `celesta service list` shows them")
        })?;
    let mut input = read_input(&args.input)?;
    let client = context.client()?;
    for (field, file) in &args.files {
        let reference = artifact::upload(&client, context.out, &PathBuf::from(file), None).await?;
        put_at(&mut input, field, serde_json::to_value(reference)?)?;
    }
    let request = Request {
        service,
        operation,
        input: &input,
        // A key of our own makes the request repeatable when the connection fails.
        key: args
            .idempotency_key
            .clone()
            .unwrap_or_else(|| format!("cli-{:032x}", Random::system().next_u128())),
        priority: args.priority,
        labels: &args.labels,
        fresh: args.no_reuse,
        wait_s: if args.wait { PREFER_WAIT_S } else { 0 },
    };
    let run = request.send(&client).await?;
    if !args.wait {
        let id = run
            .get("id")
            .or_else(|| run.get("run"))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        context.out.either(&run, || id.clone())?;
        context
            .out
            .note(format_args!("{DIM}follow it with{DIM:#} celesta run watch {id}"));
        return Ok(Exit::Done);
    }
    let view: RunView = client::read(run)?;
    let view = if view.is_ended() {
        client.get(&["v1", "runs", &view.id], &[]).await?
    } else {
        context.out.note(format_args!("{DIM}run{DIM:#} {}", view.id));
        runs::watch::follow_to_end(context, &client, &view.id, args.timeout).await?
    };
    report(context, view)
}

/// One request of an operation.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) service: &'a str,
    pub(crate) operation: &'a str,
    pub(crate) input: &'a Value,
    pub(crate) key: String,
    pub(crate) priority: Option<Class>,
    pub(crate) labels: &'a [(String, String)],
    /// Whether recorded results are not to be used.
    pub(crate) fresh: bool,
    pub(crate) wait_s: u32,
}

impl Request<'_> {
    /// Sends it and gives the run as the server shows it.
    ///
    /// # Errors
    /// When the server is away or refuses.
    pub(crate) async fn send(&self, client: &Client) -> Result<Value, Failure> {
        let url = client.url(&["v1", "services", self.service, self.operation], &[]);
        let mut request = client
            .request(Method::POST, url)
            .header("Idempotency-Key", &self.key)
            .json(self.input);
        if self.wait_s > 0 {
            request = request.header("Prefer", format!("wait={}", self.wait_s));
        }
        if let Some(class) = self.priority {
            request = request.header("Celesta-Priority", class.name());
        }
        if self.fresh {
            request = request.header("Celesta-Reuse", "no");
        }
        for (key, value) in self.labels {
            let label = header::HeaderValue::from_str(&format!("{key}={value}")).map_err(|_| {
                Failure::usage(format!(
                    "the label `{key}={value}` holds characters that fit in no header"
                ))
            })?;
            request = request.header("Celesta-Label", label);
        }
        client::json(client.send(request, Repeat::Safe).await?).await
    }
}

/// Prints how a run ended and gives the exit code that says so.
fn report(context: &Context, run: Value) -> Outcome {
    let out = context.out;
    out.json(&run)?;
    let view: RunView = client::read(run)?;
    if view.state == "completed" {
        let result = view.result.unwrap_or(Value::Null);
        out.line(serde_json::to_string_pretty(&result)?)?;
        out.note(format_args!("{GOOD}completed{GOOD:#} {DIM}{}{DIM:#}", view.id));
        return Ok(Exit::Done);
    }
    let reason = view
        .error_text()
        .unwrap_or_else(|| "no reason was given".to_owned());
    out.note(format_args!("{BAD}{}{BAD:#} {}: {reason}", view.state, view.id));
    out.note(format_args!(
        "  {DIM}={DIM:#} {}: celesta run logs {}",
        paint(STRONG, "help"),
        view.id
    ));
    Ok(Exit::Failed)
}

/// The body given on the command line.
fn read_input(text: &str) -> Result<Value, Failure> {
    let (from, text) = if text == "-" {
        let mut body = String::new();
        std::io::stdin()
            .read_to_string(&mut body)
            .map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?;
        ("standard input".to_owned(), body)
    } else if let Some(path) = text.strip_prefix('@') {
        let path = PathBuf::from(path);
        let body = std::fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))?;
        (path.display().to_string(), body)
    } else {
        ("--input".to_owned(), text.to_owned())
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!("{from} is not JSON: {error}"))
            .hint("give a JSON object, `@FILE`, or `-` for standard input")
    })
}

/// Puts `value` at the dotted `field` of `body`, making objects on the way.
fn put_at(body: &mut Value, field: &str, value: Value) -> Result<(), Failure> {
    let mut place = body;
    for name in field.split('.') {
        let Value::Object(object) = place else {
            return Err(Failure::usage(format!(
                "`{field}` cannot be set: what holds `{name}` is not an object"
            )));
        };
        place = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
    }
    *place = value;
    Ok(())
}

pub(crate) fn read_pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` has no `=`"))
}

/// Reads `90s`, `2h` and so on.
pub(crate) fn read_duration(text: &str) -> Result<Duration, String> {
    let millis = duration_ms(text).map_err(|error| error.to_string())?;
    u64::try_from(millis)
        .map(Duration::from_millis)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_put_at_its_field() {
        let mut body = serde_json::json!({ "a": { "b": 1 } });
        put_at(&mut body, "a.c.d", Value::from(2)).expect("an object is there");
        assert_eq!(body, serde_json::json!({ "a": { "b": 1, "c": { "d": 2 } } }));
        assert!(
            put_at(&mut body, "a.b.x", Value::Null).is_err(),
            "a number holds no fields"
        );
    }

    #[test]
    fn input_that_is_no_json_is_a_usage_error() {
        assert_eq!(read_input("{").expect_err("no JSON").exit, Exit::Usage);
        assert_eq!(
            read_input("@/does/not/exist").expect_err("no file").exit,
            Exit::NotFound
        );
    }
}
