//! The databases of a deployment: the main one, which holds what all nodes share, and others by name, which hold partitions.
//!
//! Each node is told their URLs; what nodes share knows names alone. So two nodes might mean different databases by one
//! name, or two deployments the same one, and a partition would be opened where it is not. Therefore each database is
//! marked when it is first used: the mark says whose it is and under which name, and a number that the main database keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use celesta_store::{Arg, Call, Migration, Postgres, QueryError, Store, StoreOptions};
use celesta_types::ErrorKind;
use parking_lot::Mutex;

use super::ownership::Row;
use super::{MAIN_SCHEMA, OpenError, schema};

/// What the main database is called where a name is asked for.
pub const MAIN_DATABASE: &str = "main";
/// Databases of a deployment besides the main one: each is a connection of each node for each partition there.
pub const DATABASES_MAX: usize = 16;
/// Bytes of a database's name.
pub const DATABASE_NAME_MAX: usize = 32;
/// The schema of a database's mark.
const MARK_SCHEMA: &str = "celesta_place";

const MARK_MIGRATIONS: &[Migration] = &[Migration {
    subsystem: "place",
    version: 1,
    sql: "",
    postgres: "
CREATE TABLE place_mark (
    one BIGINT NOT NULL PRIMARY KEY,
    deployment BIGINT NOT NULL,
    name TEXT NOT NULL,
    mark BIGINT NOT NULL
);
",
}];

/// `$1` the deployment, `$2` the name, `$3` a mark.
const MARK: &str = "INSERT INTO place_mark (one, deployment, name, mark) VALUES (1, $1, $2, $3) ON CONFLICT (one) DO NOTHING";
const MARKED: &str = "SELECT deployment, name, mark FROM place_mark WHERE one = 1";
/// `$1` a schema that only main databases have.
const IS_MAIN: &str =
    "SELECT 1 FROM pg_tables WHERE schemaname::text = $1 AND tablename = 'cluster_partitions'";

/// What a node was told of databases is wrong. The texts name no URL: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabasesError {
    /// No `NAME=URL`.
    #[error("database {at} is not of the form NAME=URL")]
    Form {
        /// Which of those given, from 1.
        at: usize,
    },
    /// No name.
    #[error(
        "the name of database {at} is none: expected a lowercase letter, then lowercase letters, digits and `-`, \
         at most {DATABASE_NAME_MAX} bytes, and not `{MAIN_DATABASE}`"
    )]
    Name {
        /// Which of those given, from 1.
        at: usize,
    },
    /// One name twice.
    #[error("the database `{name}` is given twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// Too many.
    #[error("{count} databases; at most {DATABASES_MAX} besides the main one")]
    Count {
        /// How many.
        count: usize,
    },
}

/// The URLs of the databases, as a node was told them. Never shown.
#[derive(Clone)]
pub struct Databases {
    main: Arc<str>,
    named: BTreeMap<String, Arc<str>>,
}

impl std::fmt::Debug for Databases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Databases").field(&self.named.keys()).finish()
    }
}

