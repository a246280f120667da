//! The matcher: a RETE network with shared indexes, whose plan is in [`crate::ruleset::plan`].
//!
//! A token is a partial match: its parent's match and one thing more. An entry is a fact's place in an index. What a
//! change costs follows the tokens it touches: equalities are hash lookups, ranges are looked up in order, `no`, `any` and
//! the aggregates are counters beside their left token, a collected list is only made when a rule fires. The network holds
//! nothing that the facts do not determine, except which activations have fired; so it is built anew from a snapshot and
//! never stored. Nothing is allocated for joins and indexes that are empty: all share the same few tables.
//!
//! The changes of a section are one step (see `change`): what no longer holds is withdrawn while the facts are as they
//! were, then the facts change, then what holds now is offered, the deepest joins first, so that no match is made twice.
//! A token whose tests and keys a change leaves as they were stays; when its rule reads the slot it may fire again. At
//! last the counters' net change is looked at ([`Network::settle`]): one that is as it was disturbs nothing.

mod agenda;
mod change;
mod counters;
mod exact;
mod tables;
mod timed;

use std::collections::BTreeSet;

use hashbrown::HashTable;
use rustc_hash::FxHashMap;

use super::store::{Fact, Store};
use crate::Value;
use crate::expression::{Bound, Levels, Look, Seen};
pub(crate) use crate::ruleset::plan::NONE;
use crate::ruleset::plan::{Chain, Join, LEAF};
use crate::ruleset::{NodeKind, RuleSet, Test};
pub(crate) use change::Batch;
use counters::Sum;
use tables::Sorted;
pub(crate) use timed::Clock;

/// A partial match; a full one when `next` is a rule. Then the links of the left index are those of the agenda.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub parent: u32,
    /// The fact it adds, or [`NONE`].
    pub fact: u32,
    entry: u32,
    /// The join it is offered to, or [`LEAF`] and the rule.
    pub next: u32,
    first_child: u32,
    next_sibling: u32,
    previous_sibling: u32,
    next_of_entry: u32,
    previous_of_entry: u32,
    next_left: u32,
    previous_left: u32,
    /// The facts of the next join that match, when that join counts; for a full match how much older than its newest
    /// fact the second newest is.
    matched: u32,
    /// The hash of what the left says to the keys of the next join; the newest stamp of a full match.
    key: u64,
    state: u8,
}

mod state {
    pub(super) const LIVE: u8 = 1;
    /// Waits to fire.
    pub(super) const ARMED: u8 = 2;
    /// Its counter has changed.
    pub(super) const TOUCHED: u8 = 4;
    /// It stands in the list of the entry that blocks it, and not in its join's index.
    pub(super) const BLOCKED: u8 = 8;
    /// It is taken out of its join while what the join looks at changes.
    pub(super) const LOOSE: u8 = 16;
}

/// A fact in an index.
#[derive(Debug, Clone)]
struct Entry {
    fact: u32,
    index: u32,
    /// The hash of the indexed slots.
    key: u64,
    next: u32,
    previous: u32,
    next_of_fact: u32,
    /// The first token with this fact.
    tokens: u32,
    /// The first token that it blocks.
    blocked: u32,
}

#[derive(Debug)]
pub(crate) struct Network {
    tokens: Vec<Token>,
    free: Vec<u32>,
    entries: Vec<Entry>,
    free_entries: Vec<u32>,
    /// The first entry of each fact, by its place in the store.
    of_fact: Vec<u32>,
    /// First tokens by join and key, and first entries by index and key.
    lefts: HashTable<u32>,
    rights: HashTable<u32>,
    /// How many tokens wait for facts of each join; empty while none has.
    lefts_by_join: Vec<u32>,
    /// The same for joins with a range and for ordered indexes.
    sorted_lefts: BTreeSet<Sorted>,
    sorted_rights: BTreeSet<Sorted>,
    /// For joins with a range of two ends, how far these have ever been apart.
    widths: FxHashMap<u32, f64>,
    /// For indexes of facts that reach from one slot to another, how far any has ever reached.
    reaches: FxHashMap<u32, f64>,
    values: FxHashMap<u32, Value>,
    sums: FxHashMap<u32, Box<Sum>>,
    touched: Vec<u32>,
    /// When which tokens are to be looked at again, and the time as far as it is known.
    timed: BTreeSet<(i64, u32)>,
    pub clock: Clock,
    /// The activation that fires next.
    top: u32,
    armed: usize,
    /// While a state is restored: rules whose matches have fired already.
    pub quiet: Option<Vec<bool>>,
    /// Conditions that had no value, with the last reason.
    pub failures: u64,
    pub failure: Option<(u32, String)>,
}

