//! A PostgreSQL server of a bench's own: made with initdb in a temporary folder, durable as installed, and broken at will.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;

use crate::child::command;
use crate::exit::{Exit, Failure};

/// The account the server runs under when the bench runs as root, which PostgreSQL refuses.
const ACCOUNT: &str = "postgres";
/// What differs from how it is installed: room for the connections of a few nodes, and for the log between checkpoints.
const SETTINGS: &str = "-c max_connections=300 -c shared_buffers=256MB -c max_wal_size=4GB";

/// A running server. It is stopped and removed when it is dropped.
#[derive(Debug)]
pub(crate) struct OwnPostgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
}

impl OwnPostgres {
    /// A fresh server on a free port.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let programs = programs().ok_or_else(|| {
            Failure::new(Exit::Failed, "initdb is not there")
                .hint("install PostgreSQL, or name a server by its URL")
        })?;
        let failed = |error: std::io::Error| Failure::internal(format!("cannot start PostgreSQL: {error}"));
        let folder = tempfile::Builder::new()
            .prefix("celesta-bench-postgres-")
            .tempdir()
            .map_err(failed)?;
        if let Some((user, group)) = account() {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).map_err(failed)?;
        }
        // Free a moment ago; nobody else asks for this one.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(failed)?
            .port();
        let server = Self {
            folder,
            programs,
            port,
        };
        let data = server.data();
        server
            .run("initdb", &["-A", "trust", "-U", "postgres", "-D", &data])
            .await?;
        let folder = server.folder.path().display().to_string();
        let options = format!("-p {port} -k {folder} -c listen_addresses=127.0.0.1 {SETTINGS}");
        let log = format!("{folder}/log");
        server
            .run(
                "pg_ctl",
                &["-D", &data, "-o", &options, "-l", &log, "-w", "start"],
            )
            .await?;
        Ok(server)
    }

    /// Where its database is.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Restarts it without any farewell: it recovers from its log, as after a crash.
    ///
    /// # Errors
    /// When it does not come up again.
    pub(crate) async fn crash(&self) -> Result<(), Failure> {
        self.run(
            "pg_ctl",
            &["-D", &self.data(), "-m", "immediate", "-w", "restart"],
        )
        .await
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    async fn run(&self, name: &str, arguments: &[&str]) -> Result<(), Failure> {
        let failed = |reason: String| Failure::internal(format!("{name} failed: {reason}"));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("commands.log"))
            .map_err(|error| failed(error.to_string()))?;
        let errors = log.try_clone().map_err(|error| failed(error.to_string()))?;
        let (program, before) = words(&self.programs.join(name));
        let ended = command(&program)
            .args(before)
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .status()
            .await;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => {
                let said = std::fs::read_to_string(self.folder.path().join("commands.log"));
                Err(failed(
                    said.unwrap_or_default()
                        .lines()
                        .last()
                        .unwrap_or_default()
                        .to_owned(),
                ))
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        let (program, before) = words(&self.programs.join("pg_ctl"));
        // Nothing of it is needed any more; it is gone before its folder is.
        command(&program)
            .as_std_mut()
            .args(before)
            .args(["-D", &self.data(), "-m", "immediate", "-w", "stop"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok();
    }
}

/// The program to start, and the words before its own, under an account that PostgreSQL takes.
fn words(program: &Path) -> (PathBuf, Vec<String>) {
    if account().is_none() {
        return (program.to_owned(), Vec::new());
    }
    let words = ["--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups"].map(str::to_owned);
    let mut words = Vec::from(words);
    words.push(program.display().to_string());
    (PathBuf::from("setpriv"), words)
}

/// Where the programs are: where distributions put them, the newest release first, or on the usual paths.
fn programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    folders.sort();
    folders.reverse();
    folders.extend(["/usr/bin", "/usr/local/bin"].map(PathBuf::from));
    folders.into_iter().find(|folder| folder.join("initdb").exists())
}

/// The account to run under, as user and group: only when this is root.
fn account() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = accounts
        .lines()
        .find(|line| line.split(':').next() == Some(ACCOUNT))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
