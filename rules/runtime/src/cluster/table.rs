//! The table of partitions in the database, as this process reads and writes it.

use std::sync::Arc;

use celesta_store::{Arg, Call, Postgres, QueryError, Row as Cells};

use super::ownership::{Process, Row};
use super::schema;

/// How long a partition is held after its owner was last heard of, by the database's clock.
pub(super) const LEASE_MS: i64 = 5_000;
/// What nodes say to each other when the table has changed.
pub(crate) const CHANNEL: &str = "celesta_cluster";
/// A node that has not been heard of for so long counts as gone.
const AWAY_MS: i64 = LEASE_MS;

/// A node as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// Where it answers, `http://host:port`.
    pub address: String,
    /// The release it runs.
    pub release: String,
    /// Whether it is about to end.
    pub leaving: bool,
    /// Whether it was heard of lately.
    pub alive: bool,
    /// The databases it knows besides the main one; nothing when its release knows of none.
    pub databases: Option<Vec<String>>,
    pub(super) incarnation: i64,
}

/// What one look has shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    pub(super) nodes: Vec<NodeSeen>,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) database: Postgres,
    pub(super) process: Process,
    pub(super) address: String,
    pub(super) notices: bool,
    /// The names of the databases this node knows.
    pub(super) databases: String,
}

/// What a claim has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) epoch: i64,
    pub(super) place: Option<String>,
    pub(super) wanted: Option<String>,
}

impl Table {
    /// Says how many partitions there are to be, in turn in the databases `deal`, and gives how many there are.
    pub(super) async fn settle_count(
        database: &Postgres,
        wanted: u32,
        deal: Vec<Option<Arc<str>>>,
    ) -> Result<u32, QueryError> {
        ask(
            database,
            "cluster.settle",
            schema::SETTLE_COUNT,
            vec![Arg::Int(wanted.into())],
        )
        .await?;
        let rows = ask(database, "cluster.count", schema::COUNT, Vec::new()).await?;
        let count = rows.first().and_then(|row| row.int(0)).unwrap_or(1);
        let rows = vec![Arg::Int(count), Arg::Texts(deal)];
        ask(database, "cluster.rows", schema::MAKE_ROWS, rows).await?;
        Ok(u32::try_from(count).unwrap_or(1))
    }

    /// Says that this process is there and keeps what it holds, then looks.
    pub(super) async fn beat(&self, leaving: bool) -> Result<Look, QueryError> {
        let said = vec![
            text(&self.process.node),
            text(&self.address),
            Arg::Int(self.process.incarnation),
            text(env!("CARGO_PKG_VERSION")),
            Arg::Int(leaving.into()),
            text(&self.databases),
        ];
        let mut renewal = self.name();
        renewal.push(Arg::Int(LEASE_MS));
        ask(&self.database, "cluster.renew", schema::RENEW, renewal).await?;
        ask(&self.database, "cluster.seen", schema::SEEN, said).await?;
        Self::look(&self.database).await
    }

    pub(super) async fn look(database: &Postgres) -> Result<Look, QueryError> {
        let nodes = ask(database, "cluster.nodes", schema::NODES, Vec::new()).await?;
        let rows = ask(database, "cluster.partitions", schema::PARTITIONS, Vec::new()).await?;
        Ok(Look {
            nodes: nodes.iter().filter_map(node).collect(),
            rows: rows.iter().filter_map(row).collect(),
        })
    }

    /// Claims the partition seen with `epoch`; gives the new epoch and where it is, or nothing when somebody was
    /// faster.
    pub(super) async fn claim(&self, partition: u32, epoch: i64) -> Result<Option<Claimed>, QueryError> {
        let mut args = vec![Arg::Int(partition.into()), Arg::Int(epoch)];
        args.extend(self.name());
        args.push(Arg::Int(LEASE_MS));
        let rows = ask(&self.database, "cluster.claim", schema::CLAIM, args).await?;
        let claimed = |row: &Cells| {
            Some(Claimed {
                epoch: row.int(0)?,
                place: row.text(1).map(str::to_owned),
                wanted: row.text(2).map(str::to_owned),
            })
        };
        Ok(rows.first().and_then(claimed))
    }

