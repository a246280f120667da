//! `celesta demo`: from nothing to encoded files, with a server of its own that may be killed on the way.
//!
//! Everything lives in one folder (`.demo`): the clip, the server's data, the results. The request's idempotency key
//! follows from the source and the recipes, so a second demo finds the finished run and is done at once.

mod bundle;
mod clip;
mod progress;

use std::path::{Path, PathBuf};
use std::time::Duration;

use celesta_types::{ArtifactRef, Digest};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::child::{ServerOptions, ServerProcess};
use crate::client::{Client, RunView};
use crate::commands::call::Request;
use crate::commands::{Context, artifact, push};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{BAD, DIM, GOOD, STRONG, bytes as size_text, duration as time_text, paint, table};
use crate::signals;

/// How far an encoded file's duration may be from the source's.
const DURATION_TOLERANCE_S: f64 = 0.1;
/// How often the same request may be made under a new key because the run before did not complete.
const REQUESTS_MAX: u32 = 20;

/// Options of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// A video to encode; a 60 s clip with sound is made unless given
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    /// Where the demo keeps everything
    #[arg(long, default_value = ".demo", value_name = "DIR")]
    dir: PathBuf,
    /// Kill the server with SIGKILL in the middle and start it again
    #[arg(long)]
    kill: bool,
    /// Leave the server running afterwards, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Encode again even when the result is there
    #[arg(long)]
    again: bool,
}

/// The demo's server, which is killed and replaced on the way.
struct Stage {
    server: ServerProcess,
    options: ServerOptions,
    client: Client,
}

/// Runs the demo.
pub(crate) async fn run(context: &Context, args: DemoArgs) -> Outcome {
    let out = context.out;
    clip::check_tools().await?;
    std::fs::create_dir_all(&args.dir).map_err(|error| Failure::file("create", &args.dir, &error))?;
    let source = match &args.source {
        Some(source) => source.clone(),
        None => clip::ensure(out, &args.dir).await?,
    };
    let probed = clip::probe(&source).await?;
    out.line(format_args!(
        "source   {} {DIM}{:.1} s, {}{DIM:#}",
        source.display(),
        probed.duration_s,
        probed.codecs.join(" + ")
    ))?;
    let mut stage = Stage::set(&args.dir).await?;
    out.line(format_args!(
        "server   {} {DIM}data in {}{DIM:#}",
        stage.client.base(),
        stage.options.data.display()
    ))?;
    push::upload(&stage.client, bundle::SERVICE, bundle::packed()).await?;
    let run = tokio::select! {
        run = stage.encode(context, &args, &source) => run?,
        () = signals::interrupted() => {
            stage.server.stop().await;
            return Err(Failure::new(Exit::Interrupted, "interrupted").hint("the next `celesta demo` goes on where this one was"));
        }
    };
    let good = stage.collect(context, &args, &run, &probed).await?;
    if args.keep {
        out.line(format_args!(
            "\nthe server goes on at {} until Ctrl-C",
            stage.client.base()
        ))?;
        signals::interrupted().await;
    }
    stage.server.stop().await;
    Ok(if good { Exit::Done } else { Exit::Failed })
}

/// One entry of the result.
#[derive(Debug, Deserialize)]
struct Encoded {
    name: String,
    file: ArtifactRef,
    #[serde(default)]
    ssim: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Encodings {
    files: Vec<Encoded>,
}

impl Stage {
    /// Starts the demo's server.
    async fn set(folder: &Path) -> Result<Self, Failure> {
        let options = ServerOptions {
            data: folder.join("data"),
            listen: "127.0.0.1:0".to_owned(),
            log: folder.join("server.log"),
            workers: None,
            deployment: None,
        };
        let server = ServerProcess::start(&options).await?;
        let client = Client::new(&server.url, None)?;
        // After a kill the server comes back at the same address.
        let listen = server
            .url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        Ok(Self {
            server,
            options: ServerOptions { listen, ..options },
            client,
        })
    }

    /// Has the source encoded and gives the run that did it.
    async fn encode(
        &mut self,
        context: &Context,
        args: &DemoArgs,
        source: &Path,
    ) -> Result<RunView, Failure> {
        let out = context.out;
        let reference = artifact::upload(&self.client, out, source, None).await?;
        let recipes = json!([
            { "name": "h264-480p", "codec": "h264", "height": 480, "crf": 26 },
            { "name": "vp9-360p", "codec": "vp9", "height": 360, "crf": 36 },
        ]);
        let input = json!({ "source": reference, "recipes": recipes });
        let view = self.request(&input, &reference.digest, args.again).await?;
        if view.is_ended() {
            out.line(format_args!("run      {} {DIM}was done before{DIM:#}", view.id))?;
            return Ok(view);
        }
        out.line(format_args!("run      {}", view.id))?;
        self.follow(context, args, &view.id).await
    }

