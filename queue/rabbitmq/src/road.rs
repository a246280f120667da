//! The consumer's end of the road: deliveries in, reports out.
//!
//! An [`Intake`] gives the messages of one queue, at most its prefetch at a time. Whatever became of them is told with
//! [`Road::settle`], which returns when the broker answers for the report; only then is the delivery acknowledged, so
//! that one of the two is always there. While messages are in hand the road says so every second.

mod intake;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use celesta_queue::{QueueName, Token};
use celesta_runtime::{Clock, Fate, Random, TaskSet};
use celesta_types::MessageId;
use hashbrown::HashMap;
use lapin::BasicProperties;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc};

use crate::broker::BrokerUrl;
use crate::hand::{Hand, Tag};
use crate::limits::{HOLD_EVERY, NOTICES_WAITING, PREFETCH_MAX, RETRY_FIRST};
use crate::link::Link;
use crate::metrics::Metrics;
use crate::names::{NameTooLong, Namespace};
use crate::publish::{Declared, Outgoing, Published, Publisher};
use crate::wire::{self, Delivery, Notice, Outcome, Report, Said};
use intake::Line;

/// How a consumer works.
#[derive(Debug, Clone)]
pub struct RoadConfig {
    /// Its name, for people.
    pub consumer: Arc<str>,
    /// What names in the broker begin with: the same as the dispatcher's.
    pub namespace: Namespace,
    /// How often it says what it holds: several times within the dispatcher's patience.
    pub hold_every: Duration,
}

impl RoadConfig {
    /// The usual for a consumer of that name.
    #[must_use]
    pub fn new(consumer: &str) -> Self {
        Self {
            consumer: consumer.into(),
            namespace: Namespace::default(),
            hold_every: HOLD_EVERY,
        }
    }
}

/// What became of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The message.
    pub id: MessageId,
    /// Its lease.
    pub token: Token,
    /// How it ended.
    pub outcome: Outcome,
}

/// A consumer's end of the road. Cheap to clone.
#[derive(Clone)]
pub struct Road {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: RoadConfig,
    clock: Clock,
    tasks: TaskSet,
    metrics: Metrics,
    publisher: Publisher,
    /// The connection messages come through: one that publishes may be blocked, and would block acknowledgements.
    intake: Link,
    hand: Mutex<Hand<Line>>,
    canceled: broadcast::Sender<Notice>,
    lines: AtomicU64,
    reports: AtomicU64,
}

/// The messages of one queue. Dropped, what it has not given goes back to the broker.
#[derive(Debug)]
pub struct Intake {
    deliveries: mpsc::Receiver<Delivery>,
}

impl Intake {
    /// Up to `max` messages; waits for the first. Empty when the process is stopping.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing is taken then.
    pub async fn next(&mut self, max: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        self.deliveries.recv_many(&mut deliveries, max.max(1)).await;
        deliveries
    }
}

impl Road {
    /// Starts the consumer's end. It connects when the broker is there, and again when it is back.
    #[must_use]
    pub fn start(
        config: RoadConfig,
        broker: &BrokerUrl,
        clock: &Clock,
        random: &Random,
        tasks: &TaskSet,
    ) -> Self {
        let metrics = Metrics::new();
        let link = |role: &str| {
            let name = format!("celesta consumer {} {role}", config.consumer);
            Link::start(broker, name, clock, random, tasks, &metrics)
        };
        let (canceled, _) = broadcast::channel(NOTICES_WAITING);
        let inner = Arc::new(Inner {
            clock: clock.clone(),
            tasks: tasks.clone(),
            publisher: Publisher::new(link("out")),
            intake: link("in"),
            hand: Mutex::default(),
            canceled,
            lines: AtomicU64::new(1),
            reports: AtomicU64::new(1),
            metrics,
            config,
        });
        tasks.spawn("road holding", Fate::Essential, hold(Arc::clone(&inner)));
        let notices = intake::follow_notices(Arc::clone(&inner));
        tasks.spawn("road notices", Fate::Essential, notices);
        Self { inner }
    }

    /// Gets the messages of `queue`, at most `prefetch` unsettled ones at a time.
    ///
    /// # Errors
    /// When the queue's name is too long for the broker.
    pub fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Intake, NameTooLong> {
        let destination = self.inner.config.namespace.destination(queue)?;
        let prefetch = prefetch.clamp(1, PREFETCH_MAX);
        let (sender, deliveries) = mpsc::channel(prefetch.into());
        let following = intake::follow(Arc::clone(&self.inner), destination, prefetch, sender);
        self.inner.tasks.spawn("road intake", Fate::Expendable, following);
        Ok(Intake { deliveries })
    }

