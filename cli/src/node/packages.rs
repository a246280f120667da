//! Where the local worker finds functions: in the versions this node's runtime keeps.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use celesta_runs::{PushError, Runtime, Version};
use celesta_types::{Digest, ErrorKind};
use celesta_worker::{Package, PackageError, Packages, Served};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// Functions of one version, by name.
type Functions = BTreeMap<String, Arc<Package>>;

/// The functions of all versions this node has met.
#[derive(Debug)]
pub(super) struct Registered {
    runtime: Runtime,
    /// Versions are immutable, so an entry stays true for ever; there are as many as versions in use.
    known: RwLock<BTreeMap<Digest, Arc<Functions>>>,
}

impl Registered {
    pub(super) fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            known: RwLock::default(),
        }
    }

    fn known(&self, bundle: &Digest) -> Option<Arc<Functions>> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(bundle)
            .cloned()
    }

    fn learn(&self, version: &Version) -> Arc<Functions> {
        let functions = Arc::new(functions(version));
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(version.digest, Arc::clone(&functions));
        functions
    }
}

impl Packages for Registered {
    fn served(&self) -> Vec<Served> {
        let of_version = |version: &Arc<Version>| -> Vec<Served> {
            let functions = version.bundle.functions.iter();
            let served = functions.map(|(name, manifest)| Served {
                service: Arc::clone(&version.service),
                function: name.as_str().into(),
                bundle: version.digest,
                manifest: Arc::new(manifest.clone()),
            });
            served.collect()
        };
        self.runtime.services().iter().flat_map(of_version).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.runtime.pushes()
    }

    fn package<'a>(
        &'a self,
        service: &'a str,
        bundle: &'a Digest,
        function: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Package>, PackageError>> {
        let missing = move || PackageError::NotFound {
            service: service.to_owned(),
            bundle: *bundle,
            function: function.to_owned(),
        };
        if let Some(functions) = self.known(bundle) {
            return std::future::ready(functions.get(function).cloned().ok_or_else(missing)).boxed();
        }
        async move {
            let version = self
                .runtime
                .version(*bundle)
                .await
                .map_err(|error| match error.kind() {
                    ErrorKind::NotFound => missing(),
                    _ => unavailable(&error),
                })?;
            self.learn(&version).get(function).cloned().ok_or_else(missing)
        }
        .boxed()
    }
}

fn unavailable(error: &PushError) -> PackageError {
    PackageError::Unavailable {
        reason: error.to_string(),
    }
}

fn functions(version: &Version) -> Functions {
    let folder = |name: &str| version.folder.join(Path::new("functions")).join(name);
    let functions = version.bundle.functions.iter();
    functions
        .map(|(name, manifest)| {
            (
                name.clone(),
                Arc::new(Package {
                    manifest: Arc::new(manifest.clone()),
                    content: version.bundle.pure_contents.get(name).copied(),
                    folder: folder(name),
                }),
            )
        })
        .collect()
}
