//! What the end-to-end tests stand on: the real binary, started as its users start it.
//!
//! The tests themselves are in `tests/`. Nothing here knows the platform's insides: it starts `celesta`, speaks HTTP
//! with it and reads what it prints. Every server has a folder of its own and a port the system chose.

mod cluster;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

pub use cluster::Cluster;
pub use server::{Answer, Server};

/// A command that tests complete.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "end-to-end tests start the program as its users do"
)]
pub fn process(program: &Path) -> Command {
    Command::new(program)
}

/// The `celesta` binary of this build; built first when it is not there.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // This test runs from target/<profile>/deps.
        let own = std::env::current_exe().expect("the system tells a program's own file");
        let folder = own
            .parent()
            .and_then(Path::parent)
            .expect("tests run from target/<profile>/deps");
        let binary = folder.join("celesta");
        if !binary.exists() {
            let mut build = process(Path::new(env!("CARGO")));
            build.args(["build", "--package", "celesta", "--bin", "celesta", "--offline"]);
            if folder.ends_with("release") {
                build.arg("--release");
            }
            let status = build
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .expect("cargo is there");
            assert!(
                status.success() && binary.exists(),
                "cannot build {}",
                binary.display()
            );
        }
        binary
    })
}

/// The folder of an example.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// The JSON document on standard output.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// `celesta` with these arguments in `folder`, with nothing in its environment that changes what it does.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn celesta(folder: &Path, arguments: &[&str]) -> Said {
    let mut command = process(binary());
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for variable in [
        "CELESTA_SERVER",
        "CELESTA_TOKEN",
        "CELESTA_DATA",
        "CELESTA_BROKER",
        "CELESTA_STORE",
        "CELESTA_DATABASES",
        "CELESTA_ARTIFACTS",
        "NO_COLOR",
        "CLICOLOR_FORCE",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command.output().expect("the binary starts").into()
}
