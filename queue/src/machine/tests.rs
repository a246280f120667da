//! Walks every pair of state and event, and keeps the table and the picture in `docs/queue.md` true.

use std::fmt::Write as _;

use super::*;

const PAGE: &str = include_str!("../../../docs/queue.md");

fn outcome(state: State, event: Event, attempt: u32) -> String {
    match transition(
        Standing {
            state,
            attempt,
            attempts_max: 3,
        },
        event,
    ) {
        Ok(Transition::Moved(to)) => to.state.name().to_owned(),
        Ok(Transition::Unchanged) => "–".to_owned(),
        Err(_) => "illegal".to_owned(),
    }
}

fn rows() -> Vec<(String, Event, u32)> {
    let mut rows: Vec<_> = Event::ALL
        .iter()
        .map(|&event| (event.name().to_owned(), event, 1))
        .collect();
    rows.dedup_by(|a, b| a.0 == b.0);
    rows.push((
        "fail, last attempt".to_owned(),
        Event::Fail {
            retryable: true,
            delayed: false,
        },
        3,
    ));
    rows.push(("lapse, last attempt".to_owned(), Event::Lapse, 3));
    rows
}

fn table() -> String {
    let mut text = String::from("| event |");
    for state in State::ALL {
        write!(text, " {state} |").expect("a string takes all");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(State::ALL.len()));
    for (name, event, attempt) in rows() {
        write!(text, "\n| {name} |").expect("a string takes all");
        for state in State::ALL {
            write!(text, " {} |", outcome(state, event, attempt)).expect("a string takes all");
        }
    }
    text
}

fn picture() -> String {
    let mut text = String::from(
        "```mermaid\nstateDiagram-v2\n    [*] --> invisible: enqueue with delay\n    [*] --> pending: enqueue",
    );
    for state in State::ALL {
        for (name, event, attempt) in rows() {
            if let Ok(Transition::Moved(to)) = transition(
                Standing {
                    state,
                    attempt,
                    attempts_max: 3,
                },
                event,
            ) {
                write!(text, "\n    {state} --> {}: {name}", to.state).expect("a string takes all");
            }
        }
    }
    text.push_str("\n```");
    text
}

#[test]
fn the_table_in_the_documentation_is_the_machine() {
    let table = table();
    assert!(PAGE.contains(&table), "docs/queue.md should hold:\n{table}");
}

#[test]
fn the_picture_in_the_documentation_is_the_machine() {
    let picture = picture();
    assert!(PAGE.contains(&picture), "docs/queue.md should hold:\n{picture}");
}

#[test]
fn attempts_are_counted_by_leases_and_given_back_by_releases() {
    let pending = Standing {
        state: State::Pending,
        attempt: 0,
        attempts_max: 3,
    };
    let Ok(Transition::Moved(running)) = transition(pending, Event::Lease) else {
        panic!("a pending message is leased")
    };
    assert_eq!(
        running,
        Standing {
            state: State::Running,
            attempt: 1,
            attempts_max: 3
        }
    );
    assert_eq!(
        transition(running, Event::Release),
        Ok(Transition::Moved(pending))
    );
}

#[test]
fn an_ended_message_moves_only_by_redrive() {
    for state in State::ALL.into_iter().filter(|state| state.is_ended()) {
        for event in Event::ALL.into_iter().filter(|&event| event != Event::Redrive) {
            let moved = transition(
                Standing {
                    state,
                    attempt: 1,
                    attempts_max: 3,
                },
                event,
            );
            assert!(
                !matches!(moved, Ok(Transition::Moved(_))),
                "{event:?} moves {state}"
            );
        }
    }
}

#[test]
fn every_state_has_a_code_of_its_own() {
    for state in State::ALL {
        assert_eq!(State::from_code(state.code()), Some(state));
        assert_eq!(State::ALL[state.index()], state);
    }
}
