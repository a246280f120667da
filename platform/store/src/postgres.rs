//! PostgreSQL: a few connections, transactions whose end is known even when the connection is lost in the middle.
//!
//! Every transaction writes its own number into the row of its connection (`fate.rs`). When the connection breaks while it
//! commits, another connection reads that row: callers are told what has happened, and nothing is done twice.
//! A transaction that was lost before its commit did not happen and is simply tried again, with growing pauses, for as
//! long as a restart of the server may take.

mod fate;
mod fault;
pub(crate) mod fence;
mod groups;
mod listen;
mod probe;
pub(crate) mod relocate;
mod translate;
mod values;

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use tokio::sync::Semaphore;

use crate::error::QueryError;
use crate::unit::{Cell, Row};
pub(crate) use fate::TABLE as FATES_TABLE;
use fate::{Fate, Session};
pub(crate) use fault::Fault;
pub(crate) use groups::Groups;
pub use listen::{Heard, Listener};
pub use probe::Means;
pub(crate) use translate::expressions;
pub use values::Arg;
use values::{bind, bind_cell, read_row};

/// Connections of one handle that work at the same time. More would only take turns on the server's processors.
const SESSIONS_MAX: usize = 12;
/// Prepared statements of one connection.
const PREPARED_MAX: usize = 512;
/// How long a transaction is tried again after its connection was lost: a server restarts within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one try to connect may take: a machine that is gone does not even refuse.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// What the server does with the transaction of a process that was stopped or cut off: nobody else would end it, and its row
/// locks (the fence's before all) would keep the heir out for hours.
const ABANDONED: [&str; 2] = [
    "SELECT set_config('idle_in_transaction_session_timeout', '10s', false)",
    "SELECT set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false), \
     set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '10000', false)",
];
/// The first pause between two tries; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// The longest pause between two tries.
const PAUSE_LAST: Duration = Duration::from_millis(500);

/// One statement of a [`Postgres::write`].
#[derive(Debug, Clone)]
pub struct Call {
    /// A short name for errors.
    pub name: &'static str,
    /// Its text, with `$1` and so on.
    pub sql: &'static str,
    /// Its arguments.
    pub args: Vec<Arg>,
}

/// A PostgreSQL database. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    options: PgConnectOptions,
    idle: Mutex<Vec<Session>>,
    turns: Semaphore,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

/// What a transaction does between its begin and its commit.
pub(crate) trait Work: Send {
    type Out: Send;
    fn run(&mut self, connection: &mut PgConnection)
    -> impl Future<Output = Result<Self::Out, Fault>> + Send;
}

impl Postgres {
    /// The database at `url`; nothing is connected yet.
    #[cfg(test)]
    pub(crate) fn new(url: &str) -> Result<Self, sqlx::Error> {
        Self::at(url, None, None)
    }

