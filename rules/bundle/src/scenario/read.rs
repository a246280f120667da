//! From `tests/*.toml` to scenarios, with every unknown name found before anything runs.

mod expect;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use celesta_engine::RuleSet;
use celesta_types::ErrorClass;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::diagnostic::Diagnostic;
use crate::files::Files;
use crate::toml_text::{Fields, Text, did_you_mean};

/// How a scenario begins.
#[derive(Debug)]
pub(super) enum Start {
    /// With a request.
    Request {
        /// The operation.
        operation: String,
        /// The body.
        input: Value,
    },
    /// With facts.
    Facts {
        /// The facts: type and value.
        facts: Vec<(String, Value)>,
    },
}

/// Whom an answer stands in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Callee {
    /// A function of the bundle.
    Function(String),
    /// An operation of another service, `service/operation`.
    Request(String),
}

/// What an answer says.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// The result.
    Result(Value),
    /// This attempt fails; whether another follows is up to the function's retry policy.
    Error {
        /// The class of the error.
        class: ErrorClass,
        /// What it says.
        message: String,
    },
    /// Nothing, ever.
    Never,
}

/// How a function answers.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) to: Callee,
    pub(super) when: Option<Value>,
    pub(super) times: Option<u64>,
    pub(super) after_ms: i64,
    pub(super) reply: Reply,
}

/// Something that happens to the run from outside.
#[derive(Debug)]
pub(super) struct Inject {
    pub(super) after_ms: i64,
    pub(super) what: Injected,
}

/// What happens.
#[derive(Debug, Clone)]
pub(super) enum Injected {
    /// A fact arrives.
    Fact(String, Value),
    /// Somebody cancels the run.
    Cancel(String),
    /// Somebody retries the run.
    Retry,
    /// Fields of a shared fact are set.
    Update(u64, Value),
    /// A shared fact is retracted.
    Retract(u64),
}

/// What is expected of some facts.
#[derive(Debug)]
pub(super) struct FactsExpected {
    pub(super) fact_type: String,
    pub(super) count: Option<u64>,
    pub(super) filter: Option<Value>,
}

/// What is expected of the run.
#[derive(Debug, Default)]
pub(super) struct Expect {
    pub(super) state: Option<String>,
    pub(super) result: Option<Value>,
    pub(super) result_exactly: Option<Value>,
    pub(super) error: Option<String>,
    pub(super) fired: Option<Vec<String>>,
    pub(super) fired_exactly: Option<Vec<String>>,
    pub(super) not_fired: Vec<String>,
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) facts: Vec<FactsExpected>,
    pub(super) calls: BTreeMap<String, u64>,
    pub(super) attempts: BTreeMap<String, u64>,
    pub(super) elapsed_ms: Option<i64>,
    pub(super) progress: Option<f64>,
    /// The request is refused, with these words.
    pub(super) refused: Option<String>,
}

/// One test of a bundle.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) workflow: String,
    pub(super) start: Start,
    /// The shared facts of the service before the run begins.
    pub(super) shared: Vec<(String, Value)>,
    pub(super) answers: Vec<Answer>,
    pub(super) injects: Vec<Inject>,
    pub(super) expect: Expect,
}

/// The states a run can be in at the end of a scenario.
pub(super) const STATES: [&str; 6] = [
    "running",
    "idle",
    "completed",
    "failed",
    "canceled",
    "quarantined",
];

/// What names in a scenario may refer to.
struct Known<'b> {
    bundle: &'b Bundle,
    files: &'b Files,
}

/// Reads one file; mistakes go to `text`.
pub(super) fn read(text: &Text<'_>, bundle: &Bundle, files: &Files) -> Vec<Scenario> {
    let Some(document) = text.parse() else {
        return Vec::new();
    };
    let known = Known { bundle, files };
    let mut fields = Fields::new(&document, 0..0, String::new(), text);
    let shared: Vec<Answer> = fields
        .tables("answers")
        .into_iter()
        .filter_map(|table| answer(table, text, &known))
        .collect();
    let tables = fields.tables("scenario");
    if tables.is_empty() && fields.get("scenario").is_none() {
        text.report_with(
            &(0..0),
            "the file holds no scenario",
            "begin one with `[[scenario]]`".to_owned(),
        );
    }
    fields.finish();
    let mut names = BTreeSet::new();
    let mut scenarios = Vec::new();
    for table in tables {
        let span = table.span.clone();
        let Some(mut scenario) = scenario(table, text, &known) else {
            continue;
        };
        if !names.insert(scenario.name.clone()) {
            text.report(&span, format!("two scenarios are named \"{}\"", scenario.name));
        }
        scenario.answers.extend(shared.iter().cloned());
        scenarios.push(scenario);
    }
    scenarios
}

