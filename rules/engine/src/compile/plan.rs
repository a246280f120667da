//! From clauses to a network: the order in which a rule's clauses are joined, and what rules share.
//!
//! The order is chosen once, by what the clauses say: literals and equalities first, cross products and doors (a clause
//! that nothing refers to and whose condition the rules themselves change) last. Rules that begin with the same joins
//! share them; conditions on one fact alone are shared by all.

use rustc_hash::FxHashMap;

use crate::expression::{Binary, Expr};
use crate::ruleset::plan::{Alpha, Chain, Dispatch, Index, Join, LEAF, NONE, Plan, Range};
use crate::ruleset::{FactType, Node, NodeKind, Test, Timed};
use crate::value::hash_of;

/// What a fact type is taken to hold when nothing restricts it: only the relations of these figures matter.
const FACTS: f64 = 1_000.0;

/// A condition that joins facts, before it has its place.
struct Predicate {
    expr: Expr,
    text: String,
    levels: Vec<usize>,
}

/// The network of all rules; `volatile` says which slots of each type some section writes.
pub(super) fn plan(nodes: &[Node], rules: &[(u32, u32)], types: &[FactType], volatile: &[u64]) -> Plan {
    let mut planner = Planner::default();
    planner.plan.kinds.resize_with(types.len(), Dispatch::default);
    for (number, (first, count)) in (0_u32..).zip(rules) {
        let clauses = &nodes[*first as usize..(*first + *count) as usize];
        planner.rule(number, clauses, volatile);
    }
    planner.finish()
}

#[derive(Default)]
struct Planner {
    plan: Plan,
    alphas: FxHashMap<String, u32>,
    indexes: FxHashMap<(u32, Vec<usize>, Option<usize>), u32>,
    joins: FxHashMap<String, u32>,
    /// The joins of each rule by depth.
    paths: Vec<Vec<u32>>,
}

fn levels(expr: &Expr) -> Vec<usize> {
    let mut levels = std::collections::BTreeSet::new();
    expr.levels(&mut levels);
    levels.into_iter().collect()
}

impl Planner {
    fn rule(&mut self, number: u32, clauses: &[Node], volatile: &[u64]) {
        let mut predicates = Vec::new();
        for (level, node) in clauses
            .iter()
            .enumerate()
            .filter(|(_, node)| node.kind == NodeKind::Bind)
        {
            for (left, slot) in &node.keys {
                let sides = Box::new((Expr::Slot(level, *slot), left.clone()));
                let expr = Expr::Binary(Binary::Equal, sides);
                predicates.push(Predicate {
                    levels: levels(&expr),
                    expr,
                    text: node.text.clone(),
                });
            }
            for test in &node.join {
                predicates.push(Predicate {
                    expr: test.expr.clone(),
                    text: test.text.clone(),
                    levels: levels(&test.expr),
                });
            }
        }
        let order = order(clauses, &predicates, volatile);
        let steps = steps(clauses, &order);
        let mut depths = vec![0_usize; clauses.len()];
        for (depth, step) in steps.iter().enumerate() {
            if let Step::Clause(level) = step {
                depths[*level] = depth;
            }
        }
        let mut parent = NONE;
        let mut path = Vec::new();
        let mut used = vec![false; predicates.len()];
        let mut placed = Vec::new();
        for (depth, step) in steps.iter().enumerate() {
            let level = match step {
                Step::Clause(level) => level,
                Step::Timed(timed) => {
                    parent = self.timed(number, timed, parent, depth, &depths);
                    path.push(parent);
                    continue;
                }
            };
            placed.push(*level);
            let node = &clauses[*level];
            let mut keys = Vec::new();
            let mut tests = Vec::new();
            if node.kind == NodeKind::Bind {
                for (at, predicate) in predicates.iter().enumerate() {
                    if !used[at] && predicate.levels.iter().all(|level| placed.contains(level)) {
                        used[at] = true;
                        place(predicate, *level, &mut keys, &mut tests);
                    }
                }
            } else {
                keys.clone_from(&node.keys);
                tests.extend(node.join.iter().cloned());
            }
            parent = self.join(number, node, *level, parent, depth, &depths, &keys, tests);
            path.push(parent);
        }
        let chain = Chain {
            reads: steps.iter().map(|step| step.reads(clauses)).collect(),
            binds: (clauses.iter().enumerate())
                .filter(|(_, node)| node.kind == NodeKind::Bind)
                .map(|(level, _)| u32::try_from(depths[level]).unwrap_or(0))
                .collect(),
            order: steps.iter().map(Step::level).collect(),
            depths: depths
                .iter()
                .map(|depth| u32::try_from(*depth).unwrap_or(0))
                .collect(),
            joins: path.clone(),
        };
        if parent != NONE {
            self.plan.joins[parent as usize].next.push(LEAF | number);
        }
        self.plan.chains.push(chain);
        self.paths.push(path);
    }

