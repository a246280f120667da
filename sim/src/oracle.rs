//! The verdict: what stands in the record after everything has come to rest, compared with what clients were promised and
//! what workers have said.

mod archive;
mod bulk;
mod gates;
mod journal;
mod lanes;
mod orders;
mod over;
mod shared;
mod sweeps;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use celesta_functions::names::RUNS_QUEUE;
use celesta_queue::{Filter, Key, QueueName};
use celesta_runs::RunState;
use celesta_runs::invariants::{Blobs, check};
use celesta_store::driven::Record;
use celesta_types::{Digest, RunId};
use serde_json::Value;

pub(crate) use self::archive::Before;
use self::bulk::Reached;
use self::lanes::Lanes;
use self::orders::Pauses;
use self::over::MadeFrom;
use self::shared::Standing;
use self::versions::Versions;
use crate::clients::{EMITTER, Known, Model, Note, TRY, Try};
use crate::node::{Node, function_queues, own_queues};
use crate::workers::Said;
use crate::workloads::{Ended, WORKLOADS};

/// Violations of one seed: one tells as much as a hundred.
const VIOLATIONS_MAX: usize = 20;
/// Facts read at once.
const FACTS: usize = 500;

/// What the verdict is made from.
pub(crate) struct View<'a> {
    pub(crate) node: &'a mut Node,
    pub(crate) record: &'a Record,
    pub(crate) model: &'a mut Model,
    pub(crate) said: &'a Said,
}

/// A run's row.
#[derive(Debug)]
struct Row {
    run: RunId,
    service: String,
    operation: String,
    version: Digest,
    state: RunState,
    tried: Option<usize>,
    /// The run that has emitted the event which began it.
    emitter: Option<RunId>,
    /// The run that was done over or repeated as this one.
    made_from: Option<MadeFrom>,
    is_child: bool,
    is_archived: bool,
    input: Value,
    result: Option<String>,
    error: Option<String>,
}

/// Adds every broken promise to the model's violations.
pub(crate) fn judge(view: &mut View<'_>) {
    let mut broken = Vec::new();
    let rows = rows(view.record).and_then(|mut rows| {
        rows.extend(archive::rows(view.node, view.record)?);
        Ok(rows)
    });
    let rows = match rows {
        Ok(rows) => rows,
        Err(reason) => {
            view.model.violations.push(reason);
            return;
        }
    };
    promised_runs(view.model, &rows, &mut broken);
    emitted_once(&rows, &mut broken);
    let lanes = Lanes::read(view.record);
    broken.extend(lanes.all_turned_away());
    broken.extend(lanes.out_of_turn(view.model));
    over::check(view.model, &rows, &mut broken);
    let pauses = Pauses::read(view.record, &mut broken);
    let mut reached = Reached::new();
    let standing = Standing::read(view.record, view.model, &mut broken);
    let versions = Versions::read(view.record);
    for row in &rows {
        let before = broken.len();
        let said = |what: String| format!("{} ({}, {}): {what}", row.run, row.operation, row.state);
        if !row.is_archived {
            let told = journal::check(view.record, row, &pauses, view.said);
            broken.extend(told.broken.into_iter().map(said));
            for actor in told.actors {
                *reached.entry(actor).or_default().entry(row.run).or_default() += 1;
            }
            if let Err(what) = over::stops_hold(view.node, row.run, &told.stops) {
                broken.push(said(what));
            }
            if let Err(what) = versions.are_right(row, &told.moves) {
                broken.push(said(what));
            }
        }
        if let Err(what) = run_is_right(view, row, &standing) {
            broken.push(said(what));
        }
        if broken.len() > before {
            broken.push(journal::told(view.record, row.run));
            broken.push(messages_of(view, row.run));
        }
        if broken.len() > VIOLATIONS_MAX {
            break;
        }
    }
    if broken.len() <= VIOLATIONS_MAX {
        bulk::check(view.record, view.model, &rows, &reached, &mut broken);
    }
    broken.truncate(VIOLATIONS_MAX);
    view.model.violations.extend(broken);
    is_sound(view, lanes);
}

