//! Conditions in native form: the comparable part of the script language, evaluated without the script engine.
//!
//! It means what rhai means: whole numbers are checked for overflow, `1 == 1.0`, values of different kinds are never
//! equal and in no order. What it cannot express is left to a script ([`Expr::Script`]).

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use rhai::Dynamic;
use smallvec::SmallVec;

use crate::memory::effects::{self, Cell, Cells};
use crate::memory::store::{Fact, Store};
use crate::ruleset::RuleSet;
use crate::scripts::Script;
use crate::steps::Function;
use crate::value::{Text, to_float};
use crate::{FactType, Value};

/// Why a condition has no value; it counts as false.
pub(crate) type Failed = String;
type Evaluated<'a> = Result<Cow<'a, Value>, Failed>;

/// What a level of a partial match holds.
#[derive(Debug, Clone)]
pub(crate) enum Bound {
    Nothing,
    Fact(u32),
    Value(Value),
    /// That many collected facts.
    Collected(i64),
}

pub(crate) type Levels = SmallVec<[Bound; 6]>;

/// What a level holds, as a condition sees it.
pub(crate) enum Seen<'a> {
    Nothing,
    Fact(&'a Fact),
    Value(&'a Value),
    Collected(i64),
}

/// Where a condition looks: an array of levels, or a chain of tokens.
pub(crate) trait Look<'a> {
    fn rules(&self) -> &'a RuleSet;
    fn level(&self, level: usize) -> Seen<'a>;
    /// What [`Self::level`] gives, when it is a fact: the commonest question.
    fn fact(&self, level: usize) -> Option<&'a Fact>;
}

/// Levels written out: for explanations.
pub(crate) struct Frame<'a> {
    pub rules: &'a RuleSet,
    pub store: &'a Store,
    pub levels: &'a [Bound],
}

