//! The agenda: a pairing heap whose links lie in the tokens of full matches, so that it takes no memory of its own.
//!
//! To insert is one comparison, and an activation may leave from anywhere (Fredman, Sedgewick, Sleator, Tarjan: The
//! pairing heap). The order is salience, then the newest change, then the rule's place in the file, then how new the
//! other facts are, then their ages; no two activations are equal in it.

use std::cmp::{Ordering, Reverse};

use smallvec::SmallVec;

use super::{LEAF, NONE, Network, Token, World, state};

/// An activation that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    pub token: u32,
    pub rule: u32,
    pub facts: SmallVec<[u64; 4]>,
}

impl Network {
    /// How many activations wait.
    pub(crate) const fn waiting(&self) -> usize {
        self.armed
    }

    /// Whether a full match has fired.
    pub(crate) fn has_fired(&self, at: u32) -> bool {
        !self.is(at, state::ARMED)
    }

    pub(super) fn activate(&mut self, world: World<'_>, at: u32) {
        let rule = self.rule_of(at);
        if self.quiet.as_ref().is_some_and(|quiet| quiet[rule as usize]) {
            return;
        }
        self.arm(world, at);
    }

    /// When the facts of a full match changed in the slots its rule reads, the newest first.
    fn stamps(&self, world: World<'_>, at: u32) -> SmallVec<[u64; 6]> {
        let mut stamps: SmallVec<[u64; 6]> = SmallVec::new();
        let chain = world.chain(self.rule_of(at));
        let mut up = at;
        for reads in chain.reads.iter().rev() {
            let token = self.token(up);
            if token.fact != NONE {
                stamps.push(world.store.get(token.fact).stamp(*reads));
            }
            up = token.parent;
        }
        stamps.sort_unstable_by(|a, b| b.cmp(a));
        stamps
    }

    /// The newest of these stamps, and how much older the second is, as far as 32 bits reach.
    fn freshness(&self, world: World<'_>, at: u32) -> (u64, u32) {
        let chain = world.chain(self.rule_of(at));
        let (mut newest, mut second) = (0, 0);
        let mut up = at;
        for reads in chain.reads.iter().rev() {
            let token = self.token(up);
            if token.fact != NONE {
                let stamp = world.store.get(token.fact).stamp(*reads);
                if stamp >= newest {
                    second = newest;
                    newest = stamp;
                } else if stamp > second {
                    second = stamp;
                }
            }
            up = token.parent;
        }
        (newest, u32::try_from(newest - second).unwrap_or(u32::MAX))
    }

    /// The facts of a full match by slab place, in the order of the clauses.
    pub(crate) fn facts_of(&self, world: World<'_>, at: u32) -> SmallVec<[u32; 4]> {
        let chain = world.chain(self.rule_of(at));
        let mut by_depth: SmallVec<[u32; 8]> = smallvec::smallvec![NONE; chain.order.len()];
        let mut up = at;
        for place in by_depth.iter_mut().rev() {
            *place = self.token(up).fact;
            up = self.token(up).parent;
        }
        chain
            .binds
            .iter()
            .map(|depth| by_depth[*depth as usize])
            .collect()
    }

    fn ids(&self, world: World<'_>, at: u32) -> SmallVec<[u64; 4]> {
        self.facts_of(world, at)
            .iter()
            .map(|fact| world.store.get(*fact).id)
            .collect()
    }

    fn compare(&self, world: World<'_>, a: u32, b: u32) -> Ordering {
        let (one, other) = (self.token(a), self.token(b));
        let salience = |token: &Token| Reverse(world.rules.rules[(token.next & !LEAF) as usize].salience);
        let by_rule = if one.next == other.next {
            Ordering::Equal
        } else {
            salience(one).cmp(&salience(other))
        };
        by_rule
            .then_with(|| other.key.cmp(&one.key))
            .then_with(|| one.next.cmp(&other.next))
            .then_with(|| one.matched.cmp(&other.matched))
            .then_with(|| self.stamps(world, b).cmp(&self.stamps(world, a)))
            .then_with(|| self.ids(world, a).cmp(&self.ids(world, b)))
    }

