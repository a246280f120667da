//! What is between partitions: letters, gates with runs of other partitions, groups over all of them.
//!
//! A store by itself cannot tell whether a run that waits elsewhere is forgotten. What it sees of this is gathered here,
//! and judged when all stores of the instant have been read.

use std::collections::{BTreeMap, HashSet};

use celesta_store::{QueryError, Snapshot};
use celesta_types::{Partition, RunId};

use super::groups::Groups;
use super::{Findings, Invariant};
use crate::gate::Passage;
use crate::head::RunHead;
use crate::message::HostMessage;
use crate::state::RunState;

/// What the stores of one instant say of each other.
#[derive(Debug)]
pub(super) struct Between {
    /// The store that is being read.
    here: Partition,
    pub(super) groups: Groups,
    /// Runs to which a message is on its way from another store, or for which one is on its way to a gate.
    told: HashSet<RunId>,
    /// Gates with messages, on their way or in the queue.
    gates: HashSet<u128>,
    /// Runs of other stores that stand at a gate.
    at_gates: HashSet<RunId>,
    /// Runs that have neither completed nor been canceled, and have a gate in another store.
    alive: HashSet<RunId>,
    /// Those of them that have not begun, and wait for nothing in their own store.
    waiting: Vec<RunId>,
    /// Places of runs of other stores that have passed.
    inside: Vec<(u128, String, RunId)>,
    /// How far the shared facts of each service are in each store that has any.
    shared: BTreeMap<String, BTreeMap<u32, i64>>,
    /// Services whose shared facts are being copied.
    copying: HashSet<String>,
}

impl Between {
    pub(super) fn new() -> Self {
        Self {
            here: Partition::WHOLE,
            groups: Groups::default(),
            told: HashSet::new(),
            gates: HashSet::new(),
            at_gates: HashSet::new(),
            alive: HashSet::new(),
            waiting: Vec::new(),
            inside: Vec::new(),
            shared: BTreeMap::new(),
            copying: HashSet::new(),
        }
    }

    /// The next store is that of this partition.
    pub(super) const fn enter(&mut self, here: Partition) {
        self.here = here;
    }

    /// Whether the run or gate with this key is of the store that is being read.
    pub(super) fn is_here(&self, key: u128) -> bool {
        Partition::of_bits(key, self.here.count) == self.here
    }

    /// Takes in a run.
    pub(super) fn add_run(&mut self, head: &RunHead) {
        self.groups.add(head);
        let is_alive = !matches!(head.state, RunState::Completed | RunState::Canceled);
        if is_alive && self.has_gate_elsewhere(head) {
            self.alive.insert(head.run);
        }
    }

    fn has_gate_elsewhere(&self, head: &RunHead) -> bool {
        self.here.count > 1
            && head
                .steering()
                .gates(&head.service, &head.workflow)
                .iter()
                .any(|(gate, _)| !self.is_here(*gate))
    }

    /// Takes in a run that has not begun and waits for nothing in its own store; whether it may do so elsewhere.
    pub(super) fn waits(&mut self, head: &RunHead) -> bool {
        let elsewhere = self.has_gate_elsewhere(head);
        if elsewhere {
            self.waiting.push(head.run);
        }
        elsewhere
    }

    /// Takes in a place of a run of another store.
    pub(super) fn stands(&mut self, gate: u128, place: String, run: RunId, is_inside: bool) {
        self.at_gates.insert(run);
        if is_inside {
            self.inside.push((gate, place, run));
        }
    }

    /// Takes in a message in the queue of a gate, or on its way there.
    pub(super) fn comes_to(&mut self, gate: u128, message: Option<&HostMessage>) {
        self.gates.insert(gate);
        if let Some(
            HostMessage::Enter(Passage { run, .. })
            | HostMessage::TakeOver {
                passage: Passage { run, .. },
                ..
            },
        ) = message
        {
            self.told.insert(*run);
        }
    }

    /// Takes in a message with which shared facts are copied.
    pub(super) fn copies(&mut self, payload: &[u8]) {
        if let Some(HostMessage::Copy(copy)) = HostMessage::read(payload) {
            self.copying.insert(copy.service);
        }
    }

