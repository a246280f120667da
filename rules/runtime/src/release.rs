//! Versions over time: which one new runs follow, how a new one is tried on some, how it is taken back, and how runs
//! leave the version they followed.
//!
//! - *Releases* are the versions that were current, in order. To push, to promote a canary and to roll back each add one;
//!   none is ever changed.
//! - A *canary* is a version that some new runs follow, by a share of them or by a label; the rest follow the current one.
//! - A run *moves* to the current version in a turn of its own, when the policy of its workflow says so: the newer of
//!   the two versions decides. The journal record of that turn says from where, its snapshot is in the new version's
//!   layout, and both become durable with the run's row in one commit. Calls that are open stay open; a run that does
//!   not fit stays as it is.

mod mover;
mod preview;
mod upgrade;

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_engine::Break;
use celesta_store::{Cell, Unit};
use celesta_types::{Digest, ErrorKind, RunId, Timestamp};
use serde::Serialize;

pub use preview::{RulePreview, WorkflowPreview};
pub(crate) use upgrade::{Upgraded, upgrade};

use crate::registry::{PushError, Registry, Version, digest_of};
use crate::runtime::Runtime;
use crate::schema::releases::{CANARY_UPSERT, RELEASE_INSERT};

/// Releases of a service that are told of, the newest first.
const RELEASES_SHOWN: i64 = 100;

/// Which new runs follow a canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// So many of a hundred, by the run's id.
    Percent(u8),
    /// Those with this label.
    Label(String, String),
}

impl Share {
    /// Whether a new run is of the share. The same run always is or never is.
    #[must_use]
    pub fn takes(&self, run: RunId, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Percent(percent) => {
                // The low bits of an id are random; a multiplication spreads what a caller chose.
                let bits = u64::try_from(run.bits() & u128::from(u64::MAX)).unwrap_or(0);
                (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 100 < u64::from(*percent)
            }
            Self::Label(name, value) => labels.get(name) == Some(value),
        }
    }
}

/// A version that some new runs follow.
#[derive(Debug, Clone)]
pub struct Canary {
    /// The version.
    pub version: Arc<Version>,
    /// Which runs.
    pub share: Share,
}

/// How a version became current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseKind {
    /// It was pushed.
    Push,
    /// It was a canary.
    Promote,
    /// The one after it was taken back.
    Rollback,
}

impl ReleaseKind {
    const ALL: [Self; 3] = [Self::Push, Self::Promote, Self::Rollback];

    fn code(self) -> i64 {
        Self::ALL
            .iter()
            .zip(0..)
            .find(|(kind, _)| **kind == self)
            .map_or(0, |(_, code)| code)
    }

    fn from_code(code: i64) -> Self {
        let kind = usize::try_from(code).ok().and_then(|at| Self::ALL.get(at));
        kind.copied().unwrap_or(Self::Push)
    }
}

/// One release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Release {
    /// Counted from 1 within the service.
    pub number: i64,
    /// The version.
    pub version: Digest,
    /// How it became current.
    pub kind: ReleaseKind,
    /// When.
    pub at: Timestamp,
}

/// A version that was taken back.
#[derive(Debug, Clone, Serialize)]
pub struct TakenBack {
    /// The version that no new run follows any more.
    pub from: Digest,
    /// The version that all new runs follow.
    pub to: Digest,
    /// It was a canary: the current version has not changed.
    pub canary: bool,
}

/// Why a release was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// There is no such service.
    #[error("there is no service `{service}`")]
    NotFound {
        /// The name.
        service: String,
    },
    /// There is nothing to go back to.
    #[error("service `{service}` has no version before {version}")]
    NoneBefore {
        /// The service.
        service: String,
        /// Its version.
        version: Digest,
    },
    /// There is no canary to promote.
    #[error("service `{service}` has no canary")]
    NoCanary {
        /// The service.
        service: String,
    },
    /// Not now.
    #[error("the release cannot be kept: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl ReleaseError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NoneBefore { .. } | Self::NoCanary { .. } => ErrorKind::Conflict,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }

    fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: error.to_string(),
        }
    }
}

