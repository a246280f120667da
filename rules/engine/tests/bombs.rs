//! Scripts that would fill the memory or overflow the stack of the process: with the bounds that a host has by default, and
//! on a small stack, each is stopped with a named error.

mod harm;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use celesta_engine::{Limits, Value};

/// The stack of a thread of the async runtime.
const STACK: usize = 2 << 20;

#[expect(
    clippy::disallowed_methods,
    reason = "the engine is given a clock, as a host does"
)]
fn clock() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = BEGAN.get_or_init(Instant::now);
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

const CASES: &[(&str, &str, &[&str])] = &[
    (
        "",
        "let s = \"ab\"; s.pad(7, \"\"); s.pad(7, \"xyz\"); throw s;",
        &["abxyzxy"],
    ),
    (
        "",
        "for x in range(0.0, 1.0, 0.0) { }",
        &["zero", "range", "step", "too many operations"],
    ),
    (
        "",
        "let s = \"xyx\"; s.replace(\"x\", \"ab\"); s.replace('y', \"c\"); s.replace(\"c\", 'd'); throw s;",
        &["abdab"],
    ),
    (
        "",
        "let a = [1]; a.pad(3, [2]); a.pad(2, 9); throw a.len().to_string() + a[2][0];",
        &["32"],
    ),
    (
        "",
        "let s = \"\"; s.pad(9223372036854775807, 'x');",
        &["too large"],
    ),
    (
        "",
        "let s = \"\"; s.pad(9223372036854775807, \"yy\");",
        &["too large"],
    ),
    (
        "",
        "let b = blob(5, 0); b.pad(9223372036854775807, 1);",
        &["too large", "no such"],
    ),
    (
        "",
        "let a = [0]; a.pad(50000, 1); let b = []; b.pad(50000, a);",
        &["too large"],
    ),
    (
        "",
        "let s = \"x\"; let t = s.sub_string(-9223372036854775807 - 1, 9223372036854775807); throw t;",
        &["x", "action"],
    ),
    (
        "",
        "let a = [1]; a.splice(-9223372036854775807 - 1, 9223372036854775807, [2]); throw a.len().to_string();",
        &["action"],
    ),
    (
        "",
        "let a = [1]; let b = a.extract(-9223372036854775807 - 1, 9223372036854775807); throw \"x\";",
        &["action"],
    ),
    (
        "",
        "let a = [1]; a.insert(-9223372036854775807 - 1, 1); a.chop(-9223372036854775807 - 1); throw \"x\";",
        &["action"],
    ),
    (
        "",
        "let a = [1]; a.drain(-9223372036854775807 - 1, 9223372036854775807); a.truncate(9223372036854775807); throw \"x\";",
        &["action"],
    ),
    (
        "",
        "let s = \"xyz\"; s.crop(-9223372036854775807 - 1, 9223372036854775807); throw \"x\";",
        &["action"],
    ),
    (
        "",
        "let s = \"xyz\"; let t = s.index_of(\"z\", -9223372036854775807 - 1); let u = s[-9223372036854775807 - 1];",
        &["bounds", "action"],
    ),
    (
        "",
        "for i in range(9223372036854775806, 9223372036854775807, 3) { } for i in range(0, 9, -1) { } throw \"x\";",
        &["action"],
    ),
    // Values that nest.
    ("", "let x = []; loop { x = [x]; }", &["deeper than"]),
    ("", "let x = 0; loop { x = #{ a: x }; }", &["deeper than"]),
    // Among other variables, before and after them.
    (
        "",
        "let a = 1; let b = 2; let c = 3; let x = []; loop { x = [x]; }",
        &["deeper than"],
    ),
    (
        "",
        "let x = []; let a = 1; let b = 2; let c = 3; loop { x = [x]; }",
        &["deeper than"],
    ),
    (
        "",
        "let a = 1; let x = []; let b = 2; for i in 0..1000000 { let c = i; let d = c; x = [x]; }",
        &["deeper than"],
    ),
    (
        "fn wrap(a, x, b, c) { let d = a; x = [x]; d = x; [d] }",
        "let x = 0; loop { x = wrap(1, x, 2, 3); }",
        &["deeper than"],
    ),
    ("", "let x = 0; loop { x = [#{ a: [x] }]; }", &["deeper than"]),
    (
        "",
        "let x = []; loop { let y = []; y.push(x); x = y; }",
        &["deeper than"],
    ),
    (
        "",
        "let x = [0]; loop { let y = [0]; y[0] = x; x = y; }",
        &["deeper than"],
    ),
    (
        "",
        "let x = #{}; loop { let y = #{}; y.a = x; x = y; }",
        &["deeper than"],
    ),
    (
        "",
        "let x = []; loop { let y = []; y.insert(0, x); x = y; }",
        &["deeper than"],
    ),
    (
        "",
        "let x = []; loop { let y = []; y += [x]; x = y; }",
        &["deeper than"],
    ),
    (
        "fn wrap(n, x) { if n == 0 { x } else { [wrap(n - 1, x)] } }",
        "let x = 0; loop { x = wrap(20, x); }",
        &["deeper than"],
    ),
    (
        "fn wrap(x) { [[[[[[[[x]]]]]]]] }",
        "let x = 0; loop { x = wrap(x); }",
        &["deeper than"],
    ),
    (
        "",
        "let x = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; loop { x = [x, 1]; }",
        &["deeper than"],
    ),
    // What functions hold.
    (
        "",
        "let f = |x| x; loop { f = f.curry(f); }",
        &["too large", "deeper than"],
    ),
    (
        "",
        "let f = |x| x; loop { f = curry(f, f, f); }",
        &["too large", "deeper than"],
    ),
    (
        "",
        "let f = |x| x; loop { let g = f; f = |x| g.call(x); }",
        &["deeper than", "too many operations"],
    ),
    (
        "",
        "let f = || 0; f = || f.call(); f.call();",
        &["nest too deep", "race", "deeper than"],
    ),
    (
        "",
        "let x = []; let f = || x; x.push(f); let y = x;",
        &["deeper than", "race"],
    ),
    (
        "",
        "let x = [1, 2, 3]; x.for_each(|| { x.push(1); });",
        &["race", "too large"],
    ),
    (
        "",
        "let x = [3, 1, 2]; x.sort_by(|a, b| { x.clear(); 1 }); throw \"sorted\";",
        &["race", "sorted"],
    ),
    // Texts that grow at once.
    (
        "",
        "let s = \"x\"; for i in 0..18 { s += s; } let t = s; t.replace(\"x\", s);",
        &["too large"],
    ),
    (
        "",
        "let s = \"x\"; for i in 0..18 { s += s; } s.replace(\"\", s);",
        &["too large"],
    ),
    (
        "",
        "let s = \"x\"; for i in 0..18 { s += s; } let t = s; t.replace('x', s);",
        &["too large"],
    ),
    (
        "",
        "let s = \"x\"; for i in 0..19 { s += s; } s.replace(\"x\", '\u{1f600}');",
        &["too large"],
    ),
    (
        "",
        "let s = \"x\"; for i in 0..20 { s += s; } let a = s.split(\"\");",
        &["too large"],
    ),
    (
        "",
        "let s = \"x\"; for i in 0..18 { s += s; } let a = [s, s, s, s, s];",
        &["too large"],
    ),
    (
        "",
        "let s = \"[\"; for i in 0..18 { s += s; } let a = parse_json(s);",
        &["yntax", "too", "pars", "omplex"],
    ),
    (
        "",
        "let s = \"x\"; for i in 0..20 { s += s; } throw s + s;",
        &["too large"],
    ),
    // Lists that are made at once.
    (
        "",
        "let a = [0]; a.pad(99999, 1); loop { a.append(a); }",
        &["too large"],
    ),
    (
        "",
        "let a = [0]; a.pad(99999, 1); a.splice(0, 1, a);",
        &["too large"],
    ),
    (
        "",
        "let a = [0]; a.pad(9223372036854775807, [1, 2]);",
        &["too large"],
    ),
    ("", "let b = blob(9223372036854775807);", &["too large"]),
    (
        "",
        "let a = [0]; a.pad(50000, 1); let b = a.zip(a, |x, y| [x, y, x]);",
        &["too large", "no such"],
    ),
    (
        "",
        "let a = [0]; a.pad(50000, 1); let b = a.map(|x| [x, x]);",
        &["too large"],
    ),
    // Loops over all numbers.
    (
        "",
        "for i in 0..9223372036854775807 { }",
        &["too many operations"],
    ),
    (
        "",
        "for i in 0..=9223372036854775807 { }",
        &["too many operations"],
    ),
    (
        "",
        "for i in range(0, 9223372036854775807, 1) { }",
        &["too many operations"],
    ),
    (
        "",
        "for i in range(0, 10, 0) { }",
        &["zero", "too many operations", "range"],
    ),
    // Numbers that have no result.
    ("", "let x = -9223372036854775807 - 1; let y = -x;", &["overflow"]),
    (
        "",
        "let x = -9223372036854775807 - 1; let y = x / -1;",
        &["overflow"],
    ),
    (
        "",
        "let x = -9223372036854775807 - 1; let y = x % -1; let z = abs(x);",
        &["overflow"],
    ),
    ("", "let x = 1 % 0;", &["zero"]),
    ("", "let x = 2 ** -1;", &["negative", "raise", "ower"]),
    (
        "",
        "let x = (1e308 * 10.0).to_int();",
        &["verflow", "nfinite", "too large"],
    ),
    ("", "let x = parse_int(\"z\", 99);", &["radix"]),
    // Names that are not to be had.
    ("", "Fn(\"eval\").call(\"1\");", &["eval"]),
    ("", "let x = Fn(\"import\"); x.call(\"y\");", &["import"]),
    ("", "let it = 5; it.n = 1;", &["o writable property"]),
    (
        "fn exists(x) { loop { } }",
        "if exists(it) { }",
        &["too many operations"],
    ),
    (
        "fn insert(a, b) { insert(a, b) }",
        "insert(\"Go\", #{ any: 0 });",
        &["nest too deep"],
    ),
    (
        "fn f(n) { if n > 0 { f(n - 1) + f(n - 1) } else { 1 } }",
        "it.n = f(30);",
        &["too many operations", "longer than"],
    ),
    ("fn f(n) { f(n) }", "f(it);", &["nest too deep"]),
    (
        "fn f(n) { while true { } }",
        "let x = f(1);",
        &["too many operations", "longer than"],
    ),
    (
        "fn f(n) { let s = \"x\"; while true { s += s; } s }",
        "let x = f(1);",
        &["too large"],
    ),
    (
        "fn f(n) { loop { insert(\"Go\", #{ any: n }); } }",
        "f(1);",
        &["more than 200000 facts", "too many operations"],
    ),
    // Floods, each of them small.
    (
        "",
        "let s = \"x\"; for i in 0..13 { s += s; } loop { print(s); }",
        &[
            "bytes of effects",
            "effects in one turn",
            "longer than",
            "too many operations",
        ],
    ),
    (
        "",
        "let s = \"x\"; for i in 0..18 { s += s; } loop { emit(\"e\", #{ s: s }); }",
        &["bytes of effects", "longer than"],
    ),
    (
        "",
        "let s = \"x\"; for i in 0..14 { s += s; } for i in 0..1000000 { insert(\"Go\", #{ n: -1, s: s + i, any: 0 }); }",
        &["bytes of facts", "longer than"],
    ),
    (
        "",
        "let s = \"x\"; for i in 0..14 { s += s; } let i = 0; loop { i += 1; it.s = s + i; it.s = \"\"; }",
        &["bytes of facts", "longer than", "too many operations"],
    ),
];

