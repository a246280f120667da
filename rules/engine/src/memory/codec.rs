//! The stored form of a run's state: snapshots and deltas, binary, versioned by their first byte.
//!
//! Format 1 is a sequence of records, each a byte and its fields; numbers are LEB128, texts have their length before them.
//! A snapshot is a delta from nothing. What the facts determine is not stored: at the end of a turn every match has
//! fired, so a memory that is restored takes all matches of known rules as fired, except those a halted run still has
//! pending. Rules that are new or changed since the state was written fire for what they find.

use std::collections::BTreeSet;
use std::sync::Arc;

use celesta_types::{CallId, ErrorClass, ErrorKind, RunId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::firing::{CallState, Held, OpenFiring, Stage};
use super::network::{Network, World};
use super::section::Made;
use super::shared::Unmatched;
use super::store::{FROM_REQUEST, Fact, SHARED_FIRST};
use super::{Halt, WorkingMemory};
use crate::moves::FactMoves;
use crate::ruleset::RuleSet;
use crate::turn::{CallError, CallOptions, Section};
use crate::value::VALUE_DEPTH_MAX;
use crate::{Map, Value};

/// The first byte of every snapshot and delta.
const FORMAT: u8 = 1;

/// Why a state cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Written by a release this one does not know.
    #[error("the state has format {found}, known is {FORMAT}")]
    Format {
        /// Its first byte.
        found: u8,
    },
    /// The bytes do not make sense.
    #[error("the state is damaged: {what}")]
    Damaged {
        /// What does not make sense.
        what: &'static str,
    },
    /// The rules no longer have a fact type that the run has facts of.
    #[error("the rules have no fact type `{name}`, of which the run has facts")]
    UnknownFactType {
        /// Its name.
        name: String,
    },
    /// The rules no longer have a rule that waits for calls.
    #[error("the rules have no rule `{name}`, which waits for calls")]
    UnknownRule {
        /// Its name.
        name: String,
    },
    /// A rule that waits for calls matches other facts than when it fired.
    #[error("rule `{name}` waits for calls and has other clauses now")]
    ChangedRule {
        /// Its name.
        name: String,
    },
    /// A stored fact does not fit the rules it is taken over to.
    #[error("fact #{fact} `{fact_type}` does not fit: {reason}")]
    Unfit {
        /// Its number.
        fact: u64,
        /// Its type, as stored.
        fact_type: String,
        /// Why.
        reason: String,
    },
}

impl RestoreError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Format { .. } | Self::Damaged { .. } => ErrorKind::Internal,
            Self::UnknownFactType { .. }
            | Self::UnknownRule { .. }
            | Self::ChangedRule { .. }
            | Self::Unfit { .. } => ErrorKind::Conflict,
        }
    }
}

mod tag {
    pub(super) const SCHEMA: u8 = 1;
    pub(super) const COUNTERS: u8 = 2;
    pub(super) const INSERT: u8 = 3;
    pub(super) const UPDATE: u8 = 4;
    pub(super) const RETRACT: u8 = 5;
    pub(super) const FIRING: u8 = 6;
    pub(super) const OUTCOME: u8 = 7;
    pub(super) const CLOSE: u8 = 8;
    pub(super) const PENDING: u8 = 9;
    pub(super) const GHOST: u8 = 10;
    pub(super) const CLOCK: u8 = 11;
    pub(super) const SHARED: u8 = 12;
}

