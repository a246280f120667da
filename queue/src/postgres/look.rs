//! Looking at queues and messages: for people, not for programs.

use std::sync::Arc;

use celesta_store::{Arg, QueryError};
use celesta_types::MessageId;

use super::rows::{VIEW_ENDED, view, view_columns};
use super::{Core, Entry, SharedQueues, call, text};
use crate::error::Error;
use crate::limits::LIST_MAX;
use crate::machine::State;
use crate::message::{Filter, History, MessageView, Page, Stats};
use crate::name::QueueName;
use crate::settings::Kind;

const PEEK: &str = concat!(
    view_columns!(),
    "WHERE queue = $1 AND state = 1 ORDER BY queue, rank, pass, deadline, seq LIMIT $2"
);
const LIST: &str = concat!(
    view_columns!(),
    "WHERE queue = $1 AND ($2::bigint[] IS NULL OR state = ANY ($2)) AND seq > $3 ORDER BY seq LIMIT $4"
);
const LIST_MATCHING: &str = concat!(
    view_columns!(),
    "WHERE metadata @> string_to_array($5, E'\\x1e') AND metadata IS NOT NULL AND queue = $1 \
     AND ($2::bigint[] IS NULL OR state = ANY ($2)) AND seq > $3 ORDER BY seq LIMIT $4"
);
const VIEW: &str = concat!(view_columns!(), "WHERE queue = $1 AND id = $2");
const COUNT: &str =
    "SELECT count(*) FROM queue_messages WHERE queue = $1 AND ($2::bigint[] IS NULL OR state = ANY ($2))";
const COUNT_MATCHING: &str = "SELECT count(*) FROM queue_messages WHERE metadata @> string_to_array($3, E'\\x1e') \
     AND metadata IS NOT NULL AND queue = $1 AND ($2::bigint[] IS NULL OR state = ANY ($2))";
const STATS: &str = "SELECT state, count(*) FROM queue_messages WHERE queue = $1 GROUP BY state";
const FREE_KEYS: &str = "SELECT count(*) FROM queue_keys WHERE queue = $1 AND NOT held AND seq IS NOT NULL";

impl SharedQueues {
    /// All queues by name. Counts every message of every queue.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn list_queues(&self) -> Result<Vec<Stats>, Error> {
        self.core.load_queues().await?;
        let mut entries = self.core.registry.read().all();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut stats = Vec::with_capacity(entries.len());
        for entry in entries {
            stats.push(self.core.stats(&entry).await?);
        }
        Ok(stats)
    }

    /// One queue in numbers.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn stats(&self, queue: &QueueName) -> Result<Option<Stats>, Error> {
        match self.core.find(queue).await? {
            Some(entry) => Ok(Some(self.core.stats(&entry).await?)),
            None => Ok(None),
        }
    }

    /// How many messages of the queue have not ended: invisible, pending or running.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn depth(&self, queue: &QueueName) -> Result<usize, Error> {
        let states = vec![State::Invisible, State::Pending, State::Running];
        let filter = Filter {
            states,
            metadata: Vec::new(),
        };
        self.count(queue, &filter).await
    }

    /// Up to `limit` messages (at most 1,000) in the order they would be leased, without leasing them.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn peek(&self, queue: &QueueName, limit: usize) -> Result<Vec<MessageView>, Error> {
        let Some(entry) = self.core.find(queue).await? else {
            return Ok(Vec::new());
        };
        self.core.sweep_if_due().await?;
        let limit = i64::try_from(limit.min(LIST_MAX)).unwrap_or(0);
        let args = vec![Arg::Int(entry.id), Arg::Int(limit)];
        let rows = self.core.database.ask(&call("queue.peek", PEEK, args)).await?;
        rows.into_iter()
            .map(|mut row| view(&mut row).map(|(view, ..)| view))
            .collect()
    }

    /// A page of up to `limit` messages (at most 1,000) that match, in the order they were enqueued. The next page begins
    /// `after` what this one gives as its end.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn list(
        &self,
        queue: &QueueName,
        filter: &Filter,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page, Error> {
        let Some(entry) = self.core.find(queue).await? else {
            return Ok(Page {
                messages: Vec::new(),
                next: None,
            });
        };
        let after = after.map_or(0, |after| i64::try_from(after).unwrap_or(i64::MAX));
        let limit = limit.min(LIST_MAX);
        let rows = self.core.select(&entry, filter, after, limit).await?;
        let full = rows.len() >= limit;
        let next = rows.last().map(|(_, _, seq)| *seq).filter(|_| full);
        Ok(Page {
            messages: rows.into_iter().map(|(view, ..)| view).collect(),
            next: next.and_then(|seq| u64::try_from(seq).ok()),
        })
    }

    /// How many messages of the queue match.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn count(&self, queue: &QueueName, filter: &Filter) -> Result<usize, Error> {
        let Some(entry) = self.core.find(queue).await? else {
            return Ok(0);
        };
        self.core.sweep_if_due().await?;
        let mut args = vec![Arg::Int(entry.id), states(filter)];
        let mut sql = COUNT;
        if let Some(pairs) = text::pairs(&filter.metadata) {
            args.push(Arg::Text(Some(pairs)));
            sql = COUNT_MATCHING;
        }
        let rows = self.core.database.ask(&call("queue.count", sql, args)).await?;
        Ok(first_count(&rows))
    }

    /// One message as it stands: its state, attempts, times and last error. Ended messages are known as long as the
    /// queue keeps them.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn view(&self, queue: &QueueName, id: MessageId) -> Result<Option<MessageView>, Error> {
        let Some(entry) = self.core.find(queue).await? else {
            return Ok(None);
        };
        Ok(self.core.view(&entry, id).await?.map(|(view, _)| view))
    }

    /// One message from its beginning to now; also when it has ended, as long as the queue keeps histories.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn history(&self, queue: &QueueName, id: MessageId) -> Result<Option<History>, Error> {
        let core = &self.core;
        let Some(entry) = core.find(queue).await? else {
            return Ok(None);
        };
        let mut found = core.view(&entry, id).await?;
        if found.is_none() {
            let since = core.now().saturating_sub(entry.settings.read().history_ms);
            let args = vec![Arg::Id(id.to_bytes()), Arg::Int(entry.id), Arg::Int(since)];
            let mut rows = core
                .database
                .ask(&call("queue.history", VIEW_ENDED, args))
                .await?;
            if let Some(row) = rows.first_mut() {
                let (view, timeline, _) = view(row)?;
                found = Some((view, timeline));
            }
        }
        Ok(found.map(|(message, timeline)| History {
            timeline: text::read_timeline(message.enqueued_at.as_millis(), message.priority, &timeline),
            message,
        }))
    }
}

