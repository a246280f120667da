//! What scripts mean before they run: names, fields and types are checked on rhai's syntax tree.
//!
//! Every unknown name is an error here and not at night. What cannot be known (the result of a call, an element of a
//! list) has the type [`Type::Any`] and is checked when it runs.

use std::collections::BTreeSet;

use rhai::{AST, ASTNode, BinaryExpr, Expr, FnCallExpr, FnPtr, Position, Stmt};
use rustc_hash::FxHashMap;

use super::library;
use super::uses::{ConstTest, Given, Known, Write, Written};
use crate::ruleset::FieldKind;
use crate::scripts::CALL;
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

    // ---- statements ----

    /// Statements that may run, once or often, or not at all.
    fn branch(&mut self, statements: &[Stmt]) {
        self.branches += 1;
        self.block(statements);
        self.branches -= 1;
    }

    pub(crate) fn block(&mut self, statements: &[Stmt]) {
        let outer = self.scope.len();
        for statement in statements {
            self.statement(statement);
        }
        self.scope.truncate(outer);
    }

    fn statement(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Var(parts, ..) => {
                let known = self.expr(&parts.1);
                self.declare(parts.0.name.as_str(), parts.0.pos, known);
            }
            Stmt::Assignment(parts) => {
                let operator = parts.0.get_op_assignment_info().map(|(.., operator)| operator);
                self.assignment(operator, &parts.1);
            }
            Stmt::Expr(expr) => drop_type(self.expr(expr)),
            Stmt::FnCall(call, position) => drop_type(self.call(call, *position, None)),
            Stmt::Block(block) => self.block(block.statements()),
            Stmt::If(flow, _) | Stmt::While(flow, _) | Stmt::Do(flow, ..) => {
                self.expr(&flow.expr);
                self.branch(flow.body.statements());
                self.branch(flow.branch.statements());
            }
            Stmt::For(parts, _) => {
                let element = match self.expr(&parts.2.expr) {
                    Type::Facts(kind) => Type::Fact(kind, None),
                    _ => Type::Any,
                };
                let outer = self.scope.len();
                self.declare(parts.0.name.as_str(), parts.0.pos, element);
                if let Some(counter) = &parts.1 {
                    self.declare(counter.name.as_str(), counter.pos, Type::INT);
                }
                self.branch(parts.2.body.statements());
                self.scope.truncate(outer);
            }
            Stmt::TryCatch(flow, _) => {
                self.branch(flow.body.statements());
                let outer = self.scope.len();
                if let Expr::Variable(variable, ..) = &flow.expr {
                    self.scope.push((variable.1.to_string(), Type::Any));
                }
                self.branch(flow.branch.statements());
                self.scope.truncate(outer);
            }
            Stmt::Switch(parts, _) => {
                self.expr(&parts.0);
                self.branches += 1;
                for case in &parts.1.expressions {
                    self.expr(&case.lhs);
                    self.expr(&case.rhs);
                }
                self.branches -= 1;
            }
            Stmt::Return(value, ..) => {
                if let Some(value) = value {
                    self.expr(value);
                }
                self.left = true;
            }
            Stmt::BreakLoop(Some(expr), ..) => drop_type(self.expr(expr)),
            _ => {}
        }
    }

    fn declare(&mut self, name: &str, position: Position, known: Type) {
        if self.names.consts.contains_key(name) {
            let span = self.span(position);
            self.report.error(
                "shadowed-constant",
                &span,
                format!("`{name}` is a constant of this file"),
                "declared again here",
            );
        }
        // An optional value may be tested and changed later: a variable promises nothing.
        let known = if matches!(known, Type::Fact(..) | Type::Facts(_)) {
            known
        } else {
            Type::Any
        };
        self.scope.push((name.to_owned(), known));
    }

    fn assignment(&mut self, operator: Option<&str>, sides: &BinaryExpr) {
        let reads_too = operator.is_some();
        let value = self.expr(&sides.rhs);
        if let Expr::Dot(parts, ..) = &sides.lhs
            && let Expr::Property(property, position) = &parts.rhs
        {
            let base = self.base(&parts.lhs);
            if let Type::Fact(kind, level) = base {
                let Some(slot) = self.field(kind, &property.2, *position) else {
                    return;
                };
                if let (true, Some(level)) = (reads_too, level) {
                    self.reads[level] |= 1 << slot;
                }
                let given = self.with_known(|known| known.given(&sides.lhs, operator, &sides.rhs));
                let span = self.span(*position);
                self.only_read(kind, &span);
                self.writes(
                    Written::Update {
                        kind,
                        level,
                        slot,
                        given,
                    },
                    span,
                );
                if !reads_too {
                    self.fits(kind, slot, value, &sides.rhs);
                }
            }
            return;
        }
        if let Expr::Variable(variable, _, position) = &sides.lhs {
            let name = variable.1.as_str();
            if let Some(Type::Fact(..) | Type::Facts(_)) = self.find(name)
                && self.scope.iter().filter(|(known, _)| known == name).count() == 1
                && self.reads.len()
                    > self
                        .scope
                        .iter()
                        .position(|(known, _)| known == name)
                        .unwrap_or(usize::MAX)
            {
                let span = self.span(*position);
                self.report
                    .error(
                        "assigned-binding",
                        &span,
                        format!("`{name}` is bound by `match`"),
                        "cannot be assigned",
                    )
                    .hint(format!("assign a field: `{name}.… = …`"));
            }
        }
        self.expr(&sides.lhs);
    }

    /// A run writes its own facts only.
    fn only_read(&mut self, kind: usize, span: &Span) {
        let fact_type = &self.names.types[kind];
        if fact_type.shared {
            let message = format!("`{}` is a shared fact, which a run only reads", fact_type.name);
            self.report
                .error("shared-write", span, message, "written here")
                .hint(
                    "write a fact of the run; shared facts are written from outside, \
                     through /v1/services/…/facts",
                );
        }
    }

    /// Whether a value goes into a field.
    fn fits(&mut self, kind: usize, slot: usize, value: Type, at: &Expr) {
        let field = &self.names.types[kind].fields[slot];
        let fits = match value {
            Type::Null => field.optional || field.kind == FieldKind::Any,
            Type::Fact(..) => false,
            Type::Facts(_) => false,
            _ => match (field.kind, value.kind()) {
                (FieldKind::Any, _) | (_, None) => true,
                (FieldKind::Float, Some(FieldKind::Int | FieldKind::Float)) => true,
                (FieldKind::Int | FieldKind::Time, Some(FieldKind::Int | FieldKind::Time)) => true,
                (FieldKind::Artifact | FieldKind::Map, Some(FieldKind::Map | FieldKind::Artifact)) => true,
                (wanted, Some(given)) => wanted == given,
            },
        };
        if fits {
            return;
        }
        let or_null = if field.optional { " or null" } else { "" };
        let message = format!(
            "field `{}` of `{}` holds {}{or_null}, not {}",
            field.name,
            self.names.types[kind].name,
            field.kind.name(),
            value.name(self.names.types)
        );
        let label = format!("expected {}{or_null}", field.kind.name());
        let span = self.span_of(at);
        self.report.error("wrong-type", &span, message, label);
    }

    // ---- expressions ----

    fn find(&self, name: &str) -> Option<Type> {
        self.scope
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, known)| *known)
    }

    /// The type of an expression in front of a dot: naming a fact there reads only the field.
    fn base(&mut self, expr: &Expr) -> Type {
        match expr {
            Expr::Variable(variable, _, position) => self.variable(&variable.1, *position),
            _ => self.expr(expr),
        }
    }

    fn variable(&mut self, name: &str, position: Position) -> Type {
        if let Some(known) = self.find(name) {
            return known;
        }
        if let Some(value) = self.names.consts.get(name) {
            return Type::of(value);
        }
        let hint = match (name, self.place) {
            ("result" | "results", Place::Action) => {
                Some("results are there in `reaction`, when the calls have succeeded")
            }
            ("result" | "results", Place::Match) => Some("results are there in `reaction`"),
            ("error", Place::Action | Place::Reaction | Place::Match) => {
                Some("`error` is there in the section `error`")
            }
            (_, Place::Function) => Some("a function sees its parameters and the constants of the file only"),
            _ => None,
        };
        let span = self.span(position);
        let names: Vec<String> = self
            .scope
            .iter()
            .map(|(known, _)| known.clone())
            .chain(self.names.consts.keys().cloned())
            .collect();
        let note = self.report.error(
            "unknown-name",
            &span,
            format!("unknown name `{name}`"),
            "nothing has this name here",
        );
        match hint {
            Some(hint) => note.hint(hint),
            None => note.similar(name, names.iter().map(String::as_str)),
        }
        Type::Any
    }

    fn read_all(&mut self, known: Type) {
        if let Type::Fact(kind, Some(level)) = known {
            self.reads[level] |= all_fields(&self.names.types[kind]);
        }
    }

    /// The type of an expression; reports what is wrong in it.
    pub(crate) fn expr(&mut self, expr: &Expr) -> Type {
        self.depth += 1;
        let known = if self.depth > DEPTH_MAX {
            Type::Any
        } else {
            self.expr_within(expr)
        };
        self.depth -= 1;
        known
    }

    fn expr_within(&mut self, expr: &Expr) -> Type {
        match expr {
            Expr::BoolConstant(..) => Type::BOOL,
            Expr::IntegerConstant(..) => Type::INT,
            Expr::FloatConstant(..) => Type::Kind(FieldKind::Float),
            Expr::StringConstant(..) | Expr::CharConstant(..) => Type::STRING,
            Expr::Unit(_) => Type::Null,
            Expr::InterpolatedString(parts, _) => {
                for part in parts {
                    self.expr(part);
                }
                Type::STRING
            }
            Expr::Array(parts, _) => {
                for part in parts {
                    self.expr(part);
                }
                Type::Kind(FieldKind::List)
            }
            Expr::Map(parts, _) => {
                for (_, value) in &parts.0 {
                    self.expr(value);
                }
                Type::Kind(FieldKind::Map)
            }
            Expr::Variable(variable, _, position) => {
                let known = self.variable(&variable.1, *position);
                self.read_all(known);
                known
            }
            Expr::Dot(parts, ..) => {
                let base = self.base(&parts.lhs);
                self.chain(base, &parts.rhs)
            }
            Expr::Index(parts, flags, _) => {
                let base = self.base(&parts.lhs);
                self.index(base, &parts.rhs, flags.contains(rhai::ASTFlags::BREAK))
            }
            Expr::And(parts, _) | Expr::Or(parts, _) => {
                // What stands behind the first part may not be looked at.
                self.branches += 1;
                for part in parts.iter() {
                    let known = self.expr(part);
                    self.truth(known, part);
                }
                self.branches -= 1;
                Type::BOOL
            }
            Expr::Coalesce(parts, _) => {
                let known: Vec<Type> = parts.iter().map(|part| self.expr(part)).collect();
                match known.as_slice() {
                    [Type::Optional(a), Type::Kind(b)] if a == b => Type::Kind(*a),
                    _ => Type::Any,
                }
            }
            Expr::Stmt(block) => {
                self.block(block.statements());
                if let [.., Stmt::Expr(last)] = block.statements()
                    && let Expr::FnCall(call, _) = &**last
                    && call.name == "curry"
                {
                    return Type::Any;
                }
                Type::Any
            }
            Expr::FnCall(call, position) => self.call(call, *position, None),
            Expr::DynamicConstant(value, _) => {
                if let Some(pointer) = value.read_lock::<FnPtr>() {
                    let name = pointer.fn_name().to_owned();
                    drop(pointer);
                    self.closure(&name, 0, Type::Any);
                }
                Type::Any
            }
            Expr::ThisPtr(position) => {
                let span = self.span(*position);
                self.report.error(
                    "unknown-name",
                    &span,
                    "there is no `this` here",
                    "nothing to stand for",
                );
                Type::Any
            }
            _ => Type::Any,
        }
    }

    /// A condition that can be nothing but true or false.
    pub(crate) fn truth(&mut self, known: Type, at: &Expr) {
        if let Some(kind) = known.kind()
            && kind != FieldKind::Bool
        {
            let span = self.span_of(at);
            self.report.error(
                "wrong-type",
                &span,
                format!("a condition is true or false, not {}", kind.name()),
                "expected bool",
            );
        }
    }

    /// What follows a dot.
    fn chain(&mut self, base: Type, rest: &Expr) -> Type {
        match rest {
            Expr::Property(property, position) => self.property(base, &property.2, *position),
            Expr::MethodCall(call, position) => self.call(call, *position, Some(base)),
            Expr::Dot(parts, ..) => {
                let base = self.chain(base, &parts.lhs);
                self.chain(base, &parts.rhs)
            }
            Expr::Index(parts, flags, _) => {
                let base = self.chain(base, &parts.lhs);
                self.index(base, &parts.rhs, flags.contains(rhai::ASTFlags::BREAK))
            }
            _ => self.expr(rest),
        }
    }

    /// What stands in brackets, and what follows them.
    fn index(&mut self, base: Type, rest: &Expr, ends: bool) -> Type {
        let element = if let Type::Facts(kind) = base {
            Type::Fact(kind, None)
        } else {
            Type::Any
        };
        self.read_all(base);
        match rest {
            Expr::Dot(parts, ..) if !ends => {
                self.expr(&parts.lhs);
                self.chain(element, &parts.rhs)
            }
            Expr::Index(parts, flags, _) if !ends => {
                self.expr(&parts.lhs);
                self.index(Type::Any, &parts.rhs, flags.contains(rhai::ASTFlags::BREAK))
            }
            _ => {
                self.expr(rest);
                element
            }
        }
    }

    fn field(&mut self, kind: usize, name: &str, position: Position) -> Option<usize> {
        let fact_type = &self.names.types[kind];
        let slot = fact_type.slot(name);
        if slot.is_none() {
            let span = self.span(position);
            let message = format!("fact `{}` has no field `{name}`", fact_type.name);
            let fields: Vec<_> = fact_type.fields.iter().map(|field| &*field.name).collect();
            let label = format!("expected one of {}", fields.join(", "));
            self.report
                .error("unknown-field", &span, message, label)
                .similar(name, fields);
        }
        slot
    }

    fn property(&mut self, base: Type, name: &str, position: Position) -> Type {
        match base {
            Type::Fact(kind, level) => {
                let Some(slot) = self.field(kind, name, position) else {
                    return Type::Any;
                };
                if let Some(level) = level {
                    self.reads[level] |= 1 << slot;
                }
                let field = &self.names.types[kind].fields[slot];
                if field.optional {
                    Type::Optional(field.kind)
                } else {
                    Type::Kind(field.kind)
                }
            }
            Type::Facts(kind) => {
                let span = self.span(position);
                let message = format!(
                    "a list of `{}` has no field `{name}`",
                    self.names.types[kind].name
                );
                self.report
                    .error("unknown-field", &span, message, "this is a list")
                    .hint("use `.map(|c| c.…)` or `.len()`");
                Type::Any
            }
            Type::Kind(FieldKind::Artifact) if name == "size" => Type::INT,
            Type::Kind(
                kind @ (FieldKind::String
                | FieldKind::Int
                | FieldKind::Bool
                | FieldKind::Float
                | FieldKind::Time),
            ) if name != "len" => {
                let span = self.span(position);
                self.report.error(
                    "unknown-field",
                    &span,
                    format!("{} has no field `{name}`", kind.name()),
                    "no such field",
                );
                Type::Any
            }
            _ => Type::Any,
        }
    }

    fn call(&mut self, call: &FnCallExpr, position: Position, this: Option<Type>) -> Type {
        let name = if call.name == CALL {
            "call"
        } else {
            call.name.as_str()
        };
        if name == "curry"
            && let [Expr::DynamicConstant(value, _), captured @ ..] = call.args.as_slice()
        {
            if let Some(pointer) = value.read_lock::<FnPtr>() {
                let name = pointer.fn_name().to_owned();
                drop(pointer);
                self.closure(&name, captured.len(), Type::Any);
            }
            return Type::Any;
        }
        if call.op_token.is_some() {
            return self.operator(name, &call.args, position);
        }
        let element = match this {
            Some(Type::Facts(kind)) => Type::Fact(kind, None),
            _ => Type::Any,
        };
        if let Some(this) = this
            && !matches!(this, Type::Facts(_))
        {
            self.read_all(this);
        }
        let mut arguments: Vec<Type> = this.into_iter().collect();
        for argument in &call.args {
            arguments.push(self.argument(argument, element));
        }
        if !self.is_known(name, arguments.len(), position, this.is_some()) {
            return Type::Any;
        }
        self.note_call(name, call, &arguments, position);
        if this.is_none() {
            self.check_api(name, &call.args, position);
        }
        match name {
            "len" => Type::INT,
            "now" => Type::Kind(FieldKind::Time),
            "filter" if element != Type::Any => this.unwrap_or(Type::Any),
            "is_empty" | "contains" | "starts_with" | "ends_with" | "all" | "some" | "exists" => Type::BOOL,
            "to_upper" | "to_lower" | "to_string" | "uid" => Type::STRING,
            "insert" => match call.args.first() {
                Some(Expr::StringConstant(fact_type, _)) => self
                    .fact_type(fact_type)
                    .map_or(Type::Any, |kind| Type::Fact(kind, None)),
                _ => Type::Any,
            },
            _ => Type::Any,
        }
    }

    /// What a call changes.
    fn note_call(&mut self, name: &str, call: &FnCallExpr, arguments: &[Type], position: Position) {
        let span = self.span(position);
        let own = self.names.functions.iter().any(|(known, _)| known == name);
        match (name, arguments) {
            _ if own => {
                for argument in arguments {
                    if let Type::Fact(kind, _) | Type::Facts(kind) = argument {
                        self.writes(Written::Anything { kind: *kind }, span.clone());
                    }
                }
                self.writes(Written::Own(name.to_owned()), span);
            }
            ("call" | "request" | "timer", _) => self.waits = true,
            ("retract", [Type::Fact(kind, level)]) => {
                let (kind, level) = (*kind, *level);
                self.only_read(kind, &span);
                self.writes(Written::Retract { kind, level }, span);
            }
            ("insert", _) => {
                let Some(Expr::StringConstant(fact_type, _)) = call.args.first() else {
                    return;
                };
                let Some(kind) = self.fact_type(fact_type) else {
                    return;
                };
                let fields = match call.args.get(1) {
                    Some(Expr::Map(parts, _)) => {
                        let field = |(name, value): &(rhai::Ident, Expr)| {
                            let slot = self.names.types[kind].slot(&name.name)?;
                            let value = self.with_known(|known| known.constant(value));
                            Some((slot, value.map_or(Given::Unknown, Given::Constant)))
                        };
                        Some(parts.0.iter().filter_map(field).collect())
                    }
                    _ => None,
                };
                self.writes(Written::Insert { kind, fields }, span);
            }
            _ => {}
        }
    }

    /// An argument; a function among them is given the elements of the list it works on.
    fn argument(&mut self, argument: &Expr, element: Type) -> Type {
        let closure = |expr: &Expr| match expr {
            Expr::DynamicConstant(value, _) => value
                .read_lock::<FnPtr>()
                .map(|pointer| (pointer.fn_name().to_owned(), 0)),
            Expr::FnCall(call, _) if call.name == "curry" => match call.args.first() {
                Some(Expr::DynamicConstant(value, _)) => value
                    .read_lock::<FnPtr>()
                    .map(|pointer| (pointer.fn_name().to_owned(), call.args.len() - 1)),
                _ => None,
            },
            _ => None,
        };
        let found = match argument {
            Expr::Stmt(block) => match block.statements() {
                [.., Stmt::Expr(last)] => closure(last),
                [.., Stmt::FnCall(call, position)] => closure(&Expr::FnCall(call.clone(), *position)),
                _ => None,
            },
            other => closure(other),
        };
        match found {
            Some((name, captured)) => {
                self.closure(&name, captured, element);
                Type::Any
            }
            None => self.expr(argument),
        }
    }

    /// The body of an anonymous function; its first parameters are what it has captured.
    fn closure(&mut self, name: &str, captured: usize, element: Type) {
        let Some((parameters, statements)) = self.bodies.remove(name) else {
            return;
        };
        let outer = self.scope.len();
        for (at, parameter) in parameters.iter().enumerate().skip(captured) {
            self.scope.push((
                parameter.clone(),
                if at == captured { element } else { Type::Any },
            ));
        }
        self.branch(&statements);
        self.scope.truncate(outer);
    }

    fn operator(&mut self, name: &str, arguments: &[Expr], _: Position) -> Type {
        let known: Vec<Type> = arguments.iter().map(|argument| self.expr(argument)).collect();
        match (name, known.as_slice()) {
            ("==" | "!=" | "<" | "<=" | ">" | ">=", [left, right]) => {
                if let (Some(a), Some(b)) = (left.kind(), right.kind())
                    && !comparable(a, b)
                {
                    let at = if matches!(arguments[1], Expr::Dot(..)) {
                        &arguments[0]
                    } else {
                        &arguments[1]
                    };
                    let other = if matches!(arguments[1], Expr::Dot(..)) {
                        b
                    } else {
                        a
                    };
                    let span = self.span_of(at);
                    let message = format!(
                        "{} is compared with {}: never equal, in no order",
                        a.name(),
                        b.name()
                    );
                    self.report
                        .error("wrong-type", &span, message, format!("expected {}", other.name()));
                }
                Type::BOOL
            }
            ("!", [known]) => {
                self.truth(*known, &arguments[0]);
                Type::BOOL
            }
            ("in" | "contains", _) => Type::BOOL,
            ("+", [a, b]) if *a == Type::STRING || *b == Type::STRING => Type::STRING,
            ("+" | "-" | "*" | "/" | "%", [a, b]) if a == b && *a == Type::INT => Type::INT,
            ("+" | "-" | "*" | "/" | "%", [a, b])
                if a.kind() == Some(FieldKind::Float) && b.kind().is_some() =>
            {
                Type::Kind(FieldKind::Float)
            }
            _ => Type::Any,
        }
    }

    fn is_known(&mut self, name: &str, arity: usize, position: Position, method: bool) -> bool {
        let own: Vec<usize> = self
            .names
            .functions
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, parameters)| *parameters)
            .collect();
        if own.contains(&arity) {
            return true;
        }
        if let Some(section) = library::SECTION_FUNCTIONS
            .iter()
            .find(|(known, _)| *known == name && !method)
        {
            return self.section_function(section.0, section.1, arity, position);
        }
        if library::FUNCTIONS.contains(&name) || self.find(name).is_some() {
            return true;
        }
        let span = self.span(position);
        if let [parameters, ..] = own.as_slice() {
            let message = format!("function `{name}` takes {parameters} arguments, not {arity}");
            self.report
                .error("wrong-arguments", &span, message, "called here");
            return false;
        }
        let names = (self.names.functions.iter().map(|(known, _)| known.as_str()))
            .chain(library::FUNCTIONS.iter().copied())
            .chain(library::SECTION_FUNCTIONS.iter().map(|(known, _)| *known));
        let note = self.report.error(
            "unknown-function",
            &span,
            format!("unknown function `{name}`"),
            "no function has this name",
        );
        if self.names.callable.contains(name) {
            note.hint(format!(
                "a function of the bundle is called with `call(\"{name}\", #{{…}})`"
            ));
        } else {
            note.similar(name, names);
        }
        false
    }

    fn section_function(&mut self, name: &str, arities: &[usize], arity: usize, position: Position) -> bool {
        let span = self.span(position);
        let makes_calls = matches!(name, "call" | "request" | "timer");
        if self.place == Place::Match {
            self.report
                .error(
                    "effect-in-match",
                    &span,
                    format!("`{name}` cannot stand in `match`"),
                    "conditions only look at facts",
                )
                .hint("do it in `action`; for time, start a `timer`");
            return false;
        }
        if makes_calls && matches!(self.place, Place::Reaction | Place::Error) {
            self.report
                .error(
                    "call-outside-action",
                    &span,
                    format!("`{name}` cannot stand here"),
                    "nothing would wait for it",
                )
                .hint("change a fact, and let another rule make the call in its `action`");
            return false;
        }
        if name == "retry" && !matches!(self.place, Place::Error | Place::Function) {
            self.report.error(
                "retry-outside-error",
                &span,
                "`retry` stands in `error` only",
                "there is no failed call here",
            );
            return false;
        }
        if !arities.contains(&arity) {
            let takes: Vec<_> = arities.iter().map(ToString::to_string).collect();
            let message = format!("`{name}` takes {} arguments, not {arity}", takes.join(" or "));
            self.report
                .error("wrong-arguments", &span, message, "called here");
            return false;
        }
        true
    }

    fn fact_type(&self, name: &str) -> Option<usize> {
        self.names.types.iter().position(|known| &*known.name == name)
    }

    /// The literals in `insert` and `call`.
    fn check_api(&mut self, name: &str, arguments: &[Expr], position: Position) {
        let Some(Expr::StringConstant(named, named_at)) = arguments.first() else {
            return;
        };
        let at = self.report.places.offset(*named_at).unwrap_or(0);
        let named_span = at..at + named.len() + 2;
        match name {
            "call" => {
                if self.names.callable.contains(named.as_str()) {
                    self.called.insert(named.to_string());
                } else {
                    let callable: Vec<&str> = self.names.callable.iter().map(String::as_str).collect();
                    self.report
                        .error(
                            "unknown-call",
                            &named_span,
                            format!("the bundle has no function `{named}`"),
                            "no such function",
                        )
                        .similar(named, callable);
                }
            }
            "insert" => {
                let Some(kind) = self.fact_type(named) else {
                    let types: Vec<&str> = self.names.types.iter().map(|known| &*known.name).collect();
                    self.report
                        .error(
                            "unknown-fact",
                            &named_span,
                            format!("no fact type `{named}`"),
                            "no such fact type",
                        )
                        .similar(named, types);
                    return;
                };
                self.only_read(kind, &named_span);
                if let Some(Expr::Map(parts, _)) = arguments.get(1) {
                    self.check_fact(kind, &parts.0, position);
                }
            }
            _ => {}
        }
    }

    fn check_fact(&mut self, kind: usize, given: &[(rhai::Ident, Expr)], position: Position) {
        for (name, value) in given {
            let Some(slot) = self.field(kind, name.name.as_str(), name.pos) else {
                continue;
            };
            let known = self.quiet(value);
            self.fits(kind, slot, known, value);
        }
        let fact_type = &self.names.types[kind];
        let missing: Vec<_> = (fact_type.fields.iter())
            .filter(|field| !field.optional && field.default.is_none())
            .filter(|field| !given.iter().any(|(name, _)| name.name.as_str() == &*field.name))
            .map(|field| format!("`{}`", field.name))
            .collect();
        if !missing.is_empty() {
            let span = self.span(position);
            let message = format!("fact `{}` lacks {}", fact_type.name, missing.join(", "));
            self.report
                .error("missing-field", &span, message, "not all fields are given");
        }
    }

    /// The type of an expression that has been looked at before; simple ones only.
    fn quiet(&self, expr: &Expr) -> Type {
        match expr {
            Expr::BoolConstant(..) => Type::BOOL,
            Expr::IntegerConstant(..) => Type::INT,
            Expr::FloatConstant(..) => Type::Kind(FieldKind::Float),
            Expr::StringConstant(..) | Expr::InterpolatedString(..) => Type::STRING,
            Expr::Unit(_) => Type::Null,
            Expr::Array(..) => Type::Kind(FieldKind::List),
            Expr::Map(..) => Type::Kind(FieldKind::Map),
            Expr::Variable(variable, ..) => self.find(&variable.1).unwrap_or(Type::Any),
            Expr::Dot(parts, ..) => match (&parts.lhs, &parts.rhs) {
                (Expr::Variable(variable, ..), Expr::Property(property, _)) => match self.find(&variable.1) {
                    Some(Type::Fact(kind, _)) => {
                        let field = self.names.types[kind]
                            .fields
                            .iter()
                            .find(|field| *field.name == *property.2);
                        field
                            .filter(|field| !field.optional)
                            .map_or(Type::Any, |field| Type::Kind(field.kind))
                    }
                    _ => Type::Any,
                },
                _ => Type::Any,
            },
            _ => Type::Any,
        }
    }
}

/// All fields of a type as a set.
pub(crate) fn all_fields(fact_type: &FactType) -> u64 {
    (1 << fact_type.fields.len()) - 1
}

const fn drop_type(_: Type) {}
