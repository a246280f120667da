//! Two versions of a rule set, the same facts: what would fire with one and not with the other. Nothing is run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::facts::{FactsError, listed};
use crate::{Event, FactView, RuleSet, RunId, Turn, Value, WorkingMemory};

/// The activations that are shown in text for each rule: enough to see which kind they are.
const SHOWN: usize = 10;

/// What changes when a run goes on with other rules.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RulesDiff {
    /// Matches that only the new rules have: they would fire.
    pub new: Vec<Activation>,
    /// Matches that only the old rules have: they would not fire any more.
    pub gone: Vec<Activation>,
    /// Matches of both whose rule reads otherwise now: they would fire again.
    pub again: Vec<Activation>,
    /// Facts that one of the versions refuses: which, and why.
    pub refused: Vec<String>,
}

/// A rule and the facts it matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Activation {
    /// The rule.
    pub rule: String,
    /// The places of the facts in the list, from 1, in the order of the clauses.
    pub facts: Vec<usize>,
    /// The same facts as text.
    pub shown: Vec<String>,
}

impl RulesDiff {
    /// Whether nothing changes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty() && self.again.is_empty() && self.refused.is_empty()
    }
}

impl fmt::Display for RulesDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("the same matches: nothing would fire that did not, nothing would stay out");
        }
        let parts = [
            ("+", "would newly fire", &self.new),
            ("-", "would not fire any more", &self.gone),
            ("~", "would fire again, its rule has changed", &self.again),
        ];
        let mut lines = Vec::new();
        for (sign, meaning, activations) in parts {
            let mut rules: BTreeMap<&str, Vec<&Activation>> = BTreeMap::new();
            for activation in activations {
                rules.entry(&activation.rule).or_default().push(activation);
            }
            for (rule, activations) in rules {
                lines.push(format!("{sign} \"{rule}\" {meaning}: {}", activations.len()));
                for activation in activations.iter().take(SHOWN) {
                    lines.push(format!("    {}", activation.shown.join(", ")));
                }
                if activations.len() > SHOWN {
                    lines.push(format!("    and {} more", activations.len() - SHOWN));
                }
            }
        }
        lines.extend(self.refused.iter().map(|refused| format!("! {refused}")));
        f.write_str(&lines.join("\n"))
    }
}

/// Compares what would fire for these facts with the rules `old` and with the rules `new`. The facts are a list as
/// [`crate::read_facts`] reads it. As when new rules are pushed, fields are found by name: new ones have their default,
/// and those that a version does not know are left out.
///
/// # Errors
/// The text is no list of facts.
pub fn diff(old: &Arc<RuleSet>, new: &Arc<RuleSet>, facts: &[u8]) -> Result<RulesDiff, FactsError> {
    let facts = listed(facts)?;
    let mut refused = Vec::new();
    let before = activations(old, &facts, "the old rules", &mut refused);
    let after = activations(new, &facts, "the new rules", &mut refused);
    let fingerprint = |rules: &RuleSet, name: &str| {
        rules
            .rules()
            .iter()
            .find(|rule| rule.name() == name)
            .map(crate::Rule::fingerprint)
    };
    let mut found = RulesDiff {
        refused,
        ..RulesDiff::default()
    };
    for (key, activation) in &after {
        if !before.contains_key(key) {
            found.new.push(activation.clone());
        } else if fingerprint(old, &key.0) != fingerprint(new, &key.0) {
            found.again.push(activation.clone());
        }
    }
    found.gone = before
        .into_iter()
        .filter(|(key, _)| !after.contains_key(key))
        .map(|(_, gone)| gone)
        .collect();
    Ok(found)
}

type Activations = BTreeMap<(String, Vec<usize>), Activation>;

fn activations(
    rules: &Arc<RuleSet>,
    facts: &[(String, Value)],
    whose: &str,
    refused: &mut Vec<String>,
) -> Activations {
    // Each fact alone, so that one that is refused does not move the others.
    let mut memory = WorkingMemory::new(rules, RunId::from_bits(0));
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    let mut next = 1;
    for (place, (fact_type, value)) in (1..).zip(facts) {
        let event = Event::Insert {
            fact_type: fact_type.as_str().into(),
            value: known_fields(rules, fact_type, value),
        };
        let rejected = memory.load(Turn {
            seq: 1,
            now_ms: 0,
            events: vec![event],
        });
        if let Some((_, why)) = rejected.into_iter().next() {
            refused.push(format!("fact {place} of the list is not taken by {whose}: {why}"));
        } else {
            places.insert(next, place);
            next += 1;
        }
    }
    let texts: BTreeMap<u64, String> = memory
        .facts()
        .map(|fact| (fact.id.0, text(&fact, &places)))
        .collect();
    memory
        .activations()
        .into_iter()
        .map(|(rule, facts)| {
            let places: Vec<usize> = facts
                .iter()
                .filter_map(|fact| places.get(&fact.0).copied())
                .collect();
            let shown = facts
                .iter()
                .filter_map(|fact| texts.get(&fact.0).cloned())
                .collect();
            let activation = Activation {
                rule: rule.clone(),
                facts: places.clone(),
                shown,
            };
            ((rule, places), activation)
        })
        .collect()
}

/// `Job #1 {"id":"j"}`, numbered as in the list.
fn text(fact: &FactView<'_>, places: &BTreeMap<u64, usize>) -> String {
    let slots: Vec<String> = fact
        .slots
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_json()))
        .collect();
    let place = places.get(&fact.id.0).copied().unwrap_or_default();
    format!("{} #{place} {{ {} }}", fact.fact_type, slots.join(", "))
}

/// The fields that the version knows.
fn known_fields(rules: &RuleSet, fact_type: &str, value: &Value) -> Value {
    match (rules.fact_type(fact_type), value) {
        (Some(known), Value::Map(map)) => Value::map(
            (map.iter())
                .filter(|(name, _)| known.slot(name).is_some())
                .map(|(name, value)| (name.clone(), value.clone())),
        ),
        _ => value.clone(),
    }
}
