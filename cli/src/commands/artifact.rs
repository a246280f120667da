//! `celesta artifact put|get`: blobs of any size in and out, in constant memory.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use celesta_types::{ArtifactRef, Digest};
use clap::{Args, Subcommand};
use futures_util::StreamExt as _;
use indicatif::ProgressBar;
use reqwest::{Method, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Context;
use crate::client::{self, Client, Repeat};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, bytes as size_text};

/// Read and sent at once: large enough that system calls do not count, small enough that memory does not.
const PIECE_SIZE: usize = 256 * 1024;

/// Options of `artifact`.
#[derive(Debug, Args)]
pub(crate) struct ArtifactArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Store a file and print its reference
    Put {
        /// The file
        file: PathBuf,
        /// The media type, for example video/mp4; guessed from the name unless given
        #[arg(long, value_name = "TYPE")]
        media_type: Option<String>,
    },
    /// Fetch an artifact
    Get {
        /// The digest, `sha256:…`
        digest: Digest,
        /// Where to write it; standard output unless given
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Does what was asked.
pub(crate) async fn run(context: &Context, args: ArtifactArgs) -> Outcome {
    let (client, out) = (context.client()?, context.out);
    match args.action {
        Action::Put { file, media_type } => {
            let reference = upload(&client, out, &file, media_type.as_deref()).await?;
            out.either(&reference, || reference.digest.to_string())?;
        }
        Action::Get { digest, output } => download(&client, out, &digest, output.as_deref()).await?,
    }
    Ok(Exit::Done)
}

/// Stores the file at `path` and gives its reference.
///
/// # Errors
/// When the file cannot be read, or the server is away or refuses.
pub(crate) async fn upload(
    client: &Client,
    out: Output,
    path: &Path,
    media_type: Option<&str>,
) -> Result<ArtifactRef, Failure> {
    let unreadable = |error: std::io::Error| Failure::file("read", path, &error);
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let meta = file.metadata().await.map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Failure::usage(format!("{} is not a file", path.display())));
    }
    let bar = out.bytes_bar(meta.len());
    let body = reqwest::Body::wrap_stream(pieces(file, bar.clone()));
    let media_type = media_type.unwrap_or_else(|| media_type_of(path));
    let request = client
        .request(Method::POST, client.url(&["v1", "artifacts"], &[]))
        .header(header::CONTENT_TYPE, media_type)
        .header(header::CONTENT_LENGTH, meta.len())
        .body(body);
    let answer = client.send(request, Repeat::Never).await;
    bar.finish_and_clear();
    let reference: ArtifactRef = client::read(client::json(answer?).await?)?;
    if reference.size != meta.len() {
        return Err(Failure::internal(format!(
            "{} bytes were sent and {} stored",
            meta.len(),
            reference.size
        )));
    }
    Ok(reference)
}

/// The content of `file`, piece by piece.
fn pieces(
    file: tokio::fs::File,
    bar: ProgressBar,
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    futures_util::stream::try_unfold((file, bar), |(mut file, bar)| async move {
        let mut piece = bytes::BytesMut::with_capacity(PIECE_SIZE);
        let read = file.read_buf(&mut piece).await?;
        bar.inc(u64::try_from(read).unwrap_or_default());
        Ok((read > 0).then(|| (piece.freeze(), (file, bar))))
    })
}

/// Writes the artifact to `target`, or to standard output.
async fn download(
    client: &Client,
    out: Output,
    digest: &Digest,
    target: Option<&Path>,
) -> Result<(), Failure> {
    let Some(target) = target else {
        let mut stream = open(client, digest).await?.bytes_stream();
        while let Some(piece) = stream.next().await {
            Output::bytes(&piece.map_err(broken)?)?;
        }
        return Ok(());
    };
    let written = fetch(client, out, digest, target).await?;
    let answer = serde_json::json!({ "digest": digest, "size": written, "file": target });
    out.either(&answer, || {
        format!("{} ({})", target.display(), size_text(written))
    })
}

async fn open(client: &Client, digest: &Digest) -> Result<reqwest::Response, Failure> {
    let request = client.request(
        Method::GET,
        client.url(&["v1", "artifacts", &digest.to_string()], &[]),
    );
    client.send(request, Repeat::Safe).await
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn broken(error: reqwest::Error) -> Failure {
    Failure::new(Exit::Unreachable, format!("the transfer broke off: {error}"))
}

/// Writes the artifact to the file `target`, which appears only when it is whole, and gives its size.
///
/// # Errors
/// When the server is away or does not have it, or the file cannot be written.
pub(crate) async fn fetch(
    client: &Client,
    out: Output,
    digest: &Digest,
    target: &Path,
) -> Result<u64, Failure> {
    let response = open(client, digest).await?;
    let bar = out.bytes_bar(response.content_length().unwrap_or_default());
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = target.with_file_name(name);
    let unwritable = |error: std::io::Error| Failure::file("write", target, &error);
    let mut file = tokio::fs::File::create(&part).await.map_err(unwritable)?;
    let mut stream = response.bytes_stream();
    let mut written: u64 = 0;
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(broken)?;
        file.write_all(&piece).await.map_err(unwritable)?;
        written += u64::try_from(piece.len()).unwrap_or_default();
        bar.set_position(written);
    }
    file.flush().await.map_err(unwritable)?;
    drop(file);
    tokio::fs::rename(&part, target).await.map_err(unwritable)?;
    bar.finish_and_clear();
    Ok(written)
}

/// The media type the name of a file suggests.
fn media_type_of(path: &Path) -> &'static str {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
        .to_ascii_lowercase();
    match extension.as_str() {
        "mp4" | "m4v" => "video/mp4",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "json" => "application/json",
        "csv" => "text/csv",
        "txt" | "md" => "text/plain",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        _ => "application/octet-stream",
    }
}
