//! A deployment over two databases: who is told both serves everything; who is not says so and does not start.

use std::time::Duration;

use celesta_runs::invariants::Invariant;
use celesta_runs::{MAIN_SCHEMA, MoveError, RunFilter, RunState};
use celesta_store::testing::TestDatabase;
use celesta_store::{Store, StoreOptions};
use celesta_types::RunId;

use crate::bed::{self, Node, submit};
use crate::doctor::{look_at, write};

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
    // The versions of runs in one database are in the other.
    first.push_another().await;
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

/// Everything the deployment lists, once all of it can be read.
async fn listed(node: &Node) -> usize {
    for _ in 0..200 {
        if let Ok(page) = node.partitions.home().list(&RunFilter::default(), None, 99).await {
            return page.rows.len();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("the readers do not follow");
}

/// Waits until the partition is there and somebody of them has it.
async fn arrives(nodes: &[&Node], partition: u32, database: Option<&str>) {
    let at = usize::try_from(partition).expect("small");
    for node in nodes {
        node.until(|node| {
            places(node)
                .get(at)
                .is_some_and(|place| place.as_deref() == database)
        })
        .await;
    }
    for _ in 0..600 {
        if nodes.iter().any(|node| node.partitions.here(partition).is_some()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("nobody has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_moves_with_everything_it_holds_and_back_again() {
    let (main, other, named) = two().await;
    let first = start(&main, &named, "a").await;
    first.push().await;
    let keys = (0..).map(|number| format!("key {number}"));
    let key = { keys }.find(|key| celesta_types::Partition::of_key("bench", key, COUNT).index == 0);
    let key = key.expect("a quarter of them are there");
    let mut runs = Vec::new();
    for member in first.partitions.members() {
        let key = Some(key.as_str()).filter(|_| member.partition.index == 0);
        let run = submit(&member.runtime, 2, key).await;
        runs.push(run.expect("accepted"));
        bed::serve_one(&member).await;
    }
    let second = start(&main, &named, "b").await;
    second.until(|node| node.owned().len() == 2).await;
    first.until(|node| node.owned().len() == 2).await;
    let nodes = [&first, &second];
    let lost = nodes.iter().find_map(|node| node.partitions.here(0));
    let lost = lost.expect("somebody has it");

    // Any node may be asked, whoever owns it.
    let asked = second.partitions.relocate(0, "fast").await;
    assert!(asked.expect("everybody knows it"), "it is not there yet");
    let asked = first.partitions.relocate(1, "main").await;
    assert!(asked.expect("everybody knows it"), "it is not there yet");
    arrives(&nodes, 0, Some("fast")).await;
    arrives(&nodes, 1, None).await;
    let again = first.partitions.relocate(0, "fast").await;
    assert!(!again.expect("everybody knows it"), "it is there");
    assert!(
        submit(&lost.runtime, 0, None).await.is_err(),
        "its earlier owner is out"
    );
    for node in nodes {
        assert_eq!(listed(node).await, 4, "lists follow");
    }
    let moved = nodes.iter().find_map(|node| node.partitions.here(0));
    let moved = moved.expect("somebody has it");
    let known = submit(&moved.runtime, 2, Some(&key)).await;
    assert_eq!(known.expect("known"), runs[0], "its keys came along");
    let findings = look_at(&main, &[("fast", &other)], None).await;
    assert!(findings.is_sound(), "{findings:#?}");
    assert_eq!(findings.runs, 4);
    for run in runs {
        let partition = celesta_types::Partition::of_run(run, COUNT).index;
        let owner = nodes
            .iter()
            .find(|node| node.partitions.here(partition).is_some());
        completes(owner.expect("somebody has it"), run).await;
    }

    let asked = first.partitions.relocate(0, "main").await;
    assert!(asked.expect("main is known"), "it is not there");
    arrives(&nodes, 0, None).await;
    assert_eq!(listed(&second).await, 4);
    let findings = look_at(&main, &[("fast", &other)], None).await;
    assert!(findings.is_sound(), "{findings:#?}");
    let (_, partitions) = second.partitions.seen();
    assert!(
        partitions.iter().all(|seen| seen.problem.is_none()),
        "{partitions:?}"
    );
    first.leave().await;
    second.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_refused_where_somebody_does_not_know_the_database() {
    let (main, _other, named) = two().await;
    let first = start(&main, &named, "a").await;
    let slow = TestDatabase::create().await;
    let more = [named[0].clone(), format!("slow={}", slow.url())];
    let second = start(&main, &more, "b").await;
    let refused = async |partition, to: &str| {
        let asked = second.partitions.relocate(partition, to).await;
        asked.expect_err("it is refused")
    };
    let said = refused(4, "fast").await;
    assert!(
        matches!(said, MoveError::NoSuchPartition { count: 4, .. }),
        "{said}"
    );
    let said = refused(0, "nowhere").await;
    assert!(matches!(said, MoveError::NoSuchDatabase { .. }), "{said}");
    let said = refused(0, "slow").await;
    assert!(
        matches!(&said, MoveError::NodeLacks { node, .. } if node == "a"),
        "{said}"
    );
    first.leave().await;
    let asked = second.partitions.relocate(0, "slow").await;
    assert!(
        asked.expect("nobody is left who does not know it"),
        "it is not there"
    );
    arrives(&[&second], 0, Some("slow")).await;
    second.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_cannot_be_moved_stays_and_says_why() {
    let (main, other, named) = two().await;
    let node = start(&main, &[], "a").await;
    node.push().await;
    node.leave().await;
    let node = start(&main, &named, "a").await;
    assert_eq!(
        places(&node),
        [None, None, None, None],
        "everything keeps its place"
    );
    let member = node.partitions.here(2).expect("it is here");
    let run = submit(&member.runtime, 1, None).await.expect("accepted");
    drop(other);
    let asked = node.partitions.relocate(2, "fast").await;
    assert!(asked.expect("it is known"), "it is not there");
    node.until(|node| node.partitions.seen().1[2].problem.is_some() && node.owned().len() == 4)
        .await;
    let (_, partitions) = node.partitions.seen();
    let problem = partitions[2].problem.as_deref().unwrap_or_default();
    assert!(problem.starts_with("target: "), "{problem}");
    assert!(!problem.contains("://"), "no URL is kept: {problem}");
    assert_eq!(
        (&partitions[2].database, &partitions[2].moving_to),
        (&None, &None)
    );
    completes(&node, run).await;
    node.leave().await;
}

/// What the refusals above prevent, and what happens all the same when a row says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_know_a_database_leaves_its_partitions_alone() {
    let (main, _other, named) = two().await;
    let stranger = start(&main, &[], "a").await;
    let head = "UPDATE cluster_partitions SET place = (SELECT v.column1 FROM (VALUES ";
    let node = start(&main, &named, "b").await;
    node.until(|node| node.owned().len() == 2).await;
    let taken = node.owned()[0];
    let tail: &'static str = Box::leak(format!(") AS v) WHERE partition = {taken}").into_boxed_str());
    write(&main, MAIN_SCHEMA, head, tail, "fast".into()).await;
    node.leave().await;
    stranger.until(|node| node.owned().len() == 3).await;
    let page = stranger
        .partitions
        .home()
        .list(&RunFilter::default(), None, 9)
        .await;
    let said = page.expect_err("there would be holes").to_string();
    assert!(said.contains("--database fast=URL"), "{said}");
    let heir = start(&main, &named, "b").await;
    heir.until(|node| node.owned().contains(&taken)).await;
    stranger.leave().await;
    heir.until(|node| node.owned().len() == 4).await;
    assert_eq!(listed(&heir).await, 0);
    heir.leave().await;
}
