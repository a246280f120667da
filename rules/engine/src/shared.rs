//! Shared facts as a rule set sees them: what the host gives a run at the start of its turn.
//!
//! They belong to the service, not to the run: a memory holds those that some clause may match, and its stored state
//! says only up to which revision it has seen them. So the host keeps earlier versions for a while: with them a run that
//! was away is first put back to what it knew, and then told what has changed.

use std::sync::Arc;

use crate::memory::store::SHARED_FIRST;
use crate::ruleset::RuleSet;
use crate::{FactId, FactType, Value};

/// A version of a shared fact, as the host keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedVersion {
    /// The fact's number within its service, from 1.
    pub fact: u64,
    /// Its type.
    pub fact_type: Arc<str>,
    /// How often it was written: 1 when it is new.
    pub version: u32,
    /// The service's count of changes with this one.
    pub revision: u64,
    /// Its fields, a map; none when it was retracted.
    pub fields: Option<Value>,
}

/// The shared facts of a service at a revision, with earlier versions, as one rule set sees them.
#[derive(Debug, Clone)]
pub struct SharedFacts {
    revision: u64,
    /// By number.
    facts: Vec<SharedFact>,
}

#[derive(Debug, Clone)]
struct SharedFact {
    id: u64,
    kind: usize,
    /// The oldest first.
    versions: Vec<Stored>,
}

#[derive(Debug, Clone)]
struct Stored {
    version: u32,
    revision: u64,
    /// None when it was retracted.
    slots: Option<Box<[Value]>>,
    /// Whether some clause may match it.
    wanted: bool,
}

/// A shared fact as it is to stand in a memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing<'a> {
    pub id: u64,
    pub kind: usize,
    pub version: u32,
    pub slots: &'a [Value],
}

impl SharedFacts {
    /// What `rules` see of a service's shared facts. `versions` are all that are kept, those of a fact in their order;
    /// types that the rules do not declare as shared are left out, fields are found by name.
    #[must_use]
    pub fn new<'a>(
        rules: &RuleSet,
        revision: u64,
        versions: impl IntoIterator<Item = &'a SharedVersion>,
    ) -> Self {
        let mut facts: Vec<SharedFact> = Vec::new();
        for version in versions {
            let Some(kind) = rules.type_index.get(&version.fact_type).copied() else {
                continue;
            };
            if !rules.types[kind].shared {
                continue;
            }
            let id = SHARED_FIRST + version.fact;
            let slots = version
                .fields
                .as_ref()
                .map(|fields| taken(&rules.types[kind], fields));
            let stored = Stored {
                version: version.version,
                revision: version.revision,
                wanted: slots.as_ref().is_some_and(|slots| rules.wants(kind, slots)),
                slots,
            };
            match facts.last_mut().filter(|last| last.id == id) {
                Some(last) => last.versions.push(stored),
                None => facts.push(SharedFact {
                    id,
                    kind,
                    versions: vec![stored],
                }),
            }
        }
        facts.sort_by_key(|fact| fact.id);
        Self { revision, facts }
    }

    /// The service's count of changes.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The facts that some clause may match, as they were at `revision`.
    pub(crate) fn at(&self, revision: u64) -> impl Iterator<Item = Standing<'_>> {
        self.facts.iter().filter_map(move |fact| {
            let known = fact
                .versions
                .iter()
                .rev()
                .find(|known| known.revision <= revision);
            // What it was then is forgotten: the oldest known version comes nearest.
            let forgotten = || fact.versions.first().filter(|oldest| oldest.version > 1);
            fact.standing(known.or_else(forgotten)?, false)
        })
    }

    /// A fact as it stands, or as it last stood.
    pub(crate) fn last(&self, id: u64) -> Option<Standing<'_>> {
        let at = self.facts.binary_search_by_key(&id, |fact| fact.id).ok()?;
        let fact = &self.facts[at];
        let last = fact.versions.iter().rev().find(|known| known.slots.is_some())?;
        fact.standing(last, true)
    }
}

impl SharedFact {
    fn standing<'a>(&self, stored: &'a Stored, anyway: bool) -> Option<Standing<'a>> {
        if !stored.wanted && !anyway {
            return None;
        }
        Some(Standing {
            id: self.id,
            kind: self.kind,
            version: stored.version,
            slots: stored.slots.as_deref()?,
        })
    }
}

/// Fields by name: those a type has not are dropped, those that lack or do not fit have their default or null.
fn taken(fact_type: &FactType, fields: &Value) -> Box<[Value]> {
    let slots = fact_type.fields.iter().map(|field| {
        let given = fields.get(&field.name).cloned();
        let fitting = given.and_then(|value| field.checked(value).ok());
        fitting.or_else(|| field.default.clone()).unwrap_or_default()
    });
    slots.collect()
}

impl FactId {
    /// The number of shared fact `number` among the facts of a run: far above the run's own.
    #[must_use]
    pub const fn shared(number: u64) -> Self {
        Self(SHARED_FIRST + number)
    }

    /// The number within its service, when the fact is a shared one.
    #[must_use]
    pub const fn shared_number(self) -> Option<u64> {
        self.0.checked_sub(SHARED_FIRST)
    }
}

impl FactType {
    /// The fields of a fact of this type as they are kept: with defaults, checked.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn complete(&self, fields: &Value) -> Result<Value, String> {
        let slots = self.slots(fields)?;
        let names = self.fields.iter().map(|field| &*field.name);
        Ok(Value::map(names.zip(slots)))
    }
}
