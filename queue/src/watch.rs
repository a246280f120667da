//! Watching many queues at once: a consumer that serves a thousand queues waits in one place.
//!
//! A watch is registered once in each of its queues. A queue that gets something to lease marks itself in the watch, so
//! that waking and looking cost what has changed, not how much is watched.

use std::fmt;
use std::sync::{Arc, Weak};

use celesta_types::Priority;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;

use crate::Queues;
use crate::core::Core;
use crate::entry::priority;
use crate::name::QueueName;
use crate::shard::Queue;

#[derive(Default)]
struct Marked {
    queues: HashMap<u32, Arc<Queue>, FxBuildHasher>,
    removed: HashSet<u32, FxBuildHasher>,
    paused: HashSet<u32, FxBuildHasher>,
}

#[derive(Default)]
pub(crate) struct Watcher {
    marked: Mutex<Marked>,
    changed: Notify,
}

impl Watcher {
    /// The queue has something to lease. Says whether it is still watched.
    pub(crate) fn mark(&self, queue: &Arc<Queue>) -> bool {
        let mut marked = self.marked.lock();
        if marked.removed.contains(&queue.index) {
            return false;
        }
        marked
            .queues
            .entry(queue.index)
            .or_insert_with(|| Arc::clone(queue));
        let paused = marked.paused.contains(&queue.index);
        drop(marked);
        if !paused {
            self.changed.notify_one();
        }
        true
    }
}

/// A queue of a watch that has something to lease.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The queue.
    pub queue: QueueName,
    /// The priority of what would be leased first.
    pub head: Priority,
    /// How many messages, or free keys of an exclusive queue, could be leased when it was looked at.
    pub count: usize,
}

/// Watches a set of queues for one consumer. Dropping it ends the watch.
pub struct Watch {
    pub(crate) core: Arc<Core>,
    watcher: Arc<Watcher>,
}

impl Watch {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
            watcher: Arc::default(),
        }
    }

    /// Watches `queue` too; it is made from its template when there is none yet.
    ///
    /// # Errors
    /// When there are too many queues to make it.
    pub fn add(&self, queue: &QueueName) -> Result<(), crate::ConfigureError> {
        let queue = self.core.find_or_make(queue)?;
        self.watch(&queue);
        Ok(())
    }

    pub(crate) fn add_prefix(&self, prefix: &str) {
        let mut registry = self.core.registry.write();
        registry
            .watchers
            .push((prefix.to_owned(), Arc::downgrade(&self.watcher)));
        let matching = registry
            .by_index
            .iter()
            .filter(|queue| queue.name.as_str().starts_with(prefix));
        let matching: Vec<_> = matching.map(Arc::clone).collect();
        drop(registry);
        for queue in &matching {
            self.watch(queue);
        }
    }

    /// Watches `queue` no more.
    pub fn remove(&self, queue: &QueueName) {
        let Some(queue) = self.core.find(queue) else {
            return;
        };
        let mut marked = self.watcher.marked.lock();
        marked.queues.remove(&queue.index);
        marked.paused.remove(&queue.index);
        marked.removed.insert(queue.index);
        drop(marked);
        let mine = Arc::downgrade(&self.watcher);
        queue
            .watchers
            .lock()
            .retain(|watcher| !Weak::ptr_eq(watcher, &mine));
    }

    /// Does not report `queue` until it is resumed: its consumer has no room for it now.
    pub fn pause(&self, queue: &QueueName) {
        if let Some(queue) = self.core.find(queue) {
            self.watcher.marked.lock().paused.insert(queue.index);
        }
    }

    /// Reports `queue` again.
    pub fn resume(&self, queue: &QueueName) {
        if let Some(queue) = self.core.find(queue)
            && self.watcher.marked.lock().paused.remove(&queue.index)
        {
            self.watcher.changed.notify_one();
        }
    }

    /// The watched queues that have something to lease, the most urgent first; waits until there is one. Empty only
    /// when the process is stopping.
    ///
    /// # Cancel safety
    /// May be dropped and asked again at any time.
    pub async fn ready(&self) -> Vec<Ready> {
        loop {
            let ready = self.ready_now();
            if !ready.is_empty() {
                return ready;
            }
            tokio::select! {
                () = self.watcher.changed.notified() => {}
                () = self.core.shutdown.requested() => return Vec::new(),
            }
        }
    }

    /// The watched queues that have something to lease this instant, the most urgent first.
    #[must_use]
    pub fn ready_now(&self) -> Vec<Ready> {
        let mut marked = self.watcher.marked.lock();
        marked.queues.retain(|_, queue| queue.ready() > 0);
        let reported = marked
            .queues
            .iter()
            .filter(|(index, _)| !marked.paused.contains(*index));
        let reported: Vec<_> = reported.map(|(_, queue)| Arc::clone(queue)).collect();
        drop(marked);
        let mut ready = Vec::with_capacity(reported.len());
        for queue in reported {
            let heads = (0..queue.shards()).filter_map(|shard| {
                let state = queue.shard(shard).state.lock();
                state.head().filter(|_| state.ready() > 0)
            });
            if let Some(head) = heads.min() {
                ready.push((
                    head,
                    Ready {
                        queue: queue.name.clone(),
                        head: priority(head.rank, head.deadline),
                        count: queue.ready(),
                    },
                ));
            }
        }
        ready.sort_by_key(|(head, _)| *head);
        ready.into_iter().map(|(_, ready)| ready).collect()
    }

    fn watch(&self, queue: &Arc<Queue>) {
        self.watcher.marked.lock().removed.remove(&queue.index);
        let mine = Arc::downgrade(&self.watcher);
        let mut watchers = queue.watchers.lock();
        if !watchers.iter().any(|watcher| Weak::ptr_eq(watcher, &mine)) {
            watchers.push(mine);
        }
        drop(watchers);
        if queue.ready() > 0 {
            self.watcher.mark(queue);
        }
    }
}

impl Queues {
    /// Where the message stands that would be leased first of `queue`; none when nothing could be leased.
    #[must_use]
    pub fn head(&self, queue: &QueueName) -> Option<Priority> {
        let queue = self.core.find(queue).filter(|queue| queue.ready() > 0)?;
        let heads = (0..queue.shards()).filter_map(|shard| {
            let state = queue.shard(shard).state.lock();
            state.head().filter(|_| state.ready() > 0)
        });
        heads.min().map(|head| priority(head.rank, head.deadline))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("marked", &self.watcher.marked.lock().queues.len())
            .finish_non_exhaustive()
    }
}
