//! Conditions on the time: what becomes true as it passes, when the host is to call, and that all of it survives a
//! restore.

use std::sync::Arc;

use celesta_engine::{
    Effect, Environment, Event, FactId, Outcome, RuleSet, RunId, Source, Turn, Value, WorkingMemory, compile,
};

const RUN: RunId = RunId::from_bits(3);
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

fn source(rules: &str) -> Source {
    Source {
        path: "timed.rules".into(),
        text: format!(
            "workflow timed;\nfact Job {{ id: string, started: time?, state: string = \"new\" }}\n{rules}"
        ),
    }
}

fn compiled(rules: &str) -> Arc<RuleSet> {
    match compile(&source(rules), &Environment::default()) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{found}"),
    }
}

fn mistakes(rules: &str) -> String {
    match compile(&source(rules), &Environment::default()) {
        Ok(_) => panic!("there is a mistake"),
        Err(found) => found.to_string(),
    }
}

/// A run that is restored from its deltas before every turn.
struct Run {
    rules: Arc<RuleSet>,
    deltas: Vec<Vec<u8>>,
}

impl Run {
    fn new(rules: &str) -> Self {
        Self {
            rules: compiled(rules),
            deltas: Vec::new(),
        }
    }

    fn memory(&self) -> WorkingMemory {
        if self.deltas.is_empty() {
            return WorkingMemory::new(&self.rules, RUN);
        }
        let deltas = self.deltas.iter().map(Vec::as_slice);
        WorkingMemory::restore(&self.rules, RUN, None, deltas).expect("it restores")
    }

    fn turn(&mut self, now_ms: i64, events: Vec<Event>) -> Outcome {
        let mut memory = self.memory();
        let seq = u64::try_from(self.deltas.len()).expect("few turns") + 1;
        let outcome = memory.turn(Turn { seq, now_ms, events });
        assert_eq!(outcome.rejected, []);
        self.deltas.push(outcome.delta.clone());
        outcome
    }
}

fn job(started: Value) -> Event {
    Event::Insert {
        fact_type: "Job".into(),
        value: Value::map([("id", Value::from("j")), ("started", started)]),
    }
}

fn set(field: &str, value: impl Into<Value>) -> Event {
    Event::Update {
        fact: FactId(1),
        version: None,
        value: Value::map([(field, value.into())]),
    }
}

fn said(outcome: &Outcome) -> Vec<&str> {
    (outcome.effects.iter())
        .map(|effect| match effect {
            Effect::Log { text, .. } => text.as_str(),
            other => panic!("{other:?}"),
        })
        .collect()
}

const LATE: &str = r#"rule "late" {
    match  { job: Job where job.state == "new" && after(job.started, "2h"); }
    action { log(`late ${job.id}`); }
}"#;

#[test]
fn a_deadline_wakes_the_host_and_fires_once() {
    let mut run = Run::new(LATE);
    let outcome = run.turn(HOUR, vec![job(HOUR.into())]);
    assert_eq!(said(&outcome), [""; 0]);
    assert_eq!(outcome.next_wake_ms, Some(3 * HOUR));
    let outcome = run.turn(3 * HOUR - 1, Vec::new());
    assert_eq!(said(&outcome), [""; 0]);
    assert_eq!(outcome.next_wake_ms, Some(3 * HOUR));
    let outcome = run.turn(3 * HOUR, Vec::new());
    assert_eq!(said(&outcome), ["late j"]);
    assert_eq!(outcome.next_wake_ms, None);
    assert_eq!(said(&run.turn(9 * HOUR, Vec::new())), [""; 0]);
}

#[test]
fn a_deadline_that_is_moved_counts_from_the_new_instant() {
    let mut run = Run::new(LATE);
    drop(run.turn(0, vec![job(0.into())]));
    let outcome = run.turn(HOUR, vec![set("started", HOUR)]);
    assert_eq!(outcome.next_wake_ms, Some(3 * HOUR));
    assert_eq!(said(&run.turn(2 * HOUR, Vec::new())), [""; 0]);
    assert_eq!(said(&run.turn(3 * HOUR, Vec::new())), ["late j"]);
}

