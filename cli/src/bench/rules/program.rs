//! The programs that come with the binary: their rules, facts of any size, and what has to come out.

use celesta_engine::{Event, FactId, Outcome, Source, Value, WorkingMemory, read_facts};
use clap::ValueEnum;

use super::{RUN, Stopwatch, check, compiled, loaded, rate};
use crate::exit::Failure;

const MANNERS: &str = include_str!("../../../../rules/engine/benches/programs/manners.rules");
const HANOI: &str = include_str!("../../../../rules/engine/benches/programs/hanoi.rules");
const WALTZ: &str = include_str!("../../../../rules/engine/benches/programs/waltz.rules");
const VIDEO: &str = include_str!("../../../../rules/engine/benches/programs/video.rules");

/// The published guest lists.
const GUESTS: [(u32, &str); 4] = [
    (
        16,
        include_str!("../../../../rules/engine/benches/programs/manners16.facts.json"),
    ),
    (
        32,
        include_str!("../../../../rules/engine/benches/programs/manners32.facts.json"),
    ),
    (
        64,
        include_str!("../../../../rules/engine/benches/programs/manners64.facts.json"),
    ),
    (
        128,
        include_str!("../../../../rules/engine/benches/programs/manners128.facts.json"),
    ),
];

/// More discs than this take days.
const DISCS_MAX: u32 = 30;

/// A program that comes with the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    /// Miss Manners: joins, negation, depth first
    Manners,
    /// Towers of Hanoi: insert, update, retract
    Hanoi,
    /// One job of many chunks: one change at a time beside counters
    Video,
    /// Labeling the lines of drawings: wide joins of equalities and differences
    Waltz,
}

impl Program {
    /// The word on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Manners => "manners",
            Self::Hanoi => "hanoi",
            Self::Video => "video",
            Self::Waltz => "waltz",
        }
    }

    /// The size unless one is given.
    pub(crate) const fn size(self) -> u32 {
        match self {
            Self::Manners => 64,
            Self::Hanoi => 15,
            Self::Video => 10_000,
            Self::Waltz => 100,
        }
    }

    /// The rules.
    pub(crate) fn source(self) -> Source {
        let text = match self {
            Self::Manners => MANNERS,
            Self::Hanoi => HANOI,
            Self::Video => VIDEO,
            Self::Waltz => WALTZ,
        };
        Source {
            path: format!("{}.rules", self.name()),
            text: text.to_owned(),
        }
    }

    /// The facts to begin with, or why there are none of this size.
    pub(crate) fn facts(self, size: u32) -> Result<Vec<Event>, String> {
        match self {
            Self::Manners => guests(size),
            Self::Hanoi if size > DISCS_MAX => Err(format!("at most {DISCS_MAX} discs")),
            Self::Hanoi => Ok(tower(size)),
            Self::Video => Ok(job(size)),
            Self::Waltz => Ok(drawings(size)),
        }
    }

    /// Whether the outcome is right, or what is wrong with it.
    pub(crate) fn verify(
        self,
        size: u32,
        memory: &WorkingMemory,
        outcome: &Outcome,
        fired: usize,
    ) -> Result<(), String> {
        match self {
            Self::Manners => check::table_is_set(size, memory),
            Self::Hanoi => check::tower_has_moved(size, memory, fired),
            Self::Video => check::chunks_are_done(size, memory, outcome),
            Self::Waltz => check::lines_are_labeled(size, memory),
        }
    }

    /// Changes a second through match and agenda alone, for `video`: the changes that the rules make are made from
    /// outside, one event each, and the rules' actions are empty. Activations come and go on the agenda; none fires.
    pub(crate) fn match_changes_per_s(self, size: u32) -> Result<Option<f64>, Failure> {
        if self != Self::Video {
            return Ok(None);
        }
        let source = Source {
            path: "video.rules".into(),
            text: without_actions(VIDEO),
        };
        let (rules, _) = compiled(&source)?;
        let mut memory = WorkingMemory::new(&rules, RUN);
        loaded(&mut memory, job(size))?;
        let chunks: Vec<FactId> = (memory.facts())
            .filter(|fact| fact.fact_type == "Chunk")
            .map(|fact| fact.id)
            .collect();
        let states = ["running", "done"].map(|state| Value::map([("state", Value::from(state))]));
        let events: Vec<Event> = (chunks.iter())
            .flat_map(|fact| {
                states.iter().map(|value| Event::Update {
                    fact: *fact,
                    version: None,
                    value: value.clone(),
                })
            })
            .collect();
        let changes = u64::try_from(events.len()).unwrap_or(u64::MAX);
        let watch = Stopwatch::start();
        let rejected = memory.load(celesta_engine::Turn {
            seq: 2,
            now_ms: 0,
            events,
        });
        let took = watch.stop();
        debug_assert_eq!(rejected, []);
        Ok(Some(rate(changes, took)))
    }
}

