//! The engine against a naive one that recomputes every match after every change: same matches, same order, same state
//! after every restore. Programs and changes are random; `fuzzing::oracle` makes and runs them.

#[path = "fuzzing/oracle.rs"]
mod naive;

use celesta_engine::{CallId, Effect, Event, Turn, Value, WorkingMemory};
use naive::{RUN, case, check, chosen, compiled};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_fires_what_a_naive_one_fires(case in case()) {
        check(case);
    }
}

#[test]
fn the_bytes_of_a_fuzzer_choose_programs_and_changes() {
    let changes: usize = (0..40_u8)
        .filter_map(|seed| chosen(&[seed, 7, 3]))
        .map(check)
        .sum();
    assert!(changes > 300, "{changes}");
}

#[test]
#[ignore = "minutes; run by hand with --release when the matcher changes"]
fn a_million_random_changes_fire_what_a_naive_engine_fires() {
    let mut runner = TestRunner::deterministic();
    let mut changes = 0;
    while changes < 1_000_000 {
        let tree = case().new_tree(&mut runner).expect("nothing is filtered");
        changes += check(tree.current());
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
