//! A queue and its shards. Each shard is an order and a lock of its own; a message belongs to the shard its key says, or
//! its id when it has none, so that a key is never in two shards and exclusivity stays exact.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use celesta_types::MessageId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::entry::Order;
use crate::index::hash;
use crate::ledger::Ledger;
use crate::limits::SHARDS_MAX;
use crate::name::{Key, QueueName, Token};
use crate::settings::{Kind, Settings, Transport};
use crate::state::State;
use crate::watch::Watcher;

/// Consumers woken by one change; each that leaves something behind wakes the next.
const WOKEN_AT_ONCE: usize = 4;
/// Bits of the enqueue order in a head that is readable without the lock; class and number stand above.
const HEAD_SEQ_BITS: u32 = 45;
/// Tokens count in the lower 40 bits: at 50,000 leases a second that is 254 days without a restart.
pub(crate) const TOKEN_BITS: u32 = 40;
/// Spreads keys that differ in few bits.
const SHARD_SHIFT: u32 = 20;

/// Messages of a queue that share an order and a lock.
pub(crate) struct Shard {
    pub(crate) state: Mutex<State>,
    /// What can be leased, readable without the lock.
    pub(crate) ready: AtomicUsize,
    /// What is leased next: class and number, and below them the place in the enqueue order.
    head: AtomicU64,
    /// Payloads are being read ahead.
    pub(crate) reading: AtomicBool,
    /// Where the last look ahead ended.
    pub(crate) ahead: Mutex<Option<Order>>,
}

impl Shard {
    fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            ready: AtomicUsize::new(0),
            head: AtomicU64::new(u64::MAX),
            reading: AtomicBool::new(false),
            ahead: Mutex::new(None),
        }
    }

    /// Lets others see what can be leased. Call it with the lock held.
    pub(crate) fn publish(&self, state: &State, is_alone: bool) -> usize {
        let ready = state.ready();
        self.ready.store(ready, Ordering::Release);
        if !is_alone {
            let head = state.head().map_or(u64::MAX, |head| {
                let seq = head.seq.unsigned_abs() & ((1 << HEAD_SEQ_BITS) - 1);
                (u64::from(head.rank) << HEAD_SEQ_BITS) | seq
            });
            self.head.store(head, Ordering::Release);
        }
        ready
    }
}

/// One queue.
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) index: u32,
    /// The number of the queue in the record.
    pub(crate) id: i64,
    first: Shard,
    exclusive: AtomicBool,
    /// Its messages are sent to a broker.
    on_broker: AtomicBool,
    /// The other shards; made when the queue is first configured to have them.
    others: OnceLock<Box<[OnceLock<Shard>]>>,
    shards: AtomicU32,
    /// Messages leased although one of another shard came first by class or number.
    pub(crate) overtaken: AtomicU64,
    /// Consumers that wait for this queue alone.
    pub(crate) waiting: Notify,
    /// Consumers that wait for messages with certain metadata.
    pub(crate) choosy: Notify,
    /// Consumers that watch it among others.
    pub(crate) watchers: Mutex<Vec<Weak<Watcher>>>,
    /// Its own row is durable.
    pub(crate) registered: AtomicBool,
    ledger: Ledger,
}

impl Queue {
    pub(crate) fn new(
        name: QueueName,
        index: u32,
        id: i64,
        settings: Settings,
        ledger: Ledger,
        watchers: Vec<Weak<Watcher>>,
    ) -> Self {
        let shards = settings.shards;
        let exclusive = settings.kind == Kind::Exclusive;
        let on_broker = settings.transport == Transport::Broker;
        Self {
            name,
            index,
            id,
            first: Shard::new(State::new(id, settings, ledger.clone())),
            exclusive: AtomicBool::new(exclusive),
            on_broker: AtomicBool::new(on_broker),
            others: OnceLock::new(),
            shards: AtomicU32::new(shards),
            overtaken: AtomicU64::new(0),
            waiting: Notify::new(),
            choosy: Notify::new(),
            watchers: Mutex::new(watchers),
            registered: AtomicBool::new(!ledger.is_recorded()),
            ledger,
        }
    }

    /// How many shards are in use.
    pub(crate) fn shards(&self) -> usize {
        self.shards.load(Ordering::Acquire) as usize
    }

