//! The matcher: a RETE network with indexed memories, one chain of nodes for each rule.
//!
//! A token is a partial match: the token of a node is its parent's match and one thing more. What a change costs
//! follows the tokens it touches: equalities are hash lookups, `no`, `any` and the aggregates are counters beside their
//! left token, a collected list is only made when a rule fires. The network holds nothing that the facts do not
//! determine, except which activations have fired; so it is built anew from a snapshot and never stored.
//!
//! A change of a fact is three steps: [`Network::withdraw`] with the old slots, [`Network::offer`] with the new ones
//! (the deepest node of a rule first, so that no match is made twice), then [`Network::settle`], where the counters'
//! net change is looked at: an update that leaves a counter as it was disturbs nothing.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;

use super::store::Store;
use crate::Value;
use crate::expression::{Bound, Frame, Levels};
use crate::ruleset::{Node, NodeKind, RuleSet};

pub(crate) const NONE: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Token {
    /// The node whose match this is; [`NONE`] for the root of a rule.
    pub node: u32,
    /// The node it is offered to; [`NONE`] for a full match.
    pub next: u32,
    pub parent: u32,
    pub fact: u32,
    pub first_child: u32,
    next_sibling: u32,
    previous_sibling: u32,
    next_of_fact: u32,
    previous_of_fact: u32,
    /// Its place in the left index of the next node.
    key: u64,
    place: u32,
    /// The facts of the next node that match, when that node counts.
    pub matched: u32,
    pub rule: u32,
    /// The newest of its facts' writes.
    pub stamp: u64,
    pub fired: bool,
    pub live: bool,
    touched: bool,
}

#[derive(Debug, Clone, Copy)]
struct Right {
    key: u64,
    place: u32,
    /// The first token of this node with this fact.
    head: u32,
}

#[derive(Debug, Default)]
struct Memory {
    left: FxHashMap<u64, Vec<u32>>,
    right: FxHashMap<u32, Right>,
    index: FxHashMap<u64, Vec<u32>>,
}

/// What an aggregate knows of a left token's facts, beside their number.
#[derive(Debug, Default)]
struct Sum {
    whole: i128,
    fractions: u32,
    ordered: BTreeMap<Ordered, u32>,
}

#[derive(Debug, PartialEq)]
struct Ordered(Value);

impl Eq for Ordered {}
impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_order(&other.0)
    }
}

/// The order of the agenda: salience, then recency, then declaration, then the recency of the other facts, then ages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    salience: std::cmp::Reverse<i32>,
    recency: std::cmp::Reverse<u64>,
    pub rule: u32,
    /// When each bound fact changed, the newest first: a search goes on from where it stands.
    depth: std::cmp::Reverse<SmallVec<[u64; 4]>>,
    pub facts: SmallVec<[u64; 4]>,
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    pub tokens: Vec<Token>,
    free: Vec<u32>,
    nodes: Vec<Option<Box<Memory>>>,
    values: FxHashMap<u32, Value>,
    sums: FxHashMap<u32, Sum>,
    touched: Vec<u32>,
    pub agenda: BTreeMap<Rank, u32>,
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

impl World<'_> {
    fn node(&self, at: u32) -> &Node {
        &self.rules.nodes[at as usize]
    }
}

impl Network {
    pub(crate) fn new(rules: &RuleSet) -> Self {
        let mut nodes = Vec::new();
        nodes.resize_with(rules.nodes.len(), || None);
        Self {
            nodes,
            ..Self::default()
        }
    }

    /// Starts the rules whose first clause waits for no fact.
    pub(crate) fn start(&mut self, world: World<'_>) {
        for (number, rule) in (0_u32..).zip(&world.rules.rules) {
            if rule.nodes > 0 && world.node(rule.first).kind != NodeKind::Bind {
                self.extend(world, NONE, NONE, number, rule.first, None);
            }
        }
    }

    fn memory(&mut self, node: u32) -> &mut Memory {
        self.nodes[node as usize].get_or_insert_default()
    }

    fn token(&self, at: u32) -> &Token {
        &self.tokens[at as usize]
    }

    fn token_mut(&mut self, at: u32) -> &mut Token {
        &mut self.tokens[at as usize]
    }

