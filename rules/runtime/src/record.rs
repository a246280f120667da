//! One journal record: what a turn was given, what it did, and the state delta.
//!
//! The delta is the engine's own and opaque here; recovery needs nothing else. The rest is for people: history, calls
//! and events are read from it. A record names rules by their index in the run's version.
//! Its bytes are the business of `codec`.

mod codec;

use celesta_types::{CallId, Digest, ErrorClass, Priority, SweepId, Timestamp};

/// One turn of a run as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record {
    /// When the turn was evaluated.
    pub at: Timestamp,
    /// The messages it applied, in order.
    pub causes: Vec<Cause>,
    /// The sections that ran, in order.
    pub firings: Vec<Firing>,
    /// What it asked for, in order; the index is the call's.
    pub effects: Vec<Recorded>,
    /// The facts it changed.
    pub changes: Vec<Change>,
    /// What the platform did to the run besides: a state it was put in and why.
    pub note: Option<Note>,
    /// The engine's state delta; empty when the state did not change.
    pub delta: Vec<u8>,
}

/// Why a turn happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The request.
    Started,
    /// A call succeeded.
    Succeeded {
        /// Which call.
        call: CallId,
        /// Its result, as JSON.
        result: String,
        /// How it ran.
        ran: Ran,
    },
    /// A call failed for good.
    Failed {
        /// Which call.
        call: CallId,
        /// The class of the last error.
        class: ErrorClass,
        /// Its message.
        message: String,
        /// How it ran.
        ran: Ran,
    },
    /// A timer's instant came.
    TimerFired {
        /// The timer.
        call: CallId,
    },
    /// Somebody asked for the run to stop.
    CancelRequested {
        /// Why, in their words.
        reason: String,
        /// Who; empty in records of earlier releases.
        by: String,
    },
    /// Somebody asked for another try.
    RetryRequested {
        /// Why, in their words.
        reason: String,
        /// Who.
        by: String,
    },
    /// Facts were written from outside.
    FactsWritten {
        /// What was asked, as the JSON that came.
        writes: String,
        /// The writes that changed nothing, by their place, and why.
        refused: Vec<(u32, String)>,
        /// Who.
        by: String,
    },
    /// Somebody let a paused run go on.
    Resumed {
        /// Why, in their words.
        reason: String,
        /// Who.
        by: String,
    },
    /// The instant of a condition on the time has come.
    Woken,
    /// The run follows another version from this turn on.
    Upgraded {
        /// The version before.
        from: Digest,
        /// The version from now on.
        to: Digest,
    },
    /// A sweep came by.
    Swept {
        /// Which.
        sweep: SweepId,
    },
    /// The run became more or less urgent.
    Prioritized {
        /// How urgent it is now.
        priority: Priority,
        /// Why.
        reason: String,
        /// Who.
        by: String,
    },
    /// Somebody said before which rules the run stops.
    BreakpointsSet {
        /// All of them.
        rules: Vec<String>,
        /// Who.
        by: String,
    },
    /// The run goes on where another one was.
    Restarted {
        /// What was changed, as the JSON that came.
        writes: String,
        /// Why, in their words.
        reason: String,
        /// Who.
        by: String,
    },
}

/// How a call's last attempt ran.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ran {
    /// Attempts in all.
    pub attempts: u32,
    /// When the last one began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// The worker that ran it.
    pub worker: String,
}

/// One section of a rule that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// The rule's index in the run's version.
    pub rule: u32,
    /// Which section: 0 action, 1 reaction, 2 error.
    pub section: u8,
    /// The facts of the tuple and their versions.
    pub facts: Vec<(u64, u64)>,
    /// What the section threw.
    pub threw: Option<String>,
}

/// One effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Recorded {
    /// A function was called.
    Call {
        /// The function.
        function: String,
        /// Its input, as JSON.
        input: String,
    },
    /// A timer was set.
    Timer {
        /// For when.
        at: Timestamp,
    },
    /// Another service was asked.
    Request {
        /// `service/operation`.
        target: String,
        /// Its input, as JSON.
        input: String,
    },
    /// Outstanding calls were called off.
    CancelCalls {
        /// Which.
        calls: Vec<CallId>,
    },
    /// An event for whoever listens.
    Emit {
        /// Its type.
        event_type: String,
        /// Its data, as JSON.
        data: String,
    },
    /// The run completed.
    Complete {
        /// Its result, as JSON.
        result: String,
    },
    /// The run failed.
    Fail {
        /// Why.
        message: String,
    },
    /// How far the run is.
    Progress {
        /// 0 to 1.
        fraction: f64,
        /// In words.
        text: String,
    },
    /// A line of the rules' log.
    Log {
        /// The line.
        text: String,
    },
}

/// What happened to one fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The fact.
    pub fact: u64,
    /// Its type's index in the run's version.
    pub fact_type: u32,
    /// 0 inserted, 1 updated, 2 retracted.
    pub kind: u8,
}

/// What the platform did to the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The run was put aside; the turn's changes were not kept.
    Quarantined {
        /// Why.
        reason: String,
        /// The messages that were not applied, as they came.
        messages: Vec<Vec<u8>>,
    },
    /// The run was paused, or was sent messages while it was.
    Paused {
        /// Why; empty for messages that came later.
        reason: String,
        /// Who.
        by: String,
        /// The messages that wait for the run to go on.
        messages: Vec<Vec<u8>>,
    },
    /// The turn has ended before a rule fired, and the run is paused. The turn itself counts.
    Stopped {
        /// The rule that would fire next.
        rule: String,
        /// The facts it would fire for, with their versions.
        facts: Vec<(u64, u64)>,
    },
}

impl Note {
    /// The messages that are kept unread.
    #[must_use]
    pub fn messages(self) -> Vec<Vec<u8>> {
        match self {
            Self::Quarantined { messages, .. } | Self::Paused { messages, .. } => messages,
            Self::Stopped { .. } => Vec::new(),
        }
    }
}
