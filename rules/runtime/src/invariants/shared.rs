//! Shared facts, the index of the runs they may concern, and sweeps.

use celesta_engine::WorkingMemory;
use celesta_store::{Cell, QueryError, Row, Snapshot};
use celesta_types::RunId;
use serde_json::{Map, Value};

use super::{Findings, Invariant};
use crate::head::RunHead;
use crate::shared::{SHARED_VERSIONS_KEPT, keys};
use crate::sweep::{SWEEP_COLUMNS, Selection, StoredSweep};

/// Keys looked up at once.
const KEYS: usize = 500;

/// Looks at everything that is a service's as a whole.
pub(super) async fn check(snapshot: &mut Snapshot, findings: &mut Findings) -> Result<(), QueryError> {
    let services = snapshot
        .fetch("SELECT DISTINCT service FROM shared_facts", &[])
        .await?;
    for service in services.iter().filter_map(|row| row.text(0)) {
        check_facts(snapshot, service, findings).await?;
    }
    let sql = "SELECT service, shape FROM interest_shapes";
    for row in snapshot.fetch(sql, &[]).await? {
        let read = row
            .text(1)
            .and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
        if read.is_none_or(|parts| parts.is_empty()) {
            let place = format!("a shape of `{}`", row.text(0).unwrap_or_default());
            findings.report(Invariant::Interest, place, "it is no type with its fields");
        }
    }
    let sql = "SELECT DISTINCT run FROM interests AS i WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = i.run) \
               AND NOT EXISTS (SELECT 1 FROM archived WHERE run = i.run)";
    for row in snapshot.fetch(sql, &[]).await? {
        let run = row.blob(0).and_then(RunId::from_bytes);
        let place = run.map_or_else(|| "no run".to_owned(), |run| run.to_string());
        findings.report(
            Invariant::Interest,
            place,
            "it stands in the index and does not exist",
        );
    }
    check_sweeps(snapshot, findings).await
}

/// The kept versions of a service's shared facts.
async fn check_facts(
    snapshot: &mut Snapshot,
    service: &str,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let sql = "SELECT fact, version, revision, fact_type, fields FROM shared_facts WHERE service = ? \
               ORDER BY fact, version";
    let rows = snapshot.fetch(sql, &[service.into()]).await?;
    let mut kept = 0;
    for (at, row) in rows.iter().enumerate() {
        let place = || {
            let (fact, version) = (row.int(0).unwrap_or(0), row.int(1).unwrap_or(0));
            format!("version {version} of shared fact {fact} of `{service}`")
        };
        let fields = row.text(4).map(serde_json::from_str::<Map<String, Value>>);
        if let Some(Err(error)) = fields {
            let found = format!("its fields cannot be read: {error}");
            findings.report(Invariant::SharedFact, place(), found);
        }
        if row.int(0).is_none_or(|fact| fact < 1) || row.int(1).is_none_or(|version| version < 1) {
            findings.report(
                Invariant::SharedFact,
                place(),
                "facts and versions are counted from 1",
            );
        }
        let before = at.checked_sub(1).map(|at| &rows[at]);
        let Some(before) = before.filter(|before| before.int(0) == row.int(0)) else {
            kept = 1;
            continue;
        };
        kept += 1;
        if let Some(found) = follows(before, row) {
            findings.report(Invariant::SharedFact, place(), found);
        }
        if kept == SHARED_VERSIONS_KEPT + 2 {
            let found = format!("more than {SHARED_VERSIONS_KEPT} versions before the last are kept");
            findings.report(Invariant::SharedFact, place(), found);
        }
    }
    Ok(())
}

/// Why a version cannot come right after the one before it.
fn follows(before: &Row, row: &Row) -> Option<String> {
    let next = before.int(1).map(|version| version + 1);
    if row.int(1) != next {
        return Some(format!("version {} is missing", next.unwrap_or(0)));
    }
    if row.int(2) <= before.int(2) {
        let revision = before.int(2).unwrap_or(0);
        return Some(format!(
            "it is not later than revision {revision}, of the version before"
        ));
    }
    if row.text(3) != before.text(3) {
        let type_before = before.text(3).unwrap_or_default();
        return Some(format!("the version before is a `{type_before}`"));
    }
    before
        .text(4)
        .is_none()
        .then(|| "the version before says that the fact was retracted".to_owned())
}

/// A run stands in the index under each key that its facts make.
pub(super) async fn check_interests(
    snapshot: &mut Snapshot,
    head: &RunHead,
    memory: &WorkingMemory,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    // What has seen no shared facts was written by a release without an index.
    if memory.shared_seen().is_none() {
        return Ok(());
    }
    let mut keys = keys(&head.service, memory);
    keys.dedup();
    for part in keys.chunks(KEYS) {
        let places = vec!["?"; part.len()].join(",");
        let sql = format!("SELECT count(*) FROM interests WHERE run = ? AND key IN ({places})");
        let mut cells = vec![Cell::Id(head.run.to_bytes())];
        cells.extend(part.iter().map(|key| Cell::from(*key)));
        let rows = snapshot.fetch(&sql, &cells).await?;
        let found = rows.first().and_then(|row| row.int(0)).unwrap_or(0);
        let wanted = i64::try_from(part.len()).unwrap_or(i64::MAX);
        if found != wanted {
            let found = format!("{} of its {wanted} keys are not in the index", wanted - found);
            findings.report(Invariant::Interest, head.run, found);
        }
    }
    Ok(())
}

async fn check_sweeps(snapshot: &mut Snapshot, findings: &mut Findings) -> Result<(), QueryError> {
    let sql = format!("SELECT {SWEEP_COLUMNS} FROM sweeps ORDER BY id");
    for row in snapshot.fetch(&sql, &[]).await? {
        let Some(sweep) = StoredSweep::read(&row) else {
            let place = format!("a sweep of `{}`", row.text(1).unwrap_or_default());
            let found = "its row holds what no release writes (plan, state or counts)";
            findings.report(Invariant::Sweep, place, found);
            continue;
        };
        let view = &sweep.view;
        if view.state.is_ended() != view.ended_at.is_some() {
            let found = format!("its state {:?} and its end do not agree", view.state);
            findings.report(Invariant::Sweep, view.id, found);
        }
        if view.told != view.moved + view.still + view.missed {
            let found = format!(
                "it has told {} runs, of which {} moved, {} stood still and {} were missed",
                view.told, view.moved, view.still, view.missed
            );
            findings.report(Invariant::Sweep, view.id, found);
        }
        let keys = match &sweep.plan.selection {
            Selection::Interests { keys, .. } => keys.len(),
            Selection::Runs(_) => 1,
        };
        if sweep.place.key > keys {
            let found = format!("it stands at key {} of {keys}", sweep.place.key);
            findings.report(Invariant::Sweep, view.id, found);
        }
    }
    let sql = "SELECT run, outcome FROM swept WHERE outcome NOT IN (0, 1, 2)";
    for row in snapshot.fetch(sql, &[]).await? {
        let run = row.blob(0).and_then(RunId::from_bytes);
        let place = run.map_or_else(|| "no run".to_owned(), |run| run.to_string());
        let found = format!("what became of it in a sweep is {}", row.int(1).unwrap_or(0));
        findings.report(Invariant::Sweep, place, found);
    }
    Ok(())
}
