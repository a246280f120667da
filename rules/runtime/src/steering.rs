//! What was said about one run in particular, kept in its row: nearly all runs have nothing here.
//!
//! The groups it belongs to and the chain of requests that led to it stand from its beginning; breakpoints, what stopped it
//! and how many calls were avoided change with turns, and are written only when they do.

use celesta_bundle::Strategy;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::view::{GateView, StoppedView};

/// Rules before which a run or a workflow stops: more is no way to look at anything.
pub const BREAKPOINTS_MAX: usize = 64;

/// What was said about a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Steering {
    /// `service/operation` of the requests that led here, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) via: Vec<String>,
    /// The groups it belongs to, in the order it enters them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) gates: Vec<GateView>,
    /// Whether its calls are run even when results are recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fresh: bool,
    /// The rules before which it stops.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) breakpoints: Vec<String>,
    /// What it was stopped by, while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stopped: Option<StoppedView>,
    /// Calls that were answered with recorded results.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) avoided: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Nothing.
pub(crate) static NOTHING: Steering = Steering {
    via: Vec::new(),
    gates: Vec::new(),
    fresh: false,
    breakpoints: Vec::new(),
    stopped: None,
    avoided: 0,
};

impl Steering {
    /// The gates with their ids, in the order the run enters them.
    pub(crate) fn gates(&self, service: &str, workflow: &str) -> Vec<(u128, Strategy)> {
        let gates = self.gates.iter().enumerate();
        gates
            .filter_map(|(number, gate)| {
                let id = gate_id(service, workflow, number, &gate.key);
                Some((id, gate.strategy.parse().ok()?))
            })
            .collect()
    }
}

/// The id of a gate: that of the group with this key under the limit with this number.
fn gate_id(service: &str, workflow: &str, number: usize, key: &str) -> u128 {
    let mut digest = Sha256::new();
    for part in ["gate", service, workflow, &number.to_string(), key] {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    let (head, _) = digest.split_at(16);
    head.try_into().map_or(0, u128::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_differ_by_each_part_and_stay_the_same() {
        let ids = [
            gate_id("a", "b", 0, "c"),
            gate_id("a", "b", 1, "c"),
            gate_id("a", "bc", 0, ""),
            gate_id("ab", "", 0, "c"),
            gate_id("a", "b", 0, ""),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        // Gates are found again after a restart and after an upgrade.
        assert_eq!(
            format!("{:032x}", gate_id("a", "b", 0, "c")),
            "7d950771306fc88cfb4f4ec3bb1b6c89"
        );
    }

    #[test]
    fn nothing_is_stored_of_nothing() {
        assert_eq!(serde_json::to_string(&NOTHING).ok().as_deref(), Some("{}"));
    }
}
