//! More programs of the classical kind, at small sizes, each with an outcome that is known from elsewhere. They stress
//! what a matcher can get wrong as it grows: equalities of computed values, ranges with two ends, facts that span a
//! range, `no` over an order, exact sums of fractions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use celesta_engine::{
    Environment, Event, Limits, RunId, Source, Turn, Value, WorkingMemory, compile, read_facts,
};

/// The facts at the end by type, each by field; and how often rules fired.
struct Ran {
    facts: Vec<(String, BTreeMap<String, Value>)>,
    firings: usize,
}

impl Ran {
    fn of(&self, fact_type: &str) -> impl Iterator<Item = &BTreeMap<String, Value>> {
        let all = self.facts.iter().filter(move |(kind, _)| kind == fact_type);
        all.map(|(_, fields)| fields)
    }
}

fn number(fields: &BTreeMap<String, Value>, name: &str) -> i64 {
    match fields.get(name) {
        Some(Value::Int(number)) => *number,
        other => panic!("`{name}` is {other:?}"),
    }
}

/// Runs a program over facts that are written as the tool reads them.
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
    assert!(outcome.firings.iter().all(|firing| firing.error.is_none()));
    let facts = (memory.facts())
        .map(|fact| {
            let fields = fact
                .slots
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).clone()));
            (fact.fact_type.to_owned(), fields.collect())
        })
        .collect();
    Ran {
        facts,
        firings: outcome.firings.len(),
    }
}

