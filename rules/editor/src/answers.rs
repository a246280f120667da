//! What stands at a place: its description, where it is declared, where it is used, and the outline of the file.

use serde_json::{Value, json};

use crate::document::Document;
use crate::index::{Holds, Occurrence, Symbol};
use crate::language::{
    AGGREGATES, CLAUSES, DECLARATIONS, ERROR_FIELDS, GIVEN, JOINTS, KINDS, PARTS, action_of,
};
use crate::outline::{Declaration, Declared, Span};
use crate::server::rpc::uri_of;

/// What an editor shows about a place, as markdown.
pub(crate) fn hover(document: &Document, offset: usize) -> Option<Value> {
    let (text, span) = match document.index().at(offset) {
        Some(one) => (described(document, one)?, one.span.clone()),
        None => keyword(document, offset)?,
    };
    Some(json!({
        "contents": { "kind": "markdown", "value": text },
        "range": document.range(&span),
    }))
}

fn described(document: &Document, one: &Occurrence) -> Option<String> {
    let index = document.index();
    let text = document.text();
    let declared = |name: &str, fits: fn(&Declared) -> bool| {
        let declaration = index.outline.find(name, fits)?;
        Some(quoted(
            &head(document, declaration),
            &remark(document, declaration.span.start),
        ))
    };
    match &one.symbol {
        Symbol::FactType(name) => {
            let (declaration, _) = index.outline.fact(name)?;
            let whole = &text[declaration.span.clone()];
            Some(quoted(whole, &remark(document, declaration.span.start)))
        }
        Symbol::Field(fact_type, name) => {
            let (_, fields) = index.outline.fact(fact_type)?;
            let field = fields.iter().find(|field| field.name.name == *name)?;
            let written = format!("{name}: {}", &text[field.kind.clone()]);
            Some(quoted(&written, &format!("A field of fact `{fact_type}`.")))
        }
        Symbol::Local(declared) => {
            let local = index.local(*declared)?;
            let name = &local.name.name;
            Some(match &local.holds {
                Holds::Fact(fact_type) => {
                    let fields = index
                        .outline
                        .fact(fact_type)
                        .map_or(String::new(), |(declaration, _)| {
                            quoted(&text[declaration.span.clone()], "")
                        });
                    format!("{}\n\n{fields}", quoted(&format!("{name}: {fact_type}"), ""))
                }
                Holds::Facts(fact_type) => {
                    quoted(&format!("{name} = collect {fact_type}"), "A list of facts.")
                }
                Holds::Aggregate(word) => {
                    let about = AGGREGATES.iter().find(|(known, _)| known == word);
                    quoted(&format!("{name} = {word}"), about.map_or("", |(_, about)| about))
                }
                Holds::Anything => quoted(name, "A name of this section."),
            })
        }
        Symbol::Const(name) => declared(name, |what| matches!(what, Declared::Const)),
        Symbol::Function(name) => declared(name, |what| matches!(what, Declared::Function { .. })),
        Symbol::Rule(name) => declared(name, |what| matches!(what, Declared::Rule { .. })),
        Symbol::Workflow(name) => {
            let operations = document.surroundings.operations.iter();
            let used: Vec<String> = operations
                .filter(|(_, operation)| operation.workflow == *name)
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            let about = match used.is_empty() {
                true => String::new(),
                false => format!("Operations: {}.", used.join(", ")),
            };
            Some(quoted(&format!("workflow {name};"), &about))
        }
        Symbol::Callable(name) => {
            let callable = document.surroundings.callables.get(name)?;
            let about = callable
                .description
                .as_deref()
                .unwrap_or("A function of this bundle.");
            Some(quoted(&format!("call(\"{name}\", …)"), about))
        }
        Symbol::Operation(name) => {
            let (_, operation) = document
                .surroundings
                .requests()
                .find(|(known, _)| known == name)?;
            let about = operation
                .description
                .as_deref()
                .unwrap_or("An operation of this service.");
            Some(quoted(&format!("request(\"{name}\", …)"), about))
        }
        Symbol::Builtin(name) => {
            if let Some((_, about)) = GIVEN.iter().find(|(given, _)| given == name) {
                let fields = ERROR_FIELDS
                    .iter()
                    .map(|(field, about)| format!("\n- `{field}`: {about}"));
                let fields: String = if name == "error" {
                    fields.collect()
                } else {
                    String::new()
                };
                return Some(format!("{}{fields}", quoted(name, about)));
            }
            let action = action_of(name)?;
            Some(quoted(action.form, action.about))
        }
    }
}

