//! Rule programs by the engine alone: `cargo bench -p celesta-engine --bench programs -- manners 128`.
//!
//! Programs are `manners N`, `hanoi N`, `video N`, `FILE.rules FACTS.json`, `idle N` (runs of 20 rules and 20 facts at rest) and `again N` (such
//! runs restored, ten firings each). Facts are loaded while nothing fires, then the firing is timed.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures time and says so"
)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use celesta_engine::{
    Environment, Event, FactId, Limits, RuleSet, RunId, Source, Turn, Value, WorkingMemory, compile,
    read_facts,
};

const RUN: RunId = RunId::from_bits(1);

fn rules(text: &str) -> Arc<RuleSet> {
    let source = Source {
        path: "bench.rules".into(),
        text: text.into(),
    };
    let limits = Limits {
        firings: u32::MAX,
        facts: usize::MAX,
        effects: usize::MAX,
        ..Limits::default()
    };
    let environment = Environment {
        limits,
        ..Environment::default()
    };
    match compile(&source, &environment) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{found}"),
    }
}

fn insert<const N: usize>(fact_type: &str, fields: [(&str, Value); N]) -> Event {
    Event::Insert {
        fact_type: fact_type.into(),
        value: Value::map(fields),
    }
}

const fn turn(seq: u64, events: Vec<Event>) -> Turn {
    Turn {
        seq,
        now_ms: 0,
        events,
    }
}

