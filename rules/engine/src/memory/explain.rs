//! Why a rule has fired, or which clause keeps it from firing, and for which facts. What is said of it is in `report`.

mod report;

use std::sync::Arc;

pub use report::{ClauseReport, Explanation, Fired, NearMiss, UnknownRule};

use super::WorkingMemory;
use crate::expression::{Binary, Bound, Expr, Frame};
use crate::ruleset::{Node, NodeKind};
use crate::shared::SharedFacts;
use crate::turn::FactId;

/// The partial matches, facts and reasons that are shown: enough to see, few enough to read.
const SHOWN: usize = 5;
/// The facts that are compared with each partial match to find the nearest: an answer stays in the milliseconds.
const LOOKED_AT: usize = 20_000;

impl WorkingMemory {
    /// Why the rule fires, or what keeps it from firing.
    ///
    /// # Errors
    /// There is no rule of this name.
    pub fn explain(&self, rule: &str) -> Result<Explanation, UnknownRule> {
        self.explain_seeing(rule, None)
    }

    /// The same, with the service's shared facts as they are: what they have not been seen to change is still to fire.
    ///
    /// # Errors
    /// There is no rule of this name.
    pub fn explain_seeing(
        &self,
        rule: &str,
        shared: Option<&SharedFacts>,
    ) -> Result<Explanation, UnknownRule> {
        // What a memory at rest has matched is made again from its own snapshot.
        if self.at_rest
            && let Ok(mut awake) = Self::restore(&self.rules, self.run, Some(&self.snapshot()), [])
        {
            awake.see(shared);
            return awake.explain(rule);
        }
        let rules = Arc::clone(&self.rules);
        let found = (0_u32..)
            .zip(&rules.rules)
            .find(|(_, known)| &*known.name == rule);
        let Some((number, rule)) = found else {
            let names = rules.rules.iter().map(|rule| &*rule.name);
            let similar = crate::diagnostic::similar(rule, names).map(str::to_owned);
            return Err(UnknownRule {
                name: rule.to_owned(),
                similar,
            });
        };
        let mut clauses: Vec<ClauseReport> = Vec::new();
        let mut deepest = Vec::new();
        let mut arriving: Vec<Option<u32>> = vec![None];
        let order = &rules.plan.chains[number as usize].order;
        for (depth, level) in order.iter().enumerate() {
            let passing = self.network.tokens_of(self.world(), number, depth);
            let passing: Vec<Option<u32>> = passing.into_iter().map(Some).collect();
            let Some(node) = rules.nodes.get(rule.first.saturating_add(*level) as usize) else {
                let join = rules.plan.chains[number as usize].joins[depth];
                let timed = rules.plan.joins[join as usize].timed.as_ref();
                clauses.push(ClauseReport {
                    clause: timed.map_or_else(String::new, |timed| timed.text.clone()),
                    arrive: arriving.len(),
                    pass: passing.len(),
                    near: self.too_early(&passing),
                    nearest: 0,
                });
                if passing.is_empty() {
                    deepest = self.furthest(number, depth, &arriving);
                    arriving = passing;
                    break;
                }
                arriving = passing;
                continue;
            };
            let (near, nearest) = if passing.is_empty() {
                self.near(node, number, depth, &arriving)
            } else {
                (Vec::new(), 0)
            };
            clauses.push(ClauseReport {
                clause: node.text.clone(),
                arrive: arriving.len(),
                pass: passing.len(),
                near,
                nearest,
            });
            if passing.is_empty() {
                deepest = self.furthest(number, depth, &arriving);
                arriving = passing;
                break;
            }
            arriving = passing;
        }
        let matches = if clauses.last().is_some_and(|clause| clause.pass > 0) {
            arriving
        } else {
            Vec::new()
        };
        let pending = matches
            .iter()
            .flatten()
            .filter(|at| !self.network.has_fired(**at))
            .count();
        let matched = (matches.iter().flatten().take(SHOWN))
            .map(|at| {
                let facts = self.bound_facts(*at);
                facts
                    .iter()
                    .filter_map(|(id, _)| self.context().store.find(*id))
                    .map(|at| self.shown(at))
                    .collect()
            })
            .collect();
        Ok(Explanation {
            rule: rule.name.to_string(),
            line: rule.line,
            matches: matches.len(),
            pending,
            clauses,
            matched,
            deepest,
            ran: 0,
            latest: Vec::new(),
        })
    }

