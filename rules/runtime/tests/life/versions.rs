//! Old runs and new versions: moving, canaries, going back, and what is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use celesta_bundle::Files;
use celesta_runs::{PushError, ReleaseError, RunState, Share, Submit, SweepState, SweepsFilter};
use celesta_types::{Digest, RunId};

use crate::bed::{Node, node};
use crate::given::{self, COUNT, ECHO};

/// A service whose runs count; `policy` is what stands below `[versions.count]`.
pub(crate) fn service(rules: &str, policy: &str) -> Files {
    let service = format!(
        "name = \"bench\"\n[operations.count]\nworkflow = \"count\"\nfact = \"Counter\"\n[versions.count]\n{policy}\n"
    );
    let entries = [
        ("service.toml", service.as_str()),
        ("rules/count.rules", rules),
        ("functions/echo/function.toml", ECHO),
    ];
    given::files(entries)
}

/// [`COUNT`] by other rules, over facts that [`MOVES`] makes of those of before.
pub(crate) const SECOND: &str = r#"
workflow count;
fact Counter { id: string, total: int, made: int = 0, state: string = "idle", unit: string, twice: int }
rule "before all" salience 5 {
    match  { c: Counter where c.state == "never"; }
    action { c.state = "idle"; }
}
rule "step" {
    match    { c: Counter where c.state == "idle" && c.made < c.total; }
    action   { c.state = "waiting"; call("echo", #{ n: c.made }); }
    reaction { c.made = c.made + 1; c.state = "idle"; }
}
rule "finish" {
    match    { c: Counter where c.state == "idle" && c.made >= c.total; }
    action   { c.state = "done"; complete(#{ count: c.made, unit: c.unit, twice: c.twice }); }
}
"#;

/// What becomes of the facts of [`COUNT`] below [`SECOND`].
pub(crate) const MOVES: &str = r#"
[[versions.count.facts]]
fact = "Counter"
rename = { done = "made" }
set = { unit = "piece" }
script = { twice = "old.total * 2" }
"#;

async fn version_of(node: &Node, run: RunId) -> Digest {
    let view = node.runtime.run(run).await.expect("the store answers");
    view.expect("the run is there").version
}

async fn submit(node: &Node, input: &str, labels: &[(&str, &str)]) -> RunId {
    let labels = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let request = Submit {
        labels: labels.collect::<BTreeMap<_, _>>(),
        ..given::request("bench", "count", input)
    };
    node.runtime.submit(request, None).await.expect("accepted").run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_moves_with_its_next_turn_and_its_open_call_comes_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first_node = node(folder.path()).await;
    let first = first_node
        .runtime
        .push("bench", service(COUNT, ""))
        .await
        .expect("a good bundle");
    let run = submit(&first_node, r#"{"total":2}"#, &[]).await;
    drop(first_node.lease(1).await);
    let policy = format!("policy = \"upgrade-on-touch\"\n{MOVES}");
    let second = first_node
        .runtime
        .push("bench", service(SECOND, &policy))
        .await
        .expect("a good bundle");
    assert_ne!(first.version.digest, second.version.digest);
    // Nothing has touched it.
    assert_eq!(version_of(&first_node, run).await, first.version.digest);
    first_node.stop().await;
    let node = node(folder.path()).await;
    node.serve(1).await;
    let leased = node.lease(1).await;
    // The first result has moved the run, and the next call is of the new version; a restart changes nothing of it.
    assert_eq!(version_of(&node, run).await, second.version.digest);
    drop(leased);
    node.stop().await;
    let node = crate::bed::node(folder.path()).await;
    node.serve(1).await;
    let view = node.ended(run).await;
    assert_eq!(view.state, RunState::Completed, "{view:?}");
    let result = view.result.as_ref().map(|result| result.get());
    assert_eq!(result, Some(r#"{"count":2,"twice":4,"unit":"piece"}"#));
    let turns = node
        .runtime
        .history(run, 0, 100)
        .await
        .expect("the journal reads")
        .expect("it is there");
    let causes: Vec<Vec<&str>> = (turns.iter())
        .map(|turn| turn.causes.iter().map(|cause| cause.kind).collect())
        .collect();
    assert_eq!(
        causes,
        [vec!["request"], vec!["succeeded", "upgrade"], vec!["succeeded"]]
    );
    // Rules stand at other places in the two files; each record is told in the words of its own version.
    let rules: Vec<&str> = turns
        .iter()
        .flat_map(|turn| &turn.firings)
        .map(|firing| firing.rule.as_str())
        .collect();
    assert_eq!(rules, ["step", "step", "step", "step", "finish"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_run_keeps_the_version_it_began_with() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    let first = node
        .runtime
        .push("bench", service(COUNT, ""))
        .await
        .expect("a good bundle");
    let run = submit(&node, r#"{"total":1}"#, &[]).await;
    let pinned = format!("policy = \"pinned\"\n{MOVES}");
    node.runtime
        .push("bench", service(SECOND, &pinned))
        .await
        .expect("a good bundle");
    node.serve(1).await;
    let view = node.ended(run).await;
    assert_eq!(
        view.result.as_ref().map(|result| result.get()),
        Some(r#"{"count":1}"#)
    );
    assert_eq!(view.version, first.version.digest);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_would_break_stored_facts_is_refused_and_says_what_to_write() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    let first = node
        .runtime
        .push("bench", service(COUNT, ""))
        .await
        .expect("a good bundle");
    // Without a run nothing would break.
    let preview = node
        .runtime
        .preview("bench", service(SECOND, "policy = \"upgrade\""))
        .await
        .expect("it compiles");
    assert_eq!(
        (preview.len(), preview[0].runs, preview[0].breaks.len()),
        (1, 0, 2)
    );
    let run = submit(&node, r#"{"total":1}"#, &[]).await;
    let refused = node
        .runtime
        .push("bench", service(SECOND, "policy = \"upgrade\""))
        .await;
    let Err(PushError::Breaks { broken }) = refused else {
        panic!("{refused:?}");
    };
    let told: Vec<(&str, Option<&str>)> = (broken.iter())
        .map(|broken| (broken.what.fact.as_str(), broken.what.field.as_deref()))
        .collect();
    assert_eq!(told, [("Counter", Some("unit")), ("Counter", Some("twice"))]);
    assert!(broken[0].what.hint.contains("set = { unit = … }"), "{broken:?}");
    assert_eq!(
        node.runtime.service("bench").map(|version| version.digest),
        Some(first.version.digest)
    );
    let good = format!("policy = \"upgrade\"\n{MOVES}");
    let preview = node
        .runtime
        .preview("bench", service(SECOND, &good))
        .await
        .expect("it compiles");
    let seen = &preview[0];
    assert_eq!(
        (seen.runs, seen.looked_at, seen.would_stay, seen.breaks.len()),
        (1, 1, 0, 0),
        "{seen:?}"
    );
    node.serve(1).await;
    drop(node.ended(run).await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resting_runs_are_moved_in_the_background_and_new_rules_fire_in_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime
        .push("bench", service(COUNT, ""))
        .await
        .expect("a good bundle");
    let mut runs = Vec::new();
    for _ in 0..5 {
        let run = submit(&node, r#"{"total":0}"#, &[]).await;
        drop(node.ended(run).await);
        runs.push(run);
    }
    let later = COUNT.to_owned()
        + r#"rule "ask" { match { c: Counter where c.state == "done"; } action { c.state = "asked"; call("echo", #{ n: 7 }); } }"#;
    let preview = node
        .runtime
        .preview("bench", service(&later, "policy = \"upgrade\""))
        .await
        .expect("it compiles");
    assert_eq!(preview[0].rules.len(), 1, "{preview:?}");
    assert_eq!(
        (preview[0].rules[0].rule.as_str(), preview[0].rules[0].runs),
        ("ask", 5)
    );
    let pushed = node
        .runtime
        .push("bench", service(&later, "policy = \"upgrade\""))
        .await
        .expect("a good bundle");
    // Each moved run calls.
    node.serve(5).await;
    for run in runs {
        assert_eq!(version_of(&node, run).await, pushed.version.digest);
    }
    // A sweep has moved them, with its report.
    let sweep = loop {
        let sweeps = node.runtime.list_sweeps(&SweepsFilter::default(), None, 10).await;
        let sweeps = sweeps.expect("the store answers").rows;
        assert_eq!(sweeps.len(), 1);
        if sweeps[0].state == SweepState::Done {
            break sweeps[0].clone();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (sweep.runs, sweep.told, sweep.moved, sweep.missed),
        (Some(5), 5, 5, 0)
    );
    assert!(
        sweep.cause.contains(&pushed.version.digest.to_string()),
        "{sweep:?}"
    );
    // There is nothing left for another one.
    let again = node
        .runtime
        .push("bench", service(&later, "policy = \"upgrade\""))
        .await;
    again.expect("a good bundle");
    node.stop().await;
    let node = crate::bed::node(folder.path()).await;
    let sweeps = node.runtime.list_sweeps(&SweepsFilter::default(), None, 10).await;
    assert_eq!(sweeps.expect("the store answers").rows.len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_takes_its_share_and_is_taken_back_or_promoted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    let first = node
        .runtime
        .push("bench", service(COUNT, ""))
        .await
        .expect("a good bundle")
        .version
        .digest;
    let other = COUNT.replace("count: c.done", "counted: c.done");
    let pushed = node
        .runtime
        .push_for("bench", service(&other, ""), Some(Share::Percent(30)))
        .await;
    let second = pushed.expect("a good bundle").version.digest;
    assert_eq!(
        node.runtime.service("bench").map(|version| version.digest),
        Some(first)
    );
    let mut of_canary = 0;
    for _ in 0..120 {
        let run = submit(&node, r#"{"total":0}"#, &[]).await;
        of_canary += usize::from(version_of(&node, run).await == second);
    }
    // 36 are expected; fewer than 12 or more than 70 come once in millions.
    assert!((12..=70).contains(&of_canary), "{of_canary} of 120");
    let taken = node.runtime.roll_back("bench").await.expect("there is a canary");
    assert_eq!((taken.from, taken.to, taken.canary), (second, first, true));
    let share = Share::Label("tier".into(), "beta".into());
    node.runtime
        .push_for("bench", service(&other, ""), Some(share))
        .await
        .expect("a good bundle");
    node.stop().await;
    let node = crate::bed::node(folder.path()).await;
    let plain = submit(&node, r#"{"total":0}"#, &[]).await;
    let beta = submit(&node, r#"{"total":0}"#, &[("tier", "beta")]).await;
    assert_eq!(
        (version_of(&node, plain).await, version_of(&node, beta).await),
        (first, second)
    );
    node.runtime.promote("bench").await.expect("there is a canary");
    let run = submit(&node, r#"{"total":0}"#, &[]).await;
    assert_eq!(version_of(&node, run).await, second);
    assert!(matches!(
        node.runtime.promote("bench").await,
        Err(ReleaseError::NoCanary { .. })
    ));
    let taken = node
        .runtime
        .roll_back("bench")
        .await
        .expect("there is a version before");
    assert_eq!((taken.from, taken.to, taken.canary), (second, first, false));
    let run = submit(&node, r#"{"total":0}"#, &[]).await;
    assert_eq!(version_of(&node, run).await, first);
    assert!(matches!(
        node.runtime.roll_back("bench").await,
        Err(ReleaseError::NoneBefore { .. })
    ));
    let (releases, canary) = node.runtime.releases("bench").await.expect("the store answers");
    let versions: Vec<Digest> = releases.iter().rev().map(|release| release.version).collect();
    assert_eq!(versions, [first, second, first]);
    assert!(canary.is_none());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_version_that_is_taken_back_go_back_with_their_next_turn() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    let first = node
        .runtime
        .push("bench", service(COUNT, ""))
        .await
        .expect("a good bundle")
        .version
        .digest;
    let other = COUNT.replace("count: c.done", "counted: c.done");
    let policy = "policy = \"upgrade-on-touch\"";
    // Pushed later than the first by the clock of the store, which counts milliseconds.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let second = node
        .runtime
        .push("bench", service(&other, policy))
        .await
        .expect("a good bundle")
        .version
        .digest;
    let run = submit(&node, r#"{"total":1}"#, &[]).await;
    let leased = node.lease(1).await;
    assert_eq!(version_of(&node, run).await, second);
    node.runtime
        .roll_back("bench")
        .await
        .expect("there is a version before");
    leased.iter().for_each(|leased| node.answer(leased, None));
    let view = node.ended(run).await;
    assert_eq!(view.version, first);
    assert_eq!(
        view.result.as_ref().map(|result| result.get()),
        Some(r#"{"count":1}"#)
    );
    node.stop().await;
}
