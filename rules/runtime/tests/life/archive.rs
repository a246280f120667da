//! Finished runs are archived after their time, and nobody who asks for them can tell but by one word.

use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_runs::invariants::{Blobs, check};
use celesta_runs::{LifecycleError, RunFilter, RunState, Wish, WriteError, WriteFacts};
use celesta_runtime::Clock;
use celesta_store::Snapshot;
use celesta_types::{ErrorClass, RunId, Timestamp};
use serde_json::Value;

use super::bed::{Node, files, migrations, node_on};

/// Everything a client may read of a run.
async fn told(node: &Node, run: RunId) -> Value {
    let runtime = &node.runtime;
    let mut view = serde_json::to_value(runtime.run(run).await.expect("it reads")).expect("JSON");
    let archived = view.as_object_mut().and_then(|view| view.remove("archived"));
    let history = runtime.history(run, 0, 100).await.expect("it reads");
    let facts = runtime.facts(run, None, 0, 100).await.expect("it reads");
    let calls = runtime.calls(run).await.expect("it reads");
    assert!(archived.is_none_or(|archived| archived == true));
    serde_json::json!({ "view": view, "history": history, "facts": facts, "calls": calls })
}

/// By filters, page by page, without their requests.
async fn archived_runs_stand_in_lists_of_their_own(node: &Node, finished: &[RunId], failed: RunId) {
    let list = async |filter: RunFilter, cursor: Option<RunId>, limit: usize| {
        let page = node.runtime.list_archived(&filter, cursor, limit).await;
        let page = page.expect("it reads");
        assert!(page.rows.iter().all(|row| row.archived && row.input.is_none()));
        let rows: Vec<RunId> = page.rows.iter().map(|row| row.id).collect();
        (rows, page.next.map(|next| next.parse().expect("a run")))
    };
    let all = RunFilter::default;
    // Made in one millisecond, they stand in the order of their ids.
    let mut newest = finished.to_vec();
    newest.sort_unstable_by(|a, b| b.cmp(a));
    let mut every = [finished, &[failed]].concat();
    every.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(list(all(), None, 10).await, (every.clone(), None));
    let (first, next) = list(all(), None, 3).await;
    assert_eq!((first.as_slice(), next), (&every[..3], Some(every[2])));
    assert_eq!(list(all(), next, 3).await, (every[3..].to_vec(), None));
    let of = RunFilter {
        service: Some("bench".to_owned()),
        workflow: Some("count".to_owned()),
        state: Some(RunState::Completed),
        ..all()
    };
    assert_eq!(list(of.clone(), None, 10).await.0, newest);
    for nothing in [
        RunFilter {
            service: Some("other".to_owned()),
            ..all()
        },
        RunFilter {
            label: Some(("a".to_owned(), "b".to_owned())),
            ..all()
        },
        RunFilter {
            state: Some(RunState::Failed),
            ..of
        },
        RunFilter {
            created_before: Some(Timestamp::from_millis(1_700_000_000_000)),
            ..all()
        },
        RunFilter {
            created_after: Some(Timestamp::from_millis(1_800_000_000_000)),
            ..all()
        },
    ] {
        assert_eq!(list(nothing, None, 10).await, (Vec::new(), None));
    }
}

async fn count(node: &Node, table: &str) -> i64 {
    let rows = node
        .store
        .fetch(&format!("SELECT count(*) FROM {table}"), &[])
        .await;
    rows.expect("it reads")[0].int(0).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_runs_are_archived_and_answer_as_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (clock, hand) = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let node = node_on(folder.path(), clock).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let mut finished = Vec::new();
    for total in 0..3 {
        let input = format!("{{\"total\":{total}}}");
        let run = node
            .submit("count", &input, Some(&input))
            .await
            .expect("accepted");
        node.serve(total).await;
        node.ended(run).await;
        finished.push(run);
    }
    let failed = node
        .submit("failing", r#"{"name":"x"}"#, None)
        .await
        .expect("accepted");
    let leased = node.lease(1).await;
    node.answer(&leased[0], Some((ErrorClass::User, "no")));
    node.ended(failed).await;
    let kept = node.submit("cycle", "{}", None).await.expect("accepted");
    node.ended(kept).await;
    let live = node
        .submit("count", r#"{"total":2}"#, None)
        .await
        .expect("accepted");
    node.serve(1).await;
    let mut before = Vec::new();
    for run in finished.iter().chain([&failed]) {
        before.push(told(&node, *run).await);
    }

    hand.advance(Duration::from_secs(29 * 24 * 3_600));
    assert_eq!(count(&node, "archived").await, 0, "their time is not over");
    hand.advance(Duration::from_secs(2 * 24 * 3_600));
    while count(&node, "archived").await < 4 {
        hand.advance(Duration::from_secs(61));
        tokio::task::yield_now().await;
    }
    for (run, before) in finished.iter().chain([&failed]).zip(&before) {
        let view = node.runtime.run(*run).await.expect("it reads").expect("there");
        assert!(view.archived);
        assert_eq!(told(&node, *run).await, *before);
    }
    assert_eq!(
        count(&node, "runs").await,
        2,
        "what is live, and what was put aside"
    );
    assert_eq!(count(&node, "archived").await, 4);
    assert_eq!(count(&node, "idempotency").await, 0);
    let page = node.runtime.list(&RunFilter::default(), None, 10).await;
    assert_eq!(page.expect("it reads").rows.len(), 2);
    archived_runs_stand_in_lists_of_their_own(&node, &finished, failed).await;

    // Nothing moves in the archive; its request may be made again.
    let canceled = node.runtime.retry(failed, &Wish::anonymous("")).await;
    assert!(
        matches!(canceled, Err(LifecycleError::Archived { .. })),
        "{canceled:?}"
    );
    let writes = WriteFacts {
        writes: br#"[{"retract":1}]"#.to_vec(),
        idempotency_key: None,
        by: "somebody".to_owned(),
    };
    let written = node
        .runtime
        .write_facts(finished[0], writes, Duration::ZERO)
        .await;
    assert!(
        matches!(
            written,
            Err(WriteError::Lifecycle(LifecycleError::Archived { .. }))
        ),
        "{written:?}"
    );
    let clone = node.runtime.clone_run(finished[0], None).await.expect("accepted");
    let clone = clone.expect("its request is known").run;
    assert_eq!(node.ended(clone).await.state, RunState::Completed);
    node.serve(1).await;
    assert_eq!(
        node.ended(live).await.state,
        RunState::Completed,
        "live ones go on"
    );
    node.stop().await;

    let mut snapshot = Snapshot::open(&folder.path().join("celesta.db"), &migrations())
        .await
        .expect("a store");
    let artifacts = Artifacts::reading(folder.path().join("artifacts"));
    let blobs = Blobs {
        artifacts: &artifacts,
        hash: true,
    };
    let findings = check(&mut snapshot, blobs).await.expect("it reads");
    assert!(findings.is_sound(), "{findings:#?}");
    drop(snapshot);
    let again = node_on(folder.path(), Clock::system()).await;
    assert_eq!(told(&again, finished[2]).await, before[2], "after a restart too");
    again.stop().await;
}
