//! Copies of shared facts: in a deployment of several partitions one of them, the *lead* of a service, takes the writes, and
//! every other one copies its rows, so that all have the same facts with the same numbers, versions and revisions.
//!
//! A write of the lead carries a letter to each other partition: up to which revision to copy, and with which sweep. The
//! letters of a service come in order (one sender, one key), and copying is the same twice: rows up to the own revision are
//! there. The rows are read from the lead's store, so a letter is small. Whatever dies in between, the letters wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_engine::Value;
use celesta_queue::{LeasedKey, NewMessage};
use celesta_store::{QueryError, Unit};
use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{MessageId, Partition, RunId, SweepId};
use sha2::{Digest as _, Sha256};

use super::catalogue::{Catalogue, Written, read};
use super::write::{WriteShared, prepare::Prepared};
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
        let copies = key
            .messages
            .iter()
            .filter_map(|message| match HostMessage::read(&message.payload) {
                Some(HostMessage::Copy(copy)) => Some(copy),
                _ => None,
            });
        let mut copied: Option<(String, Catalogue)> = None;
        for copy in copies {
            let known = self.catalogue(&copy.service).await?;
            let catalogue = copied.as_ref().map_or(&*known, |(_, catalogue)| catalogue);
            if catalogue.revision >= copy.until {
                continue;
            }
            let versions = self.rows_of_lead(&copy, catalogue.revision).await?;
            let after = self.stage_copy(&mut unit, &copy, catalogue, versions).await?;
            copied = Some((copy.service, after));
        }
        if let Err(error) = self.acknowledge(&mut unit, key) {
            tracing::warn!(%error, "the messages of a copy have come again elsewhere");
            return Ok(None);
        }
        if let Some((service, catalogue)) = copied {
            self.keep_when_done(&mut unit, &service, catalogue);
        }
        Ok(Some(unit))
    }

    /// The versions that the lead has and this partition has not, in the order they were written.
    async fn rows_of_lead(&self, copy: &Copy, after: u64) -> Result<Vec<Written>, QueryError> {
        let unreadable = |reason: &str| QueryError {
            reason: format!("shared facts of `{}` in its lead: {reason}", copy.service),
        };
        let readers = self.readers.opened(&self.clock).await?;
        let lead = lead(&copy.service, self.partition.count).index;
        let reader = usize::try_from(lead).ok().and_then(|at| readers.get(at));
        let reader = reader.ok_or_else(|| unreadable("there is no such partition"))?;
        let sql = "SELECT revision, fact, version, fact_type, fields, written_at FROM shared_facts WHERE service = ? \
                   AND revision > ? AND revision <= ? ORDER BY revision";
        let number = |revision: u64| i64::try_from(revision).unwrap_or(i64::MAX).into();
        let cells = [copy.service.as_str().into(), number(after), number(copy.until)];
        let rows = reader.inner.store.fetch(sql, &cells).await?;
        let versions: Option<Vec<Written>> = rows.iter().map(read).collect();
        versions.ok_or_else(|| unreadable("a row cannot be read"))
    }

    /// Adds the versions to the unit, and the sweep that tells the runs.
    async fn stage_copy(
        &self,
        unit: &mut Unit,
        copy: &Copy,
        catalogue: &Catalogue,
        versions: Vec<Written>,
    ) -> Result<Catalogue, QueryError> {
        let mut changes = Vec::new();
        let mut last: BTreeMap<u64, &Option<Value>> = BTreeMap::new();
        for (written, _) in &versions {
            let known = || {
                let known = catalogue.last(written.fact);
                known.and_then(|(known, _)| known.fields.clone())
            };
            let before = last
                .insert(written.fact, &written.fields)
                .map_or_else(known, Clone::clone);
            changes.push((Arc::clone(&written.fact_type), before, written.fields.clone()));
        }
        let after = catalogue.with(versions.clone());
        let prepared = Prepared {
            versions,
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
        let forgotten = Self::stage_versions(unit, &copy.service, catalogue, &prepared);
        crate::sweep::place(unit, copy.sweep, &new, self.clock.now());
        Ok(after.without(&forgotten))
    }
}
