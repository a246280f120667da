//! A node's data as a folder that can be carried away, and back.
//!
//! A backup is a data folder with a manifest: the store as it was at one instant, every artifact there was then, and the
//! digests of all of it. The store is copied by the database itself while its node goes on, *before* the artifacts: what
//! the store names was there already, and artifacts are never removed. The folder grows beside its place and is renamed
//! when everything in it is durable and was read again, so a folder that stands is whole.

mod restore;
mod take;

use std::path::{Path, PathBuf};

use celesta_types::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

pub(crate) use restore::restore;
pub(crate) use take::take;

/// The format this release writes; all earlier ones are readable.
const FORMAT: u32 = 1;
/// What the backup says of itself.
const MANIFEST: &str = "manifest.json";
/// The artifacts, a digest in each line, in order.
const ARTIFACTS_LIST: &str = "artifacts.txt";

/// What a backup says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The version of this format.
    format: u32,
    /// The release that took the backup.
    release: String,
    /// When the store stood so.
    taken_at: Timestamp,
    /// The store.
    store: FileNote,
    /// The list of the artifacts, and what they are together.
    artifacts: FileNote,
    artifacts_count: usize,
    artifacts_bytes: u64,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileNote {
    file: String,
    size: u64,
    digest: Digest,
}

impl FileNote {
    async fn of(folder: &Path, file: &str) -> Result<Self, Failure> {
        let (digest, size) = celesta_artifacts::digest_file(&folder.join(file))
            .await
            .map_err(|error| broken(&error))?;
        Ok(Self {
            file: file.to_owned(),
            size,
            digest,
        })
    }
}

/// The disk or the database refused.
fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, error.to_string())
}

/// Whether `folder` may become what is written: it is not there, or empty.
fn check_vacant(folder: &Path) -> Result<(), Failure> {
    let occupied = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Failure::file("use", folder, &error)),
    };
    if occupied {
        return Err(
            Failure::new(Exit::Conflict, format!("{} is not empty", folder.display()))
                .hint("name a folder that is not there yet"),
        );
    }
    Ok(())
}

/// A fresh folder beside `folder`, in which it grows. What an interrupted attempt has left there is removed.
fn growing(folder: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(folder).map_err(|error| Failure::file("use", folder, &error))?;
    let mut name = absolute
        .file_name()
        .ok_or_else(|| Failure::usage(format!("{} is not a folder's name", folder.display())))?
        .to_owned();
    name.push(".growing");
    let growing = absolute.with_file_name(name);
    let failed = |error: std::io::Error| Failure::file("write", &growing, &error);
    if growing.exists() {
        std::fs::remove_dir_all(&growing).map_err(failed)?;
    }
    std::fs::create_dir_all(&growing).map_err(failed)?;
    Ok(growing)
}

/// Makes what has grown durable under its name.
fn stand(growing: &Path, folder: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::file("write", folder, &error);
    sync(growing).map_err(failed)?;
    std::fs::rename(growing, folder).map_err(failed)?;
    let above = growing.parent().unwrap_or(growing);
    sync(above).map_err(failed)
}

fn sync(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}
