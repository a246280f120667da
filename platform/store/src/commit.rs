//! The committer: takes every unit that waits, makes them durable in one transaction, answers all of them.
//!
//! One connection writes, a few read. A lone unit is committed at once; under load the units that arrive during one
//! fsync share the next. How a group is executed is the database's business: `sqlite/groups.rs`, `postgres/groups.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use celesta_runtime::metrics::{Histogram, IntCounter, counter, durations};
use celesta_runtime::{Clock, Fate, Shutdown, TaskSet};
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use tokio::sync::oneshot;

use crate::driven::{self, Record};
use crate::error::{CommitError, OpenError, QueryError};
use crate::line::{Entry, Line, line};
use crate::migrate::{Migration, migrate_postgres};
use crate::postgres::{self, Postgres, fence};
use crate::sqlite::{self, connect_options};
use crate::unit::{After, Cell, Row, Rows, Unit};

/// Units that may wait for the committer: a few commits' worth at full load. Submitting beyond it waits.
pub(crate) const UNITS_WAITING_MAX: usize = 16_384;
/// Units of one commit: bounds the time the first of them waits for the last.
const UNITS_PER_COMMIT_MAX: usize = 4_096;
/// Rows of one commit, for the same reason when units are large.
const ROWS_PER_COMMIT_MAX: usize = 50_000;
/// Reads in parallel; they never wait for the writer (WAL).
const READERS: u32 = 4;
/// How long after shutdown the committer serves handles that are still held; it ends at once when all are dropped.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// Where the store lives.
#[derive(Clone)]
pub struct StoreOptions {
    place: Place,
}

#[derive(Clone)]
enum Place {
    File(PathBuf),
    Url(Remote),
}

/// A place in a PostgreSQL database.
#[derive(Clone, Default)]
struct Remote {
    url: String,
    schema: Option<String>,
    epoch: Option<i64>,
    sessions: Option<usize>,
    as_found: bool,
}

impl StoreOptions {
    /// A store in the SQLite file `path`; created with its folder when it does not exist.
    #[must_use]
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self {
            place: Place::File(path.as_ref().to_owned()),
        }
    }

    /// A store in the PostgreSQL database at `url`, `postgres://user@host:port/database`. The database must be there.
    #[must_use]
    pub fn postgres(url: impl Into<String>) -> Self {
        Self {
            place: Place::Url(Remote {
                url: url.into(),
                ..Remote::default()
            }),
        }
    }

    /// Keeps all tables in `schema`, which is made when it is not there. For PostgreSQL only.
    ///
    /// # Panics
    /// When the name has other characters than `a` to `z`, digits and `_`: names are made by the code.
    #[must_use]
    pub fn in_schema(mut self, schema: &str) -> Self {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(schema.bytes().all(plain), "{schema} is no name of a schema");
        if let Place::Url(remote) = &mut self.place {
            remote.schema = Some(schema.to_owned());
        }
        self
    }

    /// Opens it as the owner of `epoch`: whoever owned it with a lower one writes to it no more. For PostgreSQL only.
    #[must_use]
    pub const fn fenced(mut self, epoch: i64) -> Self {
        if let Place::Url(remote) = &mut self.place {
            remote.epoch = Some(epoch);
        }
        self
    }

    /// At most so many connections work at the same time. For PostgreSQL only.
    #[must_use]
    pub const fn sessions(mut self, sessions: usize) -> Self {
        if let Place::Url(remote) = &mut self.place {
            remote.sessions = Some(sessions);
        }
        self
    }

    /// Makes and migrates nothing: for reading what somebody else owns. For PostgreSQL only.
    #[must_use]
    pub const fn as_found(mut self) -> Self {
        if let Place::Url(remote) = &mut self.place {
            remote.as_found = true;
        }
        self
    }

    /// What people write: a URL that begins with `postgres://` or `postgresql://`, or the path of a file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Self::postgres(text)
        } else {
            Self::at(text)
        }
    }
}

