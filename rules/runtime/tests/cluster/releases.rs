//! Versions are a matter of all nodes: a canary that is set at one takes its share at the others.

use std::collections::BTreeMap;

use celesta_bundle::Files;
use celesta_runs::{Member, Share, Submit};
use celesta_store::testing::TestDatabase;
use celesta_types::Digest;

use crate::bed::Node;
use crate::given;

fn files(word: &str) -> Files {
    let service = "name = \"greeter\"\n[operations.greet]\nworkflow = \"greet\"\nfact = \"Guest\"\n";
    let rules = format!(
        "workflow greet;\nfact Guest {{ name: string }}\n\
         rule \"greet\" {{ match {{ guest: Guest; }} action {{ complete(#{{ said: \"{word}\" }}); }} }}\n"
    );
    given::files([("service.toml", service), ("rules/greet.rules", &rules)])
}

/// The version that a new run with this label follows.
async fn followed(member: &Member, tier: &str) -> Digest {
    let request = Submit {
        labels: BTreeMap::from([("tier".to_owned(), tier.to_owned())]),
        ..given::request("greeter", "greet", r#"{"name":"ann"}"#)
    };
    let run = member.runtime.submit(request, None).await.expect("accepted").run;
    let view = member.runtime.run(run).await.expect("the store answers");
    view.expect("the run is there").version
}

async fn canary(node: &Node) -> Option<Digest> {
    let releases = node.partitions.home().releases("greeter").await;
    let (_, canary) = releases.expect("the store answers");
    canary.map(|canary| canary.version.digest)
}

/// Waits until the node knows that canary, or that there is none.
async fn until(node: &Node, wanted: Option<Digest>) {
    let mut changes = node.partitions.changes();
    while canary(node).await != wanted {
        changes.changed().await.expect("the node lives");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_known_at_every_node_until_it_is_taken_back_at_any() {
    let database = TestDatabase::create().await;
    let first = Node::start(&database, "a", 2).await;
    let home = first.partitions.home();
    let old = home.push("greeter", files("hello")).await.expect("a good bundle");
    let old = old.version.digest;
    let second = Node::start(&database, "b", 2).await;
    second.until(|node| node.owned().len() == 1).await;
    let member = second.partitions.members().remove(0);
    assert_eq!(followed(&member, "beta").await, old);

    let share = Share::Label("tier".to_owned(), "beta".to_owned());
    let pushed = home.push_for("greeter", files("hi"), Some(share)).await;
    let new = pushed.expect("a good bundle").version.digest;
    until(&second, Some(new)).await;
    assert_eq!(followed(&member, "beta").await, new);
    assert_eq!(followed(&member, "other").await, old);

    // Whoever takes it back, nobody follows it any more.
    let taken = second
        .partitions
        .home()
        .roll_back("greeter")
        .await
        .expect("there is one");
    assert_eq!((taken.from, taken.canary), (new, true));
    until(&first, None).await;
    let here = first.partitions.members().remove(0);
    assert_eq!(followed(&here, "beta").await, old);

    // A promotion at a node that has not looked yet is that of the canary there is.
    let share = Share::Percent(50);
    home.push_for("greeter", files("hi"), Some(share))
        .await
        .expect("a good bundle");
    let promoted = second
        .partitions
        .home()
        .promote("greeter")
        .await
        .expect("there is one");
    assert_eq!(promoted.digest, new);
    let taken = home
        .roll_back("greeter")
        .await
        .expect("there is a version before");
    assert_eq!((taken.from, taken.to), (new, old));
    second.leave().await;
    first.leave().await;
}
