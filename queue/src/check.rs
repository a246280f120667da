//! Proves from a log of calls that a queue kept its promises. It knows only what callers saw, so it fits every store,
//! a queue in another process, and a run with crashes.
//!
//! A call has the instant it began and the instant its answer came; what it did happened somewhere between the two. The
//! checker says only what no timing in between can explain away:
//!
//! - no message, and no key of an exclusive queue, is in two hands at once,
//! - what was completed is not delivered again, and is not completed twice,
//! - what was acknowledged is not lost: it is completed, called back, or still there,
//! - nobody is given a message while one that comes first is waiting.
//!
//! It is a plain function over a plain log; `queue/tests/conformance/storm.rs` and the crash tests feed it.

mod order;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use celesta_types::{MessageId, Priority};

use crate::name::{Key, Token};

/// One call of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it began, in any unit that all calls and lease ends share.
    pub begin: i64,
    /// When its answer came; absent when none did.
    pub end: Option<i64>,
    /// What it was about.
    pub did: Did,
}

/// What a call was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// A message was sent; acknowledged when the call has an end.
    Enqueued {
        /// The message.
        id: MessageId,
        /// Its exclusivity key.
        key: Option<Key>,
        /// Where it stands.
        priority: Priority,
        /// It was not to be leased at once.
        delayed: bool,
    },
    /// Messages were leased.
    Leased {
        /// What the consumer was given.
        held: Vec<Held>,
    },
    /// A lease was extended.
    Extended {
        /// The message.
        id: MessageId,
        /// Its lease.
        token: Token,
        /// The new end, when it was granted.
        until: Option<i64>,
    },
    /// A consumer was done with a message.
    Ended {
        /// The message.
        id: MessageId,
        /// Its lease.
        token: Token,
        /// How.
        how: End,
        /// Whether the queue accepted it; absent when nobody knows.
        accepted: Option<bool>,
    },
    /// A message was called back.
    Canceled {
        /// The message.
        id: MessageId,
    },
    /// The queue was killed when the call began, and answered again when it ended.
    Crashed,
}

/// How a consumer was done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was completed.
    Completed,
    /// It failed.
    Failed,
    /// It was given back.
    Released,
}

/// One message in the hands of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The message.
    pub id: MessageId,
    /// Its exclusivity key, of an exclusive queue only.
    pub key: Option<Key>,
    /// The token of the lease.
    pub token: Token,
    /// When the lease lapses.
    pub until: i64,
}

/// What the queue promises of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It is exact: one shard, no fairness keys, every consumer takes what comes first.
    Exact,
    /// It is not, or only by class and number, and not looked at.
    Loose,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message was in two hands.
    #[error("message {id} was leased at {second} while a lease of {first} held")]
    MessageHeldTwice {
        /// The message.
        id: MessageId,
        /// When the first was in its consumer's hands.
        first: i64,
        /// When the second was.
        second: i64,
    },
    /// A key was in two hands.
    #[error("key {key:?} was leased at {second} while a lease of {first} held")]
    KeyHeldTwice {
        /// The key.
        key: Key,
        /// When the first was in its consumer's hands.
        first: i64,
        /// When the second was.
        second: i64,
    },
    /// A completed message was delivered again.
    #[error("message {id} was leased at {at}, after its completion was acknowledged")]
    DeliveredAfterCompletion {
        /// The message.
        id: MessageId,
        /// When.
        at: i64,
    },
    /// Two leases of one message were both completed.
    #[error("message {id} was completed twice")]
    CompletedTwice {
        /// The message.
        id: MessageId,
    },
    /// An acknowledged message is nowhere.
    #[error("message {id} was acknowledged and is lost")]
    Lost {
        /// The message.
        id: MessageId,
    },
    /// A completed message is still there.
    #[error("message {id} is still there after its completion was acknowledged")]
    Undead {
        /// The message.
        id: MessageId,
    },
    /// A message was delivered that nobody sent.
    #[error("message {id} was leased and never sent")]
    Invented {
        /// The message.
        id: MessageId,
    },
    /// A message was leased while one that comes first was waiting.
    #[error("message {leased} was leased at {at} while {waiting} was waiting, which comes first")]
    OutOfOrder {
        /// What was leased.
        leased: MessageId,
        /// What should have been.
        waiting: MessageId,
        /// When.
        at: i64,
    },
}

/// A time in which a consumer surely held a message.
#[derive(Debug, Clone, Copy)]
struct Interval {
    from: i64,
    to: i64,
    token: Token,
}

/// Everything the log says, by message and lease.
pub(crate) struct Facts<'a> {
    log: &'a [Call],
    /// The first acknowledgement of each message.
    acknowledged: HashMap<MessageId, i64>,
    sent: BTreeSet<MessageId>,
    /// For each lease, when somebody first tried to end it, and when it lapses.
    ends: HashMap<(MessageId, Token), i64>,
    canceled: HashMap<MessageId, i64>,
    crashes: Vec<i64>,
}

