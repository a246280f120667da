//! Looking after what is on the road: leases are extended, what got lost is given back, everybody is told what is over.

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::LeaseRef;
use lapin::BasicProperties;
use tokio::sync::mpsc;

use super::Inner;
use crate::publish::{Declared, Outgoing};
use crate::wire::{self, Notice};

/// The longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(inner: Arc<Inner>) {
    let every = LOOK_EVERY
        .min(inner.config.lease / 6)
        .min(inner.config.silence / 3);
    let shutdown = inner.tasks.shutdown().clone();
    let mut was_in_reach = false;
    loop {
        tokio::select! {
            () = inner.clock.sleep(every) => {}
            () = shutdown.requested() => {
                give_back(&inner).await;
                return;
            }
        }
        let reach = inner.in_reach();
        let now = inner.now();
        let sweep = {
            let mut ledger = inner.ledger.lock();
            if reach && !was_in_reach {
                ledger.resume(now);
            }
            ledger.sweep(now, reach)
        };
        was_in_reach = reach;
        inner.metrics.count("silent", sweep.silent);
        inner.metrics.count("lapsed", sweep.lapsed.len());
        if !sweep.release.is_empty() {
            tracing::debug!(count = sweep.release.len(), "messages were too long on the road");
            inner.metrics.count("too_long", sweep.release.len());
            inner.source.release(sweep.release.clone()).await;
            inner.wake(&sweep.release);
        }
        extend(&inner, sweep.extend).await;
    }
}

async fn extend(inner: &Inner, leases: Vec<LeaseRef>) {
    if leases.is_empty() {
        return;
    }
    let extended = inner.source.extend(leases.clone(), inner.config.lease).await;
    let over = leases.into_iter().zip(extended).filter(|(_, extended)| !extended);
    let over: Vec<LeaseRef> = over.map(|(lease, _)| lease).collect();
    let mut ledger = inner.ledger.lock();
    for lease in &over {
        ledger.remove(lease.id, Some(lease.token));
    }
    drop(ledger);
    inner.wake(&over);
    let notices = over.iter().map(|lease| Notice {
        id: lease.id,
        token: Some(lease.token),
    });
    inner.notify(notices.collect());
}

/// Stopping: what is in nobody's hands can be leased by others at once. What consumers hold is theirs to report. The lanes
/// have ended before: one that still waits for messages would take these.
async fn give_back(inner: &Inner) {
    let _ended = inner.leasing.write().await;
    let leases = inner.ledger.lock().take_waiting();
    if !leases.is_empty() {
        inner.source.release(leases).await;
    }
}

/// Sends notices to all consumers. One that is lost is made up for: consumers hear of stale work when they report it.
pub(super) async fn send_notices(inner: Arc<Inner>, mut waiting: mpsc::Receiver<Vec<Notice>>) {
    let shutdown = inner.tasks.shutdown().clone();
    let declared = Declared::Notices(inner.config.namespace.notices());
    loop {
        let notices = tokio::select! {
            notices = waiting.recv() => notices,
            () = shutdown.requested() => return,
        };
        let Some(notices) = notices else { return };
        if !inner.publisher.declare(&declared).await {
            continue;
        }
        let batch = notices.chunks(crate::limits::REPORTS_MAX).map(|chunk| Outgoing {
            exchange: inner.config.namespace.notices(),
            routing_key: String::new(),
            properties: BasicProperties::default(),
            body: wire::write_notices(chunk).into(),
        });
        inner.publisher.publish(&batch.collect::<Vec<_>>()).await;
        inner.metrics.count("notices", notices.len());
    }
}
