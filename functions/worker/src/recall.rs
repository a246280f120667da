//! Results of pure functions, kept so that equal work is not done twice, in whichever run it is asked for.
//!
//! A result is known by the content of the function's folder and the bytes of the input, artifacts by their digests. It
//! is written in the commit that reports it, and read when an invocation is leased: one that is known is reported at
//! once and never reaches a process. Only successes are kept. A call of a run that wants no reuse is run, always.

use std::collections::{HashMap, HashSet};

use celesta_functions::Invocation;
use celesta_queue::{Leased, QueueName};
use celesta_store::{Cell, Expect, QueryError, Statement, Store, Unit};
use celesta_types::{Digest, MessageId, RunId};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::packages::Packages;

/// Results kept; beyond it the oldest are forgotten. At a kilobyte each about a gigabyte of disk.
pub const RESULTS_MAX: i64 = 1_000_000;
/// The oldest are looked for after so many new ones, so that forgetting costs next to nothing.
const FORGET_EVERY: usize = 4_096;

static REMEMBER: Statement = Statement {
    name: "recall.remember",
    rank: 10,
    head: "INSERT INTO recorded_results (known_by, result, run) VALUES ",
    row: "(?, ?, ?)",
    tail: " ON CONFLICT (known_by) DO NOTHING",
    cells: 3,
    expect: Expect::Any,
};

static FORGET: Statement = Statement {
    name: "recall.forget",
    rank: 30,
    head: "DELETE FROM recorded_results WHERE place <= (SELECT max(place) FROM recorded_results) - (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

/// What a result is known by.
type Known = [u8; 32];

/// The recorded results of pure functions, as one feed uses them.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    /// The queues of pure functions; other queues cost nothing.
    queues: Mutex<HashSet<QueueName>>,
    /// Leased invocations whose result will be kept.
    awaited: Mutex<HashMap<MessageId, Known>>,
    remembered: Mutex<usize>,
}

/// A leased invocation whose result is known.
pub(crate) struct Recalled {
    pub(crate) leased: Leased,
    pub(crate) result: Vec<u8>,
}

impl Recall {
    /// Takes over which functions are pure.
    pub(crate) fn refresh(&self, packages: &dyn Packages) {
        let served = packages.served();
        let pure = served.iter().filter(|served| served.manifest.pure);
        *self.queues.lock() = pure
            .filter_map(|served| {
                let name = celesta_functions::names::function_queue(&served.service, &served.function);
                QueueName::new(&name).ok()
            })
            .collect();
    }

    /// Splits what was leased of `queue` into what has to be run and what is known. What cannot be looked up is run.
    pub(crate) async fn split(
        &self,
        store: &Store,
        packages: &dyn Packages,
        queue: &QueueName,
        leased: Vec<Leased>,
    ) -> (Vec<Leased>, Vec<Recalled>) {
        if leased.is_empty() || !self.queues.lock().contains(queue) {
            return (leased, Vec::new());
        }
        let mut keyed = Vec::with_capacity(leased.len());
        for leased in leased {
            keyed.push((known_by(packages, &leased).await, leased));
        }
        let mut found = match read(store, keyed.iter().filter_map(|(known, _)| *known)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "recorded results cannot be read; the functions run");
                HashMap::new()
            }
        };
        let (mut fresh, mut recalled) = (Vec::new(), Vec::new());
        let mut awaited = self.awaited.lock();
        for (known, leased) in keyed {
            match known.and_then(|known| found.get_mut(&known)) {
                Some(result) => recalled.push(Recalled {
                    leased,
                    result: result.clone(),
                }),
                None => {
                    if let Some(known) = known {
                        awaited.insert(leased.id, known);
                    }
                    fresh.push(leased);
                }
            }
        }
        drop(awaited);
        (fresh, recalled)
    }

    /// The invocation is over: with a result, that is kept in `unit`.
    pub(crate) fn ended<'a>(
        &self,
        invocation: MessageId,
        run: RunId,
        result: impl FnOnce() -> Option<&'a [u8]>,
        unit: &mut Unit,
    ) {
        let Some(known) = self.awaited.lock().remove(&invocation) else {
            return;
        };
        let Some(result) = result() else { return };
        unit.add(
            &REMEMBER,
            [
                known.to_vec().into(),
                result.to_vec().into(),
                Cell::Id(run.to_bytes()),
            ],
        );
        let mut remembered = self.remembered.lock();
        *remembered += 1;
        if remembered.is_multiple_of(FORGET_EVERY) {
            unit.add(&FORGET, [RESULTS_MAX.into()]);
        }
    }
}

async fn known_by(packages: &dyn Packages, leased: &Leased) -> Option<Known> {
    let invocation = Invocation::decode(&leased.payload).ok()?;
    if invocation.fresh {
        return None;
    }
    let package = packages
        .package(invocation.service, &invocation.bundle, invocation.function)
        .await
        .ok()?;
    let content: Digest = package.content?;
    let mut hasher = Sha256::new();
    hasher.update(content.as_bytes());
    hasher.update(invocation.input);
    Some(hasher.finalize().into())
}

async fn read(
    store: &Store,
    known: impl Iterator<Item = Known>,
) -> Result<HashMap<Known, Vec<u8>>, QueryError> {
    let cells: Vec<Cell> = known.map(|known| known.to_vec().into()).collect();
    if cells.is_empty() {
        return Ok(HashMap::new());
    }
    let places = vec!["?"; cells.len()].join(", ");
    let sql = format!("SELECT known_by, result FROM recorded_results WHERE known_by IN ({places})");
    let rows = store.fetch(&sql, &cells).await?;
    let read = rows.into_iter().filter_map(|mut row| {
        let known = row.blob(0)?.try_into().ok()?;
        Some((known, row.take_blob(1)?))
    });
    Ok(read.collect())
}
