//! What travels: a message with its headers to a consumer, reports back, notices to everybody.
//!
//! Each format begins with a version, and a reader refuses a later one by name. A message is its payload, unchanged,
//! as the body; what describes it stands in the properties and headers of the protocol, so that people see it in the
//! broker's own tools. Reports and notices are batches in the platform's stored-integer format.

use std::sync::Arc;

use celesta_queue::{Key, Leased, Payload, QueueName, Token};
use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{MessageId, Priority, Timestamp};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};

use crate::limits::{PRIORITY_LEVEL_MAX, REPORT_BYTES, REPORTS_MAX};

/// The version of the headers, of reports and of notices.
pub const VERSION: u8 = 1;
const PERSISTENT: u8 = 2;

/// A message in a consumer's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: MessageId,
    /// Its queue.
    pub queue: QueueName,
    /// Its exclusivity key.
    pub key: Option<Key>,
    /// Where it stood.
    pub priority: Priority,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// How many tries it has.
    pub attempts_max: u32,
    /// Proves the lease.
    pub token: Token,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// Its pairs.
    pub metadata: Vec<(String, String)>,
    /// The bytes.
    pub payload: Payload,
    /// Where reports go: the queue of the dispatcher that sent it.
    pub reply_to: Arc<str>,
}

/// Why something that came cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It was written by a later release.
    #[error("it has version {version}; this release reads up to {VERSION}")]
    Later {
        /// The version it has.
        version: i64,
    },
    /// A header is missing or wrong.
    #[error("the header `{header}` is missing or wrong")]
    Header {
        /// Which.
        header: &'static str,
    },
    /// Its bytes are damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// The broker's level for a priority: two for each class, the upper one for numbers above zero.
pub(crate) fn level(priority: &Priority) -> u8 {
    let class = priority.class.rank().min(4);
    (4 - class) * 2 + u8::from(priority.number > 0)
}

/// The properties of a leased message. The broker drops it after `road_ms`.
pub(crate) fn properties(leased: &Leased, reply_to: &str, road_ms: u128) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut int = |name: &str, value: i64| {
        headers.insert(name.into(), AMQPValue::LongLongInt(value));
    };
    int("celesta-version", VERSION.into());
    int("attempt", leased.attempt.into());
    int("attempts-max", leased.attempts_max.into());
    int("token", leased.token.bits().cast_signed());
    int("rank", leased.priority.rank().into());
    int("enqueued-at", leased.enqueued_at.as_millis());
    if let Some(deadline) = leased.priority.deadline {
        int("deadline", deadline.as_millis());
    }
    if let Some(key) = leased.key {
        headers.insert("key".into(), text(&format!("{:032x}", key.bits())));
    }
    if let Some(pairs) = leased.metadata.as_deref().filter(|pairs| !pairs.is_empty()) {
        // A list and not a table: names may repeat and have up to 256 bytes.
        let pairs = pairs.iter().flat_map(|(name, value)| [text(name), text(value)]);
        headers.insert(
            "metadata".into(),
            AMQPValue::FieldArray(pairs.collect::<Vec<_>>().into()),
        );
    }
    BasicProperties::default()
        .with_content_type("application/octet-stream".into())
        .with_delivery_mode(PERSISTENT)
        .with_priority(level(&leased.priority).min(PRIORITY_LEVEL_MAX))
        .with_message_id(leased.id.to_string().into())
        .with_type(leased.queue.as_str().into())
        .with_reply_to(reply_to.into())
        .with_expiration(road_ms.to_string().into())
        .with_headers(headers)
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

