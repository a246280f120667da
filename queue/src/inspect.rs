//! The record as it stands, row by row, for whoever checks it: no order, no leases, nothing is changed.
//!
//! Only the record in a SQLite file is read here; on PostgreSQL a message is columns, which cannot be half readable.

use celesta_store::{Cell, QueryError, Snapshot};
use celesta_types::wire::Reader;
use celesta_types::{MessageId, Timestamp};

use crate::machine::State;
use crate::name::{Key, QueueName};
use crate::rows;
use crate::settings::Settings;

/// A message as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its place in the enqueue order, which is its row.
    pub seq: i64,
    /// Its id.
    pub id: MessageId,
    /// The number of its queue.
    pub queue: i64,
    /// Its key.
    pub key: Option<Key>,
    /// Where it is in its life; running ones are pending after the next start.
    pub state: State,
    /// When it becomes visible, its lease lapses, or it ended, by its state.
    pub at: Timestamp,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A row that does not hold what any release writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRow {
    /// Which row.
    pub seq: i64,
    /// What is wrong with it.
    pub reason: String,
}

/// Queues of the record by number; for a row that cannot be read, why.
///
/// # Errors
/// When the database cannot answer.
pub async fn stored_queues(
    snapshot: &mut Snapshot,
) -> Result<Vec<(i64, Result<QueueName, String>)>, QueryError> {
    let rows = snapshot
        .fetch("SELECT id, name, settings FROM queue_queues ORDER BY id", &[])
        .await?;
    let read = rows.iter().map(|row| {
        let name = row.text(1).unwrap_or_default();
        let name = QueueName::new(name).map_err(|error| error.to_string());
        let settings = serde_json::from_str::<Settings>(row.text(2).unwrap_or_default());
        let settings = settings.map_err(|error| format!("its settings cannot be read: {error}"));
        (
            row.int(0).unwrap_or(0),
            name.and_then(|name| settings.map(|_| name)),
        )
    });
    Ok(read.collect())
}

/// Up to `limit` messages after row `after`, in the order of their rows. The last of them is where to go on; none is left
/// when the answer is empty.
///
/// # Errors
/// When the database cannot answer.
pub async fn stored_messages(
    snapshot: &mut Snapshot,
    after: i64,
    limit: usize,
) -> Result<Vec<Result<StoredMessage, DamagedRow>>, QueryError> {
    let cells = [
        Cell::Int(after),
        Cell::Int(i64::try_from(limit).unwrap_or(i64::MAX)),
    ];
    let mut found = snapshot.fetch(SELECT_ROWS, &cells).await?;
    let messages = found.iter_mut().map(|row| {
        let seq = row.int(0).unwrap_or(0);
        let mut bytes = row.take_blob(1).unwrap_or_default();
        bytes.extend(row.take_blob(2).unwrap_or_default());
        let payload = row.take_blob(3).unwrap_or_default();
        read(seq, &bytes, payload).map_err(|reason| DamagedRow { seq, reason })
    });
    Ok(messages.collect())
}

/// Up to `limit` messages that become visible much later, after row `after`, as [`stored_messages`] gives the others.
///
/// # Errors
/// When the database cannot answer.
pub async fn stored_later(
    snapshot: &mut Snapshot,
    after: i64,
    limit: usize,
) -> Result<Vec<Result<StoredMessage, DamagedRow>>, QueryError> {
    let cells = [
        Cell::Int(after),
        Cell::Int(i64::try_from(limit).unwrap_or(i64::MAX)),
    ];
    let mut found = snapshot.fetch(SELECT_LATER, &cells).await?;
    let messages = found.iter_mut().map(|row| {
        let seq = row.int(0).unwrap_or(0);
        let bytes = row.take_blob(1).unwrap_or_default();
        let payload = row.take_blob(2).unwrap_or_default();
        let message = read(seq, &bytes, payload).map_err(|reason| DamagedRow { seq, reason })?;
        // It is found by its columns, and brought near by its head.
        if row.int(4) != Some(message.queue) || row.blob(5) != Some(&message.id.to_bytes()) {
            let reason = format!("it stands under another queue or id than its own, {}", message.id);
            return Err(DamagedRow { seq, reason });
        }
        Ok(StoredMessage {
            state: State::Invisible,
            at: Timestamp::from_millis(row.int(3).unwrap_or(0)),
            ..message
        })
    });
    Ok(messages.collect())
}

const SELECT_LATER: &str =
    "SELECT seq, head, payload, at, queue, id FROM queue_later WHERE seq > ? ORDER BY seq LIMIT ?";

const SELECT_ROWS: &str =
    "SELECT seq, head, changes, payload FROM queue_rows WHERE seq > ? ORDER BY seq LIMIT ?";

fn read(seq: i64, bytes: &[u8], payload: Vec<u8>) -> Result<StoredMessage, String> {
    let mut reader = Reader::new(bytes);
    let row = rows::read(&mut reader).map_err(|error| error.to_string())?;
    if !reader.is_at_end() {
        return Err("there are bytes after its end".to_owned());
    }
    if row.entry.seq != seq {
        return Err(format!("it says that it is row {}", row.entry.seq));
    }
    Ok(StoredMessage {
        seq,
        id: row.entry.id(),
        queue: row.queue,
        key: row.key,
        state: row.entry.standing.state,
        at: Timestamp::from_millis(row.entry.at),
        payload,
    })
}