    /// The facts of the first partial match that comes to a clause which nothing passes.
    fn furthest(&self, rule: u32, depth: usize, arriving: &[Option<u32>]) -> Vec<String> {
        let Some(left) = arriving.iter().flatten().next() else {
            return Vec::new();
        };
        let levels = self
            .network
            .levels(self.world(), *left, rule, depth.wrapping_sub(1));
        (levels.iter())
            .filter_map(|held| match held {
                Bound::Fact(at) => Some(self.shown(*at)),
                _ => None,
            })
            .collect()
    }

    /// The full matches of all rules, fired or not: the rule and its facts, in the order of the file.
    pub(crate) fn activations(&self) -> Vec<(String, Vec<FactId>)> {
        let mut found = Vec::new();
        for (number, rule) in (0_u32..).zip(&self.rules.rules) {
            let last = self.rules.plan.chains[number as usize]
                .order
                .len()
                .saturating_sub(1);
            for token in self.network.tokens_of(self.world(), number, last) {
                let facts = self
                    .bound_facts(token)
                    .iter()
                    .map(|(id, _)| FactId(*id))
                    .collect();
                found.push((rule.name.to_string(), facts));
            }
        }
        found
    }

    /// When the time comes, for a condition on it that nothing passes.
    fn too_early(&self, passing: &[Option<u32>]) -> Vec<NearMiss> {
        let due = if passing.is_empty() {
            self.network.next_wake_ms()
        } else {
            None
        };
        due.map(|due| NearMiss {
            fact: None,
            why: format!("the next of these instants is {due}"),
            change: None,
            parts: 1,
        })
        .into_iter()
        .collect()
    }

    fn shown(&self, at: u32) -> String {
        let view = self.view(self.context().store.get(at));
        let slots: Vec<_> = view
            .slots
            .iter()
            .map(|(name, value)| format!("{name}: {}", cut(&value.to_json())))
            .collect();
        format!(
            "{} {} v{} {{ {} }} by {}",
            view.fact_type,
            view.id,
            view.version,
            slots.join(", "),
            view.written_by
        )
    }

    /// What keeps the clause from being true for the matches that come to it, the nearest first, and how many facts are
    /// as near as the nearest.
    fn near(&self, node: &Node, rule: u32, depth: usize, arriving: &[Option<u32>]) -> (Vec<NearMiss>, usize) {
        let store = &self.context().store;
        let world = self.world();
        let mut near: Vec<NearMiss> = Vec::new();
        let mut facts: Vec<_> = store
            .live()
            .filter(|(_, fact)| Some(fact.kind) == node.fact_type)
            .map(|(at, fact)| (fact.id, at))
            .collect();
        facts.sort_unstable();
        if facts.is_empty() && !matches!(node.kind, NodeKind::If | NodeKind::No) {
            let name = node.fact_type.map_or("", |kind| &*self.rules.types[kind].name);
            let why = format!("there is no fact `{name}`");
            let change = Some(format!("insert a `{name}`"));
            near.push(NearMiss {
                fact: None,
                why,
                change,
                parts: 1,
            });
        }
        for left in arriving.iter().take(SHOWN) {
            let mut levels = left.map_or_else(
                || smallvec::smallvec![Bound::Nothing; self.rules.rules[rule as usize].nodes as usize],
                |left| self.network.levels(world, left, rule, depth.wrapping_sub(1)),
            );
            if node.kind == NodeKind::If {
                near.extend(
                    self.false_tests(node, &levels)
                        .into_iter()
                        .map(|(why, change)| NearMiss {
                            fact: None,
                            why,
                            change,
                            parts: 1,
                        }),
                );
                continue;
            }
            for (id, at) in facts.iter().take(LOOKED_AT) {
                levels[node.level as usize] = Bound::Fact(*at);
                let failed = self.false_tests(node, &levels);
                let fact = Some(FactId(*id));
                if node.kind == NodeKind::No && failed.is_empty() {
                    let why = format!("is there: {}", self.shown(*at));
                    let change = Some(format!(
                        "retract #{id}, or change a field that the clause asks for"
                    ));
                    near.push(NearMiss {
                        fact,
                        why,
                        change,
                        parts: 1,
                    });
                } else if node.kind != NodeKind::No && !failed.is_empty() {
                    let parts = failed.len();
                    let (why, mut changes): (Vec<String>, Vec<Option<String>>) = failed.into_iter().unzip();
                    let change = if parts == 1 { changes.pop().flatten() } else { None };
                    near.push(NearMiss {
                        fact,
                        why: why.join("; "),
                        change,
                        parts,
                    });
                }
            }
        }
        near.sort_by_key(|near| near.parts);
        let least = near.first().map_or(0, |near| near.parts);
        let mut nearest: Vec<_> = near
            .iter()
            .filter(|near| near.parts == least)
            .filter_map(|near| near.fact)
            .collect();
        nearest.sort_unstable();
        nearest.dedup();
        near.truncate(SHOWN);
        (near, nearest.len())
    }