impl From<PushError> for ReleaseError {
    fn from(error: PushError) -> Self {
        Self::unavailable(error)
    }
}

/// What a push would break in a workflow's stored facts.
#[derive(Debug, Clone, Serialize)]
pub struct Broken {
    /// The workflow.
    pub workflow: String,
    /// The fact type and field, and what to write.
    #[serde(flatten)]
    pub what: Break,
}

impl Registry {
    /// The version that a new run follows.
    pub(crate) fn chosen(
        &self,
        service: &str,
        run: RunId,
        labels: &BTreeMap<String, String>,
    ) -> Option<Arc<Version>> {
        let canary = self
            .canary(service)
            .filter(|canary| canary.share.takes(run, labels));
        canary
            .map(|canary| canary.version)
            .or_else(|| self.current(service))
    }

    /// Reads the canaries: those that were set or taken back elsewhere are known here from now on.
    pub(crate) async fn load_canaries(&self) -> Result<(), PushError> {
        let sql = "SELECT service, digest, percent, label, value FROM canaries WHERE percent > 0 OR label IS NOT NULL";
        let rows = self.store.fetch(sql, &[]).await.map_err(PushError::unavailable)?;
        for service in self.canaries() {
            if !rows.iter().any(|row| row.text(0) == Some(&*service)) {
                self.set_canary(&service, None);
            }
        }
        for row in rows {
            let (Some(service), Some(digest)) = (row.text(0), row.blob(1).and_then(digest_of)) else {
                continue;
            };
            let share = match (row.text(3), row.text(4)) {
                (Some(label), Some(value)) => Share::Label(label.to_owned(), value.to_owned()),
                _ => Share::Percent(
                    row.int(2)
                        .and_then(|percent| u8::try_from(percent).ok())
                        .unwrap_or(0),
                ),
            };
            let known = self.canary(service);
            if known.is_some_and(|known| known.version.digest == digest && known.share == share) {
                continue;
            }
            let version = self.version(digest).await?;
            self.open_queues(&version)?;
            self.set_canary(service, Some(Canary { version, share }));
        }
        Ok(())
    }

    /// The releases of a service, the newest first.
    pub(crate) async fn releases(&self, service: &str) -> Result<Vec<Release>, PushError> {
        let sql = "SELECT number, digest, kind, created_at FROM releases WHERE service = ? ORDER BY number DESC LIMIT ?";
        let cells = [service.into(), RELEASES_SHOWN.into()];
        let rows = self
            .store
            .fetch(sql, &cells)
            .await
            .map_err(PushError::unavailable)?;
        let release = |row: &celesta_store::Row| {
            Some(Release {
                number: row.int(0)?,
                version: row.blob(1).and_then(digest_of)?,
                kind: ReleaseKind::from_code(row.int(2)?),
                at: Timestamp::from_millis(row.int(3)?),
            })
        };
        Ok(rows.iter().filter_map(release).collect())
    }

    /// Adds to `unit` that a version is current from now on; one from before there were releases gets its own first.
    pub(crate) async fn release(
        &self,
        unit: &mut Unit,
        service: &str,
        digest: Digest,
        kind: ReleaseKind,
    ) -> Result<(), PushError> {
        let known = self.releases(service).await?;
        let mut number = known.first().map_or(0, |release| release.number);
        let mut add = |digest: Digest, kind: ReleaseKind, at: Timestamp| {
            number += 1;
            let cells = [
                service.into(),
                number.into(),
                digest.as_bytes().to_vec().into(),
                kind.code().into(),
                at.as_millis().into(),
            ];
            unit.add(&RELEASE_INSERT, cells);
        };
        if let (true, Some(before)) = (known.is_empty(), self.current(service))
            && before.digest != digest
        {
            add(before.digest, ReleaseKind::Push, before.pushed_at);
        }
        add(digest, kind, self.clock.now());
        Ok(())
    }

