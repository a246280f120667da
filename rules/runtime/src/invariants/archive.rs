//! Archived runs: each in one place only, and readable there.

use celesta_store::{Cell, QueryError, Snapshot};
use celesta_types::RunId;

use super::artifacts::Named;
use super::versions::digest;
use super::{Blobs, Findings, Invariant};
use crate::archive::read_frame;

/// Rows read at once.
const ROWS: usize = 500;

/// Looks at each archived run; whole when artifacts are read whole.
pub(super) async fn check(
    snapshot: &mut Snapshot,
    blobs: Option<Blobs<'_>>,
    named: &mut Named,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let sql = "SELECT run, artifact, at, bytes, EXISTS (SELECT 1 FROM runs WHERE id = a.run) FROM archived AS a \
               WHERE run > ? ORDER BY run LIMIT ?";
    let limit = i64::try_from(ROWS).unwrap_or(i64::MAX);
    let mut after = RunId::from_bits(0);
    loop {
        let rows = snapshot
            .fetch(sql, &[Cell::Id(after.to_bytes()), limit.into()])
            .await?;
        for row in &rows {
            let Some(run) = row.blob(0).and_then(RunId::from_bytes) else {
                findings.report(Invariant::Archive, "an archived run", "its id has not 16 bytes");
                return Ok(());
            };
            after = run;
            if row.int(4) != Some(0) {
                let found = "it stands both among the runs and in the archive";
                findings.report(Invariant::RunRow, run, found);
            }
            let number = |at| row.int(at).and_then(|value| u64::try_from(value).ok());
            let (Some(artifact), Some(at), Some(bytes)) = (digest(row, 1), number(2), number(3)) else {
                findings.report(Invariant::Archive, run, "its place in the archive cannot be read");
                continue;
            };
            named.add(artifact, || format!("{run} in the archive"));
            let Some(blobs) = blobs.filter(|blobs| blobs.hash) else {
                continue;
            };
            // A segment that is gone or changed is said once, with the artifacts.
            if let Ok(Some(_)) = blobs.artifacts.path(&artifact).await
                && let Err(found) = read_frame(blobs.artifacts, run, &artifact, at, bytes).await
            {
                findings.report(Invariant::Archive, run, found);
            }
        }
        if rows.len() < ROWS {
            return Ok(());
        }
    }
}
