//! Where functions come from: the seam to whoever keeps the pushed versions of services.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use celesta_functions::Manifest;
use celesta_types::{Digest, ErrorKind};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// One function of one version of a service, with its files on this machine.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// Its folder, read-only; a command's words that name files in it are taken from there.
    pub folder: PathBuf,
    /// The digest of what is in the folder, of a pure function: the same content gives the same results. None when
    /// results are not to be reused.
    pub content: Option<Digest>,
}

/// A function this worker may be asked to run.
#[derive(Debug, Clone)]
pub struct Served {
    /// The service.
    pub service: Arc<str>,
    /// The function.
    pub function: Arc<str>,
    /// The current version of the service.
    pub bundle: Digest,
    /// The manifest in it: what invocations will need, as a rule.
    pub manifest: Arc<Manifest>,
}

/// Why a package is not there.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PackageError {
    /// The version, or the function in it, does not exist.
    #[error("there is no function `{function}` in version {bundle} of service `{service}`")]
    NotFound {
        /// The service.
        service: String,
        /// The version.
        bundle: Digest,
        /// The function.
        function: String,
    },
    /// It cannot be fetched now.
    #[error("the function's files are not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl PackageError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }
}

/// Keeps the pushed versions of services.
pub trait Packages: Send + Sync + fmt::Debug + 'static {
    /// The functions whose queues should be served now; every version in use counts, the newest gives the manifest.
    fn served(&self) -> Vec<Served>;

    /// Changes whenever [`Packages::served`] does.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The files of one function of one version, made ready on this machine. Called for every message: answers from
    /// memory but for the first time.
    fn package<'a>(
        &'a self,
        service: &'a str,
        bundle: &'a Digest,
        function: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Package>, PackageError>>;
}