/// What holds of every store at every instant holds of the record.
pub(crate) fn record_is_sound(view: &mut View<'_>) {
    let lanes = Lanes::read(view.record);
    is_sound(view, lanes);
}

fn is_sound(view: &mut View<'_>, lanes: Lanes) {
    let found = view.node.now(invariants(view));
    let found = found.unwrap_or_else(|error| vec![error]);
    let sweeps = sweeps::check(view.record);
    let broken = lanes.broken.into_iter().chain(sweeps).chain(found);
    let broken: Vec<String> = broken.take(VIOLATIONS_MAX).collect();
    view.model.violations.extend(broken);
}

/// The messages of a run that are left, whatever became of them.
fn messages_of(view: &View<'_>, run: RunId) -> String {
    let mut told = format!("  messages of {run}:");
    if let Ok(queue) = QueueName::new(RUNS_QUEUE) {
        let listed = view.node.now(
            view.node
                .queues
                .list(&queue, &Filter::default(), None, usize::MAX),
        );
        for message in listed.map(|page| page.messages).unwrap_or_default() {
            if message.key == Some(Key::from(run)) {
                write!(told, " {} {} at {:?}", message.id, message.state, message.at)
                    .expect("writing to a string");
            }
        }
    }
    told
}

/// What holds of every store, as `celesta doctor` checks it.
async fn invariants(view: &View<'_>) -> Result<Vec<String>, String> {
    let blobs = Blobs {
        artifacts: view.node.runtime.artifacts(),
        hash: false,
    };
    let findings = check(&mut view.record.snapshot(), blobs).await;
    let findings = findings.map_err(|error| error.to_string())?;
    Ok(findings.violations.iter().map(ToString::to_string).collect())
}

fn rows(record: &Record) -> Result<Vec<Row>, String> {
    let sql = "SELECT id, operation, state, labels, parent, input, result, error, service, version FROM runs ORDER BY id";
    let rows = record.fetch(sql, &[]).map_err(|error| error.to_string())?;
    let rows = rows.iter().map(|row| {
        let labels: BTreeMap<String, String> =
            serde_json::from_str(row.text(3).unwrap_or("{}")).unwrap_or_default();
        let is_child = row.blob(4).is_some();
        Some(Row {
            run: RunId::from_bytes(row.blob(0)?)?,
            service: row.text(8)?.to_owned(),
            version: versions::digest(row.blob(9)?)?,
            operation: row.text(1)?.to_owned(),
            state: RunState::from_code(row.int(2)?)?,
            // Children have their parents' labels.
            tried: labels
                .get(TRY)
                .filter(|_| !is_child)
                .and_then(|tried| tried.parse().ok()),
            emitter: labels.get(EMITTER).and_then(|run| run.parse().ok()),
            made_from: MadeFrom::of(&labels),
            is_child,
            is_archived: false,
            input: serde_json::from_slice(row.blob(5)?).ok()?,
            result: row
                .blob(6)
                .map(|result| String::from_utf8_lossy(result).into_owned()),
            error: row.text(7).map(str::to_owned),
        })
    });
    let read: Option<Vec<Row>> = rows.collect();
    read.ok_or_else(|| "a run's row cannot be read".to_owned())
}

/// No message is left that would go on, in the memory of a process that has read the record anew.
pub(crate) fn queues_are_empty(view: &mut View<'_>) {
    let own = own_queues().into_iter().flatten();
    for queue in own.chain(function_queues().unwrap_or_default()) {
        let depth = view.node.queues.depth(&queue);
        if depth > 0 {
            let left =
                format!("after everything came to rest {depth} messages of {queue} are left in the record");
            view.model.violations.push(left);
        }
    }
}

