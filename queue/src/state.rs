//! One shard of a queue in memory: which message is leased next, and what each event does to it. Synchronous and without I/O.
//!
//! Time is an argument. What has to be written leaves as [`Parcel`]s, and what a commit decides comes back as [`Mark`]s;
//! between the two the message is hidden from everybody else.

mod leasing;
mod matching;
mod settling;
mod time;
mod timeline;

pub(crate) use leasing::Take;
pub(crate) use matching::{Found, Search};
pub(crate) use timeline::history;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::MessageId;

use crate::entry::{Entry, NEVER, NO_KEY, Order, Ref, Slots};
use crate::index::Index;
use crate::keys::{Keys, Reseat};
use crate::ledger::Ledger;
use crate::machine::{Event, Standing, State as Life, Transition, transition};
use crate::message::{Happened, History};
use crate::name::{Key, QueueName};
use crate::pairs::Pairs;
use crate::schedule::Schedule;
use crate::schema;
use crate::settings::{Kind, Settings};
use crate::shares::Shares;

/// Stale places tolerated before the heap of instants is rebuilt.
const STALE_MAX: usize = 1_024;
/// Messages of one key whose payloads are read ahead.
const WAITING_AHEAD: usize = 64;

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

/// What room there is for a payload in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// There is some.
    pub(crate) some: bool,
    /// There is enough for payloads whose turn is far away.
    pub(crate) ample: bool,
}