/// Reads a message.
pub(crate) fn delivery(properties: &BasicProperties, body: &[u8]) -> Result<Delivery, Unreadable> {
    let missing = |header| Unreadable::Header { header };
    let headers = properties
        .headers()
        .as_ref()
        .ok_or_else(|| missing("celesta-version"))?;
    let value = |header: &'static str| headers.inner().get(header);
    let int = |header: &'static str| match value(header) {
        Some(AMQPValue::LongLongInt(value)) => Ok(*value),
        _ => Err(missing(header)),
    };
    let version = int("celesta-version")?;
    if version != i64::from(VERSION) {
        return Err(Unreadable::Later { version });
    }
    let small = |header| u32::try_from(int(header)?).map_err(|_| missing(header));
    let deadline = match value("deadline") {
        Some(_) => Some(Timestamp::from_millis(int("deadline")?)),
        None => None,
    };
    let key = match value("key") {
        Some(AMQPValue::LongString(hex)) => std::str::from_utf8(hex.as_bytes())
            .ok()
            .and_then(|hex| u128::from_str_radix(hex, 16).ok())
            .map(|bits| Some(Key::from_bits(bits)))
            .ok_or_else(|| missing("key"))?,
        Some(_) => return Err(missing("key")),
        None => None,
    };
    let id = properties
        .message_id()
        .as_ref()
        .and_then(|id| id.as_str().parse().ok());
    let queue = properties
        .kind()
        .as_ref()
        .and_then(|name| QueueName::new(name.as_str()).ok());
    Ok(Delivery {
        id: id.ok_or_else(|| missing("message_id"))?,
        queue: queue.ok_or_else(|| missing("type"))?,
        key,
        priority: Priority::from_rank(small("rank")?, deadline).ok_or_else(|| missing("rank"))?,
        attempt: small("attempt")?,
        attempts_max: small("attempts-max")?,
        token: Token::from_bits(int("token")?.cast_unsigned()),
        enqueued_at: Timestamp::from_millis(int("enqueued-at")?),
        metadata: match value("metadata") {
            Some(value) => pairs(value).ok_or_else(|| missing("metadata"))?,
            None => Vec::new(),
        },
        payload: body.into(),
        reply_to: properties
            .reply_to()
            .as_ref()
            .map(|name| name.as_str().into())
            .ok_or_else(|| missing("reply_to"))?,
    })
}

fn pairs(value: &AMQPValue) -> Option<Vec<(String, String)>> {
    let AMQPValue::FieldArray(list) = value else {
        return None;
    };
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        _ => None,
    };
    let texts: Vec<String> = list.as_slice().iter().map(text).collect::<Option<_>>()?;
    let (pairs, rest) = texts.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().cloned().map(|[name, value]| (name, value)).collect())
}

/// What a consumer says about one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) queue: QueueName,
    pub(crate) id: MessageId,
    pub(crate) attempt: u32,
    pub(crate) token: Token,
    pub(crate) said: Said,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// I have it.
    Holding,
    /// How far it is.
    Progress(Vec<u8>),
    /// It is over.
    Settled(Outcome),
}

/// How a delivery has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The work is done.
    Completed {
        /// What came of it; the source of the messages knows what to do with it.
        result: Vec<u8>,
    },
    /// The work has failed.
    Failed {
        /// Whether another try may succeed.
        retryable: bool,
        /// How long to wait before the next try.
        delay_ms: i64,
        /// What went wrong, for people.
        error: String,
        /// What came of it; the source of the messages knows what to do with it.
        result: Vec<u8>,
    },
    /// Somebody else shall do it; burns no attempt.
    Released,
}

/// Writes reports in as few messages as their bounds allow.
pub(crate) fn write_reports(reports: &[Report]) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    let mut rest = reports;
    while !rest.is_empty() {
        let mut bytes = 0;
        let count = rest
            .iter()
            .take(REPORTS_MAX)
            .take_while(|report| {
                let fits = bytes < REPORT_BYTES;
                bytes += report.bytes();
                fits
            })
            .count();
        let (batch, later) = rest.split_at(count);
        rest = later;
        let mut writer = Writer::with_capacity(bytes);
        writer.byte(VERSION);
        writer.size(batch.len());
        for report in batch {
            report.write(&mut writer);
        }
        batches.push(writer.finish());
    }
    batches
}

