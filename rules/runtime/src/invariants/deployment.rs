//! What many nodes share: the services in a schema of the main database, a schema for each partition there or in another
//! database, letters between them. Each database is looked at at an instant of its own, the main one last: so epochs and
//! versions found there are at least those that the others know of. A partition that is moved meanwhile may be missed.

use std::collections::BTreeMap;

use celesta_store::{Cell, Migration, QueryError, Snapshot};
use celesta_types::{Partition, RunId};

use super::{Blobs, Findings, Invariant, artifacts, check_store, releases, versions};
use crate::cluster::{MAIN_DATABASE, MAIN_SCHEMA, partition_schema};
use crate::message::HostMessage;

/// The schema steps of this release.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// Of what all nodes share.
    pub shared: &'a [Migration],
    /// Of a partition.
    pub partition: &'a [Migration],
}

/// A look at each database of a deployment, each at an instant of its own.
#[derive(Debug)]
pub struct Looks {
    /// The main one.
    pub main: Snapshot,
    /// The others by name.
    pub named: BTreeMap<String, Snapshot>,
    /// One more of the main one, to read versions from while another database is looked at: needed where there are others.
    pub versions: Option<Snapshot>,
}

/// Checks every invariant of a deployment: what its nodes share, and each partition in its own database. Without `blobs`
/// no artifact is looked at. The queues of `/v1/queues` are not.
///
/// # Errors
/// When the database cannot answer, or holds no deployment of this release; damage is no error but in the findings.
pub async fn check_deployment(
    looks: &mut Looks,
    tables: Tables<'_>,
    blobs: Option<Blobs<'_>>,
) -> Result<Findings, QueryError> {
    let Looks {
        main: snapshot,
        named,
        versions: source,
    } = looks;
    // The first read makes the instant.
    for look in named.values_mut() {
        look.fetch("SELECT 1", &[]).await?;
    }
    let unknown = |error: celesta_store::OpenError| QueryError {
        reason: error.to_string(),
    };
    let mut findings = Findings::default();
    let mut used = artifacts::Named::default();
    snapshot
        .enter(MAIN_SCHEMA, tables.shared)
        .await
        .map_err(unknown)?;
    let artifacts = blobs.map(|blobs| blobs.artifacts);
    let mut versions = versions::Versions::read(snapshot, artifacts, &mut used, &mut findings).await?;
    versions.read_from(source.take());
    releases::check(snapshot, &versions, &mut findings).await?;
    let (count, rows) = settled(snapshot, &mut findings).await?;
    check_mail(snapshot, count, &mut findings).await?;
    for partition in 0..count {
        let (epoch, place) = rows.get(&partition).cloned().unwrap_or_default();
        let schema = partition_schema(partition);
        let at = format!("partition {partition}");
        let snapshot = match &place {
            None => &mut *snapshot,
            Some(name) => match named.get_mut(name) {
                Some(snapshot) => snapshot,
                None => {
                    let found = format!(
                        "it is in the database `{name}` and was not looked at: give --database {name}=URL"
                    );
                    findings.report(Invariant::Partition, at, found);
                    continue;
                }
            },
        };
        if let Err(error) = snapshot.enter(&schema, tables.partition).await {
            // One that nobody has opened yet has no tables.
            if epoch > 0 {
                let place = place.as_deref().unwrap_or(MAIN_DATABASE);
                let found = format!("in the database `{place}`: {error}");
                findings.report(Invariant::Partition, at, found);
            }
            continue;
        }
        check_fence(snapshot, at, epoch, &mut findings).await?;
        check_belonging(snapshot, partition, count, &mut findings).await?;
        check_store(snapshot, blobs, true, &mut versions, &mut used, &mut findings).await?;
    }
    if let Some(blobs) = blobs {
        artifacts::check(used, blobs, &mut findings).await;
    }
    Ok(findings)
}

/// The epoch of a partition, and its database unless that is the main one.
type Standing = (i64, Option<String>);

