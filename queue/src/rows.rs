//! The bytes of a message's row. The *head* is what a message is from its enqueue on; *changes* is how it stands when it
//! is not simply pending, and is absent for nearly all rows. Both say themselves where they end, so that a start reads
//! many rows as one run of bytes.

use std::sync::Arc;

use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{MessageId, Timestamp};

use crate::entry::{Entry, NEVER, priority};
use crate::machine::State;
use crate::message::{Happened, History, MessageView, TimelineEvent};
use crate::name::Key;

/// The first byte of a head of this format.
const HEAD: u8 = 1;
/// The first byte of changes of this format: no head begins with it.
const CHANGES: u8 = 2;

const KEY: u8 = 1;
const DEADLINE: u8 = 2;
const EXPIRES: u8 = 4;
const FAIRNESS: u8 = 8;
const METADATA: u8 = 16;

/// How a message stands.
pub(crate) struct Standing<'a> {
    pub(crate) state: State,
    pub(crate) attempt: u32,
    pub(crate) at: i64,
    pub(crate) error: Option<&'a str>,
    /// What happened last, beside the timeline of the entry.
    pub(crate) happened: &'a [TimelineEvent],
}

/// A row as it is read.
pub(crate) struct Row {
    pub(crate) queue: i64,
    pub(crate) key: Option<Key>,
    pub(crate) entry: Entry,
}

pub(crate) fn head(queue: i64, key: Option<Key>, entry: &Entry) -> Vec<u8> {
    let mut to = Writer::with_capacity(64);
    let rare = entry.rare();
    let metadata = rare.and_then(|rare| rare.metadata.as_deref()).unwrap_or_default();
    let fairness = rare.and_then(|rare| rare.fairness.as_deref());
    let expires_at = entry.expires_at();
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    to.byte(HEAD);
    to.byte(
        flag(key.is_some(), KEY)
            | flag(entry.deadline != NEVER, DEADLINE)
            | flag(expires_at != NEVER, EXPIRES)
            | flag(fairness.is_some(), FAIRNESS)
            | flag(!metadata.is_empty(), METADATA),
    );
    to.int(entry.seq);
    to.int(queue);
    to.raw(&entry.id().to_bytes());
    to.uint(entry.rank.into());
    to.int(entry.enqueued_at);
    to.uint(entry.standing.attempts_max.into());
    if let Some(key) = key {
        to.raw(&key.bits().to_be_bytes());
    }
    if entry.deadline != NEVER {
        to.int(entry.deadline);
    }
    if expires_at != NEVER {
        to.int(expires_at);
    }
    if let Some(fairness) = fairness {
        to.text(fairness);
    }
    if !metadata.is_empty() {
        to.size(metadata.len());
        for (name, value) in metadata {
            to.text(name);
            to.text(value);
        }
    }
    to.finish()
}

pub(crate) fn changes(entry: &Entry, standing: &Standing<'_>) -> Vec<u8> {
    let mut to = Writer::with_capacity(64);
    to.byte(CHANGES);
    to.int(standing.state.code());
    to.uint(standing.attempt.into());
    to.int(standing.at);
    to.uint(entry.rank.into());
    to.int(entry.deadline);
    to.int(entry.expires_at());
    let error = standing.error.or_else(|| entry.error().map(|error| &**error));
    to.flag(error.is_some());
    if let Some(error) = error {
        to.text(error);
    }
    let before = entry.rare().map_or(&[][..], |rare| &rare.timeline);
    to.size(before.len() + standing.happened.len());
    for event in before.iter().chain(standing.happened) {
        write_event(&mut to, event);
    }
    to.finish()
}

/// Reads one row: a head, and the changes after it when there are any.
pub(crate) fn read(from: &mut Reader<'_>) -> Result<Row, Damaged> {
    if from.byte()? != HEAD {
        return Err(from.damaged("the head of a message"));
    }
    let flags = from.byte()?;
    let seq = from.int()?;
    let queue = from.int()?;
    let id = MessageId::from_bytes(from.raw(16)?).ok_or_else(|| from.damaged("an id"))?;
    let mut entry = Entry::new(id, seq, None);
    entry.stored = true;
    entry.rank = from.uint32()?;
    entry.enqueued_at = from.int()?;
    entry.standing.attempts_max = from.uint32()?;
    let mut key = None;
    if flags & KEY != 0 {
        let bytes = from.raw(16)?.try_into();
        key = Some(Key::from_bits(u128::from_be_bytes(
            bytes.map_err(|_| from.damaged("a key"))?,
        )));
    }
    if flags & DEADLINE != 0 {
        entry.deadline = from.int()?;
    }
    if flags & EXPIRES != 0 {
        entry.expire_at(from.int()?);
    }
    if flags & FAIRNESS != 0 {
        entry.rare_mut().fairness = Some(from.text()?.into());
    }
    if flags & METADATA != 0 {
        let count = from.size()?;
        let pairs: Result<Arc<[_]>, Damaged> = (0..count)
            .map(|_| Ok((from.text()?.to_owned(), from.text()?.to_owned())))
            .collect();
        entry.rare_mut().metadata = Some(pairs?);
    }
    let mut next = *from;
    if next.byte() == Ok(CHANGES) {
        *from = next;
        read_changes(from, &mut entry)?;
    }
    Ok(Row { queue, key, entry })
}

