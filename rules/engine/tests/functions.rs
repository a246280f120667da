//! Functions of a rules file: natively and in the script engine they mean the same, in conditions and in sections.

use std::fmt::Write as _;

use celesta_engine::{
    Environment, Event, Limits, Outcome, RunId, Section, Source, Turn, Value, WorkingMemory, compile,
};

const FUNCTIONS: &str = r#"
const LIMIT = 3;
fn twice(x) { x + x }
fn larger(x, y) { if x > y { return x; } y }
fn chosen(x) { if x == 1 { "one" } else if x == 2 { "two" } else { "many" } }
fn times(n) { if n <= 1 { 1 } else { n * times(n - 1) } }
fn even(n) { n == 0 || odd(n - 1) }
fn odd(n) { n != 0 && even(n - 1) }
fn sum(l) { let t = 0; for x in l { if x == LIMIT { continue; } t += x; } t }
fn first(l) { for x in l { return x; } }
fn pair(x) { let m = #{ a: x, b: [x, x] }; m }
fn steps(x) { let n = 0; while x > 1 { x = if x % 2 == 0 { x / 2 } else { 3 * x + 1 }; n += 1; } n }
fn abs(x) { "mine" }
fn nothing() { }
fn half(x) { x / 2 }
fn over(x) { over(x) }
fn thrown(x) { throw `no ${x}`; }
fn nested(x) { larger(twice(x), times(x)) }
fn shadow(x) { let x = x + 1; if true { let x = 100; } x }
fn pushed(x) { let l = []; for i in 0..x { l.push(i * i); } l }
"#;

const CONDITIONS: &[&str] = &[
    "twice(it.n) == 6",
    "twice(it.s) == \"abab\"",
    "twice(it.f) > 1.0",
    "larger(it.n, 4) == 4",
    "larger(it.s, 4) == 4",
    "chosen(it.n) == \"two\"",
    "chosen(it.n).len() > 3",
    "times(it.n) > 5",
    "times(it.n * 10) > 5",
    "even(it.n)",
    "even(it.n * 100)",
    "sum(it.l) == 4",
    "first(it.l) == 1",
    "first([]) == ()",
    "pair(it.n).b[1] == 2",
    "pair(it.n).c == ()",
    "steps(it.n + 20) > 10",
    "abs(it.n) == \"mine\"",
    "nothing() == ()",
    "half(it.n) == 1",
    "half(it.n) / 0 == 1",
    "over(it.n) == 1",
    "thrown(it.n) == 1",
    "nested(it.n) > 4",
    "shadow(it.n) == 3",
    "pushed(it.n).len() == 2",
    "pushed(it.n) == [0, 1]",
    "it.n == 2 && even(it.n)",
    "!even(it.n)",
    "other.n == twice(it.n)",
    "twice(other.n) == it.n",
    "twice(other.n) == twice(it.n)",
    "other.n < times(it.n)",
];

fn ran(text: &str, native_sections: bool) -> (Outcome, bool) {
    let source = Source {
        path: "functions.rules".into(),
        text: text.into(),
    };
    let environment = Environment {
        limits: Limits {
            native_sections,
            operations: 50_000,
            ..Limits::default()
        },
        ..Environment::default()
    };
    let rules = match compile(&source, &environment) {
        Ok(compiled) => compiled.rules,
        Err(found) => panic!("{text}\n{found}"),
    };
    let native = rules.rules()[0].is_native(Section::Action);
    let mut memory = WorkingMemory::new(&rules, RunId::from_bits(1));
    let fact = |n: i64| {
        let fields = [
            ("n", Value::from(n)),
            (
                "s",
                ["", "a", "ab", "b", "c"][usize::try_from(n).unwrap_or(0)].into(),
            ),
            ("f", (f64::from(i32::try_from(n).unwrap_or(0)) / 3.0).into()),
            ("l", Value::list((0..n).map(|at| Value::from(at + 1)))),
        ];
        Event::Insert {
            fact_type: "It".into(),
            value: Value::map(fields),
        }
    };
    let outcome = memory.turn(Turn {
        seq: 1,
        now_ms: 0,
        events: (0..5).map(fact).collect(),
    });
    (outcome, native)
}

#[test]
fn functions_mean_the_same_in_conditions() {
    for condition in CONDITIONS {
        let second = if condition.contains("other") {
            "other: It where true;"
        } else {
            ""
        };
        let text = format!(
            "workflow w;\nfact It {{ n: int, s: string, f: float, l: list }}\n{FUNCTIONS}\nrule \"r\" {{ match {{ it: It; {second} if {condition}; }} action {{ log(`${{it.n}}`); }} }}\nrule \"where\" {{ match {{ it: It; {} }} action {{ log(`where ${{it.n}}`); }} }}",
            if second.is_empty() {
                format!(
                    "also: It where also.n == it.n && {};",
                    condition.replace("it.", "also.")
                )
            } else {
                format!("other: It where {condition};")
            }
        );
        let (native, _) = ran(&text, true);
        let (script, _) = ran(&text, false);
        assert_eq!(native.firings, script.firings, "{condition}");
        // What goes wrong outside of functions is told in other words.
        assert_eq!(native.effects.len(), script.effects.len(), "{condition}");
        if !condition.contains("/ 0") {
            assert_eq!(native.effects, script.effects, "{condition}");
        }
    }
}

#[test]
fn functions_mean_the_same_in_sections() {
    let sections = [
        "it.n = twice(it.n) + larger(it.n, 3);",
        "let x = chosen(it.n); log(x); log(chosen(2));",
        "log(`${times(it.n)} ${even(it.n)} ${sum(it.l)} ${first(it.l)}`);",
        "let p = pair(it.n); log(p.a); log(p.b[0]); emit(\"e\", p);",
        "if it.n > 3 { thrown(it.n); } log(\"went on\");",
        "thrown(it.n);",
        "over(it.n);",
        "for x in pushed(it.n) { log(x); }",
        "log(shadow(it.n)); log(abs(it.n)); nothing();",
        "log(steps(27 + it.n)); let y = half(it.n); log(y);",
        "wrote(it); log(it.n);",
        "let n = made(it.n); log(n);",
        "let n = gone(it, it.n); log(n);",
        "log(read(it) + 1);",
        "if wrote(it) > 3 { log(\"more\"); }",
        "log(twice(random() - 0.5) < 2.0);",
    ];
    let more = r#"
fn wrote(x) { x.n += 1; x.s = "written"; x.n }
fn made(n) { let b = insert("It", #{ n: -n, s: "made", f: 0.0, l: [] }); b.n - 1 }
fn gone(x, n) { if n > 2 { retract(x); } n }
fn read(x) { x.n * 2 }
"#;
    let mut natives = 0;
    for section in sections {
        let mut text = "workflow w;\nfact It { n: int, s: string, f: float, l: list }\n".to_owned();
        write!(
            text,
            "{FUNCTIONS}{more}\nrule \"r\" {{ match {{ it: It where it.n >= 0 && it.n < 5 && it.s != \"written\"; }} action {{ {section} }} error {{ log(error.message); }} }}"
        )
        .expect("a string");
        let (native, is_native) = ran(&text, true);
        let (script, _) = ran(&text, false);
        natives += usize::from(is_native);
        assert_eq!(native.firings, script.firings, "{section}");
        assert_eq!(native.effects, script.effects, "{section}");
        assert_eq!(native.changes, script.changes, "{section}");
        assert_eq!(native.delta, script.delta, "{section}");
    }
    assert!(natives >= 12, "{natives} of {} are native", sections.len());
}
