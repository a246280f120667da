//! `celesta rules diff A B --facts DUMP`: what would fire with other rules, and what would not. Nothing is run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use celesta_bundle::Bundle;
use celesta_engine::{Environment, Limits, RuleSet, Source, compile, diff};
use clap::{Args, Subcommand};

use super::Context;
use super::check;
use crate::exit::{Exit, Failure, Outcome};

/// Options of `rules`.
#[derive(Debug, Args)]
pub(crate) struct RulesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say which rules would newly fire for the same facts, and which would not any more
    Diff(DiffArgs),
}

/// Options of `rules diff`.
#[derive(Debug, Args)]
struct DiffArgs {
    /// The rules as they are: a rules file or a bundle's folder
    old: PathBuf,
    /// The rules as they will be
    new: PathBuf,
    /// The facts: [[type, {field: value}], …], or what `celesta run facts --json` prints
    #[arg(long, value_name = "DUMP")]
    facts: PathBuf,
    /// The workflow, when the bundles have several
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
}

/// Does what was asked for.
pub(crate) fn run(context: &Context, args: &RulesArgs) -> Outcome {
    let Action::Diff(args) = &args.action;
    let old = rules(&args.old, args.workflow.as_deref())?;
    let new = rules(&args.new, args.workflow.as_deref())?;
    let facts = read(&args.facts)?;
    let found = diff(&old, &new, facts.as_bytes())
        .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", args.facts.display())))?;
    context.out.json(&found)?;
    context.out.line(&found)?;
    Ok(Exit::Done)
}

/// The rules of a bundle, or of one file.
fn rules(path: &Path, workflow: Option<&str>) -> Result<Arc<RuleSet>, Failure> {
    if path.is_dir() {
        let (_, checked) = check::read(path)?;
        let bundle = checked.map_err(|found| {
            let text: Vec<String> = found.iter().map(ToString::to_string).collect();
            Failure::new(
                Exit::Failed,
                format!("{} has mistakes\n{}", path.display(), text.join("\n")),
            )
        })?;
        return chosen(&bundle, workflow).map(|(_, rules)| rules);
    }
    let text = read(path)?;
    let environment = Environment {
        functions: called(&text),
        limits: Limits::default(),
    };
    let source = Source {
        path: path.display().to_string(),
        text,
    };
    match compile(&source, &environment) {
        Ok(compiled) => Ok(compiled.rules),
        Err(found) => Err(Failure::new(Exit::Failed, found.to_string())),
    }
}

/// The one workflow of a bundle, or the one that is named.
pub(crate) fn chosen(bundle: &Bundle, workflow: Option<&str>) -> Result<(String, Arc<RuleSet>), Failure> {
    let known = || bundle.workflows.keys().cloned().collect::<Vec<_>>().join(", ");
    let mut all = bundle.workflows.iter();
    let found = match (workflow, all.next(), all.next()) {
        (Some(name), ..) => bundle.workflows.get_key_value(name),
        (None, Some(only), None) => Some(only),
        (None, Some(_), Some(_)) => {
            let failure = Failure::new(Exit::Usage, "the bundle has several workflows");
            return Err(failure.hint(format!("name one with --workflow: {}", known())));
        }
        (None, None, _) => None,
    };
    found
        .map(|(name, rules)| (name.clone(), Arc::clone(rules)))
        .ok_or_else(|| {
            let failure = Failure::new(Exit::NotFound, "the bundle has no such workflow");
            failure.hint(format!("it has: {}", known()))
        })
}

/// The functions that a file calls: nothing is run, so whether they exist does not matter here.
fn called(text: &str) -> BTreeSet<String> {
    (text.split("call(\"").skip(1))
        .filter_map(|rest| rest.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let exit = if path.exists() {
            Exit::Failed
        } else {
            Exit::NotFound
        };
        Failure::new(exit, format!("cannot read {}: {error}", path.display()))
    })
}
