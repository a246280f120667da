//! Rules that another rule makes impossible.
//!
//! Rule B is shadowed by rule A when A matches the same facts whenever B does, fires before it, and in doing so always
//! makes B's match false: it retracts a fact that B binds, or gives a field that both read a constant that B excludes.
//! A reads that field, so it fires again whenever the field is set back. An A with an `error` section shadows nothing,
//! since its action may throw and B go on.

use rustc_hash::FxHashSet;

use super::super::uses::{Given, Relation, RuleUses, Written};
use super::domain;
use crate::FactType;
use crate::syntax::lexer::{Kind, tokens};
use crate::syntax::place::Reporter;
use crate::syntax::{ClauseKind, File, RuleDecl};

/// Looks at every pair of rules that can match.
pub(super) fn check(
    file: &File,
    types: &[FactType],
    uses: &[RuleUses],
    impossible: &FxHashSet<usize>,
    report: &mut Reporter<'_>,
) {
    for (b, shadowed) in file.rules.iter().enumerate() {
        for (a, before) in file.rules.iter().enumerate() {
            if a == b || before.sections[2].is_some() || impossible.contains(&a) || impossible.contains(&b) {
                continue;
            }
            let pair = Pair {
                before: (a, before, &uses[a]),
                after: (b, shadowed, &uses[b]),
            };
            let Some(mapping) = pair.mapping(report) else {
                continue;
            };
            let Some(why) = pair.excluded(types, &mapping) else {
                continue;
            };
            if !pair.fires_before(&mapping) {
                continue;
            }
            let message = format!(
                "rule `{}` can never fire: `{}` fires before it for the same facts and {why}",
                shadowed.name.text, before.name.text
            );
            report
                .warning("shadowed-rule", &shadowed.name.span, message, "never fires")
                .hint("give it a higher salience, or let its `match` differ");
            break;
        }
    }
}

struct Pair<'a> {
    before: (usize, &'a RuleDecl, &'a RuleUses),
    after: (usize, &'a RuleDecl, &'a RuleUses),
}

