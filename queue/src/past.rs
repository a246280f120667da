//! Histories in the record: reading one, and forgetting those whose time is over, in small batches in the background.

use std::sync::{Arc, Weak};
use std::time::Duration;

use celesta_runtime::Shutdown;
use celesta_store::Unit;
use celesta_types::MessageId;
use celesta_types::wire::Reader;

use crate::core::Core;
use crate::error::Error;
use crate::ledger;
use crate::message::History;
use crate::rows;
use crate::schema;
use crate::shard::Queue;

/// How often somebody looks for histories that are over: they are forgotten by the minute.
const EVERY: Duration = Duration::from_secs(20);

impl Core {
    /// The history of a message that has left memory.
    pub(crate) async fn past(&self, queue: &Queue, id: MessageId) -> Result<Option<History>, Error> {
        let Some(store) = &self.store else {
            let mut shards = (0..queue.shards()).map(|shard| queue.shard(shard));
            return Ok(shards.find_map(|shard| shard.state.lock().past(id)));
        };
        let sql = if store.database().is_some() {
            schema::SELECT_HISTORY_POSTGRES
        } else {
            schema::SELECT_HISTORY
        };
        let rows = store
            .fetch(sql, &[schema::id_cell(id), schema::id_cell(id)])
            .await?;
        for row in rows {
            let body = row.blob(0).unwrap_or_default();
            let row = rows::read(&mut Reader::new(body)).map_err(|_| Error::Corrupt {
                seq: 0,
                what: "history",
            })?;
            if row.queue == queue.id {
                return Ok(Some(rows::history(&row)));
            }
        }
        Ok(None)
    }

    /// Forgets histories whose time is over.
    async fn forget_past(self: &Arc<Self>) -> Result<(), Error> {
        let Some(store) = &self.store else { return Ok(()) };
        loop {
            let over = ledger::over(self.now());
            let oldest = store.fetch(schema::SELECT_OLDEST, &[]).await?;
            let oldest = oldest.first().and_then(|row| row.int(0));
            if oldest.is_none_or(|oldest| oldest >= over) {
                return Ok(());
            }
            let mut unit = Unit::new();
            schema::forget(&mut unit, over);
            store.commit(unit).await?;
        }
    }
}

/// Looks for what is over from time to time, until the queues are gone.
pub(crate) async fn run(core: Weak<Core>, clock: celesta_runtime::Clock, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = clock.sleep(EVERY) => {}
            () = shutdown.requested() => return,
        }
        let Some(core) = core.upgrade() else { return };
        if let Err(error) = core.forget_past().await {
            tracing::warn!(%error, "old histories could not be forgotten");
        }
    }
}
