//! The words of the language with what an author wants to know about each: the short form of `docs/rules.md`.

use crate::outline::Part;

/// What sections can do, how it is written, and what it means.
pub(crate) struct Action {
    pub(crate) name: &'static str,
    pub(crate) form: &'static str,
    pub(crate) about: &'static str,
    /// The only section it may stand in.
    pub(crate) only: Option<Part>,
}

const fn action(name: &'static str, form: &'static str, about: &'static str) -> Action {
    Action {
        name,
        form,
        about,
        only: None,
    }
}

const fn only(part: Part, name: &'static str, form: &'static str, about: &'static str) -> Action {
    Action {
        name,
        form,
        about,
        only: Some(part),
    }
}

/// What sections can do.
pub(crate) const ACTIONS: &[Action] = &[
    action(
        "insert",
        "insert(\"Type\", #{ field: … })",
        "A new fact; gives the fact.",
    ),
    action("retract", "retract(fact)", "Removes the fact."),
    action("exists", "exists(fact)", "Whether the fact is still there."),
    only(
        Part::Action,
        "call",
        "call(\"function\", #{ … }, #{ options })",
        "Calls a function of the bundle; gives its index in `results`. Options: `timeout`, `after`, `priority`, `key`, `fail_fast`.",
    ),
    only(
        Part::Action,
        "request",
        "request(\"service/operation\", #{ … }, #{ options })",
        "A request to a service, awaited like a call.",
    ),
    only(
        Part::Action,
        "timer",
        "timer(\"2h\")",
        "Awaited like a call. Also `timer(ms)`, `timer(#{ after: … })`, `timer(#{ at: ms })`.",
    ),
    action("emit", "emit(\"type\", #{ … })", "Publishes an event."),
    action("complete", "complete(#{ … })", "The run's result."),
    action(
        "fail",
        "fail(\"why\", #{ … })",
        "Fails the run when the section has ended.",
    ),
    only(
        Part::Error,
        "retry",
        "retry(#{ options })",
        "Makes the failed calls of this firing again.",
    ),
    action(
        "halt",
        "halt()",
        "When the section has ended well, no more rules fire in this turn; what is still to fire waits for the next one.",
    ),
    action(
        "progress",
        "progress(0.5, \"text\")",
        "How far the run is, 0 to 1.",
    ),
    action("log", "log(\"text\")", "A line in the run's log."),
    action("now", "now()", "The turn's instant in milliseconds since 1970."),
    action(
        "random",
        "random()",
        "A number from 0 up to 1; follows from the run and the turn.",
    ),
    action(
        "uid",
        "uid()",
        "24 hexadecimal digits; follow from the run and the turn.",
    ),
];

/// Conditions on time, in `match`.
pub(crate) const TIMED: &[Action] = &[
    action(
        "after",
        "after(fact.slot, \"2h\")",
        "From two hours after the instant on; not while the instant is null.",
    ),
    action(
        "every",
        "every(\"15m\")",
        "Always; the activation is new again at the end of every period.",
    ),
];

/// What sections can do, and conditions on time, by name.
pub(crate) fn action_of(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().chain(TIMED).find(|action| action.name == name)
}

/// Names that are given in sections.
pub(crate) const GIVEN: &[(&str, &str)] = &[
    (
        "result",
        "What the first call, request or timer of the action gave.",
    ),
    ("results", "What all of them gave, in the order of the calls."),
    (
        "error",
        "The first failure: `kind`, `message`, `function`, `attempts`.",
    ),
];

/// The properties of `error`.
pub(crate) const ERROR_FIELDS: &[(&str, &str)] = &[
    (
        "kind",
        "`user`, `input`, `transient`, `node`, `resource`, `timeout`, `preempted`, `canceled` or `internal`",
    ),
    ("message", "what the function said"),
    ("function", "the function that failed"),
    ("attempts", "how often it was tried"),
];

/// The words that begin declarations, what to write, and what they mean.
pub(crate) const DECLARATIONS: &[(&str, &str, &str)] = &[
    (
        "workflow",
        "workflow ${1:name};",
        "The name of this file's rules; once.",
    ),
    (
        "fact",
        "fact ${1:Type} { ${2:field}: ${3:string} }",
        "A fact type.",
    ),
    (
        "shared fact",
        "shared fact ${1:Type} { ${2:field}: ${3:string} }",
        "A fact type of the service.",
    ),
    (
        "const",
        "const ${1:NAME} = ${2:value};",
        "A value for all scripts.",
    ),
    (
        "fn",
        "fn ${1:name}(${2:a}) {\n    $0\n}",
        "A function of this file.",
    ),
    (
        "rule",
        "rule \"${1:name}\" {\n    match  { ${2:fact}: ${3:Type}; }\n    action { $0 }\n}",
        "A rule: what it waits for and what it does.",
    ),
];

/// The sections of a rule.
pub(crate) const PARTS: &[(&str, &str)] = &[
    ("match", "What must be true."),
    ("action", "Runs when the rule fires."),
    (
        "reaction",
        "Runs when all calls of the action have come back well.",
    ),
    (
        "error",
        "Runs when the action throws or a call has failed for good.",
    ),
];

/// How clauses begin.
pub(crate) const CLAUSES: &[(&str, &str)] = &[
    ("no", "`no Type c where E`: while there is no such fact."),
    ("any", "`any Type c where E`: while there is at least one."),
    ("if", "`if E`: while it holds; it may look at everything above."),
];

/// The aggregates.
pub(crate) const AGGREGATES: &[(&str, &str)] = &[
    ("count", "`n = count Type c where E`: how many there are."),
    (
        "sum",
        "`s = sum M of Type c where E`: the sum of `M` over them, 0 without any.",
    ),
    (
        "min",
        "`m = min M of Type c where E`: the least `M`, null without any.",
    ),
    (
        "max",
        "`m = max M of Type c where E`: the greatest `M`, null without any.",
    ),
    (
        "collect",
        "`l = collect Type c where E order by K`: the list of the facts.",
    ),
];

/// Words within clauses.
pub(crate) const JOINTS: &[(&str, &str)] = &[
    ("where", "A condition on the fact and those above."),
    ("order by", "The order of a collected list."),
    ("of", "Stands between a measure and its fact type."),
    ("in", "Whether a list or a text holds something."),
];

/// Words of the script language.
pub(crate) const SCRIPT: &[&str] = &[
    "let", "const", "if", "else", "for", "in", "while", "loop", "do", "until", "break", "continue", "return",
    "throw", "try", "catch", "switch", "true", "false",
];

/// What fields may hold.
pub(crate) const KINDS: &[(&str, &str)] = &[
    ("string", "Text."),
    ("int", "A whole number of 64 bits."),
    ("float", "A number with a fraction."),
    ("bool", "True or false."),
    ("artifact", "A reference to an immutable blob."),
    ("list", "A list."),
    ("map", "A map; it keeps its keys in order."),
    ("time", "Milliseconds since 1970."),
    ("any", "Anything, null too."),
];

#[cfg(test)]
mod tests {
    use celesta_engine::{FieldKind, section_functions};

    use super::*;

    #[test]
    fn everything_sections_can_do_is_described() {
        for name in section_functions() {
            assert!(action_of(name).is_some(), "`{name}` is not described");
        }
        for action in ACTIONS {
            assert!(
                section_functions().any(|name| name == action.name),
                "{}",
                action.name
            );
        }
    }

    #[test]
    fn every_kind_of_field_is_described() {
        let described: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(described, FieldKind::ALL.map(FieldKind::name));
    }
}
