//! Values of native sections: what the script engine would compute, or [`Unsure`].

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use super::{Cell, Runner, Unsure};
use crate::Value;
use crate::expression::{self, Binary};
use crate::limits::Limits;
use crate::steps::{Expr, Json, Piece, Register, Sizes};
use crate::value::{Text, VALUE_DEPTH_MAX, to_float};

type Got<'a> = Result<Cow<'a, Value>, Unsure>;

impl Runner<'_> {
    pub(super) fn value<'v>(&'v self, expr: &'v Expr) -> Got<'v> {
        Ok(match expr {
            Expr::Const(value) => Cow::Borrowed(value),
            Expr::Register(register) => match &self.cells[usize::from(*register)] {
                Cell::Value(value) => Cow::Borrowed(value),
                _ => return Err(Unsure),
            },
            Expr::Slot(place) => {
                let fact = self.fact(place.fact)?;
                Cow::Borrowed(self.access.read()?.slot_value(fact, place.slot).ok_or(Unsure)?)
            }
            Expr::Now => Cow::Owned(Value::Int(self.access.read()?.now_ms)),
            Expr::Exists(fact) => Cow::Owned(self.access.read()?.exists(self.fact(*fact)?.id).into()),
            Expr::SameFact(one, other) => Cow::Owned((self.fact(*one)?.id == self.fact(*other)?.id).into()),
            Expr::Count(list) => match &self.cells[usize::from(*list)] {
                Cell::Facts(facts) => Cow::Owned(Value::Int(i64::try_from(facts.len()).map_err(|_| Unsure)?)),
                _ => return Err(Unsure),
            },
            Expr::Get(inner, key) => get(self.value(inner)?, key)?,
            Expr::Index(parts) => {
                let at = self.value(&parts.1)?;
                index(&*self.value(&parts.0)?, &at)?
            }
            Expr::Not(_) | Expr::All(_) | Expr::Some(_) => Cow::Owned(self.truth(expr)?.into()),
            Expr::Negate(inner) => match &*self.value(inner)? {
                Value::Int(number) => Cow::Owned(Value::Int(number.checked_neg().ok_or(Unsure)?)),
                Value::Float(number) => Cow::Owned(Value::Float(-number)),
                _ => return Err(Unsure),
            },
            Expr::Binary(operator, sides) => {
                let value = binary(*operator, &*self.value(&sides.0)?, &*self.value(&sides.1)?)?;
                self.short(&value)?;
                Cow::Owned(value)
            }
            Expr::Coalesce(parts) => {
                for part in parts {
                    let value = self.value(part)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Cow::Owned(Value::Null)
            }
            Expr::Choose(parts) => {
                let part = if self.truth(&parts.0)? { &parts.1 } else { &parts.2 };
                return self.value(part);
            }
            Expr::Builtin(builtin, arguments) => {
                let arguments: smallvec::SmallVec<[Cow<'_, Value>; 2]> = arguments
                    .iter()
                    .map(|argument| self.value(argument))
                    .collect::<Result<_, _>>()?;
                let value = call(*builtin, &arguments)?;
                self.short(&value)?;
                Cow::Owned(value)
            }
            Expr::List(values) => {
                let values: Result<Vec<_>, _> = values
                    .iter()
                    .map(|value| self.value(value).map(Cow::into_owned))
                    .collect();
                let value = Value::List(Arc::new(values?));
                self.fits(&value)?;
                Cow::Owned(value)
            }
            Expr::Map(entries) => {
                let entries: Result<Vec<_>, Unsure> = (entries.iter())
                    .map(|(key, value)| Ok((key.clone(), self.value(value)?.into_owned())))
                    .collect();
                let value = Value::map(entries?);
                self.fits(&value)?;
                Cow::Owned(value)
            }
            Expr::Joined(parts) => {
                let mut text = String::new();
                for part in parts {
                    write_text(&mut text, &*self.value(part)?)?;
                    if text.len() > self.limits().string_bytes {
                        return Err(Unsure);
                    }
                }
                Cow::Owned(text.into())
            }
            Expr::Own(own) => Cow::Owned(self.pure(own)?),
        })
    }

    pub(super) fn truth(&self, expr: &Expr) -> Result<bool, Unsure> {
        match expr {
            Expr::All(parts) => {
                for part in parts {
                    if !self.truth(part)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Expr::Some(parts) => {
                for part in parts {
                    if self.truth(part)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Expr::Not(inner) => Ok(!self.truth(inner)?),
            _ => self.value(expr)?.as_bool().ok_or(Unsure),
        }
    }

    pub(super) fn int(&self, expr: &Expr) -> Result<i64, Unsure> {
        self.value(expr)?.as_int().ok_or(Unsure)
    }

    pub(super) fn text(&self, expr: &Expr) -> Result<Text, Unsure> {
        match &*self.value(expr)? {
            Value::Str(text) => Ok(text.clone()),
            _ => Err(Unsure),
        }
    }

    /// Whether a new value may be too long for a script.
    pub(super) fn short(&self, value: &Value) -> Result<(), Unsure> {
        match value {
            Value::Str(text) if text.len() > self.limits().string_bytes => Err(Unsure),
            Value::List(_) | Value::Map(_) => self.fits(value),
            _ => Ok(()),
        }
    }

    fn fits(&self, value: &Value) -> Result<(), Unsure> {
        let mut sizes = Sizes::default();
        measure(value, 0, &mut sizes)?;
        within(sizes, self.limits())
    }

    /// `x += …` on a register; a string grows where it is.
    pub(super) fn change(&mut self, register: Register, operator: Binary, expr: &Expr) -> Result<(), Unsure> {
        let right = self.value(expr)?.into_owned();
        let at = usize::from(register);
        let bound = self.limits().string_bytes;
        let Cell::Value(left) = &mut self.cells[at] else {
            return Err(Unsure);
        };
        if let (Binary::Add, Value::Str(text)) = (operator, &mut *left) {
            let mut more = String::new();
            write_text(&mut more, &right)?;
            if text.len() + more.len() > bound {
                return Err(Unsure);
            }
            text.push_str(&more);
            return Ok(());
        }
        let value = binary(operator, left, &right)?;
        self.short(&value)?;
        self.set(register, Cell::Value(value));
        Ok(())
    }

    pub(super) fn push(&mut self, register: Register, expr: &Expr) -> Result<(), Unsure> {
        let more = self.value(expr)?.into_owned();
        let at = usize::from(register);
        if self.grown.len() <= at {
            self.grown.resize(at + 1, 0);
        }
        let limits = &self.access.rules().limits;
        let Cell::Value(list) = &mut self.cells[at] else {
            return Err(Unsure);
        };
        if self.grown[at] == 0 {
            let mut sizes = Sizes::default();
            measure(list, 0, &mut sizes)?;
            self.grown[at] = 1 + sizes.lists + sizes.maps + sizes.strings;
        }
        let mut sizes = Sizes::default();
        measure(&more, 1, &mut sizes)?;
        self.grown[at] += 1 + sizes.lists + sizes.maps + sizes.strings;
        let least = limits.list_length.min(limits.map_length).min(limits.string_bytes);
        if self.grown[at] > least {
            return Err(Unsure);
        }
        match list {
            Value::List(values) => Arc::make_mut(values).push(more),
            _ => return Err(Unsure),
        }
        Ok(())
    }

    /// The JSON text of a value, and whether an artifact stands in it.
    pub(super) fn json(&self, json: &Json) -> Result<(Arc<str>, bool), Unsure> {
        if let [Piece::Text(text)] = &*json.pieces {
            return Ok((Arc::from(&**text), false));
        }
        let limits = self.limits();
        let mut text = Vec::with_capacity(128);
        let mut sizes = json.sizes;
        let mut artifacts = false;
        for piece in &json.pieces {
            match piece {
                Piece::Text(piece) => text.extend_from_slice(piece.as_bytes()),
                Piece::Value(expr, depth) => {
                    let value = self.value(expr)?;
                    measure(&value, *depth, &mut sizes)?;
                    artifacts |= value.contains_artifact();
                    serde_json::to_writer(&mut text, &*value).map_err(|_| Unsure)?;
                }
            }
        }
        within(sizes, limits)?;
        if text.len() > limits.effect_bytes {
            return Err(Unsure);
        }
        let text = std::str::from_utf8(&text).map_err(|_| Unsure)?;
        Ok((text.into(), artifacts))
    }
}

/// Adds what the script engine counts of a value that stands within `depth` lists and maps.
fn measure(value: &Value, depth: usize, sizes: &mut Sizes) -> Result<(), Unsure> {
    if depth > VALUE_DEPTH_MAX {
        return Err(Unsure);
    }
    match value {
        Value::Str(text) => sizes.strings += text.len(),
        Value::List(values) => {
            sizes.lists += values.len();
            for value in values.iter() {
                measure(value, depth + 1, sizes)?;
            }
        }
        Value::Map(map) => {
            sizes.maps += map.len();
            for (_, value) in map.iter() {
                measure(value, depth + 1, sizes)?;
            }
        }
        _ => {}
    }
    Ok(())
}

const fn within(sizes: Sizes, limits: &Limits) -> Result<(), Unsure> {
    if sizes.strings > limits.string_bytes
        || sizes.lists > limits.list_length
        || sizes.maps > limits.map_length
    {
        return Err(Unsure);
    }
    Ok(())
}

/// A value as `log` writes it.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::Str(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        other => other.to_dynamic().to_string(),
    }
}

/// A value as a template or a concatenation writes it.
fn write_text(text: &mut String, value: &Value) -> Result<(), Unsure> {
    use std::fmt::Write as _;
    match value {
        Value::Str(more) => text.push_str(more),
        Value::Int(number) => write!(text, "{number}").map_err(|_| Unsure)?,
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        _ => return Err(Unsure),
    }
    Ok(())
}

fn get<'v>(value: Cow<'v, Value>, key: &str) -> Got<'v> {
    match value {
        Cow::Borrowed(Value::Map(map)) => Ok(map.get(key).map_or(Cow::Owned(Value::Null), Cow::Borrowed)),
        Cow::Owned(Value::Map(map)) => Ok(Cow::Owned(map.get(key).cloned().unwrap_or_default())),
        _ => Err(Unsure),
    }
}

fn index<'v>(value: &Value, at: &Value) -> Got<'v> {
    match (value, at) {
        (Value::List(values), Value::Int(at)) => {
            let length = i64::try_from(values.len()).map_err(|_| Unsure)?;
            let place = if *at < 0 {
                length.checked_add(*at).ok_or(Unsure)?
            } else {
                *at
            };
            let found = usize::try_from(place).ok().and_then(|place| values.get(place));
            found.cloned().map(Cow::Owned).ok_or(Unsure)
        }
        (Value::Map(map), Value::Str(key)) => Ok(Cow::Owned(map.get(key).cloned().unwrap_or_default())),
        _ => Err(Unsure),
    }
}

/// What an operator makes of two values.
pub(crate) fn binary(operator: Binary, left: &Value, right: &Value) -> Result<Value, Unsure> {
    use Binary::{AtLeast, AtMost, Differs, Equal, Greater, Less};
    if matches!(operator, Equal | Differs | Less | AtMost | Greater | AtLeast) {
        let holds = compare(operator, left, right)?;
        return Ok(Value::Bool(holds));
    }
    match (left, right) {
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            expression::binary(operator, left, right).map_err(|_| Unsure)
        }
        (Value::Str(_), _) | (_, Value::Str(_)) if operator == Binary::Add => {
            let mut text = String::new();
            write_text(&mut text, left)?;
            write_text(&mut text, right)?;
            Ok(text.into())
        }
        _ => Err(Unsure),
    }
}

