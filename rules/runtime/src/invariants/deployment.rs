//! What many nodes share in a database: the services in one schema, a schema for each partition, letters between them.

use std::collections::BTreeMap;

use celesta_store::{Cell, Migration, QueryError, Snapshot};
use celesta_types::{Partition, RunId};

use super::between::Between;
use super::{Blobs, Findings, Invariant, artifacts, check_store, releases, versions};
use crate::cluster::{MAIN_SCHEMA, partition_schema};
use crate::message::HostMessage;

/// The schema steps of this release.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// Of what all nodes share.
    pub shared: &'a [Migration],
    /// Of a partition.
    pub partition: &'a [Migration],
}

/// Checks every invariant of a deployment: what its nodes share, and each partition, all at the instant of `snapshot`,
/// which is one of a whole database. Without `blobs` no artifact is looked at. The queues of `/v1/queues` are not.
///
/// # Errors
/// When the database cannot answer, or holds no deployment of this release; damage is no error but in the findings.
pub async fn check_deployment(
    snapshot: &mut Snapshot,
    tables: Tables<'_>,
    blobs: Option<Blobs<'_>>,
) -> Result<Findings, QueryError> {
    let unknown = |error: celesta_store::OpenError| QueryError {
        reason: error.to_string(),
    };
    let mut findings = Findings::default();
    let mut named = artifacts::Named::default();
    snapshot
        .enter(MAIN_SCHEMA, tables.shared)
        .await
        .map_err(unknown)?;
    let artifacts = blobs.map(|blobs| blobs.artifacts);
    let mut versions = versions::Versions::read(snapshot, artifacts, &mut named, &mut findings).await?;
    releases::check(snapshot, &versions, &mut findings).await?;
    let (count, epochs) = settled(snapshot, &mut findings).await?;
    check_former_mail(snapshot, count, &mut findings).await?;
    let mut between = Between::new();
    for partition in 0..count {
        between.enter(Partition {
            index: partition,
            count,
        });
        let schema = partition_schema(partition);
        if let Err(error) = snapshot.enter(&schema, tables.partition).await {
            // One that nobody has opened yet has no tables.
            if epochs.get(&partition).is_some_and(|epoch| *epoch > 0) {
                findings.report(Invariant::Partition, format!("partition {partition}"), error);
            }
            continue;
        }
        check_fence(snapshot, partition, &epochs, &mut findings).await?;
        check_belonging(snapshot, partition, count, &mut findings).await?;
        between.read_letters(snapshot, &mut findings).await?;
        check_store(
            snapshot,
            blobs,
            true,
            &mut versions,
            &mut named,
            &mut between,
            &mut findings,
        )
        .await?;
    }
    between.judge(&mut findings);
    if let Some(blobs) = blobs {
        artifacts::check(named, blobs, &mut findings).await;
    }
    Ok(findings)
}

/// How many partitions there are, and their epochs.
async fn settled(
    snapshot: &mut Snapshot,
    findings: &mut Findings,
) -> Result<(u32, BTreeMap<u32, i64>), QueryError> {
    let sql = "SELECT value FROM cluster_settings WHERE name = 'partitions'";
    let rows = snapshot.fetch(sql, &[]).await?;
    let count = rows.first().and_then(|row| u32::try_from(row.int(0)?).ok());
    let rows = snapshot
        .fetch("SELECT partition, epoch FROM cluster_partitions", &[])
        .await?;
    let epoch = |row: &celesta_store::Row| Some((u32::try_from(row.int(0)?).ok()?, row.int(1)?));
    let epochs: BTreeMap<u32, i64> = rows.iter().filter_map(epoch).collect();
    let Some(count) = count else {
        let found = "nobody has settled how many there are";
        findings.report(Invariant::Partition, "the partitions", found);
        return Ok((u32::try_from(epochs.len()).unwrap_or(0), epochs));
    };
    if !epochs.keys().copied().eq(0..count) || rows.len() != epochs.len() {
        let found = format!("there are rows of {:?}, and {count} are settled", epochs.keys());
        findings.report(Invariant::Partition, "the partitions", found);
    }
    Ok((count, epochs))
}

/// Nobody can have written with an epoch that was never given out.
async fn check_fence(
    snapshot: &mut Snapshot,
    partition: u32,
    epochs: &BTreeMap<u32, i64>,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let rows = snapshot.fetch("SELECT epoch FROM store_fence", &[]).await?;
    let fence = rows.first().and_then(|row| row.int(0)).unwrap_or(0);
    let given = epochs.get(&partition).copied().unwrap_or(0);
    if fence > given {
        let found = format!("its fence has the epoch {fence}, and only {given} were given out");
        findings.report(Invariant::Partition, format!("partition {partition}"), found);
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

/// The letters that nodes of the release before have written.
async fn check_former_mail(
    snapshot: &mut Snapshot,
    count: u32,
    findings: &mut Findings,
) -> Result<(), QueryError> {
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
