//! The service's shared facts in a scenario: those it begins with, and how they change.

use std::sync::Arc;

use celesta_engine::{Event, RuleSet, SharedFacts, SharedVersion, Value};

/// All versions of the shared facts there are.
#[derive(Debug, Default)]
pub(super) struct Service {
    versions: Vec<SharedVersion>,
    revision: u64,
    facts: u64,
}

/// A change of a shared fact.
#[derive(Debug, Clone)]
pub(in crate::scenario) enum Sharing {
    /// A new one of this type.
    Insert(String, Value),
    /// These fields are set.
    Update(u64, Value),
    /// It goes.
    Retract(u64),
}

impl Service {
    /// Makes the change, or says why not.
    pub(super) fn change(&mut self, rules: &RuleSet, change: Sharing) -> Result<(), String> {
        let (fact, fact_type, fields, version) = match change {
            Sharing::Insert(fact_type, fields) => (self.facts + 1, Arc::from(fact_type), Some(fields), 1),
            Sharing::Update(fact, set) => {
                let last = self.last(fact)?;
                let (Some(Value::Map(known)), Value::Map(set)) = (&last.fields, &set) else {
                    return Err(format!("shared fact {fact} takes a table of fields"));
                };
                let all = known.iter().chain(set.iter());
                let fields = Value::map(all.map(|(name, value)| (name.clone(), value.clone())));
                (fact, Arc::clone(&last.fact_type), Some(fields), last.version + 1)
            }
            Sharing::Retract(fact) => {
                let last = self.last(fact)?;
                (fact, Arc::clone(&last.fact_type), None, last.version + 1)
            }
        };
        let declared = rules.fact_type(&fact_type).filter(|declared| declared.shared);
        let declared = declared.ok_or_else(|| format!("`{fact_type}` is no shared fact"))?;
        let fields = fields.map(|fields| declared.complete(&fields)).transpose()?;
        self.facts = self.facts.max(fact);
        self.revision += 1;
        self.versions.push(SharedVersion {
            fact,
            fact_type,
            version,
            revision: self.revision,
            fields,
        });
        self.versions
            .sort_by_key(|version| (version.fact, version.version));
        Ok(())
    }

    fn last(&self, fact: u64) -> Result<&SharedVersion, String> {
        let last = self.versions.iter().rfind(|version| version.fact == fact);
        let standing = last.filter(|last| last.fields.is_some());
        standing.ok_or_else(|| format!("there is no shared fact {fact}"))
    }

    /// What a run is given of them.
    pub(super) fn seen_by(&self, rules: &RuleSet) -> SharedFacts {
        SharedFacts::new(rules, self.revision, &self.versions)
    }

    pub(super) fn event(&self, rules: &RuleSet) -> Event {
        Event::Shared(Arc::new(self.seen_by(rules)))
    }
}
