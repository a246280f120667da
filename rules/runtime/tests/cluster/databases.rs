//! A deployment over two databases: who is told both serves everything; who is not says so and does not start.

use std::time::Duration;

use celesta_runs::invariants::Invariant;
use celesta_runs::{RunFilter, RunState};
use celesta_store::testing::TestDatabase;
use celesta_store::{Store, StoreOptions};
use celesta_types::RunId;

use crate::bed::{self, Node, submit};
use crate::doctor::look_at;

const COUNT: u32 = 4;

async fn two() -> (TestDatabase, TestDatabase, Vec<String>) {
    let (main, other) = (TestDatabase::create().await, TestDatabase::create().await);
    let named = vec![format!("fast={}", other.url())];
    (main, other, named)
}

async fn start(main: &TestDatabase, named: &[String], name: &str) -> Node {
    let node = Node::try_start(main, named, name, COUNT).await;
    node.expect("it takes part")
}

fn places(node: &Node) -> Vec<Option<String>> {
    let (_, partitions) = node.partitions.seen();
    partitions
        .into_iter()
        .map(|partition| partition.database)
        .collect()
}

async fn refused(main: &TestDatabase, named: &[String]) -> String {
    let refused = Node::try_start(main, named, "z", COUNT).await;
    refused.err().expect("it is refused").to_string()
}

async fn completes(node: &Node, run: RunId) {
    let member = node.member_of(run);
    bed::serve_one(&member).await;
    let view = member.runtime.wait(run, Duration::from_secs(20)).await;
    let view = view.expect("the store answers").expect("the run is there");
    assert_eq!(view.state, RunState::Completed, "{view:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_two_databases_are_one_deployment() {
    let (main, other, named) = two().await;
    let first = start(&main, &named, "a").await;
    let fast = || Some("fast".to_owned());
    assert_eq!(places(&first), [None, fast(), None, fast()], "they take turns");
    first.push().await;
    let mut runs = Vec::new();
    for member in first.partitions.members() {
        runs.push(submit(&member.runtime, 1, None).await.expect("accepted"));
    }
    let second = start(&main, &named, "b").await;
    first.until(|node| node.owned().len() == 2).await;
    second.until(|node| node.owned().len() == 2).await;
    for node in [&first, &second] {
        let page = node.partitions.home().list(&RunFilter::default(), None, 9).await;
        let page = page.expect("both databases answer");
        assert_eq!(page.rows.len(), 4, "lists go through both databases");
    }
    let findings = look_at(&main, &[("fast", &other)], None).await;
    assert!(findings.is_sound(), "{findings:#?}");
    assert_eq!(findings.runs, 4);
    let findings = look_at(&main, &[], None).await;
    let missing = findings.violations.iter().filter(|found| {
        found.invariant == Invariant::Partition && found.found.contains("--database fast=URL")
    });
    assert_eq!(missing.count(), 2, "{findings:#?}");

    // What a dead node owned is claimed in both.
    first.tasks.shutdown().request();
    second.until(|node| node.owned() == [0, 1, 2, 3]).await;
    for run in runs {
        completes(&second, run).await;
    }
    second.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_other_databases_than_the_rest_does_not_start() {
    let (main, other, named) = two().await;
    let first = start(&main, &named, "a").await;
    let said = refused(&main, &[]).await;
    assert!(
        said.contains("[1, 3]") && said.contains("--database fast=URL"),
        "{said}"
    );
    let strange = TestDatabase::create().await;
    let said = refused(&main, &[format!("fast={}", strange.url())]).await;
    assert!(said.contains("not the one that the other nodes know"), "{said}");
    let two_names = [named[0].clone(), format!("slow={}", other.url())];
    let said = refused(&main, &two_names).await;
    assert!(said.contains("known as `fast` already"), "{said}");
    let said = refused(&main, &[named[0].clone(), format!("slow={}", main.url())]).await;
    assert!(said.contains("the main one of a deployment"), "{said}");
    let another = TestDatabase::create().await;
    let said = refused(&another, &named).await;
    assert!(said.contains("belongs to another deployment"), "{said}");
    first.leave().await;
}

/// What a release does that knows of no other databases: it claims a partition and opens it in the main one.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_release_cannot_open_what_is_in_another_database() {
    let (main, _other, named) = two().await;
    let node = start(&main, &named, "a").await;
    let epoch = node.partitions.here(1).expect("it is here").epoch;
    let options = StoreOptions::postgres(main.url())
        .in_schema("celesta_p1")
        .fenced(epoch + 1);
    let clock = celesta_runtime::Clock::system();
    let opened = Store::open(&options, celesta_runs::MIGRATIONS, &clock, &node.tasks).await;
    assert!(
        matches!(opened, Err(celesta_store::OpenError::Fenced { .. })),
        "{opened:?}"
    );
    node.leave().await;
}
