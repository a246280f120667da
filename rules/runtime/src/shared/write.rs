//! Writing shared facts: all or nothing, durable with the sweep that tells the runs.
//!
//! `prepare` checks writes and says what they come to; here they are committed, once under a client's key, and prepared anew
//! when another writer was first.

pub(super) mod prepare;

use std::collections::BTreeSet;
use std::sync::Arc;

use celesta_engine::{Shape, Value};
use celesta_store::{Cell, CommitError, Expect, QueryError, Statement, Unit};
use celesta_types::{ErrorKind, SweepId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::SHARED_WRITES_MAX;
use super::catalogue::{Catalogue, Written, oldest_kept};
use super::copies::Copy;
use super::interest::key_of;
use crate::runtime::{Inner, Runtime};
use crate::sweep::{NewSweep, Order, Selection, SweepError, place};
use prepare::{Change, Prepared, bounded, cause, prepare, rules_of};

/// Times a write is prepared anew because the facts are not those that are known here.
const TRIES: usize = 16;

static SHARED_INSERT: Statement = Statement {
    name: "shared_facts.insert",
    rank: 10,
    head: "INSERT INTO shared_facts (service, revision, fact, version, fact_type, fields, written_at) VALUES ",
    row: "(?, ?, ?, ?, ?, ?/*text*/, ?)",
    tail: "",
    cells: 7,
    expect: Expect::Each,
};

static SHARED_FORGET: Statement = Statement {
    name: "shared_facts.forget",
    rank: 30,
    head: "DELETE FROM shared_facts WHERE (service, fact, version) IN (VALUES ",
    row: "(?, ?, ?)",
    tail: ")",
    cells: 3,
    expect: Expect::Any,
};

static KEY_INSERT: Statement = Statement {
    name: "shared_keys.insert",
    rank: 10,
    head: "INSERT INTO shared_keys (service, key, body, answer, created_at) VALUES ",
    row: "(?, ?, ?, ?, ?)",
    tail: "",
    cells: 5,
    expect: Expect::Each,
};

/// The oldest keys beyond the time for which they are kept, 100 at a time: many more than one write adds.
static KEYS_FORGET: Statement = Statement {
    name: "shared_keys.forget",
    rank: 30,
    head: "DELETE FROM shared_keys WHERE (service, key) IN (SELECT service, key FROM shared_keys \
           WHERE created_at < (SELECT max(v.column1) FROM (VALUES ",
    row: "(?)",
    tail: ") AS v) ORDER BY created_at LIMIT 100)",
    cells: 1,
    expect: Expect::Any,
};

/// Before the versions are added: the number of a forgotten fact may be given again.
static SHARED_DROP: Statement = Statement {
    name: "shared_facts.drop",
    rank: 9,
    head: "DELETE FROM shared_facts WHERE (service, fact) IN (VALUES ",
    row: "(?, ?)",
    tail: ")",
    cells: 2,
    expect: Expect::Any,
};

/// One write to the shared facts of a service: exactly one of `insert`, `update` and `retract`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedWrite {
    /// The type of a new fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insert: Option<String>,
    /// The number of a new fact, when the caller gives it; the next one otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fact: Option<u64>,
    /// The fact to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<u64>,
    /// The fact to remove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retract: Option<u64>,
    /// The fields of a new fact, or those to set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Value>,
    /// The version the fact must have; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// Writes to the shared facts of a service: all of them or none.
#[derive(Debug, Clone)]
pub struct WriteShared {
    /// The writes, in order.
    pub writes: Vec<SharedWrite>,
    /// The client's key: the same key and writes are applied once.
    pub idempotency_key: Option<String>,
    /// The id of the sweep, when the caller asks several stores for the same.
    pub sweep: Option<SweepId>,
    /// Whether the sweep waits after its preview until somebody lets it go on.
    pub hold: bool,
    /// Runs that the sweep tells in a second.
    pub rate: u32,
    /// Only say what would happen.
    pub dry_run: bool,
}

/// What became of writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedWritten {
    /// The service's count of changes with these.
    pub revision: u64,
    /// The facts that were written, in the order of the writes.
    pub facts: Vec<SharedOutcome>,
    /// The sweep that tells the runs; none when nothing has changed, or nothing was written.
    pub sweep: Option<SweepId>,
    /// The rules of the current version that may fire, `workflow: rule`.
    pub rules: Vec<String>,
    /// How many runs may be concerned, when only that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<u64>,
    /// Whether the writes had been made before, under the same key.
    pub existing: bool,
}

