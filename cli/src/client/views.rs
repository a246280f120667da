//! What the server's answers hold, as far as this program shows it. Unknown fields are ignored, absent ones are empty,
//! so that an older client understands a newer server.

use std::collections::BTreeMap;

use celesta_types::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// A run.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RunView {
    pub(crate) id: String,
    pub(crate) service: String,
    pub(crate) operation: String,
    #[serde(default)]
    pub(crate) workflow: String,
    #[serde(default)]
    pub(crate) version: String,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) created_at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) ended_at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) priority: Value,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) input: Option<Value>,
    #[serde(default)]
    pub(crate) result: Option<Value>,
    #[serde(default)]
    pub(crate) error: Option<Value>,
    #[serde(default)]
    pub(crate) progress: Option<ProgressView>,
    #[serde(default)]
    pub(crate) parent: Option<String>,
    #[serde(default)]
    pub(crate) concurrency: Vec<GateView>,
    #[serde(default)]
    pub(crate) breakpoints: Vec<String>,
    #[serde(default)]
    pub(crate) stopped: Option<StoppedView>,
    #[serde(default)]
    pub(crate) avoided: u64,
}

/// A group of runs that a run belongs to.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct GateView {
    pub(crate) strategy: String,
    #[serde(default)]
    pub(crate) key: String,
}

/// What stopped a run.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StoppedView {
    pub(crate) by: String,
    #[serde(default)]
    pub(crate) rule: Option<String>,
    #[serde(default)]
    pub(crate) facts: Vec<(u64, u64)>,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) actor: String,
}

impl StoppedView {
    /// In one line.
    pub(crate) fn text(&self) -> String {
        let facts: Vec<String> = self
            .facts
            .iter()
            .map(|(id, version)| format!("{id}@{version}"))
            .collect();
        let rule = self
            .rule
            .as_ref()
            .map(|rule| format!(", before `{rule}` fires for {}", facts.join(" ")));
        let actor = if self.actor.is_empty() {
            String::new()
        } else {
            format!(" of {}", self.actor)
        };
        let reason = if self.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", self.reason)
        };
        format!("{}{actor}{}{reason}", self.by, rule.unwrap_or_default())
    }
}

impl RunView {
    /// Whether nothing more is to be waited for.
    pub(crate) fn is_ended(&self) -> bool {
        is_end(&self.state)
    }

    /// Why it did not complete.
    pub(crate) fn error_text(&self) -> Option<String> {
        self.error.as_ref().map(|error| {
            let message = error.get("message").unwrap_or(error);
            message
                .as_str()
                .map_or_else(|| message.to_string(), str::to_owned)
        })
    }
}

/// Whether `state` is one in which a client that waits has its answer.
pub(crate) fn is_end(state: &str) -> bool {
    matches!(state, "completed" | "failed" | "canceled" | "quarantined")
}

/// How far a run is.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ProgressView {
    pub(crate) fraction: f64,
    #[serde(default)]
    pub(crate) text: String,
}

/// A fact of a run.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct FactView {
    pub(crate) id: u64,
    #[serde(rename = "type")]
    pub(crate) fact_type: String,
    pub(crate) version: u64,
    pub(crate) value: Value,
    #[serde(default)]
    pub(crate) written_by: String,
}

/// One turn of a run's history.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TurnView {
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) causes: Vec<CauseView>,
    #[serde(default)]
    pub(crate) firings: Vec<FiringView>,
    #[serde(default)]
    pub(crate) effects: Vec<Value>,
    #[serde(default)]
    pub(crate) note: Option<String>,
}

/// Why a turn happened.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct CauseView {
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) call: Option<String>,
    #[serde(default)]
    pub(crate) message: Option<String>,
    #[serde(default)]
    pub(crate) by: Option<String>,
}

/// A section that ran.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct FiringView {
    pub(crate) rule: String,
    pub(crate) section: String,
    #[serde(default)]
    pub(crate) facts: Vec<(u64, u64)>,
    #[serde(default)]
    pub(crate) threw: Option<String>,
}

/// A call a run has made.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct CallView {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) target: String,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) called_at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) ended_at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) attempts: u32,
    #[serde(default)]
    pub(crate) avoided: bool,
    #[serde(default)]
    pub(crate) worker: Option<String>,
    #[serde(default)]
    pub(crate) input: Option<Value>,
    #[serde(default)]
    pub(crate) error: Option<Value>,
}

/// An attempt of a call that failed or printed something.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AttemptView {
    pub(crate) attempt: u32,
    #[serde(default)]
    pub(crate) function: String,
    #[serde(default)]
    pub(crate) stdout_size: u64,
    #[serde(default)]
    pub(crate) stderr_size: u64,
}

/// A service.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ServiceView {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) operations: Vec<Value>,
    #[serde(default)]
    pub(crate) functions: Vec<Value>,
    #[serde(default)]
    pub(crate) pushed_at: Option<Timestamp>,
}

/// An instant in the user's own zone, to the second.
pub(crate) fn instant_text(at: Option<Timestamp>) -> String {
    let Some(at) = at else { return "-".to_owned() };
    jiff::Timestamp::from_millisecond(at.as_millis()).map_or_else(
        |_| at.to_string(),
        |instant| {
            instant
                .to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string()
        },
    )
}
