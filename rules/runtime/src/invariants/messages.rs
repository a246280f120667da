//! The queue's rows: readable, of a queue, of a run.

use std::collections::{HashMap, HashSet};

use celesta_functions::Invocation;
use celesta_functions::names::{RUNS_QUEUE, parse_function_queue};
use celesta_queue::inspect::{StoredMessage, stored_messages, stored_queues};
use celesta_store::{Cell, QueryError, Snapshot};
use celesta_types::{MessageId, RunId};

use super::{Findings, Invariant};

/// Rows read at once.
const ROWS: usize = 5_000;
/// Runs looked up at once.
const RUNS: usize = 500;

/// What is under way to runs and functions.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Messages that have not ended.
    ids: HashSet<MessageId>,
    /// Runs to which a message is on its way.
    told: HashSet<RunId>,
    /// Runs whose messages or calls there are, and one of their rows.
    runs: HashMap<RunId, i64>,
    /// Whether the queue was read at all.
    is_known: bool,
}

impl Waiting {
    /// Whether the message is there and has not ended; `true` when nobody can tell.
    pub(super) fn has(&self, message: MessageId) -> bool {
        !self.is_known || self.ids.contains(&message)
    }

    /// Whether anything is on its way to the run; `true` when nobody can tell.
    pub(super) fn tells(&self, run: RunId) -> bool {
        !self.is_known || self.told.contains(&run)
    }
}

/// Reads all rows of the queue.
pub(super) async fn check(snapshot: &mut Snapshot, findings: &mut Findings) -> Result<Waiting, QueryError> {
    let mut waiting = Waiting {
        is_known: snapshot.is_file(),
        ..Waiting::default()
    };
    if !waiting.is_known {
        return Ok(waiting);
    }
    let mut queues = HashMap::new();
    for (number, name) in stored_queues(snapshot).await? {
        match name {
            Ok(name) => drop(queues.insert(number, name.as_str().to_owned())),
            Err(reason) => findings.report(Invariant::MessageRow, format!("queue {number}"), reason),
        }
    }
    let mut after = i64::MIN;
    loop {
        let messages = stored_messages(snapshot, after, ROWS).await?;
        let Some(last) = messages.last() else { break };
        after = match last {
            Ok(message) => message.seq,
            Err(damaged) => damaged.seq,
        };
        for message in messages {
            findings.messages += 1;
            match message {
                Ok(message) => take(&message, &queues, &mut waiting, findings),
                Err(damaged) => {
                    let place = format!("message in row {}", damaged.seq);
                    findings.report(Invariant::MessageRow, place, damaged.reason);
                }
            }
        }
    }
    Ok(waiting)
}

fn take(
    message: &StoredMessage,
    queues: &HashMap<i64, String>,
    waiting: &mut Waiting,
    findings: &mut Findings,
) {
    let place = || format!("message {} in row {}", message.id, message.seq);
    let Some(queue) = queues.get(&message.queue) else {
        let found = format!("its queue {} does not exist", message.queue);
        findings.report(Invariant::MessageRow, place(), found);
        return;
    };
    if message.state.is_ended() {
        return;
    }
    waiting.ids.insert(message.id);
    if queue == RUNS_QUEUE {
        match message.key {
            Some(key) => {
                let run = RunId::from_bits(key.bits());
                waiting.told.insert(run);
                waiting.runs.entry(run).or_insert(message.seq);
            }
            None => findings.report(
                Invariant::MessageRow,
                place(),
                "a message to a run without its key",
            ),
        }
    } else if parse_function_queue(queue).is_some() {
        match Invocation::decode(&message.payload) {
            Ok(invocation) => {
                waiting.runs.entry(invocation.run).or_insert(message.seq);
            }
            Err(error) => findings.report(Invariant::MessageRow, place(), error),
        }
    }
}

/// Each message is of a run that exists.
pub(super) async fn check_orphans(
    snapshot: &mut Snapshot,
    waiting: &Waiting,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let mut runs: Vec<(RunId, i64)> = waiting.runs.iter().map(|(run, seq)| (*run, *seq)).collect();
    runs.sort_unstable();
    for part in runs.chunks(RUNS) {
        let cells: Vec<Cell> = part.iter().map(|(run, _)| Cell::Id(run.to_bytes())).collect();
        let places = vec!["?"; part.len()].join(",");
        let sql = format!("SELECT id FROM runs WHERE id IN ({places})");
        let rows = snapshot.fetch(&sql, &cells).await?;
        let known: HashSet<RunId> = rows
            .iter()
            .filter_map(|row| RunId::from_bytes(row.blob(0)?))
            .collect();
        for (run, seq) in part.iter().filter(|(run, _)| !known.contains(run)) {
            let found = format!("it is of {run}, which does not exist");
            findings.report(Invariant::MessageOrphan, format!("message in row {seq}"), found);
        }
    }
    Ok(())
}
