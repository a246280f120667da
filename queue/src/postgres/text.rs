//! Texts in the database: metadata pairs, and the timeline of a message.
//!
//! A pair is one element of a `text[]`, name and value apart by a unit separator, so that a subset of pairs is a subset
//! of the array. A timeline is a text that only grows: record separator, instant, a letter, and what the letter needs.

use std::sync::Arc;

use celesta_types::{Priority, Timestamp};

use crate::message::{Happened, TimelineEvent};

pub(super) const RECORD: char = '\x1e';
const UNIT: char = '\x1f';
const ESCAPE: char = '\x1d';

/// All pairs as one text, or none.
pub(super) fn pairs(metadata: &[(String, String)]) -> Option<Arc<str>> {
    if metadata.is_empty() {
        return None;
    }
    let mut text = String::new();
    for (name, value) in metadata {
        if !text.is_empty() {
            text.push(RECORD);
        }
        escape(&mut text, name);
        text.push(UNIT);
        escape(&mut text, value);
    }
    Some(text.into())
}

pub(super) fn read_pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once(UNIT)?;
        Some((unescape(name), unescape(value)))
    };
    text.split(RECORD).filter_map(pair).collect()
}

fn escape(text: &mut String, raw: &str) {
    for character in raw.chars() {
        match character {
            '\0' => text.extend([ESCAPE, 'z']),
            ESCAPE => text.extend([ESCAPE, 'e']),
            RECORD => text.extend([ESCAPE, 'r']),
            UNIT => text.extend([ESCAPE, 'u']),
            other => text.push(other),
        }
    }
}

fn unescape(text: &str) -> String {
    let mut raw = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == ESCAPE {
            raw.push(match characters.next() {
                Some('z') => '\0',
                Some('r') => RECORD,
                Some('u') => UNIT,
                _ => ESCAPE,
            });
        } else {
            raw.push(character);
        }
    }
    raw
}

/// A text for people without what the database refuses or the timeline means something by.
pub(super) fn plain(text: &str) -> Arc<str> {
    if text.contains(['\0', RECORD]) {
        text.replace(['\0', RECORD], "\u{fffd}").into()
    } else {
        text.into()
    }
}

/// One event of a timeline; nothing when the queue keeps none.
pub(super) fn event(history_ms: i64, at: i64, letter: char, detail: &str) -> Arc<str> {
    if history_ms == 0 {
        return "".into();
    }
    format!("{RECORD}{at}{letter}{}", plain(detail)).into()
}

/// The timeline of a message that was enqueued then and stands there now.
pub(super) fn read_timeline(enqueued_at: i64, priority: Priority, text: &str) -> Vec<TimelineEvent> {
    let mut events = vec![TimelineEvent {
        at: Timestamp::from_millis(enqueued_at),
        what: Happened::Enqueued,
    }];
    let mut attempt = 0;
    for record in text.split(RECORD).skip(1) {
        let Some(letter_at) = record.find(|character: char| !character.is_ascii_digit() && character != '-')
        else {
            continue;
        };
        let (at, rest) = record.split_at(letter_at);
        let mut rest = rest.chars();
        let letter = rest.next();
        let detail = rest.as_str();
        let what = match letter {
            Some('L') => {
                attempt += 1;
                Happened::Leased {
                    consumer: detail.into(),
                    attempt,
                }
            }
            Some('E') => Happened::Extended {
                until: Timestamp::from_millis(detail.parse().unwrap_or(0)),
            },
            Some('C') => Happened::Completed,
            Some('F') => Happened::Failed { error: detail.into() },
            Some('R') => {
                attempt = attempt.saturating_sub(1);
                Happened::Released
            }
            Some('T') => Happened::Lapsed,
            Some('V') => Happened::Visible,
            Some('X') => Happened::Expired,
            Some('K') => Happened::Canceled,
            Some('D') => {
                attempt = 0;
                Happened::Redriven
            }
            Some('P') => Happened::Reprioritized { priority },
            _ => continue,
        };
        events.push(TimelineEvent {
            at: Timestamp::from_millis(at.parse().unwrap_or(0)),
            what,
        });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_as_they_were() {
        let given = vec![
            ("tenant".to_owned(), "a\x1eb\x1fc\x1dd\0".to_owned()),
            (String::new(), "ü".to_owned()),
        ];
        let text = pairs(&given).expect("there are pairs");
        assert_eq!(read_pairs(&text), given);
        assert!(!text.contains('\0'));
    }
}