/// One fact after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SharedOutcome {
    /// The fact.
    pub fact: u64,
    /// Its version now.
    pub version: u32,
    /// Whether the write changed anything.
    pub changed: bool,
}

/// Why shared facts were not written. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum WriteSharedError {
    /// There is no such service.
    #[error("there is no service `{service}`")]
    UnknownService {
        /// The name.
        service: String,
    },
    /// A write is wrong.
    #[error("write {at} {reason}")]
    Invalid {
        /// Which, from 0.
        at: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There are too many writes, or none.
    #[error("there are {count} writes; expected 1 to {SHARED_WRITES_MAX}")]
    Count {
        /// How many.
        count: usize,
    },
    /// A fact is not as the writer thought.
    #[error("write {at}: {reason}")]
    Conflict {
        /// Which, from 0.
        at: usize,
        /// What was found.
        reason: String,
    },
    /// A bound would be exceeded.
    #[error("service `{service}` would have {what}")]
    TooMuch {
        /// The service.
        service: String,
        /// What there would be, and the bound.
        what: String,
    },
    /// The client's key was used with other writes.
    #[error("the idempotency key was used with other writes")]
    IdempotencyConflict,
    /// The sweep cannot be made.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// Not now.
    #[error("the facts cannot be written: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl WriteSharedError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownService { .. } => ErrorKind::NotFound,
            Self::Invalid { .. } | Self::Count { .. } => ErrorKind::Invalid,
            Self::Conflict { .. } | Self::TooMuch { .. } | Self::IdempotencyConflict => ErrorKind::Conflict,
            Self::Sweep(error) => error.kind(),
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }
}

impl From<QueryError> for WriteSharedError {
    fn from(error: QueryError) -> Self {
        Self::Unavailable {
            reason: error.to_string(),
        }
    }
}

impl Runtime {
    /// Writes shared facts of a service and returns when they are durable, with the sweep that tells its runs.
    ///
    /// # Errors
    /// When a write is wrong, a fact has another version, or a bound would be exceeded. Nothing has changed then.
    pub async fn write_shared(
        &self,
        service: &str,
        request: WriteShared,
    ) -> Result<SharedWritten, WriteSharedError> {
        self.write_shared_as(false, service, request).await
    }

    /// The same in the partition that leads the service's shared facts ([`crate::lead`]): all others copy them.
    ///
    /// # Errors
    /// As for [`Runtime::write_shared`].
    pub async fn lead_shared(
        &self,
        service: &str,
        request: WriteShared,
    ) -> Result<SharedWritten, WriteSharedError> {
        self.write_shared_as(true, service, request).await
    }

