//! The file's own functions in native form, one for each kind of arguments they are called with.

use rhai::{ASTFlags, Expr as Tree, FnCallExpr, Stmt};

use super::expression::Link;
use super::{COST, Found, Kind, Known, Writer};
use crate::Value;
use crate::steps::{Act, Argument, Block, Effect, Expr, Function, Own, Source, Step};

/// The most functions of one section, each kind of arguments counted for itself.
const FUNCTIONS_MAX: usize = 200;

/// The text of a function as the script engine has read it.
#[derive(Debug, Clone)]
pub(crate) struct OwnBody {
    pub name: String,
    pub parameters: Vec<String>,
    pub statements: Vec<Stmt>,
}

/// The functions that a section calls.
#[derive(Debug, Default)]
pub(super) struct Owns {
    known: Vec<Signature>,
    functions: Vec<Function>,
}

#[derive(Debug)]
struct Signature {
    name: String,
    kinds: Vec<Kind>,
    /// Whether it has effects; not known yet while it calls itself: then it shows when it runs.
    acts: bool,
}

impl Owns {
    pub(super) fn finish(self) -> Box<[Function]> {
        self.functions.into()
    }
}

/// A function that is given values and has no effects, with what it calls; itself the first.
pub(crate) fn function(known: Known<'_>, name: &str, arity: usize) -> Option<Box<[Function]>> {
    let mut owns = Owns::default();
    let acts = Writer::new(known, &mut owns)
        .compiled(name, &vec![Kind::Value; arity])?
        .1;
    (!acts).then(|| owns.finish())
}

impl Writer<'_, '_> {
    /// A call of one of the file's functions, and whether it has effects.
    pub(super) fn own(&mut self, call: &FnCallExpr) -> Option<(Own, bool)> {
        if call.capture_parent_scope || call.op_token.is_some() {
            return None;
        }
        self.cost += 2 * COST;
        let mut arguments = Vec::with_capacity(call.args.len());
        let mut kinds = Vec::with_capacity(call.args.len());
        for argument in &call.args {
            let (argument, kind) = match self.link(argument)? {
                Link::Value(expr) => (Argument::Value(expr), Kind::Value),
                Link::Fact(register, kind) => (Argument::Fact(register), Kind::Fact(kind)),
                Link::Facts(_) => return None,
            };
            arguments.push(argument);
            kinds.push(kind);
        }
        let (function, acts) = self.compiled(&call.name, &kinds)?;
        let own = Own {
            function,
            arguments: arguments.into(),
        };
        Some((own, acts))
    }

    /// The number of a function for arguments of these kinds, and whether it has effects.
    fn compiled(&mut self, name: &str, kinds: &[Kind]) -> Option<(usize, bool)> {
        let known = (self.owns.known.iter()).position(|known| known.name == name && known.kinds == kinds);
        if let Some(at) = known {
            return Some((at, self.owns.known[at].acts));
        }
        let at = self.owns.known.len();
        if at >= FUNCTIONS_MAX {
            return None;
        }
        let bodies = self.known.bodies.iter();
        let body = bodies
            .rev()
            .find(|body| body.name == name && body.parameters.len() == kinds.len())?;
        self.owns.known.push(Signature {
            name: name.to_owned(),
            kinds: kinds.to_vec(),
            acts: false,
        });
        self.owns.functions.push(Function::default());
        let mut inner = Writer::new(self.known, self.owns);
        inner.gives = true;
        for (parameter, kind) in body.parameters.iter().zip(kinds) {
            inner.declare(parameter, *kind, false)?;
        }
        let steps = inner.body(&body.statements)?;
        let (registers, acts) = (inner.registers, inner.acts);
        self.owns.functions[at] = Function {
            body: steps,
            registers,
        };
        self.owns.known[at].acts = acts;
        Some((at, acts))
    }

    /// Statements of which the last one is the value.
    fn body(&mut self, statements: &[Stmt]) -> Option<Block> {
        let Some((last, before)) = statements.split_last() else {
            return Some(Block::default());
        };
        let outer = self.names.len();
        let cost = self.cost;
        let mut steps = Vec::with_capacity(statements.len());
        for statement in before {
            self.cost = COST;
            let act = self.statement(statement)?;
            steps.push(Step { cost: self.cost, act });
        }
        self.cost = COST;
        let act = self.last(last)?;
        steps.push(Step { cost: self.cost, act });
        self.names.truncate(outer);
        self.cost = cost;
        Some(steps.into())
    }

    fn last(&mut self, statement: &Stmt) -> Option<Act> {
        Some(match statement {
            Stmt::Expr(tree) => match &**tree {
                // `list.push(…)` gives nothing back.
                Tree::Dot(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                    match self.push(&parts.lhs, &parts.rhs) {
                        Some(act) => act,
                        None => Act::Give(Source::Value(self.expression(tree)?)),
                    }
                }
                Tree::FnCall(call, _) => self.given(call)?,
                _ => Act::Give(self.source(tree)?.0),
            },
            Stmt::FnCall(call, _) => self.given(call)?,
            Stmt::If(flow, _) => {
                let condition = self.expression(&flow.expr)?;
                let (body, branch) = (
                    self.body(flow.body.statements())?,
                    self.body(flow.branch.statements())?,
                );
                Act::If(condition, body, branch)
            }
            Stmt::Block(block) => Act::If(
                Expr::Const(Value::Bool(true)),
                self.body(block.statements())?,
                Block::default(),
            ),
            other => self.statement(other)?,
        })
    }

    /// What a function gives back by calling another one.
    fn given(&mut self, call: &FnCallExpr) -> Option<Act> {
        if call.op_token.is_some() {
            return Some(Act::Give(Source::Value(self.operation(call)?)));
        }
        Some(Act::Give(match self.effect(call)? {
            Found::Effect(Effect::Own(own)) => Source::Effect(Effect::Own(own)),
            Found::Effect(effect) => Source::Effect(effect),
            Found::Pure => Source::Value(self.operation(call)?),
        }))
    }
}
