//! A bundle, checked whole: every file read, every name that one file uses of another resolved.
//!
//! Nothing is fetched, started or stored here. A bundle that compiles has no unknown name left: operations name
//! workflows and fact types that exist, rules call functions that exist, schemas are schemas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use celesta_engine::{Environment, FactType, Limits, RuleSet, Source};
use celesta_functions::{MANIFEST_FILE, Manifest, Schema};
use celesta_types::Digest;
use serde_json::Value;

use crate::diagnostic::{BundleErrors, Diagnostic, Severity};
use crate::files::{Files, check_path, digest};
use crate::operation::{InputField, Operation};
use crate::retention::{self, Retention};
use crate::service::{self, OperationText, SERVICE_FILE, ServiceText};
use crate::subscription::{Delivery, Subscription};
use crate::toml_text::{Text, did_you_mean};
use crate::versions::{self, Versions};
use crate::workflow::Workflow;

/// A checked bundle: everything the platform needs to run a service, but for the files of its functions.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The service.
    pub name: String,
    /// What it does, for people.
    pub description: Option<String>,
    /// The version: the digest of all files.
    pub digest: Digest,
    /// The operations by name.
    pub operations: BTreeMap<String, Operation>,
    /// How runs come to this version, for the workflows of which something is said.
    pub versions: BTreeMap<String, Versions>,
    /// The compiled rules by workflow.
    pub workflows: BTreeMap<String, Arc<RuleSet>>,
    /// How long runs are kept, for the workflows of which that is said.
    pub retention: BTreeMap<String, Retention>,
    /// What holds for the runs of a workflow, where something is said of it.
    pub settings: BTreeMap<String, Workflow>,
    /// Which events concern the service.
    pub subscriptions: Vec<Subscription>,
    /// The functions by name.
    pub functions: BTreeMap<String, Manifest>,
    /// The digest of each pure function's folder: what its recorded results belong to, whatever else a version changes.
    pub pure_contents: BTreeMap<String, Digest>,
    /// What works, and probably not as meant.
    pub warnings: Vec<Diagnostic>,
}

impl Bundle {
    /// Checks all files, for rules with the usual bounds and no clock to bound their wall time.
    ///
    /// # Errors
    /// Everything that is wrong in any of them, and the warnings beside.
    pub fn compile(files: &Files) -> Result<Self, BundleErrors> {
        Self::compile_with(files, &Limits::default())
    }

    /// Checks all files, for rules with these bounds.
    ///
    /// # Errors
    /// Everything that is wrong in any of them, and the warnings beside.
    pub fn compile_with(files: &Files, limits: &Limits) -> Result<Self, BundleErrors> {
        let mut found = Vec::new();
        for path in files.keys() {
            if let Err(reason) = check_path(path) {
                found.push(Diagnostic::of_file(
                    "path",
                    path,
                    format!("the file cannot be in a bundle: {reason}"),
                ));
            }
        }
        let functions = functions(files, &mut found);
        let workflows = workflows(files, &functions, limits, &mut found);
        shared_types(files, &workflows, &mut found);
        schemas(files, &mut found);
        let (service, operations, retention, versions) = service(files, &workflows, &mut found);
        let settings = service.workflows.into_iter();
        let subscriptions = service.subscriptions.into_iter();
        strays(files, &mut found);
        if found.iter().any(|one| one.severity == Severity::Error) {
            return Err(BundleErrors(found));
        }
        let functions: BTreeMap<String, Manifest> = functions
            .into_iter()
            .filter_map(|(name, manifest)| Some((name, manifest?)))
            .collect();
        Ok(Self {
            pure_contents: pure_contents(files, &functions),
            functions,
            settings: settings.map(|one| (one.name.0, one.settings)).collect(),
            subscriptions: subscriptions.map(|one| one.subscription).collect(),
            name: service.name,
            description: service.description,
            digest: digest(files),
            operations,
            versions,
            retention,
            workflows: workflows
                .into_iter()
                .filter_map(|(name, rules)| Some((name, rules?)))
                .collect(),
            warnings: found,
        })
    }
}

fn pure_contents(files: &Files, functions: &BTreeMap<String, Manifest>) -> BTreeMap<String, Digest> {
    let pure = functions.iter().filter(|(_, manifest)| manifest.pure);
    pure.map(|(name, _)| {
        let folder = format!("functions/{name}/");
        let inside = files.iter().filter(|(path, _)| path.starts_with(&folder));
        let inside: Files = inside.map(|(path, file)| (path.clone(), file.clone())).collect();
        (name.clone(), digest(&inside))
    })
    .collect()
}