/// Facts as text, from lines of `type` and fields.
fn list(facts: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let facts = facts
        .into_iter()
        .map(|(kind, fields)| format!(r#"["{kind}",{{{fields}}}]"#));
    format!("[{}]", facts.collect::<Vec<_>>().join(","))
}

#[test]
fn waltz_labels_every_drawing_in_the_one_way_there_is() {
    // The lines of a block with a step, as in the classical benchmark.
    const LINES: [(i64, i64); 18] = [
        (122, 107),
        (107, 2207),
        (2207, 3204),
        (3204, 6404),
        (2216, 2207),
        (3213, 3204),
        (2216, 3213),
        (107, 2601),
        (2601, 7401),
        (6404, 7401),
        (3213, 6413),
        (6413, 6404),
        (7416, 7401),
        (5216, 6413),
        (2216, 5216),
        (122, 5222),
        (5222, 7416),
        (5222, 5216),
    ];
    for drawings in [1, 5] {
        let lines = (0..drawings).flat_map(|drawing| {
            LINES.map(|(a, b)| {
                let (a, b) = (a + drawing * 8_000, b + drawing * 8_000);
                ("Line", format!(r#""drawing":{drawing},"p1":{a},"p2":{b}"#))
            })
        });
        let stage = [("Stage", r#""value":"duplicate""#.to_owned())];
        let ran = run(
            include_str!("../benches/programs/waltz.rules"),
            &list(lines.chain(stage)),
        );
        let mut labels: BTreeMap<String, usize> = BTreeMap::new();
        for edge in ran.of("Edge") {
            *labels.entry(edge["label"].to_string()).or_default() += 1;
        }
        let count = usize::try_from(drawings).expect("few");
        let expected = [("\"+\"", 18 * count), ("\"-\"", 6 * count), ("\"B\"", 12 * count)];
        assert_eq!(
            labels,
            expected.map(|(label, count)| (label.to_owned(), count)).into()
        );
        assert_eq!(ran.firings, 67 * count + 5);
    }
}

#[test]
fn the_closure_of_a_chain_has_every_pair() {
    let edges = (0..30).map(|at| ("Edge", format!(r#""a":{at},"b":{}"#, at + 1)));
    let ran = run(include_str!("../benches/programs/closure.rules"), &list(edges));
    let paths: BTreeSet<(i64, i64)> = ran
        .of("Path")
        .map(|path| (number(path, "a"), number(path, "b")))
        .collect();
    assert_eq!(paths.len(), 30 * 31 / 2);
    assert_eq!(ran.of("Path").count(), paths.len());
    assert!(paths.iter().all(|(a, b)| a < b));
}

#[test]
fn the_shortest_way_is_found() {
    const SIDE: i64 = 8;
    let place = |x: i64, y: i64| y * SIDE + x;
    let length = |from: i64, to: i64| (from * 7 + to * 13) % 19 + 1;
    let mut roads = Vec::new();
    for (x, y) in (0..SIDE * SIDE).map(|at| (at % SIDE, at / SIDE)) {
        for (to_x, to_y) in [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)] {
            if (0..SIDE).contains(&to_x) && (0..SIDE).contains(&to_y) {
                roads.push((place(x, y), place(to_x, to_y)));
            }
        }
    }
    // Bellman and Ford: as many rounds as there are places.
    let mut least = vec![i64::MAX / 2; 64];
    least[0] = 0;
    for _ in 0..64 {
        for (from, to) in &roads {
            let (a, b) = (
                usize::try_from(*from).expect("small"),
                usize::try_from(*to).expect("small"),
            );
            least[b] = least[b].min(least[a] + length(*from, *to));
        }
    }
    let facts = (roads.iter())
        .map(|(from, to)| {
            (
                "Road",
                format!(r#""from":{from},"to":{to},"length":{}"#, length(*from, *to)),
            )
        })
        .chain([
            ("Goal", r#""id":63"#.to_owned()),
            ("Place", r#""id":0,"cost":0,"via":-1"#.to_owned()),
        ]);
    let ran = run(include_str!("../benches/programs/route.rules"), &list(facts));
    let goal = ran.of("Goal").next().expect("there is a goal");
    assert_eq!(number(goal, "cost"), least[63]);
    for place in ran
        .of("Place")
        .filter(|place| place["state"] == Value::from("closed"))
    {
        let at = usize::try_from(number(place, "id")).expect("small");
        assert_eq!(number(place, "cost"), least[at]);
    }
}

#[test]
fn life_lives_as_conway_says() {
    const SIDE: i64 = 9;
    // A glider and a row of three.
    let mut alive: BTreeSet<(i64, i64)> =
        [(1, 0), (2, 1), (0, 2), (1, 2), (2, 2), (6, 6), (6, 7), (6, 8)].into();
    let all = || (0..SIDE * SIDE).map(|at| (at % SIDE, at / SIDE));
    let facts = all()
        .map(|(x, y)| {
            (
                "Cell",
                format!(r#""x":{x},"y":{y},"alive":{}"#, alive.contains(&(x, y))),
            )
        })
        .chain([("Clock", r#""generation":1,"last":6"#.to_owned())]);
    let ran = run(include_str!("../benches/programs/life.rules"), &list(facts));
    for _ in 0..6 {
        let next = all().filter(|(x, y)| {
            let near =
                |(a, b): &&(i64, i64)| (a - x).abs() <= 1 && (b - y).abs() <= 1 && (*a, *b) != (*x, *y);
            let neighbors = alive.iter().filter(near).count();
            neighbors == 3 || neighbors == 2 && alive.contains(&(*x, *y))
        });
        alive = next.collect();
    }
    let living = ran.of("Cell").filter(|cell| cell["alive"] == Value::Bool(true));
    let living: BTreeSet<(i64, i64)> = living
        .map(|cell| (number(cell, "x"), number(cell, "y")))
        .collect();
    assert_eq!(living, alive);
}

#[test]
fn a_sudoku_is_solved() {
    let solution = |row: i64, column: i64| (3 * (row % 3) + row / 3 + column) % 9;
    let mut facts = Vec::new();
    for (row, column) in (0..81).map(|at| (at / 9, at % 9)) {
        let mut place = String::new();
        let at = (row * 9 + column, row / 3 * 3 + column / 3);
        write!(
            place,
            r#""cell":{},"row":{row},"column":{column},"box":{}"#,
            at.0, at.1
        )
        .expect("a string");
        // Three in five are known.
        if (row * 31 + column * 17) % 5 < 3 {
            facts.push(("Known", format!(r#"{place},"value":{}"#, solution(row, column))));
        } else {
            facts.extend((0..9).map(|value| ("Candidate", format!(r#"{place},"value":{value}"#))));
        }
    }
    let ran = run(include_str!("../benches/programs/sudoku.rules"), &list(facts));
    assert_eq!(ran.of("Candidate").count(), 0);
    assert_eq!(ran.of("Known").count(), 81);
    for known in ran.of("Known") {
        assert_eq!(
            number(known, "value"),
            solution(number(known, "row"), number(known, "column"))
        );
    }
}

#[test]
fn every_event_comes_into_its_window() {
    let windows = (0..40).map(|at| {
        (
            "Window",
            format!(r#""id":{at},"from":{},"to":{}"#, at * 10, at * 10 + 10),
        )
    });
    let events = (0..40).map(|at| ("Event", format!(r#""at":{}"#, at * 97 % 400)));
    let ran = run(
        include_str!("../benches/programs/windows.rules"),
        &list(windows.chain(events)),
    );
    assert_eq!(ran.firings, 40);
    for event in ran.of("Event") {
        assert_eq!(number(event, "window"), number(event, "at") / 10);
    }
    assert_eq!(
        ran.of("Window")
            .map(|window| number(window, "events"))
            .sum::<i64>(),
        40
    );
}

#[test]
fn a_queue_is_served_in_its_order() {
    let waiting = (0..60).map(|at| ("Waits", format!(r#""number":{}"#, at * 37 % 61)));
    let ran = run(
        include_str!("../benches/programs/counter.rules"),
        &list(waiting.chain([("Desk", String::new())])),
    );
    assert_eq!(ran.firings, 60);
    assert_eq!(ran.of("Desk").map(|desk| number(desk, "served")).sum::<i64>(), 60);
}

#[test]
fn a_ledger_is_right_to_the_last_bit() {
    let amounts: Vec<f64> = (1..=50_u32).map(|at| f64::from(at) * 0.1).collect();
    let postings = (amounts.iter()).map(|amount| ("Posting", format!(r#""account":1,"amount":{amount}"#)));
    let ran = run(
        include_str!("../benches/programs/ledger.rules"),
        &list(postings.chain([("Account", r#""id":1"#.to_owned())])),
    );
    let account = ran.of("Account").next().expect("there is one");
    // The tenths differ from what is written by as much as they are rounded; their exact sum is rounded once, up.
    assert_eq!(account["total"], Value::Float(127.500_000_000_000_01));
    assert_eq!(ran.firings, 100);
}

#[test]
fn the_zebra_is_in_the_fifth_house() {
    let attributes = [
        ("nationality", "englishman spaniard ukrainian norwegian japanese"),
        ("color", "red green ivory yellow blue"),
        ("pet", "dog snails fox horse zebra"),
        ("drinks", "water coffee tea milk orange-juice"),
        ("smokes", "oldgolds kools chesterfields lucky-strikes parliaments"),
    ];
    let facts = attributes.iter().flat_map(|(attribute, values)| {
        values.split(' ').flat_map(move |value| {
            (1..=5).map(move |house| ("Fits", format!(r#""a":"{attribute}","v":"{value}","h":{house}"#)))
        })
    });
    let ran = run(include_str!("../benches/programs/zebra.rules"), &list(facts));
    assert_eq!(ran.firings, 1);
    let answer = ran.of("Answer").next().expect("there is one");
    assert_eq!((number(answer, "water"), number(answer, "zebra")), (1, 5));
}

#[test]
fn no_point_goes_before_one_that_exceeds_it() {
    let points: Vec<(i64, i64)> = (0..200_i64)
        .map(|at| (at * 7_919 % 509, at * 104_729 % 521))
        .collect();
    let facts =
        (points.iter().enumerate()).map(|(id, (x, y))| ("Point", format!(r#""id":{id},"x":{x},"y":{y}"#)));
    let ran = run(include_str!("../benches/programs/layers.rules"), &list(facts));
    assert_eq!(ran.firings, points.len());
    let gone: Vec<(i64, i64)> = ran
        .of("Layer")
        .map(|layer| points[usize::try_from(number(layer, "id")).expect("small")])
        .collect();
    for (at, early) in gone.iter().enumerate() {
        assert!(
            gone[at..]
                .iter()
                .all(|late| late.0 <= early.0 || late.1 <= early.1),
            "{early:?}"
        );
    }
}

#[test]
fn friends_of_friends_are_suggested_once() {
    const PEOPLE: i64 = 60;
    let age = |id: i64| 18 + id * 37 % 60;
    let likes = |id: i64| [id * 7 % 11, id * 5 % 13];
    let knows: BTreeSet<(i64, i64)> = (0..PEOPLE)
        .flat_map(|id| [id * 3 + 1, id * 7 + 5].map(|other| (id, other % PEOPLE)))
        .filter(|(a, b)| a != b)
        .flat_map(|(a, b)| [(a, b), (b, a)])
        .collect();
    let facts = (0..PEOPLE)
        .map(|id| ("Person", format!(r#""id":{id},"age":{}"#, age(id))))
        .chain(
            knows
                .iter()
                .map(|(a, b)| ("Knows", format!(r#""a":{a},"b":{b}"#))),
        )
        .chain((0..PEOPLE).flat_map(|id| {
            let liked: BTreeSet<i64> = likes(id).into();
            liked
                .into_iter()
                .map(move |what| ("Likes", format!(r#""person":{id},"what":{what}"#)))
        }));
    let ran = run(include_str!("../benches/programs/friends.rules"), &list(facts));
    let suggested: Vec<(i64, i64)> = ran
        .of("Suggest")
        .map(|one| (number(one, "a"), number(one, "b")))
        .collect();
    let mut expected = BTreeSet::new();
    for (a, between) in &knows {
        for (_, b) in knows.iter().filter(|(from, to)| from == between && to != a) {
            let alike = likes(*a).iter().any(|what| likes(*b).contains(what));
            if (age(*a) - age(*b)).abs() < 20 && alike && !knows.contains(&(*a, *b)) {
                expected.insert((*a, *b));
            }
        }
    }
    assert!(expected.len() > 20);
    assert_eq!(suggested.len(), expected.len());
    assert_eq!(suggested.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_rule_does_not_fire_again_for_a_slot_that_only_a_rule_beside_it_reads() {
    let program = r#"workflow w;
        fact A { x: int, y: int }
        fact B { x: int }
        rule "reads x" { match { a: A; b: B where b.x == a.x; } action { insert("B", #{ x: 100 + a.x }); } }
        rule "reads y" { match { a: A; b: B where b.x == a.y; } action { log(`${b.x}`); } }
        rule "writes y" salience -1 { match { a: A where a.y < 3; } action { a.y += 1; } }
    "#;
    let ran = run(
        program,
        r#"[["A",{"x":7,"y":0}],["B",{"x":7}],["B",{"x":1}],["B",{"x":2}]]"#,
    );
    assert_eq!(ran.of("B").filter(|b| number(b, "x") == 107).count(), 1);
    // One for x, two for y, three that write it.
    assert_eq!(ran.firings, 1 + 2 + 3);
}