#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
            number >>= 7;
        }
        self.byte(u8::try_from(number).unwrap_or(0));
    }
    fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }
    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)).cast_unsigned());
    }
    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.byte(0),
            Value::Bool(false) => self.byte(1),
            Value::Bool(true) => self.byte(2),
            Value::Int(number) => {
                self.byte(3);
                self.signed(*number);
            }
            Value::Float(number) => {
                self.byte(4);
                self.0.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            Value::Str(text) => {
                self.byte(5);
                self.text(text);
            }
            Value::List(values) => {
                self.byte(6);
                self.count(values.len());
                values.iter().for_each(|value| self.value(value));
            }
            Value::Map(map) => {
                self.byte(7);
                self.count(map.len());
                for (key, value) in map.iter() {
                    self.text(key);
                    self.value(value);
                }
            }
        }
    }
    fn optional(&mut self, number: Option<i64>) {
        self.byte(u8::from(number.is_some()));
        if let Some(number) = number {
            self.signed(number);
        }
    }
    fn call(&mut self, call: CallId) {
        self.number(call.seq);
        self.number(u64::from(call.index));
    }
    fn fact(&mut self, tag: u8, fact: &Fact) {
        self.byte(tag);
        self.count(fact.kind);
        self.number(fact.id);
        self.number(u64::from(fact.version));
        self.number(writer(fact.writer));
        self.number(fact.inserted);
        for (slot, value) in fact.slots.iter().enumerate() {
            self.value(value);
            self.number(u64::from(fact.later.get(slot).copied().unwrap_or(0)));
        }
    }
    fn options(&mut self, options: &CallOptions) {
        self.optional(options.timeout_ms);
        self.optional(options.priority);
        self.optional(options.delay_ms);
        self.byte(u8::from(options.key.is_some()));
        if let Some(key) = &options.key {
            self.text(key);
        }
    }
    fn made(&mut self, made: &Made) {
        match made {
            Made::Call {
                function,
                input,
                artifacts,
                options,
            } => {
                self.byte(u8::from(*artifacts));
                self.text(function);
                self.text(input);
                self.options(options);
            }
            Made::Request {
                target,
                input,
                options,
            } => {
                self.byte(2);
                self.text(target);
                self.text(input);
                self.options(options);
            }
            Made::Timer { at_ms } => {
                self.byte(3);
                self.signed(*at_ms);
            }
        }
    }
    fn outcome(&mut self, outcome: Option<&Result<Value, CallError>>) {
        match outcome {
            None => self.byte(0),
            Some(Ok(value)) => {
                self.byte(1);
                self.value(value);
            }
            Some(Err(error)) => {
                self.byte(2);
                self.byte(error.kind.code());
                self.text(&error.message);
                self.text(&error.function);
                self.number(u64::from(error.attempts));
            }
        }
    }
    fn firing(&mut self, rules: &RuleSet, number: u64, firing: &OpenFiring) {
        self.byte(tag::FIRING);
        self.number(number);
        self.text(&rules.rules[firing.rule as usize].name);
        self.count(firing.facts.len());
        for (id, version) in &firing.facts {
            self.number(*id);
            self.number(u64::from(*version));
        }
        self.count(firing.bindings.len());
        for (level, held) in &firing.bindings {
            self.number(u64::from(*level));
            match held {
                Held::Fact(id) => {
                    self.byte(0);
                    self.number(*id);
                }
                Held::Value(value) => {
                    self.byte(1);
                    self.value(value);
                }
                Held::Facts(facts) => {
                    self.byte(2);
                    self.count(facts.len());
                    facts.iter().for_each(|id| self.number(*id));
                }
            }
        }
        self.byte(u8::from(firing.fail_fast));
        self.number(u64::from(firing.retries));
        self.byte(match firing.stage {
            Stage::Waiting => 0,
            Stage::FailedCalls => 1,
            Stage::FailedSection(Section::Action) => 2,
            Stage::FailedSection(Section::Reaction) => 3,
            Stage::FailedSection(Section::Error) => 4,
        });
        self.count(firing.calls.len());
        for call in &firing.calls {
            self.call(call.call);
            self.made(&call.made);
            self.outcome(call.outcome.as_ref());
        }
    }
}

fn writer(rule: u32) -> u64 {
    if rule == FROM_REQUEST {
        0
    } else {
        u64::from(rule) + 1
    }
}

/// Fact types with their fields, and rules with their fingerprints: what a state was written with.
pub(crate) fn schema(rules: &RuleSet) -> Arc<[u8]> {
    let mut out = Writer::default();
    out.count(rules.types.len());
    for fact_type in &rules.types {
        out.text(&fact_type.name);
        out.count(fact_type.fields.len());
        fact_type.fields.iter().for_each(|field| out.text(&field.name));
    }
    out.count(rules.rules.len());
    for rule in &rules.rules {
        out.text(&rule.name);
        out.number(rule.fingerprint);
    }
    out.0.into()
}

