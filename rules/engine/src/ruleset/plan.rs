//! The network as it is compiled, shared by all runs: who looks at which facts, and in which order. It holds no state.

use rustc_hash::FxHashMap;

use super::{NodeKind, Test, Timed};
use crate::expression::Expr;

pub(crate) const NONE: u32 = u32::MAX;

/// Marks the number of a rule among the numbers of joins.
pub(crate) const LEAF: u32 = 1 << 31;

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub alphas: Vec<Alpha>,
    /// For each fact type, who may want its facts.
    pub kinds: Vec<Dispatch>,
    pub indexes: Vec<Index>,
    /// A join stands after the one it continues.
    pub joins: Vec<Join>,
    /// Joins that begin a rule and wait for no fact.
    pub roots: Vec<u32>,
    /// Whether some condition needs the script engine.
    pub scripted: bool,
    /// By rule.
    pub chains: Vec<Chain>,
}

impl Plan {
    /// Whether some rule waits for the time.
    pub(crate) fn is_timed(&self) -> bool {
        self.joins.iter().any(|join| join.timed.is_some())
    }
}

/// Conditions on one fact alone, shared by all clauses that make them.
#[derive(Debug)]
pub(crate) struct Alpha {
    /// The first rule that asks, for messages.
    pub rule: u32,
    /// They look at level 0.
    pub tests: Vec<Test>,
    pub reads: u64,
    pub indexes: Vec<u32>,
}

/// The conditions on a fact type, found by the literals they compare with.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    /// For a slot: the conditions `slot == literal` by the literal's hash.
    pub slots: Vec<(usize, FxHashMap<u64, Vec<u32>>)>,
    /// Those without such a literal.
    pub others: Vec<u32>,
}

/// The facts of an [`Alpha`], found by some parts of them.
#[derive(Debug)]
pub(crate) struct Index {
    pub alpha: u32,
    pub parts: Vec<Part>,
    /// Facts of equal parts stand in the order of this slot.
    pub ordered: Option<usize>,
    /// Facts are looked up by a number between the slot of the order and this one.
    pub until: Option<usize>,
    /// All slots that decide where a fact stands.
    pub mask: u64,
    pub joins: Vec<u32>,
    /// Those of them that count their facts.
    pub counts: Vec<u32>,
}

/// What a fact is found by.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Slot(usize),
    /// Of the fact alone, at level 0.
    Computed(Box<Expr>),
}

impl Part {
    /// What tells it from other parts.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Slot(slot) => format!("{slot:02}"),
            Self::Computed(expr) => format!("{expr:?}"),
        }
    }

    /// The slots it looks at.
    pub(crate) fn reads(&self) -> u64 {
        match self {
            Self::Slot(slot) => 1 << slot,
            Self::Computed(expr) => expr.reads(0),
        }
    }
}

/// A clause in its place: what comes from the left is joined with the facts of an index.
#[derive(Debug)]
pub(crate) struct Join {
    pub kind: NodeKind,
    /// The first rule that has it, for messages.
    pub rule: u32,
    pub parent: u32,
    /// Its place in the chain; expressions speak of depths where clauses speak of levels.
    pub depth: usize,
    /// [`NONE`] for `if` and conditions on the time.
    pub index: u32,
    pub timed: Option<Timed>,
    /// Equal parts: what the left says, and the part of the fact.
    pub keys: Vec<(Expr, Part)>,
    pub tests: Vec<Test>,
    pub range: Option<Range>,
    /// A `no` or `any` without scripts: one fact is enough to decide it.
    pub blocks: bool,
    pub measure: Option<Expr>,
    pub order: Option<Expr>,
    /// Slots of its fact that its own tests look at, beside the keys.
    pub own: u64,
    /// Slots of its fact that deeper joins look at.
    pub below: u64,
    /// Slots of its fact that some rule reads.
    pub reads: u64,
    /// The slots it looks at of facts before it, by their depth.
    pub looks: Vec<(usize, u64)>,
    /// The slots of facts before it, by their depth, that the rules read to which it leads.
    pub wants: Vec<(usize, u64)>,
    /// What follows: joins, and rules as [`LEAF`] and number.
    pub next: Vec<u32>,
}

/// Tests `slot < bound` or the like, for which facts stand in order; they are tested all the same.
#[derive(Debug)]
pub(crate) struct Range {
    pub slot: usize,
    pub low: Option<Edge>,
    pub high: Option<Edge>,
    /// Another slot is not below `high`: the fact spans what lies between its two slots.
    pub until: Option<usize>,
}

/// An end of a range: a sum of what the left says.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    /// What is added, or else subtracted.
    pub terms: Vec<(bool, Expr)>,
    /// Not as it was written: the numbers may be rounded in another way.
    pub turned: bool,
    /// The end itself does not belong to the range.
    pub strict: bool,
}

/// A rule's way through the network.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The clause at each depth; [`NONE`] for a condition on the time.
    pub order: Vec<u32>,
    /// The depth of each clause.
    pub depths: Vec<u32>,
    /// The join at each depth.
    pub joins: Vec<u32>,
    /// For each depth the slots of the bound fact that the rule reads.
    pub reads: Vec<u64>,
    /// The depths of the bound facts, in the order of the clauses.
    pub binds: Vec<u32>,
}
