//! Partitions of one PostgreSQL database that reuse each other's results of pure functions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use celesta_functions::{ReportOutcome, RunMessage};
use celesta_runtime::{Clock, Shutdown, TaskSet};
use celesta_store::testing::TestDatabase;
use celesta_store::{Store, StoreOptions};
use celesta_types::{CallId, Partition, RunId};
use celesta_worker::{PartedFeed, SharedResults};
use tempfile::TempDir;

use crate::bed::{Ask, Part, work};
use crate::stage::{Function, packages};

const COUNT: u32 = 2;
/// Its result is another one each time it runs.
const UNIQUE: &str = r#"
command = ["sh", "-c", "cat >/dev/null; printf '\"%s\"' $(cat /proc/sys/kernel/random/uuid)"]
pure = true
"#;
/// It fails, and notes that it ran.
const FAILING: &str = r#"
command = ["sh", "-c", "cat >/dev/null; exit 4"]
pure = true
[retry]
attempts = 1
"#;

/// A node of a deployment of two partitions, as far as a worker needs one.
struct House {
    main: Store,
    parts: Vec<Part>,
    _folder: TempDir,
}

/// What a run heard of its call.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    avoided: bool,
    attempt: u32,
    result: Option<Vec<u8>>,
}

impl House {
    /// With `told` the results are known to all partitions.
    async fn open(database: &TestDatabase, told: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (clock, tasks) = (Clock::system(), TaskSet::new(Shutdown::new()));
        let main = StoreOptions::postgres(database.url()).in_schema("celesta");
        let main = Store::open(&main, celesta_worker::SHARED_MIGRATIONS, &clock, &tasks)
            .await
            .expect("a store");
        let telling = TaskSet::new(Shutdown::new());
        let results = SharedResults::start(main.clone(), &clock, &telling);
        if !told {
            // Whatever is durable in its partition, the process ends before others hear of it.
            assert!(telling.stop(Duration::from_secs(20)).await);
        }
        let functions = [("unique", UNIQUE), ("failing", FAILING)].map(|(name, manifest)| Function {
            name,
            manifest,
            files: &[],
        });
        let packages = packages(folder.path(), &functions);
        let feed = PartedFeed::new(COUNT, &clock, Arc::new(|_| {}), Some(results));
        let mut parts = Vec::new();
        for partition in 0..COUNT {
            let place = StoreOptions::postgres(database.url()).in_schema(&format!("p{partition}"));
            let part = Part::open(&place, celesta_queue::OWNED_MIGRATIONS, &clock, &tasks).await;
            feed.add(partition, part.feed(&clock, &tasks, &packages));
            parts.push(part);
        }
        work(folder.path(), feed, packages, clock, tasks).await;
        Self {
            main,
            parts,
            _folder: folder,
        }
    }

    fn part(&self, partition: u32) -> &Part {
        &self.parts[usize::try_from(partition).expect("it is small")]
    }

    /// Asks for a call in the partition; `seq` tells calls apart.
    async fn ask(&self, partition: u32, function: &str, seq: u64, inputs: &[&str], fresh: bool) {
        let place = Partition {
            index: partition,
            count: COUNT,
        };
        let run = place.place(RunId::from_bits(42));
        let asks = inputs.iter().zip(0..).map(|(input, index)| Ask {
            call: CallId { seq, index },
            input: (*input).to_owned(),
            fresh,
        });
        self.part(partition).ask(run, function, asks).await;
    }

    /// What the partition's run hears next.
    async fn heard(&self, partition: u32) -> Vec<Heard> {
        let messages = self.part(partition).heard().await;
        let heard = messages.iter().map(|message| {
            let RunMessage::Report(report) = RunMessage::decode(&message.payload).expect("a message") else {
                panic!("a report")
            };
            let result = match report.outcome {
                ReportOutcome::Succeeded { result } => Some(result.to_vec()),
                ReportOutcome::Failed { .. } => None,
            };
            Heard {
                avoided: report.avoided,
                attempt: report.attempt,
                result,
            }
        });
        heard.collect()
    }

