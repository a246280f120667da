//! How facts are looked up by the conditions that join them: equal parts are hashed, comparisons are ranges of one slot.
//!
//! A range only narrows the search: its conditions are tested all the same. So a condition may be turned around to get
//! one (`b.at - a.at < 60` is `b.at < a.at + 60`), as long as nothing that would pass is left out.

use super::{is_scripted, levels};
use crate::Value;
use crate::expression::{Binary, Builtin, Expr};
use crate::ruleset::Test;
use crate::ruleset::plan::{Edge, Part, Range};

/// What the left says and the part of the own fact that equals it, when a condition is such an equality.
pub(super) fn key(expr: &Expr, own: usize) -> Option<(Expr, Part)> {
    let Expr::Binary(Binary::Equal, sides) = expr else {
        return None;
    };
    let alone = |side: &Expr| levels(side) == [own] && !is_scripted(side);
    let before = |side: &Expr| !levels(side).contains(&own);
    let (mine, other) = match &**sides {
        (left, right) if alone(left) && before(right) => (left, right),
        (left, right) if alone(right) && before(left) => (right, left),
        _ => return None,
    };
    let part = match mine {
        Expr::Slot(_, slot) => Part::Slot(*slot),
        computed => Part::Computed(Box::new(computed.mapped(&|_| 0))),
    };
    Some((other.clone(), part))
}

/// The range that some tests allow.
pub(super) fn range(tests: &[Test], depth: usize, numeric: &impl Fn(usize) -> bool) -> Option<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for test in tests {
        let Some(found) = bounds(&test.expr, depth, numeric) else {
            continue;
        };
        match ranges.iter_mut().find(|range| range.slot == found.slot) {
            Some(known) => {
                known.low = known.low.take().or(found.low);
                known.high = known.high.take().or(found.high);
            }
            None => ranges.push(found),
        }
    }
    if let Some(spanned) = spanned(&ranges) {
        return Some(spanned);
    }
    let closed = ranges
        .iter()
        .position(|range| range.low.is_some() && range.high.is_some());
    let best = closed.or_else(|| (!ranges.is_empty()).then_some(0));
    best.map(|at| ranges.swap_remove(at))
}

/// The range of facts that reach from one slot to another and hold what the left says between them.
fn spanned(ranges: &[Range]) -> Option<Range> {
    let plain = |edge: &Option<Edge>| {
        let edge = edge.as_ref().filter(|edge| !edge.turned)?;
        Some(format!("{:?}", edge.terms))
    };
    ranges.iter().find_map(|from| {
        let point = plain(&from.high).filter(|_| from.low.is_none())?;
        let until = (ranges.iter())
            .find(|until| until.high.is_none() && plain(&until.low).as_ref() == Some(&point))?;
        Some(Range {
            slot: from.slot,
            low: None,
            high: from.high.clone(),
            until: Some(until.slot),
        })
    })
}

/// The range that one condition allows a slot of the fact at `own`.
pub(super) fn bounds(expr: &Expr, own: usize, numeric: &impl Fn(usize) -> bool) -> Option<Range> {
    let Expr::Binary(operator, sides) = expr else {
        return None;
    };
    let before = |side: &Expr| {
        // Slots only: the length of a list changes while its tokens stay.
        let known = |level: &usize| *level < own && side.reads(*level) != 0;
        levels(side).iter().all(known)
    };
    let (operator, mine, other) = if levels(&sides.0).contains(&own) {
        (*operator, &sides.0, &sides.1)
    } else {
        (mirrored(*operator), &sides.1, &sides.0)
    };
    if !before(other) {
        return None;
    }
    if let Expr::Slot(_, slot) = mine {
        let edge = Edge {
            terms: vec![(true, other.clone())],
            turned: false,
            strict: matches!(operator, Binary::Less | Binary::Greater),
        };
        // An equality is looked up by its hash.
        return (operator != Binary::Equal).then(|| between(operator, *slot, edge))?;
    }
    if let Expr::Builtin(Builtin::Abs, parts) = mine {
        let [Expr::Binary(Binary::Subtract, parts)] = parts.as_slice() else {
            return None;
        };
        let (slot, middle) = match &**parts {
            (Expr::Slot(at, slot), middle) | (middle, Expr::Slot(at, slot)) if *at == own => (*slot, middle),
            _ => return None,
        };
        let near = matches!(operator, Binary::Less | Binary::AtMost | Binary::Equal);
        return (near && before(middle)).then(|| Range {
            slot,
            low: Some(turned([(true, middle), (false, other)])),
            high: Some(turned([(true, middle), (true, other)])),
            until: None,
        });
    }
    let Expr::Binary(way, parts) = mine else {
        return None;
    };
    match (way, &**parts) {
        (Binary::Subtract, (Expr::Slot(at, slot), by)) if *at == own && before(by) => {
            between(operator, *slot, turned([(true, other), (true, by)]))
        }
        (Binary::Subtract, (from, Expr::Slot(at, slot))) if *at == own && before(from) => {
            between(mirrored(operator), *slot, turned([(true, from), (false, other)]))
        }
        // With texts `+` would join them.
        (
            Binary::Add,
            (Expr::Slot(at, slot), by @ Expr::Const(Value::Int(_) | Value::Float(_)))
            | (by @ Expr::Const(Value::Int(_) | Value::Float(_)), Expr::Slot(at, slot)),
        ) if *at == own && numeric(*slot) => between(operator, *slot, turned([(true, other), (false, by)])),
        _ => None,
    }
}

fn turned<const N: usize>(terms: [(bool, &Expr); N]) -> Edge {
    Edge {
        terms: terms
            .into_iter()
            .map(|(adds, expr)| (adds, expr.clone()))
            .collect(),
        turned: true,
        strict: false,
    }
}

/// What `slot operator edge` allows.
fn between(operator: Binary, slot: usize, edge: Edge) -> Option<Range> {
    let (low, high) = match operator {
        Binary::Greater | Binary::AtLeast => (Some(edge), None),
        Binary::Less | Binary::AtMost => (None, Some(edge)),
        Binary::Equal => (Some(edge.clone()), Some(edge)),
        _ => return None,
    };
    Some(Range {
        slot,
        low,
        high,
        until: None,
    })
}

const fn mirrored(operator: Binary) -> Binary {
    match operator {
        Binary::Less => Binary::Greater,
        Binary::AtMost => Binary::AtLeast,
        Binary::Greater => Binary::Less,
        Binary::AtLeast => Binary::AtMost,
        other => other,
    }
}
