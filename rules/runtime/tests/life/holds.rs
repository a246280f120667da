//! What holds a run up: breakpoints, pauses, gates. What the simulation has found of them, in small.

use std::time::Duration;

use celesta_bundle::Files;
use celesta_runs::{Restart, RunState, Wish};
use celesta_types::RunId;
use futures_util::poll;

use crate::driven::Driven;
use crate::given::{self, COUNT, ECHO};
use crate::versions::{MOVES, SECOND, service};

const ENDS: &str = r#"
workflow ends;

fact Thing { name: string, state: string = "new", noted: bool = false }

rule "end"  { match { t: Thing where t.state == "new"; }              action { t.state = "done"; complete(#{}); } }
rule "note" { match { t: Thing where t.state == "done" && !t.noted; } action { t.noted = true; } }
"#;

const SERVICE: &str = r#"
name = "holds"

[operations.ends]
workflow = "ends"
fact = "Thing"

[operations.one]
workflow = "one"
fact = "Job"

[workflows.one]
concurrency = { runs = "sequential" }
"#;

fn holds() -> Files {
    given::files([
        ("service.toml", SERVICE),
        ("rules/ends.rules", ENDS),
        ("rules/one.rules", &given::one_call("one")),
        ("functions/echo/function.toml", ECHO),
    ])
}

impl Driven {
    async fn push(&mut self, name: &str, files: Files) {
        let runtime = self.runtime.clone();
        self.until(runtime.push(name, files))
            .await
            .expect("a good bundle");
    }

    async fn ask(&mut self, service: &str, operation: &str, input: &str) -> RunId {
        let runtime = self.runtime.clone();
        let request = given::request(service, operation, input);
        self.until(runtime.submit(request, None))
            .await
            .expect("accepted")
            .run
    }

    async fn stop_before(&mut self, run: RunId, rule: &str) {
        let runtime = self.runtime.clone();
        let setting = runtime.set_breakpoints(run, vec![rule.to_owned()], "ann");
        self.until(setting).await.expect("a rule of the workflow");
    }

    async fn resume(&mut self, run: RunId) {
        let runtime = self.runtime.clone();
        let wish = Wish::anonymous("go on");
        self.until(runtime.resume(run, &wish))
            .await
            .expect("it is paused");
    }
}

#[tokio::test]
async fn a_breakpoint_holds_a_run_that_only_the_time_has_moved() {
    let mut driven = Driven::open(1 << 20).await;
    let run = driven.ask("bench", "later", r#"{"at":1800000000000}"#).await;
    driven.rest().await;
    assert_eq!(driven.state(run).await, RunState::Idle);
    driven.stop_before(run, "when it is time").await;
    driven.rest().await;
    driven.time.advance(Duration::from_secs(5));
    driven.rest().await;
    assert_eq!(
        driven.state(run).await,
        RunState::Paused,
        "it stands before the rule"
    );
    driven.resume(run).await;
    driven.rest().await;
    assert_eq!(driven.state(run).await, RunState::Completed);
}

#[tokio::test]
async fn a_run_that_moves_to_another_version_and_stops_in_one_turn_can_be_read_again() {
    let mut driven = Driven::open(0).await;
    driven.push("bench", service(COUNT, "")).await;
    let run = driven.submit(1).await;
    driven.turn().await;
    driven.stop_before(run, "finish").await;
    driven.turn().await;
    let policy = format!("policy = \"upgrade-on-touch\"\n{MOVES}");
    driven.push("bench", service(SECOND, &policy)).await;
    driven.rest().await;
    assert_eq!(driven.state(run).await, RunState::Paused);
    let turns = driven.runtime.history(run, 0, 100).await.expect("it reads");
    let last = turns
        .and_then(|mut turns| turns.pop())
        .expect("it has taken turns");
    let kinds: Vec<&str> = last.causes.iter().map(|cause| cause.kind).collect();
    assert!(kinds.contains(&"upgrade"), "it moves and stops at once: {last:?}");
    driven.resume(run).await;
    driven.rest().await;
    assert_eq!(driven.state(run).await, RunState::Completed);
}

#[tokio::test]
async fn a_finished_run_stands_before_no_rule() {
    let mut driven = Driven::open(1 << 20).await;
    driven.push("holds", holds()).await;
    let run = driven.ask("holds", "ends", r#"{"name":"x"}"#).await;
    driven.stop_before(run, "note").await;
    driven.rest().await;
    driven.time.advance(Duration::from_secs(1));
    driven.rest().await;
    assert_eq!(driven.state(run).await, RunState::Completed);
    let facts = driven.runtime.facts(run, None, 0, 10).await.expect("it reads");
    let facts = facts.expect("the run is there").rows;
    assert!(
        facts[0].value.get().contains(r#""noted":true"#),
        "nobody could let it go on: {facts:?}"
    );
}

#[tokio::test]
async fn a_run_that_was_paused_before_it_began_is_done_over_with_its_request() {
    let mut driven = Driven::open(1 << 20).await;
    let run = driven.submit(1).await;
    let runtime = driven.runtime.clone();
    let wish = Wish::anonymous("not now");
    driven.until(runtime.pause(run, &wish)).await.expect("it runs");
    driven.rest().await;
    assert_eq!(driven.state(run).await, RunState::Paused);
    driven.resume(run).await;
    driven.rest().await;
    assert_eq!(driven.state(run).await, RunState::Completed);
    let restart = Restart {
        rule: Some("step".to_owned()),
        ..Restart::default()
    };
    let again = driven.until(runtime.restart(run, restart, &wish)).await;
    let again = again.expect("it has ended");
    driven.rest().await;
    assert_eq!(driven.state(again).await, RunState::Completed);
}

#[tokio::test]
async fn nobody_is_overtaken_at_a_gate_that_cannot_be_read() {
    let mut driven = Driven::open(1 << 20).await;
    driven.push("holds", holds()).await;
    let first = driven.ask("holds", "one", r#"{"name":"x"}"#).await;
    driven.record.refuse_reads(u32::MAX);
    assert!(driven.turn().await, "the gate cannot be read");
    driven.record.refuse_reads(0);
    let second = driven.ask("holds", "one", r#"{"name":"y"}"#).await;
    while driven.turn().await {}
    driven.time.advance(Duration::from_secs(2));
    for _ in 0..20 {
        driven.turn().await;
        tokio::task::yield_now().await;
    }
    assert_eq!(
        (driven.state(first).await, driven.state(second).await),
        (RunState::Running, RunState::Waiting)
    );
}

#[tokio::test]
async fn a_run_that_stops_while_its_pause_is_taken_back_goes_on_wherever_the_node_crashes() {
    let wish = Wish::anonymous("the disks are moved");
    for commits in 0..4 {
        let mut driven = Driven::open(1 << 20).await;
        let runtime = driven.runtime.clone();
        driven
            .until(runtime.pause_all("bench", None, &wish))
            .await
            .expect("the service is there");
        let run = driven.submit(1).await;
        let turns = runtime.take_turns(1).await.expect("the queue answers");
        runtime.evaluate(turns).await;
        // That it has stopped is not durable when somebody takes the pause back.
        let mut unpausing = Box::pin(runtime.unpause_all("bench", None, &wish));
        assert!(poll!(&mut unpausing).is_pending());
        for _ in 0..commits {
            driven.commit().await;
            if poll!(&mut unpausing).is_ready() {
                break;
            }
        }
        drop(unpausing);
        let mut driven = driven.crash().await;
        let runtime = driven.runtime.clone();
        if !runtime.orders("bench").is_empty() {
            let asking = runtime.unpause_all("bench", None, &wish);
            driven.until(asking).await.expect("the service is there");
        }
        for _ in 0..20 {
            driven.commit().await;
            driven.rest().await;
        }
        assert_eq!(
            driven.state(run).await,
            RunState::Completed,
            "after {commits} commits"
        );
    }
}
