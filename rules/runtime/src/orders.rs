//! Standing orders: what holds for all runs of a service or a workflow until it is taken back. Pauses and breakpoints.
//!
//! They are few, kept whole in memory, and looked up once a turn; while there are none that costs one load. A run that is
//! touched while an order says so stops by itself, so giving one costs the same however many runs there are.

mod standing;

use std::sync::Arc;

use celesta_store::Unit;
use celesta_types::{ErrorKind, OperationId, Timestamp};
use serde::Serialize;

use crate::lifecycle::{Action, REASON_BYTES_MAX, Wish};
use crate::operations::{Bulk, OPERATION_RATE, OperationError, OperationView};
use crate::runtime::Runtime;
use crate::schema::{ORDER_DELETE, ORDER_UPSERT};
use crate::state::RunState;
use crate::steering::BREAKPOINTS_MAX;
use crate::view::RunFilter;

use standing::{About, BREAKPOINT, Given, PAUSE};
pub(crate) use standing::{KINDS, Orders};

/// Standing orders of all services: they are meant for the time of an incident.
const ORDERS_MAX: usize = 10_000;

/// One order, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrderView {
    /// `pause` or `breakpoint`.
    pub kind: &'static str,
    /// The service.
    pub service: String,
    /// The workflow; absent when it holds for the whole service.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workflow: String,
    /// The rule of a breakpoint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Why.
    pub reason: String,
    /// Who gave it.
    pub by: String,
    /// When.
    pub given_at: Timestamp,
}

/// Why an order is not given.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no such service.
    #[error("there is no service `{service}`")]
    UnknownService {
        /// The name.
        service: String,
    },
    /// The service has no such workflow.
    #[error("service `{service}` has no workflow `{workflow}`; it has: {known}")]
    UnknownWorkflow {
        /// The service.
        service: String,
        /// The name.
        workflow: String,
        /// The names there are.
        known: String,
    },
    /// The workflow has no such rule.
    #[error("workflow `{workflow}` has no rule `{rule}`; its rules are: {known}")]
    UnknownRule {
        /// The workflow.
        workflow: String,
        /// The name.
        rule: String,
        /// The names there are.
        known: String,
    },
    /// There are too many.
    #[error("there are {max} {what} already")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// The reason is too long.
    #[error("the reason has {bytes} bytes, more than {REASON_BYTES_MAX}")]
    ReasonTooLong {
        /// Its size.
        bytes: usize,
    },
    /// Not now.
    #[error("the order cannot be stored: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl OrderError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownService { .. } | Self::UnknownWorkflow { .. } | Self::UnknownRule { .. } => {
                ErrorKind::NotFound
            }
            Self::TooMany { .. } | Self::ReasonTooLong { .. } => ErrorKind::Invalid,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }
}

impl Runtime {
    /// The orders that stand for `service`.
    #[must_use]
    pub fn orders(&self, service: &str) -> Vec<OrderView> {
        let all = self.inner.orders.all.read();
        let own = all.iter().filter(|(about, _)| about.service == service);
        own.map(|(about, given)| {
            let About {
                service,
                workflow,
                kind,
                rule,
            } = about.clone();
            OrderView {
                kind,
                service,
                workflow,
                rule,
                reason: given.reason.clone(),
                by: given.by.clone(),
                given_at: given.at,
            }
        })
        .collect()
    }

    /// Stops all runs of a service, or of one of its workflows, each when it would move next; new ones are accepted and
    /// do not begin. Calls that run go on.
    ///
    /// # Errors
    /// When there is no such service or workflow, or the order cannot be stored.
    pub async fn pause_all(
        &self,
        service: &str,
        workflow: Option<&str>,
        wish: &Wish,
    ) -> Result<(), OrderError> {
        self.check_workflow(service, workflow)?;
        let about = About {
            service: service.to_owned(),
            workflow: workflow.unwrap_or_default().to_owned(),
            kind: PAUSE,
            rule: String::new(),
        };
        let changing = self.inner.orders.change().await;
        let mut unit = Unit::new();
        self.stage_give(&mut unit, vec![about], wish)?;
        unit.on_done(move |_| drop(changing));
        self.commit_order(unit).await
    }

    /// Takes a pause of a service or workflow back, and begins an operation that lets the runs go on which it has stopped.
    ///
    /// # Errors
    /// When there is no such service or workflow, or the order cannot be stored.
    pub async fn unpause_all(
        &self,
        service: &str,
        workflow: Option<&str>,
        wish: &Wish,
    ) -> Result<OperationView, OrderError> {
        self.unpause_all_as(None, service, workflow, wish).await
    }

    /// As [`Runtime::unpause_all`]; the operation gets the id, if one is given.
    ///
    /// # Errors
    /// As for [`Runtime::unpause_all`].
    pub async fn unpause_all_as(
        &self,
        id: Option<OperationId>,
        service: &str,
        workflow: Option<&str>,
        wish: &Wish,
    ) -> Result<OperationView, OrderError> {
        self.check_workflow(service, workflow)?;
        let about = About {
            service: service.to_owned(),
            workflow: workflow.unwrap_or_default().to_owned(),
            kind: PAUSE,
            rule: String::new(),
        };
        let unavailable = |error: OperationError| OrderError::Unavailable {
            reason: error.to_string(),
        };
        if let Some(known) = self.known_operation(id).await.map_err(unavailable)? {
            return Ok(known);
        }
        let orders = &self.inner.orders;
        let changing = orders.change().await;
        let bulk = Bulk {
            action: Action::ResumeStopped,
            filter: RunFilter {
                service: Some(service.to_owned()),
                workflow: workflow.map(str::to_owned),
                state: Some(RunState::Paused),
                ..RunFilter::default()
            },
            rate: OPERATION_RATE,
        };
        let id = id.unwrap_or_else(|| self.new_operation());
        let mut unit = Unit::new();
        // Its hook comes first: the operation is held when somebody sees it.
        self.stage_delete(&mut unit, about, Some(id));
        let operation = self
            .stage_operation(&mut unit, Some(id), bulk, wish)
            .map_err(unavailable)?;
        unit.on_done(move |_| drop(changing));
        self.commit_order(unit).await?;
        Ok(operation)
    }

