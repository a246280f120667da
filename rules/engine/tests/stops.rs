//! Turns that stop before a rule fires, and runs that go on where another one was.

use std::sync::Arc;

use celesta_engine::{
    Effect, Environment, Event, FactId, Outcome, RuleSet, RunId, Source, Stops, Turn, Value, WorkingMemory,
    compile,
};

const RULES: &str = r#"
workflow w;
fact A { n: int = 0 }
rule "one"   { match { a: A where a.n == 0; } action { a.n = 1; } }
rule "two"   { match { a: A where a.n == 1; } action { a.n = 2; call("f", #{ n: a.n }); } }
rule "three" { match { a: A where a.n == 2; } action { a.n = 3; log("three"); } }
"#;

fn rules() -> Arc<RuleSet> {
    let source = Source {
        path: "w.rules".into(),
        text: RULES.to_owned(),
    };
    let environment = Environment {
        functions: ["f".to_owned()].into(),
        ..Environment::default()
    };
    compile(&source, &environment).expect("good rules").rules
}

fn turn(seq: u64, events: Vec<Event>) -> Turn {
    Turn {
        seq,
        now_ms: 1_000,
        events,
    }
}

fn insert() -> Event {
    Event::Insert {
        fact_type: "A".into(),
        value: Value::map(std::iter::empty::<(&str, Value)>()),
    }
}

fn fired(outcome: &Outcome) -> Vec<usize> {
    outcome.firings.iter().map(|firing| firing.rule).collect()
}

/// The memory as it is read again after these deltas.
fn restored(rules: &Arc<RuleSet>, run: u128, deltas: &[Vec<u8>]) -> WorkingMemory {
    let deltas = deltas.iter().map(Vec::as_slice);
    WorkingMemory::restore(rules, RunId::from_bits(run), None, deltas).expect("it restores")
}

#[test]
fn a_turn_stops_before_a_rule_and_the_next_one_goes_on_there_also_when_restored() {
    let rules = rules();
    let two = ["two".to_owned()];
    let stops = Stops {
        rules: &two,
        ..Stops::default()
    };
    let mut memory = WorkingMemory::new(&rules, RunId::from_bits(1));
    let outcome = memory.turn_until(turn(1, vec![insert()]), &stops);
    assert_eq!(fired(&outcome), [0]);
    let stopped = outcome.stopped.expect("it stopped");
    assert_eq!((stopped.rule, stopped.facts), (1, vec![(FactId(1), 2)]));
    assert!(!outcome.quiescent);
    let deltas = [outcome.delta];

    // A step is one firing, whatever it is of.
    let step = Stops {
        all: true,
        free: 1,
        ..Stops::default()
    };
    let stepped = restored(&rules, 1, &deltas).turn_until(turn(2, Vec::new()), &step);
    assert_eq!(fired(&stepped), [1]);
    assert_eq!(stepped.stopped.map(|stopped| stopped.rule), Some(2));

    // Going on passes the rule it stopped at once.
    let on = Stops {
        rules: &two,
        all: false,
        free: 1,
    };
    let mut kept = memory;
    for memory in [&mut kept, &mut restored(&rules, 1, &deltas)] {
        let outcome = memory.turn_until(turn(2, Vec::new()), &on);
        assert_eq!(fired(&outcome), [1, 2], "nothing fires twice or is lost");
        assert!(outcome.stopped.is_none() && outcome.quiescent);
    }
}

#[test]
fn the_open_calls_of_another_run_are_made_again_under_names_of_its_own() {
    let rules = rules();
    let mut memory = WorkingMemory::new(&rules, RunId::from_bits(1));
    let outcome = memory.turn(turn(1, vec![insert()]));
    assert_eq!(outcome.outstanding, 1);
    let mut over = restored(&rules, 2, &[outcome.delta]);
    let outcome = over.turn(turn(7, vec![Event::Remake]));
    let calls: Vec<_> = outcome
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Call { call, input_json, .. } => Some((call.seq, input_json.to_string())),
            _ => None,
        })
        .collect();
    assert_eq!(calls, [(7, r#"{"n":2}"#.to_owned())]);
    assert_eq!(outcome.outstanding, 1, "it is still one call");
    assert!(outcome.firings.is_empty(), "no rule fires for it");
    let open: Vec<_> = over.open_calls().map(|open| open.call.seq).collect();
    assert_eq!(open, [7]);
}
