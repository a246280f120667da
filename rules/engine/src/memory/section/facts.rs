//! Facts as a section sees them: those of the store, with what it has written itself and not yet committed.
//!
//! Each write is checked against its type and counted against the bounds of a fact and of a run.

use std::sync::Arc;

use rhai::Dynamic;
use smallvec::SmallVec;

use super::{Context, Done, Inserted, Updated, Write};
use crate::memory::effects::Held;
use crate::{FactType, Value};

/// So many updated facts are looked through faster than they are looked up.
const FEW: usize = 8;

impl Context {
    /// Counts a long value that the section writes, and no longer the one that it takes the place of.
    fn long(&mut self, bytes: usize, instead_of: usize) -> Done<()> {
        self.written_bytes = self.written_bytes.saturating_sub(instead_of);
        if bytes == 0 {
            return Ok(());
        }
        self.written_bytes += bytes;
        let bound = self.rules.limits.run_bytes;
        if self.store.long() + self.written_bytes > bound {
            return Err(format!("more than {bound} bytes of facts in one run"));
        }
        Ok(())
    }

    fn inserted_at(&self, id: u64) -> Option<usize> {
        let first = self.inserted.first()?.id;
        let at = usize::try_from(id.checked_sub(first)?).ok()?;
        self.inserted.get(at).filter(|fact| fact.kept).map(|_| at)
    }

    pub(crate) fn is_retracted(&self, id: u64) -> bool {
        !self.retracted.is_empty() && self.retracted.contains(&id)
    }

    /// The type of a fact, with what it holds, as the section sees it.
    fn look(&self, id: u64) -> Done<(usize, &[Value])> {
        if let Some(at) = self.inserted_at(id) {
            return Ok((self.inserted[at].kind, &self.inserted[at].slots));
        }
        let fact = match self.store.find(id) {
            Some(at) => self.store.get(at),
            None => self
                .ghosts
                .get(&id)
                .ok_or_else(|| format!("fact #{id} is retracted"))?,
        };
        Ok((fact.kind, &fact.slots))
    }

    fn slot(fact_type: &FactType, field: &str) -> Done<usize> {
        fact_type
            .slot(field)
            .ok_or_else(|| format!("fact `{}` has no field `{field}`", fact_type.name))
    }

    pub(crate) fn read_value(&self, id: u64, field: &str) -> Done<&Value> {
        let (kind, slots) = self.look(id)?;
        let slot = Self::slot(&self.rules.types[kind], field)?;
        Ok(self.pending(id, slot).unwrap_or(&slots[slot]))
    }

    fn updated_index(&self, id: u64) -> Option<usize> {
        if self.updated.len() <= FEW {
            self.updated.iter().rposition(|updated| updated.id == id)
        } else {
            self.updated_at.get(&id).copied()
        }
    }

    fn pending(&self, id: u64, slot: usize) -> Option<&Value> {
        let at = self.updated_index(id)?;
        self.updated[at]
            .slots
            .iter()
            .find(|(written, _)| *written == slot)
            .map(|(_, value)| value)
    }

    pub(crate) fn read(&self, id: u64, field: &str) -> Done<Dynamic> {
        self.read_value(id, field).map(Value::to_dynamic)
    }

    pub(crate) fn write(&mut self, id: u64, field: &str, value: Value) -> Done<()> {
        let (kind, slots) = self.look(id)?;
        only_read(&self.rules.types[kind])?;
        let slot = Self::slot(&self.rules.types[kind], field)?;
        let value = self.rules.types[kind].fields[slot]
            .checked(value)
            .map_err(|why| format!("fact `{}`: {why}", self.rules.types[kind].name))?;
        if *self.pending(id, slot).unwrap_or(&slots[slot]) == value {
            return Ok(());
        }
        let instead_of = match self.inserted_at(id) {
            Some(at) => self.inserted[at].slots[slot].long(),
            None => self.pending(id, slot).map_or(0, Value::long),
        };
        self.long(value.long(), instead_of)?;
        if let Some(at) = self.inserted_at(id) {
            let weight = value.weight();
            self.inserted[at].slots[slot] = value;
            return self.bounded(id, weight);
        }
        let Some(place) = self.store.find(id).filter(|_| !self.is_retracted(id)) else {
            return Err(format!("fact #{id} is retracted and cannot be written"));
        };
        let weight = value.weight();
        self.note(id, place, slot, value);
        self.bounded(id, weight)
    }

    /// Keeps the new value of a slot until the section has ended.
    fn note(&mut self, id: u64, place: u32, slot: usize, value: Value) {
        let at = self.updated_index(id).unwrap_or(self.updated.len());
        if at == self.updated.len() {
            self.updated.push(Updated {
                id,
                place,
                slots: SmallVec::new(),
            });
            self.writes.push(Write::Update(at));
            if at == FEW {
                let all = self.updated.iter().enumerate();
                self.updated_at = all.map(|(at, updated)| (updated.id, at)).collect();
            } else if at > FEW {
                self.updated_at.insert(id, at);
            }
        }
        let written = &mut self.updated[at].slots;
        match written.iter_mut().find(|(known, _)| *known == slot) {
            Some((_, known)) => *known = value,
            None => written.push((slot, value)),
        }
    }

