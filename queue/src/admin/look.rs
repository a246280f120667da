//! Looking at messages: the first, a page, how many, one with its history. Nothing changes by it.

use celesta_types::MessageId;

use crate::Queues;
use crate::core::Core;
use crate::error::Error;
use crate::limits::LIST_MAX;
use crate::message::{Filter, History, MessageView, Page};
use crate::name::QueueName;
use crate::shard::Queue;
use crate::state::Found;

/// Bits of a cursor that tell the place within a shard.
const CURSOR_BITS: u32 = 56;
/// Looks of one page: where little matches, the caller goes on.
const LOOKS_MAX: usize = 16;

impl Queues {
    /// Up to `limit` messages (at most 1,000) in order of class, number, deadline and enqueue, without leasing them: the
    /// ones that may be leased this instant, of an exclusive queue the first of each free key.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn peek(&self, queue: &QueueName, limit: usize) -> Result<Vec<MessageView>, Error> {
        let limit = limit.min(LIST_MAX);
        let Some(queue) = self.core.find(queue) else {
            return Ok(Vec::new());
        };
        let mut first = Vec::new();
        for number in 0..queue.shards() {
            let state = queue.shard(number).state.lock();
            for order in state.ordered(limit) {
                first.extend(
                    state
                        .slots
                        .get(order.slot)
                        .map(|entry| (order, state.view(entry))),
                );
            }
        }
        first.sort_by_key(|(order, _)| *order);
        first.truncate(limit);
        let missing = first.iter().enumerate();
        let missing = missing
            .filter(|(_, (_, view))| view.payload.is_none())
            .map(|(at, (order, _))| (at, order.seq))
            .collect();
        let mut views: Vec<_> = first.into_iter().map(|(_, view)| view).collect();
        self.core.fill(&mut views, missing).await?;
        Ok(views)
    }

    /// A page of up to `limit` messages (at most 1,000) that match, in no particular order. The next page begins `after`
    /// what this one gives as its end; a message that stays throughout is listed once. A page may be short, or empty, and
    /// have a next one all the same.
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
        let mut page = Page {
            messages: Vec::new(),
            next: None,
        };
        let Some(queue) = self.core.find(queue) else {
            return Ok(page);
        };
        let mut cursor = after;
        let limit = limit.clamp(1, LIST_MAX);
        for _ in 0..LOOKS_MAX {
            let max = limit - page.messages.len();
            let (mut messages, next) = self.core.look(&queue, filter, cursor, max).await?;
            page.messages.append(&mut messages);
            (page.next, cursor) = (next, next);
            if next.is_none() || page.messages.len() == limit {
                break;
            }
        }
        Ok(page)
    }

    /// How many messages of the queue match.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn count(&self, queue: &QueueName, filter: &Filter) -> Result<usize, Error> {
        let Some(queue) = self.core.find(queue) else {
            return Ok(0);
        };
        let at_once: Option<usize> = (0..queue.shards())
            .map(|shard| queue.shard(shard).state.lock().count_at_once(filter))
            .sum();
        if let Some(count) = at_once {
            return Ok(count + self.core.far_matching(&queue, filter));
        }
        let (mut count, mut cursor) = (0, None);
        loop {
            let (found, next) = look(&queue, filter, cursor, usize::MAX);
            count += found.messages.len();
            if next.is_none() {
                return Ok(count);
            }
            cursor = next;
            tokio::task::yield_now().await;
        }
    }

    /// One message as it stands: its state, attempts, times and last error. Ended messages are known as long as the
    /// queue keeps them.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn view(&self, queue: &QueueName, id: MessageId) -> Result<Option<MessageView>, Error> {
        let history = self.core.present(queue, id).await?;
        Ok(history.map(|history| history.message))
    }

    /// One message from its beginning to now; also when it has ended, as long as the queue keeps histories.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn history(&self, queue: &QueueName, id: MessageId) -> Result<Option<History>, Error> {
        if let Some(history) = self.core.present(queue, id).await? {
            return Ok(Some(history));
        }
        match self.core.find(queue) {
            Some(queue) => self.core.past(&queue, id).await,
            None => Ok(None),
        }
    }
}

impl Core {
    /// A message in memory, with its payload and its timeline.
    async fn present(&self, queue: &QueueName, id: MessageId) -> Result<Option<History>, Error> {
        let Some(queue) = self.find(queue) else {
            return Ok(None);
        };
        for number in 0..queue.shards() {
            let found = {
                let state = queue.shard(number).state.lock();
                state.find(id).map(|(_, entry)| (state.history(entry), entry.seq))
            };
            if let Some((mut history, seq)) = found {
                if history.message.payload.is_none() {
                    history.message.payload = self.payloads(vec![seq]).await?.remove(&seq);
                }
                return Ok(Some(history));
            }
        }
        self.far_history(&queue, id).await
    }

    /// One look at the messages that match, those that become visible much later at the end, and where the next goes on.
    pub(super) async fn look(
        &self,
        queue: &Queue,
        filter: &Filter,
        after: Option<u64>,
        max: usize,
    ) -> Result<(Vec<MessageView>, Option<u64>), Error> {
        let far = (queue.shards() as u64) << CURSOR_BITS;
        if after.is_none_or(|after| after < far) {
            let (found, next) = look(queue, filter, after, max);
            let mut messages = found.messages;
            self.fill(&mut messages, found.missing).await?;
            let goes_on = next.is_none() && self.far_matching(queue, filter) > 0;
            return Ok((messages, if goes_on { Some(far) } else { next }));
        }
        let within = after.map_or(0, |after| after & ((1 << CURSOR_BITS) - 1));
        let within = i64::try_from(within).unwrap_or(i64::MAX);
        let (messages, last) = self.far_page(queue, within, max).await?;
        Ok((messages, last.map(|last| far | last.unsigned_abs())))
    }

    /// Reads the payloads that are not in memory.
    async fn fill(&self, views: &mut [MessageView], missing: Vec<(usize, i64)>) -> Result<(), Error> {
        if missing.is_empty() {
            return Ok(());
        }
        let seqs = missing.iter().map(|(_, seq)| *seq).collect();
        let mut payloads = self.payloads(seqs).await?;
        for (at, seq) in missing {
            views[at].payload = payloads.remove(&seq);
        }
        Ok(())
    }
}

/// One look at the messages that match, and where the next goes on.
fn look(queue: &Queue, filter: &Filter, after: Option<u64>, max: usize) -> (Found, Option<u64>) {
    let number = usize::try_from(after.unwrap_or(0) >> CURSOR_BITS).unwrap_or(usize::MAX);
    let within = after.map_or(0, |after| after & ((1 << CURSOR_BITS) - 1));
    // Zero is the beginning of a shard.
    let within = within
        .checked_sub(1)
        .and_then(|within| i64::try_from(within).ok());
    let found = queue
        .shard(number.min(queue.shards() - 1))
        .state
        .lock()
        .look(filter, within, max);
    let next = match found.next {
        Some(next) => Some((number as u64, next.unsigned_abs() + 1)),
        None if number + 1 < queue.shards() => Some((number as u64 + 1, 0)),
        None => None,
    };
    let next = next.map(|(number, within)| (number << CURSOR_BITS) | within);
    (found, next)
}
