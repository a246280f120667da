//! The services of this platform and their versions: pushed once, immutable, kept as long as a run follows them.
//!
//! A version is stored as an artifact (the packed bundle) and unpacked to a folder of this node, from which functions
//! run. The row in `services` says which version new runs follow; a run keeps the version it began with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use celesta_artifacts::Artifacts;
use celesta_bundle::{Bundle, BundleErrors, Files};
use celesta_engine::{FactType, Limits, RuleSet};
use celesta_functions::names::function_queue;
use celesta_queue::QueueName;
use celesta_runtime::Clock;
use celesta_store::{Cell, Store, Unit};
use celesta_types::{Digest, ErrorKind, Timestamp};
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use crate::cluster::{BUNDLE, BUNDLE_INSERT};
use crate::release::{Broken, Canary, ReleaseKind, Share};
use crate::runtime::Inner;
use crate::schema::{SERVICE_UPSERT, VERSION_INSERT};

/// What a packed bundle is.
const PACKED: &str = "application/gzip";

/// One version of a service, compiled and unpacked.
#[derive(Debug)]
pub struct Version {
    /// The service.
    pub service: Arc<str>,
    /// The digest of its files.
    pub digest: Digest,
    /// When it was first pushed.
    pub pushed_at: Timestamp,
    /// The compiled bundle.
    pub bundle: Bundle,
    /// The unpacked files.
    pub folder: PathBuf,
    /// The queue of each function, by the function's name.
    pub(crate) queues: BTreeMap<String, QueueName>,
}

impl Version {
    /// The rules of `workflow`.
    pub(crate) fn rules(&self, workflow: &str) -> Option<&Arc<RuleSet>> {
        self.bundle.workflows.get(workflow)
    }

    /// The shared fact types that its rules declare, by name; those of one name are alike.
    pub(crate) fn shared_types(&self) -> BTreeMap<&str, &FactType> {
        let types = self
            .bundle
            .workflows
            .values()
            .flat_map(|rules| rules.fact_types());
        let shared = types.filter(|fact_type| fact_type.shared);
        shared.map(|fact_type| (&*fact_type.name, fact_type)).collect()
    }
}

/// What a push did.
#[derive(Debug)]
pub struct Pushed {
    /// The version that new runs follow from now on.
    pub version: Arc<Version>,
    /// Whether it differs from the one before.
    pub changed: bool,
}

/// Why a push was refused. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The bundle is wrong.
    #[error("{0}")]
    Invalid(BundleErrors),
    /// The bundle names another service than the path it was pushed to.
    #[error("the bundle is of service `{found}` and was pushed to `{expected}`")]
    OtherService {
        /// The service of the path.
        expected: String,
        /// The name in `service.toml`.
        found: String,
    },
    /// Runs that are to move to this version have facts that would not fit it.
    #[error("stored facts would not fit: {}", told(.broken))]
    Breaks {
        /// Each fact type or field, and what to write.
        broken: Vec<Broken>,
    },
    /// It could not be kept.
    #[error("cannot keep the bundle: {reason}")]
    Unavailable {
        /// The words of the disk or the store.
        reason: String,
    },
}

impl PushError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) | Self::OtherService { .. } | Self::Breaks { .. } => ErrorKind::Invalid,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }

    pub(crate) fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            reason: error.to_string(),
        }
    }
}

/// Versions that were compiled in this process. Runtimes that are given the same one compile each of them once: what a
/// version is follows from its digest. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Versions(Arc<RwLock<HashMap<Digest, Arc<Version>>>>);

/// All services and the versions in use.
#[derive(Debug)]
pub(crate) struct Registry {
    folder: PathBuf,
    pub(crate) store: Store,
    artifacts: Artifacts,
    pub(crate) clock: Clock,
    current: RwLock<BTreeMap<Arc<str>, Arc<Version>>>,
    canaries: RwLock<BTreeMap<Arc<str>, Canary>>,
    /// Held while releases are changed or read again: what was read before a change must not be taken for news after it.
    pub(crate) changing: tokio::sync::Mutex<()>,
    versions: Versions,
    /// Counts changes, so that workers notice new functions.
    changes: tokio::sync::watch::Sender<u64>,
    /// Runtimes whose queues follow the versions.
    followers: Mutex<Vec<Weak<Inner>>>,
}