/// The text of a file; what is not UTF-8 is a mistake of its own.
pub(crate) fn text_of<'f>(path: &str, content: &'f [u8], found: &mut Vec<Diagnostic>) -> Option<&'f str> {
    std::str::from_utf8(content)
        .map_err(|_| {
            found.push(Diagnostic::of_file(
                "not-text",
                path,
                "the file is not UTF-8 text".to_owned(),
            ));
        })
        .ok()
}

/// All functions; none in the place of those that are wrong, so that rules may still name them.
fn functions(files: &Files, found: &mut Vec<Diagnostic>) -> BTreeMap<String, Option<Manifest>> {
    let folders: BTreeSet<&str> = files
        .keys()
        .filter_map(|path| path.strip_prefix("functions/")?.split_once('/'))
        .map(|(folder, _)| folder)
        .collect();
    let mut functions = BTreeMap::new();
    for folder in folders {
        let path = format!("functions/{folder}/{MANIFEST_FILE}");
        let Some(file) = files.get(&path) else {
            // A folder without a manifest may hold what functions share.
            continue;
        };
        let Some(text) = text_of(&path, &file.content, found) else {
            continue;
        };
        let sibling = |name: &str| Some(files.get(&format!("functions/{folder}/{name}"))?.content.clone());
        let manifest = match Manifest::parse(&path, text, &sibling) {
            Ok(manifest) if &*manifest.name != folder => {
                let message = format!(
                    "the function `{}` stands in the folder `functions/{folder}`",
                    manifest.name
                );
                let hint = format!("write `name = \"{folder}\"`, or rename the folder");
                let at = text.find("name").unwrap_or(0);
                found.push(
                    Diagnostic::at("function-manifest", &path, text, &(at..at + 4), message).hint(hint),
                );
                None
            }
            Ok(manifest) => Some(manifest),
            Err(errors) => {
                found.extend(errors.0.into_iter().map(Diagnostic::from));
                None
            }
        };
        functions.insert(folder.to_owned(), manifest);
    }
    functions
}

fn workflows(
    files: &Files,
    functions: &BTreeMap<String, Option<Manifest>>,
    limits: &Limits,
    found: &mut Vec<Diagnostic>,
) -> BTreeMap<String, Option<Arc<RuleSet>>> {
    let environment = Environment {
        functions: functions.keys().cloned().collect(),
        limits: limits.clone(),
    };
    let mut workflows = BTreeMap::new();
    for (path, file) in files {
        let Some(name) = path
            .strip_prefix("rules/")
            .and_then(|name| name.strip_suffix(".rules"))
        else {
            continue;
        };
        let Some(text) = text_of(path, &file.content, found) else {
            continue;
        };
        let source = Source {
            path: path.clone(),
            text: text.to_owned(),
        };
        let rules = match celesta_engine::compile(&source, &environment) {
            Ok(compiled) => {
                found.extend(compiled.warnings.0.into_iter().map(Diagnostic::from));
                let declared = compiled.rules.workflow();
                if declared != name {
                    let at = text.find("workflow").unwrap_or(0);
                    let message = format!("the workflow `{declared}` stands in the file `{path}`");
                    let hint =
                        format!("write `workflow {name};`, or rename the file to `rules/{declared}.rules`");
                    found
                        .push(Diagnostic::at("workflow-name", path, text, &(at..at + 8), message).hint(hint));
                }
                Some(compiled.rules)
            }
            Err(diagnostics) => {
                found.extend(diagnostics.0.into_iter().map(Diagnostic::from));
                None
            }
        };
        workflows.insert(name.to_owned(), rules);
    }
    workflows
}

