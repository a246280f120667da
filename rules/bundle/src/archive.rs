//! Bundles as they travel: a `tar.gz` with the same bytes for the same files, and its careful opposite.
//!
//! What comes from outside is hostile until proven otherwise: entries, bytes and the ratio between packed and unpacked
//! bytes are bounded while reading, and a path that leads anywhere else ends the whole.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::rc::Rc;

use celesta_types::ErrorKind;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tar::{Archive, Builder, EntryType, Header};

use crate::files::{BYTES_MAX, FILES_MAX, FileEntry, Files, check_path};

/// How much an archive may unpack to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Files and folders.
    pub entries_max: usize,
    /// Bytes of the unpacked archive, its headers included.
    pub bytes_max: u64,
    /// Unpacked bytes for each packed one, once [`UnpackLimits::ratio_from_bytes`] are unpacked.
    pub ratio_max: u64,
    /// Small archives of repetitive text compress well and harm nobody.
    pub ratio_from_bytes: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        // Source text packs 3 to 10 times, a bomb a thousand times: deflate reaches at most 1,032.
        Self {
            entries_max: FILES_MAX * 2,
            bytes_max: BYTES_MAX,
            ratio_max: 100,
            ratio_from_bytes: 8 << 20,
        }
    }
}

/// Why an archive was refused. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not a tar archive, packed with gzip or plain.
    #[error("not a tar.gz archive: {reason}")]
    Malformed {
        /// What the reader stumbled over.
        reason: String,
    },
    /// A path leads out of the bundle, or is not one a bundle may hold.
    #[error("the path `{path}` is refused: {reason}")]
    Path {
        /// The path, cut to 200 characters.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A link, a device or anything else that is neither a file nor a folder.
    #[error("`{path}` is a {what}; a bundle holds files only")]
    NotAFile {
        /// The path, cut to 200 characters.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// More entries than allowed.
    #[error("the archive holds more than {entries_max} entries")]
    TooManyEntries {
        /// The bound.
        entries_max: usize,
    },
    /// More bytes than allowed.
    #[error("the archive unpacks to more than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: u64,
    },
    /// It unpacks to so many times its size that it can only be meant to do harm.
    #[error("the archive unpacks to more than {ratio_max} times its size")]
    Bomb {
        /// The bound.
        ratio_max: u64,
    },
}

impl UnpackError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    /// Whether a bound was exceeded, as opposed to something being wrong.
    #[must_use]
    pub const fn is_too_large(&self) -> bool {
        matches!(
            self,
            Self::TooManyEntries { .. } | Self::TooLarge { .. } | Self::Bomb { .. }
        )
    }
}

/// Packs files as `tar.gz`: the same files give the same bytes.
///
/// # Panics
/// Never: memory takes every byte.
#[must_use]
pub fn pack(files: &Files) -> Vec<u8> {
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::default()));
    for (path, file) in files {
        let mut header = Header::new_gnu();
        header.set_size(file.content.len().try_into().unwrap_or(u64::MAX));
        header.set_mode(if file.executable { 0o755 } else { 0o644 });
        header.set_mtime(0);
        archive
            .append_data(&mut header, path, file.content.as_slice())
            .expect("memory takes every byte");
    }
    let mut packed = archive.into_inner().expect("memory takes every byte");
    packed.flush().expect("memory takes every byte");
    packed.finish().expect("memory takes every byte")
}