    /// The database at `url`, its tables in `schema` when one is named; nothing is connected yet. At most `sessions`
    /// connections work at the same time.
    pub(crate) fn at(url: &str, schema: Option<&str>, sessions: Option<usize>) -> Result<Self, sqlx::Error> {
        let options = PgConnectOptions::from_str(url)?;
        // Nobody listens between two processes of one machine, and records of TLS, which sqlx sends one by one, wait there
        // for acknowledgements that come 40 ms late: a fifth of the rate. Who wants TLS all the same says so in the URL.
        let says_mode = url.contains("sslmode") || url.contains("ssl-mode");
        let loopback = matches!(options.get_host(), "127.0.0.1" | "localhost" | "::1" | "[::1]");
        let options = if loopback && !says_mode {
            options.ssl_mode(PgSslMode::Disable)
        } else {
            options
        };
        let options = options
            .statement_cache_capacity(PREPARED_MAX)
            .application_name("celesta")
            // A notice of every CREATE IF NOT EXISTS is no news.
            .options([("client_min_messages", "warning"), ("synchronous_commit", "on"), ("jit", "off")])
            // Every statement here goes by an index, whatever the statistics of a table that grew a moment ago say.
            .options([
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_sort", "off"),
            ])
            .disable_statement_logging();
        let options = match schema {
            Some(schema) => options.options([("search_path", schema)]),
            None => options,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                options,
                idle: Mutex::default(),
                turns: Semaphore::new(sessions.unwrap_or(SESSIONS_MAX)),
            }),
        })
    }

    /// The same database through so many connections of its own.
    pub(crate) fn with_sessions(&self, sessions: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                options: self.shared.options.clone(),
                idle: Mutex::default(),
                turns: Semaphore::new(sessions),
            }),
        }
    }

    /// Executes `calls` in one transaction, exactly once, and gives the rows of each. Returns when it is durable.
    ///
    /// # Errors
    /// When the server does not do it, or has not come back within half a minute; then nothing has happened, unless the
    /// server stayed away after the very commit: then nobody knows.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped, the transaction may have happened or not.
    pub async fn write(&self, calls: &[Call]) -> Result<Vec<Vec<Row>>, QueryError> {
        Ok(self.transact(&mut Calls(calls)).await?)
    }

    /// Executes one statement that may be repeated (a read, or a write that is the same twice) without a transaction of
    /// its own.
    ///
    /// # Errors
    /// When the server does not do it, or has not come back within half a minute.
    pub async fn ask(&self, call: &Call) -> Result<Vec<Row>, QueryError> {
        let mut pauses = Pauses::new();
        loop {
            match self.ask_once(call).await {
                Err(Fault::Lost(reason) | Fault::Again(reason)) => {
                    pauses.wait(Fault::Lost(reason)).await?;
                }
                other => return Ok(other?),
            }
        }
    }

    async fn ask_once(&self, call: &Call) -> Result<Vec<Row>, Fault> {
        let _turn = self.turn().await?;
        let mut session = self.session().await?;
        let outcome = execute(&mut session.connection, call).await;
        self.back(session, &outcome);
        outcome
    }

    /// As [`Postgres::ask`] for a text made of constants with a `?` for each cell.
    pub(crate) async fn fetch(&self, sql: &str, cells: &[Cell]) -> Result<Vec<Row>, QueryError> {
        let mut pauses = Pauses::new();
        loop {
            match self.fetch_once(sql, cells).await {
                Err(Fault::Lost(reason) | Fault::Again(reason)) => {
                    pauses.wait(Fault::Lost(reason)).await?;
                }
                other => return Ok(other?),
            }
        }
    }

    async fn fetch_once(&self, sql: &str, cells: &[Cell]) -> Result<Vec<Row>, Fault> {
        let mut arguments = PgArguments::default();
        for cell in cells {
            bind_cell(&mut arguments, cell);
        }
        let _turn = self.turn().await?;
        let mut session = self.session().await?;
        let text = translate::numbered(sql);
        let outcome = query(&mut session.connection, "fetch", text, arguments).await;
        self.back(session, &outcome);
        outcome
    }

    /// Does `work` in one transaction, exactly once.
    pub(crate) async fn transact<W: Work>(&self, work: &mut W) -> Result<W::Out, Fault> {
        let mut pauses = Pauses::new();
        loop {
            match self.attempt(work).await {
                Err(fault @ (Fault::Lost(_) | Fault::Again(_))) => pauses.wait(fault).await?,
                other => return other,
            }
        }
    }

    /// Does `work` in one transaction that may be repeated: nobody asks whether a lost one has happened.
    pub(crate) async fn repeat<W: Work>(&self, work: &mut W) -> Result<W::Out, Fault> {
        let mut pauses = Pauses::new();
        loop {
            match self.attempt_repeatable(work).await {
                Err(fault @ (Fault::Lost(_) | Fault::Again(_))) => pauses.wait(fault).await?,
                other => return other,
            }
        }
    }

    async fn attempt_repeatable<W: Work>(&self, work: &mut W) -> Result<W::Out, Fault> {
        let _turn = self.turn().await?;
        let mut session = self.session().await?;
        match control(&mut session.connection, "BEGIN").await {
            Ok(()) => self.within(session, work, None).await,
            Err(fault) => self.back_failed(session, fault),
        }
    }

    async fn attempt<W: Work>(&self, work: &mut W) -> Result<W::Out, Fault> {
        let _turn = self.turn().await?;
        let mut session = self.session().await?;
        match session.begin().await {
            Ok(fate) => self.within(session, work, Some(fate)).await,
            Err(fault) => self.back_failed(session, fault),
        }
    }

    /// From the begin of a transaction to its end.
    async fn within<W: Work>(
        &self,
        mut session: Session,
        work: &mut W,
        fate: Option<Fate>,
    ) -> Result<W::Out, Fault> {
        let outcome = work.run(&mut session.connection).await;
        match &outcome {
            Err(fault @ Fault::Lost(_)) => {
                self.back(session, &Err::<(), _>(fault.clone()));
                return outcome;
            }
            Err(_) => {
                let ended = control(&mut session.connection, "ROLLBACK").await;
                self.back(session, &ended);
                return outcome;
            }
            Ok(_) => {}
        }
        let ended = control(&mut session.connection, "COMMIT").await;
        self.back(session, &ended);
        match (ended, fate) {
            (Ok(()), _) => outcome,
            (Err(Fault::Lost(reason)), Some(fate)) if self.happened(&fate).await? => {
                tracing::info!(
                    reason,
                    "a connection was lost while committing; the commit stands"
                );
                outcome
            }
            (Err(fault), _) => Err(fault),
        }
    }

    /// What became of a transaction whose connection is gone.
    async fn happened(&self, fate: &Fate) -> Result<bool, Fault> {
        let mut pauses = Pauses::new();
        loop {
            // The turn of the lost transaction is still held, so this connects on its own.
            let fault = match self.session().await {
                Ok(mut session) => {
                    let outcome = fate.stands(&mut session.connection).await;
                    self.back(session, &outcome);
                    match outcome {
                        Ok(stands) => return Ok(stands),
                        Err(fault) => fault,
                    }
                }
                Err(fault) => fault,
            };
            pauses.wait(fault).await?;
        }
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Fault> {
        let turn = self.shared.turns.acquire().await;
        turn.map_err(|_| Fault::Lost("the store is closed".to_owned()))
    }

    /// A connection. Dropped instead of given back (an error, a dropped future), it is closed, and the server ends
    /// whatever it did.
    async fn session(&self) -> Result<Session, Fault> {
        if let Some(session) = self.shared.idle.lock().pop() {
            return Ok(session);
        }
        Ok(Session::new(self.connect().await?))
    }

    pub(crate) async fn connect(&self) -> Result<PgConnection, Fault> {
        let connecting = tokio::time::timeout(CONNECT_PATIENCE, self.shared.options.connect());
        let silent = |_| Fault::Lost(format!("no connection within {CONNECT_PATIENCE:?}"));
        let connected = connecting.await.map_err(silent)?;
        let mut connection = connected.map_err(|error| Fault::of("connect", &error))?;
        for limits in ABANDONED {
            // A database that does not know them has its own.
            if let Err(error) = sqlx::raw_sql(limits).execute(&mut connection).await {
                tracing::debug!(%error, "a session keeps the database's own limits");
            }
        }
        Ok(connection)
    }

    /// A connection whose transaction did not begin is closed: nobody knows in which state it is.
    fn back_failed<T>(&self, session: Session, fault: Fault) -> Result<T, Fault> {
        if matches!(fault, Fault::Lost(_)) {
            self.back(session, &Err::<(), _>(fault.clone()));
        }
        Err(fault)
    }

    fn back<T>(&self, session: Session, outcome: &Result<T, Fault>) {
        if matches!(outcome, Err(Fault::Lost(_))) {
            // The others are most likely gone with it.
            let gone = std::mem::take(&mut *self.shared.idle.lock());
            drop((session, gone));
        } else {
            self.shared.idle.lock().push(session);
        }
    }
}

