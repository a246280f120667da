//! A PostgreSQL cluster of a test's own, which may be broken.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;

use crate::process;

/// The account the database runs under when the tests run as root, which it refuses.
const ACCOUNT: &str = "postgres";

/// A running cluster. It is stopped and removed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    port: u16,
}

impl Cluster {
    /// A fresh cluster; none when `initdb` is not installed.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        program("initdb")?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        if let Some((user, group)) = account() {
            chown(folder.path(), Some(user), Some(group)).expect("root may give folders away");
        }
        // Free a moment ago; nobody else asks for this one.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let cluster = Self { folder, port };
        let data = cluster.data();
        cluster.run("initdb", &["-A", "trust", "-U", "postgres", "-N", "-D", &data]);
        let options = format!(
            "-p {port} -k {} -c listen_addresses=127.0.0.1",
            cluster.folder.path().display()
        );
        let log = cluster.folder.path().join("log").display().to_string();
        cluster.run(
            "pg_ctl",
            &["-D", &data, "-o", &options, "-l", &log, "-w", "start"],
        );
        Some(cluster)
    }

    /// Where its database is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Restarts it without any farewell: it recovers from its log, as after a crash.
    ///
    /// # Panics
    /// When it does not come up again.
    pub fn crash(&self) {
        self.run(
            "pg_ctl",
            &["-D", &self.data(), "-m", "immediate", "-w", "restart"],
        );
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn run(&self, name: &str, arguments: &[&str]) {
        let ended = self.command(name, arguments);
        assert!(
            ended,
            "{name} failed; its words are in {}",
            self.folder.path().display()
        );
    }

    fn command(&self, name: &str, arguments: &[&str]) -> bool {
        let program = program(name).expect("initdb is there, so its companions are");
        let mut command = if account().is_some() {
            let mut command = process(Path::new("setpriv"));
            command
                .args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups"])
                .arg(program);
            command
        } else {
            process(&program)
        };
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("commands.log"))
            .expect("the folder is writable");
        let errors = log.try_clone().expect("a file can be shared");
        let ended = command
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .status();
        ended.is_ok_and(|status| status.success())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing of it is needed any more.
        let _stopped = self.command("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }
}

/// A program of PostgreSQL: on the path, or where distributions put it. The newest release wins.
fn program(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    folders.sort();
    folders.push(PathBuf::from("/usr/bin"));
    folders.push(PathBuf::from("/usr/local/bin"));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
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
