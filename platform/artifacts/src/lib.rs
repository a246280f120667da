//! Artifacts: immutable blobs named by the SHA-256 of their content, in a folder of this machine.
//!
//! A blob is written to a temporary file beside its place, hashed on the way, made durable and renamed: a file that
//! stands under a digest is whole. Memory is constant whatever the size. This crate does not know who refers to a blob.

mod files;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use celesta_types::{ArtifactRef, Digest, ErrorKind};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};

pub use files::digest_file;

/// The largest blob unless configured: a day of high-rate video.
pub const BYTES_MAX: u64 = 64 << 30;
/// How much is read and hashed at once: large enough that the hop to a blocking thread costs little.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of a media type.
const MEDIA_TYPE_BYTES_MAX: usize = 255;

/// Why a blob could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The content has another digest than was said.
    #[error("the content has digest {found}, not {expected}")]
    DigestMismatch {
        /// What was said.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The content is too large.
    #[error("the content has more than {max} bytes")]
    TooLarge {
        /// The bound.
        max: u64,
    },
    /// There is no such blob.
    #[error("there is no artifact {digest}")]
    NotFound {
        /// Its digest.
        digest: Digest,
    },
    /// The range lies outside of the blob.
    #[error("the range begins at byte {from}, and the artifact has {size}")]
    Range {
        /// Where it begins.
        from: u64,
        /// The size.
        size: u64,
    },
    /// The sender stopped, or the disk refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::DigestMismatch { .. } | Self::TooLarge { .. } | Self::Range { .. } => ErrorKind::Invalid,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Io { .. } => ErrorKind::Unavailable,
        }
    }
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// What is known of a blob besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its size in bytes.
    pub size: u64,
    /// Its media type, as first given.
    pub media_type: Option<String>,
}

/// The blobs of a folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: Arc<Path>,
    bytes_max: u64,
    writing: Arc<AtomicUsize>,
}

/// A content on its way to the folder; arrived or given up when dropped.
struct Writing(Arc<AtomicUsize>);

impl Writing {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Artifacts {
    /// Opens or creates the folder and removes what an interrupted write left behind.
    ///
    /// # Errors
    /// When the folder cannot be created or read.
    pub async fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let folder: Arc<Path> = folder.as_ref().into();
        let growing = folder.join("growing");
        blocking(move || {
            if growing.exists() {
                std::fs::remove_dir_all(&growing)?;
            }
            std::fs::create_dir_all(&growing)
        })
        .await
        .map_err(io("open the artifacts"))?;
        Ok(Self {
            folder,
            bytes_max: BYTES_MAX,
            writing: Arc::default(),
        })
    }

    /// The folder as it stands, to read from: nothing is created, nothing removed, and its node may go on.
    #[must_use]
    pub fn reading(folder: impl AsRef<Path>) -> Self {
        Self {
            folder: folder.as_ref().into(),
            bytes_max: BYTES_MAX,
            writing: Arc::default(),
        }
    }

    /// How many contents are on their way to the folder through this handle and its clones. A simulation waits for them: they
    /// arrive by themselves, in the time of the real disk.
    #[must_use]
    pub fn writing(&self) -> usize {
        self.writing.load(Ordering::Relaxed)
    }

    /// With another bound for one blob.
    #[must_use]
    pub const fn with_bytes_max(mut self, bytes_max: u64) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// Keeps what `reader` gives.
    ///
    /// # Errors
    /// When the reader or the disk fails, or the content is too large; nothing is kept then.
    ///
    /// # Cancel safety
    /// Dropping the future keeps nothing.
    pub async fn put(
        &self,
        reader: impl AsyncRead + Send + Unpin,
        media_type: Option<String>,
    ) -> Result<ArtifactRef, Error> {
        self.take(reader, media_type, None).await
    }

    /// Keeps what `reader` gives when its digest is `expected`.
    ///
    /// # Errors
    /// As [`Artifacts::put`], and when the digest differs.
    pub async fn put_expecting(
        &self,
        expected: Digest,
        reader: impl AsyncRead + Send + Unpin,
        media_type: Option<String>,
    ) -> Result<ArtifactRef, Error> {
        self.take(reader, media_type, Some(expected)).await
    }

    /// Keeps these bytes.
    ///
    /// # Errors
    /// As [`Artifacts::put`].
    pub async fn put_bytes(&self, bytes: Vec<u8>, media_type: Option<String>) -> Result<ArtifactRef, Error> {
        self.take(bytes.as_slice(), media_type, None).await
    }

    /// Keeps a copy of the file `path`.
    ///
    /// # Errors
    /// As [`Artifacts::put`].
    pub async fn put_file(&self, path: &Path, media_type: Option<String>) -> Result<ArtifactRef, Error> {
        let file = tokio::fs::File::open(path).await.map_err(io("read the file"))?;
        self.take(file, media_type, None).await
    }