    /// What the levels of a token's rule hold.
    pub(crate) fn levels(&self, world: World<'_>, mut at: u32, rule: u32) -> Levels {
        let count = world.rules.rules[rule as usize].nodes as usize;
        let mut levels: Levels = smallvec::smallvec![Bound::Nothing; count];
        while at != NONE {
            let token = self.token(at);
            if token.node != NONE {
                let node = world.node(token.node);
                levels[node.level as usize] = match node.kind {
                    NodeKind::Bind => Bound::Fact(token.fact),
                    NodeKind::Collect => Bound::Collected(i64::from(self.token(token.parent).matched)),
                    NodeKind::Count | NodeKind::Sum | NodeKind::Min | NodeKind::Max => {
                        Bound::Value(self.values.get(&at).cloned().unwrap_or_default())
                    }
                    NodeKind::No | NodeKind::Any | NodeKind::If => Bound::Nothing,
                };
            }
            at = token.parent;
        }
        levels
    }

    fn all(
        &mut self,
        world: World<'_>,
        node: &Node,
        tests: &[crate::ruleset::Test],
        levels: &[Bound],
    ) -> bool {
        let frame = Frame {
            rules: world.rules,
            store: world.store,
            levels,
        };
        for test in tests {
            match test.expr.holds(&frame) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(why) => {
                    self.failures += 1;
                    self.failure = Some((node.rule, format!("`{}`: {why}", test.text)));
                    return false;
                }
            }
        }
        true
    }

    /// Whether the fact at the node's level goes with the rest of the levels.
    fn joins(&mut self, world: World<'_>, node: &Node, fact: u32, levels: &mut Levels) -> bool {
        levels[node.level as usize] = Bound::Fact(fact);
        let equal = {
            let frame = Frame {
                rules: world.rules,
                store: world.store,
                levels,
            };
            let slots = &world.store.get(fact).slots;
            node.keys
                .iter()
                .all(|(left, slot)| left.value(&frame).is_ok_and(|value| value.same(&slots[*slot])))
        };
        let passes = equal && self.all(world, node, &node.join, levels);
        levels[node.level as usize] = Bound::Nothing;
        passes
    }

    /// The key under which the node's index holds a fact.
    fn right_key(world: World<'_>, node: &Node, fact: u32) -> u64 {
        let mut hasher = FxHasher::default();
        let slots = &world.store.get(fact).slots;
        node.keys
            .iter()
            .for_each(|(_, slot)| slots[*slot].hash_into(&mut hasher));
        hasher.finish()
    }

    /// The key under which a left token finds its facts, when its side has a value.
    fn left_key(&mut self, world: World<'_>, node: &Node, levels: &[Bound]) -> u64 {
        let mut hasher = FxHasher::default();
        let frame = Frame {
            rules: world.rules,
            store: world.store,
            levels,
        };
        for (left, _) in &node.keys {
            match left.value(&frame) {
                Ok(value) => value.hash_into(&mut hasher),
                Err(why) => {
                    self.failures += 1;
                    self.failure = Some((node.rule, why));
                    1_u8.hash(&mut hasher);
                }
            }
        }
        hasher.finish()
    }

    // ---- facts from the right ----

    /// Takes a fact out of a node; called before the fact changes or goes.
    pub(crate) fn withdraw(&mut self, world: World<'_>, at: u32, fact: u32) {
        let node = world.node(at);
        let Some(memory) = self.nodes[at as usize].as_mut() else {
            return;
        };
        let Some(entry) = memory.right.remove(&fact) else {
            return;
        };
        if node.level > 0 || node.kind != NodeKind::Bind {
            let bucket = memory
                .index
                .get_mut(&entry.key)
                .expect("an indexed fact has a bucket");
            bucket.swap_remove(entry.place as usize);
            if let Some(moved) = bucket.get(entry.place as usize) {
                memory
                    .right
                    .get_mut(moved)
                    .expect("an indexed fact is known")
                    .place = entry.place;
            } else if bucket.is_empty() {
                memory.index.remove(&entry.key);
            }
        }
        if node.kind == NodeKind::Bind {
            let mut token = entry.head;
            while token != NONE {
                let next = self.token(token).next_of_fact;
                self.delete(world, token, true);
                token = next;
            }
        } else {
            self.count(world, at, fact, entry.key, false);
        }
    }

    /// Offers a fact to a node; called after the fact has changed or come.
    pub(crate) fn offer(&mut self, world: World<'_>, at: u32, fact: u32) {
        let node = world.node(at);
        let mut levels: Levels =
            smallvec::smallvec![Bound::Nothing; world.rules.rules[node.rule as usize].nodes as usize];
        levels[node.level as usize] = Bound::Fact(fact);
        if !self.all(world, node, &node.alpha, &levels) {
            return;
        }
        if node.level == 0 && node.kind == NodeKind::Bind {
            self.memory(at).right.insert(
                fact,
                Right {
                    key: 0,
                    place: 0,
                    head: NONE,
                },
            );
            self.extend(world, NONE, at, node.rule, following(world, node, at), Some(fact));
            return;
        }
        let key = Self::right_key(world, node, fact);
        let memory = self.memory(at);
        let bucket = memory.index.entry(key).or_default();
        let place = u32::try_from(bucket.len()).expect("facts are bounded far below 2^32");
        bucket.push(fact);
        memory.right.insert(
            fact,
            Right {
                key,
                place,
                head: NONE,
            },
        );
        if node.kind != NodeKind::Bind {
            self.count(world, at, fact, key, true);
            return;
        }
        // The bucket is taken out while deeper nodes change; they never look at this one.
        let Some(bucket) = self.memory(at).left.get_mut(&key).map(std::mem::take) else {
            return;
        };
        for left in &bucket {
            let mut levels = self.levels(world, *left, node.rule);
            if self.joins(world, node, fact, &mut levels) {
                self.extend(
                    world,
                    *left,
                    at,
                    node.rule,
                    following(world, node, at),
                    Some(fact),
                );
            }
        }
        self.memory(at).left.insert(key, bucket);
    }

    /// Adds or takes away a fact in the counters of the left tokens it goes with.
    fn count(&mut self, world: World<'_>, at: u32, fact: u32, key: u64, adds: bool) {
        let node = world.node(at);
        let Some(bucket) = self.memory(at).left.get_mut(&key).map(std::mem::take) else {
            return;
        };
        for left in &bucket {
            let mut levels = self.levels(world, *left, node.rule);
            if self.joins(world, node, fact, &mut levels) {
                self.tally(world, node, *left, fact, &mut levels, adds);
                if !self.token(*left).touched {
                    self.token_mut(*left).touched = true;
                    self.touched.push(*left);
                }
            }
        }
        self.memory(at).left.insert(key, bucket);
    }

    fn tally(
        &mut self,
        world: World<'_>,
        node: &Node,
        left: u32,
        fact: u32,
        levels: &mut Levels,
        adds: bool,
    ) {
        let token = self.token_mut(left);
        token.matched = if adds {
            token.matched + 1
        } else {
            token.matched - 1
        };
        let Some(measure) = &node.measure else { return };
        let value = {
            levels[node.level as usize] = Bound::Fact(fact);
            let frame = Frame {
                rules: world.rules,
                store: world.store,
                levels,
            };
            measure
                .value(&frame)
                .map_or(Value::Null, std::borrow::Cow::into_owned)
        };
        levels[node.level as usize] = Bound::Nothing;
        let sum = self.sums.entry(left).or_default();
        if node.kind == NodeKind::Sum {
            match value {
                Value::Int(number) if adds => sum.whole += i128::from(number),
                Value::Int(number) => sum.whole -= i128::from(number),
                Value::Float(_) if adds => sum.fractions += 1,
                Value::Float(_) => sum.fractions -= 1,
                _ => {}
            }
        } else if !value.is_null() {
            if adds {
                *sum.ordered.entry(Ordered(value)).or_default() += 1;
            } else if let std::collections::btree_map::Entry::Occupied(mut held) =
                sum.ordered.entry(Ordered(value))
            {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
    }

    /// Looks at the counters that have changed.
    pub(crate) fn settle(&mut self, world: World<'_>) {
        while !self.touched.is_empty() {
            let mut touched = std::mem::take(&mut self.touched);
            // Earlier clauses first, so that a later one is not looked at in vain.
            touched.sort_unstable_by_key(|at| (self.token(*at).next, *at));
            for at in touched {
                let token = self.token_mut(at);
                if token.live && token.touched {
                    token.touched = false;
                    self.decide(world, at);
                }
            }
        }
    }

    /// Brings the child of a counted token in line with its counter.
    fn decide(&mut self, world: World<'_>, left: u32) {
        let token = self.token(left);
        let (at, child, matched, rule) = (token.next, token.first_child, token.matched, token.rule);
        let node = world.node(at);
        let following = following(world, node, at);
        match node.kind {
            NodeKind::No | NodeKind::Any => {
                let wanted = (matched == 0) == (node.kind == NodeKind::No);
                if wanted && child == NONE {
                    self.extend(world, left, at, rule, following, None);
                } else if !wanted && child != NONE {
                    self.delete(world, child, true);
                }
            }
            NodeKind::Collect => {
                if child != NONE {
                    self.delete(world, child, true);
                }
                self.extend(world, left, at, rule, following, None);
            }
            _ => {
                let value = self.aggregate(world, node, at, left);
                if child != NONE {
                    if self.values.get(&child) == Some(&value) {
                        return;
                    }
                    self.delete(world, child, true);
                }
                self.extend_with(world, left, at, rule, following, None, Some(value));
            }
        }
    }

    fn aggregate(&mut self, world: World<'_>, node: &Node, at: u32, left: u32) -> Value {
        let matched = self.token(left).matched;
        let sum = self.sums.get(&left);
        match node.kind {
            NodeKind::Count => Value::Int(i64::from(matched)),
            NodeKind::Min => sum
                .and_then(|sum| sum.ordered.keys().next())
                .map_or(Value::Null, |least| least.0.clone()),
            NodeKind::Max => sum
                .and_then(|sum| sum.ordered.keys().next_back())
                .map_or(Value::Null, |most| most.0.clone()),
            _ if sum.is_some_and(|sum| sum.fractions > 0) => {
                // Sums of fractions depend on the order; the facts' order makes them the same after every restore.
                let mut total = 0.0;
                for fact in self.collected(world, at, left) {
                    let mut levels = self.levels(world, left, node.rule);
                    levels[node.level as usize] = Bound::Fact(fact);
                    let frame = Frame {
                        rules: world.rules,
                        store: world.store,
                        levels: &levels,
                    };
                    match node
                        .measure
                        .as_ref()
                        .and_then(|measure| measure.value(&frame).ok())
                        .as_deref()
                    {
                        Some(Value::Int(number)) => total += crate::value::to_float(*number),
                        Some(Value::Float(number)) => total += number,
                        _ => {}
                    }
                }
                Value::Float(total)
            }
            _ => Value::Int(sum.map_or(0, |sum| i64::try_from(sum.whole).unwrap_or(i64::MAX))),
        }
    }

    /// The facts that go with a left token of a collecting node, by number.
    pub(crate) fn collected(&mut self, world: World<'_>, at: u32, left: u32) -> Vec<u32> {
        let node = world.node(at);
        let mut levels = self.levels(world, left, node.rule);
        let key = self.token(left).key;
        let bucket = self
            .memory(at)
            .index
            .get_mut(&key)
            .map(std::mem::take)
            .unwrap_or_default();
        let mut facts: Vec<u32> = bucket
            .iter()
            .copied()
            .filter(|fact| self.joins(world, node, *fact, &mut levels))
            .collect();
        if !bucket.is_empty() {
            self.memory(at).index.insert(key, bucket);
        }
        facts.sort_unstable_by_key(|fact| world.store.get(*fact).id);
        if let Some(order) = &node.order {
            let mut keyed: Vec<(Value, u32)> = facts
                .into_iter()
                .map(|fact| {
                    levels[node.level as usize] = Bound::Fact(fact);
                    let frame = Frame {
                        rules: world.rules,
                        store: world.store,
                        levels: &levels,
                    };
                    (
                        order
                            .value(&frame)
                            .map_or(Value::Null, std::borrow::Cow::into_owned),
                        fact,
                    )
                })
                .collect();
            keyed.sort_by(|a, b| a.0.total_order(&b.0));
            facts = keyed.into_iter().map(|(_, fact)| fact).collect();
        }
        facts
    }

    // ---- tokens ----

    fn extend(&mut self, world: World<'_>, parent: u32, node: u32, rule: u32, next: u32, fact: Option<u32>) {
        self.extend_with(world, parent, node, rule, next, fact, None);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a new token")]
    fn extend_with(
        &mut self,
        world: World<'_>,
        parent: u32,
        node: u32,
        rule: u32,
        next: u32,
        fact: Option<u32>,
        value: Option<Value>,
    ) {
        let before = if parent == NONE {
            0
        } else {
            self.token(parent).stamp
        };
        let stamp = fact.map_or(before, |fact| {
            before.max(world.store.get(fact).stamp(world.node(node).reads))
        });
        let token = Token {
            node,
            next,
            parent,
            fact: fact.unwrap_or(NONE),
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
            next_of_fact: NONE,
            previous_of_fact: NONE,
            key: 0,
            place: 0,
            matched: 0,
            rule,
            stamp,
            fired: false,
            live: true,
            touched: false,
        };
        let at = if let Some(at) = self.free.pop() {
            self.tokens[at as usize] = token;
            at
        } else {
            self.tokens.push(token);
            u32::try_from(self.tokens.len() - 1).expect("memory ends before 2^32 tokens")
        };
        if let Some(value) = value {
            self.values.insert(at, value);
        }
        if parent != NONE {
            let sibling = std::mem::replace(&mut self.token_mut(parent).first_child, at);
            self.token_mut(at).next_sibling = sibling;
            if sibling != NONE {
                self.token_mut(sibling).previous_sibling = at;
            }
        }
        if let Some(fact) = fact {
            let entry = self
                .memory(node)
                .right
                .get_mut(&fact)
                .expect("a matched fact is in the node's memory");
            let head = std::mem::replace(&mut entry.head, at);
            self.token_mut(at).next_of_fact = head;
            if head != NONE {
                self.token_mut(head).previous_of_fact = at;
            }
        }
        if next == NONE {
            self.activate(world, at);
        } else {
            self.enter(world, at, next);
        }
    }

    /// Offers a new token to its next node.
    fn enter(&mut self, world: World<'_>, token: u32, at: u32) {
        let node = world.node(at);
        let mut levels = self.levels(world, token, node.rule);
        if node.kind == NodeKind::If {
            if self.all(world, node, &node.join, &levels) {
                self.extend(world, token, at, node.rule, following(world, node, at), None);
            }
            return;
        }
        let key = self.left_key(world, node, &levels);
        let memory = self.memory(at);
        let left = memory.left.entry(key).or_default();
        let place = u32::try_from(left.len()).expect("memory ends before 2^32 tokens");
        left.push(token);
        let bucket = memory.index.get_mut(&key).map(std::mem::take);
        let entered = self.token_mut(token);
        entered.key = key;
        entered.place = place;
        if let Some(bucket) = bucket {
            for fact in &bucket {
                if !self.joins(world, node, *fact, &mut levels) {
                    continue;
                }
                if node.kind == NodeKind::Bind {
                    self.extend(
                        world,
                        token,
                        at,
                        node.rule,
                        following(world, node, at),
                        Some(*fact),
                    );
                } else {
                    self.tally(world, node, token, *fact, &mut levels, true);
                }
            }
            self.memory(at).index.insert(key, bucket);
        }
        if node.kind != NodeKind::Bind {
            self.decide(world, token);
        }
    }

    fn delete(&mut self, world: World<'_>, at: u32, unlink: bool) {
        let mut child = self.token(at).first_child;
        while child != NONE {
            let next = self.token(child).next_sibling;
            self.delete(world, child, false);
            child = next;
        }
        let token = self.token(at).clone();
        if unlink && token.parent != NONE {
            if token.previous_sibling == NONE {
                self.token_mut(token.parent).first_child = token.next_sibling;
            } else {
                self.token_mut(token.previous_sibling).next_sibling = token.next_sibling;
            }
            if token.next_sibling != NONE {
                self.token_mut(token.next_sibling).previous_sibling = token.previous_sibling;
            }
        }
        if token.fact != NONE {
            if token.previous_of_fact != NONE {
                self.token_mut(token.previous_of_fact).next_of_fact = token.next_of_fact;
            } else if let Some(entry) = self.memory(token.node).right.get_mut(&token.fact) {
                entry.head = token.next_of_fact;
            }
            if token.next_of_fact != NONE {
                self.token_mut(token.next_of_fact).previous_of_fact = token.previous_of_fact;
            }
        }
        if token.next == NONE {
            if !token.fired {
                let rank = self.rank(world, at);
                self.agenda.remove(&rank);
            }
        } else if world.node(token.next).kind != NodeKind::If {
            self.leave(token.next, &token);
            self.sums.remove(&at);
        }
        self.values.remove(&at);
        self.token_mut(at).live = false;
        self.free.push(at);
    }

    fn leave(&mut self, node: u32, token: &Token) {
        let memory = self.memory(node);
        // While a bucket is taken out its tokens are not deleted; see `offer` and `count`.
        let Some(bucket) = memory.left.get_mut(&token.key) else {
            return;
        };
        bucket.swap_remove(token.place as usize);
        let moved = bucket.get(token.place as usize).copied();
        if bucket.is_empty() {
            memory.left.remove(&token.key);
        }
        if let Some(moved) = moved {
            self.token_mut(moved).place = token.place;
        }
    }

    // ---- the agenda ----

    fn rank(&self, world: World<'_>, at: u32) -> Rank {
        let token = self.token(at);
        let (rule, stamp) = (token.rule, token.stamp);
        let mut facts = SmallVec::new();
        let mut depth: SmallVec<[u64; 4]> = SmallVec::new();
        let mut up = at;
        while up != NONE {
            let token = self.token(up);
            if token.fact != NONE {
                let fact = world.store.get(token.fact);
                facts.push(fact.id);
                depth.push(fact.stamp(world.node(token.node).reads));
            }
            up = token.parent;
        }
        facts.reverse();
        depth.sort_unstable_by(|a, b| b.cmp(a));
        let salience = std::cmp::Reverse(world.rules.rules[rule as usize].salience);
        Rank {
            salience,
            recency: std::cmp::Reverse(stamp),
            rule,
            depth: std::cmp::Reverse(depth),
            facts,
        }
    }

    fn activate(&mut self, world: World<'_>, at: u32) {
        let rule = self.token(at).rule;
        if self.quiet.as_ref().is_some_and(|quiet| quiet[rule as usize]) {
            self.token_mut(at).fired = true;
            return;
        }
        let rank = self.rank(world, at);
        self.agenda.insert(rank, at);
    }

    /// Takes the first activation off the agenda and marks it as fired.
    pub(crate) fn next(&mut self) -> Option<u32> {
        let (_, at) = self.agenda.pop_first()?;
        self.token_mut(at).fired = true;
        Some(at)
    }

    /// Puts a fired activation back.
    pub(crate) fn rearm(&mut self, world: World<'_>, at: u32) {
        if self.token(at).live && self.token(at).fired {
            self.token_mut(at).fired = false;
            let rank = self.rank(world, at);
            self.agenda.insert(rank, at);
        }
    }

    /// The live tokens of a node, by number.
    pub(crate) fn tokens_of(&self, node: u32) -> impl Iterator<Item = u32> {
        (0_u32..)
            .zip(&self.tokens)
            .filter(move |(_, token)| token.live && token.node == node)
            .map(|(at, _)| at)
    }

    pub(crate) fn bytes(&self) -> usize {
        let nodes: usize = (self.nodes.iter().flatten())
            .map(|memory| {
                size_of::<Memory>()
                    + memory.right.capacity() * 24
                    + (memory.left.capacity() + memory.index.capacity()) * 40
                    + memory
                        .left
                        .values()
                        .chain(memory.index.values())
                        .map(|bucket| bucket.capacity() * 4)
                        .sum::<usize>()
            })
            .sum();
        nodes
            + self.nodes.capacity() * 8
            + self.tokens.capacity() * size_of::<Token>()
            + self.agenda.len() * size_of::<(Rank, u32)>()
            + (self.values.capacity() + self.sums.capacity()) * 48
    }
}

fn following(_: World<'_>, node: &Node, at: u32) -> u32 {
    if node.last { NONE } else { at + 1 }
}
