//! Conditions on the time: tokens that wait for an instant, in its order.
//!
//! The network has no clock. It is told the time when a turn begins, and time does not run backward for it. What it knows
//! of the time is part of the stored state, so that a restored memory waits for the same instants.

use super::{LEAF, Network, Pair, World};
use crate::Value;
use crate::ruleset::Timed;
use crate::ruleset::plan::{Join, NONE};

/// What the network knows of the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// The instant of the run's first turn with such conditions: periods count from it.
    pub born_ms: Option<i64>,
    pub now_ms: i64,
}

impl Network {
    /// A token comes to a condition on the time.
    pub(super) fn wait(&mut self, world: World<'_>, token: u32, join: &Join, timed: &Timed) {
        let due = match &timed.since {
            None => self.next_period(timed.span_ms),
            Some(since) => {
                let pair = Pair {
                    world,
                    network: self,
                    left: token,
                    depth: join.depth,
                    fact: NONE,
                };
                match since.value(&pair).as_deref() {
                    Ok(Value::Int(instant)) => instant.saturating_add(timed.span_ms),
                    // Of an instant that is not known yet it is not after.
                    Ok(Value::Null) => return,
                    Ok(other) => {
                        let why = format!("`{}`: {} is no instant", timed.text, other.kind_name());
                        return self.failed(join.rule, why);
                    }
                    Err(why) => {
                        let why = format!("`{}`: {why}", timed.text);
                        return self.failed(join.rule, why);
                    }
                }
            }
        };
        let holds = timed.since.is_none() || due <= self.clock.now_ms;
        if timed.since.is_none() || !holds {
            self.token_mut(token).key = due.cast_unsigned();
            self.timed.insert((due, token));
        }
        if holds {
            self.extend(world, token, join, NONE, None);
        }
    }

    fn failed(&mut self, rule: u32, why: String) {
        self.failures += 1;
        self.failure = Some((rule, why));
    }

    /// The first end of a period that is still to come.
    const fn next_period(&self, span_ms: i64) -> i64 {
        let born_ms = match self.clock.born_ms {
            Some(born_ms) => born_ms,
            None => self.clock.now_ms,
        };
        let passed = self.clock.now_ms.saturating_sub(born_ms) / span_ms;
        let periods = passed.saturating_add(1).saturating_mul(span_ms);
        born_ms.saturating_add(periods)
    }

    /// A turn begins: what has become true is a match, and what is periodic is new again.
    pub(crate) fn tell(&mut self, world: World<'_>, now_ms: i64) {
        if self.clock.born_ms.is_none() {
            self.clock = Clock {
                born_ms: Some(now_ms),
                now_ms,
            };
            self.begin_periods(world);
        }
        self.clock.now_ms = self.clock.now_ms.max(now_ms);
        while let Some((due, token)) = self.timed.first().copied()
            && due <= self.clock.now_ms
        {
            self.timed.pop_first();
            let next = self.token(token).next;
            debug_assert!(next & LEAF == 0, "a full match waits for nothing");
            let join = world.join(next);
            if let Some(timed) = &join.timed
                && timed.since.is_none()
            {
                self.delete_children(world, token);
                let due = self.next_period(timed.span_ms);
                self.token_mut(token).key = due.cast_unsigned();
                self.timed.insert((due, token));
            }
            self.extend(world, token, join, NONE, None);
        }
    }

    /// Periods that were begun before the time was known count from its first instant.
    fn begin_periods(&mut self, world: World<'_>) {
        for (_, token) in std::mem::take(&mut self.timed) {
            let timed = world.join(self.token(token).next).timed.as_ref();
            let due = match timed {
                Some(timed) if timed.since.is_none() => self.next_period(timed.span_ms),
                _ => self.token(token).key.cast_signed(),
            };
            self.token_mut(token).key = due.cast_unsigned();
            self.timed.insert((due, token));
        }
    }

    /// When the next of these conditions changes.
    pub(crate) fn next_wake_ms(&self) -> Option<i64> {
        self.timed.first().map(|(due, _)| *due)
    }
}
