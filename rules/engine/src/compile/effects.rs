//! From rhai's syntax tree to a section in native form, as far as it reaches: statements and effects.
//!
//! One thing that is not known leaves the whole section to the script engine. What the form means is in
//! [`crate::memory::effects`]; every construct here has been run against the script engine with random sections.

mod expression;
mod functions;

use rhai::{ASTFlags, Expr as Tree, FnCallExpr, Stmt};
use rustc_hash::FxHashMap;

use crate::expression::Binary;
use crate::limits::Limits;
use crate::scripts::CALL;
use crate::steps::{
    Act, Block, Call, Effect, Expr, For, Insert, Json, Loop, Over, Piece, Place, Register, Sizes, Source,
    Step, Steps,
};
use crate::{FactType, Value};
use functions::Owns;
pub(crate) use functions::{OwnBody, function};

/// The most registers of a section: far more than anybody writes, far fewer than the script engine's variables.
const REGISTERS_MAX: usize = 200;

/// Operations that the script engine counts for one part of an expression or one statement: at most so many.
const COST: u64 = 3;

/// What a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Value,
    /// A fact of this type.
    Fact(usize),
    /// Collected facts of this type.
    Facts(usize),
}

/// What a section's text may refer to.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub types: &'a [FactType],
    pub consts: &'a FxHashMap<String, Value>,
    /// The file's own functions, which go before the built-in ones.
    pub functions: &'a [(String, usize)],
    pub bodies: &'a [OwnBody],
}

/// Whether the bounds are such that no slot of a fact can exceed what a script may hold.
pub(crate) const fn is_roomy(limits: &Limits) -> bool {
    // A short value may be written to a fact that is already full.
    let bytes = limits.fact_bytes.saturating_mul(2);
    bytes <= limits.string_bytes && bytes / 16 <= limits.list_length && bytes / 16 <= limits.map_length
}

/// The native form of a section with these parameters, if there is one.
pub(crate) fn native(
    known: Known<'_>,
    parameters: impl IntoIterator<Item = (String, Kind)>,
    statements: &[Stmt],
) -> Option<Steps> {
    let mut owns = Owns::default();
    let mut writer = Writer::new(known, &mut owns);
    for (name, kind) in parameters {
        writer.declare(&name, kind, false)?;
    }
    let body = writer.block(statements)?;
    let registers = writer.registers;
    Some(Steps {
        body,
        registers,
        functions: owns.finish(),
    })
}

/// What a function of a section is.
enum Found {
    Effect(Effect),
    /// It has no effect, and maybe no native form.
    Pure,
}

struct Name {
    name: String,
    register: Register,
    kind: Kind,
    constant: bool,
}

struct Writer<'a, 'o> {
    known: Known<'a>,
    owns: &'o mut Owns,
    names: Vec<Name>,
    registers: usize,
    /// What the statement under way costs.
    cost: u64,
    /// It is the body of a function, which may give something back.
    gives: bool,
    /// Something has an effect.
    acts: bool,
}

impl<'a, 'o> Writer<'a, 'o> {
    fn new(known: Known<'a>, owns: &'o mut Owns) -> Self {
        Self {
            known,
            owns,
            names: Vec::new(),
            registers: 0,
            cost: 0,
            gives: false,
            acts: false,
        }
    }

    fn declare(&mut self, name: &str, kind: Kind, constant: bool) -> Option<Register> {
        // The file's constants are found before any variable.
        if self.registers >= REGISTERS_MAX || self.known.consts.contains_key(name) {
            return None;
        }
        let register = Register::try_from(self.registers).ok()?;
        self.registers += 1;
        self.names.push(Name {
            name: name.to_owned(),
            register,
            kind,
            constant,
        });
        Some(register)
    }

    fn find(&self, name: &str) -> Option<&Name> {
        if self.known.consts.contains_key(name) {
            return None;
        }
        self.names.iter().rev().find(|known| known.name == name)
    }

    /// The register of a fact and its type.
    fn fact(&mut self, tree: &Tree) -> Option<(Register, usize)> {
        self.cost += COST;
        let Tree::Variable(variable, ..) = tree else {
            return None;
        };
        let name = self.find(&variable.1)?;
        match name.kind {
            Kind::Fact(kind) => Some((name.register, kind)),
            _ => None,
        }
    }

    fn block(&mut self, statements: &[Stmt]) -> Option<Block> {
        let outer = self.names.len();
        let cost = self.cost;
        let mut steps = Vec::with_capacity(statements.len());
        for statement in statements {
            self.cost = COST;
            let act = self.statement(statement)?;
            steps.push(Step { cost: self.cost, act });
        }
        self.names.truncate(outer);
        self.cost = cost;
        Some(steps.into())
    }

