//! Restoring a backup: everything in it is verified before anything is written.

use std::path::Path;

use celesta_artifacts::Artifacts;
use celesta_types::Digest;

use super::take::carry;
use super::{FORMAT, FileNote, MANIFEST, Manifest, broken, check_vacant, growing, stand, sync};
use crate::exit::{Exit, Failure};
use crate::node::{ARTIFACTS_FOLDER, STORE_FILE};
use crate::output::Output;

/// Makes the new data folder `data` from the backup `source`. Nothing is written when anything in the backup is not what
/// its manifest says.
pub(crate) async fn restore(source: &Path, data: &Path, out: Output) -> Result<Manifest, Failure> {
    check_vacant(data)?;
    let manifest = read(source)?;
    let artifacts = verify(source, &manifest, out).await?;

    let growing = growing(data)?;
    let target = growing.join(STORE_FILE);
    let copied = std::fs::copy(source.join(STORE_FILE), &target).and_then(|_| sync(&target));
    copied.map_err(|error| Failure::file("write", &target, &error))?;
    // Read back: a disk that loses what it is given is noticed now.
    if FileNote::of(&growing, STORE_FILE).await? != manifest.store {
        return Err(Failure::internal(format!(
            "{} is not what was written to it",
            target.display()
        )));
    }
    let from = Artifacts::reading(source.join(ARTIFACTS_FOLDER));
    let to = Artifacts::open(growing.join(ARTIFACTS_FOLDER))
        .await
        .map_err(|error| broken(&error))?;
    for digest in artifacts {
        carry(&from, &to, digest).await.map_err(|error| broken(&error))?;
    }
    stand(&growing, data)?;
    Ok(manifest)
}

fn read(source: &Path) -> Result<Manifest, Failure> {
    let path = source.join(MANIFEST);
    let text = std::fs::read(&path).map_err(|error| {
        Failure::file("read", &path, &error).hint("name a folder that `celesta backup` has written")
    })?;
    let said: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    if let Some(format) = said["format"].as_u64()
        && format != u64::from(FORMAT)
    {
        let message = format!("the backup has format {format}, and this release reads format {FORMAT}");
        return Err(Failure::new(Exit::Failed, message).hint("use the release that wrote it"));
    }
    serde_json::from_slice(&text)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read {}: {error}", path.display())))
}

/// Reads the whole backup; gives the digests of its artifacts.
async fn verify(source: &Path, manifest: &Manifest, out: Output) -> Result<Vec<Digest>, Failure> {
    let wrong = |what: String| {
        Failure::new(
            Exit::Failed,
            format!("the backup is damaged: {what}; nothing was restored"),
        )
        .hint("use another backup")
    };
    for note in [&manifest.store, &manifest.artifacts] {
        let found = FileNote::of(source, &note.file)
            .await
            .map_err(|failure| wrong(failure.message))?;
        if found != *note {
            return Err(wrong(format!(
                "{} has {} bytes and the digest {}, not {} bytes and {}",
                note.file, found.size, found.digest, note.size, note.digest
            )));
        }
    }
    let store = source.join(&manifest.store.file);
    let found = celesta_store::check_file(&store).await;
    let lines = found.map_err(|error| wrong(error.to_string()))?;
    if let Some(line) = lines.first() {
        return Err(wrong(line.clone()));
    }
    let list = source.join(&manifest.artifacts.file);
    let text = std::fs::read_to_string(&list).map_err(|error| Failure::file("read", &list, &error))?;
    let digests: Result<Vec<Digest>, _> = text.lines().map(str::parse).collect();
    let digests = digests.map_err(|error| wrong(error.to_string()))?;
    let artifacts = Artifacts::reading(source.join(ARTIFACTS_FOLDER));
    let bar = out.count_bar(u64::try_from(digests.len()).unwrap_or(u64::MAX), "artifacts");
    for digest in &digests {
        bar.inc(1);
        let path = artifacts.path(digest).await.map_err(|error| broken(&error))?;
        let path = path.ok_or_else(|| wrong(format!("artifact {digest} is missing")))?;
        let (found, _) = celesta_artifacts::digest_file(&path)
            .await
            .map_err(|error| wrong(error.to_string()))?;
        if found != *digest {
            return Err(wrong(format!("artifact {digest} has the content of {found}")));
        }
    }
    bar.finish_and_clear();
    Ok(digests)
}
