//! The events: what the seed may choose next. To add one: a name, its weight, and what it does. What clients ask is in
//! `driver/asking.rs`, what people do to many runs or over in `driver/steering.rs`.

use std::time::Duration;

use celesta_store::driven::Ending;
use celesta_types::ErrorClass;

use super::{Sim, Taken};
use crate::node::{SimError, own_queues};
use crate::workers::Held;

/// Evaluators at work at once.
const EVALUATORS: usize = 3;
/// How long an evaluator's lease lives: the runtime's own figure.
const TURN_LEASE: Duration = Duration::from_secs(60);
/// Calls in the hands of workers at once.
const HELD_MAX: usize = 48;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A client asks for a run.
    Ask,
    /// A client asks again with the same key.
    AskAgain,
    /// A client writes a fact of a run.
    Write,
    /// A client writes it again with the same key.
    WriteAgain,
    /// Somebody steers a run.
    Steer,
    /// A client waits for the end of a run.
    Wait,
    /// A client writes a shared fact.
    Share,
    /// A client writes it again with the same key.
    ShareAgain,
    /// Another version becomes current.
    Release,
    /// Somebody stops all runs of a service or workflow, or lets them go on.
    Order,
    /// Somebody wants something done to all runs of a filter.
    Bulk,
    /// Somebody stops a bulk operation, lets it go on or ends it.
    ChangeBulk,
    /// Somebody does a run over.
    Derive,
    /// A client asks again for what has a key.
    DeriveAgain,
    /// Somebody says before which rules a run stops.
    Break,
    /// Somebody steers a sweep.
    Sweep,
    /// An evaluator leases runs.
    Take,
    /// An evaluator evaluates what it has leased.
    Evaluate,
    /// The committer commits.
    Commit,
    /// A commit fails, and everybody hears it.
    CommitFails,
    /// A worker leases calls.
    Lease,
    /// A worker answers a call.
    Answer,
    /// A worker answers a call that was answered, or was another's.
    AnswerAgain,
    /// A worker forgets a call: its lease lapses.
    Forget,
    /// A worker asks for more time.
    Extend,
    /// A worker gives a call back.
    GiveBack,
    /// Some milliseconds pass.
    Tick,
    /// Time passes until somebody who waits for an instant goes on.
    Wake,
    /// The clock jumps.
    Leap,
    /// The process dies; what waited for a commit is lost.
    Crash,
    /// The process dies after a commit of which nobody hears.
    CrashUnheard,
    /// A commit is durable, everybody hears that it is not, and the process dies.
    CrashDenied,
    /// The process is asked to stop, and another begins.
    Restart,
    /// The next reads fail.
    ReadsFail,
}

/// All events with their weights.
pub const EVENTS: &[(Event, usize)] = &[
    (Event::Ask, 50),
    (Event::AskAgain, 8),
    (Event::Write, 16),
    (Event::WriteAgain, 6),
    (Event::Steer, 12),
    (Event::Wait, 6),
    (Event::Share, 4),
    (Event::ShareAgain, 1),
    (Event::Release, 1),
    (Event::Order, 4),
    (Event::Bulk, 2),
    (Event::ChangeBulk, 2),
    (Event::Derive, 4),
    (Event::DeriveAgain, 1),
    (Event::Break, 4),
    (Event::Sweep, 4),
    (Event::Take, 170),
    (Event::Evaluate, 170),
    (Event::Commit, 260),
    (Event::CommitFails, 4),
    (Event::Lease, 110),
    (Event::Answer, 220),
    (Event::AnswerAgain, 8),
    (Event::Forget, 3),
    (Event::Extend, 4),
    (Event::GiveBack, 3),
    (Event::Tick, 90),
    (Event::Wake, 60),
    (Event::Leap, 3),
    (Event::Crash, 3),
    (Event::CrashUnheard, 2),
    (Event::CrashDenied, 1),
    (Event::Restart, 1),
    (Event::ReadsFail, 3),
];

/// How attempts end, by weight.
const ENDS: &[(Option<ErrorClass>, usize)] = &[
    (None, 84),
    (Some(ErrorClass::Transient), 6),
    (Some(ErrorClass::User), 3),
    (Some(ErrorClass::Timeout), 2),
    (Some(ErrorClass::Node), 2),
    (Some(ErrorClass::Resource), 1),
    (Some(ErrorClass::Input), 2),
];

