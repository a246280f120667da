//! The small process between a worker and a function: it starts the function, watches it, and leaves nothing behind.
//!
//! A worker starts every function through its own binary, re-executed as a guard. The guard leads a session of its own
//! and is the reaper of every process below it, so that a process that forks twice or makes a session of its own is
//! still found through `/proc`. It ends the whole tree when
//!
//! - the function's own process has ended (what it left behind goes with it),
//! - the time, memory or processor limit is reached,
//! - the worker asks (SIGTERM to the guard), or
//! - the worker itself is gone, even by `kill -9`: the guard sees that it has another parent.
//!
//! Ending means SIGTERM to all, half a second, then SIGKILL until nobody is left; when the worker is gone, SIGKILL at
//! once. The guard then writes a [`Status`] into the file it was given and exits as the function did.
//!
//! It passes the three standard streams through untouched. It is no sandbox: files and network are not kept apart.
//! Memory is the resident memory of the tree, looked at ten times a second; a tree that forks memory it shares is
//! measured by its proportional share before it is judged.

mod arguments;
mod status;
mod tree;

use std::ffi::OsString;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

pub use arguments::GuardArguments;
use celesta_runtime::Clock;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};
pub use status::{Cause, Status};
use tokio::signal::unix::{SignalKind, signal};

use self::tree::Tree;

/// How often the tree is looked at: a tree that grows by a gigabyte a second is caught within 100 MiB of its limit.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is looked at once the tree has lived a while and is far from its limits.
const LOOK_CALM: Duration = Duration::from_millis(250);
/// Between SIGTERM and SIGKILL. With the rounds after it, all are gone within two seconds of a limit.
const GRACE: Duration = Duration::from_millis(500);
/// Between two rounds of SIGKILL.
const ROUND: Duration = Duration::from_millis(10);
/// Open files of a function; the kernel's usual hard limit allows more than most programs can use.
const FILES_MAX: u64 = 65_536;
/// The guard's own faults exit like a shell that cannot start a program.
const EXIT_UNSTARTABLE: u8 = 127;

/// Runs the guard to its end. `arguments` are those after the guard's own subcommand.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some(arguments) = GuardArguments::parse(arguments) else {
        return ExitCode::from(EXIT_UNSTARTABLE);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let status = match runtime {
        Ok(runtime) => runtime.block_on(watch(&arguments)),
        Err(error) => Status::unstartable(error.to_string()),
    };
    if status.write(&arguments.status).is_err() {
        return ExitCode::from(EXIT_UNSTARTABLE);
    }
    ExitCode::from(status.exit_byte())
}

async fn watch(arguments: &GuardArguments) -> Status {
    match Watch::start(arguments) {
        Ok(watch) => watch.run(arguments).await,
        Err(reason) => Status::unstartable(reason),
    }
}

struct Watch {
    clock: Clock,
    tree: Tree,
    main: Pid,
    main_ended: bool,
    parent: Pid,
    ends: tokio::signal::unix::Signal,
    stop: tokio::signal::unix::Signal,
    status: Status,
}

/// Why the guard looked up.
enum Event {
    Look,
    SomeoneEnded,
    StopAsked,
}

