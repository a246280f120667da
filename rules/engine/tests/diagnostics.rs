//! Mistakes in rules files and what is said about them.

use std::collections::BTreeSet;

use celesta_engine::{Diagnostics, Environment, Severity, Source, compile};

fn check(text: &str) -> Diagnostics {
    let source = Source {
        path: "rules/encode.rules".into(),
        text: text.into(),
    };
    let functions: BTreeSet<String> = ["split", "encode"].into_iter().map(Into::into).collect();
    match compile(
        &source,
        &Environment {
            functions,
            ..Environment::default()
        },
    ) {
        Ok(compiled) => compiled.warnings,
        Err(found) => found,
    }
}

#[test]
fn five_mistakes_give_five_errors_each_at_its_place() {
    let found = check(
        r#"workflow encode;

fact Job { id: string, state: strin = "new", size: int }

rule "split" {
    match  { job: Job where job.stat == "new"; }
    action { call("splt", #{ id: job.id }); }
}

rule "encode" {
    match  { job: Job where job.size == "large"; }
    action { insert("Chnk", #{ job: job.id }); }
}
"#,
    );
    let places: Vec<_> = found
        .0
        .iter()
        .map(|error| (error.code, error.line, error.column))
        .collect();
    assert_eq!(
        places,
        [
            ("unknown-kind", 3, 31),
            ("unknown-field", 6, 33),
            ("unknown-call", 7, 19),
            ("wrong-type", 11, 41),
            ("unknown-fact", 12, 21)
        ],
        "{found}"
    );
    insta::assert_snapshot!("five_mistakes", found.to_string());
}

/// One rules file of one mistake: the declarations, then the code and the word that must be marked.
#[test]
fn every_mistake_is_named_at_its_place() {
    let facts =
        "workflow w;\nfact Job { id: string, n: int, tags: list, out: artifact?, state: string = \"new\" }\n";
    let rule = |text: &str| format!("{facts}rule \"r\" {{ {text} }}");
    let action = |text: &str| {
        rule(&format!(
            "match {{ job: Job where job.state == \"new\"; }} action {{ {text} }}"
        ))
    };
    let cases: Vec<(String, &str, &str)> = vec![
        ("fact Job { id: string }".into(), "no-workflow", "f"),
        (
            "workflow w; fact A { x: int } fact A { y: int }".into(),
            "repeated-name",
            "A",
        ),
        (
            "workflow w; fact A { x: int, x: int }".into(),
            "repeated-name",
            "x",
        ),
        (
            "workflow w; fact A { x: int = \"a\" }".into(),
            "wrong-type",
            "\"a\"",
        ),
        ("workflow w; fact A { x int }".into(), "unexpected", "int"),
        ("workflow w; fcat A { x: int }".into(), "unexpected", "fcat"),
        (
            "workflow w; const N = nothing + 1;".into(),
            "not-a-literal",
            "nothing + 1",
        ),
        (format!("{facts}rule r {{ }}"), "unexpected", "r"),
        (rule("action { }"), "no-match", "\"r\""),
        (rule("match { job: Job; }"), "no-action", "\"r\""),
        (rule("action { } match { job: Job; }"), "section-order", "match"),
        (rule("match { job: Jobb; } action { }"), "unknown-fact", "Jobb"),
        (
            rule("match { job: Job where jb.n == 1; } action { }"),
            "unknown-name",
            "jb",
        ),
        (
            rule("match { job: Job where job.n; } action { }"),
            "wrong-type",
            "job.n",
        ),
        (
            rule("match { job: Job where job.n == 1 job.n == 2; } action { }"),
            "syntax",
            "job",
        ),
        (
            rule("match { job: Job where now() > 3; } action { }"),
            "effect-in-match",
            "now",
        ),
        (
            rule("match { job: Job where fib(job.n) > 3; } action { }"),
            "unknown-function",
            "fib",
        ),
        (rule("match { a: Job; a: Job; } action { }"), "repeated-name", "a"),
        (
            rule("match { js = collect Job j; if js.map(|j| j.n).len() > 3; } action { }"),
            "collected-in-match",
            "",
        ),
        (action("job.stat = \"x\";"), "unknown-field", "stat"),
        (action("job.n = \"x\";"), "wrong-type", "\"x\""),
        (action("job.state = ();"), "wrong-type", ""),
        (action("let x = y;"), "unknown-name", "y"),
        (action("let x = result;"), "unknown-name", "result"),
        (action("nosuch(1);"), "unknown-function", "nosuch"),
        (action("encode(1);"), "unknown-function", "encode"),
        (
            action("insert(\"Job\", #{ id: \"a\" });"),
            "missing-field",
            "insert",
        ),
        (
            action("insert(\"Job\", #{ id: \"a\", n: 1, tags: [], m: 3 });"),
            "unknown-field",
            "m",
        ),
        (
            action("insert(\"Job\", #{ id: 7, n: 1, tags: [] });"),
            "wrong-type",
            "7",
        ),
        (action("retry();"), "retry-outside-error", "retry"),
        (action("complete(1, 2, 3);"), "wrong-arguments", "complete"),
        (action("let x = [1, 2;"), "syntax", ""),
        (action("eval(\"1\");"), "syntax", ""),
        (action("job = 3;"), "assigned-binding", "job"),
        (
            action("} reaction { call(\"split\", #{});"),
            "call-outside-action",
            "call",
        ),
        (
            rule("match { js = collect Job j; } action { for j in js { j.stat = \"x\"; } }"),
            "unknown-field",
            "stat",
        ),
        (
            rule("match { js = collect Job j; } action { log(js.map(|j| j.stat)); }"),
            "unknown-field",
            "stat",
        ),
        (
            "workflow w; fact A { x: int } rule \"r\" { match { a: A; } action { ".into(),
            "open-brace",
            "{",
        ),
        ("workflow w; /* never closed".into(), "open-comment", "/*"),
        ("workflow w; fn f(x) { x + yy } ".into(), "unknown-name", "yy"),
    ];
    for (text, code, word) in cases {
        let found = check(&text);
        let error = found.0.iter().find(|error| error.code == code);
        let error = error.unwrap_or_else(|| panic!("no {code} in {text}\n{found}"));
        assert_eq!(error.severity, Severity::Error);
        let marked: String = error
            .line_text
            .chars()
            .skip(error.column - 1)
            .take(error.length)
            .collect();
        assert!(
            word.is_empty() || marked == word,
            "{code}: `{marked}` is marked and not `{word}`\n{found}"
        );
    }
}

#[test]
fn a_broken_rule_does_not_hide_the_mistakes_of_the_next() {
    let found = check(
        "workflow w;\nfact A { x: int }\nrule \"a\" {\n  mach { a: A; }\n}\nrule \"b\" {\n  match { a: A where a.y == 1; }\n  action { }\n}\n",
    );
    let codes: Vec<_> = found.0.iter().map(|error| (error.code, error.line)).collect();
    assert_eq!(codes, [("unexpected", 4), ("unknown-field", 7)], "{found}");
}

#[test]
fn a_correct_file_has_nothing_to_report() {
    let found = check(
        r#"
        workflow w;
        const LIMIT = 3;
        fact Job { id: string, n: int = 0, done: time?, tags: list = [] }
        shared fact Price { codec: string, cents: float }
        fn twice(n) { n * 2 }
        rule "all clauses" salience -5 {
            match {
                job: Job where job.n < LIMIT && twice(job.n) >= 0 && "x" in job.tags && job.id.starts_with("j");
                price: shared Price where price.codec == job.id;
                no Job other where other.id == job.id && other.n > job.n;
                any Job any_job;
                n = count Job c where c.n >= 0;
                total = sum c.n of Job c;
                least = min c.n Job c where c.id != "";
                most = max c.n Job c;
                jobs = collect Job c where c.n > 0 order by c.id;
                if n > 0 && total >= 0 && jobs.len() < 10 && (least == () || most != 3);
            }
            action {
                let ids = jobs.map(|j| j.id).filter(|id| id != job.id);
                for (j, at) in jobs { j.n += at; }
                if n > LIMIT { retract(job); } else { job.done = now(); }
                switch total { 1 => log("one"), _ => print(`${ids} ${random()} ${uid()}`) }
                try { throw "x"; } catch (problem) { log(problem); }
                timer("2h");
                request("other/operation", #{ id: job.id }, #{ priority: 3, timeout: "10s" });
                call("encode", #{ id: job.id }, #{ key: job.id, fail_fast: true });
            }
            reaction { emit("done", #{ n: n, results: results.len() }); progress(0.5, "half"); }
            error { if error.kind == "transient" { retry(#{ after: "10s" }); } else { fail(error.message, #{ results: results }); } }
        }
        "#,
    );
    assert_eq!(found.0, [], "{found}");
}
