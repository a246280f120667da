//! What a log of calls proves about a queue.
//!
//! Every call is known by two instants of its client: before it was sent, and after its answer came. What happened
//! between them happened at some moment in between, so only what is certain is held against the queue.

use std::collections::HashMap;

use tokio::time::Instant;

/// An enqueue that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Enqueued {
    pub(crate) id: String,
    /// What excludes: the key, or the message itself in a simple queue.
    pub(crate) scope: String,
    /// Before it was sent for the first time, and after it was acknowledged.
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
}

/// A message that a consumer was given.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    pub(crate) id: String,
    pub(crate) scope: String,
    pub(crate) token: String,
    /// Before the lease was asked for, and when it was there.
    pub(crate) asked: Instant,
    pub(crate) got: Instant,
    /// The earliest instant at which the lease may have been over: lapsed, or its settling was sent.
    pub(crate) until: Instant,
    /// When its completion was sent, and when that was acknowledged.
    pub(crate) completing: Option<Instant>,
    pub(crate) completed: Option<Instant>,
}

/// All that clients have seen.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) enqueued: Vec<Enqueued>,
    pub(crate) delivered: Vec<Delivered>,
    /// The server was killed right after each of these.
    pub(crate) kills: Vec<Instant>,
}

impl Log {
    /// Everything that is wrong, in words; nothing when all is well. With `ordered`, messages of one scope must come
    /// in the order of their enqueues.
    pub(crate) fn faults(&self, ordered: bool) -> Vec<String> {
        let mut by_scope: HashMap<&str, Vec<&Delivered>> = HashMap::new();
        let mut by_id: HashMap<&str, Vec<&Delivered>> = HashMap::new();
        for delivered in &self.delivered {
            by_scope.entry(&delivered.scope).or_default().push(delivered);
            by_id.entry(&delivered.id).or_default().push(delivered);
        }
        let mut faults = Vec::new();
        self.lost(&by_id, &mut faults);
        for deliveries in by_id.values() {
            again(deliveries, &mut faults);
        }
        for deliveries in by_scope.values_mut() {
            self.overlaps(deliveries, &mut faults);
        }
        if ordered {
            self.overtaken(&by_scope, &by_id, &mut faults);
        }
        faults
    }

    fn lost(&self, by_id: &HashMap<&str, Vec<&Delivered>>, faults: &mut Vec<String>) {
        for Enqueued { id, .. } in &self.enqueued {
            let mut deliveries = by_id.get(id.as_str()).into_iter().flatten();
            if !deliveries.any(|delivered| delivered.completing.is_some()) {
                faults.push(format!("{id} was acknowledged and is lost"));
            }
        }
    }

    /// When a lease was certainly over at the earliest: a killed server's leases are nobody's.
    fn end(&self, delivered: &Delivered) -> Instant {
        let killed = self
            .kills
            .iter()
            .copied()
            .filter(|kill| *kill > delivered.asked)
            .min();
        killed.map_or(delivered.until, |kill| kill.min(delivered.until))
    }

    fn overlaps(&self, deliveries: &mut [&Delivered], faults: &mut Vec<String>) {
        deliveries.sort_by_key(|delivered| delivered.got);
        for (at, one) in deliveries.iter().enumerate() {
            let end = self.end(one);
            let rest = deliveries.iter().skip(at + 1);
            for other in rest.take_while(|other| other.got < end) {
                // What was asked for before the first lease was seen may have been given before it, and be over.
                if other.token != one.token && self.end(other) > other.got {
                    faults.push(format!(
                        "{} was leased twice at once: {} by {} and {} by {}",
                        one.scope, one.id, one.token, other.id, other.token
                    ));
                }
            }
        }
    }

