//! A node without workers: a real store and a real queue, with the test in the workers' place.

use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_bundle::Files;
use celesta_functions::names::function_queue;
use celesta_functions::{Invocation, Report, ReportOutcome, RunMessage, report_id};
use celesta_queue::{HandOver, LeaseRequest, Leased, NewMessage, QueueName, Queues};
use celesta_runs::{Parts, RunState, RunView, Runtime, RuntimeConfig, Submit, SubmitError};
use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use celesta_store::{Migration, Store, StoreOptions, Unit};
use celesta_types::{ErrorClass, RunId, Timestamp};

use crate::given::{self, COUNT, ECHO};

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

const LATER: &str = r#"
workflow later;

fact Wish { at: time }

rule "when it is time" {
    match  { wish: Wish where after(wish.at, "1s"); }
    action { complete(#{ at: now() }); }
}
"#;

pub(crate) fn files() -> Files {
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

[operations.later]
workflow = "later"
fact = "Wish"

[operations.failing]
workflow = "failing"
fact = "Thing"

[retention.count]
finished = "30d"
[retention.failing]
finished = "30d"
"#;
    let entries = [
        ("service.toml", service),
        ("rules/count.rules", COUNT),
        ("rules/cycle.rules", CYCLE),
        ("rules/failing.rules", FAILING),
        ("rules/later.rules", LATER),
        ("functions/echo/function.toml", ECHO),
    ];
    given::files(entries)
}

/// The schema of a node without workers.
pub(crate) fn migrations() -> Vec<Migration> {
    [celesta_queue::MIGRATIONS, celesta_runs::MIGRATIONS].concat()
}

pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) queues: Queues,
    pub(crate) store: Store,
    pub(crate) tasks: TaskSet,
}

pub(crate) async fn node(folder: &std::path::Path) -> Node {
    node_on(folder, Clock::system()).await
}

/// A node whose time is `clock`.
pub(crate) async fn node_on(folder: &std::path::Path, clock: Clock) -> Node {
    let tasks = TaskSet::new(Shutdown::new());
    let store = Store::open(
        &StoreOptions::at(folder.join("celesta.db")),
        &migrations(),
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
    pub(crate) async fn stop(self) {
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

    pub(crate) async fn submit(
        &self,
        operation: &str,
        input: &str,
        key: Option<&str>,
    ) -> Result<RunId, SubmitError> {
        let request = Submit {
            idempotency_key: key.map(str::to_owned),
            ..given::request("bench", operation, input)
        };
        self.runtime
            .submit(request, None)
            .await
            .map(|submitted| submitted.run)
    }

    /// Leases up to `max` calls of `echo`.
    pub(crate) async fn lease(&self, max: usize) -> Vec<Leased> {
        self.lease_of("bench", max).await
    }

    /// Leases up to `max` calls of the `echo` of a service.
    pub(crate) async fn lease_of(&self, service: &str, max: usize) -> Vec<Leased> {
        let queue = QueueName::new(&function_queue(service, "echo")).expect("a good name");
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
    pub(crate) fn answer(&self, leased: &Leased, error: Option<(ErrorClass, &str)>) {
        self.report(leased, error, false);
    }

    /// As [`Node::answer`], and says whether a recorded result was used.
    pub(crate) fn report(&self, leased: &Leased, error: Option<(ErrorClass, &str)>, avoided: bool) {
        answer_with(&self.queues, Clock::system().now(), leased, error, avoided);
    }

    pub(crate) async fn serve(&self, calls: usize) {
        let mut left = calls;
        while left > 0 {
            let leased = self.lease(left.min(64)).await;
            assert!(!leased.is_empty(), "{left} calls did not come");
            left -= leased.len();
            leased.iter().for_each(|leased| self.answer(leased, None));
        }
    }

    pub(crate) async fn ended(&self, run: RunId) -> RunView {
        self.runtime
            .wait(run, Duration::from_secs(20))
            .await
            .expect("the store answers")
            .expect("the run is there")
    }

    /// Waits until the run stands so; its turns are heard of one by one.
    pub(crate) async fn until(&self, run: RunId, state: RunState) -> RunView {
        loop {
            let view = self.runtime.run(run).await.expect("the store answers");
            let view = view.expect("the run is there");
            if view.state == state {
                return view;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Answers one call; with an error when `error` says so.
pub(crate) fn answer_with(
    queues: &Queues,
    now: Timestamp,
    leased: &Leased,
    error: Option<(ErrorClass, &str)>,
    avoided: bool,
) {
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
    let report = Report {
        call: invocation.call,
        attempt: u32::from(!avoided),
        started: now,
        ended: now,
        worker: "test",
        avoided,
        outcome,
    };
    let mut companion = Unit::new();
    queues
        .stage_complete(&mut companion, &[leased.lease()])
        .expect("the lease holds");
    let queue = QueueName::new("runs").expect("a good name");
    let message = NewMessage::new(report_id(leased.id), queue, RunMessage::Report(report).encode())
        .with_key(invocation.run);
    let refused = queues.hand_over(vec![HandOver {
        message: NewMessage {
            repeatable_id: true,
            ..message
        },
        companion,
    }]);
    assert!(refused.is_empty(), "{refused:?}");
}
