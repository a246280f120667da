//! What a run's facts say about the shared facts that may concern it: for each clause on shared facts, the parts of
//! them that must equal something known, so that a change finds its runs through an index.
//!
//! It may claim too much, never too little: a clause without an equality is interested in every fact of its type.

use crate::expression::{Binary, Expr};
use crate::ruleset::interest::{Interest, Shape, is_scripted};
use crate::ruleset::{FactType, Node, NodeKind, Rule};

/// An equality between a slot of the shared fact and something else.
struct Equal {
    slot: usize,
    other: Expr,
    /// The one clause whose fact the other side looks at; none for a literal.
    level: Option<usize>,
}

/// The interests of all rules, and the shapes of their keys.
pub(super) fn interests(rules: &[Rule], nodes: &[Node], types: &[FactType]) -> (Vec<Interest>, Vec<Shape>) {
    let mut shapes: Vec<Shape> = Vec::new();
    let mut found = Vec::new();
    for rule in rules {
        let first = rule.first as usize;
        let clauses = &nodes[first..first + rule.nodes as usize];
        let is_shared = |node: &Node| node.fact_type.is_some_and(|kind| types[kind].shared);
        let needs: Vec<usize> = (clauses.iter().enumerate())
            .filter(|(_, node)| node.kind == NodeKind::Bind && !is_shared(node))
            .map(|(level, _)| level)
            .collect();
        for (level, node) in clauses.iter().enumerate().filter(|(_, node)| is_shared(node)) {
            let Some(kind) = node.fact_type else { continue };
            let (source, mut keys) = best(equalities(level, clauses, &needs));
            let fields = &types[kind].fields;
            keys.sort_by(|a, b| fields[a.slot].name.cmp(&fields[b.slot].name));
            keys.dedup_by_key(|equal| equal.slot);
            let shape = Shape {
                fact_type: types[kind].name.clone(),
                fields: keys.iter().map(|equal| fields[equal.slot].name.clone()).collect(),
            };
            let at = shapes
                .iter()
                .position(|known| *known == shape)
                .unwrap_or_else(|| {
                    shapes.push(shape);
                    shapes.len() - 1
                });
            found.push(Interest {
                first,
                needs: needs.clone(),
                shape: at,
                source,
                keys: keys.into_iter().map(|equal| equal.other).collect(),
            });
        }
    }
    (found, shapes)
}

/// The equalities of the shared fact at `level` with what the facts at `needs` say, and with literals.
fn equalities(level: usize, clauses: &[Node], needs: &[usize]) -> Vec<Equal> {
    let mut found = Vec::new();
    let mut add = |slot: usize, other: &Expr| {
        let mut levels = std::collections::BTreeSet::new();
        other.levels(&mut levels);
        if is_scripted(other) {
            return;
        }
        let mut levels = levels.into_iter();
        let equal = match (levels.next(), levels.next()) {
            (None, _) => Equal {
                slot,
                other: other.clone(),
                level: None,
            },
            (Some(at), None) if needs.contains(&at) => Equal {
                slot,
                other: other.clone(),
                level: Some(at),
            },
            _ => return,
        };
        found.push(equal);
    };
    for test in &clauses[level].alpha {
        if let Expr::Binary(Binary::Equal, sides) = &test.expr {
            match &**sides {
                (Expr::Slot(_, slot), other) | (other, Expr::Slot(_, slot)) => add(*slot, other),
                _ => {}
            }
        }
    }
    for (slot, other) in clauses[level].keys.iter().map(|(other, slot)| (*slot, other)) {
        add(slot, other);
    }
    if clauses[level].kind != NodeKind::Bind {
        return found;
    }
    for (at, node) in clauses.iter().enumerate() {
        if node.kind != NodeKind::Bind {
            continue;
        }
        for (other, slot) in node.keys.iter().filter(|_| at != level) {
            if let Expr::Slot(to, shared) = other
                && *to == level
            {
                add(*shared, &Expr::Slot(at, *slot));
            }
        }
        for test in &node.join {
            if let Expr::Binary(Binary::Equal, sides) = &test.expr {
                for (one, other) in [(&sides.0, &sides.1), (&sides.1, &sides.0)] {
                    if let Expr::Slot(to, slot) = one
                        && *to == level
                    {
                        add(*slot, other);
                    }
                }
            }
        }
    }
    found
}

/// The literals, and the equalities with the clause that gives most of them.
fn best(all: Vec<Equal>) -> (Option<usize>, Vec<Equal>) {
    let count = |level: usize| all.iter().filter(|equal| equal.level == Some(level)).count();
    let source =
        (all.iter().filter_map(|equal| equal.level)).max_by_key(|level| (count(*level), usize::MAX - level));
    let kept = all
        .into_iter()
        .filter(|equal| equal.level.is_none() || equal.level == source);
    (source, kept.collect())
}
