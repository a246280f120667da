//! What was leased of a pure function is sifted before it is run: what is known is reported, the rest is left.

use std::collections::HashMap;
use std::sync::Arc;

use celesta_queue::{LeaseRef, Leased, QueueName};

use crate::queue_feed::QueueFeed;
use crate::recall::{Known, Recalled, known_by};
use crate::shared_results::SharedResults;

/// Reports those of `taken` whose result is known, to the partition of each or to any, and gives what has to be run, for
/// each feed in the same order. Other functions than pure ones cost a look into a set.
///
/// # Cancel safety
/// What has not been reported when it is dropped is given back.
pub(crate) async fn sift(
    shared: Option<&SharedResults>,
    queue: &QueueName,
    taken: Vec<(Arc<QueueFeed>, Vec<Leased>)>,
) -> Vec<(Arc<QueueFeed>, Vec<Leased>)> {
    if !taken.iter().any(|(feed, _)| feed.recall.is_pure(queue)) {
        return taken;
    }
    let mut siftings: Vec<Sifting> = taken.into_iter().map(Sifting::new).collect();
    for sifting in &mut siftings {
        sifting.look().await;
    }
    if let Some(shared) = shared {
        // One question for the whole batch.
        let found = shared.find(siftings.iter().flat_map(Sifting::unknown)).await;
        if !found.is_empty() {
            for sifting in &mut siftings {
                sifting.report(&found, Whence::Elsewhere);
            }
        }
    }
    siftings.into_iter().map(Sifting::rest).collect()
}

/// Where a result was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whence {
    /// In the partition that asks.
    Here,
    /// In another one: from now on this one knows it too.
    Elsewhere,
}

/// What one feed has leased, while its results are looked for.
struct Sifting {
    feed: Arc<QueueFeed>,
    left: Vec<(Option<Known>, Leased)>,
}

impl Sifting {
    fn new((feed, leased): (Arc<QueueFeed>, Vec<Leased>)) -> Self {
        Self {
            feed,
            left: leased.into_iter().map(|leased| (None, leased)).collect(),
        }
    }

    fn unknown(&self) -> impl Iterator<Item = Known> {
        self.left.iter().filter_map(|(known, _)| *known)
    }

    /// Looks in the partition itself. What cannot be looked up is run.
    async fn look(&mut self) {
        for (known, leased) in &mut self.left {
            *known = known_by(&*self.feed.packages, leased).await;
        }
        match self.feed.recall.read(&self.feed.store, self.unknown()).await {
            Ok(found) => self.report(&found, Whence::Here),
            Err(error) => tracing::warn!(%error, "recorded results cannot be read; the functions run"),
        }
    }

    /// Reports what is among `found`.
    fn report(&mut self, found: &HashMap<Known, Vec<u8>>, whence: Whence) {
        let mut recalled = Vec::new();
        let mut left = Vec::with_capacity(self.left.len());
        for (known, leased) in self.left.drain(..) {
            let result = known.and_then(|known| Some((known, found.get(&known)?)));
            match result {
                Some((known, result)) => {
                    if whence == Whence::Elsewhere {
                        self.feed.recall.adopt(leased.id, known);
                    }
                    let result = result.clone();
                    recalled.push(Recalled { leased, result });
                }
                None => left.push((known, leased)),
            }
        }
        self.left = left;
        if !recalled.is_empty() {
            self.feed.report(recalled);
        }
    }

    /// What has to be run; its results will be kept.
    fn rest(mut self) -> (Arc<QueueFeed>, Vec<Leased>) {
        let left = std::mem::take(&mut self.left);
        self.feed.recall.awaiting(&left);
        let leased = left.into_iter().map(|(_, leased)| leased);
        (Arc::clone(&self.feed), leased.collect())
    }
}

impl Drop for Sifting {
    fn drop(&mut self) {
        if !self.left.is_empty() {
            let leases: Vec<LeaseRef> = self.left.iter().map(|(_, leased)| leased.lease()).collect();
            self.feed.give_back(&leases);
        }
    }
}
