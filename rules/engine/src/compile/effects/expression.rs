//! Expressions of a section in native form.

use rhai::{ASTFlags, Expr as Tree, FnCallExpr, Stmt};

use super::{COST, Kind, Writer, operator_named};
use crate::Value;
use crate::expression::{Binary, Builtin};
use crate::memory::effects::{self, Unsure};
use crate::steps::{Expr, Place, Register};
use crate::value::Text;

/// What has been converted so far of a chain of dots.
pub(super) enum Link {
    Fact(Register, usize),
    Facts(Register),
    Value(Expr),
}

impl Writer<'_, '_> {
    /// The native form of an expression that has a value and no effect.
    pub(super) fn expression(&mut self, tree: &Tree) -> Option<Expr> {
        match self.link(tree)? {
            Link::Value(expr) => Some(expr),
            Link::Fact(..) | Link::Facts(_) => None,
        }
    }

    fn all(&mut self, trees: &[Tree]) -> Option<Box<[Expr]>> {
        trees.iter().map(|tree| self.expression(tree)).collect()
    }

    pub(super) fn link(&mut self, tree: &Tree) -> Option<Link> {
        self.cost += COST;
        Some(Link::Value(match tree {
            Tree::BoolConstant(value, _) => Expr::Const((*value).into()),
            Tree::IntegerConstant(number, _) => Expr::Const((*number).into()),
            Tree::FloatConstant(number, _) => Expr::Const((**number).into()),
            Tree::StringConstant(text, _) => Expr::Const(Value::Str(text.clone().into())),
            Tree::Unit(_) => Expr::Const(Value::Null),
            Tree::And(parts, _) => Expr::All(self.all(parts)?),
            Tree::Or(parts, _) => Expr::Some(self.all(parts)?),
            Tree::Coalesce(parts, _) => Expr::Coalesce(self.all(parts)?),
            Tree::Array(parts, _) => Expr::List(self.all(parts)?),
            Tree::Map(parts, _) => self.map(&parts.0)?,
            Tree::InterpolatedString(parts, _) => Expr::Joined(self.all(parts)?),
            Tree::FnCall(call, _) => self.operation(call)?,
            Tree::Stmt(block) => self.choice(block.statements())?,
            Tree::Variable(variable, ..) => {
                let Some(name) = self.find(&variable.1) else {
                    let value = self.known.consts.get(variable.1.as_str())?;
                    return Some(Link::Value(Expr::Const(value.clone())));
                };
                return Some(match name.kind {
                    Kind::Fact(kind) => Link::Fact(name.register, kind),
                    Kind::Facts(_) => Link::Facts(name.register),
                    Kind::Value => Link::Value(Expr::Register(name.register)),
                });
            }
            Tree::Dot(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                let base = self.link(&parts.lhs)?;
                return self.chain(base, &parts.rhs);
            }
            Tree::Index(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                let base = self.expression(&parts.lhs)?;
                return self.index(base, &parts.rhs, *flags);
            }
            _ => return None,
        }))
    }

    /// `if c { a } else { b }` as a value.
    fn choice(&mut self, statements: &[Stmt]) -> Option<Expr> {
        self.cost += COST;
        match statements {
            [Stmt::Expr(tree)] => self.expression(tree),
            [Stmt::FnCall(call, _)] => self.operation(call),
            [Stmt::If(flow, _)] => {
                let condition = self.expression(&flow.expr)?;
                let first = self.choice(flow.body.statements())?;
                let second = match flow.branch.statements() {
                    [] => Expr::Const(Value::Null),
                    others => self.choice(others)?,
                };
                Some(Expr::Choose(Box::new((condition, first, second))))
            }
            _ => None,
        }
    }

    fn map(&mut self, parts: &[(rhai::Ident, Tree)]) -> Option<Expr> {
        let mut entries = Vec::with_capacity(parts.len());
        for (key, value) in parts {
            entries.push((Text::from(key.name.as_str()), self.expression(value)?));
        }
        // Values are pure, so their order does not matter; that of the keys does.
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let repeated = entries.windows(2).any(|pair| pair[0].0 == pair[1].0);
        (!repeated).then(|| Expr::Map(entries.into()))
    }

