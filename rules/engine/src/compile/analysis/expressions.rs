//! Expressions: names, fields, elements, and what kind of value they give.

use rhai::{Expr, FnPtr, Position, Stmt};

use super::{Analyzer, DEPTH_MAX, Place, Type, all_fields};
use crate::ruleset::FieldKind;

impl Analyzer<'_, '_, '_> {
    pub(super) fn find(&self, name: &str) -> Option<Type> {
        self.scope
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, known)| *known)
    }

    /// The type of an expression in front of a dot: naming a fact there reads only the field.
    pub(super) fn base(&mut self, expr: &Expr) -> Type {
        match expr {
            Expr::Variable(variable, _, position) => self.variable(&variable.1, *position),
            _ => self.expr(expr),
        }
    }

    pub(super) fn variable(&mut self, name: &str, position: Position) -> Type {
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

    pub(super) fn read_all(&mut self, known: Type) {
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

    pub(super) fn expr_within(&mut self, expr: &Expr) -> Type {
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
    pub(super) fn chain(&mut self, base: Type, rest: &Expr) -> Type {
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
    pub(super) fn index(&mut self, base: Type, rest: &Expr, ends: bool) -> Type {
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

    pub(super) fn field(&mut self, kind: usize, name: &str, position: Position) -> Option<usize> {
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

    pub(super) fn property(&mut self, base: Type, name: &str, position: Position) -> Type {
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
}
