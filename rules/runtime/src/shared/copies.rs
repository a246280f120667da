//! Copies of shared facts: in a deployment of several partitions one of them, the *lead* of a service, takes the writes, and
//! every other one copies its rows, so that all have the same facts with the same numbers, versions and revisions.
//!
//! A write of the lead carries a letter to each other partition: up to which revision to copy, and with which sweep. The
//! letters of a service come in order (one sender, one key), and copying is the same twice: rows up to the own revision are
//! there. The rows are read from the lead's store, so a letter is small. Whatever dies in between, the letters wait.
//!
//! A letter may wait so long that the lead no longer has what it is about: earlier versions, or facts that were retracted
//! and forgotten. Each revision is one change and is never given again, so a change that is gone leaves a revision without
//! a row, and a partition that finds a row for each revision has missed nothing. Otherwise it asks which facts the lead
//! knows: those that stand here and are unknown there were retracted, and are here under the revisions that were left. There
//! are enough of them, since each such retraction had one. A fact whose versions do not follow those known here begins
//! anew, as it does in the lead: versions in between are gone, or its number was given again.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use celesta_engine::{SharedVersion, Value};
use celesta_queue::{LeasedKey, NewMessage};
use celesta_store::{QueryError, Unit};
use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{MessageId, Partition, RunId, SweepId, Timestamp};
use sha2::{Digest as _, Sha256};

use super::catalogue::{Catalogue, Written, read};
use super::write::WriteShared;
use super::write::prepare::{Change, Prepared};
use crate::message::HostMessage;
use crate::runtime::Inner;

/// What a partition is told of a write in the lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) service: String,
    /// The lead's revision with the write.
    pub(crate) until: u64,
    /// The sweep, under the same id everywhere.
    pub(crate) sweep: SweepId,
    pub(crate) hold: bool,
    pub(crate) rate: u32,
}

impl Copy {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.text(&self.service);
        out.uint(self.until);
        out.raw(&self.sweep.to_bytes());
        out.flag(self.hold);
        out.uint(self.rate.into());
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            service: input.text()?.to_owned(),
            until: input.uint()?,
            sweep: SweepId::from_bits(u128::from_be_bytes(input.array()?)),
            hold: input.flag()?,
            rate: input.uint32()?,
        })
    }
}

/// The partition that takes the writes of a service. The same in every release.
#[must_use]
pub fn lead(service: &str, count: u32) -> Partition {
    Partition::of_key(service, "celesta/shared", count)
}

/// The key of the letters about a service to a partition.
fn key(service: &str, to: Partition) -> u128 {
    let digest: [u8; 32] = Sha256::digest(format!("shared\n{service}")).into();
    let (head, _) = digest.split_at(16);
    let bits = head.try_into().map_or(0, u128::from_be_bytes);
    to.place(RunId::from_bits(bits)).bits()
}

impl Inner {
    /// Adds the letters to all other partitions to the unit of a write.
    pub(super) fn post_copies(&self, unit: &mut Unit, copy: &Copy) {
        let count = self.partition.count;
        let others = (0..count).filter(|index| *index != self.partition.index);
        let letters = others.map(|index| {
            let to = Partition { index, count };
            let id = MessageId::new(self.clock.now(), self.random.next_u128());
            NewMessage::new(
                id,
                self.runs_queue.clone(),
                HostMessage::Copy(copy.clone()).encode(),
            )
            .with_key(RunId::from_bits(key(&copy.service, to)))
        });
        self.post(unit, letters);
    }

    /// Copies what the messages of one service are about. The unit acknowledges them.
    ///
    /// # Errors
    /// When the lead's rows cannot be read now.
    pub(crate) async fn copy_shared(self: &Arc<Self>, key: &LeasedKey) -> Result<Option<Unit>, QueryError> {
        let mut unit = Unit::new();
        let read = |payload: &[u8]| match HostMessage::read(payload) {
            Some(HostMessage::Copy(copy)) => Some(copy),
            _ => None,
        };
        let messages = key.messages.iter();
        let copies: Vec<Copy> = messages.filter_map(|message| read(&message.payload)).collect();
        if let Some(last) = copies.iter().max_by_key(|copy| copy.until) {
            let known = self.catalogue(&last.service).await?;
            let missing = self.missing(last, &known).await?;
            let (mut rest, mut reached) = (missing.as_slice(), known.revision);
            let mut before = BTreeMap::new();
            for copy in &copies {
                if reached >= copy.until {
                    continue;
                }
                reached = copy.until;
                let of_copy = rest.partition_point(|(version, _)| version.revision <= reached);
                let (versions, later) = rest.split_at(of_copy);
                rest = later;
                let changes = changes(&known, &mut before, versions);
                self.stage_sweep(&mut unit, copy, versions, changes).await?;
            }
            if reached > known.revision {
                let after = Self::stage_versions(&mut unit, &last.service, &known, &missing);
                self.keep_when_done(&mut unit, &last.service, after);
            }
        }
        if let Err(error) = self.acknowledge(&mut unit, key) {
            tracing::warn!(%error, "the messages of a copy have come again elsewhere");
            return Ok(None);
        }
        Ok(Some(unit))
    }