/// Reads one message of reports.
pub(crate) fn read_reports(bytes: &[u8]) -> Result<Vec<Report>, Unreadable> {
    let mut reader = Reader::new(bytes);
    let count = begin(&mut reader)?;
    let mut reports = Vec::with_capacity(count.min(REPORTS_MAX));
    for _ in 0..count {
        reports.push(Report::read(&mut reader)?);
    }
    Ok(reports)
}

fn begin(reader: &mut Reader<'_>) -> Result<usize, Unreadable> {
    let version = reader.byte()?;
    if version != VERSION {
        return Err(Unreadable::Later {
            version: version.into(),
        });
    }
    Ok(reader.size()?)
}

impl Report {
    const fn bytes(&self) -> usize {
        let said = match &self.said {
            Said::Holding | Said::Settled(Outcome::Released) => 0,
            Said::Progress(bytes) | Said::Settled(Outcome::Completed { result: bytes }) => bytes.len(),
            Said::Settled(Outcome::Failed { error, result, .. }) => error.len() + result.len(),
        };
        64 + said
    }

    fn write(&self, writer: &mut Writer) {
        writer.text(self.queue.as_str());
        writer.raw(&self.id.to_bytes());
        writer.uint(self.attempt.into());
        writer.uint(self.token.bits());
        match &self.said {
            Said::Holding => writer.byte(1),
            Said::Progress(bytes) => {
                writer.byte(2);
                writer.bytes(bytes);
            }
            Said::Settled(Outcome::Completed { result }) => {
                writer.byte(3);
                writer.bytes(result);
            }
            Said::Settled(Outcome::Failed {
                retryable,
                delay_ms,
                error,
                result,
            }) => {
                writer.byte(4);
                writer.flag(*retryable);
                writer.int(*delay_ms);
                writer.text(error);
                writer.bytes(result);
            }
            Said::Settled(Outcome::Released) => writer.byte(5),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        let before = *reader;
        Ok(Self {
            queue: QueueName::new(reader.text()?).map_err(|_| before.damaged("a queue's name"))?,
            id: MessageId::from_bits(u128::from_be_bytes(reader.array()?)),
            attempt: reader.uint32()?,
            token: Token::from_bits(reader.uint()?),
            said: match reader.byte()? {
                1 => Said::Holding,
                2 => Said::Progress(reader.bytes()?.to_vec()),
                3 => Said::Settled(Outcome::Completed {
                    result: reader.bytes()?.to_vec(),
                }),
                4 => Said::Settled(Outcome::Failed {
                    retryable: reader.flag()?,
                    delay_ms: reader.int()?,
                    error: reader.text()?.to_owned(),
                    result: reader.bytes()?.to_vec(),
                }),
                5 => Said::Settled(Outcome::Released),
                _ => return Err(reader.damaged("a kind of report, 1 to 5")),
            },
        })
    }
}

/// Tells all consumers to stop working on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// The message.
    pub id: MessageId,
    /// Only this lease of it; every lease when absent.
    pub token: Option<Token>,
}

pub(crate) fn write_notices(notices: &[Notice]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(2 + notices.len() * 27);
    writer.byte(VERSION);
    writer.size(notices.len());
    for notice in notices {
        writer.raw(&notice.id.to_bytes());
        writer.flag(notice.token.is_some());
        if let Some(token) = notice.token {
            writer.uint(token.bits());
        }
    }
    writer.finish()
}

pub(crate) fn read_notices(bytes: &[u8]) -> Result<Vec<Notice>, Unreadable> {
    let mut reader = Reader::new(bytes);
    let count = begin(&mut reader)?;
    let mut notices = Vec::with_capacity(count.min(REPORTS_MAX));
    for _ in 0..count {
        notices.push(Notice {
            id: MessageId::from_bits(u128::from_be_bytes(reader.array()?)),
            token: match reader.flag()? {
                true => Some(Token::from_bits(reader.uint()?)),
                false => None,
            },
        });
    }
    Ok(notices)
}

#[cfg(test)]
mod tests;
