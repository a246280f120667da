//! What people order for all runs of a service or of a workflow: that they are stopped, and that they go on.

use celesta_runs::{OrderError, Runtime, Wish};
use celesta_types::ErrorKind;

use super::{Answer, Ask, Known, Model};
use crate::node::Waiting;
use crate::workloads::{MAIN, lanes};

/// Runs that are stopped together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) service: &'static str,
    /// All of the service without.
    pub(crate) workflow: Option<&'static str>,
}

/// What people stop; some stand within others.
pub(crate) const SCOPES: &[Scope] = &[
    scope(MAIN, None),
    scope(MAIN, Some("fan")),
    scope(MAIN, Some("steps")),
    scope(MAIN, Some("parent")),
    scope("sub", None),
    scope(lanes::SERVICE, None),
    scope(lanes::SERVICE, Some("strict")),
    scope(lanes::SERVICE, Some("two")),
];

const fn scope(service: &'static str, workflow: Option<&'static str>) -> Scope {
    Scope { service, workflow }
}

/// What was asked last of a scope.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    /// Whether its runs are to stand.
    pub(crate) pause: bool,
    pub(crate) known: Known,
}

impl Model {
    /// Somebody stops the runs of a scope, or lets them go on. Nobody's other wish for it is on its way.
    pub(crate) fn order(&mut self, runtime: &Runtime, scope: usize, pause: bool) -> (Ask, Waiting<Answer>) {
        let order = Order {
            pause,
            known: Known::Doubtful,
        };
        self.orders.insert(scope, order);
        let runtime = runtime.clone();
        let answer = async move {
            let Scope { service, workflow } = SCOPES[scope];
            let wish = Wish::anonymous("simulated");
            Answer::Order(if pause {
                runtime.pause_all(service, workflow, &wish).await
            } else {
                runtime.unpause_all(service, workflow, &wish).await.map(drop)
            })
        };
        (Ask::Order { scope, pause }, Box::pin(answer))
    }

    pub(super) fn heard_of_order(
        &mut self,
        scope: usize,
        pause: bool,
        answer: Result<(), OrderError>,
    ) -> String {
        if let Err(error) = &answer
            && error.kind() != ErrorKind::Unavailable
        {
            self.violations.push(format!("a good order was refused: {error}"));
        }
        let known = if answer.is_ok() {
            Known::Promised
        } else {
            // What is taken back may be gone although letting the runs go on has failed.
            Known::Doubtful
        };
        if let Some(order) = self.orders.get_mut(&scope)
            && order.pause == pause
        {
            order.known = known;
        }
        let what = if pause { "stand" } else { "go on" };
        match answer {
            Ok(()) => format!("the runs of scope {scope} {what}"),
            Err(error) => format!("whether the runs of scope {scope} {what} is unknown: {error}"),
        }
    }

    /// Whether the runs of the scope stand, as far as somebody may count on it.
    pub(crate) fn stands(&self, scope: usize) -> Option<bool> {
        let order = self.orders.get(&scope)?;
        (order.known == Known::Promised).then_some(order.pause)
    }
}