/// What a network works with.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub rules: &'a RuleSet,
    pub store: &'a Store,
}

impl<'a> World<'a> {
    fn join(&self, at: u32) -> &'a Join {
        &self.rules.plan.joins[at as usize]
    }

    fn chain(&self, rule: u32) -> &'a Chain {
        &self.rules.plan.chains[rule as usize]
    }
}

/// A token and the fact that is to follow it, as conditions see them.
struct Pair<'a> {
    world: World<'a>,
    network: &'a Network,
    left: u32,
    depth: usize,
    fact: u32,
}

impl<'a> Pair<'a> {
    /// The token at a depth before the pair's own.
    fn token(&self, depth: usize) -> u32 {
        let mut at = self.left;
        for _ in depth + 1..self.depth {
            at = self.network.tokens[at as usize].parent;
        }
        at
    }
}

impl<'a> Look<'a> for Pair<'a> {
    fn rules(&self) -> &'a RuleSet {
        self.world.rules
    }

    fn fact(&self, depth: usize) -> Option<&'a Fact> {
        let fact = if depth == self.depth {
            self.fact
        } else {
            self.network.tokens[self.token(depth) as usize].fact
        };
        (fact != NONE).then(|| self.world.store.get(fact))
    }

    fn level(&self, depth: usize) -> Seen<'a> {
        if let Some(fact) = self.fact(depth) {
            return Seen::Fact(fact);
        }
        if depth == self.depth {
            return Seen::Nothing;
        }
        self.network.seen(self.world, self.token(depth))
    }
}

impl Network {
    pub(crate) fn new() -> Self {
        Self {
            tokens: Vec::new(),
            free: Vec::new(),
            entries: Vec::new(),
            free_entries: Vec::new(),
            of_fact: Vec::new(),
            lefts: HashTable::new(),
            rights: HashTable::new(),
            lefts_by_join: Vec::new(),
            sorted_lefts: BTreeSet::new(),
            sorted_rights: BTreeSet::new(),
            widths: FxHashMap::default(),
            reaches: FxHashMap::default(),
            values: FxHashMap::default(),
            sums: FxHashMap::default(),
            touched: Vec::new(),
            timed: BTreeSet::new(),
            clock: Clock::default(),
            top: NONE,
            armed: 0,
            quiet: None,
            failures: 0,
            failure: None,
        }
    }

    /// Starts the rules whose first join waits for no fact.
    pub(crate) fn start(&mut self, world: World<'_>) {
        for root in &world.rules.plan.roots {
            let token = self.make(NONE, NONE, *root);
            self.enter(world, token, *root);
        }
    }

    fn token(&self, at: u32) -> &Token {
        &self.tokens[at as usize]
    }

    fn token_mut(&mut self, at: u32) -> &mut Token {
        &mut self.tokens[at as usize]
    }

    fn is(&self, at: u32, state: u8) -> bool {
        self.tokens[at as usize].state & state != 0
    }

    /// The join that made a token, or [`NONE`] for a root.
    fn join_of(world: World<'_>, token: &Token) -> u32 {
        if token.next & LEAF == 0 {
            world.join(token.next).parent
        } else {
            let chain = world.chain(token.next & !LEAF);
            chain.joins.last().copied().unwrap_or(NONE)
        }
    }

    /// The rule of a full match.
    pub(crate) fn rule_of(&self, at: u32) -> u32 {
        self.token(at).next & !LEAF
    }

    /// What a token without a fact stands for.
    fn seen<'a>(&'a self, world: World<'a>, at: u32) -> Seen<'a> {
        let token = self.token(at);
        let join = Self::join_of(world, token);
        if join == NONE {
            return Seen::Nothing;
        }
        match world.join(join).kind {
            NodeKind::Collect => Seen::Collected(i64::from(self.token(token.parent).matched)),
            NodeKind::Count | NodeKind::Sum | NodeKind::Min | NodeKind::Max => {
                self.values.get(&at).map_or(Seen::Nothing, Seen::Value)
            }
            NodeKind::Bind | NodeKind::No | NodeKind::Any | NodeKind::If => Seen::Nothing,
        }
    }

    /// What the levels of a rule hold for one of its tokens, the last at this depth.
    pub(crate) fn levels(&self, world: World<'_>, mut at: u32, rule: u32, mut depth: usize) -> Levels {
        let chain = world.chain(rule);
        let mut levels: Levels = smallvec::smallvec![Bound::Nothing; chain.depths.len()];
        while at != NONE {
            let token = self.token(at);
            if let Some(level) = chain.order.get(depth)
                && *level != NONE
            {
                levels[*level as usize] = self.held(world, at);
            }
            at = token.parent;
            depth = depth.wrapping_sub(1);
        }
        levels
    }

