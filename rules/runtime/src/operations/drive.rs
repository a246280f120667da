//! How operations are done.
//!
//! A page is one unit: the messages to its runs, and how far the operation is. So it is done to each run once, whatever
//! crashes in between, and a pause or an abort takes effect between two pages. Runs that are accepted after the
//! operation was asked for are none of its business, so it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use celesta_store::{Cell, Unit};
use celesta_types::{OperationId, RunId, Timestamp};

use super::{OperationState, OperationStep, OperationView};
use crate::head::{COLUMNS, RunHead};
use crate::lifecycle::Action;
use crate::query::conditions;
use crate::runtime::Inner;
use crate::schema::OPERATION_ADVANCE;
use crate::view::RunFilter;

/// Runs of one page: one commit, a few milliseconds.
const PAGE_RUNS: usize = 256;
/// An operation that waits for turns under way looks again after this.
const HELD: Duration = Duration::from_millis(10);
/// After a page that could not be stored the operation rests for so long.
const REST: Duration = Duration::from_secs(1);

impl Inner {
    /// Does what operations ask for until shutdown.
    pub(crate) async fn operate(self: Arc<Self>) {
        let shutdown = self.tasks.shutdown().clone();
        // When each may have its next page, on the monotonic clock.
        let mut due: BTreeMap<OperationId, Duration> = BTreeMap::new();
        // Runs that were accepted later are none of its business.
        let mut bounds: BTreeMap<OperationId, Timestamp> = BTreeMap::new();
        while !shutdown.is_requested() {
            let running: Vec<OperationView> = {
                let open = self.operations.open.lock();
                let running = open.values().filter(|view| view.state == OperationState::Running);
                running.cloned().collect()
            };
            due.retain(|id, _| running.iter().any(|operation| operation.id == *id));
            bounds.retain(|id, _| running.iter().any(|operation| operation.id == *id));
            for operation in &running {
                let now = self.clock.monotonic();
                if due.get(&operation.id).is_some_and(|due| *due > now) {
                    continue;
                }
                if self.is_held(operation.id) {
                    due.insert(operation.id, now + HELD);
                    continue;
                }
                let bound = *bounds
                    .entry(operation.id)
                    .or_insert_with(|| match operation.action {
                        // The order has stopped runs up to the instant when it was taken back, which is later than the wish.
                        Action::ResumeStopped => self.clock.now(),
                        _ => operation.created_at,
                    });
                let page = self.page_of(operation, bound).await;
                let rest = page.unwrap_or_else(|error| {
                    tracing::warn!(id = %operation.id, %error, "a page of an operation is tried again");
                    REST
                });
                due.insert(operation.id, now + rest);
            }
            let now = self.clock.monotonic();
            let rest = due.values().min().map(|due| due.saturating_sub(now));
            tokio::select! {
                () = self.operations.moved.notified() => {}
                () = self.clock.sleep(rest.unwrap_or_default()), if rest.is_some() => {}
                () = shutdown.requested() => return,
            }
        }
    }

    /// Whether turns are under way that may still stop by the order which the operation follows.
    fn is_held(&self, id: OperationId) -> bool {
        let mut held = self.operations.held.lock();
        let may_stop = held
            .get(&id)
            .is_some_and(|(service, revision)| self.orders.may_stop(service, *revision));
        if !may_stop {
            held.remove(&id);
        }
        may_stop
    }

    /// Does it to the next page of runs accepted until `bound`. Gives how long to rest after it.
    async fn page_of(
        self: &Arc<Self>,
        operation: &OperationView,
        bound: Timestamp,
    ) -> Result<Duration, String> {
        let filter = RunFilter {
            created_before: Some(
                operation
                    .filter
                    .created_before
                    .map_or(bound, |before| before.min(bound))
                    .after_millis(1),
            ),
            ..operation.filter.clone()
        };
        let (condition, mut cells) = conditions(&filter, self.store.path().is_some());
        let after = operation.bookmark.map_or([0; 16], RunId::to_bytes);
        cells.push(Cell::Id(after));
        cells.push(i64::try_from(PAGE_RUNS).unwrap_or(i64::MAX).into());
        let sql = format!("SELECT {COLUMNS} FROM runs WHERE {condition} AND id > ? ORDER BY id LIMIT ?");
        let rows = self
            .store
            .fetch(&sql, &cells)
            .await
            .map_err(|error| error.to_string())?;
        let heads: Vec<RunHead> = rows.iter().filter_map(RunHead::from_row).collect();
        let mut moved = operation.clone();
        let mut messages = Vec::new();
        for head in &heads {
            moved.seen += 1;
            moved.bookmark = Some(head.run);
            if head.state.after(operation.action.step()).is_ok() {
                let (reason, by) = (operation.reason.clone(), operation.by.clone());
                messages.push(self.acting(head, operation.action, reason, by));
                moved.done += 1;
            } else {
                moved.refused += 1;
            }
        }
        moved.updated_at = self.clock.now();
        let mut unit = Unit::new();
        let count = |count: u64| Cell::from(i64::try_from(count).unwrap_or(i64::MAX));
        unit.add(
            &OPERATION_ADVANCE,
            [
                Cell::Id(moved.id.to_bytes()),
                moved.bookmark.map_or(Cell::Null, |run| Cell::Id(run.to_bytes())),
                count(moved.seen),
                count(moved.done),
                count(moved.refused),
                moved.updated_at.as_millis().into(),
            ],
        );
        self.stage(&mut unit, messages)
            .map_err(|error| error.to_string())?;
        self.store.commit(unit).await.map_err(|error| error.to_string())?;
        if let Some(view) = self.operations.open.lock().get_mut(&moved.id) {
            let state = view.state;
            *view = OperationView { state, ..moved };
        }
        if rows.len() < PAGE_RUNS {
            let finished = operation.state.after(OperationStep::Finish);
            let state = finished.map_err(|error| error.to_string())?;
            // Paused meanwhile, it ends after it goes on.
            let stood = self.stand(operation.id, operation.state, state).await;
            stood.map_err(|error| error.to_string())?;
            return Ok(Duration::ZERO);
        }
        let runs = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        // The rate is that of all partitions together.
        Ok(Duration::from_secs(1) * runs * self.partition.count / operation.rate.max(1))
    }
}
