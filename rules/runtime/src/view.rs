//! What others see of runs: plain data, ready to be serialized.

use std::collections::BTreeMap;

use celesta_types::{CallId, Digest, ErrorClass, Priority, RunId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::state::RunState;

/// A run as clients see it.
#[derive(Debug, Clone, Serialize)]
pub struct RunView {
    /// Its id.
    pub id: RunId,
    /// The service that was asked.
    pub service: String,
    /// The operation.
    pub operation: String,
    /// The workflow whose rules it follows.
    pub workflow: String,
    /// The version of the service.
    pub version: Digest,
    /// Where it stands.
    pub state: RunState,
    /// When it was accepted, in milliseconds since the epoch.
    pub created_at: Timestamp,
    /// When it last changed its state or progress.
    pub updated_at: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The priority of its work.
    pub priority: Priority,
    /// The client's labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The request's body; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Box<RawValue>>,
    /// The result, once completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// Why it failed, was canceled or put aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How far it is, as its rules last said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressView>,
    /// The run that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// W3C trace context of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Whether it is finished for good and stands in the archive.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub archived: bool,
    /// The groups of runs it belongs to, of which only so many are under way at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub concurrency: Vec<GateView>,
    /// The rules before which it stops.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub breakpoints: Vec<String>,
    /// What it was stopped by, while it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<StoppedView>,
    /// How many of its calls were answered with a recorded result instead of being run.
    #[serde(skip_serializing_if = "is_zero")]
    pub avoided: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A group of runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateView {
    /// How many may be under way, and what becomes of the others.
    pub strategy: String,
    /// The value of the request by which runs are told into groups; absent when the workflow has one group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// What stopped a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedView {
    /// `request` (somebody paused it), `workflow` or `service` (somebody paused all of it), `breakpoint` or `step`.
    pub by: StoppedBy,
    /// The rule that would fire next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The facts it would fire for, with their versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<(u64, u64)>,
    /// Why, in the words of whoever asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
}

/// What kind of thing stopped a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoppedBy {
    /// Somebody paused the run.
    Request,
    /// Somebody paused its workflow.
    Workflow,
    /// Somebody paused its service.
    Service,
    /// A rule with a breakpoint would fire.
    Breakpoint,
    /// It was to go on by one firing.
    Step,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressView {
    /// 0 to 1.
    pub fraction: f64,
    /// In words.
    pub text: String,
}

/// A fact of a run.
#[derive(Debug, Clone, Serialize)]
pub struct FactView {
    /// Its id within the run.
    pub id: u64,
    /// Its type.
    #[serde(rename = "type")]
    pub fact_type: String,
    /// Counts its changes, from 1.
    pub version: u64,
    /// Its slots.
    pub value: Box<RawValue>,
    /// The rule that wrote it last, or `request`.
    pub written_by: String,
}

/// One turn of a run.
#[derive(Debug, Clone, Serialize)]
pub struct TurnView {
    /// Its place in the journal, from 1.
    pub seq: u64,
    /// When it was evaluated.
    pub at: Timestamp,
    /// Why, one line each.
    pub causes: Vec<CauseView>,
    /// The sections that ran.
    pub firings: Vec<FiringView>,
    /// What they asked for.
    pub effects: Vec<EffectView>,
    /// How many facts were inserted, updated and retracted.
    pub facts_changed: [usize; 3],
    /// What the platform did besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A shared fact of a service.
#[derive(Debug, Clone, Serialize)]
pub struct SharedFactView {
    /// Its number within the service.
    pub fact: u64,
    /// Its type.
    #[serde(rename = "type")]
    pub fact_type: String,
    /// How often it was written: 1 when it is new.
    pub version: u32,
    /// The service's count of changes when it was last written.
    pub revision: u64,
    /// When that was.
    pub written_at: Timestamp,
    /// Its fields.
    pub value: Box<RawValue>,
}

impl SharedFactView {
    pub(crate) fn of((version, at): &(celesta_engine::SharedVersion, Timestamp)) -> Self {
        let fields = version.fields.as_ref();
        Self {
            fact: version.fact,
            fact_type: version.fact_type.to_string(),
            version: version.version,
            revision: version.revision,
            written_at: *at,
            value: raw(fields.map_or_else(|| "null".to_owned(), celesta_engine::Value::to_json)),
        }
    }
}

/// Why a turn happened.
#[derive(Debug, Clone, Serialize)]
pub struct CauseView {
    /// `request`, `succeeded`, `failed`, `timer`, `cancel`, `retry`, `facts`, `resume`, `time`, `priority`, `breakpoints`,
    /// `restart`, `sweep` or `upgrade`.
    pub kind: &'static str,
    /// The call it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// The error or the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A section of a rule that ran.
#[derive(Debug, Clone, Serialize)]
pub struct FiringView {
    /// The rule.
    pub rule: String,
    /// `action`, `reaction` or `error`.
    pub section: &'static str,
    /// The facts of its tuple with their versions.
    pub facts: Vec<(u64, u64)>,
    /// What it threw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threw: Option<String>,
}

/// What a rule asked for.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EffectView {
    /// A function was called.
    Call {
        /// The call's id.
        call: String,
        /// The function.
        function: String,
    },
    /// A timer was set.
    Timer {
        /// The timer's id.
        call: String,
        /// For when.
        at: Timestamp,
    },
    /// Another service was asked.
    Request {
        /// The request's id.
        call: String,
        /// `service/operation`.
        target: String,
        /// The run that serves it.
        run: RunId,
    },
    /// Calls were called off.
    CancelCalls {
        /// Which.
        calls: Vec<String>,
    },
    /// An event.
    Emit {
        /// Its type.
        event_type: String,
        /// Its data.
        data: Box<RawValue>,
    },
    /// The run completed.
    Complete {
        /// Its result.
        result: Box<RawValue>,
    },
    /// The run failed.
    Fail {
        /// Why.
        message: String,
    },
    /// How far it is.
    Progress(ProgressView),
    /// A line of its log.
    Log {
        /// The line.
        text: String,
    },
}

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CallState {
    /// Asked for, not answered.
    Outstanding,
    /// Answered with a result.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Called off.
    Canceled,
}

/// One call of a function, timer or request to another service.
#[derive(Debug, Clone, Serialize)]
pub struct CallView {
    /// The call's id, `turn.index`.
    pub id: String,
    /// The same as numbers.
    #[serde(skip)]
    pub call: CallId,
    /// `function`, `timer` or `request`.
    pub kind: &'static str,
    /// The function, `service/operation`, or empty for a timer.
    pub target: String,
    /// Where it stands.
    pub state: CallState,
    /// When it was made.
    pub called_at: Timestamp,
    /// When its last attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Attempts so far, as far as the run has heard of them.
    pub attempts: u32,
    /// Whether a recorded result of the pure function was used instead of running it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub avoided: bool,
    /// The worker of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Box<RawValue>>,
    /// The result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// The error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CallErrorView>,
}

/// Why a call failed.
#[derive(Debug, Clone, Serialize)]
pub struct CallErrorView {
    /// The class of the last error.
    pub class: ErrorClass,
    /// Its message.
    pub message: String,
}

/// One event of a run's stream.
#[derive(Debug, Clone, Serialize)]
pub struct RunEvent {
    /// The turn it belongs to.
    pub seq: u64,
    /// Its place within the turn.
    pub index: u32,
    /// `turn`, `progress`, `log`, `emit`, `completed`, `failed`, `canceled` or `quarantined`.
    pub kind: &'static str,
    /// What it says, as JSON.
    pub data: Box<RawValue>,
}

/// A page of a list, and where the next one begins.
#[derive(Debug, Clone, Serialize)]
pub struct Page<T> {
    /// The page.
    pub rows: Vec<T>,
    /// Give this for the next page; none on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which runs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFilter {
    /// Only of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only of this workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// Only of this operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Only in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RunState>,
    /// Only with this label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<(String, String)>,
    /// Only created at or after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_after: Option<Timestamp>,
    /// Only created before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_before: Option<Timestamp>,
}

/// JSON text made by this platform, as a value to serialize; text that is no JSON becomes a JSON string.
pub(crate) fn raw(json: impl Into<String>) -> Box<RawValue> {
    let text = json.into();
    RawValue::from_string(text).unwrap_or_else(|error| {
        serde_json::value::to_raw_value(&error.to_string()).expect("a string serializes")
    })
}
