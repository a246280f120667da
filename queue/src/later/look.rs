//! Looking at far messages: read from their table, and left there.

use celesta_store::{Cell, Row as StoredRow};
use celesta_types::MessageId;
use celesta_types::wire::Reader;

use crate::core::Core;
use crate::entry::Entry;
use crate::error::Error;
use crate::machine::State as Life;
use crate::message::{Filter, History, MessageView};
use crate::name::Key;
use crate::rows;
use crate::schema;
use crate::shard::Queue;

/// Ids of one read.
const IDS: usize = 256;
pub(super) const COLUMNS: &str = "SELECT seq, at, queue, head, payload FROM queue_later";

impl Core {
    /// The rows of those of `ids` that are far and not in memory.
    pub(super) async fn far(&self, queue: &Queue, ids: &[MessageId]) -> Result<Vec<StoredRow>, Error> {
        let Some(store) = &self.store else {
            return Ok(Vec::new());
        };
        let is_absent = |id: MessageId| {
            let mut shards = (0..queue.shards()).map(|shard| queue.shard(shard));
            shards.all(|shard| shard.state.lock().find(id).is_none())
        };
        let absent: Vec<MessageId> = ids.iter().copied().filter(|&id| is_absent(id)).collect();
        let mut rows = Vec::new();
        for part in absent.chunks(IDS) {
            let places = vec!["?"; part.len()].join(",");
            let sql = format!("{COLUMNS} WHERE queue = ? AND id IN ({places})");
            let mut cells = vec![Cell::Int(queue.id)];
            cells.extend(part.iter().map(|&id| schema::id_cell(id)));
            rows.extend(store.fetch(&sql, &cells).await?);
        }
        Ok(rows)
    }

    /// A far message as people look at it.
    pub(crate) async fn far_history(&self, queue: &Queue, id: MessageId) -> Result<Option<History>, Error> {
        if self.later.count(queue.id) == 0 {
            return Ok(None);
        }
        let mut rows = self.far(queue, &[id]).await?;
        let Some(mut row) = rows.pop() else {
            return Ok(None);
        };
        let payload = row.take_blob(4);
        let (queue, entry, key) = decode(row)?;
        let mut history = rows::history(&rows::Row { queue, key, entry });
        history.message.payload = payload.map(Into::into);
        Ok(Some(history))
    }

    /// Far messages of the queue after row `after`, and where to go on.
    pub(crate) async fn far_page(
        &self,
        queue: &Queue,
        after: i64,
        max: usize,
    ) -> Result<(Vec<MessageView>, Option<i64>), Error> {
        let Some(store) = &self.store else {
            return Ok((Vec::new(), None));
        };
        let sql = format!("{COLUMNS} WHERE queue = ? AND seq > ? ORDER BY seq LIMIT ?");
        let limit = i64::try_from(max).unwrap_or(i64::MAX);
        let cells = [Cell::Int(queue.id), Cell::Int(after), Cell::Int(limit)];
        let mut views = Vec::new();
        let mut last = None;
        for mut row in store.fetch(&sql, &cells).await? {
            let payload = row.take_blob(4);
            let (number, entry, key) = decode(row)?;
            last = Some(entry.seq);
            let row = rows::Row {
                queue: number,
                key,
                entry,
            };
            let mut view = rows::history(&row).message;
            view.payload = payload.map(Into::into);
            views.push(view);
        }
        let more = views.len() == max;
        Ok((views, last.filter(|_| more)))
    }

    /// How many far messages of the queue match.
    pub(crate) fn far_matching(&self, queue: &Queue, filter: &Filter) -> usize {
        if wants_far(filter) {
            self.later.count(queue.id)
        } else {
            0
        }
    }
}

/// Whether far messages match: they are invisible and have no metadata.
fn wants_far(filter: &Filter) -> bool {
    filter.metadata.is_empty() && (filter.states.is_empty() || filter.states.contains(&Life::Invisible))
}

pub(super) fn decode(mut row: StoredRow) -> Result<(i64, Entry, Option<Key>), Error> {
    let seq = row.int(0).unwrap_or(0);
    let corrupt = |what| Error::Corrupt { seq, what };
    let head = row.take_blob(3).ok_or_else(|| corrupt("head"))?;
    let rows::Row { key, mut entry, .. } =
        rows::read(&mut Reader::new(&head)).map_err(|_| corrupt("bytes"))?;
    entry.standing.state = Life::Invisible;
    entry.at = row.int(1).ok_or_else(|| corrupt("instant"))?;
    let queue = row.int(2).ok_or_else(|| corrupt("queue"))?;
    Ok((queue, entry, key))
}
