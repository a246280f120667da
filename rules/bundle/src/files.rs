//! The files of a bundle: read from a folder, written to one, and named by the digest of their content.
//!
//! Files are held in memory because a bundle is small: programs, rules and schemas. What is large belongs into an
//! artifact. Times, owners and every permission but "executable" are no part of a bundle.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use celesta_types::{Digest, ErrorKind};
use sha2::{Digest as _, Sha256};

/// Files in a bundle: far more than a service written by people has.
pub const FILES_MAX: usize = 10_000;
/// Bytes of a bundle's files together: it is held in memory while it is checked.
pub const BYTES_MAX: u64 = 256 << 20;
/// Bytes of a path inside of a bundle: leaves room for a prefix below the limit of file systems.
pub const PATH_BYTES_MAX: usize = 1_024;
/// Folders within folders.
const PATH_DEPTH_MAX: usize = 32;

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileEntry {
    /// What is in it.
    pub content: Vec<u8>,
    /// Whether it may be started as a program.
    pub executable: bool,
}

impl FileEntry {
    /// A plain file.
    #[must_use]
    pub fn text(content: &str) -> Self {
        Self {
            content: content.as_bytes().to_vec(),
            executable: false,
        }
    }
}

/// All files of a bundle by their path: relative, parts separated by `/`, none of them `.` or `..`.
pub type Files = BTreeMap<String, FileEntry>;

/// Why a folder cannot be read as a bundle, or a bundle not be written to a folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A symbolic link leads out of the folder, or to a folder, or nowhere.
    #[error("{} is a symbolic link to {}; only links to files of the bundle are followed", path.display(), target.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A name that cannot be part of a bundle.
    #[error("{} cannot be in a bundle: {reason}", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with its name.
        reason: &'static str,
    },
    /// More than a bundle holds.
    #[error("the folder holds more than a bundle may: {what}; large files belong into artifacts")]
    TooLarge {
        /// The bound that was reached.
        what: String,
    },
}

impl FolderError {
    /// What a caller may do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Io { .. } => ErrorKind::Unavailable,
            Self::Link { .. } | Self::Name { .. } | Self::TooLarge { .. } => ErrorKind::Invalid,
        }
    }
}

/// Reads a folder. Left out, in every folder: what begins with a dot, `target`, `__pycache__`, `node_modules`, and what
/// logs (`*.log`: a log written into the bundle's own folder would make it new with every line) and editors (`*~`) leave.
///
/// # Errors
/// When a file cannot be read, a link leads out of the folder, or the folder is larger than a bundle may be.
pub fn read_folder(folder: &Path) -> Result<Files, FolderError> {
    let root = fs::canonicalize(folder).map_err(|source| io_error("read", folder, source))?;
    let mut reading = Reading {
        root: &root,
        files: Files::new(),
        bytes: 0,
    };
    reading.folder(&root, "", 0)?;
    Ok(reading.files)
}

/// Whether files and folders of this name are no part of a bundle.
#[must_use]
pub fn is_left_out(name: &str) -> bool {
    let leftover = name.ends_with(".log") || name.ends_with('~');
    leftover || name.starts_with('.') || matches!(name, "target" | "__pycache__" | "node_modules")
}

struct Reading<'r> {
    root: &'r Path,
    files: Files,
    bytes: u64,
}

impl Reading<'_> {
    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), FolderError> {
        let refused = |source| io_error("read", folder, source);
        if depth > PATH_DEPTH_MAX {
            return Err(FolderError::Name {
                path: folder.to_owned(),
                reason: "folders are nested too deep",
            });
        }
        for entry in fs::read_dir(folder).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            let path = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(FolderError::Name {
                    path,
                    reason: "its name is not UTF-8",
                });
            };
            if is_left_out(name) {
                continue;
            }
            let inner = if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}/{name}")
            };
            let kind = entry.file_type().map_err(refused)?;
            if kind.is_dir() {
                self.folder(&path, &inner, depth + 1)?;
            } else if kind.is_symlink() {
                let target = self.follow(&path)?;
                self.file(&target, inner)?;
            } else if kind.is_file() {
                self.file(&path, inner)?;
            } else {
                return Err(FolderError::Name {
                    path,
                    reason: "it is neither a file nor a folder",
                });
            }
        }
        Ok(())
    }

    fn follow(&self, link: &Path) -> Result<PathBuf, FolderError> {
        match fs::canonicalize(link) {
            Ok(target) if target.starts_with(self.root) && target.is_file() => Ok(target),
            Ok(target) => Err(FolderError::Link {
                path: link.to_owned(),
                target,
            }),
            Err(_) => {
                let target = fs::read_link(link).unwrap_or_default();
                Err(FolderError::Link {
                    path: link.to_owned(),
                    target,
                })
            }
        }
    }

    fn file(&mut self, path: &Path, inner: String) -> Result<(), FolderError> {
        if let Err(reason) = check_path(&inner) {
            return Err(FolderError::Name {
                path: path.to_owned(),
                reason,
            });
        }
        let refused = |source| io_error("read", path, source);
        let meta = fs::metadata(path).map_err(refused)?;
        self.bytes += meta.len();
        if self.bytes > BYTES_MAX {
            return Err(FolderError::TooLarge {
                what: format!("{} MiB", BYTES_MAX >> 20),
            });
        }
        if self.files.len() >= FILES_MAX {
            return Err(FolderError::TooLarge {
                what: format!("{FILES_MAX} files"),
            });
        }
        let content = fs::read(path).map_err(refused)?;
        let executable = meta.permissions().mode() & 0o111 != 0;
        self.files.insert(inner, FileEntry { content, executable });
        Ok(())
    }
}