    pub(crate) fn shard(&self, number: usize) -> &Shard {
        let Some(other) = number.checked_sub(1) else {
            return &self.first;
        };
        let others = self.others.get_or_init(|| {
            let others = (1..SHARDS_MAX).map(|_| OnceLock::new());
            others.collect()
        });
        others[other].get_or_init(|| {
            let settings = self.settings();
            Shard::new(State::new(self.id, settings, self.ledger.clone()))
        })
    }

    /// The settings all shards share.
    pub(crate) fn settings(&self) -> Settings {
        self.first.state.lock().settings.clone()
    }

    pub(crate) fn kind(&self) -> Kind {
        if self.exclusive.load(Ordering::Relaxed) {
            Kind::Exclusive
        } else {
            Kind::Simple
        }
    }

    pub(crate) fn is_on_broker(&self) -> bool {
        self.on_broker.load(Ordering::Relaxed)
    }

    /// What can be leased.
    pub(crate) fn ready(&self) -> usize {
        (0..self.shards())
            .map(|shard| self.shard(shard).ready.load(Ordering::Acquire))
            .sum()
    }

    /// The shard a message belongs to.
    pub(crate) fn shard_of(&self, id: MessageId, key: Option<Key>) -> usize {
        match self.shards() {
            1 => 0,
            shards => {
                let bits = key.map_or_else(|| id.bits(), Key::bits);
                usize::try_from(hash(bits) >> SHARD_SHIFT).unwrap_or(0) % shards
            }
        }
    }

    /// The shard that gave a lease: its tokens leave its number when they are divided.
    pub(crate) fn shard_of_lease(&self, token: Token) -> usize {
        let count = token.bits() & ((1 << TOKEN_BITS) - 1);
        usize::try_from(count).unwrap_or(0) % self.shards()
    }

    /// The shards that have something to lease and are not `tried`, what comes first before the others.
    pub(crate) fn first_shard(&self, tried: u64) -> Option<usize> {
        let untried = (0..self.shards()).filter(|shard| tried & (1 << shard) == 0);
        let ready = untried.filter(|&shard| self.shard(shard).ready.load(Ordering::Acquire) > 0);
        ready.min_by_key(|&shard| self.shard(shard).head.load(Ordering::Acquire))
    }

    /// The class and number that come first in the other shards.
    pub(crate) fn first_rank_beside(&self, shard: usize) -> u32 {
        let others = (0..self.shards()).filter(|&other| other != shard);
        let heads = others.map(|other| self.shard(other).head.load(Ordering::Acquire));
        let first = heads.min().unwrap_or(u64::MAX) >> HEAD_SEQ_BITS;
        u32::try_from(first).unwrap_or(u32::MAX)
    }

    /// Takes over settings for all shards. A queue that holds messages keeps its kind and its shards; gives those then.
    pub(crate) fn configure(&self, settings: &Settings) -> Result<bool, (Kind, u32)> {
        let used = self.shards().max(settings.shards as usize);
        // Made before the locks are taken: making one looks at the first.
        for shard in 0..used {
            self.shard(shard);
        }
        let mut states: Vec<_> = (0..used).map(|shard| self.shard(shard).state.lock()).collect();
        let Some(now) = states.first().map(|state| state.settings.clone()) else {
            return Ok(false);
        };
        if now == *settings {
            return Ok(false);
        }
        let in_use = states.iter().any(|state| state.slots.len() > 0);
        if in_use && (now.kind != settings.kind || now.shards != settings.shards) {
            return Err((now.kind, now.shards));
        }
        for state in &mut states {
            state.configure(settings.clone());
        }
        self.exclusive
            .store(settings.kind == Kind::Exclusive, Ordering::Relaxed);
        self.on_broker
            .store(settings.transport == Transport::Broker, Ordering::Relaxed);
        self.shards.store(settings.shards, Ordering::Release);
        Ok(true)
    }

    pub(crate) fn wake(self: &Arc<Self>, count: usize) {
        for _ in 0..count.min(WOKEN_AT_ONCE) {
            self.waiting.notify_one();
        }
        self.choosy.notify_waiters();
        let mut watchers = self.watchers.lock();
        if !watchers.is_empty() {
            watchers.retain(|watcher| watcher.upgrade().is_some_and(|watcher| watcher.mark(self)));
        }
    }
}
