//! The engine against the naive one: same matches, same order, same state after every restore.

use std::collections::BTreeSet;
use std::sync::Arc;

use celesta_engine::{
    Effect, Environment, Event, FactId, Limits, RuleSet, RunId, SharedFacts, SharedVersion, Source, Turn,
    Value, WorkingMemory, compile,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::naive::{BORN_MS, Clause, FIELDS, Fact, Naive, Side, Test, program};

const RUN: RunId = RunId::from_bits(99);

/// A change; facts are counted round.
#[derive(Debug, Clone)]
enum Action {
    Insert([i64; 3]),
    Update(usize, usize, i64),
    Retract(usize),
    /// The same of a shared fact.
    Share(Box<Self>),
}

fn test() -> impl Strategy<Value = Test> {
    let side = prop_oneof![
        (0..3_i64).prop_map(Side::Number),
        (0..3_usize, 0..3_usize).prop_map(|(at, field)| Side::Earlier(at, field)),
        (0..3_usize, 0..3_usize).prop_map(|(at, field)| Side::Above(at, field)),
        (0..3_usize, 0..3_usize).prop_map(|(at, field)| Side::Below(at, field)),
        (0..3_usize, 0..3_usize, -1..3_i64).prop_map(|(at, field, by)| Side::Apart(at, field, by)),
        (0..3_usize, 0..3_usize, -1..3_i64).prop_map(|(at, field, by)| Side::Near(at, field, by)),
        (0..3_usize, 0..3_usize, -1..3_i64).prop_map(|(at, field, by)| Side::Behind(at, field, by)),
    ];
    prop::collection::vec(
        (0..3_usize, prop_oneof![3 => Just(0_usize), 1 => 0..6_usize], side),
        0..3,
    )
    .prop_flat_map(|tests| prop::bool::weighted(0.3).prop_map(move |shared| Test(tests.clone(), shared)))
}

fn clause() -> impl Strategy<Value = Clause> {
    prop_oneof![
        5 => test().prop_map(Clause::Bind),
        2 => test().prop_map(Clause::No),
        1 => test().prop_map(Clause::Any),
        1 => test().prop_map(Clause::Count),
        1 => test().prop_map(Clause::Sum),
        1 => test().prop_map(Clause::Min),
        1 => test().prop_map(Clause::Max),
        1 => test().prop_map(Clause::Collect),
        1 => (0..3_i64).prop_map(Clause::AtLeast),
        1 => (0..3_usize, 0..3_usize, 1..6_i64).prop_map(|(fact, field, seconds)| Clause::After(fact, field, seconds)),
        1 => (1..6_i64).prop_map(Clause::Every),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => own_action(),
        1 => own_action().prop_map(|action| Action::Share(Box::new(action))),
    ]
}

fn own_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => prop::array::uniform3(0..3_i64).prop_map(Action::Insert),
        4 => (0..64_usize, 0..3_usize, 0..3_i64).prop_map(|(fact, field, value)| Action::Update(fact, field, value)),
        2 => (0..64_usize).prop_map(Action::Retract),
    ]
}

/// A random program, for each turn the changes from outside, those that one section makes, and the half seconds before
/// it; and after which turns the memory is restored.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    rules: Vec<(i32, Vec<Clause>)>,
    turns: Vec<(Vec<Action>, Vec<Action>, i64)>,
    restores: u16,
}

/// Random cases.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec((-1..2_i32, prop::collection::vec(clause(), 1..4)), 1..4),
        prop::collection::vec(
            (
                prop::collection::vec(action(), 0..5),
                prop_oneof![1 => Just(Vec::new()), 2 => prop::collection::vec(action(), 1..6)],
                0..4_i64,
            ),
            1..12,
        ),
        any::<u16>(),
    )
        .prop_map(|(rules, turns, restores)| Case {
            rules,
            turns,
            restores,
        })
}

/// The case of this seed.
pub(crate) fn chosen(seed: &[u8; 32]) -> Case {
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, seed);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), random);
    let chosen = case().new_tree(&mut runner).expect("no case is refused");
    chosen.current()
}

