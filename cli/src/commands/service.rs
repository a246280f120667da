//! `celesta service list|show|facts|releases|promote|rollback|orders|pause|resume|break`.

mod facts;
mod orders;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Context;
use crate::client::{self, ServiceView, instant_text};
use crate::exit::{Exit, Outcome};
use crate::output::{DIM, STRONG, paint, table};

/// Options of `service`.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the services
    List,
    /// Show a service: its version, operations and functions
    Show {
        /// Its name
        service: String,
    },
    /// List the versions that were current, and the canary
    Releases {
        /// The service
        service: String,
    },
    /// Have all new runs follow the canary
    Promote {
        /// The service
        service: String,
    },
    /// Take the current version back, or the canary when there is one
    Rollback {
        /// The service
        service: String,
    },
    /// Read and write the facts that all runs of a service share
    Facts(facts::FactsArgs),
    /// Show what holds for all of its runs: pauses and breakpoints
    Orders {
        /// Its name
        service: String,
    },
    /// Stop all runs of a service or workflow for a while; new ones do not begin
    Pause(orders::PauseArgs),
    /// Take a pause back and let the runs go on that it has stopped
    Resume(orders::PauseArgs),
    /// Say before which rules all runs of a workflow stop
    Break(orders::BreakArgs),
}

/// Does what was asked.
pub(crate) async fn run(context: &Context, args: ServiceArgs) -> Outcome {
    let (client, out) = (context.client()?, context.out);
    match args.action {
        Action::List => {
            let answer = client.get(&["v1", "services"], &[]).await?;
            out.json(&answer)?;
            let services: Vec<ServiceView> = client::read(rows(answer))?;
            let rows: Vec<_> = services.iter().map(row).collect();
            out.line(table(&["service", "version", "operations", "pushed"], &rows))?;
        }
        Action::Show { service } => {
            let answer = client.get(&["v1", "services", &service], &[]).await?;
            out.json(&answer)?;
            out.line(shown(&client::read(answer)?))?;
        }
        Action::Releases { service } => {
            let answer = client.get(&["v1", "releases", &service], &[]).await?;
            out.json(&answer)?;
            if let Some(canary) = answer.get("canary").filter(|canary| !canary.is_null()) {
                let share = canary.get("share").map(Value::to_string).unwrap_or_default();
                out.line(format_args!("canary {} {share}", version_of(canary, "version")))?;
            }
            let rows = answer
                .get("rows")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            let rows: Vec<_> = rows.iter().map(release_row).collect();
            out.line(table(&["release", "version", "by", "at"], &rows))?;
        }
        Action::Promote { service } => {
            let answer = client
                .post(&["v1", "releases", &service, "promote"], &Value::Null)
                .await?;
            out.json(&answer)?;
            let version = version_of(&answer, "version");
            out.line(format_args!("all new runs of {service} follow {version}"))?;
        }
        Action::Rollback { service } => {
            let answer = client
                .post(&["v1", "releases", &service, "rollback"], &Value::Null)
                .await?;
            out.json(&answer)?;
            let (from, to) = (version_of(&answer, "from"), version_of(&answer, "to"));
            out.line(format_args!(
                "{from} is taken back; new runs of {service} follow {to}"
            ))?;
        }
        Action::Facts(args) => return facts::run(context, &client, args).await,
        Action::Orders { service } => return orders::list(context, &client, &service).await,
        Action::Pause(args) => return orders::pause(context, &client, &args).await,
        Action::Resume(args) => return orders::resume(context, &client, &args).await,
        Action::Break(args) => return orders::set_breakpoints(context, &client, &args).await,
    }
    Ok(Exit::Done)
}

fn version_of(answer: &Value, key: &str) -> String {
    short_version(answer.get(key).and_then(Value::as_str).unwrap_or_default())
}

fn release_row(release: &Value) -> Vec<String> {
    let text = |key: &str| match release.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    vec![
        text("number"),
        version_of(release, "version"),
        text("kind"),
        text("at"),
    ]
}

/// The rows of a list, whether it comes bare or in a page.
pub(crate) fn rows(answer: Value) -> Value {
    match answer {
        Value::Object(mut page) => ["rows", "services", "runs", "facts", "turns", "calls", "attempts"]
            .into_iter()
            .find_map(|key| page.shift_remove(key))
            .unwrap_or(Value::Object(page)),
        bare => bare,
    }
}

/// The name of an operation or function, whether it stands as a text or in an object.
fn name(value: &Value) -> String {
    value
        .as_str()
        .or_else(|| value.get("name").and_then(Value::as_str))
        .unwrap_or_default()
        .to_owned()
}

fn names(values: &[Value]) -> String {
    values.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Enough of a digest to tell versions apart.
pub(crate) fn short_version(version: &str) -> String {
    version.trim_start_matches("sha256:").chars().take(12).collect()
}

fn row(service: &ServiceView) -> Vec<String> {
    vec![
        paint(STRONG, &service.name),
        short_version(&service.version),
        names(&service.operations),
        instant_text(service.pushed_at),
    ]
}

fn shown(service: &ServiceView) -> String {
    let mut lines = vec![
        format!(
            "{STRONG}{}{STRONG:#} {DIM}{}{DIM:#}",
            service.name, service.version
        ),
        format!("pushed     {}", instant_text(service.pushed_at)),
        format!("functions  {}", names(&service.functions)),
    ];
    if let Some(description) = &service.description {
        lines.insert(1, description.clone());
    }
    for operation in &service.operations {
        lines.push(format!(
            "\n{STRONG}{}/{}{STRONG:#}",
            service.name,
            name(operation)
        ));
        if let Some(schema) = operation
            .get("input")
            .or_else(|| operation.get("input_schema"))
            .filter(|schema| !schema.is_null())
        {
            lines.push(serde_json::to_string_pretty(schema).unwrap_or_default());
        }
    }
    lines.join("\n")
}
