//! Taking a backup.

use std::path::Path;

use celesta_artifacts::{Artifacts, Error};
use celesta_runtime::Clock;
use celesta_types::Digest;

use super::{
    ARTIFACTS_LIST, FORMAT, FileNote, MANIFEST, Manifest, broken, check_vacant, growing, stand, sync,
};
use crate::exit::{Exit, Failure};
use crate::node::{ARTIFACTS_FOLDER, STORE_FILE};
use crate::output::Output;

/// Copies the data in `data` to the new folder `target`; a node may run on it. Gives what the backup says of itself, and
/// the artifacts that are damaged where they are and were left out.
pub(crate) async fn take(
    data: &Path,
    target: &Path,
    out: Output,
) -> Result<(Manifest, Vec<Digest>), Failure> {
    check_vacant(target)?;
    let growing = growing(target)?;
    let taken_at = Clock::system().now();
    let copy = growing.join(STORE_FILE);
    celesta_store::copy_file(&data.join(STORE_FILE), &copy)
        .await
        .map_err(|error| broken(&error))?;
    let wrong = celesta_store::check_file(&copy)
        .await
        .map_err(|error| broken(&error))?;
    if let Some(first) = wrong.first() {
        let message = format!("the store is damaged, so its copy is worth nothing: {first}");
        return Err(Failure::new(Exit::Failed, message).hint("`celesta doctor` says more"));
    }
    sync(&copy).map_err(|error| Failure::file("write", &copy, &error))?;

    let source = Artifacts::reading(data.join(ARTIFACTS_FOLDER));
    let kept = Artifacts::open(growing.join(ARTIFACTS_FOLDER))
        .await
        .map_err(|error| broken(&error))?;
    let all = source.list().await.map_err(|error| broken(&error))?;
    let (mut list, mut count, mut bytes, mut damaged) = (String::new(), 0, 0, Vec::new());
    let bar = out.count_bar(u64::try_from(all.len()).unwrap_or(u64::MAX), "artifacts");
    for digest in all {
        bar.inc(1);
        match carry(&source, &kept, digest).await {
            Ok(size) => {
                list.push_str(&digest.to_string());
                list.push('\n');
                count += 1;
                bytes += size;
            }
            Err(Error::DigestMismatch { .. }) => damaged.push(digest),
            Err(error) => return Err(broken(&error)),
        }
    }
    bar.finish_and_clear();
    write(&growing.join(ARTIFACTS_LIST), list.as_bytes())?;
    let manifest = Manifest {
        format: FORMAT,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at,
        store: FileNote::of(&growing, STORE_FILE).await?,
        artifacts: FileNote::of(&growing, ARTIFACTS_LIST).await?,
        artifacts_count: count,
        artifacts_bytes: bytes,
    };
    write(&growing.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
    stand(&growing, target)?;
    Ok((manifest, damaged))
}

/// Copies one artifact, whose content is hashed on the way.
pub(super) async fn carry(source: &Artifacts, target: &Artifacts, digest: Digest) -> Result<u64, Error> {
    let media_type = source.stat(&digest).await?.and_then(|meta| meta.media_type);
    let reader = source
        .open_reader(&digest, None)
        .await?
        .ok_or(Error::NotFound { digest })?;
    let kept = target.put_expecting(digest, reader, media_type).await?;
    Ok(kept.size)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = std::fs::write(path, bytes).and_then(|()| sync(path));
    written.map_err(|error| Failure::file("write", path, &error))
}
