//! Mail: the messages of one partition to runs and gates of another one.
//!
//! A *letter* is a row of its sender's `mail_out`, written in the very unit that has it sent (a turn, say, or an event's
//! name). The owner of the partition it goes to reads it there, and in one unit of its own gives the message to the queue
//! and keeps a *receipt* (`mail_in`: sender and position). Then it removes the letter, and the receipt once no letter is
//! left that it is of. Both units are fenced by their partitions' epochs, so each letter counts once, whatever dies in
//! between, and waits while its partition has no owner. No transaction spans two partitions: they may be in different
//! databases.
//!
//! A partition that moves to another database takes its letters along. From before the copy until it is open again nobody
//! removes one (`mail_state`), so each letter that is copied still has its receipt, if it had one.

mod delivery;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use celesta_queue::NewMessage;
use celesta_store::{Cell, Expect, Migration, Statement, Store, Unit};
use celesta_types::Partition;
use tokio::sync::Notify;

pub(super) use self::delivery::deliver;
use super::OpenError;
use crate::runtime::Inner;

/// With this word a node says to the others that some of its partitions have sent letters.
const NEWS: &str = "mail";
/// All senders of a [`Post`].
const ALL: u64 = u64::MAX;

/// The table of letters of the release before, which a node of that release may still write.
pub(super) const FORMER_MIGRATION: Migration = Migration {
    subsystem: "cluster",
    version: 2,
    sql: "",
    postgres: "
CREATE TABLE cluster_mail (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition BIGINT NOT NULL,
    run UUID NOT NULL,
    payload BYTEA NOT NULL
);
CREATE INDEX cluster_mail_by_partition ON cluster_mail (partition, position);
",
};

/// What a partition has beside the tables of a node on its own. On PostgreSQL only: a file is the one partition there is.
pub const PARTITION_MIGRATIONS: &[Migration] = &[Migration {
    subsystem: "mail",
    version: 1,
    sql: "",
    postgres: "
CREATE TABLE mail_out (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition BIGINT NOT NULL,
    id UUID NOT NULL,
    key UUID NOT NULL,
    rank BIGINT NOT NULL,
    deadline BIGINT,
    payload BYTEA NOT NULL
);
CREATE INDEX mail_out_by_partition ON mail_out (partition, position);
CREATE TABLE mail_state (one BIGINT NOT NULL PRIMARY KEY, closed BIGINT NOT NULL);
INSERT INTO mail_state VALUES (1, 0);
CREATE TABLE mail_in (sender BIGINT NOT NULL, position BIGINT NOT NULL, PRIMARY KEY (sender, position));
",
}];

static SEND: Statement = Statement {
    name: "mail.send",
    rank: 16,
    head: "INSERT INTO mail_out (partition, id, key, rank, deadline, payload) VALUES ",
    row: "(?, ?, ?, ?, ?, ?)",
    tail: "",
    cells: 6,
    expect: Expect::Each,
};

/// No letter of the partition is removed from here on, and none that was is still there: before its tables are copied.
pub(super) const CLOSE: &str = "UPDATE mail_state SET closed = 1 WHERE one = 1";

static OPEN: Statement = Statement {
    name: "mail.open",
    rank: 20,
    head: "UPDATE mail_state SET closed = v.column1 FROM (VALUES ",
    row: "(?)",
    tail: ") AS v WHERE one = 1",
    cells: 1,
    expect: Expect::Any,
};

/// Letters of the partition may be removed: it is where it stays.
///
/// # Errors
/// When the store does not answer, or somebody else owns it.
pub(super) async fn open(store: &Store) -> Result<(), OpenError> {
    let rows = store
        .fetch("SELECT 1 FROM mail_state WHERE closed <> 0", &[])
        .await;
    if rows.map_err(OpenError::failed)?.is_empty() {
        return Ok(());
    }
    let mut unit = Unit::new();
    unit.add(&OPEN, [Cell::from(0_i64)]);
    store.commit(unit).await.map_err(OpenError::failed)
}

/// Says which partitions have sent letters; a bit for each.
#[derive(Debug, Default)]
pub(crate) struct Post {
    /// Said by partitions of this node; other nodes are told.
    sent: AtomicU64,
    /// Said by other nodes.
    heard: AtomicU64,
    news: Notify,
}

impl Post {
    fn sent(&self, sender: u32) {
        self.sent.fetch_or(1_u64 << (sender & 63), Ordering::Release);
        self.news.notify_one();
    }

    fn hear(&self, senders: u64) {
        self.heard.fetch_or(senders, Ordering::Release);
        self.news.notify_one();
    }

    /// Letters of any partition are looked for.
    pub(super) fn look(&self) {
        self.hear(ALL);
    }

    /// Takes in what another node says, when it is about mail; `own` is the name of this node, which hears itself, too.
    pub(super) fn is_news(&self, said: &str, own: &str) -> bool {
        let mut words = said.splitn(3, ' ');
        if words.next() != Some(NEWS) {
            return false;
        }
        let (senders, node) = (words.next(), words.next());
        if node.is_none() {
            // A node of the release before.
            self.look();
        } else if node != Some(own) {
            self.hear(senders.and_then(|bits| bits.parse().ok()).unwrap_or(ALL));
        }
        true
    }
}

impl Inner {
    /// Whether the message is for a run, gate or function of this partition.
    pub(crate) fn is_for_here(&self, message: &NewMessage) -> bool {
        self.addressee(message).is_none()
    }

    /// The other partition that the message goes to.
    fn addressee(&self, message: &NewMessage) -> Option<u32> {
        if self.partition.count == 1 || message.queue != self.runs_queue {
            return None;
        }
        let to = Partition::of_bits(message.key?.bits(), self.partition.count);
        (to != self.partition).then_some(to.index)
    }

    /// Adds what is sent to the unit: to the queue what is for this partition, as letters what is for others.
    ///
    /// # Errors
    /// When the queue does not take it; then the unit must not be committed.
    pub(crate) fn stage(
        &self,
        unit: &mut Unit,
        mut messages: Vec<NewMessage>,
    ) -> Result<(), celesta_queue::EnqueueError> {
        if self.partition.count > 1 {
            let letters = messages.extract_if(.., |message| !self.is_for_here(message));
            self.post(unit, letters);
        }
        self.queues.stage_enqueue(unit, messages)
    }

    /// Adds messages to other partitions to the unit.
    pub(crate) fn post(&self, unit: &mut Unit, messages: impl IntoIterator<Item = NewMessage>) {
        let mut any = false;
        for message in messages {
            let (Some(to), Some(key)) = (self.addressee(&message), message.key) else {
                continue;
            };
            let deadline = message.priority.deadline;
            let cells = [
                i64::from(to).into(),
                Cell::Id(message.id.to_bytes()),
                Cell::Id(key.bits().to_be_bytes()),
                i64::from(message.priority.rank()).into(),
                deadline.map_or(Cell::Null, |at| at.as_millis().into()),
                message.payload.to_vec().into(),
            ];
            unit.add(&SEND, cells);
            any = true;
        }
        if any {
            let (post, sender) = (Arc::clone(self.readers.post()), self.partition.index);
            unit.on_done(move |outcome| {
                if outcome.is_ok() {
                    post.sent(sender);
                }
            });
        }
    }
}
