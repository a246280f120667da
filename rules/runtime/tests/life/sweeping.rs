//! Sweeps over finished runs: counted, told once each, paused, given up, gone on with after a restart.

use celesta_runs::{
    NewSweep, Order, RunState, SWEEP_RATE, Selection, SweepError, SweepFilter, SweepState, SweepView,
};
use celesta_types::SweepId;

use crate::bed::{Node, files, node};

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
    NewSweep {
        id: None,
        service: "bench".to_owned(),
        cause: "a test".to_owned(),
        rules: Vec::new(),
        selection: Selection::Runs(SweepFilter {
            workflow: Some("count".to_owned()),
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
