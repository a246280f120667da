//! A worker on the real queues and the real store.

use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_functions::{ReportOutcome, RunMessage};
use celesta_runtime::{Clock, Shutdown, TaskSet};
use celesta_store::StoreOptions;
use celesta_types::{CallId, ErrorClass, RunId};
use celesta_worker::{Stream, attempt_output, attempts};
use tempfile::TempDir;

use crate::bed::{Ask, Part, work};
use crate::stage::{Function, packages};

const RUN: RunId = RunId::from_bits(42);

struct House {
    folder: TempDir,
    part: Part,
    tasks: TaskSet,
    artifacts: Artifacts,
}

impl House {
    async fn open(functions: &[Function<'_>]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (clock, tasks) = (Clock::system(), TaskSet::new(Shutdown::new()));
        let place = StoreOptions::at(folder.path().join("celesta.db"));
        let part = Part::open(&place, celesta_queue::MIGRATIONS, &clock, &tasks).await;
        let packages = packages(folder.path(), functions);
        let feed = part.feed(&clock, &tasks, &packages);
        let artifacts = work(folder.path(), feed, packages, clock, tasks.clone()).await;
        Self {
            folder,
            part,
            tasks,
            artifacts,
        }
    }

    /// Asks for calls by number, which is their input too.
    async fn ask(&self, function: &str, numbers: std::ops::Range<u64>) {
        let asks = numbers.map(|seq| Ask {
            call: CallId { seq, index: 0 },
            input: seq.to_string(),
            fresh: false,
        });
        self.part.ask(RUN, function, asks).await;
    }

    async fn stop(self) {
        let Self {
            folder,
            part,
            tasks,
            artifacts,
        } = self;
        // The committer ends when nobody holds the store any more.
        drop((part, artifacts));
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
    house.ask("adder", 1..501).await;
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 500 {
        for message in house.part.heard().await {
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
        .part
        .queues
        .list_queues()
        .into_iter()
        .map(|stats| house.part.queues.depth(&stats.queue));
    assert_eq!(depths.sum::<usize>(), 0);
    assert_eq!(
        attempts(&house.part.store, RUN, None).await.expect("rows"),
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
    house.ask("failing", 1..2).await;
    let messages = house.part.heard().await;
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
    let records = attempts(&house.part.store, RUN, Some(call)).await.expect("rows");
    assert_eq!(
        records.iter().map(|record| record.attempt).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let printed = attempt_output(&house.part.store, &house.artifacts, RUN, call, 2, Stream::Stderr)
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
    let mut results = Vec::new();
    for (seq, input, fresh) in [
        (1, "7", false),
        (2, "7", false),
        (3, "8", false),
        (4, "7", true),
        (5, "7", false),
    ] {
        let ask = Ask {
            call: CallId { seq, index: 0 },
            input: input.to_owned(),
            fresh,
        };
        house.part.ask(RUN, "unique", std::iter::once(ask)).await;
        let messages = house.part.heard().await;
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
