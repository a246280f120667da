//! Turns under way, and which revision each has seen of what holds for its whole service: shared facts, orders.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;

/// For each service how many turns under way have seen which revision.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    open: Mutex<HashMap<Arc<str>, BTreeMap<u64, usize>, FxBuildHasher>>,
    ended: Notify,
}

/// A turn under way; over when dropped, which is when its unit is durable or has failed.
#[derive(Debug)]
pub(crate) struct Seeing {
    turns: Arc<UnderWay>,
    service: Arc<str>,
    revision: u64,
}

impl UnderWay {
    pub(crate) fn begin(self: &Arc<Self>, service: &str, revision: u64) -> Seeing {
        let mut open = self.open.lock();
        let service = match open.get_key_value(service) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(service),
        };
        *open
            .entry(Arc::clone(&service))
            .or_default()
            .entry(revision)
            .or_default() += 1;
        Seeing {
            turns: Arc::clone(self),
            service,
            revision,
        }
    }

    pub(crate) fn has_older(&self, service: &str, revision: u64) -> bool {
        let open = self.open.lock();
        let oldest = open.get(service).and_then(|turns| turns.keys().next().copied());
        oldest.is_some_and(|oldest| oldest < revision)
    }

    /// Waits until no turn is under way that has seen less than `revision`.
    pub(crate) async fn wait(&self, service: &str, revision: u64) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Heard from here on, whatever ends before it is awaited.
            ended.as_mut().enable();
            if !self.has_older(service, revision) {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Seeing {
    fn drop(&mut self) {
        let mut open = self.turns.open.lock();
        if let Some(turns) = open.get_mut(&self.service)
            && let Some(count) = turns.get_mut(&self.revision)
        {
            *count -= 1;
            if *count == 0 {
                turns.remove(&self.revision);
            }
        }
        drop(open);
        self.turns.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_that_have_seen_less_are_waited_for() {
        let turns = Arc::new(UnderWay::default());
        let (old, new) = (turns.begin("a", 3), turns.begin("a", 4));
        turns.wait("a", 3).await;
        turns.wait("b", 9).await;
        let mut waiting = Box::pin(turns.wait("a", 4));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(old);
        waiting.await;
        drop(new);
        turns.wait("a", 9).await;
    }
}