impl Databases {
    /// The main one, and each of `named`, `NAME=URL`.
    ///
    /// # Errors
    /// When one of them is not of that form, a name is none or there twice, or they are too many.
    pub fn new(main: &str, named: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, DatabasesError> {
        let mut known = BTreeMap::new();
        for (before, text) in named.into_iter().enumerate() {
            let at = before + 1;
            let (name, url) = text.as_ref().split_once('=').ok_or(DatabasesError::Form { at })?;
            if !is_name(name) {
                return Err(DatabasesError::Name { at });
            }
            if url.is_empty() {
                return Err(DatabasesError::Form { at });
            }
            if known.insert(name.to_owned(), Arc::from(url)).is_some() {
                let name = name.to_owned();
                return Err(DatabasesError::Twice { name });
            }
        }
        if known.len() > DATABASES_MAX {
            return Err(DatabasesError::Count { count: known.len() });
        }
        Ok(Self {
            main: main.into(),
            named: known,
        })
    }

    /// The URL of the main one.
    #[must_use]
    pub fn main(&self) -> &str {
        &self.main
    }

    /// The others, name and URL.
    pub fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, url)| (name.as_str(), &**url))
    }

    /// The names of the others, as nodes tell each other.
    pub(super) fn told(&self) -> String {
        let names: Vec<&str> = self.named.keys().map(String::as_str).collect();
        names.join(" ")
    }

    /// The URL of the one with that name; the main one's without.
    pub(super) fn url(&self, name: Option<&str>) -> Option<&str> {
        match name {
            None => Some(&self.main),
            Some(name) => self.named.get(name).map(|url| &**url),
        }
    }

    /// Whether this node knows every database where a partition is.
    pub(super) fn cover(&self, rows: &[Row]) -> Result<(), OpenError> {
        let mut places = rows.iter().filter_map(|row| row.place.as_deref());
        let Some(name) = places.find(|name| self.url(Some(name)).is_none()) else {
            return Ok(());
        };
        let there = rows.iter().filter(|row| row.place.as_deref() == Some(name));
        Err(OpenError::Unplaced {
            partitions: there.map(|row| row.partition).collect(),
            name: name.to_owned(),
        })
    }

    /// Where the partitions of a new deployment go, in turn: the main one has its share, too. Whoever adds a database
    /// wants the work of both machines, and what is shared costs the main one little.
    pub(super) fn deal(&self) -> Vec<Option<Arc<str>>> {
        let named = self.named.keys().map(|name| Some(Arc::from(name.as_str())));
        std::iter::once(None).chain(named).collect()
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= DATABASE_NAME_MAX
        && text != MAIN_DATABASE
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A database is not the one that is meant.
#[derive(Debug)]
pub(super) enum MarkError {
    /// It is another one; nothing mends that but other options.
    Other(String),
    /// Nobody knows: it does not answer.
    Unknown(String),
}

impl From<MarkError> for OpenError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Other(reason) => Self::Database { reason },
            MarkError::Unknown(reason) => Self::Failed { reason },
        }
    }
}

impl From<QueryError> for MarkError {
    fn from(error: QueryError) -> Self {
        Self::Unknown(error.reason)
    }
}

/// The databases with the marks that were looked at.
#[derive(Debug)]
pub(super) struct Marks {
    databases: Databases,
    main: Postgres,
    deployment: i64,
    random: Random,
    clock: Clock,
    good: Mutex<BTreeSet<String>>,
}

impl Marks {
    /// Settles the deployment's own number when that is not done.
    pub(super) async fn open(
        databases: Databases,
        main: Postgres,
        random: Random,
        clock: Clock,
    ) -> Result<Self, QueryError> {
        let wanted = number(&random);
        ask(
            &main,
            "cluster.deployment",
            schema::SETTLE_DEPLOYMENT,
            vec![wanted],
        )
        .await?;
        let rows = ask(&main, "cluster.deployment", schema::DEPLOYMENT, Vec::new()).await?;
        Ok(Self {
            deployment: rows.first().and_then(|row| row.int(0)).unwrap_or(0),
            databases,
            main,
            random,
            clock,
            good: Mutex::default(),
        })
    }

    /// The URL of the database with that name (the main one's without), once it is known to be the right one.
    pub(super) async fn url(&self, name: Option<&str>) -> Result<&str, OpenError> {
        let url = self.databases.url(name);
        let Some(name) = name else {
            return Ok(self.databases.main());
        };
        let url = url.ok_or_else(|| OpenError::UnknownDatabase {
            name: name.to_owned(),
        })?;
        let known = self.good.lock().contains(name);
        if !known {
            self.look(name, url).await?;
            self.good.lock().insert(name.to_owned());
        }
        Ok(url)
    }