impl Registry {
    /// Loads the current version of every service.
    pub(crate) async fn open(
        folder: PathBuf,
        store: Store,
        artifacts: Artifacts,
        clock: Clock,
        versions: Versions,
    ) -> Result<Self, PushError> {
        let registry = Self {
            folder,
            store,
            artifacts,
            clock,
            current: RwLock::default(),
            canaries: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            versions,
            changes: tokio::sync::watch::Sender::new(0),
            followers: Mutex::default(),
        };
        registry.refresh().await?;
        Ok(registry)
    }

    /// Takes over what was changed at other nodes, where there may be any.
    pub(crate) async fn refresh_shared(&self) -> Result<(), PushError> {
        if self.store.database().is_some() {
            self.refresh().await?;
        }
        Ok(())
    }

    /// Takes over versions and canaries that were pushed elsewhere; says whether a service follows another version.
    pub(crate) async fn refresh(&self) -> Result<bool, PushError> {
        let _changing = self.changing.lock().await;
        let rows = self
            .store
            .fetch("SELECT name, digest FROM services ORDER BY name", &[])
            .await
            .map_err(PushError::unavailable)?;
        let mut changed = false;
        for row in rows {
            let Some(digest) = row.blob(1).and_then(digest_of) else {
                continue;
            };
            let known = row.text(0).and_then(|name| self.current(name));
            if known.is_some_and(|known| known.digest == digest) {
                continue;
            }
            let version = self.version(digest).await?;
            self.open_queues(&version)?;
            self.set_current(&version);
            changed = true;
        }
        self.load_canaries().await?;
        Ok(changed)
    }

    /// Has the queues and runs of `inner` follow the versions, for as long as it lives.
    pub(crate) fn follow(&self, inner: &Arc<Inner>) {
        let mut followers = self.followers.lock();
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(Arc::downgrade(inner));
    }

