//! Why a rule has fired, or which clause keeps it from firing, and for which facts.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::WorkingMemory;
use crate::expression::{Bound, Frame};
use crate::ruleset::{Node, NodeKind};
use crate::turn::FactId;

/// The partial matches, facts and reasons that are shown: enough to see, few enough to read.
const SHOWN: usize = 5;

/// There is no rule of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule `{name}`{}", similar.as_ref().map_or_else(String::new, |name| format!("; did you mean `{name}`?")))]
pub struct UnknownRule {
    /// The name that was given.
    pub name: String,
    /// A rule of nearly that name.
    pub similar: Option<String>,
}

impl UnknownRule {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> celesta_types::ErrorKind {
        celesta_types::ErrorKind::NotFound
    }
}

/// Why a rule fires or not.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The rule.
    pub rule: String,
    /// The line of the rule.
    pub line: usize,
    /// How many full matches there are; each has fired or will.
    pub matches: usize,
    /// How many of them are still to fire.
    pub pending: usize,
    /// The clauses as far as they are reached.
    pub clauses: Vec<ClauseReport>,
    /// Some of the full matches: the facts of each.
    pub matched: Vec<Vec<String>>,
}

/// How far a clause lets matches through.
#[derive(Debug, Clone, Serialize)]
pub struct ClauseReport {
    /// The clause as written.
    pub clause: String,
    /// How many partial matches come to it.
    pub arrive: usize,
    /// How many pass it.
    pub pass: usize,
    /// Facts that would have to be otherwise; only for the first clause that nothing passes.
    pub near: Vec<NearMiss>,
}

/// Something that keeps a clause from being true.
#[derive(Debug, Clone, Serialize)]
pub struct NearMiss {
    /// The fact, when one is to blame.
    pub fact: Option<FactId>,
    /// What is false, or true and should not be.
    pub why: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rule \"{}\" (line {})", self.rule, self.line)?;
        for clause in &self.clauses {
            let mark = if clause.pass > 0 { "✓" } else { "✗" };
            writeln!(
                f,
                "  {mark} {}   {} of {}",
                clause.clause, clause.pass, clause.arrive
            )?;
            for near in &clause.near {
                match near.fact {
                    Some(fact) => writeln!(f, "      {fact}: {}", near.why)?,
                    None => writeln!(f, "      {}", near.why)?,
                }
            }
        }
        if self.matches == 0 {
            return f.write_str("no match: it has not fired for the facts as they are");
        }
        let fired = self.matches - self.pending;
        write!(
            f,
            "{} match{}: {fired} fired, {} to fire",
            self.matches,
            if self.matches == 1 { "" } else { "es" },
            self.pending
        )?;
        for facts in &self.matched {
            write!(f, "\n  {}", facts.join(", "))?;
        }
        Ok(())
    }
}

impl WorkingMemory {
    /// Why the rule fires, or what keeps it from firing.
    ///
    /// # Errors
    /// There is no rule of this name.
    pub fn explain(&self, rule: &str) -> Result<Explanation, UnknownRule> {
        // What a memory at rest has matched is made again from its own snapshot.
        if self.at_rest
            && let Ok(awake) = Self::restore(&self.rules, self.run, Some(&self.snapshot()), [])
        {
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
                });
                arriving = passing;
                if arriving.is_empty() {
                    break;
                }
                continue;
            };
            let near = if passing.is_empty() {
                self.near(node, number, depth, &arriving)
            } else {
                Vec::new()
            };
            clauses.push(ClauseReport {
                clause: node.text.clone(),
                arrive: arriving.len(),
                pass: passing.len(),
                near,
            });
            if passing.is_empty() {
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
        })
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

    /// What keeps the clause from being true for the matches that come to it.
    fn near(&self, node: &Node, rule: u32, depth: usize, arriving: &[Option<u32>]) -> Vec<NearMiss> {
        let store = &self.context().store;
        let world = self.world();
        let mut near = Vec::new();
        let mut facts: Vec<_> = store
            .live()
            .filter(|(_, fact)| Some(fact.kind) == node.fact_type)
            .map(|(at, fact)| (fact.id, at))
            .collect();
        facts.sort_unstable();
        if facts.is_empty() && !matches!(node.kind, NodeKind::If | NodeKind::No) {
            let name = node.fact_type.map_or("", |kind| &*self.rules.types[kind].name);
            near.push(NearMiss {
                fact: None,
                why: format!("there is no fact `{name}`"),
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
                        .map(|why| NearMiss { fact: None, why }),
                );
                continue;
            }
            for (id, at) in &facts {
                if near.len() >= SHOWN {
                    break;
                }
                levels[node.level as usize] = Bound::Fact(*at);
                let why = self.false_tests(node, &levels);
                if node.kind == NodeKind::No && why.is_empty() {
                    near.push(NearMiss {
                        fact: Some(FactId(*id)),
                        why: format!("is there: {}", self.shown(*at)),
                    });
                } else if node.kind != NodeKind::No && !why.is_empty() {
                    near.push(NearMiss {
                        fact: Some(FactId(*id)),
                        why: why.join("; "),
                    });
                }
            }
        }
        near.truncate(SHOWN);
        near
    }

    fn false_tests(&self, node: &Node, levels: &[Bound]) -> Vec<String> {
        let frame = Frame {
            rules: &self.rules,
            store: &self.context().store,
            levels,
        };
        let mut why = Vec::new();
        for test in node.alpha.iter().chain(&node.join) {
            match test.expr.holds(&frame) {
                Ok(true) => {}
                Ok(false) => why.push(format!("`{}` is false{}", test.text, test.expr.sides(&frame))),
                Err(error) => why.push(format!("`{}` has no value: {error}", test.text)),
            }
        }
        if let (Bound::Fact(at), Some(kind)) = (&levels[node.level as usize], node.fact_type) {
            let slots = &self.context().store.get(*at).slots;
            for (left, slot) in &node.keys {
                let value = left.value(&frame);
                if !value.as_ref().is_ok_and(|value| value.same(&slots[*slot])) {
                    let field = &self.rules.types[kind].fields[*slot].name;
                    let wanted = value.map_or_else(|error| error, |value| cut(&value.to_json()));
                    why.push(format!(
                        "`{field}` is {}, not {wanted}",
                        cut(&slots[*slot].to_json())
                    ));
                }
            }
        }
        why
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(59).collect::<String>())
    }
}
