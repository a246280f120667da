//! What all handles share: the registry of queues, the way to the record, and the timer.
//!
//! Every change of a queue goes through [`Core::with`], which takes the queue's lock once, lets time catch up, and after
//! the lock is gone wakes consumers, arms the timer and sends off what has to be written.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use celesta_runtime::{Clock, Shutdown};
use celesta_store::{Cell, CommitError, Store, Unit};
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::limits::QUEUES_MAX;
use crate::metrics::Metrics;
use crate::name::QueueName;
use crate::schema::SET_QUEUE;
use crate::settings::{ConfigureError, Options, Settings};
use crate::state::{Mark, Parcel, State};
use crate::watch::Watcher;

/// Consumers woken by one change; each that leaves something behind wakes the next.
const WOKEN_AT_ONCE: usize = 4;

/// One queue.
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) index: u32,
    pub(crate) state: Mutex<State>,
    /// What can be leased, readable without the lock.
    pub(crate) ready: AtomicUsize,
    /// Consumers that wait for this queue alone.
    pub(crate) waiting: Notify,
    /// Consumers that watch it among others.
    pub(crate) watchers: Mutex<Vec<Weak<Watcher>>>,
    /// Its own row is durable.
    pub(crate) registered: AtomicBool,
}

impl Queue {
    fn wake(self: &Arc<Self>, count: usize) {
        for _ in 0..count.min(WOKEN_AT_ONCE) {
            self.waiting.notify_one();
        }
        let mut watchers = self.watchers.lock();
        if !watchers.is_empty() {
            watchers.retain(|watcher| watcher.upgrade().is_some_and(|watcher| watcher.mark(self)));
        }
    }
}

#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) by_name: HashMap<QueueName, Arc<Queue>, rustc_hash::FxBuildHasher>,
    pub(crate) by_index: Vec<Arc<Queue>>,
    /// Watchers of queues by the beginning of their names.
    pub(crate) watchers: Vec<(String, Weak<Watcher>)>,
    pub(crate) last_id: i64,
}

/// The instants at which the timer looks at queues.
#[derive(Default)]
pub(crate) struct Timers {
    heap: Mutex<BinaryHeap<Reverse<(i64, u32)>>>,
    pub(crate) changed: Notify,
}

impl Timers {
    fn arm(&self, at: i64, queue: u32) {
        let mut heap = self.heap.lock();
        let earlier = heap.peek().is_none_or(|Reverse((first, _))| at < *first);
        heap.push(Reverse((at, queue)));
        drop(heap);
        if earlier {
            self.changed.notify_one();
        }
    }

    pub(crate) fn next(&self) -> Option<i64> {
        self.heap.lock().peek().map(|Reverse((at, _))| *at)
    }

    pub(crate) fn pop_due(&self, now: i64) -> Option<u32> {
        let mut heap = self.heap.lock();
        let due = heap.peek().is_some_and(|Reverse((at, _))| *at <= now);
        if due {
            heap.pop().map(|Reverse((_, queue))| queue)
        } else {
            None
        }
    }
}

pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) shutdown: Shutdown,
    pub(crate) options: Options,
    /// Absent in the model without a record.
    pub(crate) store: Option<Store>,
    pub(crate) registry: RwLock<Registry>,
    pub(crate) timers: Arc<Timers>,
    /// Units the committer had no room for; the timer sends them.
    overflow: Mutex<Vec<Unit>>,
    pub(crate) metrics: Metrics,
    pub(crate) seq: AtomicI64,
    pub(crate) tokens: AtomicU64,
    pub(crate) messages: AtomicI64,
    pub(crate) suspect_until: AtomicI64,
}

impl Drop for Core {
    fn drop(&mut self) {
        // The timer holds no handle: it ends when it is woken and finds nobody.
        self.timers.changed.notify_one();
    }
}

