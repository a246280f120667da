//! `celesta sweep ls|show|preview|pause|resume|abort`.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use super::run::all_pages;
use crate::client::{self, Client, instant_text};
use crate::exit::{Exit, Outcome};
use crate::output::{DIM, GOOD, STRONG, shorten, table};

/// Options of `sweep`.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List sweeps, the newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Only of this service
        #[arg(long)]
        service: Option<String>,
        /// Only in this state: pending, previewed, running, paused, done or aborted
        #[arg(long)]
        state: Option<String>,
        /// How many at most
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: usize,
    },
    /// Show a sweep: its cause, state, counts and the runs it has moved
    Show {
        /// Its id
        sweep: String,
        /// How many of the runs it has moved or missed are shown
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: usize,
    },
    /// Say how many runs a sweep has before it, and which rules may fire
    Preview {
        /// Its id
        sweep: String,
    },
    /// Stop a sweep for a while
    Pause(Wish),
    /// Let a sweep go on, or begin after its preview
    Resume(Wish),
    /// Give a sweep up; runs that were told stay told
    Abort(Wish),
}

#[derive(Debug, Args)]
struct Wish {
    /// Its id
    sweep: String,
    /// Why; kept with the sweep
    #[arg(long, default_value = "on the command line")]
    reason: String,
}

/// A sweep as the server shows it.
#[derive(Debug, Deserialize)]
struct View {
    id: String,
    service: String,
    cause: String,
    #[serde(default)]
    rules: Vec<String>,
    state: String,
    rate: u32,
    runs: Option<u64>,
    told: u64,
    moved: u64,
    still: u64,
    missed: u64,
    reason: Option<String>,
    created_at: Option<celesta_types::Timestamp>,
    ended_at: Option<celesta_types::Timestamp>,
}

/// Does what was asked.
pub(crate) async fn run(context: &Context, args: SweepArgs) -> Outcome {
    let (client, out) = (context.client()?, context.out);
    match args.action {
        Action::Ls {
            service,
            state,
            limit,
        } => {
            let filters = [("service", &service), ("state", &state)];
            let filter: Vec<(&str, &str)> = filters
                .iter()
                .filter_map(|(name, value)| value.as_deref().map(|value| (*name, value)))
                .collect();
            let sweeps = all_pages(&client, &["v1", "sweeps"], &filter, limit).await?;
            out.json(&sweeps)?;
            let views: Vec<View> = client::read(Value::Array(sweeps))?;
            let rows: Vec<Vec<String>> = views.iter().map(row).collect();
            out.line(table(
                &["sweep", "service", "state", "told", "moved", "created", "cause"],
                &rows,
            ))?;
        }
        Action::Show { sweep, limit } => {
            let answer = client.get(&["v1", "sweeps", &sweep], &[]).await?;
            let runs = all_pages(&client, &["v1", "sweeps", &sweep, "runs"], &[], limit).await?;
            let mut whole = answer.clone();
            whole["swept"] = Value::Array(runs.clone());
            out.json(&whole)?;
            out.line(shown(&client::read(answer)?, &runs))?;
        }
        Action::Preview { sweep } => {
            let answer = client.get(&["v1", "sweeps", &sweep, "preview"], &[]).await?;
            out.either(&answer, || {
                let rules = answer
                    .get("rules")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                let rules: Vec<String> = rules
                    .iter()
                    .filter_map(|rule| Some(format!("\n  {}", rule.as_str()?)))
                    .collect();
                let runs = answer.get("runs").and_then(Value::as_u64).unwrap_or(0);
                format!("{runs} runs are left{}", rules.concat())
            })?;
        }
        Action::Pause(wish) => return told(context, &client, &wish, "pause").await,
        Action::Resume(wish) => return told(context, &client, &wish, "resume").await,
        Action::Abort(wish) => return told(context, &client, &wish, "abort").await,
    }
    Ok(Exit::Done)
}

async fn told(context: &Context, client: &Client, wish: &Wish, verb: &str) -> Outcome {
    let body = json!({ "reason": wish.reason });
    let answer = client.post(&["v1", "sweeps", &wish.sweep, verb], &body).await?;
    context.out.either(&answer, || {
        let state = answer.get("state").and_then(Value::as_str).unwrap_or_default();
        format!("{GOOD}{state}{GOOD:#} {DIM}{}{DIM:#}", wish.sweep)
    })?;
    Ok(Exit::Done)
}

fn of_all(told: u64, all: Option<u64>) -> String {
    all.map_or_else(|| told.to_string(), |all| format!("{told} of {all}"))
}

fn row(view: &View) -> Vec<String> {
    vec![
        view.id.clone(),
        view.service.clone(),
        view.state.clone(),
        of_all(view.told, view.runs),
        view.moved.to_string(),
        instant_text(view.created_at),
        shorten(&view.cause, 60),
    ]
}

fn shown(view: &View, runs: &[Value]) -> String {
    let mut lines = vec![
        format!("{STRONG}{}{STRONG:#} {DIM}{}{DIM:#}", view.id, view.state),
        format!("service  {}", view.service),
        format!("cause    {}", view.cause),
        format!(
            "told     {} at {} a second",
            of_all(view.told, view.runs),
            view.rate
        ),
        format!(
            "moved    {}, {} had nothing to do, {} missed",
            view.moved, view.still, view.missed
        ),
        format!("created  {}", instant_text(view.created_at)),
    ];
    if view.ended_at.is_some() {
        lines.push(format!("ended    {}", instant_text(view.ended_at)));
    }
    if let Some(reason) = &view.reason {
        lines.push(format!("reason   {reason}"));
    }
    for rule in &view.rules {
        lines.push(format!("rule     {rule}"));
    }
    for run in runs {
        let text = |name: &str| run.get(name).and_then(Value::as_str).unwrap_or_default();
        lines.push(format!("{:<8} {}", text("outcome"), text("run")));
    }
    lines.join("\n")
}
