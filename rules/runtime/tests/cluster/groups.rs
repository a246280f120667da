//! Groups of runs over all partitions: a limit is one limit, whatever partitions and nodes its runs are in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use celesta_bundle::Files;
use celesta_runs::{Member, RunFilter, RunState, RunView, Runtime};
use celesta_runtime::Fate;
use celesta_store::Cell;
use celesta_store::testing::TestDatabase;
use celesta_types::{Partition, RunId};

use crate::bed::{Node, answer, lease_one};
use crate::doctor::{look, write};
use crate::given::{self, ECHO, GROUPS};

const COUNT: u32 = 4;

fn files() -> Files {
    let service = format!("name = \"bench\"\n{GROUPS}");
    let rules = ["limited", "first", "double"].map(given::one_call);
    given::files([
        ("service.toml", service.as_str()),
        ("rules/limited.rules", &rules[0]),
        ("rules/first.rules", &rules[1]),
        ("rules/double.rules", &rules[2]),
        ("functions/echo/function.toml", ECHO),
    ])
}

async fn started(database: &TestDatabase, name: &str) -> Node {
    let node = Node::start(database, name, COUNT).await;
    let pushed = node.partitions.home().push("bench", files()).await;
    pushed.expect("a good bundle");
    node
}

async fn ask(member: &Member, operation: &str, name: &str) -> RunId {
    let request = given::request("bench", operation, &format!(r#"{{"name":"{name}"}}"#));
    member.runtime.submit(request, None).await.expect("accepted").run
}

/// Works for every partition of the node until it loses them; says how many calls were under way at once at most.
fn work(node: &Node) -> Arc<AtomicUsize> {
    let (most, inside) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for member in node.partitions.members() {
        let (most, inside) = (Arc::clone(&most), Arc::clone(&inside));
        let tasks = node.tasks.clone();
        node.tasks.spawn("worker", Fate::Expendable, async move {
            while let Some(leased) = lease_one(&member).await {
                let (member, most, inside) = (Arc::clone(&member), Arc::clone(&most), Arc::clone(&inside));
                tasks.spawn("call", Fate::Expendable, async move {
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    // Long enough for another one to come if it were let in.
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    answer(&member, &leased);
                });
            }
        });
    }
    most
}

async fn view(runtime: &Runtime, run: RunId, wait: Duration) -> RunView {
    let view = runtime.wait(run, wait).await.expect("the store answers");
    view.expect("the run is there")
}

async fn completed(node: &Node, runs: &[RunId]) {
    for run in runs {
        let view = view(&node.member_of(*run).runtime, *run, Duration::from_secs(30)).await;
        assert_eq!(view.state, RunState::Completed, "{view:?}");
    }
}

/// Waits until nothing is on its way between partitions and no gate holds anybody, and has the doctor look.
async fn at_rest(node: &Node, database: &TestDatabase) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let mut left = Vec::new();
        for member in node.partitions.members() {
            for table in ["places", "mail_out", "mail_in"] {
                let rows = member.store.fetch(&format!("SELECT * FROM {table}"), &[]).await;
                left.extend(rows.expect("the store answers").iter().map(|_| table));
            }
        }
        if left.is_empty() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "left: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let findings = look(database, None).await;
    assert!(findings.is_sound(), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_over_all_partitions() {
    let database = TestDatabase::create().await;
    let node = started(&database, "a").await;
    let members = node.partitions.members();
    let mut runs = Vec::new();
    for _ in 0..3 {
        for member in &members {
            runs.push(ask(member, "limited", "x").await);
        }
    }
    let most = work(&node);
    // Whatever is under way at this instant is sound.
    for _ in 0..5 {
        let findings = look(&database, None).await;
        assert!(findings.is_sound(), "{findings:#?}");
    }
    completed(&node, &runs).await;
    assert_eq!(
        most.load(Ordering::SeqCst),
        2,
        "as many as may be under way at once, and no more"
    );
    at_rest(&node, &database).await;
    node.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_only_cancels_the_later_one_of_another_partition() {
    let database = TestDatabase::create().await;
    let node = started(&database, "a").await;
    let members = node.partitions.members();
    let first = ask(&members[0], "first", "x").await;
    let call = lease_one(&members[0]).await.expect("it is under way");
    for member in &members {
        let later = ask(member, "first", "x").await;
        let view = view(&member.runtime, later, Duration::from_secs(20)).await;
        assert_eq!(view.state, RunState::Canceled, "{view:?}");
        assert!(
            view.error.is_some_and(|error| error.contains("first-only")),
            "it says why"
        );
    }
    answer(&members[0], &call);
    completed(&node, &[first]).await;
    // A group that is done lets the next one in, wherever it is.
    work(&node);
    let next = ask(&members[3], "first", "x").await;
    completed(&node, &[next]).await;
    at_rest(&node, &database).await;
    node.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gates_in_two_partitions_and_a_node_that_dies_between() {
    let database = TestDatabase::create().await;
    let first = started(&database, "a").await;
    let members = first.partitions.members();
    let mut runs = Vec::new();
    for name in ["x", "y", "z"] {
        for member in &members {
            runs.push(ask(member, "double", name).await);
        }
    }
    let most = work(&first);
    completed(&first, &runs[..1]).await;
    // The node's carriers are gone; its partitions go on until somebody else has them.
    first.tasks.shutdown().request();
    drop(members);
    let heir = Node::start(&database, "b", COUNT).await;
    heir.until(|node| node.owned() == [0, 1, 2, 3]).await;
    let most_of_heir = work(&heir);
    completed(&heir, &runs).await;
    assert!(most.load(Ordering::SeqCst) <= 2 && most_of_heir.load(Ordering::SeqCst) <= 2);
    at_rest(&heir, &database).await;
    heir.leave().await;
}

/// A release before had a gate in each partition, and letters in a table of the main schema.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_release_before_left_goes_where_it_belongs() {
    let database = TestDatabase::create().await;
    let first = started(&database, "a").await;
    let members = first.partitions.members();
    let mut runs = Vec::new();
    for member in &members {
        for _ in 0..2 {
            runs.push(ask(member, "limited", "x").await);
        }
    }
    // All have come to the gate, in one partition.
    let mut home = None;
    while home.is_none() {
        for member in &members {
            let rows = member.store.fetch("SELECT place FROM places", &[]).await;
            if rows.expect("the store answers").len() == runs.len() {
                home = Some(member.partition.index);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let home = home.expect("the loop has ended");
    drop(members);
    first.leave().await;
    let other = (home + 1) % COUNT;
    let moved = format!(
        "WITH gone AS (DELETE FROM celesta_p{home}.places WHERE place % 2 = (SELECT v.column1 FROM (VALUES "
    );
    let into = format!(
        ") AS v) RETURNING *) INSERT INTO celesta_p{other}.places SELECT gate, place, stand, passage FROM gone"
    );
    let (moved, into) = (moved.leak(), into.leak());
    write(&database, "celesta", moved, into, Cell::Int(1)).await;
    // A letter with which somebody calls off the last run.
    let (run, last) = (
        runs.pop(),
        Partition {
            index: 3,
            count: COUNT,
        },
    );
    let run = run.expect("there are runs");
    assert_eq!(Partition::of_run(run, COUNT), last);
    let head = "INSERT INTO cluster_mail (partition, run, payload) SELECT 3, v.column1, '\\x42046e6f706503746f6d' FROM (VALUES ";
    write(&database, "celesta", head, ") AS v", Cell::Id(run.to_bytes())).await;

    let second = Node::start(&database, "b", COUNT).await;
    let called_off = view(&second.member_of(run).runtime, run, Duration::from_secs(20)).await;
    assert_eq!(called_off.state, RunState::Canceled, "{called_off:?}");
    assert_eq!(called_off.error.as_deref(), Some("nope"));
    let most = work(&second);
    completed(&second, &runs).await;
    assert!(
        most.load(Ordering::SeqCst) <= 3,
        "those that had passed, and no more"
    );
    at_rest(&second, &database).await;
    let all = second
        .partitions
        .home()
        .list(&RunFilter::default(), None, 20)
        .await;
    assert_eq!(all.expect("the store answers").rows.len(), 8);
    second.leave().await;
}