    /// Looks at all of them, each for itself: one that does not answer is no reason not to start.
    ///
    /// # Errors
    /// When one is not what its name says.
    pub(super) async fn look_at_all(&self) -> Result<(), OpenError> {
        let looks = self.databases.named().map(async |(name, _)| {
            let looked = tokio::select! {
                looked = self.url(Some(name)) => looked.map(drop),
                () = self.clock.sleep(super::ANSWER) => Err(OpenError::failed("it does not answer")),
            };
            match looked {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(database = name, %error, "its partitions wait");
                    Ok(())
                }
                looked => looked,
            }
        });
        futures_util::future::join_all(looks).await.into_iter().collect()
    }

    async fn look(&self, name: &str, url: &str) -> Result<(), MarkError> {
        let tasks = TaskSet::new(Shutdown::new());
        let options = StoreOptions::postgres(url).in_schema(MARK_SCHEMA).sessions(1);
        let store = Store::open(&options, MARK_MIGRATIONS, &self.clock, &tasks)
            .await
            .map_err(|error| MarkError::Unknown(format!("database `{name}`: {error}")))?;
        // Nothing goes through its committer.
        tasks.shutdown().request();
        let Some(database) = store.database() else {
            return Err(MarkError::Other(format!(
                "database `{name}` is none of PostgreSQL"
            )));
        };
        let text = |text: &str| Arg::Text(Some(text.into()));
        let main = ask(database, "place.main", IS_MAIN, vec![text(MAIN_SCHEMA)]).await?;
        if !main.is_empty() {
            return Err(MarkError::Other(format!(
                "database `{name}` is the main one of a deployment; name another one"
            )));
        }
        let mark = vec![Arg::Int(self.deployment), text(name), number(&self.random)];
        ask(database, "place.mark", MARK, mark).await?;
        let rows = ask(database, "place.marked", MARKED, Vec::new()).await?;
        let marked = rows
            .first()
            .and_then(|row| Some((row.int(0)?, row.text(1)?, row.int(2)?)));
        let Some((deployment, known_as, mark)) = marked else {
            return Err(MarkError::Unknown(format!("database `{name}` has no mark")));
        };
        if deployment != self.deployment {
            return Err(MarkError::Other(format!(
                "database `{name}` belongs to another deployment; name another one"
            )));
        }
        if known_as != name {
            return Err(MarkError::Other(format!(
                "database `{name}` is known as `{known_as}` already; give it that name, or name another one"
            )));
        }
        let known = vec![text(name), Arg::Int(mark)];
        ask(&self.main, "cluster.database", schema::KNOW_DATABASE, known).await?;
        let rows = ask(
            &self.main,
            "cluster.database",
            schema::KNOWN_DATABASE,
            vec![text(name)],
        )
        .await?;
        if rows.first().and_then(|row| row.int(0)) != Some(mark) {
            return Err(MarkError::Other(format!(
                "database `{name}` is not the one that the other nodes know by that name"
            )));
        }
        Ok(())
    }
}

fn number(random: &Random) -> Arg {
    Arg::Int(i64::try_from(random.next_u64() >> 1).unwrap_or(1).max(1))
}

async fn ask(
    database: &Postgres,
    name: &'static str,
    sql: &'static str,
    args: Vec<Arg>,
) -> Result<Vec<celesta_store::Row>, QueryError> {
    database.ask(&Call { name, sql, args }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_databases_is_said_without_their_urls() {
        let secret = "postgres://celesta:secret@host/db?sslmode=require";
        let named = |named: &[&str]| Databases::new(secret, named).map(|known| known.told());
        assert_eq!(named(&[]), Ok(String::new()));
        let two = [format!("fast={secret}"), format!("b-2={secret}")];
        assert_eq!(named(&[&two[0], &two[1]]), Ok("b-2 fast".to_owned()));
        let long = "a".repeat(DATABASE_NAME_MAX + 1);
        let wrong: Vec<Vec<String>> = vec![
            vec!["no-url".to_owned()],
            vec!["a=".to_owned()],
            vec![secret.to_owned()],
            vec![format!("main={secret}")],
            vec![format!("Upper={secret}")],
            vec![format!("9={secret}")],
            vec![format!("{long}={secret}")],
            vec![format!("a={secret}"), format!("a={secret}")],
            (0..=DATABASES_MAX).map(|at| format!("d{at}={secret}")).collect(),
        ];
        for wrong in wrong {
            let said = Databases::new(secret, &wrong).expect_err(&wrong[0]);
            assert!(!format!("{said} {said:?}").contains("secret"), "{said}");
        }
        let known = Databases::new(secret, [format!("a={secret}")]).expect("good");
        assert!(!format!("{known:?}").contains("secret"));
        assert_eq!(known.deal(), [None, Some("a".into())]);
    }
}
