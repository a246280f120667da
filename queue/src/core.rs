//! What all handles share: the registry of queues, the way to the record, and the timer.
//!
//! Every change of a queue goes through [`Core::with`], which takes the queue's lock once, lets time catch up, and after
//! the lock is gone wakes consumers, arms the timer and sends off what has to be written.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use celesta_runtime::{Clock, Shutdown};
use celesta_store::{Cell, CommitError, GroupEnd, Store, Unit};
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc};

use crate::later::Later;
use crate::ledger::Ledger;
use crate::limits::QUEUES_MAX;
use crate::metrics::Metrics;
use crate::name::QueueName;
use crate::schema::SET_QUEUE;
use crate::settings::{ConfigureError, Options, Settings};
use crate::shard::{Queue, TOKEN_BITS};
use crate::state::{Mark, Parcel, State};
use crate::watch::Watcher;

#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) by_name: HashMap<QueueName, Arc<Queue>, rustc_hash::FxBuildHasher>,
    pub(crate) by_index: Vec<Arc<Queue>>,
    /// Watchers of queues by the beginning of their names.
    pub(crate) watchers: Vec<(String, Weak<Watcher>)>,
    pub(crate) last_id: i64,
}

/// Messages leased before the next payloads are read.
const READ_AHEAD_EVERY: usize = 2_048;

/// The instants at which the timer looks at shards.
#[derive(Default)]
pub(crate) struct Timers {
    heap: Mutex<BinaryHeap<Reverse<(i64, u32, usize)>>>,
    pub(crate) changed: Notify,
}

impl Timers {
    fn arm(&self, at: i64, queue: u32, shard: usize) {
        let mut heap = self.heap.lock();
        let earlier = heap.peek().is_none_or(|Reverse((first, ..))| at < *first);
        heap.push(Reverse((at, queue, shard)));
        drop(heap);
        if earlier {
            self.changed.notify_one();
        }
    }

    pub(crate) fn next(&self) -> Option<i64> {
        self.heap.lock().peek().map(|Reverse((at, ..))| *at)
    }