impl Core {
    pub(crate) fn new(store: Option<Store>, clock: &Clock, shutdown: &Shutdown, options: Options) -> Self {
        Self {
            clock: clock.clone(),
            shutdown: shutdown.clone(),
            options,
            store,
            registry: RwLock::default(),
            timers: Arc::default(),
            overflow: Mutex::default(),
            metrics: Metrics::new(),
            seq: AtomicI64::new(1),
            tokens: AtomicU64::new(1),
            messages: AtomicI64::new(0),
            suspect_until: AtomicI64::new(0),
        }
    }

    /// The queue of that name, if there is one.
    pub(crate) fn find(&self, name: &QueueName) -> Option<Arc<Queue>> {
        self.registry.read().by_name.get(name).map(Arc::clone)
    }

    /// The queue of that name; made from its template when there is none.
    pub(crate) fn find_or_make(&self, name: &QueueName) -> Result<Arc<Queue>, ConfigureError> {
        if let Some(queue) = self.find(name) {
            return Ok(queue);
        }
        self.make(name, self.options.settings_for(name))
    }

    pub(crate) fn make(&self, name: &QueueName, settings: Settings) -> Result<Arc<Queue>, ConfigureError> {
        let mut registry = self.registry.write();
        if let Some(queue) = registry.by_name.get(name) {
            return Ok(Arc::clone(queue));
        }
        let id = registry.last_id + 1;
        let queue = self.insert(&mut registry, name.clone(), id, settings)?;
        drop(registry);
        self.save(&queue);
        Ok(queue)
    }

    /// Writes the queue's own row in the background. Until it is durable, units that need it bring it along.
    pub(crate) fn save(&self, queue: &Arc<Queue>) {
        let mut unit = Unit::new();
        Self::register(queue, &queue.state.lock(), &mut unit);
        let saved = Arc::clone(queue);
        unit.on_done(move |outcome| {
            if outcome.is_ok() {
                saved.registered.store(true, Ordering::Release);
            }
        });
        self.submit(unit);
    }

    pub(crate) fn insert(
        &self,
        registry: &mut Registry,
        name: QueueName,
        id: i64,
        settings: Settings,
    ) -> Result<Arc<Queue>, ConfigureError> {
        let index = u32::try_from(registry.by_index.len())
            .ok()
            .filter(|&index| (index as usize) < QUEUES_MAX);
        let index = index.ok_or(ConfigureError::TooManyQueues { max: QUEUES_MAX })?;
        registry.last_id = registry.last_id.max(id);
        registry
            .watchers
            .retain(|(_, watcher)| watcher.strong_count() > 0);
        let watching = registry
            .watchers
            .iter()
            .filter(|(prefix, _)| name.as_str().starts_with(prefix.as_str()));
        let watchers = watching.map(|(_, watcher)| Weak::clone(watcher)).collect();
        let queue = Arc::new(Queue {
            name: name.clone(),
            index,
            state: Mutex::new(State::new(id, settings)),
            ready: AtomicUsize::new(0),
            waiting: Notify::new(),
            watchers: Mutex::new(watchers),
            registered: AtomicBool::new(self.store.is_none()),
        });
        registry.by_name.insert(name, Arc::clone(&queue));
        registry.by_index.push(Arc::clone(&queue));
        Ok(queue)
    }

    /// Adds the queue's own row to a unit that needs it to be there.
    pub(crate) fn register(queue: &Queue, state: &State, unit: &mut Unit) {
        let settings = serde_json::to_string(&state.settings).expect("settings always encode");
        unit.add(
            &SET_QUEUE,
            [
                Cell::Int(state.id),
                Cell::from(queue.name.as_str()),
                Cell::from(settings),
            ],
        );
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.now().as_millis()
    }