#[test]
fn what_no_longer_matches_has_no_deadline() {
    let mut run = Run::new(LATE);
    drop(run.turn(0, vec![job(0.into())]));
    let outcome = run.turn(HOUR, vec![set("state", "done")]);
    assert_eq!(outcome.next_wake_ms, None);
    assert_eq!(said(&run.turn(9 * HOUR, Vec::new())), [""; 0]);
}

#[test]
fn an_instant_that_is_not_known_yet_is_no_deadline_and_no_failure() {
    let mut run = Run::new(LATE);
    let outcome = run.turn(0, vec![job(Value::Null)]);
    assert_eq!((said(&outcome), outcome.next_wake_ms), (vec![], None));
    let outcome = run.turn(9 * HOUR, vec![set("started", HOUR)]);
    assert_eq!(said(&outcome), ["late j"]);
}

#[test]
fn time_does_not_run_backward_for_a_run() {
    let mut run = Run::new(LATE);
    drop(run.turn(2 * HOUR, vec![job(Value::Null)]));
    let outcome = run.turn(HOUR, vec![set("started", 0)]);
    assert_eq!(said(&outcome), ["late j"]);
}

#[test]
fn a_period_makes_an_activation_new_again() {
    let mut run = Run::new(
        r#"rule "beat" { match { job: Job where job.state == "new"; if every("15m"); } action { log("beat"); } }"#,
    );
    let outcome = run.turn(5, vec![job(Value::Null)]);
    assert_eq!(
        (said(&outcome), outcome.next_wake_ms),
        (vec!["beat"], Some(15 * MINUTE + 5))
    );
    // Between the ends of periods nothing happens, whatever else does.
    let outcome = run.turn(MINUTE, vec![set("started", 1)]);
    assert_eq!(
        (said(&outcome), outcome.next_wake_ms),
        (vec![], Some(15 * MINUTE + 5))
    );
    let outcome = run.turn(15 * MINUTE + 5, Vec::new());
    assert_eq!(
        (said(&outcome), outcome.next_wake_ms),
        (vec!["beat"], Some(30 * MINUTE + 5))
    );
    // Periods that were missed count once.
    let outcome = run.turn(4 * HOUR, Vec::new());
    assert_eq!(
        (said(&outcome), outcome.next_wake_ms),
        (vec!["beat"], Some(4 * HOUR + 5))
    );
    let outcome = run.turn(4 * HOUR + 1, vec![set("state", "done")]);
    assert_eq!((said(&outcome), outcome.next_wake_ms), (vec![], None));
}

#[test]
fn a_canceled_run_is_not_woken() {
    let mut run = Run::new(LATE);
    drop(run.turn(0, vec![job(0.into())]));
    let cancel = Event::Cancel {
        reason: "enough".into(),
    };
    assert_eq!(run.turn(HOUR, vec![cancel]).next_wake_ms, None);
}

#[test]
fn deadlines_stand_beside_other_conditions_and_in_if() {
    let mut run = Run::new(
        r#"rule "both" {
            match  { job: Job; if after(job.started, 3600000) && job.state == "new"; no Job j where j.state == "done"; }
            action { log("both"); }
        }"#,
    );
    drop(run.turn(0, vec![job(0.into())]));
    let outcome = run.turn(HOUR, Vec::new());
    assert_eq!(said(&outcome), ["both"]);
}

#[test]
fn mistakes_in_conditions_on_the_time_are_found() {
    let found = mistakes(
        r#"rule "r" { match { job: Job where after(job.id, "2h") && after(job.started, "soon") && every(1, 2); } action { } }
           rule "s" { match { no Job j where after(j.started, "2h"); if every("1ms"); } action { } }"#,
    );
    for code in ["wrong-type", "not-a-duration", "wrong-arguments", "timed-here"] {
        assert!(found.contains(&format!("error[{code}]")), "{code}: {found}");
    }
}

#[test]
fn a_deadline_is_explained() {
    let mut run = Run::new(LATE);
    drop(run.turn(0, vec![job(0.into())]));
    let text = run.memory().explain("late").expect("the rule exists").to_string();
    assert!(text.contains("after(job.started, \"2h\")"), "{text}");
}