    pub(crate) fn parent(&self, at: u32) -> u32 {
        self.token(at).parent
    }

    /// What a token adds to its match.
    pub(crate) fn held(&self, world: World<'_>, at: u32) -> Bound {
        let fact = self.token(at).fact;
        if fact != NONE {
            return Bound::Fact(fact);
        }
        match self.seen(world, at) {
            Seen::Value(value) => Bound::Value(value.clone()),
            Seen::Collected(length) => Bound::Collected(length),
            Seen::Fact(_) | Seen::Nothing => Bound::Nothing,
        }
    }

    /// The token at this depth of a full match.
    pub(crate) fn ancestor(&self, world: World<'_>, mut at: u32, depth: u32) -> u32 {
        let chain = world.chain(self.rule_of(at));
        for _ in depth as usize + 1..chain.order.len() {
            at = self.token(at).parent;
        }
        at
    }

    fn all(
        &mut self,
        world: World<'_>,
        rule: u32,
        tests: &[Test],
        left: u32,
        depth: usize,
        fact: u32,
    ) -> bool {
        for test in tests {
            let pair = Pair {
                world,
                network: self,
                left,
                depth,
                fact,
            };
            match test.expr.holds(&pair) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(why) => {
                    self.failures += 1;
                    self.failure = Some((rule, format!("`{}`: {why}", test.text)));
                    return false;
                }
            }
        }
        true
    }

    /// Whether a fact of the join's index goes with a left token.
    fn joins(&mut self, world: World<'_>, join: &Join, left: u32, fact: u32) -> bool {
        let equal = join.keys.is_empty() || self.is_equal(world, join, left, fact);
        equal && self.all(world, join.rule, &join.tests, left, join.depth, fact)
    }

    // ---- tokens ----

    /// A new token, linked to its parent and its entry, not yet offered.
    fn make(&mut self, parent: u32, entry: u32, next: u32) -> u32 {
        let (fact, following) = if entry == NONE {
            (NONE, NONE)
        } else {
            let entry = &self.entries[entry as usize];
            (entry.fact, entry.tokens)
        };
        let sibling = if parent == NONE {
            NONE
        } else {
            self.token(parent).first_child
        };
        let token = Token {
            parent,
            fact,
            entry,
            next,
            first_child: NONE,
            next_sibling: sibling,
            previous_sibling: NONE,
            next_of_entry: following,
            previous_of_entry: NONE,
            next_left: NONE,
            previous_left: NONE,
            matched: 0,
            key: 0,
            state: state::LIVE,
        };
        let at = if let Some(at) = self.free.pop() {
            self.tokens[at as usize] = token;
            at
        } else {
            self.tokens.push(token);
            u32::try_from(self.tokens.len() - 1).expect("memory ends before 2^32 tokens")
        };
        if parent != NONE {
            self.token_mut(parent).first_child = at;
            if sibling != NONE {
                self.token_mut(sibling).previous_sibling = at;
            }
        }
        if entry != NONE {
            self.entries[entry as usize].tokens = at;
            if following != NONE {
                self.token_mut(following).previous_of_entry = at;
            }
        }
        at
    }

    /// A match grows by one clause.
    fn extend(&mut self, world: World<'_>, parent: u32, join: &Join, entry: u32, value: Option<&Value>) {
        for next in &join.next {
            let token = self.make(parent, entry, *next);
            if let Some(value) = value {
                self.values.insert(token, value.clone());
            }
            if next & LEAF == 0 {
                self.enter(world, token, *next);
            } else {
                self.activate(world, token);
            }
        }
    }

    /// Offers a new token to its next join.
    fn enter(&mut self, world: World<'_>, token: u32, at: u32) {
        let join = world.join(at);
        if let Some(timed) = &join.timed {
            self.wait(world, token, join, timed);
            return;
        }
        if join.kind == NodeKind::If {
            if self.all(world, join.rule, &join.tests, token, join.depth, NONE) {
                self.extend(world, token, join, NONE, None);
            }
            return;
        }
        let key = self.left_key(world, join, token);
        self.token_mut(token).key = key;
        if join.blocks {
            match self.blocker(world, join, token) {
                Some(entry) => self.block(token, entry),
                None => self.link_left(world, token, join),
            }
            return self.decide(world, token);
        }
        self.link_left(world, token, join);
        let mut bucket = self.bucket(world, join, token, key);
        while let Some(entry) = self.next_entry(&mut bucket) {
            let fact = self.entries[entry as usize].fact;
            if !self.joins(world, join, token, fact) {
                continue;
            }
            if join.kind == NodeKind::Bind {
                self.extend(world, token, join, entry, None);
            } else {
                self.tally(world, join, token, fact, true);
            }
        }
        if join.kind != NodeKind::Bind {
            self.decide(world, token);
        }
    }

    fn delete_children(&mut self, world: World<'_>, at: u32) {
        let mut child = std::mem::replace(&mut self.token_mut(at).first_child, NONE);
        while child != NONE {
            let next = self.token(child).next_sibling;
            self.delete(world, child, false);
            child = next;
        }
    }

    fn delete(&mut self, world: World<'_>, at: u32, unlink: bool) {
        let token = self.token(at);
        let (parent, next, entry) = (token.parent, token.next, token.entry);
        if next & LEAF == 0 {
            self.delete_children(world, at);
        }
        if unlink && parent != NONE {
            let token = self.token(at);
            let (before, after) = (token.previous_sibling, token.next_sibling);
            if before == NONE {
                self.token_mut(parent).first_child = after;
            } else {
                self.token_mut(before).next_sibling = after;
            }
            if after != NONE {
                self.token_mut(after).previous_sibling = before;
            }
        }
        if entry != NONE {
            let token = self.token(at);
            let (before, after) = (token.previous_of_entry, token.next_of_entry);
            if before == NONE {
                self.entries[entry as usize].tokens = after;
            } else {
                self.token_mut(before).next_of_entry = after;
            }
            if after != NONE {
                self.token_mut(after).previous_of_entry = before;
            }
        }
        if next & LEAF == 0 {
            self.leave(world, at);
        } else {
            self.disarm(world, at);
        }
        if !self.values.is_empty() {
            self.values.remove(&at);
        }
        self.token_mut(at).state = 0;
        self.free.push(at);
    }

    /// Takes a token out of where its next join keeps it.
    fn leave(&mut self, world: World<'_>, at: u32) {
        if self.is(at, state::LOOSE) {
            return;
        }
        let join = world.join(self.token(at).next);
        if join.kind != NodeKind::If {
            if self.is(at, state::BLOCKED) {
                self.unblock(at);
            } else {
                self.unlink_left(world, at, join);
            }
            if join.measure.is_some() {
                self.sums.remove(&at);
            }
        } else if join.timed.is_some() {
            let due = self.token(at).key.cast_signed();
            self.timed.remove(&(due, at));
        }
    }

    /// The live tokens of a rule at one depth, by number.
    pub(crate) fn tokens_of(&self, world: World<'_>, rule: u32, depth: usize) -> Vec<u32> {
        let joins = &world.chain(rule).joins;
        let next = joins.get(depth + 1).copied().unwrap_or(LEAF | rule);
        let own = joins.get(depth).copied();
        (0_u32..)
            .zip(&self.tokens)
            .filter(|(_, token)| token.state & state::LIVE != 0 && token.next == next)
            .filter(|(_, token)| Some(Self::join_of(world, token)) == own)
            .map(|(at, _)| at)
            .collect()
    }

    /// Gives back what a turn needed and the state does not.
    pub(crate) fn shrink(&mut self) {
        if self.tokens.len() == self.free.len() && !self.tokens.is_empty() {
            self.tokens = Vec::new();
            self.free = Vec::new();
        }
        let spare = |length: usize, capacity: usize| capacity > 2 * length;
        if self.tokens.len() <= SMALL || spare(self.tokens.len(), self.tokens.capacity()) {
            self.tokens.shrink_to_fit();
            self.free.shrink_to_fit();
            self.entries.shrink_to_fit();
            self.free_entries.shrink_to_fit();
            self.of_fact.shrink_to_fit();
        }
        self.touched = Vec::new();
    }

    pub(crate) fn bytes(&self) -> usize {
        self.tokens.capacity() * size_of::<Token>()
            + self.entries.capacity() * size_of::<Entry>()
            + (self.free.capacity() + self.free_entries.capacity()) * 4
            + (self.of_fact.capacity() + self.lefts_by_join.capacity()) * 4
            + (self.lefts.capacity() + self.rights.capacity()) * 6
            + (self.sorted_lefts.len() + self.sorted_rights.len()) * size_of::<Sorted>() * 3 / 2
            + (self.values.capacity() + self.sums.capacity()) * 48
    }
}

/// Below this many tokens memory is given back to the last byte after a turn: small runs are many.
const SMALL: usize = 256;
