//! What goes into a turn and what comes out of it: events, effects and the outcome.
//!
//! Plain values without behavior; [`crate::WorkingMemory::turn`] turns the first into the second.

use std::fmt;
use std::sync::Arc;

use celesta_types::{CallId, ErrorClass, ErrorKind};
use serde::Serialize;

use crate::{SharedFacts, Value};

/// The number of a fact within its run; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct FactId(pub u64);

impl fmt::Display for FactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shared_number() {
            None => write!(f, "#{}", self.0),
            Some(number) => write!(f, "shared #{number}"),
        }
    }
}

/// One leased evaluation of a run.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The journal sequence of this turn, at least 1.
    pub seq: u64,
    /// The turn's instant in milliseconds since the Unix epoch: what `now()` answers.
    pub now_ms: i64,
    /// What has happened, in order.
    pub events: Vec<Event>,
}

/// Something that happened to a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A fact from outside: a request's input.
    Insert {
        /// The fact's type.
        fact_type: Arc<str>,
        /// Its fields, as a map.
        value: Value,
    },
    /// Fields of a fact are set from outside.
    Update {
        /// The fact.
        fact: FactId,
        /// The version it must have, when given.
        version: Option<u32>,
        /// The fields to set, as a map.
        value: Value,
    },
    /// A fact is retracted from outside.
    Retract {
        /// The fact.
        fact: FactId,
        /// The version it must have, when given.
        version: Option<u32>,
    },
    /// A call or a request has succeeded.
    CallSucceeded {
        /// Which.
        call: CallId,
        /// Its result.
        result: Value,
    },
    /// A call or a request has failed for good.
    CallFailed {
        /// Which.
        call: CallId,
        /// Why.
        error: CallError,
    },
    /// A timer has fired.
    TimerFired {
        /// Which.
        call: CallId,
    },
    /// The run is the continuation of another one, whose open calls are not its own: they are made again.
    Remake,
    /// An operator wants the failed run to go on: failed calls are made again, failed sections run again.
    RetryFailed,
    /// The service's shared facts as they are now: taken in before anything else of the turn. A turn of rules that look
    /// at shared facts begins with it.
    Shared(Arc<SharedFacts>),
    /// The run ends now: open calls are canceled, no rule fires any more.
    Cancel {
        /// Why, for the log.
        reason: String,
    },
}

/// Why a call has failed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallError {
    /// The class of the error.
    pub kind: ErrorClass,
    /// What was said.
    pub message: String,
    /// The function, request or timer.
    pub function: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// What the host has to do; the index of an effect is its position in [`Outcome::effects`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Effect {
    /// Call a function.
    Call {
        /// The name under which the result comes back.
        call: CallId,
        /// The function.
        function: Arc<str>,
        /// The input as JSON text.
        input_json: Arc<str>,
        /// Whether an artifact reference stands in the input.
        has_artifacts: bool,
        /// How to call it.
        options: CallOptions,
    },
    /// Fire a timer.
    Timer {
        /// The name under which it fires.
        call: CallId,
        /// When, in milliseconds since the Unix epoch.
        at_ms: i64,
    },
    /// Send a request to an operation of a service.
    Request {
        /// The name under which the result comes back.
        call: CallId,
        /// `service/operation`.
        target: Arc<str>,
        /// The input as JSON text.
        input_json: Arc<str>,
        /// How to send it.
        options: CallOptions,
    },
    /// Stop these calls, requests and timers if they still run; no answer is awaited.
    CancelCalls {
        /// Which.
        calls: Vec<CallId>,
    },
    /// Publish an event.
    Emit {
        /// The event's type.
        event_type: Arc<str>,
        /// Its content as JSON text.
        data_json: Arc<str>,
    },
    /// The run has its result.
    Complete {
        /// The result as JSON text.
        result_json: Arc<str>,
    },
    /// The run has failed; no rule fires until [`Event::RetryFailed`].
    Fail {
        /// Why.
        message: String,
        /// More about it, as JSON text.
        data_json: Option<Arc<str>>,
    },
    /// How far the run has come.
    Progress {
        /// From 0 to 1.
        fraction: f64,
        /// What it is doing.
        text: String,
    },
    /// A line for the run's log.
    Log {
        /// `info` from `log`, `debug` from `print` and `debug`, `warn` from the engine itself.
        level: &'static str,
        /// The line.
        text: String,
    },
}

