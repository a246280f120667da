//! Rules that another rule makes impossible.
//!
//! Rule B is shadowed by rule A when A matches the same facts whenever B does, fires before it, and in doing so always
//! makes B's match false: it retracts a fact that B binds, or gives a field that both read a constant that B excludes.
//! A reads that field, so it fires again whenever the field is set back. An A with an `error` section shadows nothing,
//! since its action may throw and B go on.

use std::cmp::Ordering;

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
    // Conditions are read once, and rules that make no match false are left out: there are many pairs.
    let conditions: Vec<Conditions<'_>> = (file.rules.iter().zip(uses))
        .map(|(rule, uses)| {
            (0..uses.clauses.len())
                .map(|at| parts(report, rule, uses, at))
                .collect()
        })
        .collect();
    let shadowing: Vec<usize> = (0..file.rules.len())
        .filter(|a| file.rules[*a].sections[2].is_none() && !impossible.contains(a) && may_shadow(&uses[*a]))
        .collect();
    for (b, shadowed) in file.rules.iter().enumerate() {
        for a in shadowing.iter().copied() {
            let before = &file.rules[a];
            let later = before.salience < shadowed.salience || before.salience == shadowed.salience && a > b;
            if a == b || later || impossible.contains(&b) {
                continue;
            }
            let pair = Pair {
                before: (a, before, &uses[a], &conditions[a]),
                after: (b, shadowed, &uses[b], &conditions[b]),
            };
            let Some(mapping) = pair.mapping() else {
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

/// Whether a rule does anything that can make another's match false.
fn may_shadow(uses: &RuleUses) -> bool {
    uses.writes.iter().any(|write| {
        write.section == 0
            && write.certain
            && match &write.change {
                Written::Retract { level, .. } => level.is_some(),
                Written::Update { level, given, .. } => {
                    level.is_some() && matches!(given, Given::Constant(_))
                }
                _ => false,
            }
    })
}

/// The parts of the condition of each clause.
type Conditions<'t> = Vec<Vec<Asked<'t>>>;

struct Pair<'a> {
    before: (usize, &'a RuleDecl, &'a RuleUses, &'a Conditions<'a>),
    after: (usize, &'a RuleDecl, &'a RuleUses, &'a Conditions<'a>),
}

impl Pair<'_> {
    /// For each clause of the first rule a clause of the second that asks at least as much; in the same order.
    fn mapping(&self) -> Option<Vec<usize>> {
        let (_, _, before_uses, asks) = self.before;
        let (_, _, after_uses, gives) = self.after;
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
                let mapped = |level: usize| match level.cmp(&mapping.len()) {
                    Ordering::Less => Some(mapping[level]),
                    Ordering::Equal => Some(*other),
                    Ordering::Greater => None,
                };
                let (asked, given) = (&asks[at], &gives[*other]);
                let implied = |part: &Asked<'_>| {
                    given.iter().any(|other| part.says(other, mapped))
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
        let (_, _, before, _) = self.before;
        let (_, _, after, _) = self.after;
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
        let (a, before, before_uses, _) = self.before;
        let (b, after, after_uses, _) = self.after;
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
struct Asked<'t> {
    words: Vec<Said<'t>>,
    /// Whether it compares a field with constants.
    constant: bool,
}

#[derive(PartialEq, Eq)]
enum Said<'t> {
    Word(&'t str),
    Clause(usize),
}

impl Asked<'_> {
    /// Whether it says what another part says, when clauses stand for others.
    fn says(&self, other: &Asked<'_>, mapped: impl Fn(usize) -> Option<usize>) -> bool {
        let same = |(own, other): (&Said<'_>, &Said<'_>)| match (own, other) {
            (Said::Word(own), Said::Word(other)) => own == other,
            (Said::Clause(own), Said::Clause(other)) => mapped(*own) == Some(*other),
            _ => false,
        };
        self.words.len() == other.words.len() && self.words.iter().zip(&other.words).all(same)
    }
}

fn parts<'t>(report: &Reporter<'t>, rule: &RuleDecl, uses: &RuleUses, at: usize) -> Vec<Asked<'t>> {
    let clause = &uses.clauses[at];
    let named = |word: &str, level: usize| {
        let clause = &rule.clauses[level];
        (clause.name.iter().chain(&clause.inner)).any(|name| name.text == word)
    };
    (clause.parts.iter())
        .map(|span| {
            let places = report.places;
            let text = &places.text[span.clone()];
            let mut words = Vec::new();
            let mut after_dot = false;
            for token in tokens(text, &mut Reporter::new(places)) {
                let word = &text[token.span.clone()];
                let level = (!after_dot && token.kind == Kind::Word)
                    .then(|| (0..=at).find(|level| named(word, *level)))
                    .flatten();
                words.push(level.map_or(Said::Word(word), Said::Clause));
                after_dot = token.kind == Kind::Sign('.');
            }
            Asked {
                words,
                constant: clause.tests.iter().any(|test| test.span == *span),
            }
        })
        .collect()
}
