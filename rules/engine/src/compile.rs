//! From the text of a rules file to a rule set: declarations are checked, conditions become tests of the network,
//! sections become scripts. Several mistakes are reported in one go.

mod analysis;
mod effects;
mod interests;
mod library;
mod lints;
mod native;
mod plan;
mod timed;
pub(crate) mod uses;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rhai::{AST, Expr as Tree, ParseError, Stmt};
use rustc_hash::{FxHashMap, FxHasher};

use crate::diagnostic::Diagnostics;
use crate::expression::{Binary, Expr, Own};
use crate::limits::Limits;
use crate::ruleset::plan::Plan;
use crate::ruleset::{FIELDS_MAX, Field, FieldKind, Node, NodeKind, Rule, RuleSet, Test};
use crate::scripts::{Argument, ENTRY, Script, Scripts, Source as Given};
use crate::steps::Steps;
use crate::syntax::lexer::{Kind, Piece, pieces, tokens};
use crate::syntax::place::{Places, Reporter};
use crate::syntax::{Clause, ClauseKind, FactDecl, File, Name, RuleDecl, Span, parser};
use crate::{FactType, Value};
use analysis::{Analyzer, Names, Place, Type, all_fields, bodies};
use effects::OwnBody;
pub use library::{script_functions, section_functions};
use native::{Converter, Meaning};
use uses::{ClauseUse, RuleUses, Write};

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

/// For each type the slots that some section writes, going by the names of fields.
fn volatile(file: &File, places: &Places<'_>, types: &[FactType]) -> Vec<u64> {
    let sections = file.rules.iter().flat_map(|rule| rule.sections.iter().flatten());
    let texts: Vec<&str> = sections.map(|span| &places.text[span.clone()]).collect();
    let written = |name: &str| {
        texts.iter().any(|text| {
            text.match_indices(name).any(|(at, _)| {
                let rest = text[at + name.len()..].trim_start();
                let rest = rest.trim_start_matches(['+', '-', '*', '/', '%']);
                text[..at].ends_with('.') && rest.starts_with('=') && !rest.starts_with("==")
            })
        })
    };
    let mask = |kind: &FactType| {
        let fields = kind.fields.iter().enumerate();
        fields
            .filter(|(_, field)| written(&field.name))
            .fold(0, |all, (slot, _)| all | 1 << slot)
    };
    types.iter().map(mask).collect()
}

fn repeated<'a>(names: impl Iterator<Item = &'a Name>, what: &str, report: &mut Reporter<'_>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(&name.text) {
            report.error(
                "repeated-name",
                &name.span,
                format!("{what} `{}` is declared twice", name.text),
                "declared again here",
            );
        }
    }
}

fn literal(span: &Span, places: &Places<'_>, scripts: &Scripts, report: &mut Reporter<'_>) -> Option<Value> {
    match scripts.literal(&places.text[span.clone()]) {
        Ok(value) => Some(value),
        Err(why) => {
            report.error("not-a-literal", span, "this is no literal", why);
            None
        }
    }
}

fn constants(
    file: &File,
    places: &Places<'_>,
    scripts: &Scripts,
    report: &mut Reporter<'_>,
) -> FxHashMap<String, Value> {
    repeated(
        file.consts.iter().map(|constant| &constant.name),
        "constant",
        report,
    );
    (file.consts.iter())
        .map(|constant| {
            let value = literal(&constant.value, places, scripts, report).unwrap_or_default();
            (constant.name.text.clone(), value)
        })
        .collect()
}

