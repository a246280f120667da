//! Messages and completions in a caller's transaction.

use celesta_queue::{AnyQueues, EnqueueError, Settings};
use celesta_store::{Call, Cell, CommitError, Expect, Statement, Unit};
use celesta_types::{Class, Priority};

use crate::bed::{Bed, id, keyed, message, name, numbers};

/// The caller's own row.
static NOTE: Statement = Statement {
    name: "test.note",
    rank: 10,
    head: "INSERT INTO notes (id) VALUES ",
    row: "(?)",
    tail: "",
    cells: 1,
    expect: Expect::Each,
};

async fn with_notes() -> (Bed, AnyQueues) {
    let bed = Bed::postgres().await;
    let call = Call {
        name: "notes",
        sql: "CREATE TABLE notes (id BIGINT PRIMARY KEY)",
        args: Vec::new(),
    };
    let database = bed.store.database().expect("it is on PostgreSQL");
    database.ask(&call).await.expect("the table is made");
    let queues = AnyQueues::from(bed.queues.0.clone());
    (bed, queues)
}

fn note(number: i64) -> Unit {
    let mut unit = Unit::new();
    unit.add(&NOTE, [Cell::Int(number)]);
    unit
}

async fn notes(bed: &Bed) -> usize {
    let rows = bed.store.fetch("SELECT id FROM notes", &[]).await;
    rows.expect("the table is there").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_completions_stand_and_fall_with_the_callers_rows() {
    let (bed, queues) = with_notes().await;
    bed.enqueue(vec![message("in", 1)]).await;
    let leased = bed.lease("in", 1).await;
    let leases: Vec<_> = leased.iter().map(celesta_queue::Leased::lease).collect();

    // The caller's row is refused: nothing else has happened either.
    bed.store.commit(note(7)).await.expect("the first note");
    let mut unit = note(7);
    let mut urgent = message("out", 3);
    urgent.priority = Priority::of(Class::Critical);
    urgent.metadata = vec![("tenant".to_owned(), "a".to_owned())];
    let out = vec![message("out", 2), urgent, keyed("x/out", 4, 9)];
    let staged = queues.stage_enqueue(&mut unit, out.clone()).await;
    staged.expect("the database answers").expect("allowed");
    let staged = queues.stage_complete(&mut unit, &leases).await;
    staged.expect("the database answers").expect("held");
    let refused = bed.store.commit(unit).await;
    assert!(
        matches!(
            refused,
            Err(CommitError::Conflict {
                statement: "test.note",
                ..
            })
        ),
        "{refused:?}"
    );
    assert!(bed.lease("out", 10).await.is_empty());
    assert_eq!(bed.queues.depth(&name("in")), 1);

    let mut unit = note(8);
    let staged = queues.stage_enqueue(&mut unit, out).await;
    staged.expect("the database answers").expect("allowed");
    let staged = queues.stage_complete(&mut unit, &leases).await;
    staged.expect("the database answers").expect("held");
    bed.store.commit(unit).await.expect("all of it stands");
    assert_eq!((notes(&bed).await, bed.queues.depth(&name("in"))), (2, 0));
    let out = bed.lease("out", 10).await;
    assert_eq!(numbers(&out), [3, 2], "in order");
    assert_eq!(
        out[0].metadata.as_deref(),
        Some(&[("tenant".to_owned(), "a".to_owned())][..])
    );
    assert_eq!(&*out[1].payload, b"2");
    assert_eq!(numbers(&bed.lease_keys("x/out", 1).await[0].messages), [4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_over_fails_the_whole_unit_and_no_other() {
    let (bed, queues) = with_notes().await;
    bed.enqueue(vec![message("q", 1), message("q", 2)]).await;
    let leased = bed.lease("q", 2).await;
    bed.complete(&leased[..1]).await;
    let leases: Vec<_> = leased.iter().map(celesta_queue::Leased::lease).collect();
    let (mut late, mut fine) = (note(1), note(2));
    let staged = queues.stage_complete(&mut late, &leases).await;
    staged.expect("the database answers").expect("seen at the commit");
    let staged = queues.stage_complete(&mut fine, &leases[1..]).await;
    staged.expect("the database answers").expect("held");
    let (late, fine) = tokio::join!(bed.store.commit(late), bed.store.commit(fine));
    let conflict = "queue.stage_complete";
    assert!(
        matches!(late, Err(CommitError::Conflict { statement, .. }) if statement == conflict),
        "{late:?}"
    );
    fine.expect("it holds");
    assert_eq!((notes(&bed).await, bed.queues.depth(&name("q"))), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_allowed_stages_nothing_and_one_that_is_known_changes_nothing() {
    let (bed, queues) = with_notes().await;
    bed.enqueue(vec![message("q", 1)]).await;
    let mut unit = Unit::new();
    let staged = queues
        .stage_enqueue(&mut unit, vec![message("q", 2), message("x/q", 3)])
        .await;
    let refused = staged.expect("the database answers");
    assert!(matches!(refused, Err(EnqueueError::MissingKey { id: missing, .. }) if missing == id(3)));
    assert!(unit.is_empty());
    let staged = queues
        .stage_enqueue(&mut unit, vec![message("q", 2), message("q", 1)])
        .await;
    staged.expect("the database answers").expect("allowed");
    bed.store.commit(unit).await.expect("it stands");
    assert_eq!(numbers(&bed.lease("q", 10).await), [1, 2]);
    let weights = [("a".to_owned(), 3)].into();
    let fair = Settings {
        weights,
        ..Settings::simple()
    };
    bed.queues.configure(&name("fair"), fair).expect("in range");
    let share = |number: u128, key: &str| {
        let mut one = message("fair", number);
        one.fairness = Some(key.into());
        one
    };
    let mut unit = Unit::new();
    let many = (10..16)
        .map(|number| share(number, "a"))
        .chain((20..26).map(|number| share(number, "b")));
    let staged = queues.stage_enqueue(&mut unit, many.collect()).await;
    staged.expect("the database answers").expect("allowed");
    bed.store.commit(unit).await.expect("it stands");
    let first = numbers(&bed.lease("fair", 4).await);
    assert_eq!(
        first.iter().filter(|number| **number < 20).count(),
        3,
        "{first:?}"
    );
}
