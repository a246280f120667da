//! The example of the language's description, as it stands there, from request to result.

use std::collections::BTreeSet;
use std::sync::Arc;

use celesta_engine::{
    CallError, CallId, Effect, Environment, ErrorClass, Event, Outcome, RuleSet, RunId, Source, Turn, Value,
    WorkingMemory, compile,
};

const RUN: RunId = RunId::from_bits(7);

fn rules() -> Arc<RuleSet> {
    let source = Source {
        path: "rules/encode.rules".into(),
        text: include_str!("encode.rules").into(),
    };
    let functions: BTreeSet<String> = ["split", "encode", "assemble"]
        .into_iter()
        .map(Into::into)
        .collect();
    match compile(
        &source,
        &Environment {
            functions,
            ..Environment::default()
        },
    ) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{found}"),
    }
}

fn artifact(name: &str) -> Value {
    Value::map([
        ("$artifact", Value::from(format!("sha256:{name}"))),
        ("size", 3_i64.into()),
    ])
}

fn job() -> Event {
    let fields = [
        ("id", Value::from("j1")),
        ("source", artifact("source")),
        ("recipe", "small".into()),
    ];
    Event::Insert {
        fact_type: "Job".into(),
        value: Value::map(fields),
    }
}

fn calls(outcome: &Outcome) -> Vec<(CallId, String, String)> {
    let call = |effect: &Effect| match effect {
        Effect::Call {
            call,
            function,
            input_json,
            ..
        } => Some((*call, function.to_string(), input_json.to_string())),
        _ => None,
    };
    outcome.effects.iter().filter_map(call).collect()
}

struct Run {
    memory: WorkingMemory,
    seq: u64,
    deltas: Vec<Vec<u8>>,
}

impl Run {
    fn new() -> Self {
        Self {
            memory: WorkingMemory::new(&rules(), RUN),
            seq: 0,
            deltas: Vec::new(),
        }
    }

    /// One turn; after it a memory restored from the deltas must be the same.
    fn turn(&mut self, events: Vec<Event>) -> Outcome {
        self.seq += 1;
        let outcome = self.memory.turn(Turn {
            seq: self.seq,
            now_ms: 1_000,
            events,
        });
        assert_eq!(outcome.fault, None);
        assert_eq!(outcome.rejected, []);
        self.deltas.push(outcome.delta.clone());
        let restored = WorkingMemory::restore(
            self.memory.rules(),
            RUN,
            None,
            self.deltas.iter().map(Vec::as_slice),
        )
        .expect("it restores");
        assert_eq!(restored.snapshot(), self.memory.snapshot());
        self.memory = restored;
        outcome
    }
}

fn parts(count: i64) -> Value {
    let part = |index: i64| {
        Value::map([
            ("index", index.into()),
            ("file", artifact(&format!("part{index}"))),
        ])
    };
    Value::map([("parts", Value::list((0..count).map(part)))])
}

#[test]
fn a_job_is_split_encoded_and_assembled() {
    let mut run = Run::new();
    let outcome = run.turn(vec![job()]);
    let made = calls(&outcome);
    assert_eq!(made.len(), 1, "{outcome:?}");
    assert_eq!(made[0].1, "split");
    assert_eq!(
        made[0].2,
        r#"{"seconds":4,"source":{"$artifact":"sha256:source","size":3}}"#
    );
    assert_eq!(outcome.outstanding, 1);

    let outcome = run.turn(vec![Event::CallSucceeded {
        call: made[0].0,
        result: parts(3),
    }]);
    let made = calls(&outcome);
    assert_eq!(
        made.iter().map(|call| call.1.as_str()).collect::<Vec<_>>(),
        ["encode"; 3]
    );
    assert!(made[0].2.contains("part0"), "oldest first: {}", made[0].2);

    let done = |call: CallId, name: &str| Event::CallSucceeded {
        call,
        result: Value::map([("file", artifact(name))]),
    };
    let outcome = run.turn(vec![done(made[2].0, "out2"), done(made[0].0, "out0")]);
    assert_eq!(calls(&outcome), []);
    let outcome = run.turn(vec![done(made[1].0, "out1")]);
    let made = calls(&outcome);
    assert_eq!(made[0].1, "assemble");
    let order: Vec<_> = ["out0", "out1", "out2"]
        .iter()
        .map(|name| made[0].2.find(name))
        .collect();
    assert!(order.is_sorted() && order[0].is_some(), "{}", made[0].2);

    let outcome = run.turn(vec![done(made[0].0, "movie")]);
    let Some(Effect::Complete { result_json }) = outcome.effects.first() else {
        panic!("{:?}", outcome.effects)
    };
    assert!(result_json.contains("sha256:movie"));
    assert_eq!(outcome.outstanding, 0);
    assert!(outcome.quiescent);
}

#[test]
fn a_failed_split_fails_the_run_with_the_rules_words() {
    let mut run = Run::new();
    let made = calls(&run.turn(vec![job()]));
    let error = CallError {
        kind: ErrorClass::User,
        message: "no such codec".into(),
        function: "split".into(),
        attempts: 3,
    };
    let outcome = run.turn(vec![Event::CallFailed {
        call: made[0].0,
        error,
    }]);
    let Some(Effect::Fail { message, .. }) = outcome.effects.first() else {
        panic!("{:?}", outcome.effects)
    };
    assert_eq!(message, "cannot split j1: no such codec");

    let outcome = run.turn(vec![Event::RetryFailed]);
    let again = calls(&outcome);
    assert_eq!(again[0].1, "split");
    assert_eq!(again[0].2, made[0].2);
    assert_eq!(
        calls(&run.turn(vec![Event::CallSucceeded {
            call: again[0].0,
            result: parts(1)
        }]))
        .len(),
        1
    );
}

#[test]
fn a_rule_that_has_not_fired_is_explained() {
    let mut run = Run::new();
    let made = calls(&run.turn(vec![job()]));
    let explanation = run.memory.explain("encode a chunk").expect("the rule exists");
    let text = explanation.to_string();
    assert!(
        text.contains("`job.state == \"encoding\"` is false (\"splitting\" and \"encoding\")"),
        "{text}"
    );
    drop(run.turn(vec![Event::CallSucceeded {
        call: made[0].0,
        result: parts(2),
    }]));
    let text = run
        .memory
        .explain("assemble")
        .expect("the rule exists")
        .to_string();
    assert!(text.contains("✗ no Chunk c where"), "{text}");
    let unknown = run.memory.explain("asemble").expect_err("there is no such rule");
    assert_eq!(unknown.similar.as_deref(), Some("assemble"));
}
