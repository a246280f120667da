//! Events reach what subscribes to them in every partition, once, whoever owns it and whatever ends in between.

use std::time::Duration;

use celesta_bundle::Files;
use celesta_runs::{CloudEvent, Member, RunFilter, RunState, Runtime};
use celesta_store::testing::TestDatabase;
use celesta_types::RunId;
use serde_json::json;

use crate::bed::Node;
use crate::given::{self, PAYMENTS};

const COUNT: u32 = 4;

const SERVICE: &str = r#"
name = "shop"

[operations.pay]
workflow = "pay"
fact = "Purse"

[subscriptions.placed]
type = "shop.placed"
start = "await"
input = { order = "/data/order" }

"#;

/// An order is complete when it was told three payments; a payment that counted twice would show.
const AWAIT: &str = r#"
workflow await;

fact Order   { order: string }
fact Payment { amount: int }

rule "three payments" {
    match  { order: Order; n = count Payment p; all = sum p.amount Payment p; if n == 3; }
    action { complete(#{ paid: all }); }
}
"#;

const PAY: &str = r#"
workflow pay;

fact Purse { order: string, amount: int }

rule "pay" {
    match  { purse: Purse; }
    action { emit("shop.paid", #{ order: purse.order, amount: purse.amount }); complete(#{ }); }
}
"#;

fn files() -> Files {
    given::files([
        ("service.toml", format!("{SERVICE}{PAYMENTS}").as_str()),
        ("rules/await.rules", AWAIT),
        ("rules/pay.rules", PAY),
    ])
}

async fn shop(database: &TestDatabase, name: &str) -> Node {
    let node = Node::start(database, name, COUNT).await;
    let pushed = node.partitions.home().push("shop", files()).await;
    pushed.expect("a good bundle");
    node
}

async fn ask(member: &Member, operation: &str, input: serde_json::Value) -> RunId {
    let request = given::request("shop", operation, &input.to_string());
    member.runtime.submit(request, None).await.expect("accepted").run
}

fn paid(id: &str, amount: i64) -> CloudEvent {
    let data = json!({ "order": "7", "amount": amount });
    let event =
        json!({ "specversion": "1.0", "id": id, "source": "/till", "type": "shop.paid", "data": data });
    CloudEvent::read(event).expect("a good event")
}

async fn ended(runtime: &Runtime, run: RunId, result: &str) {
    let view = runtime.wait(run, Duration::from_secs(20)).await;
    let view = view.expect("the store answers").expect("the run is there");
    assert_eq!(view.state, RunState::Completed, "{view:?}");
    assert_eq!(view.result.as_ref().map(|result| result.get()), Some(result));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_runs_of_every_partition_once() {
    let database = TestDatabase::create().await;
    let node = shop(&database, "a").await;
    let members = node.partitions.members();
    let mut orders = Vec::new();
    for member in &members {
        orders.push(ask(member, "await", json!({ "order": "7" })).await);
    }
    // The same partition routes an event however often it comes; the others are told by mail.
    for repeat in 0..3 {
        let published = members[1].runtime.publish(&[paid("1", 5)]).await.expect("taken");
        assert_eq!(published[0].duplicate, repeat > 0);
        let reached = published[0].deliveries.len();
        assert_eq!(
            reached,
            if repeat == 0 { members.len() } else { 0 },
            "{published:?}"
        );
    }
    // A run by its id, asked for at a partition that is not its own.
    for (member, order) in members.iter().rev().zip(&orders) {
        let event = json!({
            "specversion": "1.0", "id": order.to_string(), "source": "/till", "type": "shop.told",
            "subject": order, "data": { "amount": 30 },
        });
        let event = CloudEvent::read(event).expect("a good event");
        let published = member.runtime.publish(&[event]).await.expect("taken");
        assert_eq!(published[0].deliveries[0].run, Some(*order), "{published:?}");
    }
    // What rules of one partition emit.
    ask(&members[2], "pay", json!({ "order": "7", "amount": 200 })).await;
    for order in orders {
        ended(&node.member_of(order).runtime, order, r#"{"paid":235}"#).await;
    }
    node.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_event_starts_is_started_in_one_partition() {
    let database = TestDatabase::create().await;
    let node = shop(&database, "a").await;
    let members = node.partitions.members();
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/till", "type": "shop.placed", "data": { "order": "8" },
    });
    let event = [CloudEvent::read(event).expect("a good event")];
    let sends = (0..8).map(|_| members[3].runtime.publish(&event));
    let taken = futures_util::future::join_all(sends).await;
    let fresh = taken
        .into_iter()
        .filter(|taken| taken.as_ref().is_ok_and(|taken| !taken[0].duplicate));
    assert_eq!(fresh.count(), 1);
    let all = node.partitions.home().list(&RunFilter::default(), None, 10).await;
    assert_eq!(all.expect("the store answers").rows.len(), 1);
    node.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_waits_for_an_owner_and_outlives_the_sender() {
    let database = TestDatabase::create().await;
    let first = shop(&database, "a").await;
    let members = first.partitions.members();
    let mut orders = Vec::new();
    for member in &members {
        orders.push(ask(member, "await", json!({ "order": "7" })).await);
    }
    // The node's keepers and carriers are gone; its partitions go on until somebody else has them.
    first.tasks.shutdown().request();
    for (at, id) in ["1", "2", "3"].into_iter().enumerate() {
        let published = members[at].runtime.publish(&[paid(id, 1)]).await.expect("taken");
        assert_eq!(published[0].deliveries.len(), members.len());
    }
    drop(members);
    let heir = Node::start(&database, "b", COUNT).await;
    heir.until(|node| node.owned() == [0, 1, 2, 3]).await;
    for order in orders {
        ended(&heir.member_of(order).runtime, order, r#"{"paid":3}"#).await;
    }
    heir.leave().await;
}
