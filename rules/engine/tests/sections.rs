//! What sections do, one behavior a test.

use std::sync::Arc;

use celesta_engine::{
    CallError, CallId, Effect, Environment, ErrorClass, Event, FactId, Outcome, RuleSet, RunId, Section,
    Source, Turn, Value, WorkingMemory, compile,
};

const RUN: RunId = RunId::from_bits(3);

fn rules(text: &str) -> Arc<RuleSet> {
    let source = Source {
        path: "s.rules".into(),
        text: format!("workflow w; fact A {{ n: int = 0, s: string = \"\" }}\n{text}"),
    };
    match compile(
        &source,
        &Environment {
            functions: ["f".to_owned()].into(),
            ..Environment::default()
        },
    ) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{found}"),
    }
}

struct Run {
    memory: WorkingMemory,
    seq: u64,
    deltas: Vec<Vec<u8>>,
}

impl Run {
    fn new(text: &str) -> Self {
        Self {
            memory: WorkingMemory::new(&rules(text), RUN),
            seq: 0,
            deltas: Vec::new(),
        }
    }

    /// A turn at the instant 1000, on a memory that was restored from the deltas so far.
    fn turn(&mut self, events: Vec<Event>) -> Outcome {
        self.seq += 1;
        let deltas = self.deltas.iter().map(Vec::as_slice);
        let mut restored =
            WorkingMemory::restore(self.memory.rules(), RUN, None, deltas).expect("it restores");
        let turn = Turn {
            seq: self.seq,
            now_ms: 1_000,
            events,
        };
        let outcome = self.memory.turn(turn.clone());
        let again = restored.turn(turn);
        assert_eq!(
            outcome.effects, again.effects,
            "the restored memory does the same"
        );
        assert_eq!(outcome.delta, again.delta);
        assert_eq!(self.memory.snapshot(), restored.snapshot());
        let whole = WorkingMemory::restore(self.memory.rules(), RUN, Some(&restored.snapshot()), [])
            .expect("it restores");
        assert_eq!(whole.snapshot(), restored.snapshot());
        assert_eq!(outcome.fault, None);
        self.memory = whole;
        self.deltas.push(outcome.delta.clone());
        outcome
    }

    fn start(&mut self) -> Outcome {
        self.turn(vec![a(0)])
    }

    fn slot(&self, field: &str) -> Value {
        let facts: Vec<_> = self.memory.facts().collect();
        let (_, value) = facts[0]
            .slots
            .iter()
            .find(|(name, _)| *name == field)
            .expect("the field exists");
        (*value).clone()
    }
}

fn a(n: i64) -> Event {
    Event::Insert {
        fact_type: "A".into(),
        value: Value::map([("n", Value::from(n))]),
    }
}

fn call(seq: u64, index: u32) -> CallId {
    CallId { seq, index }
}

fn succeeded(call: CallId, result: impl Into<Value>) -> Event {
    Event::CallSucceeded {
        call,
        result: result.into(),
    }
}

fn failed(call: CallId) -> Event {
    let error = CallError {
        kind: ErrorClass::Timeout,
        message: "too slow".into(),
        function: "f".into(),
        attempts: 2,
    };
    Event::CallFailed { call, error }
}

fn fails(outcome: &Outcome) -> Option<&str> {
    outcome.effects.iter().find_map(|effect| {
        if let Effect::Fail { message, .. } = effect {
            Some(message.as_str())
        } else {
            None
        }
    })
}

