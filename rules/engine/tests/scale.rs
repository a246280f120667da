//! Large runs: what one change costs must not follow the size of the memory. Times are printed, not asserted.

use std::sync::Arc;

use celesta_engine::{
    CallId, Effect, Environment, Event, Limits, RuleSet, RunId, Source, Turn, Value, WorkingMemory, compile,
};

const RUN: RunId = RunId::from_bits(5);

fn rules(text: &str) -> Arc<RuleSet> {
    let source = Source {
        path: "scale.rules".into(),
        text: text.into(),
    };
    let functions = ["split", "encode", "assemble"]
        .into_iter()
        .map(Into::into)
        .collect();
    let limits = Limits {
        firings: 1_000_000,
        ..Limits::default()
    };
    match compile(&source, &Environment { functions, limits }) {
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

fn calls(effects: &[Effect]) -> Vec<CallId> {
    effects
        .iter()
        .filter_map(|effect| {
            if let Effect::Call { call, .. } = effect {
                Some(*call)
            } else {
                None
            }
        })
        .collect()
}

/// A job of `count` chunks: one turn that calls them all, then answers by hundreds.
fn fan_out(count: i64) {
    let rules = rules(include_str!("encode.rules"));
    let mut memory = WorkingMemory::new(&rules, RUN);
    let mut seq = 0;
    let mut deltas: Vec<Vec<u8>> = Vec::new();
    let mut turn = |memory: &mut WorkingMemory, events: Vec<Event>| {
        seq += 1;
        let outcome = memory.turn(Turn {
            seq,
            now_ms: 0,
            events,
        });
        assert_eq!(outcome.fault, None);
        deltas.push(outcome.delta);
        outcome.effects
    };
    let fields = [
        ("id", Value::from("j")),
        ("source", artifact("s")),
        ("recipe", "r".into()),
        ("state", "encoding".into()),
    ];
    let mut events = vec![Event::Insert {
        fact_type: "Job".into(),
        value: Value::map(fields),
    }];
    for index in 0..count {
        let fields = [
            ("job", Value::from("j")),
            ("index", index.into()),
            ("source", artifact("part")),
        ];
        events.push(Event::Insert {
            fact_type: "Chunk".into(),
            value: Value::map(fields),
        });
    }
    let made = calls(&turn(&mut memory, events));
    // The rule `assemble` saw no chunk before the first was there: it has fired, or not, by the order of events.
    let encodes: Vec<CallId> = made.into_iter().collect();
    assert!(encodes.len() >= usize::try_from(count).expect("positive"));
    let mut assembled = Vec::new();
    for answers in encodes.chunks(200) {
        let answer = |call: &CallId| Event::CallSucceeded {
            call: *call,
            result: Value::map([("file", artifact("out"))]),
        };
        assembled.extend(calls(&turn(&mut memory, answers.iter().map(answer).collect())));
    }
    assert_eq!(assembled.len(), 1);
    let restored =
        WorkingMemory::restore(&rules, RUN, None, deltas.iter().map(Vec::as_slice)).expect("it restores");
    assert_eq!(restored.snapshot(), memory.snapshot());
}

#[test]
fn ten_thousand_calls_go_out_and_come_back() {
    fan_out(10_000);
}

#[test]
fn every_chunk_of_the_video_program_runs_to_its_end() {
    let rules = rules(include_str!("../benches/programs/video.rules"));
    let mut memory = WorkingMemory::new(&rules, RUN);
    let mut events: Vec<Event> = (0..2_000_i64)
        .map(|index| Event::Insert {
            fact_type: "Chunk".into(),
            value: Value::map([("job", Value::from("j")), ("index", index.into())]),
        })
        .collect();
    events.push(Event::Insert {
        fact_type: "Job".into(),
        value: Value::map([("id", Value::from("j"))]),
    });
    let outcome = memory.turn(Turn {
        seq: 1,
        now_ms: 0,
        events,
    });
    assert_eq!(outcome.fault, None);
    assert_eq!(outcome.firings.len(), 4_001);
    let Some(Effect::Complete { result_json }) = outcome.effects.last() else {
        panic!("{:?}", outcome.effects.last())
    };
    assert_eq!(&**result_json, r#"{"chunks":2000}"#);
}
