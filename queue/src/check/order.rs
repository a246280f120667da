//! Order: nobody is given a message while one that comes first is surely waiting.
//!
//! A message surely waits from the acknowledgement of its enqueue until the first call that could have taken it begins,
//! and of an exclusive queue only while nobody can hold its key. Only first deliveries are looked at: when a message came
//! back, nobody outside knows.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use celesta_types::{MessageId, Priority, Timestamp};

use super::{Call, Did, Facts, Held, Violation};
use crate::name::Key;

/// Waiting messages looked at for one delivery: more than all workers can have in their hands at once.
const LOOKED_AT_MAX: usize = 10_000;

/// What is known of one message.
struct Sent {
    key: Option<Key>,
    rank: (u32, i64),
    begin: i64,
    /// When it was surely there.
    there: Option<i64>,
    /// When the first call that took it, or called it back, began.
    taken: i64,
}

fn rank(priority: &Priority) -> (u32, i64) {
    let deadline = priority.deadline.map_or(i64::MAX, Timestamp::as_millis);
    (priority.rank(), deadline)
}

fn sent(facts: &Facts<'_>) -> HashMap<MessageId, Sent> {
    let mut sent: HashMap<MessageId, Sent> = HashMap::new();
    for call in facts.log {
        if let Did::Enqueued {
            id,
            key,
            priority,
            delayed,
        } = &call.did
        {
            let there = call.end.filter(|_| !delayed);
            let known = sent.entry(*id).or_insert_with(|| Sent {
                key: *key,
                rank: rank(priority),
                begin: call.begin,
                there,
                taken: i64::MAX,
            });
            known.begin = known.begin.min(call.begin);
            known.there = [known.there, there].into_iter().flatten().min();
        }
    }
    for (id, at) in &facts.canceled {
        if let Some(sent) = sent.get_mut(id) {
            sent.taken = sent.taken.min(*at);
        }
    }
    for (call, held) in facts.leases() {
        if let Some(sent) = sent.get_mut(&held.id) {
            sent.taken = sent.taken.min(call.begin);
        }
    }
    sent
}

/// The times in which somebody may have held a key: by their beginning, each with the latest end so far.
type Holds = HashMap<Key, Vec<(i64, i64)>>;

fn holds(facts: &Facts<'_>) -> Holds {
    let mut settled: HashMap<_, i64> = HashMap::new();
    let mut extended = BTreeSet::new();
    for call in facts.log {
        match &call.did {
            Did::Ended {
                id,
                token,
                accepted: Some(true),
                ..
            } => {
                settled.extend(call.end.map(|end| ((*id, *token), end)));
            }
            Did::Extended { id, token, .. } => {
                extended.insert((*id, *token));
            }
            _ => {}
        }
    }
    let mut holds = Holds::new();
    for (call, held) in facts.leases() {
        let Some(key) = held.key else { continue };
        let lease = (held.id, held.token);
        let lapses = if extended.contains(&lease) {
            i64::MAX
        } else {
            held.until
        };
        let to = settled.get(&lease).copied().unwrap_or(lapses);
        holds.entry(key).or_default().push((call.begin, to));
    }
    for intervals in holds.values_mut() {
        intervals.sort_unstable();
        let mut latest = i64::MIN;
        for (_, to) in intervals {
            latest = latest.max(*to);
            *to = latest;
        }
    }
    holds
}

/// Times in which unknown hands may hold something: from a lease that was never answered to the next crash.
fn unknown(facts: &Facts<'_>) -> Vec<(i64, i64)> {
    let unanswered = facts
        .log
        .iter()
        .filter(|call| call.end.is_none() && matches!(call.did, Did::Leased { .. }));
    let times = unanswered.map(|call| {
        let after = facts.crashes.partition_point(|&crash| crash < call.begin);
        let to = facts.crashes.get(after).copied().unwrap_or(i64::MAX);
        (call.begin, to)
    });
    times.collect()
}

pub(super) fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let sent = sent(facts);
    let holds = holds(facts);
    let is_held = |key: Option<Key>, from: i64, to: i64| {
        let intervals = key.and_then(|key| holds.get(&key)).map_or(&[][..], Vec::as_slice);
        let begun = intervals.partition_point(|&(begin, _)| begin <= to);
        begun > 0 && intervals[begun - 1].1 >= from
    };
    let unknown = unknown(facts);
    let mut arrivals: Vec<(i64, MessageId)> = sent
        .iter()
        .filter_map(|(id, sent)| Some((sent.there?, *id)))
        .collect();
    arrivals.sort_unstable();
    let mut arrivals = arrivals.into_iter().peekable();
    let mut waiting: BTreeSet<((u32, i64), i64, MessageId)> = BTreeSet::new();
    let mut leaving: BinaryHeap<Reverse<(i64, MessageId)>> = BinaryHeap::new();
    let mut leases: Vec<(i64, i64, &Call)> = facts
        .log
        .iter()
        .filter(|call| matches!(call.did, Did::Leased { .. }))
        .filter_map(|call| Some((call.begin, call.end?, call)))
        .collect();
    leases.sort_by_key(|(begin, ..)| *begin);
    for (begin, end, call) in leases {
        while let Some((there, id)) = arrivals.next_if(|(there, _)| *there < begin) {
            let message = &sent[&id];
            waiting.insert((message.rank, there, id));
            leaving.push(Reverse((message.taken, id)));
        }
        while let Some(&Reverse((taken, id))) = leaving.peek()
            && taken < begin
        {
            leaving.pop();
            let message = &sent[&id];
            waiting.remove(&(message.rank, message.there.unwrap_or_default(), id));
        }
        let Did::Leased { held } = &call.did else { continue };
        if unknown.iter().any(|&(from, to)| from <= end && begin <= to) {
            continue;
        }
        // With the first message of a key come the others, so only that one has to be in its place. And the last in
        // order of what was given is enough: whoever comes before it should have been given instead.
        let mut firsts: HashMap<Option<Key>, (&Held, &Sent)> = HashMap::new();
        let mut given = Vec::new();
        for held in held {
            let Some(message) = sent.get(&held.id) else {
                continue;
            };
            if held.key.is_none() {
                given.push((held, message));
                continue;
            }
            let first = firsts.entry(held.key).or_insert((held, message));
            if (message.rank, message.begin) < (first.1.rank, first.1.begin) {
                *first = (held, message);
            }
        }
        given.extend(firsts.into_values());
        let Some((last, message)) = given.into_iter().max_by_key(|(_, sent)| (sent.rank, sent.begin)) else {
            continue;
        };
        let before = waiting.iter().take(LOOKED_AT_MAX).take_while(|(rank, there, _)| {
            *rank < message.rank || (*rank == message.rank && *there < message.begin)
        });
        let overtaken = before
            .map(|(.., id)| (id, &sent[id]))
            .find(|(_, other)| other.taken > end && !is_held(other.key, begin, end));
        if let Some((waiting, _)) = overtaken {
            violations.push(Violation::OutOfOrder {
                leased: last.id,
                waiting: *waiting,
                at: begin,
            });
        }
    }
}
