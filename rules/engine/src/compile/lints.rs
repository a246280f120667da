//! What looks wrong in rules that can be used: rules that can never match, rules that another makes impossible, rules
//! that may set each other off without end.
//!
//! Each lint is sound for what it claims, given what the file says: facts may come from outside with any values, so
//! nothing is said about facts that no rule inserts.

mod cycles;
mod domain;
mod shadows;

use rustc_hash::{FxHashMap, FxHashSet};

use super::uses::{ConstTest, RuleUses, Write, Written};
use crate::FactType;
use crate::ruleset::FieldKind;
use crate::syntax::place::Reporter;
use crate::syntax::{ClauseKind, File};
use domain::Domain;

/// Puts what the file's functions write in the place of their calls.
pub(super) fn expand(uses: &mut [RuleUses], functions: &FxHashMap<String, Vec<Write>>) {
    for rule in uses {
        let mut seen: FxHashSet<String> = FxHashSet::default();
        let mut at = 0;
        while at < rule.writes.len() {
            if let Written::Own(name) = rule.writes[at].change.clone() {
                let call = rule.writes.swap_remove(at);
                if seen.insert(name.clone()) {
                    let body = functions.get(&name).into_iter().flatten();
                    rule.writes.extend(body.map(|write| Write {
                        certain: false,
                        section: call.section,
                        ..write.clone()
                    }));
                }
            } else {
                at += 1;
            }
        }
        rule.writes.sort_by_key(|write| (write.section, write.span.start));
    }
}

/// Looks for all of it.
pub(super) fn check(file: &File, types: &[FactType], uses: &[RuleUses], report: &mut Reporter<'_>) {
    let mut impossible = FxHashSet::default();
    for (at, (rule, uses)) in file.rules.iter().zip(uses).enumerate() {
        if contradictions(&rule.name.text, types, uses, report) {
            impossible.insert(at);
        }
    }
    shadows::check(file, types, uses, &impossible, report);
    cycles::check(file, types, uses, report);
}

/// What the constants of one clause leave for a slot.
pub(super) fn domain(tests: &[ConstTest], level: usize, slot: usize) -> Domain {
    let mut domain = Domain::default();
    for test in tests
        .iter()
        .filter(|test| (test.level, test.slot) == (level, slot))
    {
        domain.narrow(&test.relation);
    }
    domain
}

/// Clauses whose comparisons exclude each other; whether the rule can never match for that.
fn contradictions(rule: &str, types: &[FactType], uses: &RuleUses, report: &mut Reporter<'_>) -> bool {
    let mut impossible = false;
    let mut domains: FxHashMap<(usize, usize), Domain> = FxHashMap::default();
    for (at, clause) in uses.clauses.iter().enumerate() {
        // What an aggregate's or a `no`'s own fact must be like holds within the clause only.
        let mut own: FxHashMap<(usize, usize), Domain> = domains.clone();
        for test in &clause.tests {
            let Some(kind) = uses.clauses[test.level].fact_type else {
                continue;
            };
            let field = &types[kind].fields[test.slot];
            let whole = matches!(field.kind, FieldKind::Int | FieldKind::Time);
            let domain = own.entry((test.level, test.slot)).or_default();
            let before = domain.is_empty(whole);
            domain.narrow(&test.relation);
            if before || !domain.is_empty(whole) {
                continue;
            }
            let name = &field.name;
            let (code, message, label) = match clause.kind {
                ClauseKind::Bind | ClauseKind::Any | ClauseKind::If => (
                    "never-matches",
                    format!("rule `{rule}` can never match: no value of `{name}` satisfies all of this"),
                    "excludes what stands before",
                ),
                ClauseKind::No => (
                    "always-true",
                    format!("this `no` is always true: no value of `{name}` satisfies all of this"),
                    "excludes what stands before",
                ),
                _ => (
                    "never-counts",
                    format!("no fact is ever taken in: no value of `{name}` satisfies all of this"),
                    "excludes what stands before",
                ),
            };
            impossible |= code == "never-matches";
            report
                .warning(code, &test.span, message, label)
                .hint("tests joined by `&&` hold together; write `||` or `in` for one of several");
        }
        if matches!(clause.kind, ClauseKind::Bind | ClauseKind::If) {
            domains = own;
        } else {
            domains.retain(|(level, _), _| *level != at);
        }
    }
    impossible
}