    /// What a slot holds, as the section sees it; none when the fact cannot be read.
    pub(crate) fn slot_value(&self, fact: Held, slot: usize) -> Option<&Value> {
        let Some(place) = fact.place else {
            let (_, slots) = self.look(fact.id).ok()?;
            return Some(self.pending(fact.id, slot).unwrap_or(&slots[slot]));
        };
        let pending = if self.updated.is_empty() {
            None
        } else {
            self.pending(fact.id, slot)
        };
        Some(pending.unwrap_or_else(|| &self.store.get(place).slots[slot]))
    }

    /// Writes a slot; none when [`Context::write`] would say why it cannot.
    pub(crate) fn write_slot(&mut self, fact: Held, slot: usize, value: Value) -> Option<()> {
        let Some(place) = fact.place else {
            let (kind, _) = self.look(fact.id).ok()?;
            let name = Arc::clone(&self.rules.types[kind].fields[slot].name);
            return self.write(fact.id, &name, value).ok();
        };
        let stored = self.store.get(place);
        only_read(&self.rules.types[stored.kind]).ok()?;
        let value = self.rules.types[stored.kind].fields[slot].checked(value).ok()?;
        if *self.slot_value(fact, slot)? == value {
            return Some(());
        }
        if self.is_retracted(fact.id) {
            return None;
        }
        let instead_of = if self.updated.is_empty() {
            0
        } else {
            self.pending(fact.id, slot).map_or(0, Value::long)
        };
        self.long(value.long(), instead_of).ok()?;
        let weight = value.weight();
        self.note(fact.id, place, slot, value);
        self.bounded(fact.id, weight).ok()
    }

    /// Whether the fact with its pending writes is small enough; looked at when a long value is written.
    fn bounded(&self, id: u64, written: usize) -> Done<()> {
        if written <= 64 {
            return Ok(());
        }
        let (kind, slots) = self.look(id)?;
        let slots = slots.iter().enumerate();
        let weight: usize = slots
            .map(|(slot, value)| self.pending(id, slot).unwrap_or(value).weight())
            .sum();
        let bound = self.rules.limits.fact_bytes;
        if weight > bound {
            Err(too_large(&self.rules.types[kind], bound))
        } else {
            Ok(())
        }
    }

    pub(crate) fn insert(&mut self, fact_type: &str, fields: &Value) -> Done<u64> {
        let kind = *self
            .rules
            .type_index
            .get(fact_type)
            .ok_or_else(|| format!("no fact type `{fact_type}`"))?;
        let slots = self.rules.types[kind].slots(fields)?;
        self.add(kind, slots)
    }

    /// A new fact of these slots, which fit its type.
    pub(crate) fn add(&mut self, kind: usize, slots: Box<[Value]>) -> Done<u64> {
        only_read(&self.rules.types[kind])?;
        if slots.iter().map(Value::weight).sum::<usize>() > self.rules.limits.fact_bytes {
            return Err(too_large(&self.rules.types[kind], self.rules.limits.fact_bytes));
        }
        if self.store.len() + self.inserted.len() >= self.rules.limits.facts {
            return Err(format!("more than {} facts in one run", self.rules.limits.facts));
        }
        self.long(slots.iter().map(Value::long).sum(), 0)?;
        let id = self.store.next_id + u64::try_from(self.inserted.len()).unwrap_or(u64::MAX);
        self.writes.push(Write::Insert(self.inserted.len()));
        self.inserted.push(Inserted {
            id,
            kind,
            slots,
            kept: true,
        });
        Ok(id)
    }

    pub(crate) fn exists(&self, id: u64) -> bool {
        self.inserted_at(id).is_some() || self.store.find(id).is_some() && !self.is_retracted(id)
    }

    pub(crate) fn retract(&mut self, id: u64) -> Done<()> {
        if let Some(at) = self.inserted_at(id) {
            self.inserted[at].kept = false;
        } else if self.store.find(id).is_some() && !self.is_retracted(id) {
            let (kind, _) = self.look(id)?;
            only_read(&self.rules.types[kind])?;
            self.retracted.insert(id);
            self.writes.push(Write::Retract(id));
        } else {
            return Err(format!("fact #{id} is already retracted"));
        }
        Ok(())
    }
}

/// A run writes its own facts only.
fn only_read(fact_type: &FactType) -> Done<()> {
    if fact_type.shared {
        return Err(format!(
            "fact `{}` is shared by the service; a run only reads it",
            fact_type.name
        ));
    }
    Ok(())
}

fn too_large(fact_type: &FactType, bound: usize) -> String {
    format!(
        "a fact `{}` of more than {bound} bytes; larger things are artifacts",
        fact_type.name
    )
}