    /// Changes a queue under its lock, and afterwards does what follows from the change.
    pub(crate) fn with<R>(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        work: impl FnOnce(&mut State, i64, &mut Vec<Parcel>) -> R,
    ) -> R {
        let now = self.now();
        let mut parcels = Vec::new();
        let mut state = queue.state.lock();
        let (ready_before, messages_before) = (queue.ready.load(Ordering::Relaxed), state.slots.len());
        if state.armed <= now {
            state.armed = crate::entry::NEVER;
            state.tick(now, &mut parcels);
        }
        let answer = work(&mut state, now, &mut parcels);
        let ready = state.ready();
        queue.ready.store(ready, Ordering::Release);
        let arm = state.rearm();
        let tally = std::mem::take(&mut state.tally);
        let kind = state.settings.kind;
        let messages = state.slots.len();
        drop(state);
        let metrics = self.metrics.of(kind);
        if messages != messages_before {
            let change = i64::try_from(messages).unwrap_or(0) - i64::try_from(messages_before).unwrap_or(0);
            self.messages.fetch_add(change, Ordering::Relaxed);
            metrics.held.add(change);
        }
        metrics.add(&tally);
        if let Some(at) = arm {
            self.timers.arm(at, queue.index);
        }
        if ready > ready_before {
            queue.wake(ready - ready_before);
        }
        for Parcel { mut unit, marks } in parcels {
            if !queue.registered.load(Ordering::Acquire) && !marks.is_empty() {
                Self::register(queue, &queue.state.lock(), &mut unit);
            }
            self.attach(
                &mut unit,
                vec![Group {
                    queue: Arc::clone(queue),
                    marks,
                }],
            );
            self.submit(unit);
        }
        answer
    }

    /// Has `unit`'s end decide about `groups`. Without a record they stand at once.
    pub(crate) fn attach(self: &Arc<Self>, unit: &mut Unit, groups: Vec<Group>) {
        let settlement = Settlement {
            core: Arc::clone(self),
            groups,
        };
        if self.store.is_none() {
            settlement.finish(true);
        } else if settlement.groups.iter().any(|group| !group.marks.is_empty()) {
            unit.on_done(move |outcome| settlement.finish(outcome.is_ok()));
        }
    }

    /// Sends a unit to the record without waiting.
    pub(crate) fn submit(&self, unit: Unit) {
        let Some(store) = &self.store else { return };
        let mut overflow = self.overflow.lock();
        if overflow.is_empty() {
            let Err(unit) = store.try_submit(unit) else { return };
            if self.shutdown.is_requested() {
                // Nobody sends the overflow any more: dropped, the unit counts as failed.
                drop(overflow);
                drop(unit);
                return;
            }
            overflow.push(unit);
        } else {
            overflow.push(unit);
        }
        drop(overflow);
        self.timers.changed.notify_one();
    }

    /// Commits a unit and waits for it.
    pub(crate) async fn commit(&self, unit: Unit) -> Result<(), CommitError> {
        match &self.store {
            Some(store) => store.commit(unit).await,
            None => Ok(()),
        }
    }

    /// Sends what the committer had no room for, in order, waiting for room.
    pub(crate) async fn send_overflow(&self) {
        let Some(store) = &self.store else { return };
        loop {
            let units = std::mem::take(&mut *self.overflow.lock());
            if units.is_empty() {
                return;
            }
            for unit in units {
                store.submit(unit).await;
            }
        }
    }
}

/// What a commit decides about messages of one queue.
pub(crate) struct Group {
    pub(crate) queue: Arc<Queue>,
    pub(crate) marks: Vec<Mark>,
}

/// Waits for a unit's end. Dropped without one (the unit was never submitted) it counts as failed.
pub(crate) struct Settlement {
    core: Arc<Core>,
    groups: Vec<Group>,
}

impl Settlement {
    pub(crate) const fn new(core: Arc<Core>, groups: Vec<Group>) -> Self {
        Self { core, groups }
    }

    pub(crate) fn finish(mut self, durable: bool) {
        self.apply(durable);
    }

    fn apply(&mut self, durable: bool) {
        for Group { queue, marks } in std::mem::take(&mut self.groups) {
            self.core
                .with(&queue, |state, now, _| state.settle(marks, durable, now));
        }
    }

    /// Gives the groups to somebody else; this settlement decides nothing any more.
    pub(crate) fn take(mut self) -> Vec<Group> {
        std::mem::take(&mut self.groups)
    }

    pub(crate) fn push(&mut self, group: Group) {
        self.groups.push(group);
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.apply(false);
    }
}
