//! Every format reads back, and nothing else is taken for one.

use celesta_types::{CallId, ErrorClass, Priority, SweepId, Timestamp};

use super::FORMAT;
use crate::record::{Cause, Change, Firing, Note, Ran, Record, Recorded};

fn sample() -> Record {
    let call = CallId { seq: 3, index: 1 };
    let ran = Ran {
        attempts: 2,
        started: Timestamp::from_millis(1_700_000_000_000),
        ended: Timestamp::from_millis(1_700_000_000_250),
        worker: "local".to_owned(),
    };
    Record {
        at: Timestamp::from_millis(1_700_000_001_000),
        causes: vec![
            Cause::Started,
            Cause::Succeeded {
                call,
                result: "{\"n\":1}".to_owned(),
                ran: ran.clone(),
            },
            Cause::Failed {
                call,
                class: ErrorClass::Timeout,
                message: "too long".to_owned(),
                ran,
            },
            Cause::TimerFired { call },
            Cause::CancelRequested {
                reason: "no longer needed".to_owned(),
                by: String::new(),
            },
            Cause::RetryRequested {
                reason: String::new(),
                by: String::new(),
            },
        ],
        firings: vec![
            Firing {
                rule: 4,
                section: 0,
                facts: vec![(1, 1), (300, 7)],
                threw: None,
            },
            Firing {
                rule: 5,
                section: 2,
                facts: vec![],
                threw: Some("division by zero".to_owned()),
            },
        ],
        effects: vec![
            Recorded::Call {
                function: "encode".to_owned(),
                input: "{}".to_owned(),
            },
            Recorded::Timer {
                at: Timestamp::from_millis(5),
            },
            Recorded::Request {
                target: "a/b".to_owned(),
                input: "[]".to_owned(),
            },
            Recorded::CancelCalls { calls: vec![call] },
            Recorded::Emit {
                event_type: "x".to_owned(),
                data: "1".to_owned(),
            },
            Recorded::Complete {
                result: "null".to_owned(),
            },
            Recorded::Fail {
                message: "why".to_owned(),
            },
            Recorded::Progress {
                fraction: 0.25,
                text: "a quarter".to_owned(),
            },
            Recorded::Log {
                text: "line".to_owned(),
            },
        ],
        changes: vec![Change {
            fact: 300,
            fact_type: 2,
            kind: 1,
        }],
        note: Some(Note::Quarantined {
            reason: "cycle".to_owned(),
            messages: vec![vec![1, 2, 3]],
        }),
        delta: vec![9, 8, 7],
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let hex = hex.trim();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

#[test]
fn the_records_of_earlier_releases_are_readable() {
    let first = bytes_of(include_str!("../../../tests/formats/record-1.hex"));
    assert_eq!(Record::decode(&first), Ok(sample()));
    let nobody = String::new;
    let second = Record {
        at: Timestamp::from_millis(1_700_000_001_000),
        causes: vec![
            Cause::FactsWritten {
                writes: "[]".to_owned(),
                refused: vec![(3, "why".to_owned())],
                by: nobody(),
            },
            Cause::Resumed {
                reason: "go".to_owned(),
                by: nobody(),
            },
            Cause::Woken,
        ],
        note: Some(Note::Paused {
            reason: "wait".to_owned(),
            by: nobody(),
            messages: vec![vec![4]],
        }),
        delta: vec![9, 8, 7],
        ..Record::default()
    };
    let bytes = bytes_of(include_str!("../../../tests/formats/record-2.hex"));
    assert_eq!(Record::decode(&bytes), Ok(second));
}

#[test]
fn what_later_formats_added_reads_back() {
    let mut record = sample();
    let text = || "text".to_owned();
    record.causes = vec![
        Cause::CancelRequested {
            reason: text(),
            by: text(),
        },
        Cause::RetryRequested {
            reason: text(),
            by: text(),
        },
        Cause::FactsWritten {
            writes: "[]".to_owned(),
            refused: vec![(3, "why".to_owned())],
            by: text(),
        },
        Cause::Resumed {
            reason: "go".to_owned(),
            by: text(),
        },
        Cause::Woken,
        Cause::Swept {
            sweep: SweepId::from_bits(9),
        },
        Cause::Prioritized {
            priority: Priority {
                deadline: Some(Timestamp::from_millis(7)),
                ..Priority::default()
            },
            reason: text(),
            by: text(),
        },
        Cause::BreakpointsSet {
            rules: vec![text()],
            by: text(),
        },
        Cause::Restarted {
            writes: text(),
            reason: text(),
            by: text(),
        },
    ];
    record.note = Some(Note::Paused {
        reason: "wait".to_owned(),
        by: text(),
        messages: vec![vec![4]],
    });
    assert_eq!(Record::decode(&record.encode()), Ok(record.clone()));
    record.note = Some(Note::Stopped {
        rule: text(),
        facts: vec![(7, 1)],
    });
    assert_eq!(Record::decode(&record.encode()), Ok(record));
}

#[test]
fn a_record_reads_back() {
    let record = sample();
    assert_eq!(Record::decode(&record.encode()), Ok(record));
}

#[test]
fn a_cut_or_later_record_is_an_error_and_no_panic() {
    let bytes = sample().encode();
    for length in 0..bytes.len() {
        assert!(Record::decode(&bytes[..length]).is_err(), "cut at {length}");
    }
    let mut later = bytes;
    later[0] = FORMAT + 1;
    assert!(Record::decode(&later).is_err());
}
