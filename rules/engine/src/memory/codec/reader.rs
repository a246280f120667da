//! Bytes as numbers, texts, values and records; whatever does not make sense is refused.

use std::sync::Arc;

use celesta_types::{CallId, ErrorClass};
use rustc_hash::FxHashMap;

use super::{FORMAT, RestoreError, tag};
use crate::memory::firing::{CallState, Held, OpenFiring, Stage};
use crate::memory::section::Made;
use crate::memory::store::{FROM_REQUEST, Fact};
use crate::memory::{Halt, WorkingMemory};
use crate::moves::FactMoves;
use crate::ruleset::RuleSet;
use crate::turn::{CallError, CallOptions, Section};
use crate::value::VALUE_DEPTH_MAX;
use crate::{Map, Value};

/// A fact type of the stored state, as the rules in force know it.
#[derive(Debug)]
pub(super) struct StoredType {
    pub(super) name: String,
    pub(super) kind: Option<usize>,
    /// For each stored field its slot.
    pub(super) slots: Vec<Option<usize>>,
    /// Their names, when facts are taken over to other rules; and whether these are not.
    pub(super) fields: Vec<String>,
    pub(super) dropped: bool,
}

#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) types: Vec<StoredType>,
    pub(super) rules: FxHashMap<String, u64>,
    /// Stored rule numbers in the numbers of the rules in force, for `written_by`.
    pub(super) writers: Vec<Option<u32>>,
    pub(super) schema: Option<Arc<[u8]>>,
    pub(super) pending: Vec<(String, Vec<u64>)>,
    /// The state is taken over to other rules.
    pub(super) moves: Option<Arc<FactMoves>>,
}

pub(super) struct Bytes<'a> {
    pub(super) bytes: &'a [u8],
}

pub(super) type Read<T> = Result<T, RestoreError>;

pub(super) const fn damaged(what: &'static str) -> RestoreError {
    RestoreError::Damaged { what }
}

impl<'a> Bytes<'a> {
    pub(super) fn byte(&mut self) -> Read<u8> {
        let (first, rest) = self.bytes.split_first().ok_or_else(|| damaged("it ends early"))?;
        self.bytes = rest;
        Ok(*first)
    }
    pub(super) fn number(&mut self) -> Read<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(damaged("a number is too long"))
    }
    pub(super) fn number32(&mut self) -> Read<u32> {
        u32::try_from(self.number()?).map_err(|_| damaged("a number is too large"))
    }
    /// A count of things that take at least one byte each.
    pub(super) fn count(&mut self) -> Read<usize> {
        let count = usize::try_from(self.number()?).map_err(|_| damaged("a count is too large"))?;
        if count > self.bytes.len() {
            Err(damaged("a count exceeds the bytes"))
        } else {
            Ok(count)
        }
    }
    pub(super) fn signed(&mut self) -> Read<i64> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }
    pub(super) fn text(&mut self) -> Read<&'a str> {
        let length = self.count()?;
        let (text, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        std::str::from_utf8(text).map_err(|_| damaged("a text is not UTF-8"))
    }
    pub(super) fn value(&mut self, depth: usize) -> Read<Value> {
        if depth > VALUE_DEPTH_MAX + 2 {
            return Err(damaged("a value nests too deep"));
        }
        Ok(match self.byte()? {
            0 => Value::Null,
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => Value::Int(self.signed()?),
            4 => {
                let (bits, rest) = self
                    .bytes
                    .split_first_chunk::<8>()
                    .ok_or_else(|| damaged("it ends early"))?;
                self.bytes = rest;
                Value::Float(f64::from_bits(u64::from_le_bytes(*bits)))
            }
            5 => self.text()?.into(),
            6 => {
                let count = self.count()?;
                Value::List(Arc::new(
                    (0..count).map(|_| self.value(depth + 1)).collect::<Read<_>>()?,
                ))
            }
            7 => {
                let count = self.count()?;
                let entries = (0..count).map(|_| Ok((self.text()?.into(), self.value(depth + 1)?)));
                Value::Map(Arc::new(entries.collect::<Read<Map>>()?))
            }
            _ => return Err(damaged("a value of an unknown kind")),
        })
    }
    pub(super) fn optional(&mut self) -> Read<Option<i64>> {
        Ok(if self.byte()? == 0 {
            None
        } else {
            Some(self.signed()?)
        })
    }
    pub(super) fn call(&mut self) -> Read<CallId> {
        Ok(CallId {
            seq: self.number()?,
            index: self.number32()?,
        })
    }
    pub(super) fn options(&mut self) -> Read<CallOptions> {
        let (timeout_ms, priority, delay_ms) = (self.optional()?, self.optional()?, self.optional()?);
        let key = if self.byte()? == 0 {
            None
        } else {
            Some(self.text()?.to_owned())
        };
        Ok(CallOptions {
            timeout_ms,
            priority,
            key,
            delay_ms,
        })
    }
    pub(super) fn made(&mut self) -> Read<Made> {
        Ok(match self.byte()? {
            artifacts @ (0 | 1) => Made::Call {
                function: self.text()?.into(),
                input: self.text()?.into(),
                artifacts: artifacts == 1,
                options: self.options()?,
            },
            2 => Made::Request {
                target: self.text()?.into(),
                input: self.text()?.into(),
                options: self.options()?,
            },
            3 => Made::Timer {
                at_ms: self.signed()?,
            },
            _ => return Err(damaged("a call of an unknown kind")),
        })
    }
    pub(super) fn outcome(&mut self) -> Read<Option<Result<Value, CallError>>> {
        Ok(match self.byte()? {
            0 => None,
            1 => Some(Ok(self.value(0)?)),
            _ => Some(Err(CallError {
                kind: ErrorClass::from_code(self.byte()?).ok_or_else(|| damaged("an unknown error class"))?,
                message: self.text()?.to_owned(),
                function: self.text()?.to_owned(),
                attempts: self.number32()?,
            })),
        })
    }
}