impl Sim<'_> {
    /// The seed chooses what happens, it happens, and everything that follows from it does. What cannot happen here is
    /// passed over.
    pub(super) fn event(&mut self) -> Result<(), SimError> {
        while !self.try_event()? {}
        self.settle()
    }

    fn try_event(&mut self) -> Result<bool, SimError> {
        match *self.chance.weighted(EVENTS) {
            Event::Ask => self.ask(),
            Event::AskAgain => self.ask_again(),
            Event::Write => self.write(),
            Event::WriteAgain => self.write_again(),
            Event::Steer => self.steer(),
            Event::Wait => self.wait(),
            Event::Share => self.share(),
            Event::ShareAgain => self.share_again(),
            Event::Release => self.release(),
            Event::Order => self.order(),
            Event::Bulk => self.bulk(),
            Event::ChangeBulk => self.change_bulk(),
            Event::Derive => self.derive(),
            Event::DeriveAgain => self.derive_again(),
            Event::Break => self.set_breakpoints(),
            Event::Sweep => self.steer_sweep(),
            Event::Take => self.take(),
            Event::Evaluate => self.evaluate(),
            Event::Commit => self.some_commit(Ending::Durable),
            Event::CommitFails => self.some_commit(Ending::Failed),
            Event::Lease => self.lease(),
            Event::Answer => self.answer(),
            Event::AnswerAgain => self.answer_again(),
            Event::Forget => Ok(self.forget()),
            Event::Extend => self.extend(),
            Event::GiveBack => self.give_back(),
            Event::Tick => Ok(self.advance(Duration::from_millis(self.chance.between(1, 50) as u64))),
            Event::Wake => Ok(self.wake()),
            Event::Leap => {
                let seconds = [1, 10, 70, 600, 7_200][self.chance.below(5)];
                Ok(self.advance(Duration::from_secs(seconds)))
            }
            Event::Crash => {
                self.trace.line(format_args!("crash"));
                self.count("crashes");
                self.crash()?;
                Ok(true)
            }
            Event::CrashUnheard => {
                if !self.some_commit(Ending::Unheard)? {
                    return Ok(false);
                }
                self.count("crashes");
                self.crash()?;
                Ok(true)
            }
            Event::CrashDenied => self.crash_denied(),
            Event::Restart => self.restart(),
            Event::ReadsFail => {
                let reads = self.chance.between(1, 4);
                self.trace.line(format_args!("the next {reads} reads fail"));
                self.record.refuse_reads(u32::try_from(reads).unwrap_or(1));
                Ok(true)
            }
        }
    }

    /// Messages that have not ended.
    pub(super) fn depth(&mut self) -> Result<usize, SimError> {
        let functions = self.functions.clone();
        let node = self.node()?;
        let others = own_queues()?;
        let all = functions.iter().chain(&others);
        Ok(all.map(|queue| node.queues.depth(queue)).sum())
    }

    pub(super) fn take(&mut self) -> Result<bool, SimError> {
        if self.taken.len() + self.node()?.evaluating() >= EVALUATORS {
            return self.evaluate();
        }
        let most = self.chance.between(1, 8);
        let node = self.node()?;
        let turns = match node.now(node.runtime.take_turns(most)) {
            Ok(turns) => turns,
            // The disk does not answer: what was leased is given back.
            Err(error) => {
                self.trace.line(format_args!("no turns: {error}"));
                return Ok(true);
            }
        };
        if turns.is_empty() {
            return Ok(false);
        }
        let now = self.now();
        for run in turns.runs() {
            let other = self
                .taken
                .iter()
                .find(|taken| taken.turns.runs().any(|other| other == run));
            if other.is_some_and(|other| now < other.until) {
                self.violation(format!("the key of {run} is in two hands"));
            }
        }
        let runs: Vec<String> = turns.runs().map(|run| run.to_string()).collect();
        self.trace.line(format_args!(
            "take {} messages of {}",
            turns.messages(),
            runs.join(" ")
        ));
        self.taken.push(Taken {
            turns,
            until: now.after(TURN_LEASE),
        });
        Ok(true)
    }

    pub(super) fn evaluate(&mut self) -> Result<bool, SimError> {
        if self.taken.is_empty() {
            return Ok(false);
        }
        let at = self.chance.below(self.taken.len());
        let Taken { turns, until } = self.taken.remove(at);
        let late = self.now() >= until;
        self.overdue |= late;
        self.count(if late { "turns after their lease" } else { "turns" });
        self.trace.line(format_args!(
            "evaluate {} runs{}",
            turns.runs().count(),
            if late { ", late" } else { "" }
        ));
        self.node()?.evaluate(turns);
        Ok(true)
    }

    pub(super) fn some_commit(&mut self, ending: Ending) -> Result<bool, SimError> {
        let waiting = self.node()?.hand.waiting();
        if waiting == 0 {
            return Ok(false);
        }
        let units = if self.chance.percent(60) {
            waiting
        } else {
            self.chance.between(1, waiting)
        };
        self.commit(units, ending)?;
        Ok(true)
    }

    fn crash_denied(&mut self) -> Result<bool, SimError> {
        self.model.lied_to = true;
        let any = self.some_commit(Ending::Denied)?;
        // Everybody hears before the end; nobody commits any more.
        self.settle()?;
        self.model.lied_to = false;
        if any {
            self.count("crashes");
            self.crash()?;
        }
        Ok(any)
    }

    pub(super) fn restart(&mut self) -> Result<bool, SimError> {
        self.trace.line(format_args!("restart"));
        self.count("restarts");
        self.node()?.request_stop();
        self.settle()?;
        while self.node()?.hand.waiting() > 0 {
            self.commit(usize::MAX, Ending::Durable)?;
            self.settle()?;
        }
        self.crash()?;
        Ok(true)
    }

    pub(super) fn lease(&mut self) -> Result<bool, SimError> {
        if self.held.len() >= HELD_MAX {
            return self.answer();
        }
        let queue = self.functions[self.chance.below(self.functions.len())].clone();
        let max = self.chance.between(1, 8);
        let lease_ms = [5_000, 30_000, 60_000][self.chance.below(3)];
        self.lease_of(&queue, max, lease_ms)
    }

    pub(super) fn lease_of(
        &mut self,
        queue: &celesta_queue::QueueName,
        max: usize,
        lease_ms: u64,
    ) -> Result<bool, SimError> {
        let now = self.now();
        let leased = self.node()?.lease(queue, max, lease_ms);
        if leased.is_empty() {
            return Ok(false);
        }
        self.trace.line(format_args!("lease {} of {queue}", leased.len()));
        for leased in leased {
            let in_hand = self.held.iter().find(|held| held.leased.id == leased.id);
            if in_hand.is_some_and(|held| now < held.leased.leased_until) {
                self.violation(format!("call {} is in two hands", leased.id));
            }
            self.held.extend(Held::of(leased, now));
        }
        Ok(true)
    }

    fn some_held(&mut self) -> Option<Held> {
        if self.held.is_empty() {
            return None;
        }
        let at = self.chance.below(self.held.len());
        Some(self.held.swap_remove(at))
    }

    pub(super) fn answer(&mut self) -> Result<bool, SimError> {
        let Some(held) = self.some_held() else {
            return Ok(false);
        };
        let end = *self.chance.weighted(ENDS);
        self.answer_with(&held, end)?;
        self.remember_stale(held);
        Ok(true)
    }

    pub(super) fn answer_with(&mut self, held: &Held, end: Option<ErrorClass>) -> Result<(), SimError> {
        let now = self.now();
        let name = end.map_or("success", ErrorClass::name);
        self.trace.line(format_args!(
            "answer {} {} of {}: {name}",
            held.function, held.call, held.run
        ));
        self.count("answers");
        let finished = match end {
            None => held.succeeded(now),
            Some(class) => {
                let said = self.said.failed.entry((held.run, held.call)).or_default();
                said.push(class);
                let services = self.node()?.runtime.services();
                let mut manifests = services
                    .iter()
                    .filter_map(|of| of.bundle.functions.get(&held.function));
                held.failed(manifests.next(), class, now)
            }
        };
        self.node()?.finish(vec![finished]);
        Ok(())
    }

    fn answer_again(&mut self) -> Result<bool, SimError> {
        if self.stale.is_empty() {
            return Ok(false);
        }
        let at = self.chance.below(self.stale.len());
        let Some(held) = self.stale.get(at).cloned() else {
            return Ok(false);
        };
        self.count("repeated answers");
        let end = *self.chance.weighted(ENDS);
        self.answer_with(&held, end)?;
        Ok(true)
    }

    fn forget(&mut self) -> bool {
        let Some(held) = self.some_held() else {
            return false;
        };
        self.trace
            .line(format_args!("forget {} of {}", held.call, held.run));
        self.remember_stale(held);
        true
    }

    fn extend(&mut self) -> Result<bool, SimError> {
        let Some(mut held) = self.some_held() else {
            return Ok(false);
        };
        let now = self.now();
        let extended = self.node()?.extend(&held.leased, 60_000);
        self.trace
            .line(format_args!("extend {} of {}: {extended}", held.call, held.run));
        if extended {
            held.leased.leased_until = now.after_millis(60_000);
        }
        self.held.push(held);
        Ok(true)
    }

    fn give_back(&mut self) -> Result<bool, SimError> {
        let Some(held) = self.some_held() else {
            return Ok(false);
        };
        self.trace
            .line(format_args!("give back {} of {}", held.call, held.run));
        self.node()?.finish(vec![held.released()]);
        self.remember_stale(held);
        Ok(true)
    }

    pub(super) fn advance(&mut self, by: Duration) -> bool {
        self.time.advance(by);
        self.trace.line(format_args!("time +{} ms", by.as_millis()));
        true
    }

    pub(super) fn wake(&mut self) -> bool {
        let next = self.time.next_wake();
        next.is_some_and(|at| self.advance(at.since(self.now())))
    }
}
