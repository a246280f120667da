//! Artifacts in and out of an attempt: references in the input become local files, files named in the result become
//! references.
//!
//! Nobody pays for this without using it: the input says whether it holds references, and a result is looked at only
//! when its text holds the word `$file`.

use std::path::{Component, Path, PathBuf};

use celesta_artifacts::Artifacts;
use celesta_functions::INLINE_JSON_MAX;
use celesta_types::{Digest, ErrorClass};
use serde_json::{Map, Value};

use crate::outcome::Failure;

/// The member that marks a reference to an artifact.
const ARTIFACT: &str = "$artifact";
/// The member that marks a file of the working directory.
const FILE: &str = "$file";
/// References in one input or one result: what fits in 32 KiB of JSON.
const FILES_MAX: usize = 1_000;
/// Nesting of JSON that is followed; `serde_json` reads no deeper.
const DEPTH_MAX: usize = 128;

/// Makes every artifact the input refers to a file in `folder`, read-only, and adds its `path` to the reference.
pub(crate) async fn bring_in(input: &[u8], folder: &Path, artifacts: &Artifacts) -> Result<Vec<u8>, Failure> {
    let wrong =
        |error: serde_json::Error| Failure::new(ErrorClass::Input, format!("the input is not JSON: {error}"));
    let mut value: Value = serde_json::from_slice(input).map_err(wrong)?;
    let mut found = Vec::new();
    marked(&mut value, ARTIFACT, 0, &mut found);
    if found.len() > FILES_MAX {
        return Err(Failure::new(
            ErrorClass::Input,
            format!(
                "the input refers to {} artifacts, more than {FILES_MAX}",
                found.len()
            ),
        ));
    }
    if !found.is_empty() {
        let created = tokio::fs::create_dir_all(folder).await;
        created.map_err(|error| Failure::internal(format!("cannot make the folder of inputs: {error}")))?;
    }
    for reference in found {
        let path = bring_one(reference, folder, artifacts).await?;
        reference.insert(
            "path".to_owned(),
            Value::String(path.to_string_lossy().into_owned()),
        );
    }
    Ok(value.to_string().into_bytes())
}

async fn bring_one(
    reference: &Map<String, Value>,
    folder: &Path,
    artifacts: &Artifacts,
) -> Result<PathBuf, Failure> {
    let text = reference
        .get(ARTIFACT)
        .and_then(Value::as_str)
        .unwrap_or_default();
    let digest: Digest = text
        .parse()
        .map_err(|error| Failure::new(ErrorClass::Input, format!("{error}")))?;
    let name = format!(
        "{}{}",
        digest.hex(),
        extension(reference.get("media_type").and_then(Value::as_str))
    );
    let path = folder.join(name);
    // The same artifact twice in one input is one file.
    if path.exists() {
        return Ok(path);
    }
    match artifacts.stat(&digest).await {
        Ok(Some(_)) => {}
        Ok(None) => {
            return Err(Failure::new(
                ErrorClass::Input,
                format!("there is no artifact {digest}"),
            ));
        }
        Err(error) => {
            return Err(Failure::new(
                ErrorClass::Transient,
                format!("cannot look up artifact {digest}: {error}"),
            ));
        }
    }
    let brought = artifacts.materialize(&digest, &path).await;
    brought.map_err(|error| {
        Failure::new(
            ErrorClass::Transient,
            format!("cannot fetch artifact {digest}: {error}"),
        )
    })?;
    Ok(path)
}

/// Programs such as ffmpeg look at the name.
fn extension(media_type: Option<&str>) -> &'static str {
    match media_type.unwrap_or_default() {
        "video/mp4" => ".mp4",
        "video/webm" => ".webm",
        "video/x-matroska" => ".mkv",
        "video/quicktime" => ".mov",
        "audio/mpeg" => ".mp3",
        "audio/mp4" => ".m4a",
        "audio/wav" | "audio/x-wav" => ".wav",
        "image/png" => ".png",
        "image/jpeg" => ".jpg",
        "application/json" => ".json",
        "text/plain" => ".txt",
        "text/csv" => ".csv",
        _ => "",
    }
}

