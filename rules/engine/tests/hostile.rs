//! Scripts that mean harm: each is stopped within its bound, with a named error, and nothing of it remains.

mod harm;

use celesta_engine::{Effect, Fault, Limits, RunId, Section, Value, WorkingMemory};

/// Bounds that are soon reached.
fn tight() -> Limits {
    Limits {
        operations: 100_000,
        firings: 1_000,
        facts: 2_000,
        effects: 500,
        list_length: 5_000,
        map_length: 5_000,
        ..Limits::default()
    }
}

fn run(functions: &str, action: &str, native_sections: bool) -> String {
    let limits = Limits {
        native_sections,
        ..tight()
    };
    harm::run(functions, action, limits)
}

fn empty() -> Value {
    Value::map([("any", Value::Null)])
}

#[test]
fn hostile_actions_are_stopped_and_named() {
    let cases = [
        ("", "loop { }", "too many operations"),
        ("", "while true { let x = 1; }", "too many operations"),
        ("", "for i in 0..1000000000000 { }", "too many operations"),
        ("", "let s = \"x\"; loop { s += s; }", "too large"),
        ("", "let a = [1]; loop { a += a; }", "too large"),
        ("", "let a = []; a.pad(1000000000, 0);", "too large"),
        ("", "let s = \"\"; s.pad(1000000000, 'x');", "too large"),
        ("", "let a = []; loop { a.push(a); }", "too large"),
        ("", "let m = #{}; for i in 0..100000 { m[`k${i}`] = i; }", "too"),
        ("fn f(n) { f(n + 1) }", "f(0);", "nest too deep"),
        ("fn f(n) { g(n) }\nfn g(n) { f(n) }", "f(0);", "nest too deep"),
        ("", "let f = |g| g.call(g); f.call(f);", "nest too deep"),
        (
            "",
            "loop { insert(\"Go\", #{ any: 1 }); }",
            "more than 2000 facts",
        ),
        ("", "loop { log(\"x\"); }", "more than 500 effects"),
        ("", "loop { call(\"f\", #{}); }", "more than 500 effects"),
        ("", "loop { emit(\"e\", #{}); }", "more than 500 effects"),
        (
            "",
            "let s = \"x\"; for i in 0..16 { s += s; } it.s = s;",
            "larger things are artifacts",
        ),
        (
            "",
            "let x = []; for i in 0..100 { x = [x]; } it.any = x;",
            "deeper than",
        ),
        (
            "",
            "let x = []; for i in 0..100 { x = [x]; } complete(#{ x: x });",
            "deeper than",
        ),
        ("", "it.any = [it];", "a fact cannot be stored"),
        ("", "it.any = |x| x;", "cannot be stored"),
        ("", "it.n = 9223372036854775807; it.n += 1;", "overflow"),
        ("", "let x = 1 / 0;", "ivision by zero"),
        ("", "eval(\"1\");", "compile"),
        ("", "import \"x\" as y;", "compile"),
        ("", "it.n = \"text\" + 1;", "compile"),
        (
            "",
            "let t = \"text\"; it.n = t;",
            "field `n` holds int, not string",
        ),
        ("", "throw #{ message: \"own words\" };", "own words"),
        ("", "retract(it); it.n = 5;", "retracted"),
        ("", "retract(it); retract(it);", "already retracted"),
        ("", "request(\"../../etc\", #{});", "no operation"),
        ("", "timer(\"forever\");", "forever"),
        ("", "timer(-5);", "duration"),
        ("", "call(\"f\", #{}, #{ nice: true });", "no option `nice`"),
        ("", "progress(\"half\");", "progress is a number"),
        ("", "insert(\"G\" + \"o\", 5);", "made of a map"),
        ("", "insert(\"N\" + \"o\", #{});", "no fact type `No`"),
        (
            "",
            "loop { it.s = `${it.s}${it.s}x`; }",
            "larger things are artifacts",
        ),
        ("", "let s = \"x\"; loop { s = `${s}${s}`; }", "too large"),
        ("", "let s = \"x\"; loop { s = s + s; }", "too large"),
        ("", "let m = #{}; loop { m = #{ a: m, b: m }; }", "too"),
        ("", "let a = [1]; loop { a = [a, a]; }", "too large"),
        ("", "let a = []; loop { a.push(\"0123456789\"); }", "too"),
        ("", "let i = 0; while i >= 0 { i += 1; }", "too many operations"),
        ("", "do { } while true;", "too many operations"),
        (
            "",
            "for i in 0..1000 { for j in 0..1000 { let k = i * j; } }",
            "too many operations",
        ),
        (
            "",
            "for i in range(0, 1000000000000) { let x = i; }",
            "too many operations",
        ),
        (
            "",
            "let a = [3, 1, 2]; a.sort_by(|x, y| { loop { } }); let x = 1;",
            "too many operations",
        ),
        (
            "",
            "let a = [3, 1, 2]; a.map(|x| { loop { } });",
            "too many operations",
        ),
        (
            "",
            "let a = [3, 1, 2]; a.filter(|x| { throw \"inside\"; });",
            "inside",
        ),
        (
            "",
            "let a = [1]; a.reduce(|sum, x| { loop { } }, 0);",
            "too many operations",
        ),
        ("fn f(n) { [n].map(|x| f(x + 1)) }", "f(0);", "nest too deep"),
        ("fn f(n) { loop { } }", "f(0);", "too many operations"),
        (
            "",
            "let a = []; a.insert(1000000000, 1); loop { }",
            "too many operations",
        ),
        ("", "let s = \"x\"; s.pad(1000000000, \"yy\");", "too large"),
        ("", "let b = blob(1000000000, 0);", "too large"),
        ("", "let x = 2 ** 1000;", "overflow"),
        ("", "let x = 1 << 1000000; loop { }", "too many operations"),
        (
            "",
            "let x = \"9\".parse_int(); let y = parse_int(\"nine\");",
            "parsing",
        ),
        ("", "let x = it.l[7];", "out of bounds"),
        ("", "let x = it.any.missing;", "nknown property"),
        ("", "loop { it.n += 1; }", "too many operations"),
        (
            "",
            "loop { it.s += \"0123456789\"; }",
            "larger things are artifacts",
        ),
        ("", "loop { timer(5); }", "more than 500 effects"),
        ("", "loop { progress(0.5); }", "more than 500 effects"),
        ("", "loop { request(\"a/b\", #{}); }", "more than 500 effects"),
        ("", "loop { complete(#{}); }", "more than 500 effects"),
        ("", "loop { print(\"x\"); }", "more than 500 effects"),
        ("", "loop { print(1); }", "more than 500 effects"),
        ("", "loop { debug([\"x\"]); }", "more than 500 effects"),
        ("", "try { loop { } } catch { it.n = 1; }", "too many operations"),
        (
            "",
            "switch it.n { 0 => loop { }, _ => () }",
            "too many operations",
        ),
        (
            "",
            "it.n += 1;",
            "more than 1000 firings in one turn; the cycle is r",
        ),
    ];
    let mut said = Vec::new();
    for (functions, action, expected) in cases {
        let native = run(functions, action, true);
        assert!(
            native.contains(expected),
            "{action}\n  says {native}\n  and not {expected}"
        );
        assert_eq!(native, run(functions, action, false), "{action}");
        said.push(native);
    }
    assert!(said.len() >= 60, "{} cases", said.len());
}

