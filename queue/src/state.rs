//! One queue in memory: which message is leased next, and what each event does to it. Synchronous and without I/O.
//!
//! Time is an argument. What has to be written leaves as [`Parcel`]s, and what a commit decides comes back as [`Mark`]s;
//! between the two the message is hidden from everybody else.

mod leasing;
mod settling;
mod time;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::MessageId;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::entry::{Entry, NEVER, Order, Ref, Slots};
use crate::keys::Keys;
use crate::machine::{Event, Standing, State as Life, Transition, transition};
use crate::name::QueueName;
use crate::settings::{Kind, Settings};

/// Stale places tolerated before a heap is rebuilt.
const STALE_MAX: usize = 1_024;

/// What a commit decides about one message.
pub(crate) struct Mark {
    pub(crate) at: Ref,
    pub(crate) then: Then,
}

/// What becomes of a message when its unit is durable.
pub(crate) enum Then {
    /// It is enqueued.
    Arrive,
    /// It has a row of its own now.
    Stored,
    /// Its consumer is done.
    Complete,
    /// Its consumer has failed: whether it may be tried again, and from when on.
    Fail {
        retryable: bool,
        delayed: bool,
        visible_at: i64,
        error: Arc<str>,
    },
    /// It is called back.
    Cancel,
    /// It has a new set of attempts.
    Redrive,
}

/// Rows to be written in the background, and what their commit decides.
pub(crate) struct Parcel {
    pub(crate) unit: Unit,
    pub(crate) marks: Vec<Mark>,
}

/// How the work of a lease has failed.
pub(crate) struct Failing {
    pub(crate) retryable: bool,
    pub(crate) visible_at: i64,
    pub(crate) now: i64,
    pub(crate) error: Arc<str>,
}

/// Who leases, and for how long.
pub(crate) struct Taking<'a> {
    pub(crate) queue: &'a QueueName,
    pub(crate) consumer: &'a Arc<str>,
    pub(crate) now: i64,
    pub(crate) lease_ms: i64,
    /// Until when leases of recovered messages are written at once.
    pub(crate) suspect_until: i64,
    /// The next token.
    pub(crate) token: &'a dyn Fn() -> u64,
}

/// How many messages went which way, for the metrics.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) enqueued: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) lapsed: u64,
    pub(crate) expired: u64,
    pub(crate) missed_deadlines: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: i64,
    message: Ref,
    expiry: bool,
}

pub(crate) struct State {
    pub(crate) id: i64,
    pub(crate) settings: Settings,
    pub(crate) slots: Slots,
    by_id: HashMap<MessageId, u32, FxBuildHasher>,
    order: BinaryHeap<Reverse<Order>>,
    /// Messages of `order` that are current.
    waiting: usize,
    keys: Keys,
    due: BinaryHeap<Reverse<Due>>,
    /// Unstored messages by the instant they are stored on their own.
    lingering: VecDeque<(i64, Ref)>,
    /// New leases by the instant they are written down.
    young: VecDeque<(i64, Ref, u64)>,
    /// Ended messages by the instant they are forgotten, nearly in order.
    ended: VecDeque<(i64, Ref)>,
    pub(crate) counts: [usize; Life::ALL.len()],
    pub(crate) arriving: usize,
    /// The timer looks at this queue no later than this.
    pub(crate) armed: i64,
    pub(crate) tally: Tally,
    taken: Vec<u32>,
}

impl State {
    pub(crate) fn new(id: i64, settings: Settings) -> Self {
        Self {
            id,
            settings,
            slots: Slots::default(),
            by_id: HashMap::default(),
            order: BinaryHeap::new(),
            waiting: 0,
            keys: Keys::default(),
            due: BinaryHeap::new(),
            lingering: VecDeque::new(),
            young: VecDeque::new(),
            ended: VecDeque::new(),
            counts: [0; Life::ALL.len()],
            arriving: 0,
            armed: NEVER,
            tally: Tally::default(),
            taken: Vec::new(),
        }
    }

    /// What can be leased: messages, or free keys.
    pub(crate) const fn ready(&self) -> usize {
        if self.settings.dequeue_blocked {
            0
        } else {
            self.waiting + self.keys.ready
        }
    }

    pub(crate) fn find(&self, id: MessageId) -> Option<(u32, &Entry)> {
        let slot = *self.by_id.get(&id)?;
        Some((slot, self.slots.get(slot)?))
    }

