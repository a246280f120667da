//! Random programs and changes, run by the engine and by a naive one: the same trace.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use celesta_engine::{
    CallId, Effect, Environment, Event, RuleSet, RunId, Source, Turn, Value, WorkingMemory, compile,
};
use proptest::prelude::*;

#[path = "fuzzing/naive.rs"]
mod naive;
#[path = "fuzzing/oracle.rs"]
mod oracle;

const RUN: RunId = RunId::from_bits(99);

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_fires_what_a_naive_one_fires(case in oracle::case()) {
        oracle::check(case);
    }
}

/// A number that whoever starts the long run may choose.
#[expect(
    clippy::disallowed_methods,
    reason = "a test run by hand has no configuration file"
)]
fn wanted(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
#[ignore = "a minute; run by hand with --release when the matcher changes"]
#[expect(clippy::print_stderr, reason = "the long run says how far it is")]
fn a_million_random_changes_make_no_difference() {
    let wanted_changes = wanted("CELESTA_ORACLE_CHANGES", 1_000_000);
    let first = wanted("CELESTA_ORACLE_SEED", 0);
    let (mut changes, mut seed) = (0, first);
    while changes < wanted_changes {
        let mut bytes = [0; 32];
        bytes[..size_of::<usize>()].copy_from_slice(&seed.to_le_bytes());
        let case = oracle::chosen(&bytes);
        match catch_unwind(AssertUnwindSafe(|| oracle::check(case))) {
            Ok(made) => changes += made,
            Err(panic) => {
                eprintln!(
                    "after {changes} changes; again: CELESTA_ORACLE_SEED={seed} CELESTA_ORACLE_CHANGES=1"
                );
                resume_unwind(panic);
            }
        }
        seed += 1;
        if seed % 10_000 == 0 {
            eprintln!("{changes} changes, {} programs", seed - first);
        }
    }
    eprintln!("{changes} changes, {} programs, no difference", seed - first);
}

fn compiled(text: &str) -> Arc<RuleSet> {
    let source = Source {
        path: "random.rules".into(),
        text: text.into(),
    };
    match compile(&source, &Environment::default()) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{found}"),
    }
}

#[test]
fn rules_that_are_new_fire_for_what_they_find_and_the_others_do_not_fire_again() {
    let old = "workflow w; fact A { x: int } rule \"old\" { match { a: A; } action { emit(\"old\", #{ x: a.x }); } }";
    let new = format!(
        "{old} rule \"new\" {{ match {{ a: A where a.x > 1; }} action {{ emit(\"new\", #{{ x: a.x }}); }} }}"
    )
    .replace("x: int }", "x: int, more: string = \"m\" }");
    let mut memory = WorkingMemory::new(&compiled(old), RUN);
    let fact = |x: i64| Event::Insert {
        fact_type: "A".into(),
        value: Value::map([("x", Value::from(x))]),
    };
    let outcome = memory.turn(Turn {
        seq: 1,
        now_ms: 0,
        events: vec![fact(1), fact(2)],
    });
    assert_eq!(outcome.firings.len(), 2);
    let mut memory =
        WorkingMemory::restore(&compiled(&new), RUN, None, [&outcome.delta[..]]).expect("it restores");
    let outcome = memory.turn(Turn {
        seq: 2,
        now_ms: 0,
        events: Vec::new(),
    });
    let [
        Effect::Emit {
            event_type,
            data_json,
        },
    ] = outcome.effects.as_slice()
    else {
        panic!("{:?}", outcome.effects)
    };
    assert_eq!((&**event_type, &**data_json), ("new", r#"{"x":2}"#));
    assert_eq!(
        memory
            .turn(Turn {
                seq: 3,
                now_ms: 0,
                events: Vec::new()
            })
            .firings
            .len(),
        0
    );
    let unknown = Event::CallSucceeded {
        call: CallId { seq: 1, index: 0 },
        result: Value::Null,
    };
    let outcome = memory.turn(Turn {
        seq: 4,
        now_ms: 0,
        events: vec![unknown],
    });
    assert_eq!(outcome.rejected, [(0, "call 1.0 is not awaited".to_owned())]);
}
