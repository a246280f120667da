//! Scripts that mean harm: one rule whose section or condition is given, and what becomes of its first turn.

use std::sync::Arc;

use celesta_engine::{
    Effect, Environment, Event, Limits, Outcome, RuleSet, RunId, Source, Turn, Value, WorkingMemory, compile,
};

/// A file of functions and one rule, which fires for the fact of [`start`] where its condition holds.
pub(crate) fn program(functions: &str, condition: &str, action: &str) -> String {
    format!(
        "workflow w;\nfact Go {{ n: int = 0, s: string = \"\", l: list = [], any: any }}\n{functions}\nrule \"r\" {{ match {{ it: Go where {condition}; }} action {{ {action} }} }}"
    )
}

/// The rules of a file, or what the compiler says.
pub(crate) fn rules(text: &str, limits: Limits) -> Result<Arc<RuleSet>, String> {
    let source = Source {
        path: "harm.rules".into(),
        text: text.into(),
    };
    let environment = Environment {
        functions: ["f".to_owned()].into(),
        limits,
    };
    compile(&source, &environment)
        .map(|compiled| compiled.rules)
        .map_err(|found| found.to_string())
}

/// The first turn of a run that begins with one fact.
pub(crate) fn start(rules: &Arc<RuleSet>, fact_type: &str, fields: Value) -> (WorkingMemory, Outcome) {
    let mut memory = WorkingMemory::new(rules, RunId::from_bits(1));
    let fact = Event::Insert {
        fact_type: fact_type.into(),
        value: fields,
    };
    let outcome = memory.turn(Turn {
        seq: 1,
        now_ms: 0,
        events: vec![fact],
    });
    (memory, outcome)
}

/// What becomes of an action: the message of the run's failure, or of the compiler.
pub(crate) fn run(functions: &str, action: &str, limits: Limits) -> String {
    let rules = match rules(&program(functions, "it.n >= 0", action), limits) {
        Ok(rules) => rules,
        Err(found) => return format!("compile: {found}"),
    };
    let (memory, outcome) = start(&rules, "Go", Value::map([("any", Value::Null)]));
    if let Some(fault) = outcome.fault {
        return fault.to_string();
    }
    assert_eq!(memory.facts().count(), 1, "{action}");
    match outcome.effects.as_slice() {
        [Effect::Fail { message, .. }] => message.clone(),
        other => format!("it ended well, with {} effects", other.len()),
    }
}
