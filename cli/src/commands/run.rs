//! `celesta run …`: looking at runs and steering them. One file for each view; the list of actions stands here.

mod calls;
mod history;
mod list;
mod logs;
mod show;
mod steer;
pub(crate) mod watch;

use clap::{Args, Subcommand};

use super::Context;
use crate::client::{self, Client};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{BAD, DIM, GOOD, PENDING, paint};

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(subcommand)]
    action: Action,
}

/// A run by its id.
#[derive(Debug, Args)]
struct Target {
    /// The run, `run_…`, or `last` for the newest
    #[arg(value_name = "RUN")]
    run: String,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List runs, newest first
    List(list::ListArgs),
    /// Show a run
    Show(Target),
    /// Follow a run until it ends
    Watch(Target),
    /// Show a run's facts
    Facts(show::FactsArgs),
    /// Show what happened, turn by turn
    History(history::HistoryArgs),
    /// Show the calls a run has made
    Calls(Target),
    /// Print what a run's rules and functions have logged
    Logs(logs::LogsArgs),
    /// Call a run off
    Cancel(steer::CancelArgs),
    /// Try a failed run again from where it failed
    Retry(steer::ReasonArgs),
    /// Stop a run for a while; calls that run go on, their results wait
    Pause(steer::ReasonArgs),
    /// Let a paused run go on
    Resume(steer::ReasonArgs),
    /// Let a paused run go on by one firing
    Step(steer::ReasonArgs),
    /// Say before which rules a run stops
    Break(steer::BreakArgs),
    /// Make a run more or less urgent, with what it waits for
    Prioritize(steer::PrioritizeArgs),
    /// Do a run over as a new one, from its start or from a rule, with other facts
    Restart(steer::RestartArgs),
    /// Run the same request once more, as a new run
    Clone(Target),
    /// Insert, update or retract facts of a run
    Write(steer::WriteArgs),
    /// Say why a rule fired, or why it did not
    Explain(show::ExplainArgs),
}

/// Does what was asked.
pub(crate) async fn run(context: &Context, args: RunArgs) -> Outcome {
    let client = context.client()?;
    match args.action {
        Action::List(args) => list::run(context, &client, &args).await,
        Action::Show(target) => show::run(context, &client, &target.resolve(&client).await?).await,
        Action::Watch(target) => watch::run(context, &client, &target.resolve(&client).await?).await,
        Action::Facts(args) => show::facts(context, &client, &args).await,
        Action::History(args) => history::run(context, &client, &args).await,
        Action::Calls(target) => calls::run(context, &client, &target.resolve(&client).await?).await,
        Action::Logs(args) => logs::run(context, &client, &args).await,
        Action::Cancel(args) => steer::cancel(context, &client, &args).await,
        Action::Retry(args) => steer::retry(context, &client, &args).await,
        Action::Pause(args) => steer::pause(context, &client, &args).await,
        Action::Resume(args) => steer::resume(context, &client, &args).await,
        Action::Step(args) => steer::step(context, &client, &args).await,
        Action::Break(args) => steer::set_breakpoints(context, &client, &args).await,
        Action::Prioritize(args) => steer::prioritize(context, &client, &args).await,
        Action::Restart(args) => steer::restart(context, &client, &args).await,
        Action::Clone(target) => steer::clone_run(context, &client, &target.resolve(&client).await?).await,
        Action::Write(args) => steer::write(context, &client, &args).await,
        Action::Explain(args) => show::explain(context, &client, &args).await,
    }
}

impl Target {
    /// The id, with `last` looked up.
    async fn resolve(&self, client: &Client) -> Result<String, Failure> {
        if self.run != "last" {
            return Ok(self.run.clone());
        }
        let page = super::service::rows(client.get(&["v1", "runs"], &[("limit", "1")]).await?);
        let newest = page
            .get(0)
            .and_then(|run| run.get("id"))
            .and_then(serde_json::Value::as_str);
        newest
            .map(str::to_owned)
            .ok_or_else(|| Failure::new(Exit::NotFound, "there is no run yet"))
    }
}

/// The state of a run or call in its color.
pub(crate) fn state_text(state: &str) -> String {
    match state {
        "completed" | "succeeded" => paint(GOOD, state),
        "failed" | "quarantined" => paint(BAD, state),
        "running" | "outstanding" => paint(PENDING, state),
        _ => paint(DIM, state),
    }
}

/// All rows of a list that comes in pages, at most `most`.
///
/// # Errors
/// When the server is away or answers with a problem.
pub(crate) async fn all_pages(
    client: &Client,
    segments: &[&str],
    query: &[(&str, &str)],
    most: usize,
) -> Result<Vec<serde_json::Value>, Failure> {
    let mut rows: Vec<serde_json::Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let limit = most
            .saturating_sub(rows.len())
            .clamp(1, PAGE_ROWS_MAX)
            .to_string();
        let mut query = query.to_vec();
        query.push(("limit", &limit));
        if let Some(cursor) = &cursor {
            query.push(("cursor", cursor));
        }
        let page = client.get(segments, &query).await?;
        let next = page
            .get("next")
            .and_then(serde_json::Value::as_str)
            .map(str::to_owned);
        let more: Vec<serde_json::Value> = client::read(super::service::rows(page))?;
        rows.extend(more);
        if rows.len() >= most || next.is_none() {
            rows.truncate(most);
            return Ok(rows);
        }
        cursor = next;
    }
}

/// What the server gives in one page at most.
const PAGE_ROWS_MAX: usize = 500;
