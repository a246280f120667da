//! Which sweep takes its next step, and when: whoever has waited longest, and of no service too many at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use celesta_types::SweepId;

/// Steps under way of a service's sweeps: where so many wait for silent runs, its others wait too, and nobody else's.
const STEPS_OF_A_SERVICE_MAX: usize = 4;
/// Steps under way in all: each may have 256 messages in the queue, and reads beside everybody else.
const STEPS_MAX: usize = 64;

/// The sweeps that go on by themselves. A sweep is known until a step finds that it does not; it either waits until it
/// is due or has one step under way. Instants are of the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    known: BTreeMap<SweepId, Known>,
    waiting: BTreeMap<(Duration, SweepId), Arc<str>>,
    /// How many steps of each service are under way, where there are any.
    under_way: BTreeMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Known {
    service: Arc<str>,
    /// It was seen to go on since its last step began, whatever that step has read.
    seen_again: bool,
}

impl Rounds {
    /// Takes up sweeps that go on by themselves; those that are not known yet are due at once.
    pub(super) fn take_up(&mut self, found: Vec<(SweepId, Arc<str>)>, now: Duration) {
        for (sweep, service) in found {
            if let Some(known) = self.known.get_mut(&sweep) {
                known.seen_again = true;
                continue;
            }
            self.waiting.insert((now, sweep), Arc::clone(&service));
            let known = Known {
                service,
                seen_again: false,
            };
            self.known.insert(sweep, known);
        }
    }

    /// The sweep whose step begins now, if one is due and there is room.
    pub(super) fn begin(&mut self, now: Duration) -> Option<SweepId> {
        if self.known.len() - self.waiting.len() >= STEPS_MAX {
            return None;
        }
        let has_room = |service: &Arc<str>| {
            let under_way = self.under_way.get(service);
            under_way.is_none_or(|steps| *steps < STEPS_OF_A_SERVICE_MAX)
        };
        let mut due = self.waiting.iter().take_while(|((due, _), _)| *due <= now);
        let (place, _) = due.find(|(_, service)| has_room(service))?;
        let (due, sweep) = *place;
        let service = self.waiting.remove(&(due, sweep))?;
        *self.under_way.entry(service).or_default() += 1;
        if let Some(known) = self.known.get_mut(&sweep) {
            known.seen_again = false;
        }
        Some(sweep)
    }

    /// The sweep's step has ended, and the next is due then; none when it does not go on by itself.
    pub(super) fn end(&mut self, sweep: SweepId, next: Option<Duration>, now: Duration) {
        let Some(known) = self.known.get(&sweep) else {
            return;
        };
        if let Some(steps) = self.under_way.get_mut(&known.service) {
            *steps -= 1;
            if *steps == 0 {
                self.under_way.remove(&known.service);
            }
        }
        match next.or_else(|| known.seen_again.then_some(now)) {
            Some(due) => {
                self.waiting.insert((due, sweep), Arc::clone(&known.service));
            }
            None => {
                self.known.remove(&sweep);
            }
        }
    }

    /// When the next sweep is due that is not due yet.
    pub(super) fn next_due(&self, now: Duration) -> Option<Duration> {
        let (place, _) = self
            .waiting
            .range((now, SweepId::from_bits(u128::MAX))..)
            .next()?;
        Some(place.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(10);
    const LATER: Duration = Duration::from_secs(11);

    fn rounds(sweeps: &[(u128, &str)]) -> Rounds {
        let mut rounds = Rounds::default();
        rounds.take_up(found(sweeps), NOW);
        rounds
    }

    fn found(sweeps: &[(u128, &str)]) -> Vec<(SweepId, Arc<str>)> {
        let read = |(sweep, service): &(u128, &str)| (SweepId::from_bits(*sweep), Arc::from(*service));
        sweeps.iter().map(read).collect()
    }

    fn begun(rounds: &mut Rounds, now: Duration) -> Vec<u128> {
        std::iter::from_fn(|| rounds.begin(now))
            .map(SweepId::bits)
            .collect()
    }

    #[test]
    fn a_sweep_has_one_step_under_way_and_the_next_when_it_is_due() {
        let mut rounds = rounds(&[(1, "a"), (2, "b")]);
        assert_eq!(begun(&mut rounds, NOW), [1, 2]);
        rounds.take_up(found(&[(1, "a"), (2, "b")]), NOW);
        assert!(begun(&mut rounds, LATER).is_empty());
        rounds.end(SweepId::from_bits(1), Some(LATER), NOW);
        assert!(begun(&mut rounds, NOW).is_empty());
        assert_eq!(rounds.next_due(NOW), Some(LATER));
        assert_eq!(begun(&mut rounds, LATER), [1]);
        assert_eq!(rounds.next_due(NOW), None);
    }

    #[test]
    fn a_service_with_too_many_steps_under_way_waits_and_others_do_not() {
        let mut many: Vec<(u128, &str)> = (0..10).map(|sweep| (sweep, "a")).collect();
        many.push((10, "b"));
        let mut rounds = rounds(&many);
        assert_eq!(begun(&mut rounds, NOW), [0, 1, 2, 3, 10]);
        assert_eq!(
            rounds.next_due(NOW),
            None,
            "those that wait for room wait for no instant"
        );
        rounds.end(SweepId::from_bits(2), Some(NOW + Duration::from_millis(1)), NOW);
        assert_eq!(begun(&mut rounds, LATER), [4], "who has waited longest is next");
    }

    #[test]
    fn there_is_an_end_to_steps_under_way() {
        let services: Vec<String> = (0..100).map(|service| format!("{service:03}")).collect();
        let many: Vec<(u128, &str)> = (0..).zip(services.iter().map(String::as_str)).collect();
        assert_eq!(begun(&mut rounds(&many), NOW).len(), STEPS_MAX);
    }

    #[test]
    fn a_sweep_that_goes_on_while_its_step_ends_is_not_forgotten() {
        let mut rounds = rounds(&[(1, "a")]);
        assert_eq!(begun(&mut rounds, NOW), [1]);
        // The step has read that it is paused; then it was let go on, and looked up.
        rounds.take_up(found(&[(1, "a")]), NOW);
        rounds.end(SweepId::from_bits(1), None, NOW);
        assert_eq!(begun(&mut rounds, NOW), [1]);
        rounds.end(SweepId::from_bits(1), None, NOW);
        assert!(begun(&mut rounds, LATER).is_empty());
        rounds.take_up(found(&[(1, "a")]), LATER);
        assert_eq!(begun(&mut rounds, LATER), [1]);
    }
}
