//! `celesta node`: the nodes of a deployment, what they own and where that is.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use crate::exit::{Exit, Outcome};
use crate::output::table;

/// Options of `node`.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the nodes, and the partitions with their databases, owners and epochs
    #[command(visible_alias = "list")]
    Ls,
    /// Bring a partition into another database; requests about it wait meanwhile
    Move {
        /// The partition's number
        #[arg(value_name = "PARTITION")]
        partition: u32,
        /// The database's name, as nodes were told it; `main` is the one of --store
        #[arg(long, value_name = "NAME")]
        to: String,
    },
}

/// Does what was asked.
pub(crate) async fn run(context: &Context, args: NodeArgs) -> Outcome {
    match args.action {
        Action::Ls => list(context).await,
        Action::Move { partition, to } => relocate(context, partition, &to).await,
    }
}

async fn relocate(context: &Context, partition: u32, to: &str) -> Outcome {
    let (client, out) = (context.client()?, context.out);
    let number = partition.to_string();
    let path = ["v1", "nodes", "partitions", number.as_str(), "move"];
    let answer = client.post(&path, &json!({ "to": to })).await?;
    out.json(&answer)?;
    if answer["moving"] == true {
        out.line(format_args!(
            "partition {partition} is on its way to {to}; `celesta node ls` shows when it is there"
        ))?;
    } else {
        out.line(format_args!("partition {partition} is in {to} already"))?;
    }
    Ok(Exit::Done)
}

async fn list(context: &Context) -> Outcome {
    let (client, out) = (context.client()?, context.out);
    let answer = client.get(&["v1", "nodes"], &[]).await?;
    out.json(&answer)?;
    let rows = |key: &str, columns: &[&str]| -> Vec<Vec<String>> {
        let list = answer[key].as_array().into_iter().flatten();
        list.map(|row| columns.iter().map(|column| text(&row[*column])).collect())
            .collect()
    };
    let columns = ["name", "address", "release", "alive", "leaving", "partitions"];
    let nodes = rows("nodes", &columns);
    if nodes.is_empty() {
        out.line("one node on its own")?;
        return Ok(Exit::Done);
    }
    out.line(table(&columns, &nodes))?;
    let columns = ["partition", "database", "node", "epoch", "lease_ms"];
    out.line(table(&columns, &rows("partitions", &columns)))?;
    for row in answer["partitions"].as_array().into_iter().flatten() {
        let (partition, moving, problem) = (&row["partition"], &row["moving_to"], &row["problem"]);
        if let Some(to) = moving.as_str() {
            out.line(format_args!("partition {partition} is on its way to {to}"))?;
        } else if let Some(problem) = problem.as_str() {
            out.line(format_args!("partition {partition} was not moved: {problem}"))?;
        }
    }
    Ok(Exit::Done)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "nobody".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
