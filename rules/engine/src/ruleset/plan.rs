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

/// The facts of an [`Alpha`], found by some of their slots.
#[derive(Debug)]
pub(crate) struct Index {
    pub alpha: u32,
    pub slots: Vec<usize>,
    /// Facts of equal slots stand in the order of this one.
    pub ordered: Option<usize>,
    /// All of these slots.
    pub mask: u64,
    pub joins: Vec<u32>,
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
    /// Equal parts: what the left says, and the slot of the fact.
    pub keys: Vec<(Expr, usize)>,
    pub tests: Vec<Test>,
    pub range: Option<Range>,
    pub measure: Option<Expr>,
    pub order: Option<Expr>,
    /// Slots of its fact that its own tests look at, beside the keys.
    pub own: u64,
    /// Slots of its fact that deeper joins look at.
    pub below: u64,
    /// Slots of its fact that some rule reads.
    pub reads: u64,
    /// What follows: joins, and rules as [`LEAF`] and number.
    pub next: Vec<u32>,
}

/// A test `slot < bound` or the like, for which facts stand in order; it is tested all the same.
#[derive(Debug)]
pub(crate) struct Range {
    pub slot: usize,
    /// Whether the slot is above the bound.
    pub upward: bool,
    pub bound: Expr,
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
