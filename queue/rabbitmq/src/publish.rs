//! Publishing in batches, each with one wait for the broker's confirms.
//!
//! A batch has a channel of its own while it lasts, so that what the broker returns belongs to it beyond doubt.
//! Channels are used again; one that had an error is not.

use celesta_queue::Payload;
use futures_util::future::join_all;
use hashbrown::{HashMap, HashSet};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::limits::{PRIORITY_LEVEL_MAX, REPORTS_KEPT};
use crate::link::{Link, Session};

/// Batches at the same time, each with a channel: brokers allow some two thousand on a connection.
const CHANNELS_MAX: usize = 128;

/// One message to the broker. Its properties have an id that no other message of the batch has.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Payload,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// The broker has it and answers for it.
    Confirmed,
    /// There is no queue for it.
    Returned,
    /// The broker does not take it.
    Refused,
    /// Nobody knows: the channel or the connection was lost.
    Lost,
}

/// What the broker shall have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Declared {
    /// A queue for messages.
    Destination(String),
    /// A queue for reports.
    Reports(String),
    /// The exchange for notices.
    Notices(String),
}

/// Publishes over a link.
#[derive(Debug)]
pub(crate) struct Publisher {
    link: Link,
    slots: Semaphore,
    idle: Mutex<Idle>,
}

/// Channels nobody uses now, and what was declared, of one session.
#[derive(Debug, Default)]
struct Idle {
    generation: u64,
    channels: Vec<Channel>,
    declared: HashSet<Declared>,
}

impl Publisher {
    pub(crate) fn new(link: Link) -> Self {
        Self {
            link,
            slots: Semaphore::new(CHANNELS_MAX),
            idle: Mutex::default(),
        }
    }

    pub(crate) const fn link(&self) -> &Link {
        &self.link
    }

    /// Publishes a batch and waits for its confirms; waits before that until the broker takes messages. One answer for
    /// each, in order. Nothing when the process is stopping.
    pub(crate) async fn publish(&self, batch: &[Outgoing]) -> Option<Vec<Published>> {
        let _slot = self.slots.acquire().await.ok()?;
        let session = self.link.writable().await?;
        let Some(Some((channel, outcomes))) = session.during(self.send(&session, batch)).await else {
            return Some(vec![Published::Lost; batch.len()]);
        };
        if !outcomes.contains(&Published::Lost) {
            self.give_back(&session, channel);
        }
        Some(outcomes)
    }

    async fn send(&self, session: &Session, batch: &[Outgoing]) -> Option<(Channel, Vec<Published>)> {
        let channel = self.channel(session).await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let sending = batch.iter().map(|message| {
            channel.basic_publish(
                message.exchange.as_str().into(),
                message.routing_key.as_str().into(),
                options,
                &message.body,
                message.properties.clone(),
            )
        });
        let confirming = join_all(sending).await.into_iter().map(|sent| async {
            match sent {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            }
        });
        let mut returned = HashSet::new();
        let mut outcomes = Vec::with_capacity(batch.len());
        for confirmation in join_all(confirming).await {
            outcomes.push(match &confirmation {
                Ok(Confirmation::Ack(_)) => Published::Confirmed,
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => Published::Refused,
                Err(error) => {
                    tracing::debug!(%error, "a message may not have reached the broker");
                    Published::Lost
                }
            });
            // The library hands returned messages to confirms in the order of their arrival: only the batch is sure.
            let message = confirmation.ok().and_then(Confirmation::take_message);
            returned.extend(message.and_then(|message| message.delivery.properties.message_id().clone()));
        }
        if !returned.is_empty() {
            for (message, outcome) in batch.iter().zip(&mut outcomes) {
                if message
                    .properties
                    .message_id()
                    .as_ref()
                    .is_some_and(|id| returned.contains(id))
                {
                    *outcome = Published::Returned;
                }
            }
        }
        Some((channel, outcomes))
    }

    /// Has the broker declare what is not known to be there. Says whether it is there now.
    pub(crate) async fn declare(&self, wanted: &Declared) -> bool {
        let Some(session) = self.link.writable().await else {
            return false;
        };
        {
            let mut idle = self.idle.lock();
            idle.renew(&session);
            if idle.declared.contains(wanted) {
                return true;
            }
        }
        let Some(Some(channel)) = session.during(self.channel(&session)).await else {
            return false;
        };
        match session.during(declare(&channel, wanted)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(?wanted, %error, "the broker does not declare");
                return false;
            }
            None => return false,
        }
        self.give_back(&session, channel);
        let mut idle = self.idle.lock();
        if idle.generation == session.generation {
            idle.declared.insert(wanted.clone());
        }
        true
    }

    /// The broker has it no more, or that is to be feared.
    pub(crate) fn forget(&self, declared: &Declared) {
        self.idle.lock().declared.remove(declared);
    }

    async fn channel(&self, session: &Session) -> Option<Channel> {
        let idle = {
            let mut idle = self.idle.lock();
            idle.renew(session);
            idle.channels.pop()
        };
        if let Some(channel) = idle.filter(|channel| channel.status().connected()) {
            return Some(channel);
        }
        let opened = async {
            let channel = session.channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        opened
            .await
            .inspect_err(|error| tracing::debug!(%error, "a channel cannot be opened"))
            .ok()
    }

    fn give_back(&self, session: &Session, channel: Channel) {
        let mut idle = self.idle.lock();
        if idle.generation == session.generation {
            idle.channels.push(channel);
        }
    }
}

impl Idle {
    fn renew(&mut self, session: &Session) {
        if session.generation > self.generation {
            *self = Self {
                generation: session.generation,
                ..Self::default()
            };
        }
    }
}

/// Has the broker declare something, in the one way both ends agree on.
pub(crate) async fn declare(channel: &Channel, wanted: &Declared) -> Result<(), lapin::Error> {
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let arguments = |pairs: HashMap<&str, AMQPValue>| {
        let mut table = FieldTable::default();
        for (name, value) in pairs {
            table.insert(name.into(), value);
        }
        table
    };
    match wanted {
        Declared::Destination(name) => {
            let levels = AMQPValue::LongInt(PRIORITY_LEVEL_MAX.into());
            let arguments = arguments(HashMap::from([("x-max-priority", levels)]));
            channel
                .queue_declare(name.as_str().into(), durable, arguments)
                .await?;
        }
        Declared::Reports(name) => {
            let kept = i32::try_from(REPORTS_KEPT.as_millis()).unwrap_or(i32::MAX);
            let arguments = arguments(HashMap::from([("x-expires", AMQPValue::LongInt(kept))]));
            channel
                .queue_declare(name.as_str().into(), durable, arguments)
                .await?;
        }
        Declared::Notices(name) => {
            let options = ExchangeDeclareOptions {
                durable: true,
                ..ExchangeDeclareOptions::default()
            };
            let fanout = ExchangeKind::Fanout;
            channel
                .exchange_declare(name.as_str().into(), fanout, options, FieldTable::default())
                .await?;
        }
    }
    Ok(())
}