#[test]
fn bombs_are_stopped_and_named() {
    let small = std::thread::Builder::new().stack_size(STACK);
    let ran = small.spawn(|| {
        let mut wrong = Vec::new();
        for (functions, action, expected) in CASES {
            for native in [true, false] {
                let limits = Limits {
                    clock: Some(clock),
                    native_sections: native,
                    ..Limits::default()
                };
                let said = harm::run(functions, action, limits);
                // On a busy machine the time may be over first: that is a bound too.
                let mut said_well = expected.iter().chain(&["longer than 1000 ms"]);
                if !said_well.any(|part| said.contains(part)) {
                    let said: String = said.chars().take(300).collect();
                    wrong.push(format!(
                        "{functions} {action}\n  says {said}\n  and none of {expected:?}"
                    ));
                }
            }
        }
        wrong
    });
    let wrong = ran.expect("a thread").join().expect("nothing panics");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A copy of a large value is one operation and takes as long as a hundred thousand: the clock is looked at all the same.
#[test]
fn few_operations_on_large_values_are_stopped_by_the_hosts_clock() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let cases = [
        "let a = [0]; a.pad(99999, 1); for i in 0..20 { let b = a; } it.n = -1;",
        "let m = #{}; for i in 0..99 { m[`k${i}`] = #{ i: i }; } let a = [0]; a.pad(400, m); for i in 0..20 { let b = a; } it.n = -1;",
        "let s = \"x\"; for i in 0..20 { s += s; } for i in 0..20 { let t = s + \"\"; } it.n = -1;",
    ];
    for action in cases {
        NOW.store(0, Ordering::Relaxed);
        let limits = Limits {
            clock: Some(|| NOW.fetch_add(400, Ordering::Relaxed)),
            native_sections: false,
            ..Limits::default()
        };
        let said = harm::run("", action, limits);
        assert!(said.contains("longer than 1000 ms"), "{action}\n  says {said}");
    }
    // Small values cost no look.
    NOW.store(0, Ordering::Relaxed);
    let limits = Limits {
        clock: Some(|| NOW.fetch_add(400, Ordering::Relaxed)),
        native_sections: false,
        ..Limits::default()
    };
    let rules = harm::rules(
        &harm::program(
            "",
            "it.n >= 0",
            "let a = [1, 2]; for i in 0..50 { let b = a; } it.n = -1;",
        ),
        limits,
    );
    let (_, outcome) = harm::start(
        &rules.expect("it compiles"),
        "Go",
        Value::map([("any", Value::Null)]),
    );
    assert!(outcome.effects.is_empty(), "{:?}", outcome.effects);
}
