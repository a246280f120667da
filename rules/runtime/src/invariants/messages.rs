//! The queue's rows: readable, of a queue, of a run.

use std::collections::{HashMap, HashSet};

use celesta_functions::Invocation;
use celesta_functions::names::{RUNS_QUEUE, parse_function_queue};
use celesta_queue::inspect::{StoredMessage, stored_later, stored_messages, stored_queues};
use celesta_store::{Cell, QueryError, Snapshot};
use celesta_types::wire::Reader;
use celesta_types::{MessageId, RunId};

use super::between::Between;
use super::{Findings, Invariant};
use crate::gate::Passage;
use crate::message::HostMessage;

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
    /// Keys, of runs and of gates, that have messages.
    keys: HashSet<u128>,
    /// Runs that stand at a gate.
    at_gates: HashSet<RunId>,
    /// Whether the queue was read at all.
    is_known: bool,
}

impl Waiting {
    /// Whether the message is there and has not ended; `true` when nobody can tell.
    pub(super) fn has(&self, message: MessageId) -> bool {
        !self.is_known || self.ids.contains(&message)
    }

    /// Whether the run stands at a gate; `true` when nobody can tell.
    pub(super) fn is_at_a_gate(&self, run: RunId) -> bool {
        !self.is_known || self.at_gates.contains(&run)
    }

    /// Whether the key has messages; `true` when nobody can tell.
    pub(super) fn has_key(&self, key: u128) -> bool {
        !self.is_known || self.keys.contains(&key)
    }

    /// Whether anything is on its way to the run; `true` when nobody can tell.
    pub(super) fn tells(&self, run: RunId) -> bool {
        !self.is_known || self.told.contains(&run)
    }
}

/// Reads all rows of the queue, if they are known.
pub(super) async fn check(
    snapshot: &mut Snapshot,
    is_known: bool,
    between: &mut Between,
    findings: &mut Findings,
) -> Result<Waiting, QueryError> {
    let mut waiting = Waiting {
        is_known,
        ..Waiting::default()
    };
    if !waiting.is_known {
        return Ok(waiting);
    }
    for row in snapshot.fetch("SELECT passage FROM places", &[]).await? {
        let passage = Passage::read(&mut Reader::new(row.blob(0).unwrap_or_default()));
        waiting.at_gates.extend(passage.map(|passage| passage.run));
    }
    let mut queues = HashMap::new();
    for (number, name) in stored_queues(snapshot).await? {
        match name {
            Ok(name) => drop(queues.insert(number, name.as_str().to_owned())),
            Err(reason) => findings.report(Invariant::MessageRow, format!("queue {number}"), reason),
        }
    }
    let sql =
        "SELECT seq FROM queue_later AS later WHERE EXISTS (SELECT 1 FROM queue_rows WHERE seq = later.seq)";
    for row in snapshot.fetch(sql, &[]).await? {
        let place = format!("message in row {}", row.int(0).unwrap_or(0));
        findings.report(
            Invariant::FarTimer,
            place,
            "it stands among those that are near, too",
        );
    }
    for is_later in [false, true] {
        let kind = if is_later {
            Invariant::FarTimer
        } else {
            Invariant::MessageRow
        };
        let mut after = i64::MIN;
        loop {
            let messages = if is_later {
                stored_later(snapshot, after, ROWS).await?
            } else {
                stored_messages(snapshot, after, ROWS).await?
            };
            let Some(last) = messages.last() else { break };
            after = match last {
                Ok(message) => message.seq,
                Err(damaged) => damaged.seq,
            };
            for message in messages {
                findings.messages += 1;
                match message {
                    Ok(message) => take(&message, &queues, &mut waiting, between, findings),
                    Err(damaged) => {
                        let place = format!("message in row {}", damaged.seq);
                        findings.report(kind, place, damaged.reason);
                    }
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
    between: &mut Between,
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
    waiting.keys.extend(message.key.map(|key| key.bits()));
    if queue == RUNS_QUEUE {
        match message.key {
            // A gate has the key; the run inside is told when it has passed.
            Some(key) if HostMessage::is_for_gate(&message.payload) => {
                let read = HostMessage::read(&message.payload);
                if let Some(HostMessage::Enter(passage)) = &read {
                    waiting.told.insert(passage.run);
                }
                between.comes_to(key.bits(), read.as_ref());
            }
            Some(_) if HostMessage::is_copy(&message.payload) => between.copies(&message.payload),
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
        let mut known = HashSet::new();
        // Messages to an archived run are late, and dropped when they come.
        for (id, table) in [("id", "runs"), ("run", "archived")] {
            let sql = format!("SELECT {id} FROM {table} WHERE {id} IN ({places})");
            let rows = snapshot.fetch(&sql, &cells).await?;
            known.extend(rows.iter().filter_map(|row| RunId::from_bytes(row.blob(0)?)));
        }
        for (run, seq) in part.iter().filter(|(run, _)| !known.contains(run)) {
            let found = format!("it is of {run}, which does not exist");
            findings.report(Invariant::MessageOrphan, format!("message in row {seq}"), found);
        }
    }
    Ok(())
}