fn compiled(text: &str, limits: Limits) -> Arc<RuleSet> {
    let source = Source {
        path: "random.rules".into(),
        text: text.into(),
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

fn events(naive: &mut Naive, actions: &[Action]) -> Vec<Event> {
    let mut events = Vec::new();
    for action in actions {
        match action {
            Action::Insert(fields) => {
                naive.clock += 1;
                naive.facts.push((
                    Fact {
                        id: naive.next,
                        fields: *fields,
                    },
                    naive.clock,
                ));
                naive.next += 1;
                let value = Value::map(FIELDS.into_iter().zip(fields.map(Value::from)));
                events.push(Event::Insert {
                    fact_type: "A".into(),
                    value,
                });
            }
            Action::Update(at, field, value) => {
                if naive.facts.is_empty() {
                    continue;
                }
                let at = at % naive.facts.len();
                let (fact, stamp) = &mut naive.facts[at];
                let value_now = Value::map([(FIELDS[*field], Value::from(*value))]);
                events.push(Event::Update {
                    fact: FactId(fact.id),
                    version: None,
                    value: value_now,
                });
                if fact.fields[*field] != *value {
                    fact.fields[*field] = *value;
                    naive.clock += 1;
                    *stamp = naive.clock;
                }
            }
            Action::Share(_) => continue,
            Action::Retract(at) => {
                if naive.facts.is_empty() {
                    continue;
                }
                let (fact, _) = naive.facts.remove(at % naive.facts.len());
                events.push(Event::Retract {
                    fact: FactId(fact.id),
                    version: None,
                });
            }
        }
        naive.prune();
    }
    events
}

/// The shared facts of the service with all their versions.
#[derive(Default)]
struct Service {
    versions: Vec<Vec<SharedVersion>>,
    revision: u64,
}

impl Service {
    fn write(&mut self, action: &Action) {
        let fields = |fields: [i64; 3]| Some(Value::map(FIELDS.into_iter().zip(fields.map(Value::from))));
        let (at, fields) = match action {
            Action::Insert(values) => (self.versions.len(), fields(*values)),
            Action::Update(at, field, value) if !self.versions.is_empty() => {
                let at = at % self.versions.len();
                let Some(mut values) = self.now(at) else { return };
                values[*field] = *value;
                (at, fields(values))
            }
            Action::Retract(at) if !self.versions.is_empty() => (at % self.versions.len(), None),
            _ => return,
        };
        self.revision += 1;
        if at == self.versions.len() {
            self.versions.push(Vec::new());
        }
        let versions = &mut self.versions[at];
        versions.push(SharedVersion {
            fact: u64::try_from(at).expect("few facts") + 1,
            fact_type: "B".into(),
            version: u32::try_from(versions.len()).expect("few versions") + 1,
            revision: self.revision,
            fields,
        });
    }

    fn now(&self, at: usize) -> Option<[i64; 3]> {
        let fields = self.versions[at].last()?.fields.as_ref()?;
        let field = |name: &str| match fields.get(name) {
            Some(Value::Int(number)) => *number,
            other => unreachable!("a number, not {other:?}"),
        };
        Some(FIELDS.map(field))
    }

    /// The naive engine sees all at once what has changed in the end.
    fn show(&self, naive: &mut Naive) {
        let before = std::mem::take(&mut naive.shared);
        for at in 0..self.versions.len() {
            let Some(fields) = self.now(at) else { continue };
            let id = FactId::shared(u64::try_from(at).expect("few facts") + 1).0;
            let known = before.iter().find(|(fact, _)| fact.id == id);
            let change = match known {
                Some((fact, change)) if fact.fields == fields => *change,
                _ => self.revision,
            };
            naive.shared.push((Fact { id, fields }, change));
        }
        naive.prune();
    }

    fn given(&self, rules: &RuleSet) -> Event {
        let all = self.versions.iter().flatten();
        Event::Shared(Arc::new(SharedFacts::new(rules, self.revision, all)))
    }
}

/// The changes that one section makes, all at one instant.
fn batch(naive: &mut Naive, actions: &[Action]) -> Event {
    let before = naive.facts.clone();
    let mut gone = BTreeSet::new();
    let mut changes = Vec::new();
    let list = |numbers: &[usize], value: i64| {
        let numbers = numbers
            .iter()
            .map(|number| i64::try_from(*number).expect("few facts"));
        Value::list(numbers.chain([value]).map(Value::from))
    };
    // The batch is a fact itself.
    naive.next += 1;
    naive.clock += 1;
    let stamp = naive.clock;
    let place = |naive: &Naive, at: usize| {
        let id = before[at].0.id;
        naive
            .facts
            .iter()
            .position(|(fact, _)| fact.id == id)
            .expect("it is not gone")
    };
    for action in actions {
        let of = |at: usize| (!before.is_empty()).then(|| at % before.len().max(1));
        match action {
            Action::Insert(fields) => {
                let id = naive.next;
                naive.next += 1;
                naive.facts.push((Fact { id, fields: *fields }, stamp));
                changes.push(Value::list([0, fields[0], fields[1], fields[2]].map(Value::from)));
            }
            Action::Update(at, field, value) => {
                if let Some(at) = of(*at).filter(|at| !gone.contains(at)) {
                    let place = place(naive, at);
                    naive.facts[place].0.fields[*field] = *value;
                    changes.push(list(&[1, at, *field], *value));
                }
            }
            Action::Share(_) => {}
            Action::Retract(at) => {
                if let Some(at) = of(*at).filter(|at| !gone.contains(at)) {
                    let place = place(naive, at);
                    naive.facts.remove(place);
                    gone.insert(at);
                    changes.push(Value::list(
                        [2, i64::try_from(at).expect("few facts")].map(Value::from),
                    ));
                }
            }
        }
    }
    for (fact, known) in &mut naive.facts {
        let was = before.iter().find(|(old, _)| old.id == fact.id);
        if was.is_some_and(|(old, _)| old.fields != fact.fields) {
            *known = stamp;
        }
    }
    naive.prune();
    Event::Insert {
        fact_type: "Batch".into(),
        value: Value::map([("changes", Value::list(changes))]),
    }
}

/// Runs a case through both engines; answers how many changes it made.
///
/// # Panics
/// They differ.
pub(crate) fn check(case: Case) -> usize {
    // Every rule binds a fact first, so that its fields are read and every change of a bound fact counts.
    let rules: Vec<_> = (case.rules.into_iter())
        .map(|(salience, mut clauses)| {
            clauses.insert(0, Clause::Bind(Test(Vec::new(), false)));
            (salience, clauses)
        })
        .collect();
    let text = program(&rules);
    // Without rest the matches are those that many turns have changed, with it they are made anew.
    let rest_facts = if case.restores & 1 == 1 { 64 } else { 0 };
    let limits = Limits {
        rest_facts,
        ..Limits::default()
    };
    let set = compiled(&text, limits);
    let mut naive = Naive {
        rules,
        facts: Vec::new(),
        shared: Vec::new(),
        clock: 0,
        now_ms: BORN_MS,
        next: 1,
        fired: BTreeSet::new(),
    };
    let mut memory = WorkingMemory::new(&set, RUN);
    let mut deltas: Vec<Vec<u8>> = Vec::new();
    let mut changes = 0;
    let mut service = Service::default();
    for (turn, (actions, batched, halves)) in case.turns.iter().enumerate() {
        if turn > 0 {
            naive.now_ms += halves * 500;
        }
        naive.prune();
        for action in actions {
            if let Action::Share(shared) = action {
                service.write(shared);
            }
        }
        service.show(&mut naive);
        let mut events = events(&mut naive, actions);
        changes += events.len() + batched.len();
        let made = (!batched.is_empty()).then(|| batch(&mut naive, batched));
        let first = usize::from(made.is_some());
        events.extend(made);
        events.push(service.given(&set));
        let expected = naive.fire();
        let outcome = memory.turn(Turn {
            seq: u64::try_from(turn).expect("few turns") + 1,
            now_ms: naive.now_ms,
            events,
        });
        let said = outcome.effects.iter().map(|effect| match effect {
            Effect::Emit { data_json, .. } => data_json.to_string(),
            other => format!("{other:?}"),
        });
        let fired: Vec<(usize, Vec<u64>, String)> = (outcome.firings.iter().skip(first).zip(said))
            .map(|(firing, said)| {
                let facts = firing.facts.iter().map(|(id, _)| id.0).collect();
                (firing.rule - 1, facts, said)
            })
            .collect();
        assert_eq!(fired, expected, "turn {turn} of {text}");
        assert_eq!(outcome.effects.len(), fired.len(), "turn {turn} of {text}");
        assert!(outcome.quiescent, "turn {turn} of {text}");
        deltas.push(outcome.delta);
        if case.restores >> (turn % 16) & 1 == 1 {
            let all = deltas.iter().map(Vec::as_slice);
            let restored = WorkingMemory::restore(&set, RUN, None, all).expect("it restores");
            assert_eq!(
                restored.snapshot(),
                memory.snapshot(),
                "restored after turn {turn} of {text}"
            );
            memory = restored;
        } else if case.restores >> (turn % 7) & 1 == 1 {
            let snapshot = memory.snapshot();
            memory = WorkingMemory::restore(&set, RUN, Some(&snapshot), []).expect("it restores");
        }
    }
    changes
}