/// Writes all files below `folder`, which is made when it is missing.
///
/// # Errors
/// When a path would lead out of the folder, or a file cannot be written.
pub fn write_folder(folder: &Path, files: &Files) -> Result<(), FolderError> {
    fs::create_dir_all(folder).map_err(|source| io_error("make", folder, source))?;
    for (inner, file) in files {
        let path = folder.join(inner);
        if let Err(reason) = check_path(inner) {
            return Err(FolderError::Name { path, reason });
        }
        let refused = |source| io_error("write", &path, source);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(refused)?;
        }
        fs::write(&path, &file.content).map_err(refused)?;
        let mode = if file.executable { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(refused)?;
    }
    Ok(())
}

impl From<FolderError> for io::Error {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::Io { source, .. } => source,
            other => Self::new(io::ErrorKind::InvalidData, other.to_string()),
        }
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> FolderError {
    FolderError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Whether `path` may name a file of a bundle; the reason when not.
pub(crate) fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("its name is empty");
    }
    if path.len() > PATH_BYTES_MAX {
        return Err("its path is too long");
    }
    if path.contains(['\\', '\0']) || path.chars().any(char::is_control) {
        return Err("its name holds a backslash or a control character");
    }
    let mut depth = 0;
    for part in path.split('/') {
        depth += 1;
        if matches!(part, "" | "." | "..") {
            return Err("its path leads out of the bundle or is not in its simplest form");
        }
    }
    if depth > PATH_DEPTH_MAX {
        return Err("folders are nested too deep");
    }
    Ok(())
}

/// The name of these files: equal exactly when paths, contents and executable bits are equal.
#[must_use]
pub fn digest(files: &Files) -> Digest {
    // Lengths stand before everything of variable length, so no two bundles hash the same bytes.
    let mut hash = Sha256::new();
    hash.update(b"celesta-bundle-1\n");
    for (path, file) in files {
        hash.update(path.len().to_le_bytes());
        hash.update(path.as_bytes());
        hash.update([u8::from(file.executable)]);
        hash.update(file.content.len().to_le_bytes());
        hash.update(&file.content);
    }
    Digest::from_bytes(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn a_folder_reads_back_as_it_was_written() {
        let there = folder();
        let files = Files::from([
            ("service.toml".to_owned(), FileEntry::text("name = \"a\"")),
            (
                "functions/run/main.sh".to_owned(),
                FileEntry {
                    content: b"#!/bin/sh".to_vec(),
                    executable: true,
                },
            ),
        ]);
        write_folder(there.path(), &files).expect("written");
        fs::create_dir_all(there.path().join("functions/run/__pycache__")).expect("made");
        fs::write(there.path().join("functions/run/__pycache__/x.pyc"), "x").expect("written");
        fs::write(there.path().join(".env"), "SECRET=1").expect("written");
        assert_eq!(read_folder(there.path()).expect("read"), files);
    }

    #[test]
    fn a_link_within_the_folder_is_followed_and_others_are_refused() {
        let there = folder();
        fs::write(there.path().join("one.txt"), "one").expect("written");
        std::os::unix::fs::symlink("one.txt", there.path().join("two.txt")).expect("linked");
        let files = read_folder(there.path()).expect("read");
        assert_eq!(files["two.txt"].content, b"one");
        for target in ["/etc/passwd", "../..", "nowhere", "."] {
            let link = there.path().join("three");
            std::os::unix::fs::symlink(target, &link).expect("linked");
            assert!(
                matches!(read_folder(there.path()), Err(FolderError::Link { .. })),
                "{target}"
            );
            fs::remove_file(link).expect("removed");
        }
    }

    #[test]
    fn files_that_would_leave_the_folder_are_not_written() {
        let there = folder();
        for path in ["../x", "/x", "a/../../x", "a//b", "", "a\\b", "./a"] {
            let files = Files::from([(path.to_owned(), FileEntry::text("x"))]);
            assert!(
                matches!(write_folder(there.path(), &files), Err(FolderError::Name { .. })),
                "{path}"
            );
        }
    }

    #[test]
    fn the_digest_follows_path_content_and_mode() {
        let one = Files::from([("a".to_owned(), FileEntry::text("bc"))]);
        let mut other = one.clone();
        assert_eq!(digest(&one), digest(&other));
        other.get_mut("a").expect("there").executable = true;
        assert_ne!(digest(&one), digest(&other));
        let moved = Files::from([("ab".to_owned(), FileEntry::text("c"))]);
        assert_ne!(digest(&one), digest(&moved));
    }
}
