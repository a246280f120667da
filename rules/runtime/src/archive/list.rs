//! Lists of archived runs. Nothing of them stands in the store but their places, so what a filter asks is read in their
//! frames: a page looks at so many at most, and says where to go on.

use celesta_store::{Cell, QueryError};
use celesta_types::{Digest, RunId};

use super::read_frame;
use crate::query::PAGE_ROWS_MAX;
use crate::runtime::{Inner, Runtime};
use crate::view::{Page, RunFilter, RunView};

/// Frames read for one page: a fifth of a second or so.
const LOOKED_AT_MAX: usize = 2_000;
/// Places read at once.
const ROWS: usize = 200;

impl Runtime {
    /// A page of archived runs, the newest first; `cursor` is the `next` of the page before. A page may hold fewer than
    /// `limit` rows, even none, and a `next`: it has looked at as many runs as one page may.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list_archived(
        &self,
        filter: &RunFilter,
        cursor: Option<RunId>,
        limit: usize,
    ) -> Result<Page<RunView>, QueryError> {
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let Some(readers) = self.inner.readers.get() else {
            return self.inner.list_archived(filter, cursor, limit).await;
        };
        let readers = readers?;
        let pages = readers
            .iter()
            .map(|reader| reader.inner.list_archived(filter, cursor, limit));
        let mut pages = futures_util::future::try_join_all(pages).await?;
        Ok(united(&mut pages, limit))
    }
}

/// One page of those of all partitions. What is older than where one of them has stopped comes with the next page.
fn united(pages: &mut [Page<RunView>], limit: usize) -> Page<RunView> {
    let stopped = pages.iter().filter_map(|page| page.next.as_ref()?.parse().ok());
    let mut next: Option<RunId> = stopped.max();
    let mut rows: Vec<RunView> = pages.iter_mut().flat_map(|page| page.rows.drain(..)).collect();
    rows.retain(|row| next.is_none_or(|next| row.id >= next));
    rows.sort_by_key(|row| std::cmp::Reverse(row.id));
    if rows.len() > limit {
        rows.truncate(limit);
        next = rows.last().map(|last| last.id);
    }
    Page {
        rows,
        next: next.map(|next| next.to_string()),
    }
}

impl Inner {
    async fn list_archived(
        &self,
        filter: &RunFilter,
        cursor: Option<RunId>,
        limit: usize,
    ) -> Result<Page<RunView>, QueryError> {
        // Ids are in the order of creation, to the millisecond.
        let oldest = filter
            .created_after
            .map_or([0; 16], |after| RunId::new(after, 0).to_bytes());
        let sql = "SELECT run, artifact, at, bytes FROM archived WHERE run < ? AND run >= ? ORDER BY run DESC LIMIT ?";
        let mut below = cursor.map_or([0xff; 16], RunId::to_bytes);
        if let Some(before) = filter.created_before {
            below = below.min(RunId::new(before, 0).to_bytes());
        }
        let mut found = Page {
            rows: Vec::new(),
            next: None,
        };
        let mut looked = 0;
        loop {
            let rows = i64::try_from(ROWS).unwrap_or(i64::MAX);
            let cells = [Cell::Id(below), Cell::Id(oldest), rows.into()];
            let places = self.store.fetch(sql, &cells).await?;
            for row in &places {
                let number = |at| row.int(at).and_then(|value| u64::try_from(value).ok());
                let (Some(run), Some(artifact), Some(at), Some(bytes)) = (
                    row.blob(0).and_then(RunId::from_bytes),
                    row.blob(1).and_then(|bytes| bytes.try_into().ok()),
                    number(2),
                    number(3),
                ) else {
                    continue;
                };
                below = run.to_bytes();
                looked += 1;
                match read_frame(&self.artifacts, run, &Digest::from_bytes(artifact), at, bytes).await {
                    Ok(frame) => found
                        .rows
                        .extend(frame.view().filter(|view| wants(filter, view)).map(slim)),
                    Err(error) => tracing::warn!(%run, error, "an archived run is left out of a list"),
                }
                if found.rows.len() == limit || looked == LOOKED_AT_MAX {
                    found.next = Some(run.to_string());
                    return Ok(found);
                }
            }
            if places.len() < ROWS {
                return Ok(found);
            }
        }
    }
}

/// Lists show runs without their requests.
fn slim(view: RunView) -> RunView {
    RunView { input: None, ..view }
}

fn wants(filter: &RunFilter, view: &RunView) -> bool {
    let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    is(&filter.service, &view.service)
        && is(&filter.workflow, &view.workflow)
        && is(&filter.operation, &view.operation)
        && filter.state.is_none_or(|state| state == view.state)
        && filter
            .label
            .as_ref()
            .is_none_or(|(name, value)| view.labels.get(name) == Some(value))
        && filter.created_after.is_none_or(|after| view.created_at >= after)
        && filter
            .created_before
            .is_none_or(|before| view.created_at < before)
}
