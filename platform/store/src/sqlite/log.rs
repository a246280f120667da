//! The write-ahead log: lengthened before it is needed, and folded back beside the commits.
//!
//! A commit that lengthens a file waits until the file system has written down its length and its blocks, too, which takes
//! longer than its pages do; one that overwrites waits for its pages alone. SQLite writes the log over from the front once
//! all of it is folded back, and takes no notice of what stands behind the last commit. So only a new log grows, and it does
//! so when the store opens, which takes 10 ms.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use celesta_runtime::{Fate, TaskSet};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::mpsc;

use super::{BEGIN, control};

/// The log is folded back after this many commits.
const COMMITS_PER_CHECKPOINT: u32 = 1_000;
/// Length of a new log, in bytes: about as many small commits as come before it is folded back.
const LENGTH: u64 = 8 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Has a connection of its own fold the log back.
pub(crate) struct Folds {
    commits: u32,
    fold: mpsc::Sender<()>,
    folded: mpsc::Receiver<()>,
}

impl Folds {
    /// Begins to fold in `tasks`.
    pub(crate) async fn start(options: &SqliteConnectOptions, tasks: &TaskSet) -> Result<Self, sqlx::Error> {
        let folder = options.connect().await?;
        let (fold, folds) = mpsc::channel(1);
        let (folded_by, folded) = mpsc::channel(1);
        tasks.spawn(
            "store.checkpoints",
            Fate::Expendable,
            fold_log(folder, folds, folded_by),
        );
        Ok(Self {
            commits: 0,
            fold,
            folded,
        })
    }

    /// There is no log.
    pub(crate) fn none() -> Self {
        Self {
            commits: 0,
            fold: mpsc::channel(1).0,
            folded: mpsc::channel(1).1,
        }
    }

    /// After a commit: has the log folded back once it is long; says whether the rest of that is to be done by who commits.
    pub(crate) fn wants_rest(&mut self) -> bool {
        self.commits += 1;
        if self.commits >= COMMITS_PER_CHECKPOINT && self.fold.try_send(()).is_ok() {
            self.commits = 0;
        }
        self.folded.try_recv().is_ok()
    }
}

async fn fold_log(mut connection: SqliteConnection, mut folds: mpsc::Receiver<()>, folded: mpsc::Sender<()>) {
    while folds.recv().await.is_some() {
        checkpoint(&mut connection).await;
        if folded.send(()).await.is_err() {
            break;
        }
    }
    connection.close().await.ok();
}

/// Folds back what is in the log.
pub(crate) async fn checkpoint(connection: &mut SqliteConnection) {
    if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
        .execute(connection)
        .await
    {
        tracing::warn!(%error, "the write-ahead log could not be folded back");
    }
}

/// Makes the log of the file at `database` as long as it should be from the beginning. Where there is no room for that,
/// commits take longer until it has grown by itself.
pub(crate) async fn lengthen(connection: &mut SqliteConnection, database: &Path) {
    let mut log = OsString::from(database);
    log.push("-wal");
    let lengthened = async {
        // Nobody writes to the log meanwhile, of this process or of another.
        control(connection, BEGIN).await.map_err(io::Error::other)?;
        let filled = tokio::task::spawn_blocking(move || fill(&PathBuf::from(log))).await;
        control(connection, "ROLLBACK").await.map_err(io::Error::other)?;
        filled.map_err(io::Error::other)?
    };
    if let Err(error) = lengthened.await {
        tracing::warn!(%error, "the write-ahead log could not be lengthened; commits are slower until it has grown");
    }
}

fn fill(log: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(log)?;
    let length = file.metadata()?.len();
    let filled = fill_from(&mut file, length);
    if filled.is_err() {
        file.set_len(length)?;
    }
    filled
}

/// Real zeros: of room that was only set aside the file system writes down at the first commit that it is used.
fn fill_from(file: &mut File, length: u64) -> io::Result<()> {
    let mut left = LENGTH.saturating_sub(length);
    file.seek(SeekFrom::Start(length))?;
    while left > 0 {
        let most = left.min(ZEROS.len() as u64);
        let now = usize::try_from(most).unwrap_or(ZEROS.len());
        file.write_all(&ZEROS[..now])?;
        left -= most;
    }
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_log_stays_and_a_long_one_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        std::fs::write(&log, b"frames").expect("a log");
        fill(&log).expect("it is lengthened");
        let mut filled = b"frames".to_vec();
        filled.resize(8 << 20, 0);
        assert!(std::fs::read(&log).expect("it is there") == filled);
        filled.push(1);
        std::fs::write(&log, &filled).expect("a log");
        fill(&log).expect("nothing is to be done");
        assert!(std::fs::read(&log).expect("it is there") == filled);
        assert!(fill(&folder.path().join("none")).is_err(), "none is made");
    }
}
