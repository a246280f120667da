//! Shared facts: read by rules, never written by them; seen once in each version, across restores.

use std::sync::Arc;

use celesta_engine::{
    Environment, Event, FactId, RuleSet, RunId, SharedFacts, SharedVersion, Source, Turn, Value,
    WorkingMemory, compile,
};

const RUN: RunId = RunId::from_bits(7);

const RULES: &str = r#"
workflow encode;

fact Job { name: string, recipe: string, state: string = "new" }
shared fact Recipe { name: string, crf: int, on: bool = true }

rule "apply" {
    match  { job: Job where job.state != "closed"; r: shared Recipe where r.on && r.name == job.recipe; }
    action { emit("applied", #{ job: job.name, crf: r.crf }); }
}

rule "missing" {
    match  { job: Job where job.state == "new"; no shared Recipe r where r.name == job.recipe; }
    action { emit("missing", #{ job: job.name }); }
}
"#;

fn compiled(text: &str) -> Result<Arc<RuleSet>, String> {
    let source = Source {
        path: "encode.rules".into(),
        text: text.into(),
    };
    match compile(&source, &Environment::default()) {
        Ok(compiled) => Ok(compiled.rules),
        Err(found) => Err(found.to_string()),
    }
}

/// A service that keeps all versions of its facts.
#[derive(Default)]
struct Service(Vec<SharedVersion>);

impl Service {
    fn write(&mut self, fact: u64, fields: Option<(&str, i64, bool)>) {
        let versions = self.0.iter().filter(|version| version.fact == fact).count();
        let revision = u64::try_from(self.0.len()).expect("few") + 1;
        self.0.push(SharedVersion {
            fact,
            fact_type: "Recipe".into(),
            version: u32::try_from(versions).expect("few") + 1,
            revision,
            fields: fields.map(|(name, crf, on)| {
                Value::map([
                    ("name", name.into()),
                    ("crf", crf.into()),
                    ("on", Value::from(on)),
                ])
            }),
        });
        self.0.sort_by_key(|version| (version.fact, version.version));
    }

    fn facts(&self, rules: &RuleSet) -> SharedFacts {
        SharedFacts::new(rules, u64::try_from(self.0.len()).expect("few"), &self.0)
    }
}

/// A run that is restored before each turn, as a dormant one is.
struct Run {
    rules: Arc<RuleSet>,
    deltas: Vec<Vec<u8>>,
}

impl Run {
    fn new() -> Self {
        Self {
            rules: compiled(RULES).expect("good rules"),
            deltas: Vec::new(),
        }
    }

    fn memory(&self) -> WorkingMemory {
        let deltas = self.deltas.iter().map(Vec::as_slice);
        WorkingMemory::restore(&self.rules, RUN, None, deltas).expect("it restores")
    }

    /// What the rules say in a turn.
    fn turn(&mut self, service: &Service, events: Vec<Event>) -> Vec<String> {
        let mut memory = self.memory();
        let shared = Event::Shared(Arc::new(service.facts(&self.rules)));
        let outcome = memory.turn(Turn {
            seq: u64::try_from(self.deltas.len()).expect("few") + 1,
            now_ms: 0,
            events: [vec![shared], events].concat(),
        });
        assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
        self.deltas.push(outcome.delta);
        let said = outcome.effects.iter().map(|effect| match effect {
            celesta_engine::Effect::Emit {
                event_type,
                data_json,
            } => format!("{event_type} {data_json}"),
            other => format!("{other:?}"),
        });
        said.collect()
    }
}

fn job(name: &str, recipe: &str) -> Event {
    Event::Insert {
        fact_type: "Job".into(),
        value: Value::map(
            [("name", name), ("recipe", recipe)].map(|(field, text)| (field, Value::from(text))),
        ),
    }
}

#[test]
fn a_version_of_a_shared_fact_fires_once_for_a_run() {
    let (mut service, mut run) = (Service::default(), Run::new());
    assert_eq!(
        run.turn(&service, vec![job("a", "web")]),
        [r#"missing {"job":"a"}"#]
    );
    service.write(1, Some(("web", 23, true)));
    assert_eq!(run.turn(&service, vec![]), [r#"applied {"crf":23,"job":"a"}"#]);
    assert_eq!(run.turn(&service, vec![]), Vec::<String>::new(), "seen before");
    service.write(1, Some(("web", 20, true)));
    service.write(2, Some(("tape", 1, true)));
    assert_eq!(run.turn(&service, vec![]), [r#"applied {"crf":20,"job":"a"}"#]);
    service.write(1, Some(("web", 20, false)));
    assert_eq!(run.turn(&service, vec![]), Vec::<String>::new(), "it is off");
    service.write(1, None);
    assert_eq!(
        run.turn(&service, vec![]),
        [r#"missing {"job":"a"}"#],
        "and now gone"
    );
    assert!(run.memory().facts().all(|fact| fact.fact_type == "Job"));
}

#[test]
fn a_run_that_was_away_is_told_what_changed_in_between() {
    let (mut service, mut run) = (Service::default(), Run::new());
    service.write(1, Some(("web", 23, true)));
    assert_eq!(run.turn(&service, vec![job("a", "web")]).len(), 1);
    // Blocked `missing` when it was seen; gone and back since: nothing is new but the version.
    service.write(1, Some(("web", 24, true)));
    service.write(1, Some(("web", 23, true)));
    assert_eq!(run.turn(&service, vec![]), Vec::<String>::new());
    service.write(1, Some(("other", 23, true)));
    assert_eq!(run.turn(&service, vec![]), [r#"missing {"job":"a"}"#]);
}

#[test]
fn interests_name_what_a_run_waits_for_and_find_it() {
    let (service, mut run) = (Service::default(), Run::new());
    let key = |shape: &celesta_engine::Shape, name: &str| {
        shape.key(&Value::map([
            ("name", Value::from(name)),
            ("crf", 1.into()),
            ("on", true.into()),
        ]))
    };
    assert_eq!(run.memory().interests(), Vec::<u64>::new(), "no job, no interest");
    run.turn(&service, vec![job("a", "web"), job("b", "tape")]);
    let shapes = run.rules.shapes().to_vec();
    assert_eq!(
        shapes.len(),
        1,
        "both clauses look a recipe up by its name: {shapes:?}"
    );
    let mut wanted = [key(&shapes[0], "web"), key(&shapes[0], "tape")];
    wanted.sort_unstable();
    assert_eq!(run.memory().interests(), wanted);
    let closed = Event::Update {
        fact: FactId(1),
        version: None,
        value: Value::map([("state", Value::from("closed"))]),
    };
    run.turn(&service, vec![closed]);
    assert_eq!(run.memory().interests(), [key(&shapes[0], "tape")]);
    let cancel = Event::Cancel {
        reason: "enough".into(),
    };
    run.turn(&service, vec![cancel]);
    assert_eq!(run.memory().interests(), Vec::<u64>::new());
    let off = Value::map([
        ("name", Value::from("web")),
        ("crf", 1.into()),
        ("on", false.into()),
    ]);
    assert_eq!(run.rules.rules_wanting("Recipe", &off), ["missing"]);
}

#[test]
fn a_run_does_not_write_shared_facts() {
    for (section, what) in [
        ("r.crf = 3;", "written"),
        ("retract(r);", "retracted"),
        (r#"insert("Recipe", #{ name: "x", crf: 1 });"#, "inserted"),
    ] {
        let text = RULES.replace(r#"emit("applied", #{ job: job.name, crf: r.crf });"#, section);
        let found = compiled(&text).expect_err(what);
        assert!(
            found.contains("shared-write") && found.contains("/v1/services/"),
            "{found}"
        );
    }
    let without = compiled(&RULES.replace("r: shared Recipe", "r: Recipe")).expect_err("no `shared`");
    assert!(without.contains("expected `shared Recipe`"), "{without}");
    let with = compiled(&RULES.replace("job: Job", "job: shared Job")).expect_err("not shared");
    assert!(with.contains("`Job` is no shared fact"), "{with}");
    // What the checks cannot see is refused when it runs.
    let hidden = RULES.replace(
        r#"emit("applied", #{ job: job.name, crf: r.crf });"#,
        r#"let kind = "Recipe"; insert(kind, #{ name: "x", crf: 1 });"#,
    );
    let rules = compiled(&hidden).expect("not seen");
    let mut service = Service::default();
    service.write(1, Some(("web", 23, true)));
    let mut memory = WorkingMemory::new(&rules, RUN);
    let shared = Event::Shared(Arc::new(service.facts(&rules)));
    let outcome = memory.turn(Turn {
        seq: 1,
        now_ms: 0,
        events: vec![shared, job("a", "web")],
    });
    let told = format!("{:?}", outcome.effects);
    assert!(told.contains("shared by the service"), "{told}");
    let from_outside = Event::Insert {
        fact_type: "Recipe".into(),
        value: Value::map([("name", Value::from("x")), ("crf", 1.into())]),
    };
    let outcome = WorkingMemory::new(&rules, RUN).turn(Turn {
        seq: 1,
        now_ms: 0,
        events: vec![from_outside],
    });
    assert_eq!(outcome.rejected.len(), 1, "{outcome:?}");
}

#[test]
fn a_reaction_still_reads_a_shared_fact_that_is_gone() {
    let text = RULES.replace(
        r#"action { emit("applied", #{ job: job.name, crf: r.crf }); }"#,
        r#"action { timer("1s"); } reaction { emit("applied", #{ job: job.name, crf: r.crf }); }"#,
    );
    let mut run = Run {
        rules: compiled(&text).expect("good rules"),
        deltas: Vec::new(),
    };
    let mut service = Service::default();
    service.write(1, Some(("web", 23, true)));
    run.turn(&service, vec![job("a", "web")]);
    service.write(1, None);
    let fired = Event::TimerFired {
        call: celesta_engine::CallId { seq: 1, index: 0 },
    };
    let said = run.turn(&service, vec![fired]);
    assert!(
        said.contains(&r#"applied {"crf":23,"job":"a"}"#.to_owned()),
        "{said:?}"
    );
}
