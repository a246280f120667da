//! Shared facts of a service: kept in versions, given to the turns of its runs, and the reason of sweeps.
//!
//! A change is a row (service, revision), so writers are fenced by the revision they have seen. It becomes durable with
//! the sweep that finds the runs it may concern: under the keys of its old and its new values, and under the key of runs
//! that are interested in every fact of the type. Which keys a run stands under is written by its own turns
//! (`interest.rs`), from its own facts.
//!
//! Two things keep a run from missing a change. A turn that has begun with an older revision is waited for before a
//! sweep looks into the index (`Inner::await_turns`), so whatever it writes there is seen. And what a run has
//! seen is one number of its stored state: with the versions kept here it is put back to just that and told the rest.

mod catalogue;
mod copies;
mod interest;
mod write;

use std::sync::Arc;

use celesta_engine::{RuleSet, SharedFacts};
use celesta_store::{QueryError, Unit};
use hashbrown::HashMap;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;

pub(crate) use catalogue::Catalogue;
pub(crate) use copies::Copy;
pub use copies::lead;
pub(crate) use interest::{Interests, forget, keys};
pub use write::{SharedOutcome, SharedWrite, SharedWritten, WriteShared, WriteSharedError};

use crate::runtime::{Inner, Runtime};
use crate::under_way::{Seeing, UnderWay};
use crate::view::{Page, SharedFactView};

/// Facts of a service: a catalogue, not a database.
pub const SHARED_FACTS_MAX: usize = 10_000;
/// Bytes of JSON of a shared fact, as of any value that travels inline.
pub const SHARED_FACT_BYTES_MAX: usize = celesta_functions::INLINE_JSON_MAX;
/// Bytes of JSON of all shared facts of a service: they are in the memory of each node.
pub const SHARED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Versions of a fact that are kept beside the last for runs that have seen no later one: they take as much memory.
pub const SHARED_VERSIONS_KEPT: u32 = 8;
/// Retracted facts of a service that are kept for such runs; older ones are forgotten.
pub const SHARED_RETRACTED_KEPT: usize = 10_000;
/// Writes of one request.
pub const SHARED_WRITES_MAX: usize = 1_000;

/// The shared facts of the services of this store, as far as somebody has asked for them.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    services: Mutex<HashMap<String, Arc<Catalogue>, FxBuildHasher>>,
    turns: Arc<UnderWay>,
    /// One writer of a service's facts at a time: two would only be in each other's way.
    writers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>, FxBuildHasher>>,
    /// Shapes of interests that are known to be in the store.
    shapes: Mutex<std::collections::BTreeSet<(String, String)>>,
}

impl Shared {
    /// Who writes the shared facts of the service holds this.
    fn writer(&self, service: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut writers = self.writers.lock();
        Arc::clone(writers.entry(service.to_owned()).or_default())
    }
}

impl Inner {
    /// The shared facts of a service, read when they are not in memory.
    pub(crate) async fn catalogue(&self, service: &str) -> Result<Arc<Catalogue>, QueryError> {
        let known = self.shared.services.lock().get(service).cloned();
        match known {
            Some(known) => Ok(known),
            None => self.read_catalogue(service).await,
        }
    }

    /// The same, read again: somebody else has written.
    pub(crate) async fn read_catalogue(&self, service: &str) -> Result<Arc<Catalogue>, QueryError> {
        let sql = "SELECT revision, fact, version, fact_type, fields, written_at FROM shared_facts WHERE service = ? \
                   ORDER BY revision";
        let rows = self.store.fetch(sql, &[service.into()]).await?;
        let read = Catalogue::read(&rows).map_err(|reason| QueryError { reason })?;
        Ok(self.keep_catalogue(service, Arc::new(read)))
    }

    /// Keeps the newer of what is known and `found`.
    pub(crate) fn keep_catalogue(&self, service: &str, found: Arc<Catalogue>) -> Arc<Catalogue> {
        let mut services = self.shared.services.lock();
        let known = services
            .entry(service.to_owned())
            .or_insert_with(|| Arc::clone(&found));
        if known.revision < found.revision {
            *known = found;
        }
        Arc::clone(known)
    }

    /// Has the facts be as `after` says once the unit is durable, and the sweep that tells of them begin: whether or not
    /// whoever has asked for it still waits. When it fails somebody else has written here, and they are read again.
    fn keep_when_done(self: &Arc<Self>, unit: &mut Unit, service: &str, after: Catalogue) {
        let (keeper, service) = (Arc::clone(self), service.to_owned());
        unit.on_done(move |outcome| match outcome {
            Ok(()) => {
                keeper.keep_catalogue(&service, Arc::new(after));
                keeper.sweeps.bell.notify_one();
            }
            Err(error) => {
                tracing::warn!(service, %error, "shared facts did not change and are read again");
                keeper.shared.services.lock().remove(&service);
            }
        });
    }

    /// What a turn under these rules is given of its service's shared facts; it is known to be under way until `Seeing` is
    /// dropped.
    pub(crate) async fn seen_by(
        &self,
        service: &str,
        rules: &Arc<RuleSet>,
    ) -> Result<Option<(Arc<SharedFacts>, Seeing)>, QueryError> {
        if !rules.reads_shared() {
            return Ok(None);
        }
        self.catalogue(service).await?;
        // Looked at and noted under one lock: a sweep that begins later finds either the turn or the newer facts.
        let services = self.shared.services.lock();
        let Some(catalogue) = services.get(service).cloned() else {
            return Ok(None);
        };
        let seeing = self.shared.turns.begin(service, catalogue.revision);
        drop(services);
        Ok(Some((catalogue.seen_by(rules), seeing)))
    }

    /// Waits until the facts of this node are of `revision`, and no turn is under way that has seen less.
    pub(crate) async fn await_turns(&self, service: &str, revision: u64) -> Result<(), QueryError> {
        if self.catalogue(service).await?.revision < revision {
            self.read_catalogue(service).await?;
        }
        self.shared.turns.wait(service, revision).await;
        Ok(())
    }
}

impl Runtime {
    /// A page of a service's shared facts with numbers above `after`, in their order.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list_shared(
        &self,
        service: &str,
        fact_type: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Page<SharedFactView>, QueryError> {
        let limit = limit.clamp(1, crate::PAGE_ROWS_MAX);
        let catalogue = self.inner.catalogue(service).await?;
        let mut found = catalogue.standing().filter(|(version, _)| {
            version.fact > after && fact_type.is_none_or(|wanted| *version.fact_type == *wanted)
        });
        let rows: Vec<SharedFactView> = found.by_ref().take(limit).map(SharedFactView::of).collect();
        let more = found.next().is_some();
        let next = rows.last().filter(|_| more).map(|last| last.fact.to_string());
        Ok(Page { rows, next })
    }

    /// One shared fact; none when there is none or it was retracted.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn shared_fact(&self, service: &str, fact: u64) -> Result<Option<SharedFactView>, QueryError> {
        let catalogue = self.inner.catalogue(service).await?;
        Ok(catalogue.get(fact).map(SharedFactView::of))
    }
}