fn logs(outcome: &Outcome) -> Vec<&str> {
    outcome
        .effects
        .iter()
        .filter_map(|effect| {
            if let Effect::Log { text, .. } = effect {
                Some(text.as_str())
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn an_action_that_throws_has_changed_nothing_and_its_error_section_runs() {
    let mut run = Run::new(
        "rule \"r\" { match { a: A where a.n == 0; } action { a.n = 7; insert(\"A\", #{ n: 9 }); call(\"f\", #{}); log(\"x\"); throw \"broken\"; } error { a.s = `${error.kind}: ${error.message}, n is ${a.n}`; } }",
    );
    let outcome = run.start();
    assert_eq!(run.slot("s"), Value::from("user: broken, n is 0"));
    assert_eq!(run.memory.facts().count(), 1);
    assert_eq!(outcome.effects, []);
    let sections: Vec<_> = outcome.firings.iter().map(|firing| firing.section).collect();
    assert_eq!(sections[..2], [Section::Action, Section::Error]);
}

#[test]
fn a_throw_without_an_error_section_fails_the_run_and_a_retry_fires_again() {
    let mut run = Run::new(
        "rule \"r\" { match { a: A; } action { if a.n == 0 {\n throw \"no\"; } log(\"went on\"); } }",
    );
    let outcome = run.start();
    assert_eq!(fails(&outcome), Some("rule `r`, action: no (s.rules:3:2)"));
    assert!(!outcome.quiescent);
    let fix = Event::Update {
        fact: FactId(1),
        version: Some(1),
        value: Value::map([("n", Value::from(1_i64))]),
    };
    let outcome = run.turn(vec![fix]);
    assert_eq!(outcome.firings, []);
    assert_eq!(logs(&run.turn(vec![Event::RetryFailed])), ["went on"]);
}

#[test]
fn the_reaction_waits_for_all_calls_and_sees_their_results_in_order() {
    let mut run = Run::new(
        "rule \"r\" { match { a: A; n = count A c; } action { call(\"f\", #{ i: 0 }); timer(\"10s\"); request(\"other/op\", #{ i: 2 }); } reaction { complete(#{ first: result, all: results, n: n }); } }",
    );
    let outcome = run.start();
    assert_eq!(outcome.outstanding, 3);
    assert!(matches!(outcome.effects[1], Effect::Timer { at_ms: 11_000, .. }));
    assert_eq!(run.memory.open_calls().count(), 3);
    drop(run.turn(vec![
        Event::TimerFired { call: call(1, 1) },
        succeeded(call(1, 2), 2_i64),
    ]));
    let outcome = run.turn(vec![
        succeeded(call(1, 0), "zero"),
        succeeded(call(1, 0), "again"),
    ]);
    assert_eq!(outcome.rejected.len(), 1);
    let Effect::Complete { result_json } = &outcome.effects[0] else {
        panic!("{outcome:?}")
    };
    assert_eq!(&**result_json, r#"{"all":["zero",null,2],"first":"zero","n":1}"#);
}

#[test]
fn one_failure_waits_for_the_others_and_error_sees_every_outcome() {
    let mut run = Run::new(
        "rule \"r\" { match { a: A; } action { for i in 0..3 { call(\"f\", #{ i: i }); } } error { log(`${error.kind} ${error.attempts}`); for r in results { log(if r.ok { `ok ${r.result}` } else { r.error.message }); } } }",
    );
    drop(run.start());
    assert_eq!(run.turn(vec![failed(call(1, 1))]).effects, []);
    let outcome = run.turn(vec![succeeded(call(1, 0), 5_i64), succeeded(call(1, 2), 6_i64)]);
    assert_eq!(logs(&outcome), ["timeout 2", "ok 5", "too slow", "ok 6"]);
}

#[test]
fn fail_fast_cancels_the_other_calls() {
    let mut run = Run::new(
        "rule \"r\" { match { a: A; } action { for i in 0..3 { call(\"f\", #{ i: i }, #{ fail_fast: true }); } } error { log(error.kind); } }",
    );
    drop(run.start());
    let outcome = run.turn(vec![failed(call(1, 2))]);
    assert_eq!(
        outcome.effects[0],
        Effect::CancelCalls {
            calls: vec![call(1, 0), call(1, 1)]
        }
    );
    assert_eq!(logs(&outcome), ["timeout"]);
    assert_eq!(outcome.outstanding, 0);
    assert_eq!(run.turn(vec![succeeded(call(1, 0), 1_i64)]).rejected.len(), 1);
}

#[test]
fn retry_makes_only_the_failed_calls_again() {
    let mut run = Run::new(
        "rule \"r\" { match { a: A; } action { call(\"f\", #{ i: 0 }); call(\"f\", #{ i: 1 }); } reaction { complete(results); } error { retry(#{ after: \"5s\", priority: 9 }); } }",
    );
    drop(run.start());
    let outcome = run.turn(vec![succeeded(call(1, 0), 10_i64), failed(call(1, 1))]);
    let [
        Effect::Call {
            call: again,
            input_json,
            options,
            ..
        },
    ] = outcome.effects.as_slice()
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (&**input_json, options.delay_ms, options.priority),
        (r#"{"i":1}"#, Some(5_000), Some(9))
    );
    let outcome = run.turn(vec![succeeded(*again, 11_i64)]);
    assert_eq!(
        outcome.effects,
        [Effect::Complete {
            result_json: "[10,11]".into()
        }]
    );
}

#[test]
fn a_failed_call_without_an_error_section_fails_the_run() {
    let mut run = Run::new(
        "rule \"r\" { match { a: A; } action { call(\"f\", #{}); } reaction { complete(result); } }",
    );
    drop(run.start());
    let outcome = run.turn(vec![failed(call(1, 0))]);
    assert_eq!(
        fails(&outcome),
        Some("rule `r`, action: f failed (timeout): too slow (s.rules:2)")
    );
    let outcome = run.turn(vec![Event::RetryFailed]);
    assert!(matches!(
        outcome.effects[0],
        Effect::Call {
            call: CallId { seq: 3, index: 0 },
            ..
        }
    ));
    assert_eq!(
        run.turn(vec![succeeded(call(3, 0), 1_i64)]).effects,
        [Effect::Complete {
            result_json: "1".into()
        }]
    );
}

#[test]
fn a_reaction_that_throws_fails_the_run_and_runs_again_on_retry() {
    let mut run = Run::new(
        "rule \"r\" { match { a: A where a.n >= 0; } action { call(\"f\", #{}); } reaction { if a.s == \"\" { throw \"empty\"; } complete(#{ s: a.s, result: result }); } }",
    );
    drop(run.turn(vec![Event::Insert {
        fact_type: "A".into(),
        value: Value::map::<&str>([]),
    }]));
    let outcome = run.turn(vec![succeeded(call(1, 0), 1_i64)]);
    assert!(
        fails(&outcome).is_some_and(|why| why.contains("reaction: empty")),
        "{outcome:?}"
    );
    drop(run.turn(vec![Event::Update {
        fact: FactId(1),
        version: None,
        value: Value::map([("s", "full")].map(|(k, v)| (k, Value::from(v)))),
    }]));
    let outcome = run.turn(vec![Event::RetryFailed]);
    assert!(
        outcome.effects.contains(&Effect::Complete {
            result_json: r#"{"result":1,"s":"full"}"#.into()
        }),
        "{outcome:?}"
    );
}

#[test]
fn a_bound_fact_that_is_gone_can_be_read_and_not_written() {
    let mut run = Run::new(
        "rule \"r\" { match { a: A; } action { call(\"f\", #{}); } reaction { log(`${exists(a)} ${a.n}`); try { a.n = 5; } catch (why) { log(why); } } }",
    );
    drop(run.turn(vec![a(4)]));
    drop(run.turn(vec![Event::Retract {
        fact: FactId(1),
        version: None,
    }]));
    let outcome = run.turn(vec![succeeded(call(1, 0), 1_i64)]);
    assert_eq!(
        logs(&outcome),
        ["false 4", "fact #1 is retracted and cannot be written"]
    );
}

#[test]
fn canceling_ends_everything() {
    let mut run =
        Run::new("rule \"r\" { match { a: A; } action { call(\"f\", #{}); } reaction { log(\"never\"); } }");
    drop(run.turn(vec![a(1), a(2)]));
    let outcome = run.turn(vec![
        Event::Cancel {
            reason: "enough".into(),
        },
        a(3),
    ]);
    assert_eq!(
        outcome.effects[0],
        Effect::CancelCalls {
            calls: vec![call(1, 0), call(1, 1)]
        }
    );
    assert_eq!(outcome.outstanding, 0);
    assert_eq!(outcome.firings, []);
    assert_eq!(run.turn(vec![succeeded(call(1, 0), 1_i64)]).rejected.len(), 1);
}

#[test]
fn an_own_write_fires_again_until_the_match_is_false() {
    let mut run = Run::new("rule \"r\" { match { a: A where a.n < 5; } action { a.n += 1; } }");
    assert_eq!(run.start().firings.len(), 5);
    assert_eq!(run.slot("n"), Value::from(5_i64));
}

#[test]
fn a_field_that_the_rule_does_not_read_does_not_fire_it_again() {
    let mut run =
        Run::new("rule \"r\" { match { a: A where a.n == 0; } action { a.s = \"seen\"; log(\"fired\"); } }");
    assert_eq!(run.start().firings.len(), 1);
    let set = |field: &'static str, value: Value| Event::Update {
        fact: FactId(1),
        version: None,
        value: Value::map([(field, value)]),
    };
    assert_eq!(run.turn(vec![set("s", "other".into())]).firings.len(), 0);
    assert_eq!(
        run.turn(vec![set("n", 0_i64.into())]).firings.len(),
        0,
        "the same value is no change"
    );
    assert_eq!(
        run.turn(vec![set("n", 1_i64.into()), set("n", 0_i64.into())])
            .firings
            .len(),
        1
    );
}

#[test]
fn wrong_facts_from_outside_are_rejected_one_by_one() {
    let mut run = Run::new("rule \"r\" { match { a: A; } action { log(\"fired\"); } }");
    let wrong = |value: Value| Event::Insert {
        fact_type: "A".into(),
        value,
    };
    let outcome = run.turn(vec![
        wrong(Value::map([("n", "text")].map(|(k, v)| (k, Value::from(v))))),
        wrong(Value::map([("m", 1_i64)].map(|(k, v)| (k, Value::from(v))))),
        wrong(Value::Null),
        Event::Insert {
            fact_type: "B".into(),
            value: Value::map::<&str>([]),
        },
        a(1),
        Event::Update {
            fact: FactId(1),
            version: Some(7),
            value: Value::map::<&str>([]),
        },
        Event::RetryFailed,
    ]);
    let reasons: Vec<_> = outcome
        .rejected
        .iter()
        .map(|(at, why)| (*at, why.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [
            (0, "fact `A`: field `n` holds int, not string"),
            (1, "fact `A` has no field `m`"),
            (2, "a fact `A` is made of a map, not of null"),
            (3, "no fact type `B`"),
            (5, "fact #1 has version 1, not 7"),
            (6, "the run has not failed"),
        ]
    );
    assert_eq!(outcome.firings.len(), 1);
}

#[test]
fn random_numbers_follow_from_the_run_and_the_turn() {
    let text = "rule \"r\" { match { a: A; } action { log(`${random()} ${uid()} ${random()}`); } }";
    let said = |run: RunId| {
        let mut memory = WorkingMemory::new(&rules(text), run);
        logs(&memory.turn(Turn {
            seq: 1,
            now_ms: 0,
            events: vec![a(1)],
        }))
        .join(";")
    };
    assert_eq!(said(RUN), said(RUN));
    assert_ne!(said(RUN), said(RunId::from_bits(4)));
}

#[test]
fn constants_and_functions_are_known_everywhere() {
    let mut run = Run::new(
        "const LIMIT = 3; fn over(n) { n > LIMIT } rule \"r\" { match { a: A where over(a.n + LIMIT) && a.n < LIMIT; } action { log(`${a.n + LIMIT} ${over(a.n)}`); } }",
    );
    assert_eq!(logs(&run.turn(vec![a(1), a(0), a(9)])), ["4 false"]);
}

#[test]
fn a_condition_without_a_value_is_false_and_the_log_says_so() {
    let mut run = Run::new("rule \"r\" { match { a: A where 10 / a.n == 5; } action { log(\"fired\"); } }");
    let outcome = run.turn(vec![a(0), a(2)]);
    assert_eq!(outcome.firings.len(), 1);
    assert!(logs(&outcome)[1].contains("division by zero"), "{outcome:?}");
}

#[test]
fn halt_ends_the_turn_and_the_agenda_waits_for_the_next() {
    for style in ["halt();", "let stop = || 1; halt();"] {
        let mut run = Run::new(&format!(
            "rule \"first\" salience 1 {{ match {{ a: A where a.n == 0; }} action {{ a.s = \"halted\"; {style} }} reaction {{ log(\"reaction\"); }} }}
             rule \"second\" {{ match {{ a: A where a.n == 0; }} action {{ log(\"second\"); }} }}"
        ));
        let outcome = run.start();
        assert_eq!(logs(&outcome), ["reaction"]);
        assert!(!outcome.quiescent);
        assert_eq!(run.slot("s"), Value::from("halted"));
        let outcome = run.turn(vec![]);
        assert_eq!(logs(&outcome), ["second"]);
        assert!(outcome.quiescent);
    }
}

#[test]
fn a_section_that_halts_and_throws_has_not_halted() {
    let mut run = Run::new(
        "rule \"first\" salience 1 { match { a: A where a.n == 0; } action { halt(); throw \"no\"; } error { log(\"error\"); } }
         rule \"second\" { match { a: A where a.n == 0; } action { log(\"second\"); } }",
    );
    let outcome = run.start();
    assert_eq!(logs(&outcome), ["error", "second"]);
    assert!(outcome.quiescent);
}
