//! Resting runs lose their histories and nothing else, whatever happens to them in between.

use std::path::Path;
use std::time::Duration;

use celesta_bundle::Files;
use celesta_runs::{Restart, RestartError, RunState, Wish, WriteFacts};
use celesta_runtime::{Clock, ManualClock};
use celesta_types::{RunId, Timestamp};

use super::bed::{Node, node_on};
use super::damage::look;
use super::given;

const SERVICE: &str = r#"
name = "ledger"

[operations.open]
workflow = "ledger"
fact = "Account"

[retention.ledger]
history = "7d"
"#;
const RULES: &str = include_str!("../../../../tests/bundles/ledger/rules/ledger.rules");
const DAY: Duration = Duration::from_secs(24 * 3_600);

fn files() -> Files {
    given::files([("service.toml", SERVICE), ("rules/ledger.rules", RULES)])
}

struct Ledger {
    node: Node,
    clock: Clock,
    hand: ManualClock,
}

impl Ledger {
    async fn open(folder: &Path) -> Self {
        let (clock, hand) = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let node = node_on(folder, clock.clone()).await;
        node.runtime.push("ledger", files()).await.expect("a good bundle");
        Self { node, clock, hand }
    }

    /// The same store in another process, as it were.
    async fn again(self, folder: &Path) -> Self {
        self.node.stop().await;
        Self {
            node: node_on(folder, self.clock.clone()).await,
            ..self
        }
    }

    async fn account(&self) -> RunId {
        let request = given::request("ledger", "open", r#"{"name":"ann"}"#);
        let run = self
            .node
            .runtime
            .submit(request, None)
            .await
            .expect("accepted")
            .run;
        self.node.until(run, RunState::Idle).await;
        run
    }

    async fn book(&self, run: RunId, amount: i64) {
        let writes = format!(r#"[{{"insert":"Entry","fields":{{"amount":{amount}}}}}]"#);
        let request = WriteFacts {
            writes: writes.into_bytes(),
            idempotency_key: None,
            by: "somebody".to_owned(),
        };
        let before = self.last(run).await;
        let written = self
            .node
            .runtime
            .write_facts(run, request, Duration::from_secs(20))
            .await;
        written.expect("written");
        while self.last(run).await == before {
            tokio::task::yield_now().await;
        }
    }

    /// The first and the last turn in the journal.
    async fn turns(&self, run: RunId) -> (i64, i64) {
        let sql = "SELECT min(seq), max(seq) FROM journal WHERE run = ?";
        let cells = [celesta_store::Cell::Id(run.to_bytes())];
        let rows = self.node.store.fetch(sql, &cells).await.expect("it reads");
        (rows[0].int(0).unwrap_or(0), rows[0].int(1).unwrap_or(0))
    }

    async fn last(&self, run: RunId) -> i64 {
        self.turns(run).await.1
    }

    async fn total(&self, run: RunId) -> i64 {
        let facts = self.node.runtime.facts(run, Some("Account"), 0, 10).await;
        let facts = facts.expect("it reads").expect("the run is there").rows;
        let account: serde_json::Value = serde_json::from_str(facts[0].value.get()).expect("JSON");
        account["total"].as_i64().expect("a number")
    }

    /// Eight days pass, and the histories of all these runs.
    async fn rest(&self, runs: &[RunId]) {
        self.hand.advance(8 * DAY);
        let compacted = async {
            for run in runs {
                loop {
                    let (first, last) = self.turns(*run).await;
                    if first == last {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::pin!(compacted);
        // Each pass has its time, before the clock goes on to the next.
        while tokio::time::timeout(Duration::from_millis(200), &mut compacted)
            .await
            .is_err()
        {
            self.hand.advance(Duration::from_secs(3_601));
        }
    }
}

/// A random walk over writes, rests and restarts; the totals are what was booked at every step.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_a_run_knows_what_it_knew() {
    for seed in 1..=3_u64 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut ledger = Ledger::open(folder.path()).await;
        let mut accounts = Vec::new();
        for _ in 0..4 {
            accounts.push((ledger.account().await, 0));
        }
        let mut state = seed;
        let mut chance = |sides: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        let mut rests = 0;
        for step in 0..60 {
            match chance(10) {
                0 => ledger = ledger.again(folder.path()).await,
                1 | 2 => {
                    rests += 1;
                    let runs: Vec<RunId> = accounts.iter().map(|(run, _)| *run).collect();
                    ledger.rest(&runs).await;
                }
                _ => {
                    let at = usize::try_from(chance(4)).expect("small");
                    let amount = i64::try_from(chance(100)).expect("small");
                    ledger.book(accounts[at].0, amount).await;
                    accounts[at].1 += amount;
                }
            }
            for (run, booked) in &accounts {
                assert_eq!(ledger.total(*run).await, *booked, "seed {seed}, step {step}");
            }
        }
        assert!(rests > 0);
        ledger.node.stop().await;
        let findings = look(folder.path()).await;
        assert!(findings.is_sound(), "seed {seed}: {findings:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_goes_after_its_time_and_a_paused_run_keeps_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ledger = Ledger::open(folder.path()).await;
    let (resting, paused) = (ledger.account().await, ledger.account().await);
    for run in [resting, paused] {
        for _ in 0..3 {
            ledger.book(run, 7).await;
        }
    }
    let pause = ledger.node.runtime.pause(paused, &Wish::anonymous("wait")).await;
    pause.expect("it rests");
    ledger.node.until(paused, RunState::Paused).await;
    ledger.hand.advance(6 * DAY);
    ledger.hand.advance(Duration::from_secs(3_601));
    assert_eq!(ledger.turns(resting).await, (1, 4), "its time is not over");
    ledger.rest(&[resting]).await;
    assert_eq!(ledger.turns(resting).await, (4, 4));
    assert_eq!(ledger.turns(paused).await, (1, 5), "somebody looks at it");

    let history = ledger.node.runtime.history(resting, 0, 10).await;
    let history = history.expect("it reads").expect("the run is there");
    assert_eq!(history.iter().map(|turn| turn.seq).collect::<Vec<_>>(), [4]);
    let from = Restart {
        rule: Some("book".to_owned()),
        ..Restart::default()
    };
    let resume = ledger
        .node
        .runtime
        .resume(paused, &Wish::anonymous("go on"))
        .await;
    resume.expect("it is paused");
    ledger.book(resting, 1_000_000).await;
    let ended = ledger.node.ended(resting).await;
    assert_eq!(
        ended.result.as_ref().map(|result| result.get()),
        Some(r#"{"total":1000021}"#)
    );
    let restarted = ledger
        .node
        .runtime
        .restart(resting, from, &Wish::anonymous(""))
        .await;
    assert!(
        matches!(restarted, Err(RestartError::Version { .. })),
        "{restarted:?}"
    );
    let over = ledger
        .node
        .runtime
        .restart(resting, Restart::default(), &Wish::anonymous(""))
        .await;
    let over = over.expect("its request is known");
    ledger.node.until(over, RunState::Idle).await;
    ledger.node.stop().await;
    let findings = look(folder.path()).await;
    assert!(findings.is_sound(), "{findings:#?}");
}
