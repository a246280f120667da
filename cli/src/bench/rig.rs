//! What every bench stands on: a server of its own in a fresh folder, with the bench's bundle pushed to it.

use std::path::PathBuf;
use std::time::Duration;

use celesta_bundle::FileEntry;
use celesta_runtime::Clock;
use serde::Deserialize;
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::child::{ServerOptions, ServerProcess, own_binary};
use crate::client::Client;
use crate::commands::push;
use crate::exit::Failure;

/// The files of the bench's bundle; `@COMMAND@` becomes the path of this program.
const FILES: [(&str, &str); 6] = [
    ("service.toml", include_str!("../../bundles/bench/service.toml")),
    (
        "rules/steps.rules",
        include_str!("../../bundles/bench/rules/steps.rules"),
    ),
    (
        "rules/fanout.rules",
        include_str!("../../bundles/bench/rules/fanout.rules"),
    ),
    (
        "rules/dormant.rules",
        include_str!("../../bundles/bench/rules/dormant.rules"),
    ),
    (
        "rules/tree.rules",
        include_str!("../../bundles/bench/rules/tree.rules"),
    ),
    (
        "functions/echo/function.toml",
        include_str!("../../bundles/bench/functions/echo/function.toml"),
    ),
];

/// Where a bench keeps its store, and how much the server may use.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) parent: Option<PathBuf>,
    pub(crate) workers: Option<u32>,
    pub(crate) keep: bool,
}

impl Place {
    /// A fresh folder for a bench. It is removed when dropped, unless it is to be kept.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn folder(&self) -> Result<TempDir, Failure> {
        let parent = self.parent.clone().unwrap_or_else(|| {
            let target = PathBuf::from("target");
            if target.is_dir() {
                target
            } else {
                PathBuf::from(".")
            }
        });
        std::fs::create_dir_all(&parent).map_err(|error| Failure::file("create", &parent, &error))?;
        let mut folder = tempfile::Builder::new()
            .prefix("celesta-bench-")
            .tempdir_in(&parent)
            .map_err(|error| Failure::file("create a folder in", &parent, &error))?;
        folder.disable_cleanup(self.keep);
        Ok(folder)
    }
}

/// A server with the bench's bundle.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) server: ServerProcess,
    pub(crate) options: ServerOptions,
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    /// Removed with everything in it when the bench ends, unless it is kept.
    folder: Option<TempDir>,
}

impl Rig {
    /// Starts a server in a fresh folder and pushes the bundle.
    ///
    /// # Errors
    /// When the folder cannot be made, the server does not start, or it refuses the bundle.
    pub(crate) async fn start(place: &Place) -> Result<Self, Failure> {
        let folder = place.folder()?;
        let options = ServerOptions {
            data: folder.path().join("data"),
            listen: "127.0.0.1:0".to_owned(),
            log: folder.path().join("server.log"),
            workers: place.workers,
        };
        let server = ServerProcess::start(&options).await?;
        let client = Client::new(&server.url, None)?;
        push::upload(&client, "bench", bundle()?).await?;
        Ok(Self {
            server,
            options,
            client,
            clock: Clock::system(),
            folder: Some(folder),
        })
    }

    /// Stops the server and starts another on the same store; says how long that took to answer.
    ///
    /// # Errors
    /// When it does not start again.
    pub(crate) async fn restart(self) -> Result<(Self, Duration), Failure> {
        self.server.stop().await;
        let begun = self.clock.monotonic();
        let server = ServerProcess::start(&self.options).await?;
        let took = self.clock.monotonic().saturating_sub(begun);
        let client = Client::new(&server.url, None)?;
        let rig = Self {
            server,
            client,
            options: self.options,
            clock: self.clock,
            folder: self.folder,
        };
        Ok((rig, took))
    }

    /// Address and port of the server.
    pub(crate) fn host(&self) -> String {
        self.server
            .url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned()
    }

    /// Stops the server and removes the folder, unless it is kept.
    pub(crate) async fn stop(mut self) {
        self.server.stop().await;
        drop(self.folder.take());
    }
}

/// The bundle as it is pushed.
fn bundle() -> Result<Vec<u8>, Failure> {
    let binary = own_binary()?;
    let command = binary
        .to_str()
        .ok_or_else(|| Failure::internal("this program's path is no text"))?;
    let quoted = serde_json::to_string(command)?;
    let files = FILES.iter().map(|(path, text)| {
        (
            (*path).to_owned(),
            FileEntry::text(&text.replace("\"@COMMAND@\"", &quoted)),
        )
    });
    Ok(celesta_bundle::pack(&files.collect()))
}

/// What the benches read of a run.
#[derive(Debug, Deserialize)]
pub(crate) struct Ended<'a> {
    pub(crate) id: &'a str,
    pub(crate) state: &'a str,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// The result of both workflows.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Counted {
    pub(crate) count: u64,
    #[serde(default)]
    pub(crate) indexes: u64,
}

impl<'a> Ended<'a> {
    /// Reads a run; none when the answer is something else.
    pub(crate) fn read(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// Whether the run has ended, well or not.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, "completed" | "failed" | "canceled" | "quarantined")
    }

    /// What the run counted, when it completed.
    pub(crate) fn counted(&self) -> Option<Counted> {
        let result = self.result.filter(|_| self.state == "completed")?;
        serde_json::from_str(result.get()).ok()
    }

    /// Why it did not complete.
    pub(crate) fn reason(&self) -> String {
        format!(
            "{} {}: {}",
            self.id,
            self.state,
            self.error.map_or("no reason was given", RawValue::get)
        )
    }
}