/// A connection whose transaction reads one instant and writes nothing.
pub(crate) async fn instant(url: &str) -> Result<PgConnection, QueryError> {
    let database = Postgres::at(url, None, Some(1)).map_err(|error| QueryError {
        reason: error.to_string(),
    })?;
    let mut connection = database.connect().await?;
    control(
        &mut connection,
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    )
    .await?;
    Ok(connection)
}

/// Has the transaction of [`instant`] read the tables of `schema`.
pub(crate) async fn enter(connection: &mut PgConnection, schema: &str) -> Result<(), QueryError> {
    let sql = format!("SET LOCAL search_path TO {schema}");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map_err(|error| Fault::of("enter", &error))?;
    Ok(())
}

/// Reads on a connection of its own, as [`Postgres::fetch`].
pub(crate) async fn fetch_on(
    connection: &mut PgConnection,
    sql: &str,
    cells: &[Cell],
) -> Result<Vec<Row>, QueryError> {
    let mut arguments = PgArguments::default();
    for cell in cells {
        bind_cell(&mut arguments, cell);
    }
    Ok(query(connection, "fetch", translate::numbered(sql), arguments).await?)
}

struct Calls<'a>(&'a [Call]);

impl Work for Calls<'_> {
    type Out = Vec<Vec<Row>>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Self::Out, Fault> {
        let mut answers = Vec::with_capacity(self.0.len());
        for call in self.0 {
            answers.push(execute(connection, call).await?);
        }
        Ok(answers)
    }
}

async fn control(connection: &mut PgConnection, sql: &'static str) -> Result<(), Fault> {
    sqlx::raw_sql(sql)
        .execute(connection)
        .await
        .map_err(|error| Fault::of("transaction", &error))?;
    Ok(())
}

async fn execute(connection: &mut PgConnection, call: &Call) -> Result<Vec<Row>, Fault> {
    let mut arguments = PgArguments::default();
    for arg in &call.args {
        bind(&mut arguments, arg);
    }
    let rows = sqlx::query_with(call.sql, arguments).fetch_all(connection).await;
    let rows = rows.map_err(|error| Fault::of(call.name, &error))?;
    let read = rows.iter().map(read_row).collect::<Result<_, _>>();
    read.map_err(|error| Fault::Refused(error.to_string()))
}

async fn query(
    connection: &mut PgConnection,
    name: &'static str,
    sql: String,
    arguments: PgArguments,
) -> Result<Vec<Row>, Fault> {
    // Every caller passes text made of constants; values travel as arguments.
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments)
        .fetch_all(connection)
        .await
        .map_err(|error| Fault::of(name, &error))?;
    let read = rows.iter().map(read_row).collect::<Result<_, _>>();
    read.map_err(|error| Fault::Refused(error.to_string()))
}

/// Pauses between tries, counted in their own sum: the wall clock of the platform may stand still.
struct Pauses {
    next: Duration,
    begun: tokio::time::Instant,
}

impl Pauses {
    fn new() -> Self {
        Self {
            next: PAUSE_FIRST,
            begun: tokio::time::Instant::now(),
        }
    }

    /// Waits before the next try; gives the fault back when the patience is over.
    async fn wait(&mut self, fault: Fault) -> Result<(), Fault> {
        if self.begun.elapsed() >= PATIENCE {
            return Err(fault);
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(PAUSE_LAST);
        Ok(())
    }
}