/// A line of `/proc/self/status` in KiB.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn program(name: &str, size: usize, rules: &Arc<RuleSet>, events: Vec<Event>) {
    let mut memory = WorkingMemory::new(rules, RUN);
    let began = Instant::now();
    let rejected = memory.load(turn(1, events));
    assert_eq!(rejected, []);
    let load = began.elapsed();
    let began = Instant::now();
    assert_eq!(memory.fire_loaded(), None);
    let wall = began.elapsed();
    let outcome = memory.outcome(rejected, None);
    let firings = outcome.firings.len();
    println!(
        "{name} {size}: load_s {:.4} wall_s {:.4} firings {firings} firings_per_s {:.0} changes {} peak_rss_mb {:.1}",
        load.as_secs_f64(),
        wall.as_secs_f64(),
        number(firings) / wall.as_secs_f64(),
        outcome.changes.len(),
        number(usize::try_from(status("VmHWM")).unwrap_or(0)) / 1024.0,
    );
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn manners(size: usize) {
    let path = format!(
        "{}/benches/programs/manners{size}.facts.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let facts = std::fs::read(path).expect("there are lists of 16, 32, 64 and 128 guests");
    let rules = rules(include_str!("programs/manners.rules"));
    let events = read_facts(&rules, &facts).expect("the facts fit");
    program("manners", size, &rules, events);
}

fn hanoi(size: usize) {
    let rules = rules(include_str!("programs/hanoi.rules"));
    let discs = i64::try_from(size).expect("few discs");
    let mut events = vec![insert("tower", [("discs", discs.into())])];
    events.extend((1..=discs).map(|size| insert("disc", [("size", size.into()), ("peg", "a".into())])));
    let goal = [
        ("id", Value::from(1_i64)),
        ("parent", 0_i64.into()),
        ("size", discs.into()),
        ("from", "a".into()),
        ("to", "c".into()),
        ("via", "b".into()),
    ];
    events.push(insert("goal", goal));
    program("hanoi", size, &rules, events);
}

/// Chunks, then their job.
fn chunks(size: usize) -> Vec<Event> {
    let mut events: Vec<Event> = (0..i64::try_from(size).expect("few chunks"))
        .map(|index| insert("Chunk", [("job", "j".into()), ("index", index.into())]))
        .collect();
    events.push(insert("Job", [("id", "j".into())]));
    events
}

fn video(size: usize) {
    let text = include_str!("programs/video.rules");
    program("video", size, &rules(text), chunks(size));
    // The same changes from outside, with the agenda at work and nothing in the actions.
    let text = text.replace("chunk.state = \"running\";", "chunk.state;");
    let text = text.replace("chunk.state = \"done\";", "chunk.state;");
    let rules = rules(&text);
    let mut memory = WorkingMemory::new(&rules, RUN);
    assert_eq!(memory.load(turn(1, chunks(size))), []);
    let states = ["running", "done"];
    let events: Vec<Event> = (0..size * 2)
        .map(|at| Event::Update {
            fact: FactId(u64::try_from(at / 2 + 1).expect("few chunks")),
            version: None,
            value: Value::map([("state", Value::from(states[at % 2]))]),
        })
        .collect();
    let count = events.len();
    let began = Instant::now();
    assert_eq!(memory.load(turn(2, events)), []);
    let wall = began.elapsed().as_secs_f64();
    println!(
        "video {size}: match alone {:.0} changes/s, {:.0} ns each",
        number(count) / wall,
        wall / number(count) * 1e9
    );
}

/// Twenty rules, each for one state, and twenty facts.
fn small() -> (Arc<RuleSet>, Vec<Event>) {
    let mut text = String::from(
        "workflow small;\nfact Job { id: string, state: string = \"new\", size: int = 0, count: int = 0 }\n\
         fact Part { job: string, index: int, state: string = \"new\" }\n",
    );
    for number in 0..20 {
        writeln!(
            text,
            "rule \"r{number}\" {{ match {{ job: Job where job.state == \"s{number}\"; part: Part where part.job == job.id \
             && part.state == \"s{number}\"; }} action {{ part.state = \"s{}\"; }} }}",
            number + 1
        )
        .expect("a string takes everything");
    }
    let mut events = vec![insert("Job", [("id", "j".into()), ("state", "s19".into())])];
    events.extend((0..19_i64).map(|index| {
        insert(
            "Part",
            [
                ("job", "j".into()),
                ("index", index.into()),
                ("state", "s19".into()),
            ],
        )
    }));
    (rules(&text), events)
}

fn idle(size: usize) {
    let (rules, events) = small();
    let before = status("VmRSS");
    let runs: Vec<WorkingMemory> = (0..size)
        .map(|_| {
            let mut memory = WorkingMemory::new(&rules, RUN);
            assert_eq!(memory.turn(turn(1, events.clone())).firings.len(), 19);
            memory
        })
        .collect();
    let after = status("VmRSS");
    println!(
        "idle {size}: {} bytes a run by the system, {} by its own account",
        (after - before) * 1024 / u64::try_from(size).unwrap_or(1),
        runs.first().map_or(0, WorkingMemory::memory_bytes)
    );
    let snapshot = runs.first().expect("there is one").snapshot();
    let began = Instant::now();
    for _ in 0..size {
        drop(WorkingMemory::restore(&rules, RUN, Some(&snapshot), []).expect("it restores"));
    }
    println!(
        "idle {size}: restored in {:.1} µs from {} bytes",
        began.elapsed().as_secs_f64() / number(size) * 1e6,
        snapshot.len()
    );
}

fn again(size: usize) {
    let (rules, events) = small();
    let mut memory = WorkingMemory::new(&rules, RUN);
    let outcome = memory.turn(turn(1, events));
    assert_eq!(outcome.firings.len(), 19);
    let snapshot = memory.snapshot();
    let part = |id: u64| Event::Update {
        fact: FactId(id),
        version: None,
        value: Value::map([("state", Value::from("s19"))]),
    };
    let began = Instant::now();
    for _ in 0..size {
        let mut memory = WorkingMemory::restore(&rules, RUN, Some(&snapshot), []).expect("it restores");
        let outcome = memory.turn(turn(2, (2..12).map(part).collect()));
        assert_eq!(outcome.firings.len(), 10);
    }
    let wall = began.elapsed().as_secs_f64();
    println!("again {size}: {wall:.3} s for {size} runs restored and ten firings each");
}

/// Anybody's program: rules, and facts as `celesta bench rules` reads them.
fn file(path: &str, facts: &str) {
    let rules = rules(&std::fs::read_to_string(path).expect("a file of rules"));
    let facts = std::fs::read(facts).expect("a file of facts");
    let events = read_facts(&rules, &facts).expect("the facts fit");
    program(path, events.len(), &rules, events);
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"));
    let (Some(name), Some(size)) = (arguments.next(), arguments.next()) else {
        println!(
            "programs: manners, hanoi, video, idle or again, and a size; or a file of rules and one of facts"
        );
        return;
    };
    if name.ends_with(".rules") {
        return file(&name, &size);
    }
    let size: usize = size.parse().expect("a size is a number");
    match name.as_str() {
        "manners" => manners(size),
        "hanoi" => hanoi(size),
        "video" => video(size),
        "idle" => idle(size),
        "again" => again(size),
        _ => println!("no program `{name}`"),
    }
}
