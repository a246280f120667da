//! What a dispatcher has on the road, pure: time comes in, decisions go out.
//!
//! A flight is one lease whose message was sent. It is *publishing* until the broker has it, then *on the road* until a
//! consumer says that it holds it, then *held* for as long as the consumer keeps saying so, else *silent*. Its lease is
//! extended in every phase but the last. On the road too long, it is given back; silent, it is left to lapse.

use std::time::Duration;

use celesta_queue::{LeaseRef, QueueName, Token};
use celesta_types::MessageId;
use hashbrown::HashMap;

/// The times a ledger goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// How long a lease holds.
    pub(crate) lease: Duration,
    /// How long a message may lie in the broker.
    pub(crate) road: Duration,
    /// How long a consumer may say nothing.
    pub(crate) silence: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Publishing,
    OnRoad { until: Duration },
    Held { until: Duration },
    Silent { until: Duration },
}

#[derive(Debug)]
struct Flight {
    lease: LeaseRef,
    phase: Phase,
    extend_at: Duration,
}

/// What a look at the ledger has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// Leases to extend.
    pub(crate) extend: Vec<LeaseRef>,
    /// Leases to give back: too long on the road. They are flights no more.
    pub(crate) release: Vec<LeaseRef>,
    /// Consumers have gone silent over these.
    pub(crate) silent: usize,
    /// Lapsed by now. They are flights no more.
    pub(crate) lapsed: Vec<LeaseRef>,
}

/// All flights of a dispatcher.
#[derive(Debug)]
pub(crate) struct Ledger {
    times: Times,
    window: usize,
    flights: HashMap<MessageId, Flight>,
    /// Flights of each destination in nobody's hands.
    waiting: HashMap<QueueName, usize>,
}