    async fn take(
        &self,
        mut reader: impl AsyncRead + Send + Unpin,
        media_type: Option<String>,
        expected: Option<Digest>,
    ) -> Result<ArtifactRef, Error> {
        let _writing = Writing::begin(&self.writing);
        let growing = self.folder.join("growing");
        let file = blocking(move || tempfile::NamedTempFile::new_in(growing))
            .await
            .map_err(io("create a file"))?;
        let mut state = (file, Sha256::new());
        let mut size: u64 = 0;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let filled = fill(&mut reader, &mut chunk)
                .await
                .map_err(io("read the content"))?;
            if filled == 0 {
                break;
            }
            size += u64::try_from(filled).unwrap_or(u64::MAX);
            if size > self.bytes_max {
                return Err(Error::TooLarge { max: self.bytes_max });
            }
            // Hashing and writing a chunk takes longer than the async threads may be held.
            (state, chunk) = blocking(move || {
                state.1.update(&chunk[..filled]);
                state.0.write_all(&chunk[..filled])?;
                Ok((state, chunk))
            })
            .await
            .map_err(io("write the content"))?;
        }
        let (file, hash) = state;
        let digest = Digest::from_bytes(hash.finalize().into());
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Error::DigestMismatch {
                expected,
                found: digest,
            });
        }
        let target = self.place(&digest);
        let media_type = media_type.filter(|text| text.len() <= MEDIA_TYPE_BYTES_MAX);
        let kept = media_type.clone();
        blocking(move || keep(file, &target, kept.as_deref()))
            .await
            .map_err(io("keep the content"))?;
        let media_type = match media_type {
            Some(media_type) => Some(media_type),
            None => self.stat(&digest).await?.and_then(|meta| meta.media_type),
        };
        Ok(ArtifactRef {
            digest,
            size,
            media_type,
        })
    }

    /// The file that holds the blob; it must not be changed.
    ///
    /// # Errors
    /// When the disk does not answer.
    pub async fn path(&self, digest: &Digest) -> Result<Option<PathBuf>, Error> {
        let path = self.place(digest);
        Ok(tokio::fs::try_exists(&path)
            .await
            .map_err(io("look for the artifact"))?
            .then_some(path))
    }

    /// Puts the blob at `target` as a read-only file: the same blocks where the disk allows, a copy elsewhere.
    ///
    /// # Errors
    /// When there is no such blob, or the file cannot be made.
    pub async fn materialize(&self, digest: &Digest, target: &Path) -> Result<(), Error> {
        let source = self
            .path(digest)
            .await?
            .ok_or(Error::NotFound { digest: *digest })?;
        let target = target.to_owned();
        blocking(move || match std::fs::hard_link(&source, &target) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(error),
            Err(_) => std::fs::copy(&source, &target).map(drop),
        })
        .await
        .map_err(io("lay out the artifact"))
    }

    /// A reader of the blob, or of the bytes `from..=to` of it; `None` when there is no such blob.
    ///
    /// # Errors
    /// When the range begins after the end, or the disk does not answer.
    pub async fn open_reader(
        &self,
        digest: &Digest,
        range: Option<(u64, u64)>,
    ) -> Result<Option<tokio::io::Take<tokio::fs::File>>, Error> {
        let mut file = match tokio::fs::File::open(self.place(digest)).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("open the artifact")(error)),
        };
        let size = file.metadata().await.map_err(io("measure the artifact"))?.len();
        let (from, to) = range.unwrap_or((0, u64::MAX));
        if from >= size && range.is_some() {
            return Err(Error::Range { from, size });
        }
        if from > 0 {
            file.seek(std::io::SeekFrom::Start(from))
                .await
                .map_err(io("read the artifact"))?;
        }
        Ok(Some(
            file.take(to.saturating_add(1).min(size).saturating_sub(from)),
        ))
    }

    /// Size and media type; `None` when there is no such blob.
    ///
    /// # Errors
    /// When the disk does not answer.
    pub async fn stat(&self, digest: &Digest) -> Result<Option<Meta>, Error> {
        let path = self.place(digest);
        blocking(move || {
            let size = match std::fs::metadata(&path) {
                Ok(meta) => meta.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let mut media_type = String::new();
            let named = std::fs::File::open(type_file(&path))
                .and_then(|mut file| file.read_to_string(&mut media_type));
            Ok(Some(Meta {
                size,
                media_type: named.is_ok().then_some(media_type),
            }))
        })
        .await
        .map_err(io("look for the artifact"))
    }

    /// `aa/bb/<64 digits>`: no folder grows beyond what file systems like.
    fn place(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.folder.join(&hex[..2]).join(&hex[2..4]).join(hex)
    }
}

fn type_file(path: &Path) -> PathBuf {
    path.with_extension("type")
}