/// Unpacks a `tar.gz` or a plain `tar` into memory. Folders and the global header of `git archive` are passed over;
/// `./` before a path is taken away.
///
/// # Errors
/// When the archive is malformed, larger than `limits`, or holds anything but files with proper paths.
pub fn unpack(mut reader: impl Read, limits: &UnpackLimits) -> Result<Files, UnpackError> {
    let mut magic = [0_u8; 2];
    let mut have = 0;
    while have < magic.len() {
        match reader.read(&mut magic[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(malformed(&error)),
        }
    }
    let whole = io::Cursor::new(magic[..have].to_vec()).chain(reader);
    let packed = Rc::new(Cell::new(0_u64));
    let counted = Counted {
        inner: whole,
        count: Rc::clone(&packed),
    };
    let trip = Rc::new(Cell::new(None));
    if magic == [0x1f, 0x8b] {
        let unpacked = Bounded {
            inner: GzDecoder::new(counted),
            packed: Some(packed),
            unpacked: 0,
            limits,
            trip: Rc::clone(&trip),
        };
        entries(unpacked, limits, &trip)
    } else {
        let unpacked = Bounded {
            inner: counted,
            packed: None,
            unpacked: 0,
            limits,
            trip: Rc::clone(&trip),
        };
        entries(unpacked, limits, &trip)
    }
}

fn entries(
    reader: impl Read,
    limits: &UnpackLimits,
    trip: &Cell<Option<Trip>>,
) -> Result<Files, UnpackError> {
    let refused = |error: io::Error| match trip.get() {
        Some(Trip::Bytes) => UnpackError::TooLarge {
            bytes_max: limits.bytes_max,
        },
        Some(Trip::Ratio) => UnpackError::Bomb {
            ratio_max: limits.ratio_max,
        },
        None => malformed(&error),
    };
    let mut files = Files::new();
    let mut folders = BTreeSet::new();
    let mut archive = Archive::new(reader);
    for (count, entry) in archive.entries().map_err(refused)?.enumerate() {
        let mut entry = entry.map_err(refused)?;
        if count >= limits.entries_max {
            return Err(UnpackError::TooManyEntries {
                entries_max: limits.entries_max,
            });
        }
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let shown = || raw.chars().take(200).collect::<String>();
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::Directory => {}
            EntryType::XGlobalHeader => continue,
            other => {
                return Err(UnpackError::NotAFile {
                    path: shown(),
                    what: kind_name(other),
                });
            }
        }
        if std::str::from_utf8(&entry.path_bytes()).is_err() {
            return Err(UnpackError::Path {
                path: shown(),
                reason: "it is not UTF-8",
            });
        }
        let Some(path) = simplest(&raw) else {
            // The folder itself, written `./`.
            continue;
        };
        if let Err(reason) = check_path(path) {
            return Err(UnpackError::Path {
                path: shown(),
                reason,
            });
        }
        if kind == EntryType::Directory {
            folders.insert(path.to_owned());
            continue;
        }
        let executable = entry.header().mode().unwrap_or(0) & 0o111 != 0;
        // The size in the header is a claim: memory grows with what is really read.
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(refused)?;
        if files.len() >= FILES_MAX {
            return Err(UnpackError::TooManyEntries {
                entries_max: FILES_MAX,
            });
        }
        if files
            .insert(path.to_owned(), FileEntry { content, executable })
            .is_some()
        {
            return Err(UnpackError::Path {
                path: shown(),
                reason: "it is in the archive twice",
            });
        }
    }
    for path in files.keys() {
        let mut parent = path.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            if files.contains_key(above) {
                let path = above.chars().take(200).collect();
                return Err(UnpackError::Path {
                    path,
                    reason: "it is a file and a folder at once",
                });
            }
            parent = above;
        }
        if folders.contains(path) {
            let path = path.chars().take(200).collect();
            return Err(UnpackError::Path {
                path,
                reason: "it is a file and a folder at once",
            });
        }
    }
    Ok(files)
}

/// `path` without `./` before and `/` behind it; none when nothing is left.
fn simplest(path: &str) -> Option<&str> {
    let mut path = path;
    while let Some(rest) = path.strip_prefix("./") {
        path = rest;
    }
    if path == "/" {
        return Some(path);
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    (!path.is_empty() && path != ".").then_some(path)
}

const fn kind_name(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink => "symbolic link",
        EntryType::Link => "hard link",
        EntryType::Char | EntryType::Block => "device",
        EntryType::Fifo => "pipe",
        EntryType::GNUSparse => "sparse file",
        _ => "special entry",
    }
}

fn malformed(error: &io::Error) -> UnpackError {
    UnpackError::Malformed {
        reason: error.to_string().chars().take(200).collect(),
    }
}

/// Which bound ended the reading.
#[derive(Debug, Clone, Copy)]
enum Trip {
    Bytes,
    Ratio,
}

/// Counts what is read of the packed bytes.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count
            .set(self.count.get() + u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}

/// Ends the reading when a bound is exceeded.
struct Bounded<'l, R> {
    inner: R,
    packed: Option<Rc<Cell<u64>>>,
    unpacked: u64,
    limits: &'l UnpackLimits,
    trip: Rc<Cell<Option<Trip>>>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.unpacked += u64::try_from(count).unwrap_or(0);
        let packed = self.packed.as_ref().map(|packed| packed.get().max(1));
        let bomb = packed.is_some_and(|packed| {
            self.unpacked > self.limits.ratio_from_bytes && self.unpacked / packed > self.limits.ratio_max
        });
        if bomb {
            self.trip.set(Some(Trip::Ratio));
        } else if self.unpacked > self.limits.bytes_max {
            self.trip.set(Some(Trip::Bytes));
        } else {
            return Ok(count);
        }
        Err(io::Error::other("a bound was exceeded"))
    }
}

#[cfg(test)]
mod tests;
