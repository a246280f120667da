//! Another name for something, wherever the file, and the bundle's service and scenarios, use the old one.
//!
//! A fact type is known outside of its file: operations of its workflow name it, and so do their scenarios. Fields are
//! what requests are made of; their names in schemas and requests belong to the service's users and stay.

use std::path::Path;

use celesta_bundle::SERVICE_FILE;
use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

use crate::document::Document;
use crate::index::Symbol;
use crate::language::{ACTIONS, GIVEN, SCRIPT};
use crate::outline::Span;
use crate::surroundings::text_at;

/// Why nothing can be renamed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RenameError {
    #[error("there is no name here that can be changed")]
    Nothing,
    #[error("`{0}` is no name: letters, digits and `_`, not first a digit")]
    NoName(String),
    #[error("`{0}` is a word of the language")]
    Reserved(String),
    #[error("`{0}` is taken")]
    Taken(String),
}

/// The place that a rename would change, or nothing.
pub(crate) fn prepare(document: &Document, offset: usize) -> Option<Value> {
    let one = document.index().at(offset)?;
    can_change(document, &one.symbol).then(|| document.range(&one.span))
}

fn can_change(document: &Document, symbol: &Symbol) -> bool {
    match symbol {
        Symbol::Builtin(_) | Symbol::Callable(_) | Symbol::Operation(_) | Symbol::Workflow(_) => false,
        // A rule's name is what histories and scenarios know it by; it is changed by hand.
        Symbol::Rule(_) => false,
        symbol => document.index().definition(symbol).is_some(),
    }
}

/// The changes that give the name at a place another one.
pub(crate) fn rename(document: &Document, offset: usize, to: &str) -> Result<Value, RenameError> {
    let index = document.index();
    let one = index.at(offset).ok_or(RenameError::Nothing)?;
    if !can_change(document, &one.symbol) {
        return Err(RenameError::Nothing);
    }
    check(document, &one.symbol, to)?;
    let edit = |document: &Document, span: &Span| json!({ "range": document.range(span), "newText": to });
    let own: Vec<Value> = index
        .all(&one.symbol)
        .map(|one| edit(document, &one.span))
        .collect();
    let mut changes = Map::new();
    changes.insert(document.uri.clone(), own.into());
    if let Symbol::FactType(name) = &one.symbol {
        for (other, spans) in elsewhere(document, name) {
            let edits: Vec<Value> = spans.iter().map(|span| edit(&other, span)).collect();
            changes.insert(other.uri.clone(), edits.into());
        }
    }
    Ok(json!({ "changes": changes }))
}

fn check(document: &Document, symbol: &Symbol, to: &str) -> Result<(), RenameError> {
    let is_name = to.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
        && to.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
    if !is_name {
        return Err(RenameError::NoName(to.to_owned()));
    }
    let is_field = matches!(symbol, Symbol::Field(..));
    let reserved = SCRIPT.contains(&to)
        || matches!(to, "where" | "no" | "any" | "of" | "order" | "shared" | "fn")
        || !is_field
            && (ACTIONS.iter().any(|action| action.name == to)
                || GIVEN.iter().any(|(given, _)| *given == to));
    if reserved {
        return Err(RenameError::Reserved(to.to_owned()));
    }
    let index = document.index();
    let declared = |symbol: &Symbol| index.definition(symbol).is_some();
    let taken = match symbol {
        Symbol::FactType(_) => declared(&Symbol::FactType(to.to_owned())),
        Symbol::Field(fact_type, _) => declared(&Symbol::Field(fact_type.clone(), to.to_owned())),
        Symbol::Local(place) => {
            let same = |known: &Span| {
                let locals = index.locals.iter().filter(|local| local.name.name == to);
                locals
                    .into_iter()
                    .any(|local| local.known.start < known.end && known.start < local.known.end)
            };
            declared(&Symbol::Const(to.to_owned()))
                || index.local(*place).is_some_and(|local| same(&local.known))
        }
        // A constant's name cannot be used for anything else in the file.
        Symbol::Const(_) => {
            declared(&Symbol::Const(to.to_owned())) || index.locals.iter().any(|local| local.name.name == to)
        }
        Symbol::Function(_) => declared(&Symbol::Function(to.to_owned())),
        _ => false,
    };
    if taken {
        Err(RenameError::Taken(to.to_owned()))
    } else {
        Ok(())
    }
}