    fn chain(&mut self, base: Link, rest: &Tree) -> Option<Link> {
        self.cost += COST;
        Some(Link::Value(match rest {
            Tree::Property(property, _) => match base {
                Link::Fact(fact, kind) => {
                    let slot = self.known.types[kind].slot(&property.2)?;
                    Expr::Slot(Place { fact, slot })
                }
                Link::Value(inner) => Expr::Get(Box::new(inner), property.2.clone().into()),
                Link::Facts(_) => return None,
            },
            Tree::MethodCall(call, _) => self.method(base, call)?,
            Tree::Dot(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                let base = self.chain(base, &parts.lhs)?;
                return self.chain(base, &parts.rhs);
            }
            Tree::Index(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                let Link::Value(base) = self.chain(base, &parts.lhs)? else {
                    return None;
                };
                return self.index(base, &parts.rhs, *flags);
            }
            _ => return None,
        }))
    }

    fn method(&mut self, base: Link, call: &FnCallExpr) -> Option<Expr> {
        let name = call.name.as_str();
        if self.is_own(name) {
            return None;
        }
        match base {
            Link::Value(base) => {
                let mut arguments = vec![base];
                for argument in &call.args {
                    arguments.push(self.expression(argument)?);
                }
                builtin(name, arguments)
            }
            Link::Facts(list) => match (name, call.args.len()) {
                ("len", 0) => Some(Expr::Count(list)),
                ("is_empty", 0) => {
                    let sides = Box::new((Expr::Count(list), Expr::Const(Value::Int(0))));
                    Some(Expr::Binary(Binary::Equal, sides))
                }
                _ => None,
            },
            Link::Fact(..) => None,
        }
    }

    fn index(&mut self, base: Expr, rest: &Tree, flags: ASTFlags) -> Option<Link> {
        self.cost += COST;
        let ends = flags.contains(ASTFlags::BREAK);
        let at = |place: Expr| Expr::Index(Box::new((base, place)));
        match rest {
            Tree::Dot(parts, inner, _) if !ends => {
                if inner.contains(ASTFlags::NEGATED) {
                    return None;
                }
                let place = self.expression(&parts.lhs)?;
                self.chain(Link::Value(at(place)), &parts.rhs)
            }
            Tree::Index(parts, inner, _) if !ends => {
                if inner.contains(ASTFlags::NEGATED) {
                    return None;
                }
                let place = self.expression(&parts.lhs)?;
                self.index(at(place), &parts.rhs, *inner)
            }
            _ => Some(Link::Value(at(self.expression(rest)?))),
        }
    }

    /// The native form of a function or an operator.
    pub(super) fn operation(&mut self, call: &FnCallExpr) -> Option<Expr> {
        let name = call.name.as_str();
        if self.is_own(name) {
            let (own, acts) = self.own(call)?;
            return (!acts).then(|| Expr::Own(Box::new(own)));
        }
        self.cost += COST;
        match (name, &call.args[..]) {
            ("now", []) => return Some(Expr::Now),
            ("exists", [fact]) => return Some(Expr::Exists(self.fact(fact)?.0)),
            _ => {}
        }
        let mut links = Vec::with_capacity(call.args.len());
        for argument in &call.args {
            links.push(self.link(argument)?);
        }
        if let ("==" | "!=", [Link::Fact(one, _), Link::Fact(other, _)]) = (name, &links[..]) {
            let same = Expr::SameFact(*one, *other);
            return Some(if name == "==" {
                same
            } else {
                Expr::Not(Box::new(same))
            });
        }
        if let ("len", [Link::Facts(list)]) = (name, &links[..]) {
            return Some(Expr::Count(*list));
        }
        let mut arguments = Vec::with_capacity(links.len());
        for link in links {
            let Link::Value(value) = link else { return None };
            arguments.push(value);
        }
        if call.op_token.is_none() {
            return builtin(name, arguments);
        }
        let mut sides = arguments.into_iter();
        match (name, sides.next()?, sides.next()) {
            ("!", inner, None) => Some(Expr::Not(Box::new(inner))),
            ("-", inner, None) => Some(Expr::Negate(Box::new(inner))),
            ("contains", list, Some(value)) => builtin(name, vec![list, value]),
            (_, left, Some(right)) => fold(operator_named(name)?, left, right),
            _ => None,
        }
    }
}

fn builtin(name: &str, arguments: Vec<Expr>) -> Option<Expr> {
    Builtin::named(name, arguments.len()).map(|builtin| Expr::Builtin(builtin, arguments.into()))
}

/// An operation, done at once when both sides are known and nothing speaks against it.
fn fold(operator: Binary, left: Expr, right: Expr) -> Option<Expr> {
    if let (Expr::Const(left), Expr::Const(right)) = (&left, &right) {
        let folded: Result<Value, Unsure> = effects::binary(operator, left, right);
        if let Ok(value) = folded {
            return Some(Expr::Const(value));
        }
    }
    Some(Expr::Binary(operator, Box::new((left, right))))
}
