//! One turn: the events are applied, rules fire until none is left, and the outcome says what has changed.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::network::World;
use super::store::FROM_REQUEST;
use super::{TRACE, WorkingMemory};
use crate::Value;
use crate::turn::{Effect, Event, FactChange, FactId, Fault, FiringRecord, Outcome, Section, Stops, Turn};

impl WorkingMemory {
    /// Applies the events in order, then fires rules until none is left.
    ///
    /// When the outcome has a fault, nothing of the turn counts and the memory must be dropped.
    #[must_use]
    pub fn turn(&mut self, turn: Turn) -> Outcome {
        self.turn_until(turn, &Stops::default())
    }

    /// As [`WorkingMemory::turn`], and stops before what `stops` says; [`Outcome::stopped`] is the activation that would
    /// fire next. What was not fired waits for the next turn.
    #[must_use]
    pub fn turn_until(&mut self, turn: Turn, stops: &Stops<'_>) -> Outcome {
        let rejected = self.load(turn);
        let fault = self.fire_until(stops);
        self.outcome(rejected, fault)
    }

    /// Applies the events in order and fires nothing: the first half of [`WorkingMemory::turn`], for measuring and for
    /// looking at what would fire. Gives the refused events: index and reason.
    pub fn load(&mut self, turn: Turn) -> Vec<(usize, String)> {
        self.journal.first_firing = self.next_firing;
        let context = self.context_mut();
        context.seq = turn.seq;
        context.now_ms = turn.now_ms;
        context.draws = 0;
        self.resting = false;
        let shared = turn.events.iter().find_map(|event| match event {
            Event::Shared(shared) => Some(Arc::clone(shared)),
            _ => None,
        });
        self.see(shared.as_deref());
        if let Some(context) = &self.context {
            let world = World {
                rules: &self.rules,
                store: &context.store,
            };
            self.network.tell(world, turn.now_ms);
        }
        let mut rejected = Vec::new();
        for (at, event) in turn.events.into_iter().enumerate() {
            if let Err(why) = self.apply(event) {
                rejected.push((at, why));
            }
        }
        rejected
    }

    /// Fires rules until none is left: what [`WorkingMemory::turn`] does after the events, without the delta.
    pub fn fire_loaded(&mut self) -> Option<Fault> {
        self.fire_until(&Stops::default())
    }

    /// Fires at most `count` activations, whatever the bound of a turn is; true when there may be more. For measuring.
    pub fn fire_some(&mut self, count: u64) -> bool {
        for _ in 0..count {
            if self.halted.is_some() || self.resting {
                return false;
            }
            match self.next_activation() {
                Some(token) => self.fire(token),
                None => return false,
            }
        }
        true
    }

    /// Takes what was recorded of firings and changes since the last outcome, so that it does not grow. For measuring:
    /// the next outcome does not tell of it.
    pub fn take_records(&mut self) -> (Vec<FiringRecord>, Vec<FactChange>) {
        (
            std::mem::take(&mut self.journal.firings),
            std::mem::take(&mut self.journal.changes),
        )
    }

    /// What has happened since the last outcome, with the delta.
    #[must_use]
    pub fn outcome(&mut self, rejected: Vec<(usize, String)>, fault: Option<Fault>) -> Outcome {
        self.warn_of_failed_conditions();
        let delta = self.delta();
        let effects = self.context_mut().take_effects();
        let next_wake_ms = self.network.next_wake_ms();
        let quiescent = fault.is_none() && self.network.waiting() == 0;
        self.rest();
        self.batch.shrink();
        self.updates = Vec::new();
        self.retracted = Vec::new();
        self.journal.trace = Vec::new();
        let context = self.context_mut();
        context.store.shrink();
        context.writes = Vec::new();
        context.inserted = Vec::new();
        context.updated = Vec::new();
        context.made = Vec::new();
        context.updated_at = FxHashMap::default();
        Outcome {
            delta,
            effects,
            firings: std::mem::take(&mut self.journal.firings),
            changes: std::mem::take(&mut self.journal.changes),
            rejected,
            quiescent,
            outstanding: self.outstanding,
            stopped: self.stopped.take(),
            next_wake_ms: if self.halted.is_none() && fault.is_none() {
                next_wake_ms
            } else {
                None
            },
            fault,
        }
    }

