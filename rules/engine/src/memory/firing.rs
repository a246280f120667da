//! Firings that wait for calls: what they hold on to, and what has come back so far.

use celesta_types::CallId;
use smallvec::SmallVec;

use super::section::Made;
use crate::Value;
use crate::turn::{CallError, Section};

/// What a name of a rule stands for when a section runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Held {
    Fact(u64),
    Value(Value),
    Facts(Vec<u64>),
}

/// The names that the rule's sections use, by level.
pub(crate) type Bindings = SmallVec<[(u32, Held); 3]>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CallState {
    pub call: CallId,
    pub made: Made,
    pub outcome: Option<Result<Value, CallError>>,
}

/// Where a firing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its calls are out, or all are back while the run is halted.
    Waiting,
    /// A call has failed and the run with it.
    FailedCalls,
    /// A section threw and the run failed.
    FailedSection(Section),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OpenFiring {
    pub rule: u32,
    pub facts: SmallVec<[(u64, u32); 3]>,
    pub bindings: Bindings,
    pub calls: Vec<CallState>,
    pub open: u32,
    pub fail_fast: bool,
    pub retries: u32,
    pub stage: Stage,
}

impl OpenFiring {
    /// The first failure in call order; one that is not a cancellation if there is one.
    pub(crate) fn failure(&self) -> Option<&CallError> {
        let mut failures = self.calls.iter().filter_map(|call| match &call.outcome {
            Some(Err(error)) => Some(error),
            _ => None,
        });
        let first = failures.next()?;
        if first.kind != celesta_types::ErrorClass::Canceled {
            return Some(first);
        }
        failures
            .find(|error| error.kind != celesta_types::ErrorClass::Canceled)
            .or(Some(first))
    }

    pub(crate) fn bound_facts(&self) -> impl Iterator<Item = u64> {
        self.bindings.iter().filter_map(|(_, held)| match held {
            Held::Fact(id) => Some(*id),
            _ => None,
        })
    }
}

/// A failed call as `error` shows it.
pub(crate) fn error_value(error: &CallError) -> Value {
    Value::map([
        ("kind", Value::from(error.kind.name())),
        ("message", error.message.as_str().into()),
        ("function", error.function.as_str().into()),
        ("attempts", error.attempts.into()),
    ])
}
