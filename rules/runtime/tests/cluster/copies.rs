//! Shared facts in several partitions: one leads, the others copy, and runs of all of them move.

use std::sync::Arc;
use std::time::Duration;

use celesta_runs::{
    Member, RunState, Runtime, SHARED_RETRACTED_KEPT, SHARED_WRITES_MAX, SharedWrite, SharedWritten,
    SweepState, lead,
};
use celesta_store::testing::TestDatabase;
use celesta_types::RunId;
use futures_util::future::join_all;

use crate::bed::Node;
use crate::doctor::look;
use crate::given::recipes::{self, insert, update};

const COUNT: u32 = 4;

async fn started(database: &TestDatabase) -> Node {
    let node = Node::start(database, "a", COUNT).await;
    let pushed = node.partitions.home().push("encoder", recipes::encoder()).await;
    pushed.expect("a good bundle");
    node
}

fn leading(node: &Node) -> Arc<Member> {
    let lead = lead("encoder", COUNT).index;
    node.partitions.here(lead).expect("it is here")
}

fn retract(fact: u64) -> SharedWrite {
    SharedWrite {
        insert: None,
        retract: Some(fact),
        fields: None,
        ..insert("", 0)
    }
}

/// A new fact under a number of the caller's.
fn numbered(fact: u64, name: &str) -> SharedWrite {
    SharedWrite {
        fact: Some(fact),
        ..insert(name, 1)
    }
}

async fn share(lead: &Member, write: SharedWrite) -> SharedWritten {
    share_all(lead, vec![write]).await
}

async fn share_all(lead: &Member, writes: Vec<SharedWrite>) -> SharedWritten {
    let change = recipes::change(writes);
    let written = lead.runtime.lead_shared("encoder", change).await;
    written.expect("a good write")
}

async fn job(member: &Member, recipe: &str) -> RunId {
    let submitted = member.runtime.submit(recipes::job(recipe), None).await;
    let run = submitted.expect("accepted").run;
    let view = member.runtime.wait(run, Duration::from_secs(20)).await;
    let view = view.expect("the store answers").expect("there");
    assert_eq!(view.state, RunState::Completed, "{view:?}");
    run
}

/// All shared facts with their versions and revisions.
async fn facts(runtime: &Runtime) -> String {
    let page = runtime.list_shared("encoder", None, 0, 500).await;
    format!("{:?}", page.expect("the store answers").rows)
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn all_alike(node: &Node) {
    let wanted = facts(&leading(node).runtime).await;
    for member in node.partitions.members() {
        let name = format!("partition {} has {wanted}", member.partition.index);
        until(&name, || async { facts(&member.runtime).await == wanted }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_once_leave_the_same_facts_in_all_partitions() {
    let database = TestDatabase::create().await;
    let node = started(&database).await;
    let lead = leading(&node);
    let writers = (0..8_i64).map(|number| {
        let lead = Arc::clone(&lead);
        async move {
            let written = share(&lead, insert(&format!("recipe {number}"), number)).await;
            for crf in 1..4 {
                share(&lead, update(written.facts[0].fact, 10 * crf + number)).await;
            }
        }
    });
    join_all(writers).await;
    all_alike(&node).await;
    drop(lead);
    node.leave().await;
    let findings = look(&database, None).await;
    assert!(findings.is_sound(), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_moves_runs_of_all_partitions_under_one_sweep_whoever_dies() {
    let database = TestDatabase::create().await;
    let first = started(&database).await;
    let members = first.partitions.members();
    let mut runs = Vec::new();
    for member in &members {
        runs.push(job(member, "web").await);
        job(member, "tape").await;
    }
    // The node's carriers are gone: the letters wait for an heir.
    first.tasks.shutdown().request();
    let first_write = share(&leading(&first), insert("web", 20)).await;
    let second_write = share(&leading(&first), update(first_write.facts[0].fact, 30)).await;
    drop(members);
    let heir = Node::start(&database, "b", COUNT).await;
    heir.until(|node| node.owned() == [0, 1, 2, 3]).await;
    for run in runs {
        let runtime = heir.member_of(run).runtime.clone();
        until("every run of the recipe moves", || async {
            let view = runtime.run(run).await.expect("the store answers").expect("there");
            view.result.is_some_and(|result| result.get() == r#"{"crf":30}"#)
        })
        .await;
    }
    all_alike(&heir).await;
    for written in [first_write, second_write] {
        let sweep = written.sweep.expect("something has changed");
        for member in heir.partitions.members() {
            until("each partition has its part of the sweep", || async {
                let view = member.runtime.show_sweep(sweep).await.expect("the store answers");
                view.is_some_and(|view| view.state == SweepState::Done)
            })
            .await;
        }
    }
    heir.leave().await;
    let findings = look(&database, None).await;
    assert!(findings.is_sound(), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_copies_what_its_lead_has_forgotten_ends_with_the_same_facts() {
    let database = TestDatabase::create().await;
    let first = started(&database).await;
    let lead = leading(&first);
    let mut facts = Vec::new();
    for name in ["forgotten", "given again", "changed", "left alone"] {
        facts.push(share(&lead, insert(name, 1)).await.facts[0].fact);
    }
    let [forgotten, again, changed, _] = facts[..] else {
        panic!("four facts: {facts:?}")
    };
    all_alike(&first).await;
    // The node's carriers are gone: the letters wait.
    first.tasks.shutdown().request();
    share(&lead, retract(forgotten)).await;
    share(&lead, retract(again)).await;
    for crf in 2..22 {
        share(&lead, update(changed, crf)).await;
    }
    // One request retracts half of its writes; the last ones find more retracted facts than are kept.
    let passing = SHARED_WRITES_MAX as u64 / 2;
    let requests = SHARED_RETRACTED_KEPT as u64 / passing + 2;
    for request in 1..=requests {
        let numbers = (0..passing).map(|number| 1_000 * request + number);
        let pairs = numbers.map(|fact| [numbered(fact, "passing"), retract(fact)]);
        share_all(&lead, pairs.flatten().collect()).await;
    }
    share(&lead, numbered(again, "another")).await;
    drop(lead);
    let heir = Node::start(&database, "b", COUNT).await;
    heir.until(|node| node.owned() == [0, 1, 2, 3]).await;
    all_alike(&heir).await;
    let known = leading(&heir).runtime.shared_fact("encoder", forgotten).await;
    assert!(known.expect("the store answers").is_none());
    heir.leave().await;
    let findings = look(&database, None).await;
    assert!(findings.is_sound(), "{findings:#?}");
}
