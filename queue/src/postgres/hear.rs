//! News between nodes: which queues have something to lease, and whose settings have changed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celesta_store::Heard;
use hashbrown::HashMap;

use super::Core;

const CHANNEL: &str = "celesta_queue";
/// The pause between two notifications: what happens in it is told at once. A notification is a transaction of its own.
const PAUSE: Duration = Duration::from_millis(2);

/// What has to be told.
#[derive(Debug, Default)]
pub(super) struct News {
    /// How many messages, by queue.
    enqueued: HashMap<i64, usize, rustc_hash::FxBuildHasher>,
    settings: bool,
}

impl Core {
    /// The queue has `count` more to lease: other nodes learn it in a moment.
    pub(super) fn tell(&self, queue: i64, count: usize) {
        *self.news.lock().enqueued.entry(queue).or_default() += count;
        self.news_changed.notify_one();
    }

    pub(super) fn tell_settings(&self) {
        self.news.lock().settings = true;
        self.news_changed.notify_one();
    }

    async fn hear(&self, said: &str) {
        let mut words = said.split(' ');
        if words.next().and_then(|node| node.parse().ok()) == Some(self.node) {
            return;
        }
        match (words.next(), words.next(), words.next()) {
            (Some("e"), Some(queue), Some(count)) => {
                if let (Ok(queue), Ok(count)) = (queue.parse(), count.parse())
                    && let Some(entry) = self.by_id(queue)
                {
                    entry.wake(count);
                }
            }
            _ => self.catch_up().await,
        }
    }

    /// Looks at everything: something was missed, or may have been.
    async fn catch_up(&self) {
        if let Err(error) = self.load_queues().await {
            tracing::debug!(%error, "the queues cannot be read now");
        }
        self.wake_waiting();
    }

    /// Has one consumer of each queue that has any look again.
    pub(super) fn wake_waiting(&self) {
        for entry in self.registry.read().all() {
            if entry.waiters.load(Ordering::Relaxed) > 0 {
                entry.waiting.notify_one();
            }
        }
    }
}

pub(super) async fn listen(core: Arc<Core>) {
    let mut listener = core.database.listener(CHANNEL);
    loop {
        let heard = tokio::select! {
            biased;
            () = core.shutdown.requested() => return,
            heard = listener.heard() => heard,
        };
        match heard {
            Heard::Said(text) => core.hear(&text).await,
            Heard::Gap => core.catch_up().await,
        }
    }
}

pub(super) async fn notify(core: Arc<Core>) {
    loop {
        tokio::select! {
            biased;
            () = core.shutdown.requested() => return,
            () = core.news_changed.notified() => {}
        }
        let news = std::mem::take(&mut *core.news.lock());
        let node = core.node;
        let mut texts: Vec<_> = news
            .enqueued
            .iter()
            .map(|(queue, count)| format!("{node} e {queue} {count}"))
            .collect();
        if news.settings {
            texts.push(format!("{node} s"));
        }
        if let Err(error) = core.database.notify(CHANNEL, &texts).await {
            tracing::debug!(%error, "other nodes were not told; they look by themselves within a second");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
