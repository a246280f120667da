//! Gathering: what is asked at the same time is asked once.
//!
//! A few servers take turns at one queue of requests. Each takes all that wait, up to a bound, and asks the database for
//! all of them; while it waits for the answer the next server collects.

use std::sync::Arc;

use celesta_runtime::{Fate, TaskSet};
use tokio::sync::{Mutex, mpsc};

use super::Core;

/// Requests that may wait; beyond it callers wait to be heard.
const REQUESTS_WAITING_MAX: usize = 16_384;
/// Requests served at once.
const REQUESTS_AT_ONCE: usize = 512;
/// Servers of one kind: one waits for the disk, one executes, one collects.
const SERVERS: usize = 3;

/// Where requests are handed in.
pub(super) struct Gather<R>(mpsc::Sender<R>);

/// Where servers find them.
pub(super) type Gathered<R> = Arc<Mutex<mpsc::Receiver<R>>>;

pub(super) fn gather<R>() -> (Gather<R>, Gathered<R>) {
    let (sender, receiver) = mpsc::channel(REQUESTS_WAITING_MAX);
    (Gather(sender), Arc::new(Mutex::new(receiver)))
}

impl<R> Gather<R> {
    /// Hands in a request. When nobody serves any more it is dropped, and with it whoever waits for its answer is told.
    pub(super) async fn ask(&self, request: R) {
        self.0.send(request).await.ok();
    }

    /// Hands in a request nobody waits for; when there is no room for it, it is dropped.
    pub(super) fn offer(&self, request: R) {
        self.0.try_send(request).ok();
    }
}

/// Starts the servers of one kind of request.
pub(super) fn serve<R, F>(
    tasks: &TaskSet,
    name: &'static str,
    core: &Arc<Core>,
    gathered: &Gathered<R>,
    serve: impl Fn(Arc<Core>, Vec<R>) -> F + Clone + Send + 'static,
) where
    R: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    for _ in 0..SERVERS {
        let (core, gathered, serve) = (Arc::clone(core), Arc::clone(gathered), serve.clone());
        tasks.spawn(name, Fate::Expendable, async move {
            loop {
                let mut requests = Vec::new();
                let mut waiting = gathered.lock().await;
                let count = tokio::select! {
                    biased;
                    count = waiting.recv_many(&mut requests, REQUESTS_AT_ONCE) => count,
                    () = core.shutdown.requested() => 0,
                };
                if count == 0 {
                    waiting.close();
                    return;
                }
                drop(waiting);
                serve(Arc::clone(&core), requests).await;
            }
        });
    }
}