    /// A condition on the time: a join with no facts.
    fn timed(&mut self, rule: u32, timed: &Timed, parent: u32, depth: usize, depths: &[usize]) -> u32 {
        let timed = Timed {
            since: timed
                .since
                .as_ref()
                .map(|since| since.mapped(&|level| depths[level])),
            ..timed.clone()
        };
        let name = format!("{parent} {:?} {}", timed.since, timed.span_ms);
        if let Some(known) = self.joins.get(&name) {
            return *known;
        }
        let at = self.add(Join {
            kind: NodeKind::If,
            rule,
            parent,
            depth,
            index: NONE,
            timed: Some(timed),
            keys: Vec::new(),
            tests: Vec::new(),
            range: None,
            measure: None,
            order: None,
            own: 0,
            below: 0,
            reads: 0,
            next: Vec::new(),
        });
        self.joins.insert(name, at);
        at
    }

    fn add(&mut self, join: Join) -> u32 {
        let at = u32::try_from(self.plan.joins.len()).expect("rules are bounded far below 2^31 joins");
        if join.parent != NONE {
            self.plan.joins[join.parent as usize].next.push(at);
        } else if join.kind != NodeKind::Bind {
            self.plan.roots.push(at);
        }
        if join.index != NONE {
            self.plan.indexes[join.index as usize].joins.push(at);
        }
        self.plan.joins.push(join);
        at
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a join")]
    fn join(
        &mut self,
        rule: u32,
        node: &Node,
        level: usize,
        parent: u32,
        depth: usize,
        depths: &[usize],
        keys: &[(Expr, usize)],
        tests: Vec<Test>,
    ) -> u32 {
        let to = |level: usize| depths[level];
        let mapped = |expr: &Expr| expr.mapped(&to);
        let mut keys: Vec<(Expr, usize)> = keys.iter().map(|(expr, slot)| (mapped(expr), *slot)).collect();
        keys.sort_by_key(|(_, slot)| *slot);
        let tests: Vec<Test> = (tests.into_iter())
            .map(|test| Test {
                expr: mapped(&test.expr),
                text: test.text,
            })
            .collect();
        let range = tests.iter().find_map(|test| range(&test.expr, depth));
        let index = node.fact_type.map_or(NONE, |kind| {
            let alpha = self.alpha(kind, node, level);
            let slots = keys.iter().map(|(_, slot)| *slot).collect();
            self.index(alpha, slots, range.as_ref().map(|range| range.slot))
        });
        let measure = node.measure.as_ref().map(&mapped);
        let order = node.order.as_ref().map(&mapped);
        let name = format!(
            "{parent} {:?} {index} {keys:?} {:?} {measure:?} {order:?}",
            node.kind,
            tests.iter().map(identity).collect::<Vec<_>>(),
        );
        if let Some(known) = self.joins.get(&name) {
            return *known;
        }
        let mut own = tests.iter().fold(0, |all, test| all | test.expr.reads(depth));
        for expr in measure.iter().chain(&order) {
            own |= expr.reads(depth);
        }
        if node.kind == NodeKind::Collect {
            own |= node.reads;
        }
        let at = self.add(Join {
            kind: node.kind,
            rule,
            parent,
            depth,
            index,
            timed: None,
            keys,
            tests,
            range,
            measure,
            order,
            own,
            below: 0,
            reads: 0,
            next: Vec::new(),
        });
        self.joins.insert(name, at);
        at
    }

    fn alpha(&mut self, kind: usize, node: &Node, level: usize) -> u32 {
        let mut tests: Vec<Test> = (node.alpha.iter())
            .map(|test| Test {
                expr: test.expr.mapped(&|at| if at == level { 0 } else { at }),
                text: test.text.clone(),
            })
            .collect();
        // The cheapest first; a script is the dearest.
        tests.sort_by_key(|test| (cost(&test.expr), identity(test)));
        let name = format!("{kind} {:?}", tests.iter().map(identity).collect::<Vec<_>>());
        if let Some(known) = self.alphas.get(&name) {
            return *known;
        }
        let reads = tests.iter().fold(0, |all, test| all | test.expr.reads(0));
        let at = u32::try_from(self.plan.alphas.len()).expect("rules are bounded far below 2^32 clauses");
        let equal = tests.iter().find_map(|test| literal(&test.expr));
        let dispatch = &mut self.plan.kinds[kind];
        match equal {
            Some((slot, hash)) => {
                let group = match dispatch.slots.iter().position(|(known, _)| *known == slot) {
                    Some(group) => group,
                    None => {
                        dispatch.slots.push((slot, FxHashMap::default()));
                        dispatch.slots.len() - 1
                    }
                };
                dispatch.slots[group].1.entry(hash).or_default().push(at);
            }
            None => dispatch.others.push(at),
        }
        self.plan.alphas.push(Alpha {
            rule: node.rule,
            tests,
            reads,
            indexes: Vec::new(),
        });
        self.alphas.insert(name, at);
        at
    }

    fn index(&mut self, alpha: u32, slots: Vec<usize>, ordered: Option<usize>) -> u32 {
        let name = (alpha, slots, ordered);
        if let Some(known) = self.indexes.get(&name) {
            return *known;
        }
        let at = u32::try_from(self.plan.indexes.len()).expect("rules are bounded far below 2^32 clauses");
        let mask = (name.1.iter().chain(&ordered)).fold(0, |all, slot| all | 1_u64 << slot);
        self.plan.indexes.push(Index {
            alpha,
            slots: name.1.clone(),
            ordered,
            mask,
            joins: Vec::new(),
        });
        self.plan.alphas[alpha as usize].indexes.push(at);
        self.indexes.insert(name, at);
        at
    }

    fn finish(mut self) -> Plan {
        let joins = self.plan.joins.iter().flat_map(|join| {
            let keys = join.keys.iter().map(|(expr, _)| expr);
            let tests = join.tests.iter().map(|test| &test.expr);
            keys.chain(tests).chain(&join.measure).chain(&join.order)
        });
        let alphas = self.plan.alphas.iter().flat_map(|alpha| &alpha.tests);
        let mut all = joins.chain(alphas.map(|test| &test.expr));
        self.plan.scripted = all.any(|expr| format!("{expr:?}").contains("Script"));
        for at in 0..self.plan.joins.len() {
            let mut up = self.plan.joins[at].parent;
            while up != NONE {
                let depth = self.plan.joins[up as usize].depth;
                let join = &self.plan.joins[at];
                let exprs = (join.keys.iter().map(|(expr, _)| expr))
                    .chain(join.tests.iter().map(|test| &test.expr))
                    .chain(&join.measure)
                    .chain(&join.order)
                    .chain(join.timed.iter().flat_map(|timed| &timed.since));
                let below = exprs.fold(0, |all, expr| all | expr.reads(depth));
                let above = &mut self.plan.joins[up as usize];
                above.below |= below;
                up = above.parent;
            }
        }
        for (chain, path) in self.plan.chains.iter().zip(&self.paths) {
            for (reads, join) in chain.reads.iter().zip(path) {
                self.plan.joins[*join as usize].reads |= reads;
            }
        }
        self.plan
    }
}

/// A step of a rule's chain.
enum Step<'a> {
    Clause(usize),
    Timed(&'a Timed),
}

impl Step<'_> {
    fn level(&self) -> u32 {
        match self {
            Self::Clause(level) => u32::try_from(*level).unwrap_or(NONE),
            Self::Timed(_) => NONE,
        }
    }

