//! The feed of a worker whose node owns several partitions, which come and go: one [`QueueFeed`] for each of them.
//!
//! Where an invocation came from is read off its id. A partition that is being given up gives no more work, and takes back
//! what is under way until all of it is settled. A node on its own has one partition, which stays.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use celesta_queue::{LeaseRef, Leased, QueueName};
use celesta_runtime::Clock;
use celesta_types::{CallId, Partition, RunId};
use futures_util::future::{BoxFuture, select_all};
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use crate::feed::{Feed, FeedError, Finished, Progress, ProgressHook, Ready};
use crate::queue_feed::QueueFeed;
use crate::shared_results::SharedResults;
use crate::sift::sift;

/// Feeds of the partitions that are here.
pub struct PartedFeed {
    count: u32,
    parts: RwLock<BTreeMap<u32, Arc<Part>>>,
    /// Counts partitions that came or went.
    changes: watch::Sender<u64>,
    /// Which partition is asked first, among equals.
    turn: AtomicUsize,
    progress: ProgressHook,
    clock: Clock,
    /// What the partitions know of each other's results; nothing where there is one.
    results: Option<SharedResults>,
}

struct Part {
    feed: Arc<QueueFeed>,
    /// Invocations leased here that are not settled yet; an estimate, since leases may also lapse.
    leased: AtomicUsize,
    settled: Notify,
    leaving: AtomicBool,
}

impl Part {
    fn count(&self, leased: usize) {
        self.leased.fetch_add(leased, Ordering::AcqRel);
    }

    fn settle(&self, finished: usize) {
        let less = |leased: usize| Some(leased.saturating_sub(finished));
        // The closure never refuses.
        self.leased
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .ok();
        if self.leaving.load(Ordering::Acquire) {
            self.settled.notify_one();
        }
    }
}

impl PartedFeed {
    /// A feed of so many partitions, none of which is here yet. They reuse each other's results of pure functions by
    /// `results`.
    #[must_use]
    pub fn new(
        count: u32,
        clock: &Clock,
        progress: ProgressHook,
        results: Option<SharedResults>,
    ) -> Arc<Self> {
        Arc::new(Self {
            count,
            parts: RwLock::default(),
            changes: watch::Sender::new(0),
            turn: AtomicUsize::new(0),
            progress,
            clock: clock.clone(),
            results,
        })
    }

