//! What is said of a rule that is explained: as values for a host, and as text for people.

use std::fmt;

use serde::Serialize;

use crate::turn::FactId;

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
    /// Some of the full matches: the facts of each, with their versions and who wrote them.
    pub matched: Vec<Vec<String>>,
    /// The facts of a deepest partial match, when there is no full one.
    pub deepest: Vec<String>,
    /// How often its sections have run, as far as the host has looked back.
    pub ran: usize,
    /// The latest of them, newest first, when the host keeps a history.
    pub latest: Vec<Fired>,
}

/// A section of the rule that ran, as a host's history has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fired {
    /// The turn.
    pub turn: u64,
    /// Which section: `action`, `reaction` or `error`.
    pub section: &'static str,
    /// The facts and the versions they had.
    pub facts: Vec<(FactId, u64)>,
    /// What it threw.
    pub threw: Option<String>,
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
    /// Facts that would have to be otherwise, the nearest first; only for the first clause that nothing passes.
    pub near: Vec<NearMiss>,
    /// How many facts come as near as the nearest.
    pub nearest: usize,
}

/// Something that keeps a clause from being true.
#[derive(Debug, Clone, Serialize)]
pub struct NearMiss {
    /// The fact, when one is to blame.
    pub fact: Option<FactId>,
    /// What is false, or true and should not be.
    pub why: String,
    /// The change that would let the clause be true, when one change does.
    pub change: Option<String>,
    /// How many parts of the condition are false.
    #[serde(skip)]
    pub(super) parts: usize,
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
                if let Some(change) = &near.change {
                    writeln!(f, "        → {change}")?;
                }
            }
            if clause.nearest > clause.near.len() {
                writeln!(f, "      {} facts are as near", clause.nearest)?;
            }
        }
        for (at, facts) in self.deepest.iter().enumerate() {
            let lead = if at == 0 {
                "the match that came furthest: "
            } else {
                "  "
            };
            writeln!(f, "{lead}{facts}")?;
        }
        if self.ran > 0 {
            writeln!(
                f,
                "fired before: {} section{} ran",
                self.ran,
                if self.ran == 1 { "" } else { "s" }
            )?;
            for fired in &self.latest {
                write!(f, "  turn {}, {}:", fired.turn, fired.section)?;
                for (fact, version) in &fired.facts {
                    write!(f, " {fact} v{version}")?;
                }
                match &fired.threw {
                    Some(threw) => writeln!(f, " threw: {threw}")?,
                    None => writeln!(f)?,
                }
            }
        }
        if self.matches == 0 {
            return f.write_str(if self.ran > 0 {
                "no match now: it has fired, and does not match the facts as they are"
            } else {
                "no match: it has not fired for the facts as they are"
            });
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