/// A word of the language itself.
fn keyword(document: &Document, offset: usize) -> Option<(String, Span)> {
    let words = &document.index().outline.words;
    let after = words.partition_point(|word| word.span.start <= offset);
    let word = words
        .get(after.checked_sub(1)?)
        .filter(|word| offset <= word.span.end)?;
    let text = &document.text()[word.span.clone()];
    let lists = [PARTS, CLAUSES, AGGREGATES, JOINTS, KINDS];
    let about = lists
        .into_iter()
        .flatten()
        .find(|(known, _)| *known == text)
        .map(|(_, about)| *about)
        .or_else(|| {
            DECLARATIONS
                .iter()
                .find(|(known, ..)| *known == text)
                .map(|(.., about)| *about)
        })?;
    Some((quoted(text, about), word.span.clone()))
}

/// The first line of a declaration, without its brace.
fn head(document: &Document, declaration: &Declaration) -> String {
    let line = document.text()[declaration.span.clone()]
        .lines()
        .next()
        .unwrap_or("");
    line.trim_end_matches(['{', ' ']).to_owned()
}

/// The line comments that stand right above a declaration.
fn remark(document: &Document, start: usize) -> String {
    let above = document.text()[..start].lines().rev();
    let mut lines: Vec<&str> = above
        .map_while(|line| line.trim().strip_prefix("//"))
        .map(str::trim)
        .collect();
    lines.reverse();
    lines.join(" ")
}

fn quoted(code: &str, about: &str) -> String {
    let code = format!("```rules\n{code}\n```");
    if about.is_empty() {
        code
    } else {
        format!("{code}\n\n{about}")
    }
}

/// Where the name at a place is declared.
pub(crate) fn definition(document: &Document, offset: usize) -> Option<Value> {
    let index = document.index();
    let one = index.at(offset)?;
    match &one.symbol {
        Symbol::Callable(name) => {
            let callable = document.surroundings.callables.get(name)?;
            let start = json!({ "line": 0, "character": 0 });
            Some(json!({ "uri": uri_of(&callable.manifest), "range": { "start": start, "end": start } }))
        }
        Symbol::Operation(name) => {
            let (_, operation) = document
                .surroundings
                .requests()
                .find(|(known, _)| known == name)?;
            let path = document
                .surroundings
                .root
                .as_ref()?
                .join(celesta_bundle::SERVICE_FILE);
            let service = document.beside(&path)?;
            Some(json!({ "uri": service.uri, "range": service.range(&operation.place) }))
        }
        symbol => {
            let definition = index.definition(symbol)?;
            Some(json!({ "uri": document.uri, "range": document.range(&definition.span) }))
        }
    }
}

/// Where the name at a place is used, with its declaration when that is asked for.
pub(crate) fn references(document: &Document, offset: usize, with_declaration: bool) -> Vec<Value> {
    occurrences(document, offset)
        .filter(|one| with_declaration || !one.defines)
        .map(|one| json!({ "uri": document.uri, "range": document.range(&one.span) }))
        .collect()
}

/// The uses of the name at a place, to be marked in the text.
pub(crate) fn highlights(document: &Document, offset: usize) -> Vec<Value> {
    occurrences(document, offset)
        .map(|one| json!({ "range": document.range(&one.span) }))
        .collect()
}

fn occurrences(document: &Document, offset: usize) -> impl Iterator<Item = &Occurrence> {
    let index = document.index();
    let symbol = index.at(offset).map(|one| &one.symbol);
    index
        .occurrences
        .iter()
        .filter(move |one| Some(&one.symbol) == symbol)
}

/// The declarations of the file, with the fields of facts and the sections of rules.
pub(crate) fn symbols(document: &Document) -> Vec<Value> {
    let index = document.index();
    let declarations = index.outline.declarations.iter();
    declarations
        .filter(|declaration| !declaration.name.name.is_empty())
        .map(|declaration| {
            let (kind, children) = match &declaration.what {
                Declared::Workflow => (2, Vec::new()),
                Declared::Fact { fields } => (
                    23,
                    fields
                        .iter()
                        .map(|field| {
                            let span = field.name.span.start..field.kind.end;
                            symbol(document, &field.name.name, 8, &span, &field.name.span)
                        })
                        .collect(),
                ),
                Declared::Const => (14, Vec::new()),
                Declared::Function { .. } => (12, Vec::new()),
                Declared::Rule { .. } => (24, Vec::new()),
            };
            let name = &declaration.name;
            let mut one = symbol(document, &name.name, kind, &declaration.span, &name.span);
            if !children.is_empty() {
                one["children"] = children.into();
            }
            one
        })
        .collect()
}

fn symbol(document: &Document, name: &str, kind: u8, span: &Span, chosen: &Span) -> Value {
    json!({
        "name": name,
        "kind": kind,
        "range": document.range(span),
        "selectionRange": document.range(chosen),
    })
}
