//! Results of pure functions, kept so that equal work is not done twice, in whichever run it is asked for.
//!
//! A result is known by the content of the function's folder and the bytes of the input, artifacts by their digests. It
//! is written in the commit that reports it, and read when an invocation is leased (`sift.rs`): one that is known is
//! reported at once and never reaches a process. Only successes are kept. A call of a run that wants no reuse is run,
//! always. What other partitions know is asked of `shared_results.rs`.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use celesta_functions::Invocation;
use celesta_queue::{Leased, QueueName};
use celesta_store::{Cell, Expect, QueryError, Statement, Store, Unit};
use celesta_types::{Digest, MessageId, RunId};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::packages::Packages;
use crate::shared_results::{self, SharedResults};

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
pub(crate) type Known = [u8; 32];

/// The recorded results of pure functions, as one feed uses them.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    /// The queues of pure functions; other queues cost nothing.
    queues: Mutex<HashSet<QueueName>>,
    /// Leased invocations whose result will be kept.
    awaited: Mutex<HashMap<MessageId, Awaited>>,
    remembered: Mutex<usize>,
    /// Where results of other partitions are, if there are others.
    pub(crate) shared: OnceLock<SharedResults>,
}

/// A result that will be kept.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    known: Known,
    /// It comes from another partition: all of them know it already.
    adopted: bool,
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

    /// Whether results of the queue's function are kept.
    pub(crate) fn is_pure(&self, queue: &QueueName) -> bool {
        self.queues.lock().contains(queue)
    }

    /// The results that this partition knows.
    pub(crate) async fn read(
        &self,
        store: &Store,
        known: impl Iterator<Item = Known>,
    ) -> Result<HashMap<Known, Vec<u8>>, QueryError> {
        shared_results::read(store, "recorded_results", known).await
    }

    /// Keeps what these invocations will give.
    pub(crate) fn awaiting(&self, leased: &[(Option<Known>, Leased)]) {
        let mut awaited = self.awaited.lock();
        for (known, leased) in leased {
            if let Some(known) = *known {
                let adopted = false;
                awaited.insert(leased.id, Awaited { known, adopted });
            }
        }
    }

    /// Keeps the result of another partition that is about to be reported.
    pub(crate) fn adopt(&self, invocation: MessageId, known: Known) {
        let adopted = true;
        self.awaited.lock().insert(invocation, Awaited { known, adopted });
    }

    /// Nobody waits for the results of these invocations any more.
    pub(crate) fn forget(&self, invocations: impl Iterator<Item = MessageId>) {
        let mut awaited = self.awaited.lock();
        for invocation in invocations {
            awaited.remove(&invocation);
        }
    }

    /// The invocation is over: with a result, that is kept in `unit`, and told to the other partitions when that is durable.
    pub(crate) fn ended<'a>(
        &self,
        invocation: MessageId,
        run: RunId,
        result: impl FnOnce() -> Option<&'a [u8]>,
        unit: &mut Unit,
    ) {
        let Some(Awaited { known, adopted }) = self.awaited.lock().remove(&invocation) else {
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
        if let (false, Some(shared)) = (adopted, self.shared.get()) {
            let (shared, result) = (shared.clone(), result.to_vec());
            unit.on_done(move |outcome| {
                if outcome.is_ok() {
                    shared.publish(known, result);
                }
            });
        }
        let mut remembered = self.remembered.lock();
        *remembered += 1;
        if remembered.is_multiple_of(FORGET_EVERY) {
            unit.add(&FORGET, [RESULTS_MAX.into()]);
        }
    }
}

/// What the result of the invocation is known by; nothing when it has to be run.
pub(crate) async fn known_by(packages: &dyn Packages, leased: &Leased) -> Option<Known> {
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
