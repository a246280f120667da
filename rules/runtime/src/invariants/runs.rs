//! Runs and their journals.

use celesta_engine::WorkingMemory;
use celesta_store::{Cell, QueryError, Snapshot};
use celesta_types::{MessageId, RunId};

use super::artifacts::Named;
use super::between::Between;
use super::messages::Waiting;
use super::versions::Versions;
use super::{Findings, Invariant, alike, follow};
use crate::head::{COLUMN_COUNT, COLUMNS, RunHead};
use crate::record::Record;
use crate::state::RunState;

/// Runs and records read at once.
const ROWS: i64 = 500;

/// Walks through every run and its journal.
pub(super) async fn check(
    snapshot: &mut Snapshot,
    waiting: &Waiting,
    versions: &mut Versions,
    named: &mut Named,
    between: &mut Between,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let mut after = [0; 16];
    let sql = format!("SELECT {COLUMNS}, input FROM runs WHERE id > ? ORDER BY id LIMIT ?");
    loop {
        let rows = snapshot.fetch(&sql, &[Cell::Id(after), ROWS.into()]).await?;
        for row in &rows {
            let Some(run) = row.blob(0).and_then(RunId::from_bytes) else {
                findings.report(Invariant::RunRow, "a run", "its id has not 16 bytes");
                continue;
            };
            after = run.to_bytes();
            findings.runs += 1;
            match RunHead::from_row(row) {
                Some(head) => {
                    between.add_run(&head);
                    named.add_all(row.blob(COLUMN_COUNT).unwrap_or_default(), || {
                        format!("the request of {run}")
                    });
                    named.add_all(row.blob(15).unwrap_or_default(), || {
                        format!("the result of {run}")
                    });
                    check_run(snapshot, &head, waiting, versions, named, between, findings).await?;
                }
                None => findings.report(
                    Invariant::RunRow,
                    run,
                    "its row holds what no release writes (state, priority, labels or version)",
                ),
            }
        }
        if rows.len() < usize::try_from(ROWS).unwrap_or(usize::MAX) {
            return Ok(());
        }
    }
}

/// What is kept of a journal while it is walked through.
struct Walk {
    last: u64,
    /// The state its records lead to; unknown when the first of them are gone.
    state: Option<RunState>,
    deltas: Vec<Vec<u8>>,
    is_whole: bool,
}

async fn check_run(
    snapshot: &mut Snapshot,
    head: &RunHead,
    waiting: &Waiting,
    versions: &mut Versions,
    named: &mut Named,
    between: &mut Between,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let run = head.run;
    if head.state.is_ended() != head.ended_at.is_some() {
        let found = if head.state.is_ended() {
            format!("it is {} without an end", head.state)
        } else {
            format!("it is {} and has an end", head.state)
        };
        findings.report(Invariant::State, run, found);
    }
    let sql = "SELECT seq, state FROM snapshots WHERE run = ?";
    let mut rows = snapshot.fetch(sql, &[Cell::Id(run.to_bytes())]).await?;
    let (from, state) = match rows.first_mut() {
        Some(row) => (row.int(0).unwrap_or(0), row.take_blob(1)),
        None => (0, None),
    };
    let from = u64::try_from(from).unwrap_or(0);
    let walk = walk(snapshot, head, from, named, findings).await?;
    if from > walk.last {
        let found = format!(
            "its snapshot is of turn {from}, its journal ends at turn {}",
            walk.last
        );
        findings.report(Invariant::Snapshot, run, found);
    }
    if let Some(state) = walk.state
        && walk.is_whole
        && !alike(state, head.state)
    {
        let found = format!("its row says {}, its journal {state}", head.state);
        findings.report(Invariant::State, run, found);
    }
    if !versions.has(&head.version) {
        let found = format!("its version {} does not exist", head.version);
        findings.report(Invariant::VersionMissing, run, found);
        return Ok(());
    }
    let rules = match versions.rules(snapshot, head.version, &head.workflow).await {
        Ok(Some(rules)) => rules,
        Ok(None) => return Ok(()),
        Err(found) => {
            findings.report(Invariant::VersionUnreadable, run, found);
            return Ok(());
        }
    };
    if !walk.is_whole {
        return Ok(());
    }
    let deltas = walk.deltas.iter().map(Vec::as_slice);
    match WorkingMemory::restore(&rules, run, state.as_deref(), deltas) {
        Ok(memory) => {
            check_awaited(snapshot, head, &memory, walk.last, waiting, between, findings).await?;
            // What no turn of it was seen of has not written its interests yet.
            if !walk.deltas.is_empty() {
                super::shared::check_interests(snapshot, head, &memory, findings).await?;
            }
        }
        Err(error) => findings.report(Invariant::Snapshot, run, error),
    }
    Ok(())
}

