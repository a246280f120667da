//! The life of runs on a real store and a real queue, with a test in the place of the workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_bundle::{FileEntry, Files};
use celesta_functions::names::function_queue;
use celesta_functions::{Invocation, Report, ReportOutcome, RunMessage, report_id};
use celesta_queue::{HandOver, LeaseRequest, Leased, NewMessage, QueueName, Queues};
use celesta_runs::{Parts, RunFilter, RunState, RunView, Runtime, RuntimeConfig, Submit, SubmitError};
use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use celesta_store::{Migration, Store, StoreOptions, Unit};
use celesta_types::{ErrorClass, RunId};

const RULES: &str = r#"
workflow count;

fact Counter { id: string, total: int, done: int = 0, state: string = "idle" }

rule "step" {
    match    { c: Counter where c.state == "idle" && c.done < c.total; }
    action   { c.state = "waiting"; call("echo", #{ n: c.done }); }
    reaction { c.done = c.done + 1; c.state = "idle"; }
}

rule "finish" {
    match    { c: Counter where c.state == "idle" && c.done >= c.total; }
    action   { c.state = "done"; complete(#{ count: c.done }); }
}
"#;

const CYCLE: &str = r#"
workflow cycle;

fact Flip { up: bool = true }

rule "up"   { match { f: Flip where f.up; }  action { f.up = false; } }
rule "down" { match { f: Flip where !f.up; } action { f.up = true; } }
"#;

const FAILING: &str = r#"
workflow failing;

fact Thing { name: string }

rule "try" {
    match    { t: Thing; }
    action   { call("echo", #{ name: t.name }); }
    reaction { complete(#{ got: result.name }); }
}
"#;

fn files() -> Files {
    let service = r#"
name = "bench"

[operations.count]
workflow = "count"
fact = "Counter"
[operations.count.input]
type = "object"
required = ["total"]
properties = { total = { type = "integer", minimum = 0 } }
additionalProperties = false

[operations.cycle]
workflow = "cycle"
fact = "Flip"

[operations.failing]
workflow = "failing"
fact = "Thing"
"#;
    let function = "name = \"echo\"\nprotocol = \"exec\"\ncommand = [\"/bin/cat\"]\n";
    let entries = [
        ("service.toml", service),
        ("rules/count.rules", RULES),
        ("rules/cycle.rules", CYCLE),
        ("rules/failing.rules", FAILING),
        ("functions/echo/function.toml", function),
    ];
    entries
        .into_iter()
        .map(|(path, text)| (path.to_owned(), FileEntry::text(text)))
        .collect()
}

struct Node {
    runtime: Runtime,
    queues: Queues,
    store: Store,
    tasks: TaskSet,
}

async fn node(folder: &std::path::Path) -> Node {
    let tasks = TaskSet::new(Shutdown::new());
    let clock = Clock::system();
    let migrations: Vec<Migration> = [celesta_queue::MIGRATIONS, celesta_runs::MIGRATIONS].concat();
    let store = Store::open(
        &StoreOptions::at(folder.join("celesta.db")),
        &migrations,
        &clock,
        &tasks,
    )
    .await
    .expect("the store opens");
    let queues = Queues::open(&store, &clock, &tasks, celesta_queue::Options::default())
        .await
        .expect("the queues open");
    let artifacts = Artifacts::open(folder.join("artifacts"))
        .await
        .expect("the artifacts open");
    let parts = Parts {
        store: store.clone(),
        queues: queues.clone(),
        artifacts,
        clock,
        random: Random::system(),
        tasks: tasks.clone(),
    };
    let runtime = Runtime::open(RuntimeConfig::new(folder.join("bundles")), parts)
        .await
        .expect("the runtime opens");
    Node {
        runtime,
        queues,
        store,
        tasks,
    }
}

impl Node {
    async fn stop(self) {
        let Self {
            runtime,
            queues,
            store,
            tasks,
        } = self;
        tasks.shutdown().request();
        drop((runtime, queues, store));
        assert!(tasks.stop(Duration::from_secs(20)).await, "everything ends");
    }

    async fn submit(&self, operation: &str, input: &str, key: Option<&str>) -> Result<RunId, SubmitError> {
        let request = Submit {
            service: "bench".to_owned(),
            operation: operation.to_owned(),
            input: input.as_bytes().to_vec(),
            idempotency_key: key.map(str::to_owned),
            ..Submit::default()
        };
        self.runtime
            .submit(request, None)
            .await
            .map(|submitted| submitted.run)
    }

    /// Leases up to `max` calls of `echo`.
    async fn lease(&self, max: usize) -> Vec<Leased> {
        let queue = QueueName::new(&function_queue("bench", "echo")).expect("a good name");
        let request = LeaseRequest {
            metadata: Vec::new(),
            queue,
            max,
            lease_ms: None,
            wait: Duration::from_secs(20),
            consumer: "test".into(),
        };
        self.queues.lease(&request).await.expect("leasing works")
    }

    /// Answers one call; with an error when `error` says so.
    fn answer(&self, leased: &Leased, error: Option<(ErrorClass, &str)>) {
        let invocation = Invocation::decode(&leased.payload).expect("a readable invocation");
        let outcome = match error {
            None => ReportOutcome::Succeeded {
                result: invocation.input,
            },
            Some((class, message)) => ReportOutcome::Failed {
                class,
                message,
                attempts: 1,
            },
        };
        let now = Clock::system().now();
        let report = Report {
            call: invocation.call,
            attempt: 1,
            started: now,
            ended: now,
            worker: "test",
            avoided: false,
            outcome,
        };
        let mut companion = Unit::new();
        self.queues
            .stage_complete(&mut companion, &[leased.lease()])
            .expect("the lease holds");
        let queue = QueueName::new("runs").expect("a good name");
        let message = NewMessage::new(report_id(leased.id), queue, RunMessage::Report(report).encode())
            .with_key(invocation.run);
        let refused = self.queues.hand_over(vec![HandOver {
            message: NewMessage {
                repeatable_id: true,
                ..message
            },
            companion,
        }]);
        assert!(refused.is_empty(), "{refused:?}");
    }

    async fn serve(&self, calls: usize) {
        let mut left = calls;
        while left > 0 {
            let leased = self.lease(left.min(64)).await;
            assert!(!leased.is_empty(), "{left} calls did not come");
            left -= leased.len();
            leased.iter().for_each(|leased| self.answer(leased, None));
        }
    }

    async fn ended(&self, run: RunId) -> RunView {
        self.runtime
            .wait(run, Duration::from_secs(20))
            .await
            .expect("the store answers")
            .expect("the run is there")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_becomes_a_run_and_its_result_is_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node
        .submit("count", r#"{"total":3}"#, None)
        .await
        .expect("accepted");
    node.serve(3).await;
    let view = node.ended(run).await;
    assert_eq!(view.state, RunState::Completed, "{view:?}");
    assert_eq!(
        view.result.as_ref().map(|result| result.get()),
        Some(r#"{"count":3}"#)
    );
    let calls = node.runtime.calls(run).await.expect("the journal reads");
    assert_eq!(calls.len(), 3);
    assert!(
        calls
            .iter()
            .all(|call| call.attempts == 1 && call.target == "echo")
    );
    let turns = node
        .runtime
        .history(run, 0, 100)
        .await
        .expect("the journal reads")
        .expect("the run is there");
    assert_eq!(
        turns.len(),
        4,
        "one for the request and one for each result: {turns:?}"
    );
    let facts = node
        .runtime
        .facts(run, None, 0, 10)
        .await
        .expect("the run reads")
        .expect("the run is there");
    assert_eq!(facts.rows.len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_at_once_lose_and_double_nothing_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = node(folder.path()).await;
    first.runtime.push("bench", files()).await.expect("a good bundle");
    let mut runs = Vec::new();
    for _ in 0..50 {
        runs.push(
            first
                .submit("count", r#"{"total":4}"#, None)
                .await
                .expect("accepted"),
        );
    }
    first.serve(75).await;
    first.stop().await;
    let second = node(folder.path()).await;
    second.serve(125).await;
    for run in runs {
        let view = second.ended(run).await;
        assert_eq!(
            view.result.as_ref().map(|result| result.get()),
            Some(r#"{"count":4}"#),
            "{view:?}"
        );
    }
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_names_the_same_run_and_another_body_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node
        .submit("count", r#"{"total":0}"#, Some("k"))
        .await
        .expect("accepted");
    assert_eq!(
        node.submit("count", r#"{"total":0}"#, Some("k"))
            .await
            .expect("the same"),
        run
    );
    let other = node.submit("count", r#"{"total":1}"#, Some("k")).await;
    assert!(
        matches!(other, Err(SubmitError::IdempotencyConflict { run: first }) if first == run),
        "{other:?}"
    );
    let wrong = node.submit("count", r#"{"total":-1}"#, None).await;
    assert!(
        matches!(wrong, Err(SubmitError::InvalidInput { .. })),
        "{wrong:?}"
    );
    let page = node
        .runtime
        .list(&RunFilter::default(), None, 10)
        .await
        .expect("the store answers");
    assert_eq!(page.rows.len(), 1, "nothing else was stored");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_in_a_cycle_are_put_aside_and_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node.submit("cycle", "{}", None).await.expect("accepted");
    let view = node.ended(run).await;
    assert_eq!(view.state, RunState::Quarantined);
    let error = view.error.expect("a reason");
    assert!(error.contains("up") && error.contains("down"), "{error}");
    // The store still reads, and the run can be called off.
    node.runtime
        .cancel(run, "never mind")
        .await
        .expect("cancel is legal");
    loop {
        let view = node
            .runtime
            .run(run)
            .await
            .expect("the store answers")
            .expect("the run is there");
        if view.state == RunState::Canceled {
            break;
        }
        tokio::task::yield_now().await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_is_tried_again_from_its_failed_call() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node
        .submit("failing", r#"{"name":"x"}"#, None)
        .await
        .expect("accepted");
    let leased = node.lease(1).await;
    node.answer(&leased[0], Some((ErrorClass::User, "no luck")));
    let view = node.ended(run).await;
    assert_eq!(view.state, RunState::Failed, "{view:?}");
    assert!(
        view.error
            .as_deref()
            .is_some_and(|error| error.contains("no luck")),
        "{view:?}"
    );
    node.runtime
        .retry(run)
        .await
        .expect("a failed run may be tried again");
    node.serve(1).await;
    let mut view = node.ended(run).await;
    while view.state == RunState::Failed {
        tokio::task::yield_now().await;
        view = node.ended(run).await;
    }
    assert_eq!(view.state, RunState::Completed, "{view:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_told_once_each_and_end_with_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = Arc::new(node(folder.path()).await);
    node.runtime.push("bench", files()).await.expect("a good bundle");
    let run = node
        .submit("count", r#"{"total":2}"#, None)
        .await
        .expect("accepted");
    let mut events = node.runtime.events(run, 0);
    let mut seen = BTreeMap::new();
    let mut served = false;
    while let Some(batch) = events.next().await.expect("the run reads") {
        for event in batch {
            assert!(
                seen.insert((event.seq, event.index), event.kind).is_none(),
                "{event:?} was told twice"
            );
        }
        if !served {
            served = true;
            node.serve(2).await;
        }
    }
    assert_eq!(seen.values().filter(|kind| **kind == "turn").count(), 3);
    assert_eq!(seen.values().last(), Some(&"completed"));
    drop(events);
    Arc::into_inner(node).expect("no other holder").stop().await;
}
