//! Other programs this one starts: a server of its own for `bench` and `demo`, and ffmpeg for the demo's clip.
//!
//! Functions are not started here: that is the worker's business.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::exit::{Exit, Failure};

/// A server opens its store, loads what is pending and listens within this time, also on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// A server drains within seconds; then it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// How a server is started.
#[derive(Debug, Clone)]
pub(crate) struct ServerOptions {
    /// Its data.
    pub(crate) data: PathBuf,
    /// Where it listens; port 0 lets the system choose.
    pub(crate) listen: String,
    /// Its log file; appended to.
    pub(crate) log: PathBuf,
    /// Processor slots for functions; the machine's unless given.
    pub(crate) workers: Option<u32>,
    /// The deployment it is a node of; on its own unless given.
    pub(crate) deployment: Option<DeploymentOptions>,
}

/// What the nodes of a deployment share.
#[derive(Debug, Clone)]
pub(crate) struct DeploymentOptions {
    /// The database.
    pub(crate) url: String,
    /// The folder of artifacts.
    pub(crate) artifacts: PathBuf,
    /// How many partitions a new one gets.
    pub(crate) partitions: Option<u32>,
}

/// A `celesta serve` of our own.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    /// Where it listens.
    pub(crate) url: String,
    /// Its process id.
    pub(crate) pid: u32,
}

/// The first line a server prints with `--json`.
#[derive(Debug, Deserialize)]
struct Started {
    url: String,
    pid: u32,
}

impl ServerProcess {
    /// Starts a server and waits until it listens. It dies with this value.
    ///
    /// # Errors
    /// When it cannot be started or ends before it listens; the end of its log is in the message.
    pub(crate) async fn start(options: &ServerOptions) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::internal(format!("cannot start a server: {error}"));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&options.log)
            .map_err(failed)?;
        let mut command = command(&own_binary()?);
        command
            .args(["serve", "--json", "--listen", &options.listen, "--data"])
            .arg(&options.data);
        if let Some(workers) = options.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        if let Some(deployment) = &options.deployment {
            command.args(["--store", &deployment.url, "--artifacts"]);
            command.arg(&deployment.artifacts);
            if let Some(partitions) = deployment.partitions {
                command.args(["--partitions", &partitions.to_string()]);
            }
        }
        for variable in [
            "CELESTA_STORE",
            "CELESTA_DATABASES",
            "CELESTA_NODE",
            "CELESTA_ADVERTISE",
            "CELESTA_ARTIFACTS",
        ] {
            command.env_remove(variable);
        }
        command
            .env_remove("CELESTA_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut reader = BufReader::new(stdout);
            tokio::time::timeout(START_PATIENCE, reader.read_line(&mut line))
                .await
                .ok();
        }
        let Ok(started) = serde_json::from_str::<Started>(&line) else {
            child.start_kill().ok();
            let said = std::fs::read_to_string(&options.log).unwrap_or_default();
            let tail: Vec<&str> = said.lines().rev().take(8).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            return Err(Failure::internal(format!(
                "the server did not start:\n{}",
                tail.join("\n")
            )));
        };
        Ok(Self {
            child,
            url: started.url,
            pid: started.pid,
        })
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) async fn kill_now(&mut self) -> Result<(), Failure> {
        self.child
            .kill()
            .await
            .map_err(|error| Failure::internal(format!("cannot kill the server: {error}")))
    }

    /// Asks it to stop, and kills it when it does not.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // A server that has ended by itself needs no signal.
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        if tokio::time::timeout(STOP_PATIENCE, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await.ok();
        }
    }
}

/// This binary.
///
/// # Errors
/// When the system does not tell.
pub(crate) fn own_binary() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::internal(format!("cannot find this program's own file: {error}")))
}

/// A command to be completed.
#[expect(
    clippy::disallowed_methods,
    reason = "servers of our own and ffmpeg are no functions"
)]
pub(crate) fn command(program: &Path) -> Command {
    Command::new(program)
}

/// Runs a tool to its end and gives what it printed.
///
/// # Errors
/// When it is not there or fails; the end of what it said is in the message.
pub(crate) async fn tool(name: &str, arguments: &[&str]) -> Result<String, Failure> {
    let output = command(Path::new(name))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| {
            let failure = Failure::new(Exit::Failed, format!("cannot run {name}: {error}"));
            if error.kind() == std::io::ErrorKind::NotFound {
                failure.hint(format!("install {name}, or run `make demo`"))
            } else {
                failure
            }
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        return Err(Failure::new(Exit::Failed, format!("{name} failed: {last}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