/// Reads the journal; `from` is the turn its snapshot is of.
async fn walk(
    snapshot: &mut Snapshot,
    head: &RunHead,
    from: u64,
    named: &mut Named,
    findings: &mut Findings,
) -> Result<Walk, QueryError> {
    let sql = "SELECT seq, record FROM journal WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?";
    let run = head.run;
    let first = if head.steering().gates.is_empty() {
        RunState::Running
    } else {
        RunState::Waiting
    };
    let mut walk = Walk {
        last: 0,
        state: Some(first),
        deltas: Vec::new(),
        is_whole: true,
    };
    let mut is_first = true;
    loop {
        let after = i64::try_from(walk.last).unwrap_or(i64::MAX);
        let cells = [Cell::Id(run.to_bytes()), after.into(), ROWS.into()];
        let rows = snapshot.fetch(sql, &cells).await?;
        for row in &rows {
            findings.records += 1;
            let seq = row.int(0).and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
            if is_first && seq > 1 && seq <= from + 1 {
                // Its beginning was compacted into the snapshot.
                walk.state = None;
            } else if seq != walk.last + 1 {
                let found = format!("turn {seq} follows turn {}", walk.last);
                findings.report(Invariant::JournalGap, run, found);
                walk.is_whole = false;
            }
            is_first = false;
            walk.last = seq;
            let bytes = row.blob(1).unwrap_or_default();
            named.add_all(bytes, || format!("turn {seq} of {run}"));
            match Record::decode(bytes) {
                Ok(record) => {
                    walk.state = walk.state.map(|state| follow(state, &record));
                    if seq > from && !record.delta.is_empty() {
                        walk.deltas.push(record.delta);
                    }
                }
                Err(error) => {
                    findings.report(Invariant::Record, format!("turn {seq} of {run}"), error);
                    walk.is_whole = false;
                }
            }
        }
        if rows.len() < usize::try_from(ROWS).unwrap_or(usize::MAX) {
            break;
        }
    }
    if is_first && from > 0 {
        (walk.last, walk.state) = (from, None);
    }
    Ok(walk)
}

/// A run that goes on is given what it waits for.
async fn check_awaited(
    snapshot: &mut Snapshot,
    head: &RunHead,
    memory: &WorkingMemory,
    last: u64,
    waiting: &Waiting,
    between: &mut Between,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let run = head.run;
    let open: Vec<_> = memory.open_calls().collect();
    if head.state == RunState::Idle && !open.is_empty() {
        let found = format!("it is idle and waits for {} calls", open.len());
        findings.report(Invariant::State, run, found);
    }
    if head.state == RunState::Waiting
        && !waiting.tells(run)
        && !waiting.is_at_a_gate(run)
        && !between.waits(head)
    {
        let found = "it waits for its turn and stands at none of its gates";
        findings.report(Invariant::Stuck, run, found);
    }
    if head.state != RunState::Running || waiting.tells(run) {
        return Ok(());
    }
    if open.is_empty() {
        let found = if last == 0 {
            "its request was never applied and no message brings it".to_owned()
        } else {
            "it is running, waits for nothing, and no message is on its way".to_owned()
        };
        findings.report(Invariant::Stuck, run, found);
    }
    for call in open {
        if waiting.has(MessageId::derived(run, call.call)) {
            continue;
        }
        let child = run.child(call.call);
        let sql = "SELECT state FROM runs WHERE id = ?";
        let rows = snapshot.fetch(sql, &[Cell::Id(child.to_bytes())]).await?;
        let state = rows.first().and_then(|row| RunState::from_code(row.int(0)?));
        let found = match state {
            Some(state) if !state.is_ended() || state == RunState::Quarantined => continue,
            Some(state) => format!(
                "it waits for call {} of {}, whose run {child} is {state} without an answer",
                call.call, call.target
            ),
            None => format!(
                "it waits for call {} of `{}`, of which there is no message",
                call.call, call.target
            ),
        };
        findings.report(Invariant::Stuck, run, found);
    }
    Ok(())
}

/// Rows that belong to runs which do not exist.
pub(super) async fn check_orphans(
    snapshot: &mut Snapshot,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let looks = [
        (
            Invariant::JournalOrphan,
            "SELECT run, 'journal of ' || count(*) || ' turns' FROM journal AS j \
             WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = j.run) GROUP BY run",
        ),
        (
            Invariant::JournalOrphan,
            "SELECT run, 'snapshot' FROM snapshots AS s WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = s.run)",
        ),
        (
            Invariant::IdempotencyOrphan,
            "SELECT run, 'key `' || key || '` of `' || service || '`' FROM idempotency AS i \
             WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = i.run) \
             AND NOT EXISTS (SELECT 1 FROM archived WHERE run = i.run)",
        ),
        (
            Invariant::ChildOrphan,
            "SELECT parent, id FROM runs AS child WHERE parent IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM runs WHERE id = child.parent) \
             AND NOT EXISTS (SELECT 1 FROM archived WHERE run = child.parent)",
        ),
    ];
    for (invariant, sql) in looks {
        for row in snapshot.fetch(sql, &[]).await? {
            let run = row.blob(0).and_then(RunId::from_bytes);
            let gone = run.map_or_else(|| "no run at all".to_owned(), |run| run.to_string());
            let place = match (row.text(1), row.blob(1).and_then(RunId::from_bytes)) {
                (Some(text), _) => text.to_owned(),
                (None, Some(run)) => run.to_string(),
                (None, None) => "a row".to_owned(),
            };
            findings.report(invariant, place, format!("it is of {gone}, which does not exist"));
        }
    }
    Ok(())
}