    fn statement(&mut self, statement: &Stmt) -> Option<Act> {
        Some(match statement {
            Stmt::Noop(_) => Act::Nothing,
            Stmt::Var(parts, flags, _) => {
                let (ident, value, _) = &**parts;
                let (source, kind) = self.source(value)?;
                let constant = flags.contains(ASTFlags::CONSTANT);
                let register = self.declare(ident.name.as_str(), kind, constant)?;
                Act::Set(register, source)
            }
            Stmt::Assignment(parts) => self.assignment(parts.0.get_op_assignment_info(), &parts.1)?,
            Stmt::FnCall(call, _) => self.effect_statement(call)?,
            Stmt::Expr(tree) => match &**tree {
                Tree::FnCall(call, _) => self.effect_statement(call)?,
                Tree::Dot(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                    self.push(&parts.lhs, &parts.rhs)?
                }
                _ => return None,
            },
            Stmt::Block(block) => Act::If(
                Expr::Const(Value::Bool(true)),
                self.block(block.statements())?,
                Block::default(),
            ),
            Stmt::If(flow, _) => {
                let condition = self.expression(&flow.expr)?;
                let (body, branch) = (
                    self.block(flow.body.statements())?,
                    self.block(flow.branch.statements())?,
                );
                Act::If(condition, body, branch)
            }
            Stmt::While(flow, _) => {
                let before = std::mem::replace(&mut self.cost, COST);
                let condition = match &flow.expr {
                    Tree::Unit(_) => None,
                    tree => Some(self.expression(tree)?),
                };
                let cost = std::mem::replace(&mut self.cost, before);
                let body = self.block(flow.body.statements())?;
                Act::While(Loop {
                    condition,
                    cost,
                    body,
                })
            }
            Stmt::For(parts, _) => self.walk(parts.0.name.as_str(), parts.1.as_ref(), &parts.2)?,
            Stmt::BreakLoop(None, flags, _) if flags.contains(ASTFlags::BREAK) => Act::Break,
            Stmt::BreakLoop(None, ..) => Act::Continue,
            Stmt::Return(None, flags, _) if !flags.contains(ASTFlags::BREAK) => Act::Return,
            Stmt::Return(Some(value), flags, _) if self.gives && !flags.contains(ASTFlags::BREAK) => {
                Act::Give(self.source(value)?.0)
            }
            Stmt::Return(_, flags, _) if flags.contains(ASTFlags::BREAK) => Act::Leave,
            _ => return None,
        })
    }

    fn walk(
        &mut self,
        element: &str,
        counter: Option<&rhai::Ident>,
        flow: &rhai::FlowControl,
    ) -> Option<Act> {
        let outer = self.names.len();
        let (over, kind) = self.over(&flow.expr)?;
        let counter = match counter {
            Some(name) => Some(self.declare(name.name.as_str(), Kind::Value, false)?),
            None => None,
        };
        // Whether an element may be assigned to depends, in the script engine, on where it comes from.
        let element = self.declare(element, kind, true)?;
        let body = self.block(flow.body.statements())?;
        self.names.truncate(outer);
        Some(Act::For(Box::new(For {
            element,
            counter,
            over,
            body,
        })))
    }

    fn over(&mut self, tree: &Tree) -> Option<(Over, Kind)> {
        self.cost += COST;
        match tree {
            Tree::FnCall(call, _) if matches!(call.name.as_str(), ".." | "..=") => {
                let [from, to] = &call.args[..] else { return None };
                let (from, to) = (self.expression(from)?, self.expression(to)?);
                return Some((Over::Range(from, to, call.name == "..="), Kind::Value));
            }
            Tree::Variable(variable, ..) => {
                if let Some(name) = self.find(&variable.1)
                    && let Kind::Facts(kind) = name.kind
                {
                    return Some((Over::Facts(name.register), Kind::Fact(kind)));
                }
            }
            _ => {}
        }
        Some((Over::List(self.expression(tree)?), Kind::Value))
    }

