//! Who waits for a run: clients for its end, event streams for its next turn. Costs nothing while nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use celesta_types::RunId;
use hashbrown::HashMap;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use tokio::sync::watch;

use crate::view::RunView;

/// What a watcher last heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// The last turn that became durable, 0 when none was heard of.
    pub(crate) seq: u64,
    /// The run as it ended.
    pub(crate) ended: Option<Arc<RunView>>,
}

/// All watchers of this process.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    count: AtomicUsize,
    runs: Mutex<HashMap<RunId, (watch::Sender<Heard>, usize), FxBuildHasher>>,
}

/// One who waits; forgets itself when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    run: RunId,
    receiver: watch::Receiver<Heard>,
    watchers: Arc<Watchers>,
}

impl Watchers {
    /// Begins to watch `run`. What became durable before is not heard.
    pub(crate) fn watch(self: &Arc<Self>, run: RunId) -> Watch {
        let mut runs = self.runs.lock();
        self.count.fetch_add(1, Ordering::SeqCst);
        let (sender, watching) = runs
            .entry(run)
            .or_insert_with(|| (watch::Sender::new(Heard::default()), 0));
        *watching += 1;
        Watch {
            run,
            receiver: sender.subscribe(),
            watchers: Arc::clone(self),
        }
    }

    /// Tells whoever watches `run`; `ended` is only called when somebody does.
    pub(crate) fn tell(&self, run: RunId, seq: u64, ended: impl FnOnce() -> Option<RunView>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some((sender, _)) = self.runs.lock().get(&run) {
            sender.send_modify(|heard| {
                heard.seq = seq;
                heard.ended = ended().map(Arc::new);
            });
        }
    }
}

impl Watch {
    /// Waits until something became durable since the last call, and says what was last heard.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Heard {
        // The sender lives as long as its watchers.
        self.receiver.changed().await.ok();
        self.receiver.borrow_and_update().clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut runs = self.watchers.runs.lock();
        if let Some((_, watching)) = runs.get_mut(&self.run) {
            *watching -= 1;
            if *watching == 0 {
                runs.remove(&self.run);
            }
        }
        self.watchers.count.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_hears_its_own_run_only_and_is_forgotten() {
        let watchers = Arc::new(Watchers::default());
        let (one, two) = (RunId::from_bits(1), RunId::from_bits(2));
        let mut watch = watchers.watch(one);
        watchers.tell(two, 9, || None);
        watchers.tell(one, 3, || None);
        assert_eq!(watch.next().await.seq, 3);
        drop(watch);
        assert!(watchers.runs.lock().is_empty());
        watchers.tell(one, 4, || unreachable!("nobody watches"));
    }
}