impl std::fmt::Debug for StoreOptions {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::File(path) => f.debug_tuple("StoreOptions").field(path).finish(),
            Place::Url(_) => f.write_str("StoreOptions(postgres)"),
        }
    }
}

/// A handle on the durable record. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    units: Entry,
    database: Database,
    /// Requested when a commit met a later owner.
    fenced: Shutdown,
}

#[derive(Debug, Clone)]
enum Database {
    Sqlite { readers: SqlitePool, path: Arc<Path> },
    Postgres(Postgres),
    Driven(Record),
}

/// Resolves when a unit is durable, or has failed.
#[derive(Debug)]
pub struct Committed(oneshot::Receiver<Result<(), CommitError>>);

impl Committed {
    /// Waits for the commit.
    ///
    /// # Errors
    /// What the committer says of the unit.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the unit back.
    pub async fn wait(self) -> Result<(), CommitError> {
        self.0.await.unwrap_or(Err(CommitError::Closed))
    }
}

impl Store {
    /// Opens or creates the store, applies the missing migrations and starts the committer in `tasks`.
    ///
    /// # Errors
    /// When the file cannot be opened, a migration fails, or a later release wrote it.
    pub async fn open(
        options: &StoreOptions,
        migrations: &[Migration],
        clock: &Clock,
        tasks: &TaskSet,
    ) -> Result<Self, OpenError> {
        let (engine, database) = match &options.place {
            Place::File(path) => open_sqlite(path, migrations, tasks).await?,
            Place::Url(remote) => open_postgres(remote, migrations).await?,
        };
        let fenced = Shutdown::new();
        let (units, waiting) = line(UNITS_WAITING_MAX);
        let committer = Committer {
            engine,
            fenced: fenced.clone(),
            clock: clock.clone(),
            commits: counter("celesta_store_commits_total", "Transactions committed."),
            units: counter("celesta_store_units_total", "Units committed."),
            seconds: durations(
                "celesta_store_commit_seconds",
                "Time of one commit, fsync included.",
            ),
        };
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("store.committer", Fate::Essential, async move {
            committer.run(waiting, shutdown).await;
        });
        Ok(Self {
            units,
            database,
            fenced,
        })
    }

    /// Waits until a commit was refused because somebody else owns the store by now; for ever where it has no fence.
    ///
    /// # Cancel safety
    /// May be dropped and asked again at any time.
    pub async fn fenced(&self) {
        self.fenced.requested().await;
    }

    /// A store whose units go to somebody who commits them at will.
    pub(crate) fn driven(units: Entry, record: Record) -> Self {
        Self {
            units,
            database: Database::Driven(record),
            fenced: Shutdown::new(),
        }
    }

    /// The record of a driven store.
    pub(crate) const fn record(&self) -> Option<&Record> {
        match &self.database {
            Database::Driven(record) => Some(record),
            Database::Sqlite { .. } | Database::Postgres(_) => None,
        }
    }