/// A shared fact type is the service's: rules files that declare it declare the same.
fn shared_types(
    files: &Files,
    workflows: &BTreeMap<String, Option<Arc<RuleSet>>>,
    found: &mut Vec<Diagnostic>,
) {
    let alike = |one: &FactType, other: &FactType| {
        let shape = |fact_type: &FactType| {
            let mut fields: Vec<_> = (fact_type.fields.iter())
                .map(|field| {
                    (
                        field.name.clone(),
                        field.kind,
                        field.optional,
                        format!("{:?}", field.default),
                    )
                })
                .collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            fields
        };
        shape(one) == shape(other)
    };
    let mut known: BTreeMap<&str, (&str, &FactType)> = BTreeMap::new();
    for (workflow, rules) in workflows {
        let types = rules.iter().flat_map(|rules| rules.fact_types());
        for fact_type in types.filter(|fact_type| fact_type.shared) {
            let (first, declared) = *known.entry(&fact_type.name).or_insert((workflow, fact_type));
            if alike(declared, fact_type) {
                continue;
            }
            let path = format!("rules/{workflow}.rules");
            let text = files
                .get(&path)
                .and_then(|file| std::str::from_utf8(&file.content).ok());
            let text = text.unwrap_or_default();
            let at = text
                .find(&format!("fact {}", fact_type.name))
                .map_or(0, |at| at + 5);
            let message = format!(
                "the shared fact `{}` has other fields than in `rules/{first}.rules`",
                fact_type.name
            );
            let hint = "a shared fact belongs to the service: declare the same fields, kinds and defaults in each file";
            let span = at..at + fact_type.name.len();
            found.push(Diagnostic::at("shared-fact", &path, text, &span, message).hint(hint.to_owned()));
        }
    }
}

fn schemas(files: &Files, found: &mut Vec<Diagnostic>) {
    for (path, file) in files {
        if path.starts_with("schemas/") && path.ends_with(".json") {
            found.extend(
                service::check_schema(path, &file.content)
                    .err()
                    .map(|mistake| *mistake),
            );
        }
    }
}

fn service(
    files: &Files,
    workflows: &BTreeMap<String, Option<Arc<RuleSet>>>,
    found: &mut Vec<Diagnostic>,
) -> (
    ServiceText,
    BTreeMap<String, Operation>,
    BTreeMap<String, Retention>,
    BTreeMap<String, Versions>,
) {
    let Some(file) = files.get(SERVICE_FILE) else {
        let message = "a bundle needs a file `service.toml` with its name and operations".to_owned();
        found.push(Diagnostic::of_file("service", SERVICE_FILE, message));
        return Default::default();
    };
    let Some(content) = text_of(SERVICE_FILE, &file.content, found) else {
        return Default::default();
    };
    let text = Text::new("service", SERVICE_FILE, content);
    let mut service = service::read(&text, files, found).unwrap_or_default();
    let mut operations = BTreeMap::new();
    for written in std::mem::take(&mut service.operations) {
        if let Some(operation) = operation(written, workflows, &text) {
            operations.insert(operation.name.clone(), operation);
        }
    }
    let retention = std::mem::take(&mut service.retention);
    let retention = retention::check(retention, &workflows.keys().map(String::as_str), &text);
    let versions = versions::check(std::mem::take(&mut service.versions), workflows, &text);
    check_names(&service, &operations, workflows, &text);
    found.extend(text.finish());
    (service, operations, retention, versions)
}

/// Whether what is said of workflows and events names what there is.
fn check_names(
    service: &ServiceText,
    operations: &BTreeMap<String, Operation>,
    workflows: &BTreeMap<String, Option<Arc<RuleSet>>>,
    text: &Text<'_>,
) {
    for workflow in &service.workflows {
        let (name, span) = &workflow.name;
        if !workflows.contains_key(name) {
            let hint = did_you_mean(name, workflows.keys().map(String::as_str));
            text.report_with(span, format!("there is no workflow `{name}`"), hint);
        }
    }
    for written in &service.subscriptions {
        let span = &written.target;
        match &written.subscription.delivery {
            Delivery::Start { operation, .. } if !operations.contains_key(operation) => {
                let hint = did_you_mean(operation, operations.keys().map(String::as_str));
                text.report_with(span, format!("there is no operation `{operation}`"), hint);
            }
            Delivery::Fact { fact, .. } => {
                let types: BTreeSet<&str> = workflows
                    .values()
                    .flatten()
                    .flat_map(|rules| rules.fact_types().map(|one| &*one.name))
                    .collect();
                if !types.contains(&**fact) {
                    let hint = did_you_mean(fact, types);
                    text.report_with(span, format!("no workflow has a fact type `{fact}`"), hint);
                }
            }
            Delivery::Start { .. } => {}
        }
    }
}

