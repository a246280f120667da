//! Stopping runs before rules fire, stopping all runs of a workflow, and doing runs over.

use celesta_functions::Invocation;
use celesta_runs::{
    Action, LifecycleError, RESTARTED_FROM, Restart, RestartError, RunState, StoppedBy, Wish,
};

use crate::bed::{Node, node};
use crate::line::line;

async fn ready(folder: &tempfile::TempDir) -> Node {
    let node = node(folder.path()).await;
    node.runtime.push("line", line()).await.expect("a good bundle");
    node
}

fn wish(reason: &str) -> Wish {
    Wish {
        reason: reason.to_owned(),
        by: "ann".to_owned(),
    }
}

async fn serve_one(node: &Node) -> String {
    let leased = node.lease_of("line", 1).await;
    let leased = leased.first().expect("a call comes");
    node.answer(leased, None);
    let invocation = Invocation::decode(&leased.payload).expect("readable");
    String::from_utf8_lossy(invocation.input).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stops_before_a_rule_and_goes_on_step_by_step_even_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = ready(&folder).await;
    let run = first.ask("stages", r#"{"name":"x"}"#).await;
    first.until(run, RunState::Running).await;
    let wrong = first.runtime.set_breakpoints(run, vec!["forth".to_owned()], "ann").await;
    assert!(matches!(wrong, Err(LifecycleError::Order(_))), "{wrong:?}");
    first
        .runtime
        .set_breakpoints(run, vec!["second".to_owned()], "ann")
        .await
        .expect("a rule of the workflow");
    first.until_it(run, |view| !view.breakpoints.is_empty()).await;
    serve_one(&first).await;
    let view = first.until(run, RunState::Paused).await;
    let stopped = view.stopped.expect("why it is paused");
    assert_eq!(stopped.by, StoppedBy::Breakpoint);
    assert_eq!(stopped.rule.as_deref(), Some("second"));
    assert_eq!(stopped.facts, [(1, 3)], "the job, as the first rule's reaction left it");
    first.stop().await;

    let second = node(folder.path()).await;
    second.runtime.act(run, Action::Step, &wish("look")).await.expect("it is paused");
    assert_eq!(serve_one(&second).await, r#"{"name":"x","stage":2}"#);
    // The step was one firing: what comes back makes the next rule ready, which fires freely.
    let view = second.ended(run).await;
    assert_eq!(view.state, RunState::Completed, "{view:?}");
    assert!(view.stopped.is_none());
    let turns = second.runtime.history(run, 0, 20).await.expect("reads").expect("there");
    let fired: Vec<&str> = turns
        .iter()
        .flat_map(|turn| &turn.firings)
        .filter(|firing| firing.section == "action")
        .map(|firing| firing.rule.as_str())
        .collect();
    assert_eq!(fired, ["first", "second", "third"], "each fired once");
    assert!(turns.iter().any(|turn| {
        let note = turn.note.as_deref().unwrap_or_default();
        note.contains("before rule `second` fires for #1 v3")
    }));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breakpoint_of_a_workflow_stops_all_of_its_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let rules = ["first".to_owned()];
    node.runtime
        .set_workflow_breakpoints("line", "stages", &rules, &wish("look"))
        .await
        .expect("a rule of the workflow");
    let run = node.ask("stages", r#"{"name":"x"}"#).await;
    let view = node.until(run, RunState::Paused).await;
    assert_eq!(view.stopped.and_then(|stopped| stopped.rule).as_deref(), Some("first"));
    let other = node.ask("one", r#"{"name":"x"}"#).await;
    serve_one(&node).await;
    node.until(other, RunState::Completed).await;
    node.runtime
        .set_workflow_breakpoints("line", "stages", &[], &wish("done"))
        .await
        .expect("none");
    node.runtime.resume(run, &wish("go")).await.expect("it is paused");
    serve_one(&node).await;
    serve_one(&node).await;
    node.until(run, RunState::Completed).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_workflow_keeps_its_runs_and_takes_new_ones_even_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = ready(&folder).await;
    let run = first.ask("one", r#"{"name":"x"}"#).await;
    let leased = first.lease_of("line", 1).await;
    first
        .runtime
        .pause_all("line", Some("one"), &wish("the disks are moved"))
        .await
        .expect("there is such a workflow");
    first.answer(&leased[0], None);
    let view = first.until(run, RunState::Paused).await;
    let stopped = view.stopped.expect("why");
    assert_eq!((stopped.by, stopped.actor.as_str()), (StoppedBy::Workflow, "ann"));
    first.stop().await;

    let second = node(folder.path()).await;
    assert_eq!(second.runtime.orders("line").len(), 1);
    let new = second.ask("one", r#"{"name":"y"}"#).await;
    second.until(new, RunState::Paused).await;
    let own = second.ask("stages", r#"{"name":"z"}"#).await;
    second.until(own, RunState::Running).await;
    second.runtime.pause(own, &wish("by itself")).await.expect("it runs");
    second.until(own, RunState::Paused).await;
    second
        .runtime
        .unpause_all("line", Some("one"))
        .await
        .expect("it was paused");
    for stopped in [run, new, own] {
        let told = second.runtime.act(stopped, Action::ResumeStopped, &wish("go")).await;
        told.expect("all are paused");
    }
    let leased = second.lease_of("line", 2).await;
    assert!(leased.iter().all(|leased| {
        let invocation = Invocation::decode(&leased.payload).expect("readable");
        invocation.run == new || invocation.run == own
    }));
    leased.iter().for_each(|leased| second.answer(leased, None));
    second.until(run, RunState::Completed).await;
    second.until_it(own, |view| view.state == RunState::Paused).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_done_over_from_a_rule_with_other_facts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let run = node.ask("stages", r#"{"name":"x"}"#).await;
    serve_one(&node).await;
    let early = node.runtime.restart(run, Restart::default(), &wish("again")).await;
    assert!(matches!(early, Err(RestartError::UnderWay { .. })), "{early:?}");
    serve_one(&node).await;
    node.until(run, RunState::Completed).await;
    let missing = Restart {
        rule: Some("forth".to_owned()),
        ..Restart::default()
    };
    let missing = node.runtime.restart(run, missing, &wish("again")).await;
    assert!(matches!(missing, Err(RestartError::NeverFired { .. })), "{missing:?}");
    let from = Restart {
        rule: Some("second".to_owned()),
        writes: br#"[{"update":1,"fields":{"name":"y"}}]"#.to_vec(),
        ..Restart::default()
    };
    let over = node.runtime.restart(run, from, &wish("another name")).await.expect("it has ended");
    // The first rule's call was open before that turn: it is made again.
    assert_eq!(serve_one(&node).await, r#"{"stage":1}"#);
    assert_eq!(serve_one(&node).await, r#"{"name":"y","stage":2}"#);
    let view = node.ended(over).await;
    assert_eq!(view.result.as_ref().map(|result| result.get()), Some(r#"{"name":"y"}"#));
    assert_eq!(view.labels.get(RESTARTED_FROM), Some(&run.to_string()));
    let turns = node.runtime.history(over, 0, 10).await.expect("reads").expect("there");
    assert_eq!(turns[1].causes[0].kind, "restart");
    assert_eq!(turns[1].causes[0].by.as_deref(), Some("ann"));
    let old = node.view(run).await;
    assert_eq!(old.result.as_ref().map(|result| result.get()), Some(r#"{"name":"x"}"#));

    let whole = Restart {
        writes: br#"[{"update":1,"fields":{"name":"z"}}]"#.to_vec(),
        ..Restart::default()
    };
    let over = node.runtime.restart(run, whole, &wish("from the start")).await.expect("it has ended");
    serve_one(&node).await;
    assert_eq!(serve_one(&node).await, r#"{"name":"z","stage":2}"#);
    node.until(over, RunState::Completed).await;
    node.stop().await;
}
