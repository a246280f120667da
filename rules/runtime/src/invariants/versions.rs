//! The versions of all services: there, readable, and the rules that runs are checked with.

use std::collections::HashMap;
use std::sync::Arc;

use celesta_artifacts::Artifacts;
use celesta_bundle::{Bundle, UnpackLimits};
use celesta_engine::{Limits, RuleSet};
use celesta_store::{QueryError, Row, Snapshot};
use celesta_types::Digest;

use super::artifacts::Named;
use super::{Findings, Invariant};

/// The versions of all services, compiled when a run needs its rules.
#[derive(Debug)]
pub(super) struct Versions {
    /// The artifact of each version.
    packed: HashMap<Digest, Digest>,
    compiled: HashMap<Digest, Option<Bundle>>,
    artifacts: Option<Artifacts>,
    /// Where the files of versions are read, when that is not where runs are.
    source: Option<Snapshot>,
}

impl Versions {
    pub(super) async fn read(
        snapshot: &mut Snapshot,
        artifacts: Option<&Artifacts>,
        named: &mut Named,
        findings: &mut Findings,
    ) -> Result<Self, QueryError> {
        let mut versions = Self {
            packed: HashMap::new(),
            compiled: HashMap::new(),
            artifacts: artifacts.cloned(),
            source: None,
        };
        let rows = snapshot
            .fetch("SELECT service, digest, artifact FROM versions", &[])
            .await?;
        for row in &rows {
            let service = row.text(0).unwrap_or_default();
            match (digest(row, 1), digest(row, 2)) {
                (Some(version), Some(artifact)) => {
                    if snapshot.is_file() {
                        named.add(artifact, || format!("version {version} of `{service}`"));
                    }
                    versions.packed.insert(version, artifact);
                }
                _ => findings.report(
                    Invariant::VersionUnreadable,
                    format!("a version of `{service}`"),
                    "its digests have not 32 bytes",
                ),
            }
        }
        let rows = snapshot.fetch("SELECT name, digest FROM services", &[]).await?;
        for row in &rows {
            let place = format!("service `{}`", row.text(0).unwrap_or_default());
            match digest(row, 1) {
                Some(version) if versions.packed.contains_key(&version) => {
                    if let Err(found) = versions.bundle(snapshot, version).await {
                        findings.report(Invariant::VersionUnreadable, place, found);
                    }
                }
                Some(version) => {
                    let found = format!("its version {version} does not exist");
                    findings.report(Invariant::VersionMissing, place, found);
                }
                None => findings.report(Invariant::VersionMissing, place, "it names no version"),
            }
        }
        Ok(versions)
    }

    /// Has the files of versions read from `source` from here on: runs may be in another database than they.
    pub(super) fn read_from(&mut self, source: Option<Snapshot>) {
        self.source = source;
    }

    /// Whether a version stands in the store.
    pub(super) fn has(&self, version: &Digest) -> bool {
        self.packed.contains_key(version)
    }

    /// The rules of a run; `Err` says what is wrong, once for each version.
    pub(super) async fn rules(
        &mut self,
        snapshot: &mut Snapshot,
        version: Digest,
        workflow: &str,
    ) -> Result<Option<Arc<RuleSet>>, String> {
        let Some(bundle) = self.bundle(snapshot, version).await? else {
            return Ok(None);
        };
        match bundle.workflows.get(workflow) {
            Some(rules) => Ok(Some(Arc::clone(rules))),
            None => Err(format!("version {version} has no workflow `{workflow}`")),
        }
    }

    async fn bundle(&mut self, snapshot: &mut Snapshot, version: Digest) -> Result<Option<&Bundle>, String> {
        if !self.compiled.contains_key(&version) {
            self.compiled.insert(version, None);
            let bundle = self.compile(snapshot, version).await?;
            self.compiled.insert(version, Some(bundle));
        }
        Ok(self.compiled.get(&version).and_then(Option::as_ref))
    }

    async fn compile(&mut self, snapshot: &mut Snapshot, version: Digest) -> Result<Bundle, String> {
        let missing = || format!("version {version} cannot be read");
        let artifact = &self.packed.get(&version).copied().ok_or_else(missing)?;
        let packed = match self.packed_in(snapshot, artifact).await? {
            Some(packed) => packed,
            None => {
                let gone = || format!("the files of version {version} are gone");
                let artifacts = self.artifacts.as_ref().ok_or_else(gone)?;
                let path = artifacts
                    .path(artifact)
                    .await
                    .map_err(|error| error.to_string())?;
                let read = tokio::fs::read(path.ok_or_else(gone)?).await;
                read.map_err(|error| error.to_string())?
            }
        };
        let compiled = tokio::task::spawn_blocking(move || {
            let files = celesta_bundle::unpack(packed.as_slice(), &UnpackLimits::default())
                .map_err(|error| error.to_string())?;
            Bundle::compile_with(&files, &Limits::default()).map_err(|error| error.to_string())
        });
        compiled.await.map_err(|error| error.to_string())?
    }

    /// The files where nodes share them.
    async fn packed_in(
        &mut self,
        snapshot: &mut Snapshot,
        artifact: &Digest,
    ) -> Result<Option<Vec<u8>>, String> {
        if snapshot.is_file() {
            return Ok(None);
        }
        let snapshot = self.source.as_mut().unwrap_or(snapshot);
        let sql = "SELECT packed FROM celesta.cluster_bundles WHERE artifact = ?";
        let cells = [artifact.as_bytes().to_vec().into()];
        let rows = snapshot.fetch(sql, &cells).await;
        let rows = rows.map_err(|error| error.to_string())?;
        Ok(rows.into_iter().next().and_then(|mut row| row.take_blob(0)))
    }
}

pub(super) fn digest(row: &Row, at: usize) -> Option<Digest> {
    row.blob(at)
        .and_then(|bytes| bytes.try_into().ok())
        .map(Digest::from_bytes)
}