#[test]
fn hostile_sections_that_run_natively_are_stopped_too() {
    let cases = [
        "loop { }",
        "while true { let x = 1; }",
        "let i = 0; while i >= 0 { i += 1; }",
        "for i in 0..1000000000000 { }",
        "for i in 0..1000 { for j in 0..1000 { let k = i * j; } }",
        "let s = \"x\"; loop { s += s; }",
        "let s = \"x\"; loop { s = `${s}${s}`; }",
        "let a = [1]; loop { a = [a, a]; }",
        "let m = #{}; loop { m = #{ a: m, b: m }; }",
        "let a = []; loop { a.push(a); }",
        "let a = []; loop { a.push(\"0123456789\"); }",
        "loop { insert(\"Go\", #{ any: 1 }); }",
        "loop { log(\"x\"); }",
        "loop { it.n += 1; }",
        "loop { it.s += \"0123456789\"; }",
    ];
    for action in cases {
        let text = harm::program("", "it.n >= 0", action);
        let rules = harm::rules(&text, tight()).expect("it compiles");
        assert!(rules.rules()[0].is_native(Section::Action), "{action}");
        let said = run("", action, true);
        assert!(
            ["too ", "more than", "deeper", "artifacts"]
                .iter()
                .any(|word| said.contains(word)),
            "{action}: {said}"
        );
    }
}

