//! Runs whose turns and commits happen one by one, as the test says: what the simulation has found, in small.

use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_functions::names::function_queue;
use celesta_queue::{LeaseRequest, QueueName, Queues};
use celesta_runs::{Parts, RunState, Runtime, RuntimeConfig, Submit, Wish, WriteFacts};
use celesta_runtime::{Clock, ManualClock, Random, Shutdown, TaskSet};
use celesta_store::driven::{Ending, Hand, Record};
use celesta_types::{RunId, Timestamp};
use futures_util::poll;

use crate::bed::{answer_with, files, migrations};
use crate::given::{self, recipes};

pub(crate) struct Driven {
    folder: tempfile::TempDir,
    pub(crate) record: Record,
    hand: Hand,
    clock: Clock,
    pub(crate) time: ManualClock,
    tasks: TaskSet,
    queues: Queues,
    pub(crate) runtime: Runtime,
}

impl Driven {
    /// A node whose cache holds so many bytes.
    pub(crate) async fn open(cache_bytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let record = Record::create(&migrations()).expect("a record");
        let (clock, time) = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
        let mut driven = Self::start(folder, record, clock, time, cache_bytes).await;
        let runtime = driven.runtime.clone();
        let pushed = drive(&mut driven.hand, pin!(runtime.push("bench", files()))).await;
        pushed.expect("a good bundle");
        driven
    }

    async fn start(
        folder: tempfile::TempDir,
        record: Record,
        clock: Clock,
        time: ManualClock,
        cache_bytes: usize,
    ) -> Self {
        let (store, mut hand) = record.open();
        let tasks = TaskSet::new(Shutdown::new());
        let opening = async {
            let queues = Queues::open(&store, &clock, &tasks, celesta_queue::Options::default()).await;
            let queues = queues.expect("the queues open");
            let artifacts = Artifacts::open(folder.path().join("artifacts")).await;
            let config = RuntimeConfig {
                evaluators: 0,
                cache_bytes,
                ..RuntimeConfig::new(folder.path().join("bundles"))
            };
            let parts = Parts {
                store: store.clone(),
                queues: queues.clone(),
                artifacts: artifacts.expect("the artifacts open"),
                clock: clock.clone(),
                random: Random::seeded(1),
                tasks: tasks.clone(),
            };
            let runtime = Runtime::open(config, parts).await.expect("the runtime opens");
            (queues, runtime)
        };
        let (queues, runtime) = drive(&mut hand, pin!(opening)).await;
        Self {
            folder,
            record,
            hand,
            clock,
            time,
            tasks,
            queues,
            runtime,
        }
    }

    /// Makes what waits durable, unheard by anybody, and ends the process; another one takes up its record.
    pub(crate) async fn crash(mut self) -> Self {
        self.hand.commit(usize::MAX, Ending::Unheard);
        let Self {
            folder,
            record,
            hand,
            clock,
            time,
            tasks,
            queues,
            runtime,
        } = self;
        drop((hand, queues, runtime));
        assert!(tasks.stop(Duration::from_secs(5)).await, "everything ends");
        Self::start(folder, record, clock, time, 1 << 20).await
    }

    /// Makes what waits durable, and lets those go on who wait for it.
    pub(crate) async fn commit(&mut self) {
        self.hand.commit(usize::MAX, Ending::Durable);
        tokio::task::yield_now().await;
    }