/// Whether the text of a result may name files.
pub(crate) fn names_files(result: &[u8]) -> bool {
    result.windows(FILE.len()).any(|window| window == FILE.as_bytes())
}

/// Stores every file the result names and puts a reference in its place.
pub(crate) async fn take_out(result: &[u8], work: &Path, artifacts: &Artifacts) -> Result<Vec<u8>, Failure> {
    let wrong = |error: serde_json::Error| Failure::user(format!("the result is not JSON: {error}"));
    let mut value: Value = serde_json::from_slice(result).map_err(wrong)?;
    let mut found = Vec::new();
    marked(&mut value, FILE, 0, &mut found);
    if found.len() > FILES_MAX {
        return Err(Failure::user(format!(
            "the result names {} files, more than {FILES_MAX}",
            found.len()
        )));
    }
    for place in found {
        *place = take_one(place, work, artifacts).await?;
    }
    let text = value.to_string().into_bytes();
    if text.len() > INLINE_JSON_MAX {
        return Err(too_large(text.len()));
    }
    Ok(text)
}

async fn take_one(
    place: &Map<String, Value>,
    work: &Path,
    artifacts: &Artifacts,
) -> Result<Map<String, Value>, Failure> {
    let Some(name) = place.get(FILE).and_then(Value::as_str) else {
        return Err(Failure::user("`$file` is not the name of a file"));
    };
    let path = inside(work, name).await?;
    let media_type = place.get("media_type").and_then(Value::as_str).map(str::to_owned);
    let stored = artifacts.put_file(&path, media_type).await;
    let reference = stored
        .map_err(|error| Failure::new(ErrorClass::Transient, format!("cannot store `{name}`: {error}")))?;
    match serde_json::to_value(&reference) {
        Ok(Value::Object(mut reference)) => {
            // Whatever else the function says about its file stays with it.
            let more = place
                .iter()
                .filter(|(key, _)| !matches!(key.as_str(), FILE | "media_type" | "path" | "size"));
            reference.extend(more.map(|(key, value)| (key.clone(), value.clone())));
            Ok(reference)
        }
        _ => Err(Failure::internal("a reference is not a JSON object")),
    }
}

/// The path of `name` below `work`, which no `..` and no symbolic link may leave.
async fn inside(work: &Path, name: &str) -> Result<PathBuf, Failure> {
    let leaves = || Failure::user(format!("the file `{name}` lies outside of the working directory"));
    let relative = Path::new(name);
    // An absolute path is fine when it leads back inside: programs like to print those.
    if relative.components().any(|part| part == Component::ParentDir) {
        return Err(leaves());
    }
    let root = tokio::fs::canonicalize(work)
        .await
        .map_err(|error| Failure::internal(error.to_string()))?;
    let path = tokio::fs::canonicalize(root.join(relative)).await;
    let path = path.map_err(|error| Failure::user(format!("the result names the file `{name}`: {error}")))?;
    if !path.starts_with(&root) {
        return Err(leaves());
    }
    let kind = tokio::fs::metadata(&path)
        .await
        .map_err(|error| Failure::user(format!("`{name}`: {error}")))?;
    if kind.is_file() {
        Ok(path)
    } else {
        Err(Failure::user(format!("`{name}` is not a file")))
    }
}

pub(crate) fn too_large(bytes: usize) -> Failure {
    Failure::user(format!(
        "the result has {bytes} bytes, more than {INLINE_JSON_MAX}; write it to a file and return {{\"$file\":\"name\"}}"
    ))
}

/// All objects that have the member `key`, not looking inside of them.
fn marked<'v>(value: &'v mut Value, key: &str, depth: usize, found: &mut Vec<&'v mut Map<String, Value>>) {
    if depth > DEPTH_MAX || found.len() > FILES_MAX {
        return;
    }
    match value {
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| marked(value, key, depth + 1, found)),
        Value::Object(members) => {
            if members.contains_key(key) {
                found.push(members);
            } else {
                members
                    .values_mut()
                    .for_each(|value| marked(value, key, depth + 1, found));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