fn scenario(mut fields: Fields<'_, '_>, text: &Text<'_>, known: &Known<'_>) -> Option<Scenario> {
    let span = fields.span.clone();
    let name = fields.needed_text("name", "name = \"a failed chunk is retried alone\"");
    let begin = start(&mut fields, text, known);
    let rules = begin
        .as_ref()
        .and_then(|(workflow, _)| known.bundle.workflows.get(workflow));
    let answers = fields
        .tables("answers")
        .into_iter()
        .filter_map(|table| answer(table, text, known))
        .collect();
    let shared = fields
        .tables("shared")
        .into_iter()
        .filter_map(|table| {
            let span = table.span.clone();
            let (name, value) = fact(table, text, rules?)?;
            known_shared(&name, &span, text, rules?).map(|()| (name, value))
        })
        .collect();
    let injects = fields
        .tables("inject")
        .into_iter()
        .filter_map(|table| inject(table, text, rules?))
        .collect();
    let expect = match fields.table("expect") {
        Some(table) => rules.map(|rules| expect::expect(table, text, known, rules)),
        None => {
            if fields.get("expect").is_none() {
                fields.missing("expect", "expect = { state = \"completed\" }");
            }
            None
        }
    };
    fields.finish();
    let line = Diagnostic::at("scenario", text.path, text.text, &span, String::new()).line;
    let (workflow, start) = begin?;
    Some(Scenario {
        path: text.path.to_owned(),
        line,
        name: name?.0.to_owned(),
        workflow,
        start,
        shared,
        answers,
        injects,
        expect: expect?,
    })
}

fn start(fields: &mut Fields<'_, '_>, text: &Text<'_>, known: &Known<'_>) -> Option<(String, Start)> {
    let operation = fields.text("operation");
    let workflow = fields.text("workflow");
    let input = fields.json("input");
    let input_file = fields.text("input_file");
    let facts = fields.tables("facts");
    match (operation, workflow) {
        (Some((name, span)), None) => {
            let operations = &known.bundle.operations;
            let Some(operation) = operations.get(name) else {
                let hint = did_you_mean(name, operations.keys().map(String::as_str));
                text.report_with(&span, format!("there is no operation `{name}`"), hint);
                return None;
            };
            if let Some(first) = facts.first() {
                text.report_with(
                    &first.span,
                    "a request brings its own fact",
                    "use `workflow` instead of `operation`, or `inject` the fact".to_owned(),
                );
            }
            let input = match (input, input_file) {
                (Some((input, _)), None) => input,
                (None, Some((path, span))) => file_json(path, &span, text, known)?,
                (Some((_, span)), Some(_)) => {
                    text.report(&span, "both `input` and `input_file` are given");
                    return None;
                }
                (None, None) => Value::Object(serde_json::Map::new()),
            };
            Some((
                operation.workflow.clone(),
                Start::Request {
                    operation: name.to_owned(),
                    input,
                },
            ))
        }
        (None, Some((name, span))) => {
            let workflows = &known.bundle.workflows;
            let Some(rules) = workflows.get(name) else {
                let hint = did_you_mean(name, workflows.keys().map(String::as_str));
                text.report_with(&span, format!("there is no workflow `{name}`"), hint);
                return None;
            };
            if let Some((_, span)) = input {
                text.report_with(
                    &span,
                    "a workflow has no input",
                    "give `[[scenario.facts]]`, or name an `operation`".to_owned(),
                );
            }
            let facts = facts
                .into_iter()
                .filter_map(|table| fact(table, text, rules))
                .collect();
            Some((name.to_owned(), Start::Facts { facts }))
        }
        (Some(_), Some((_, span))) => {
            text.report(&span, "both `operation` and `workflow` are given");
            None
        }
        (None, None) => {
            fields.missing("operation", "operation = \"encode\"");
            None
        }
    }
}

fn file_json(path: &str, span: &Range<usize>, text: &Text<'_>, known: &Known<'_>) -> Option<Value> {
    let beside = format!("tests/{path}");
    let Some(file) = known.files.get(&beside) else {
        text.report(span, format!("there is no file `{beside}` in the bundle"));
        return None;
    };
    serde_json::from_slice(&file.content)
        .map_err(|error| text.report(span, format!("`{beside}` is not JSON: {error}")))
        .ok()
}

/// `type` and `value` of a fact.
fn fact(mut fields: Fields<'_, '_>, text: &Text<'_>, rules: &RuleSet) -> Option<(String, Value)> {
    let name = fields.needed_text("type", "type = \"Job\"");
    let value = fields
        .json("value")
        .map_or_else(|| Value::Object(serde_json::Map::new()), |(value, _)| value);
    fields.finish();
    let (name, span) = name?;
    known_fact_type(name, &span, text, rules)?;
    Some((name.to_owned(), value))
}