    fn assignment(
        &mut self,
        operator: Option<(u64, u64, &rhai::Token, &str, &rhai::Token, &str)>,
        sides: &rhai::BinaryExpr,
    ) -> Option<Act> {
        let operator = match operator {
            Some((.., name)) => Some(operator_named(name)?),
            None => None,
        };
        self.cost += COST;
        match &sides.lhs {
            Tree::Variable(variable, ..) => {
                let (source, kind) = self.source(&sides.rhs)?;
                let name = self.find(&variable.1)?;
                if name.constant || name.kind != kind {
                    return None;
                }
                let register = name.register;
                Some(match (operator, source) {
                    (None, source) => Act::Set(register, source),
                    (Some(operator), Source::Value(value)) => Act::Change(register, operator, value),
                    _ => return None,
                })
            }
            Tree::Dot(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
                let Tree::Property(property, _) = &parts.rhs else {
                    return None;
                };
                let value = self.expression(&sides.rhs)?;
                let (fact, kind) = self.fact(&parts.lhs)?;
                let slot = self.known.types[kind].slot(&property.2)?;
                let place = Place { fact, slot };
                self.acts = true;
                Some(match operator {
                    None => Act::Write(place, value),
                    Some(operator) => Act::Alter(place, operator, value),
                })
            }
            _ => None,
        }
    }

    /// `list.push(value)`.
    fn push(&mut self, list: &Tree, method: &Tree) -> Option<Act> {
        let (Tree::Variable(variable, ..), Tree::MethodCall(call, _)) = (list, method) else {
            return None;
        };
        if call.name != "push" || self.is_own("push") {
            return None;
        }
        let [value] = &call.args[..] else { return None };
        self.cost += 2 * COST;
        let value = self.expression(value)?;
        let name = self.find(&variable.1)?;
        (name.kind == Kind::Value && !name.constant).then_some(Act::Push(name.register, value))
    }

    /// Whether the file has a function of this name.
    fn is_own(&self, name: &str) -> bool {
        self.known.functions.iter().any(|(own, _)| own == name)
    }

    /// Where a register's value comes from, and what it will hold.
    fn source(&mut self, tree: &Tree) -> Option<(Source, Kind)> {
        if let Tree::Variable(variable, ..) = tree
            && let Some(name) = self.find(&variable.1)
            && let Kind::Fact(kind) = name.kind
        {
            let register = name.register;
            self.cost += COST;
            return Some((Source::Fact(register), Kind::Fact(kind)));
        }
        if let Tree::FnCall(call, _) = tree
            && call.op_token.is_none()
            && let Found::Effect(effect) = self.effect(call)?
        {
            let kind = match &effect {
                Effect::Insert(insert) => Kind::Fact(insert.kind),
                _ => Kind::Value,
            };
            return Some((Source::Effect(effect), kind));
        }
        Some((Source::Value(self.expression(tree)?), Kind::Value))
    }

    fn effect_statement(&mut self, call: &FnCallExpr) -> Option<Act> {
        if call.name == "push" && call.args.len() == 2 {
            // `push(list, value)` is what `list.push(value)` means.
            return None;
        }
        match self.effect(call)? {
            Found::Effect(effect) => Some(Act::Do(effect)),
            // What a function of the file throws counts, whatever it gives back.
            Found::Pure if self.is_own(&call.name) => Some(Act::Do(Effect::Own(self.own(call)?.0))),
            Found::Pure => None,
        }
    }

    /// The effect that a function makes; none when it has no native form.
    fn effect(&mut self, call: &FnCallExpr) -> Option<Found> {
        let name = if call.name == CALL {
            "call"
        } else {
            call.name.as_str()
        };
        if call.op_token.is_some() {
            return Some(Found::Pure);
        }
        if self.is_own(name) {
            let (own, acts) = self.own(call)?;
            self.acts |= acts;
            return Some(if acts {
                Found::Effect(Effect::Own(own))
            } else {
                Found::Pure
            });
        }
        self.cost += COST;
        let effect = match (name, &call.args[..]) {
            ("insert", [Tree::StringConstant(fact_type, _), Tree::Map(parts, _)]) => {
                self.cost += 2 * COST;
                self.insert(fact_type, &parts.0)?
            }
            ("retract", [fact]) => Effect::Retract(self.fact(fact)?.0),
            ("call", [target, input]) => Effect::Call(self.call(target, input, None)?),
            ("call", [target, input, options]) => Effect::Call(self.call(target, input, Some(options))?),
            ("request", [target, input]) => Effect::Request(self.call(target, input, None)?),
            ("request", [target, input, options]) => {
                Effect::Request(self.call(target, input, Some(options))?)
            }
            ("timer", [when]) => Effect::Timer(self.expression(when)?),
            ("emit", [event_type, content]) => {
                Effect::Emit(self.expression(event_type)?, self.json(content)?)
            }
            ("complete", []) => Effect::Complete(json_of(Expr::Const(Value::Null))),
            ("complete", [result]) => Effect::Complete(self.json(result)?),
            ("fail", [message]) => Effect::Fail(self.expression(message)?, None),
            ("fail", [message, content]) => {
                Effect::Fail(self.expression(message)?, Some(self.json(content)?))
            }
            ("retry", []) => Effect::Retry(Expr::Const(Value::Null)),
            ("retry", [options]) => Effect::Retry(self.expression(options)?),
            ("progress", [fraction]) => Effect::Progress(self.expression(fraction)?, Expr::Const("".into())),
            ("progress", [fraction, text]) => {
                Effect::Progress(self.expression(fraction)?, self.expression(text)?)
            }
            ("log", [line]) => Effect::Log(self.expression(line)?),
            ("random", []) => Effect::Random,
            ("uid", []) => Effect::Uid,
            ("halt", []) => Effect::Halt,
            _ => return Some(Found::Pure),
        };
        self.acts = true;
        Some(Found::Effect(effect))
    }

