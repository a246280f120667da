//! Mistakes put in on purpose: a simulation that does not find them proves nothing.

use celesta_store::driven::Mistake;

/// A mistake with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bug {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What is wrong.
    pub what: &'static str,
    pub(crate) mistake: Mistake,
}

/// All of them.
pub const BUGS: &[Bug] = &[
    Bug {
        name: "ack-before-commit",
        what: "whoever waits for a commit is told that it is durable before it is",
        mistake: Mistake::HeardEarly,
    },
    Bug {
        name: "message-not-removed",
        what: "a consumed message stays in the record: after a crash it is consumed again",
        mistake: Mistake::LeftOut("queue.complete"),
    },
    Bug {
        name: "lost-wake",
        what: "messages for a later instant are not stored: after a crash timers never fire",
        mistake: Mistake::LeftOut("queue.insert_changed"),
    },
    Bug {
        name: "snapshot-ahead",
        what: "a snapshot is durable before the turn it holds",
        mistake: Mistake::Ahead("snapshots.upsert"),
    },
    Bug {
        name: "message-ahead",
        what: "what a turn sends is durable before the turn",
        mistake: Mistake::Ahead("queue.insert"),
    },
    Bug {
        name: "ack-ahead",
        what: "consumed messages are gone before the turn that consumed them is durable",
        mistake: Mistake::Ahead("queue.complete"),
    },
    Bug {
        name: "unfenced-journal",
        what: "a turn's record is left out of its commit",
        mistake: Mistake::LeftOut("journal.append"),
    },
    Bug {
        name: "state-not-written",
        what: "a run's row does not follow its turns",
        mistake: Mistake::LeftOut("runs.update"),
    },
    Bug {
        name: "key-forgotten",
        what: "a client's idempotency key is not stored",
        mistake: Mistake::LeftOut("idempotency.insert"),
    },
    Bug {
        name: "gate-forgotten",
        what: "who stands at a gate is not stored: after a crash it lets in too many",
        mistake: Mistake::WithoutTable("places"),
    },
    Bug {
        name: "interest-forgotten",
        what: "what a run listens to is not stored: changes of shared facts do not find it",
        mistake: Mistake::LeftOut("interests.add"),
    },
    Bug {
        name: "event-forgotten",
        what: "the name of an event is not stored: the same one counts again",
        mistake: Mistake::LeftOut("events.insert"),
    },
    Bug {
        name: "archive-misplaced",
        what: "where a run stands in the archive is not stored, and the run is removed",
        mistake: Mistake::LeftOut("archived.insert"),
    },
    Bug {
        name: "move-untold",
        what: "from where a run has moved to another version is not stored",
        mistake: Mistake::LeftOut("upgrades.insert"),
    },
    Bug {
        name: "gate-shuffled",
        what: "runs that come to a gate together are stored in another order",
        mistake: Mistake::Swapped("places.put"),
    },
    Bug {
        name: "pause-forgotten",
        what: "that a workflow is stopped is not stored: after a crash its runs go on",
        mistake: Mistake::LeftOut("orders.upsert"),
    },
    Bug {
        name: "bulk-place-forgotten",
        what: "how far a bulk operation is, is not stored: after a crash it begins again",
        mistake: Mistake::LeftOut("operations.advance"),
    },
    Bug {
        name: "breakpoints-forgotten",
        what: "before which rules a run stops is not stored: read again, it does not",
        mistake: Mistake::LeftOut("runs.steer"),
    },
    Bug {
        name: "sweep-goes-on",
        what: "a sweep that somebody has paused is stored as one that goes on",
        mistake: Mistake::Altered {
            statement: "sweeps.move",
            column: 2,
            from: 3,
            to: 2,
        },
    },
];

/// The bug of that name.
#[must_use]
pub fn named(name: &str) -> Option<Bug> {
    BUGS.iter().find(|bug| bug.name == name).copied()
}
