//! From rhai's syntax tree to native conditions, as far as they reach.

use std::sync::Arc;

use rhai::{ASTFlags, Expr as Tree};
use rustc_hash::FxHashMap;

use crate::expression::{Binary, Builtin, Expr, Own};
use crate::value::Text;
use crate::{FactType, Value};

/// What a name means in a clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A fact of this type, bound at this level.
    Fact(usize, usize),
    /// A value of this level.
    Value(usize),
    /// Collected facts of this level: only their number is known while matching.
    Collected(usize),
}

pub(crate) struct Converter<'a> {
    pub types: &'a [FactType],
    pub consts: &'a FxHashMap<String, Value>,
    pub meanings: &'a [(String, Meaning)],
    /// The file's own functions, which go before the built-in ones.
    pub functions: &'a [(String, usize)],
    /// The native form of one of them, by its arity.
    pub own: &'a dyn Fn(&str, usize) -> Option<Arc<Own>>,
}

/// What has been converted so far in a chain of dots.
enum Link {
    Fact(usize, usize),
    Collected(usize),
    Value(Expr),
}

impl Converter<'_> {
    fn meaning(&self, name: &str) -> Option<Meaning> {
        self.meanings
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, meaning)| *meaning)
    }

    /// The native form, if there is one.
    pub(crate) fn convert(&self, tree: &Tree) -> Option<Expr> {
        Some(match tree {
            Tree::BoolConstant(value, _) => Expr::Const((*value).into()),
            Tree::IntegerConstant(number, _) => Expr::Const((*number).into()),
            Tree::FloatConstant(number, _) => Expr::Const((**number).into()),
            Tree::StringConstant(text, _) => Expr::Const(Value::Str(text.clone().into())),
            Tree::Unit(_) => Expr::Const(Value::Null),
            Tree::And(parts, _) => Expr::All(
                parts
                    .iter()
                    .map(|part| self.convert(part))
                    .collect::<Option<_>>()?,
            ),
            Tree::Or(parts, _) => Expr::Some(
                parts
                    .iter()
                    .map(|part| self.convert(part))
                    .collect::<Option<_>>()?,
            ),
            Tree::Coalesce(parts, _) => Expr::Coalesce(
                parts
                    .iter()
                    .map(|part| self.convert(part))
                    .collect::<Option<_>>()?,
            ),
            Tree::Array(parts, _) => list(
                parts
                    .iter()
                    .map(|part| self.convert(part))
                    .collect::<Option<_>>()?,
            ),
            Tree::Map(parts, _) => {
                let entries = parts
                    .0
                    .iter()
                    .map(|(key, value)| Some((Text::from(key.name.as_str()), self.convert(value)?)));
                Expr::Map(entries.collect::<Option<_>>()?)
            }
            Tree::InterpolatedString(parts, _) => Expr::Joined(
                parts
                    .iter()
                    .map(|part| self.convert(part))
                    .collect::<Option<_>>()?,
            ),
            Tree::FnCall(call, _) => {
                let arguments: Vec<Expr> = call
                    .args
                    .iter()
                    .map(|part| self.convert(part))
                    .collect::<Option<_>>()?;
                if self.is_own(&call.name) {
                    if call.capture_parent_scope {
                        return None;
                    }
                    let own = (self.own)(&call.name, arguments.len())?;
                    return Some(Expr::Own(own, arguments));
                }
                Self::call(call.name.as_str(), arguments)?
            }
            Tree::Variable(..) | Tree::Dot(..) | Tree::Index(..) => Self::finish(self.link(tree)?)?,
            _ => return None,
        })
    }

    fn is_own(&self, name: &str) -> bool {
        self.functions.iter().any(|(own, _)| own == name)
    }

    fn finish(link: Link) -> Option<Expr> {
        match link {
            Link::Value(expr) => Some(expr),
            Link::Fact(..) | Link::Collected(_) => None,
        }
    }

    fn link(&self, tree: &Tree) -> Option<Link> {
        Some(match tree {
            Tree::Variable(variable, ..) => match self.meaning(&variable.1) {
                Some(Meaning::Fact(kind, level)) => Link::Fact(kind, level),
                Some(Meaning::Collected(level)) => Link::Collected(level),
                Some(Meaning::Value(level)) => Link::Value(Expr::Level(level)),
                None => Link::Value(Expr::Const(self.consts.get(variable.1.as_str())?.clone())),
            },
            Tree::Dot(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                let base = self.link(&parts.lhs)?;
                self.chain(base, &parts.rhs)?
            }
            Tree::Index(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                let base = Self::finish(self.link(&parts.lhs)?)?;
                self.index(base, &parts.rhs, *flags)?
            }
            other => Link::Value(self.convert(other)?),
        })
    }

    fn chain(&self, base: Link, rest: &Tree) -> Option<Link> {
        Some(match rest {
            Tree::Property(property, _) => match base {
                Link::Fact(kind, level) => {
                    Link::Value(Expr::Slot(level, self.types[kind].slot(&property.2)?))
                }
                // `x.len` is the length of a text or a list, and an entry of a map.
                Link::Value(_) if property.2 == "len" => return None,
                Link::Value(inner) => Link::Value(Expr::Get(Box::new(inner), property.2.clone().into())),
                Link::Collected(_) => return None,
            },
            Tree::MethodCall(call, _) => {
                let name = call.name.as_str();
                if self.is_own(name) {
                    return None;
                }
                if let Link::Collected(level) = base {
                    return match (name, call.args.len()) {
                        ("len", 0) => Some(Link::Value(Expr::Level(level))),
                        ("is_empty", 0) => {
                            let sides = Box::new((Expr::Level(level), Expr::Const(Value::Int(0))));
                            Some(Link::Value(Expr::Binary(Binary::Equal, sides)))
                        }
                        _ => None,
                    };
                }
                let mut arguments = vec![Self::finish(base)?];
                for argument in &call.args {
                    arguments.push(self.convert(argument)?);
                }
                Link::Value(Self::builtin(name, arguments)?)
            }
            Tree::Dot(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                let base = self.chain(base, &parts.lhs)?;
                self.chain(base, &parts.rhs)?
            }
            Tree::Index(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                let base = self.chain(base, &parts.lhs)?;
                self.index(Self::finish(base)?, &parts.rhs, *flags)?
            }
            _ => return None,
        })
    }

    fn index(&self, base: Expr, rest: &Tree, flags: ASTFlags) -> Option<Link> {
        let ends = flags.contains(ASTFlags::BREAK);
        let at = |place: Expr| Expr::Index(Box::new((base, place)));
        Some(match rest {
            Tree::Dot(parts, ..) if !ends => {
                self.chain(Link::Value(at(self.convert(&parts.lhs)?)), &parts.rhs)?
            }
            Tree::Index(parts, inner, _) if !ends => {
                self.index(at(self.convert(&parts.lhs)?), &parts.rhs, *inner)?
            }
            _ => Link::Value(at(self.convert(rest)?)),
        })
    }

    fn builtin(name: &str, arguments: Vec<Expr>) -> Option<Expr> {
        Builtin::named(name, arguments.len()).map(|builtin| Expr::Builtin(builtin, arguments))
    }

    fn call(name: &str, arguments: Vec<Expr>) -> Option<Expr> {
        let operator = match name {
            "!" => {
                return arguments
                    .into_iter()
                    .next()
                    .map(|inner| Expr::Not(Box::new(inner)));
            }
            "==" => Binary::Equal,
            "!=" => Binary::Differs,
            "<" => Binary::Less,
            "<=" => Binary::AtMost,
            ">" => Binary::Greater,
            ">=" => Binary::AtLeast,
            "+" => Binary::Add,
            "-" => Binary::Subtract,
            "*" => Binary::Multiply,
            "/" => Binary::Divide,
            "%" => Binary::Remainder,
            "**" => Binary::Power,
            _ => return Self::builtin(name, arguments),
        };
        let mut arguments = arguments.into_iter();
        match (operator, arguments.next(), arguments.next()) {
            (_, Some(left), Some(right)) => Some(Expr::Binary(operator, Box::new((left, right)))),
            (Binary::Subtract, Some(only), None) => Some(Expr::Negate(Box::new(only))),
            _ => None,
        }
    }
}

/// A list, made once when its elements are known.
fn list(parts: Vec<Expr>) -> Expr {
    let known = |part: &Expr| match part {
        Expr::Const(value) => Some(value.clone()),
        _ => None,
    };
    match parts.iter().map(known).collect::<Option<Vec<_>>>() {
        Some(values) => Expr::Const(Value::list(values)),
        None => Expr::List(parts),
    }
}