fn compare(operator: Binary, left: &Value, right: &Value) -> Result<bool, Unsure> {
    let order = match (left, right) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Str(a), Value::Str(b)) => a.as_str().cmp(b.as_str()),
        (Value::Float(a), Value::Float(b)) => return close(operator, *a, *b),
        (Value::Int(a), Value::Float(b)) => return close(operator, to_float(*a), *b),
        (Value::Float(a), Value::Int(b)) => return close(operator, *a, to_float(*b)),
        // Truth values and null are equal or not, and in no order.
        (Value::Bool(a), Value::Bool(b)) => return equal(operator, a == b),
        (Value::Null, Value::Null) => return equal(operator, true),
        (Value::List(_), Value::List(_)) | (Value::Map(_), Value::Map(_)) => return Err(Unsure),
        // Values of different kinds.
        _ => return equal(operator, false),
    };
    Ok(match operator {
        Binary::Equal => order == Ordering::Equal,
        Binary::Differs => order != Ordering::Equal,
        Binary::Less => order == Ordering::Less,
        Binary::AtMost => order != Ordering::Greater,
        Binary::Greater => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

const fn equal(operator: Binary, same: bool) -> Result<bool, Unsure> {
    match operator {
        Binary::Equal => Ok(same),
        Binary::Differs => Ok(!same),
        _ => Err(Unsure),
    }
}

/// Numbers with fractions as the script engine compares them: with a tolerance (rhai's `get_builtin_binary_op_fn`).
fn close(operator: Binary, a: f64, b: f64) -> Result<bool, Unsure> {
    if !a.is_finite() || !b.is_finite() {
        return Err(Unsure);
    }
    let most = if a * b == 0.0 { 1.0 } else { a.abs().max(b.abs()) };
    let (above, below) = ((a - b) / most, (b - a) / most);
    Ok(match operator {
        Binary::Equal => above.abs() <= f64::EPSILON,
        Binary::Differs => above.abs() > f64::EPSILON,
        Binary::Greater => above > f64::EPSILON,
        Binary::AtLeast => above > -f64::EPSILON,
        Binary::Less => below > f64::EPSILON,
        _ => below > -f64::EPSILON,
    })
}

fn call(builtin: expression::Builtin, arguments: &[Cow<'_, Value>]) -> Result<Value, Unsure> {
    use expression::Builtin;
    match (builtin, &*arguments[0], arguments.get(1).map(|value| &**value)) {
        // Lists are searched with the equality of scripts.
        (Builtin::Contains, Value::List(values), Some(wanted)) => {
            for value in values.iter() {
                if compare(Binary::Equal, value, wanted)? {
                    return Ok(true.into());
                }
            }
            Ok(false.into())
        }
        (Builtin::Min | Builtin::Max, Value::Int(_), Some(Value::Int(_)))
        | (
            Builtin::Len
            | Builtin::IsEmpty
            | Builtin::Contains
            | Builtin::StartsWith
            | Builtin::EndsWith
            | Builtin::ToUpper
            | Builtin::ToLower
            | Builtin::Abs,
            ..,
        )
        | (Builtin::ToText, Value::Int(_) | Value::Str(_) | Value::Bool(_), _) => {
            expression::call(builtin, arguments).map_err(|_| Unsure)
        }
        _ => Err(Unsure),
    }
}
