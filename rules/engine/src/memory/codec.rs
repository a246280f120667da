//! The stored form of a run's state: snapshots and deltas, binary, versioned by their first byte.
//!
//! Format 1 is a sequence of records, each a byte and its fields; numbers are LEB128, texts have their length before them.
//! A snapshot is a delta from nothing. What the facts determine is not stored: at the end of a turn every match has
//! fired, so a memory that is restored takes all matches of known rules as fired, except those a halted run still has
//! pending. Rules that are new or changed since the state was written fire for what they find.

mod reader;
mod writer;

use std::collections::BTreeSet;
use std::sync::Arc;

use celesta_types::{ErrorKind, RunId};
use rustc_hash::FxHashSet;

use super::network::{Network, World};
use super::shared::Unmatched;
use super::store::{Fact, SHARED_FIRST};
use super::{Halt, WorkingMemory};
use crate::moves::FactMoves;
use crate::ruleset::RuleSet;
use reader::Reading;
use writer::{Writer, writer};

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