    /// Asks for one call and says what came of it.
    async fn call(&self, partition: u32, function: &str, seq: u64, input: &str, fresh: bool) -> Heard {
        self.ask(partition, function, seq, &[input], fresh).await;
        self.heard(partition).await.remove(0)
    }

    async fn count(store: &Store, table: &str) -> i64 {
        let rows = store
            .fetch(&format!("SELECT COUNT(*) FROM {table}"), &[])
            .await
            .expect("the store answers");
        rows[0].int(0).expect("a number")
    }

    /// Waits until so many results are known to all.
    async fn published(&self, count: i64) {
        let look = async {
            while Self::count(&self.main, "shared_results").await < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), look).await;
        assert!(found.is_ok(), "not every result was told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_one_partition_is_reused_in_another() {
    let database = TestDatabase::create().await;
    let house = House::open(&database, true).await;
    let first = house.call(0, "unique", 1, "7", false).await;
    assert_eq!((first.avoided, first.attempt), (false, 1));
    house.published(1).await;

    let there = house.call(1, "unique", 1, "7", false).await;
    assert_eq!((there.avoided, there.attempt), (true, 0), "nothing was tried");
    assert_eq!(there.result, first.result);
    let own = &house.part(1).store;
    assert_eq!(
        House::count(own, "recorded_results").await,
        1,
        "kept in the commit that reported it"
    );
    let fresh = house.call(1, "unique", 2, "7", true).await;
    assert!(
        !fresh.avoided && fresh.result != first.result,
        "asked to run, it ran"
    );
    let other = house.call(1, "unique", 3, "8", false).await;
    assert!(!other.avoided, "another input is another result");
    house.published(2).await;
    assert_eq!(House::count(&house.main, "shared_results").await, 2);

    // From here on the partition knows by itself, and a deployment without the table goes on.
    let dropped = house.main.fetch("DROP TABLE shared_results", &[]).await;
    dropped.expect("it goes");
    assert_eq!(house.call(1, "unique", 4, "7", false).await, there);
    let lost = house.call(0, "unique", 2, "8", false).await;
    assert!(
        !lost.avoided && lost.result.is_some(),
        "a miss, and no failure: {lost:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_others_never_heard_of_is_found_anew() {
    let database = TestDatabase::create().await;
    let killed = House::open(&database, false).await;
    let first = killed.call(0, "unique", 1, "7", false).await;
    drop(killed);

    let house = House::open(&database, true).await;
    let there = house.call(1, "unique", 1, "7", false).await;
    assert!(
        !there.avoided && there.result != first.result,
        "a miss: {there:?}"
    );
    house.published(1).await;
    let again = house.call(1, "unique", 2, "7", false).await;
    assert_eq!((again.avoided, again.result), (true, there.result));
    let here = house.call(0, "unique", 2, "7", false).await;
    assert_eq!(
        (here.avoided, here.result),
        (true, first.result),
        "what a partition knows itself counts there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_never_reused_and_a_batch_is_looked_up_whole() {
    let database = TestDatabase::create().await;
    let house = House::open(&database, true).await;
    for partition in 0..COUNT {
        let failed = house.call(partition, "failing", 1, "7", false).await;
        assert_eq!((failed.avoided, failed.attempt, failed.result), (false, 1, None));
    }
    let inputs = ["1", "2", "3", "4", "5", "6", "7", "8"];
    house.ask(0, "unique", 2, &inputs, false).await;
    let mut first = BTreeSet::new();
    while first.len() < inputs.len() {
        first.extend(house.heard(0).await.into_iter().map(|heard| heard.result));
    }
    house.published(8).await;
    assert_eq!(House::count(&house.main, "shared_results").await, 8, "no failure");
    house.ask(1, "unique", 2, &inputs, false).await;
    let mut there = BTreeSet::new();
    while there.len() < inputs.len() {
        let heard = house.heard(1).await;
        assert!(heard.iter().all(|heard| heard.avoided), "{heard:?}");
        there.extend(heard.into_iter().map(|heard| heard.result));
    }
    assert_eq!(there, first);
}
