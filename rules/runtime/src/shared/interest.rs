//! The index of interests: under which keys a run stands, written by its own turns as they change.

use std::sync::Arc;

use celesta_engine::{Shape, WorkingMemory};
use celesta_store::{Cell, Expect, QueryError, Statement, Unit};
use celesta_types::RunId;

use super::Shared;
use crate::live::Live;
use crate::runtime::Inner;

static INTEREST_ADD: Statement = Statement {
    name: "interests.add",
    rank: 13,
    head: "INSERT INTO interests (key, run) VALUES ",
    row: "(?, ?)",
    tail: " ON CONFLICT (key, run) DO NOTHING",
    cells: 2,
    expect: Expect::Any,
};

static INTEREST_DROP: Statement = Statement {
    name: "interests.drop",
    rank: 30,
    head: "DELETE FROM interests WHERE (key, run) IN (VALUES ",
    row: "(?, ?)",
    tail: ")",
    cells: 2,
    expect: Expect::Any,
};

static SHAPE_ADD: Statement = Statement {
    name: "interest_shapes.add",
    rank: 10,
    head: "INSERT INTO interest_shapes (service, shape) VALUES ",
    row: "(?, ?)",
    tail: " ON CONFLICT (service, shape) DO NOTHING",
    cells: 2,
    expect: Expect::Any,
};

/// The keys a run stands under in the index, as of its last durable turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interests {
    keys: Vec<i64>,
    /// Its own turns may not have written them: it goes on where another run was.
    is_unsure: bool,
}

impl Interests {
    /// Those of a run as it was restored: its turns have written what its facts say. `is_unsure` when none of its turns
    /// were seen.
    pub(crate) fn of(service: &str, memory: &WorkingMemory, is_unsure: bool) -> Self {
        // What has seen no shared facts was written by a release without an index.
        if memory.shared_seen().is_none() {
            return Self::default();
        }
        Self {
            keys: keys(service, memory),
            is_unsure,
        }
    }
}

/// Service and engine's key in one: a service's runs stand under keys of their own.
pub(super) fn key_of(service: &str, key: u64) -> i64 {
    // FNV-1a, as the key itself: stable across releases.
    let bytes = service.bytes();
    let seed = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (seed.rotate_left(32) ^ key)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .cast_signed()
}

/// The keys a run stands under, sorted.
pub(crate) fn keys(service: &str, memory: &WorkingMemory) -> Vec<i64> {
    let mut keys: Vec<i64> = (memory.interests().into_iter())
        .map(|key| key_of(service, key))
        .collect();
    keys.sort_unstable();
    keys
}

/// Adds to a turn's unit what has changed in the run's interests; whether there is anything.
fn settle(live: &mut Live, unit: &mut Unit) -> bool {
    let before = &live.interests;
    if !live.rules.reads_shared() && before.keys.is_empty() {
        return false;
    }
    let now = keys(&live.head.service, &live.memory);
    if now == before.keys && !before.is_unsure {
        return false;
    }
    let row = |key: i64| [key.into(), Cell::Id(live.head.run.to_bytes())];
    let is_new = |key: &&i64| before.is_unsure || before.keys.binary_search(key).is_err();
    for key in now.iter().filter(is_new) {
        unit.add(&INTEREST_ADD, row(*key));
    }
    for key in before.keys.iter().filter(|key| now.binary_search(key).is_err()) {
        unit.add(&INTEREST_DROP, row(*key));
    }
    live.interests = Interests {
        keys: now,
        is_unsure: false,
    };
    true
}

/// Adds to a unit that a run that is no more stands under none of these keys.
pub(crate) fn forget(unit: &mut Unit, run: RunId, keys: &[i64]) {
    for key in keys {
        unit.add(&INTEREST_DROP, [(*key).into(), Cell::Id(run.to_bytes())]);
    }
}

/// A shape as the store has it.
fn text(shape: &Shape) -> String {
    let parts: Vec<&str> = std::iter::once(&*shape.fact_type)
        .chain(shape.fields.iter().map(|field| &**field))
        .collect();
    serde_json::to_string(&parts).unwrap_or_default()
}

fn shape(text: &str) -> Option<Shape> {
    let parts: Vec<Arc<str>> = serde_json::from_str(text).ok()?;
    let (fact_type, fields) = parts.split_first()?;
    Some(Shape {
        fact_type: Arc::clone(fact_type),
        fields: fields.to_vec(),
    })
}

impl Shared {
    /// The shapes of a run's rules that the store may not know yet.
    fn new_shapes(&self, live: &Live) -> Vec<(String, String)> {
        let service = &*live.head.service;
        let known = self.shapes.lock();
        let shapes = live
            .rules
            .shapes()
            .iter()
            .map(|shape| (service.to_owned(), text(shape)));
        shapes.filter(|shape| !known.contains(shape)).collect()
    }
}

impl Inner {
    /// Adds to a turn's unit what has changed in the run's interests, and the shapes of its rules when this process has not
    /// seen them in the store.
    pub(crate) fn note_interests(self: &Arc<Self>, live: &mut Live, unit: &mut Unit) {
        if !settle(live, unit) {
            return;
        }
        let new = self.shared.new_shapes(live);
        if new.is_empty() {
            return;
        }
        for (service, shape) in &new {
            unit.add(&SHAPE_ADD, [service.as_str().into(), shape.as_str().into()]);
        }
        let inner = Arc::clone(self);
        unit.on_done(move |outcome| {
            if outcome.is_ok() {
                inner.shared.shapes.lock().extend(new);
            }
        });
    }

    /// The shapes under which runs of a service may stand, that of every fact of a type included.
    pub(super) async fn shapes_of(&self, service: &str) -> Result<Vec<Shape>, QueryError> {
        let sql = "SELECT shape FROM interest_shapes WHERE service = ?";
        let rows = self.store.fetch(sql, &[service.into()]).await?;
        let mut shapes: Vec<Shape> = rows.iter().filter_map(|row| shape(row.text(0)?)).collect();
        // The first turn under some rules may be under way: what it adds here and to the index is not durable yet.
        for version in self.registry.loaded_of(service) {
            let rules = version.bundle.workflows.values();
            shapes.extend(rules.flat_map(|rules| rules.shapes().iter().cloned()));
        }
        let every: Vec<Shape> = (shapes.iter())
            .map(|shape| Shape {
                fact_type: Arc::clone(&shape.fact_type),
                fields: Vec::new(),
            })
            .collect();
        shapes.extend(every);
        shapes.sort();
        shapes.dedup();
        Ok(shapes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_read_back_and_services_have_keys_of_their_own() {
        let recipe = Shape {
            fact_type: "Recipe".into(),
            fields: vec!["codec".into(), "name".into()],
        };
        assert_eq!(shape(&text(&recipe)), Some(recipe));
        assert_ne!(key_of("a", 7), key_of("b", 7));
        assert_eq!(key_of("a", 7), key_of("a", 7));
    }
}
