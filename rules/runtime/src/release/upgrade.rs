//! A run moves to another version, within a turn of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use celesta_engine::FactMoves;
use celesta_store::{Cell, Unit};
use celesta_types::{Digest, RunId};

use crate::head::RunHead;
use crate::history::Names;
use crate::live::Live;
use crate::load::LoadError;
use crate::registry::{Registry, Version, digest_of};
use crate::runtime::Inner;
use crate::schema::releases::{RUN_VERSION, UPGRADE_INSERT};

/// A run that has moved in this turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upgraded {
    pub(crate) from: Digest,
    pub(crate) to: Digest,
}

impl Upgraded {
    /// Adds what becomes durable with the turn `seq` to its unit.
    pub(crate) fn write(self, unit: &mut Unit, run: RunId, seq: u64) {
        let id = || Cell::Id(run.to_bytes());
        let digest = |digest: Digest| Cell::from(digest.as_bytes().to_vec());
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        unit.add(&RUN_VERSION, [id(), digest(self.to)]);
        unit.add(&UPGRADE_INSERT, [id(), seq.into(), digest(self.from)]);
    }
}

impl Registry {
    /// The version that a run is to move to, and what becomes of its facts.
    fn target(&self, head: &RunHead, own: &Version) -> Option<(Arc<Version>, Arc<FactMoves>)> {
        let current = self.current(&head.service)?;
        let of_canary = || {
            let canary = self.canary(&head.service);
            canary.is_some_and(|canary| canary.version.digest == own.digest)
        };
        if current.digest == own.digest || of_canary() {
            return None;
        }
        let forward = current.pushed_at >= own.pushed_at;
        let newer: &Version = if forward { &current } else { own };
        let versions = newer.bundle.versions.get(&*head.workflow)?;
        if !versions.policy.moves() {
            return None;
        }
        // On the way back nothing is declared: what no longer fits stays.
        let moves = if forward {
            Arc::clone(&versions.moves)
        } else {
            Arc::default()
        };
        Some((current, moves))
    }
}

/// Moves a run to the version it is to follow, if there is another and the run fits it.
pub(crate) fn upgrade(live: &mut Live, registry: &Registry) -> Option<Upgraded> {
    // Before its first turn a run has nothing to take along, and its request was accepted by its own version.
    if live.seq == 0 {
        return None;
    }
    let (version, moves) = registry.target(&live.head, &live.version)?;
    let rules = Arc::clone(version.rules(&live.head.workflow)?);
    let run = live.head.run;
    let moved = catch_unwind(AssertUnwindSafe(|| live.memory.moved_to(&rules, &moves)));
    match moved {
        Ok(Ok(memory)) => {
            let from = live.head.version;
            let to = version.digest;
            live.memory = memory;
            live.rules = rules;
            live.head.version = to;
            live.version = version;
            live.needs_snapshot();
            Some(Upgraded { from, to })
        }
        Ok(Err(error)) => {
            tracing::warn!(%run, version = %version.digest, %error, "a run stays with the version it follows");
            None
        }
        Err(_) => {
            tracing::error!(%run, version = %version.digest, "a run broke an invariant on its way to another version");
            None
        }
    }
}

/// What rules are called in a run's records, which may be of several versions.
pub(crate) struct RunNames {
    now: Names,
    /// Names up to before this turn, in the order of turns.
    before: Vec<(u64, Names)>,
}

impl RunNames {
    /// The names in the record of turn `seq`.
    pub(crate) fn at(&self, seq: u64) -> &Names {
        let before = self.before.iter().find(|(moved, _)| seq < *moved);
        before.map_or(&self.now, |(_, names)| names)
    }
}

impl Inner {
    /// What the run's records call its rules; none when there is no such run.
    pub(crate) async fn names_of(&self, run: RunId) -> Result<Option<RunNames>, LoadError> {
        let Some((now, workflow)) = self.version_of(run).await? else {
            return Ok(None);
        };
        if workflow.is_empty() {
            let before = Vec::new();
            return Ok(Some(RunNames { now, before }));
        }
        let sql = "SELECT seq, origin FROM upgrades WHERE run = ? ORDER BY seq";
        let rows = self.store.fetch(sql, &[Cell::Id(run.to_bytes())]).await?;
        let mut before = Vec::new();
        for row in &rows {
            let (Some(seq), Some(origin)) = (row.int(0), row.blob(1).and_then(digest_of)) else {
                continue;
            };
            let version = self.registry.version(origin).await;
            let version = version.map_err(|error| LoadError::Version {
                run,
                version: origin,
                reason: error.to_string(),
            })?;
            before.push((u64::try_from(seq).unwrap_or(0), Names::of(&version, &workflow)));
        }
        Ok(Some(RunNames { now, before }))
    }
}