    /// The file of a SQLite store.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.database {
            Database::Sqlite { path, .. } => Some(path),
            Database::Driven(_) => Some(Path::new(driven::PLACE)),
            Database::Postgres(_) => None,
        }
    }

    /// The database of a store on PostgreSQL: for what statements over rows cannot say.
    #[must_use]
    pub const fn database(&self) -> Option<&Postgres> {
        match &self.database {
            Database::Sqlite { .. } | Database::Driven(_) => None,
            Database::Postgres(database) => Some(database),
        }
    }

    /// Hands `unit` to the committer and returns without waiting for the commit; the unit's hooks tell its end.
    /// Units become durable in the order in which they are handed over, with [`Store::push`] too.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped while the committer's line is full, the unit is dropped with `Closed`.
    pub async fn submit(&self, unit: Unit) {
        if let Err(unit) = self.units.send(unit).await {
            unit.finish(Err(&CommitError::Closed));
        }
    }

    /// As [`Store::submit`] for who cannot wait, because a lock decides about the order: the unit stands in line when this
    /// returns, also where the line is full.
    ///
    /// # Errors
    /// Gives the unit back when the committer has ended: no unit will be taken any more.
    pub fn push(&self, unit: Unit) -> Result<(), Unit> {
        self.units.push(unit)
    }

    /// Has the answer resolved when `unit` has ended, after the hooks of its group. Submit the unit afterwards.
    #[must_use]
    pub fn watch(unit: &mut Unit) -> Committed {
        let (sender, receiver) = oneshot::channel();
        unit.answer(sender);
        Committed(receiver)
    }

    /// Makes `unit` durable and waits for it.
    ///
    /// # Errors
    /// What the committer says of the unit; nothing of it is durable then.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the unit back once it was handed over.
    pub async fn commit(&self, mut unit: Unit) -> Result<(), CommitError> {
        let committed = Self::watch(&mut unit);
        self.submit(unit).await;
        committed.wait().await
    }

    /// Reads rows. `sql` is made of constants; values travel in `cells`, in the order of its `?`.
    ///
    /// # Errors
    /// When the database cannot answer.
    pub async fn fetch(&self, sql: &str, cells: &[Cell]) -> Result<Vec<Row>, QueryError> {
        match &self.database {
            Database::Sqlite { readers, .. } => {
                let mut connection = readers.acquire().await?;
                Ok(sqlite::fetch(&mut connection, sql, cells).await?)
            }
            Database::Postgres(database) => database.fetch(sql, cells).await,
            Database::Driven(record) => record.fetch_for_store(sql, cells),
        }
    }
}

async fn open_sqlite(
    path: &Path,
    migrations: &[Migration],
    tasks: &TaskSet,
) -> Result<(Engine, Database), OpenError> {
    let connect = |reason: String| OpenError::Connect {
        path: path.display().to_string(),
        reason,
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| connect(error.to_string()))?;
    }
    let groups = sqlite::Groups::open(path, migrations, tasks).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .connect_with(connect_options(path).pragma("query_only", "1"))
        .await
        .map_err(|error| connect(error.to_string()))?;
    let path = path.into();
    Ok((
        Engine::Sqlite(Box::new(groups)),
        Database::Sqlite { readers, path },
    ))
}

async fn open_postgres(remote: &Remote, migrations: &[Migration]) -> Result<(Engine, Database), OpenError> {
    let database = Postgres::at(&remote.url, remote.schema.as_deref(), remote.sessions);
    let database = database.map_err(|error| OpenError::Connect {
        path: "the URL given".to_owned(),
        reason: error.to_string(),
    })?;
    if !remote.as_found {
        if let Some(schema) = &remote.schema {
            fence::make_schema(&database, schema).await?;
        }
        if let Some(epoch) = remote.epoch {
            // Before the migrations: an older release must not write to what they change.
            fence::raise(&database, epoch).await?;
        }
        migrate_postgres(&database, migrations).await?;
    }
    Ok((
        Engine::Postgres(postgres::Groups::new(database.clone(), remote.epoch)),
        Database::Postgres(database),
    ))
}

/// What executes groups.
enum Engine {
    Sqlite(Box<sqlite::Groups>),
    Postgres(postgres::Groups),
}

impl Engine {
    /// One outcome for each unit; an error when none of them is durable.
    async fn commit(&mut self, group: &[Rows]) -> Result<Vec<Result<(), CommitError>>, CommitError> {
        if group.iter().all(|unit| unit.starts.is_empty()) {
            return Ok(vec![Ok(()); group.len()]);
        }
        match self {
            Self::Sqlite(groups) => groups.commit(group).await,
            Self::Postgres(groups) => groups.commit(group).await,
        }
    }

    /// Whether something is to be done between two commits.
    fn wants_rest(&mut self) -> bool {
        match self {
            Self::Sqlite(groups) => groups.wants_rest(),
            Self::Postgres(_) => false,
        }
    }

