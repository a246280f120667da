//! Statements: what they declare, assign and write.

use rhai::{BinaryExpr, Expr, Position, Stmt};

use super::{Analyzer, Type, drop_type};
use crate::compile::uses::Written;
use crate::ruleset::FieldKind;
use crate::syntax::Span;

impl Analyzer<'_, '_, '_> {
    /// Statements that may run, once or often, or not at all.
    pub(super) fn branch(&mut self, statements: &[Stmt]) {
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

    pub(super) fn statement(&mut self, statement: &Stmt) {
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

    pub(super) fn declare(&mut self, name: &str, position: Position, known: Type) {
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

    pub(super) fn assignment(&mut self, operator: Option<&str>, sides: &BinaryExpr) {
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
    pub(super) fn only_read(&mut self, kind: usize, span: &Span) {
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
    pub(super) fn fits(&mut self, kind: usize, slot: usize, value: Type, at: &Expr) {
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
}