impl<'a> Look<'a> for Frame<'a> {
    fn rules(&self) -> &'a RuleSet {
        self.rules
    }

    fn level(&self, level: usize) -> Seen<'a> {
        match &self.levels[level] {
            Bound::Nothing => Seen::Nothing,
            Bound::Fact(at) => Seen::Fact(self.store.get(*at)),
            Bound::Value(value) => Seen::Value(value),
            Bound::Collected(length) => Seen::Collected(*length),
        }
    }

    fn fact(&self, level: usize) -> Option<&'a Fact> {
        match &self.levels[level] {
            Bound::Fact(at) => Some(self.store.get(*at)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    Equal,
    Differs,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builtin {
    Len,
    IsEmpty,
    Contains,
    StartsWith,
    EndsWith,
    ToUpper,
    ToLower,
    Abs,
    Min,
    Max,
    ToText,
}

impl Builtin {
    pub(crate) fn named(name: &str, arity: usize) -> Option<Self> {
        Some(match (name, arity) {
            ("len", 1) => Self::Len,
            ("is_empty", 1) => Self::IsEmpty,
            ("contains", 2) => Self::Contains,
            ("starts_with", 2) => Self::StartsWith,
            ("ends_with", 2) => Self::EndsWith,
            ("to_upper", 1) => Self::ToUpper,
            ("to_lower", 1) => Self::ToLower,
            ("abs", 1) => Self::Abs,
            ("min", 2) => Self::Min,
            ("max", 2) => Self::Max,
            ("to_string", 1) => Self::ToText,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Expr {
    Const(Value),
    Slot(usize, usize),
    Level(usize),
    Get(Box<Self>, Text),
    Index(Box<(Self, Self)>),
    Not(Box<Self>),
    Negate(Box<Self>),
    Binary(Binary, Box<(Self, Self)>),
    All(Vec<Self>),
    Some(Vec<Self>),
    Coalesce(Vec<Self>),
    Builtin(Builtin, Vec<Self>),
    List(Vec<Self>),
    Map(Vec<(Text, Self)>),
    Joined(Vec<Self>),
    Script(Arc<Script>),
    /// A function of the file, of values.
    Own(Arc<Own>, Vec<Self>),
}

/// A function of the file that has no effects, in native form.
pub(crate) struct Own {
    pub name: String,
    /// The function, and those it calls.
    pub functions: Box<[Function]>,
    /// The same for the script engine, which has the last word on what does not go well.
    pub script: Script,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tells it from the other functions of its file.
        write!(f, "{:?}", self.name)
    }
}

impl Own {
    fn value(&self, rules: &RuleSet, arguments: Cells) -> Result<Value, Failed> {
        if let Ok(value) = effects::apply(&self.functions, rules, arguments.clone()) {
            return Ok(value);
        }
        let arguments = arguments.into_iter().map(|cell| match cell {
            Cell::Value(value) => value.to_dynamic(),
            Cell::Fact(_) | Cell::Facts(_) => Dynamic::UNIT,
        });
        rules.scripts.evaluate(&self.script, arguments.collect())
    }
}

impl Expr {
    pub(crate) fn holds<'a>(&'a self, frame: &impl Look<'a>) -> Result<bool, Failed> {
        match self {
            // The commonest test, without a detour.
            Self::Binary(operator, sides) => {
                let compare = |left: &Value, right: &Value| compare(*operator, left, right);
                let found = match (sides.0.place(frame), sides.1.place(frame)) {
                    (Some(left), Some(right)) => compare(left, right),
                    (Some(left), None) => compare(left, &*sides.1.value(frame)?),
                    (None, Some(right)) => compare(&*sides.0.value(frame)?, right),
                    (None, None) => compare(&*sides.0.value(frame)?, &*sides.1.value(frame)?),
                };
                found.ok_or_else(|| "a condition must be true or false, not a number".into())
            }
            Self::Slot(..) => match self.place(frame) {
                Some(Value::Bool(value)) => Ok(*value),
                Some(other) => Err(format!(
                    "a condition must be true or false, not {}",
                    other.kind_name()
                )),
                None => Err("a fact is not bound here".into()),
            },
            Self::All(parts) => {
                for part in parts {
                    if !part.holds(frame)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Some(parts) => {
                for part in parts {
                    if part.holds(frame)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(inner) => Ok(!inner.holds(frame)?),
            _ => match &*self.value(frame)? {
                Value::Bool(value) => Ok(*value),
                other => Err(format!(
                    "a condition must be true or false, not {}",
                    other.kind_name()
                )),
            },
        }
    }

    /// The value where it lies, when the expression is no more than a place or a literal.
    pub(crate) fn place<'a>(&'a self, frame: &impl Look<'a>) -> Option<&'a Value> {
        match self {
            Self::Const(value) => Some(value),
            Self::Slot(level, slot) => frame.fact(*level).map(|fact| &fact.slots[*slot]),
            _ => None,
        }
    }

    pub(crate) fn value<'a>(&'a self, frame: &impl Look<'a>) -> Evaluated<'a> {
        match self {
            Self::Const(value) => Ok(Cow::Borrowed(value)),
            Self::Slot(level, slot) => match frame.fact(*level) {
                Some(fact) => Ok(Cow::Borrowed(&fact.slots[*slot])),
                None => Err("a fact is not bound here".into()),
            },
            Self::Level(level) => match frame.level(*level) {
                Seen::Value(value) => Ok(Cow::Borrowed(value)),
                Seen::Collected(length) => Ok(Cow::Owned(Value::Int(length))),
                _ => Err("a value is not bound here".into()),
            },
            Self::Get(inner, key) => get(inner.value(frame)?, key),
            Self::Index(parts) => index(parts.0.value(frame)?, &*parts.1.value(frame)?),
            Self::Not(_) | Self::All(_) | Self::Some(_) => Ok(Cow::Owned(Value::Bool(self.holds(frame)?))),
            Self::Negate(inner) => match &*inner.value(frame)? {
                Value::Int(number) => number
                    .checked_neg()
                    .map(|n| Cow::Owned(Value::Int(n)))
                    .ok_or_else(overflow),
                Value::Float(number) => Ok(Cow::Owned(Value::Float(-number))),
                other => Err(format!("{} has no negative", other.kind_name())),
            },
            Self::Binary(operator, sides) => {
                let (left, right) = (sides.0.value(frame)?, sides.1.value(frame)?);
                binary(*operator, &left, &right).map(Cow::Owned)
            }
            Self::Coalesce(parts) => {
                for part in parts {
                    let value = part.value(frame)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Ok(Cow::Owned(Value::Null))
            }
            Self::Builtin(builtin, arguments) => {
                let arguments: SmallVec<[Cow<'_, Value>; 2]> = arguments
                    .iter()
                    .map(|argument| argument.value(frame))
                    .collect::<Result<_, _>>()?;
                call(*builtin, &arguments).map(Cow::Owned)
            }
            Self::List(values) => {
                let values: Result<Vec<_>, _> = values
                    .iter()
                    .map(|value| value.value(frame).map(Cow::into_owned))
                    .collect();
                Ok(Cow::Owned(Value::List(Arc::new(values?))))
            }
            Self::Map(entries) => {
                let entries: Result<Vec<_>, Failed> = (entries.iter())
                    .map(|(key, value)| Ok((key.clone(), value.value(frame)?.into_owned())))
                    .collect();
                Ok(Cow::Owned(Value::map(entries?)))
            }
            Self::Joined(parts) => {
                let mut text = String::new();
                for part in parts {
                    text.push_str(&to_text(&*part.value(frame)?));
                }
                Ok(Cow::Owned(text.into()))
            }
            Self::Script(script) => {
                let arguments: Vec<Dynamic> = (script.arguments.iter())
                    .map(|argument| argument_value(frame, argument.level, argument.reads))
                    .collect();
                frame.rules().scripts.evaluate(script, arguments).map(Cow::Owned)
            }
            Self::Own(own, arguments) => {
                let mut cells = Cells::new();
                for argument in arguments {
                    cells.push(Cell::Value(argument.value(frame)?.into_owned()));
                }
                own.value(frame.rules(), cells).map(Cow::Owned)
            }
        }
    }
}

/// What a script of a condition sees: a bound fact is a map of the fields it reads.
fn argument_value<'a>(frame: &impl Look<'a>, level: usize, reads: u64) -> Dynamic {
    match frame.level(level) {
        Seen::Fact(fact) => {
            let fact_type: &FactType = &frame.rules().types[fact.kind];
            let fields = fact_type.fields.iter().zip(fact.slots.iter()).enumerate();
            fields
                .filter(|(slot, _)| reads >> slot & 1 == 1)
                .map(|(_, (field, value))| ((&*field.name).into(), value.to_dynamic()))
                .collect::<rhai::Map>()
                .into()
        }
        Seen::Value(value) => value.to_dynamic(),
        Seen::Collected(length) => length.into(),
        Seen::Nothing => Dynamic::UNIT,
    }
}

fn overflow() -> Failed {
    "a number is too large".into()
}

/// A value as scripts write it into a string.
pub(crate) fn to_text(value: &Value) -> String {
    match value {
        Value::Str(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        other => other.to_dynamic().to_string(),
    }
}

pub(crate) fn get<'a>(value: Cow<'a, Value>, key: &str) -> Evaluated<'a> {
    match value {
        Cow::Borrowed(Value::Map(map)) => Ok(map.get(key).map_or(Cow::Owned(Value::Null), Cow::Borrowed)),
        Cow::Owned(Value::Map(map)) => Ok(Cow::Owned(map.get(key).cloned().unwrap_or_default())),
        other => Err(format!("{} has no property `{key}`", other.kind_name())),
    }
}

fn index<'a>(value: Cow<'a, Value>, at: &Value) -> Evaluated<'a> {
    match (&*value, at) {
        (Value::List(values), Value::Int(at)) => {
            let length = i64::try_from(values.len()).unwrap_or(i64::MAX);
            let place = if *at < 0 { length + at } else { *at };
            (usize::try_from(place)
                .ok()
                .and_then(|place| values.get(place))
                .cloned())
            .map(Cow::Owned)
            .ok_or_else(|| format!("the list has no element {at}"))
        }
        (Value::Map(_), Value::Str(key)) => {
            let key = key.clone();
            get(value, &key)
        }
        (other, _) => Err(format!("{} has no elements", other.kind_name())),
    }
}

/// What a comparison says; `None` for arithmetic.
fn compare(operator: Binary, left: &Value, right: &Value) -> Option<bool> {
    let order = || left.order(right);
    Some(match operator {
        Binary::Equal => left.same(right),
        Binary::Differs => !left.same(right),
        Binary::Less => order() == Some(Ordering::Less),
        Binary::AtMost => order().is_some_and(Ordering::is_le),
        Binary::Greater => order() == Some(Ordering::Greater),
        Binary::AtLeast => order().is_some_and(Ordering::is_ge),
        _ => return None,
    })
}

pub(crate) fn binary(operator: Binary, left: &Value, right: &Value) -> Result<Value, Failed> {
    match compare(operator, left, right) {
        Some(truth) => Ok(Value::Bool(truth)),
        None => arithmetic(operator, left, right),
    }
}

fn arithmetic(operator: Binary, left: &Value, right: &Value) -> Result<Value, Failed> {
    let (a, b) = match (left, right) {
        (Value::Int(a), Value::Int(b)) => return whole(operator, *a, *b).map(Value::Int),
        (Value::Float(a), Value::Float(b)) => (*a, *b),
        (Value::Int(a), Value::Float(b)) => (to_float(*a), *b),
        (Value::Float(a), Value::Int(b)) => (*a, to_float(*b)),
        (Value::Str(_), _) | (_, Value::Str(_)) if operator == Binary::Add => {
            return Ok(format!("{}{}", to_text(left), to_text(right)).into());
        }
        _ => {
            return Err(format!(
                "no arithmetic between {} and {}",
                left.kind_name(),
                right.kind_name()
            ));
        }
    };
    Ok(Value::Float(match operator {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        Binary::Remainder => a % b,
        _ => a.powf(b),
    }))
}

fn whole(operator: Binary, a: i64, b: i64) -> Result<i64, Failed> {
    match operator {
        Binary::Add => a.checked_add(b),
        Binary::Subtract => a.checked_sub(b),
        Binary::Multiply => a.checked_mul(b),
        Binary::Divide | Binary::Remainder if b == 0 => return Err("division by zero".into()),
        Binary::Divide => a.checked_div(b),
        Binary::Remainder => a.checked_rem(b),
        _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    }
    .ok_or_else(overflow)
}

pub(crate) fn call(builtin: Builtin, arguments: &[Cow<'_, Value>]) -> Result<Value, Failed> {
    let first = &*arguments[0];
    let wrong = || format!("no such function of {}", first.kind_name());
    let length = || {
        Some(match first {
            Value::Str(text) => text.chars().count(),
            Value::List(values) => values.len(),
            Value::Map(map) => map.len(),
            _ => return None,
        })
    };
    Ok(match builtin {
        Builtin::Len => Value::Int(i64::try_from(length().ok_or_else(wrong)?).unwrap_or(i64::MAX)),
        Builtin::IsEmpty => Value::Bool(length().ok_or_else(wrong)? == 0),
        Builtin::Contains => Value::Bool(match (first, &*arguments[1]) {
            (Value::Str(text), Value::Str(part)) => text.contains(part.as_str()),
            (Value::List(values), value) => values.iter().any(|element| element.same(value)),
            (Value::Map(map), Value::Str(key)) => map.get(key).is_some(),
            _ => return Err(wrong()),
        }),
        Builtin::StartsWith | Builtin::EndsWith => match (first, &*arguments[1]) {
            (Value::Str(text), Value::Str(part)) if builtin == Builtin::StartsWith => {
                Value::Bool(text.starts_with(part.as_str()))
            }
            (Value::Str(text), Value::Str(part)) => Value::Bool(text.ends_with(part.as_str())),
            _ => return Err(wrong()),
        },
        Builtin::ToUpper => first.as_str().ok_or_else(wrong)?.to_uppercase().into(),
        Builtin::ToLower => first.as_str().ok_or_else(wrong)?.to_lowercase().into(),
        Builtin::Abs => match first {
            Value::Int(number) => Value::Int(number.checked_abs().ok_or_else(overflow)?),
            Value::Float(number) => Value::Float(number.abs()),
            _ => return Err(wrong()),
        },
        Builtin::Min | Builtin::Max => {
            let second = &*arguments[1];
            let greater = first.order(second).ok_or_else(wrong)? == Ordering::Greater;
            if greater == (builtin == Builtin::Max) {
                first.clone()
            } else {
                second.clone()
            }
        }
        Builtin::ToText => to_text(first).into(),
    })
}

impl Expr {
    /// What the two sides of a comparison are, for an explanation.
    pub(crate) fn sides<'a>(&'a self, frame: &impl Look<'a>) -> String {
        let Self::Binary(_, sides) = self else {
            return String::new();
        };
        match (sides.0.value(frame), sides.1.value(frame)) {
            (Ok(left), Ok(right)) => format!(" ({left} and {right})"),
            _ => String::new(),
        }
    }
}

impl Expr {
    /// The levels it looks at.
    pub(crate) fn levels(&self, levels: &mut std::collections::BTreeSet<usize>) {
        match self {
            Self::Const(_) => {}
            Self::Slot(level, _) | Self::Level(level) => {
                levels.insert(*level);
            }
            Self::Get(inner, _) | Self::Not(inner) | Self::Negate(inner) => inner.levels(levels),
            Self::Index(sides) | Self::Binary(_, sides) => {
                sides.0.levels(levels);
                sides.1.levels(levels);
            }
            Self::All(parts)
            | Self::Some(parts)
            | Self::Coalesce(parts)
            | Self::Builtin(_, parts)
            | Self::List(parts)
            | Self::Own(_, parts)
            | Self::Joined(parts) => parts.iter().for_each(|part| part.levels(levels)),
            Self::Map(entries) => entries.iter().for_each(|(_, part)| part.levels(levels)),
            Self::Script(script) => levels.extend(script.arguments.iter().map(|argument| argument.level)),
        }
    }
}

impl Expr {
    /// The same expression with its levels renumbered.
    pub(crate) fn mapped(&self, to: &impl Fn(usize) -> usize) -> Self {
        let one = |inner: &Self| Box::new(inner.mapped(to));
        let pair = |sides: &(Self, Self)| Box::new((sides.0.mapped(to), sides.1.mapped(to)));
        let all = |parts: &[Self]| parts.iter().map(|part| part.mapped(to)).collect();
        match self {
            Self::Const(value) => Self::Const(value.clone()),
            Self::Slot(level, slot) => Self::Slot(to(*level), *slot),
            Self::Level(level) => Self::Level(to(*level)),
            Self::Get(inner, key) => Self::Get(one(inner), key.clone()),
            Self::Index(sides) => Self::Index(pair(sides)),
            Self::Not(inner) => Self::Not(one(inner)),
            Self::Negate(inner) => Self::Negate(one(inner)),
            Self::Binary(operator, sides) => Self::Binary(*operator, pair(sides)),
            Self::All(parts) => Self::All(all(parts)),
            Self::Some(parts) => Self::Some(all(parts)),
            Self::Coalesce(parts) => Self::Coalesce(all(parts)),
            Self::Builtin(builtin, parts) => Self::Builtin(*builtin, all(parts)),
            Self::List(parts) => Self::List(all(parts)),
            Self::Joined(parts) => Self::Joined(all(parts)),
            Self::Own(own, parts) => Self::Own(Arc::clone(own), all(parts)),
            Self::Map(entries) => Self::Map(
                entries
                    .iter()
                    .map(|(key, part)| (key.clone(), part.mapped(to)))
                    .collect(),
            ),
            Self::Script(script) => {
                let mut arguments = script.arguments.clone();
                arguments
                    .iter_mut()
                    .for_each(|argument| argument.level = to(argument.level));
                Self::Script(Arc::new(Script {
                    ast: script.ast.clone(),
                    arguments,
                    steps: None,
                }))
            }
        }
    }

    /// The slots it reads of the fact at this level.
    pub(crate) fn reads(&self, level: usize) -> u64 {
        match self {
            Self::Const(_) | Self::Level(_) => 0,
            Self::Slot(at, slot) => u64::from(*at == level) << slot,
            Self::Get(inner, _) | Self::Not(inner) | Self::Negate(inner) => inner.reads(level),
            Self::Index(sides) | Self::Binary(_, sides) => sides.0.reads(level) | sides.1.reads(level),
            Self::All(parts)
            | Self::Some(parts)
            | Self::Coalesce(parts)
            | Self::Builtin(_, parts)
            | Self::List(parts)
            | Self::Own(_, parts)
            | Self::Joined(parts) => parts.iter().fold(0, |all, part| all | part.reads(level)),
            Self::Map(entries) => entries.iter().fold(0, |all, (_, part)| all | part.reads(level)),
            Self::Script(script) => (script.arguments.iter())
                .filter(|argument| argument.level == level)
                .fold(0, |all, argument| all | argument.reads),
        }
    }
}
