//! What consumers report: settled in the record first, acknowledged to the broker then.

use std::sync::Arc;

use celesta_queue::LeaseRef;
use celesta_types::ErrorKind;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};

use super::Inner;
use crate::limits::{REPORTS_PREFETCH, RETRY_FIRST};
use crate::link::Session;
use crate::publish::{Declared, declare};
use crate::source::Settlement;
use crate::wire::{self, Notice, Report, Said};

/// Settlements in one call of the record.
const SETTLED_AT_ONCE: usize = 8_192;

pub(super) async fn run(inner: Arc<Inner>) {
    while let Some(session) = inner.intake.session().await {
        // Not ended with the connection: what the record was asked for is waited for.
        if let Err(error) = read(&inner, &session).await {
            tracing::warn!(%error, "reading of reports was interrupted");
        }
        inner.clock.sleep(RETRY_FIRST).await;
    }
}

async fn open(inner: &Inner, session: &Session) -> Result<(Channel, Consumer), lapin::Error> {
    let channel = session.channel().await?;
    channel
        .basic_qos(REPORTS_PREFETCH, BasicQosOptions::default())
        .await?;
    declare(&channel, &Declared::Notices(inner.config.namespace.notices())).await?;
    declare(&channel, &Declared::Reports(inner.reports.clone())).await?;
    let consumer = channel
        .basic_consume(
            inner.reports.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    Ok((channel, consumer))
}

/// Reads until the channel, or the queue, is gone.
async fn read(inner: &Inner, session: &Session) -> Result<(), lapin::Error> {
    let Some(opened) = session.during(open(inner, session)).await else {
        return Ok(());
    };
    let (channel, mut consumer) = opened?;
    let now = inner.now();
    inner.ledger.lock().resume(now);
    while let Some(Some(delivery)) = session.during(consumer.next()).await {
        let delivery = delivery?;
        let mut last = delivery.delivery_tag;
        let mut reports = decode(inner, &delivery.data);
        while reports.len() < SETTLED_AT_ONCE {
            let Some(Some(Ok(delivery))) = consumer.next().now_or_never() else {
                break;
            };
            last = delivery.delivery_tag;
            reports.extend(decode(inner, &delivery.data));
        }
        if !take(inner, reports).await {
            return Ok(());
        }
        let acknowledging = channel.basic_ack(last, BasicAckOptions { multiple: true });
        session.during(acknowledging).await.unwrap_or(Ok(()))?;
    }
    Ok(())
}

fn decode(inner: &Inner, bytes: &[u8]) -> Vec<Report> {
    wire::read_reports(bytes).unwrap_or_else(|error| {
        // The leases it was about lapse, and the work is done again.
        tracing::error!(%error, "a report cannot be read");
        inner.metrics.count("unreadable", 1);
        Vec::new()
    })
}

/// Does what reports say; returns when it is durable. False when the process is stopping before that.
async fn take(inner: &Inner, reports: Vec<Report>) -> bool {
    let now = inner.now();
    let mut settlements = Vec::new();
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    {
        let mut ledger = inner.ledger.lock();
        for report in reports {
            let Report {
                queue,
                id,
                attempt,
                token,
                said,
            } = report;
            let lease = LeaseRef { queue, id, token };
            match said {
                Said::Settled(outcome) => settlements.push(Settlement {
                    lease,
                    attempt,
                    outcome,
                }),
                Said::Holding | Said::Progress(_) => {
                    if let Said::Progress(progress) = said {
                        inner.source.progress(id, progress);
                    }
                    let list = if ledger.heard(id, token, now) {
                        &mut known
                    } else {
                        &mut unknown
                    };
                    list.push(lease);
                }
            }
        }
    }
    inner.wake(&known);
    adopt(inner, unknown).await;
    let mut rest = settlements;
    while !rest.is_empty() {
        let later = rest.split_off(rest.len().min(SETTLED_AT_ONCE));
        if !settle(inner, rest).await {
            return false;
        }
        rest = later;
    }
    true
}

/// Somebody works under leases this dispatcher does not know: of its earlier life, or lapsed. The record decides.
async fn adopt(inner: &Inner, leases: Vec<LeaseRef>) {
    if leases.is_empty() {
        return;
    }
    let extended = inner.source.extend(leases.clone(), inner.config.lease).await;
    let now = inner.now();
    let mut over = Vec::new();
    {
        let mut ledger = inner.ledger.lock();
        for (lease, extended) in leases.into_iter().zip(extended) {
            let (id, token) = (lease.id, lease.token);
            if extended {
                ledger.leased(lease, now);
                ledger.heard(id, token, now);
            } else {
                over.push(Notice {
                    id,
                    token: Some(token),
                });
            }
        }
    }
    inner.metrics.count("stale_work", over.len());
    inner.notify(over);
}

async fn settle(inner: &Inner, settlements: Vec<Settlement>) -> bool {
    let leases: Vec<LeaseRef> = settlements
        .iter()
        .map(|settlement| settlement.lease.clone())
        .collect();
    loop {
        match inner.source.settle(settlements.clone()).await {
            Ok(held) => {
                let stale = held.iter().filter(|held| !**held).count();
                inner.metrics.count("settled", held.len() - stale);
                inner.metrics.count("stale", stale);
                break;
            }
            Err(_) if inner.tasks.shutdown().is_requested() => return false,
            Err(error) if error.kind == ErrorKind::Unavailable => {
                tracing::warn!(%error, "outcomes wait for the record");
                inner.clock.sleep(RETRY_FIRST).await;
            }
            Err(error) => {
                tracing::error!(%error, "outcomes are lost; the leases lapse and the work is done again");
                break;
            }
        }
    }
    let mut ledger = inner.ledger.lock();
    for lease in &leases {
        ledger.remove(lease.id, Some(lease.token));
    }
    drop(ledger);
    inner.wake(&leases);
    true
}
