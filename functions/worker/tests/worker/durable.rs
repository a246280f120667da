//! A worker on the real queues and the real store.

use std::sync::Arc;
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_functions::names::{RUNS_QUEUE, function_queue};
use celesta_functions::{Invocation, ReportOutcome, RunMessage};
use celesta_queue::{LeaseKeys, Leased, NewMessage, Options, QueueName, Queues, Settings};
use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use celesta_store::{Migration, Store, StoreOptions, Unit};
use celesta_types::{CallId, ErrorClass, MessageId, RunId};
use celesta_worker::{QueueFeed, Stream, Worker, WorkerConfig, WorkerParts, attempt_output, attempts};
use tempfile::TempDir;

use crate::stage::{BUNDLE, Function, guard, packages};

const RUN: RunId = RunId::from_bits(42);

struct House {
    folder: TempDir,
    store: Store,
    queues: Queues,
    tasks: TaskSet,
    artifacts: Artifacts,
}

impl House {
    async fn open(functions: &[Function<'_>]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (clock, tasks) = (Clock::system(), TaskSet::new(Shutdown::new()));
        let migrations: Vec<Migration> = [celesta_queue::MIGRATIONS, celesta_worker::MIGRATIONS].concat();
        let path = folder.path().join("celesta.db");
        let store = Store::open(&StoreOptions::at(path), &migrations, &clock, &tasks)
            .await
            .expect("a store");
        let options = Options {
            templates: vec![
                celesta_worker::queue_template(),
                (RUNS_QUEUE.to_owned(), Settings::exclusive()),
            ],
            ..Options::default()
        };
        let queues = Queues::open(&store, &clock, &tasks, options)
            .await
            .expect("queues");
        let artifacts = Artifacts::open(&folder.path().join("artifacts"))
            .await
            .expect("artifacts");
        let packages = packages(folder.path(), functions);
        let feed = QueueFeed::start(
            queues.clone(),
            store.clone(),
            &clock,
            &tasks,
            "house",
            Arc::clone(&packages),
            Arc::new(|_| {}),
        );
        let parts = WorkerParts {
            clock,
            random: Random::seeded(1),
            tasks: tasks.clone(),
            feed: feed.expect("a feed"),
            packages,
            artifacts: artifacts.clone(),
        };
        Worker::new(
            WorkerConfig::new("house", folder.path().join("worker"), guard()),
            parts,
        )
        .run()
        .expect("a worker");
        Self {
            folder,
            store,
            queues,
            tasks,
            artifacts,
        }
    }

    async fn ask(&self, function: &str, numbers: std::ops::Range<u64>) {
        let calls = numbers.map(|seq| (seq, seq.to_string(), false));
        self.ask_each(function, calls).await;
    }

    /// Asks for calls by number and input; the last says whether a recorded result will not do.
    async fn ask_each(&self, function: &str, calls: impl Iterator<Item = (u64, String, bool)>) {
        let queue = QueueName::new(&function_queue("test", function)).expect("a name");
        let messages = calls.map(|(seq, input, fresh)| {
            let call = CallId { seq, index: 0 };
            let invocation = Invocation {
                run: RUN,
                call,
                service: "test",
                function,
                bundle: BUNDLE,
                input: input.as_bytes(),
                has_artifacts: false,
                timeout_ms: None,
                trace: None,
                fresh,
            };
            NewMessage::new(MessageId::derived(RUN, call), queue.clone(), invocation.encode())
        });
        let outcomes = self.queues.enqueue(messages.collect()).await.expect("a commit");
        assert!(outcomes.iter().all(Result::is_ok));
    }

    /// What the run hears next; completed when it is read.
    async fn heard(&self) -> Vec<Leased> {
        let request = LeaseKeys {
            metadata: Vec::new(),
            queue: QueueName::new(RUNS_QUEUE).expect("a name"),
            max_keys: 1,
            max_messages_per_key: 1_000,
            lease_ms: None,
            wait: Duration::from_secs(20),
            consumer: "run".into(),
        };
        let keys = self.queues.lease_keys(&request).await.expect("a lease");
        let messages = keys.into_iter().next().expect("it comes in time").messages;
        let mut unit = Unit::new();
        let leases: Vec<_> = messages.iter().map(Leased::lease).collect();
        self.queues
            .stage_complete(&mut unit, &leases)
            .expect("our leases");
        self.store.commit(unit).await.expect("a commit");
        messages
    }

    async fn stop(self) {
        let Self {
            folder,
            store,
            queues,
            tasks,
            artifacts,
        } = self;
        // The committer ends when nobody holds the store any more.
        drop((store, queues, artifacts));
        assert!(tasks.stop(Duration::from_secs(20)).await);
        drop(folder);
    }
}

const ADDER: &str = "import json, sys\nfor line in sys.stdin:\n    r = json.loads(line)\n    print(json.dumps({'id': r['id'], 'result': r['input'] + 1}), flush=True)\n";

#[tokio::test]
async fn results_come_once_each_and_nothing_is_left_in_the_queues() {
    let manifest = "command = [\"python3\", \"adder.py\"]\nprotocol = \"serve\"\n";
    let house = House::open(&[Function {
        name: "adder",
        manifest,
        files: &[("adder.py", ADDER)],
    }])
    .await;
    house
        .queues
        .configure(
            &QueueName::new(RUNS_QUEUE).expect("a name"),
            Settings::exclusive(),
        )
        .expect("settings");
    house.ask("adder", 1..501).await;
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 500 {
        for message in house.heard().await {
            let RunMessage::Report(report) = RunMessage::decode(&message.payload).expect("a message") else {
                panic!("a report")
            };
            let ReportOutcome::Succeeded { result } = report.outcome else {
                panic!("a result")
            };
            assert_eq!(seen.insert(report.call.seq, result.to_vec()), None, "once");
        }
    }
    assert!(
        seen.iter()
            .all(|(seq, result)| *result == (seq + 1).to_string().into_bytes())
    );
    let depths = house
        .queues
        .list_queues()
        .into_iter()
        .map(|stats| house.queues.depth(&stats.queue));
    assert_eq!(depths.sum::<usize>(), 0);
    assert_eq!(
        attempts(&house.store, RUN, None).await.expect("rows"),
        Vec::new(),
        "quiet successes cost no row"
    );
    house.stop().await;
}

#[tokio::test]
async fn a_failing_call_is_tried_again_and_its_attempts_can_be_read() {
    let manifest = "command = [\"sh\", \"-c\", \"echo try $CELESTA_ATTEMPT >&2; yes | head -c 200000 >&2; exit 4\"]\n[retry]\nfirst = \"10ms\"\n";
    let house = House::open(&[Function {
        name: "failing",
        manifest,
        files: &[],
    }])
    .await;
    house
        .queues
        .configure(
            &QueueName::new(RUNS_QUEUE).expect("a name"),
            Settings::exclusive(),
        )
        .expect("settings");
    house.ask("failing", 1..2).await;
    let messages = house.heard().await;
    let RunMessage::Report(report) = RunMessage::decode(&messages[0].payload).expect("a message") else {
        panic!("a report")
    };
    let ReportOutcome::Failed {
        class,
        attempts: made,
        ..
    } = report.outcome
    else {
        panic!("a failure")
    };
    assert_eq!((class, made), (ErrorClass::User, 3));
    let call = CallId { seq: 1, index: 0 };
    let records = attempts(&house.store, RUN, Some(call)).await.expect("rows");
    assert_eq!(
        records.iter().map(|record| record.attempt).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let printed = attempt_output(&house.store, &house.artifacts, RUN, call, 2, Stream::Stderr)
        .await
        .expect("readable");
    assert!(printed.expect("recorded").starts_with(b"try 2\ny\n"));
    assert_eq!(records[1].stderr.bytes, 200_006);
    house.stop().await;
}

#[tokio::test]
async fn a_pure_function_runs_once_for_equal_inputs_unless_asked_to() {
    let manifest = r#"
command = ["sh", "-c", "cat >/dev/null; printf '\"%s\"' $(cat /proc/sys/kernel/random/uuid)"]
pure = true
"#;
    let house = House::open(&[Function {
        name: "unique",
        manifest,
        files: &[],
    }])
    .await;
    let runs = QueueName::new(RUNS_QUEUE).expect("a name");
    house
        .queues
        .configure(&runs, Settings::exclusive())
        .expect("settings");
    let mut results = Vec::new();
    for (seq, input, fresh) in [
        (1, "7", false),
        (2, "7", false),
        (3, "8", false),
        (4, "7", true),
        (5, "7", false),
    ] {
        house
            .ask_each("unique", std::iter::once((seq, input.to_owned(), fresh)))
            .await;
        let messages = house.heard().await;
        let RunMessage::Report(report) = RunMessage::decode(&messages[0].payload).expect("a message") else {
            panic!("a report")
        };
        let ReportOutcome::Succeeded { result } = report.outcome else {
            panic!("a result")
        };
        results.push((report.avoided, report.attempt, result.to_vec()));
    }
    let [first, again, other, fresh, later] = &results[..] else {
        panic!("five results")
    };
    assert_eq!((first.0, first.1), (false, 1));
    assert_eq!((again.0, again.1), (true, 0), "known: nothing was tried");
    assert_eq!(first.2, again.2);
    assert!(!other.0 && other.2 != first.2, "another input is another result");
    assert!(!fresh.0 && fresh.2 != first.2, "asked to run, it ran");
    assert_eq!(later.2, first.2, "the first result stays");
    house.stop().await;
}
