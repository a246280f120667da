//! What is asked about the runs of a whole deployment, whoever owns them. What nodes share has no runs of its own: its
//! tables of runs are empty, so whoever asks there would hear that there are none.

use std::sync::Arc;

use celesta_store::{Cell, QueryError};
use celesta_types::{Digest, RunId};
use futures_util::future::try_join_all;

use crate::runtime::Inner;

impl Inner {
    /// The runtimes that hold all runs among them: this one where there is one partition, else a reader of each.
    ///
    /// # Errors
    /// When not every partition has been open yet.
    pub(crate) async fn everywhere(self: &Arc<Self>) -> Result<Vec<Arc<Self>>, QueryError> {
        // The one partition of a deployment has its runs; what its nodes share only reads, and has none.
        if self.partition.count == 1 && !self.reads_only {
            return Ok(vec![Arc::clone(self)]);
        }
        let readers = self.readers.opened(&self.clock).await?;
        Ok(readers.into_iter().map(|reader| reader.inner).collect())
    }

    /// Whether there is a run of the workflow, whatever became of it.
    pub(crate) async fn has_runs(
        self: &Arc<Self>,
        service: &str,
        workflow: &str,
    ) -> Result<bool, QueryError> {
        let sql = "SELECT 1 FROM runs WHERE service = ? AND workflow = ? LIMIT 1";
        let cells = [Cell::from(service), workflow.into()];
        let parts = self.everywhere().await?;
        let found = try_join_all(parts.iter().map(|part| part.store.fetch(sql, &cells))).await?;
        Ok(found.iter().any(|rows| !rows.is_empty()))
    }

    /// How many runs of the workflow follow another version than this one.
    pub(crate) async fn count_others(
        self: &Arc<Self>,
        service: &str,
        workflow: &str,
        version: Digest,
    ) -> Result<u64, QueryError> {
        let sql = "SELECT COUNT(*) FROM runs WHERE service = ? AND workflow = ? AND version <> ?";
        let cells = others(service, workflow, version);
        let parts = self.everywhere().await?;
        let counted = try_join_all(parts.iter().map(|part| part.store.fetch(sql, &cells))).await?;
        let counts = counted.iter().filter_map(|rows| rows.first()?.int(0));
        Ok(counts.filter_map(|count| u64::try_from(count).ok()).sum())
    }

    /// The newest of them, at most so many, each with the runtime that can read it.
    pub(crate) async fn newest_others(
        self: &Arc<Self>,
        service: &str,
        workflow: &str,
        version: Digest,
        limit: usize,
    ) -> Result<Vec<(RunId, Arc<Self>)>, QueryError> {
        let sql = "SELECT id FROM runs WHERE service = ? AND workflow = ? AND version <> ? ORDER BY id DESC LIMIT ?";
        let bound = i64::try_from(limit).unwrap_or(i64::MAX);
        let cells: Vec<Cell> = others(service, workflow, version)
            .into_iter()
            .chain([bound.into()])
            .collect();
        let parts = self.everywhere().await?;
        let read = try_join_all(parts.iter().map(|part| part.store.fetch(sql, &cells))).await?;
        let mut found: Vec<(RunId, Arc<Self>)> = Vec::new();
        for (part, rows) in parts.into_iter().zip(read) {
            let runs = rows.iter().filter_map(|row| RunId::from_bytes(row.blob(0)?));
            found.extend(runs.map(|run| (run, Arc::clone(&part))));
        }
        // Ids are ordered by creation.
        found.sort_by_key(|(run, _)| std::cmp::Reverse(*run));
        found.truncate(limit);
        Ok(found)
    }
}

fn others(service: &str, workflow: &str, version: Digest) -> [Cell; 3] {
    [
        service.into(),
        workflow.into(),
        version.as_bytes().to_vec().into(),
    ]
}