impl Watch {
    fn start(arguments: &GuardArguments) -> Result<Self, String> {
        let said = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
        // A guard that already leads its group has nothing to leave.
        rustix::process::setsid().ok();
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own)).map_err(said("cannot become the reaper"))?;
        let parent = Pid::from_raw(arguments.parent).ok_or("the parent's process id is not one")?;
        if rustix::process::getppid() != Some(parent) {
            return Err("the worker is gone".to_owned());
        }
        limit(Resource::Core, 0);
        limit(Resource::Nofile, FILES_MAX);
        limit(Resource::Fsize, arguments.disk_bytes);
        // Before the child starts, so that a request to stop that comes early is not lost.
        let stop = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let ends = signal(SignalKind::child()).map_err(|error| error.to_string())?;
        let main = spawn(arguments)?;
        Ok(Self {
            clock: Clock::system(),
            tree: Tree::below(own),
            main,
            parent,
            ends,
            stop,
            main_ended: false,
            status: Status::default(),
        })
    }

    async fn run(mut self, arguments: &GuardArguments) -> Status {
        let began = self.clock.monotonic();
        let cause = loop {
            let lived = self.clock.monotonic().saturating_sub(began);
            let left = arguments.timeout.map(|timeout| timeout.saturating_sub(lived));
            if left.is_some_and(|left| left.is_zero()) {
                break Cause::Timeout;
            }
            let calm =
                lived > Duration::from_secs(2) && self.status.peak_memory_bytes < arguments.memory_bytes / 2;
            let look = if calm { LOOK_CALM } else { LOOK };
            match self.event(left.map_or(look, |left| left.min(look))).await {
                Event::StopAsked => break Cause::Stopped,
                Event::SomeoneEnded => self.reap(),
                Event::Look => {
                    self.reap();
                    // Whoever loses its parent gets another one.
                    if rustix::process::getppid() != Some(self.parent) {
                        break Cause::Orphaned;
                    }
                    if let Some(cause) = self.over_limit(arguments) {
                        break cause;
                    }
                }
            }
            if self.main_ended {
                break Cause::Exited;
            }
        };
        self.end(cause).await;
        self.status
    }

    async fn event(&mut self, look: Duration) -> Event {
        tokio::select! {
            biased;
            _ = self.stop.recv() => Event::StopAsked,
            _ = self.ends.recv() => Event::SomeoneEnded,
            () = self.clock.sleep(look) => Event::Look,
        }
    }

    /// Measures the tree and says which limit it has passed.
    fn over_limit(&mut self, arguments: &GuardArguments) -> Option<Cause> {
        let usage = self.tree.usage(arguments.memory_bytes);
        self.status.peak_memory_bytes = self.status.peak_memory_bytes.max(usage.memory_bytes);
        self.status.cpu_ms = self.status.cpu_ms.max(usage.cpu_ms);
        if usage.memory_bytes > arguments.memory_bytes {
            Some(Cause::Memory)
        } else if arguments.cpu_ms.is_some_and(|most| usage.cpu_ms > most) {
            Some(Cause::Processor)
        } else {
            None
        }
    }

    /// Takes in every process that has ended: the function's own and those that were left to the guard.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.main {
                self.main_ended = true;
                self.status.exit_code = status.exit_status();
                self.status.signal = status.terminating_signal();
            }
        }
    }

    async fn end(&mut self, cause: Cause) {
        self.reap();
        if cause == Cause::Exited {
            // Their time counts only once they are reaped.
            self.status.cpu_ms = self.status.cpu_ms.max(self.tree.own_children_cpu_ms());
        }
        let politely = matches!(
            cause,
            Cause::Timeout | Cause::Stopped | Cause::Memory | Cause::Processor
        );
        if politely && self.tree.signal(Signal::TERM) > 0 {
            let until = self.clock.monotonic() + GRACE;
            while self.clock.monotonic() < until {
                self.clock.sleep(ROUND).await;
                self.reap();
                if self.tree.is_empty() {
                    break;
                }
            }
        }
        while self.tree.signal(Signal::KILL) > 0 {
            self.clock.sleep(ROUND).await;
            self.reap();
        }
        self.reap();
        self.status.cause = cause;
    }
}

fn limit(resource: Resource, most: u64) {
    let hard = rustix::process::getrlimit(resource).maximum;
    let most = hard.map_or(most, |hard| hard.min(most));
    // Lowering a limit is always allowed.
    rustix::process::setrlimit(
        resource,
        Rlimit {
            current: Some(most),
            maximum: Some(most),
        },
    )
    .ok();
}

#[expect(clippy::disallowed_methods, reason = "functions/worker owns processes")]
fn spawn(arguments: &GuardArguments) -> Result<Pid, String> {
    let (program, rest) = arguments
        .command
        .split_first()
        .ok_or("there is no program to start")?;
    let child = std::process::Command::new(program)
        .args(rest)
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| format!("cannot start `{}`: {error}", program.to_string_lossy()))?;
    // The child is reaped with all others, so nobody waits on this handle.
    Ok(Pid::from_child(&child))
}