    fn following(&self) -> Vec<Arc<Inner>> {
        self.followers.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whoever waits for the version's functions finds their queues, in every partition that is here.
    pub(crate) fn open_queues(&self, version: &Version) -> Result<(), PushError> {
        for follower in self.following() {
            follower.open_queues(version)?;
        }
        Ok(())
    }

    /// Has the runs of every partition that is here move to the current version, when that is to be.
    fn move_runs(&self, service: &str) {
        // Alone, whoever changes the version moves the runs.
        if self.store.database().is_some() {
            for follower in self.following() {
                follower.move_runs(service);
            }
        }
    }

    /// The current version of `service`.
    pub(crate) fn current(&self, service: &str) -> Option<Arc<Version>> {
        self.current.read().get(service).cloned()
    }

    /// The version of `service` that some new runs follow.
    pub(crate) fn canary(&self, service: &str) -> Option<Canary> {
        self.canaries.read().get(service).cloned()
    }

    /// The services that have one.
    pub(crate) fn canaries(&self) -> Vec<Arc<str>> {
        self.canaries.read().keys().cloned().collect()
    }

    pub(crate) fn set_canary(&self, service: &str, canary: Option<Canary>) {
        let mut canaries = self.canaries.write();
        match canary {
            Some(canary) => drop(canaries.insert(service.into(), canary)),
            None => drop(canaries.remove(service)),
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn set_current(&self, version: &Arc<Version>) {
        self.current
            .write()
            .insert(Arc::clone(&version.service), Arc::clone(version));
        self.changes.send_modify(|changes| *changes += 1);
        self.move_runs(&version.service);
    }

    /// Adds to `unit` that new runs follow this version.
    pub(crate) fn write_current(&self, unit: &mut Unit, version: &Version) {
        let cells = [
            Cell::Text(Arc::clone(&version.service)),
            Cell::Blob(version.digest.as_bytes().to_vec()),
            self.clock.now().as_millis().into(),
        ];
        unit.add(&SERVICE_UPSERT, cells);
    }

    /// The current version of every service, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Version>> {
        self.current.read().values().cloned().collect()
    }

    /// Whether some service subscribes to events of that type and source.
    pub(crate) fn is_subscribed(&self, event_type: &str, source: &str) -> bool {
        self.current.read().values().any(|version| {
            let subscriptions = version.bundle.subscriptions.iter();
            subscriptions
                .into_iter()
                .any(|subscription| subscription.concerns(event_type, source))
        })
    }

    /// The version with that digest when it is in memory.
    pub(crate) fn loaded(&self, digest: &Digest) -> Option<Arc<Version>> {
        self.versions.0.read().get(digest).cloned()
    }

    /// The versions of `service` that are in memory: those of all its runs that have taken a turn in this process, and more.
    pub(crate) fn loaded_of(&self, service: &str) -> Vec<Arc<Version>> {
        let versions = self.versions.0.read();
        let own = versions.values().filter(|version| *version.service == *service);
        own.cloned().collect()
    }

    /// Hears of pushes.
    pub(crate) fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The version with that digest, read from its artifact when it is not in memory.
    pub(crate) async fn version(&self, digest: Digest) -> Result<Arc<Version>, PushError> {
        if let Some(version) = self.loaded(&digest) {
            return Ok(version);
        }
        let rows = self
            .store
            .fetch(
                "SELECT artifact, pushed_at FROM versions WHERE digest = ?",
                &[digest.as_bytes().to_vec().into()],
            )
            .await
            .map_err(PushError::unavailable)?;
        let lost = || PushError::Unavailable {
            reason: format!("version {digest} is not in the store"),
        };
        let row = rows.first().ok_or_else(lost)?;
        let artifact = row.blob(0).and_then(digest_of).ok_or_else(lost)?;
        let pushed_at = Timestamp::from_millis(row.int(1).unwrap_or(0));
        let path = self.artifacts.path(&artifact).await;
        let path = match path.map_err(PushError::unavailable)? {
            Some(path) => path,
            None => self.fetch_bundle(&artifact).await?.ok_or_else(lost)?,
        };
        let packed = tokio::fs::read(path).await.map_err(PushError::unavailable)?;
        let files = celesta_bundle::unpack(packed.as_slice(), &celesta_bundle::UnpackLimits::default())
            .map_err(PushError::unavailable)?;
        let (bundle, files) = compile(files).await?;
        self.keep(bundle, files, pushed_at).await
    }

    /// A bundle that was pushed at another node, from the database that all share.
    async fn fetch_bundle(&self, artifact: &Digest) -> Result<Option<PathBuf>, PushError> {
        if self.store.database().is_none() {
            return Ok(None);
        }
        let rows = self
            .store
            .fetch(BUNDLE, &[artifact.as_bytes().to_vec().into()])
            .await
            .map_err(PushError::unavailable)?;
        let Some(packed) = rows.into_iter().next().and_then(|mut row| row.take_blob(0)) else {
            return Ok(None);
        };
        let kept = self.artifacts.put_bytes(packed, Some(PACKED.to_owned())).await;
        kept.map_err(PushError::unavailable)?;
        self.artifacts
            .path(artifact)
            .await
            .map_err(PushError::unavailable)
    }

    /// Checks, keeps and makes current what an author pushes; with a share, only for some new runs. `runs` says which
    /// runs there are.
    pub(crate) async fn push(
        &self,
        runs: &Arc<Inner>,
        service: &str,
        files: Files,
        share: Option<Share>,
    ) -> Result<Pushed, PushError> {
        let (bundle, files) = compile(files).await?;
        if bundle.name != service {
            return Err(PushError::OtherService {
                expected: service.to_owned(),
                found: bundle.name,
            });
        }
        self.refresh_shared().await?;
        let _changing = self.changing.lock().await;
        let before = self.current(service);
        if let Some(before) = &before {
            check_breaks(runs, before, &bundle).await?;
        }
        let now = self.clock.now();
        let packed = celesta_bundle::pack(&files);
        let shared = self.store.database().map(|_| packed.clone());
        let artifact = self
            .artifacts
            .put_bytes(packed, Some(PACKED.to_owned()))
            .await
            .map_err(PushError::unavailable)?;
        let digest = bundle.digest;
        let version = match self.loaded(&digest) {
            Some(version) => version,
            None => self.keep(bundle, files, now).await?,
        };
        let changed = before.as_ref().is_none_or(|before| before.digest != digest);
        // The first version of a service is nobody's canary.
        let share = share.filter(|_| changed && before.is_some());
        let mut unit = Unit::new();
        if let Some(packed) = shared {
            unit.add(
                &BUNDLE_INSERT,
                [artifact.digest.as_bytes().to_vec().into(), packed.into()],
            );
        }
        unit.add(
            &VERSION_INSERT,
            [
                service.into(),
                digest.as_bytes().to_vec().into(),
                artifact.digest.as_bytes().to_vec().into(),
                now.as_millis().into(),
            ],
        );
        match &share {
            Some(share) => self.write_canary(&mut unit, service, digest, Some(share)),
            None => {
                self.write_current(&mut unit, &version);
                if changed {
                    self.release(&mut unit, service, digest, ReleaseKind::Push)
                        .await?;
                }
                if let Some(canary) = self.canary(service) {
                    self.write_canary(&mut unit, service, canary.version.digest, None);
                }
            }
        }
        self.store.commit(unit).await.map_err(PushError::unavailable)?;
        self.open_queues(&version)?;
        match share {
            Some(share) => {
                let version = Arc::clone(&version);
                self.set_canary(service, Some(Canary { version, share }));
            }
            None => {
                self.set_canary(service, None);
                self.set_current(&version);
            }
        }
        Ok(Pushed { version, changed })
    }

    /// Unpacks the files to their folder and remembers the version.
    async fn keep(
        &self,
        bundle: Bundle,
        files: Files,
        pushed_at: Timestamp,
    ) -> Result<Arc<Version>, PushError> {
        let folder = self.folder.join(bundle.digest.hex());
        let target = folder.clone();
        let written = tokio::task::spawn_blocking(move || write_folder(&target, &files)).await;
        written
            .map_err(PushError::unavailable)?
            .map_err(PushError::unavailable)?;
        let service = Arc::<str>::from(bundle.name.as_str());
        let queues = bundle.functions.keys().filter_map(|function| {
            let queue = QueueName::new(&function_queue(&bundle.name, function)).ok()?;
            Some((function.clone(), queue))
        });
        let queues = queues.collect();
        let version = Arc::new(Version {
            service,
            digest: bundle.digest,
            pushed_at,
            bundle,
            folder,
            queues,
        });
        self.versions
            .0
            .write()
            .insert(version.digest, Arc::clone(&version));
        Ok(version)
    }
}

/// Refuses what stored facts would not survive.
async fn check_breaks(runs: &Arc<Inner>, before: &Version, bundle: &Bundle) -> Result<(), PushError> {
    if before.digest == bundle.digest {
        return Ok(());
    }
    let mut broken = Vec::new();
    for (workflow, rules) in &bundle.workflows {
        let versions = bundle.versions.get(workflow);
        let Some(versions) = versions.filter(|versions| versions.policy.moves()) else {
            continue;
        };
        let Some(old) = before.rules(workflow) else {
            continue;
        };
        let breaks = versions.moves.breaks(old, rules);
        // Without a run there is nothing to break.
        let found = !breaks.is_empty()
            && runs
                .has_runs(&before.service, workflow)
                .await
                .map_err(PushError::unavailable)?;
        if found {
            broken.extend(breaks.into_iter().map(|what| Broken {
                workflow: workflow.clone(),
                what,
            }));
        }
    }
    if broken.is_empty() {
        Ok(())
    } else {
        Err(PushError::Breaks { broken })
    }
}

fn told(broken: &[Broken]) -> String {
    let told = broken.iter().map(|one| {
        let Broken { workflow, what } = one;
        format!("workflow `{workflow}`: {}; {}", what.message, what.hint)
    });
    told.collect::<Vec<_>>().join("\n")
}

/// Compiles on a thread that may be held: a large bundle takes longer than the async threads have.
pub(crate) async fn compile(files: Files) -> Result<(Bundle, Files), PushError> {
    let compiled = tokio::task::spawn_blocking(move || {
        let limits = Limits {
            clock: Some(monotonic_ms),
            ..Limits::default()
        };
        Bundle::compile_with(&files, &limits).map(|bundle| (bundle, files))
    });
    compiled
        .await
        .map_err(PushError::unavailable)?
        .map_err(PushError::Invalid)
}

/// What scripts are timed with.
fn monotonic_ms() -> u64 {
    u64::try_from(Clock::system().monotonic().as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn digest_of(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok().map(Digest::from_bytes)
}

/// Writes the files beside the folder and renames: a folder that stands is whole.
fn write_folder(folder: &Path, files: &Files) -> std::io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let growing = folder.with_extension("growing");
    if growing.exists() {
        std::fs::remove_dir_all(&growing)?;
    }
    std::fs::create_dir_all(&growing)?;
    celesta_bundle::write_folder(&growing, files)?;
    match std::fs::rename(&growing, folder) {
        // Somebody else was first with the same content.
        Err(_) if folder.exists() => std::fs::remove_dir_all(&growing),
        outcome => outcome,
    }
}
