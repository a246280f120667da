//! How letters are delivered: read at their senders, taken in with receipts, and removed.
//!
//! Why a receipt may go when its letter is gone: only the owner that holds the receipt removes the letter, and does so
//! after the receipt is durable. An heir raises the fence before it reads letters, so it sees either the letter and the
//! receipt or neither; what a former owner still removes has a receipt, or had one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celesta_queue::{Key, NewMessage, QueueName};
use celesta_runtime::Clock;
use celesta_store::{Cell, CommitError, Expect, QueryError, Row, Statement, Store, Unit};
use celesta_types::{MessageId, Priority, RunId, Timestamp};
use futures_util::future::join_all;

use super::super::{Cluster, Member, Partitions, table};
use super::{ALL, NEWS};
use crate::runtime::Runtime;

/// Letters are looked for everywhere after this time, whether somebody said that there are some or not.
const LOOK: Duration = Duration::from_secs(1);
/// Letters of one sender taken at once, by all partitions of a node together.
const LETTERS: usize = 512;
/// And by each of them at least.
const LETTERS_LEAST: usize = 32;
/// How long a database may take to answer in one round of mail; what is not known then is asked for again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The sender of letters that a release before wrote, into a table of the main schema.
const FORMER: i64 = -1;

static RECEIPT: Statement = Statement {
    name: "mail.receipt",
    rank: 16,
    head: "INSERT INTO mail_in (sender, position) VALUES ",
    row: "(?, ?)",
    tail: "",
    cells: 2,
    expect: Expect::Each,
};

static RECEIPT_FORGET: Statement = Statement {
    name: "mail.receipt_forget",
    rank: 31,
    head: "DELETE FROM mail_in WHERE (sender, position) IN (VALUES ",
    row: "(?, ?)",
    tail: ")",
    cells: 2,
    expect: Expect::Any,
};

/// The letters have receipts: removing them twice is removing them once. Nothing is removed while the partition moves to
/// another place: a letter that is copied there must have kept its receipt.
static REMOVE: Statement = Statement {
    name: "mail.remove",
    rank: 31,
    head: "DELETE FROM mail_out WHERE position IN (VALUES ",
    row: "(?)",
    tail: ") AND (SELECT closed FROM mail_state WHERE one = 1 FOR SHARE) = 0",
    cells: 1,
    expect: Expect::Any,
};

static FORMER_REMOVE: Statement = Statement {
    name: "mail.former_remove",
    rank: 31,
    head: "DELETE FROM cluster_mail WHERE position IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

/// A message on its way to another partition.
#[derive(Debug)]
struct Letter {
    position: i64,
    message: NewMessage,
}

/// What the owner of a partition knows of its receipts.
#[derive(Debug)]
struct Receipts {
    epoch: i64,
    /// Sender and position.
    kept: BTreeSet<(i64, i64)>,
}

/// The letters of one sender as one look has shown them.
#[derive(Debug)]
struct Page {
    sender: i64,
    /// By the partition they go to, in the order they were written.
    letters: BTreeMap<u32, Vec<Letter>>,
    /// Beyond this position there may be more to that partition.
    until: BTreeMap<u32, i64>,
}

impl Page {
    /// Whether the letter of that receipt is gone.
    fn lacks(&self, to: u32, (sender, position): (i64, i64)) -> bool {
        let is_there = |letters: &Vec<Letter>| letters.iter().any(|letter| letter.position == position);
        let until = self.until.get(&to).copied().unwrap_or(i64::MAX);
        sender == self.sender && position <= until && !self.letters.get(&to).is_some_and(is_there)
    }
}

/// Brings mail to the partitions of this node until shutdown.
pub(in crate::cluster) async fn deliver(partitions: Partitions) {
    let Some(cluster) = &partitions.shared.cluster else {
        return;
    };
    let shutdown = cluster.parts.tasks.shutdown().clone();
    let post = Arc::clone(cluster.readers.post());
    let clock = &cluster.parts.clock;
    let mut receipts = BTreeMap::new();
    let mut look_at = clock.monotonic() + LOOK;
    loop {
        let now = clock.monotonic();
        if look_at <= now {
            // However much news there is meanwhile.
            look_at = now + LOOK;
            post.look();
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = post.news.notified() => {}
            () = clock.sleep(look_at.saturating_sub(now)) => continue,
        }
        let sent = post.sent.swap(0, Ordering::Acquire);
        if sent != 0 {
            in_time(clock, tell(&partitions, cluster, sent)).await;
        }
        let senders = sent | post.heard.swap(0, Ordering::Acquire);
        if senders == 0 {
            continue;
        }
        match round(&partitions, cluster, senders, &mut receipts).await {
            Ok(0) => {}
            Ok(more) => post.hear(more),
            Err(error) => tracing::warn!(%error, "mail between partitions waits"),
        }
    }
}

/// What `work` gives, if that does not take too long: a database that does not answer holds up no other one's mail.
async fn in_time<T>(clock: &Clock, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = clock.sleep(PATIENCE) => None,
    }
}

