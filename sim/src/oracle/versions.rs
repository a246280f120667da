//! What must hold of runs when another version of their service has become current.

use std::collections::BTreeMap;

use celesta_runs::RunState;
use celesta_store::driven::Record;
use celesta_types::{Digest, RunId};

use super::Row;
use crate::workloads::MAIN;

/// A move as the journal of a run tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) seq: u64,
    pub(super) from: Digest,
    pub(super) to: Digest,
}

/// What the record says of versions beside the journals.
#[derive(Debug)]
pub(super) struct Versions {
    /// The version that new runs of [`MAIN`] follow.
    current: Option<Digest>,
    /// The one that some of them follow beside it.
    canary: Option<Digest>,
    /// The moves in their table: turn, from.
    kept: BTreeMap<RunId, Vec<(u64, Digest)>>,
}

pub(super) fn digest(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok().map(Digest::from_bytes)
}

impl Versions {
    pub(super) fn read(record: &Record) -> Self {
        let followed = |sql: &str| {
            let rows = record.fetch(sql, &[MAIN.into()]).unwrap_or_default();
            rows.first().and_then(|row| digest(row.blob(0)?))
        };
        let current = followed("SELECT digest FROM services WHERE name = ?");
        let canary = followed("SELECT digest FROM canaries WHERE service = ? AND percent > 0");
        let sql = "SELECT run, seq, origin FROM upgrades ORDER BY run, seq";
        let mut kept: BTreeMap<RunId, Vec<(u64, Digest)>> = BTreeMap::new();
        for row in record.fetch(sql, &[]).unwrap_or_default() {
            let seq = row.int(1).and_then(|seq| u64::try_from(seq).ok());
            let run = row.blob(0).and_then(RunId::from_bytes);
            if let (Some(run), Some(seq), Some(from)) = (run, seq, row.blob(2).and_then(digest)) {
                kept.entry(run).or_default().push((seq, from));
            }
        }
        Self {
            current,
            canary,
            kept,
        }
    }

    /// The moves of a run stand in its journal and in their table alike, lead from one version to the next, and end where
    /// the policy of its workflow says.
    pub(super) fn are_right(&self, row: &Row, moves: &[Move]) -> Result<(), String> {
        let kept = self.kept.get(&row.run).map_or(&[][..], Vec::as_slice);
        let told = moves.iter().map(|moved| (moved.seq, moved.from));
        if told.ne(kept.iter().copied()) {
            return Err("its journal and the table of moves tell different moves".to_owned());
        }
        let mut follows = None;
        for Move { seq, from, to } in moves {
            if follows.is_some_and(|follows| follows != *from) || from == to {
                return Err(format!(
                    "it moves in turn {seq} from a version that it did not follow"
                ));
            }
            follows = Some(*to);
        }
        if follows.is_some_and(|follows| follows != row.version) {
            return Err("it does not follow the version that it has moved to".to_owned());
        }
        match row.operation.as_str() {
            "fan"
                if row.state != RunState::Canceled
                    && ![self.current, self.canary].contains(&Some(row.version)) =>
            {
                Err("it has not moved to the version that is current".to_owned())
            }
            "fan" | "steps" => Ok(()),
            _ if moves.is_empty() => Ok(()),
            _ => Err("it was to keep its version and has moved".to_owned()),
        }
    }
}