/// The rules with nothing in the braces of `action`; the programs here nest none in a string.
fn without_actions(rules: &str) -> String {
    let mut text = String::with_capacity(rules.len());
    let mut rest = rules;
    while let Some(at) = rest.find("action") {
        let (before, section) = rest.split_at(at);
        let mut depth = 0_usize;
        let end = section.char_indices().find_map(|(at, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => return None,
            }
            (depth == 0).then_some(at + 1)
        });
        text.push_str(before);
        text.push_str("action { }");
        rest = &section[end.unwrap_or(section.len())..];
    }
    text.push_str(rest);
    text
}

fn fact(fact_type: &str, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Event {
    Event::Insert {
        fact_type: fact_type.into(),
        value: Value::map(fields),
    }
}

/// The published guests, or for other sizes as many of each sex, each with two or three of three hobbies.
fn guests(size: u32) -> Result<Vec<Event>, String> {
    if let Some((_, text)) = GUESTS.iter().find(|(known, _)| *known == size) {
        let (rules, _) = compiled(&Program::Manners.source()).map_err(|failure| failure.to_string())?;
        return read_facts(&rules, text.as_bytes()).map_err(|error| error.to_string());
    }
    if !size.is_multiple_of(2) {
        return Err("an even number of guests sits at a table".into());
    }
    let mut events = Vec::new();
    for guest in 1..=size {
        let sex = if guest % 2 == 0 { "m" } else { "f" };
        // Every third guest has all hobbies, the others lack one.
        for hobby in (1..=3).filter(|hobby| guest % 3 == 0 || guest % 4 % 3 + 1 != *hobby) {
            let fields = [
                ("name", Value::from(format!("n{guest}"))),
                ("sex", sex.into()),
                ("hobby", format!("h{hobby}").into()),
            ];
            events.push(fact("guest", fields));
        }
    }
    events.push(fact("last_seat", [("seat", i64::from(size).into())]));
    events.push(fact("count", [("c", 1_i64.into())]));
    events.push(fact("context", [("state", "start".into())]));
    Ok(events)
}

fn tower(discs: u32) -> Vec<Event> {
    let discs = i64::from(discs);
    let mut events = vec![fact("tower", [("discs", discs.into())])];
    events.extend((1..=discs).map(|size| fact("disc", [("size", size.into()), ("peg", "a".into())])));
    let goal = [
        ("id", 1_i64.into()),
        ("parent", 0_i64.into()),
        ("size", discs.into()),
        ("from", "a".into()),
        ("to", "c".into()),
        ("via", "b".into()),
    ];
    events.push(fact("goal", goal));
    events
}

/// The lines of so many blocks with a step, side by side: those of the classical benchmark.
fn drawings(count: u32) -> Vec<Event> {
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
    let lines = (0..i64::from(count)).flat_map(|drawing| {
        LINES.map(|(from, to)| {
            let at = drawing * 8_000;
            let fields = [
                ("drawing", Value::from(drawing)),
                ("p1", (from + at).into()),
                ("p2", (to + at).into()),
            ];
            fact("Line", fields)
        })
    });
    lines
        .chain([fact("Stage", [("value", "duplicate".into())])])
        .collect()
}

fn job(chunks: u32) -> Vec<Event> {
    let chunk = |index: u32| {
        fact(
            "Chunk",
            [("job", Value::from("j")), ("index", i64::from(index).into())],
        )
    };
    let mut events: Vec<Event> = vec![fact("Job", [("id", "j".into())])];
    events.extend((0..chunks).map(chunk));
    events
}

#[cfg(test)]
mod tests {
    use celesta_engine::Turn;

    use super::*;

    #[test]
    fn every_program_comes_to_its_outcome_at_small_sizes() {
        for (program, sizes) in [
            (Program::Manners, &[2, 10, 16, 24][..]),
            (Program::Hanoi, &[1, 2, 5]),
            (Program::Video, &[1, 20]),
            (Program::Waltz, &[1, 3]),
        ] {
            let (rules, _) = compiled(&program.source()).expect("it compiles");
            for size in sizes {
                let mut memory = WorkingMemory::new(&rules, RUN);
                let events = program.facts(*size).expect("a size it has");
                let outcome = memory.turn(Turn {
                    seq: 1,
                    now_ms: 0,
                    events,
                });
                assert_eq!(
                    program.verify(*size, &memory, &outcome, outcome.firings.len()),
                    Ok(()),
                    "{program:?} {size}"
                );
            }
        }
    }

    #[test]
    fn a_wrong_outcome_is_seen() {
        for program in [Program::Manners, Program::Hanoi, Program::Video, Program::Waltz] {
            let (rules, _) = compiled(&program.source()).expect("it compiles");
            let mut memory = WorkingMemory::new(&rules, RUN);
            let events = program.facts(16).expect("a size it has");
            drop(memory.load(Turn {
                seq: 1,
                now_ms: 0,
                events,
            }));
            let outcome = memory.outcome(Vec::new(), None);
            assert!(program.verify(16, &memory, &outcome, 0).is_err(), "{program:?}");
        }
    }

    #[test]
    fn the_rules_of_the_match_bench_do_nothing() {
        let rules = without_actions(VIDEO);
        assert_eq!(rules.matches("action { }").count(), 3);
        assert!(!rules.contains("complete"));
    }
}