    async fn write_shared_as(
        &self,
        leads: bool,
        service: &str,
        request: WriteShared,
    ) -> Result<SharedWritten, WriteSharedError> {
        let inner = &self.inner;
        let count = request.writes.len();
        if count == 0 || count > SHARED_WRITES_MAX {
            return Err(WriteSharedError::Count { count });
        }
        let version = inner.registry.current(service);
        let version = version.ok_or_else(|| WriteSharedError::UnknownService {
            service: service.to_owned(),
        })?;
        let body = Sha256::digest(serde_json::to_vec(&request.writes).unwrap_or_default()).to_vec();
        // A sweep's id that the caller gives names the request as well as a key does.
        let request = WriteShared {
            idempotency_key: (request.idempotency_key)
                .or_else(|| request.sweep.map(|sweep| sweep.to_string())),
            ..request
        };
        if let Some(key) = &request.idempotency_key
            && let Some(before) = inner.written_before(service, key, &body).await?
        {
            return Ok(before);
        }
        let writer = inner.shared.writer(service);
        let _writing = writer.lock().await;
        for _ in 0..TRIES {
            let catalogue = inner.catalogue(service).await?;
            let now = inner.clock.now();
            let prepared = prepare(&catalogue, &version, &request.writes, now)?;
            bounded(service, &catalogue, &prepared)?;
            match inner
                .write_prepared(service, leads, &request, &body, &catalogue, prepared)
                .await
            {
                Ok(written) => return Ok(written),
                // Somebody else was first; or the same request was, under its key.
                Err(Some(error)) => return Err(error),
                Err(None) => {
                    inner.read_catalogue(service).await?;
                    if let Some(key) = &request.idempotency_key
                        && let Some(before) = inner.written_before(service, key, &body).await?
                    {
                        return Ok(before);
                    }
                }
            }
        }
        Err(WriteSharedError::Unavailable {
            reason: "others write all the time".to_owned(),
        })
    }
}

impl Inner {
    /// Commits what was prepared; nothing as the error when somebody else was first.
    async fn write_prepared(
        self: &Arc<Self>,
        service: &str,
        leads: bool,
        request: &WriteShared,
        body: &[u8],
        catalogue: &Catalogue,
        prepared: Prepared,
    ) -> Result<SharedWritten, Option<WriteSharedError>> {
        let failed = |error: WriteSharedError| Some(error);
        let new = self
            .sweep_of(service, request, &prepared)
            .await
            .map_err(|error| failed(error.into()))?;
        let mut written = SharedWritten {
            revision: prepared.revision,
            facts: prepared.outcomes.clone(),
            sweep: None,
            rules: new.rules.clone(),
            runs: None,
            existing: false,
        };
        self.may_sweep(&new).await.map_err(|error| failed(error.into()))?;
        if request.dry_run {
            let runs = self
                .count_selected(&new)
                .await
                .map_err(|error| failed(error.into()))?;
            written.runs = Some(runs);
            written.revision = catalogue.revision;
            return Ok(written);
        }
        let mut unit = Unit::new();
        let sweep = new.id.unwrap_or_else(|| self.sweep_id());
        let after = Self::stage_versions(&mut unit, service, catalogue, &prepared.versions);
        if !prepared.versions.is_empty() {
            place(&mut unit, sweep, &new, self.clock.now());
            written.sweep = Some(sweep);
            if leads {
                let copy = Copy {
                    service: service.to_owned(),
                    until: prepared.revision,
                    sweep,
                    hold: request.hold,
                    rate: request.rate,
                };
                self.post_copies(&mut unit, &copy);
            }
        }
        if let Some(key) = &request.idempotency_key {
            self.stage_key(&mut unit, service, key, body, &written);
        }
        if !prepared.versions.is_empty() {
            self.keep_when_done(&mut unit, service, after);
        }
        match self.store.commit(unit).await {
            Ok(()) => Ok(written),
            Err(CommitError::Conflict { .. }) => Err(None),
            Err(error) => Err(Some(WriteSharedError::Unavailable {
                reason: error.to_string(),
            })),
        }
    }

    /// Keeps what was written beside the client's key, and forgets old keys.
    fn stage_key(&self, unit: &mut Unit, service: &str, key: &str, body: &[u8], written: &SharedWritten) {
        let answer = serde_json::to_string(&Kept::of(written)).unwrap_or_default();
        let now = self.clock.now();
        unit.add(
            &KEY_INSERT,
            [
                service.into(),
                key.into(),
                body.to_vec().into(),
                answer.into(),
                now.as_millis().into(),
            ],
        );
        unit.add(&KEYS_FORGET, [self.events.kept_from(now).into()]);
    }

