//! The runs that a sweep is about: the next of them, and how many are left.

use std::fmt::Write as _;

use celesta_store::{Cell, QueryError};
use celesta_types::{RunId, SweepId};

use super::rows::{Condition, Found, Place, Plan};
use super::{NewSweep, Selection, SweepState, SweepView};
use crate::query::label_condition;
use crate::runtime::Inner;

impl Inner {
    /// The next runs after `place`, at most `limit`, and where the sweep is once they are told. None when no run is left.
    pub(super) async fn next_runs(
        &self,
        found: &Found,
        mut place: Place,
        limit: usize,
    ) -> Result<Option<(Vec<RunId>, Place)>, QueryError> {
        let keys = match &found.plan.selection {
            Selection::Interests { keys, .. } => keys.len(),
            Selection::Runs(_) => 1,
        };
        let mut runs: Vec<RunId> = Vec::new();
        while place.key < keys && runs.len() < limit {
            let Condition { mut sql, mut cells } = self.selected(found, place);
            sql.push_str(" ORDER BY s.run LIMIT ?");
            let wanted = limit - runs.len();
            cells.push(i64::try_from(wanted).unwrap_or(i64::MAX).into());
            let rows = self
                .store
                .fetch(&format!("SELECT s.run FROM {sql}"), &cells)
                .await?;
            let before = runs.len();
            runs.extend(rows.iter().filter_map(|row| RunId::from_bytes(row.blob(0)?)));
            place = if runs.len() - before < wanted {
                Place {
                    key: place.key + 1,
                    run: None,
                }
            } else {
                Place {
                    run: runs.last().copied(),
                    ..place
                }
            };
        }
        Ok((!runs.is_empty()).then_some((runs, place)))
    }

    /// How many runs are left after the sweep's place.
    pub(super) async fn count_left(&self, found: &Found) -> Result<u64, QueryError> {
        let keys = match &found.plan.selection {
            Selection::Interests { keys, .. } => keys.len(),
            Selection::Runs(_) => 1,
        };
        let mut left = 0;
        for key in found.place.key..keys {
            let run = found.place.run.filter(|_| key == found.place.key);
            let Condition { sql, cells } = self.selected(found, Place { key, run });
            let rows = self
                .store
                .fetch(&format!("SELECT COUNT(*) FROM {sql}"), &cells)
                .await?;
            let counted = rows.first().and_then(|row| row.int(0)).unwrap_or(0);
            left += u64::try_from(counted).unwrap_or(0);
        }
        Ok(left)
    }

    /// How many runs a sweep would be about.
    pub(crate) async fn count_selected(&self, new: &NewSweep) -> Result<u64, QueryError> {
        let now = self.clock.now();
        let found = Found {
            view: SweepView {
                id: SweepId::from_bits(0),
                service: new.service.clone(),
                cause: String::new(),
                rules: Vec::new(),
                state: SweepState::Pending,
                hold: new.hold,
                rate: new.rate,
                runs: None,
                told: 0,
                moved: 0,
                still: 0,
                missed: 0,
                reason: None,
                created_at: now,
                updated_at: now,
                ended_at: None,
            },
            plan: Plan {
                cause: String::new(),
                rules: Vec::new(),
                selection: new.selection.clone(),
                order: new.order,
            },
            place: Place::default(),
        };
        self.count_left(&found).await
    }

    /// Table and condition of the runs behind `place`; a run that stands under an earlier key too was told there.
    fn selected(&self, found: &Found, place: Place) -> Condition {
        let after = Cell::Id(place.run.map_or([0; 16], RunId::to_bytes));
        let mut condition = Condition::default();
        match &found.plan.selection {
            Selection::Interests { keys, .. } => {
                condition.sql.push_str("interests s WHERE s.key = ?");
                condition.cells.push(keys[place.key].into());
                condition.and("s.run > ?", [after]);
                if place.key > 0 {
                    let mut earlier = String::new();
                    for (at, key) in keys[..place.key].iter().enumerate() {
                        let comma = if at == 0 { "" } else { ", " };
                        write!(earlier, "{comma}{key}").expect("writing to a string");
                    }
                    let sql = format!(
                        "NOT EXISTS (SELECT 1 FROM interests e WHERE e.run = s.run AND e.key IN ({earlier}))"
                    );
                    condition.and(&sql, []);
                }
            }
            Selection::Runs(filter) => {
                // The index begins with service and state; without states the primary key gives the order.
                condition.sql.push_str("(SELECT id AS run, service, workflow, state, version, labels, created_at FROM runs) s WHERE s.run > ?");
                condition.cells.push(after);
                condition.and("s.service = ?", [found.view.service.as_str().into()]);
                condition.and("s.created_at <= ?", [found.view.created_at.as_millis().into()]);
                if let Some(workflow) = &filter.workflow {
                    condition.and("s.workflow = ?", [workflow.as_str().into()]);
                }
                if !filter.states.is_empty() {
                    let codes: Vec<String> = (filter.states.iter())
                        .map(|state| state.code().to_string())
                        .collect();
                    condition.and(&format!("s.state IN ({})", codes.join(", ")), []);
                }
                if let Some(version) = &filter.version {
                    condition.and("s.version = ?", [version.as_bytes().to_vec().into()]);
                }
                if let Some(version) = &filter.other_than {
                    condition.and("s.version <> ?", [version.as_bytes().to_vec().into()]);
                }
                if let Some((key, value)) = &filter.label {
                    let (sql, member) = label_condition(key, self.store.path().is_some());
                    condition.and(sql, [member.into(), value.as_str().into()]);
                }
            }
        }
        condition
    }
}