    /// The slots of the fact it binds that the rule reads.
    fn reads(&self, clauses: &[Node]) -> u64 {
        match self {
            Self::Clause(level) if clauses[*level].kind == NodeKind::Bind => clauses[*level].reads,
            Self::Clause(_) | Self::Timed(_) => 0,
        }
    }
}

/// The clauses in their order, with conditions on the time where their facts are known; periods stand last.
fn steps<'a>(clauses: &'a [Node], order: &[usize]) -> Vec<Step<'a>> {
    let mut waiting: Vec<&Timed> = clauses.iter().flat_map(|node| &node.timed).collect();
    let mut steps = Vec::new();
    for (at, level) in order.iter().enumerate() {
        steps.push(Step::Clause(*level));
        waiting.retain(|timed| {
            let Some(since) = &timed.since else { return true };
            let known = levels(since).iter().all(|level| order[..=at].contains(level));
            if known {
                steps.push(Step::Timed(timed));
            }
            !known
        });
    }
    steps.extend(waiting.into_iter().map(Step::Timed));
    steps
}

/// What tells a test from another; a script's text stands for its program.
fn identity(test: &Test) -> String {
    let shown = format!("{:?}", test.expr);
    if shown.contains("Script") {
        format!("{shown} {}", test.text)
    } else {
        shown
    }
}