/// The places in other files of the bundle that name a fact type of this workflow.
fn elsewhere(document: &Document, name: &str) -> Vec<(Document, Vec<Span>)> {
    let surroundings = &document.surroundings;
    let (Some(root), Some(workflow)) = (&surroundings.root, document.index().outline.workflow()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut take = |path: &Path, spans: &dyn Fn(&str) -> Vec<Span>| {
        if let Some(other) = document.beside(path) {
            let spans = spans(other.text());
            if !spans.is_empty() {
                found.push((other, spans));
            }
        }
    };
    take(&root.join(SERVICE_FILE), &|text| in_service(text, workflow, name));
    let of_workflow = |operation: &str| {
        let known = surroundings.operations.get(operation);
        known.is_some_and(|known| known.workflow == workflow)
    };
    for (path, _) in surroundings.scenarios() {
        take(&path, &|text| in_scenarios(text, workflow, &of_workflow, name));
    }
    found
}

fn in_service(text: &str, workflow: &str, name: &str) -> Vec<Span> {
    let (document, _) = DeTable::parse_recoverable(text);
    let mut spans = Vec::new();
    if let Some(DeValue::Table(operations)) =
        document.get_ref().get("operations").map(|value| value.get_ref())
    {
        for operation in operations.values() {
            if let DeValue::Table(table) = operation.get_ref()
                && text_at(table, "workflow").as_deref() == Some(workflow)
            {
                named(table, "fact", name, &mut spans);
            }
        }
    }
    spans
}

fn in_scenarios(text: &str, workflow: &str, of_workflow: &dyn Fn(&str) -> bool, name: &str) -> Vec<Span> {
    let (document, _) = DeTable::parse_recoverable(text);
    let mut spans = Vec::new();
    let Some(DeValue::Array(scenarios)) = document.get_ref().get("scenario").map(|value| value.get_ref())
    else {
        return spans;
    };
    for scenario in scenarios.iter() {
        let DeValue::Table(table) = scenario.get_ref() else {
            continue;
        };
        let own = match (text_at(table, "operation"), text_at(table, "workflow")) {
            (Some(operation), _) => of_workflow(&operation),
            (None, Some(named)) => named == workflow,
            (None, None) => false,
        };
        if own {
            within(scenario.get_ref(), name, &mut spans);
        }
    }
    spans
}

/// `fact = "Name"` and `type = "Name"` wherever they stand in a scenario, but not in values of facts and answers.
fn within(value: &DeValue<'_>, name: &str, spans: &mut Vec<Span>) {
    match value {
        DeValue::Table(table) => {
            named(table, "fact", name, spans);
            named(table, "type", name, spans);
            for (key, value) in table {
                if !matches!(
                    &**key.get_ref(),
                    "value" | "input" | "result" | "result_exactly" | "when" | "where"
                ) {
                    within(value.get_ref(), name, spans);
                }
            }
        }
        DeValue::Array(values) => values
            .iter()
            .for_each(|value| within(value.get_ref(), name, spans)),
        _ => {}
    }
}

/// The text under a key, without its quotes, when it is the name.
fn named(table: &DeTable<'_>, key: &str, name: &str, spans: &mut Vec<Span>) {
    if let Some(value) = table.get(key)
        && let DeValue::String(text) = value.get_ref()
        && **text == *name
    {
        let span = value.span();
        spans.push(span.start + 1..span.end.saturating_sub(1));
    }
}