    /// The sweep that tells the runs which changed facts may concern.
    pub(super) async fn sweep_of(
        &self,
        service: &str,
        request: &WriteShared,
        prepared: &Prepared,
    ) -> Result<NewSweep, QueryError> {
        let keys = self.keys_of(service, &prepared.changes).await?;
        let version = self.registry.current(service);
        Ok(NewSweep {
            id: request.sweep,
            service: service.to_owned(),
            cause: cause(&prepared.versions),
            rules: version.map_or_else(Vec::new, |version| rules_of(&version, &prepared.changes)),
            selection: Selection::Interests {
                keys,
                revision: prepared.revision,
            },
            order: Order::Look,
            hold: request.hold,
            rate: request.rate,
        })
    }

    /// Adds new versions to the unit, and removes those that are not kept any more; gives the catalogue after that.
    pub(super) fn stage_versions(
        unit: &mut Unit,
        service: &str,
        catalogue: &Catalogue,
        versions: &[Written],
    ) -> Catalogue {
        let (after, gone) = catalogue.with(versions);
        for fact in gone {
            unit.add(&SHARED_DROP, [service.into(), cell(fact)]);
        }
        for (fact, at) in versions {
            let fields = fact.fields.as_ref().map(Value::to_json);
            unit.add(
                &SHARED_INSERT,
                [
                    service.into(),
                    cell(fact.revision),
                    cell(fact.fact),
                    i64::from(fact.version).into(),
                    (&*fact.fact_type).into(),
                    fields.into(),
                    at.as_millis().into(),
                ],
            );
            if let Some(forgotten) = oldest_kept(fact.version)
                .checked_sub(1)
                .filter(|version| *version > 0)
            {
                let version = i64::from(forgotten).into();
                unit.add(&SHARED_FORGET, [service.into(), cell(fact.fact), version]);
            }
        }
        after
    }

    /// The index keys of changed facts, old and new.
    async fn keys_of(&self, service: &str, changes: &[Change]) -> Result<Vec<i64>, QueryError> {
        let shapes: Vec<Shape> = self.shapes_of(service).await?;
        let mut keys = BTreeSet::new();
        for (fact_type, before, after) in changes {
            for shape in shapes.iter().filter(|shape| shape.fact_type == *fact_type) {
                for fields in before.iter().chain(after) {
                    keys.insert(key_of(service, shape.key(fields)));
                }
            }
        }
        Ok(keys.into_iter().collect())
    }

    /// What was written under a client's key.
    async fn written_before(
        &self,
        service: &str,
        key: &str,
        body: &[u8],
    ) -> Result<Option<SharedWritten>, WriteSharedError> {
        let sql = "SELECT body, answer FROM shared_keys WHERE service = ? AND key = ?";
        let rows = self.store.fetch(sql, &[service.into(), key.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        if row.blob(0) != Some(body) {
            return Err(WriteSharedError::IdempotencyConflict);
        }
        let kept: Kept = serde_json::from_str(row.text(1).unwrap_or_default()).map_err(|error| {
            let reason = format!("what was written under the key cannot be read: {error}");
            WriteSharedError::Unavailable { reason }
        })?;
        Ok(Some(kept.written()))
    }
}

/// What is kept beside a client's key.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    revision: u64,
    facts: Vec<(u64, u32, bool)>,
    sweep: Option<SweepId>,
    rules: Vec<String>,
}

impl Kept {
    fn of(written: &SharedWritten) -> Self {
        let facts = written
            .facts
            .iter()
            .map(|fact| (fact.fact, fact.version, fact.changed));
        Self {
            revision: written.revision,
            facts: facts.collect(),
            sweep: written.sweep,
            rules: written.rules.clone(),
        }
    }

    fn written(self) -> SharedWritten {
        let outcome = |(fact, version, changed)| SharedOutcome {
            fact,
            version,
            changed,
        };
        SharedWritten {
            revision: self.revision,
            facts: self.facts.into_iter().map(outcome).collect(),
            sweep: self.sweep,
            rules: self.rules,
            runs: None,
            existing: true,
        }
    }
}

fn cell(number: u64) -> Cell {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}