/// Says to the other nodes that these partitions have sent letters. They find them within a second anyway.
async fn tell(partitions: &Partitions, cluster: &Cluster, senders: u64) {
    let everything_is_here = partitions.shared.here.read().len() == partitions.shared.count as usize;
    if everything_is_here || !cluster.notices {
        return;
    }
    let Some(database) = cluster.parts.store.database() else {
        return;
    };
    let news = format!("{NEWS} {senders} {}", cluster.config.node);
    if let Err(error) = database.notify(table::CHANNEL, &[news]).await {
        tracing::debug!(%error, "the other nodes were not told of their mail");
    }
}

/// Looks for letters of `senders` to the partitions of this node and takes them in; gives the senders that may have more.
async fn round(
    partitions: &Partitions,
    cluster: &Cluster,
    senders: u64,
    receipts: &mut BTreeMap<u32, Receipts>,
) -> Result<u64, QueryError> {
    let members = partitions.members();
    let readers = cluster.readers.each();
    if members.is_empty() || readers.is_empty() {
        return Ok(0);
    }
    let clock = &cluster.parts.clock;
    read_receipts(clock, &members, receipts).await;
    let asking = Asking::of(&members);
    let looked = (0_u32..)
        .zip(&readers)
        .filter(|(sender, _)| senders & (1 << sender) != 0)
        .filter_map(|(sender, reader)| Some((sender, reader.as_ref()?)));
    let pages = looked.map(|(sender, reader)| in_time(clock, page(sender, reader, &asking)));
    let mut pages: Vec<Page> = join_all(pages).await.into_iter().flatten().flatten().collect();
    if senders == ALL {
        pages.push(former_page(cluster, &members, &asking).await?);
    }
    let taken = members.iter().map(|member| {
        let known = receipts.remove(&member.partition.index);
        in_time(clock, take_in(member, &pages, known))
    });
    let mut more = 0;
    // A member without an entry is asked for its receipts at the next look.
    for (to, known, new) in join_all(taken).await.into_iter().flatten().flatten() {
        receipts.insert(to, known);
        // Where nothing new was taken in, looking again at once would show the same letters.
        let full = pages
            .iter()
            .filter(|page| page.until.contains_key(&to) && new.contains(&page.sender));
        let senders = full.filter_map(|page| u32::try_from(page.sender).ok());
        more |= senders.fold(0, |bits, sender| bits | (1 << sender));
    }
    let removed = pages.iter().map(|page| {
        let has_receipt = |to: u32, letter: &Letter| {
            let known = receipts.get(&to);
            known.is_some_and(|known| known.kept.contains(&(page.sender, letter.position)))
        };
        let letters = page.letters.iter();
        let mut unit = Unit::new();
        for (&to, letters) in letters {
            for letter in letters.iter().filter(|letter| has_receipt(to, letter)) {
                let remove = if page.sender == FORMER {
                    &FORMER_REMOVE
                } else {
                    &REMOVE
                };
                unit.add(remove, [letter.position.into()]);
            }
        }
        let reader = usize::try_from(page.sender).ok().and_then(|at| readers.get(at));
        let reader = reader.and_then(Option::as_ref);
        let store = reader.map_or(&cluster.parts.store, |reader| &reader.inner.store);
        in_time(clock, remove(store, unit))
    });
    join_all(removed).await;
    Ok(more)
}

