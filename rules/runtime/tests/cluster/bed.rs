//! A node of a deployment without workers and without HTTP.

use std::sync::Arc;
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_bundle::{FileEntry, Files};
use celesta_functions::names::function_queue;
use celesta_functions::{Invocation, Report, ReportOutcome, RunMessage, report_id};
use celesta_queue::{HandOver, LeaseRequest, Leased, NewMessage, QueueName};
use celesta_runs::{
    CLUSTER_MIGRATIONS, ClusterConfig, ClusterParts, MAIN_SCHEMA, MIGRATIONS, Member, OpenError,
    PARTITION_MIGRATIONS, Partitions, Runtime, Submit, SubmitError,
};
use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use celesta_store::testing::TestDatabase;
use celesta_store::{Store, StoreOptions, Unit};
use celesta_types::{Partition, RunId};

use crate::given::{self, COUNT, ECHO};

const SERVICE: &str = r#"
name = "bench"

[operations.count]
workflow = "count"
fact = "Counter"
"#;

fn files() -> Files {
    given::files([
        ("service.toml", SERVICE),
        ("rules/count.rules", COUNT),
        ("functions/echo/function.toml", ECHO),
    ])
}

pub(crate) fn monotonic() -> Duration {
    Clock::system().monotonic()
}

/// A node; what it started ends with the test's runtime.
pub(crate) struct Node {
    pub(crate) partitions: Partitions,
    pub(crate) tasks: TaskSet,
    pub(crate) address: String,
    _folder: tempfile::TempDir,
}

impl Node {
    /// Takes part in the deployment in `database` and waits until everything has an owner.
    pub(crate) async fn start(database: &TestDatabase, name: &str, partitions: u32) -> Self {
        let node = Self::try_start(database, &[], name, partitions).await;
        node.expect("it takes part")
    }

    /// The same over more databases, each `NAME=URL`.
    pub(crate) async fn try_start(
        database: &TestDatabase,
        named: &[String],
        name: &str,
        partitions: u32,
    ) -> Result<Self, OpenError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let set = || TaskSet::new(Shutdown::new());
        let (tasks, keepers, clock) = (set(), set(), Clock::system());
        let main = [MIGRATIONS, CLUSTER_MIGRATIONS].concat();
        let place = StoreOptions::postgres(database.url()).in_schema(MAIN_SCHEMA);
        let store = Store::open(&place, &main, &clock, &keepers)
            .await
            .expect("the store opens");
        let artifacts = Artifacts::open(folder.path().join("artifacts"))
            .await
            .expect("the artifacts open");
        let parts = ClusterParts {
            store,
            databases: celesta_runs::Databases::new(&database.url(), named).expect("good names"),
            migrations: [celesta_queue::OWNED_MIGRATIONS, MIGRATIONS, PARTITION_MIGRATIONS].concat(),
            queues: celesta_queue::Options::default(),
            artifacts,
            clock,
            random: Random::system(),
            tasks: tasks.clone(),
            keepers,
        };
        let config = ClusterConfig {
            node: name.to_owned(),
            partitions: partitions.min(64),
            bundles: folder.path().join("bundles"),
            events_kept: None,
        };
        let partitions = Partitions::open(config, parts).await?;
        let address = format!("http://{name}.test:1");
        partitions.join(address.clone()).await?;
        Ok(Self {
            partitions,
            tasks,
            address,
            _folder: folder,
        })
    }

    pub(crate) async fn push(&self) {
        let pushed = self.partitions.home().push("bench", files()).await;
        pushed.expect("a good bundle");
    }

    /// Another version: runs of the one before go on with that.
    pub(crate) async fn push_another(&self) {
        let mut files = files();
        let rules = FileEntry::text(&format!("{COUNT}\n// another\n"));
        files.insert("rules/count.rules".to_owned(), rules);
        let pushed = self.partitions.home().push("bench", files).await;
        pushed.expect("a good bundle");
    }

    pub(crate) fn owned(&self) -> Vec<u32> {
        let members = self.partitions.members();
        members.iter().map(|member| member.partition.index).collect()
    }

    pub(crate) fn member_of(&self, run: RunId) -> Arc<Member> {
        let partition = Partition::of_run(run, self.partitions.count());
        self.partitions.here(partition.index).expect("it is here")
    }

    /// Waits until what this node knows and has is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Self) -> bool) {
        let mut changes = self.partitions.changes();
        let look = async {
            while !wanted(self) {
                changes.changed().await.expect("the node lives");
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), look).await;
        assert!(found.is_ok(), "{:?} {:?}", self.owned(), self.partitions.seen());
    }

    pub(crate) async fn leave(self) {
        self.partitions.leave().await;
        assert_eq!(self.owned(), [0; 0], "everything was given up");
        self.tasks.shutdown().request();
    }
}

pub(crate) async fn submit(runtime: &Runtime, total: u32, key: Option<&str>) -> Result<RunId, SubmitError> {
    let input = format!(r#"{{"id":"c","total":{total}}}"#);
    let request = Submit {
        idempotency_key: key.map(str::to_owned),
        ..given::request("bench", "count", &input)
    };
    runtime.submit(request, None).await.map(|submitted| submitted.run)
}

/// Answers one call of `echo` in the partition, in the worker's place.
pub(crate) async fn serve_one(member: &Member) {
    let leased = lease_one(member).await.expect("a call waits");
    answer(member, &leased);
}

/// A call of `echo` in the partition, when one comes in time.
pub(crate) async fn lease_one(member: &Member) -> Option<Leased> {
    let queue = QueueName::new(&function_queue("bench", "echo")).expect("a good name");
    let request = LeaseRequest {
        metadata: Vec::new(),
        queue,
        max: 1,
        lease_ms: None,
        wait: Duration::from_secs(20),
        consumer: "test".into(),
    };
    member.queues.lease(&request).await.ok()?.pop()
}

/// Answers the call with its input.
pub(crate) fn answer(member: &Member, leased: &Leased) {
    let invocation = Invocation::decode(&leased.payload).expect("a readable invocation");
    let now = Clock::system().now();
    let report = Report {
        call: invocation.call,
        attempt: 1,
        started: now,
        ended: now,
        worker: "test",
        avoided: false,
        outcome: ReportOutcome::Succeeded {
            result: invocation.input,
        },
    };
    let mut companion = Unit::new();
    member
        .queues
        .stage_complete(&mut companion, &[leased.lease()])
        .expect("the lease holds");
    let runs = QueueName::new("runs").expect("a good name");
    let message = NewMessage::new(report_id(leased.id), runs, RunMessage::Report(report).encode());
    let message = NewMessage {
        repeatable_id: true,
        ..message.with_key(invocation.run)
    };
    let refused = member.queues.hand_over(vec![HandOver { message, companion }]);
    assert!(refused.is_empty(), "{refused:?}");
}