fn operation(
    written: OperationText,
    workflows: &BTreeMap<String, Option<Arc<RuleSet>>>,
    text: &Text<'_>,
) -> Option<Operation> {
    let (workflow, span) = &written.workflow;
    let Some(rules) = workflows.get(workflow) else {
        let hint = did_you_mean(workflow, workflows.keys().map(String::as_str));
        let hint = hint.unwrap_or_else(|| format!("write the file `rules/{workflow}.rules`"));
        text.report_with(span, format!("there is no workflow `{workflow}`"), hint);
        return None;
    };
    // A workflow that does not compile has been reported; what it would have declared is not known.
    let rules = rules.as_ref()?;
    let (fact, span) = &written.fact;
    let types: Vec<_> = rules.fact_types().collect();
    let Some(fact_type) = types.iter().find(|one| *one.name == **fact) else {
        let hint = did_you_mean(fact, types.iter().map(|one| &*one.name));
        let hint = hint.or_else(|| {
            Some(format!(
                "declare it in `rules/{workflow}.rules`: `fact {fact} {{ … }}`"
            ))
        });
        text.report_with(
            span,
            format!("the workflow `{workflow}` has no fact type `{fact}`"),
            hint,
        );
        return None;
    };
    if fact_type.shared {
        text.report_with(
            span,
            format!("`{fact}` is a shared fact, which no request makes"),
            "name a fact type of the run".to_owned(),
        );
        return None;
    }
    if written.name == "facts" {
        text.report_with(
            span,
            "no operation can be named `facts`",
            "its path, `/v1/services/{service}/facts`, is that of the service's shared facts".to_owned(),
        );
        return None;
    }
    let fields: Vec<InputField> = fact_type
        .fields
        .iter()
        .map(|field| InputField {
            name: field.name.to_string(),
            kind: field.kind,
            optional: field.optional,
            has_default: field.default.is_some(),
        })
        .collect();
    let takes_id = fields
        .iter()
        .any(|field| field.name == "id" && field.kind == celesta_engine::FieldKind::String);
    if let Some((schema, span)) = &written.input {
        check_fit(schema, span, fact, &fields, takes_id, text);
    }
    Some(Operation {
        name: written.name,
        description: written.description,
        workflow: written.workflow.0,
        fact: Arc::from(written.fact.0.as_str()),
        input: written.input.map(|(schema, _)| schema),
        output: written.output.map(|(schema, _)| schema),
        priority: written.priority.unwrap_or_default(),
        own_priority: written.priority.map(celesta_types::Priority::of),
        labels: written.labels,
        fields: fields.into(),
        takes_id,
    })
}

/// A request that fits the schema should be a fact: what one demands, the other must know.
fn check_fit(
    schema: &Schema,
    span: &std::ops::Range<usize>,
    fact: &str,
    fields: &[InputField],
    takes_id: bool,
    text: &Text<'_>,
) {
    let json = schema.json();
    let names = |key: &str| -> Vec<&str> {
        match json.get(key) {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(Value::Object(names)) => names.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    };
    let required = names("required");
    let properties: BTreeSet<&str> = names("properties")
        .into_iter()
        .chain(required.iter().copied())
        .collect();
    for property in properties {
        if !fields.iter().any(|field| field.name == property) {
            let hint = did_you_mean(property, fields.iter().map(|field| field.name.as_str()));
            let hint = hint.unwrap_or_else(|| {
                format!("declare the field in `fact {fact}`, or take it out of the schema")
            });
            text.report_with(
                span,
                format!("the schema has a property `{property}` that `{fact}` has no field for"),
                hint,
            );
        }
    }
    for field in fields {
        let given = field.optional || field.has_default || (takes_id && field.name == "id");
        if !given && !required.contains(&field.name.as_str()) {
            let message = format!(
                "`{fact}` needs the field `{}`, which the schema does not require",
                field.name
            );
            text.warn(
                span,
                message,
                "requests without it are refused; require it, or give the field a default".to_owned(),
            );
        }
    }
}

/// Files that look like a slip: they would be carried along and never be used.
fn strays(files: &Files, found: &mut Vec<Diagnostic>) {
    for path in files.keys() {
        let hint = match path.split_once('/') {
            Some(("rules", name)) if !name.ends_with(".rules") => "rules stand in `rules/<workflow>.rules`",
            Some(("schemas", name)) if !name.ends_with(".json") => "schemas stand in `schemas/<name>.json`",
            Some(("tests", name)) if !name.ends_with(".toml") && !name.contains('/') => continue,
            Some(("functions", name)) if !name.contains('/') => {
                "a function is a folder with a `function.toml`"
            }
            Some(("rule" | "function" | "schema" | "test" | "workflows", _)) => {
                "the folders are `rules`, `functions`, `schemas` and `tests`"
            }
            None if path.ends_with(".rules") => "rules stand in `rules/<workflow>.rules`",
            _ => continue,
        };
        let message = "the file is never used".to_owned();
        found.push(
            Diagnostic::of_file("unused-file", path, message)
                .hint(hint.to_owned())
                .warning(),
        );
    }
}

#[cfg(test)]
mod tests;
