//! Figures, not checks: `cargo test --release -p celesta-engine --test measure -- --ignored --nocapture`.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it prints what it measures, with the real clock"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use celesta_engine::{
    CallId, Effect, Environment, Event, Limits, RuleSet, RunId, Source, Turn, Value, WorkingMemory, compile,
};

const RUN: RunId = RunId::from_bits(5);

fn rules(text: &str) -> Arc<RuleSet> {
    let source = Source {
        path: "measure.rules".into(),
        text: text.into(),
    };
    let functions: BTreeSet<String> = ["split", "encode", "assemble", "f"]
        .into_iter()
        .map(Into::into)
        .collect();
    let limits = Limits {
        firings: 10_000_000,
        ..Limits::default()
    };
    match compile(&source, &Environment { functions, limits }) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{found}"),
    }
}

fn insert(fact_type: &str, fields: &[(&str, Value)]) -> Event {
    Event::Insert {
        fact_type: fact_type.into(),
        value: Value::map(fields.iter().map(|(name, value)| (*name, value.clone()))),
    }
}

#[test]
#[ignore = "it takes seconds and only prints"]
fn the_video_program_at_three_sizes() {
    let rules = rules(include_str!("../benches/programs/video.rules"));
    for count in [1_000_i64, 10_000, 100_000] {
        let mut memory = WorkingMemory::new(&rules, RUN);
        let events = (0..count)
            .map(|index| insert("Chunk", &[("job", "j".into()), ("index", index.into())]))
            .collect();
        let load = Instant::now();
        drop(memory.turn(Turn {
            seq: 1,
            now_ms: 0,
            events,
        }));
        let load = load.elapsed();
        let start = Instant::now();
        let outcome = memory.turn(Turn {
            seq: 2,
            now_ms: 0,
            events: vec![insert("Job", &[("id", "j".into())])],
        });
        let wall = start.elapsed();
        let firings = u32::try_from(outcome.firings.len()).expect("few");
        println!(
            "video {count}: load {load:?}, {firings} firings in {wall:?}, {:?} each, {} bytes",
            wall / firings,
            memory.memory_bytes()
        );
    }
}

#[test]
#[ignore = "it takes seconds and only prints"]
fn a_fan_out_of_calls() {
    let rules = rules(
        r#"workflow w;
        fact Job { id: string, state: string = "running" }
        fact Part { job: string, index: int, state: string = "new" }
        rule "call" { match { p: Part where p.state == "new"; } action { p.state = "out"; call("f", #{ index: p.index }); } reaction { p.state = "done"; } }
        rule "end" { match { j: Job where j.state == "running"; no Part p where p.job == j.id && p.state != "done"; } action { j.state = "done"; complete(); } }"#,
    );
    for count in [10_000_i64, 100_000] {
        let mut memory = WorkingMemory::new(&rules, RUN);
        let mut events: Vec<Event> = (0..count)
            .map(|index| insert("Part", &[("job", "j".into()), ("index", index.into())]))
            .collect();
        events.push(insert("Job", &[("id", "j".into())]));
        let start = Instant::now();
        let outcome = memory.turn(Turn {
            seq: 1,
            now_ms: 0,
            events,
        });
        let out = start.elapsed();
        let calls: Vec<CallId> = outcome
            .effects
            .iter()
            .filter_map(|effect| {
                if let Effect::Call { call, .. } = effect {
                    Some(*call)
                } else {
                    None
                }
            })
            .collect();
        let start = Instant::now();
        let (mut seq, mut bytes) = (1, 0);
        for answers in calls.chunks(500) {
            seq += 1;
            let events = answers
                .iter()
                .map(|call| Event::CallSucceeded {
                    call: *call,
                    result: Value::Null,
                })
                .collect();
            bytes += memory
                .turn(Turn {
                    seq,
                    now_ms: 0,
                    events,
                })
                .delta
                .len();
        }
        println!(
            "fan-out {count}: out {out:?} (delta {} bytes), back {:?}, {bytes} bytes of deltas, {} bytes",
            outcome.delta.len(),
            start.elapsed(),
            memory.memory_bytes()
        );
    }
}

#[test]
#[ignore = "it takes seconds and only prints"]
fn a_small_run() {
    let mut text =
        "workflow w; fact A { id: string, n: int = 0, state: string = \"new\", job: string = \"j\" }\n"
            .to_owned();
    for number in 0..20 {
        text += &format!(
            "rule \"r{number}\" {{ match {{ a: A where a.state == \"s{number}\"; b: A where b.job == a.job && b.n == {number}; }} action {{ a.state = \"s{}\"; a.n += 1; }} }}\n",
            number + 1
        );
    }
    let rules = rules(&text);
    let mut memory = WorkingMemory::new(&rules, RUN);
    let events = (0..20_i64)
        .map(|number| insert("A", &[("id", number.to_string().into()), ("n", number.into())]))
        .collect();
    drop(memory.turn(Turn {
        seq: 1,
        now_ms: 0,
        events,
    }));
    let snapshot = memory.snapshot();
    let start = Instant::now();
    for _ in 0..10_000 {
        drop(WorkingMemory::restore(&rules, RUN, Some(&snapshot), []).expect("it restores"));
    }
    println!(
        "20 rules, 20 facts: {} bytes, snapshot {} bytes, restored in {:?}",
        memory.memory_bytes(),
        snapshot.len(),
        start.elapsed() / 10_000
    );
}
