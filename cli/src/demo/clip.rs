//! ffmpeg and ffprobe: making the clip, and looking at what came out.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::child::tool;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// What the demo's service and the demo itself run.
const TOOLS: [(&str, &str); 3] = [
    ("ffmpeg", "-version"),
    ("ffprobe", "-version"),
    ("python3", "--version"),
];
/// A key frame each four seconds at 30 frames a second: where the clip can be split.
const KEY_FRAMES: &str = "120";

/// What ffprobe says of a file.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) duration_s: f64,
    pub(super) has_audio: bool,
    pub(super) codecs: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Report {
    #[serde(default)]
    streams: Vec<Stream>,
    format: Format,
}

#[derive(Debug, Deserialize)]
struct Stream {
    codec_type: String,
    #[serde(default)]
    codec_name: String,
}

#[derive(Debug, Deserialize)]
struct Format {
    duration: String,
}

/// Fails with advice when a tool is missing.
///
/// # Errors
/// When one of the tools cannot be run.
pub(super) async fn check_tools() -> Result<(), Failure> {
    for (name, argument) in TOOLS {
        tool(name, &[argument]).await?;
    }
    Ok(())
}

/// The demo's clip in `folder`: 60 s, 1280×720, with sound. Made once.
///
/// # Errors
/// When ffmpeg fails.
pub(super) async fn ensure(out: Output, folder: &Path) -> Result<PathBuf, Failure> {
    let clip = folder.join("clip.mp4");
    if clip.is_file() {
        return Ok(clip);
    }
    let part = folder.join("clip.part.mp4");
    let target = part
        .to_str()
        .ok_or_else(|| Failure::usage("the demo's folder is no text"))?;
    let spinner = out.spinner("making a 60 s clip, 1280x720 with sound");
    let picture = "testsrc2=size=1280x720:rate=30:duration=60";
    let sound = "sine=frequency=440:beep_factor=4:sample_rate=48000:duration=60";
    #[rustfmt::skip]
    let made = tool("ffmpeg", &[
        "-v", "error", "-y", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound,
        "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-g", KEY_FRAMES,
        "-c:a", "aac", "-b:a", "128k", "-movflags", "+faststart", target,
    ]).await;
    spinner.finish_and_clear();
    made?;
    std::fs::rename(&part, &clip).map_err(|error| Failure::file("write", &clip, &error))?;
    Ok(clip)
}

/// What ffprobe says of the file at `path`.
///
/// # Errors
/// When it is no media file.
pub(super) async fn probe(path: &Path) -> Result<Probed, Failure> {
    let file = path
        .to_str()
        .ok_or_else(|| Failure::usage("the file's path is no text"))?;
    let entries = "format=duration:stream=codec_type,codec_name";
    let text = tool(
        "ffprobe",
        &["-v", "error", "-show_entries", entries, "-of", "json", file],
    )
    .await?;
    let unreadable = || Failure::new(Exit::Failed, format!("ffprobe does not understand {file}"));
    let report: Report = serde_json::from_str(&text).map_err(|_| unreadable())?;
    Ok(Probed {
        duration_s: report.format.duration.parse().map_err(|_| unreadable())?,
        has_audio: report.streams.iter().any(|stream| stream.codec_type == "audio"),
        codecs: report
            .streams
            .into_iter()
            .map(|stream| stream.codec_name)
            .collect(),
    })
}
