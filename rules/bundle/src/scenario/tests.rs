//! Scenarios that pass, fail and are wrong, on a small bundle.

use super::*;
use crate::FileEntry;

const RULES: &str = r#"workflow work;

fact Job { id: string, parts: int, state: string = "new" }
fact Part { index: int, state: string = "new" }

rule "cut" {
    match  { job: Job where job.state == "new"; }
    action { job.state = "cut"; for index in 0..job.parts { insert("Part", #{ index: index }); } }
}

rule "do a part" {
    match    { part: Part where part.state == "new"; }
    action   { part.state = "doing"; call("do", #{ index: part.index }); }
    reaction { part.state = "done"; }
    error    { part.state = "failed"; }
}

rule "finish" {
    match    { job: Job where job.state == "cut"; no Part p where p.state != "done"; }
    action   { job.state = "waiting"; timer("30d"); }
    reaction { complete(#{ parts: job.parts, run: job.id }); }
}
"#;

fn bundle(scenarios: &str) -> (Bundle, Files) {
    let files: Files = [
        (
            "service.toml",
            "name = \"s\"\n[operations.work]\nworkflow = \"work\"\nfact = \"Job\"\n",
        ),
        ("rules/work.rules", RULES),
        (
            "functions/do/function.toml",
            "name = \"do\"\ncommand = [\"true\"]\ntimeout = \"1m\"\n",
        ),
        ("tests/work.toml", scenarios),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), FileEntry::text(text)))
    .collect();
    (Bundle::compile(&files).expect("a right bundle"), files)
}

fn results(scenarios: &str) -> Vec<ScenarioResult> {
    let (bundle, files) = bundle(scenarios);
    match run_scenarios(&bundle, &files, None) {
        Ok(report) => report.results,
        Err(errors) => panic!("{errors}"),
    }
}

/// One scenario of two parts, with these answers and expectations.
fn one(answers: &str, expect: &str) -> ScenarioResult {
    let text = format!(
        "[[scenario]]\nname = \"one\"\noperation = \"work\"\ninput = {{ parts = 2 }}\n{answers}\n[scenario.expect]\n{expect}\n"
    );
    results(&text).remove(0)
}

const ANSWER: &str = "[[scenario.answers]]\nfunction = \"do\"\nafter = \"5s\"\n";

#[test]
fn thirty_days_pass_at_once_and_everything_is_as_expected() {
    let expect = r#"
state = "completed"
elapsed = "30d5s"
result_exactly = { parts = 2, run = "${run}" }
fired_exactly = ["cut", "do a part", "do a part", "finish"]
counts = { cut = 1 }
calls = { do = 2 }
facts = [{ type = "Part", count = 2, where = { state = "done" } }]
"#;
    let result = one(ANSWER, expect);
    assert!(result.passed, "{result}");
    assert_eq!(result.elapsed_ms, 30 * 86_400_000 + 5_000);
}

#[test]
fn a_failed_attempt_follows_the_policy_of_its_function() {
    let answers = format!(
        "[[scenario.answers]]\nfunction = \"do\"\nwhen = {{ index = 1 }}\ntimes = 2\nerror = {{ class = \"transient\" }}\n{ANSWER}"
    );
    // Waits of 1 s and 2 s, then 5 s of work.
    let result = one(
        &answers,
        "state = \"completed\"\nattempts = { do = 4 }\ncalls = { do = 2 }\nelapsed = \"30d8s\"",
    );
    assert!(result.passed, "{result}");
    let answers = format!(
        "[[scenario.answers]]\nfunction = \"do\"\nwhen = {{ index = 1 }}\nerror = {{ class = \"user\" }}\n{ANSWER}"
    );
    let result = one(
        &answers,
        "state = \"idle\"\nattempts = { do = 4 }\nfacts = [{ type = \"Part\", count = 1, where = { state = \"failed\" } }]",
    );
    assert!(result.passed, "{result}");
}

#[test]
fn an_answer_later_than_the_timeout_is_a_timeout() {
    let answers = format!("[[scenario.answers]]\nfunction = \"do\"\ntimes = 1\nafter = \"2m\"\n{ANSWER}");
    let result = one(
        &answers,
        "state = \"completed\"\nattempts = { do = 3 }\nelapsed = \"30d1m6s\"",
    );
    assert!(result.passed, "{result}");
}

#[test]
fn what_is_not_as_expected_is_shown_with_its_reason() {
    let answers = "[[scenario.answers]]\nfunction = \"do\"\nwhen = { index = 1 }\nnever = true\n[[scenario.answers]]\nfunction = \"do\"\n";
    let expect = r#"
state = "completed"
result = { parts = 3 }
fired = ["cut", "finish"]
not_fired = ["cut"]
counts = { "do a part" = 3 }
facts = [{ type = "Part", count = 2, where = { state = "done" } }]
elapsed = "1h"
error = "broken"
"#;
    let result = one(answers, expect);
    assert!(!result.passed);
    let text = result.failures.join("\n");
    for words in [
        "state: expected completed, got running",
        "still awaited: `do` with the input {\"index\":1}",
        "result: expected {\"parts\":3}, got null",
        "expected \"finish\" to fire, and it did not",
        "expected \"cut\" not to fire, and it fired 1 times",
        "expected \"do a part\" to fire 3 times, and it fired 2 times",
        "expected 2 Part where {\"state\":\"done\"}, got 1 of 2",
        "elapsed: expected 1h, got 0s",
        "error: expected a message with \"broken\", and the run has none",
    ] {
        assert!(text.contains(words), "{words}\n--- not in ---\n{text}");
    }
    assert!(
        text.contains("no Part"),
        "the explanation names the false clause:\n{text}"
    );
}

#[test]
fn a_call_without_an_answer_fails_the_scenario() {
    let result = one("", "state = \"completed\"");
    assert!(
        result.failures[0].contains("no answer for attempt 1 of `do` with the input {\"index\":"),
        "{result}"
    );
}

#[test]
fn a_run_can_be_canceled_and_facts_can_arrive() {
    let inject = "[[scenario.inject]]\nafter = \"1d\"\ncancel = \"enough\"\n";
    let result = one(
        &format!("{ANSWER}{inject}"),
        "state = \"canceled\"\nelapsed = \"1d\"",
    );
    assert!(result.passed, "{result}");
    let facts = r#"
[[scenario]]
name = "facts instead of a request"
workflow = "work"

[[scenario.facts]]
type = "Part"
value = { index = 7 }

[[scenario.inject]]
after = "1h"
fact = "Part"
value = { index = 8 }

[[scenario.answers]]
function = "do"

[scenario.expect]
state = "idle"
counts = { "do a part" = 2 }
"#;
    let result = results(facts).remove(0);
    assert!(result.passed, "{result}");
}

#[test]
fn a_request_that_is_refused_can_be_expected() {
    let scenario = "[[scenario]]\nname = \"one\"\noperation = \"work\"\ninput = { part = 2 }\n[scenario.expect]\nrefused = \"did you mean `parts`?\"\n";
    let result = results(scenario).remove(0);
    assert!(result.passed, "{result}");
    let result =
        results(&scenario.replace("refused = \"did you mean `parts`?\"", "state = \"completed\"")).remove(0);
    assert!(
        result.failures[0].contains("the request would be refused"),
        "{result}"
    );
}

#[test]
fn a_filter_leaves_the_others_out() {
    let two = ["one", "two"].map(|name| {
        format!("[[scenario]]\nname = \"{name}\"\noperation = \"work\"\ninput = {{ parts = 0 }}\n[scenario.expect]\nstate = \"completed\"\n")
    });
    let (bundle, files) = bundle(&two.concat());
    let report = run_scenarios(&bundle, &files, Some("tw")).expect("right scenarios");
    assert_eq!((report.passed(), report.failed(), report.filtered), (1, 0, 1));
}

#[test]
fn mistakes_in_scenarios_are_found_before_anything_runs() {
    let text = r#"
[[scenario]]
name = "wrong in every way"
operation = "wrk"
inputs = {}

[[scenario]]
name = "names"
operation = "work"
input = { parts = 1 }
answers = [
    { function = "dou", result = {} },
    { function = "do", error = { class = "transcient" }, after = "5" },
    { function = "do", result = {}, never = true },
]
inject = [{ after = "1h" }, { fact = "Prt" }]

[scenario.expect]
state = "complete"
fired = ["cutt"]
counts = { finsh = 1 }
calls = { dod = 1 }
facts = [{ type = "Part", were = {} }]

[[scenario]]
name = "nothing"
operation = "work"
"#;
    let (bundle, files) = bundle(text);
    let errors = run_scenarios(&bundle, &files, None).expect_err("wrong scenarios");
    insta::assert_snapshot!(errors);
}