    /// Frees the partition if this process still holds it with `epoch`, and says so to the others.
    pub(super) async fn free(&self, partition: u32, epoch: i64) -> Result<(), QueryError> {
        let mut args = vec![Arg::Int(partition.into()), Arg::Int(epoch)];
        args.extend(self.name());
        ask(&self.database, "cluster.free", schema::FREE, args).await?;
        self.tell().await;
        Ok(())
    }

    /// The partition is in the database `to` from now on; whether this process still held it with `epoch`.
    pub(super) async fn moved(&self, partition: u32, epoch: i64, to: &str) -> Result<bool, QueryError> {
        self.place(schema::MOVED, partition, epoch, text(to)).await
    }

    /// The partition is not brought elsewhere, because of `problem` if there is one; whether this process still held it.
    pub(super) async fn stay(
        &self,
        partition: u32,
        epoch: i64,
        problem: Option<&str>,
    ) -> Result<bool, QueryError> {
        let problem = Arg::Text(problem.map(Into::into));
        self.place(schema::STAY, partition, epoch, problem).await
    }

    async fn place(
        &self,
        sql: &'static str,
        partition: u32,
        epoch: i64,
        last: Arg,
    ) -> Result<bool, QueryError> {
        let mut args = vec![Arg::Int(partition.into()), Arg::Int(epoch)];
        args.extend(self.name());
        args.push(last);
        update(&self.database, "cluster.place", sql, args).await
    }

    /// This process is about to end: nobody counts on it any more.
    pub(super) async fn forget(&self) -> Result<(), QueryError> {
        ask(&self.database, "cluster.forget", schema::FORGET, self.name())
            .await
            .map(drop)
    }

    /// Has the other nodes look at once, where notices are carried; they look every second anyway.
    pub(super) async fn tell(&self) {
        if self.notices
            && let Err(error) = self.database.notify(CHANNEL, &[String::new()]).await
        {
            tracing::debug!(%error, "the other nodes were not told");
        }
    }

    fn name(&self) -> Vec<Arg> {
        vec![text(&self.process.node), Arg::Int(self.process.incarnation)]
    }
}

/// The partition is wanted in the database `to`; whether it was neither there nor on its way.
pub(super) async fn want(database: &Postgres, partition: u32, to: &str) -> Result<bool, QueryError> {
    let args = vec![Arg::Int(partition.into()), text(to)];
    update(database, "cluster.want", schema::WANT, args).await
}

/// One update of a partition's row; whether it was still as expected.
async fn update(
    database: &Postgres,
    name: &'static str,
    sql: &'static str,
    args: Vec<Arg>,
) -> Result<bool, QueryError> {
    // Exactly once: repeated, it would find its own doing.
    let answers = database.write(&[Call { name, sql, args }]).await?;
    Ok(answers.first().is_some_and(|rows| !rows.is_empty()))
}

fn text(text: &str) -> Arg {
    Arg::Text(Some(text.into()))
}

async fn ask(
    database: &Postgres,
    name: &'static str,
    sql: &'static str,
    args: Vec<Arg>,
) -> Result<Vec<Cells>, QueryError> {
    database.ask(&Call { name, sql, args }).await
}

fn row(cells: &Cells) -> Option<Row> {
    let holder = match (cells.text(1), cells.int(2)) {
        (Some(node), Some(incarnation)) => Some(Process {
            node: node.to_owned(),
            incarnation,
        }),
        _ => None,
    };
    Some(Row {
        partition: u32::try_from(cells.int(0)?).ok()?,
        holder,
        epoch: cells.int(3)?,
        left_ms: cells.int(4)?,
        place: cells.text(5).map(str::to_owned),
        wanted: cells.text(6).map(str::to_owned),
        problem: cells.text(7).map(str::to_owned),
    })
}

fn node(cells: &Cells) -> Option<NodeSeen> {
    Some(NodeSeen {
        name: cells.text(0)?.to_owned(),
        address: cells.text(1)?.to_owned(),
        incarnation: cells.int(2)?,
        release: cells.text(3)?.to_owned(),
        leaving: cells.int(4)? != 0,
        alive: cells.int(5)? < AWAY_MS,
        databases: cells
            .text(6)
            .map(|names| names.split_whitespace().map(str::to_owned).collect()),
    })
}
