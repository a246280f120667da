//! Following a queue of the broker, and the notices to everybody, over as many connections as it takes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::mpsc;

use super::Inner;
use crate::hand::{Arrival, Tag};
use crate::limits::RETRY_FIRST;
use crate::link::Session;
use crate::publish::{Declared, declare};
use crate::wire::{self, Delivery, Notice};

/// A channel that deliveries come through.
#[derive(Clone)]
pub(super) struct Line {
    number: u64,
    channel: Channel,
    session: Session,
}

impl Line {
    pub(super) async fn acknowledge(&self, delivery: u64) {
        let acknowledging = self.channel.basic_ack(delivery, BasicAckOptions::default());
        if let Some(Err(error)) = self.session.during(acknowledging).await {
            // It comes again through another channel, and is known to be settled.
            tracing::debug!(%error, "a delivery was not acknowledged");
        }
    }
}

/// Brings messages of `destination` until nobody wants them.
pub(super) async fn follow(
    inner: Arc<Inner>,
    destination: String,
    prefetch: u16,
    deliveries: mpsc::Sender<Delivery>,
) {
    while let Some(session) = inner.intake.session().await {
        let bringing = bring(&inner, &session, &destination, prefetch, &deliveries);
        tokio::select! {
            brought = session.during(bringing) => if let Some(Err(error)) = brought {
                tracing::warn!(queue = destination, %error, "deliveries were interrupted");
            },
            () = deliveries.closed() => return,
        }
        tokio::select! {
            () = inner.clock.sleep(RETRY_FIRST) => {}
            () = deliveries.closed() => return,
        }
    }
}

async fn open(
    session: &Session,
    destination: &str,
    prefetch: u16,
) -> Result<(Channel, Consumer), lapin::Error> {
    let channel = session.channel().await?;
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    declare(&channel, &Declared::Destination(destination.to_owned())).await?;
    let consumer = channel
        .basic_consume(
            destination.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    Ok((channel, consumer))
}

/// Hands deliveries on until the channel, or the queue, is gone.
async fn bring(
    inner: &Inner,
    session: &Session,
    destination: &str,
    prefetch: u16,
    deliveries: &mpsc::Sender<Delivery>,
) -> Result<(), lapin::Error> {
    let (channel, mut consumer) = open(session, destination, prefetch).await?;
    let line = Line {
        number: inner.lines.fetch_add(1, Ordering::Relaxed),
        channel,
        session: session.clone(),
    };
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let number = delivery.delivery_tag;
        let read = match wire::delivery(&delivery.properties, &delivery.data) {
            Ok(read) => read,
            Err(error) => {
                // The dispatcher misses it and sends it again, perhaps to somebody who can read it.
                tracing::error!(%error, "a delivery cannot be read");
                inner.metrics.count("unreadable", 1);
                line.channel
                    .basic_reject(number, BasicRejectOptions::default())
                    .await?;
                continue;
            }
        };
        let tag = Tag {
            line: line.number,
            number,
            channel: line.clone(),
        };
        let arrival = inner.hand.lock().arrive(&read, tag);
        match arrival {
            Arrival::Give => inner.metrics.count("delivered", 1),
            Arrival::Supersede(token, tag) => {
                inner.metrics.count("superseded", 1);
                tell(inner, read.id, token);
                tag.channel.acknowledge(tag.number).await;
            }
            Arrival::Known => {
                inner.metrics.count("delivered_again", 1);
                continue;
            }
            Arrival::Drop(tag) => {
                inner.metrics.count("duplicate", 1);
                tag.channel.acknowledge(tag.number).await;
                continue;
            }
        }
        if deliveries.send(read).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn tell(inner: &Inner, id: celesta_types::MessageId, token: celesta_queue::Token) {
    let notice = Notice {
        id,
        token: Some(token),
    };
    // Nobody may be listening.
    inner.canceled.send(notice).ok();
}

/// Hears what dispatchers tell everybody. What is said while the broker is away is heard again as stale work.
pub(super) async fn follow_notices(inner: Arc<Inner>) {
    while let Some(session) = inner.intake.session().await {
        if let Some(Err(error)) = session.during(pass_on(&inner, &session)).await {
            tracing::warn!(%error, "notices cannot be heard");
        }
        inner.clock.sleep(RETRY_FIRST).await;
    }
}

async fn hear(inner: &Inner, session: &Session) -> Result<Consumer, lapin::Error> {
    let channel = session.channel().await?;
    let exchange = inner.config.namespace.notices();
    declare(&channel, &Declared::Notices(exchange.clone())).await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare("".into(), options, FieldTable::default())
        .await?;
    let name = queue.name().clone();
    channel
        .queue_bind(
            name.clone(),
            exchange.into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    channel
        .basic_consume(
            name,
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
}

async fn pass_on(inner: &Inner, session: &Session) -> Result<(), lapin::Error> {
    let mut consumer = hear(inner, session).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        delivery.acker.ack(BasicAckOptions::default()).await?;
        let notices = wire::read_notices(&delivery.data).unwrap_or_else(|error| {
            tracing::error!(%error, "a notice cannot be read");
            Vec::new()
        });
        for Notice { id, token } in notices {
            let meant = inner.hand.lock().meant(id, token);
            if let Some(token) = meant {
                inner.metrics.count("canceled", 1);
                tell(inner, id, token);
            }
        }
    }
    Ok(())
}
