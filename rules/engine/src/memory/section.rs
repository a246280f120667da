//! What a section may do: read and write facts, and make effects.
//!
//! Nothing here touches the network: writes are collected and applied when the section has ended well, so that a section
//! that throws has changed nothing. Scripts and native actions share these functions.

use std::fmt::Write as _;
use std::sync::Arc;

use celesta_types::{CallId, RunId, duration_ms};
use rhai::Dynamic;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::effects::Held;
use super::store::{Fact, Store};
use crate::ruleset::RuleSet;
use crate::turn::{CallOptions, Effect, Section};
use crate::value::to_float;
use crate::{FactType, Value};

/// How a call, request or timer is made again, and what is awaited.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Made {
    Call {
        function: Arc<str>,
        input: Arc<str>,
        artifacts: bool,
        options: CallOptions,
    },
    Request {
        target: Arc<str>,
        input: Arc<str>,
        options: CallOptions,
    },
    Timer {
        at_ms: i64,
    },
}

impl Made {
    pub(crate) fn effect(&self, call: CallId) -> Effect {
        match self.clone() {
            Self::Call {
                function,
                input,
                artifacts,
                options,
            } => Effect::Call {
                call,
                function,
                input_json: input,
                has_artifacts: artifacts,
                options,
            },
            Self::Request {
                target,
                input,
                options,
            } => Effect::Request {
                call,
                target,
                input_json: input,
                options,
            },
            Self::Timer { at_ms } => Effect::Timer { call, at_ms },
        }
    }

    pub(crate) const fn options(&self) -> Option<&CallOptions> {
        match self {
            Self::Call { options, .. } | Self::Request { options, .. } => Some(options),
            Self::Timer { .. } => None,
        }
    }

