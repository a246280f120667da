//! The shared facts of one service in memory: all kept versions, immutable; a change makes another catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use celesta_engine::{RuleSet, SharedFacts, SharedVersion, Value};
use celesta_store::Row;
use celesta_types::Timestamp;
use parking_lot::Mutex;

use super::{SHARED_RETRACTED_KEPT, SHARED_VERSIONS_KEPT};

/// Views of rule sets that are kept; as many versions of a service are rarely in use at once.
const VIEWS_MAX: usize = 64;

/// Facts that one write forgets at most: more than one write retracts.
const FORGOTTEN_MAX: usize = 2_000;

/// A version and when it was written.
pub(crate) type Written = (SharedVersion, Timestamp);

/// The shared facts of a service at a revision.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    pub(crate) revision: u64,
    /// The kept versions of each fact, the oldest first.
    facts: BTreeMap<u64, Vec<Arc<Written>>>,
    /// What rule sets see of them.
    views: Mutex<Vec<(Arc<RuleSet>, Arc<SharedFacts>)>>,
}

impl Catalogue {
    pub(super) fn read(rows: &[Row]) -> Result<Self, String> {
        let mut catalogue = Self::default();
        for row in rows {
            let written = read(row).ok_or("a shared fact cannot be read")?;
            catalogue.revision = catalogue.revision.max(written.0.revision);
            catalogue
                .facts
                .entry(written.0.fact)
                .or_default()
                .push(Arc::new(written));
        }
        for versions in catalogue.facts.values_mut() {
            versions.sort_by_key(|written| written.0.version);
        }
        Ok(catalogue)
    }

    /// Another catalogue with these versions too, and the facts of which nothing earlier is in it any more.
    pub(super) fn with(&self, versions: &[Written]) -> (Self, Vec<u64>) {
        let mut next = Self {
            revision: self.revision,
            facts: self.facts.clone(),
            views: Mutex::default(),
        };
        let mut gone = self.forgotten();
        gone.extend(self.begun_anew(versions));
        for fact in &gone {
            next.facts.remove(fact);
        }
        for written in versions {
            next.revision = next.revision.max(written.0.revision);
            let known = next.facts.entry(written.0.fact).or_default();
            let oldest = oldest_kept(written.0.version);
            known.retain(|known| known.0.version >= oldest);
            known.push(Arc::new(written.clone()));
        }
        (next, gone)
    }

    /// Facts of which the first of these versions does not follow the last that is known.
    fn begun_anew(&self, versions: &[Written]) -> Vec<u64> {
        let mut seen = BTreeSet::new();
        let firsts = versions.iter().filter(|(version, _)| seen.insert(version.fact));
        let anew = firsts.filter(|(first, _)| {
            let last = self.last(first.fact);
            last.is_some_and(|(last, _)| last.version + 1 != first.version)
        });
        anew.map(|(first, _)| first.fact).collect()
    }

    /// The retracted facts beyond those that are kept, the oldest first; some of them at a time.
    fn forgotten(&self) -> Vec<u64> {
        let last = self.facts.values().filter_map(|versions| versions.last());
        let mut retracted: Vec<(u64, u64)> = last
            .filter(|written| written.0.fields.is_none())
            .map(|written| (written.0.revision, written.0.fact))
            .collect();
        let beyond = retracted.len().saturating_sub(SHARED_RETRACTED_KEPT);
        retracted.sort_unstable();
        let oldest = retracted.into_iter().take(beyond.min(FORGOTTEN_MAX));
        oldest.map(|(_, fact)| fact).collect()
    }

    /// What `rules` see of it.
    pub(super) fn seen_by(&self, rules: &Arc<RuleSet>) -> Arc<SharedFacts> {
        let known = |views: &[(Arc<RuleSet>, Arc<SharedFacts>)]| {
            let found = views.iter().find(|(known, _)| Arc::ptr_eq(known, rules));
            found.map(|(_, view)| Arc::clone(view))
        };
        if let Some(view) = known(&self.views.lock()) {
            return view;
        }
        // Made without the lock: other turns go on meanwhile, and two of the same view are no harm.
        let all = self.facts.values().flatten().map(|written| &written.0);
        let view = Arc::new(SharedFacts::new(rules, self.revision, all));
        let mut views = self.views.lock();
        if views.len() >= VIEWS_MAX {
            views.clear();
        }
        views.push((Arc::clone(rules), Arc::clone(&view)));
        view
    }

    /// The last version of a fact, whether it stands or was retracted.
    pub(super) fn last(&self, fact: u64) -> Option<&Written> {
        self.facts.get(&fact)?.last().map(|written| &**written)
    }

    /// A fact that stands.
    pub(super) fn get(&self, fact: u64) -> Option<&Written> {
        self.last(fact).filter(|written| written.0.fields.is_some())
    }

    /// The facts that stand, by number.
    pub(super) fn standing(&self) -> impl Iterator<Item = &Written> {
        let last = self.facts.values().filter_map(|versions| versions.last());
        last.map(|written| &**written)
            .filter(|written| written.0.fields.is_some())
    }

    /// The first number that no fact has had.
    pub(super) fn next_fact(&self) -> u64 {
        self.facts.keys().next_back().map_or(1, |last| last + 1)
    }
}

/// The oldest version that is kept beside this one.
pub(super) const fn oldest_kept(version: u32) -> u32 {
    version.saturating_sub(SHARED_VERSIONS_KEPT)
}

/// A stored version.
pub(super) fn read(row: &Row) -> Option<Written> {
    let count = |at| row.int(at).and_then(|count| u64::try_from(count).ok());
    let fields: Option<Value> = match row.text(4) {
        None => None,
        Some(text) => Some(serde_json::from_str(text).ok()?),
    };
    let version = SharedVersion {
        revision: count(0)?,
        fact: count(1)?,
        version: u32::try_from(count(2)?).ok()?,
        fact_type: row.text(3)?.into(),
        fields,
    };
    Some((version, Timestamp::from_millis(row.int(5)?)))
}
