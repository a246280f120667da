//! Calls: functions of the file and of the language, operators, and what sections may do.

use rhai::{Expr, FnCallExpr, FnPtr, Position, Stmt};

use super::{Analyzer, Place, Type, comparable};
use crate::compile::library;
use crate::compile::uses::{Given, Written};
use crate::ruleset::FieldKind;
use crate::scripts::CALL;

impl Analyzer<'_, '_, '_> {
    pub(super) fn call(&mut self, call: &FnCallExpr, position: Position, this: Option<Type>) -> Type {
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
    pub(super) fn note_call(
        &mut self,
        name: &str,
        call: &FnCallExpr,
        arguments: &[Type],
        position: Position,
    ) {
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
    pub(super) fn argument(&mut self, argument: &Expr, element: Type) -> Type {
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
    pub(super) fn closure(&mut self, name: &str, captured: usize, element: Type) {
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

    pub(super) fn operator(&mut self, name: &str, arguments: &[Expr], _: Position) -> Type {
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

    pub(super) fn is_known(&mut self, name: &str, arity: usize, position: Position, method: bool) -> bool {
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

    pub(super) fn section_function(
        &mut self,
        name: &str,
        arities: &[usize],
        arity: usize,
        position: Position,
    ) -> bool {
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

    pub(super) fn fact_type(&self, name: &str) -> Option<usize> {
        self.names.types.iter().position(|known| &*known.name == name)
    }

    /// The literals in `insert` and `call`.
    pub(super) fn check_api(&mut self, name: &str, arguments: &[Expr], position: Position) {
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

    pub(super) fn check_fact(&mut self, kind: usize, given: &[(rhai::Ident, Expr)], position: Position) {
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
    pub(super) fn quiet(&self, expr: &Expr) -> Type {
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
