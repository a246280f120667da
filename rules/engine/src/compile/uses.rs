//! What each rule reads and writes, noted while it is checked: the ground of the lints and of the graph.
//!
//! It knows what the file says, not how the network matches it.

use rhai::{Expr, Stmt};

use super::analysis::{Type, all_fields};
use crate::syntax::{ClauseKind, Span};
use crate::{FactType, Value};

/// What a rule reads and writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleUses {
    pub clauses: Vec<ClauseUse>,
    /// What its sections change, in the order of the text.
    pub writes: Vec<Write>,
    /// Whether its action makes calls, requests or timers: its reaction waits for something outside.
    pub waits: bool,
}

/// What a clause looks at.
#[derive(Debug, Clone)]
pub(crate) struct ClauseUse {
    pub kind: ClauseKind,
    pub fact_type: Option<usize>,
    /// The slots whose change makes the match new, those that the sections read included.
    pub reads: u64,
    /// Comparisons of a slot with constants, joined by `&&`. Of any clause, so the clause they speak of is named.
    pub tests: Vec<ConstTest>,
    /// The parts of the condition, as they stand.
    pub parts: Vec<Span>,
}

impl RuleUses {
    /// A condition of the clause that was begun last.
    pub(super) fn condition(&mut self, span: &Span, reads: &[u64], tests: Vec<ConstTest>) {
        self.read(reads);
        if let Some(clause) = self.clauses.last_mut() {
            clause.parts.push(span.clone());
            clause.tests.extend(tests);
        }
    }

    /// What was read of each clause's fact.
    pub(super) fn read(&mut self, reads: &[u64]) {
        for (clause, reads) in self.clauses.iter_mut().zip(reads) {
            clause.reads |= reads;
        }
    }
}

impl ClauseUse {
    pub(super) fn new(kind: ClauseKind, fact_type: Option<usize>, types: &[FactType]) -> Self {
        let reads = match (kind, fact_type) {
            // What a section reads of its elements is not known, so every change counts.
            (ClauseKind::Collect, Some(kind)) => all_fields(&types[kind]),
            _ => 0,
        };
        Self {
            kind,
            fact_type,
            reads,
            tests: Vec::new(),
            parts: Vec::new(),
        }
    }
}

/// A comparison of a slot with constants.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConstTest {
    pub level: usize,
    pub slot: usize,
    pub relation: Relation,
    pub span: Span,
}

/// How a slot compares with constants.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Relation {
    /// It is one of these.
    OneOf(Vec<Value>),
    Differs(Value),
    Less(Value),
    AtMost(Value),
    Greater(Value),
    AtLeast(Value),
}

/// A change that a section makes.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub change: Written,
    /// The section: 0 action, 1 reaction, 2 error.
    pub section: usize,
    /// Whether the section makes it whenever it ends well: not within a branch or a loop.
    pub certain: bool,
    pub span: Span,
}

/// What is changed.
#[derive(Debug, Clone)]
pub(crate) enum Written {
    /// A new fact; the fields that are given, with their values when they are constant.
    Insert {
        kind: usize,
        fields: Option<Vec<(usize, Given)>>,
    },
    /// A field of a fact, of the one bound at `level` if that is known.
    Update {
        kind: usize,
        level: Option<usize>,
        slot: usize,
        given: Given,
    },
    Retract {
        kind: usize,
        level: Option<usize>,
    },
    /// The fact is given to a function of the file, which may write anything.
    Anything {
        kind: usize,
    },
    /// A function of the file is called.
    Own(String),
}

impl Written {
    /// The type of the fact that is changed.
    pub(crate) const fn kind(&self) -> Option<usize> {
        match self {
            Self::Insert { kind, .. }
            | Self::Update { kind, .. }
            | Self::Retract { kind, .. }
            | Self::Anything { kind } => Some(*kind),
            Self::Own(_) => None,
        }
    }
}

/// The value that is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Given {
    Constant(Value),
    /// What it was and so much more, or less.
    Step(Value),
    Unknown,
}

/// The fact at `level` and its slot, when `expr` is `fact.slot` of a fact bound by `match`.
fn slot(
    expr: &Expr,
    typed: &dyn Fn(&str) -> Option<Type>,
    slots: &dyn Fn(usize, &str) -> Option<usize>,
) -> Option<(usize, usize)> {
    let Expr::Dot(parts, ..) = expr else { return None };
    let (Expr::Variable(variable, ..), Expr::Property(property, _)) = (&parts.lhs, &parts.rhs) else {
        return None;
    };
    match typed(&variable.1)? {
        Type::Fact(kind, Some(level)) => Some((level, slots(kind, &property.2)?)),
        _ => None,
    }
}

/// What is known of the names in an expression.
pub(super) struct Known<'a> {
    pub typed: &'a dyn Fn(&str) -> Option<Type>,
    pub slots: &'a dyn Fn(usize, &str) -> Option<usize>,
    pub constants: &'a dyn Fn(&str) -> Option<Value>,
}