fn fact_type(fact: &FactDecl, places: &Places<'_>, scripts: &Scripts, report: &mut Reporter<'_>) -> FactType {
    repeated(fact.fields.iter().map(|field| &field.name), "field", report);
    if fact.fields.len() > FIELDS_MAX {
        report.error(
            "too-many-fields",
            &fact.name.span,
            format!("a fact type has at most {FIELDS_MAX} fields"),
            "too many",
        );
    }
    let fields = (fact.fields.iter().take(FIELDS_MAX))
        .map(|declared| {
            let kind = FieldKind::ALL
                .into_iter()
                .find(|kind| kind.name() == declared.kind.text)
                .unwrap_or_else(|| {
                    let kinds: Vec<_> = FieldKind::ALL.iter().map(|kind| kind.name()).collect();
                    let message = format!("unknown kind `{}`", declared.kind.text);
                    report
                        .error(
                            "unknown-kind",
                            &declared.kind.span,
                            message,
                            format!("expected one of {}", kinds.join(", ")),
                        )
                        .similar(&declared.kind.text, kinds);
                    FieldKind::Any
                });
            let mut field = Field {
                name: declared.name.text.as_str().into(),
                kind,
                optional: declared.optional,
                default: None,
            };
            if let Some(span) = &declared.default
                && let Some(value) = literal(span, places, scripts, report)
            {
                match field.checked(value) {
                    Ok(value) => field.default = Some(value),
                    Err(why) => {
                        report.error("wrong-type", span, why, format!("expected {}", kind.name()));
                    }
                }
            }
            field
        })
        .collect();
    FactType {
        name: fact.name.text.as_str().into(),
        fields,
        shared: fact.shared,
    }
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

impl<'a, 'p> Builder<'a, '_, 'p> {
    fn functions(&mut self, file: &File) {
        for function in &file.functions {
            let text = self.places.pad("", &function.span, "");
            match self.scripts.engine.compile(&text) {
                Ok(ast) => {
                    let mut all = bodies(&ast);
                    if let Some((parameters, statements)) = all.remove(&function.name.text) {
                        let scope = parameters.iter().map(|name| (name.clone(), Type::Any)).collect();
                        let mut analyzer = Analyzer::new(
                            self.report,
                            self.names,
                            Place::Function,
                            scope,
                            0,
                            &mut self.called,
                        );
                        analyzer.bodies = all;
                        analyzer.block(&statements);
                        let writes = analyzer.writes;
                        self.function_uses.insert(function.name.text.clone(), writes);
                        self.bodies.push(OwnBody {
                            name: function.name.text.clone(),
                            parameters,
                            statements,
                        });
                    }
                    self.library = self.library.merge(&ast);
                }
                Err(error) => self.syntax(&error, &function.span),
            }
        }
    }

    fn syntax(&mut self, error: &ParseError, span: &Span) {
        let offset = self
            .places
            .offset(error.position())
            .unwrap_or(span.end)
            .clamp(span.start, span.end);
        let mut text = error.err_type().to_string();
        if let Some(first) = text.get(..1) {
            let lower = first.to_lowercase();
            text.replace_range(..1, &lower);
        }
        let place = self.places.word_at(offset);
        self.report.error("syntax", &place, text, "");
    }

    fn rule(&mut self, number: u32, rule: &RuleDecl) -> Option<Rule> {
        if rule.clauses.len() > CLAUSES_MAX {
            let message = format!("a rule has at most {CLAUSES_MAX} clauses");
            self.report
                .error("too-many-clauses", &rule.name.span, message, "too many");
            return None;
        }
        let first = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let mut scope: Vec<(String, Type)> = Vec::new();
        let mut meanings: Vec<(String, Meaning)> = Vec::new();
        for (level, clause) in rule.clauses.iter().enumerate() {
            let last = level + 1 == rule.clauses.len();
            let mut node = self.clause(number, level, clause, &mut scope, &mut meanings);
            node.last = last;
            self.nodes.push(node);
        }
        if rule.clauses.is_empty() {
            self.report.error(
                "no-match",
                &rule.name.span,
                "the rule's `match` is empty",
                "what does it wait for?",
            );
        }
        let mut bound = BTreeSet::new();
        let places = [Place::Action, Place::Reaction, Place::Error];
        let sections = std::array::from_fn(|at| {
            let span = rule.sections[at].as_ref()?;
            self.section(places[at], span, &scope, &meanings, first, &mut bound)
        });
        Some(Rule {
            name: rule.name.text.as_str().into(),
            salience: rule.salience,
            line: self.places.line_column(rule.name.span.start).0,
            fingerprint: self.fingerprint(rule),
            layout: layout(rule),
            first,
            nodes: u32::try_from(rule.clauses.len()).unwrap_or(0),
            sections,
            bound: bound.into_iter().collect(),
        })
    }

    /// What a rule's matches mean, as a number: another text, constant or function makes it another rule.
    fn fingerprint(&self, rule: &RuleDecl) -> u64 {
        let mut hasher = FxHasher::default();
        // Words and not texts: laying a file out anew, or another comment, makes no other rule.
        for clause in &rule.clauses {
            hash_words(&self.places.text[clause.span.clone()], &mut hasher);
        }
        for section in rule.sections.iter().flatten() {
            hash_words(&self.places.text[section.clone()], &mut hasher);
        }
        let mut consts: Vec<_> = self.names.consts.iter().collect();
        consts.sort_by_key(|(name, _)| *name);
        for (name, value) in consts {
            name.hash(&mut hasher);
            value.hash_into(&mut hasher);
        }
        hash_words(&self.functions_text, &mut hasher);
        hasher.finish()
    }

    fn named_type(&mut self, clause: &Clause) -> Option<usize> {
        let name = clause.fact_type.as_ref()?;
        let found = self
            .names
            .types
            .iter()
            .position(|known| *known.name == *name.text);
        if let Some(kind) = found {
            self.used.insert(kind);
            self.shared_word(clause, kind, &name.span);
        } else {
            let types: Vec<&str> = self.names.types.iter().map(|known| &*known.name).collect();
            self.report
                .error(
                    "unknown-fact",
                    &name.span,
                    format!("no fact type `{}`", name.text),
                    "no such fact type",
                )
                .similar(&name.text, types);
        }
        found
    }

    /// `shared` stands before the types of shared facts and before no other.
    fn shared_word(&mut self, clause: &Clause, kind: usize, span: &Span) {
        let fact_type = &self.names.types[kind];
        let name = &fact_type.name;
        if fact_type.shared && !clause.shared {
            let message = format!("`{name}` is a shared fact");
            self.report
                .error("shared-fact", span, message, format!("expected `shared {name}`"))
                .hint("shared facts belong to the service; `shared` says so where they are matched");
        } else if clause.shared && !fact_type.shared {
            let message = format!("`{name}` is no shared fact");
            self.report
                .error("shared-fact", span, message, "its facts belong to each run")
                .hint(format!(
                    "leave `shared` out, or declare it: `shared fact {name} {{ … }}`"
                ));
        }
    }

    fn clause(
        &mut self,
        rule: u32,
        level: usize,
        clause: &Clause,
        scope: &mut Vec<(String, Type)>,
        meanings: &mut Vec<(String, Meaning)>,
    ) -> Node {
        let kind = match clause.kind {
            ClauseKind::Bind => NodeKind::Bind,
            ClauseKind::No => NodeKind::No,
            ClauseKind::Any => NodeKind::Any,
            ClauseKind::Count => NodeKind::Count,
            ClauseKind::Sum => NodeKind::Sum,
            ClauseKind::Min => NodeKind::Min,
            ClauseKind::Max => NodeKind::Max,
            ClauseKind::Collect => NodeKind::Collect,
            ClauseKind::If => NodeKind::If,
        };
        let fact_type = self.named_type(clause);
        self.uses
            .clauses
            .push(ClauseUse::new(clause.kind, fact_type, self.names.types));
        let own = if clause.kind == ClauseKind::Bind {
            &clause.name
        } else {
            &clause.inner
        };
        let outer = scope.len();
        for name in clause.name.iter().chain(&clause.inner) {
            if scope.iter().any(|(known, _)| *known == name.text)
                || self.names.consts.contains_key(&name.text)
            {
                let message = format!("the name `{}` is taken", name.text);
                self.report
                    .error("repeated-name", &name.span, message, "named again here");
            }
        }
        if let (Some(name), Some(kind)) = (own, fact_type) {
            scope.push((name.text.clone(), Type::Fact(kind, Some(level))));
            meanings.push((name.text.clone(), Meaning::Fact(kind, level)));
        } else if let Some(name) = own {
            scope.push((name.text.clone(), Type::Any));
        }
        let mut node = Node {
            rule,
            level: u32::try_from(level).unwrap_or(0),
            kind,
            fact_type,
            alpha: Vec::new(),
            keys: Vec::new(),
            join: Vec::new(),
            reads: 0,
            measure: None,
            order: None,
            timed: Vec::new(),
            last: false,
            text: self.places.text[clause.span.clone()]
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        };
        let mut reads = vec![0; level + 1];
        if let Some(filter) = &clause.filter {
            for part in self.conjuncts(filter) {
                if let Some(word) = timed::word(&self.places.text[part.clone()], self.names.functions) {
                    if !matches!(node.kind, NodeKind::Bind | NodeKind::If) {
                        let message = format!("`{word}` stands beside a bound fact or in `if`, not here");
                        self.report
                            .error("timed-here", &part, message, "here")
                            .hint("bind the fact, or write it into a slot when its time has come");
                        continue;
                    }
                    let timed = self.timed(&part, word, scope, meanings, &mut reads);
                    node.timed.extend(timed);
                    continue;
                }
                if let Some((expr, _)) = self.condition(&part, true, scope, meanings, &mut reads) {
                    let text = self.places.text[part]
                        .split_whitespace()
                        .collect::<Vec<_>>()
                        .join(" ");
                    place_test(&mut node, level, expr, text);
                }
            }
        }
        let value_of = |builder: &mut Self, span: &Option<Span>, reads: &mut Vec<u64>| {
            let (expr, _) = builder.condition(span.as_ref()?, false, scope, meanings, reads)?;
            Some(expr)
        };
        node.measure = value_of(self, &clause.measure, &mut reads);
        node.order = value_of(self, &clause.order, &mut reads);
        self.note_reads(level, &reads);
        node.reads = reads[level];
        if let (NodeKind::Collect, Some(kind)) = (kind, fact_type) {
            // What a section reads of its elements is not known, so every change counts.
            node.reads = all_fields(&self.names.types[kind]);
        }
        if clause.kind != ClauseKind::Bind {
            scope.truncate(outer);
            meanings.retain(|(_, meaning)| !matches!(meaning, Meaning::Fact(_, at) if *at == level));
            if let Some(name) = &clause.name {
                let (known, meaning) = match (clause.kind, fact_type) {
                    (ClauseKind::Collect, Some(kind)) => (Type::Facts(kind), Meaning::Collected(level)),
                    (ClauseKind::Count, _) => (Type::Kind(FieldKind::Int), Meaning::Value(level)),
                    _ => (Type::Any, Meaning::Value(level)),
                };
                scope.push((name.text.clone(), known));
                meanings.push((name.text.clone(), meaning));
            }
        }
        node
    }

    /// What later clauses and sections read of facts that earlier clauses bind.
    fn note_reads(&mut self, level: usize, reads: &[u64]) {
        let base = self.nodes.len() - level;
        for (at, read) in reads.iter().enumerate().take(level) {
            if self.nodes[base + at].kind == NodeKind::Bind {
                self.nodes[base + at].reads |= read;
            }
        }
    }

    /// The parts of a condition that are joined by `&&`; the whole when `||` stands beside them.
    fn conjuncts(&self, span: &Span) -> Vec<Span> {
        let text = &self.places.text[span.clone()];
        let words = tokens(text, &mut Reporter::new(self.places));
        let mut depth = 0_usize;
        let mut parts = Vec::new();
        let mut start = 0;
        for pair in words.windows(2) {
            match (pair[0].kind, pair[1].kind) {
                (Kind::Sign('(' | '[' | '{'), _) => depth += 1,
                (Kind::Sign(')' | ']' | '}'), _) => depth = depth.saturating_sub(1),
                (Kind::Sign('|'), _) | (Kind::Sign('?'), Kind::Sign('?')) if depth == 0 => {
                    return vec![span.clone()];
                }
                (Kind::Sign('&'), Kind::Sign('&'))
                    if depth == 0 && pair[0].span.end == pair[1].span.start =>
                {
                    parts.push(start..pair[0].span.start);
                    start = pair[1].span.end;
                }
                _ => {}
            }
        }
        parts.push(start..text.len());
        let trim = |part: Span| {
            let piece = &text[part.clone()];
            let lead = piece.len() - piece.trim_start().len();
            span.start + part.start + lead..span.start + part.start + lead + piece.trim().len()
        };
        parts.into_iter().map(trim).collect()
    }

    /// A condition or a measure as an expression of the network.
    fn condition(
        &mut self,
        span: &Span,
        is_condition: bool,
        scope: &[(String, Type)],
        meanings: &[(String, Meaning)],
        reads: &mut [u64],
    ) -> Option<(Expr, Type)> {
        let text = self.places.pad("", span, "");
        let ast = match self.scripts.engine.compile_expression(&text) {
            Ok(ast) => ast,
            Err(error) => {
                self.syntax(&error, span);
                return None;
            }
        };
        let tree = match ast.statements() {
            [Stmt::Expr(tree)] => (**tree).clone(),
            [Stmt::FnCall(call, position)] => Tree::FnCall(call.clone(), *position),
            _ => {
                self.report.error(
                    "syntax",
                    span,
                    "this is not an expression",
                    "expected an expression",
                );
                return None;
            }
        };
        let mut analyzer = Analyzer::new(
            self.report,
            self.names,
            Place::Match,
            scope.to_vec(),
            reads.len(),
            &mut self.called,
        );
        analyzer.bodies = bodies(&ast);
        let known = analyzer.expr(&tree);
        if is_condition {
            analyzer.truth(known, &tree);
        }
        let tests = if is_condition {
            analyzer.tests(&tree, span)
        } else {
            Vec::new()
        };
        let own_reads = analyzer.reads;
        self.uses.condition(span, &own_reads, tests);
        for (all, own) in reads.iter_mut().zip(&own_reads) {
            *all |= own;
        }
        let converter = Converter {
            types: self.names.types,
            consts: self.names.consts,
            meanings,
            functions: self.names.functions,
            own: &|name, arity| self.own(name, arity),
        };
        if let Some(expr) = converter.convert(&tree) {
            return Some((expr, known));
        }
        let script = self.fallback(span, meanings, &own_reads)?;
        Some((Expr::Script(Arc::new(script)), known))
    }

    /// The native form of a function of the file that is given values and has no effects, if it has one.
    fn own(&self, name: &str, arity: usize) -> Option<Arc<Own>> {
        let key = (name.to_owned(), arity);
        if let Some(known) = self.owns.borrow().get(&key) {
            return known.clone();
        }
        let made = self.own_made(name, arity);
        self.owns.borrow_mut().insert(key, made.clone());
        made
    }

    fn own_made(&self, name: &str, arity: usize) -> Option<Arc<Own>> {
        let functions = effects::function(self.known()?, name, arity)?;
        let parameters: Vec<String> = (0..arity).map(|at| format!("a{at}")).collect();
        let parameters = parameters.join(", ");
        let text = format!("fn {ENTRY}({parameters}) {{ {name}({parameters}) }}");
        let ast = self.scripts.engine.compile(&text).ok()?;
        Some(Arc::new(Own {
            name: name.to_owned(),
            functions,
            script: Script {
                ast: self.library.merge(&ast),
                arguments: Vec::new(),
                steps: None,
            },
        }))
    }

    /// A condition that only the script engine can evaluate.
    fn fallback(&mut self, span: &Span, meanings: &[(String, Meaning)], reads: &[u64]) -> Option<Script> {
        let mut arguments = Vec::new();
        for (name, meaning) in meanings
            .iter()
            .filter(|(name, _)| mentions(&self.places.text[span.clone()], name))
        {
            let level = match meaning {
                Meaning::Fact(_, level) | Meaning::Value(level) => *level,
                Meaning::Collected(_) => {
                    let message = format!("in `match` only the length of `{name}` can be tested");
                    self.report
                        .error("collected-in-match", span, message, "here")
                        .hint(format!("write `{name}.len()`"));
                    return None;
                }
            };
            let reads = reads.get(level).copied().unwrap_or(0);
            arguments.push(Argument {
                name: name.clone(),
                source: Given::Level,
                level,
                reads,
            });
        }
        self.script(span, arguments)
    }

    fn script(&mut self, span: &Span, arguments: Vec<Argument>) -> Option<Script> {
        let parameters: Vec<&str> = arguments.iter().map(|argument| argument.name.as_str()).collect();
        let text = self
            .places
            .pad(&format!("fn {ENTRY}({}) {{", parameters.join(", ")), span, "}");
        match self.scripts.engine.compile(&text) {
            Ok(ast) => Some(Script {
                ast: self.library.merge(&ast),
                arguments,
                steps: None,
            }),
            Err(error) => {
                self.syntax(&error, span);
                None
            }
        }
    }

    /// What native forms may refer to; nothing when there are to be none.
    fn known(&self) -> Option<effects::Known<'_>> {
        let limits = self.limits;
        (limits.native_sections && effects::is_roomy(limits)).then_some(effects::Known {
            types: self.names.types,
            consts: self.names.consts,
            functions: self.names.functions,
            bodies: &self.bodies,
        })
    }

    /// The native form of a section.
    fn native(&self, arguments: &[Argument], scope: &[(String, Type)], statements: &[Stmt]) -> Option<Steps> {
        let parameters = arguments.iter().map(|argument| {
            let named = scope.iter().rev().find(|(name, _)| *name == argument.name);
            let kind = match named {
                Some((_, Type::Fact(kind, _))) => effects::Kind::Fact(*kind),
                Some((_, Type::Facts(kind))) => effects::Kind::Facts(*kind),
                _ => effects::Kind::Value,
            };
            (argument.name.clone(), kind)
        });
        effects::native(self.known()?, parameters, statements)
    }

    fn section(
        &mut self,
        place: Place,
        span: &Span,
        scope: &[(String, Type)],
        meanings: &[(String, Meaning)],
        first: u32,
        bound: &mut BTreeSet<u32>,
    ) -> Option<Script> {
        let text = &self.places.text[span.clone()];
        let mut arguments = Vec::new();
        let mut scope = scope.to_vec();
        for (name, meaning) in meanings.iter().filter(|(name, _)| mentions(text, name)) {
            let (Meaning::Fact(_, level) | Meaning::Value(level) | Meaning::Collected(level)) = meaning;
            bound.insert(u32::try_from(*level).unwrap_or(0));
            arguments.push(Argument {
                name: name.clone(),
                source: Given::Level,
                level: *level,
                reads: 0,
            });
        }
        let given: &[(&str, Given)] = match place {
            Place::Reaction => &[("result", Given::Result), ("results", Given::Results)],
            Place::Error => &[("error", Given::Error), ("results", Given::Results)],
            _ => &[],
        };
        for (name, source) in given {
            scope.push(((*name).to_owned(), Type::Any));
            if mentions(text, name) && !arguments.iter().any(|argument| argument.name == *name) {
                arguments.push(Argument {
                    name: (*name).to_owned(),
                    source: *source,
                    level: 0,
                    reads: 0,
                });
            }
        }
        let mut script = self.script(span, arguments)?;
        let mut all = bodies(&script.ast);
        let levels = self.nodes.len() - first as usize;
        if let Some((_, statements)) = all.remove(ENTRY) {
            script.steps = self.native(&script.arguments, &scope, &statements);
            let mut analyzer = Analyzer::new(self.report, self.names, place, scope, levels, &mut self.called);
            analyzer.bodies = all;
            analyzer.block(&statements);
            self.uses.waits |= analyzer.waits;
            self.uses.writes.append(&mut analyzer.writes);
            let reads = analyzer.reads;
            self.uses.read(&reads);
            self.note_reads(levels, &reads);
        }
        Some(script)
    }
}