    /// The parts of the condition that are false, each with the change that would make it true.
    fn false_tests(&self, node: &Node, levels: &[Bound]) -> Vec<(String, Option<String>)> {
        let frame = Frame {
            rules: &self.rules,
            store: &self.context().store,
            levels,
        };
        let mut found = Vec::new();
        for test in node.alpha.iter().chain(&node.join) {
            match test.expr.holds(&frame) {
                Ok(true) => {}
                Ok(false) => found.push((
                    format!("`{}` is false{}", test.text, test.expr.sides(&frame)),
                    Some(
                        self.change(&test.expr, levels)
                            .unwrap_or_else(|| format!("make `{}` true", test.text)),
                    ),
                )),
                Err(error) => found.push((format!("`{}` has no value: {error}", test.text), None)),
            }
        }
        if let (Bound::Fact(at), Some(kind)) = (&levels[node.level as usize], node.fact_type) {
            let slots = &self.context().store.get(*at).slots;
            for (left, slot) in &node.keys {
                let value = left.value(&frame);
                if !value.as_ref().is_ok_and(|value| value.same(&slots[*slot])) {
                    let field = &self.rules.types[kind].fields[*slot].name;
                    let id = self.context().store.get(*at).id;
                    let change = (value.as_ref().ok())
                        .map(|wanted| format!("set `{field}` of #{id} to {}", cut(&wanted.to_json())));
                    let wanted = value.map_or_else(|error| error, |value| cut(&value.to_json()));
                    found.push((
                        format!("`{field}` is {}, not {wanted}", cut(&slots[*slot].to_json())),
                        change,
                    ));
                }
            }
        }
        found
    }

    /// The change of a field that makes a comparison with a constant true.
    fn change(&self, expr: &Expr, levels: &[Bound]) -> Option<String> {
        let field = |level: usize, slot: usize| {
            let Bound::Fact(at) = levels.get(level)? else {
                return None;
            };
            let fact = self.context().store.get(*at);
            Some(format!(
                "`{}` of #{}",
                self.rules.types[fact.kind].fields[slot].name, fact.id
            ))
        };
        match expr {
            Expr::Slot(level, slot) => Some(format!("set {} to true", field(*level, *slot)?)),
            Expr::Not(inner) => match &**inner {
                Expr::Slot(level, slot) => Some(format!("set {} to false", field(*level, *slot)?)),
                _ => None,
            },
            Expr::Binary(operator, sides) => {
                let (Expr::Slot(level, slot), Expr::Const(value)) = (&sides.0, &sides.1) else {
                    return None;
                };
                let (field, value) = (field(*level, *slot)?, cut(&value.to_json()));
                Some(match operator {
                    Binary::Equal => format!("set {field} to {value}"),
                    Binary::Differs => format!("set {field} to something else than {value}"),
                    Binary::Less => format!("bring {field} below {value}"),
                    Binary::AtMost => format!("bring {field} down to {value}"),
                    Binary::Greater => format!("bring {field} above {value}"),
                    Binary::AtLeast => format!("bring {field} up to {value}"),
                    _ => return None,
                })
            }
            _ => None,
        }
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(59).collect::<String>())
    }
}