impl Core {
    async fn view(&self, entry: &Entry, id: MessageId) -> Result<Option<(MessageView, String)>, Error> {
        self.sweep_if_due().await?;
        let args = vec![Arg::Int(entry.id), Arg::Id(id.to_bytes())];
        let mut rows = self.database.ask(&call("queue.view", VIEW, args)).await?;
        let Some(row) = rows.first_mut() else {
            return Ok(None);
        };
        let (view, timeline, _) = view(row)?;
        Ok(Some((view, timeline)))
    }

    async fn select(
        &self,
        entry: &Entry,
        filter: &Filter,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(MessageView, String, i64)>, Error> {
        self.sweep_if_due().await?;
        let mut args = vec![
            Arg::Int(entry.id),
            states(filter),
            Arg::Int(after),
            Arg::Int(i64::try_from(limit).unwrap_or(i64::MAX)),
        ];
        let mut sql = LIST;
        if let Some(pairs) = text::pairs(&filter.metadata) {
            args.push(Arg::Text(Some(pairs)));
            sql = LIST_MATCHING;
        }
        let rows = self.database.ask(&call("queue.list", sql, args)).await?;
        rows.into_iter().map(|mut row| view(&mut row)).collect()
    }

    /// The ids of messages that match.
    pub(super) async fn matching(
        &self,
        queue: &QueueName,
        filter: &Filter,
        max: usize,
    ) -> Result<Vec<MessageId>, Error> {
        let Some(entry) = self.find(queue).await? else {
            return Ok(Vec::new());
        };
        let found = self.select(&entry, filter, 0, max).await?;
        Ok(found.into_iter().map(|(view, ..)| view.id).collect())
    }

    async fn stats(&self, entry: &Arc<Entry>) -> Result<Stats, Error> {
        self.sweep_if_due().await?;
        let settings = entry.settings.read().clone();
        let args = vec![Arg::Int(entry.id)];
        let mut counts = [0; State::ALL.len()];
        for row in self
            .database
            .ask(&call("queue.stats", STATS, args.clone()))
            .await?
        {
            if let Some(state) = row.int(0).and_then(State::from_code) {
                counts[state.index()] = row
                    .int(1)
                    .and_then(|count| usize::try_from(count).ok())
                    .unwrap_or(0);
            }
        }
        let ready = if settings.kind == Kind::Exclusive {
            first_count(&self.database.ask(&call("queue.stats", FREE_KEYS, args)).await?)
        } else {
            counts[State::Pending.index()]
        };
        Ok(Stats {
            queue: entry.name.clone(),
            settings,
            ready,
            arriving: 0,
            counts,
            overtaken: 0,
        })
    }
}

fn first_count(rows: &[celesta_store::Row]) -> usize {
    let count = rows.first().and_then(|row| row.int(0));
    count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

fn states(filter: &Filter) -> Arg {
    if filter.states.is_empty() {
        Arg::NoInts
    } else {
        Arg::Ints(filter.states.iter().map(|state| state.code()).collect())
    }
}

/// Reads never fail for another reason than the database.
impl From<QueryError> for crate::error::LeaseError {
    fn from(error: QueryError) -> Self {
        Self::Unreadable { reason: error.reason }
    }
}