    /// What was written in the lead after what is `known` here, up to the letter's revision, in that order.
    async fn missing(&self, copy: &Copy, known: &Catalogue) -> Result<Vec<Written>, QueryError> {
        let lead = lead(&copy.service, self.partition.count).index;
        let reader = self.readers.one(lead, &self.clock).await?;
        let store = &reader.inner.store;
        let sql = "SELECT revision, fact, version, fact_type, fields, written_at FROM shared_facts WHERE service = ? \
                   AND revision > ? AND revision <= ? ORDER BY revision";
        let number = |revision: u64| i64::try_from(revision).unwrap_or(i64::MAX).into();
        let cells = [
            copy.service.as_str().into(),
            number(known.revision),
            number(copy.until),
        ];
        let rows = store.fetch(sql, &cells).await?;
        let versions: Option<Vec<Written>> = rows.iter().map(read).collect();
        let versions = versions.ok_or_else(|| QueryError {
            reason: format!("a shared fact of `{}` in its lead cannot be read", copy.service),
        })?;
        let revisions = known.revision + 1..=copy.until;
        if revisions.clone().count() == versions.len() {
            return Ok(versions);
        }
        // Asked after the rows were read: what is forgotten in between is found the sooner.
        let sql = "SELECT DISTINCT fact FROM shared_facts WHERE service = ?";
        let rows = store.fetch(sql, &[copy.service.as_str().into()]).await?;
        let facts = rows.iter().filter_map(|row| u64::try_from(row.int(0)?).ok());
        let now = self.clock.now();
        Ok(with_retractions(
            versions,
            revisions,
            known,
            &facts.collect(),
            now,
        ))
    }

    /// Adds to the unit the sweep that tells the runs of a letter's changes.
    async fn stage_sweep(
        &self,
        unit: &mut Unit,
        copy: &Copy,
        versions: &[Written],
        changes: Vec<Change>,
    ) -> Result<(), QueryError> {
        let prepared = Prepared {
            versions: versions.to_vec(),
            changes,
            outcomes: Vec::new(),
            revision: copy.until,
        };
        let request = WriteShared {
            writes: Vec::new(),
            idempotency_key: None,
            sweep: Some(copy.sweep),
            hold: copy.hold,
            rate: copy.rate,
            dry_run: false,
        };
        let new = self.sweep_of(&copy.service, &request, &prepared).await?;
        crate::sweep::place(unit, copy.sweep, &new, self.clock.now());
        Ok(())
    }
}

/// What the versions change, after those that are noted in `last` and what was known before these.
fn changes<'a>(
    known: &Catalogue,
    last: &mut BTreeMap<u64, &'a Option<Value>>,
    versions: &'a [Written],
) -> Vec<Change> {
    let change = |(written, _): &'a Written| {
        let known = || {
            known
                .last(written.fact)
                .and_then(|(known, _)| known.fields.clone())
        };
        let before = last
            .insert(written.fact, &written.fields)
            .map_or_else(known, Clone::clone);
        (Arc::clone(&written.fact_type), before, written.fields.clone())
    };
    versions.iter().map(change).collect()
}

/// The versions with retractions of what stands in the catalogue and is none of the lead's `facts`, under those of the
/// `revisions` that are left, in the order of revisions.
fn with_retractions(
    mut versions: Vec<Written>,
    revisions: RangeInclusive<u64>,
    known: &Catalogue,
    facts: &HashSet<u64>,
    now: Timestamp,
) -> Vec<Written> {
    let found: HashSet<u64> = versions.iter().map(|(version, _)| version.revision).collect();
    let written: HashSet<u64> = versions.iter().map(|(version, _)| version.fact).collect();
    let left = revisions.filter(|revision| !found.contains(revision));
    let gone = known.standing().filter(|(version, _)| {
        // One that has just been written was retracted after that: a later letter tells.
        !facts.contains(&version.fact) && !written.contains(&version.fact)
    });
    let retractions = gone.zip(left).map(|((last, _), revision)| {
        let retraction = SharedVersion {
            version: last.version + 1,
            revision,
            fields: None,
            ..last.clone()
        };
        (retraction, now)
    });
    versions.extend(retractions);
    versions.sort_by_key(|(version, _)| version.revision);
    versions
}