/// How many partitions there are, and how they stand.
async fn settled(
    snapshot: &mut Snapshot,
    findings: &mut Findings,
) -> Result<(u32, BTreeMap<u32, Standing>), QueryError> {
    let sql = "SELECT value FROM cluster_settings WHERE name = 'partitions'";
    let rows = snapshot.fetch(sql, &[]).await?;
    let count = rows.first().and_then(|row| u32::try_from(row.int(0)?).ok());
    let rows = snapshot
        .fetch("SELECT partition, epoch, place FROM cluster_partitions", &[])
        .await?;
    let standing = |row: &celesta_store::Row| {
        let place = row.text(2).map(str::to_owned);
        Some((u32::try_from(row.int(0)?).ok()?, (row.int(1)?, place)))
    };
    let standings: BTreeMap<u32, Standing> = rows.iter().filter_map(standing).collect();
    let Some(count) = count else {
        let found = "nobody has settled how many there are";
        findings.report(Invariant::Partition, "the partitions", found);
        return Ok((u32::try_from(standings.len()).unwrap_or(0), standings));
    };
    if !standings.keys().copied().eq(0..count) || rows.len() != standings.len() {
        let found = format!(
            "there are rows of {:?}, and {count} are settled",
            standings.keys()
        );
        findings.report(Invariant::Partition, "the partitions", found);
    }
    Ok((count, standings))
}

/// Nobody can have written with an epoch that was never given out.
async fn check_fence(
    snapshot: &mut Snapshot,
    place: String,
    given: i64,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let rows = snapshot
        .fetch("SELECT epoch FROM store_fence WHERE one = 1", &[])
        .await?;
    let fence = rows.first().and_then(|row| row.int(0)).unwrap_or(0);
    if fence > given {
        let found = format!("its fence has the epoch {fence}, and only {given} were given out");
        findings.report(Invariant::Partition, place, found);
    }
    Ok(())
}

/// Runs and keys that belong into another partition are never found there.
async fn check_belonging(
    snapshot: &mut Snapshot,
    partition: u32,
    count: u32,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let mut misplaced = |place: String, belongs: Partition| {
        if belongs.index != partition {
            let found = format!(
                "it stands in partition {partition} and belongs into {}",
                belongs.index
            );
            findings.report(Invariant::Partition, place, found);
        }
    };
    for table in ["SELECT id FROM runs", "SELECT run FROM archived"] {
        let mut after = RunId::from_bits(0);
        let (id, _) = table["SELECT ".len()..].split_once(' ').unwrap_or(("id", ""));
        let sql = format!("{table} WHERE {id} > ? ORDER BY {id} LIMIT 5000");
        loop {
            let rows = snapshot.fetch(&sql, &[Cell::Id(after.to_bytes())]).await?;
            for run in rows.iter().filter_map(|row| RunId::from_bytes(row.blob(0)?)) {
                misplaced(run.to_string(), Partition::of_run(run, count));
                after = run;
            }
            if rows.len() < 5_000 {
                break;
            }
        }
    }
    let sql = "SELECT service, key FROM idempotency ORDER BY service, key";
    for row in snapshot.fetch(sql, &[]).await? {
        let (service, key) = (row.text(0).unwrap_or_default(), row.text(1).unwrap_or_default());
        // Writes of facts have keys, too: they stand with the run, whose id is in the service's place.
        let belongs = match service.parse::<RunId>() {
            Ok(run) => Partition::of_run(run, count),
            Err(_) => Partition::of_key(service, key, count),
        };
        misplaced(format!("key `{key}` of `{service}`"), belongs);
    }
    Ok(())
}

async fn check_mail(snapshot: &mut Snapshot, count: u32, findings: &mut Findings) -> Result<(), QueryError> {
    let sql = "SELECT position, partition, run, payload FROM cluster_mail ORDER BY position";
    for row in snapshot.fetch(sql, &[]).await? {
        let place = format!("letter {}", row.int(0).unwrap_or(0));
        let run = row.blob(2).and_then(RunId::from_bytes);
        let belongs = run.map(|run| i64::from(Partition::of_run(run, count).index));
        if belongs != row.int(1) {
            let found = format!(
                "it goes to partition {}, where its run is not",
                row.int(1).unwrap_or(-1)
            );
            findings.report(Invariant::Mail, &place, found);
        }
        if row.blob(3).and_then(HostMessage::read).is_none() {
            findings.report(Invariant::Mail, &place, "its message cannot be read");
        }
    }
    Ok(())
}
