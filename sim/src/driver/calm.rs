//! The calm after the events: no more faults, workers answer well, people let runs go on; everything must come to rest.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use celesta_queue::Filter;
use celesta_runs::{RunFilter, RunState, StoppedView, SweepState, SweepsFilter};
use celesta_store::driven::Ending;
use celesta_types::RunId;

use super::Sim;
use crate::clients::{Known, Model, Steer};
use crate::node::{SimError, own_queues};
use crate::oracle::{Before, View};
use crate::workloads::{KEPT, lanes};

/// Rounds until then: far more than the longest run needs.
const ROUNDS_MAX: usize = 3_000;
/// When nobody has had anything to do for so long, nobody ever will: the longest timer is far shorter.
const QUIET_MAX: Duration = Duration::from_secs(1_800);
/// How long nothing must happen at rest before it is believed.
const STILLNESS: Duration = Duration::from_secs(5);
/// How often a failed run is tried again: some fail always.
const RETRIES_MAX: usize = 2;

/// A run that stands still.
struct Standing {
    run: RunId,
    service: String,
    workflow: String,
    /// Whether others wait until it is settled.
    blocks: bool,
    stopped: Option<StoppedView>,
}

impl Sim<'_> {
    pub(super) fn calm(&mut self) -> Result<(), SimError> {
        self.rest()?;
        if !self.model.violations.is_empty() {
            return Ok(());
        }
        let View { node, record, .. } = self.view()?;
        let before = Before::read(node, record).map_err(SimError::of("read finished runs"))?;
        // So long that all that is finished is archived.
        self.advance(KEPT + Duration::from_secs(120));
        self.rest()?;
        let View { node, record, .. } = self.view()?;
        for what in before.differs(node, record) {
            self.violation(what);
        }
        Ok(())
    }

    /// Everybody does well until nobody has anything to do.
    fn rest(&mut self) -> Result<(), SimError> {
        self.trace.line(format_args!("calm"));
        self.record.refuse_reads(0);
        // What was given up for want of the disk is done when a process begins.
        self.restart()?;
        self.ask_in_doubt()?;
        self.lift()?;
        let mut retried = BTreeMap::new();
        let mut busy_at = self.now();
        let mut still_for = Duration::ZERO;
        for _ in 0..ROUNDS_MAX {
            self.settle()?;
            if !self.model.violations.is_empty() {
                return Ok(());
            }
            if self.go_on()? {
                busy_at = self.now();
                still_for = Duration::ZERO;
            } else if self.depth()? > 0 || self.is_under_way()? {
                if self.now().since(busy_at) > QUIET_MAX {
                    break;
                }
                self.wake();
            } else if self.let_go(&mut retried)? {
                still_for = Duration::ZERO;
            } else if still_for < STILLNESS {
                let step = Duration::from_secs(1);
                self.advance(step);
                still_for += step;
            } else {
                return Ok(());
            }
        }
        let node = self.node()?;
        let clients = node.clients.len();
        let left = node
            .queues
            .list_queues()
            .into_iter()
            .filter(|stats| node.queues.depth(&stats.queue) > 0);
        let left: Vec<String> = left
            .map(|stats| {
                format!(
                    "{} {:?}, {} ready, {} arriving",
                    stats.queue, stats.counts, stats.ready, stats.arriving
                )
            })
            .collect();
        let unread = self.unread()?;
        let (sweeping, operating) = (self.is_sweeping()?, self.is_operating()?);
        self.violation(format!(
            "nothing comes to rest: {clients} clients wait, {}; a sweep is open: {sweeping}, an operation: {operating}{unread}",
            left.join("; ")
        ));
        Ok(())
    }

    /// Runs with messages left that cannot be read, and why.
    fn unread(&mut self) -> Result<String, SimError> {
        let [runs, _] = own_queues()?;
        let node = self.node()?;
        let page = node.now(node.queues.list(&runs, &Filter::default(), None, usize::MAX));
        let mut told = String::new();
        for message in page.map(|page| page.messages).unwrap_or_default() {
            let Some(key) = message.key else { continue };
            let run = RunId::from_bits(key.bits());
            if let Err(error) = node.now(node.runtime.differs_from_record(run)) {
                write!(told, "; {run} cannot be read: {error}").expect("writing to a string");
            }
        }
        Ok(told)
    }

    /// Whether somebody is waited for who has no message on the way.
    fn is_under_way(&mut self) -> Result<bool, SimError> {
        Ok(self.node()?.is_waited_for() || self.is_sweeping()? || self.is_operating()?)
    }

    /// Whether runs are still to be told of a change.
    fn is_sweeping(&mut self) -> Result<bool, SimError> {
        let node = self.node()?;
        for state in [SweepState::Pending, SweepState::Running] {
            let filter = SweepsFilter {
                state: Some(state),
                ..SweepsFilter::default()
            };
            let page = node.now(node.runtime.list_sweeps(&filter, None, 1));
            if !page.map_err(SimError::of("list sweeps"))?.rows.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Clients with a key ask again until they are answered.
    fn ask_in_doubt(&mut self) -> Result<(), SimError> {
        let runtime = self.node()?.runtime.clone();
        let doubtful: Vec<usize> = self
            .model
            .tries
            .iter()
            .filter(|tried| tried.known == Known::Doubtful)
            .map(|tried| tried.request)
            .filter(|&request| self.model.requests[request].key.is_some())
            .collect();
        for request in doubtful {
            let (ask, answer) = self.model.submit(&runtime, request);
            self.node()?.ask(ask, answer);
            // One after the other: two at once would be told to ask again.
            self.settle()?;
            self.evaluate_all()?;
        }
        let notes = self.model.notes.len();
        for number in 0..notes {
            let note = &self.model.notes[number];
            if note.known == Known::Doubtful && note.key.is_some() {
                let (ask, answer) = self.model.write(&runtime, number);
                self.node()?.ask(ask, answer);
                self.settle()?;
                self.evaluate_all()?;
            }
        }
        for number in 0..self.model.shares.len() {
            if self.model.shares[number].known == Known::Doubtful {
                let (ask, answer) = self.model.share(&runtime, number);
                self.node()?.ask(ask, answer);
                self.settle()?;
                self.evaluate_all()?;
            }
        }
        Ok(())
    }

    pub(super) fn evaluate_all(&mut self) -> Result<(), SimError> {
        self.take()?;
        while !self.taken.is_empty() {
            self.evaluate()?;
        }
        self.settle()?;
        while self.node()?.hand.waiting() > 0 {
            self.commit(usize::MAX, Ending::Durable)?;
            self.settle()?;
        }
        Ok(())
    }

    /// One round of everybody's work; says whether there was any.
    fn go_on(&mut self) -> Result<bool, SimError> {
        let mut worked = false;
        if self.node()?.hand.waiting() > 0 {
            self.commit(usize::MAX, Ending::Durable)?;
            self.settle()?;
            worked = true;
        }
        self.take()?;
        while !self.taken.is_empty() {
            self.evaluate()?;
            self.settle()?;
            worked = true;
        }
        for queue in self.functions.clone() {
            self.lease_of(&queue, 64, 60_000)?;
        }
        for held in std::mem::take(&mut self.held) {
            self.answer_with(&held, None)?;
            worked = true;
        }
        Ok(worked)
    }

    /// Runs that stand still for want of somebody's wish go on; says whether there were any.
    fn let_go(&mut self, retried: &mut BTreeMap<RunId, usize>) -> Result<bool, SimError> {
        let mut wishes = Vec::new();
        for stopped in self.runs_in(RunState::Paused)? {
            if Self::is_forgotten(stopped.stopped.as_ref())
                && !self.is_abandoned(&stopped.service, &stopped.workflow)?
            {
                self.violation(format!(
                    "{} is still stopped, and nobody's order says so any more",
                    stopped.run
                ));
                return Ok(false);
            }
            wishes.push((stopped.run, Steer::Resume));
        }
        for state in [RunState::Failed, RunState::Quarantined] {
            for Standing { run, blocks, .. } in self.runs_in(state)? {
                let times = retried.entry(run).or_default();
                *times += 1;
                if *times <= RETRIES_MAX {
                    wishes.push((run, Steer::Retry));
                } else if blocks {
                    wishes.push((run, Steer::Cancel));
                }
            }
        }
        let runtime = self.node()?.runtime.clone();
        for &(run, how) in &wishes {
            let (ask, answer) = Model::steer(&runtime, run, how);
            self.trace.line(format_args!("ask {ask:?}"));
            self.node()?.ask(ask, answer);
        }
        Ok(!wishes.is_empty())
    }

    /// The runs in that state.
    fn runs_in(&mut self, state: RunState) -> Result<Vec<Standing>, SimError> {
        let node = self.node()?;
        let filter = RunFilter {
            state: Some(state),
            ..RunFilter::default()
        };
        let mut runs = Vec::new();
        let mut cursor = None;
        loop {
            let page = node
                .now(node.runtime.list(&filter, cursor, usize::MAX))
                .map_err(SimError::of("list runs"))?;
            let blocks = |service: &str, operation: &str| {
                lanes::limit_of(service, operation).is_some_and(|limit| limit.failed_block)
            };
            let found = page.rows.into_iter();
            runs.extend(found.map(|view| Standing {
                run: view.id,
                blocks: blocks(&view.service, &view.operation),
                service: view.service,
                workflow: view.workflow,
                stopped: view.stopped,
            }));
            match page.next.and_then(|next| next.parse().ok()) {
                Some(next) => cursor = Some(next),
                None => return Ok(runs),
            }
        }
    }
}
