//! The folder as files: what there is, and what a file's content is called.

use std::io::Read as _;
use std::path::Path;

use celesta_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::{Artifacts, Error, blocking, io};

/// Read and hashed at once by one thread: large enough that the system calls cost nothing beside the hash.
const CHUNK_BYTES: usize = 1 << 20;

/// The digest of the file `path` and its size in bytes.
///
/// # Errors
/// When the file cannot be read.
pub async fn digest_file(path: &Path) -> Result<(Digest, u64), Error> {
    let path = path.to_owned();
    blocking(move || {
        let mut file = std::fs::File::open(path)?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut size = 0;
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                return Ok((Digest::from_bytes(hash.finalize().into()), size));
            }
            size += u64::try_from(read).unwrap_or(u64::MAX);
            hash.update(&chunk[..read]);
        }
    })
    .await
    .map_err(io("read the file"))
}

impl Artifacts {
    /// The digests of all blobs, in order. A blob that is put meanwhile may be among them or not.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn list(&self) -> Result<Vec<Digest>, Error> {
        let folder = self.folder.to_path_buf();
        blocking(move || {
            let mut found = Vec::new();
            for first in folders(&folder)? {
                for second in folders(&first)? {
                    for entry in std::fs::read_dir(second)? {
                        let name = entry?.file_name();
                        let digest = name.to_str().filter(|name| name.len() == 64);
                        found.extend(digest.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok()));
                    }
                }
            }
            found.sort_unstable_by_key(|digest: &Digest| *digest.as_bytes());
            Ok(found)
        })
        .await
        .map_err(io("list the artifacts"))
    }
}

/// The folders within `folder` that are named by two hexadecimal digits; none when it is not there.
fn folders(folder: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().len() == 2 && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_blobs_are_listed_and_files_are_called_what_they_are() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let artifacts = Artifacts::open(folder.path()).await.expect("an empty folder");
        assert!(artifacts.list().await.expect("it reads").is_empty());
        let mut kept = Vec::new();
        for content in ["a", "b", "c"] {
            let text = Some("text/plain".to_owned());
            let blob = artifacts.put_bytes(content.into(), text).await.expect("kept");
            let path = artifacts
                .path(&blob.digest)
                .await
                .expect("it reads")
                .expect("there");
            assert_eq!(digest_file(&path).await.expect("it reads"), (blob.digest, 1));
            kept.push(blob.digest);
        }
        kept.sort_unstable_by_key(|digest| *digest.as_bytes());
        assert_eq!(artifacts.list().await.expect("it reads"), kept);
        let nothing = Artifacts::reading(folder.path().join("nothing"));
        assert!(nothing.list().await.expect("no folder, no blobs").is_empty());
    }
}
