//! The order in which a rule's clauses are joined: literals and equalities first, products and doors last.

use super::{Predicate, levels, literal, lookup};
use crate::ruleset::{Node, NodeKind};

/// What a fact type is taken to hold when nothing restricts it: only the relations of these figures matter.
const FACTS: f64 = 1_000.0;

/// How many facts go with what is placed, as far as the text tells.
fn estimate(level: usize, node: &Node, placed: &[usize], predicates: &[Predicate]) -> f64 {
    let mut facts = FACTS;
    for test in &node.alpha {
        facts /= if literal(&test.expr).is_some() { 20.0 } else { 2.0 };
    }
    for predicate in predicates {
        let known = |at: &usize| *at == level || placed.contains(at);
        if predicate.levels.contains(&level) && predicate.levels.iter().all(known) {
            facts /= if lookup::key(&predicate.expr, level).is_some() {
                50.0
            } else if lookup::bounds(&predicate.expr, level, &|_| true).is_some() {
                3.0
            } else {
                2.0
            };
        }
    }
    facts
}

/// The levels in the order in which they are joined.
pub(super) fn order(clauses: &[Node], predicates: &[Predicate], volatile: &[u64]) -> Vec<usize> {
    let needs: Vec<Vec<usize>> = (clauses.iter().enumerate())
        .map(|(level, node)| needs(level, node, clauses, predicates))
        .collect();
    let alone = |level: usize| {
        !predicates
            .iter()
            .any(|predicate| predicate.levels.contains(&level))
            && !needs.iter().any(|needs| needs.contains(&level))
            && needs[level].is_empty()
    };
    // Each new value of an aggregate makes what is behind it anew. Another aggregate there would count all its facts again
    // at every change, unless what keeps the rule shut stands before both.
    let aggregates = clauses.iter().filter(|node| is_aggregate(node.kind)).count();
    let door = |level: usize| {
        if aggregates > 1 {
            return false;
        }
        let node = &clauses[level];
        let written = node.fact_type.map_or(0, |kind| volatile[kind]);
        match node.kind {
            NodeKind::Bind => alone(level) && node.reads & written != 0,
            NodeKind::No | NodeKind::Any => alone(level),
            _ => false,
        }
    };
    let mut order = choose(clauses, predicates, &needs, &door);
    // Doors stand last only where the rest is held together by equalities: a cross product may need them first.
    let mut binds = 0;
    for (at, level) in order.iter().enumerate() {
        if clauses[*level].kind == NodeKind::Bind && !door(*level) {
            if binds > 0 && estimate(*level, &clauses[*level], &order[..at], predicates) > FACTS / 50.0 {
                order = choose(clauses, predicates, &needs, &|_| false);
                break;
            }
            binds += 1;
        }
    }
    order
}

const fn is_aggregate(kind: NodeKind) -> bool {
    !matches!(kind, NodeKind::Bind | NodeKind::No | NodeKind::Any | NodeKind::If)
}

/// The levels that must be joined before this one.
fn needs(level: usize, node: &Node, clauses: &[Node], predicates: &[Predicate]) -> Vec<usize> {
    let mut needs: Vec<usize> = Vec::new();
    if node.kind == NodeKind::Bind {
        // Values can be tested only after they are known.
        for predicate in predicates
            .iter()
            .filter(|predicate| predicate.levels.contains(&level))
        {
            let later = predicate
                .levels
                .iter()
                .filter(|at| clauses[**at].kind != NodeKind::Bind);
            needs.extend(later);
        }
    } else {
        let exprs = (node.keys.iter().map(|(expr, _)| expr))
            .chain(node.join.iter().map(|test| &test.expr))
            .chain(&node.measure)
            .chain(&node.order);
        needs.extend(exprs.flat_map(levels));
    }
    needs.retain(|at| *at != level);
    needs
}

fn choose(
    clauses: &[Node],
    predicates: &[Predicate],
    needs: &[Vec<usize>],
    door: &impl Fn(usize) -> bool,
) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < clauses.len() {
        let mut best: Option<(f64, usize)> = None;
        for (level, node) in clauses.iter().enumerate() {
            if order.contains(&level) || needs[level].iter().any(|need| !order.contains(need)) {
                continue;
            }
            let earlier = (0..level).all(|before| order.contains(&before) || door(before));
            let cost = match node.kind {
                _ if door(level) => 1e12,
                NodeKind::Bind => estimate(level, node, &order, predicates),
                NodeKind::No | NodeKind::Any | NodeKind::If => 0.4,
                _ if earlier => 1.0,
                _ => 1e9,
            };
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, level));
            }
        }
        let Some((_, level)) = best else { break };
        order.push(level);
    }
    order
}

#[cfg(test)]
mod tests {
    use crate::ruleset::NodeKind;
    use crate::{Environment, Source, compile};

    #[test]
    fn what_keeps_a_rule_shut_stands_before_several_aggregates() {
        let text = r#"
            workflow fan;
            fact Child { n: int, state: string = "new" }
            rule "call" {
                match  { child: Child where child.state == "new"; }
                action { child.state = "done"; child.n += 1; }
            }
            rule "join" {
                match {
                    no Child c where c.state != "done";
                    a = sum c.n of Child c;
                    b = sum c.n of Child c;
                }
                action { complete(#{ a: a, b: b }); }
            }
        "#;
        let source = Source {
            path: "fan.rules".to_owned(),
            text: text.to_owned(),
        };
        let compiled = compile(&source, &Environment::default()).expect("it compiles");
        let depths = |kind: NodeKind| {
            let joins = compiled.rules.plan.joins.iter();
            let depths: Vec<usize> = joins
                .filter(|join| join.kind == kind)
                .map(|join| join.depth)
                .collect();
            depths
        };
        let (no, sums) = (depths(NodeKind::No), depths(NodeKind::Sum));
        assert_eq!((no.len(), sums.len()), (1, 2));
        assert!(no[0] < sums[0] && no[0] < sums[1], "{no:?} {sums:?}");
    }
}
