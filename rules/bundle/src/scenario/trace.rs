//! What happened in a scenario: what its expectations are held against.

use std::collections::BTreeMap;

use celesta_types::RunId;
use serde_json::Value;

/// Where the run stands; the words of the runtime's own machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Idle,
    Completed,
    Failed,
    Canceled,
    Quarantined,
}

impl State {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Quarantined => "quarantined",
        }
    }
}

/// What happened.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) run: RunId,
    pub(super) state: State,
    pub(super) result: Value,
    pub(super) error: Option<String>,
    pub(super) progress: Option<f64>,
    /// Rules in the order in which they fired.
    pub(super) fired: Vec<String>,
    pub(super) calls: BTreeMap<String, u64>,
    pub(super) attempts: BTreeMap<String, u64>,
    pub(super) facts: Vec<(String, Value)>,
    /// Why each rule that is expected to fire does not match now.
    pub(super) explanations: BTreeMap<String, String>,
    /// What was still awaited at the end.
    pub(super) awaited: Vec<String>,
    pub(super) elapsed_ms: i64,
    pub(super) turns: u64,
    /// What sections threw.
    pub(super) threw: Vec<String>,
    /// Why the request was refused, when that is expected.
    pub(super) refused: Option<String>,
    /// What makes the scenario meaningless: a call without an answer, a request that is refused.
    pub(super) broken: Vec<String>,
}

impl Trace {
    /// Nothing has happened yet.
    pub(super) fn new(run: RunId) -> Self {
        Self {
            run,
            state: State::Running,
            result: Value::Null,
            error: None,
            progress: None,
            fired: Vec::new(),
            calls: BTreeMap::new(),
            attempts: BTreeMap::new(),
            facts: Vec::new(),
            explanations: BTreeMap::new(),
            awaited: Vec::new(),
            elapsed_ms: 0,
            turns: 0,
            threw: Vec::new(),
            refused: None,
            broken: Vec::new(),
        }
    }
}
