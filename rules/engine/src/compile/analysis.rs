//! What scripts mean before they run: names, fields and types are checked on rhai's syntax tree.
//!
//! Every unknown name is an error here and not at night. What cannot be known (the result of a call, an element of a
//! list) has the type [`Type::Any`] and is checked when it runs.

mod calls;
mod expressions;
mod statements;

use std::collections::BTreeSet;

use rhai::{AST, ASTNode, Expr, Position, Stmt};
use rustc_hash::FxHashMap;

use super::uses::{ConstTest, Known, Write, Written};
use crate::ruleset::FieldKind;
use crate::syntax::Span;
use crate::syntax::place::Reporter;
use crate::{FactType, Value};

/// How deep the tree may be walked: rhai's own bound on expressions is lower.
const DEPTH_MAX: usize = 400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Any,
    Null,
    Kind(FieldKind),
    Optional(FieldKind),
    /// A bound fact and the level where it is bound.
    Fact(usize, Option<usize>),
    /// Collected facts.
    Facts(usize),
}

impl Type {
    const BOOL: Self = Self::Kind(FieldKind::Bool);
    const INT: Self = Self::Kind(FieldKind::Int);
    const STRING: Self = Self::Kind(FieldKind::String);

    pub(crate) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::BOOL,
            Value::Int(_) => Self::INT,
            Value::Float(_) => Self::Kind(FieldKind::Float),
            Value::Str(_) => Self::STRING,
            Value::List(_) => Self::Kind(FieldKind::List),
            Value::Map(_) => Self::Kind(FieldKind::Map),
        }
    }

    fn name(self, types: &[FactType]) -> String {
        match self {
            Self::Any => "any".into(),
            Self::Null => "null".into(),
            Self::Kind(kind) => kind.name().into(),
            Self::Optional(kind) => format!("{} or null", kind.name()),
            Self::Fact(kind, _) => format!("fact {}", types[kind].name),
            Self::Facts(kind) => format!("list of {}", types[kind].name),
        }
    }

    const fn kind(self) -> Option<FieldKind> {
        match self {
            Self::Kind(FieldKind::Any) | Self::Optional(FieldKind::Any) => None,
            Self::Kind(kind) | Self::Optional(kind) => Some(kind),
            _ => None,
        }
    }
}

/// Kinds whose values can be equal.
fn comparable(a: FieldKind, b: FieldKind) -> bool {
    const fn group(kind: FieldKind) -> u8 {
        match kind {
            FieldKind::Int | FieldKind::Float | FieldKind::Time => 0,
            FieldKind::String => 1,
            FieldKind::Bool => 2,
            FieldKind::List => 3,
            FieldKind::Artifact | FieldKind::Map => 4,
            FieldKind::Any => 5,
        }
    }
    group(a) == group(b) || a == FieldKind::Any || b == FieldKind::Any
}

/// Where a script stands, which decides what it may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Match,
    Action,
    Reaction,
    Error,
    Function,
}

/// What all scripts of a file may name.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    pub types: &'a [FactType],
    pub consts: &'a FxHashMap<String, Value>,
    /// The `fn`s of the file and their parameters.
    pub functions: &'a [(String, usize)],
    pub callable: &'a BTreeSet<String>,
}

/// The bodies of an AST's functions.
pub(crate) type Bodies = FxHashMap<String, (Vec<String>, Vec<Stmt>)>;

/// The statements and parameters of each function.
pub(crate) fn bodies(ast: &AST) -> Bodies {
    let mut bodies = Bodies::default();
    for function in ast.iter_fn_def() {
        let (name, arity) = (function.name.as_str(), function.params.len());
        let mut only = ast.clone();
        only.clear_statements()
            .retain_functions(|_, _, other, parameters| other == name && parameters == arity);
        let mut statements = Vec::new();
        only.walk(&mut |path: &[ASTNode<'_>]| {
            if let [ASTNode::Stmt(statement)] = path {
                statements.push((*statement).clone());
            }
            true
        });
        let parameters = function.params.iter().map(ToString::to_string).collect();
        bodies.insert(name.to_owned(), (parameters, statements));
    }
    bodies
}

pub(crate) struct Analyzer<'a, 'r, 'p> {
    pub report: &'r mut Reporter<'p>,
    pub names: &'a Names<'a>,
    pub place: Place,
    pub scope: Vec<(String, Type)>,
    /// For each level the slots that are read.
    pub reads: Vec<u64>,
    pub called: &'r mut BTreeSet<String>,
    pub bodies: Bodies,
    /// What the section changes.
    pub writes: Vec<Write>,
    /// Whether it makes calls, requests or timers.
    pub waits: bool,
    /// How many branches and loops stand around.
    branches: usize,
    /// Whether the section may have ended before.
    left: bool,
    depth: usize,
}

impl<'a, 'r, 'p> Analyzer<'a, 'r, 'p> {
    pub(crate) fn new(
        report: &'r mut Reporter<'p>,
        names: &'a Names<'a>,
        place: Place,
        scope: Vec<(String, Type)>,
        levels: usize,
        called: &'r mut BTreeSet<String>,
    ) -> Self {
        Self {
            report,
            names,
            place,
            scope,
            reads: vec![0; levels],
            called,
            bodies: Bodies::default(),
            writes: Vec::new(),
            waits: false,
            branches: 0,
            left: false,
            depth: 0,
        }
    }

    /// Notes a change.
    fn writes(&mut self, change: Written, span: Span) {
        let section = match self.place {
            Place::Reaction => 1,
            Place::Error => 2,
            _ => 0,
        };
        let certain = self.branches == 0 && !self.left;
        self.writes.push(Write {
            change,
            section,
            certain,
            span,
        });
    }

    fn with_known<R>(&self, look: impl FnOnce(&Known<'_>) -> R) -> R {
        look(&Known {
            typed: &|name| self.find(name),
            slots: &|kind, field| self.names.types[kind].slot(field),
            constants: &|name| self.names.consts.get(name).cloned(),
        })
    }

    /// The comparisons with constants in a condition.
    pub(crate) fn tests(&self, expr: &Expr, span: &Span) -> Vec<ConstTest> {
        let mut found = Vec::new();
        self.with_known(|known| known.tests(expr, span, &mut found));
        found
    }

    fn span(&self, position: Position) -> Span {
        let offset = self.report.places.offset(position).unwrap_or(0);
        self.report.places.word_at(offset)
    }

    fn span_of(&self, expr: &Expr) -> Span {
        let start = self.report.places.offset(expr.start_position()).unwrap_or(0);
        if let Expr::StringConstant(..) = expr {
            let rest = self.report.places.text.get(start + 1..).unwrap_or("");
            return start..rest.find('"').map_or(start + 1, |at| start + at + 2);
        }
        let mut last = expr;
        while let Expr::Dot(parts, ..) = last {
            last = &parts.rhs;
        }
        let end = self
            .report
            .places
            .offset(last.position())
            .map_or(start, |at| self.report.places.word_at(at).end);
        if end > start && !matches!(expr, Expr::FnCall(..)) {
            start..end
        } else {
            self.report.places.word_at(start)
        }
    }
}

/// All fields of a type as a set.
pub(crate) fn all_fields(fact_type: &FactType) -> u64 {
    (1 << fact_type.fields.len()) - 1
}

const fn drop_type(_: Type) {}
