//! What must hold at a gate, as the history of its places tells: who came, who waits, who has passed, in which order.

use std::collections::{BTreeMap, BTreeSet};

use celesta_types::RunId;

use super::lanes::Way;
use crate::history::Line;
use crate::workloads::lanes::Limit;

/// A gate at one instant. Lines of one commit come in the order put, inside, free; what must hold is looked at between two.
#[derive(Debug)]
pub(super) struct Gate {
    limit: Limit,
    /// Who waits, with the number of its coming, by place.
    waiting: BTreeMap<i64, (RunId, usize)>,
    /// Who has passed, by place.
    inside: BTreeMap<i64, RunId>,
    /// Who came, in that order; a run that is tried again comes again.
    came: Vec<RunId>,
    /// The comings that passed in the commit that is being read.
    passed: Vec<usize>,
    /// Where that commit is: the journal's position, and how far its lines are read.
    commit: (i64, u8),
    /// The line after which nobody was inside any more.
    emptied: usize,
    /// Who is to make room for a newer run, with the turns that it has taken since.
    doomed: BTreeMap<RunId, usize>,
}

impl Gate {
    pub(super) const fn new(limit: Limit) -> Self {
        Self {
            limit,
            waiting: BTreeMap::new(),
            inside: BTreeMap::new(),
            came: Vec::new(),
            passed: Vec::new(),
            commit: (0, 0),
            emptied: 0,
            doomed: BTreeMap::new(),
        }
    }

    /// Takes in a line, which is the one of that number; says what must not be.
    pub(super) fn line(&mut self, line: &Line, run: RunId, number: usize) -> Option<String> {
        let rank = match line.what.as_str() {
            "put" => 0,
            "free" => 2,
            _ => 1,
        };
        let before = std::mem::replace(&mut self.commit, (line.position, rank));
        let found = (before.0 != line.position || before.1 > rank)
            .then(|| self.close())
            .flatten();
        match line.what.as_str() {
            "put" => self.put(line.number, run),
            "free" => {
                self.waiting.remove(&line.number);
                self.doomed.remove(&run);
                if self.inside.remove(&line.number).is_some() && self.inside.is_empty() {
                    self.emptied = number;
                }
            }
            _ => {
                let passes = self.waiting.remove(&line.number);
                self.passed.extend(passes.map(|(_, coming)| coming));
                self.inside.insert(line.number, run);
            }
        }
        found
    }

    fn put(&mut self, place: i64, run: RunId) {
        self.doomed.remove(&run);
        if self.limit.strategy == "last-only" {
            for inside in self.inside.values() {
                self.doomed.entry(*inside).or_default();
            }
        }
        self.waiting.insert(place, (run, self.came.len()));
        self.came.push(run);
    }

    /// What must hold between two commits.
    pub(super) fn close(&mut self) -> Option<String> {
        let Limit {
            strategy, at_once, ..
        } = self.limit;
        let passed = std::mem::take(&mut self.passed);
        let first = self.waiting.values().map(|(run, coming)| (*coming, *run)).min();
        let room = match strategy {
            "first-only" => 0,
            "last-only" | "latest-only" => 1,
            _ => usize::MAX,
        };
        let (inside, waiting) = (self.inside.len(), self.waiting.len());
        if inside > at_once {
            return Some(format!("{inside} runs have passed a gate ({strategy})"));
        }
        if waiting > room {
            return Some(format!("{waiting} runs wait at a gate ({strategy})"));
        }
        let (coming, run) = first?;
        if inside < at_once {
            return Some(format!("{run} waits at a gate that has room ({strategy})"));
        }
        passed.iter().any(|passed| *passed > coming).then(|| {
            format!("somebody has passed a gate ahead of {run}, which came before and waits ({strategy})")
        })
    }

    /// Whether the run has passed.
    pub(super) fn has_passed(&self, run: RunId) -> bool {
        self.inside.values().any(|inside| *inside == run)
    }

    /// A run that was asked for with that line, and on its way like that, is turned away; says why it should not be.
    pub(super) fn turns_away(&self, run: RunId, was: Way, asked: usize) -> Option<String> {
        let first = self.came.iter().position(|came| *came == run);
        let since = first.map_or(&[][..], |first| &self.came[first..]);
        let wrong = match self.limit.strategy {
            "first-only" if was != Way::Before => "had begun",
            "first-only" if self.inside.is_empty() && self.emptied < asked => "met nobody",
            "latest-only" if was != Way::Before => "had begun",
            "last-only" | "latest-only" if since.iter().all(|came| *came == run) => "is the last one",
            _ => return None,
        };
        Some(format!(
            "{run} was turned away and {wrong} ({})",
            self.limit.strategy
        ))
    }

    /// A run under way takes a turn, which ends it or not; says when it should have been called off instead.
    pub(super) fn turn(&mut self, run: RunId, is_canceled: bool, is_ended: bool) -> Option<String> {
        if is_canceled {
            self.doomed.remove(&run);
            return None;
        }
        let turns = self.doomed.get_mut(&run)?;
        // One may have been under way when the newer run came.
        *turns += 1;
        (*turns > 1 && is_ended).then(|| {
            format!(
                "{run} has gone on to its end although a newer one came ({})",
                self.limit.strategy
            )
        })
    }

    /// Runs in the order in which they came first.
    pub(super) fn came(&self) -> Vec<RunId> {
        let mut known = BTreeSet::new();
        let came = self.came.iter().filter(|run| known.insert(**run));
        came.copied().collect()
    }
}
