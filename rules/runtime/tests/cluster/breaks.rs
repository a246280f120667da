//! What a push would do to runs is asked of all partitions, whoever owns them and whichever node is asked.

use celesta_bundle::Files;
use celesta_runs::PushError;
use celesta_store::testing::TestDatabase;

use crate::bed::{Node, submit};
use crate::given::{self, ECHO};

/// The service of the bed with other facts: what a run has of them does not fit when `breaks`.
fn next(breaks: bool) -> Files {
    let service = "name = \"bench\"\n[operations.count]\nworkflow = \"count\"\nfact = \"Counter\"\n[versions.count]\npolicy = \"upgrade-on-touch\"\n";
    let unit = if breaks {
        "unit: string"
    } else {
        "unit: string = \"m\""
    };
    let rules = format!(
        "workflow count;\nfact Counter {{ id: string, total: int, done: int = 0, state: string = \"idle\", {unit} }}\n\
         rule \"look\" {{ match {{ c: Counter where c.state == \"waiting\"; }} action {{ log(\"seen\"); }} }}\n\
         rule \"step\" {{ match {{ c: Counter where c.state == \"idle\" && c.done < c.total; }}\n\
           action {{ c.state = \"waiting\"; call(\"echo\", #{{ n: c.done }}); }}\n\
           reaction {{ c.done = c.done + 1; c.state = \"idle\"; }} }}\n"
    );
    given::files([
        ("service.toml", service),
        ("rules/count.rules", &rules),
        ("functions/echo/function.toml", ECHO),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_would_break_facts_of_runs_elsewhere_is_refused() {
    let database = TestDatabase::create().await;
    let first = Node::start(&database, "a", 2).await;
    first.push().await;
    let second = Node::start(&database, "b", 2).await;
    second.until(|node| node.owned().len() == 1).await;
    first.until(|node| node.owned().len() == 1).await;
    let home = first.partitions.home();
    let preview = home.preview("bench", next(true)).await.expect("it compiles");
    assert_eq!((preview[0].runs, preview[0].breaks.len()), (0, 1));

    // One run where the other node is, and one here.
    let there = second.partitions.members().remove(0);
    submit(&there.runtime, 1, None).await.expect("accepted");
    let refused = home.push("bench", next(true)).await;
    assert!(matches!(refused, Err(PushError::Breaks { .. })), "{refused:?}");
    let here = first.partitions.members().remove(0);
    submit(&here.runtime, 1, None).await.expect("accepted");

    for node in [&first, &second] {
        let preview = node.partitions.home().preview("bench", next(false)).await;
        let seen = preview.expect("it compiles").remove(0);
        assert_eq!(
            (seen.runs, seen.looked_at, seen.would_stay),
            (2, 2, 0),
            "{seen:?}"
        );
        let rules: Vec<(&str, u64)> = (seen.rules.iter())
            .map(|rule| (rule.rule.as_str(), rule.runs))
            .collect();
        assert_eq!(rules, [("look", 2)]);
        let refused = node.partitions.home().push("bench", next(true)).await;
        assert!(matches!(refused, Err(PushError::Breaks { .. })), "{refused:?}");
    }
    home.push("bench", next(false)).await.expect("it breaks nothing");
    second.leave().await;
    first.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_a_node_count_what_its_partitions_do() {
    let database = TestDatabase::create().await;
    let node = Node::start(&database, "a", 2).await;
    node.push().await;
    let turns = || -> u64 {
        let shown = celesta_runtime::metrics::render();
        let line = shown
            .lines()
            .find_map(|line| line.strip_prefix("celesta_runs_turns_total "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    let before = turns();
    for member in node.partitions.members() {
        let run = submit(&member.runtime, 1, None).await.expect("accepted");
        crate::bed::serve_one(&member).await;
        let patience = std::time::Duration::from_secs(20);
        member
            .runtime
            .wait(run, patience)
            .await
            .expect("the store answers");
    }
    // Other tests of this process may count as well.
    assert!(turns() >= before + 4, "{} {before}", turns());
    node.leave().await;
}
