//! What one small append and fsync costs on a disk: the yardstick beside every figure that waits for commits.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use celesta_runtime::Clock;

use crate::exit::Failure;

/// What a small commit appends to a log: one page.
const PAGE: [u8; 4_096] = [0x5a; 4_096];

/// A file that is appended to and synced.
#[derive(Debug)]
pub(crate) struct Probe {
    file: File,
    path: PathBuf,
    clock: Clock,
}

impl Probe {
    /// A new file in `folder`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn new(folder: &Path, clock: &Clock) -> Result<Self, Failure> {
        let path = folder.join("fsync-probe");
        let file = File::create(&path).map_err(|error| Failure::file("create", &path, &error))?;
        Ok(Self {
            file,
            path,
            clock: clock.clone(),
        })
    }

    /// Appends a page and waits until it is on the disk. Nothing else runs meanwhile, so blocking here hurts nobody.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn append(&mut self) -> Result<Duration, Failure> {
        let begun = self.clock.monotonic();
        self.file
            .write_all(&PAGE)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| Failure::file("write", &self.path, &error))?;
        Ok(self.clock.monotonic().saturating_sub(begun))
    }
}