/// Each promised request has exactly one run, and nobody has one that was refused.
fn promised_runs(model: &Model, rows: &[Row], broken: &mut Vec<String>) {
    let mut by_try: BTreeMap<usize, Vec<RunId>> = BTreeMap::new();
    for row in rows
        .iter()
        .filter(|row| !row.is_child && row.emitter.is_none() && row.made_from.is_none())
    {
        match row.tried {
            Some(tried) if tried < model.tries.len() => by_try.entry(tried).or_default().push(row.run),
            _ => broken.push(format!("nobody has asked for {}", row.run)),
        }
    }
    let there: BTreeSet<RunId> = rows.iter().map(|row| row.run).collect();
    let mut by_request: BTreeMap<usize, BTreeSet<RunId>> = BTreeMap::new();
    for (number, tried) in model.tries.iter().enumerate() {
        let made = by_try.get(&number).map_or(&[][..], Vec::as_slice);
        by_request.entry(tried.request).or_default().extend(made);
        if made.len() > 1 {
            broken.push(format!("try {number} made {} runs: {made:?}", made.len()));
        }
        match (tried.known, tried.run) {
            (Known::Promised, Some(run)) if !there.contains(&run) => {
                broken.push(format!("{run} was promised to try {number} and is not there"));
            }
            (Known::Refused, _) if !made.is_empty() => {
                broken.push(format!("try {number} was refused and made {made:?}"));
            }
            _ => {}
        }
    }
    for (number, request) in model.requests.iter().enumerate() {
        let made = by_request.get(&number).map_or(0, BTreeSet::len);
        if request.key.is_some() && made > 1 {
            broken.push(format!("request {number} with its key made {made} runs"));
        }
        let is_promised = |tried: &Try| tried.request == number && tried.known == Known::Promised;
        if request.event.is_some() && made == 0 && model.tries.iter().any(is_promised) {
            broken.push(format!("the event of request {number} was taken and made no run"));
        }
    }
    for (run, known) in &model.canceled {
        let row = rows.iter().find(|row| row.run == *run);
        let state = row.map(|row| row.state);
        let may = [Some(RunState::Canceled), Some(RunState::Completed)];
        if *known == Known::Promised && !may.contains(&state) {
            broken.push(format!("the cancel of {run} was promised and it is {state:?}"));
        }
    }
}

/// What a run has emitted has begun one run.
fn emitted_once(rows: &[Row], broken: &mut Vec<String>) {
    let mut begun: BTreeMap<RunId, usize> = BTreeMap::new();
    for emitter in rows.iter().filter_map(|row| row.emitter) {
        *begun.entry(emitter).or_default() += 1;
    }
    for row in rows.iter().filter(|row| row.operation == "later") {
        let times = begun.remove(&row.run).unwrap_or(0);
        if times != usize::from(row.state == RunState::Completed) {
            broken.push(format!(
                "what {}, {}, has emitted has begun {times} runs",
                row.run, row.state
            ));
        }
    }
    if !begun.is_empty() {
        broken.push(format!(
            "runs were begun by events that nobody emitted: {begun:?}"
        ));
    }
}