    fn overtaken(
        &self,
        by_scope: &HashMap<&str, Vec<&Delivered>>,
        by_id: &HashMap<&str, Vec<&Delivered>>,
        faults: &mut Vec<String>,
    ) {
        let sent: HashMap<&str, &Enqueued> = self
            .enqueued
            .iter()
            .map(|enqueued| (enqueued.id.as_str(), enqueued))
            .collect();
        let mut of_scope: HashMap<&str, Vec<&Enqueued>> = HashMap::new();
        for enqueued in &self.enqueued {
            of_scope.entry(&enqueued.scope).or_default().push(enqueued);
        }
        for later in by_scope.values().flatten() {
            let Some(own) = sent.get(later.id.as_str()) else {
                continue;
            };
            let before = of_scope.get(later.scope.as_str()).into_iter().flatten();
            for first in before.filter(|first| first.ended < own.begun) {
                let mut deliveries = by_id.get(first.id.as_str()).into_iter().flatten();
                let was_served = deliveries.any(|delivered| {
                    delivered.token == later.token || delivered.completing.is_some_and(|at| at <= later.got)
                });
                if !was_served {
                    faults.push(format!("{} came before {} of the same key", later.id, first.id));
                }
            }
        }
    }
}

/// Messages that were given out after their completion was acknowledged, or completed twice.
fn again(deliveries: &[&Delivered], faults: &mut Vec<String>) {
    let mut ends = deliveries.iter().filter_map(|delivered| delivered.completed);
    let Some(first) = ends.next() else { return };
    if ends.next().is_some() {
        faults.push(format!("{} was completed twice", deliveries[0].id));
    }
    for delivered in deliveries.iter().filter(|delivered| delivered.asked > first) {
        faults.push(format!("{} was delivered after its completion", delivered.id));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn delivered(at: Instant, id: &str, token: &str, from: u64, until: u64) -> Delivered {
        let instant = |ms| at + Duration::from_millis(ms);
        Delivered {
            id: id.to_owned(),
            scope: "key".to_owned(),
            token: token.to_owned(),
            asked: instant(from),
            got: instant(from + 1),
            until: instant(until),
            completing: Some(instant(until)),
            completed: Some(instant(until + 1)),
        }
    }

    fn log(at: Instant, delivered: Vec<Delivered>) -> Log {
        let enqueued = ["a", "b"].into_iter().zip([0, 10]).map(|(id, ms)| Enqueued {
            id: id.to_owned(),
            scope: "key".to_owned(),
            begun: at + Duration::from_millis(ms),
            ended: at + Duration::from_millis(ms + 5),
        });
        Log {
            enqueued: enqueued.collect(),
            delivered,
            kills: Vec::new(),
        }
    }

    #[test]
    fn a_sound_history_has_no_faults() {
        let at = Instant::now();
        let log = log(
            at,
            vec![delivered(at, "a", "1", 20, 30), delivered(at, "b", "2", 40, 50)],
        );
        assert!(log.faults(true).is_empty());
    }

    #[test]
    fn each_fault_is_found() {
        let at = Instant::now();
        let faults = |deliveries: Vec<Delivered>| log(at, deliveries).faults(true).join("; ");
        assert!(faults(vec![delivered(at, "a", "1", 20, 30)]).contains("b was acknowledged and is lost"));
        let overlapping = vec![delivered(at, "a", "1", 20, 60), delivered(at, "b", "2", 40, 50)];
        assert!(faults(overlapping).contains("leased twice at once"));
        let twice = vec![
            delivered(at, "a", "1", 20, 30),
            delivered(at, "a", "2", 40, 50),
            delivered(at, "b", "3", 60, 70),
        ];
        let said = faults(twice);
        assert!(
            said.contains("a was completed twice") && said.contains("a was delivered after its completion"),
            "{said}"
        );
        let overtaken = vec![delivered(at, "b", "1", 20, 30), delivered(at, "a", "2", 40, 50)];
        assert!(faults(overtaken).contains("b came before a"));
    }

    #[test]
    fn a_kill_ends_leases() {
        let at = Instant::now();
        let mut log = log(
            at,
            vec![delivered(at, "a", "1", 20, 60), delivered(at, "b", "2", 40, 50)],
        );
        log.delivered[0].completed = None;
        log.kills.push(at + Duration::from_millis(35));
        assert!(log.faults(false).is_empty());
    }
}