impl WorkingMemory {
    /// The whole state.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = Writer(vec![FORMAT]);
        out.byte(tag::SCHEMA);
        out.0.extend_from_slice(&self.rules.schema);
        self.write_counters(&mut out);
        let own = |fact: &&Fact| fact.id < SHARED_FIRST;
        let live = self.context().store.live().map(|(_, fact)| fact);
        let mut facts: Vec<_> = live.filter(own).collect();
        facts.sort_unstable_by_key(|fact| fact.id);
        facts.into_iter().for_each(|fact| out.fact(tag::INSERT, fact));
        let mut ghosts: Vec<_> = self.context().ghosts.values().filter(own).collect();
        ghosts.sort_unstable_by_key(|fact| fact.id);
        ghosts.into_iter().for_each(|fact| out.fact(tag::GHOST, fact));
        for (number, firing) in &self.firings {
            out.firing(&self.rules, *number, firing);
        }
        if let Some(unmatched) = &self.unmatched {
            if !unmatched.pending.is_empty() {
                out.byte(tag::PENDING);
                out.count(unmatched.pending.len());
                for (rule, facts) in &unmatched.pending {
                    out.text(rule);
                    out.count(facts.len());
                    facts.iter().for_each(|id| out.number(*id));
                }
            }
        } else if self.network.waiting() > 0 {
            self.write_pending(&mut out);
        }
        out.0
    }

    fn write_counters(&self, out: &mut Writer) {
        out.byte(tag::COUNTERS);
        out.number(self.context().store.next_id);
        out.number(self.context().store.clock);
        out.number(self.next_firing);
        out.byte(match self.halted {
            None => 0,
            Some(Halt::Failed) => 1,
            Some(Halt::Canceled) => 2,
        });
        if self.rules.plan.is_timed()
            && let Some(born_ms) = self.network.clock.born_ms
        {
            out.byte(tag::CLOCK);
            out.signed(born_ms);
            out.signed(self.network.clock.now_ms);
        }
        if let Some(seen) = self.seen {
            out.byte(tag::SHARED);
            out.number(seen);
        }
    }

    fn write_pending(&self, out: &mut Writer) {
        out.byte(tag::PENDING);
        out.count(self.network.waiting());
        for pending in self.network.pending(self.world()) {
            out.text(&self.rules.rules[pending.rule as usize].name);
            out.count(pending.facts.len());
            pending.facts.iter().for_each(|id| out.number(*id));
        }
    }

    /// What the turn has changed; clears the marks.
    pub(super) fn delta(&mut self) -> Vec<u8> {
        let mut out = Writer(vec![FORMAT]);
        if self
            .journal
            .schema
            .as_ref()
            .is_none_or(|known| **known != *self.rules.schema)
        {
            out.byte(tag::SCHEMA);
            out.0.extend_from_slice(&self.rules.schema);
            self.journal.schema = Some(Arc::clone(&self.rules.schema));
        }
        self.write_counters(&mut out);
        let dirty = std::mem::take(&mut self.journal.dirty);
        let context = self.context.as_mut().expect("no script runs");
        for id in &dirty {
            let Some(at) = context.store.find(*id) else {
                continue;
            };
            let fact = context.store.get_mut(at);
            if fact.fresh {
                out.fact(tag::INSERT, fact);
            } else {
                out.byte(tag::UPDATE);
                out.number(fact.id);
                out.number(u64::from(fact.version));
                out.number(writer(fact.writer));
                out.number(fact.dirty);
                for (slot, value) in fact.slots.iter().enumerate() {
                    if fact.dirty >> slot & 1 == 1 {
                        out.value(value);
                        out.number(fact.stamp(1 << slot));
                    }
                }
            }
            fact.dirty = 0;
            fact.fresh = false;
        }
        // A fact may be retracted after firings of this turn have bound it: those need its last value.
        let gone = std::mem::take(&mut self.journal.gone);
        let mut ghosts: Vec<_> = context
            .ghosts
            .values_mut()
            .filter(|ghost| ghost.id < SHARED_FIRST && (ghost.dirty != 0 || ghost.fresh))
            .collect();
        ghosts.sort_unstable_by_key(|ghost| ghost.id);
        for ghost in ghosts {
            ghost.dirty = 0;
            ghost.fresh = false;
            out.fact(tag::GHOST, ghost);
        }
        for id in &gone {
            out.byte(tag::RETRACT);
            out.number(*id);
        }
        for number in std::mem::take(&mut self.journal.closed) {
            out.byte(tag::CLOSE);
            out.number(number);
        }
        let written: BTreeSet<u64> = std::mem::take(&mut self.journal.written);
        for number in &written {
            if let Some(firing) = self.firings.get(number) {
                out.firing(&self.rules, *number, firing);
            }
        }
        for (number, at) in std::mem::take(&mut self.journal.outcomes) {
            if let Some(firing) = self.firings.get(&number).filter(|_| !written.contains(&number)) {
                out.byte(tag::OUTCOME);
                out.number(number);
                out.number(u64::from(at));
                out.outcome(firing.calls[at as usize].outcome.as_ref());
            }
        }
        let pending = self.network.waiting() > 0;
        if pending || self.journal.pending {
            self.write_pending(&mut out);
        }
        self.journal.pending = pending;
        out.0
    }

    /// The memory after the snapshot (or of a new run without one) and these deltas, in their order.
    ///
    /// # Errors
    /// See [`RestoreError`]. A state written with other rules is taken over: fields are found by name, new ones get
    /// their default or null, lost ones are dropped.
    pub fn restore<'a>(
        rules: &Arc<RuleSet>,
        run: RunId,
        snapshot: Option<&'a [u8]>,
        deltas: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, RestoreError> {
        let mut memory = Self::empty(rules, run);
        let mut reading = Reading::default();
        for bytes in snapshot.into_iter().chain(deltas) {
            reading.read(&mut memory, bytes)?;
        }
        memory.rebuild(&reading);
        Ok(memory)
    }

    /// This memory under other rules. Rules that are new or changed fire for what they find, the others do not again;
    /// calls that are open stay open.
    ///
    /// # Errors
    /// When a fact does not fit, or a rule that waits for calls is gone or matches other facts. This memory is as it
    /// was.
    pub fn moved_to(&self, rules: &Arc<RuleSet>, moves: &Arc<FactMoves>) -> Result<Self, RestoreError> {
        for firing in self.firings.values() {
            let rule = &self.rules.rules[firing.rule as usize];
            let name = || rule.name.to_string();
            let next = (rules.rules.iter()).find(|next| next.name == rule.name);
            match next {
                None => return Err(RestoreError::UnknownRule { name: name() }),
                Some(next) if next.layout != rule.layout => {
                    return Err(RestoreError::ChangedRule { name: name() });
                }
                Some(_) => {}
            }
        }
        Self::restore_moved(rules, self.run, &self.snapshot(), moves)
    }

    /// The memory after a snapshot that was written with other rules, every fact taken over and checked.
    fn restore_moved(
        rules: &Arc<RuleSet>,
        run: RunId,
        snapshot: &[u8],
        moves: &Arc<FactMoves>,
    ) -> Result<Self, RestoreError> {
        let mut memory = Self::empty(rules, run);
        let mut reading = Reading {
            moves: Some(Arc::clone(moves)),
            ..Reading::default()
        };
        reading.read(&mut memory, snapshot)?;
        memory.rebuild(&reading);
        Ok(memory)
    }

    fn rebuild(&mut self, reading: &Reading) {
        let rules = Arc::clone(&self.rules);
        for (number, firing) in &self.firings {
            for fact in firing.bound_facts() {
                *self.pins.entry(fact).or_default() += 1;
            }
            for (at, call) in (0_u32..).zip(&firing.calls) {
                if call.outcome.is_none() {
                    self.calls.insert(call.call, (*number, at));
                }
            }
            self.outstanding += u64::from(firing.open);
        }
        let pins = &self.pins;
        let context = self.context.as_mut().expect("no script runs");
        context.ghosts.retain(|id, _| pins.contains_key(id));
        let known = |name: &Arc<str>, print: u64| reading.rules.get(&**name) == Some(&print);
        let quiet: Vec<bool> = (rules.rules.iter())
            .map(|rule| known(&rule.name, rule.fingerprint))
            .collect();
        let is_moved = !reading.rules.is_empty() && quiet.contains(&false);
        if rules.reads_shared() {
            // What the run has matched is known only with the shared facts it has seen.
            self.at_rest = true;
            self.unmatched = Some(Box::new(Unmatched {
                quiet,
                pending: reading.pending.clone(),
            }));
        } else {
            self.match_all(&quiet, &reading.pending);
        }
        self.journal.schema.clone_from(&reading.schema);
        // What new rules find waits too: a snapshot of now names it, so the next delta has to say when it is gone.
        let finds = self.network.waiting() > 0 || is_moved && self.unmatched.is_some();
        self.journal.pending = !reading.pending.is_empty() || finds;
    }

    /// Matches all facts anew: what is pending waits, and so do the matches of rules that are not quiet.
    fn match_all(&mut self, quiet: &[bool], pending: &[(String, Vec<u64>)]) {
        let rules = Arc::clone(&self.rules);
        let world = World {
            rules: &rules,
            store: &self.context.as_ref().expect("no script runs").store,
        };
        // With activations pending everything is put on the agenda first, and what has fired is taken off.
        self.network.quiet = pending.is_empty().then(|| quiet.to_vec());
        self.network.start(world);
        let mut facts: Vec<_> = world.store.live().map(|(at, fact)| (fact.id, at)).collect();
        facts.sort_unstable();
        for (_, at) in facts {
            self.network.plan_insert(world, &mut self.batch, at);
        }
        self.network.offer(world, &mut self.batch);
        self.network.settle(world);
        self.network.quiet = None;
        if !pending.is_empty() {
            let pending: FxHashSet<(&str, &[u64])> = (pending.iter())
                .map(|(rule, facts)| (rule.as_str(), facts.as_slice()))
                .collect();
            for waiting in self.network.pending(world) {
                let rule = &rules.rules[waiting.rule as usize];
                if quiet[waiting.rule as usize] && !pending.contains(&(&*rule.name, &waiting.facts[..])) {
                    self.network.disarm(world, waiting.token);
                }
            }
        }
        self.network.failures = 0;
        self.network.failure = None;
    }

    /// A small memory in which nothing waits to fire keeps its facts only.
    pub(super) fn rest(&mut self) {
        let facts = self.context().store.len();
        if facts > self.rules.limits.rest_facts || self.network.waiting() > 0 || self.rules.plan.scripted {
            self.network.shrink();
            return;
        }
        let clock = self.network.clock;
        self.network = Network::new();
        self.network.clock = clock;
        self.at_rest = true;
        if self.rules.reads_shared() {
            // The host gives them again.
            self.context_mut().store.own_only();
        }
    }

    /// The matches of a memory at rest: all of them have fired.
    pub(super) fn wake(&mut self) {
        if let Some(unmatched) = self.unmatched.take() {
            self.at_rest = false;
            self.match_all(&unmatched.quiet, &unmatched.pending);
        } else if std::mem::take(&mut self.at_rest) {
            self.match_all(&vec![true; self.rules.rules.len()], &[]);
        }
    }
}