async fn remove(store: &Store, unit: Unit) {
    if unit.is_empty() {
        return;
    }
    if let Err(error) = store.commit(unit).await {
        tracing::debug!(%error, "letters that were taken in are removed later");
    }
}

/// Receipts of partitions that have come to this node are read, those of others forgotten.
async fn read_receipts(clock: &Clock, members: &[Arc<Member>], receipts: &mut BTreeMap<u32, Receipts>) {
    receipts.retain(|partition, known| {
        let owned = |member: &&Arc<Member>| member.partition.index == *partition;
        members
            .iter()
            .find(owned)
            .is_some_and(|member| member.epoch == known.epoch)
    });
    let new = members
        .iter()
        .filter(|member| !receipts.contains_key(&member.partition.index));
    let reading = new.map(|member| async move {
        let rows = member.store.fetch("SELECT sender, position FROM mail_in", &[]);
        (member, in_time(clock, rows).await)
    });
    for (member, rows) in join_all(reading).await {
        let (partition, epoch) = (member.partition.index, member.epoch);
        match rows {
            Some(Ok(rows)) => {
                let kept = rows.iter().filter_map(|row| Some((row.int(0)?, row.int(1)?)));
                let kept = kept.collect();
                receipts.insert(partition, Receipts { epoch, kept });
            }
            // It takes nothing in meanwhile, and keeps nobody waiting.
            Some(Err(error)) => tracing::warn!(partition, %error, "mail to a partition waits"),
            None => tracing::warn!(
                partition,
                "mail to a partition waits: its database does not answer"
            ),
        }
    }
}

/// How the partitions of this node ask for their letters.
struct Asking {
    /// How many of them there are.
    members: usize,
    /// What each of them is given at most.
    each: usize,
    cells: Vec<Cell>,
}

impl Asking {
    fn of(members: &[Arc<Member>]) -> Self {
        let each = (LETTERS / members.len().max(1)).max(LETTERS_LEAST);
        let limit = i64::try_from(each).unwrap_or(i64::MAX);
        let cells = members
            .iter()
            .flat_map(|member| [i64::from(member.partition.index).into(), limit.into()]);
        Self {
            members: members.len(),
            each,
            cells: cells.collect(),
        }
    }

    /// The first letters to each: what waits for others, however much, is not looked at.
    fn sql(&self, columns: &str, table: &str) -> String {
        let one = format!("(SELECT {columns} FROM {table} WHERE partition = ? ORDER BY position LIMIT ?)");
        vec![one; self.members].join(" UNION ALL ")
    }

    fn page(&self, sender: i64, rows: &mut [Row], message: impl Fn(&mut Row) -> Option<NewMessage>) -> Page {
        let mut page = Page {
            sender,
            letters: BTreeMap::new(),
            until: BTreeMap::new(),
        };
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for row in rows {
            let to = row.int(1).and_then(|to| u32::try_from(to).ok());
            let (Some(position), Some(to)) = (row.int(0), to) else {
                continue;
            };
            let count = counts.entry(to).or_default();
            *count += 1;
            if *count == self.each {
                page.until.insert(to, position);
            }
            match message(row) {
                Some(message) => page
                    .letters
                    .entry(to)
                    .or_default()
                    .push(Letter { position, message }),
                None => tracing::error!(sender, position, "a letter cannot be read and stays where it is"),
            }
        }
        page
    }
}