/// Hashes the words of a text, without white space and comments.
fn hash_words(text: &str, hasher: &mut FxHasher) {
    for (piece, span) in pieces(text) {
        if let Piece::Token(_) = piece {
            text[span].hash(hasher);
        }
    }
}

/// Whether a script may mention a name; more often yes than needed.
fn mentions(text: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(name).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_word)
            && !text[at + name.len()..].chars().next().is_some_and(is_word)
    })
}

/// What an open firing of a rule relies on, as a number.
fn layout(rule: &RuleDecl) -> u64 {
    let mut hasher = FxHasher::default();
    for clause in &rule.clauses {
        format!("{:?}", clause.kind).hash(&mut hasher);
        clause.name.as_ref().map(|name| &name.text).hash(&mut hasher);
    }
    hasher.finish()
}

/// Puts a test where it is cheapest: beside the fact alone, into the index, or among the pairs.
fn place_test(node: &mut Node, level: usize, expr: Expr, text: String) {
    let mut levels = BTreeSet::new();
    expr.levels(&mut levels);
    if node.kind == NodeKind::If {
        node.join.push(Test { expr, text });
        return;
    }
    if levels.iter().all(|at| *at == level) {
        node.alpha.push(Test { expr, text });
        return;
    }
    if let Expr::Binary(Binary::Equal, sides) = expr {
        let without = |side: &Expr| {
            let mut levels = BTreeSet::new();
            side.levels(&mut levels);
            !levels.contains(&level)
        };
        match *sides {
            (Expr::Slot(at, slot), other) if at == level && without(&other) => node.keys.push((other, slot)),
            (other, Expr::Slot(at, slot)) if at == level && without(&other) => node.keys.push((other, slot)),
            (left, right) => {
                node.join.push(Test {
                    expr: Expr::Binary(Binary::Equal, Box::new((left, right))),
                    text,
                });
            }
        }
        return;
    }
    node.join.push(Test { expr, text });
}
