//! The events that are somebody's wish: requests, facts, shared facts, what people do to runs.

use celesta_store::driven::Ending;

use super::Sim;
use crate::clients::{Answer, Ask, Known, Model, Note, Request, Steer};
use crate::node::{SimError, Waiting};
use crate::workloads::{MAIN, NAMES, WORKLOADS, lanes};

/// Messages beyond which clients wait with new requests.
const DEPTH_MAX: usize = 96;
/// Clients that ask for the same at once, at most.
const CROWD: usize = 4;
/// Runs a second that the change of a shared fact may be told to: batches from one run to all of them.
const RATES: [u32; 3] = [4, 40, 100_000];

/// How people steer, by weight.
const STEERS: &[(Steer, usize)] = &[
    (Steer::Cancel, 2),
    (Steer::Pause, 4),
    (Steer::Resume, 6),
    (Steer::Retry, 6),
    (Steer::Step, 3),
];

impl Sim<'_> {
    pub(super) fn start(&mut self, (ask, answer): (Ask, Waiting<Answer>)) -> Result<bool, SimError> {
        self.trace.line(format_args!("ask {ask:?}"));
        self.count("requests");
        self.node()?.ask(ask, answer);
        Ok(true)
    }

    pub(super) fn ask(&mut self) -> Result<bool, SimError> {
        if self.depth()? > DEPTH_MAX {
            return self.some_commit(Ending::Durable);
        }
        let weights: Vec<(usize, usize)> = WORKLOADS
            .iter()
            .map(|workload| workload.weight)
            .enumerate()
            .collect();
        let workload = *self.chance.weighted(&weights);
        let input = (WORKLOADS[workload].input)(&self.chance).to_string();
        // Whom a limit concerns come together: otherwise they would rarely meet.
        let is_limited = WORKLOADS[workload].service == lanes::SERVICE;
        let crowd = if is_limited {
            self.chance.between(1, CROWD)
        } else {
            1
        };
        for _ in 0..crowd {
            self.ask_for(workload, input.clone())?;
        }
        Ok(true)
    }

    fn ask_for(&mut self, workload: usize, input: String) -> Result<bool, SimError> {
        let request = self.model.requests.len();
        let event = WORKLOADS[workload].event.filter(|_| self.chance.percent(40));
        // A key is forgotten with its run.
        let may_have_key = !WORKLOADS[workload].is_archived() && self.chance.percent(60);
        let has_key = event.is_some() || may_have_key;
        self.model.requests.push(Request {
            workload,
            input,
            key: has_key.then(|| format!("key-{request}")),
            event,
            run: None,
        });
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.submit(&runtime, request);
        self.start(asking)
    }

    pub(super) fn ask_again(&mut self) -> Result<bool, SimError> {
        let back = self.chance.below(20) + 1;
        let Some(request) = self.model.requests.len().checked_sub(back) else {
            return Ok(false);
        };
        if self.model.requests[request].key.is_none() {
            return Ok(false);
        }
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.submit(&runtime, request);
        self.start(asking)
    }

    pub(super) fn write(&mut self) -> Result<bool, SimError> {
        let Some(run) = self.some_run() else {
            return Ok(false);
        };
        let workload = self.model.workload_of.get(&run).copied().unwrap_or(0);
        if WORKLOADS[workload].notes.is_none() {
            return Ok(false);
        }
        let number = self.model.notes.len();
        let by_event = WORKLOADS[workload].service == MAIN && self.chance.percent(30);
        let has_key = by_event || self.chance.percent(50);
        self.model.notes.push(Note {
            run,
            key: has_key.then(|| format!("note-{number}")),
            by_event,
            known: Known::Doubtful,
            tries: 0,
        });
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.write(&runtime, number);
        self.start(asking)
    }

    pub(super) fn write_again(&mut self) -> Result<bool, SimError> {
        let back = self.chance.below(10) + 1;
        let Some(number) = self.model.notes.len().checked_sub(back) else {
            return Ok(false);
        };
        if self.model.notes[number].key.is_none() {
            return Ok(false);
        }
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.write(&runtime, number);
        self.start(asking)
    }

    pub(super) fn steer(&mut self) -> Result<bool, SimError> {
        let Some(run) = self.some_run() else {
            return Ok(false);
        };
        let how = *self.chance.weighted(STEERS);
        let runtime = self.node()?.runtime.clone();
        self.start(Model::steer(&runtime, run, how))
    }

    pub(super) fn wait(&mut self) -> Result<bool, SimError> {
        let Some(run) = self.some_run() else {
            return Ok(false);
        };
        let runtime = self.node()?.runtime.clone();
        self.start(Model::wait(&runtime, run))
    }

    pub(super) fn share(&mut self) -> Result<bool, SimError> {
        let name = self.chance.below(NAMES.len());
        let rate = RATES[self.chance.below(RATES.len())];
        let hold = self.chance.percent(15);
        let number = self.model.new_share(name, rate, hold);
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.share(&runtime, number);
        self.start(asking)
    }

    pub(super) fn share_again(&mut self) -> Result<bool, SimError> {
        let back = self.chance.below(6) + 1;
        let Some(number) = self.model.shares.len().checked_sub(back) else {
            return Ok(false);
        };
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.share(&runtime, number);
        self.start(asking)
    }

    /// The next version becomes current; later it is taken back.
    pub(super) fn release(&mut self) -> Result<bool, SimError> {
        let node = self.node()?;
        // The disk may not answer.
        let Ok((releases, canary)) = node.now(node.runtime.releases(MAIN)) else {
            return Ok(false);
        };
        if releases.len() > 2 || (canary.is_none() && releases.len() < 2) {
            return Ok(false);
        }
        let asking = Model::release(&node.runtime, canary.is_some());
        self.start(asking)
    }
}