/// The letters of one sender; nothing when it cannot be read now, which is no reason to keep others waiting.
async fn page(sender: u32, reader: &Runtime, asking: &Asking) -> Option<Page> {
    let sql = asking.sql(
        "position, partition, id, key, rank, deadline, payload",
        "mail_out",
    );
    let queue = &reader.inner.runs_queue;
    match reader.inner.store.fetch(&sql, &asking.cells).await {
        Ok(mut rows) => Some(asking.page(sender.into(), &mut rows, |row| letter(row, queue))),
        Err(error) => {
            tracing::warn!(sender, %error, "letters of a partition wait");
            None
        }
    }
}

/// The letters that a node of the release before has written.
async fn former_page(
    cluster: &Cluster,
    members: &[Arc<Member>],
    asking: &Asking,
) -> Result<Page, QueryError> {
    let sql = asking.sql("position, partition, run, payload", "cluster_mail");
    let mut rows = cluster.parts.store.fetch(&sql, &asking.cells).await?;
    Ok(asking.page(FORMER, &mut rows, |row| {
        let run = RunId::from_bytes(row.blob(2)?)?;
        let payload = row.take_blob(3)?;
        Some(members.first()?.runtime.inner.message_of(run, payload))
    }))
}

fn letter(row: &mut Row, queue: &QueueName) -> Option<NewMessage> {
    let id = u128::from_be_bytes(row.blob(2)?.try_into().ok()?);
    let key = u128::from_be_bytes(row.blob(3)?.try_into().ok()?);
    let deadline = row.int(5).map(Timestamp::from_millis);
    let priority = Priority::from_rank(u32::try_from(row.int(4)?).ok()?, deadline)?;
    let message = NewMessage::new(MessageId::from_bits(id), queue.clone(), row.take_blob(6)?);
    Some(NewMessage {
        // Its receipt keeps it from coming twice.
        repeatable_id: true,
        ..message.with_key(Key::from_bits(key)).with_priority(priority)
    })
}

/// Gives the member the messages of its letters, with receipts, and forgets receipts of letters that are gone; all in one
/// unit. Gives the receipts there are then, and whose letters were new; nothing when that is not known.
async fn take_in(
    member: &Arc<Member>,
    pages: &[Page],
    known: Option<Receipts>,
) -> Option<(u32, Receipts, BTreeSet<i64>)> {
    let to = member.partition.index;
    let mut known = known?;
    let mut unit = Unit::new();
    let gone = |receipt: &(i64, i64)| pages.iter().any(|page| page.lacks(to, *receipt));
    let forgotten: Vec<(i64, i64)> = known.kept.iter().copied().filter(gone).collect();
    for receipt in forgotten {
        unit.add(&RECEIPT_FORGET, [receipt.0.into(), receipt.1.into()]);
        known.kept.remove(&receipt);
    }
    let mut messages = Vec::new();
    let mut new = BTreeSet::new();
    for page in pages {
        for letter in page.letters.get(&to).into_iter().flatten() {
            if known.kept.insert((page.sender, letter.position)) {
                unit.add(&RECEIPT, [page.sender.into(), letter.position.into()]);
                messages.push(letter.message.clone());
                new.insert(page.sender);
            }
        }
    }
    if unit.is_empty() {
        return Some((to, known, new));
    }
    let staged = member.queues.stage_enqueue(&mut unit, messages);
    let committed = match staged {
        Ok(()) => member.store.commit(unit).await,
        Err(error) => Err(CommitError::Unavailable {
            reason: error.to_string(),
        }),
    };
    match committed {
        Ok(()) => Some((to, known, new)),
        // Refused when this process does not own the partition any more: its heir takes the letters.
        Err(error) => {
            tracing::warn!(partition = to, %error, "mail between partitions waits");
            None
        }
    }
}