    pub(crate) fn pop_due(&self, now: i64) -> Option<(u32, usize)> {
        let mut heap = self.heap.lock();
        let due = heap.peek().is_some_and(|Reverse((at, ..))| *at <= now);
        if due {
            heap.pop().map(|Reverse((_, queue, shard))| (queue, shard))
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
    /// What units have decided whose group has not ended: each shard is then locked once for all of them.
    decided: Mutex<Vec<(Group, bool)>>,
    pub(crate) metrics: Metrics,
    pub(crate) seq: AtomicI64,
    pub(crate) tokens: AtomicU64,
    pub(crate) messages: AtomicI64,
    pub(crate) suspect_until: AtomicI64,
    /// Bytes of payloads in memory.
    pub(crate) resident: AtomicI64,
    pub(crate) ledger: RwLock<Ledger>,
    /// Messages that become visible much later.
    pub(crate) later: Arc<Later>,
    /// Shards whose next payloads are to be read.
    pub(crate) read_ahead: OnceLock<mpsc::Sender<(Arc<Queue>, usize)>>,
}

impl Drop for Core {
    fn drop(&mut self) {
        // The timer holds no handle: it ends when it is woken and finds nobody.
        self.timers.changed.notify_one();
        self.later.wake();
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
            decided: Mutex::default(),
            metrics: Metrics::new(),
            seq: AtomicI64::new(1),
            tokens: AtomicU64::new(1),
            messages: AtomicI64::new(0),
            suspect_until: AtomicI64::new(0),
            resident: AtomicI64::new(0),
            ledger: RwLock::new(Ledger::none()),
            later: Arc::default(),
            read_ahead: OnceLock::new(),
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
        Self::register(queue, &mut unit);
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
        let ledger = self.ledger.read().clone();
        let queue = Arc::new(Queue::new(name.clone(), index, id, settings, ledger, watchers));
        registry.by_name.insert(name, Arc::clone(&queue));
        registry.by_index.push(Arc::clone(&queue));
        Ok(queue)
    }

    /// Adds the queue's own row to a unit that needs it to be there.
    pub(crate) fn register(queue: &Queue, unit: &mut Unit) {
        let settings = serde_json::to_string(&queue.settings()).expect("settings always encode");
        unit.add(
            &SET_QUEUE,
            [
                Cell::Int(queue.id),
                Cell::from(queue.name.as_str()),
                Cell::from(settings),
            ],
        );
    }

    /// Adds the queue's own row as long as it may not be there.
    pub(crate) fn register_if_new(queue: &Queue, unit: &mut Unit) {
        if !queue.registered.load(Ordering::Acquire) {
            Self::register(queue, unit);
        }
    }

    /// The next token of a shard: divided by the number of shards it leaves the number of the shard.
    pub(crate) fn next_token(&self, shard: usize, shards: usize) -> u64 {
        let (shard, shards) = (shard as u64, shards as u64);
        let from = self.tokens.fetch_add(shards, Ordering::Relaxed);
        let count = from & ((1 << TOKEN_BITS) - 1);
        from + (shards + shard - count % shards) % shards
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.now().as_millis()
    }

    /// Changes a shard of a queue under its lock, and afterwards does what follows from the change.
    pub(crate) fn with<R>(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        number: usize,
        work: impl FnOnce(&mut State, i64, &mut Vec<Parcel>) -> R,
    ) -> R {
        let now = self.now();
        let mut parcels = Vec::new();
        let shard = queue.shard(number);
        let mut state = shard.state.lock();
        let (ready_before, messages_before) = (shard.ready.load(Ordering::Relaxed), state.slots.len());
        if state.armed <= now {
            state.armed = crate::entry::NEVER;
            state.tick(now, &mut parcels);
        }
        let answer = work(&mut state, now, &mut parcels);
        let ready = shard.publish(&state, queue.shards() == 1);
        let arm = state.rearm();
        let tally = std::mem::take(&mut state.tally);
        let kind = state.settings.kind;
        let messages = state.slots.len();
        let resident = std::mem::take(&mut state.resident_change);
        let reads_ahead = state.offloaded > 0 && state.leased_since >= READ_AHEAD_EVERY;
        let untaken = if parcels.is_empty() {
            Vec::new()
        } else {
            self.send_plain(&mut parcels)
        };
        drop(state);
        // Whoever hears that they have failed may want the lock.
        drop(untaken);
        let metrics = self.metrics.of(kind);
        if messages != messages_before {
            let change = i64::try_from(messages).unwrap_or(0) - i64::try_from(messages_before).unwrap_or(0);
            self.messages.fetch_add(change, Ordering::Relaxed);
            metrics.hold(change);
        }
        if resident != 0 {
            self.resident.fetch_add(resident, Ordering::Relaxed);
        }
        metrics.add(&tally);
        if tally.missed_deadlines > 0 {
            tracing::debug!(queue = %queue.name, messages = tally.missed_deadlines, "leased after the deadline");
        }
        if let Some(at) = arm {
            self.timers.arm(at, queue.index, number);
        }
        if reads_ahead {
            self.ask_ahead(queue, number);
        }
        if ready > ready_before {
            queue.wake(ready - ready_before);
        }
        for Parcel { mut unit, marks } in parcels {
            if !marks.is_empty() {
                Self::register_if_new(queue, &mut unit);
            }
            self.attach(
                &mut unit,
                vec![Group {
                    queue: Arc::clone(queue),
                    shard: number,
                    marks,
                }],
            );
            self.submit(unit);
        }
        answer
    }

    /// Has `unit`'s end decide about `groups`. Without a record they stand at once.
    pub(crate) fn attach(self: &Arc<Self>, unit: &mut Unit, groups: Vec<Group>) {
        let settlement = Settlement::new(self, groups);
        if self.store.is_none() {
            settlement.finish(true);
        } else if settlement.groups.iter().any(|group| !group.marks.is_empty()) {
            unit.on_done(move |outcome| settlement.decided(outcome.is_ok()));
            unit.at_group_end(self);
        }
    }

    /// Sends off, under the shard's lock, what changes messages that are not hidden meanwhile: as soon as the lock is free
    /// somebody else may lease such a message and complete it, and that must not be overtaken by what was before. Gives the
    /// units that nobody takes any more.
    fn send_plain(&self, parcels: &mut Vec<Parcel>) -> Vec<Unit> {
        let Some(store) = &self.store else {
            return Vec::new();
        };
        let plain = parcels.extract_if(.., |parcel| parcel.marks.is_empty());
        plain.filter_map(|parcel| store.push(parcel.unit).err()).collect()
    }

    /// Sends a unit to the record without waiting. When nobody takes it any more it counts as failed.
    pub(crate) fn submit(&self, unit: Unit) {
        match &self.store {
            Some(store) => drop(store.push(unit)),
            None => unit.finish(Ok(())),
        }
    }

    /// Commits a unit and waits for it.
    pub(crate) async fn commit(&self, unit: Unit) -> Result<(), CommitError> {
        match &self.store {
            Some(store) => store.commit(unit).await,
            None => {
                unit.finish(Ok(()));
                Ok(())
            }
        }
    }
}

impl GroupEnd for Core {
    fn group_ended(self: Arc<Self>) {
        let decided = std::mem::take(&mut *self.decided.lock());
        let mut places = HashMap::<_, usize, rustc_hash::FxBuildHasher>::default();
        let mut shards: Vec<(Arc<Queue>, usize, Vec<(Vec<Mark>, bool)>)> = Vec::new();
        for (group, durable) in decided {
            let place = *places.entry((group.queue.index, group.shard)).or_insert_with(|| {
                shards.push((group.queue, group.shard, Vec::new()));
                shards.len() - 1
            });
            shards[place].2.push((group.marks, durable));
        }
        for (queue, shard, marks) in shards {
            self.with(&queue, shard, |state, now, _| {
                for (marks, durable) in marks {
                    state.settle(marks, durable, now);
                }
            });
        }
    }
}

/// What a commit decides about messages of one queue.
pub(crate) struct Group {
    pub(crate) queue: Arc<Queue>,
    pub(crate) shard: usize,
    pub(crate) marks: Vec<Mark>,
}

/// Waits for a unit's end. Dropped without one (the unit was never submitted) it counts as failed.
///
/// Units stand in these queues themselves (in messages that are handed over), so what waits for them must not keep the
/// queues.
pub(crate) struct Settlement {
    core: Weak<Core>,
    groups: Vec<Group>,
}

impl Settlement {
    pub(crate) fn new(core: &Arc<Core>, groups: Vec<Group>) -> Self {
        let core = Arc::downgrade(core);
        Self { core, groups }
    }

    fn finish(mut self, durable: bool) {
        self.apply(durable);
    }

    /// As [`Settlement::finish`], once all of the group of units have said so.
    fn decided(mut self, durable: bool) {
        let groups = std::mem::take(&mut self.groups);
        let Some(core) = self.core.upgrade() else { return };
        let decided = groups.into_iter().map(|group| (group, durable));
        core.decided.lock().extend(decided);
    }

    fn apply(&mut self, durable: bool) {
        let groups = std::mem::take(&mut self.groups);
        let Some(core) = self.core.upgrade() else { return };
        for Group { queue, shard, marks } in groups {
            core.with(&queue, shard, |state, now, _| state.settle(marks, durable, now));
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