/// What holds of one run beside its journal.
fn run_is_right(view: &View<'_>, row: &Row, standing: &Standing) -> Result<(), String> {
    let differs = view.node.now(view.node.runtime.differs_from_record(row.run));
    if let Some(how) = differs.map_err(|error| error.to_string())? {
        return Err(format!("what is in memory is not what is read again: {how}"));
    }
    let workload = WORKLOADS
        .iter()
        .find(|workload| workload.service == row.service && workload.operation == row.operation);
    let is_ended = match row.state {
        RunState::Completed => true,
        RunState::Canceled => return Ok(()),
        // A child that refuses fails always; and there are calls whose input no worker takes, tried again in vain.
        RunState::Failed => row.is_child || workload.is_some_and(|workload| workload.fails),
        // Of what refuses always nothing is left to do when it is tried again; of what had completed before it heard what it
        // is done over from, neither.
        RunState::Idle => {
            let had_completed = row.operation == "watch" && row.made_from.is_some_and(|from| from.is_restart);
            had_completed || (row.is_child && row.input["x"].as_i64().is_some_and(|x| x % 5 == 4))
        }
        RunState::Waiting | RunState::Running | RunState::Quarantined | RunState::Paused => false,
    };
    if !is_ended {
        return Err(format!("it has not come to its end: {:?}", row.error));
    }
    if let Some(seen) = view.model.seen.get(&row.run)
        && (row.state != RunState::Completed || *seen != row.result)
    {
        return Err(format!(
            "{seen:?} was seen as its result, which is {:?}",
            row.result
        ));
    }
    let Some(workload) = workload else {
        return Ok(());
    };
    let ended = Ended {
        input: row.input.clone(),
        result: row
            .result
            .as_ref()
            .and_then(|result| serde_json::from_str(result).ok())
            .unwrap_or(Value::Null),
        facts: facts(view, row.run)?,
    };
    if row.state == RunState::Completed {
        (workload.check)(&ended)?;
    }
    if row.operation == "watch" {
        standing.is_heard(view.model, &ended)?;
    }
    notes_are_right(view.model, row, workload.notes, &ended)
}

fn facts(view: &View<'_>, run: RunId) -> Result<Vec<(String, Value)>, String> {
    let mut facts = Vec::new();
    let mut after = 0;
    loop {
        let page = view.node.now(view.node.runtime.facts(run, None, after, FACTS));
        let page = page.map_err(|error| error.to_string())?;
        let page = page.ok_or("it is not there")?;
        for fact in &page.rows {
            after = fact.id;
            let value = serde_json::from_str(fact.value.get()).map_err(|error| error.to_string())?;
            facts.push((fact.fact_type.clone(), value));
        }
        if page.next.is_none() {
            return Ok(facts);
        }
    }
}

/// Each note that was promised is there once, and was counted once.
fn notes_are_right(model: &Model, row: &Row, counts: Option<&str>, ended: &Ended) -> Result<(), String> {
    let Some(counter) = counts else { return Ok(()) };
    let mut there: BTreeMap<i64, usize> = BTreeMap::new();
    for (_, note) in ended.facts.iter().filter(|(of, _)| of == "Note") {
        *there.entry(note["n"].as_i64().unwrap_or(-1)).or_default() += 1;
    }
    for (number, note) in model
        .notes
        .iter()
        .enumerate()
        .filter(|(_, note)| note.run == row.run)
    {
        let times = there.remove(&i64::try_from(number).unwrap_or(-1)).unwrap_or(0);
        let (least, most) = bounds(note);
        if times < least || times > most {
            return Err(format!(
                "note {number}, {:?}, is there {times} times; expected {least} to {most}",
                note.known
            ));
        }
        there.remove(&i64::try_from(number).unwrap_or(-1));
    }
    if let Some(from) = row.made_from {
        over::inherited(model, row, from, &mut there)?;
    }
    if !there.is_empty() {
        return Err(format!("notes that nobody has written: {there:?}"));
    }
    if row.state == RunState::Completed {
        let notes = ended.facts.iter().filter(|(of, _)| of == "Note").count();
        let fact = ended.facts.iter().find(|(of, _)| of == counter);
        let counted = fact.and_then(|(_, value)| value["noted"].as_i64());
        if counted.and_then(|counted| usize::try_from(counted).ok()) != Some(notes) {
            return Err(format!("{notes} notes are there and {counted:?} were counted"));
        }
    }
    Ok(())
}

/// How often a note may be there.
const fn bounds(note: &Note) -> (usize, usize) {
    match note.known {
        Known::Promised => (1, 1),
        Known::Refused => (0, 0),
        Known::Doubtful => (0, 1),
    }
}
