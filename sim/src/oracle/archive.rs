//! What must hold of runs in the archive: they are read as they were before, by the same questions.

use std::collections::BTreeMap;

use celesta_runs::RunView;
use celesta_store::driven::Record;
use celesta_types::RunId;
use serde_json::{Value, json};

use super::Row;
use crate::clients::TRY;
use crate::node::Node;
use crate::workloads::{ARCHIVED, MAIN};

/// Turns and facts of a run that are read: more than any has.
const READ_MAX: usize = 500;

/// Everything that people may read of runs that are to be archived.
#[derive(Debug, Default)]
pub(crate) struct Before(BTreeMap<RunId, Value>);

impl Before {
    /// Reads the finished runs that are not archived yet.
    pub(crate) fn read(node: &Node, record: &Record) -> Result<Self, String> {
        let sql =
            "SELECT id FROM runs WHERE service = ? AND operation = ? AND ended_at IS NOT NULL ORDER BY id";
        let rows = record.fetch(sql, &[MAIN.into(), ARCHIVED.into()]);
        let rows = rows.map_err(|error| error.to_string())?;
        let runs = rows.iter().filter_map(|row| RunId::from_bytes(row.blob(0)?));
        let read = runs.map(|run| Ok((run, read(node, run)?)));
        read.collect::<Result<_, String>>().map(Self)
    }

    /// All of them are archived, and read as they were.
    pub(crate) fn differs(&self, node: &Node, record: &Record) -> Vec<String> {
        let archived = archived(record);
        let differs = self.0.iter().filter_map(|(run, before)| {
            if !archived.contains(run) {
                return Some(format!("{run} was finished long ago and is not archived"));
            }
            match read(node, *run) {
                Ok(after) if after == *before => None,
                Ok(after) => Some(format!(
                    "{run} is read from the archive as {after}, and was {before}"
                )),
                Err(reason) => Some(format!("{run} cannot be read from the archive: {reason}")),
            }
        });
        differs.collect()
    }
}

/// The runs of the archive.
fn archived(record: &Record) -> Vec<RunId> {
    let rows = record.fetch("SELECT run FROM archived ORDER BY run", &[]);
    let rows = rows.unwrap_or_default();
    rows.iter()
        .filter_map(|row| RunId::from_bytes(row.blob(0)?))
        .collect()
}

fn read(node: &Node, run: RunId) -> Result<Value, String> {
    let missing = || format!("there is no {run}");
    let view = node
        .now(node.runtime.run(run))
        .map_err(|error| error.to_string())?;
    let view = RunView {
        archived: false,
        ..view.ok_or_else(missing)?
    };
    let facts = node.now(node.runtime.facts(run, None, 0, READ_MAX));
    let facts = facts.map_err(|error| error.to_string())?.ok_or_else(missing)?;
    let turns = node.now(node.runtime.history(run, 0, READ_MAX));
    let turns = turns.map_err(|error| error.to_string())?.ok_or_else(missing)?;
    Ok(json!({ "run": view, "facts": facts.rows, "turns": turns }))
}

/// The rows of archived runs, as they are read.
pub(super) fn rows(node: &Node, record: &Record) -> Result<Vec<Row>, String> {
    let rows = archived(record).into_iter().map(|run| {
        let view = node
            .now(node.runtime.run(run))
            .map_err(|error| error.to_string())?;
        let view = view.ok_or_else(|| format!("{run} is archived and is not there"))?;
        let input = view.input.as_ref().map_or("null", |input| input.get());
        Ok(Row {
            run,
            input: serde_json::from_str(input).map_err(|error| error.to_string())?,
            tried: view.labels.get(TRY).and_then(|tried| tried.parse().ok()),
            result: view.result.map(|result| result.get().to_owned()),
            service: view.service,
            operation: view.operation,
            version: view.version,
            state: view.state,
            emitter: None,
            made_from: None,
            is_child: false,
            is_archived: true,
            error: view.error,
        })
    });
    rows.collect()
}
