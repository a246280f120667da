//! Each broken promise is found, and what timing can explain is not accused.

use celesta_types::Class;

use super::*;

fn id(number: u128) -> MessageId {
    MessageId::from_bits(number)
}

fn sent(begin: i64, number: u128, key: Option<u128>) -> Call {
    Call {
        begin,
        end: Some(begin + 1),
        did: Did::Enqueued {
            id: id(number),
            key: key.map(Key::from_bits),
            priority: Priority::default(),
            delayed: false,
        },
    }
}

fn leased(begin: i64, number: u128, key: Option<u128>, token: u64) -> Call {
    let held = Held {
        id: id(number),
        key: key.map(Key::from_bits),
        token: Token::from_bits(token),
        until: begin + 100,
    };
    Call {
        begin,
        end: Some(begin + 1),
        did: Did::Leased { held: vec![held] },
    }
}

fn completed(begin: i64, number: u128, token: u64) -> Call {
    Call {
        begin,
        end: Some(begin + 1),
        did: Did::Ended {
            id: id(number),
            token: Token::from_bits(token),
            how: End::Completed,
            accepted: Some(true),
        },
    }
}

#[test]
fn an_orderly_life_is_accused_of_nothing() {
    let log = [
        sent(0, 1, Some(7)),
        sent(2, 2, Some(7)),
        leased(10, 1, Some(7), 1),
        completed(20, 1, 1),
        leased(22, 2, Some(7), 2),
        // It lapses, and is leased again.
        leased(123, 2, Some(7), 3),
        completed(130, 2, 3),
        sent(140, 3, None),
    ];
    assert_eq!(check(&log, &[id(3)], Order::Exact), []);
}

#[test]
fn a_message_in_two_hands_is_found() {
    let log = [
        sent(0, 1, None),
        leased(10, 1, None, 1),
        leased(50, 1, None, 2),
        completed(60, 1, 2),
    ];
    assert!(matches!(
        check(&log, &[], Order::Exact)[..],
        [Violation::MessageHeldTwice { .. }]
    ));
}

#[test]
fn a_key_in_two_hands_is_found() {
    let log = [
        sent(0, 1, Some(7)),
        sent(0, 2, Some(7)),
        leased(10, 1, Some(7), 1),
        leased(50, 2, Some(7), 2),
        completed(60, 1, 1),
        completed(60, 2, 2),
    ];
    assert!(matches!(
        check(&log, &[], Order::Exact)[..],
        [Violation::KeyHeldTwice { .. }]
    ));
}

#[test]
fn a_crash_ends_all_leases() {
    let crash = Call {
        begin: 30,
        end: Some(40),
        did: Did::Crashed,
    };
    let log = [
        sent(0, 1, Some(7)),
        leased(10, 1, Some(7), 1),
        crash,
        leased(50, 1, Some(7), 2),
        completed(60, 1, 2),
    ];
    assert_eq!(check(&log, &[], Order::Exact), []);
}

#[test]
fn what_was_acknowledged_and_is_nowhere_is_lost() {
    assert_eq!(
        check(&[sent(0, 1, None)], &[], Order::Exact),
        [Violation::Lost { id: id(1) }]
    );
    let mut unanswered = sent(0, 1, None);
    unanswered.end = None;
    assert_eq!(
        check(&[unanswered], &[], Order::Exact),
        [],
        "nobody was promised anything"
    );
}

#[test]
fn what_is_delivered_completed_or_there_after_its_completion_is_found() {
    let log = [
        sent(0, 1, None),
        leased(10, 1, None, 1),
        completed(20, 1, 1),
        leased(30, 1, None, 2),
        completed(40, 1, 2),
    ];
    let found = check(&log, &[id(1)], Order::Exact);
    assert!(found.contains(&Violation::DeliveredAfterCompletion { id: id(1), at: 30 }));
    assert!(found.contains(&Violation::CompletedTwice { id: id(1) }));
    assert!(found.contains(&Violation::Undead { id: id(1) }));
}

#[test]
fn a_message_given_before_one_that_comes_first_is_found() {
    let mut urgent = sent(5, 2, None);
    if let Did::Enqueued { priority, .. } = &mut urgent.did {
        *priority = Priority::of(Class::Critical);
    }
    let log = [
        sent(0, 1, None),
        urgent.clone(),
        leased(10, 1, None, 1),
        leased(20, 2, None, 2),
    ];
    let left = [id(1), id(2)];
    assert_eq!(
        check(&log, &left, Order::Exact),
        [Violation::OutOfOrder {
            leased: id(1),
            waiting: id(2),
            at: 10
        }]
    );
    urgent.end = Some(11);
    let log = [
        sent(0, 1, None),
        urgent,
        leased(10, 1, None, 1),
        leased(20, 2, None, 2),
    ];
    assert_eq!(check(&log, &left, Order::Exact), [], "it may have come too late");
}

#[test]
fn a_held_key_is_not_waiting() {
    let log = [
        sent(0, 1, Some(7)),
        sent(2, 2, Some(7)),
        sent(4, 3, Some(8)),
        leased(10, 1, Some(7), 1),
        leased(12, 3, Some(8), 2),
        completed(20, 1, 1),
        leased(30, 2, Some(7), 3),
    ];
    assert_eq!(check(&log, &[id(2), id(3)], Order::Exact), []);
}