impl Effect {
    /// The bytes of its texts.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Self::Call { input_json: text, .. }
            | Self::Request { input_json: text, .. }
            | Self::Emit { data_json: text, .. }
            | Self::Complete { result_json: text } => text.len(),
            Self::Fail { message, data_json } => {
                message.len() + data_json.as_ref().map_or(0, |text| text.len())
            }
            Self::Progress { text, .. } | Self::Log { text, .. } => text.len(),
            Self::Timer { .. } | Self::CancelCalls { .. } => 0,
        }
    }
}

/// How a call or request is to be made; `None` leaves it to the function's manifest or the run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// The longest time one attempt may take.
    pub timeout_ms: Option<i64>,
    /// The priority of the invocation.
    pub priority: Option<i64>,
    /// The key under which invocations exclude each other or are found again.
    pub key: Option<String>,
    /// How long to wait before it is made.
    pub delay_ms: Option<i64>,
}

/// What a turn has brought about. When `fault` is set, nothing of it counts: the host keeps neither the delta nor the
/// effects, drops the memory and quarantines the run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The change of the run's state, for [`crate::WorkingMemory::restore`].
    pub delta: Vec<u8>,
    /// What the host has to do.
    pub effects: Vec<Effect>,
    /// The sections that ran, in order.
    pub firings: Vec<FiringRecord>,
    /// The facts that changed, in order.
    pub changes: Vec<FactChange>,
    /// The events that were refused: index and reason.
    pub rejected: Vec<(usize, String)>,
    /// Whether nothing is left to fire. False after a failure or cancellation that left activations behind.
    pub quiescent: bool,
    /// Open calls, requests and timers.
    pub outstanding: u64,
    /// When the host is to call next even if nothing has happened: a condition on the time changes then. None after a
    /// failure or cancellation.
    pub next_wake_ms: Option<i64>,
    /// Where it stopped although rules could fire, when it was told to.
    pub stopped: Option<Stopped>,
    /// Why the turn does not count.
    pub fault: Option<Fault>,
}

/// A section that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiringRecord {
    /// The rule, as an index into [`crate::RuleSet::rules`].
    pub rule: usize,
    /// The bound facts and their versions.
    pub facts: Vec<(FactId, u32)>,
    /// Which section.
    pub section: Section,
    /// What it threw.
    pub error: Option<String>,
}

/// A part of a rule that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// Runs when the rule fires.
    Action,
    /// Runs when every call of the action has succeeded.
    Reaction,
    /// Runs when the action threw or a call failed for good.
    Error,
}

impl Section {
    /// The word in the language.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Reaction => "reaction",
            Self::Error => "error",
        }
    }
}

/// A fact that changed in a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FactChange {
    /// The fact.
    pub fact: FactId,
    /// Its type.
    pub fact_type: Arc<str>,
    /// What happened to it.
    pub change: Change,
}

/// What happened to a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Inserted,
    /// A field has another value.
    Updated,
    /// It is gone.
    Retracted,
}

/// Why a turn does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The rules keep firing each other.
    #[error("more than {firings} firings in one turn; the cycle is {}", cycle.join(" → "))]
    FiringBudget {
        /// The bound.
        firings: u32,
        /// The rules that fire in turn, as far as the end of the trace shows.
        cycle: Vec<String>,
    },
    /// An invariant of the engine does not hold.
    #[error("a fault of the engine: {0}")]
    Internal(String),
}

impl Fault {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::FiringBudget { .. } => ErrorKind::Invalid,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }
}

/// An open call, request or timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCall {
    /// Its name.
    pub call: CallId,
    /// The function, the request's target, or `timer`.
    pub target: Arc<str>,
    /// When a timer fires.
    pub at_ms: Option<i64>,
    /// The rule that waits.
    pub rule: Arc<str>,
    /// The priority it was given.
    pub priority: Option<i64>,
    /// The time it was given.
    pub timeout_ms: Option<i64>,
}

/// Where a turn stops although rules could fire.
#[derive(Debug, Clone, Default)]
pub struct Stops<'a> {
    /// Before these rules.
    pub rules: &'a [String],
    /// Before any rule.
    pub all: bool,
    /// So many firings are made whatever they are of.
    pub free: u32,
}

/// What would fire next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The rule, as an index into [`crate::RuleSet::rules`].
    pub rule: usize,
    /// The facts that match, and their versions.
    pub facts: Vec<(FactId, u32)>,
}
