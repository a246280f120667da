//! Nodes of one deployment in one process, on a real PostgreSQL, with a test in the place of the workers.

mod bed;
mod databases;
mod doctor;
mod events;
mod releases;

use std::time::Duration;

use bed::{Node, submit};
use celesta_runs::{RunFilter, RunState};
use celesta_store::testing::TestDatabase;
use celesta_types::Partition;

const COUNT: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_to_a_node_that_comes_and_from_one_that_leaves() {
    let database = TestDatabase::create().await;
    let first = Node::start(&database, "a", COUNT).await;
    assert_eq!(first.owned(), [0, 1, 2, 3], "alone it owns everything");
    first.push().await;
    // One run in each partition, each with a call that waits for its result.
    let mut runs = Vec::new();
    for member in first.partitions.members() {
        let run = submit(&member.runtime, 1, None).await.expect("accepted");
        assert_eq!(Partition::of_run(run, COUNT), member.partition);
        runs.push(run);
    }
    let second = Node::start(&database, "b", 77).await;
    assert_eq!(second.partitions.count(), COUNT, "the first node has settled it");
    second.until(|node| node.owned().len() == 2).await;
    first.until(|node| node.owned().len() == 2).await;
    assert!(
        second.partitions.home().service("bench").is_some(),
        "it knows what was pushed before"
    );
    for partition in 0..COUNT {
        let (owner, other) = if first.owned().contains(&partition) {
            (&first, &second)
        } else {
            (&second, &first)
        };
        other
            .until(|node| node.partitions.elsewhere(partition).as_deref() == Some(owner.address.as_str()))
            .await;
    }
    let page = second
        .partitions
        .home()
        .list(&RunFilter::default(), None, 3)
        .await
        .expect("the store answers");
    assert_eq!(page.rows.len(), 3, "lists go through all partitions");
    let rest = second
        .partitions
        .home()
        .list(
            &RunFilter::default(),
            page.next.and_then(|next| next.parse().ok()),
            3,
        )
        .await
        .expect("the store answers");
    assert_eq!((rest.rows.len(), rest.next), (1, None));

    first.leave().await;
    second.until(|node| node.owned().len() == 4).await;
    for run in runs {
        let member = second.member_of(run);
        bed::serve_one(&member).await;
        let view = member
            .runtime
            .wait(run, Duration::from_secs(20))
            .await
            .expect("the store answers")
            .expect("the run is there");
        assert_eq!(view.state, RunState::Completed, "{view:?}");
        assert_eq!(
            view.result.as_ref().map(|result| result.get()),
            Some(r#"{"count":1}"#)
        );
    }
    second.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_not_heard_of_is_replaced_and_changes_nothing_any_more() {
    let database = TestDatabase::create().await;
    let zombie = Node::start(&database, "a", 2).await;
    zombie.push().await;
    let lost = zombie.partitions.members();
    let waiting = submit(&lost[0].runtime, 1, Some("key")).await.expect("accepted");
    // Its keeper is gone, and its partitions go on as if nothing had happened.
    zombie.tasks.shutdown().request();
    let heir = Node::start(&database, "b", 2).await;
    heir.until(|node| node.owned() == [0, 1]).await;
    let own = heir.member_of(waiting);
    assert!(own.epoch > lost[0].epoch);

    let late = submit(&lost[0].runtime, 0, None).await;
    assert!(late.is_err(), "{late:?}");
    lost[0].store.fenced().await;
    bed::serve_one(&own).await;
    let view = own.runtime.wait(waiting, Duration::from_secs(20)).await;
    let view = view.expect("the store answers").expect("the run is there");
    assert_eq!(view.state, RunState::Completed);
    let all = heir
        .partitions
        .home()
        .list(&RunFilter::default(), None, 100)
        .await;
    assert_eq!(
        all.expect("the store answers").rows.len(),
        1,
        "the late run is not there"
    );
    let again = submit(&own.runtime, 1, Some("key")).await.expect("known");
    assert_eq!(again, waiting, "a key outlives its node");

    // The same node as another process takes its own back at once, without waiting for leases.
    heir.tasks.shutdown().request();
    let begun = bed::monotonic();
    let reborn = Node::start(&database, "b", 2).await;
    assert_eq!(reborn.owned(), [0, 1]);
    assert!(
        bed::monotonic() - begun < Duration::from_secs(4),
        "no lease was waited for"
    );
    reborn.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_its_partition_is_given_up() {
    let database = TestDatabase::create().await;
    let node = Node::start(&database, "a", 1).await;
    node.push().await;
    let member = node.partitions.here(0).expect("it is here");
    let run = submit(&member.runtime, 1, None).await.expect("accepted");
    let waiting = member.runtime.wait(run, Duration::from_secs(60));
    let begun = bed::monotonic();
    let (view, ()) = tokio::join!(waiting, node.partitions.leave());
    let view = view.expect("the store answers").expect("the run is there");
    assert_eq!(view.state, RunState::Running);
    assert!(
        bed::monotonic() - begun < Duration::from_secs(30),
        "it did not wait to its end"
    );
}