    /// The partition is here.
    pub fn add(&self, partition: u32, feed: Arc<QueueFeed>) {
        if let Some(results) = &self.results {
            feed.share_results(results);
        }
        let part = Part {
            feed,
            leased: AtomicUsize::new(0),
            settled: Notify::new(),
            leaving: AtomicBool::new(false),
        };
        self.parts.write().insert(partition, Arc::new(part));
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The partition is gone; nothing of it can be settled here any more.
    pub fn remove(&self, partition: u32) {
        self.parts.write().remove(&partition);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Takes no more work of the partition, and waits until what is under way is settled, at most `patience`.
    pub async fn drain(&self, partition: u32, patience: Duration) {
        let Some(part) = self.parts.read().get(&partition).cloned() else {
            return;
        };
        part.leaving.store(true, Ordering::Release);
        self.changes.send_modify(|changes| *changes += 1);
        let settled = async {
            while part.leased.load(Ordering::Acquire) > 0 {
                part.settled.notified().await;
            }
        };
        tokio::select! {
            () = settled => {}
            () = self.clock.sleep(patience) => {
                tracing::info!(partition, "functions that still run are run again by the next owner");
            }
        }
    }

    /// The partitions that give work.
    fn giving(&self) -> Vec<Arc<Part>> {
        let parts = self.parts.read();
        let giving = parts
            .values()
            .filter(|part| !part.leaving.load(Ordering::Acquire));
        giving.map(Arc::clone).collect()
    }

    fn part_of(&self, lease: &LeaseRef) -> Option<Arc<Part>> {
        let partition = Partition::of_call(lease.id, self.count);
        self.parts.read().get(&partition.index).cloned()
    }

    /// Leases what can be had at once, from the most urgent partition first.
    async fn gather(
        &self,
        parts: Vec<Arc<Part>>,
        queue: &QueueName,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Leased>, FeedError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let len = parts.len();
        let heads = parts.into_iter().enumerate().filter_map(|(at, part)| {
            let head = part.feed.head(queue)?;
            Some(((head, (at + turn) % len), part))
        });
        let mut heads: Vec<_> = heads.collect();
        heads.sort_by_key(|(place, _)| *place);
        let (mut taken, mut room) = (Vec::new(), max);
        for (_, part) in heads {
            if room == 0 {
                break;
            }
            let leased = match part.feed.take(queue, room, lease, Duration::ZERO).await {
                Ok(leased) => leased,
                Err(error) if taken.is_empty() => return Err(error),
                // What was leased before must not lapse for it.
                Err(_) => break,
            };
            room -= leased.len();
            taken.push((part, leased));
        }
        Ok(self.sift(queue, taken).await)
    }

    /// Reports what is known, and gives the rest.
    async fn sift(&self, queue: &QueueName, taken: Vec<(Arc<Part>, Vec<Leased>)>) -> Vec<Leased> {
        let (parts, taken): (Vec<_>, Vec<_>) = taken
            .into_iter()
            .map(|(part, leased)| (Arc::clone(&part), (Arc::clone(&part.feed), leased)))
            .unzip();
        let sifted = sift(self.results.as_ref(), queue, taken).await;
        let mut rest = Vec::new();
        for (part, (_, leased)) in parts.iter().zip(sifted) {
            part.count(leased.len());
            rest.extend(leased);
        }
        rest
    }

    /// Waits until one of the partitions gives something.
    async fn wait(
        parts: Vec<Arc<Part>>,
        queue: &QueueName,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<(Arc<Part>, Vec<Leased>), FeedError> {
        let waits = parts
            .iter()
            .map(|part| Box::pin(async move { (part, part.feed.take(queue, max, lease, wait).await) }));
        // The others have leased nothing: a wait that is dropped has not happened.
        let ((part, leased), ..) = select_all(waits).await;
        Ok((Arc::clone(part), leased?))
    }
}

/// The queues that are ready in several partitions, each once.
fn united(mut ready: Vec<Ready>) -> Vec<Ready> {
    ready.sort_by_key(|ready| (ready.index, ready.head));
    ready.dedup_by(|later, first| {
        let same = later.index == first.index;
        if same {
            first.depth += later.depth;
        }
        same
    });
    ready
}

impl Feed for PartedFeed {
    fn ready(self: Arc<Self>, queues: Arc<[QueueName]>) -> BoxFuture<'static, Vec<Ready>> {
        Box::pin(async move {
            let mut changes = self.changes.subscribe();
            loop {
                changes.borrow_and_update();
                let parts = self.giving();
                if parts.is_empty() {
                    changes.changed().await.ok();
                    continue;
                }
                let waits = parts
                    .iter()
                    .map(|part| Arc::clone(&part.feed).ready(Arc::clone(&queues)));
                let found = tokio::select! {
                    (found, ..) = select_all(waits) => found,
                    _ = changes.changed() => continue,
                };
                if parts.len() == 1 {
                    return found;
                }
                // What the others have counts, too: the most urgent head decides who is served.
                let all = parts.iter().flat_map(|part| part.feed.ready_now(&queues));
                let all = united(all.collect());
                if !all.is_empty() {
                    return all;
                }
            }
        })
    }

    fn lease(
        self: Arc<Self>,
        queue: QueueName,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<Leased>, FeedError>> {
        Box::pin(async move {
            let mut changes = self.changes.subscribe();
            let deadline = self.clock.monotonic() + wait;
            loop {
                changes.borrow_and_update();
                let parts = self.giving();
                if parts.len() > 1 {
                    let gathered = self.gather(parts.clone(), &queue, max, lease).await?;
                    if !gathered.is_empty() || wait.is_zero() {
                        return Ok(gathered);
                    }
                }
                let left = deadline.saturating_sub(self.clock.monotonic());
                if parts.is_empty() {
                    tokio::select! {
                        _ = changes.changed() => continue,
                        () = self.clock.sleep(left) => return Ok(Vec::new()),
                    }
                }
                let taken = tokio::select! {
                    biased;
                    taken = Self::wait(parts, &queue, max, lease, left) => taken?,
                    _ = changes.changed() => continue,
                };
                return Ok(self.sift(&queue, vec![taken]).await);
            }
        })
    }

    fn extend(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, Vec<bool>> {
        Box::pin(async move {
            let mut extended = Vec::with_capacity(leases.len());
            for reference in leases {
                let holds = match self.part_of(&reference) {
                    Some(part) => part.feed.extend(vec![reference], lease).await.first() == Some(&true),
                    None => false,
                };
                extended.push(holds);
            }
            extended
        })
    }

    fn settle(&self, finished: Vec<Finished>) -> BoxFuture<'_, ()> {
        let mut by_part: BTreeMap<u32, Vec<Finished>> = BTreeMap::new();
        for one in finished {
            let partition = Partition::of_call(one.lease.id, self.count);
            by_part.entry(partition.index).or_default().push(one);
        }
        Box::pin(async move {
            for (partition, finished) in by_part {
                let part = self.parts.read().get(&partition).cloned();
                let Some(part) = part else {
                    tracing::debug!(
                        partition,
                        "outcomes came after their partition had gone; they are run again"
                    );
                    continue;
                };
                let count = finished.len();
                part.feed.settle(finished).await;
                part.settle(count);
            }
        })
    }

    fn shortages(&self, run: RunId, call: CallId) -> BoxFuture<'_, u32> {
        let partition = Partition::of_run(run, self.count);
        let part = self.parts.read().get(&partition.index).cloned();
        Box::pin(async move {
            match part {
                Some(part) => part.feed.shortages(run, call).await,
                None => 0,
            }
        })
    }

    fn progress(&self, progress: Progress) {
        (self.progress)(progress);
    }
}

impl fmt::Debug for PartedFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartedFeed")
            .field("parts", &self.parts.read().keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