    /// Adds to `unit` which new runs follow a canary; none from now on without a share.
    pub(crate) fn write_canary(&self, unit: &mut Unit, service: &str, digest: Digest, share: Option<&Share>) {
        let (percent, label) = match share {
            None => (0, None),
            Some(Share::Percent(percent)) => (i64::from(*percent), None),
            Some(Share::Label(name, value)) => (0, Some((name.as_str(), value.as_str()))),
        };
        let text = |text: Option<&str>| text.map_or(Cell::Null, |text| text.into());
        let cells = [
            service.into(),
            digest.as_bytes().to_vec().into(),
            percent.into(),
            text(label.map(|(name, _)| name)),
            text(label.map(|(_, value)| value)),
            self.clock.now().as_millis().into(),
        ];
        unit.add(&CANARY_UPSERT, cells);
    }

    /// Makes a version current that is known already.
    async fn make_current(&self, version: &Arc<Version>, kind: ReleaseKind) -> Result<(), ReleaseError> {
        let service = &*version.service;
        let mut unit = Unit::new();
        self.release(&mut unit, service, version.digest, kind).await?;
        self.write_current(&mut unit, version);
        if let Some(canary) = self.canary(service) {
            self.write_canary(&mut unit, service, canary.version.digest, None);
        }
        self.store.commit(unit).await.map_err(ReleaseError::unavailable)?;
        self.set_canary(service, None);
        self.set_current(version);
        Ok(())
    }

    async fn roll_back(&self, service: &str) -> Result<TakenBack, ReleaseError> {
        self.refresh_shared().await?;
        let _changing = self.changing.lock().await;
        let not_found = || ReleaseError::NotFound {
            service: service.to_owned(),
        };
        let current = self.current(service).ok_or_else(not_found)?;
        if let Some(canary) = self.canary(service) {
            let mut unit = Unit::new();
            self.write_canary(&mut unit, service, canary.version.digest, None);
            self.store.commit(unit).await.map_err(ReleaseError::unavailable)?;
            self.set_canary(service, None);
            return Ok(TakenBack {
                from: canary.version.digest,
                to: current.digest,
                canary: true,
            });
        }
        let releases = self.releases(service).await?;
        let mut before = releases
            .iter()
            .filter(|release| release.kind != ReleaseKind::Rollback)
            .skip_while(|release| release.version != current.digest)
            .filter(|release| release.version != current.digest);
        let before = before.next().ok_or_else(|| ReleaseError::NoneBefore {
            service: service.to_owned(),
            version: current.digest,
        })?;
        let version = self.version(before.version).await?;
        self.make_current(&version, ReleaseKind::Rollback).await?;
        Ok(TakenBack {
            from: current.digest,
            to: version.digest,
            canary: false,
        })
    }
}

impl Runtime {
    /// Has all new runs follow the version before the current one again, or takes a canary back when there is one.
    ///
    /// # Errors
    /// When there is no such service or nothing before, or it cannot be kept.
    pub async fn roll_back(&self, service: &str) -> Result<TakenBack, ReleaseError> {
        let taken = self.inner.registry.roll_back(service).await?;
        self.inner.move_runs(service);
        Ok(taken)
    }

    /// Has all new runs follow the canary.
    ///
    /// # Errors
    /// When there is no such service or canary, or it cannot be kept.
    pub async fn promote(&self, service: &str) -> Result<Arc<Version>, ReleaseError> {
        let registry = &self.inner.registry;
        if registry.current(service).is_none() {
            let service = service.to_owned();
            return Err(ReleaseError::NotFound { service });
        }
        registry.refresh_shared().await?;
        let _changing = registry.changing.lock().await;
        let canary = registry.canary(service).ok_or_else(|| ReleaseError::NoCanary {
            service: service.to_owned(),
        })?;
        registry
            .make_current(&canary.version, ReleaseKind::Promote)
            .await?;
        self.inner.move_runs(service);
        Ok(canary.version)
    }

    /// The releases of a service, the newest first, and its canary.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn releases(&self, service: &str) -> Result<(Vec<Release>, Option<Canary>), ReleaseError> {
        let registry = &self.inner.registry;
        let releases = registry.releases(service).await?;
        Ok((releases, registry.canary(service)))
    }
}
