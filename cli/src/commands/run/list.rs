//! `celesta run list`.

use clap::Args;

use super::{all_pages, state_text};
use crate::client::{self, Client, RunView, instant_text};
use crate::commands::Context;
use crate::exit::{Exit, Outcome};
use crate::output::{shorten, table};

/// Options of `run list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only of this service
    #[arg(long)]
    service: Option<String>,
    /// Only of this workflow
    #[arg(long)]
    workflow: Option<String>,
    /// Only of this operation
    #[arg(long)]
    operation: Option<String>,
    /// Only in this state: running, idle, completed, failed, canceled, quarantined,
    /// paused or waiting
    #[arg(long)]
    state: Option<String>,
    /// Only with this label
    #[arg(long, value_name = "KEY=VALUE")]
    label: Option<String>,
    /// Archived runs instead of those that stand in the store
    #[arg(long)]
    archived: bool,
    /// How many at most
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
}

/// Prints the list, newest first.
pub(crate) async fn run(context: &Context, client: &Client, args: &ListArgs) -> Outcome {
    let filters = [
        ("service", &args.service),
        ("workflow", &args.workflow),
        ("operation", &args.operation),
        ("state", &args.state),
        ("label", &args.label),
    ];
    let mut query: Vec<(&str, &str)> = filters
        .iter()
        .filter_map(|(name, value)| value.as_deref().map(|value| (*name, value)))
        .collect();
    if args.archived {
        query.push(("archived", "true"));
    }
    let runs = all_pages(client, &["v1", "runs"], &query, args.limit).await?;
    context.out.json(&runs)?;
    let mut rows = Vec::with_capacity(runs.len());
    for run in runs {
        rows.push(row(&client::read(run)?));
    }
    context
        .out
        .line(table(&["run", "operation", "state", "created", ""], &rows))?;
    Ok(Exit::Done)
}

fn row(run: &RunView) -> Vec<String> {
    let stopped = run.stopped.as_ref().map(|stopped| stopped.text());
    let remark = stopped.or_else(|| run.error_text()).or_else(|| {
        let progress = run.progress.as_ref().filter(|_| !run.is_ended())?;
        Some(format!("{:.0} % {}", progress.fraction * 100.0, progress.text))
    });
    vec![
        run.id.clone(),
        format!("{}/{}", run.service, run.operation),
        state_text(&run.state),
        instant_text(run.created_at),
        shorten(&remark.unwrap_or_default(), 60),
    ]
}