    pub(crate) fn target(&self) -> Arc<str> {
        match self {
            Self::Call { function, .. } => Arc::clone(function),
            Self::Request { target, .. } => Arc::clone(target),
            Self::Timer { .. } => "timer".into(),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Write {
    Insert(usize),
    Update(usize),
    Retract(u64),
}

#[derive(Debug)]
pub(crate) struct Inserted {
    pub id: u64,
    pub kind: usize,
    pub slots: Box<[Value]>,
    pub kept: bool,
}

#[derive(Debug)]
pub(crate) struct Updated {
    pub id: u64,
    /// Where the store has it.
    pub place: u32,
    pub slots: SmallVec<[(usize, Value); 2]>,
}

/// The state of a turn that sections see, and what the section that runs has done so far.
#[derive(Debug)]
pub(crate) struct Context {
    pub rules: Arc<RuleSet>,
    pub run: RunId,
    pub store: Store,
    /// Retracted facts that an open firing still binds.
    pub ghosts: FxHashMap<u64, Fact>,
    pub seq: u64,
    pub now_ms: i64,
    pub draws: u64,
    pub effects: Vec<Effect>,
    pub section: Section,
    pub writes: Vec<Write>,
    pub inserted: Vec<Inserted>,
    pub updated: Vec<Updated>,
    /// Where the updated facts are, once there are too many to look through.
    pub updated_at: FxHashMap<u64, usize>,
    pub retracted: FxHashSet<u64>,
    pub made: Vec<(CallId, Made)>,
    pub fail_fast: bool,
    pub retry: Option<CallOptions>,
    pub failed: bool,
    /// The section wants no more rules to fire in this turn.
    pub halting: bool,
    /// The effects before this section, and their bytes.
    mark: (usize, usize),
    /// The bytes of the turn's effects.
    effect_bytes: usize,
    /// The bytes of the long values that the section has written.
    written_bytes: usize,
}

/// So many updated facts are looked through faster than they are looked up.
const FEW: usize = 8;

type Done<T> = Result<T, String>;

impl Context {
    pub(crate) fn new(rules: Arc<RuleSet>, run: RunId) -> Self {
        Self {
            rules,
            run,
            store: Store::default(),
            ghosts: FxHashMap::default(),
            seq: 0,
            now_ms: 0,
            draws: 0,
            effects: Vec::new(),
            section: Section::Action,
            writes: Vec::new(),
            inserted: Vec::new(),
            updated: Vec::new(),
            updated_at: FxHashMap::default(),
            retracted: FxHashSet::default(),
            made: Vec::new(),
            fail_fast: false,
            retry: None,
            failed: false,
            halting: false,
            mark: (0, 0),
            effect_bytes: 0,
            written_bytes: 0,
        }
    }

    pub(crate) fn begin(&mut self, section: Section) {
        self.section = section;
        self.mark = (self.effects.len(), self.effect_bytes);
        self.clear();
    }

    /// Forgets everything the section has done.
    pub(crate) fn roll_back(&mut self) {
        self.effects.truncate(self.mark.0);
        self.effect_bytes = self.mark.1;
        self.clear();
    }

    /// The turn's effects; the next turn begins with none.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        self.effect_bytes = 0;
        std::mem::take(&mut self.effects)
    }

    fn clear(&mut self) {
        self.writes.clear();
        self.inserted.clear();
        self.updated.clear();
        self.updated_at.clear();
        self.retracted.clear();
        self.made.clear();
        self.fail_fast = false;
        self.retry = None;
        self.failed = false;
        self.halting = false;
        self.written_bytes = 0;
    }

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

    pub(crate) fn next_call(&self) -> CallId {
        CallId {
            seq: self.seq,
            index: u32::try_from(self.effects.len()).expect("effects are bounded far below 2^32"),
        }
    }

    fn json(&self, value: &Value) -> Done<Arc<str>> {
        let bound = self.rules.limits.effect_bytes;
        if value.weight() > bound.saturating_mul(32) {
            return Err(format!(
                "more than {bound} bytes of JSON; larger things are artifacts"
            ));
        }
        let text = value.to_json();
        if text.len() > bound {
            return Err(format!(
                "more than {bound} bytes of JSON; larger things are artifacts"
            ));
        }
        Ok(text.into())
    }

    pub(crate) fn effect(&mut self, effect: Effect) -> Done<()> {
        if self.effects.len() >= self.rules.limits.effects {
            return Err(format!(
                "more than {} effects in one turn",
                self.rules.limits.effects
            ));
        }
        let bytes = self.effect_bytes.saturating_add(effect.text_bytes());
        let bound = self.rules.limits.turn_bytes;
        if bytes > bound {
            return Err(format!("more than {bound} bytes of effects in one turn"));
        }
        self.effect_bytes = bytes;
        self.effects.push(effect);
        Ok(())
    }

    fn make(&mut self, made: Made) -> Done<i64> {
        if self.section != Section::Action {
            return Err(
                "calls, requests and timers are made in `action`; here nothing would wait for them".into(),
            );
        }
        let call = self.next_call();
        self.effect(made.effect(call))?;
        self.made.push((call, made));
        Ok(i64::try_from(self.made.len() - 1).unwrap_or(i64::MAX))
    }

    pub(crate) fn call(&mut self, function: &str, input: &Value, options: &Value) -> Done<i64> {
        let function = self.function_name(function);
        let artifacts = input.contains_artifact();
        let input = self.json(input)?;
        self.call_json(function, input, artifacts, options)
    }

    pub(crate) fn call_json(
        &mut self,
        function: Arc<str>,
        input: Arc<str>,
        artifacts: bool,
        options: &Value,
    ) -> Done<i64> {
        let options = self.options(options)?;
        self.make(Made::Call {
            function,
            input,
            artifacts,
            options,
        })
    }

    /// The function's name, shared with the call before: a fan-out calls one function many times.
    fn function_name(&self, function: &str) -> Arc<str> {
        match self.effects.last() {
            Some(Effect::Call { function: last, .. }) if **last == *function => Arc::clone(last),
            _ => function.into(),
        }
    }

    pub(crate) fn request(&mut self, target: &str, input: &Value, options: &Value) -> Done<i64> {
        let input = self.json(input)?;
        self.request_json(target, input, options)
    }

    pub(crate) fn request_json(&mut self, target: &str, input: Arc<str>, options: &Value) -> Done<i64> {
        let parts: Vec<_> = target.split('/').collect();
        if parts.len() != 2 || parts.iter().any(|part| part.is_empty()) {
            return Err(format!(
                "`{target}` is no operation; expected `service/operation`"
            ));
        }
        let options = self.options(options)?;
        self.make(Made::Request {
            target: target.into(),
            input,
            options,
        })
    }

    pub(crate) fn timer(&mut self, when: &Value) -> Done<i64> {
        let at_ms = match (when.get("at"), when.get("after")) {
            (Some(at), None) => at.as_int().ok_or("`at` is an instant in milliseconds")?,
            (None, Some(after)) => self.now_ms.saturating_add(duration(after)?),
            _ => self.now_ms.saturating_add(duration(when)?),
        };
        self.make(Made::Timer { at_ms })
    }

    pub(crate) fn emit(&mut self, event_type: &str, content: &Value) -> Done<()> {
        let data_json = self.json(content)?;
        self.emit_json(event_type, data_json)
    }

    pub(crate) fn emit_json(&mut self, event_type: &str, data_json: Arc<str>) -> Done<()> {
        self.effect(Effect::Emit {
            event_type: event_type.into(),
            data_json,
        })
    }

    pub(crate) fn complete(&mut self, result: &Value) -> Done<()> {
        let result_json = self.json(result)?;
        self.complete_json(result_json)
    }

    pub(crate) fn complete_json(&mut self, result_json: Arc<str>) -> Done<()> {
        self.effect(Effect::Complete { result_json })
    }

    pub(crate) fn fail(&mut self, message: &str, content: Option<&Value>) -> Done<()> {
        let data_json = content.map(|content| self.json(content)).transpose()?;
        self.fail_json(message, data_json)
    }

    pub(crate) fn fail_json(&mut self, message: &str, data_json: Option<Arc<str>>) -> Done<()> {
        self.failed = true;
        self.effect(Effect::Fail {
            message: message.to_owned(),
            data_json,
        })
    }

    pub(crate) fn retry(&mut self, options: &Value) -> Done<()> {
        if self.section != Section::Error {
            return Err("`retry` makes the failed calls again; it stands in `error`".into());
        }
        let fail_fast = self.fail_fast;
        self.retry = Some(self.options(options)?);
        self.fail_fast = fail_fast;
        Ok(())
    }

    pub(crate) fn progress(&mut self, fraction: &Value, text: &str) -> Done<()> {
        let fraction = match fraction {
            Value::Int(number) => to_float(*number),
            Value::Float(number) => *number,
            other => {
                return Err(format!(
                    "progress is a number from 0 to 1, not {}",
                    other.kind_name()
                ));
            }
        };
        self.effect(Effect::Progress {
            fraction: fraction.clamp(0.0, 1.0),
            text: text.to_owned(),
        })
    }

    pub(crate) fn log(&mut self, level: &'static str, text: &str) -> Done<()> {
        self.effect(Effect::Log {
            level,
            text: text.chars().take(10_000).collect(),
        })
    }

    /// The next number of the sequence that the run's id and the turn's number start.
    fn draw(&mut self) -> u64 {
        self.draws += 1;
        let bits = self.run.bits();
        let folded = u64::try_from((bits >> 64) ^ (bits & u128::from(u64::MAX))).unwrap_or(0);
        // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
        let mut z = folded
            .wrapping_add(self.seq.wrapping_mul(0xd1b5_4a32_d192_ed03))
            .wrapping_add(self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(crate) fn random(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Twenty-four hexadecimal digits that no other turn of this or another run draws.
    pub(crate) fn uid(&mut self) -> String {
        let (a, b) = (self.draw(), self.draw());
        let mut text = format!("{a:016x}");
        write!(text, "{:08x}", b >> 32).expect("a string takes everything");
        text
    }

    fn options(&mut self, options: &Value) -> Done<CallOptions> {
        let mut parsed = CallOptions::default();
        let map = match options {
            Value::Null => return Ok(parsed),
            Value::Map(map) => map,
            other => return Err(format!("options are a map, not {}", other.kind_name())),
        };
        for (name, value) in map.iter() {
            match (name.as_str(), value) {
                ("timeout", value) => parsed.timeout_ms = Some(duration(value)?),
                ("after", value) => parsed.delay_ms = Some(duration(value)?),
                ("priority", Value::Int(priority)) => parsed.priority = Some(*priority),
                ("key", Value::Str(key)) => parsed.key = Some(key.to_string()),
                ("fail_fast", Value::Bool(fail_fast)) => self.fail_fast = *fail_fast,
                ("priority" | "key" | "fail_fast", value) => {
                    return Err(format!("option `{name}` cannot be {}", value.kind_name()));
                }
                _ => {
                    return Err(format!(
                        "no option `{name}`; there are timeout, after, priority, key and fail_fast"
                    ));
                }
            }
        }
        Ok(parsed)
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

fn duration(value: &Value) -> Done<i64> {
    match value {
        Value::Int(millis) if *millis >= 0 => Ok(*millis),
        Value::Str(text) => text_duration(text),
        other => Err(format!(
            "a duration is milliseconds or a text like `10s`, not {other}"
        )),
    }
}

fn text_duration(text: &str) -> Done<i64> {
    duration_ms(text).map_err(|error| error.to_string())
}
