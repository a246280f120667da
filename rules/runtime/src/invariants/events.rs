//! Names of events, and the labels by which events find runs.

use celesta_store::{Cell, QueryError, Snapshot};
use celesta_types::RunId;
use serde_json::Value;

use super::{Findings, Invariant};

/// Rows read at once.
const ROWS: usize = 5_000;

/// Looks at all of them.
pub(super) async fn check(snapshot: &mut Snapshot, findings: &mut Findings) -> Result<(), QueryError> {
    let sql = "SELECT source, id FROM events WHERE source = '' OR id = '' OR received_at <= 0";
    for row in snapshot.fetch(sql, &[]).await? {
        let place = format!(
            "event `{}` of `{}`",
            row.text(1).unwrap_or_default(),
            row.text(0).unwrap_or_default()
        );
        findings.report(Invariant::Event, place, "it has no name, or came at no instant");
    }
    let sql = "SELECT c.service, c.label, c.value, c.run, r.service, r.labels, \
               (SELECT count(*) FROM archived WHERE run = c.run) \
               FROM correlations AS c LEFT JOIN runs AS r ON r.id = c.run \
               WHERE (c.service, c.label, c.value, c.run) > (?, ?, ?, ?) \
               ORDER BY c.service, c.label, c.value, c.run LIMIT ?";
    let limit = Cell::from(i64::try_from(ROWS).unwrap_or(i64::MAX));
    let mut after = ["".into(), "".into(), "".into(), Cell::Id([0; 16])];
    loop {
        let [service, label, value, run] = after.clone();
        let rows = snapshot
            .fetch(sql, &[service, label, value, run, limit.clone()])
            .await?;
        for row in &rows {
            let text = |at| row.text(at).unwrap_or_default();
            let Some(run) = row.blob(3).and_then(RunId::from_bytes) else {
                findings.report(Invariant::Event, "a label", "the id of its run has not 16 bytes");
                return Ok(());
            };
            after = [
                text(0).into(),
                text(1).into(),
                text(2).into(),
                Cell::Id(run.to_bytes()),
            ];
            let place = || format!("the label {}={} of {run}", text(1), text(2));
            if row.text(4).is_none() {
                if row.int(6) == Some(0) {
                    findings.report(Invariant::Event, place(), "the run does not exist");
                }
                continue;
            }
            let labels: Option<Value> = row.text(5).and_then(|labels| serde_json::from_str(labels).ok());
            let is_own = labels.is_some_and(|labels| labels[text(1)] == *text(2));
            if !is_own || text(4) != text(0) {
                findings.report(
                    Invariant::Event,
                    place(),
                    "the run has no such label, or is of another service",
                );
            }
        }
        if rows.len() < ROWS {
            return Ok(());
        }
    }
}
