//! The values that comparisons with constants leave.

use std::cmp::Ordering;

use super::super::uses::{Given, Relation};
use crate::Value;

/// The values that a slot may have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Domain {
    one_of: Option<Vec<Value>>,
    not: Vec<Value>,
    /// The bound, and whether it belongs to the domain.
    low: Option<(Value, bool)>,
    high: Option<(Value, bool)>,
}

impl Domain {
    /// Leaves what `relation` leaves.
    pub(crate) fn narrow(&mut self, relation: &Relation) {
        match relation {
            Relation::OneOf(values) => match &mut self.one_of {
                Some(left) => left.retain(|value| values.iter().any(|other| other.same(value))),
                None => self.one_of = Some(values.clone()),
            },
            Relation::Differs(value) => self.not.push(value.clone()),
            Relation::Less(value) => tighten(&mut self.high, value, false, Ordering::Less),
            Relation::AtMost(value) => tighten(&mut self.high, value, true, Ordering::Less),
            Relation::Greater(value) => tighten(&mut self.low, value, false, Ordering::Greater),
            Relation::AtLeast(value) => tighten(&mut self.low, value, true, Ordering::Greater),
        }
    }

    /// Whether nothing has been asked of the slot.
    pub(crate) const fn is_anything(&self) -> bool {
        self.one_of.is_none() && self.not.is_empty() && self.low.is_none() && self.high.is_none()
    }

    pub(crate) fn admits(&self, value: &Value) -> bool {
        let within = |bound: &Option<(Value, bool)>, side: Ordering| {
            bound.as_ref().is_none_or(|(bound, inclusive)| {
                (value.order(bound))
                    .is_some_and(|order| order == side || *inclusive && order == Ordering::Equal)
            })
        };
        (self.one_of.as_ref()).is_none_or(|values| values.iter().any(|one| one.same(value)))
            && !self.not.iter().any(|one| one.same(value))
            && within(&self.low, Ordering::Greater)
            && within(&self.high, Ordering::Less)
    }

    /// Whether a write of `given` may lead into the domain.
    pub(crate) fn may_admit(&self, given: &Given) -> bool {
        match given {
            Given::Constant(value) => self.admits(value),
            Given::Step(_) | Given::Unknown => true,
        }
    }

    /// Whether no value is left. `whole`: the slot holds whole numbers.
    pub(crate) fn is_empty(&self, whole: bool) -> bool {
        if let Some(values) = &self.one_of {
            return !values.iter().any(|value| self.admits(value));
        }
        let (Some((low, low_in)), Some((high, high_in))) = (&self.low, &self.high) else {
            return false;
        };
        match (low, high) {
            (Value::Int(low), Value::Int(high)) if whole => {
                let least = low.saturating_add(i64::from(!low_in));
                let most = high.saturating_sub(i64::from(!high_in));
                least > most
            }
            _ => match low.order(high) {
                Some(Ordering::Less) => false,
                Some(Ordering::Equal) => !(*low_in && *high_in),
                _ => true,
            },
        }
    }

    /// Whether everything that this admits is admitted by `other`; more often no than it could be.
    pub(crate) fn implies(&self, other: &Self) -> bool {
        let admitted = |values: &Vec<Value>| {
            (values.iter().filter(|value| self.admits(value))).all(|value| other.admits(value))
        };
        other.is_anything() || self.one_of.as_ref().is_some_and(admitted)
    }

    /// Whether steps in this direction lead out of the domain in the end.
    pub(crate) fn ends(&self, step: &Value) -> bool {
        match step.order(&Value::Int(0)) {
            Some(Ordering::Greater) => self.high.is_some() || self.one_of.is_some(),
            Some(Ordering::Less) => self.low.is_some() || self.one_of.is_some(),
            _ => false,
        }
    }
}

fn tighten(bound: &mut Option<(Value, bool)>, value: &Value, inclusive: bool, tighter: Ordering) {
    let replace = (bound.as_ref()).is_none_or(|(known, known_in)| match value.order(known) {
        Some(Ordering::Equal) => *known_in && !inclusive,
        Some(order) => order == tighter,
        None => true,
    });
    if replace {
        *bound = Some((value.clone(), inclusive));
    }
}
