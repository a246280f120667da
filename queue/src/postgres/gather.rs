//! Gathering: what is asked at the same time is asked once.
//!
//! A few servers take turns at one queue of requests. Each takes all that wait, up to a bound, and asks the database for
//! all of them; while it waits for the answer the next server collects. Callers that were answered a moment ago mostly
//! come back at once, so a server that has fewer requests than there were callers lets them run first; and as long as
//! commits are slow, a small group waits for the one under way instead of splitting the callers in two.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use celesta_runtime::{Fate, TaskSet};
use tokio::sync::{Mutex, Notify, mpsc};

use super::Core;

/// Requests that may wait; beyond it callers wait to be heard.
const REQUESTS_WAITING_MAX: usize = 16_384;
/// Requests served at once.
const REQUESTS_AT_ONCE: usize = 512;
/// Servers of one kind: one waits for the disk, one executes, one collects.
const SERVERS: usize = 3;
/// A group of so many messages is worth a transaction of its own.
const ROWS_WORTH: usize = 256;
/// From this time of a transaction on, in microseconds, its commit is most of it.
const SLOW_US: u64 = 1_500;
/// A group is held back no longer than this: the one under way may be stuck.
const HELD_BACK_MAX: Duration = Duration::from_millis(20);
/// How often others may run before a group goes: some tens of microseconds when nobody has anything to do.
const YIELDS_MAX: usize = 32;

/// What is asked for.
pub(super) trait Request: Send + 'static {
    /// About how many messages it is about.
    fn rows(&self) -> usize;
}

/// Where requests are handed in.
pub(super) struct Gather<R>(mpsc::Sender<R>);

/// Where servers find them.
pub(super) struct Gathered<R> {
    waiting: Mutex<mpsc::Receiver<R>>,
    flow: Flow,
}

/// How requests have come and gone of late.
#[derive(Default)]
struct Flow {
    /// Requests under way.
    in_flight: AtomicUsize,
    /// About how many callers there are.
    callers: AtomicUsize,
    /// What a group takes, in microseconds.
    took_us: AtomicU64,
    /// A group has come back.
    back: Notify,
}

pub(super) fn gather<R>() -> (Gather<R>, Arc<Gathered<R>>) {
    let (sender, receiver) = mpsc::channel(REQUESTS_WAITING_MAX);
    let gathered = Gathered {
        waiting: Mutex::new(receiver),
        flow: Flow::default(),
    };
    (Gather(sender), Arc::new(gathered))
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

impl<R: Request> Gathered<R> {
    /// The next requests to be served together; none when there will be no more.
    async fn next(&self, core: &Core) -> Vec<R> {
        let mut requests = Vec::new();
        let mut waiting = self.waiting.lock().await;
        let count = tokio::select! {
            biased;
            count = waiting.recv_many(&mut requests, REQUESTS_AT_ONCE) => count,
            () = core.shutdown.requested() => 0,
        };
        if count == 0 {
            waiting.close();
            return requests;
        }
        let flow = &self.flow;
        let enough = tokio::time::sleep(HELD_BACK_MAX);
        tokio::pin!(enough);
        while flow.is_slow() && flow.is_busy() && rows(&requests) < ROWS_WORTH {
            let back = flow.back.notified();
            tokio::pin!(back);
            back.as_mut().enable();
            if !flow.is_busy() {
                break;
            }
            tokio::select! {
                biased;
                () = core.shutdown.requested() => break,
                () = back => {}
                () = &mut enough => break,
                count = waiting.recv_many(&mut requests, REQUESTS_AT_ONCE) => if count == 0 { break },
            }
        }
        for _ in 0..YIELDS_MAX {
            while let Some(request) = (requests.len() < REQUESTS_AT_ONCE)
                .then(|| waiting.try_recv().ok())
                .flatten()
            {
                requests.push(request);
            }
            if requests.len() >= REQUESTS_AT_ONCE || !flow.expects_more_than(requests.len()) {
                break;
            }
            tokio::task::yield_now().await;
        }
        flow.leave(requests.len());
        requests
    }
}

impl Flow {
    fn is_slow(&self) -> bool {
        self.took_us.load(Ordering::Relaxed) > SLOW_US
    }

    fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    fn expects_more_than(&self, collected: usize) -> bool {
        collected + self.in_flight.load(Ordering::Acquire) < self.callers.load(Ordering::Relaxed)
    }

    /// So many requests go.
    fn leave(&self, count: usize) {
        let all = self.in_flight.fetch_add(count, Ordering::AcqRel) + count;
        let before = self.callers.load(Ordering::Relaxed);
        // Callers that have gone are forgotten little by little.
        self.callers
            .store(all.max(before - before.div_ceil(16)), Ordering::Relaxed);
    }

    /// So many are answered.
    fn come_back(&self, count: usize, took_us: u64) {
        self.in_flight.fetch_sub(count, Ordering::AcqRel);
        let before = self.took_us.load(Ordering::Relaxed);
        self.took_us.store((before * 7 + took_us) / 8, Ordering::Relaxed);
        self.back.notify_one();
    }
}

fn rows<R: Request>(requests: &[R]) -> usize {
    requests.iter().map(Request::rows).sum()
}

/// Starts the servers of one kind of request.
pub(super) fn serve<R, F>(
    tasks: &TaskSet,
    name: &'static str,
    core: &Arc<Core>,
    gathered: &Arc<Gathered<R>>,
    serve: impl Fn(Arc<Core>, Vec<R>) -> F + Clone + Send + 'static,
) where
    R: Request,
    F: Future<Output = ()> + Send + 'static,
{
    for _ in 0..SERVERS {
        let (core, gathered, serve) = (Arc::clone(core), Arc::clone(gathered), serve.clone());
        tasks.spawn(name, Fate::Expendable, async move {
            loop {
                let requests = gathered.next(&core).await;
                if requests.is_empty() {
                    return;
                }
                let (count, begun) = (requests.len(), core.clock.monotonic());
                serve(Arc::clone(&core), requests).await;
                let took = core.clock.monotonic().saturating_sub(begun);
                gathered
                    .flow
                    .come_back(count, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
        });
    }
}