    /// What is done between two commits.
    async fn rest(&mut self) {
        match self {
            Self::Sqlite(groups) => groups.finish_log().await,
            Self::Postgres(_) => {}
        }
    }

    async fn close(self) {
        match self {
            Self::Sqlite(groups) => groups.close().await,
            Self::Postgres(_) => {}
        }
    }
}

struct Committer {
    engine: Engine,
    fenced: Shutdown,
    clock: Clock,
    commits: IntCounter,
    units: IntCounter,
    seconds: Histogram,
}

impl Committer {
    async fn run(mut self, mut waiting: Line, shutdown: Shutdown) {
        let mut units = Vec::with_capacity(UNITS_PER_COMMIT_MAX);
        let clock = self.clock.clone();
        let drained = async move {
            shutdown.requested().await;
            clock.sleep(DRAIN_PATIENCE).await;
        };
        tokio::pin!(drained);
        let mut ended = Ended::default();
        loop {
            units.clear();
            if waiting.is_empty() {
                // Nothing else is to be done: whoever waits hears of it at once.
                std::mem::take(&mut ended).tell();
            }
            let received = tokio::select! {
                biased;
                received = waiting.recv_many(&mut units, UNITS_PER_COMMIT_MAX) => received,
                () = &mut drained => 0,
            };
            if received == 0 {
                break;
            }
            while !units.is_empty() {
                let now = within_rows(&units);
                let later = units.split_off(now);
                let group = std::mem::replace(&mut units, later);
                ended = self.commit_group(group, ended).await;
            }
            if self.engine.wants_rest() {
                std::mem::take(&mut ended).tell();
                self.engine.rest().await;
            }
        }
        ended.tell();
        waiting.close();
        while let Some(unit) = waiting.try_recv() {
            unit.finish(Err(&CommitError::Closed));
        }
        self.engine.close().await;
    }

    /// Commits a group, and meanwhile tells of the one before it.
    async fn commit_group(&mut self, group: Vec<Unit>, before: Ended) -> Ended {
        let begun = self.clock.monotonic();
        let (rows, after): (Vec<Rows>, Vec<After>) = group.into_iter().map(Unit::into_parts).unzip();
        // Polled in this order: the connection's thread has the group before the hooks take their time.
        let telling = async { before.tell() };
        let committing = async {
            if self.fenced.is_requested() {
                return Err(CommitError::Fenced);
            }
            self.engine.commit(&rows).await
        };
        let (outcomes, ()) = futures_util::future::join(committing, telling).await;
        if matches!(outcomes, Err(CommitError::Fenced)) && !self.fenced.is_requested() {
            tracing::warn!(
                units = rows.len(),
                "somebody else owns this store by now; a commit was refused"
            );
            self.fenced.request();
        }
        self.seconds
            .observe((self.clock.monotonic().saturating_sub(begun)).as_secs_f64());
        if let Ok(outcomes) = &outcomes {
            self.commits.inc();
            let durable = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            self.units.inc_by(u64::try_from(durable).unwrap_or(0));
        }
        Ended {
            rows,
            after,
            outcomes,
        }
    }
}

/// A group whose units have not been told of their end.
struct Ended {
    /// Dropped when it is told: there may be many.
    rows: Vec<Rows>,
    after: Vec<After>,
    outcomes: Result<Vec<Result<(), CommitError>>, CommitError>,
}

impl Default for Ended {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            after: Vec::new(),
            outcomes: Ok(Vec::new()),
        }
    }
}

impl Ended {
    /// In the order in which the units became durable.
    fn tell(self) {
        After::tell_all(self.after, &self.outcomes);
        drop(self.rows);
    }
}

/// How many of the first units one commit takes.
fn within_rows(units: &[Unit]) -> usize {
    let mut rows = 0;
    let fitting = units.iter().take_while(|unit| {
        rows += unit.len();
        rows <= ROWS_PER_COMMIT_MAX
    });
    fitting.count().max(1)
}

#[cfg(test)]
mod fence_tests;
#[cfg(test)]
mod tests;