    /// Reports what became of deliveries and acknowledges them. Returns when the broker answers for the reports; waits
    /// as long as the broker is away, or until the process is stopping: then they are delivered again. Deliveries that are not in hand any more, because a later lease has come, are
    /// passed over.
    ///
    /// # Cancel safety
    /// Dropped, the reports may or may not have been sent; settling again is safe.
    pub async fn settle(&self, settled: Vec<Settled>) {
        let inner = &self.inner;
        let ended: Vec<(MessageId, Token)> = settled.iter().map(|ended| (ended.id, ended.token)).collect();
        let said = settled
            .into_iter()
            .map(|ended| (ended.id, ended.token, Said::Settled(ended.outcome)));
        let mut reports = inner.about(said);
        for (reply_to, reports) in reports.drain() {
            if !inner.report(&reply_to, &reports).await {
                return;
            }
        }
        let tags: Vec<Tag<Line>> = {
            let mut hand = inner.hand.lock();
            ended
                .into_iter()
                .filter_map(|(id, token)| hand.settled(id, token))
                .collect()
        };
        inner.metrics.count("reported", tags.len());
        for tag in &tags {
            tag.channel.acknowledge(tag.number).await;
        }
    }

    /// Tells how far a delivery is. Lost when the broker is away: the next one says it better.
    pub async fn progress(&self, id: MessageId, token: Token, progress: Vec<u8>) {
        let inner = &self.inner;
        if inner.publisher.link().is_writable() {
            for (reply_to, reports) in inner.about([(id, token, Said::Progress(progress))]) {
                inner
                    .publisher
                    .publish(&inner.outgoing(&reply_to, &reports))
                    .await;
            }
        }
    }

    /// Hears of deliveries nobody waits for any more: canceled, or leased anew. They are still to be settled.
    #[must_use]
    pub fn canceled(&self) -> broadcast::Receiver<Notice> {
        self.inner.canceled.subscribe()
    }

    /// How many deliveries are in hand.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        self.inner.hand.lock().all().count()
    }
}

impl Inner {
    /// Reports about those deliveries that are in hand, by the dispatcher that hears them.
    fn about(
        &self,
        said: impl IntoIterator<Item = (MessageId, Token, Said)>,
    ) -> HashMap<Arc<str>, Vec<Report>> {
        let hand = self.hand.lock();
        let mut reports: HashMap<Arc<str>, Vec<Report>> = HashMap::new();
        for (id, token, said) in said {
            let Some(held) = hand.find(id, token) else {
                self.metrics.count("too_late", 1);
                continue;
            };
            reports
                .entry(Arc::clone(&held.reply_to))
                .or_default()
                .push(Report {
                    queue: held.queue.clone(),
                    id,
                    attempt: held.attempt,
                    token,
                    said,
                });
        }
        reports
    }

    fn outgoing(&self, reply_to: &str, reports: &[Report]) -> Vec<Outgoing> {
        let bodies = wire::write_reports(reports).into_iter();
        let outgoing = bodies.map(|body| {
            let number = self.reports.fetch_add(1, Ordering::Relaxed);
            Outgoing {
                exchange: String::new(),
                routing_key: reply_to.to_owned(),
                properties: BasicProperties::default()
                    .with_delivery_mode(2)
                    .with_message_id(number.to_string().into()),
                body: body.into(),
            }
        });
        outgoing.collect()
    }

    /// Sends reports until the broker answers for them. A dispatcher's queue that is gone is made again: the dispatcher
    /// is there, or comes back and reads it. False when the process is stopping.
    async fn report(&self, reply_to: &str, reports: &[Report]) -> bool {
        let mut rest = self.outgoing(reply_to, reports);
        loop {
            let Some(outcomes) = self.publisher.publish(&rest).await else {
                return false;
            };
            let again = rest.into_iter().zip(&outcomes);
            rest = again
                .filter(|(_, outcome)| **outcome != Published::Confirmed)
                .map(|(outgoing, _)| outgoing)
                .collect();
            if rest.is_empty() {
                return true;
            }
            self.metrics.count("reported_again", rest.len());
            if outcomes.contains(&Published::Returned) {
                let reports = Declared::Reports(reply_to.to_owned());
                self.publisher.forget(&reports);
                self.publisher.declare(&reports).await;
            }
            self.clock.sleep(RETRY_FIRST).await;
        }
    }
}

/// Says again and again what is in hand.
async fn hold(inner: Arc<Inner>) {
    let shutdown = inner.tasks.shutdown().clone();
    loop {
        tokio::select! {
            () = inner.clock.sleep(inner.config.hold_every) => {}
            () = shutdown.requested() => return,
        }
        if !inner.publisher.link().is_writable() {
            continue;
        }
        let held: Vec<_> = {
            let hand = inner.hand.lock();
            hand.all()
                .map(|(id, held)| (id, held.token, Said::Holding))
                .collect()
        };
        for (reply_to, reports) in inner.about(held) {
            let outgoing = inner.outgoing(&reply_to, &reports);
            // One that is lost is followed by the next; a broker that does not answer must not hold up the others.
            tokio::select! {
                _ = inner.publisher.publish(&outgoing) => {}
                () = inner.clock.sleep(inner.config.hold_every) => {}
                () = shutdown.requested() => return,
            }
        }
    }
}

impl fmt::Debug for Road {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Road")
            .field("consumer", &self.inner.config.consumer)
            .field("in_hand", &self.in_hand())
            .finish_non_exhaustive()
    }
}