    /// Takes in how far the store's shared facts are.
    pub(super) async fn read_shared(&mut self, snapshot: &mut Snapshot) -> Result<(), QueryError> {
        let sql = "SELECT service, max(revision) FROM shared_facts GROUP BY service";
        for row in snapshot.fetch(sql, &[]).await? {
            let service = row.text(0).unwrap_or_default().to_owned();
            let revisions = self.shared.entry(service).or_default();
            revisions.insert(self.here.index, row.int(1).unwrap_or(0));
        }
        Ok(())
    }

    /// Takes in the letters of the store: each can be read and goes where its key is.
    pub(super) async fn read_letters(
        &mut self,
        snapshot: &mut Snapshot,
        findings: &mut Findings,
    ) -> Result<(), QueryError> {
        let sql = "SELECT position, partition, key, payload FROM mail_out ORDER BY position";
        for row in snapshot.fetch(sql, &[]).await? {
            let place = format!(
                "letter {} of partition {}",
                row.int(0).unwrap_or(0),
                self.here.index
            );
            let key = row
                .blob(2)
                .and_then(|key| key.try_into().ok())
                .map(u128::from_be_bytes);
            let to = key.map(|key| Partition::of_bits(key, self.here.count));
            if to.is_none_or(|to| row.int(1) != Some(i64::from(to.index)) || to == self.here) {
                let found = format!(
                    "it goes to partition {}, where its run or gate is not",
                    row.int(1).unwrap_or(-1)
                );
                findings.report(Invariant::Mail, &place, found);
            }
            let message = row.blob(3).and_then(HostMessage::read);
            match (key, &message) {
                (
                    Some(key),
                    Some(HostMessage::Enter(_) | HostMessage::Leave { .. } | HostMessage::TakeOver { .. }),
                ) => {
                    self.comes_to(key, message.as_ref());
                }
                (Some(_), Some(HostMessage::Copy(copy))) => drop(self.copying.insert(copy.service.clone())),
                (Some(key), Some(_)) => drop(self.told.insert(RunId::from_bits(key))),
                (_, None) => findings.report(Invariant::Mail, &place, "its message cannot be read"),
                (None, _) => {}
            }
        }
        let sql = "SELECT sender, position FROM mail_in";
        for row in snapshot.fetch(sql, &[]).await? {
            let sender = row.int(0).unwrap_or(i64::MIN);
            if !(-1..i64::from(self.here.count)).contains(&sender) {
                let place = format!(
                    "receipt {} in partition {}",
                    row.int(1).unwrap_or(0),
                    self.here.index
                );
                findings.report(Invariant::Mail, place, format!("there is no partition {sender}"));
            }
        }
        Ok(())
    }

    /// Everything has been read.
    pub(super) fn judge(self, findings: &mut Findings) {
        self.groups.report(findings);
        for run in self.waiting {
            if !self.told.contains(&run) && !self.at_gates.contains(&run) {
                let found = "it waits for its turn and stands at none of its gates";
                findings.report(Invariant::Stuck, run, found);
            }
        }
        let count = self.here.count;
        for (service, revisions) in self.shared {
            let lead = revisions.get(&crate::shared::lead(&service, count).index);
            let stale = (0..count).find(|partition| revisions.get(partition) != lead);
            if let Some(partition) = stale.filter(|_| !self.copying.contains(&service)) {
                let revision = |found: Option<&i64>| found.copied().unwrap_or(0);
                let found = format!(
                    "partition {partition} has them up to revision {}, their lead up to {}, and nothing is on its way",
                    revision(revisions.get(&partition)),
                    revision(lead)
                );
                let place = format!("the shared facts of `{service}`");
                findings.report(Invariant::SharedFact, place, found);
            }
        }
        for (gate, place, run) in self.inside {
            // Whoever ends says that it leaves, in the same commit.
            if !self.alive.contains(&run) && !self.gates.contains(&gate) {
                let found = format!("it is held by {run}, which has ended or does not exist");
                findings.report(Invariant::Gate, place, found);
            }
        }
    }
}