    /// Puts a full match on the agenda.
    pub(super) fn arm(&mut self, world: World<'_>, at: u32) {
        let (newest, lag) = self.freshness(world, at);
        if self.is(at, state::ARMED) {
            if self.token(at).key == newest {
                return;
            }
            self.disarm(world, at);
        }
        let token = self.token_mut(at);
        token.key = newest;
        token.matched = lag;
        token.state |= state::ARMED;
        token.first_child = NONE;
        token.next_left = NONE;
        token.previous_left = NONE;
        self.armed += 1;
        self.top = self.meld(world, self.top, at);
    }

    /// Makes one heap of two.
    fn meld(&mut self, world: World<'_>, a: u32, b: u32) -> u32 {
        if a == NONE || b == NONE {
            return if a == NONE { b } else { a };
        }
        let (top, below) = if self.compare(world, a, b).is_lt() {
            (a, b)
        } else {
            (b, a)
        };
        let child = std::mem::replace(&mut self.token_mut(top).first_child, below);
        self.token_mut(below).next_left = child;
        self.token_mut(below).previous_left = top;
        if child != NONE {
            self.token_mut(child).previous_left = below;
        }
        top
    }

    /// Makes one heap of a chain of siblings: in pairs from the left, then from the right.
    fn combine(&mut self, world: World<'_>, mut first: u32) -> u32 {
        let mut pairs = NONE;
        while first != NONE {
            let second = self.token(first).next_left;
            let rest = if second == NONE {
                NONE
            } else {
                self.token(second).next_left
            };
            self.alone(first);
            if second != NONE {
                self.alone(second);
            }
            let melded = self.meld(world, first, second);
            self.token_mut(melded).next_left = pairs;
            pairs = melded;
            first = rest;
        }
        let mut top = NONE;
        while pairs != NONE {
            let next = self.token(pairs).next_left;
            self.alone(pairs);
            top = self.meld(world, top, pairs);
            pairs = next;
        }
        top
    }

    fn alone(&mut self, at: u32) {
        let token = self.token_mut(at);
        token.next_left = NONE;
        token.previous_left = NONE;
    }

    /// Takes a full match off the agenda, if it is on it.
    pub(crate) fn disarm(&mut self, world: World<'_>, at: u32) {
        let token = self.token_mut(at);
        if token.state & state::ARMED == 0 {
            return;
        }
        token.state &= !state::ARMED;
        let children = std::mem::replace(&mut token.first_child, NONE);
        let (before, after) = (token.previous_left, token.next_left);
        self.armed -= 1;
        if at != self.top {
            if self.token(before).first_child == at {
                self.token_mut(before).first_child = after;
            } else {
                self.token_mut(before).next_left = after;
            }
            if after != NONE {
                self.token_mut(after).previous_left = before;
            }
        }
        self.alone(at);
        if at == self.top {
            self.top = self.combine(world, children);
        } else if children != NONE {
            let below = self.combine(world, children);
            self.top = self.meld(world, self.top, below);
        }
    }

    /// Takes the first activation off the agenda; it has fired then.
    pub(crate) fn next(&mut self, world: World<'_>) -> Option<u32> {
        let at = self.top;
        if at == NONE {
            return None;
        }
        self.disarm(world, at);
        Some(at)
    }

    /// What [`Network::next`] would take.
    pub(crate) fn peek(&self) -> Option<u32> {
        (self.top != NONE).then_some(self.top)
    }

    /// Puts a fired activation back.
    pub(crate) fn rearm(&mut self, world: World<'_>, at: u32) {
        if self.is(at, state::LIVE) {
            self.arm(world, at);
        }
    }

    /// Takes everything off the agenda.
    pub(crate) fn silence(&mut self) {
        for token in &mut self.tokens {
            if token.state & state::ARMED != 0 {
                token.state &= !state::ARMED;
                token.first_child = NONE;
            }
        }
        self.top = NONE;
        self.armed = 0;
    }

    /// What waits, in order.
    pub(crate) fn pending(&self, world: World<'_>) -> Vec<Pending> {
        let mut waiting: Vec<u32> = (0_u32..)
            .zip(&self.tokens)
            .filter(|(_, token)| token.state & state::ARMED != 0)
            .map(|(at, _)| at)
            .collect();
        waiting.sort_unstable_by(|a, b| self.compare(world, *a, *b));
        let pending = |token: u32| Pending {
            token,
            rule: self.rule_of(token),
            facts: self.ids(world, token),
        };
        waiting.into_iter().map(pending).collect()
    }
}
