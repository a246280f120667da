//! What the checker says of rules that can be used but look wrong, and what it does not say.

use celesta_engine::{Diagnostics, Environment, Source, compile};

const FACTS: &str = "workflow w;
fact Job { id: string, n: int = 0, state: string = \"new\", done: bool = false }
fact Part { job: string, size: int = 1, state: string = \"new\" }
";

/// The warnings for these rules after [`FACTS`], unused types apart.
fn lint(rules: &str) -> Diagnostics {
    let source = Source {
        path: "w.rules".into(),
        text: format!("{FACTS}{rules}"),
    };
    let environment = Environment {
        functions: ["work".to_owned()].into(),
        ..Environment::default()
    };
    match compile(&source, &environment) {
        Ok(compiled) => {
            let mut found = compiled.warnings;
            found.0.retain(|one| !one.code.starts_with("unused"));
            found
        }
        Err(found) => panic!("{found}"),
    }
}

fn codes(rules: &str) -> Vec<&'static str> {
    lint(rules).0.iter().map(|one| one.code).collect()
}

#[test]
fn each_lint_shows_its_place_and_a_hint() {
    let found = lint(
        r#"
rule "impossible" {
    match  { job: Job where job.state == "new" && job.n > 3 && job.state == "old"; }
    action { job.state = "seen"; }
}
rule "close" salience 5 {
    match  { job: Job where job.state == "open"; }
    action { job.state = "closed"; }
}
rule "inspect" {
    match  { job: Job where job.state == "open" && job.n > 1; p: Part where p.job == job.id; }
    action { p.state = "inspected"; }
}
rule "ping" {
    match  { job: Job where job.state == "ping"; }
    action { job.state = "pong"; }
}
rule "pong" {
    match  { job: Job where job.state == "pong"; }
    action { job.state = "ping"; }
}
"#,
    );
    insta::assert_snapshot!(found.to_string());
}

#[test]
fn comparisons_that_exclude_each_other_are_found() {
    let rule = |clauses: &str| {
        codes(&format!(
            "rule \"r\" {{ match {{ {clauses} }} action {{ log(\"x\"); }} }}"
        ))
    };
    for clauses in [
        "job: Job where job.n > 3 && job.n < 4;",
        "job: Job where job.n >= 3 && 3 > job.n;",
        "job: Job where job.done && !job.done;",
        "job: Job where job.state in [\"a\", \"b\"] && job.state == \"c\";",
        "job: Job where job.state == \"a\" && job.state != \"a\";",
        "job: Job where (job.state == \"a\" || job.state == \"b\") && job.state == \"c\";",
        "job: Job where job.n == 1; if job.n == 2;",
        "job: Job; any Part p where p.size == 1 && p.size == 2;",
    ] {
        assert_eq!(rule(clauses), ["never-matches"], "{clauses}");
    }
    assert_eq!(
        rule("job: Job; no Part p where p.size == 1 && p.size == 2;"),
        ["always-true"]
    );
    assert_eq!(
        rule("job: Job; c = count Part p where p.size == 1 && p.size == 2;"),
        ["never-counts"]
    );
    for clauses in [
        "job: Job where job.n > 3 && job.n < 5;",
        "job: Job where job.n >= 3 && job.n <= 3;",
        "job: Job where job.state == \"a\" || job.state == \"b\";",
        "job: Job where job.state != \"a\" && job.state != \"b\";",
        "a: Job where a.n == 1; b: Job where b.n == 2;",
        "job: Job where job.n == 1; no Job j where j.n == 2;",
    ] {
        assert_eq!(rule(clauses), Vec::<&str>::new(), "{clauses}");
    }
}

#[test]
fn a_rule_is_shadowed_only_when_it_can_never_fire() {
    let pair = |salience: i32, first: &str, write: &str, second: &str| {
        codes(&format!(
            "rule \"a\" salience {salience} {{ match {{ {first} }} action {{ {write} }} }}
             rule \"b\" {{ match {{ {second} }} action {{ log(\"x\"); }} }}"
        ))
    };
    let new = "job: Job where job.state == \"new\";";
    let gone = "job.state = \"gone\";";
    assert_eq!(pair(1, new, gone, new), ["shadowed-rule"]);
    assert_eq!(
        pair(0, new, gone, new),
        ["shadowed-rule"],
        "the earlier of two equals goes first"
    );
    assert_eq!(
        pair(1, "j: Job;", "retract(j);", new),
        ["shadowed-rule"],
        "names do not matter"
    );
    assert_eq!(
        pair(
            1,
            "j: Job where j.state in [\"new\", \"old\"];",
            "j.state = \"x\";",
            new
        ),
        ["shadowed-rule"]
    );
    let none = Vec::<&str>::new();
    assert_eq!(pair(-1, new, gone, new), none, "it fires later");
    assert_eq!(
        pair(1, new, "if job.n > 1 { job.state = \"gone\"; }", new),
        none,
        "perhaps it does not"
    );
    assert_eq!(
        pair(1, "j: Job;", "j.state = \"gone\";", new),
        none,
        "set back, it does not fire again"
    );
    assert_eq!(
        pair(
            1,
            "j: Job where j.state == \"new\" && j.n > 1;",
            "j.state = \"x\";",
            new
        ),
        none,
        "it asks for more"
    );
    assert_eq!(
        pair(
            1,
            "j: Job where j.state == \"new\"; no Part p where p.job == j.id;",
            "j.state = \"x\";",
            new
        ),
        none
    );
}

#[test]
fn cycles_are_reported_unless_an_end_can_be_seen() {
    let rule = |clauses: &str, action: &str| {
        codes(&format!(
            "rule \"r\" {{ match {{ {clauses} }} action {{ {action} }} }}"
        ))
    };
    let none = Vec::<&str>::new();
    assert_eq!(
        rule("job: Job where job.state == \"new\";", "job.n = 1;"),
        none,
        "it does not read what it writes"
    );
    assert_eq!(
        rule("job: Job where job.state == \"new\";", "job.n += 1;"),
        ["endless-cycle"],
        "it does"
    );
    assert_eq!(
        rule("job: Job where job.n >= 0;", "if job.n > 3 { job.n += 1; }"),
        none,
        "guarded"
    );
    assert_eq!(
        rule("job: Job where job.n > 0;", "job.n += 1;"),
        ["endless-cycle"]
    );
    assert_eq!(
        rule("job: Job where job.n < 9;", "job.n += 1;"),
        none,
        "the counter has a bound"
    );
    assert_eq!(
        rule("job: Job where job.n < 9;", "job.n -= 1;"),
        ["endless-cycle"]
    );
    assert_eq!(rule("job: Job where job.n > 0;", "job.n = job.n - 1;"), none);
    assert_eq!(
        rule("job: Job where job.n != 9;", "job.n = job.n * 2;"),
        ["endless-cycle"]
    );
    assert_eq!(
        rule("job: Job where job.state != \"done\";", "job.state = \"done\";"),
        none
    );
    assert_eq!(
        rule("job: Job;", "insert(\"Job\", #{ id: \"x\" });"),
        ["endless-cycle"]
    );
    assert_eq!(rule("job: Job;", "insert(\"Part\", #{ job: job.id });"), none);
    assert_eq!(
        rule(
            "job: Job; no Part p where p.job == job.id;",
            "insert(\"Part\", #{ job: job.id });"
        ),
        none
    );
    assert_eq!(
        rule(
            "n = count Part p;",
            "insert(\"Part\", #{ job: \"j\" }); log(`${n}`);"
        ),
        ["endless-cycle"]
    );
    assert_eq!(rule("p: Part where p.size > 0;", "retract(p);"), none);
    let timer = "job: Job where job.n >= 0;";
    assert_eq!(
        codes(&format!(
            "rule \"poll\" {{ match {{ {timer} }} action {{ timer(\"10s\"); }} reaction {{ job.n += 1; }} }}"
        )),
        none,
        "each round waits"
    );
}
