//! Gates, and what people have ordered for many runs: pauses, breakpoints, bulk operations.

use celesta_store::{Cell, QueryError, Row, Snapshot};
use celesta_types::wire::Reader;

use super::between::Between;
use super::messages::Waiting;
use super::{Findings, Invariant};
use crate::gate::{Passage, Stand};
use crate::operations::{OPERATION_COLUMNS, stored};
use crate::orders::KINDS;
use crate::state::RunState;

/// Looks at all of them.
pub(super) async fn check(
    snapshot: &mut Snapshot,
    waiting: &Waiting,
    between: &mut Between,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    check_places(snapshot, waiting, between, findings).await?;
    let sql = "SELECT service, workflow, kind, rule FROM orders";
    for row in snapshot.fetch(sql, &[]).await? {
        let text = |at| row.text(at).unwrap_or_default();
        if !KINDS.contains(&text(2)) || (text(2) == KINDS[1]) == text(3).is_empty() {
            let place = format!("an order for `{}` {}", text(0), text(1));
            let found = format!(
                "no release gives the order `{}` with the rule `{}`",
                text(2),
                text(3)
            );
            findings.report(Invariant::Order, place, found);
        }
    }
    let sql = format!("SELECT {OPERATION_COLUMNS} FROM operations ORDER BY id");
    for row in snapshot.fetch(&sql, &[]).await? {
        let Some(operation) = stored(&row) else {
            let found = "its row holds what no release writes (state, action, filter or counts)";
            findings.report(Invariant::Order, "a bulk operation", found);
            continue;
        };
        if operation.state.is_ended() != operation.ended_at.is_some() {
            let found = format!("its state {:?} and its end do not agree", operation.state);
            findings.report(Invariant::Order, operation.id, found);
        }
        if operation.seen != operation.done + operation.refused {
            let found = format!(
                "it has seen {} runs, done it to {} and been refused by {}",
                operation.seen, operation.done, operation.refused
            );
            findings.report(Invariant::Order, operation.id, found);
        }
    }
    Ok(())
}

/// The places at one gate, as they are read.
#[derive(Debug, Default)]
struct Places {
    gate: Vec<u8>,
    limit: usize,
    inside: usize,
}

impl Places {
    fn close(&self, findings: &mut Findings) {
        // A limit that was lowered holds for those who come after it.
        if self.inside > self.limit {
            let found = format!("{} runs have passed, of which {} may", self.inside, self.limit);
            findings.report(Invariant::Gate, name(&self.gate), found);
        }
    }
}

fn name(gate: &[u8]) -> String {
    let digits: Vec<String> = gate.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("gate {}", digits.concat())
}

async fn check_places(
    snapshot: &mut Snapshot,
    waiting: &Waiting,
    between: &mut Between,
    findings: &mut Findings,
) -> Result<(), QueryError> {
    let sql = "SELECT gate, place, stand, passage FROM places ORDER BY gate, place";
    let mut places = Places::default();
    for row in snapshot.fetch(sql, &[]).await? {
        let gate = row.blob(0).unwrap_or_default();
        if places.gate != gate {
            places.close(findings);
            places = Places {
                gate: gate.to_vec(),
                ..Places::default()
            };
        }
        let place = || format!("place {} of {}", row.int(1).unwrap_or(0), name(gate));
        let Some((passage, stand)) = passage(&row) else {
            findings.report(
                Invariant::Gate,
                place(),
                "it cannot be read; its run will not begin",
            );
            continue;
        };
        places.limit = places.limit.max(passage.strategy.limit());
        places.inside += usize::from(stand != Stand::Waiting);
        let key = u128::from_be_bytes(gate.try_into().unwrap_or_default());
        if !between.is_here(passage.run.bits()) {
            between.stands(key, place(), passage.run, stand == Stand::Inside);
            continue;
        }
        let sql = "SELECT state FROM runs WHERE id = ?";
        let rows = snapshot.fetch(sql, &[Cell::Id(passage.run.to_bytes())]).await?;
        let state = rows.first().and_then(|row| RunState::from_code(row.int(0)?));
        let found = match state {
            None => format!("it is held by {}, which does not exist", passage.run),
            // Whoever ends says that it leaves, in the same commit.
            Some(state @ (RunState::Completed | RunState::Canceled))
                if stand == Stand::Inside && !waiting.has_key(key) =>
            {
                format!("it is held by {}, which is {state}", passage.run)
            }
            Some(_) => continue,
        };
        findings.report(Invariant::Gate, place(), found);
    }
    places.close(findings);
    Ok(())
}

fn passage(row: &Row) -> Option<(Passage, Stand)> {
    let stand = Stand::from_code(row.int(2)?)?;
    let passage = Passage::read(&mut Reader::new(row.blob(3)?)).ok()?;
    Some((passage, stand))
}