impl Pair<'_> {
    /// For each clause of the first rule a clause of the second that asks at least as much; in the same order.
    fn mapping(&self, report: &Reporter<'_>) -> Option<Vec<usize>> {
        let (_, before, before_uses) = self.before;
        let (_, after, after_uses) = self.after;
        let mut mapping: Vec<usize> = Vec::new();
        for (at, clause) in before_uses.clauses.iter().enumerate() {
            let found = (0..after_uses.clauses.len()).find(|other| {
                let candidate = &after_uses.clauses[*other];
                if mapping.contains(other)
                    || candidate.kind != clause.kind
                    || candidate.fact_type != clause.fact_type
                    || clause.kind == ClauseKind::Bind && self.excludes(at, *other)
                {
                    return false;
                }
                let mut with = mapping.clone();
                with.push(*other);
                let asked = parts(report, before, before_uses, at, |level| with.get(level).copied());
                let given = parts(report, after, after_uses, *other, Some);
                let implied = |part: &Asked| {
                    given.iter().any(|other| other.text == part.text)
                        || clause.kind == ClauseKind::Bind && part.constant && self.implied(at, *other)
                };
                // A negation or an aggregate asks less when it says more: there the parts must be the same.
                let exact = clause.kind == ClauseKind::Bind || given.len() == asked.len();
                exact && asked.iter().all(implied)
            })?;
            mapping.push(found);
        }
        Some(mapping)
    }

    /// Whether the constants of the first rule's clause plainly exclude the second's: the commonest case, told cheaply.
    fn excludes(&self, level: usize, other: usize) -> bool {
        let (clause, candidate) = (&self.before.2.clauses[level], &self.after.2.clauses[other]);
        clause
            .tests
            .iter()
            .filter(|test| test.level == level)
            .any(|test| {
                candidate
                    .tests
                    .iter()
                    .any(|given| match (&test.relation, &given.relation) {
                        (Relation::OneOf(asked), Relation::OneOf(given_values)) => {
                            (given.level, given.slot) == (other, test.slot)
                                && !asked
                                    .iter()
                                    .any(|asked| given_values.iter().any(|given| given.same(asked)))
                        }
                        _ => false,
                    })
            })
    }

    /// Whether the constants of the second rule's clause leave nothing that the first's exclude.
    fn implied(&self, level: usize, other: usize) -> bool {
        let (clause, candidate) = (&self.before.2.clauses[level], &self.after.2.clauses[other]);
        clause.tests.iter().all(|test| {
            test.level == level
                && domain(&candidate.tests, other, test.slot).implies(&domain(
                    &clause.tests,
                    level,
                    test.slot,
                ))
        })
    }

    /// How the first rule makes the second's match false.
    fn excluded(&self, types: &[FactType], mapping: &[usize]) -> Option<String> {
        let (_, _, before) = self.before;
        let (_, _, after) = self.after;
        before.writes.iter().filter(|write| write.section == 0 && write.certain).find_map(|write| {
            match &write.change {
                Written::Retract { kind, level: Some(level) } => {
                    let bound = before.clauses[*level].kind == ClauseKind::Bind;
                    bound.then(|| format!("retracts the `{}`", types[*kind].name))
                }
                Written::Update { kind, level: Some(level), slot, given: Given::Constant(value) } => {
                    let other = *mapping.get(*level)?;
                    let wanted = domain(&after.clauses[other].tests, other, *slot);
                    let reads = before.clauses[*level].reads >> slot & 1 == 1;
                    // A later write of the same field would count instead.
                    let last = before.writes.iter().rev().find(|later| {
                        later.section == 0 && matches!(&later.change, Written::Update { level: Some(at), slot: field, .. } if at == level && field == slot)
                    });
                    let is_last = last.is_some_and(|last| last.span == write.span);
                    let unknown = before.writes.iter().any(|write| match &write.change {
                        Written::Anything { kind: any } => any == kind,
                        Written::Update { kind: any, level: None, .. } => any == kind,
                        _ => false,
                    });
                    (reads && is_last && !unknown && !wanted.admits(value)).then(|| {
                        let field = &types[*kind].fields[*slot].name;
                        format!("sets `{field}` to {}", value.to_json())
                    })
                }
                _ => None,
            }
        })
    }

    /// Whether the first rule always goes first when both match.
    fn fires_before(&self, mapping: &[usize]) -> bool {
        let (a, before, before_uses) = self.before;
        let (b, after, after_uses) = self.after;
        if before.salience != after.salience {
            return before.salience > after.salience;
        }
        // At the same salience the newest change decides: the first must see every change that the second sees.
        let binds = |uses: &RuleUses| {
            uses.clauses
                .iter()
                .filter(|clause| clause.kind == ClauseKind::Bind)
                .count()
        };
        let sees = (mapping.iter().enumerate())
            .all(|(at, other)| after_uses.clauses[*other].reads & !before_uses.clauses[at].reads == 0);
        a < b && binds(before_uses) == binds(after_uses) && sees
    }
}

/// A part of a condition with the names of facts replaced by their clauses.
struct Asked {
    text: String,
    /// Whether it compares a field with constants.
    constant: bool,
}

fn parts(
    report: &Reporter<'_>,
    rule: &RuleDecl,
    uses: &RuleUses,
    at: usize,
    mapped: impl Fn(usize) -> Option<usize>,
) -> Vec<Asked> {
    let clause = &uses.clauses[at];
    let named = |word: &str, level: usize| {
        let clause = &rule.clauses[level];
        (clause.name.iter().chain(&clause.inner)).any(|name| name.text == word)
    };
    (clause.parts.iter())
        .map(|span| {
            let text = &report.places.text[span.clone()];
            let mut shown = String::new();
            let mut after_dot = false;
            for token in tokens(text, &mut Reporter::new(report.places)) {
                let word = &text[token.span.clone()];
                let level = (!after_dot && token.kind == Kind::Word)
                    .then(|| (0..=at).find(|level| named(word, *level)))
                    .flatten();
                match level {
                    Some(level) => {
                        let level = mapped(level).map_or_else(|| "?".to_owned(), |level| level.to_string());
                        shown.push('$');
                        shown.push_str(&level);
                    }
                    None => shown.push_str(word),
                }
                shown.push(' ');
                after_dot = token.kind == Kind::Sign('.');
            }
            Asked {
                text: shown,
                constant: clause.tests.iter().any(|test| test.span == *span),
            }
        })
        .collect()
}
