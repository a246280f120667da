//! From clauses to a network: the order in which a rule's clauses are joined, and what rules share.
//!
//! The order is chosen once, by what the clauses say: literals and equalities first, cross products and doors (a clause
//! that nothing refers to and whose condition the rules themselves change) last. Rules that begin with the same joins
//! share them; conditions on one fact alone are shared by all.

mod lookup;
mod order;

use rustc_hash::FxHashMap;

use crate::expression::{Binary, Expr};
use crate::ruleset::plan::{Alpha, Chain, Dispatch, Index, Join, LEAF, NONE, Part, Plan};
use crate::ruleset::{FactType, FieldKind, Node, NodeKind, Test, Timed};
use crate::value::hash_of;
use order::order;

/// A condition that joins facts, before it has its place.
struct Predicate {
    expr: Expr,
    text: String,
    levels: Vec<usize>,
}

/// The network of all rules; `volatile` says which slots of each type some section writes.
pub(super) fn plan(nodes: &[Node], rules: &[(u32, u32)], types: &[FactType], volatile: &[u64]) -> Plan {
    let mut planner = Planner {
        plan: Plan::default(),
        types,
        alphas: FxHashMap::default(),
        indexes: FxHashMap::default(),
        joins: FxHashMap::default(),
        paths: Vec::new(),
    };
    planner.plan.kinds.resize_with(types.len(), Dispatch::default);
    for (number, (first, count)) in (0_u32..).zip(rules) {
        let clauses = &nodes[*first as usize..(*first + *count) as usize];
        planner.rule(number, clauses, volatile);
    }
    planner.finish()
}

struct Planner<'a> {
    plan: Plan,
    types: &'a [FactType],
    alphas: FxHashMap<String, u32>,
    indexes: FxHashMap<(u32, String, Option<(usize, Option<usize>)>), u32>,
    joins: FxHashMap<String, u32>,
    /// The joins of each rule by depth.
    paths: Vec<Vec<u32>>,
}

fn levels(expr: &Expr) -> Vec<usize> {
    let mut levels = std::collections::BTreeSet::new();
    expr.levels(&mut levels);
    levels.into_iter().collect()
}

impl Planner<'_> {
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
                        place(&predicate.expr, &predicate.text, *level, &mut keys, &mut tests);
                    }
                }
            } else {
                let equal = node.keys.iter();
                keys.extend(equal.map(|(expr, slot)| (expr.clone(), Part::Slot(*slot))));
                for test in &node.join {
                    place(&test.expr, &test.text, *level, &mut keys, &mut tests);
                }
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
            blocks: false,
            measure: None,
            order: None,
            own: 0,
            below: 0,
            reads: 0,
            looks: Vec::new(),
            wants: Vec::new(),
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
            let index = &mut self.plan.indexes[join.index as usize];
            index.joins.push(at);
            if join.kind != NodeKind::Bind {
                index.counts.push(at);
            }
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
        keys: &[(Expr, Part)],
        tests: Vec<Test>,
    ) -> u32 {
        let to = |level: usize| depths[level];
        let mapped = |expr: &Expr| expr.mapped(&to);
        let mut keys: Vec<(Expr, Part)> = (keys.iter())
            .map(|(expr, part)| (mapped(expr), part.clone()))
            .collect();
        keys.sort_by_cached_key(|(_, part)| part.name());
        let tests: Vec<Test> = (tests.into_iter())
            .map(|test| Test {
                expr: mapped(&test.expr),
                text: test.text,
            })
            .collect();
        let numeric = |slot: usize| {
            let kind = node.fact_type.map(|kind| self.types[kind].fields[slot].kind);
            matches!(kind, Some(FieldKind::Int | FieldKind::Float | FieldKind::Time))
        };
        let range = lookup::range(&tests, depth, &numeric);
        let blocks = matches!(node.kind, NodeKind::No | NodeKind::Any)
            && !tests.iter().any(|test| is_scripted(&test.expr));
        let index = node.fact_type.map_or(NONE, |kind| {
            let alpha = self.alpha(kind, node, level);
            let parts = keys.iter().map(|(_, part)| part.clone()).collect();
            self.index(
                alpha,
                parts,
                range.as_ref().map(|range| (range.slot, range.until)),
            )
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
            blocks,
            measure,
            order,
            own,
            below: 0,
            reads: 0,
            looks: Vec::new(),
            wants: Vec::new(),
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

    fn index(&mut self, alpha: u32, parts: Vec<Part>, ordered: Option<(usize, Option<usize>)>) -> u32 {
        let names: Vec<String> = parts.iter().map(Part::name).collect();
        let name = (alpha, names.join(" "), ordered);
        if let Some(known) = self.indexes.get(&name) {
            return *known;
        }
        let at = u32::try_from(self.plan.indexes.len()).expect("rules are bounded far below 2^32 clauses");
        let (ordered, until) = (
            ordered.map(|(slot, _)| slot),
            ordered.and_then(|(_, until)| until),
        );
        let ordering = (ordered.iter().chain(&until)).fold(0, |all, slot| all | 1_u64 << slot);
        let mask = parts.iter().fold(ordering, |all, part| all | part.reads());
        self.plan.indexes.push(Index {
            alpha,
            parts,
            ordered,
            until,
            mask,
            joins: Vec::new(),
            counts: Vec::new(),
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
        self.plan.scripted = all.any(is_scripted);
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
                if below != 0 {
                    self.plan.joins[at].looks.push((depth, below));
                }
                let above = &mut self.plan.joins[up as usize];
                above.below |= below;
                up = above.parent;
            }
        }
        for (chain, path) in self.plan.chains.iter().zip(&self.paths) {
            for (reads, join) in chain.reads.iter().zip(path) {
                self.plan.joins[*join as usize].reads |= reads;
            }
            for (depth, join) in path.iter().enumerate() {
                let wants = &mut self.plan.joins[*join as usize].wants;
                for (before, reads) in chain.reads[..depth].iter().enumerate() {
                    match wants.iter_mut().find(|(known, _)| *known == before) {
                        Some((_, slots)) => *slots |= reads,
                        None => wants.push((before, *reads)),
                    }
                }
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

fn is_scripted(expr: &Expr) -> bool {
    format!("{expr:?}").contains("Script")
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
        Expr::Own(..) => 5,
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

/// Puts a condition into the index of the clause at `level` if it is an equality of its own part.
fn place(expr: &Expr, text: &str, level: usize, keys: &mut Vec<(Expr, Part)>, tests: &mut Vec<Test>) {
    if let Some((other, part)) = lookup::key(expr, level)
        && !keys.iter().any(|(_, known)| known.name() == part.name())
    {
        keys.push((other, part));
        return;
    }
    tests.push(Test {
        expr: expr.clone(),
        text: text.to_owned(),
    });
}