    /// Requests the encoding; the run of an earlier demo is found again unless it did not complete.
    async fn request(&self, input: &Value, source: &Digest, again: bool) -> Result<RunView, Failure> {
        let mut last = None;
        for number in 0..REQUESTS_MAX {
            let request = Request {
                service: bundle::SERVICE,
                operation: "encode",
                input,
                key: format!("demo-{}-{number}", source.short()),
                priority: None,
                labels: &[("from".to_owned(), "demo".to_owned())],
                fresh: false,
                wait_s: 0,
            };
            let answer = request.send(&self.client).await?;
            let id = answer
                .get("id")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            let view: RunView = self.client.view(&["v1", "runs", &id]).await?;
            let usable = if again {
                !view.is_ended()
            } else {
                !view.is_ended() || view.state == "completed"
            };
            if usable {
                return Ok(view);
            }
            last = Some(view);
        }
        last.ok_or_else(|| Failure::internal("no request was made"))
    }

    /// Shows how far the run is until it ends; kills the server once on the way when asked to.
    async fn follow(&mut self, context: &Context, args: &DemoArgs, run: &str) -> Result<RunView, Failure> {
        let mut shown = progress::Progress::new(context.out);
        let mut kill = args.kill;
        loop {
            let view: RunView = self.client.view(&["v1", "runs", run]).await?;
            let halfway = shown.update(&self.client, run).await?;
            if view.is_ended() {
                shown.finish();
                return Ok(view);
            }
            if kill && halfway {
                kill = false;
                shown.say(&format!("{BAD}kill -9{BAD:#} {}", self.server.pid));
                self.server.kill_now().await?;
                self.server = ServerProcess::start(&self.options).await?;
                shown.say(&format!(
                    "{GOOD}restarted{GOOD:#} as {}; the run goes on",
                    self.server.pid
                ));
            }
            self.client.clock().sleep(Duration::from_millis(400)).await;
        }
    }

    /// Fetches the files, probes and prints them; whether all are as they should be.
    async fn collect(
        &self,
        context: &Context,
        args: &DemoArgs,
        run: &RunView,
        source: &clip::Probed,
    ) -> Result<bool, Failure> {
        let out = context.out;
        if run.state != "completed" {
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "{} {}: {}",
                    run.id,
                    run.state,
                    run.error_text().unwrap_or_default()
                ),
            )
            .hint(format!("the server's log is {}", self.options.log.display())));
        }
        let encodings: Encodings = crate::client::read(run.result.clone().unwrap_or_default())?;
        let folder = args.dir.join("out");
        std::fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
        let (mut rows, mut files, mut good) = (Vec::new(), Vec::new(), !encodings.files.is_empty());
        for encoded in &encodings.files {
            let path = folder.join(format!("{}.{}", encoded.name, extension(&encoded.file)));
            let quiet = crate::output::Output::new(true, context.global.color);
            artifact::fetch(&self.client, quiet, &encoded.file.digest, &path).await?;
            let probed = clip::probe(&path).await?;
            let drift = (probed.duration_s - source.duration_s).abs();
            let sound = !source.has_audio || probed.has_audio;
            let fine = drift <= DURATION_TOLERANCE_S && sound;
            good &= fine;
            rows.push(vec![
                path.display().to_string(),
                format!("{:.2} s", probed.duration_s),
                size_text(encoded.file.size),
                probed.codecs.join(" + "),
                encoded
                    .ssim
                    .map_or_else(|| "-".to_owned(), |ssim| format!("ssim {ssim:.4}")),
                if fine {
                    paint(GOOD, "ok")
                } else {
                    paint(BAD, if sound { "wrong duration" } else { "no sound" })
                },
            ]);
            files.push(json!({
                "file": path, "duration_s": probed.duration_s, "size": encoded.file.size, "codecs": probed.codecs,
                "ssim": encoded.ssim, "ok": fine,
            }));
        }
        out.json(&json!({ "run": run.id, "source_duration_s": source.duration_s, "files": files }))?;
        out.line(format_args!(
            "\n{}",
            table(
                &["file", "duration", "size", "streams", "quality", "ffprobe"],
                &rows
            )
        ))?;
        if let (Some(created), Some(ended)) = (run.created_at, run.ended_at) {
            out.line(format_args!(
                "\n{STRONG}encoded in {}{STRONG:#}",
                time_text(ended.since(created))
            ))?;
        }
        Ok(good)
    }
}

fn extension(file: &ArtifactRef) -> &'static str {
    match file.media_type.as_deref() {
        Some("video/webm") => "webm",
        Some("video/x-matroska") => "mkv",
        _ => "mp4",
    }
}
