//! Stopping runs before rules fire, stopping all runs of a workflow, and doing runs over.

use celesta_functions::Invocation;
use celesta_queue::QueueName;
use celesta_runs::{
    Action, Bulk, LifecycleError, OPERATION_RATE, OperationState, OperationStep, OperationView,
    RESTARTED_FROM, Restart, RestartError, RunFilter, RunState, StoppedBy, Wish,
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

async fn until_ended(node: &Node, id: celesta_types::OperationId) -> OperationView {
    loop {
        let view = node.runtime.operation(id).await.expect("reads").expect("there");
        if view.state.is_ended() {
            return view;
        }
        tokio::task::yield_now().await;
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
    let wrong = first
        .runtime
        .set_breakpoints(run, vec!["forth".to_owned()], "ann")
        .await;
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
    assert_eq!(
        stopped.facts,
        [(1, 3)],
        "the job, as the first rule's reaction left it"
    );
    first.stop().await;

    let second = node(folder.path()).await;
    second
        .runtime
        .act(run, Action::Step, &wish("look"))
        .await
        .expect("it is paused");
    assert_eq!(serve_one(&second).await, r#"{"name":"x","stage":2}"#);
    // The step was one firing: what comes back makes the next rule ready, which fires freely.
    let view = second.ended(run).await;
    assert_eq!(view.state, RunState::Completed, "{view:?}");
    assert!(view.stopped.is_none());
    let turns = second
        .runtime
        .history(run, 0, 20)
        .await
        .expect("reads")
        .expect("there");
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
    assert_eq!(
        view.stopped.and_then(|stopped| stopped.rule).as_deref(),
        Some("first")
    );
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
    second
        .runtime
        .pause(own, &wish("by itself"))
        .await
        .expect("it runs");
    second.until(own, RunState::Paused).await;
    let operation = second
        .runtime
        .unpause_all("line", None, &wish("go"))
        .await
        .expect("there is such a service");
    // The order was for the workflow: nothing goes on.
    until_ended(&second, operation.id).await;
    // What it told the runs would let them go on once the order is taken back: it is heard before that.
    let runs = QueueName::new("runs").expect("a good name");
    while second.queues.depth(&runs) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(second.view(run).await.state, RunState::Paused);
    let operation = second
        .runtime
        .unpause_all("line", Some("one"), &wish("go"))
        .await
        .expect("it was paused");
    let operation = until_ended(&second, operation.id).await;
    assert_eq!((operation.seen, operation.done), (2, 2), "{operation:?}");
    second.until(run, RunState::Completed).await;
    second.until(new, RunState::Running).await;
    assert_eq!(
        second.view(own).await.state,
        RunState::Paused,
        "it was paused by itself"
    );
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_done_over_from_a_rule_with_other_facts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let run = node.ask("stages", r#"{"name":"x"}"#).await;
    serve_one(&node).await;
    let early = node
        .runtime
        .restart(run, Restart::default(), &wish("again"))
        .await;
    assert!(matches!(early, Err(RestartError::UnderWay { .. })), "{early:?}");
    serve_one(&node).await;
    node.until(run, RunState::Completed).await;
    let missing = Restart {
        rule: Some("forth".to_owned()),
        ..Restart::default()
    };
    let missing = node.runtime.restart(run, missing, &wish("again")).await;
    assert!(
        matches!(missing, Err(RestartError::NeverFired { .. })),
        "{missing:?}"
    );
    let from = Restart {
        rule: Some("second".to_owned()),
        writes: br#"[{"update":1,"fields":{"name":"y"}}]"#.to_vec(),
        ..Restart::default()
    };
    let over = node
        .runtime
        .restart(run, from, &wish("another name"))
        .await
        .expect("it has ended");
    // The first rule's call was open before that turn: it is made again.
    assert_eq!(serve_one(&node).await, r#"{"stage":1}"#);
    assert_eq!(serve_one(&node).await, r#"{"name":"y","stage":2}"#);
    let view = node.ended(over).await;
    assert_eq!(
        view.result.as_ref().map(|result| result.get()),
        Some(r#"{"name":"y"}"#)
    );
    assert_eq!(view.labels.get(RESTARTED_FROM), Some(&run.to_string()));
    let turns = node
        .runtime
        .history(over, 0, 10)
        .await
        .expect("reads")
        .expect("there");
    assert_eq!(turns[1].causes[0].kind, "restart");
    assert_eq!(turns[1].causes[0].by.as_deref(), Some("ann"));
    let old = node.view(run).await;
    assert_eq!(
        old.result.as_ref().map(|result| result.get()),
        Some(r#"{"name":"x"}"#)
    );

    let whole = Restart {
        writes: br#"[{"update":1,"fields":{"name":"z"}}]"#.to_vec(),
        ..Restart::default()
    };
    let over = node
        .runtime
        .restart(run, whole, &wish("from the start"))
        .await
        .expect("it has ended");
    serve_one(&node).await;
    assert_eq!(serve_one(&node).await, r#"{"name":"z","stage":2}"#);
    node.until(over, RunState::Completed).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_operation_does_it_to_each_run_once_even_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = ready(&folder).await;
    let mut runs = Vec::new();
    for at in 0..600 {
        runs.push(first.ask("one", &format!(r#"{{"name":"{at}"}}"#)).await);
    }
    let other = first.ask("stages", r#"{"name":"x"}"#).await;
    let bulk = |rate| Bulk {
        action: Action::Cancel,
        filter: RunFilter {
            service: Some("line".to_owned()),
            operation: Some("one".to_owned()),
            ..RunFilter::default()
        },
        rate,
    };
    let everything = Bulk {
        filter: RunFilter::default(),
        ..bulk(OPERATION_RATE)
    };
    assert!(
        first
            .runtime
            .begin_operation(everything, &wish("all"))
            .await
            .is_err()
    );
    assert_eq!(
        first.runtime.preview_operation(&bulk(1)).await.expect("counts"),
        600
    );
    // So slow that it does not come to its second page before it is paused.
    let operation = first
        .runtime
        .begin_operation(bulk(1), &wish("all of them"))
        .await
        .expect("begun");
    loop {
        let view = first
            .runtime
            .operation(operation.id)
            .await
            .expect("reads")
            .expect("there");
        if view.seen > 0 {
            assert_eq!((view.seen, view.done), (256, 256), "one page");
            break;
        }
        tokio::task::yield_now().await;
    }
    let paused = first
        .runtime
        .change_operation(operation.id, OperationStep::Pause)
        .await;
    assert_eq!(paused.expect("it runs").state, OperationState::Paused);
    first.stop().await;

    let second = node(folder.path()).await;
    let view = second
        .runtime
        .operation(operation.id)
        .await
        .expect("reads")
        .expect("there");
    assert_eq!((view.state, view.seen), (OperationState::Paused, 256));
    let aborted = second
        .runtime
        .change_operation(operation.id, OperationStep::Abort)
        .await;
    assert!(aborted.expect("it has not ended").ended_at.is_some());
    let rest = second
        .runtime
        .begin_operation(bulk(100_000), &wish("the rest"))
        .await
        .expect("begun");
    let rest = until_ended(&second, rest.id).await;
    assert_eq!(rest.seen, 600);
    assert_eq!(rest.done + rest.refused, 600);
    for run in runs {
        second.until(run, RunState::Canceled).await;
        let turns = second
            .runtime
            .history(run, 0, 10)
            .await
            .expect("reads")
            .expect("there");
        let causes = turns.iter().flat_map(|turn| &turn.causes);
        assert_eq!(causes.filter(|cause| cause.kind == "cancel").count(), 1);
    }
    assert_eq!(second.view(other).await.state, RunState::Running);
    let all = second.runtime.operations(None, 1).await.expect("reads");
    assert_eq!((all.rows[0].id, all.next.is_some()), (rest.id, true));
    second.stop().await;
}
