//! What people do to runs: pause them, write their facts, run their request again.

use std::time::Duration;

use celesta_runs::{CLONED_FROM, LifecycleError, RunState, Wish, WriteError, WriteFacts};

use crate::bed::{Node, files, node};
use crate::given;

const PATIENCE: Duration = Duration::from_secs(20);

async fn ready(folder: &tempfile::TempDir) -> Node {
    let node = node(folder.path()).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    node
}

fn writes(json: &str) -> WriteFacts {
    WriteFacts {
        writes: json.as_bytes().to_vec(),
        idempotency_key: None,
        by: "ann".to_owned(),
    }
}

fn why(reason: &str) -> Wish {
    Wish {
        reason: reason.to_owned(),
        by: "ann".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_keeps_its_results_until_it_goes_on_even_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = ready(&folder).await;
    let run = first
        .submit("count", r#"{"total":3}"#, None)
        .await
        .expect("accepted");
    let leased = first.lease(1).await;
    first
        .runtime
        .pause(run, &why("the disks are moved"))
        .await
        .expect("a running run may be paused");
    first.until(run, RunState::Paused).await;
    // The call that ran goes on; its result waits.
    first.answer(&leased[0], None);
    first
        .runtime
        .pause(run, &why("again"))
        .await
        .expect("pausing twice is legal");
    first.stop().await;

    let second = node(folder.path()).await;
    let turns = second
        .runtime
        .history(run, 0, 100)
        .await
        .expect("the journal reads")
        .expect("the run is there");
    let notes: Vec<_> = turns.iter().filter_map(|turn| turn.note.as_deref()).collect();
    assert!(notes[0].contains("the disks are moved"), "{notes:?}");
    assert!(
        notes.iter().any(|note| note.contains("1 messages wait")),
        "{notes:?}"
    );
    assert_eq!(
        second
            .runtime
            .run(run)
            .await
            .expect("reads")
            .expect("there")
            .state,
        RunState::Paused
    );
    second
        .runtime
        .resume(run, &why("done"))
        .await
        .expect("a paused run may go on");
    second.serve(2).await;
    let view = second.ended(run).await;
    assert_eq!(
        view.result.as_ref().map(|result| result.get()),
        Some(r#"{"count":3}"#),
        "{view:?}"
    );
    let again = second.runtime.resume(run, &why("once more")).await;
    assert!(matches!(again, Err(LifecycleError::Illegal(_))), "{again:?}");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_can_be_called_off() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let run = node
        .submit("count", r#"{"total":3}"#, None)
        .await
        .expect("accepted");
    node.lease(1).await;
    node.runtime.pause(run, &why("wait")).await.expect("legal");
    node.until(run, RunState::Paused).await;
    node.runtime.cancel(run, &why("no more")).await.expect("legal");
    node.until(run, RunState::Canceled).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_written_from_outside_move_a_run_once_each() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let run = node
        .submit("failing", r#"{"name":"x"}"#, None)
        .await
        .expect("accepted");
    node.serve(1).await;
    node.until(run, RunState::Completed).await;
    let keyed = || WriteFacts {
        idempotency_key: Some("k".to_owned()),
        ..writes(
            r#"[{"insert":"Thing","fields":{"name":"y"}},{"insert":"Nothing"},{"update":1,"version":9,"fields":{"name":"z"}}]"#,
        )
    };
    let written = node
        .runtime
        .write_facts(run, keyed(), PATIENCE)
        .await
        .expect("taken")
        .expect("heard of");
    assert_eq!(written.writes, 3);
    let refused: Vec<_> = written.refused.iter().map(|(at, _)| *at).collect();
    assert_eq!(refused, [1, 2], "{written:?}");
    assert!(written.refused[1].1.contains("version"), "{written:?}");
    let again = node
        .runtime
        .write_facts(run, keyed(), PATIENCE)
        .await
        .expect("the same");
    assert_eq!(again, None, "the key was used: nothing is written twice");
    // The new fact matches the rule: one more call.
    node.serve(1).await;
    let facts = node
        .runtime
        .facts(run, None, 0, 10)
        .await
        .expect("reads")
        .expect("there");
    assert_eq!(facts.rows.len(), 2);
    let other = WriteFacts {
        idempotency_key: Some("k".to_owned()),
        ..writes(r#"[{"retract":1}]"#)
    };
    let other = node.runtime.write_facts(run, other, PATIENCE).await;
    assert!(matches!(other, Err(WriteError::IdempotencyConflict)), "{other:?}");
    for wrong in ["{}", "[]", r#"[{"insert":"Thing","update":1}]"#] {
        let refused = node.runtime.write_facts(run, writes(wrong), PATIENCE).await;
        assert!(
            matches!(refused, Err(WriteError::Invalid { .. })),
            "{wrong}: {refused:?}"
        );
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_a_new_run_of_the_same_request() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = ready(&folder).await;
    let run = node
        .submit("count", r#"{"total":1}"#, None)
        .await
        .expect("accepted");
    node.serve(1).await;
    node.until(run, RunState::Completed).await;
    let clone = node
        .runtime
        .clone_run(run, None)
        .await
        .expect("accepted")
        .expect("the run is there");
    assert_ne!(clone.run, run);
    node.serve(1).await;
    let view = node.until(clone.run, RunState::Completed).await;
    assert_eq!(view.labels.get(CLONED_FROM), Some(&run.to_string()));
    assert_eq!(
        view.input.map(|input| input.get().to_owned()).as_deref(),
        Some(r#"{"total":1}"#)
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_on_the_time_wakes_its_run_even_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = ready(&folder).await;
    let asked = celesta_runtime::Clock::system().now().as_millis();
    let run = first
        .submit("later", &format!(r#"{{"at":{asked}}}"#), None)
        .await
        .expect("accepted");
    first.until(run, RunState::Idle).await;
    first.stop().await;
    let second = node(folder.path()).await;
    let view = second.ended(run).await;
    let result: serde_json::Value =
        serde_json::from_str(view.result.expect("completed").get()).expect("JSON");
    let at = result["at"].as_i64().expect("an instant");
    assert!(at >= asked + 1_000, "{at} is not a second after {asked}");
    let turns = second
        .runtime
        .history(run, 0, 10)
        .await
        .expect("reads")
        .expect("there");
    assert_eq!(turns.len(), 2, "nothing was polled: {turns:?}");
    assert_eq!(turns[1].causes[0].kind, "time");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_were_avoided_are_counted_and_a_run_may_want_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = ready(&folder).await;
    let run = first
        .submit("count", r#"{"total":3}"#, None)
        .await
        .expect("accepted");
    for avoided in [true, false] {
        let leased = first.lease(1).await;
        first.report(&leased[0], None, avoided);
    }
    let leased = first.lease(1).await;
    first.stop().await;
    let second = node(folder.path()).await;
    let again = second.lease(1).await;
    assert_eq!(again[0].id, leased[0].id);
    second.report(&again[0], None, true);
    let view = second.ended(run).await;
    assert_eq!(
        view.avoided, 2,
        "what was counted before the restart counts: {view:?}"
    );
    let calls = second.runtime.calls(run).await.expect("reads");
    let avoided: Vec<bool> = calls.iter().map(|call| call.avoided).collect();
    assert_eq!(avoided, [true, false, true]);

    let fresh = celesta_runs::Submit {
        fresh: true,
        ..given::request("bench", "count", r#"{"total":1}"#)
    };
    second.runtime.submit(fresh, None).await.expect("accepted");
    let leased = second.lease(1).await;
    let invocation = celesta_functions::Invocation::decode(&leased[0].payload).expect("readable");
    assert!(invocation.fresh);
    second.stop().await;
}