#[test]
fn hostile_conditions_are_stopped_named_and_false() {
    let cases = [
        ("fn f(n) { loop { } }", "f(it.n) == 1", "too many operations"),
        ("fn f(n) { f(n + 1) }", "f(it.n) == 1", "nest too deep"),
        (
            "fn f(n) { let s = \"x\"; loop { s += s; } }",
            "f(it.n) == 1",
            "too large",
        ),
        (
            "fn f(n) { let a = [1]; loop { a += a; } }",
            "f(it.n) == 1",
            "too large",
        ),
        (
            "fn f(n) { let a = []; a.pad(1000000000, 0); a.len() }",
            "f(it.n) == 1",
            "too large",
        ),
        ("fn f(n) { throw \"own words\" }", "f(it.n) == 1", "own words"),
        ("fn f(n) { n / 0 }", "f(it.n) == 1", "ivision by zero"),
        ("fn f(n) { #{} }", "f(it.n)", "must be true or false"),
        (
            "fn f(n) { insert(\"Go\", #{ any: 1 }); true }",
            "f(it.n)",
            "in sections only",
        ),
        ("fn f(n) { loop { log(n); } }", "f(it.n)", "in sections only"),
        (
            "fn g(x) { loop { } }",
            "[1, 2].map(|x| g(x)).len() == 2",
            "too many operations",
        ),
        ("fn g(x) { loop { } }", "[2, 1].sort_by(|a, b| g(a)) == ()", ""),
        ("", "it.n / 0 == 1", "ivision by zero"),
        ("", "it.any.x.y == 1", "no property"),
        ("", "it.l[5] == 1", "no element"),
        ("", "9223372036854775807 + it.n + 1 > 0", "too large"),
        ("", "2 ** (it.n + 64) > 0", "too large"),
    ];
    for (functions, condition, expected) in cases {
        let text = harm::program(functions, condition, "log(\"fired\");");
        let rules = match harm::rules(&text, tight()) {
            Ok(rules) => rules,
            Err(found) => panic!("{condition}: {found}"),
        };
        let (_, outcome) = harm::start(&rules, "Go", empty());
        assert_eq!(outcome.fault, None, "{condition}");
        assert_eq!(outcome.firings, [], "{condition}");
        let warned = |effect: &Effect| matches!(effect, Effect::Log { level: "warn", text } if text.contains(expected));
        assert!(
            expected.is_empty() || outcome.effects.iter().any(warned),
            "{condition}: {:?}",
            outcome.effects
        );
    }
}

#[test]
fn texts_that_nest_are_refused_and_not_followed() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{", "}"),
        ("`${", "}`"),
        ("/*", "*/"),
        ("!", ""),
        ("-", ""),
    ] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        for text in [
            format!(
                "workflow w; fact G {{ n: int }} rule \"r\" {{ match {{ g: G where {deep} == 1; }} action {{ }} }}"
            ),
            format!(
                "workflow w; fact G {{ n: int }} rule \"r\" {{ match {{ g: G; }} action {{ let x = {deep}; }} }}"
            ),
            format!("workflow w; const N = {deep};"),
            format!("workflow w; {deep}"),
        ] {
            let refused = harm::rules(&text, tight());
            assert!(refused.is_err() || open == "/*", "{open}");
        }
    }
}

#[test]
fn rules_that_fire_each_other_are_stopped_and_named() {
    let rules = harm::rules(
        r#"workflow w;
        fact Ball { at: string = "left" }
        rule "to the right" { match { b: Ball where b.at == "left"; } action { b.at = "right"; } }
        rule "to the left" { match { b: Ball where b.at == "right"; } action { b.at = "left"; } }"#,
        tight(),
    )
    .expect("it compiles");
    let (_, outcome) = harm::start(&rules, "Ball", Value::map::<&str>([]));
    let Some(Fault::FiringBudget {
        firings: 1_000,
        mut cycle,
    }) = outcome.fault
    else {
        panic!("{:?}", outcome.fault)
    };
    cycle.sort();
    assert_eq!(cycle, ["to the left", "to the right"]);
}

#[test]
fn a_script_that_runs_too_long_is_stopped_by_the_hosts_clock() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NOW: AtomicU64 = AtomicU64::new(0);
    let limits = Limits {
        clock: Some(|| NOW.fetch_add(400, Ordering::Relaxed)),
        ..Limits::default()
    };
    let text = "workflow w; fact G { n: int } rule \"r\" { match { g: G; } action { loop { } } }";
    let rules = harm::rules(text, limits).expect("it compiles");
    let (_, outcome) = harm::start(&rules, "G", Value::map([("n", 1_i64.into())]));
    assert!(
        outcome.firings[0]
            .error
            .as_ref()
            .is_some_and(|why| why.contains("longer than 1000 ms")),
        "{outcome:?}"
    );
}

#[test]
fn damaged_states_are_refused_and_never_followed() {
    let text = "workflow w; fact G { n: int, s: string = \"abc\" } rule \"r\" { match { g: G; } action { call(\"f\", #{ n: g.n }); } }";
    let rules = harm::rules(text, tight()).expect("it compiles");
    let (memory, _) = harm::start(&rules, "G", Value::map([("n", 1_i64.into())]));
    let whole = memory.snapshot();
    for cut in 0..whole.len() {
        drop(WorkingMemory::restore(
            &rules,
            RunId::from_bits(1),
            Some(&whole[..cut]),
            [],
        ));
    }
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 0xff;
        drop(WorkingMemory::restore(
            &rules,
            RunId::from_bits(1),
            Some(&wrong),
            [],
        ));
    }
}