impl Ledger {
    pub(crate) fn new(times: Times, window: usize) -> Self {
        Self {
            times,
            window,
            flights: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    /// How many more messages of `queue` may be sent.
    pub(crate) fn room(&self, queue: &QueueName) -> usize {
        self.window
            .saturating_sub(self.waiting.get(queue).copied().unwrap_or(0))
    }

    /// A message was leased and is about to be published.
    pub(crate) fn leased(&mut self, lease: LeaseRef, now: Duration) {
        self.remove(lease.id, None);
        *self.waiting.entry(lease.queue.clone()).or_default() += 1;
        self.flights.insert(
            lease.id,
            Flight {
                lease,
                phase: Phase::Publishing,
                extend_at: now + self.times.lease / 3,
            },
        );
    }

    /// Whether that lease is still to be published.
    pub(crate) fn is_publishing(&self, id: MessageId, token: Token) -> bool {
        self.flights
            .get(&id)
            .is_some_and(|flight| flight.lease.token == token && flight.phase == Phase::Publishing)
    }

    /// The broker has the message.
    pub(crate) fn published(&mut self, id: MessageId, token: Token, now: Duration) {
        let until = now + self.times.road + self.grace();
        if let Some(flight) = self.flight(id, token)
            && flight.phase == Phase::Publishing
        {
            flight.phase = Phase::OnRoad { until };
        }
    }

    /// A consumer says that it has the message. False when that lease is none of ours.
    pub(crate) fn heard(&mut self, id: MessageId, token: Token, now: Duration) -> bool {
        let until = now + self.times.silence;
        let Some(flight) = self.flight(id, token) else {
            return false;
        };
        let before = std::mem::replace(&mut flight.phase, Phase::Held { until });
        if matches!(before, Phase::Silent { .. }) {
            flight.extend_at = now;
        }
        if matches!(before, Phase::Publishing | Phase::OnRoad { .. }) {
            let queue = flight.lease.queue.clone();
            self.leave_road(&queue);
        }
        true
    }

    /// The lease is over: settled, given back, refused or lapsed. With a token, only that one.
    pub(crate) fn remove(&mut self, id: MessageId, token: Option<Token>) -> Option<LeaseRef> {
        let flight = self.flights.get(&id)?;
        if token.is_some_and(|token| token != flight.lease.token) {
            return None;
        }
        let Flight { lease, phase, .. } = self.flights.remove(&id)?;
        if matches!(phase, Phase::Publishing | Phase::OnRoad { .. }) {
            self.leave_road(&lease.queue);
        }
        Some(lease)
    }

    /// Takes out all flights in nobody's hands.
    pub(crate) fn take_waiting(&mut self) -> Vec<LeaseRef> {
        let waiting = self
            .flights
            .extract_if(|_, flight| matches!(flight.phase, Phase::Publishing | Phase::OnRoad { .. }));
        let waiting = waiting.map(|(_, flight)| flight.lease).collect();
        self.waiting.clear();
        waiting
    }

    /// The broker was out of reach and is back: nobody is blamed for what could not be said meanwhile.
    pub(crate) fn resume(&mut self, now: Duration) {
        let (grace, silence) = (self.grace(), self.times.silence);
        for flight in self.flights.values_mut() {
            match &mut flight.phase {
                Phase::OnRoad { until } => *until = (*until).max(now + grace),
                Phase::Held { until } => *until = (*until).max(now + silence),
                Phase::Publishing | Phase::Silent { .. } => {}
            }
        }
    }

    /// What is due. While the broker is out of `reach`, leases are only extended.
    pub(crate) fn sweep(&mut self, now: Duration, reach: bool) -> Sweep {
        let mut sweep = Sweep::default();
        let mut over = Vec::new();
        for flight in self.flights.values_mut() {
            if reach {
                match flight.phase {
                    Phase::OnRoad { until } if until <= now => {
                        over.push(flight.lease.id);
                        sweep.release.push(flight.lease.clone());
                        continue;
                    }
                    Phase::Held { until } if until <= now => {
                        sweep.silent += 1;
                        flight.phase = Phase::Silent {
                            until: now + self.times.lease,
                        };
                    }
                    Phase::Silent { until } if until <= now => {
                        over.push(flight.lease.id);
                        sweep.lapsed.push(flight.lease.clone());
                        continue;
                    }
                    Phase::Publishing | Phase::OnRoad { .. } | Phase::Held { .. } | Phase::Silent { .. } => {}
                }
            }
            if flight.extend_at <= now && !matches!(flight.phase, Phase::Silent { .. }) {
                flight.extend_at = now + self.times.lease / 3;
                sweep.extend.push(flight.lease.clone());
            }
        }
        for id in over {
            self.remove(id, None);
        }
        sweep
    }

    /// What the broker's clock and a consumer's first word may take.
    fn grace(&self) -> Duration {
        self.times.silence / 3
    }

    fn flight(&mut self, id: MessageId, token: Token) -> Option<&mut Flight> {
        self.flights
            .get_mut(&id)
            .filter(|flight| flight.lease.token == token)
    }

    fn leave_road(&mut self, queue: &QueueName) {
        if let Some(waiting) = self.waiting.get_mut(queue) {
            *waiting = waiting.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMES: Times = Times {
        lease: Duration::from_secs(30),
        road: Duration::from_secs(60),
        silence: Duration::from_secs(15),
    };

    fn lease(id: u128, token: u64) -> LeaseRef {
        LeaseRef {
            queue: QueueName::new("q").expect("a name"),
            id: MessageId::from_bits(id),
            token: Token::from_bits(token),
        }
    }

    fn ledger(flights: u128) -> Ledger {
        let mut ledger = Ledger::new(TIMES, 3);
        for id in 1..=flights {
            let lease = lease(id, 7);
            ledger.leased(lease.clone(), Duration::ZERO);
            ledger.published(lease.id, lease.token, Duration::ZERO);
        }
        ledger
    }

    #[test]
    fn only_messages_in_nobodys_hands_fill_the_window() {
        let mut ledger = ledger(3);
        let queue = lease(1, 7).queue;
        assert_eq!(ledger.room(&queue), 0);
        assert!(ledger.heard(MessageId::from_bits(1), Token::from_bits(7), SECOND));
        assert_eq!(ledger.room(&queue), 1);
        ledger.remove(MessageId::from_bits(1), None);
        assert_eq!(ledger.room(&queue), 1);
        ledger.remove(MessageId::from_bits(2), None);
        assert_eq!(ledger.room(&queue), 2);
    }

    #[test]
    fn a_message_too_long_on_the_road_is_given_back() {
        let mut ledger = ledger(1);
        assert_eq!(ledger.sweep(SECOND * 11, true).extend, [lease(1, 7)]);
        assert_eq!(ledger.sweep(SECOND * 12, true), Sweep::default());
        assert_eq!(ledger.sweep(SECOND * 64, true).release, Vec::new());
        assert_eq!(ledger.sweep(SECOND * 65, true).release, [lease(1, 7)]);
        assert_eq!(ledger.len(), 0);
    }

    #[test]
    fn a_silent_consumers_leases_lapse_unless_it_speaks_again() {
        let mut ledger = ledger(2);
        let token = Token::from_bits(7);
        for id in [1, 2] {
            assert!(ledger.heard(MessageId::from_bits(id), token, SECOND));
        }
        let sweep = ledger.sweep(SECOND * 16, true);
        assert_eq!((sweep.silent, sweep.extend), (2, Vec::new()));
        assert!(ledger.heard(MessageId::from_bits(1), token, SECOND * 17));
        assert_eq!(ledger.sweep(SECOND * 17, true).extend, [lease(1, 7)]);
        assert!(ledger.heard(MessageId::from_bits(1), token, SECOND * 40));
        assert_eq!(ledger.sweep(SECOND * 46, true).lapsed, [lease(2, 7)]);
    }

    #[test]
    fn an_outage_only_extends_and_blames_nobody() {
        let mut ledger = ledger(2);
        assert!(ledger.heard(MessageId::from_bits(1), Token::from_bits(7), SECOND));
        let sweep = ledger.sweep(SECOND * 600, false);
        assert_eq!((sweep.extend.len(), sweep.release.len(), sweep.silent), (2, 0, 0));
        ledger.resume(SECOND * 600);
        let sweep = ledger.sweep(SECOND * 601, true);
        assert_eq!((sweep.release.len(), sweep.silent), (0, 0));
        let sweep = ledger.sweep(SECOND * 605, true);
        assert_eq!((sweep.release, sweep.silent), (vec![lease(2, 7)], 0));
        assert_eq!(ledger.sweep(SECOND * 615, true).silent, 1);
    }

    #[test]
    fn words_about_another_lease_change_nothing() {
        let mut ledger = ledger(1);
        let id = MessageId::from_bits(1);
        assert!(!ledger.heard(id, Token::from_bits(6), SECOND));
        assert_eq!(ledger.remove(id, Some(Token::from_bits(6))), None);
        ledger.leased(lease(1, 9), SECOND);
        assert!(ledger.is_publishing(id, Token::from_bits(9)));
        assert_eq!((ledger.len(), ledger.room(&lease(1, 9).queue)), (1, 2));
    }
}
