//! Sweeps over finished runs: counted, told once each, paused, given up, gone on with after a restart, and never in
//! each other's way.

use std::time::Duration;

use celesta_runs::{
    NewSweep, Order, RunState, SWEEP_RATE, Selection, Submit, SweepError, SweepFilter, SweepState, SweepView,
};
use celesta_types::SweepId;

use crate::bed::{Node, files, node};
use crate::damage::damage;
use crate::driven::Driven;
use crate::given::recipes;

const RUNS: u64 = 30;

impl Node {
    async fn finished_runs(&self) {
        self.runtime.push("bench", files()).await.expect("a good bundle");
        for _ in 0..RUNS {
            let run = self
                .submit("count", r#"{"total":0}"#, None)
                .await
                .expect("accepted");
            assert_eq!(self.ended(run).await.state, RunState::Completed);
        }
    }

    /// Waits until the sweep is as wanted.
    pub(crate) async fn sweep_until(&self, sweep: SweepId, wanted: impl Fn(&SweepView) -> bool) -> SweepView {
        loop {
            let view = self.runtime.show_sweep(sweep).await.expect("the store answers");
            let view = view.expect("the sweep is there");
            if wanted(&view) {
                return view;
            }
            assert!(!view.state.is_ended(), "{view:?}");
            tokio::task::yield_now().await;
        }
    }
}

/// A sweep over the finished runs of the workflow `count`.
fn over_count(rate: u32, hold: bool) -> NewSweep {
    over("bench", "count", rate, hold)
}

fn over(service: &str, workflow: &str, rate: u32, hold: bool) -> NewSweep {
    NewSweep {
        id: None,
        service: service.to_owned(),
        cause: "a test".to_owned(),
        rules: Vec::new(),
        selection: Selection::Runs(SweepFilter {
            workflow: Some(workflow.to_owned()),
            states: vec![RunState::Completed],
            ..SweepFilter::default()
        }),
        order: Order::Look,
        hold,
        rate,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_tells_every_run_once_and_is_done() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.finished_runs().await;
    let sweep = node
        .runtime
        .sweep(over_count(SWEEP_RATE, false))
        .await
        .expect("made");
    let view = node
        .sweep_until(sweep, |view| view.state == SweepState::Done)
        .await;
    assert_eq!(
        (view.runs, view.told, view.still, view.missed),
        (Some(RUNS), RUNS, RUNS, 0)
    );
    let again = NewSweep {
        id: Some(sweep),
        ..over_count(SWEEP_RATE, false)
    };
    assert_eq!(node.runtime.sweep(again).await.expect("the same"), sweep);
    let page = node
        .runtime
        .list_sweeps(&celesta_runs::SweepsFilter::default(), None, 10)
        .await;
    assert_eq!(page.expect("the store answers").rows.len(), 1);
    let too_fast = node.runtime.sweep(over_count(0, false)).await;
    assert!(
        matches!(too_fast, Err(SweepError::Invalid { .. })),
        "{too_fast:?}"
    );
    let ended = node.runtime.pause_sweep(sweep, "late").await;
    assert!(matches!(ended, Err(SweepError::Illegal(_))), "{ended:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_sweep_shows_its_runs_and_waits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.finished_runs().await;
    let held = |hold| over_count(SWEEP_RATE, hold);
    let sweep = node.runtime.sweep(held(true)).await.expect("made");
    let view = node
        .sweep_until(sweep, |view| view.state == SweepState::Previewed)
        .await;
    assert_eq!((view.runs, view.told), (Some(RUNS), 0));
    assert_eq!(node.runtime.preview_sweep(sweep).await.expect("counted"), RUNS);
    node.runtime
        .abort_sweep(sweep, "not now")
        .await
        .expect("given up");
    let other = node.runtime.sweep(held(true)).await.expect("made");
    node.sweep_until(other, |view| view.state == SweepState::Previewed)
        .await;
    node.runtime.resume_sweep(other, "go").await.expect("let go");
    let done = node
        .sweep_until(other, |view| view.state == SweepState::Done)
        .await;
    assert_eq!(done.told, RUNS);
    let aborted = node
        .runtime
        .show_sweep(sweep)
        .await
        .expect("the store answers")
        .expect("there");
    assert_eq!(
        (aborted.state, aborted.told, aborted.reason.as_deref()),
        (SweepState::Aborted, 0, Some("not now"))
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sweep_keeps_its_place_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = node(folder.path()).await;
    first.finished_runs().await;
    // Batches of five.
    let sweep = first.runtime.sweep(over_count(20, false)).await.expect("made");
    first.sweep_until(sweep, |view| view.told > 0).await;
    first.runtime.pause_sweep(sweep, "lunch").await.expect("paused");
    first.stop().await;
    let second = node(folder.path()).await;
    let view = second.sweep_until(sweep, |_| true).await;
    assert_eq!(view.state, SweepState::Paused);
    assert!(view.told > 0 && view.told < RUNS, "{view:?}");
    second.runtime.resume_sweep(sweep, "back").await.expect("resumed");
    let before = view.told;
    // Stopped in the middle of a batch.
    second.sweep_until(sweep, |view| view.told > before).await;
    second.stop().await;
    let third = node(folder.path()).await;
    let view = third
        .sweep_until(sweep, |view| view.state == SweepState::Done)
        .await;
    assert_eq!((view.told, view.still, view.missed), (RUNS, RUNS, 0));
    third.stop().await;
}

/// Finished runs of each of the services `bench` and `encoder`.
const RUNS_OF_EACH: u64 = 3;

impl Driven {
    /// A node where both services have finished runs.
    async fn with_two_services() -> Self {
        let mut driven = Self::open(1 << 20).await;
        let runtime = driven.runtime.clone();
        let pushed = driven.until(runtime.push("encoder", recipes::encoder())).await;
        pushed.expect("a good bundle");
        for _ in 0..RUNS_OF_EACH {
            driven.submit(0).await;
            let request = Submit {
                service: "encoder".to_owned(),
                operation: "encode".to_owned(),
                input: br#"{"recipe":"web"}"#.to_vec(),
                ..Submit::default()
            };
            let submitted = driven.until(runtime.submit(request, None)).await;
            submitted.expect("it is accepted");
        }
        driven.rest().await;
        driven
    }

    async fn sweep(&mut self, new: NewSweep) -> SweepId {
        let runtime = self.runtime.clone();
        self.until(runtime.sweep(new)).await.expect("made")
    }

    async fn swept(&self, sweep: SweepId) -> SweepView {
        let view = self.runtime.show_sweep(sweep).await.expect("the store answers");
        view.expect("the sweep is there")
    }

    /// Takes turns until the sweep is as wanted, while hardly any time passes.
    async fn sweep_until(&mut self, sweep: SweepId, wanted: impl Fn(&SweepView) -> bool) -> SweepView {
        for _ in 0..200 {
            // The driver first: nobody reads before it.
            self.commit().await;
            let view = self.swept(sweep).await;
            if wanted(&view) {
                return view;
            }
            self.turn().await;
        }
        panic!("it does not get there: {:?}", self.swept(sweep).await);
    }
}

#[tokio::test]
async fn a_sweep_whose_run_is_silent_holds_up_no_other() {
    let mut driven = Driven::with_two_services().await;
    let silent = driven.sweep(over("bench", "count", SWEEP_RATE, false)).await;
    let mut kept = driven.runtime.take_turns(8).await.expect("the queue answers");
    while kept.messages() == 0 {
        driven.commit().await;
        kept = driven.runtime.take_turns(8).await.expect("the queue answers");
    }
    let other = driven.sweep(over("encoder", "encode", SWEEP_RATE, false)).await;
    let view = driven
        .sweep_until(other, |view| view.state == SweepState::Done)
        .await;
    assert_eq!((view.told, view.missed), (RUNS_OF_EACH, 0));
    assert_eq!(driven.swept(silent).await.told, 0);
    let runtime = driven.runtime.clone();
    driven.until(runtime.evaluate(kept)).await;
    let view = driven
        .sweep_until(silent, |view| view.state == SweepState::Done)
        .await;
    assert_eq!((view.still, view.missed), (RUNS_OF_EACH, 0), "it was only late");
}

#[tokio::test]
async fn a_sweep_that_is_slow_holds_up_no_other() {
    let mut driven = Driven::with_two_services().await;
    let slow = driven.sweep(over("bench", "count", 1, false)).await;
    driven.sweep_until(slow, |view| view.told == 1).await;
    let other = driven.sweep(over("encoder", "encode", SWEEP_RATE, false)).await;
    let view = driven
        .sweep_until(other, |view| view.state == SweepState::Done)
        .await;
    let ended = view.ended_at.expect("it has ended");
    assert!(
        ended.since(view.created_at) < Duration::from_millis(500),
        "{view:?}"
    );
    assert_eq!(driven.swept(slow).await.told, 1, "its rate is one run a second");
    for told in 2..=RUNS_OF_EACH {
        driven.time.advance(Duration::from_secs(1));
        driven.sweep_until(slow, |view| view.told == told).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_fails_holds_up_no_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = node(folder.path()).await;
    first.finished_runs().await;
    first.stop().await;
    // The shared facts of this service cannot be read, which its sweep must.
    let head = "INSERT INTO shared_facts (service, revision, fact, version, fact_type, fields, written_at) \
                SELECT column1, 1, 1, 1, 'Recipe', 'not JSON', 0 FROM (VALUES ";
    damage(folder.path(), head, ")", "encoder".into()).await;
    let node = node(folder.path()).await;
    let new = NewSweep {
        selection: Selection::Interests {
            keys: vec![1],
            revision: 1,
        },
        ..over("encoder", "encode", SWEEP_RATE, false)
    };
    let failing = node.runtime.sweep(new).await.expect("made");
    let other = node
        .runtime
        .sweep(over_count(SWEEP_RATE, false))
        .await
        .expect("made");
    let done = node.sweep_until(other, |view| view.state == SweepState::Done);
    let view = tokio::time::timeout(Duration::from_secs(20), done).await;
    assert_eq!(view.expect("it is reached").told, RUNS);
    let view = node.sweep_until(failing, |_| true).await;
    assert_eq!(view.state, SweepState::Pending, "it is tried again");
    node.stop().await;
}
