//! The events that are somebody's wish for many runs, or for a run once more: pauses of workflows, bulk operations, restarts,
//! breakpoints, sweeps that are steered; and what people do about them when everything is to come to rest.

use celesta_runs::{Action, OperationState, OperationStep, StoppedBy, SweepState, SweepsFilter};

use super::Sim;
use crate::clients::{Ask, How, Known, Model, SCOPES, SweepWish};
use crate::node::SimError;
use crate::workloads::{NAMES, WORKLOADS};

/// Operations and sweeps that people look at: far more than are open.
const LOOKED_AT: usize = 500;
/// Scopes whose runs stand at once, at most: otherwise little would go on.
const STANDING_MAX: usize = 2;
/// How many of a hundred wishes let the runs of a scope go on that stand.
const GO_ON: usize = 75;
/// What is wished for a sweep, by weight.
const SWEEP_WISHES: &[(SweepWish, usize)] = &[
    (SweepWish::Pause, 6),
    (SweepWish::Resume, 8),
    (SweepWish::Abort, 1),
];
/// What is wished for a bulk operation, by weight.
const BULK_STEPS: &[(OperationStep, usize)] = &[
    (OperationStep::Pause, 4),
    (OperationStep::Resume, 6),
    (OperationStep::Abort, 1),
];