    /// Says before which rules all runs of a workflow stop, in place of what was said before.
    ///
    /// # Errors
    /// When there is no such service, workflow or rule, there are too many, or they cannot be stored.
    pub async fn set_workflow_breakpoints(
        &self,
        service: &str,
        workflow: &str,
        rules: &[String],
        wish: &Wish,
    ) -> Result<(), OrderError> {
        let version = self.check_workflow(service, Some(workflow))?;
        let known = version.rules(workflow).map_or(&[][..], |rules| rules.rules());
        check_breakpoints(workflow, rules, known)?;
        let about = |rule: &str| About {
            service: service.to_owned(),
            workflow: workflow.to_owned(),
            kind: BREAKPOINT,
            rule: rule.to_owned(),
        };
        let orders = &self.inner.orders;
        let changing = orders.change().await;
        let mut unit = Unit::new();
        let gone: Vec<About> = {
            let all = orders.all.read();
            let own = all
                .keys()
                .filter(|one| one.kind == BREAKPOINT && one.service == service && one.workflow == workflow);
            own.filter(|one| !rules.contains(&one.rule)).cloned().collect()
        };
        for one in gone {
            self.stage_delete(&mut unit, one, None);
        }
        let given = rules.iter().map(|rule| about(rule)).collect();
        self.stage_give(&mut unit, given, wish)?;
        unit.on_done(move |_| drop(changing));
        self.commit_order(unit).await
    }

    fn check_workflow(
        &self,
        service: &str,
        workflow: Option<&str>,
    ) -> Result<Arc<crate::Version>, OrderError> {
        let version = self.inner.registry.current(service);
        let version = version.ok_or_else(|| OrderError::UnknownService {
            service: service.to_owned(),
        })?;
        if let Some(workflow) = workflow
            && version.rules(workflow).is_none()
        {
            let known: Vec<&str> = version.bundle.workflows.keys().map(String::as_str).collect();
            return Err(OrderError::UnknownWorkflow {
                service: service.to_owned(),
                workflow: workflow.to_owned(),
                known: known.join(", "),
            });
        }
        Ok(version)
    }

    /// Has `unit` give these orders.
    fn stage_give(&self, unit: &mut Unit, orders: Vec<About>, wish: &Wish) -> Result<(), OrderError> {
        if wish.reason.len() > REASON_BYTES_MAX {
            return Err(OrderError::ReasonTooLong {
                bytes: wish.reason.len(),
            });
        }
        if self.inner.orders.all.read().len() + orders.len() > ORDERS_MAX {
            return Err(OrderError::TooMany {
                what: "standing orders",
                max: ORDERS_MAX,
            });
        }
        let given = Given {
            reason: wish.reason.clone(),
            by: wish.by.clone(),
            at: self.inner.clock.now(),
        };
        for about in &orders {
            unit.add(
                &ORDER_UPSERT,
                [
                    about.service.as_str().into(),
                    about.workflow.as_str().into(),
                    about.kind.into(),
                    about.rule.as_str().into(),
                    given.reason.as_str().into(),
                    given.by.as_str().into(),
                    given.at.as_millis().into(),
                ],
            );
        }
        let inner = Arc::clone(&self.inner);
        unit.on_done(move |outcome| {
            if outcome.is_ok() {
                for about in orders {
                    inner.orders.give(about, given.clone());
                }
            }
        });
        Ok(())
    }

    /// Has `unit` take an order back. The operation of that id, if there is one, begins when every turn that has found the
    /// order is durable: then it finds each run as stopped that the order has stopped.
    fn stage_delete(&self, unit: &mut Unit, about: About, operation: Option<OperationId>) {
        let cells = [
            about.service.as_str().into(),
            about.workflow.as_str().into(),
            about.kind.into(),
            about.rule.as_str().into(),
        ];
        unit.add(&ORDER_DELETE, cells);
        let inner = Arc::clone(&self.inner);
        unit.on_done(move |outcome| {
            if outcome.is_ok() {
                let revision = inner.orders.take_back(&about);
                if let Some(operation) = operation {
                    inner.operations.hold(operation, about.service, revision);
                }
            }
        });
    }

    async fn commit_order(&self, unit: Unit) -> Result<(), OrderError> {
        let committed = self.inner.store.commit(unit).await;
        committed.map_err(|error| OrderError::Unavailable {
            reason: error.to_string(),
        })
    }
}

/// Whether breakpoints name rules that there are.
pub(crate) fn check_breakpoints(
    workflow: &str,
    rules: &[String],
    known: &[celesta_engine::Rule],
) -> Result<(), OrderError> {
    if rules.len() > BREAKPOINTS_MAX {
        return Err(OrderError::TooMany {
            what: "breakpoints",
            max: BREAKPOINTS_MAX,
        });
    }
    for rule in rules {
        if !known.iter().any(|one| one.name() == rule) {
            let known: Vec<&str> = known.iter().map(celesta_engine::Rule::name).collect();
            return Err(OrderError::UnknownRule {
                workflow: workflow.to_owned(),
                rule: rule.clone(),
                known: known.join(", "),
            });
        }
    }
    Ok(())
}
