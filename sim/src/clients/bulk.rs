//! What people do to all runs of a filter at once.

use celesta_runs::{Action, OperationError, OperationStep, RunFilter, RunState, Runtime, Wish};
use celesta_types::{ErrorKind, OperationId};

use super::{Answer, Ask, Known, Model};
use crate::chance::Chance;
use crate::node::Waiting;
use crate::workloads::{MAIN, lanes};

/// One operation.
#[derive(Debug)]
pub(crate) struct Bulk {
    pub(crate) action: Action,
    pub(crate) filter: RunFilter,
    rate: u32,
    pub(crate) known: Known,
}

/// Runs a second: from one page and a long rest to all of them at once.
const RATES: [u32; 3] = [2, 100, 100_000];

/// What is done to the runs of which workflow in which state, by weight. Canceling is rare: nothing is left to do then.
const CHOICES: &[((Action, &str, Option<&str>, Option<RunState>), usize)] = &[
    ((Action::Cancel, MAIN, Some("later"), None), 1),
    ((Action::Cancel, lanes::SERVICE, Some("latest"), None), 1),
    ((Action::Cancel, lanes::SERVICE, None, Some(RunState::Failed)), 1),
    ((Action::Pause, MAIN, Some("fan"), None), 2),
    ((Action::Pause, lanes::SERVICE, None, None), 2),
    ((Action::Pause, "sub", None, None), 1),
    ((Action::Resume, MAIN, None, Some(RunState::Paused)), 4),
    ((Action::Resume, lanes::SERVICE, None, Some(RunState::Paused)), 3),
    ((Action::Resume, "sub", None, None), 2),
    ((Action::Retry, MAIN, Some("steps"), None), 2),
    ((Action::Retry, lanes::SERVICE, None, Some(RunState::Failed)), 4),
];

impl Bulk {
    /// Who asks: so the history of a run says which operation has reached it.
    pub(crate) fn actor(number: usize) -> String {
        format!("bulk-{number}")
    }
}

impl Model {
    /// Somebody wants something done to many runs: the number of the operation.
    pub(crate) fn new_bulk(&mut self, chance: &Chance) -> usize {
        let (action, service, workflow, state) = *chance.weighted(CHOICES);
        self.bulks.push(Bulk {
            action,
            filter: RunFilter {
                service: Some(service.to_owned()),
                workflow: workflow.map(str::to_owned),
                state,
                ..RunFilter::default()
            },
            rate: RATES[chance.below(RATES.len())],
            known: Known::Doubtful,
        });
        self.bulks.len() - 1
    }

    /// A client asks for it.
    pub(crate) fn begin_bulk(&self, runtime: &Runtime, number: usize) -> (Ask, Waiting<Answer>) {
        let bulk = &self.bulks[number];
        let bulk = celesta_runs::Bulk {
            action: bulk.action,
            filter: bulk.filter.clone(),
            rate: bulk.rate,
        };
        let runtime = runtime.clone();
        let answer = async move {
            let wish = Wish {
                reason: "simulated".to_owned(),
                by: Bulk::actor(number),
            };
            Answer::Bulk(runtime.begin_operation(bulk, &wish).await.map(drop))
        };
        (Ask::Bulk { number }, Box::pin(answer))
    }

    /// Somebody stops an operation, lets it go on or ends it.
    pub(crate) fn change_bulk(
        runtime: &Runtime,
        id: OperationId,
        step: OperationStep,
    ) -> (Ask, Waiting<Answer>) {
        let runtime = runtime.clone();
        let answer = async move {
            let changed = runtime.change_operation(id, step).await;
            Answer::Told(match changed {
                Ok(view) => Ok(format!("{step:?} of {id}, which is {:?}", view.state)),
                Err(error) => Err(error.to_string()),
            })
        };
        (Ask::Told, Box::pin(answer))
    }

    pub(super) fn heard_of_bulk(&mut self, number: usize, answer: Result<(), OperationError>) -> String {
        let known = self.refused();
        match answer {
            Ok(()) => {
                self.bulks[number].known = Known::Promised;
                format!("operation {number} is accepted")
            }
            Err(error) => {
                self.bulks[number].known = known;
                if error.kind() != ErrorKind::Unavailable {
                    self.violations
                        .push(format!("a good operation was refused: {error}"));
                }
                format!("operation {number} is refused: {error}")
            }
        }
    }
}