/// A fact type of the stored state, as the rules in force know it.
#[derive(Debug)]
struct StoredType {
    name: String,
    kind: Option<usize>,
    /// For each stored field its slot.
    slots: Vec<Option<usize>>,
    /// Their names, when facts are taken over to other rules; and whether these are not.
    fields: Vec<String>,
    dropped: bool,
}

#[derive(Debug, Default)]
struct Reading {
    types: Vec<StoredType>,
    rules: FxHashMap<String, u64>,
    /// Stored rule numbers in the numbers of the rules in force, for `written_by`.
    writers: Vec<Option<u32>>,
    schema: Option<Arc<[u8]>>,
    pending: Vec<(String, Vec<u64>)>,
    /// The state is taken over to other rules.
    moves: Option<Arc<FactMoves>>,
}

struct Bytes<'a> {
    bytes: &'a [u8],
}

type Read<T> = Result<T, RestoreError>;

const fn damaged(what: &'static str) -> RestoreError {
    RestoreError::Damaged { what }
}

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Read<u8> {
        let (first, rest) = self.bytes.split_first().ok_or_else(|| damaged("it ends early"))?;
        self.bytes = rest;
        Ok(*first)
    }
    fn number(&mut self) -> Read<u64> {
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
    fn number32(&mut self) -> Read<u32> {
        u32::try_from(self.number()?).map_err(|_| damaged("a number is too large"))
    }
    /// A count of things that take at least one byte each.
    fn count(&mut self) -> Read<usize> {
        let count = usize::try_from(self.number()?).map_err(|_| damaged("a count is too large"))?;
        if count > self.bytes.len() {
            Err(damaged("a count exceeds the bytes"))
        } else {
            Ok(count)
        }
    }
    fn signed(&mut self) -> Read<i64> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }
    fn text(&mut self) -> Read<&'a str> {
        let length = self.count()?;
        let (text, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        std::str::from_utf8(text).map_err(|_| damaged("a text is not UTF-8"))
    }
    fn value(&mut self, depth: usize) -> Read<Value> {
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
    fn optional(&mut self) -> Read<Option<i64>> {
        Ok(if self.byte()? == 0 {
            None
        } else {
            Some(self.signed()?)
        })
    }
    fn call(&mut self) -> Read<CallId> {
        Ok(CallId {
            seq: self.number()?,
            index: self.number32()?,
        })
    }
    fn options(&mut self) -> Read<CallOptions> {
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
    fn made(&mut self) -> Read<Made> {
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
    fn outcome(&mut self) -> Read<Option<Result<Value, CallError>>> {
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
    fn read(&mut self, memory: &mut WorkingMemory, bytes: &[u8]) -> Read<()> {
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

    fn record(&mut self, memory: &mut WorkingMemory, bytes: &mut Bytes<'_>) -> Read<()> {
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

    fn writer(&self, stored: u64) -> u32 {
        let at = stored.checked_sub(1).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.writers.get(at).copied().flatten())
            .unwrap_or(FROM_REQUEST)
    }

    fn schema(&mut self, rules: &RuleSet, bytes: &mut Bytes<'_>) -> Read<()> {
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
    fn fact(&self, rules: &RuleSet, bytes: &mut Bytes<'_>) -> Read<Option<Fact>> {
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

    fn firing(rules: &RuleSet, bytes: &mut Bytes<'_>) -> Read<OpenFiring> {
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
