//! `celesta node ls`: the nodes of a deployment and what they own.

use clap::{Args, Subcommand};
use serde_json::Value;

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
    /// List the nodes, and the partitions with their owners and epochs
    #[command(visible_alias = "list")]
    Ls,
}

/// Does what was asked.
pub(crate) async fn run(context: &Context, args: NodeArgs) -> Outcome {
    let Action::Ls = args.action;
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
