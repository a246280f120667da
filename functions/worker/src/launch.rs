//! Starting a function under its guard.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use celesta_functions::{Program, Resources};
use celesta_runtime::Clock;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use crate::config::GuardProgram;
use crate::guard::{Cause, GuardArguments, Status};
use crate::packages::Package;

/// How long a guard may take to end its tree after it was asked; it needs half a second and some rounds.
const GUARD_PATIENCE: Duration = Duration::from_millis(1_400);

/// What is started and how it is bounded.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) guard: &'a GuardProgram,
    pub(crate) search_path: &'a OsString,
    pub(crate) package: &'a Package,
    /// Holds the status file beside the working directory.
    pub(crate) folder: &'a Path,
    pub(crate) work: &'a Path,
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// A function's tree of processes under its guard.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    status: PathBuf,
    clock: Clock,
}

/// The streams of a function.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

impl Launch<'_> {
    /// Starts the guard, which starts the function.
    #[expect(clippy::disallowed_methods, reason = "functions/worker owns processes")]
    pub(crate) fn start(self, clock: &Clock) -> Result<(Running, Streams), String> {
        let Resources { disk_bytes, .. } = self.package.manifest.resources;
        let status = self.folder.join("status.json");
        let arguments = GuardArguments {
            status: status.clone(),
            parent: rustix::process::getpid().as_raw_pid(),
            memory_bytes: self.memory_bytes,
            disk_bytes,
            cpu_ms: self.cpu_ms,
            timeout: self.timeout,
            command: command(self.package)?,
        };
        let mut child = tokio::process::Command::new(&self.guard.program)
            .args(&self.guard.arguments)
            .args(arguments.to_words())
            .current_dir(self.work)
            .env_clear()
            .envs(&self.package.manifest.env)
            .env("PATH", self.search_path)
            .env("HOME", self.work)
            .env("TMPDIR", self.work)
            .env("LANG", "C.UTF-8")
            .env("CELESTA_FUNCTION_DIR", &self.package.folder)
            .envs(self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start the guard: {error}"))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("the guard has no streams".to_owned());
        };
        Ok((
            Running {
                child,
                status,
                clock: clock.clone(),
            },
            Streams {
                stdin,
                stdout,
                stderr,
            },
        ))
    }
}

/// The program's words; those that name a file of the function's folder become its path.
fn command(package: &Package) -> Result<Vec<OsString>, String> {
    match &package.manifest.program {
        Program::Command(words) => Ok(words
            .iter()
            .map(|word| in_folder(&package.folder, word))
            .collect()),
        Program::Image(image) => Err(format!(
            "the image `{image}` needs a provider that runs containers; this worker runs commands"
        )),
    }
}

fn in_folder(folder: &Path, word: &str) -> OsString {
    let path = folder.join(word);
    if !word.is_empty() && !word.starts_with('/') && path.is_file() {
        path.into_os_string()
    } else {
        word.into()
    }
}

impl Running {
    /// Asks the guard to end the tree.
    pub(crate) fn stop(&self) {
        if let Some(guard) = self.guard() {
            rustix::process::kill_process(guard, Signal::TERM).ok();
        }
    }

    fn guard(&self) -> Option<Pid> {
        self.child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
    }

    /// Waits until the tree has ended by itself or by its guard's limits.
    ///
    /// # Cancel safety
    /// May be dropped and asked again.
    pub(crate) async fn ended(&mut self) -> Status {
        let guard = self.guard();
        let exit = self.child.wait().await;
        Status::read(&self.status).unwrap_or_else(|| {
            // The guard itself was killed: what is still in its group goes with it.
            if let Some(guard) = guard {
                rustix::process::kill_process_group(guard, Signal::KILL).ok();
            }
            let reason = exit.map_or_else(|error| error.to_string(), |exit| exit.to_string());
            Status {
                cause: Cause::Orphaned,
                reason: Some(format!("the guard was lost: {reason}")),
                ..Status::default()
            }
        })
    }

    /// Ends the tree and waits for it; a guard that does not answer is killed with its group.
    pub(crate) async fn end(&mut self) -> Status {
        self.stop();
        let clock = self.clock.clone();
        tokio::select! {
            status = self.ended() => return status,
            () = clock.sleep(GUARD_PATIENCE) => {}
        }
        if let Some(guard) = self.guard() {
            rustix::process::kill_process_group(guard, Signal::KILL).ok();
            rustix::process::kill_process(guard, Signal::KILL).ok();
        }
        self.ended().await
    }
}
