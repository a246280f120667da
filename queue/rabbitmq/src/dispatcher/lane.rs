//! One destination: lease, publish, wait for confirms; several batches at once, one connection for all lanes.

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::Leased;
use celesta_types::ErrorKind;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::{Inner, Lane};
use crate::limits::{BATCHES_IN_THE_AIR, RETRY_FIRST};
use crate::publish::{Declared, Outgoing, Published};
use crate::wire;

/// How long a lane waits for messages in one call.
const WAIT: Duration = Duration::from_secs(60);
/// The wait before a queue that cannot be leased from is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

pub(super) async fn run(inner: Arc<Inner>, lane: Arc<Lane>) {
    let shutdown = inner.tasks.shutdown().clone();
    let _leasing = inner.leasing.read().await;
    let mut air = FuturesUnordered::new();
    let mut leaving = false;
    while !leaving || !air.is_empty() {
        let may_lease = !leaving && air.len() < BATCHES_IN_THE_AIR;
        tokio::select! {
            () = shutdown.requested() => return,
            () = lane.leaving.notified(), if !leaving => leaving = true,
            Some(()) = air.next(), if !air.is_empty() => {}
            leased = take(&inner, &lane), if may_lease => {
                let now = inner.now();
                let mut ledger = inner.ledger.lock();
                for leased in &leased {
                    ledger.leased(leased.lease(), now);
                }
                drop(ledger);
                air.push(send(&inner, &lane, leased));
            }
        }
    }
}

/// Leases as many as there is room for; waits for room, for the broker, and for messages.
async fn take(inner: &Inner, lane: &Lane) -> Vec<Leased> {
    loop {
        let room = inner.ledger.lock().room(&lane.queue).min(inner.config.batch);
        if room == 0 {
            lane.room.notified().await;
            continue;
        }
        // What cannot be sent is not leased.
        if inner.publisher.link().writable().await.is_none() {
            std::future::pending::<()>().await;
        }
        let leasing = inner
            .source
            .lease(lane.queue.clone(), room, inner.config.lease, WAIT);
        match leasing.await {
            Ok(leased) if leased.is_empty() => {}
            Ok(leased) => return leased,
            Err(error) => {
                if error.kind != ErrorKind::NotFound {
                    tracing::warn!(queue = %lane.queue, %error, "nothing can be leased for the road");
                }
                inner.clock.sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// Publishes until the broker has all of them, or has sent them back.
async fn send(inner: &Inner, lane: &Lane, leased: Vec<Leased>) {
    let declared = Declared::Destination(lane.destination.clone());
    let road_ms = inner.config.road_time.as_millis();
    let mut rest = leased;
    loop {
        let outcomes = if inner.publisher.declare(&declared).await {
            let outgoing = rest.iter().map(|leased| Outgoing {
                exchange: String::new(),
                routing_key: lane.destination.clone(),
                properties: wire::properties(leased, &inner.reports, road_ms),
                body: Arc::clone(&leased.payload),
            });
            let outgoing: Vec<Outgoing> = outgoing.collect();
            // Stopping: the sweep gives back what was not published.
            let Some(outcomes) = inner.publisher.publish(&outgoing).await else {
                return;
            };
            outcomes
        } else {
            vec![Published::Lost; rest.len()]
        };
        let (mut again, mut back) = (Vec::new(), Vec::new());
        let mut confirmed = 0;
        {
            let now = inner.now();
            let mut ledger = inner.ledger.lock();
            for (leased, outcome) in rest.into_iter().zip(outcomes) {
                match outcome {
                    Published::Confirmed => {
                        confirmed += 1;
                        ledger.published(leased.id, leased.token, now);
                    }
                    Published::Returned | Published::Refused => {
                        back.extend(ledger.remove(leased.id, Some(leased.token)));
                    }
                    Published::Lost if ledger.is_publishing(leased.id, leased.token) => again.push(leased),
                    Published::Lost => {}
                }
            }
        }
        inner.metrics.count("published", confirmed);
        inner.metrics.count("sent_back", back.len());
        inner.metrics.count("published_again", again.len());
        let failed = !back.is_empty() || !again.is_empty();
        if !back.is_empty() {
            tracing::warn!(queue = %lane.queue, count = back.len(), "the broker sent messages back");
            inner.publisher.forget(&declared);
            inner.source.release(back.clone()).await;
            inner.wake(&back);
        }
        if failed {
            inner.clock.sleep(RETRY_FIRST).await;
        }
        if again.is_empty() {
            return;
        }
        rest = again;
    }
}