impl Room {
    pub(crate) const AMPLE: Self = Self {
        some: true,
        ample: true,
    };
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
    /// Leaves messages whose payloads are in the record alone.
    pub(crate) resident_only: bool,
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
    /// The number of the queue in the record.
    pub(crate) id: i64,
    pub(crate) settings: Settings,
    pub(crate) slots: Slots,
    by_id: Index,
    schedule: Schedule,
    keys: Keys,
    pairs: Pairs,
    shares: Shares,
    due: BinaryHeap<Reverse<Due>>,
    /// Unstored messages by the instant they are stored on their own.
    lingering: VecDeque<(i64, Ref)>,
    /// New leases by the instant they are written down.
    young: VecDeque<(i64, Ref, u64)>,
    /// Ended messages by the instant they are forgotten, nearly in order.
    ended: VecDeque<(i64, Ref)>,
    /// Histories where there is no record.
    past: VecDeque<(i64, History)>,
    pub(crate) ledger: Ledger,
    pub(crate) counts: [usize; Life::ALL.len()],
    pub(crate) arriving: usize,
    /// Messages whose payloads are in the record only.
    pub(crate) offloaded: usize,
    /// By how much the bytes of payloads in memory have changed since it was last asked.
    pub(crate) resident_change: i64,
    /// Messages leased since payloads were last read ahead.
    pub(crate) leased_since: usize,
    /// The timer looks at this shard no later than this.
    pub(crate) armed: i64,
    pub(crate) tally: Tally,
    taken: Vec<u32>,
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl State {
    pub(crate) fn new(id: i64, settings: Settings, ledger: Ledger) -> Self {
        Self {
            id,
            settings,
            slots: Slots::default(),
            by_id: Index::default(),
            schedule: Schedule::default(),
            keys: Keys::default(),
            pairs: Pairs::default(),
            shares: Shares::default(),
            due: BinaryHeap::new(),
            lingering: VecDeque::new(),
            young: VecDeque::new(),
            ended: VecDeque::new(),
            past: VecDeque::new(),
            ledger,
            counts: [0; Life::ALL.len()],
            arriving: 0,
            offloaded: 0,
            resident_change: 0,
            leased_since: 0,
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
            self.schedule.len()
        }
    }

    /// Takes over settings; the kind stays.
    pub(crate) fn configure(&mut self, settings: Settings) {
        self.shares.reweigh(&settings.weights);
        self.settings = settings;
    }

    pub(crate) fn slot_of(&self, id: MessageId) -> Option<u32> {
        self.by_id.find(id.bits(), |slot| self.slots.bits_of(slot))
    }

    pub(crate) fn find(&self, id: MessageId) -> Option<(u32, &Entry)> {
        let slot = self.slot_of(id)?;
        Some((slot, self.slots.get(slot)?))
    }

    pub(crate) fn key_of(&self, entry: &Entry) -> Option<Key> {
        (entry.key != NO_KEY).then(|| self.keys.key(entry.key))
    }

    pub(crate) fn head(&self) -> Option<Order> {
        self.schedule.first()
    }

    /// The first messages in order.
    pub(crate) fn ordered(&self, max: usize) -> Vec<Order> {
        self.schedule.ordered(max)
    }

    /// Messages that are leased soon, after `after`, and are not in memory whole; and where the look ended.
    pub(crate) fn upcoming(&self, after: Option<Order>, max: usize) -> (Vec<(Ref, i64)>, Option<Order>) {
        let orders = self.schedule.upcoming(after, max);
        let mut missing = Vec::new();
        for order in &orders {
            let same_key = match self.slots.get(order.slot) {
                Some(entry) if self.is_exclusive(entry) => self.keys.waiting(entry.key, WAITING_AHEAD),
                _ => vec![order.slot],
            };
            for slot in same_key {
                let entry = self.slots.get(slot).filter(|entry| entry.payload.is_none());
                missing.extend(entry.map(|entry| (self.slots.reference(slot), entry.seq)));
            }
        }
        (missing, orders.last().copied())
    }

    /// Gives a message its payload back, if it is still there.
    pub(crate) fn install(&mut self, at: Ref, payload: crate::message::Payload) {
        if let Some(entry) = self.slots.resolve(at)
            && entry.payload.is_none()
        {
            entry.payload = Some(payload);
            self.resident_change += signed(entry.resident_bytes());
            self.offloaded -= 1;
        }
    }

    /// Reserves the place of a message whose unit is not durable yet, and adds its row. Its payload stays in memory only
    /// if `keep` says so of its place in the order.
    pub(crate) fn admit(
        &mut self,
        mut entry: Entry,
        key: Option<Key>,
        unit: &mut Unit,
        has_room: Room,
    ) -> Ref {
        entry.arriving = true;
        entry.stored = true;
        self.arriving += 1;
        schema::insert(unit, self.id, key, &entry);
        let order = entry.order(0);
        let is_next = self.offloaded == 0 || self.head().is_none_or(|head| order < head);
        if !(has_room.ample || has_room.some && is_next) {
            entry.payload = None;
        }
        self.place(entry, key)
    }

    /// Reserves the place of a message whose row the caller adds to a unit that is not durable yet.
    pub(crate) fn admit_hidden(&mut self, mut entry: Entry, key: Option<Key>) -> Ref {
        entry.arriving = true;
        self.arriving += 1;
        self.place(entry, key)
    }

    /// Takes a message that travels unstored; it may be leased at once.
    pub(crate) fn admit_unstored(&mut self, entry: Entry, key: Option<Key>, linger_until: i64) {
        self.counts[entry.standing.state.index()] += 1;
        self.tally.enqueued += 1;
        let at = self.place(entry, key);
        self.lingering.push_back((linger_until, at));
        self.expose(at.slot);
    }

    /// Takes a message found in the record. Says whether its row has to follow.
    pub(crate) fn recover(&mut self, mut entry: Entry, key: Option<Key>, now: i64) -> (Ref, bool) {
        entry.recovered = true;
        let was_running = entry.standing.state == Life::Running;
        if was_running {
            // The process ended while it was running: that try is spent.
            let Ok(Transition::Moved(standing)) = transition(entry.standing, Event::Lapse) else {
                unreachable!("a running message may always lapse")
            };
            entry.standing = standing;
            entry.at = now;
            self.note(&mut entry, Happened::Lapsed, now);
            if standing.state == Life::Errored {
                entry.rare_mut().error = Some("the process ended while the message was running".into());
            }
        }
        if entry.standing.state == Life::Invisible && entry.at <= now {
            entry.standing.state = Life::Pending;
        }
        let state = entry.standing.state;
        let ended_at = entry.at;
        self.counts[state.index()] += 1;
        let at = self.place(entry, key);
        if state.is_ended() {
            self.ended
                .push_back((ended_at.saturating_add(self.keep_ms(state)), at));
        } else {
            self.expose(at.slot);
        }
        (at, was_running)
    }

    fn place(&mut self, mut entry: Entry, key: Option<Key>) -> Ref {
        let id = entry.id();
        if let Some(key) = key {
            entry.key = self.keys.join(key);
        }
        self.offloaded += usize::from(entry.payload.is_none());
        self.resident_change += signed(entry.resident_bytes());
        let at = self.slots.insert(entry);
        self.by_id
            .insert(id.bits(), at.slot, |slot| self.slots.bits_of(slot));
        if let Some(entry) = self.slots.get_mut(at.slot)
            && entry.rare().is_some()
        {
            let order = entry.order(at.slot);
            let rare = entry.rare_mut();
            if let Some(metadata) = &rare.metadata {
                rare.pairs = self.pairs.join(metadata, order);
            }
            if let Some(fairness) = &rare.fairness {
                entry.flow = self.shares.join(fairness, &self.settings.weights);
            }
        }
        at
    }

    fn forget(&mut self, slot: u32) {
        if let Some(entry) = self.slots.remove(slot) {
            self.offloaded -= usize::from(entry.payload.is_none());
            self.resident_change -= signed(entry.resident_bytes());
            self.by_id.remove(entry.id().bits(), slot);
            if entry.key != NO_KEY {
                self.keys.leave(entry.key);
            }
            self.shares.leave(entry.flow);
            self.pairs.leave(entry.pairs(), entry.order(slot));
        }
    }

    fn is_exclusive(&self, entry: &Entry) -> bool {
        self.settings.kind == Kind::Exclusive && entry.key != NO_KEY
    }

    /// Puts a message that nobody holds back where its state wants it.
    fn expose(&mut self, slot: u32) {
        let Some(entry) = self.slots.get(slot) else {
            return;
        };
        if entry.is_hidden() {
            return;
        }
        let (order, key) = (entry.order(slot), entry.key);
        let (at, expires_at) = (entry.at, entry.expires_at());
        match entry.standing.state {
            Life::Pending if self.is_exclusive(entry) => {
                let reseat = self.keys.arrive(key, order, &self.slots);
                self.reseat(reseat);
            }
            Life::Pending => self.seat(order),
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
        let (order, key) = (entry.order(slot), entry.key);
        if self.is_exclusive(entry) {
            let reseat = self.keys.withdraw(key, &order, &self.slots);
            self.reseat(reseat);
        } else {
            self.unseat(&order);
        }
    }

    /// A running message of a key is not running any more.
    fn free_key(&mut self, key: u32) {
        if self.settings.kind == Kind::Exclusive && key != NO_KEY {
            let reseat = self.keys.done(key, &self.slots);
            self.reseat(reseat);
        }
    }

    fn reseat(&mut self, reseat: Reseat) {
        if let Some(out) = reseat.out {
            self.unseat(&out);
        }
        if let Some(into) = reseat.into {
            self.seat(into);
        }
    }

    fn seat(&mut self, order: Order) {
        let Some(entry) = self.slots.get(order.slot) else {
            return;
        };
        self.schedule
            .insert(order, entry.flow, self.shares.weight(entry.flow));
        self.pairs.seat(entry.pairs(), order);
    }

    fn unseat(&mut self, order: &Order) {
        let Some(entry) = self.slots.get(order.slot) else {
            return;
        };
        self.schedule.remove(order, entry.flow);
        self.pairs.unseat(entry.pairs(), order);
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