impl<'a> Facts<'a> {
    fn new(log: &'a [Call]) -> Self {
        let mut facts = Facts {
            log,
            acknowledged: HashMap::new(),
            sent: BTreeSet::new(),
            ends: HashMap::new(),
            canceled: HashMap::new(),
            crashes: Vec::new(),
        };
        let mut extended = HashMap::new();
        for call in log {
            match &call.did {
                Did::Enqueued { id, .. } => {
                    facts.sent.insert(*id);
                    if let Some(end) = call.end {
                        let first = facts.acknowledged.entry(*id).or_insert(end);
                        *first = end.min(*first);
                    }
                }
                Did::Extended { id, token, until } => {
                    if let (Some(until), Some(end)) = (until, call.end) {
                        let last = extended.entry((*id, *token)).or_insert((end, *until));
                        *last = (*last).max((end, *until));
                    }
                }
                Did::Ended { id, token, .. } => earliest(&mut facts.ends, (*id, *token), call.begin),
                Did::Canceled { id } => earliest(&mut facts.canceled, *id, call.begin),
                Did::Crashed => facts.crashes.push(call.begin),
                Did::Leased { .. } => {}
            }
        }
        for (_, held) in facts.leases() {
            let until = extended
                .get(&(held.id, held.token))
                .map_or(held.until, |(_, until)| *until);
            earliest(&mut facts.ends, (held.id, held.token), until);
        }
        facts.crashes.sort_unstable();
        facts
    }

    fn leases(&self) -> impl Iterator<Item = (&'a Call, &'a Held)> + use<'a> {
        self.log.iter().flat_map(|call| {
            let held: &[Held] = match &call.did {
                Did::Leased { held } => held,
                _ => &[],
            };
            held.iter().map(move |held| (call, held))
        })
    }

    /// The time in which the lease was surely its consumer's alone.
    fn interval(&self, call: &Call, held: &Held) -> Option<Interval> {
        let from = call.end?;
        let mut to = self
            .ends
            .get(&(held.id, held.token))
            .copied()
            .unwrap_or(held.until);
        if let Some(&canceled) = self.canceled.get(&held.id) {
            to = to.min(canceled);
        }
        let after = self.crashes.partition_point(|&crash| crash < call.begin);
        if let Some(&crash) = self.crashes.get(after) {
            to = to.min(crash);
        }
        (from < to).then_some(Interval {
            from,
            to,
            token: held.token,
        })
    }
}

fn earliest<K: std::hash::Hash + Eq>(of: &mut HashMap<K, i64>, key: K, at: i64) {
    let first = of.entry(key).or_insert(at);
    *first = at.min(*first);
}

/// What the log proves to be wrong. `left` are the messages that were still in the queue afterwards, in whatever state;
/// completed ones that are merely kept to be looked at are not among them.
#[must_use]
pub fn check(log: &[Call], left: &[MessageId], order: Order) -> Vec<Violation> {
    let facts = Facts::new(log);
    let mut violations = Vec::new();
    held_twice(&facts, &mut violations);
    completed_and_lost(&facts, left, &mut violations);
    if order == Order::Exact {
        order::check(&facts, &mut violations);
    }
    violations
}

fn held_twice(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let mut by_message: BTreeMap<MessageId, Vec<Interval>> = BTreeMap::new();
    let mut by_key: BTreeMap<Key, Vec<Interval>> = BTreeMap::new();
    for (call, held) in facts.leases() {
        if !facts.sent.contains(&held.id) {
            violations.push(Violation::Invented { id: held.id });
        }
        let Some(interval) = facts.interval(call, held) else {
            continue;
        };
        by_message.entry(held.id).or_default().push(interval);
        if let Some(key) = held.key {
            by_key.entry(key).or_default().push(interval);
        }
    }
    for (id, intervals) in by_message {
        let twice =
            overlaps(intervals).map(|(first, second)| Violation::MessageHeldTwice { id, first, second });
        violations.extend(twice);
    }
    for (key, intervals) in by_key {
        let twice = overlaps(intervals).map(|(first, second)| Violation::KeyHeldTwice { key, first, second });
        violations.extend(twice);
    }
}

/// Where two leases overlap, if anywhere.
fn overlaps(mut intervals: Vec<Interval>) -> Option<(i64, i64)> {
    intervals.sort_by_key(|interval| interval.from);
    let mut last: Option<Interval> = None;
    for interval in intervals {
        if let Some(before) = last
            && before.token != interval.token
            && interval.from < before.to
        {
            return Some((before.from, interval.from));
        }
        if last.is_none_or(|before| interval.to > before.to) {
            last = Some(interval);
        }
    }
    None
}

fn completed_and_lost(facts: &Facts<'_>, left: &[MessageId], violations: &mut Vec<Violation>) {
    let mut completed: HashMap<MessageId, (i64, Token)> = HashMap::new();
    let mut tried: BTreeSet<MessageId> = facts.canceled.keys().copied().collect();
    for call in facts.log {
        let Did::Ended {
            id,
            token,
            how,
            accepted,
        } = &call.did
        else {
            continue;
        };
        if *how == End::Completed && *accepted != Some(false) {
            tried.insert(*id);
        }
        if *how == End::Completed
            && *accepted == Some(true)
            && let Some(end) = call.end
        {
            let first = completed.entry(*id).or_insert((end, *token));
            if first.1 != *token {
                violations.push(Violation::CompletedTwice { id: *id });
            }
            first.0 = first.0.min(end);
        }
    }
    for (call, held) in facts.leases() {
        if completed.get(&held.id).is_some_and(|(end, _)| *end < call.begin) {
            violations.push(Violation::DeliveredAfterCompletion {
                id: held.id,
                at: call.begin,
            });
        }
    }
    let left: BTreeSet<MessageId> = left.iter().copied().collect();
    for id in facts.acknowledged.keys() {
        if !tried.contains(id) && !left.contains(id) {
            violations.push(Violation::Lost { id: *id });
        }
    }
    for id in left.iter().filter(|id| completed.contains_key(*id)) {
        violations.push(Violation::Undead { id: *id });
    }
}

#[cfg(test)]
mod tests;
