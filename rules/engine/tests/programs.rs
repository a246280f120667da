//! Classical rule programs: how often they fire and what they leave behind. What they cost is measured elsewhere.

use celesta_engine::{
    Environment, Event, FiringRecord, Limits, Outcome, RunId, Source, Turn, Value, WorkingMemory, compile,
    read_facts, write_facts,
};

/// One program that has run: its memory and what came of it.
struct Ran {
    memory: WorkingMemory,
    outcome: Outcome,
}

impl Ran {
    fn firings(&self) -> usize {
        self.outcome.firings.len()
    }

    /// The facts of a type, oldest first, each as the values of these fields.
    fn facts(&self, fact_type: &str, fields: &[&str]) -> Vec<Vec<Value>> {
        let field = |slots: &[(&str, &Value)], name: &str| {
            slots
                .iter()
                .find(|(slot, _)| *slot == name)
                .map_or(Value::Null, |(_, value)| (*value).clone())
        };
        (self.memory.facts())
            .filter(|fact| fact.fact_type == fact_type)
            .map(|fact| fields.iter().map(|name| field(&fact.slots, name)).collect())
            .collect()
    }
}

fn run(program: &str, facts: &str) -> Ran {
    let source = Source {
        path: "program.rules".into(),
        text: program.into(),
    };
    let limits = Limits {
        firings: 1_000_000,
        ..Limits::default()
    };
    let environment = Environment {
        limits,
        ..Environment::default()
    };
    let rules = match compile(&source, &environment) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{found}"),
    };
    let events: Vec<Event> = read_facts(&rules, facts.as_bytes()).expect("the facts fit");
    let mut memory = WorkingMemory::new(&rules, RunId::from_bits(1));
    let outcome = memory.turn(Turn {
        seq: 1,
        now_ms: 0,
        events,
    });
    assert_eq!(outcome.fault, None);
    assert_eq!(outcome.rejected, []);
    let failed: Vec<&FiringRecord> = outcome
        .firings
        .iter()
        .filter(|firing| firing.error.is_some())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    Ran { memory, outcome }
}

#[test]
fn miss_manners_seats_every_guest_beside_a_fitting_one() {
    let program = include_str!("../benches/programs/manners.rules");
    for (facts, guests, firings) in [
        (include_str!("../benches/programs/manners16.facts.json"), 16, 183),
        (include_str!("../benches/programs/manners32.facts.json"), 32, 623),
    ] {
        let ran = run(program, facts);
        assert_eq!(ran.firings(), firings);
        let hobbies = ran.facts("guest", &["name", "sex", "hobby"]);
        let of = |name: &Value| {
            let facts = hobbies.iter().filter(|guest| guest[0] == *name);
            let hobbies: Vec<&Value> = facts.clone().map(|guest| &guest[2]).collect();
            (facts.map(|guest| &guest[1]).next().cloned(), hobbies)
        };
        // From the last seating back to the first.
        let seatings = ran.facts("seating", &["id", "pid", "name1", "name2", "seat2"]);
        let mut at = seatings.iter().find(|seating| seating[4] == Value::Int(guests));
        let mut seated = Vec::new();
        while let Some(seating) = at {
            seated.push(seating[3].clone());
            if seating[1] != Value::Int(0) {
                let ((sex1, hobbies1), (sex2, hobbies2)) = (of(&seating[2]), of(&seating[3]));
                assert_ne!(sex1, sex2);
                assert!(hobbies1.iter().any(|hobby| hobbies2.contains(hobby)));
            }
            at = seatings.iter().find(|before| before[0] == seating[1]);
        }
        seated.sort_by_key(ToString::to_string);
        seated.dedup();
        assert_eq!(i64::try_from(seated.len()), Ok(guests));
    }
}

#[test]
fn the_towers_of_hanoi_take_three_firings_a_move_and_one() {
    let discs = 8;
    let stack: Vec<String> = (1..=discs)
        .map(|size| format!(r#"["disc",{{"size":{size},"peg":"a"}}]"#))
        .collect();
    let goal = format!(r#"["goal",{{"id":1,"parent":0,"size":{discs},"from":"a","to":"c","via":"b"}}]"#);
    let facts = format!(r#"[["tower",{{"discs":{discs}}}],{},{goal}]"#, stack.join(","));
    let ran = run(include_str!("../benches/programs/hanoi.rules"), &facts);
    assert_eq!(ran.firings(), 3 * (1 << discs) - 2);
    assert_eq!(ran.facts("goal", &["id"]).len(), 0);
    assert_eq!(ran.facts("disc", &["peg"]), vec![vec![Value::from("c")]; discs]);
    assert_eq!(ran.facts("tower", &["done"]), [[Value::Bool(true)]]);
}

#[test]
fn facts_that_are_written_can_be_read_again() {
    let program = include_str!("../benches/programs/video.rules");
    let facts = r#"[["Job",{"id":"é\"","state":"idle"}],["Chunk",{"job":"j","index":-3}]]"#;
    let ran = run(program, facts);
    insta::assert_snapshot!(write_facts(&ran.memory), @r#"
    [
    ["Job",{"id":"é\"","state":"idle"}],
    ["Chunk",{"job":"j","index":-3,"state":"new"}]
    ]
    "#);
    let again = run(program, &write_facts(&ran.memory));
    assert_eq!(write_facts(&again.memory), write_facts(&ran.memory));
}

/// One fact for each number, as text.
fn numbers(fact_type: &str, numbers: std::ops::RangeInclusive<i64>) -> String {
    let facts: Vec<String> = numbers
        .map(|n| format!(r#"["{fact_type}",{{"n":{n}}}]"#))
        .collect();
    format!("[{}]", facts.join(","))
}

#[test]
fn the_sieve_leaves_the_primes() {
    let ran = run(
        include_str!("../benches/programs/sieve.rules"),
        &numbers("number", 2..=50),
    );
    let primes = [2_i64, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47];
    assert_eq!(ran.facts("number", &["n"]), primes.map(|n| vec![Value::from(n)]));
    assert_eq!(ran.firings(), 49 - primes.len());
}

#[test]
fn fibonacci_numbers_follow_from_the_two_before() {
    let facts = r#"[["goal",{"n":50}],["fib",{"n":0,"value":0}],["fib",{"n":1,"value":1}]]"#;
    let ran = run(include_str!("../benches/programs/fibonacci.rules"), facts);
    assert_eq!(ran.firings(), 49);
    let last = ran.facts("fib", &["n", "value"]).pop();
    assert_eq!(
        last,
        Some(vec![Value::from(50_i64), Value::from(12_586_269_025_i64)])
    );
}

#[test]
fn six_queens_stand_in_four_ways() {
    let ran = run(
        include_str!("../benches/programs/queens.rules"),
        &numbers("row", 1..=6),
    );
    assert_eq!(ran.firings(), 4);
    let mut ways: Vec<String> = (ran.facts("board", &["a", "b", "c", "d", "e", "f"]).iter())
        .map(|way| way.iter().map(ToString::to_string).collect())
        .collect();
    ways.sort();
    assert_eq!(ways, ["246135", "362514", "415263", "531642"]);
}