/// Makes the file durable under its name; the first of a content stays.
fn keep(file: tempfile::NamedTempFile, target: &Path, media_type: Option<&str>) -> std::io::Result<()> {
    let folder = target.parent().unwrap_or(target);
    if !folder.exists() {
        std::fs::create_dir_all(folder)?;
        // A new folder is durable once the folders above it are.
        for above in folder.ancestors().skip(1).take(2) {
            std::fs::File::open(above)?.sync_all()?;
        }
    }
    if let Some(media_type) = media_type
        && !type_file(target).exists()
    {
        std::fs::write(type_file(target), media_type)?;
    }
    if target.exists() {
        return Ok(());
    }
    file.as_file().sync_all()?;
    let mut permissions = file.as_file().metadata()?.permissions();
    permissions.set_readonly(true);
    file.as_file().set_permissions(permissions)?;
    file.persist(target).map_err(|error| error.error)?;
    std::fs::File::open(folder)?.sync_all()
}

async fn fill(reader: &mut (impl AsyncRead + Unpin), chunk: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match reader.read(&mut chunk[filled..]).await? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open() -> (tempfile::TempDir, Artifacts) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let artifacts = Artifacts::open(folder.path())
            .await
            .expect("an empty folder opens");
        (folder, artifacts)
    }

    #[tokio::test]
    async fn what_is_put_is_found_under_its_digest() {
        let (folder, artifacts) = open().await;
        let kept = artifacts
            .put_bytes(b"abc".to_vec(), Some("text/plain".to_owned()))
            .await
            .expect("kept");
        assert_eq!(
            kept.digest.hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(kept.size, 3);
        let again = artifacts
            .put_bytes(b"abc".to_vec(), None)
            .await
            .expect("kept already");
        assert_eq!(again, kept);
        let target = folder.path().join("laid-out");
        artifacts
            .materialize(&kept.digest, &target)
            .await
            .expect("laid out");
        assert_eq!(std::fs::read(target).expect("readable"), b"abc");
        let mut part = String::new();
        let mut reader = artifacts
            .open_reader(&kept.digest, Some((1, 1)))
            .await
            .expect("a good range")
            .expect("there");
        reader.read_to_string(&mut part).await.expect("readable");
        assert_eq!(part, "b");
        assert!(matches!(
            artifacts.open_reader(&kept.digest, Some((3, 9))).await,
            Err(Error::Range { size: 3, .. })
        ));
    }

    #[tokio::test]
    async fn what_an_interrupted_write_left_is_gone_after_opening() {
        let (folder, artifacts) = open().await;
        let kept = artifacts.put_bytes(b"abc".to_vec(), None).await.expect("kept");
        let left = folder.path().join("growing/left");
        std::fs::write(&left, b"half a blob").expect("writable");
        let artifacts = Artifacts::open(folder.path()).await.expect("opens again");
        assert!(!left.exists());
        let meta = artifacts
            .stat(&kept.digest)
            .await
            .expect("the disk answers")
            .expect("still there");
        assert_eq!(
            meta,
            Meta {
                size: 3,
                media_type: None
            }
        );
    }

    #[tokio::test]
    async fn the_same_content_from_many_at_once_is_kept_whole() {
        let (folder, artifacts) = open().await;
        let source = folder.path().join("source");
        let content: Vec<u8> = (0..3 * CHUNK_BYTES + 7)
            .map(|at| u8::try_from(at % 251).unwrap_or(0))
            .collect();
        std::fs::write(&source, &content).expect("writable");
        let put = || artifacts.put_file(&source, None);
        let (one, two, three) = tokio::join!(put(), put(), put());
        let kept = one.expect("kept");
        assert_eq!((&two.expect("kept"), &three.expect("kept")), (&kept, &kept));
        let path = artifacts
            .path(&kept.digest)
            .await
            .expect("the disk answers")
            .expect("there");
        assert_eq!(std::fs::read(path).expect("readable"), content);
        assert_eq!(
            std::fs::read_dir(folder.path().join("growing"))
                .expect("readable")
                .count(),
            0
        );
    }

    #[tokio::test]
    async fn a_wrong_digest_or_too_large_a_content_keeps_nothing() {
        let (folder, artifacts) = open().await;
        let expected = Digest::from_bytes([1; 32]);
        let wrong = artifacts.put_expecting(expected, b"abc".as_slice(), None).await;
        assert!(matches!(wrong, Err(Error::DigestMismatch { .. })));
        let large = artifacts.with_bytes_max(2).put_bytes(b"abc".to_vec(), None).await;
        assert!(matches!(large, Err(Error::TooLarge { max: 2 })));
        let left = std::fs::read_dir(folder.path()).expect("readable").count();
        assert_eq!(left, 1, "only the folder for growing files");
    }
}
