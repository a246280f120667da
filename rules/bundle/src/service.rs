//! `service.toml`: the name of a service and its operations, read whole with every mistake at its place.
//!
//! Only this file is read here; whether workflows, fact types and schemas fit it is decided by the bundle.

use std::collections::BTreeMap;
use std::ops::Range;

use celesta_functions::Schema;
use celesta_functions::names::is_name;
use celesta_types::Class;
use toml::de::DeValue;

use crate::diagnostic::Diagnostic;
use crate::files::Files;
use crate::retention::{self, Retention};
use crate::subscription::{self, Mapping, SubscriptionText, mapping};
use crate::toml_text::{Fields, Text, did_you_mean, to_json, type_name};
use crate::versions::{self, VersionsText};
use crate::workflow::{self, WorkflowText};

/// The file every bundle holds.
pub const SERVICE_FILE: &str = "service.toml";
/// Operations of one service: each is a route and a set of metric labels.
const OPERATIONS_MAX: usize = 256;

/// An operation as written, with the places of its words.
#[derive(Debug)]
pub(crate) struct OperationText {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) workflow: (String, Range<usize>),
    pub(crate) fact: (String, Range<usize>),
    pub(crate) input: Option<(Schema, Range<usize>)>,
    pub(crate) output: Option<(Schema, Range<usize>)>,
    pub(crate) priority: Option<Class>,
    pub(crate) labels: Mapping,
}

/// What `service.toml` says.
#[derive(Debug, Default)]
pub(crate) struct ServiceText {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) operations: Vec<OperationText>,
    pub(crate) versions: Vec<VersionsText>,
    pub(crate) retention: BTreeMap<String, (Retention, Range<usize>)>,
    pub(crate) workflows: Vec<WorkflowText>,
    pub(crate) subscriptions: Vec<SubscriptionText>,
}

/// Reads `service.toml`. Mistakes are reported to `text`, mistakes in schema files go to `others`.
pub(crate) fn read(text: &Text<'_>, files: &Files, others: &mut Vec<Diagnostic>) -> Option<ServiceText> {
    let document = text.parse()?;
    let mut fields = Fields::new(&document, 0..0, String::new(), text);
    let mut service = ServiceText::default();
    if let Some((name, span)) = fields.needed_text("name", "name = \"video-encoder\"") {
        if !is_name(name) {
            let hint =
                "a lowercase letter, then lowercase letters, digits, `-` and `_`, at most 64 characters";
            text.report_with(&span, format!("`{name}` cannot name a service"), hint.to_owned());
        }
        name.clone_into(&mut service.name);
    }
    service.description = fields.text("description").map(|(text, _)| text.to_owned());
    match fields.table("operations") {
        Some(operations) => {
            if operations.entries().count() > OPERATIONS_MAX {
                text.report(&operations.span, format!("more than {OPERATIONS_MAX} operations"));
            }
            for (name, key, value) in operations.entries().take(OPERATIONS_MAX) {
                let Some(table) = value.get_ref().as_table() else {
                    text.report(
                        &value.span(),
                        format!("`{name}` is {}, expected a table", type_name(value.get_ref())),
                    );
                    continue;
                };
                let fields = Fields::new(table, key, format!("operations.{name}"), text);
                service
                    .operations
                    .extend(operation(name, fields, text, files, others));
            }
        }
        None if fields.get("operations").is_none() => {
            text.report_with(
                &(0..0),
                "the service has no operations",
                "write a table `[operations.encode]` with `workflow` and `fact`".to_owned(),
            );
        }
        None => {}
    }
    service.versions = versions::read(&mut fields, text);
    service.retention = retention::read(&mut fields, text);
    service.workflows = workflow::read(&mut fields, text);
    service.subscriptions = subscription::read(&mut fields, text);
    fields.finish();
    Some(service)
}

fn operation(
    name: &str,
    mut fields: Fields<'_, '_>,
    text: &Text<'_>,
    files: &Files,
    others: &mut Vec<Diagnostic>,
) -> Option<OperationText> {
    let span = fields.span.clone();
    if !is_name(name) {
        let hint = "a lowercase letter, then lowercase letters, digits, `-` and `_`, at most 64 characters";
        text.report_with(
            &span,
            format!("`{name}` cannot name an operation"),
            hint.to_owned(),
        );
    }
    let description = fields.text("description").map(|(text, _)| text.to_owned());
    let workflow = fields.needed_text("workflow", "workflow = \"encode\"");
    let fact = fields.needed_text("fact", "fact = \"Job\"");
    let input = schema(&mut fields, "input", text, files, others);
    let output = schema(&mut fields, "output", text, files, others);
    let mut priority = None;
    if let Some((word, span)) = fields.text("priority") {
        match word.parse() {
            Ok(class) => priority = Some(class),
            Err(_) => {
                let names = ["critical", "high", "standard", "low", "background"];
                let hint =
                    did_you_mean(word, names).unwrap_or_else(|| format!("one of {}", names.join(", ")));
                text.report_with(&span, format!("`{word}` is not a priority"), hint);
            }
        }
    }
    let labels = mapping(&mut fields, "labels", text);
    fields.finish();
    let (workflow, fact) = (workflow?, fact?);
    Some(OperationText {
        name: name.to_owned(),
        description,
        workflow: (workflow.0.to_owned(), workflow.1),
        fact: (fact.0.to_owned(), fact.1),
        input,
        output,
        priority,
        labels,
    })
}

/// A schema written as a table, or the path of a file of the bundle.
fn schema(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    text: &Text<'_>,
    files: &Files,
    others: &mut Vec<Diagnostic>,
) -> Option<(Schema, Range<usize>)> {
    let place = fields.get(key)?;
    let span = place.span();
    let json = match place.get_ref() {
        table @ DeValue::Table(_) => to_json(table),
        DeValue::String(path) => {
            let Some(file) = files.get(&**path) else {
                let schemas = files
                    .keys()
                    .map(String::as_str)
                    .filter(|path| path.ends_with(".json"));
                let hint = did_you_mean(path, schemas);
                text.report_with(&span, format!("there is no file `{path}` in the bundle"), hint);
                return None;
            };
            // The files below `schemas` are checked by themselves; their mistakes are reported once.
            let checked = path.starts_with("schemas/");
            match check_schema(path, &file.content) {
                Ok(schema) => return Some((schema, span)),
                Err(mistake) => {
                    if !checked {
                        others.push(*mistake);
                    }
                    return None;
                }
            }
        }
        other => {
            let hint = format!(
                "write a JSON Schema as a table, or the name of a file: `{key} = \"schemas/{key}.json\"`"
            );
            text.report_with(
                &span,
                format!("`{key}` is {}, expected a schema", type_name(other)),
                hint,
            );
            return None;
        }
    };
    let compiled = Schema::compile(json).map_err(|error| text.report(&span, format!("`{key}` is {error}")));
    Some((compiled.ok()?, span))
}

/// Reads one schema file.
pub(crate) fn check_schema(path: &str, content: &[u8]) -> Result<Schema, Box<Diagnostic>> {
    let json = serde_json::from_slice(content).map_err(|error| {
        let text = String::from_utf8_lossy(content);
        let at = offset(&text, error.line(), error.column());
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        Box::new(Diagnostic::at(
            "schema",
            path,
            &text,
            &(at..at + 1),
            format!("not JSON: {message}"),
        ))
    })?;
    Schema::compile(json).map_err(|error| Box::new(Diagnostic::of_file("schema", path, error.to_string())))
}

/// The byte at a line and column as `serde_json` counts them.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    (start + column.saturating_sub(1)).min(text.len())
}
