//! Shared facts: durable, versioned, and what makes finished runs move again.

use std::pin::pin;
use std::time::Duration;

use celesta_engine::Value;
use celesta_runs::{
    RunState, SharedWrite, SharedWritten, SweepState, SweepView, WriteShared, WriteSharedError,
};
use celesta_types::{RunId, SweepId};
use futures_util::poll;

use crate::bed::{Node, node};
use crate::driven::Driven;
use crate::given::recipes::{self, insert, update};

fn retract(fact: u64) -> SharedWrite {
    SharedWrite {
        insert: None,
        retract: Some(fact),
        fields: None,
        ..insert("", 0)
    }
}

impl Node {
    async fn share(&self, writes: Vec<SharedWrite>) -> Result<SharedWritten, WriteSharedError> {
        self.share_with(writes, |request| request).await
    }

    async fn share_with(
        &self,
        writes: Vec<SharedWrite>,
        with: impl FnOnce(WriteShared) -> WriteShared,
    ) -> Result<SharedWritten, WriteSharedError> {
        let request = recipes::change(writes);
        self.runtime.write_shared("encoder", with(request)).await
    }

    async fn job(&self, recipe: &str) -> RunId {
        let submitted = self.runtime.submit(recipes::job(recipe), None).await;
        let run = submitted.expect("accepted").run;
        assert_eq!(self.ended(run).await.state, RunState::Completed);
        run
    }

    /// The run's result, and how often a recipe was applied.
    async fn result(&self, run: RunId) -> String {
        let view = self
            .runtime
            .run(run)
            .await
            .expect("the store answers")
            .expect("there");
        let result = view
            .result
            .map_or_else(String::new, |result| result.get().to_owned());
        let facts = self.runtime.facts(run, Some("Applied"), 0, 10).await;
        let applied = facts.expect("the run reads").expect("there").rows.len();
        format!("{result} after {applied}")
    }

