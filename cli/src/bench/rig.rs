//! What every bench stands on: servers of its own in a fresh folder, with the bench's bundle pushed to them.

use std::path::PathBuf;
use std::time::Duration;

use celesta_bundle::FileEntry;
use celesta_runtime::Clock;
use celesta_store::scratch::ScratchDatabase;
use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::postgres::OwnPostgres;
use super::usage::Usage;
use crate::child::{DeploymentOptions, ServerOptions, ServerProcess, own_binary};
use crate::client::Client;
use crate::commands::push;
use crate::exit::{Exit, Failure};

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

/// What the servers of a bench stand on.
#[derive(Debug, Clone, Args)]
pub(crate) struct GroundArgs {
    /// Where runs are kept: `sqlite`, `postgres` (a server of the bench's own, made with initdb), or the URL of a PostgreSQL
    /// server, where the bench makes a database and drops it
    #[arg(long, default_value = "sqlite", value_name = "STORE")]
    store: String,
    /// Servers on that store; more than one needs PostgreSQL
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) nodes: usize,
    /// Partitions of the deployment on PostgreSQL; the default of `serve` unless given
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
}

impl GroundArgs {
    /// One server on a file.
    pub(crate) fn file() -> Self {
        Self {
            store: "sqlite".to_owned(),
            nodes: 1,
            partitions: None,
        }
    }
}

/// Where the bench's database is.
#[derive(Debug)]
pub(crate) enum Ground {
    /// In the data folder of the one server.
    File,
    /// On somebody's server.
    Scratch(ScratchDatabase),
    /// On a server of the bench's own.
    Own(OwnPostgres),
}

impl Ground {
    async fn new(args: &GroundArgs) -> Result<Self, Failure> {
        match args.store.as_str() {
            "sqlite" if args.nodes > 1 => Err(Failure::new(
                Exit::Usage,
                "a file has one owner: --nodes needs --store postgres",
            )),
            "sqlite" => Ok(Self::File),
            "postgres" => OwnPostgres::start().await.map(Self::Own),
            url if url.starts_with("postgres") => ScratchDatabase::create(url, "celesta_bench")
                .await
                .map(Self::Scratch)
                .map_err(|error| Failure::new(Exit::Unreachable, error.to_string())),
            other => Err(Failure::new(
                Exit::Usage,
                format!("`{other}` is no store: sqlite, postgres, or postgres://user@host:port"),
            )),
        }
    }

    fn url(&self) -> Option<String> {
        match self {
            Self::File => None,
            Self::Scratch(database) => Some(database.url()),
            Self::Own(server) => Some(server.url()),
        }
    }

    /// How figures name it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::File => "sqlite",
            Self::Scratch(_) | Self::Own(_) => "postgres",
        }
    }

    /// The database server's process, when it is on this machine.
    async fn pid(&self) -> Option<u32> {
        match self {
            Self::File => None,
            Self::Scratch(database) => database.postmaster().await,
            Self::Own(server) => server.pid(),
        }
    }
}

/// Servers with the bench's bundle.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) servers: Vec<ServerProcess>,
    pub(crate) options: Vec<ServerOptions>,
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    pub(crate) ground: Ground,
    database_pid: Option<u32>,
    /// Removed with everything in it when the bench ends, unless it is kept.
    folder: Option<TempDir>,
}

impl Rig {
    /// Starts the servers in a fresh folder and pushes the bundle.
    ///
    /// # Errors
    /// When the folder cannot be made, a server does not start, or it refuses the bundle.
    pub(crate) async fn start(place: &Place, args: &GroundArgs) -> Result<Self, Failure> {
        let folder = place.folder()?;
        let ground = Ground::new(args).await?;
        let database_pid = ground.pid().await;
        let deployment = ground.url().map(|url| DeploymentOptions {
            url,
            artifacts: folder.path().join("artifacts"),
            partitions: args.partitions,
        });
        let (mut servers, mut options) = (Vec::new(), Vec::new());
        for node in 0..args.nodes.max(1) {
            let own = ServerOptions {
                data: folder.path().join(format!("data{node}")),
                listen: "127.0.0.1:0".to_owned(),
                log: folder.path().join(format!("server{node}.log")),
                workers: place.workers,
                deployment: deployment.clone(),
            };
            servers.push(ServerProcess::start(&own).await?);
            options.push(own);
        }
        let client = Client::new(&servers[0].url, None)?;
        push::upload(&client, "bench", bundle()?).await?;
        Ok(Self {
            servers,
            options,
            client,
            clock: Clock::system(),
            ground,
            database_pid,
            folder: Some(folder),
        })
    }

    /// Stops the one server and starts another on the same store; says how long that took to answer.
    ///
    /// # Errors
    /// When it does not start again.
    pub(crate) async fn restart(mut self) -> Result<(Self, Duration), Failure> {
        for server in self.servers.drain(..) {
            server.stop().await;
        }
        let begun = self.clock.monotonic();
        for options in &self.options {
            self.servers.push(ServerProcess::start(options).await?);
        }
        let took = self.clock.monotonic().saturating_sub(begun);
        self.client = Client::new(&self.servers[0].url, None)?;
        Ok((self, took))
    }

    /// Addresses and ports of the servers.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let host = |server: &ServerProcess| {
            server
                .url
                .trim_start_matches("http://")
                .trim_end_matches('/')
                .to_owned()
        };
        self.servers.iter().map(host).collect()
    }

    /// Address and port of the first server.
    pub(crate) fn host(&self) -> String {
        self.hosts().swap_remove(0)
    }

    /// What the servers have used so far.
    pub(crate) fn usage(&self) -> Usage {
        Usage::of_trees(self.servers.iter().map(|server| server.pid))
    }

    /// What the database server has used so far; nothing where there is none, or it is elsewhere.
    pub(crate) fn database_usage(&self) -> Usage {
        self.database_pid.map(Usage::of_tree).unwrap_or_default()
    }

    /// Stops the servers and removes the folder, unless it is kept.
    pub(crate) async fn stop(mut self) {
        for server in self.servers.drain(..) {
            server.stop().await;
        }
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