impl Reading {
    pub(super) fn read(&mut self, memory: &mut WorkingMemory, bytes: &[u8]) -> Read<()> {
        let mut bytes = Bytes { bytes };
        match bytes.byte()? {
            FORMAT => {}
            found => return Err(RestoreError::Format { found }),
        }
        while !bytes.bytes.is_empty() {
            self.record(memory, &mut bytes)?;
        }
        Ok(())
    }

    pub(super) fn record(&mut self, memory: &mut WorkingMemory, bytes: &mut Bytes<'_>) -> Read<()> {
        let context = memory.context.as_mut().expect("no script runs");
        match bytes.byte()? {
            tag::SCHEMA => self.schema(&memory.rules, bytes)?,
            tag::COUNTERS => {
                context.store.next_id = bytes.number()?;
                context.store.clock = bytes.number()?;
                memory.next_firing = bytes.number()?;
                memory.halted = match bytes.byte()? {
                    0 => None,
                    1 => Some(Halt::Failed),
                    _ => Some(Halt::Canceled),
                };
            }
            tag::CLOCK => {
                memory.network.clock.born_ms = Some(bytes.signed()?);
                memory.network.clock.now_ms = bytes.signed()?;
            }
            tag::SHARED => memory.seen = Some(bytes.number()?),
            tag::INSERT => {
                if let Some(fact) = self.fact(&memory.rules, bytes)? {
                    context.store.add(fact);
                }
            }
            tag::GHOST => {
                if let Some(fact) = self.fact(&memory.rules, bytes)? {
                    context.ghosts.insert(fact.id, fact);
                }
            }
            tag::UPDATE => {
                let id = bytes.number()?;
                let at = context
                    .store
                    .find(id)
                    .ok_or_else(|| damaged("an update of no fact"))?;
                let fact = context.store.get_mut(at);
                fact.version = bytes.number32()?;
                fact.writer = self.writer(bytes.number()?);
                let kind = fact.kind;
                let dirty = bytes.number()?;
                let stored = self.types.iter().find(|stored| stored.kind == Some(kind));
                let stored = stored.ok_or_else(|| damaged("an update of an unknown type"))?;
                for (_, slot) in stored
                    .slots
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| dirty >> at & 1 == 1)
                {
                    let (value, stamp) = (bytes.value(0)?, bytes.number()?);
                    if let Some(slot) = slot {
                        context.store.set(at, *slot, value, stamp);
                    }
                }
            }
            tag::RETRACT => {
                let id = bytes.number()?;
                let at = context
                    .store
                    .find(id)
                    .ok_or_else(|| damaged("a retraction of no fact"))?;
                let fact = context.store.remove(at);
                context.ghosts.entry(id).or_insert(fact);
            }
            tag::FIRING => {
                let number = bytes.number()?;
                let firing = Self::firing(&memory.rules, bytes)?;
                memory.firings.insert(number, firing);
            }
            tag::OUTCOME => {
                let number = bytes.number()?;
                let at = bytes.number32()?;
                let outcome = bytes.outcome()?;
                let firing = memory
                    .firings
                    .get_mut(&number)
                    .ok_or_else(|| damaged("an answer to no firing"))?;
                let call = firing
                    .calls
                    .get_mut(at as usize)
                    .ok_or_else(|| damaged("an answer to no call"))?;
                if call.outcome.is_none() && outcome.is_some() {
                    firing.open = firing.open.saturating_sub(1);
                }
                call.outcome = outcome;
            }
            tag::CLOSE => {
                memory.firings.remove(&bytes.number()?);
            }
            tag::PENDING => {
                let count = bytes.count()?;
                self.pending.clear();
                for _ in 0..count {
                    let rule = bytes.text()?.to_owned();
                    let facts = bytes.count()?;
                    self.pending
                        .push((rule, (0..facts).map(|_| bytes.number()).collect::<Read<_>>()?));
                }
            }
            _ => return Err(damaged("a record of an unknown kind")),
        }
        Ok(())
    }

    pub(super) fn writer(&self, stored: u64) -> u32 {
        let at = stored.checked_sub(1).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.writers.get(at).copied().flatten())
            .unwrap_or(FROM_REQUEST)
    }

    pub(super) fn schema(&mut self, rules: &RuleSet, bytes: &mut Bytes<'_>) -> Read<()> {
        let start = bytes.bytes;
        self.types.clear();
        for _ in 0..bytes.count()? {
            let name = bytes.text()?.to_owned();
            let to = self
                .moves
                .as_ref()
                .map_or(Some(&*name), |moves| moves.type_name(&name));
            let kind = to.and_then(|to| rules.type_index.get(to).copied());
            let dropped = to.is_none();
            let mut slots = Vec::new();
            let mut fields = Vec::new();
            for _ in 0..bytes.count()? {
                let field = bytes.text()?;
                slots.push(kind.and_then(|kind| rules.types[kind].slot(field)));
                if self.moves.is_some() {
                    fields.push(field.to_owned());
                }
            }
            self.types.push(StoredType {
                name,
                kind,
                slots,
                fields,
                dropped,
            });
        }
        self.rules.clear();
        self.writers.clear();
        for _ in 0..bytes.count()? {
            let name = bytes.text()?;
            let fingerprint = bytes.number()?;
            let now = (0_u32..)
                .zip(&rules.rules)
                .find(|(_, rule)| &*rule.name == name)
                .map(|(at, _)| at);
            self.writers.push(now);
            self.rules.insert(name.to_owned(), fingerprint);
        }
        let read = &start[..start.len() - bytes.bytes.len()];
        if self.moves.is_some() {
            // What is written from now on is written in the new rules' terms.
            self.schema = Some(Arc::clone(&rules.schema));
            return Ok(());
        }
        // The same as the rules' own as a rule: one copy for all runs.
        self.schema = Some(if *read == *rules.schema {
            Arc::clone(&rules.schema)
        } else {
            read.into()
        });
        Ok(())
    }

    /// A stored fact; none when it is not taken over.
    pub(super) fn fact(&self, rules: &RuleSet, bytes: &mut Bytes<'_>) -> Read<Option<Fact>> {
        let stored = usize::try_from(bytes.number()?)
            .ok()
            .and_then(|at| self.types.get(at));
        let stored = stored.ok_or_else(|| damaged("a fact of an unknown type"))?;
        if stored.dropped {
            bytes.number()?;
            bytes.number32()?;
            bytes.number()?;
            bytes.number()?;
            for _ in &stored.slots {
                bytes.value(0)?;
                bytes.number()?;
            }
            return Ok(None);
        }
        let kind = stored.kind.ok_or_else(|| RestoreError::UnknownFactType {
            name: stored.name.clone(),
        })?;
        let (id, version) = (bytes.number()?, bytes.number32()?);
        let writer = self.writer(bytes.number()?);
        let inserted = bytes.number()?;
        let fields = &rules.types[kind].fields;
        let slots: Box<[Value]> = fields
            .iter()
            .map(|field| field.default.clone().unwrap_or_default())
            .collect();
        let mut fact = Fact {
            id,
            kind,
            version,
            writer,
            slots,
            inserted,
            later: Box::default(),
            live: true,
            dirty: 0,
            fresh: false,
        };
        if let Some(moves) = &self.moves {
            let mut held = Vec::new();
            let mut stamps = Vec::new();
            for field in &stored.fields {
                held.push((field.clone(), bytes.value(0)?));
                stamps.push(bytes.number()?);
            }
            let slots = moves.slots(rules, &rules.types[kind], &stored.name, &held);
            let slots = slots.map_err(|reason| RestoreError::Unfit {
                fact: id,
                fact_type: stored.name.clone(),
                reason,
            })?;
            for (slot, (value, from)) in slots.into_iter().enumerate() {
                fact.slots[slot] = value;
                if let Some(later) = from.map(|from| stamps[from]).filter(|later| *later > 0) {
                    fact.mark(slot, inserted.wrapping_add(later));
                }
            }
            return Ok(Some(fact));
        }
        for slot in &stored.slots {
            let (value, later) = (bytes.value(0)?, bytes.number()?);
            if let Some(slot) = slot {
                fact.slots[*slot] = value;
                if later > 0 {
                    fact.mark(*slot, inserted.wrapping_add(later));
                }
            }
        }
        Ok(Some(fact))
    }

    pub(super) fn firing(rules: &RuleSet, bytes: &mut Bytes<'_>) -> Read<OpenFiring> {
        let name = bytes.text()?;
        let rule = (0_u32..)
            .zip(&rules.rules)
            .find(|(_, rule)| &*rule.name == name)
            .map(|(at, _)| at);
        let rule = rule.ok_or_else(|| RestoreError::UnknownRule {
            name: name.to_owned(),
        })?;
        let mut firing = OpenFiring {
            rule,
            facts: (0..bytes.count()?)
                .map(|_| Ok((bytes.number()?, bytes.number32()?)))
                .collect::<Read<_>>()?,
            bindings: smallvec::SmallVec::new(),
            calls: Vec::new(),
            open: 0,
            fail_fast: false,
            retries: 0,
            stage: Stage::Waiting,
        };
        for _ in 0..bytes.count()? {
            let level = bytes.number32()?;
            let held = match bytes.byte()? {
                0 => Held::Fact(bytes.number()?),
                1 => Held::Value(bytes.value(0)?),
                _ => {
                    let count = bytes.count()?;
                    Held::Facts((0..count).map(|_| bytes.number()).collect::<Read<_>>()?)
                }
            };
            firing.bindings.push((level, held));
        }
        firing.fail_fast = bytes.byte()? != 0;
        firing.retries = bytes.number32()?;
        firing.stage = match bytes.byte()? {
            0 => Stage::Waiting,
            1 => Stage::FailedCalls,
            2 => Stage::FailedSection(Section::Action),
            3 => Stage::FailedSection(Section::Reaction),
            _ => Stage::FailedSection(Section::Error),
        };
        for _ in 0..bytes.count()? {
            let state = CallState {
                call: bytes.call()?,
                made: bytes.made()?,
                outcome: bytes.outcome()?,
            };
            firing.open += u32::from(state.outcome.is_none());
            firing.calls.push(state);
        }
        Ok(firing)
    }
}