    fn insert(&mut self, fact_type: &str, entries: &[(rhai::Ident, Tree)]) -> Option<Effect> {
        let kind = self
            .known
            .types
            .iter()
            .position(|known| &*known.name == fact_type)?;
        let fact_type = &self.known.types[kind];
        let mut given = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            let slot = fact_type.slot(name.name.as_str())?;
            if given.iter().any(|(known, _)| *known == slot) {
                return None;
            }
            given.push((slot, self.expression(value)?));
        }
        let slots = (fact_type.fields.iter().enumerate())
            .map(|(slot, field)| match &field.default {
                _ if given.iter().any(|(known, _)| *known == slot) => Some(Value::Null),
                Some(value) => Some(value.clone()),
                None => field.optional.then_some(Value::Null),
            })
            .collect::<Option<_>>()?;
        Some(Effect::Insert(Box::new(Insert {
            kind,
            slots,
            given: given.into(),
        })))
    }

    fn call(&mut self, target: &Tree, input: &Tree, options: Option<&Tree>) -> Option<Box<Call>> {
        let target = self.expression(target)?;
        let name = match &target {
            Expr::Const(Value::Str(name)) => Some(name.as_str().into()),
            _ => None,
        };
        let input = self.json(input)?;
        let options = match options {
            Some(options) => self.expression(options)?,
            None => Expr::Const(Value::Null),
        };
        Some(Box::new(Call {
            target,
            name,
            input,
            options,
        }))
    }

    fn json(&mut self, tree: &Tree) -> Option<Json> {
        Some(json_of(self.expression(tree)?))
    }
}

fn operator_named(name: &str) -> Option<Binary> {
    Some(match name {
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
        _ => return None,
    })
}

/// The JSON text of an expression: lists, maps and literals are written out now.
fn json_of(expr: Expr) -> Json {
    let mut json = Flat::default();
    json.write(expr, 0);
    json.flush();
    Json {
        pieces: json.pieces.into(),
        sizes: json.sizes,
    }
}

#[derive(Default)]
struct Flat {
    pieces: Vec<Piece>,
    text: String,
    sizes: Sizes,
}

impl Flat {
    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.pieces
                .push(Piece::Text(std::mem::take(&mut self.text).into()));
        }
    }

    fn write(&mut self, expr: Expr, depth: usize) {
        match expr {
            // Artifacts are looked for in values.
            Expr::Map(entries) if entries.iter().all(|(key, _)| key.as_str() != "$artifact") => {
                self.sizes.maps += entries.len();
                self.text.push('{');
                for (at, (key, value)) in entries.into_iter().enumerate() {
                    if at > 0 {
                        self.text.push(',');
                    }
                    self.text += &Value::Str(key).to_json();
                    self.text.push(':');
                    self.write(value, depth + 1);
                }
                self.text.push('}');
            }
            Expr::List(values) => {
                self.sizes.lists += values.len();
                self.text.push('[');
                for (at, value) in values.into_iter().enumerate() {
                    if at > 0 {
                        self.text.push(',');
                    }
                    self.write(value, depth + 1);
                }
                self.text.push(']');
            }
            Expr::Const(value @ (Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_))) => {
                self.text += &value.to_json();
            }
            Expr::Const(Value::Str(text)) => {
                self.sizes.strings += text.len();
                self.text += &Value::Str(text).to_json();
            }
            other => {
                self.flush();
                self.pieces.push(Piece::Value(other, depth));
            }
        }
    }
}