    fn warn_of_failed_conditions(&mut self) {
        let failures = std::mem::take(&mut self.network.failures);
        let Some((rule, why)) = self.network.failure.take() else {
            return;
        };
        let text = format!(
            "a condition of rule `{}` has no value and counts as false ({failures} times in this turn): {why}",
            self.rules.rules[rule as usize].name
        );
        // A log line beyond the bound on effects is dropped like any other.
        drop(self.context_mut().effect(Effect::Log { level: "warn", text }));
    }

    fn next_activation(&mut self) -> Option<u32> {
        let world = World {
            rules: &self.rules,
            store: &self.context.as_ref().expect("no script runs").store,
        };
        self.network.next(world)
    }

    fn fire_until(&mut self, stops: &Stops<'_>) -> Option<Fault> {
        let watching = stops.all || !stops.rules.is_empty();
        while self.halted.is_none() && !self.resting {
            if watching && self.journal.fired >= stops.free && self.stops_here(stops) {
                break;
            }
            let Some(token) = self.next_activation() else {
                break;
            };
            if self.journal.fired >= self.rules.limits.firings {
                let fault = Fault::FiringBudget {
                    firings: self.rules.limits.firings,
                    cycle: self.cycle(),
                };
                return Some(fault);
            }
            self.fire(token);
        }
        self.journal.fired = 0;
        self.journal.trace.clear();
        None
    }

    /// The shortest sequence of rules that the end of the trace repeats, or the rules seen there.
    fn cycle(&self) -> Vec<String> {
        let trace = &self.journal.trace;
        let start = usize::try_from(self.journal.fired).unwrap_or(0) % TRACE;
        let ordered: Vec<u32> = (0..trace.len())
            .map(|at| trace[(start + at) % trace.len()])
            .collect();
        let period = (1..=ordered.len() / 2).find(|period| {
            ordered
                .iter()
                .skip(*period)
                .zip(&ordered)
                .all(|(later, earlier)| later == earlier)
        });
        let mut rules: Vec<u32> = ordered[ordered.len() - period.unwrap_or(ordered.len())..].to_vec();
        if period.is_none() {
            rules.sort_unstable();
            rules.dedup();
        }
        rules
            .iter()
            .map(|rule| self.rules.rules[*rule as usize].name.to_string())
            .collect()
    }

    fn apply(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Insert { fact_type, value } => {
                self.begin(Section::Action);
                self.context_mut().insert(&fact_type, &value)?;
                self.commit(FROM_REQUEST);
            }
            Event::Update { fact, version, value } => {
                self.check_version(fact, version)?;
                let Value::Map(map) = value else {
                    return Err("the fields to set are not a map".into());
                };
                self.begin(Section::Action);
                for (field, value) in map.iter() {
                    self.context_mut().write(fact.0, field, value.clone())?;
                }
                self.commit(FROM_REQUEST);
            }
            Event::Retract { fact, version } => {
                self.check_version(fact, version)?;
                self.begin(Section::Action);
                self.context_mut().retract(fact.0)?;
                self.commit(FROM_REQUEST);
            }
            Event::CallSucceeded { call, result } => self.answer(call, Ok(result))?,
            Event::CallFailed { call, error } => self.answer(call, Err(error))?,
            Event::TimerFired { call } => self.answer(call, Ok(Value::Null))?,
            Event::Remake => self.remake(),
            Event::RetryFailed => self.retry_failed()?,
            // Seen before all others.
            Event::Shared(_) => {}
            Event::Cancel { reason } => self.cancel(&reason),
        }
        Ok(())
    }

    fn check_version(&self, fact: FactId, expected: Option<u32>) -> Result<(), String> {
        let store = &self.context().store;
        let at = store
            .find(fact.0)
            .ok_or_else(|| format!("there is no fact {fact}"))?;
        let version = store.get(at).version;
        match expected {
            Some(expected) if expected != version => {
                Err(format!("fact {fact} has version {version}, not {expected}"))
            }
            _ => Ok(()),
        }
    }
}
