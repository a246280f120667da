//! Rules that may set each other off without end.
//!
//! There is an edge from rule to rule where the first always writes what the second reads, unless the constant that is
//! written is one that the second excludes; what stands in a branch or a loop is taken for guarded. A rule is taken out of a cycle when it can fire only so often within it: it uses up
//! a fact, a state or a bounded counter that no rule of the cycle gives back, or it waits for something outside in every
//! round. What is left is a cycle for which no end can be seen; that there is one cannot always be seen.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashSet;

use super::super::uses::{ClauseUse, Given, RuleUses, Write, Written};
use super::domain;
use crate::FactType;
use crate::syntax::place::Reporter;
use crate::syntax::{ClauseKind, File};

/// The ways that are looked at in one component: enough for every file that people write.
const WAYS_MAX: usize = 5_000;

/// Looks for cycles and reports one of each group of rules, at its first rule in the file.
pub(super) fn check(file: &File, types: &[FactType], uses: &[RuleUses], report: &mut Reporter<'_>) {
    let graph = Edges::new(types, uses);
    let mut left: FxHashSet<usize> = (0..uses.len()).filter(|rule| !graph.waits(*rule)).collect();
    loop {
        // Taking rules out may leave others without the one that feeds them.
        let before = left.len();
        for component in graph.components(&left) {
            left.retain(|rule| !component.contains(rule) || !graph.is_used_up(*rule, &component));
        }
        if left.len() == before {
            break;
        }
    }
    for component in graph.components(&left) {
        let Some(cycle) = graph.cycle(&component) else {
            continue;
        };
        let first = cycle[0].0;
        let way: Vec<String> = cycle
            .iter()
            .map(|(rule, slot)| format!("`{}` → {slot} → ", file.rules[*rule].name.text))
            .collect();
        let name = &file.rules[first].name;
        let message = format!(
            "these rules may set each other off without end: {}`{}`",
            way.concat(),
            name.text
        );
        report.warning("endless-cycle", &name.span, message, "no end can be seen").hint(
            "let one of them use up what it matches: a state left for good, a fact retracted, a counter with a bound",
        );
    }
}

struct Edges<'a> {
    types: &'a [FactType],
    uses: &'a [RuleUses],
    /// For each rule the rules that it may set off, in order.
    next: Vec<Vec<usize>>,
    back: Vec<Vec<usize>>,
}

impl<'a> Edges<'a> {
    fn new(types: &'a [FactType], uses: &'a [RuleUses]) -> Self {
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); types.len()];
        for (rule, uses) in uses.iter().enumerate() {
            for kind in uses.clauses.iter().filter_map(|clause| clause.fact_type) {
                if readers[kind].last() != Some(&rule) {
                    readers[kind].push(rule);
                }
            }
        }
        let mut graph = Self {
            types,
            uses,
            next: vec![Vec::new(); uses.len()],
            back: vec![Vec::new(); uses.len()],
        };
        for (from, uses) in uses.iter().enumerate() {
            let kinds: BTreeSet<usize> = uses
                .writes
                .iter()
                .filter_map(|write| write.change.kind())
                .collect();
            let readers: BTreeSet<usize> = kinds
                .into_iter()
                .flat_map(|kind| &readers[kind])
                .copied()
                .collect();
            for to in readers {
                if graph.edge(from, to).is_some() {
                    graph.next[from].push(to);
                    graph.back[to].push(from);
                }
            }
        }
        graph
    }

    /// The parts of the graph in which every rule reaches every other, loops of one rule included; by Kosaraju's way.
    fn components(&self, left: &FxHashSet<usize>) -> Vec<FxHashSet<usize>> {
        let mut order = Vec::new();
        let mut seen: FxHashSet<usize> = FxHashSet::default();
        for rule in (0..self.uses.len()).filter(|rule| left.contains(rule)) {
            walk(rule, &self.next, left, &mut seen, &mut order);
        }
        seen.clear();
        let mut found = Vec::new();
        for &rule in order.iter().rev() {
            let mut component = Vec::new();
            walk(rule, &self.back, left, &mut seen, &mut component);
            if component.len() > 1 || !component.is_empty() && self.next[rule].contains(&rule) {
                found.push(component.into_iter().collect());
            }
        }
        found
    }
}