impl Known<'_> {
    pub(super) fn slot(&self, expr: &Expr) -> Option<(usize, usize)> {
        slot(expr, self.typed, self.slots)
    }

    pub(super) fn constant(&self, expr: &Expr) -> Option<Value> {
        match expr {
            Expr::Variable(variable, ..) if (self.typed)(&variable.1).is_none() => {
                (self.constants)(&variable.1)
            }
            Expr::FnCall(call, _) if call.name == "-" && call.args.len() == 1 => {
                match self.constant(&call.args[0])? {
                    Value::Int(number) => number.checked_neg().map(Value::Int),
                    Value::Float(number) => Some(Value::Float(-number)),
                    _ => None,
                }
            }
            Expr::Array(parts, _) => parts
                .iter()
                .map(|part| self.constant(part))
                .collect::<Option<Vec<_>>>()
                .map(Value::list),
            _ => Value::from_dynamic(&expr.get_literal_value(None)?).ok(),
        }
    }

    /// What is written when `target` is assigned `value`.
    pub(super) fn given(&self, target: &Expr, operator: Option<&str>, value: &Expr) -> Given {
        let step = |value: Option<Value>, down: bool| match value {
            Some(Value::Int(number)) if down => number
                .checked_neg()
                .map_or(Given::Unknown, |number| Given::Step(number.into())),
            Some(Value::Int(number)) => Given::Step(number.into()),
            Some(Value::Float(number)) => Given::Step(Value::Float(if down { -number } else { number })),
            _ => Given::Unknown,
        };
        match (operator, value) {
            (Some("+"), _) => step(self.constant(value), false),
            (Some("-"), _) => step(self.constant(value), true),
            (Some(_), _) => Given::Unknown,
            (None, Expr::FnCall(call, _))
                if matches!(call.name.as_str(), "+" | "-")
                    && call.args.len() == 2
                    && self.slot(target).is_some()
                    && self.slot(&call.args[0]) == self.slot(target) =>
            {
                step(self.constant(&call.args[1]), call.name == "-")
            }
            (None, _) => self.constant(value).map_or(Given::Unknown, Given::Constant),
        }
    }

    /// The comparisons with constants that hold whenever `expr` holds.
    pub(super) fn tests(&self, expr: &Expr, span: &Span, found: &mut Vec<ConstTest>) {
        let mut add = |place: (usize, usize), relation| {
            found.push(ConstTest {
                level: place.0,
                slot: place.1,
                relation,
                span: span.clone(),
            });
        };
        match expr {
            Expr::And(parts, _) => {
                for part in parts.iter() {
                    self.tests(part, span, found);
                }
            }
            Expr::Or(parts, _) => {
                let mut values = Vec::new();
                let mut place = None;
                for part in parts.iter() {
                    let mut one = Vec::new();
                    self.tests(part, span, &mut one);
                    match one.as_slice() {
                        [
                            ConstTest {
                                level,
                                slot,
                                relation: Relation::OneOf(some),
                                ..
                            },
                        ] if place.is_none_or(|place| place == (*level, *slot)) => {
                            place = Some((*level, *slot));
                            values.extend(some.iter().cloned());
                        }
                        _ => return,
                    }
                }
                if let Some(place) = place {
                    add(place, Relation::OneOf(values));
                }
            }
            Expr::FnCall(call, _) => {
                if let Some((place, relation)) = self.comparison(call.name.as_str(), &call.args) {
                    add(place, relation);
                }
            }
            Expr::Stmt(block) => {
                if let [Stmt::Expr(inner)] = block.statements() {
                    self.tests(inner, span, found);
                }
            }
            _ => {
                if let Some(place) = self.slot(expr) {
                    add(place, Relation::OneOf(vec![Value::Bool(true)]));
                }
            }
        }
    }

    fn comparison(&self, name: &str, arguments: &[Expr]) -> Option<((usize, usize), Relation)> {
        match (name, arguments) {
            ("!", [inner]) => Some((self.slot(inner)?, Relation::OneOf(vec![Value::Bool(false)]))),
            ("in", [one, list]) | ("contains", [list, one]) => {
                let Value::List(values) = self.constant(list)? else {
                    return None;
                };
                Some((self.slot(one)?, Relation::OneOf(values.to_vec())))
            }
            (_, [left, right]) => match (self.slot(left), self.constant(right)) {
                (Some(place), Some(value)) => Some((place, relation(name, value)?)),
                _ => {
                    let mirrored = match name {
                        "<" => ">",
                        "<=" => ">=",
                        ">" => "<",
                        ">=" => "<=",
                        same => same,
                    };
                    Some((self.slot(right)?, relation(mirrored, self.constant(left)?)?))
                }
            },
            _ => None,
        }
    }
}

fn relation(name: &str, value: Value) -> Option<Relation> {
    Some(match name {
        "==" => Relation::OneOf(vec![value]),
        "!=" => Relation::Differs(value),
        "<" => Relation::Less(value),
        "<=" => Relation::AtMost(value),
        ">" => Relation::Greater(value),
        ">=" => Relation::AtLeast(value),
        _ => return None,
    })
}