fn cost(expr: &Expr) -> u8 {
    match expr {
        _ if literal(expr).is_some() => 0,
        Expr::Script(_) => 9,
        Expr::Binary(..) | Expr::Slot(..) | Expr::Not(_) => 1,
        _ => 2,
    }
}

/// The slot and the literal's hash, when the test of a fact alone is `slot == literal`.
fn literal(expr: &Expr) -> Option<(usize, u64)> {
    let Expr::Binary(Binary::Equal, sides) = expr else {
        return None;
    };
    match &**sides {
        (Expr::Slot(_, slot), Expr::Const(value)) | (Expr::Const(value), Expr::Slot(_, slot)) => {
            Some((*slot, hash_of(value)))
        }
        _ => None,
    }
}

/// The range of own slots that a test allows, when one side is a slot and the other known before.
fn range(expr: &Expr, depth: usize) -> Option<Range> {
    let Expr::Binary(operator, sides) = expr else {
        return None;
    };
    let mirrored = match operator {
        Binary::Less => Binary::Greater,
        Binary::AtMost => Binary::AtLeast,
        Binary::Greater => Binary::Less,
        Binary::AtLeast => Binary::AtMost,
        _ => return None,
    };
    // Slots only: the length of a list changes while its tokens stay.
    let before = |side: &Expr| (levels(side).iter()).all(|level| *level < depth && side.reads(*level) != 0);
    match &**sides {
        (Expr::Slot(at, slot), other) if *at == depth && before(other) => Some(Range {
            slot: *slot,
            upward: matches!(operator, Binary::Greater | Binary::AtLeast),
            bound: other.clone(),
        }),
        (other, Expr::Slot(at, slot)) if *at == depth && before(other) => Some(Range {
            slot: *slot,
            upward: matches!(mirrored, Binary::Greater | Binary::AtLeast),
            bound: other.clone(),
        }),
        _ => None,
    }
}

/// Puts a condition into the index of the clause at `level` if it is an equality of one of its slots.
fn place(predicate: &Predicate, level: usize, keys: &mut Vec<(Expr, usize)>, tests: &mut Vec<Test>) {
    if let Expr::Binary(Binary::Equal, sides) = &predicate.expr {
        let before = |side: &Expr| !levels(side).contains(&level);
        match &**sides {
            (Expr::Slot(at, slot), other) | (other, Expr::Slot(at, slot))
                if *at == level && before(other) && !keys.iter().any(|(_, known)| known == slot) =>
            {
                keys.push((other.clone(), *slot));
                return;
            }
            _ => {}
        }
    }
    tests.push(Test {
        expr: predicate.expr.clone(),
        text: predicate.text.clone(),
    });
}

/// How many facts go with what is placed, as far as the text tells.
fn estimate(level: usize, node: &Node, placed: &[usize], predicates: &[Predicate]) -> f64 {
    let mut facts = FACTS;
    for test in &node.alpha {
        facts /= if literal(&test.expr).is_some() { 20.0 } else { 2.0 };
    }
    for predicate in predicates {
        let known = |at: &usize| *at == level || placed.contains(at);
        if predicate.levels.contains(&level) && predicate.levels.iter().all(known) {
            let (mut keys, mut tests) = (Vec::new(), Vec::new());
            place(predicate, level, &mut keys, &mut tests);
            facts /= if !keys.is_empty() {
                50.0
            } else if range(&predicate.expr, level).is_some() {
                3.0
            } else {
                2.0
            };
        }
    }
    facts
}

/// The levels in the order in which they are joined.
fn order(clauses: &[Node], predicates: &[Predicate], volatile: &[u64]) -> Vec<usize> {
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
    let door = |level: usize| {
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