    async fn swept(&self, written: &SharedWritten) -> SweepView {
        let sweep = written.sweep.expect("something has changed");
        self.sweep_until(sweep, |view| view.state == SweepState::Done)
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_recipe_moves_the_finished_runs_that_wait_for_it_and_no_others() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = node(folder.path()).await;
    first
        .runtime
        .push("encoder", recipes::encoder())
        .await
        .expect("a good bundle");
    let (mut web, mut tape) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        web.push(first.job("web").await);
        tape.push(first.job("tape").await);
    }
    first.stop().await;
    let second = node(folder.path()).await;
    let written = second.share(vec![insert("web", 23)]).await.expect("written");
    assert_eq!(written.rules, ["encode: apply", "encode: no recipe"]);
    let swept = second.swept(&written).await;
    assert_eq!(
        (swept.runs, swept.told, swept.moved),
        (Some(20), 20, 20),
        "{swept:?}"
    );
    for run in &web {
        assert_eq!(second.result(*run).await, r#"{"crf":23} after 1"#);
    }
    for run in &tape {
        assert_eq!(second.result(*run).await, r#"{"crf":null} after 0"#);
    }
    let turns = second
        .runtime
        .history(web[0], 0, 10)
        .await
        .expect("the journal reads")
        .expect("there");
    let [_, moved] = turns.as_slice() else {
        panic!("{turns:?}")
    };
    assert_eq!(moved.causes[0].kind, "sweep");
    let fired = &moved.firings[0].facts;
    assert!(
        fired.contains(&(celesta_engine::FactId::shared(1).0, 1)),
        "the version that fired: {fired:?}"
    );
    let explained = second
        .runtime
        .explain(web[0], "apply")
        .await
        .expect("explained")
        .to_string();
    assert!(explained.contains("shared #1"), "{explained}");
    // The next version, in a life of its own again.
    second.stop().await;
    let third = node(folder.path()).await;
    let written = third
        .share(vec![SharedWrite {
            version: Some(1),
            ..update(1, 20)
        }])
        .await
        .expect("written");
    assert_eq!(third.swept(&written).await.moved, 20);
    assert_eq!(third.result(web[3]).await, r#"{"crf":20} after 2"#);
    // The same again changes nothing and moves nobody.
    let same = third.share(vec![update(1, 20)]).await.expect("written");
    assert_eq!(
        (same.sweep, same.facts[0].changed, same.facts[0].version),
        (None, false, 2)
    );
    let gone = third.share(vec![retract(1)]).await.expect("written");
    assert_eq!(third.swept(&gone).await.moved, 20);
    assert_eq!(third.result(web[7]).await, r#"{"crf":null} after 2"#);
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_all_or_nothing_and_once_for_a_key() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime
        .push("encoder", recipes::encoder())
        .await
        .expect("a good bundle");
    let wrong = node.share(vec![insert("web", 23), update(9, 1)]).await;
    assert!(
        matches!(wrong, Err(WriteSharedError::Conflict { at: 1, .. })),
        "{wrong:?}"
    );
    let page = node
        .runtime
        .list_shared("encoder", None, 0, 10)
        .await
        .expect("the store answers");
    assert!(page.rows.is_empty(), "{:?}", page.rows);
    let misfit = SharedWrite {
        fields: Some(Value::map([("name", Value::from("web"))])),
        ..insert("", 0)
    };
    let misfit = node.share(vec![misfit]).await;
    assert!(misfit.is_err_and(|error| error.to_string().contains("lacks the field `crf`")));
    let other = SharedWrite {
        insert: Some("Job".to_owned()),
        ..insert("web", 1)
    };
    let other = node.share(vec![other]).await;
    assert!(other.is_err_and(|error| error.to_string().contains("there are Recipe")));
    let keyed = |request: WriteShared| WriteShared {
        idempotency_key: Some("k".to_owned()),
        ..request
    };
    let first = node
        .share_with(vec![insert("web", 23), insert("tape", 1)], keyed)
        .await
        .expect("written");
    let again = node
        .share_with(vec![insert("web", 23), insert("tape", 1)], keyed)
        .await
        .expect("the same");
    assert!(
        again.existing && again.facts == first.facts && again.sweep == first.sweep,
        "{again:?}"
    );
    let misuse = node.share_with(vec![insert("web", 24)], keyed).await;
    assert!(
        matches!(misuse, Err(WriteSharedError::IdempotencyConflict)),
        "{misuse:?}"
    );
    let stale = node
        .share(vec![SharedWrite {
            version: Some(7),
            ..update(1, 1)
        }])
        .await;
    assert!(stale.is_err_and(|error| error.to_string().contains("has version 1, not 7")));
    // The caller's own numbers and sweep, as somebody who asks several stores gives them.
    let sweep = SweepId::from_bits(5);
    let named = |request: WriteShared| WriteShared {
        sweep: Some(sweep),
        ..request
    };
    let numbered = SharedWrite {
        fact: Some(40),
        ..insert("disc", 9)
    };
    for existing in [false, true] {
        let written = node
            .share_with(vec![numbered.clone()], named)
            .await
            .expect("written");
        assert_eq!(
            (written.existing, written.sweep, written.facts[0].fact),
            (existing, Some(sweep), 40)
        );
    }
    let fact = node
        .runtime
        .shared_fact("encoder", 40)
        .await
        .expect("the store answers")
        .expect("there");
    assert_eq!(
        (fact.version, fact.value.get()),
        (1, r#"{"crf":9,"name":"disc"}"#)
    );
    node.stop().await;
    let second = crate::bed::node(folder.path()).await;
    let page = second
        .runtime
        .list_shared("encoder", Some("Recipe"), 1, 1)
        .await
        .expect("the store answers");
    assert_eq!(
        (page.rows.len(), page.rows[0].fact, page.next.as_deref()),
        (1, 2, Some("2"))
    );
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_once_lose_no_write() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime
        .push("encoder", recipes::encoder())
        .await
        .expect("a good bundle");
    let writers = (0..8).map(|at| node.share(vec![insert(&format!("r{at}"), at)]));
    let written = futures_util::future::join_all(writers).await;
    let mut facts: Vec<u64> = (written.into_iter())
        .map(|written| written.expect("written").facts[0].fact)
        .collect();
    facts.sort_unstable();
    assert_eq!(facts, [1, 2, 3, 4, 5, 6, 7, 8]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_change_shows_whom_it_concerns_before_it_moves_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime
        .push("encoder", recipes::encoder())
        .await
        .expect("a good bundle");
    let run = node.job("web").await;
    node.job("tape").await;
    let asked = node.share_with(vec![insert("web", 23)], |request| WriteShared {
        dry_run: true,
        ..request
    });
    let asked = asked.await.expect("answered");
    assert_eq!((asked.runs, asked.sweep), (Some(1), None));
    let held = node.share_with(vec![insert("web", 23)], |request| WriteShared {
        hold: true,
        ..request
    });
    let held = held.await.expect("written").sweep.expect("made");
    let view = node
        .sweep_until(held, |view| view.state == SweepState::Previewed)
        .await;
    assert_eq!((view.runs, view.moved), (Some(1), 0));
    assert_eq!(node.result(run).await, r#"{"crf":null} after 0"#);
    node.runtime
        .resume_sweep(held, "looks right")
        .await
        .expect("let go");
    let done = node
        .sweep_until(held, |view| view.state == SweepState::Done)
        .await;
    assert_eq!((done.moved, done.still), (1, 0));
    assert_eq!(node.result(run).await, r#"{"crf":23} after 1"#);
    let moved = node
        .runtime
        .swept_runs(held, None, 10)
        .await
        .expect("the store answers");
    assert_eq!(moved.rows.iter().map(|(run, _)| *run).collect::<Vec<_>>(), [run]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_told_of_late_changes_counts_once_in_each_sweep_across_a_crash() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = node(folder.path()).await;
    first
        .runtime
        .push("encoder", recipes::encoder())
        .await
        .expect("a good bundle");
    let mut runs = Vec::new();
    for _ in 0..12 {
        runs.push(first.job("web").await);
    }
    // Batches of four, stopped after the first.
    let written = first.share_with(vec![insert("web", 23)], |request| WriteShared {
        rate: 16,
        ..request
    });
    let sweep = written.await.expect("written").sweep.expect("made");
    first.sweep_until(sweep, |view| view.told > 0).await;
    first.stop().await;
    let second = node(folder.path()).await;
    let done = second
        .sweep_until(sweep, |view| view.state == SweepState::Done)
        .await;
    assert_eq!((done.told, done.moved, done.missed), (12, 12, 0));
    for run in runs {
        assert_eq!(second.result(run).await, r#"{"crf":23} after 1"#, "moved once");
    }
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_lost_to_the_index_is_found_by_the_check() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = node(folder.path()).await;
    node.runtime
        .push("encoder", recipes::encoder())
        .await
        .expect("a good bundle");
    node.share(vec![insert("web", 20)]).await.expect("written");
    let run = node.job("web").await;
    node.stop().await;
    let findings = crate::damage::look(folder.path()).await;
    assert!(findings.is_sound(), "{findings:#?}");
    let every = celesta_store::Cell::Int(0);
    crate::damage::damage(
        folder.path(),
        "DELETE FROM interests WHERE key <> (VALUES ",
        ")",
        every,
    )
    .await;
    let findings = crate::damage::look(folder.path()).await;
    let [found] = findings.violations.as_slice() else {
        panic!("one thing is wrong: {findings:#?}");
    };
    assert_eq!(found.invariant, celesta_runs::invariants::Invariant::Interest);
    assert_eq!(found.place, run.to_string());
}

#[tokio::test]
async fn a_write_whose_client_has_gone_is_seen_and_told_at_once() {
    let mut driven = Driven::open(1 << 20).await;
    let runtime = driven.runtime.clone();
    let pushed = driven.until(runtime.push("encoder", recipes::encoder())).await;
    pushed.expect("a good bundle");
    let sweep = SweepId::from_bits(5);
    let request = WriteShared {
        sweep: Some(sweep),
        ..recipes::change(vec![insert("web", 23)])
    };
    {
        let mut writing = pin!(runtime.write_shared("encoder", request));
        assert!(poll!(&mut writing).is_pending(), "it waits for its commit");
    }
    // No time passes: what does not ring does not begin.
    for _ in 0..20 {
        driven.commit().await;
    }
    let page = runtime.list_shared("encoder", None, 0, 10).await;
    assert_eq!(page.expect("the store answers").rows.len(), 1);
    let view = runtime.show_sweep(sweep).await.expect("the store answers");
    assert_eq!(view.expect("made").state, SweepState::Done);
}

#[tokio::test]
async fn a_key_counts_for_a_week_and_is_forgotten_then() {
    let mut driven = Driven::open(1 << 20).await;
    let runtime = driven.runtime.clone();
    let pushed = driven.until(runtime.push("encoder", recipes::encoder())).await;
    pushed.expect("a good bundle");
    let keyed = |key: &str| WriteShared {
        idempotency_key: Some(key.to_owned()),
        ..recipes::change(vec![insert(key, 23)])
    };
    let day = Duration::from_secs(24 * 3_600);
    // Days that pass, the key of a write, and whether it still counts.
    let steps = [
        (0, "old", false),
        (6, "young", false),
        (0, "old", true),
        (2, "another", false),
        (0, "young", true),
        (0, "old", false),
    ];
    for (days, key, existing) in steps {
        driven.time.advance(day * days);
        let written = driven.until(runtime.write_shared("encoder", keyed(key))).await;
        assert_eq!(written.expect("written").existing, existing, "{key}");
    }
}
