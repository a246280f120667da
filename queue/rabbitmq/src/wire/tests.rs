//! The formats as they are written, kept: a change of them is a change of this file, and wants a new version.

use super::*;
use celesta_types::Class;

fn leased() -> Leased {
    Leased {
        id: MessageId::from_bits(0x0192_0000_0000_7000_8000_0000_0000_0001),
        queue: QueueName::new("functions/encoder/split").expect("a name"),
        key: Some(Key::from_bits(0xabc)),
        priority: Priority {
            class: Class::High,
            number: 3,
            deadline: Some(Timestamp::from_millis(1_700_000_060_000)),
        },
        payload: Arc::from(*b"payload"),
        attempt: 2,
        attempts_max: 5,
        token: Token::from_bits((7 << 40) + 9),
        enqueued_at: Timestamp::from_millis(1_700_000_000_000),
        leased_until: Timestamp::from_millis(1_700_000_030_000),
        metadata: Some(Arc::from([("tenant".to_owned(), "a".to_owned())])),
    }
}

fn reports() -> Vec<Report> {
    let report = |said| Report {
        queue: QueueName::new("q").expect("a name"),
        id: MessageId::from_bits(0x0102),
        attempt: 3,
        token: Token::from_bits(300),
        said,
    };
    vec![
        report(Said::Holding),
        report(Said::Progress(b"half".to_vec())),
        report(Said::Settled(Outcome::Completed {
            result: b"ok".to_vec(),
        })),
        report(Said::Settled(Outcome::Failed {
            retryable: true,
            delay_ms: 1_000,
            error: "no".to_owned(),
            result: Vec::new(),
        })),
        report(Said::Settled(Outcome::Released)),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => format!("{:?}", String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::FieldArray(list) => {
            let values: Vec<String> = list.as_slice().iter().map(shown).collect();
            format!("[{}]", values.join(", "))
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn a_message_has_these_headers() {
    let properties = properties(&leased(), "celesta!reports.n", 60_000);
    let mut lines = vec![
        format!("content_type = {:?}", properties.content_type()),
        format!("delivery_mode = {:?}", properties.delivery_mode()),
        format!("priority = {:?}", properties.priority()),
        format!("message_id = {:?}", properties.message_id()),
        format!("type = {:?}", properties.kind()),
        format!("reply_to = {:?}", properties.reply_to()),
        format!("expiration = {:?}", properties.expiration()),
    ];
    let headers = properties.headers().as_ref().expect("headers").inner();
    lines.extend(
        headers
            .iter()
            .map(|(name, value)| format!("{name} = {}", shown(value))),
    );
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_message_reads_as_it_was_written() {
    let leased = leased();
    let read = delivery(&properties(&leased, "r", 1), &leased.payload).expect("it reads");
    assert_eq!(
        read,
        Delivery {
            id: leased.id,
            queue: leased.queue,
            key: leased.key,
            priority: leased.priority,
            attempt: 2,
            attempts_max: 5,
            token: leased.token,
            enqueued_at: leased.enqueued_at,
            metadata: vec![("tenant".to_owned(), "a".to_owned())],
            payload: leased.payload,
            reply_to: "r".into(),
        }
    );
}

#[test]
fn reports_and_notices_have_these_bytes() {
    let reports = reports();
    let bytes: Vec<String> = reports
        .iter()
        .flat_map(|report| write_reports(std::slice::from_ref(report)))
        .map(|bytes| hex(&bytes))
        .collect();
    insta::assert_snapshot!(bytes.join("\n"));
    let notices = [
        Notice {
            id: MessageId::from_bits(5),
            token: Some(Token::from_bits(300)),
        },
        Notice {
            id: MessageId::from_bits(6),
            token: None,
        },
    ];
    let bytes = write_notices(&notices);
    insta::assert_snapshot!(hex(&bytes));
    assert_eq!(read_notices(&bytes).as_deref(), Ok(&notices[..]));
    let read: Vec<Report> = write_reports(&reports)
        .iter()
        .flat_map(|bytes| read_reports(bytes).expect("they read"))
        .collect();
    assert_eq!(read, reports);
}

#[test]
fn reports_are_split_at_their_bounds() {
    let large = Report {
        said: Said::Settled(Outcome::Completed {
            result: vec![0; 30_000],
        }),
        ..reports().remove(0)
    };
    let batches = write_reports(&vec![large; 20]);
    assert_eq!(batches.len(), 3);
    assert!(batches.iter().all(|bytes| bytes.len() < REPORT_BYTES + 32_000));
    assert_eq!(write_reports(&vec![reports().remove(0); 600]).len(), 3);
}

#[test]
fn a_later_version_is_refused_by_name() {
    let mut bytes = write_reports(&reports()).remove(0);
    bytes[0] = 2;
    assert_eq!(read_reports(&bytes), Err(Unreadable::Later { version: 2 }));
    let mut headers = FieldTable::default();
    headers.insert("celesta-version".into(), AMQPValue::LongLongInt(9));
    let properties = BasicProperties::default().with_headers(headers);
    assert_eq!(delivery(&properties, b""), Err(Unreadable::Later { version: 9 }));
    assert!(read_reports(&[1, 200, 200, 1]).is_err());
}
