//! Mail: what one partition has to say to the runs of another one.
//!
//! A letter is a row in the shared schema. It is written in the very unit that has it sent (an event and its name, say), and
//! taken away in the unit that gives the message to the run's queue; both are fenced by their partitions' epochs. So it
//! is delivered once, whatever dies in between, and waits while its partition has no owner. Not a road for much: each
//! letter is two rows more. It asks that partitions and shared schema be in one database, as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use celesta_store::{Cell, CommitError, Expect, Migration, QueryError, Statement, Unit};
use celesta_types::{Partition, RunId};

use super::{Cluster, Partitions, table};
use crate::message::HostMessage;
use crate::runtime::Inner;

/// How long a letter may lie when nobody said that it is there.
const LOOK: Duration = Duration::from_secs(1);
/// Letters taken at once: one commit for each partition.
const LETTERS: usize = 512;
/// What nodes say to each other when there is mail.
pub(super) const NEWS: &str = "mail";

/// The table of letters.
pub(super) const MIGRATION: Migration = Migration {
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

/// Written and taken in units of partitions, whose search path does not name the shared schema.
static SEND: Statement = Statement {
    name: "cluster.mail_send",
    rank: 16,
    head: "INSERT INTO celesta.cluster_mail (partition, run, payload) VALUES ",
    row: "(?, ?, ?)",
    tail: "",
    cells: 3,
    expect: Expect::Each,
};

static TAKE: Statement = Statement {
    name: "cluster.mail_take",
    rank: 31,
    head: "DELETE FROM celesta.cluster_mail WHERE position IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Each,
};

/// A message on its way to a run of another partition.
#[derive(Debug)]
struct Letter {
    position: i64,
    run: RunId,
    payload: Vec<u8>,
}

impl Inner {
    /// Adds a letter to a run of another partition to the unit. Once that is durable, [`Inner::tell_of_mail`].
    pub(crate) fn write_letter(&self, unit: &mut Unit, run: RunId, message: &HostMessage) {
        let partition = Partition::of_run(run, self.partition.count).index;
        let cells = [
            i64::from(partition).into(),
            Cell::Id(run.to_bytes()),
            message.encode().into(),
        ];
        unit.add(&SEND, cells);
    }

    /// Says that there is mail. It is found within a second anyway.
    pub(crate) async fn tell_of_mail(&self) {
        let Some(database) = self.store.database() else {
            return;
        };
        if let Err(error) = database.notify(table::CHANNEL, &[NEWS.to_owned()]).await {
            tracing::debug!(%error, "the other partitions were not told of their mail");
        }
    }

    /// Takes the letters away and gives their messages to the runs, in one unit.
    async fn take_in(&self, letters: Vec<Letter>) -> Result<(), CommitError> {
        let mut unit = Unit::new();
        let mut messages = Vec::with_capacity(letters.len());
        for letter in letters {
            unit.add(&TAKE, [letter.position.into()]);
            messages.push(self.message_of(letter.run, letter.payload));
        }
        self.queues
            .stage_enqueue(&mut unit, messages)
            .map_err(|error| CommitError::Unavailable {
                reason: error.to_string(),
            })?;
        self.store.commit(unit).await
    }
}

/// Brings mail to the partitions of this node until shutdown.
pub(super) async fn deliver(partitions: Partitions) {
    let Some(cluster) = &partitions.shared.cluster else {
        return;
    };
    let shutdown = cluster.parts.tasks.shutdown().clone();
    loop {
        match deliver_some(&partitions, cluster).await {
            Ok(true) => cluster.mail.notify_one(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "mail between partitions waits"),
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = cluster.mail.notified() => {}
            () = cluster.parts.clock.sleep(LOOK) => {}
        }
    }
}

/// One look; whether there may be more.
async fn deliver_some(partitions: &Partitions, cluster: &Cluster) -> Result<bool, QueryError> {
    let members = partitions.members();
    if members.is_empty() {
        return Ok(false);
    }
    let places = vec!["?"; members.len()].join(", ");
    let sql = format!(
        "SELECT position, partition, run, payload FROM cluster_mail WHERE partition IN ({places}) \
         ORDER BY position LIMIT ?"
    );
    let mut cells: Vec<Cell> = members
        .iter()
        .map(|member| i64::from(member.partition.index).into())
        .collect();
    cells.push(i64::try_from(LETTERS).unwrap_or(i64::MAX).into());
    let mut rows = cluster.parts.store.fetch(&sql, &cells).await?;
    let full = rows.len() == LETTERS;
    let mut letters: BTreeMap<i64, Vec<Letter>> = BTreeMap::new();
    for row in &mut rows {
        let (Some(position), Some(partition)) = (row.int(0), row.int(1)) else {
            continue;
        };
        let run = row.blob(2).and_then(RunId::from_bytes);
        if let (Some(run), Some(payload)) = (run, row.take_blob(3)) {
            letters.entry(partition).or_default().push(Letter {
                position,
                run,
                payload,
            });
        }
    }
    for member in members {
        if let Some(letters) = letters.remove(&i64::from(member.partition.index)) {
            // Refused when this process does not own the partition any more: its heir takes the letters.
            if let Err(error) = member.runtime.inner.take_in(letters).await {
                let partition = member.partition.index;
                tracing::warn!(partition, %error, "mail between partitions waits");
            }
        }
    }
    Ok(full)
}
