//! Who should own what: one look at the table of partitions in, steps out. Pure, total, and the same on every node.
//!
//! A node wants its share, the number of partitions divided by the number of nodes and rounded up. It claims what nobody
//! holds while it has less, and gives up what it has beyond. What another node holds is claimed once its lease has been
//! over for two looks in a row: after an outage of the database every lease is over, and the owners renew first.

use std::collections::{BTreeMap, BTreeSet};

/// A process of a node. A node that starts again is another process, so what the one before held is free for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) node: String,
    pub(crate) incarnation: i64,
}

/// A row of the table of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) partition: u32,
    pub(crate) holder: Option<Process>,
    pub(crate) epoch: i64,
    /// What is left of the lease by the database's clock; not positive when it is over.
    pub(crate) left_ms: i64,
    /// Where it is: in the database of that name, or in the main one.
    pub(crate) place: Option<String>,
    /// Where it is to be brought by whoever opens it next: a database's name, or `main`.
    pub(crate) wanted: Option<String>,
    /// Why it could not be brought elsewhere the last time.
    pub(crate) problem: Option<String>,
}

/// How a partition stands in this process; absent otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is being read.
    Opening { epoch: i64 },
    /// It is served.
    Open { epoch: i64 },
    /// It is being given up, or was lost.
    Closing { epoch: i64 },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take it over from whoever has `epoch`, and read it.
    Claim { partition: u32, epoch: i64 },
    /// Take nothing new, let what is under way end, close it, free its row.
    GiveUp { partition: u32 },
    /// It is somebody else's by the table: close it at once.
    Drop { partition: u32 },
    /// It is this process' by the table and shall not be: free its row.
    Free { partition: u32, epoch: i64 },
}

/// What this process knows of itself.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) process: Process,
    /// It is about to end: it wants nothing.
    pub(crate) leaving: bool,
    /// What it could not open; it leaves those to others for a while.
    pub(crate) refused: BTreeSet<u32>,
    pub(crate) standings: BTreeMap<u32, Standing>,
    /// What was found held by others with its lease over at the last look, with its epoch.
    pub(crate) overdue: BTreeMap<u32, i64>,
}

/// Whose a row is, as seen from this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Nobody's.
    Free,
    /// This process'.
    Mine,
    /// An earlier process' of this node, which is dead: the data folder is ours.
    Former,
    /// Another node's.
    Other { overdue: bool },
}

/// What one row asks of this process, before shares are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Nothing,
    /// May be claimed when there is room.
    Claimable,
    /// Has its room, and is to be claimed anew: what this process had open with that epoch may still write.
    Anew,
    Drop,
}

fn verdict(whose: Whose, epoch: i64, standing: Option<Standing>) -> Verdict {
    match (whose, standing) {
        (Whose::Free | Whose::Former | Whose::Other { overdue: true }, None) => Verdict::Claimable,
        (Whose::Other { overdue: false }, None) => Verdict::Nothing,
        (Whose::Mine, None) => Verdict::Anew,
        (Whose::Mine, Some(Standing::Opening { epoch: own } | Standing::Open { epoch: own })) => {
            if own == epoch {
                Verdict::Nothing
            } else {
                Verdict::Drop
            }
        }
        // Whoever else the row names, this process has no business with the partition any more.
        (
            Whose::Free | Whose::Former | Whose::Other { .. },
            Some(Standing::Opening { .. } | Standing::Open { .. }),
        ) => Verdict::Drop,
        // It ends by itself, and frees its row when it may.
        (_, Some(Standing::Closing { .. })) => Verdict::Nothing,
    }
}

/// What is to be done after a look; `alive` counts the nodes that want partitions, this one included unless it is leaving.
/// Also gives what is to be remembered as overdue until the next look.
pub(crate) fn decide(own: &Own, alive: usize, rows: &[Row]) -> (Vec<Step>, BTreeMap<u32, i64>) {
    let share = if own.leaving {
        0
    } else {
        rows.len().div_ceil(alive.max(1))
    };
    let mut steps = Vec::new();
    let mut overdue = BTreeMap::new();
    let mut claimable = Vec::new();
    let mut held = Vec::new();
    for row in rows {
        let partition = row.partition;
        let standing = own.standings.get(&partition).copied();
        let whose = match &row.holder {
            None => Whose::Free,
            Some(holder) if *holder == own.process => Whose::Mine,
            Some(holder) if holder.node == own.process.node => Whose::Former,
            Some(_) => {
                let over = row.left_ms <= 0;
                if over {
                    overdue.insert(partition, row.epoch);
                }
                let before = own.overdue.get(&partition) == Some(&row.epoch);
                Whose::Other {
                    overdue: over && before,
                }
            }
        };
        let refused = own.leaving || own.refused.contains(&partition);
        match verdict(whose, row.epoch, standing) {
            Verdict::Nothing if row.wanted.is_some() && matches!(standing, Some(Standing::Open { .. })) => {
                // Whoever claims it next brings it there; as a rule that is this process, so its room is kept.
                held.push((partition, None));
                steps.push(Step::GiveUp { partition });
            }
            Verdict::Nothing => {
                if let Some(Standing::Opening { .. } | Standing::Open { .. }) = standing {
                    held.push((partition, standing));
                }
            }
            // What this node had before it was started again comes first: its share is most likely the same.
            Verdict::Claimable if !refused => claimable.push((whose != Whose::Former, partition, row.epoch)),
            Verdict::Claimable => {}
            Verdict::Anew if refused => steps.push(Step::Free {
                partition,
                epoch: row.epoch,
            }),
            Verdict::Anew => {
                held.push((partition, None));
                steps.push(Step::Claim {
                    partition,
                    epoch: row.epoch,
                });
            }
            Verdict::Drop => steps.push(Step::Drop { partition }),
        }
    }
    claimable.sort_unstable();
    let room = share.saturating_sub(held.len());
    steps.extend(
        claimable
            .into_iter()
            .take(room)
            .map(|(_, partition, epoch)| Step::Claim { partition, epoch }),
    );
    let excess = held.len().saturating_sub(share);
    let open = held
        .iter()
        .rev()
        .filter(|(_, standing)| matches!(standing, Some(Standing::Open { .. })));
    steps.extend(
        open.take(excess)
            .map(|&(partition, _)| Step::GiveUp { partition }),
    );
    (steps, overdue)
}

#[cfg(test)]
mod tests;