/// Adds what is reached from `start` and was not seen before, each after what it reaches.
fn walk(
    start: usize,
    next: &[Vec<usize>],
    left: &FxHashSet<usize>,
    seen: &mut FxHashSet<usize>,
    order: &mut Vec<usize>,
) {
    if !seen.insert(start) {
        return;
    }
    let mut open = vec![(start, 0)];
    while let Some((rule, at)) = open.last_mut() {
        let further = next[*rule].get(*at).copied();
        *at += 1;
        match further {
            Some(further) if left.contains(&further) && seen.insert(further) => open.push((further, 0)),
            Some(_) => {}
            None => {
                order.push(*rule);
                open.pop();
            }
        }
    }
}

impl Edges<'_> {
    /// Whether each firing waits for something outside before it goes on.
    fn waits(&self, rule: usize) -> bool {
        let uses = &self.uses[rule];
        uses.waits
            && uses
                .writes
                .iter()
                .all(|write| write.section > 0 || self.is_leaving(rule, write))
    }

    /// Whether the write takes the rule's own match away.
    fn is_leaving(&self, rule: usize, write: &Write) -> bool {
        let uses = &self.uses[rule];
        match &write.change {
            Written::Update {
                level: Some(level),
                slot,
                given: given @ Given::Constant(_),
                ..
            } => !domain(&uses.clauses[*level].tests, *level, *slot).may_admit(given),
            Written::Retract {
                level: Some(level), ..
            } => uses.clauses[*level].kind == ClauseKind::Bind,
            _ => false,
        }
    }

    /// The slot by which the first rule's write may make a match of the second new.
    fn edge(&self, from: usize, to: usize) -> Option<String> {
        (self.uses[from].writes.iter().filter(|write| write.certain)).find_map(|write| {
            (self.uses[to].clauses.iter().enumerate())
                .find_map(|(level, clause)| self.feeds(write, level, clause))
        })
    }

    fn feeds(&self, write: &Write, level: usize, clause: &ClauseUse) -> Option<String> {
        let counts = clause.kind != ClauseKind::Bind;
        let (kind, slot) = match &write.change {
            Written::Insert { kind, fields } => {
                let admitted = clause.kind != ClauseKind::No
                    && (self.given(*kind, fields.as_deref()).iter().enumerate())
                        .all(|(slot, given)| domain(&clause.tests, level, slot).may_admit(given));
                (*kind, admitted.then_some(None)?)
            }
            Written::Update {
                kind, slot, given, ..
            } => {
                let read = clause.reads >> slot & 1 == 1;
                let admitted = counts || domain(&clause.tests, level, *slot).may_admit(given);
                (*kind, (read && admitted).then_some(Some(*slot))?)
            }
            Written::Retract { kind, .. } => {
                (*kind, (counts && clause.kind != ClauseKind::Any).then_some(None)?)
            }
            Written::Anything { kind } => (*kind, None),
            Written::Own(_) => return None,
        };
        if clause.fact_type != Some(kind) {
            return None;
        }
        let fact_type = &self.types[kind];
        Some(slot.map_or_else(
            || fact_type.name.to_string(),
            |slot| format!("{}.{}", fact_type.name, fact_type.fields[slot].name),
        ))
    }

    /// What each slot of a new fact is given.
    fn given(&self, kind: usize, fields: Option<&[(usize, Given)]>) -> Vec<Given> {
        (self.types[kind].fields.iter().enumerate())
            .map(|(slot, field)| match fields {
                None => Given::Unknown,
                Some(fields) => (fields.iter().find(|(given, _)| *given == slot)).map_or_else(
                    || Given::Constant(field.default.clone().unwrap_or_default()),
                    |(_, given)| given.clone(),
                ),
            })
            .collect()
    }

    /// Whether the rule can fire only so often within the cycle.
    fn is_used_up(&self, rule: usize, cycle: &FxHashSet<usize>) -> bool {
        let uses = &self.uses[rule];
        uses.writes
            .iter()
            .filter(|write| write.certain && write.section == 0)
            .any(|write| match &write.change {
                Written::Retract {
                    kind,
                    level: Some(level),
                } => {
                    uses.clauses[*level].kind == ClauseKind::Bind
                        && !self.gives_back(cycle, *kind, None, *level, rule)
                }
                Written::Update {
                    kind,
                    level: Some(level),
                    slot,
                    given: Given::Constant(_),
                } => {
                    self.is_leaving(rule, write) && !self.gives_back(cycle, *kind, Some(*slot), *level, rule)
                }
                Written::Update {
                    kind,
                    level: Some(level),
                    slot,
                    given: Given::Step(step),
                } => {
                    let wanted = domain(&uses.clauses[*level].tests, *level, *slot);
                    wanted.ends(step) && !self.turns_back(cycle, *kind, *slot, step)
                }
                _ => false,
            })
    }

    /// Whether a rule of the cycle makes what the rule at `level` has used up: a fact of its type that it would match, or
    /// a value of the slot that it asks for.
    fn gives_back(
        &self,
        cycle: &FxHashSet<usize>,
        kind: usize,
        slot: Option<usize>,
        level: usize,
        rule: usize,
    ) -> bool {
        let clause = &self.uses[rule].clauses[level];
        cycle
            .iter()
            .flat_map(|other| &self.uses[*other].writes)
            .any(|write| match &write.change {
                Written::Insert { kind: made, fields } => {
                    *made == kind
                        && (self.given(kind, fields.as_deref()).iter().enumerate())
                            .all(|(slot, given)| domain(&clause.tests, level, slot).may_admit(given))
                }
                Written::Update {
                    kind: changed,
                    slot: written,
                    given,
                    ..
                } => {
                    slot == Some(*written)
                        && *changed == kind
                        && domain(&clause.tests, level, *written).may_admit(given)
                }
                Written::Anything { kind: changed } => *changed == kind,
                Written::Retract { .. } | Written::Own(_) => false,
            })
    }

    /// Whether a rule of the cycle makes new facts of the type, or changes the slot in any way but such steps.
    fn turns_back(&self, cycle: &FxHashSet<usize>, kind: usize, slot: usize, step: &crate::Value) -> bool {
        let zero = crate::Value::Int(0);
        cycle
            .iter()
            .flat_map(|other| &self.uses[*other].writes)
            .any(|write| match &write.change {
                Written::Insert { kind: made, .. } | Written::Anything { kind: made } => *made == kind,
                Written::Update {
                    kind: changed,
                    slot: written,
                    given,
                    ..
                } if (*changed, *written) == (kind, slot) => {
                    !matches!(given, Given::Step(other) if other.order(&zero) == step.order(&zero))
                }
                _ => false,
            })
    }

    /// The shortest cycle of which no rule is used up within it, from its first rule in the file; with the slot that each
    /// rule writes for the next.
    fn cycle(&self, within: &FxHashSet<usize>) -> Option<Vec<(usize, String)>> {
        let mut order: Vec<usize> = within.iter().copied().collect();
        order.sort_unstable();
        let mut ways: VecDeque<Vec<usize>> = order.iter().map(|rule| vec![*rule]).collect();
        let mut looked_at = 0;
        while let Some(way) = ways.pop_front() {
            looked_at += 1;
            if looked_at > WAYS_MAX {
                return None;
            }
            let (first, last) = (way[0], way[way.len() - 1]);
            let rules: FxHashSet<usize> = way.iter().copied().collect();
            if self.next[last].contains(&first) && !way.iter().any(|rule| self.is_used_up(*rule, &rules)) {
                let next = way.iter().skip(1).chain([&first]);
                return way
                    .iter()
                    .zip(next)
                    .map(|(from, to)| Some((*from, self.edge(*from, *to)?)))
                    .collect();
            }
            // Each cycle is looked at from its first rule only.
            let further = order
                .iter()
                .filter(|rule| **rule > first && !rules.contains(rule));
            for rule in further.filter(|rule| self.edge(last, **rule).is_some()) {
                ways.push_back(way.iter().copied().chain([*rule]).collect());
            }
        }
        None
    }
}