impl Sim<'_> {
    /// Whether somebody waits for something like that.
    fn is_asked(&mut self, like: impl Fn(&Ask) -> bool) -> Result<bool, SimError> {
        Ok(self.node()?.clients.iter().any(|client| like(&client.ask)))
    }

    pub(super) fn order(&mut self) -> Result<bool, SimError> {
        let orders = self.model.orders.iter();
        let standing: Vec<usize> = orders
            .filter(|(_, order)| order.pause || order.known == Known::Doubtful)
            .map(|(scope, _)| *scope)
            .collect();
        let goes_on = standing.len() >= STANDING_MAX || (!standing.is_empty() && self.chance.percent(GO_ON));
        let (scope, pause) = if goes_on {
            (standing[self.chance.below(standing.len())], false)
        } else {
            (self.chance.below(SCOPES.len()), true)
        };
        if self.is_asked(|ask| matches!(ask, Ask::Order { scope: asked, .. } if *asked == scope))? {
            return Ok(false);
        }
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.order(&runtime, scope, pause);
        self.start(asking)
    }

    pub(super) fn bulk(&mut self) -> Result<bool, SimError> {
        let number = self.model.new_bulk(&self.chance);
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.begin_bulk(&runtime, number);
        self.start(asking)
    }

    pub(super) fn change_bulk(&mut self) -> Result<bool, SimError> {
        let node = self.node()?;
        // The disk may not answer.
        let Ok(page) = node.now(node.runtime.operations(None, 8)) else {
            return Ok(false);
        };
        let open = page.rows.into_iter().filter(|view| !view.state.is_ended());
        let open: Vec<_> = open.map(|view| view.id).collect();
        if open.is_empty() {
            return Ok(false);
        }
        let id = open[self.chance.below(open.len())];
        let step = *self.chance.weighted(BULK_STEPS);
        let runtime = self.node()?.runtime.clone();
        self.start(Model::change_bulk(&runtime, id, step))
    }

    pub(super) fn derive(&mut self) -> Result<bool, SimError> {
        let Some(from) = self.some_run() else {
            return Ok(false);
        };
        // A run that was done over keeps the labels that say so: whose it is would not be plain.
        if self.model.derived.iter().any(|one| one.run == Some(from)) {
            return Ok(false);
        }
        let workload = self.model.workload_of.get(&from).copied().unwrap_or(0);
        let rules = WORKLOADS[workload].rules;
        let how = if self.chance.percent(30) {
            How::Clone
        } else {
            let rule = rules.get(self.chance.below(rules.len() + 1)).copied();
            let edit = WORKLOADS[workload].notes.is_some() && self.chance.percent(40);
            How::Restart { rule, edit }
        };
        let number = self.model.new_derived(from, how);
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.derive(&runtime, number);
        self.start(asking)
    }

    pub(super) fn derive_again(&mut self) -> Result<bool, SimError> {
        let back = self.chance.below(6) + 1;
        let Some(number) = self.model.derived.len().checked_sub(back) else {
            return Ok(false);
        };
        if self.model.derived[number].how != How::Clone {
            return Ok(false);
        }
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.derive(&runtime, number);
        self.start(asking)
    }

    pub(super) fn set_breakpoints(&mut self) -> Result<bool, SimError> {
        let Some(run) = self.some_run() else {
            return Ok(false);
        };
        let workload = self.model.workload_of.get(&run).copied().unwrap_or(0);
        let rules = WORKLOADS[workload].rules;
        let rules: Vec<&str> = rules
            .iter()
            .copied()
            .filter(|_| self.chance.percent(50))
            .collect();
        let runtime = self.node()?.runtime.clone();
        self.start(Model::set_breakpoints(&runtime, run, &rules))
    }

    pub(super) fn steer_sweep(&mut self) -> Result<bool, SimError> {
        let node = self.node()?;
        // The disk may not answer.
        let Ok(page) = node.now(node.runtime.list_sweeps(&SweepsFilter::default(), None, 4)) else {
            return Ok(false);
        };
        let open = page.rows.into_iter().filter(|view| !view.state.is_ended());
        let open: Vec<_> = open.map(|view| view.id).collect();
        if open.is_empty() {
            return Ok(false);
        }
        let sweep = open[self.chance.below(open.len())];
        let wish = *self.chance.weighted(SWEEP_WISHES);
        if self.is_asked(|ask| matches!(ask, Ask::Sweep { sweep: asked, .. } if *asked == sweep))? {
            return Ok(false);
        }
        let runtime = self.node()?.runtime.clone();
        let asking = self.model.steer_sweep(&runtime, sweep, wish);
        self.start(asking)
    }

    /// What people were promised of orders and sweeps that stand holds; then everything that somebody has stopped goes on,
    /// but for single runs.
    pub(super) fn lift(&mut self) -> Result<(), SimError> {
        self.promises_stand()?;
        let runtime = self.node()?.runtime.clone();
        for number in 0..self.model.derived.len() {
            let derived = &self.model.derived[number];
            if derived.how == How::Clone && derived.known == Known::Doubtful {
                let asking = self.model.derive(&runtime, number);
                self.ask_now(asking)?;
            }
        }
        let scopes: Vec<usize> = self.model.orders.keys().copied().collect();
        for scope in scopes {
            let order = self.model.orders[&scope];
            if order.pause || order.known != Known::Promised {
                let asking = self.model.order(&runtime, scope, false);
                self.ask_now(asking)?;
            }
        }
        let node = self.node()?;
        let operations = node.now(runtime.operations(None, LOOKED_AT));
        for view in operations.map_err(SimError::of("list operations"))?.rows {
            if view.state == OperationState::Paused {
                self.ask_now(Model::change_bulk(&runtime, view.id, OperationStep::Resume))?;
            }
        }
        for state in [SweepState::Previewed, SweepState::Paused] {
            let filter = SweepsFilter {
                state: Some(state),
                ..SweepsFilter::default()
            };
            let sweeps = self.node()?.now(runtime.list_sweeps(&filter, None, LOOKED_AT));
            for view in sweeps.map_err(SimError::of("list sweeps"))?.rows {
                let asking = self.model.steer_sweep(&runtime, view.id, SweepWish::Resume);
                self.ask_now(asking)?;
            }
        }
        // Whoever was not told of a change because a sweep was given up hears of the next.
        if std::mem::take(&mut self.model.has_aborted) {
            for name in 0..NAMES.len() {
                let number = self.model.new_share(name, u32::MAX >> 16, false);
                let asking = self.model.share(&runtime, number);
                self.ask_now(asking)?;
            }
        }
        Ok(())
    }

    fn ask_now(
        &mut self,
        (ask, answer): (Ask, crate::node::Waiting<crate::clients::Answer>),
    ) -> Result<(), SimError> {
        self.trace.line(format_args!("ask {ask:?}"));
        self.node()?.ask(ask, answer);
        self.settle()?;
        self.evaluate_all()
    }

    fn promises_stand(&mut self) -> Result<(), SimError> {
        let runtime = self.node()?.runtime.clone();
        for (scope, of) in SCOPES.iter().enumerate() {
            let Some(stands) = self.model.stands(scope) else {
                continue;
            };
            let orders = runtime.orders(of.service);
            let workflow = of.workflow.unwrap_or_default();
            let mut orders = orders.iter();
            let found = orders.any(|order| order.kind == "pause" && order.workflow == workflow);
            if stands != found {
                self.violation(format!(
                    "that the runs of {of:?} stand: {stands} was promised, and it is {found}"
                ));
            }
        }
        for sweep in self.model.paused_sweeps.clone() {
            let node = self.node()?;
            let view = node.now(runtime.show_sweep(sweep));
            let view = view.map_err(SimError::of("read a sweep"))?;
            let state = view.map(|view| view.state);
            if state != Some(SweepState::Paused) {
                self.violation(format!("the pause of {sweep} was promised, and it is {state:?}"));
            }
        }
        Ok(())
    }

    /// Whether a bulk operation is still at work.
    pub(super) fn is_operating(&mut self) -> Result<bool, SimError> {
        let node = self.node()?;
        let operations = node.now(node.runtime.operations(None, LOOKED_AT));
        let operations = operations.map_err(SimError::of("list operations"))?;
        let mut states = operations.rows.iter().map(|view| view.state);
        Ok(states.any(|state| state == OperationState::Running))
    }

    /// Whether somebody has aborted the last operation that was to let the runs of the workflow go on after an order: some stay
    /// stopped then, as was asked for.
    pub(super) fn is_abandoned(&mut self, service: &str, workflow: &str) -> Result<bool, SimError> {
        let node = self.node()?;
        let operations = node.now(node.runtime.operations(None, LOOKED_AT));
        let operations = operations.map_err(SimError::of("list operations"))?.rows;
        let concerned = operations.iter().filter(|view| {
            let only = view.filter.workflow.as_deref();
            view.action == Action::ResumeStopped
                && view.filter.service.as_deref() == Some(service)
                && only.is_none_or(|only| only == workflow)
        });
        // Of two of the same instant the aborted one counts: nobody knows which was asked for first.
        let last = concerned.max_by_key(|view| (view.created_at, view.state == OperationState::Aborted));
        Ok(last.is_some_and(|view| view.state == OperationState::Aborted))
    }

    /// Whether what has stopped a run holds no more: nobody will let it go on then.
    pub(super) const fn is_forgotten(stopped: Option<&celesta_runs::StoppedView>) -> bool {
        match stopped {
            Some(stopped) => matches!(stopped.by, StoppedBy::Workflow | StoppedBy::Service),
            None => false,
        }
    }
}
