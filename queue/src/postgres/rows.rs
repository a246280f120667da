//! Rows of messages as the database gives them.

use celesta_store::Row;
use celesta_types::{MessageId, Priority, Timestamp};

use super::text;
use crate::entry::NEVER;
use crate::error::Error;
use crate::machine::State;
use crate::message::{Leased, MessageView};
use crate::name::{Key, QueueName, Token};

/// The columns of a leased message, in the order [`leased`] reads them; the type `queue_leased` has them too.
macro_rules! leased_columns {
    () => {
        "SELECT seq, id, key, rank, deadline, attempt, attempts_max, token, enqueued_at, at, \
         array_to_string(metadata, E'\\x1e'), payload, pass, fairness IS NOT NULL FROM "
    };
}
pub(super) use leased_columns;

/// The columns of a message people look at, in the order [`view`] reads them.
macro_rules! view_columns {
    () => {
        "SELECT id, key, state, rank, deadline, attempt, attempts_max, enqueued_at, at, consumer, error, \
         array_to_string(metadata, E'\\x1e'), timeline, seq, payload FROM queue_messages "
    };
}
pub(super) use view_columns;

/// The same columns of what is left of an ended message.
pub(super) const VIEW_ENDED: &str = "SELECT id, key, state, rank, deadline, attempt, attempts_max, enqueued_at, ended_at, consumer, error, \
     array_to_string(metadata, E'\\x1e'), timeline, 0::bigint FROM queue_history \
     WHERE id = $1 AND queue = $2 AND ended_at > $3 ORDER BY ended_at DESC LIMIT 1";

/// A leased message and where it stood in the order.
pub(super) struct Taken {
    pub(super) leased: Leased,
    pub(super) order: (u32, i64, i64, i64),
    pub(super) fair: bool,
}

fn id(row: &Row, at: usize) -> Option<[u8; 16]> {
    row.blob(at)?.try_into().ok()
}

fn number(row: &Row, at: usize) -> u32 {
    row.int(at)
        .and_then(|value| u32::try_from(value).ok())
        .unwrap_or(0)
}

fn deadline(row: &Row, at: usize) -> Option<Timestamp> {
    row.int(at).filter(|&at| at != NEVER).map(Timestamp::from_millis)
}

/// Reads one row of [`leased_columns`].
pub(super) fn leased(row: &mut Row, queue: &QueueName) -> Result<Taken, Error> {
    let seq = row.int(0).unwrap_or(0);
    let corrupt = |what| Error::Corrupt { seq, what };
    let rank = number(row, 3);
    let message = row
        .blob(1)
        .and_then(MessageId::from_bytes)
        .ok_or_else(|| corrupt("id"))?;
    let payload = row.take_blob(11).ok_or_else(|| corrupt("payload"))?;
    let metadata = row.text(10).map(|text| text::read_pairs(text).into());
    let leased = Leased {
        id: message,
        queue: queue.clone(),
        key: id(row, 2).map(|bytes| Key::from_bits(u128::from_be_bytes(bytes))),
        priority: Priority::from_rank(rank, deadline(row, 4)).ok_or_else(|| corrupt("rank"))?,
        payload: payload.into(),
        attempt: number(row, 5),
        attempts_max: number(row, 6),
        token: Token::from_bits(
            row.int(7)
                .and_then(|token| u64::try_from(token).ok())
                .unwrap_or(0),
        ),
        enqueued_at: Timestamp::from_millis(row.int(8).unwrap_or(0)),
        leased_until: Timestamp::from_millis(row.int(9).unwrap_or(0)),
        metadata,
    };
    Ok(Taken {
        order: (rank, row.int(12).unwrap_or(0), row.int(4).unwrap_or(NEVER), seq),
        fair: row.int(13) == Some(1),
        leased,
    })
}

/// Reads one row of [`view_columns`] or [`VIEW_ENDED`]: the view, its timeline, and its number.
pub(super) fn view(row: &mut Row) -> Result<(MessageView, String, i64), Error> {
    let seq = row.int(13).unwrap_or(0);
    let corrupt = |what| Error::Corrupt { seq, what };
    let message = row
        .blob(0)
        .and_then(MessageId::from_bytes)
        .ok_or_else(|| corrupt("id"))?;
    let state = row
        .int(2)
        .and_then(State::from_code)
        .ok_or_else(|| corrupt("state"))?;
    let payload = row.take_blob(14).map(Into::into);
    let priority = Priority::from_rank(number(row, 3), deadline(row, 4)).ok_or_else(|| corrupt("rank"))?;
    let view = MessageView {
        id: message,
        key: id(row, 1).map(|bytes| Key::from_bits(u128::from_be_bytes(bytes))),
        state,
        priority,
        attempt: number(row, 5),
        attempts_max: number(row, 6),
        enqueued_at: Timestamp::from_millis(row.int(7).unwrap_or(0)),
        at: (state != State::Pending).then(|| Timestamp::from_millis(row.int(8).unwrap_or(0))),
        consumer: row.text(9).map(Into::into),
        error: row.text(10).map(str::to_owned),
        metadata: row.text(11).map_or_else(Vec::new, text::read_pairs),
        payload,
    };
    Ok((view, row.text(12).unwrap_or_default().to_owned(), seq))
}
