//! `[versions.<workflow>]` in `service.toml`: what becomes of runs when a new version of the service is pushed.
//!
//! Only what is written is read here and checked against the rules; what follows from it is the runtime's.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use celesta_engine::{FactMove, FactMoves, RuleSet, Value as Held};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::toml_text::{Fields, Text, did_you_mean, type_name};

/// What becomes of the runs of a workflow when there is a newer version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionPolicy {
    /// They keep the version they began with.
    #[default]
    Pinned,
    /// They are moved in the background.
    Upgrade,
    /// Each moves when it is next told something.
    UpgradeOnTouch,
}

impl VersionPolicy {
    const ALL: [Self; 3] = [Self::Pinned, Self::Upgrade, Self::UpgradeOnTouch];

    /// The word in `service.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Upgrade => "upgrade",
            Self::UpgradeOnTouch => "upgrade-on-touch",
        }
    }

    /// Whether runs leave the version they follow.
    #[must_use]
    pub const fn moves(self) -> bool {
        !matches!(self, Self::Pinned)
    }
}

/// How runs of one workflow come to this version.
#[derive(Debug, Clone, Default)]
pub struct Versions {
    /// Whether and when they come.
    pub policy: VersionPolicy,
    /// What becomes of their facts.
    pub moves: Arc<FactMoves>,
}

/// What is written of one workflow.
#[derive(Debug)]
pub(crate) struct VersionsText {
    workflow: (String, Range<usize>),
    policy: VersionPolicy,
    facts: Vec<(FactMove, Range<usize>)>,
}

/// Reads the table `versions`, if there is one.
pub(crate) fn read(fields: &mut Fields<'_, '_>, text: &Text<'_>) -> Vec<VersionsText> {
    let Some(workflows) = fields.table("versions") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, key, value) in workflows.entries() {
        let Some(table) = value.get_ref().as_table() else {
            let message = format!("`{name}` is {}, expected a table", type_name(value.get_ref()));
            text.report(&value.span(), message);
            continue;
        };
        let mut fields = Fields::new(table, key.clone(), format!("versions.{name}"), text);
        let mut policy = VersionPolicy::default();
        if let Some((word, span)) = fields.text("policy") {
            match VersionPolicy::ALL.into_iter().find(|known| known.name() == word) {
                Some(known) => policy = known,
                None => {
                    let names = VersionPolicy::ALL.map(VersionPolicy::name);
                    let hint =
                        did_you_mean(word, names).unwrap_or_else(|| format!("one of {}", names.join(", ")));
                    text.report_with(&span, format!("`{word}` is no policy"), hint);
                }
            }
        }
        let facts = fields
            .tables("facts")
            .into_iter()
            .filter_map(|fact| self::fact(fact, text))
            .collect();
        fields.finish();
        found.push(VersionsText {
            workflow: (name.to_owned(), key),
            policy,
            facts,
        });
    }
    found
}

fn fact(mut fields: Fields<'_, '_>, text: &Text<'_>) -> Option<(FactMove, Range<usize>)> {
    let span = fields.span.clone();
    let named = fields.needed_text("fact", "fact = \"Chunk\"");
    let mut moved = FactMove {
        to: fields.text("to").map(|(name, _)| name.to_owned()),
        dropped: fields.flag("drop").unwrap_or(false),
        ..FactMove::default()
    };
    let texts = |found: Option<(Value, Range<usize>)>, key: &str| -> BTreeMap<String, String> {
        let Some((value, span)) = found else {
            return BTreeMap::new();
        };
        let table: Option<BTreeMap<String, String>> = value.as_object().and_then(|table| {
            let pairs = table.iter();
            pairs
                .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect()
        });
        table.unwrap_or_else(|| {
            text.report(&span, format!("`{key}` is a table of texts"));
            BTreeMap::new()
        })
    };
    moved.renamed = texts(fields.json("rename"), "rename");
    moved.computed = texts(fields.json("script"), "script");
    if let Some((value, span)) = fields.json("set") {
        match value.as_object() {
            Some(table) => {
                let pairs = table.iter();
                let held = pairs.filter_map(|(name, value)| {
                    Some((name.clone(), serde_json::from_value::<Held>(value.clone()).ok()?))
                });
                moved.given = held.collect();
            }
            None => text.report(&span, "`set` is a table of fields and values"),
        }
    }
    fields.finish();
    named?.0.clone_into(&mut moved.fact);
    Some((moved, span))
}

/// Checks what is written against the rules.
pub(crate) fn check(
    written: Vec<VersionsText>,
    workflows: &BTreeMap<String, Option<Arc<RuleSet>>>,
    text: &Text<'_>,
) -> BTreeMap<String, Versions> {
    let mut found = BTreeMap::new();
    for one in written {
        let (name, span) = one.workflow;
        let Some(rules) = workflows.get(&name) else {
            let hint = did_you_mean(&name, workflows.keys().map(String::as_str));
            let hint = hint.unwrap_or_else(|| format!("write the file `rules/{name}.rules`"));
            text.report_with(&span, format!("there is no workflow `{name}`"), hint);
            continue;
        };
        let Some(rules) = rules else { continue };
        let declared: Vec<FactMove> = one.facts.iter().map(|(moved, _)| moved.clone()).collect();
        match FactMoves::compile(rules, &declared) {
            Ok(moves) => {
                let versions = Versions {
                    policy: one.policy,
                    moves: Arc::new(moves),
                };
                found.insert(name, versions);
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    let place = one.facts.iter().find(|(moved, _)| moved.fact == mistake.fact);
                    let span = place.map_or(&span, |(_, span)| span);
                    text.report(span, format!("facts `{}`: {}", mistake.fact, mistake.message));
                }
            }
        }
    }
    found
}
