//! A run in memory: its row, its rules, its working memory, and where its journal ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use celesta_engine::{RuleSet, WorkingMemory};
use celesta_types::CallId;

use crate::head::RunHead;
use crate::registry::Version;
use crate::shared::Interests;
use crate::state::RunState;

/// What the row, the handles, the cache's own entry and the allocator take besides the working memory: measured with 200,000
/// small runs in the cache, each of which was 3.2 KB of the resident memory.
const HEAD_BYTES: usize = 2_400;

/// A run in memory, as of its last durable turn.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) head: RunHead,
    pub(crate) version: Arc<Version>,
    pub(crate) rules: Arc<RuleSet>,
    pub(crate) memory: WorkingMemory,
    /// The last turn in the journal; 0 before the first.
    pub(crate) seq: u64,
    /// The request's body, until the first turn has used it.
    pub(crate) input: Option<Arc<[u8]>>,
    /// The keys the run stands under in the index of interests.
    pub(crate) interests: Interests,
    /// Requests to other services that are not answered.
    pub(crate) requests: BTreeSet<CallId>,
    /// Those that are to be answered by some instant.
    pub(crate) timed: BTreeSet<CallId>,
    /// Whether what people and parents say of the run has changed in this turn.
    pub(crate) steered: bool,
    /// When the run wakes by itself, as far as is known here: what was sent before it was read is not.
    pub(crate) wake_at: Option<i64>,
    /// Bytes of deltas since the last snapshot, and how many.
    pub(crate) delta_bytes: usize,
    pub(crate) deltas: usize,
    /// The size of the last snapshot.
    pub(crate) snapshot_bytes: usize,
}

impl Live {
    /// Whether the run keeps what it is sent for later.
    pub(crate) const fn keeps_messages(&self) -> bool {
        matches!(
            self.head.state,
            RunState::Quarantined | RunState::Paused | RunState::Waiting
        )
    }

    /// The next record is followed by a snapshot, whatever the deltas are.
    pub(crate) const fn needs_snapshot(&mut self) {
        self.deltas = usize::MAX - 1;
    }

    pub(crate) fn bytes(&self) -> usize {
        HEAD_BYTES + self.memory.memory_bytes() + self.input.as_ref().map_or(0, |input| input.len())
    }
}
