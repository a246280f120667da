//! The invocations in flight in one warm process, found by the id in its lines.

use std::path::PathBuf;
use std::time::Duration;

use celesta_types::MessageId;

use crate::capture::Capture;
use crate::floor::Held;

/// Bits of an id that name the place; the rest counts its uses, so that a late answer meets nobody. Together they stay
/// within 53 bits, the integers every JSON reader keeps exact.
const PLACE_BITS: u32 = 20;

/// One invocation in flight.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Taken out when it is settled before the process has answered: timed out, canceled, lost.
    pub(crate) held: Option<Held>,
    pub(crate) timeout: Duration,
    /// When it is late; once settled early, when the process must have answered.
    pub(crate) deadline: Duration,
    pub(crate) extended_at: Duration,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) printed: Option<Box<Capture>>,
}

#[derive(Debug, Default)]
struct Place {
    uses: u32,
    flight: Option<Flight>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    places: Vec<Place>,
    free: Vec<usize>,
    count: usize,
    /// No deadline is earlier: saves looking at all of them.
    soonest: Option<Duration>,
}

impl Flights {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn add(&mut self, flight: Flight) -> u64 {
        self.soonest = Some(
            self.soonest
                .map_or(flight.deadline, |soonest| soonest.min(flight.deadline)),
        );
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        let place = &mut self.places[at];
        place.uses = place.uses.wrapping_add(1);
        place.flight = Some(flight);
        self.count += 1;
        (u64::from(place.uses) << PLACE_BITS) | u64::try_from(at).unwrap_or(0)
    }

    fn place(&self, id: u64) -> Option<usize> {
        let at = usize::try_from(id & ((1 << PLACE_BITS) - 1)).ok()?;
        let place = self.places.get(at)?;
        (u64::from(place.uses) == id >> PLACE_BITS).then_some(at)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Flight> {
        let at = self.place(id)?;
        self.places[at].flight.as_mut()
    }

    pub(crate) fn take(&mut self, id: u64) -> Option<Flight> {
        let at = self.place(id)?;
        let flight = self.places[at].flight.take()?;
        self.free.push(at);
        self.count -= 1;
        if self.count == 0 {
            self.soonest = None;
        }
        Some(flight)
    }

    /// The only one, when there is just one.
    pub(crate) fn only(&mut self) -> Option<&mut Flight> {
        if self.count != 1 {
            return None;
        }
        self.iter_mut().next()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flight> {
        self.places.iter_mut().filter_map(|place| place.flight.as_mut())
    }

    pub(crate) fn drain(&mut self) -> Vec<Flight> {
        self.count = 0;
        self.soonest = None;
        self.free = (0..self.places.len()).collect();
        self.places
            .iter_mut()
            .filter_map(|place| place.flight.take())
            .collect()
    }

    /// Whether some deadline may have passed.
    pub(crate) fn may_be_late(&self, now: Duration) -> bool {
        self.soonest.is_some_and(|soonest| soonest <= now)
    }

    /// Finds the earliest deadline anew, after some have moved.
    pub(crate) fn look_again(&mut self) {
        self.soonest = self.iter_mut().map(|flight| flight.deadline).min();
    }

    pub(crate) fn of(&mut self, ids: &[MessageId]) -> impl Iterator<Item = &mut Flight> {
        self.iter_mut().filter(|flight| {
            flight
                .held
                .as_ref()
                .is_some_and(|held| ids.contains(&held.leased.id))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(deadline: u64) -> Flight {
        let deadline = Duration::from_millis(deadline);
        Flight {
            held: None,
            timeout: deadline,
            deadline,
            extended_at: Duration::ZERO,
            folder: None,
            printed: None,
        }
    }

    #[test]
    fn a_place_is_used_again_and_a_late_answer_meets_nobody() {
        let mut flights = Flights::default();
        let first = flights.add(flight(10));
        assert!(flights.take(first).is_some());
        let second = flights.add(flight(20));
        assert_ne!(first, second);
        assert!(flights.take(first).is_none());
        assert!(flights.only().is_some());
        assert!(flights.get_mut(second).is_some() && second < 1 << 53);
        assert!(flights.get_mut(u64::MAX).is_none());
    }

    #[test]
    fn the_soonest_deadline_is_known() {
        let mut flights = Flights::default();
        let early = flights.add(flight(10));
        flights.add(flight(20));
        assert!(flights.may_be_late(Duration::from_millis(10)));
        flights.take(early);
        flights.look_again();
        assert!(!flights.may_be_late(Duration::from_millis(19)));
        assert_eq!(flights.drain().len(), 1);
        assert!(flights.is_empty() && !flights.may_be_late(Duration::MAX));
    }
}