fn known_fact_type(name: &str, span: &Range<usize>, text: &Text<'_>, rules: &RuleSet) -> Option<()> {
    if rules.fact_types().any(|one| *one.name == *name) {
        return Some(());
    }
    let types: Vec<String> = rules.fact_types().map(|one| one.name.to_string()).collect();
    let hint = did_you_mean(name, types.iter().map(String::as_str));
    text.report_with(
        span,
        format!("the workflow `{}` has no fact type `{name}`", rules.workflow()),
        hint,
    );
    None
}

/// The facts of a run come with its request, those of the service are there before.
fn known_shared(name: &str, span: &Range<usize>, text: &Text<'_>, rules: &RuleSet) -> Option<()> {
    if rules.fact_type(name).is_some_and(|fact_type| fact_type.shared) {
        return Some(());
    }
    let hint = format!(
        "declare it in `rules/{}.rules`: `shared fact {name} {{ … }}`",
        rules.workflow()
    );
    text.report_with(span, format!("`{name}` is no shared fact"), hint);
    None
}

fn known_function(name: &str, span: &Range<usize>, text: &Text<'_>, known: &Known<'_>) -> Option<()> {
    let functions = &known.bundle.functions;
    if functions.contains_key(name) {
        return Some(());
    }
    let hint = did_you_mean(name, functions.keys().map(String::as_str));
    text.report_with(span, format!("there is no function `{name}`"), hint);
    None
}

fn answer(mut fields: Fields<'_, '_>, text: &Text<'_>, known: &Known<'_>) -> Option<Answer> {
    let span = fields.span.clone();
    let function = fields.text("function");
    let request = fields.text("request");
    let when = fields.json("when").map(|(value, _)| value);
    let times = fields.count("times");
    let after_ms = fields.duration("after").unwrap_or(0);
    let result = fields.json("result");
    let error = fields.table("error");
    let never = fields.flag("never").unwrap_or(false);
    let to = match (function, request) {
        (Some((name, span)), None) => {
            known_function(name, &span, text, known).map(|()| Callee::Function(name.to_owned()))
        }
        (None, Some((target, _))) => Some(Callee::Request(target.to_owned())),
        (Some(_), Some((_, span))) => {
            text.report(&span, "both `function` and `request` are given");
            None
        }
        (None, None) => {
            fields.missing("function", "function = \"encode\"");
            None
        }
    };
    fields.finish();
    let reply = match (result, error, never) {
        (Some((value, _)), None, false) => Some(Reply::Result(value)),
        (None, Some(table), false) => error_reply(table, text),
        (None, None, true) => Some(Reply::Never),
        (None, None, false) => Some(Reply::Result(Value::Object(serde_json::Map::new()))),
        _ => {
            text.report(&span, "an answer is one of `result`, `error` and `never`");
            None
        }
    };
    Some(Answer {
        to: to?,
        when,
        times,
        after_ms,
        reply: reply?,
    })
}

fn error_reply(mut fields: Fields<'_, '_>, text: &Text<'_>) -> Option<Reply> {
    let mut class = ErrorClass::User;
    if let Some((word, span)) = fields.text("class") {
        match word.parse() {
            Ok(known) => class = known,
            Err(message) => text.report_with(
                &span,
                message,
                did_you_mean(word, ErrorClass::ALL.map(ErrorClass::name)),
            ),
        }
    }
    let message = fields
        .text("message")
        .map_or_else(|| "failed".to_owned(), |(text, _)| text.to_owned());
    fields.finish();
    Some(Reply::Error { class, message })
}

fn inject(mut fields: Fields<'_, '_>, text: &Text<'_>, rules: &RuleSet) -> Option<Inject> {
    let after_ms = fields.duration("after").unwrap_or(0);
    let fact = fields.text("fact");
    let value = fields
        .json("value")
        .map_or_else(|| Value::Object(serde_json::Map::new()), |(value, _)| value);
    let update = fields.count("update");
    let retract = fields.count("retract");
    let cancel = fields.text("cancel").map(|(reason, _)| reason.to_owned());
    let retry = fields.flag("retry").unwrap_or(false);
    let what = match (fact, cancel, retry, update, retract) {
        (Some((name, span)), None, false, None, None) => {
            known_fact_type(name, &span, text, rules).map(|()| Injected::Fact(name.to_owned(), value))
        }
        (None, Some(reason), false, None, None) => Some(Injected::Cancel(reason)),
        (None, None, true, None, None) => Some(Injected::Retry),
        (None, None, false, Some(fact), None) => Some(Injected::Update(fact, value)),
        (None, None, false, None, Some(fact)) => Some(Injected::Retract(fact)),
        _ => {
            text.report(
                &fields.span,
                "an injection is one of `fact` (with `value`), `update` (a shared fact's number, with `value`), \
                 `retract` (a shared fact's number), `cancel` and `retry`",
            );
            None
        }
    };
    fields.finish();
    Some(Inject {
        after_ms,
        what: what?,
    })
}
