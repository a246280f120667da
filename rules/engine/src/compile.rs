//! From the text of a rules file to a rule set: declarations are checked, conditions become tests of the network,
//! sections become scripts. Several mistakes are reported in one go.

mod analysis;
mod clauses;
mod declarations;
mod effects;
mod interests;
mod library;
mod lints;
mod native;
mod plan;
mod rules;
mod timed;
pub(crate) mod uses;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use rhai::AST;
use rustc_hash::FxHashMap;

use crate::FactType;
use crate::diagnostic::Diagnostics;
use crate::expression::Own;
use crate::limits::Limits;
use crate::ruleset::plan::Plan;
use crate::ruleset::{Node, Rule, RuleSet};
use crate::scripts::Scripts;
use crate::syntax::place::{Places, Reporter};
use crate::syntax::{File, parser};
use analysis::Names;
use declarations::{constants, fact_type, repeated, volatile};
use effects::OwnBody;
use uses::{RuleUses, Write};

pub use library::{script_functions, section_functions};

/// The most bytes of a rules file: a thousand rules fit.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// The most lines: places have 16 bits in the script engine.
const SOURCE_LINES_MAX: usize = 60_000;
/// The most clauses of a rule.
const CLAUSES_MAX: usize = 32;

/// A rules file.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its path within the bundle, for messages.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What the rules may refer to, and their bounds.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The functions of the bundle: what `call` may name.
    pub functions: BTreeSet<String>,
    /// The bounds of scripts and runs.
    pub limits: Limits,
}

/// A rules file that can be used.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The rule set.
    pub rules: Arc<RuleSet>,
    /// What looks wrong but can be used.
    pub warnings: Diagnostics,
}

/// Compiles a rules file.
///
/// # Errors
/// Everything that is wrong with it, with places and hints; warnings are among them.
pub fn compile(source: &Source, environment: &Environment) -> Result<Compiled, Diagnostics> {
    let places = Places::new(&source.path, &source.text);
    let mut report = Reporter::new(&places);
    if source.text.len() > SOURCE_BYTES_MAX || places.line_count() > SOURCE_LINES_MAX {
        let message =
            format!("a rules file has at most {SOURCE_BYTES_MAX} bytes and {SOURCE_LINES_MAX} lines");
        report.error("too-large", &(0..1), message, "split the workflow");
        return Err(report.finish());
    }
    let file = parser::parse(&source.text, &mut report);
    let rules = build(source, environment, &places, &file, &mut report);
    let failed = report.has_errors();
    let found = report.finish();
    match rules {
        Some(rules) if !failed => Ok(Compiled {
            rules: Arc::new(rules),
            warnings: found,
        }),
        _ => Err(found),
    }
}

fn build<'p>(
    source: &Source,
    environment: &Environment,
    places: &'p Places<'p>,
    file: &File,
    report: &mut Reporter<'p>,
) -> Option<RuleSet> {
    if file.workflow.is_none() {
        report.error(
            "no-workflow",
            &(0..1),
            "the file names no workflow",
            "expected `workflow name;`",
        );
    }
    let mut fields: Vec<Arc<str>> = file
        .facts
        .iter()
        .flat_map(|fact| fact.fields.iter().map(|field| field.name.text.as_str().into()))
        .collect();
    fields.sort_unstable();
    fields.dedup();
    let mut scripts = Scripts::new(&environment.limits, &fields);
    let consts = constants(file, places, &scripts, report);
    scripts.set_constants(&consts);
    let types: Vec<FactType> = file
        .facts
        .iter()
        .map(|fact| fact_type(fact, places, &scripts, report))
        .collect();
    repeated(file.facts.iter().map(|fact| &fact.name), "fact type", report);
    repeated(file.rules.iter().map(|rule| &rule.name), "rule", report);
    let functions: Vec<(String, usize)> = file
        .functions
        .iter()
        .map(|function| (function.name.text.clone(), function.parameters))
        .collect();
    let names = Names {
        types: &types,
        consts: &consts,
        functions: &functions,
        callable: &environment.functions,
    };
    let mut builder = Builder {
        places,
        scripts: &scripts,
        limits: &environment.limits,
        names: &names,
        library: AST::empty(),
        called: BTreeSet::new(),
        nodes: Vec::new(),
        report,
        functions_text: file
            .functions
            .iter()
            .map(|function| &places.text[function.span.clone()])
            .collect(),
        used: BTreeSet::new(),
        uses: RuleUses::default(),
        function_uses: FxHashMap::default(),
        bodies: Vec::new(),
        owns: RefCell::default(),
    };
    builder.functions(file);
    let mut uses = Vec::new();
    let rules: Vec<Rule> = (0_u32..)
        .zip(&file.rules)
        .filter_map(|(number, rule)| {
            let built = builder.rule(number, rule);
            uses.push(std::mem::take(&mut builder.uses));
            built
        })
        .collect();
    let (nodes, called, used) = (builder.nodes, builder.called, builder.used);
    lints::expand(&mut uses, &builder.function_uses);
    if !report.has_errors() {
        lints::check(file, &types, &uses, report);
    }
    for (kind, fact) in file.facts.iter().enumerate() {
        if !used.contains(&kind) && !file.rules.is_empty() && !report.has_errors() {
            report.warning(
                "unused-fact",
                &fact.name.span,
                format!("no rule looks at fact `{}`", fact.name.text),
                "never matched",
            );
        }
    }
    let spans: Vec<(u32, u32)> = rules.iter().map(|rule| (rule.first, rule.nodes)).collect();
    let plan = if rules.len() == file.rules.len() {
        plan::plan(&nodes, &spans, &types, &volatile(file, places, &types))
    } else {
        Plan::default()
    };
    let (interests, shapes) = if rules.len() == file.rules.len() {
        interests::interests(&rules, &nodes, &types)
    } else {
        (Vec::new(), Vec::new())
    };
    let type_index = types
        .iter()
        .enumerate()
        .map(|(at, kind)| (Arc::clone(&kind.name), at))
        .collect();
    let mut rules = RuleSet {
        path: source.path.clone(),
        workflow: file
            .workflow
            .as_ref()
            .map(|name| name.text.clone())
            .unwrap_or_default(),
        types,
        type_index,
        rules,
        nodes,
        plan,
        functions: called,
        limits: environment.limits.clone(),
        scripts,
        schema: Arc::new([]),
        uses,
        interests,
        shapes,
    };
    rules.schema = crate::memory::schema(&rules);
    Some(rules)
}

struct Builder<'a, 'r, 'p> {
    places: &'a Places<'p>,
    scripts: &'a Scripts,
    limits: &'a Limits,
    names: &'a Names<'a>,
    /// The file's own functions, merged into every script.
    library: AST,
    called: BTreeSet<String>,
    nodes: Vec<Node>,
    report: &'r mut Reporter<'p>,
    functions_text: String,
    used: BTreeSet<usize>,
    /// What the rule that is being built reads and writes.
    uses: RuleUses,
    /// What the functions of the file write.
    function_uses: FxHashMap<String, Vec<Write>>,
    /// The functions of the file, for native forms.
    bodies: Vec<OwnBody>,
    owns: RefCell<FxHashMap<(String, usize), Option<Arc<Own>>>>,
}