    pub(crate) fn head(&mut self) -> Option<Order> {
        if self.settings.kind == Kind::Exclusive {
            return self.keys.first_order(&self.slots);
        }
        while let Some(Reverse(order)) = self.order.peek() {
            if self.slots.is_current(order) {
                return Some(*order);
            }
            self.order.pop();
        }
        None
    }

    /// Reserves the place of a message whose unit is not durable yet.
    pub(crate) fn admit(&mut self, mut entry: Entry) -> Ref {
        entry.arriving = true;
        self.arriving += 1;
        self.place(entry)
    }

    /// Takes a message that travels unstored; it may be leased at once.
    pub(crate) fn admit_unstored(&mut self, entry: Entry, linger_until: i64) {
        self.counts[entry.standing.state.index()] += 1;
        self.tally.enqueued += 1;
        let at = self.place(entry);
        self.lingering.push_back((linger_until, at));
        self.expose(at.slot);
    }

    /// Takes a message found in the record.
    pub(crate) fn recover(&mut self, mut entry: Entry, now: i64) -> Ref {
        entry.recovered = true;
        if entry.standing.state == Life::Running {
            // The process ended while it was running: that try is spent.
            let Ok(Transition::Moved(standing)) = transition(entry.standing, Event::Lapse) else {
                unreachable!("a running message may always lapse")
            };
            entry.standing = standing;
            entry.at = now;
            if standing.state == Life::Errored {
                entry.error = Some("the process ended while the message was running".into());
            }
        }
        if entry.standing.state == Life::Invisible && entry.at <= now {
            entry.standing.state = Life::Pending;
        }
        let state = entry.standing.state;
        let ended_at = entry.at;
        self.counts[state.index()] += 1;
        let at = self.place(entry);
        if state.is_ended() {
            self.ended
                .push_back((ended_at.saturating_add(self.keep_ms(state)), at));
        } else {
            self.expose(at.slot);
        }
        at
    }

    fn place(&mut self, entry: Entry) -> Ref {
        let id = entry.id;
        let at = self.slots.insert(entry);
        self.by_id.insert(id, at.slot);
        at
    }

    /// Puts a message that nobody holds back where its state wants it.
    fn expose(&mut self, slot: u32) {
        let Some(entry) = self.slots.get_mut(slot) else {
            return;
        };
        if entry.is_hidden() {
            return;
        }
        let order = entry.order(slot);
        let (at, expires_at) = (entry.at, entry.expires_at);
        match entry.standing.state {
            Life::Pending => match (self.settings.kind, entry.key) {
                (Kind::Exclusive, Some(key)) => entry.key_slot = self.keys.arrive(key, order),
                _ => {
                    self.order.push(Reverse(order));
                    self.waiting += 1;
                    if self.order.len() > 2 * self.waiting + STALE_MAX {
                        let slots = &self.slots;
                        self.order.retain(|Reverse(order)| slots.is_current(order));
                    }
                }
            },
            Life::Invisible => self.push_due(at, slot, false),
            Life::Running | Life::Completed | Life::Canceled | Life::Errored | Life::Expired => return,
        }
        if expires_at != NEVER {
            self.push_due(expires_at, slot, true);
        }
    }

    /// Takes a message out of the order without leasing it. Call it before the message is hidden or moved.
    fn withdraw(&mut self, slot: u32) {
        let Some(entry) = self.slots.get(slot) else { return };
        if entry.standing.state != Life::Pending || entry.is_hidden() {
            return;
        }
        if self.settings.kind == Kind::Exclusive && entry.key.is_some() {
            self.keys.withdraw(entry.key_slot);
        } else {
            self.waiting -= 1;
        }
    }

    fn push_due(&mut self, at: i64, slot: u32, expiry: bool) {
        let message = self.slots.reference(slot);
        self.due.push(Reverse(Due { at, message, expiry }));
        if self.due.len() > 4 * self.slots.len() + STALE_MAX {
            let slots = &mut self.slots;
            self.due.retain(|Reverse(due)| {
                slots
                    .resolve(due.message)
                    .is_some_and(|entry| !entry.standing.state.is_ended())
            });
        }
    }
}

/// Moves an entry to its new standing and counts it there.
const fn shift(counts: &mut [usize; Life::ALL.len()], entry: &mut Entry, standing: Standing) {
    counts[entry.standing.state.index()] -= 1;
    counts[standing.state.index()] += 1;
    entry.standing = standing;
}

fn push_rows(unit: Unit, parcels: &mut Vec<Parcel>) {
    if !unit.is_empty() {
        parcels.push(Parcel {
            unit,
            marks: Vec::new(),
        });
    }
}