fn read_changes(from: &mut Reader<'_>, entry: &mut Entry) -> Result<(), Damaged> {
    entry.standing.state = State::from_code(from.int()?).ok_or_else(|| from.damaged("a state"))?;
    entry.standing.attempt = from.uint32()?;
    entry.at = from.int()?;
    entry.rank = from.uint32()?;
    entry.deadline = from.int()?;
    entry.expire_at(from.int()?);
    if from.flag()? {
        entry.rare_mut().error = Some(from.text()?.into());
    }
    let events = from.size()?;
    for _ in 0..events {
        let event = read_event(from)?;
        entry.rare_mut().timeline.push(event);
    }
    Ok(())
}

/// The history a row tells.
pub(crate) fn history(row: &Row) -> History {
    let Row { key, entry, .. } = row;
    let rare = entry.rare();
    let timeline = rare.map_or(&[][..], |rare| &rare.timeline);
    let metadata = rare.and_then(|rare| rare.metadata.as_deref()).unwrap_or_default();
    let consumer = timeline.iter().rev().find_map(|event| match &event.what {
        Happened::Leased { consumer, .. } => Some(Arc::clone(consumer)),
        _ => None,
    });
    let message = MessageView {
        id: entry.id(),
        key: *key,
        state: entry.standing.state,
        priority: entry.priority(),
        attempt: entry.standing.attempt,
        attempts_max: entry.standing.attempts_max,
        enqueued_at: Timestamp::from_millis(entry.enqueued_at),
        at: Some(Timestamp::from_millis(entry.at)),
        consumer,
        error: entry.error().map(|error| (**error).to_owned()),
        metadata: metadata.to_vec(),
        payload: None,
    };
    crate::state::history(message, entry, &[])
}

fn write_event(to: &mut Writer, event: &TimelineEvent) {
    to.instant(event.at);
    match &event.what {
        Happened::Enqueued => to.byte(0),
        Happened::Visible => to.byte(1),
        Happened::Leased { consumer, attempt } => {
            to.byte(2);
            to.text(consumer);
            to.uint((*attempt).into());
        }
        Happened::Extended { until } => {
            to.byte(3);
            to.instant(*until);
        }
        Happened::Completed => to.byte(4),
        Happened::Failed { error } => {
            to.byte(5);
            to.text(error);
        }
        Happened::Released => to.byte(6),
        Happened::Lapsed => to.byte(7),
        Happened::Canceled => to.byte(8),
        Happened::Expired => to.byte(9),
        Happened::Redriven => to.byte(10),
        Happened::Reprioritized { priority } => {
            to.byte(11);
            to.uint(priority.rank().into());
            to.int(priority.deadline.map_or(NEVER, Timestamp::as_millis));
        }
    }
}

fn read_event(from: &mut Reader<'_>) -> Result<TimelineEvent, Damaged> {
    let at = from.instant()?;
    let what = match from.byte()? {
        0 => Happened::Enqueued,
        1 => Happened::Visible,
        2 => Happened::Leased {
            consumer: from.text()?.into(),
            attempt: from.uint32()?,
        },
        3 => Happened::Extended {
            until: from.instant()?,
        },
        4 => Happened::Completed,
        5 => Happened::Failed {
            error: from.text()?.into(),
        },
        6 => Happened::Released,
        7 => Happened::Lapsed,
        8 => Happened::Canceled,
        9 => Happened::Expired,
        10 => Happened::Redriven,
        11 => Happened::Reprioritized {
            priority: priority(from.uint32()?, from.int()?),
        },
        _ => return Err(from.damaged("an event")),
    };
    Ok(TimelineEvent { at, what })
}