    /// Commits until the future is done.
    pub(crate) async fn until<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(done) = poll!(future.as_mut()) {
                return done;
            }
            self.hand.commit(usize::MAX, Ending::Durable);
            // What nobody takes in time is stored by itself.
            self.time.advance(Duration::from_millis(5));
            tokio::task::yield_now().await;
        }
    }

    /// One turn of whoever has something to do, made durable; says whether there was one.
    pub(crate) async fn turn(&mut self) -> bool {
        let turns = self.runtime.take_turns(8).await.expect("the queue answers");
        let any = !turns.is_empty();
        let runtime = self.runtime.clone();
        self.until(runtime.evaluate(turns)).await;
        self.hand.commit(usize::MAX, Ending::Durable);
        any
    }

    /// Turns until nobody has anything to do; calls are answered.
    pub(crate) async fn rest(&mut self) {
        while self.turn().await || self.answer().await {}
    }

    /// Answers all calls; says whether there were any.
    pub(crate) async fn answer(&self) -> bool {
        let request = LeaseRequest {
            metadata: Vec::new(),
            queue: QueueName::new(&function_queue("bench", "echo")).expect("a good name"),
            max: 8,
            lease_ms: None,
            wait: Duration::ZERO,
            consumer: "test".into(),
        };
        let leased = self.queues.lease(&request).await.expect("leasing works");
        for leased in &leased {
            answer_with(&self.queues, self.clock.now(), leased, None, false);
        }
        !leased.is_empty()
    }

    fn count(total: u32) -> Submit {
        given::request("bench", "count", &format!(r#"{{"total":{total}}}"#))
    }

    pub(crate) async fn submit(&mut self, total: u32) -> RunId {
        let runtime = self.runtime.clone();
        let submitting = runtime.submit(Self::count(total), None);
        let submitted = self.until(submitting).await;
        submitted.expect("it is accepted").run
    }

    async fn write(&mut self, run: RunId) {
        let runtime = self.runtime.clone();
        let writes = br#"[{"insert":"Counter","fields":{"id":"b","total":0}}]"#.to_vec();
        let writing = runtime.write_facts(
            run,
            WriteFacts {
                writes,
                idempotency_key: None,
                by: "ann".to_owned(),
            },
            Duration::ZERO,
        );
        self.until(writing).await.expect("it is taken");
    }

    pub(crate) async fn state(&self, run: RunId) -> RunState {
        let view = self.runtime.run(run).await.expect("the store answers");
        view.expect("the run is there").state
    }

    async fn facts(&self, run: RunId) -> usize {
        let page = self.runtime.facts(run, None, 0, 100).await.expect("it reads");
        page.expect("the run is there").rows.len()
    }
}

/// Commits until the future is done, at one instant.
async fn drive<T>(hand: &mut Hand, mut future: Pin<&mut impl Future<Output = T>>) -> T {
    loop {
        if let Poll::Ready(done) = poll!(future.as_mut()) {
            return done;
        }
        hand.commit(usize::MAX, Ending::Durable);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_run_that_leaves_the_cache_before_its_first_turn_is_not_lost() {
    let mut driven = Driven::open(0).await;
    let runtime = driven.runtime.clone();
    let mut submitting = pin!(runtime.submit(Driven::count(1), None));
    assert!(poll!(&mut submitting).is_pending());
    // It is leased before it is stored: its row is nowhere yet.
    assert!(driven.turn().await);
    let run = driven.until(submitting).await.expect("it is accepted").run;
    driven.rest().await;
    assert_eq!(driven.state(run).await, RunState::Completed);
}

#[tokio::test]
async fn a_turn_that_outlives_its_lease_counts_nothing_twice() {
    let mut driven = Driven::open(1 << 20).await;
    let run = driven.submit(0).await;
    driven.rest().await;
    driven.write(run).await;
    let slow = driven.runtime.take_turns(1).await.expect("the queue answers");
    assert_eq!(slow.runs().collect::<Vec<_>>(), [run]);
    driven.time.advance(Duration::from_secs(61));
    assert!(driven.turn().await, "another evaluator is given the message");
    let runtime = driven.runtime.clone();
    driven.until(runtime.evaluate(slow)).await;
    driven.hand.commit(usize::MAX, Ending::Durable);
    driven.rest().await;
    assert_eq!(driven.facts(run).await, 2, "the request's and the written one");
}

#[tokio::test]
async fn a_cancel_that_comes_after_the_result_changes_nothing() {
    let mut driven = Driven::open(1 << 20).await;
    let run = driven.submit(1).await;
    driven.turn().await;
    driven.answer().await;
    let last = driven.runtime.take_turns(1).await.expect("the queue answers");
    assert_eq!(last.messages(), 1, "the result is in the hands of an evaluator");
    let runtime = driven.runtime.clone();
    driven
        .until(runtime.cancel(run, &Wish::anonymous("late")))
        .await
        .expect("it is running");
    driven.until(runtime.evaluate(last)).await;
    driven.rest().await;
    assert_eq!(driven.state(run).await, RunState::Completed);
    driven.write(run).await;
    driven.rest().await;
    let turns = driven.runtime.history(run, 0, 100).await.expect("it reads");
    let turns = turns.expect("the run is there");
    let fired = turns.last().is_some_and(|turn| !turn.firings.is_empty());
    assert!(fired, "a completed run is always on: {turns:?}");
}

#[tokio::test]
async fn a_request_is_not_forgotten_when_another_message_overtakes_it() {
    let mut driven = Driven::open(0).await;
    let runtime = driven.runtime.clone();
    let mut submitting = pin!(runtime.submit(Driven::count(1), None));
    assert!(poll!(&mut submitting).is_pending());
    assert!(driven.turn().await, "its row is not there yet");
    let run = driven.until(submitting).await.expect("it is accepted").run;
    driven.record.refuse_reads(1);
    assert!(
        driven.turn().await,
        "the run cannot be read; its message waits a second"
    );
    driven.write(run).await;
    driven.rest().await;
    driven.time.advance(Duration::from_secs(2));
    for _ in 0..50 {
        driven.rest().await;
        // Whoever keeps the messages gives them back.
        tokio::task::yield_now().await;
    }
    assert_eq!(driven.facts(run).await, 2);
    assert_eq!(driven.state(run).await, RunState::Completed);
}

#[tokio::test]
async fn a_change_finds_the_first_run_of_its_rules_though_its_turn_is_not_durable() {
    let mut driven = Driven::open(1 << 20).await;
    let runtime = driven.runtime.clone();
    let pushed = driven.until(runtime.push("encoder", recipes::encoder())).await;
    pushed.expect("a good bundle");
    let mut submitting = pin!(runtime.submit(recipes::job("web"), None));
    assert!(poll!(&mut submitting).is_pending());
    let turns = runtime.take_turns(1).await.expect("the queue answers");
    runtime.evaluate(turns).await;
    let change = recipes::change(vec![recipes::insert("web", 23)]);
    let mut writing = pin!(runtime.write_shared("encoder", change));
    assert!(poll!(&mut writing).is_pending(), "both wait for one commit");
    driven.until(writing).await.expect("it is written");
    let run = driven.until(submitting).await.expect("it is accepted").run;
    for _ in 0..50 {
        driven.turn().await;
        tokio::task::yield_now().await;
    }
    let heard = runtime
        .facts(run, Some("Applied"), 0, 10)
        .await
        .expect("it reads");
    assert_eq!(heard.expect("the run is there").rows.len(), 1);
}
