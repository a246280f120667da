//! Releases, canaries, and the versions that runs have left.

use celesta_store::{QueryError, Snapshot};
use celesta_types::{Digest, RunId};

use super::versions::{Versions, digest};
use super::{Findings, Invariant};

/// Looks at the releases and canaries of every service.
pub(super) async fn check(
    snapshot: &mut Snapshot,
    versions: &Versions,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let sql = "SELECT r.service, r.number, r.digest, s.digest FROM releases AS r \
               LEFT JOIN services AS s ON s.name = r.service ORDER BY r.service, r.number";
    let rows = snapshot.fetch(sql, &[]).await?;
    for (at, row) in rows.iter().enumerate() {
        let service = row.text(0).unwrap_or_default();
        let number = row.int(1).unwrap_or(0);
        let place = || format!("release {number} of `{service}`");
        let before = at.checked_sub(1).map(|at| &rows[at]);
        let before = before.filter(|before| before.text(0) == row.text(0));
        let expected = before.and_then(|before| before.int(1)).unwrap_or(0) + 1;
        if number != expected {
            findings.report(
                Invariant::Release,
                place(),
                format!("release {expected} is missing"),
            );
        }
        let version = digest(row, 2);
        check_version(versions, version, &place(), findings);
        let is_last = rows.get(at + 1).is_none_or(|next| next.text(0) != row.text(0));
        if is_last && version != digest(row, 3) {
            let found = "it is the last one, and new runs follow another version";
            findings.report(Invariant::Release, place(), found);
        }
    }
    let sql = "SELECT c.service, c.digest, c.percent, (SELECT count(*) FROM services WHERE name = c.service) \
               FROM canaries AS c";
    for row in snapshot.fetch(sql, &[]).await? {
        let place = format!("the canary of `{}`", row.text(0).unwrap_or_default());
        check_version(versions, digest(&row, 1), &place, findings);
        if !(0..=100).contains(&row.int(2).unwrap_or(-1)) {
            findings.report(Invariant::Release, &place, "its share is not 0 to 100 percent");
        }
        if row.int(3) == Some(0) {
            findings.report(Invariant::Release, &place, "there is no such service");
        }
    }
    Ok(())
}

fn check_version(versions: &Versions, version: Option<Digest>, place: &str, findings: &mut Findings) {
    match version {
        Some(version) if versions.has(&version) => {}
        Some(version) => {
            let found = format!("its version {version} does not exist");
            findings.report(Invariant::Release, place, found);
        }
        None => findings.report(Invariant::Release, place, "it names no version"),
    }
}

/// Looks at what says which versions runs have left.
pub(super) async fn check_upgrades(
    snapshot: &mut Snapshot,
    versions: &Versions,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let sql = "SELECT run, seq, origin, (SELECT count(*) FROM runs WHERE id = u.run) \
               + (SELECT count(*) FROM archived WHERE run = u.run) FROM upgrades AS u";
    for row in snapshot.fetch(sql, &[]).await? {
        let run = row.blob(0).and_then(RunId::from_bytes);
        let name = run.map_or_else(|| "no run".to_owned(), |run| run.to_string());
        let place = format!("the move of {name} in turn {}", row.int(1).unwrap_or(0));
        if row.int(3) == Some(0) {
            findings.report(Invariant::Release, &place, "the run does not exist");
        }
        check_version(versions, digest(&row, 2), &place, findings);
    }
    Ok(())
}
