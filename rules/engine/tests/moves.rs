//! A memory under other rules: facts are renamed, given, computed, dropped or refused, and what is open stays open.

use std::sync::Arc;

use celesta_engine::{
    Effect, Environment, Event, FactMove, FactMoves, RestoreError, RuleSet, RunId, Source, Turn, Value,
    WorkingMemory, compile,
};

fn rules(text: &str) -> Arc<RuleSet> {
    let source = Source {
        path: "moves.rules".into(),
        text: format!("workflow w; {text}"),
    };
    let environment = Environment {
        functions: ["f".to_owned()].into(),
        ..Environment::default()
    };
    match compile(&source, &environment) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{found}"),
    }
}

fn turn(seq: u64, events: Vec<Event>) -> Turn {
    Turn {
        seq,
        now_ms: 0,
        events,
    }
}

const OLD: &str = r#"
    fact Job { id: int, minutes: int, note: string? }
    fact Gone { x: int }
    rule "call" { match { j: Job; } action { call("f", #{ id: j.id }); } reaction { j.note = "old"; } }
"#;

const NEW: &str = r#"
    fact Work { id: int, seconds: int, note: string, more: bool = true }
    rule "early" { match { w: Work where w.seconds > 9999; } action { log("early"); } }
    rule "call" { match { j: Work; } action { call("f", #{ id: j.id }); } reaction { j.note = "new"; } }
"#;

fn job_to_work() -> FactMove {
    FactMove {
        fact: "Job".into(),
        to: Some("Work".into()),
        renamed: [("minutes".to_owned(), "seconds".to_owned())].into(),
        computed: [("note".to_owned(), "old.note ?? `${old.minutes} min`".to_owned())].into(),
        ..FactMove::default()
    }
}

fn gone() -> FactMove {
    FactMove {
        fact: "Gone".into(),
        dropped: true,
        ..FactMove::default()
    }
}

fn old_memory() -> WorkingMemory {
    let mut memory = WorkingMemory::new(&rules(OLD), RunId::from_bits(3));
    let job = Value::map([("id", Value::from(1_i64)), ("minutes", 7_i64.into())]);
    let events = vec![
        Event::Insert {
            fact_type: "Job".into(),
            value: job,
        },
        Event::Insert {
            fact_type: "Gone".into(),
            value: Value::map([("x", Value::from(1_i64))]),
        },
    ];
    let outcome = memory.turn(turn(1, events));
    assert_eq!(outcome.firings.len(), 1);
    memory
}

fn shown(memory: &WorkingMemory) -> Vec<String> {
    let show = |(name, value): (&str, &Value)| format!("{name}={value}");
    (memory.facts())
        .map(|fact| {
            format!(
                "{} {}",
                fact.fact_type,
                fact.slots.into_iter().map(show).collect::<Vec<_>>().join(" ")
            )
        })
        .collect()
}

#[test]
fn facts_are_taken_over_and_an_open_call_comes_back_to_the_new_rule() {
    let new = rules(NEW);
    let moves = Arc::new(FactMoves::compile(&new, &[job_to_work(), gone()]).expect("they fit"));
    let mut memory = old_memory().moved_to(&new, &moves).expect("it fits");
    assert_eq!(shown(&memory), [r#"Work id=1 seconds=7 note="7 min" more=true"#]);
    let outcome = memory.turn(turn(
        2,
        vec![Event::CallSucceeded {
            call: celesta_engine::CallId { seq: 1, index: 0 },
            result: Value::Null,
        }],
    ));
    assert_eq!(outcome.rejected, []);
    assert_eq!(outcome.fault, None);
    assert!(shown(&memory)[0].contains("note=\"new\""), "{:?}", shown(&memory));
    // The delta is in the new layout: what is restored from the snapshot of after the move and it is the same.
    let before = old_memory().moved_to(&new, &moves).expect("it fits").snapshot();
    let again = WorkingMemory::restore(&new, RunId::from_bits(3), Some(&before), [&outcome.delta[..]]);
    assert_eq!(again.expect("it restores").snapshot(), memory.snapshot());
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let new = rules(NEW);
    let none = Arc::new(FactMoves::default());
    let refused = old_memory().moved_to(&new, &none).expect_err("the type is gone");
    assert!(
        matches!(refused, RestoreError::UnknownFactType { .. }),
        "{refused}"
    );
    let other = FactMove {
        computed: [("note".to_owned(), "17".to_owned())].into(),
        ..job_to_work()
    };
    let moves = Arc::new(FactMoves::compile(&new, &[other, gone()]).expect("the names fit"));
    let refused = old_memory()
        .moved_to(&new, &moves)
        .expect_err("the note is a number");
    let words = refused.to_string();
    assert_eq!(
        words,
        "fact #1 `Job` does not fit: field `note` holds string, not int"
    );
    let wider = rules(&NEW.replace("{ j: Work; }", "{ j: Work; no Work k where k.id > j.id; }"));
    let moves = Arc::new(FactMoves::compile(&wider, &[job_to_work(), gone()]).expect("they fit"));
    let refused = old_memory()
        .moved_to(&wider, &moves)
        .expect_err("the rule waits for a call");
    assert!(matches!(refused, RestoreError::ChangedRule { .. }), "{refused}");
    let endless = FactMove {
        computed: [(
            "note".to_owned(),
            "{ let x = 0; while true { x += 1; } x }".to_owned(),
        )]
        .into(),
        ..job_to_work()
    };
    if let Ok(moves) = FactMoves::compile(&new, &[endless, gone()]) {
        let refused = old_memory()
            .moved_to(&new, &Arc::new(moves))
            .expect_err("it is stopped");
        assert!(refused.to_string().contains("cannot be computed"), "{refused}");
    }
}

#[test]
fn a_change_of_types_says_what_it_breaks() {
    let (old, new) = (rules(OLD), rules(NEW));
    let breaks = |declared: &[FactMove]| -> Vec<String> {
        let moves = FactMoves::compile(&new, declared).expect("they fit");
        let found = moves.breaks(&old, &new);
        found.iter().map(|found| found.message.clone()).collect()
    };
    assert_eq!(
        breaks(&[]),
        ["fact type `Job` is gone", "fact type `Gone` is gone"]
    );
    assert_eq!(breaks(&[job_to_work(), gone()]), [] as [String; 0]);
    let plain = FactMove {
        fact: "Job".into(),
        to: Some("Work".into()),
        ..FactMove::default()
    };
    assert_eq!(
        breaks(&[plain, gone()]),
        [
            "field `seconds` of `Work` is new and has no default",
            "field `note` of `Work` may be null in stored facts",
        ]
    );
    let wrong = FactMove {
        fact: "Job".into(),
        to: Some("Wok".into()),
        ..FactMove::default()
    };
    let mistakes = FactMoves::compile(&new, &[wrong]).expect_err("there is no such type");
    assert_eq!(mistakes[0].message, "the rules have no fact type `Wok`");
}

#[test]
fn rules_that_are_as_they_were_do_not_fire_again() {
    let old =
        rules(r#"fact A { x: int } rule "say" { match { a: A; } action { emit("said", #{ x: a.x }); } }"#);
    let new = rules(
        r#"fact A { x: int, y: int = 2 } rule "say" { match { a: A; } action { emit("said", #{ x: a.x }); } }
           rule "more" { match { a: A where a.y == 2; } action { emit("more", #{ x: a.x }); } }"#,
    );
    let mut memory = WorkingMemory::new(&old, RunId::from_bits(4));
    let fact = Event::Insert {
        fact_type: "A".into(),
        value: Value::map([("x", Value::from(5_i64))]),
    };
    assert_eq!(memory.turn(turn(1, vec![fact])).firings.len(), 1);
    let mut moved = memory.moved_to(&new, &Arc::default()).expect("it fits");
    assert_eq!(moved.waiting_by_rule(), [("more".to_owned(), 1)]);
    let outcome = moved.turn(turn(2, Vec::new()));
    let said: Vec<String> = (outcome.effects.iter())
        .map(|effect| match effect {
            Effect::Emit { event_type, .. } => event_type.to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(said, ["more"]);
}
